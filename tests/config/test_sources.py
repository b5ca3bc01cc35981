"""Where values come from: the order of the sources, and one line for a mistake in each of them."""

from __future__ import annotations

import json
import os
import shlex
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from zibai.cli.arguments import parse_args, read
from zibai.config.options import Options, declared
from zibai.config.sources import listed
from zibai.errors import UsageError
from zibai.system.machine import available_cpus

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from zibai.config.option import Option


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty current directory, and no variable that counts."""
    for name in list(os.environ):
        if name.startswith("ZIBAI_") or name in {"PORT", "WEB_CONCURRENCY", "FORWARDED_ALLOW_IPS", "LISTEN_FDS"}:
            monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def write(folder: Path, text: str, name: str = "zibai.toml") -> None:
    (folder / name).write_text(text, encoding="utf-8")


def failure(capsys: pytest.CaptureFixture[str], *argv: str) -> str:
    with pytest.raises(SystemExit) as caught:
        parse_args(argv)
    assert caught.value.code == 2
    err = capsys.readouterr().err
    assert err.startswith("zibai: error: ")
    assert err.count("\n") == 1
    return err.removeprefix("zibai: error: ").rstrip("\n")


def test_the_order(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(
        folder,
        "app = 'a:file'\nmax-workers = 2\nbacklog = 2\ndrain = '2s'\nprocesses = 2\n[live]\nbacklog = 3\ndrain = 3\n",
    )
    monkeypatch.setenv("WEB_CONCURRENCY", "9")
    monkeypatch.setenv("ZIBAI_PROFILE", "live")
    monkeypatch.setenv("ZIBAI_DRAIN", "4s")
    monkeypatch.setenv("ZIBAI_URL_PREFIX", "/four")
    found = read(["--url-prefix", "/five"])
    assert found.options == Options("a:file", max_workers=2, backlog=3, drain=4.0, url_prefix="/five", processes=2)
    assert found.origins == {
        "app": "zibai.toml: app",
        "max_workers": "zibai.toml: max-workers",
        "backlog": "zibai.toml [live]: backlog",
        "drain": "environment variable ZIBAI_DRAIN",
        "url_prefix": "--url-prefix",
        "processes": "zibai.toml: processes",
    }


def test_a_flag_takes_back_what_a_file_says(folder: Path) -> None:
    write(folder, "preload = true\n")
    assert parse_args(["a:b"]).preload
    assert not parse_args(["a:b", "--preload=no"]).preload


def test_pyproject(folder: Path) -> None:
    write(
        folder,
        "[tool.zibai]\napp = 'a:b'\nworkers = 3\n[tool.zibai.production]\nbind = [':1', ':2']\n",
        "pyproject.toml",
    )
    assert parse_args([]) == Options("a:b", processes=3)
    assert parse_args(["--profile", "production"]) == Options("a:b", processes=3, listen=[":1", ":2"])
    write(folder, "app = 'c:d'\n")
    assert parse_args([]) == Options("c:d"), "zibai.toml comes first, and alone"
    assert parse_args(["-c", "pyproject.toml"]) == Options("a:b", processes=3)


def test_the_pyproject_of_other_tools_is_left_alone(folder: Path) -> None:
    write(folder, "this is no TOML", "pyproject.toml")
    assert parse_args(["a:b"]) == Options("a:b")
    write(folder, "[project]\nname = 'zibai-shop'\n", "pyproject.toml")
    assert parse_args(["a:b"]) == Options("a:b")


@pytest.mark.parametrize("name", ["zibai.toml", "pyproject.toml"])
def test_a_file_that_may_not_be_read(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    def refusing(file: object, *args: object) -> object:
        raise PermissionError(13, "Permission denied") if file == name else FileNotFoundError

    monkeypatch.setattr("builtins.open", refusing)
    if name == "zibai.toml":
        assert failure(capsys, "a:b") == "cannot read 'zibai.toml': Permission denied"
    else:
        assert parse_args(["a:b"]) == Options("a:b"), "it may well be about other tools only"


@pytest.mark.parametrize("kind", ["directory", "broken link", "loop"])
def test_what_has_the_name_of_the_file_and_is_none(folder: Path, capsys: pytest.CaptureFixture[str], kind: str) -> None:
    """A server with other options than the file should have given is worse than none."""
    if kind == "directory":
        (folder / "zibai.toml").mkdir()
    else:
        (folder / "zibai.toml").symlink_to("nowhere" if kind == "broken link" else "zibai.toml")
    assert failure(capsys, "a:b").startswith("cannot read 'zibai.toml': ")


@pytest.mark.parametrize(
    "encode",
    [
        pytest.param(lambda text: b"\xef\xbb\xbf" + text.encode(), id="byte order mark"),
        pytest.param(lambda text: text.replace("\n", "\r\n").encode(), id="CRLF"),
    ],
)
@pytest.mark.parametrize("name", ["zibai.toml", "pyproject.toml"])
def test_a_file_that_was_written_on_windows(folder: Path, name: str, encode: Callable[[str], bytes]) -> None:
    head = "[tool.zibai]\n" if name == "pyproject.toml" else ""
    (folder / name).write_bytes(encode(head + "app = 'a:b'\nworkers = 3\n"))
    assert parse_args([]) == Options("a:b", processes=3)


@pytest.mark.parametrize("encoding", ["utf-16", "latin-1"])
def test_a_file_that_is_not_utf_8(folder: Path, capsys: pytest.CaptureFixture[str], encoding: str) -> None:
    (folder / "zibai.toml").write_bytes("app = 'a:b' # caf\xe9\n".encode(encoding))
    assert failure(capsys) == "zibai.toml: the file is not UTF-8; save it as UTF-8"


def test_the_tool_that_is_no_table(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(folder, "[tool]\nzibai = 'a:b'\n", "pyproject.toml")
    assert failure(capsys) == "pyproject.toml: tool.zibai must be a table: [tool.zibai]"


def test_config(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(folder, "app = 'c:d'\n", "live.toml")
    assert parse_args(["--config", "live.toml"]) == Options("c:d")
    monkeypatch.setenv("ZIBAI_CONFIG", "live.toml")
    assert parse_args([]) == Options("c:d")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("max_worker = 3", "zibai.toml: there is no option 'max_worker'; did you mean max_workers?"),
        ("worker_class = 'x'", "zibai.toml: there is no option 'worker_class'; worker_class is a setting of gunicorn"),
        ("timeout = 30", "zibai.toml: there is no option 'timeout'; write request_timeout: --worker-timeout is for"),
        ("graceful-timeout = 30", "zibai.toml: there is no option 'graceful-timeout'; write graceful_exit_timeout"),
        ("limit_request_field_size = 1", "zibai.toml: there is no option 'limit_request_field_size'; write max_header"),
        ("access-log = false", "zibai.toml: access-log must be text, not false"),
        ("gevent = false", "zibai.toml: there is no option 'gevent'; it is on unless you write no_gevent = true"),
        ("xyzzy = 1", "zibai.toml: there is no option 'xyzzy'"),
        ("max_workers = 0", "zibai.toml: max_workers must be at least 1, not 0"),
        ("max-workers = 'many'", "zibai.toml: max-workers: 'many' is not a whole number"),
        ("max_workers = 1.5", "zibai.toml: max_workers must be a whole number, not 1.5"),
        ("call = 'perhaps'", "zibai.toml: call: 'perhaps' is not true or false"),
        ("call = 1", "zibai.toml: call must be true or false, not 1"),
        ("port = true", "zibai.toml: port must be a whole number, not true"),
        ("drain = -1", "zibai.toml: drain must be at least 0, not -1"),
        ("graceful_exit_timeout = 0", "zibai.toml: graceful_exit_timeout must be more than 0, not 0"),
        ("host = 1", "zibai.toml: host must be text, not 1"),
        ("host = ['a']", "zibai.toml: host must be text, not ['a']"),
        ("host = ''", "zibai.toml: host must not be empty"),
        ("certfile = ''", "zibai.toml: certfile must not be empty"),
        ("before_serve = ''", "zibai.toml: before_serve must not be empty"),
        ("workers = 100_000", "zibai.toml: workers must be at most 10000, not 100000"),
        ("max_workers = 1_000_000", "zibai.toml: max_workers must be at most 100000, not 1000000"),
        ("log_level = 'warn'", "zibai.toml: log_level must be one of debug, info, warning, error, critical"),
        ("max_requests = '10k'", "zibai.toml: max_requests: '10k' is not a whole number"),
        ("max_body_size = '5s'", "zibai.toml: max_body_size: '5s' is not a whole number, or one with K, M or G"),
        ("drain = 2024-01-01", "zibai.toml: drain must be a number, not datetime.date(2024, 1, 1)"),
        ("host = 'a b'", "zibai.toml: host: 'a b:8000' is no address; write HOST:PORT"),
        ("log_file = '-'", "zibai.toml: log_file: the log goes to standard error already; leave it out"),
        ("pid_file = '-'", "zibai.toml: pid_file: '-' names no file"),
        ("control = ''", "zibai.toml: control: '' names no file"),
        ("listen = [8000]", "zibai.toml: listen must be a list of text, not [8000]"),
        ("listen = ['x:y']", "zibai.toml: listen: 'x:y' is no address; write HOST:PORT"),
        ("drain = 'soon'", "zibai.toml: drain: 'soon' is not a number, or one with s, m or h"),
        ("unix_socket_perms = 660", "zibai.toml: unix_socket_perms: write the octal number as text, as in '600'"),
        ("workers = 1\nprocesses = 2", "zibai.toml: processes and zibai.toml: workers are the same option; leave one"),
        ("port = 1\nlisten = ':2'", "zibai.toml: port and zibai.toml: listen both say where to listen; leave one out"),
        ("config = 'x'", "zibai.toml: config is for the command line, or for ZIBAI_CONFIG"),
        ("[[live]]\nworkers = 1", "zibai.toml: [[live]] is a list of tables; a profile is one table: [live]"),
        ("[zibai]\nworkers = 1", "zibai.toml: [zibai] is no table of this file; write its options at the top"),
        ("[tool.zibai]\nworkers = 1", "zibai.toml: [tool.zibai] is no table of this file; write its options at"),
        ("[live]\nmax_worker = 3", "zibai.toml [live]: there is no option 'max_worker'; did you mean max_workers?"),
        ("[live]\n[live.more]", "zibai.toml: [live.more] is a table within a profile; a profile has only options"),
        ("[user]\nname = 1", "zibai.toml: user is an option, so no profile can have this name"),
    ],
)  # fmt: skip
def test_a_mistake_in_a_file(folder: Path, capsys: pytest.CaptureFixture[str], text: str, message: str) -> None:
    write(folder, text)
    assert failure(capsys, "a:b").startswith(message)


@pytest.mark.parametrize(
    ("text", "key"),
    [
        ("= 1", ""),
        ("drain = 1\ndrain = 2", "drain"),
        ("drain = 1\ndrain = 2\npreload = true\n\n", "drain"),
        ("drain = 1\nciphers = secret", "ciphers"),
        ("drain = 1\nciphers = 'secret\n", "ciphers"),
        ("drain = 1\n--drain 2\n", "--drain 2"),
        ("app: a:b\n", "app: a:b"),
        ("[live]\n[live]", "[live]"),
    ],
)
def test_a_file_that_is_no_toml(folder: Path, capsys: pytest.CaptureFixture[str], text: str, key: str) -> None:
    """The line tells the key, also where tomllib does not, and never the value."""
    write(folder, text)
    told = failure(capsys, "a:b")
    assert told.startswith("zibai.toml: ")
    assert told.endswith(f": {key}" if key else ")")
    assert "secret" not in told


@pytest.mark.parametrize("name", [option.name for option in declared() if option.kind is str and not option.choices])
def test_a_null_character_in_a_file(folder: Path, capsys: pytest.CaptureFixture[str], name: str) -> None:
    """TOML can write one, and no call of the system takes it."""
    write(folder, f'{name} = "a\\u0000b"\n')
    argv = () if name == "app" else ("a:b",)
    assert failure(capsys, *argv).startswith(f"zibai.toml: {name} must not contain a null character")


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        ("--log-file -", "--log-file: the log goes to standard error already; leave it out"),
        ("--pid-file -", "--pid-file: '-' names no file"),
        ("--control -", "--control: '-' names no file"),
        ("--config nowhere.toml", "--config: cannot read 'nowhere.toml': No such file or directory"),
        ("--config gunicorn.conf.py", "--config: 'gunicorn.conf.py' is no TOML; zibai migrate gunicorn.conf.py"),
        ("-c pyproject.toml", "--config: 'pyproject.toml' has no table [tool.zibai]"),
        ("--profile live", "--profile: there is no file with profiles here; write zibai.toml, or add --config"),
        ("--config some.toml --profile live", "--profile: some.toml has no profile 'live'; profiles there: a, b"),
    ],
)
def test_a_file_that_cannot_be_used(folder: Path, capsys: pytest.CaptureFixture[str], argv: str, message: str) -> None:
    write(folder, "", "pyproject.toml")
    write(folder, "[a]\n[b]\n", "some.toml")
    assert failure(capsys, "a:b", *argv.split()).startswith(message)


@pytest.mark.parametrize(
    ("variable", "text", "message"),
    [
        ("ZIBAI_MAX_WORKERS", "0", "environment variable ZIBAI_MAX_WORKERS must be at least 1, not 0"),
        ("ZIBAI_PRELOAD", "2", "environment variable ZIBAI_PRELOAD: '2' is not true or false"),
        ("ZIBAI_LISTEN", ":1 '", 'environment variable ZIBAI_LISTEN: ":1 \'" is not a list of words'),
        ("ZIBAI_LOG_FILE", "-", "environment variable ZIBAI_LOG_FILE: the log goes to standard error already; leave"),
        ("ZIBAI_PID_FILE", "-", "environment variable ZIBAI_PID_FILE: '-' names no file"),
        ("PORT", "http", "environment variable PORT: 'http' is no port number"),
        ("WEB_CONCURRENCY", "x", "environment variable WEB_CONCURRENCY: 'x' is not a whole number or auto"),
        ("FORWARDED_ALLOW_IPS", "x", "environment variable FORWARDED_ALLOW_IPS: 'x' is no peer"),
    ],
)
def test_a_mistake_in_a_variable(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], variable: str, text: str, message: str
) -> None:
    monkeypatch.setenv(variable, text)
    assert failure(capsys, "a:b").startswith(message)


def test_the_end_of_a_line_is_no_part_of_a_variable(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """``docker run --env-file`` and ``export X=$(cat file)`` leave it there, when the file comes from Windows."""
    for name, text in (("APP", "a:b"), ("WORKERS", "2"), ("PRELOAD", "yes"), ("LISTEN", ":1 :2"), ("PID_FILE", "")):
        monkeypatch.setenv(f"ZIBAI_{name}", f"{text}\r")
    monkeypatch.setenv("FORWARDED_ALLOW_IPS", "10.0.0.1\r\n")
    assert parse_args([]) == Options(
        "a:b", processes=2, preload=True, listen=[":1", ":2"], trusted_proxies=["10.0.0.1"]
    )
    monkeypatch.delenv("ZIBAI_LISTEN")
    monkeypatch.setenv("PORT", "9000\r")
    assert parse_args([]).listen == ["0.0.0.0:9000"]


def test_the_case_of_a_choice_does_not_matter(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert parse_args(["a:b", "--log-level", "DEBUG"]).log_level == "debug"
    write(folder, "log_level = 'Warning'\n")
    assert parse_args(["a:b"]).log_level == "warning"
    monkeypatch.setenv("ZIBAI_LOG_LEVEL", "INFO")
    assert parse_args(["a:b"]).log_level == "info"


def test_a_mistyped_variable_is_a_warning(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """No error: Kubernetes sets variables for a service that is called zibai."""
    for name in ("ZIBAI_SERVICE_HOST", "ZIBAI_PORT_80_TCP_ADDR", "ZIBAI_MAX_WORKER"):
        monkeypatch.setenv(name, "1")
    monkeypatch.setenv("ZIBAI_PORT", "tcp://10.0.0.1:80")
    assert parse_args(["a:b"]) == Options("a:b")
    assert capsys.readouterr().err == (
        "zibai: warning: environment variable ZIBAI_MAX_WORKER is no option; did you mean ZIBAI_MAX_WORKERS?\n"
    )


@pytest.mark.parametrize(
    ("variables", "text", "argv", "listen"),
    [
        ({"PORT": "9000"}, "", "", ["0.0.0.0:9000"]),
        ({"PORT": "9000"}, "", "--host ::1", ["[::1]:9000"]),
        ({"PORT": "9000"}, "", "--port 1", ["127.0.0.1:1"]),
        ({"PORT": "9000"}, "", "--listen :1", [":1"]),
        ({"PORT": "9000"}, "listen = ':1'", "", [":1"]),
        ({"PORT": "9000"}, "host = 'localhost'", "", ["localhost:9000"]),
        ({"PORT": "9000", "LISTEN_FDS": "1"}, "", "", None),
        ({"PORT": "9000", "SERVER_STARTER_PORT": "80=3"}, "", "", None),
        ({"PORT": ""}, "", "", None),
        ({"PORT": "wrong"}, "", "--port 1", ["127.0.0.1:1"]),
        ({"ZIBAI_PORT": "9000"}, "host = '::'\nport = 1", "", ["[::]:9000"]),
        ({"ZIBAI_HOST": "0.0.0.0"}, "listen = ':1'", "", ["0.0.0.0:8000"]),
        ({"ZIBAI_LISTEN": ":1 :2"}, "port = 3", "", [":1", ":2"]),
    ],
)
def test_where_to_listen(
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    variables: dict[str, str],
    text: str,
    argv: str,
    listen: list[str] | None,
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    write(folder, text)
    assert parse_args(["a:b", *argv.split()]).listen == listen


def test_what_platforms_set(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WEB_CONCURRENCY", "auto")
    monkeypatch.setenv("FORWARDED_ALLOW_IPS", "10.0.0.0/8,unix")
    assert parse_args(["a:b"]) == Options("a:b", processes=available_cpus(), trusted_proxies=["10.0.0.0/8,unix"])
    write(folder, "workers = 1\ntrusted_proxies = 'none'\n")
    assert parse_args(["a:b"]) == Options("a:b", processes=1, trusted_proxies=["none"])


root_only = pytest.mark.skipif(getattr(os, "geteuid", lambda: 1)() != 0, reason="only root has something to lose")


@root_only
@pytest.mark.parametrize("name", ["zibai.toml", "pyproject.toml"])
@pytest.mark.parametrize("head", ["", "user = 'nobody'\n"])
@pytest.mark.parametrize(
    ("owner", "mode", "folder_owner", "folder_mode", "why"),
    [
        ((1000, 1000), 0o644, (0, 0), 0o755, "it belongs to another user"),
        ((0, 0), 0o646, (0, 0), 0o755, "another user may write it"),
        ((0, 1000), 0o664, (0, 0), 0o755, "another user may write it"),
        ((0, 0), 0o644, (1000, 0), 0o755, "another user may replace it"),
        ((0, 0), 0o644, (1000, 0), 0o1777, "another user may replace it"),
        ((0, 0), 0o644, (0, 1000), 0o775, "another user may replace it"),
        ((0, 0), 0o644, (0, 0), 0o777, "another user may replace it"),
        ((0, 0), 0o644, (0, 0), 0o1777, ""),
        ((0, 0), 0o664, (0, 0), 0o775, ""),
    ],
)
def test_root_takes_no_options_from_a_file_that_another_user_can_change(
    folder: Path,
    capsys: pytest.CaptureFixture[str],
    name: str,
    head: str,
    owner: tuple[int, int],
    mode: int,
    folder_owner: tuple[int, int],
    folder_mode: int,
    why: str,
) -> None:
    """The file says which user the server becomes, so that its owner could keep the server root."""
    write(folder, f"{'[tool.zibai]' if name == 'pyproject.toml' else ''}\n{head}pid_file = '/etc/x'\n", name)
    (folder / name).chmod(mode)
    folder.chmod(folder_mode)
    os.chown(folder / name, *owner)
    os.chown(folder, *folder_owner)
    if why:
        for flags in ([], ["--user", "nobody"]):
            assert failure(capsys, "a:b", *flags) == (
                f"{name}: {why}, and root would follow it; to trust it, add --config {name}"
            )
    assert parse_args(["a:b", *(["--config", name] if why else [])]).pid_file == "/etc/x"


@root_only
def test_root_follows_no_link_of_another_user(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(folder, "pid_file = '/etc/x'\n", "root.toml")
    (folder / "zibai.toml").symlink_to("root.toml")
    assert parse_args(["a:b"]).pid_file == "/etc/x"
    os.chown(folder / "zibai.toml", 1000, 1000, follow_symlinks=False)
    assert failure(capsys, "a:b").startswith("zibai.toml: it belongs to another user")


@root_only
def test_root_leaves_the_pyproject_of_other_tools_alone(folder: Path) -> None:
    write(folder, "[project]\nname = 'zibai-shop'\n", "pyproject.toml")
    os.chown(folder / "pyproject.toml", 1000, 1000)
    assert parse_args(["a:b"]) == Options("a:b")


# --- each option, by each source ----------------------------------------------------------------------

TEXTS = {
    "check_prefix": ["/shop", ""],
    "parse_address": [":0", "127.0.0.1:80", "[::1]:80", "unix:/run/my site.sock", "fd:3"],
    "check_trusted": ["10.0.0.0/8,unix", "none", "*", "::1"],
    "check_fields": ["for", "for,proto,host"],
    "check_file": ["zibai.pid", "/run/a b"],
    "check_log_file": ["zibai.log", "/dev/stdout"],
    "check_datagrams": ["127.0.0.1:8125", "[::1]:1"],
    "check_names": ["shop.web", "a-b_c."],
    "check_place": ["-", "access.log"],
    "check_format": ["default", "json", "%(h)s %({x}i)s"],
}


def values(option: Option) -> st.SearchStrategy[Any]:
    """Valid values of an option."""
    if option.choices is not None:
        return st.sampled_from(option.choices)
    if option.kind is bool:
        return st.booleans()
    if option.kind is int:
        most = 2**40 if option.bounds.maximum is None else int(option.bounds.maximum)
        return st.integers(int(option.bounds.least or option.bounds.minimum or 0), most)
    if option.kind is float:
        least = option.bounds.minimum if option.bounds.above is None else option.bounds.least
        return st.integers(int(least or 0) + 1, 1_000_000).map(float) | st.just(float(least or 0))
    if option.check is not None:
        text: st.SearchStrategy[str] = st.sampled_from(TEXTS[option.check.__name__])
    else:
        text = st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1, max_size=20).filter(
            lambda value: not value.startswith("-")
        )
    return text if option.kind is not list else st.lists(text, min_size=1, max_size=3)


@st.composite
def chosen(draw: st.DrawFn) -> dict[str, Any]:
    """Some options, or one, with what they demand of each other."""
    options = declared() if draw(st.booleans()) else [draw(st.sampled_from(declared()))]
    found = {option.name: draw(values(option)) for option in options if len(options) == 1 or draw(st.booleans())}
    found["app"] = "a:b"
    try:
        Options(**found).validate()
    except UsageError:
        found |= {"certfile": "c.pem", "cert_reqs": "required", "ca_certs": "a.pem", "tls_dev": False}
        found |= {
            "no_access_log": False,
            "log_file": "zibai.log",
            "health_listen": "127.0.0.1:80",
            "trusted_proxies": ["::1"],
            "proxy_protocol": "on",
            "loops": 1,
        }
    return found


def flags(option: Option, value: Any) -> Iterator[str]:
    if option.positional:
        yield value
    elif option.kind is bool:
        yield f"{option.flag}={'yes' if value else 'no'}"
    elif option.kind is list:
        yield from (option.flag, *value)
    else:
        yield f"{option.flag}={option.show(value) if option.octal else value}"


def variable(option: Option, value: Any) -> str:
    if option.kind is list:
        return shlex.join(value)
    return option.show(value) if option.octal else str(value)


def toml(option: Option, value: Any) -> str:
    text = option.show(value) if option.octal else value
    return f"{option.name} = {json.dumps(text, ensure_ascii=False)}\n"


# Each example builds the parser five times. Every run draws others.
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(chosen=chosen())
def test_each_source_gives_the_same_options(folder: Path, chosen: dict[str, Any]) -> None:
    expected = Options(**chosen)
    expected.validate()
    known = {option.name: option for option in declared()}
    given = [(known[name], value) for name, value in chosen.items()]
    argv = [word for option, value in given for word in flags(option, value)]
    assert parse_args(argv) == expected
    body = "".join(toml(option, value) for option, value in given)
    for name, head, profile in (
        ("zibai.toml", "", []),
        ("pyproject.toml", "[tool.zibai]\n", []),
        ("zibai.toml", "[live]\n", ["--profile", "live"]),
    ):
        write(folder, head + body, name)
        assert parse_args(profile) == expected, name
        (folder / name).unlink()
    with pytest.MonkeyPatch.context() as patch:
        for option, value in given:
            patch.setenv(f"ZIBAI_{option.name.upper()}", variable(option, value))
        # An empty variable counts as one that is not set.
        empty = {option.name for option, value in given if value == ""}
        assert asdict(parse_args([])) == {**asdict(expected), **dict.fromkeys(empty)}


def test_every_name_is_told_in_the_help() -> None:
    assert len({option.name for option in listed()}) == len(declared()) + 4
