"""The command line: what it makes of arguments, and how it ends."""

from __future__ import annotations

import re
import subprocess
import sys
from typing import Any

import pytest

from zibai.cli import main
from zibai.cli.arguments import parse_args
from zibai.cli.texts import long_help, options_markdown
from zibai.config import sources
from zibai.config.options import Options, declared
from zibai.errors import BindError, LoadError, UsageError
from zibai.system.machine import available_cpus
from zibai.version import __version__

from support import ROOT


def test_flags_left_out_leave_the_defaults() -> None:
    assert parse_args(["example:app"]) == Options("example:app")


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("-l 127.0.0.1:9000 example:app", {"listen": ["127.0.0.1:9000"]}),
        ("example:app -l 127.0.0.1:9000", {"listen": ["127.0.0.1:9000"]}),
        ("-l :1 [::1]:2 example:app", {"listen": [":1", "[::1]:2"]}),
        ("-l :1 -l :2 example:app", {"listen": [":1", ":2"]}),
        ("-l :1 example:app -l :2 unix:/x", {"listen": [":1", ":2", "unix:/x"]}),
        ("-l :1 example:app -p 2", {"listen": [":1"], "processes": 2}),
        ("-l :1 -p 2 example:app", {"listen": [":1"], "processes": 2}),
        ("--listen :1 --call -- example:app", {"listen": [":1"], "call": True}),
        ("-p 2 example:app -l :1 -l unix:/x", {"listen": [":1", "unix:/x"], "processes": 2}),
        ("-p2 -w3 example:app", {"processes": 2, "max_workers": 3}),
        ("--listen=:1 example:app", {"listen": [":1"]}),
    ],
)
def test_flags_come_first_or_last(line: str, expected: dict[str, Any]) -> None:
    assert parse_args(line.split()) == Options("example:app", **expected)


def test_every_flag_sets_its_field() -> None:
    values: dict[str, tuple[list[str], Any]] = {
        "call": ([], True),
        "certfile": (["c.pem"], "c.pem"),
        "keyfile": (["k.pem"], "k.pem"),
        "keyfile_password_env": (["SECRET"], "SECRET"),
        "ca_certs": (["a.pem"], "a.pem"),
        "cert_reqs": (["required"], "required"),
        "tls_min_version": (["1.3"], "1.3"),
        "ciphers": (["ECDHE"], "ECDHE"),
        "redirect_http": ([":80"], ":80"),
        "tls_dev": ([], True),
        "url_scheme": (["https"], "https"),
        "url_prefix": (["/shop"], "/shop"),
        "listen": ([":1", ":2"], [":1", ":2"]),
        "backlog": (["7"], 7),
        "dualstack_ipv6": ([], True),
        "unix_socket_perms": (["0o660"], 0o660),
        "unix_socket_group": (["www-data"], "www-data"),
        "trusted_proxies": (["10.0.0.0/8,unix", "::1"], ["10.0.0.0/8,unix", "::1"]),
        "forwarded_fields": (["for,host"], "for,host"),
        "proxy_protocol": (["on"], "on"),
        "chdir": (["/srv"], "/srv"),
        "user": (["www"], "www"),
        "group": (["33"], "33"),
        "pid_file": (["zibai.pid"], "zibai.pid"),
        "daemon": ([], True),
        "processes": (["4"], 4),
        "max_workers": (["5"], 5),
        "no_gevent": ([], True),
        "watchfiles": (["*.py;.env"], "*.py;.env"),
        "max_requests": (["100"], 100),
        "max_worker_memory": (["512M"], 512 * 2**20),
        "max_worker_descriptors": (["1000"], 1000),
        "capture_output": ([], True),
        "interactive": ([], True),
        "graceful_exit_timeout": (["1.5"], 1.5),
        "keep_alive_timeout": (["2"], 2.0),
        "disable_keep_alive": ([], True),
        "max_keep_alive_requests": (["9"], 9),
        "header_timeout": (["3"], 3.0),
        "socket_timeout": (["4"], 4.0),
        "max_header_size": (["8192"], 8192),
        "http": (["h11"], "h11"),
        "max_body_size": (["0"], 0),
        "stream_request_body": ([], True),
        "before_serve": (["hooks:a"], "hooks:a"),
        "before_graceful_exit": (["hooks:b"], "hooks:b"),
        "before_died": (["hooks:c"], "hooks:c"),
        "no_access_log": ([], True),
        "log_file": (["zibai.log"], "zibai.log"),
        "log_backups": (["2"], 2),
        "statsd": (["[::1]:8125"], "[::1]:8125"),
        "statsd_prefix": (["a.b"], "a.b"),
        "access_log": (["-"], "-"),
        "access_log_format": (["combined"], "combined"),
        "logging_config": (["log.toml"], "log.toml"),
    }
    with_certificate = {"certfile": "c.pem"}
    needs = dict.fromkeys(
        ["keyfile", "keyfile_password_env", "tls_min_version", "ciphers", "redirect_http"], with_certificate
    )
    needs |= {
        "ca_certs": {**with_certificate, "cert_reqs": "required"},
        "cert_reqs": {**with_certificate, "ca_certs": "a.pem"},
    }
    assert {"app", *values} <= {option.name for option in declared()}
    for option in declared():
        if option.name in values:
            words, value = values[option.name]
            needed = needs.get(option.name, {})
            more = [word for name, text in needed.items() for word in (f"--{name.replace('_', '-')}", text)]
            options = parse_args(["example:app", option.flag, *words, *more])
            assert options == Options("example:app", **{option.name: value}, **needed)
            assert type(getattr(options, option.name)) is type(value)


def test_permissions_are_octal() -> None:
    for text in ("660", "0660", "0o660"):
        assert parse_args(["example:app", "--unix-socket-perms", text]).unix_socket_perms == 0o660


@pytest.mark.parametrize(("text", "size"), [("7", 7), ("2K", 2048), ("2k", 2048), ("3m", 3 * 2**20), ("1G", 2**30)])
def test_sizes_have_units(text: str, size: int) -> None:
    assert parse_args(["example:app", "--max-worker-memory", text]).max_worker_memory == size


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("", "which application? Name it as module:attribute, for example: zibai example:app"),
        ("-p 2", "which application?"),
        ("-l :1", "which application?"),
        ("-l example:app", "which application?"),
        ("example:app -l", "--listen needs a value: --listen ADDRESS (HOST:PORT or unix:PATH (127.0.0.1:8000))"),
        ("-p", "--processes needs a value: --processes NUMBER (worker processes, or auto)"),
        ("example:app --workers --no-gevent", "--workers needs a value: --workers NUMBER (worker"),
        ("--watchfiles", '--watchfiles needs a value: --watchfiles PATTERNS (--reload for other files: "*.py;*.html")'),
        ("example:app --loops", "--loops needs a value: --loops NUMBER\n"),
        (f"a:b --watchfiles {__file__} {__file__}", "--watchfiles takes one value, and the shell has made files of it"),
        (f"--watchfiles {__file__} {__file__} a:b", "--watchfiles takes one value, and the shell has made files of it"),
        (f"example:app --watchfiles {__file__} --wrokers 2", "unrecognized arguments: --wrokers"),
        (f"example:app --watchfiles {__file__} b:c", "unrecognized arguments: b:c\n"),
        ("example:app --watchfiles *.py other.py", "unrecognized arguments: other.py\n"),
        ("example:app -l example:app", "--listen: 'example:app' is no address"),
        ("example:app -l :1 other:app", "--listen: 'other:app' is no address"),
        ("-l :1 example:app -p 1 other:app", "--listen: 'example:app' is no address"),
        ("example:app other:app", "unrecognized arguments: other:app"),
        ("example:app -w 0", "--max-workers must be at least 1, not 0"),
        ("example:app -p -1", "--processes must be at least 0, not -1"),
        ("example:app -w many", "argument -w/--max-workers: 'many' is not a whole number"),
        ("example:app --header-timeout soon", "argument --header-timeout: 'soon' is not a number"),
        ("example:app --header-timeout nan", "--header-timeout must be a number, not nan"),
        ("example:app --unix-socket-perms 888", "argument --unix-socket-perms: '888' is not an octal number"),
        # what int() and float() accept, and no person writes
        ("example:app -p ٣", "argument -p/--processes: '٣' is not a whole number"),
        ("example:app -p 1_0", "argument -p/--processes: '1_0' is not a whole number"),
        ("example:app -p +2", "argument -p/--processes: '+2' is not a whole number"),
        ("example:app --max-body-size 5_0M", "argument --max-body-size: '5_0M' is not a whole number, or one with"),
        ("example:app --max-body-size ٣M", "argument --max-body-size: '٣M' is not a whole number, or one with"),
        ("example:app --header-timeout ٣", "argument --header-timeout: '٣' is not a number"),
        ("example:app --header-timeout 1e3", "argument --header-timeout: '1e3' is not a number"),
        ("example:app --header-timeout 1_0", "argument --header-timeout: '1_0' is not a number"),
        ("example:app --header-timeout Infinity", "argument --header-timeout: 'Infinity' is not a number"),
        ("example:app --header-timeout inf", "--header-timeout must be at most 1e+06, not inf"),
        ("example:app --min-body-rate inf", "--min-body-rate must be at most 1e+12, not inf"),
        ("example:app --header-timeout 0.1ms", "--header-timeout must be at least 0.01, not 0.0001"),
        ("example:app --unix-socket-perms 6_6", "argument --unix-socket-perms: '6_6' is not an octal number"),
        ("example:app --unix-socket-perms 0x1", "argument --unix-socket-perms: '0x1' is not an octal number"),
        (
            "example:app --max-worker-memory lots",
            "argument --max-worker-memory: 'lots' is not a whole number, or one with K, M or G",
        ),
        (
            "example:app --max-worker-memory M",
            "argument --max-worker-memory: 'M' is not a whole number, or one with K, M or G",
        ),
        ("example:app --max-worker-memory 0G", "--max-worker-memory must be at least 1, not 0"),
        ("example:app --url-scheme ftp", "--url-scheme must be one of http, https, not 'ftp'"),
        ("example:app --max-work 3", "unrecognized arguments: --max-work 3"),
        ("example:app --markdown", "unrecognized arguments: --markdown"),
    ],
)
def test_wrong_usage_is_one_line_and_exit_code_2(line: str, message: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        parse_args(line.split())
    out, err = capsys.readouterr()
    assert caught.value.code == 2
    assert out == ""
    assert err.startswith(f"zibai: error: {message}")
    assert err.count("\n") == 1


@pytest.mark.parametrize("text", [" 2", "2 ", "\t2", "2\n", "\uff12", "", "-", "0x2", "2.0"])
def test_a_number_is_ascii_digits(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parse_args(["a:b", f"--processes={text}"])
    assert f"{text!r} is not a whole number" in capsys.readouterr().err


@pytest.mark.parametrize(("text", "value"), [("2", 2.0), ("2.5", 2.5), ("2.", 2.0), (".5", 0.5), ("007", 7.0)])
def test_plain_numbers(text: str, value: float) -> None:
    assert parse_args(["a:b", f"--header-timeout={text}"]).header_timeout == value


@pytest.mark.parametrize(
    ("flag", "name", "value"),
    [
        ("--subprocess", "processes", "4"),
        ("--max-request-pre-process", "max_requests", "100"),
        ("--h11-max-incomplete-event-size", "max_header_size", "8192"),
    ],
)
def test_an_older_flag_works(flag: str, name: str, value: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert parse_args(["a:b", flag, value]) == Options("a:b", **{name: int(value)})
    with pytest.raises(SystemExit):
        parse_args(["a:b", flag, "many"])
    assert f"argument {flag}: 'many' is not a whole number" in capsys.readouterr().err


def test_the_older_flag_of_the_logging_configuration() -> None:
    assert parse_args(["a:b", "--logging-config-filepath", "x.toml"]) == Options("a:b", logging_config="x.toml")


def test_the_last_of_two_names_counts() -> None:
    assert parse_args(["a:b", "--processes", "2", "--subprocess", "3"]).processes == 3
    assert parse_args(["a:b", "--subprocess", "2", "--processes", "3"]).processes == 3


def shown(capsys: pytest.CaptureFixture[str], flag: str) -> str:
    with pytest.raises(SystemExit) as caught:
        parse_args([flag])
    assert caught.value.code == 0
    return capsys.readouterr().out


@pytest.mark.parametrize("flag", ["-h", "--help"])
def test_help_is_one_line_for_each_option_that_people_use_first(flag: str, capsys: pytest.CaptureFixture[str]) -> None:
    text = shown(capsys, flag)
    assert max(map(len, text.splitlines())) < 80
    assert "WSGI and ASGI applications" in text
    for option in declared():
        lines = [line for line in text.splitlines() if re.match(rf"  (-\w, )?{option.flag} ", line)]
        assert len(lines) == bool(option.brief) or option.positional, option.name
    assert len([option for option in declared() if option.brief]) == 25
    assert "-w, --max-workers NUMBER         threads or greenlets of each worker (10)" in text
    assert "--subprocess" not in text


def test_the_groups_are_in_the_order_of_use() -> None:
    groups = list(dict.fromkeys(option.group for option in declared()))
    assert groups == [
        "Application",
        "Listening",
        "Workers",
        "Development",
        "Proxies",
        "TLS",
        "WebSocket",
        "Timeouts and limits",
        "Logging",
        "Process",
        "Hooks",
    ]
    assert [line for line in options_markdown().splitlines() if line.startswith("## ")] == [f"## {g}" for g in groups]


def test_help_all_shows_every_flag_with_its_default(capsys: pytest.CaptureFixture[str]) -> None:
    text = " ".join(shown(capsys, "--help-all").split())
    for option in declared():
        assert option.flag in text or option.positional
        assert option.short is None or f"{option.short}, {option.flag}" in text
        assert all(flag in text for flag in option.older_flags)
    assert "or else 127.0.0.1:8000" in text
    for default in ("0", "10", "75", "65536", "http", "2048"):
        assert f"(default: {default})" in text
    assert "(default: None)" not in text
    assert "(default: False)" not in text


@pytest.mark.parametrize("width", [79, 99])
def test_help_all_fits_the_terminal(width: int) -> None:
    assert max(map(len, long_help(width).splitlines())) <= width


@pytest.mark.parametrize("word", ["--version", "version"])
def test_version(capsys: pytest.CaptureFixture[str], word: str) -> None:
    with pytest.raises(SystemExit) as caught:
        main([word])
    assert caught.value.code == 0
    assert capsys.readouterr().out == f"zibai {__version__}\n"


def test_a_new_option_is_one_new_declaration(monkeypatch: pytest.MonkeyPatch) -> None:
    from dataclasses import dataclass

    from zibai.config import options as module

    @dataclass
    class More(Options):
        """Options, and one more."""

        workers_per_sheep: int = module.option(3, group="Sheep", minimum=2, help="100% wool")

    monkeypatch.setattr(module, "Options", More)
    monkeypatch.setattr(sources, "Options", More)
    caches = (declared, sources.listed, sources.names)
    for cached in caches:
        cached.cache_clear()
    try:
        assert "100% wool (default: 3)" in long_help(79)
        assert "| `--workers-per-sheep` | `3` | 100% wool |" in options_markdown()
        assert parse_args(["a:b", "--workers-per-sheep", "4"]) == More("a:b", workers_per_sheep=4)
        with pytest.raises(UsageError, match="--workers-per-sheep must be at least 2"):
            More("a:b", workers_per_sheep=1).validate()
    finally:
        monkeypatch.undo()
        for cached in caches:
            cached.cache_clear()


def test_the_documentation_is_up_to_date() -> None:
    written = (ROOT / "docs" / "options.md").read_text(encoding="utf-8")
    assert written == options_markdown(), "run: python docs/generate_options.py"


def test_as_many_processes_as_processors() -> None:
    assert parse_args(["a:b", "-p", "auto"]).processes == available_cpus()
    assert Options("a:b").processes == 0


def test_the_environment_counts_when_the_flag_is_left_out(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("WEB_CONCURRENCY", "3")
    assert parse_args(["a:b"]).processes == 3
    assert parse_args(["a:b", "-p", "1"]).processes == 1
    monkeypatch.setenv("WEB_CONCURRENCY", "auto")
    assert parse_args(["a:b"]).processes == available_cpus()
    monkeypatch.setenv("WEB_CONCURRENCY", "many")
    with pytest.raises(SystemExit):
        parse_args(["a:b"])
    assert "WEB_CONCURRENCY: 'many' is not a whole number or auto" in capsys.readouterr().err


# --- how the command ends ---------------------------------------------------------------------------


def run_with(monkeypatch: pytest.MonkeyPatch, outcome: BaseException | None) -> tuple[int, list[Options]]:
    """``zibai example:app -p 2`` where serving ends in ``outcome``."""
    served: list[Options] = []

    def fake(options: Options, *_: object) -> None:
        served.append(options)
        if outcome is not None:
            raise outcome

    monkeypatch.setattr("zibai.server.start._serve", fake)
    try:
        return main(["example:app", "-p", "2"]), served
    except SystemExit as end:
        return end.code, served  # type: ignore[return-value]


def test_asked_to_end(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_with(monkeypatch, None) == (0, [Options("example:app", processes=2)])
    assert run_with(monkeypatch, KeyboardInterrupt())[0] == 0
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("error", "code", "text"),
    [
        (BindError("127.0.0.1:8000 is in use"), 1, "zibai: error: 127.0.0.1:8000 is in use\n"),
        (UsageError("no"), 2, "zibai: error: no\n"),
        (LoadError("no module named 'x'"), 3, "zibai: error: no module named 'x'\n"),
        (
            LoadError("it failed", "Traceback (most recent call last):\nKeyError: 1\n"),
            3,
            "Traceback (most recent call last):\nKeyError: 1\nzibai: error: it failed\n",
        ),
    ],
)
def test_an_error_is_one_line_and_its_exit_code(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], error: Exception, code: int, text: str
) -> None:
    assert run_with(monkeypatch, error)[0] == code
    assert capsys.readouterr() == ("", text)


def test_other_exceptions_and_exits_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ZeroDivisionError):
        run_with(monkeypatch, ZeroDivisionError())
    assert run_with(monkeypatch, SystemExit(5))[0] == 5


def test_arguments_of_the_process(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "argv", ["anything", "-w", "0", "a:b"])
    with pytest.raises(SystemExit):
        main()
    assert "--max-workers" in capsys.readouterr().err


def test_python_m_is_the_same_command() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "zibai", "-w", "0", "a:b"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "zibai: error: --max-workers must be at least 1, not 0\n"


@pytest.mark.parametrize("command", ["ps", "reload"])
def test_a_command_for_a_running_server_loads_no_options(command: str) -> None:
    """They are most of what a start loads, and scripts call these commands often."""
    code = f"import sys, zibai.cli; code = zibai.cli.main(['{command}', ':1']); print(code, *sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    code, *modules = done.stdout.split()
    assert code == "1"
    assert "zibai.cli.find" in modules
    assert "zibai.config.options" not in modules
