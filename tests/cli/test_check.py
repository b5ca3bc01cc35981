"""zibai check: what would be wrong is told before serving."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import zipfile
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

import pytest

from zibai.cli import findings as checks
from zibai.cli.check import check
from zibai.config.options import Options, declared
from zibai.system import machine

from support import DEADLINE, ROOT, Gate, run

if TYPE_CHECKING:
    from pathlib import Path

    from credentials import Credentials

ZIPPED = f"import sys\nsys.path.insert(1, {str(ROOT)!r})\nfrom zibai.__main__ import main\nmain()\n"
FREE = ("--listen", "127.0.0.1:0")


@pytest.fixture(autouse=True)
def usual(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine without peculiarities."""
    monkeypatch.setattr(machine, "available_cpus", lambda: 4)
    monkeypatch.setattr(machine, "raise_descriptor_limit", lambda: None)
    monkeypatch.setattr(machine, "descriptors_for_clients", lambda: 50_000)
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    if hasattr(os, "geteuid"):
        monkeypatch.setattr(os, "geteuid", lambda: 1000)


def advice(check: Any, **options: Any) -> list[tuple[str, str]]:
    return [(finding.level, finding.text) for finding in check(Options("a:b", **options))]


@pytest.mark.parametrize(
    ("name", "options", "level", "words"),
    [
        ("_keep_alive", {"keep_alive_timeout": 5.0}, "warning", "nginx and AWS keep a connection for 60 s"),
        ("_keep_alive", {"keep_alive_timeout": 60.0}, "warning", "set 75 or more"),
        ("_keep_alive", {}, "note", "behind Google Cloud's balancer, which keeps 600 s, set 620"),
        ("_keep_alive", {"keep_alive_timeout": 620.0}, "ok", "longer than the usual balancers"),
        ("_keep_alive", {"disable_keep_alive": True}, "note", "costs a new connection"),
        ("_graceful", {}, "ok", "it takes 14 s at most"),
        ("_graceful", {"drain": 10.0, "graceful_exit_timeout": 20.0}, "warning", "GracePeriodSeconds: 35"),
        ("_workers", {}, "note", "1 process for 4 processors that the server may use; --processes auto"),
        ("_workers", {"processes": 4}, "ok", "4 processes for 4 processors"),
        ("_workers", {"processes": 10}, "warning", "10 worker processes for 4 processors"),
        ("_descriptors", {}, "ok", "each worker may hold 50000 connections"),
        ("_descriptors", {"max_connections": 60_000}, "warning", "and the system allows 50000 (ulimit -n"),
        ("_exposure", {"max_body_size": 0}, "warning", "--max-body-size 0: a client may send a body"),
        ("_exposure", {"queue_timeout": 0.0}, "warning", "--queue-timeout 0"),
        ("_process", {"daemon": True}, "warning", "--daemon without --log-file: the log is lost"),
        ("_files", {"pid_file": "/nowhere/pid"}, "error", "--pid-file: no file can be made in '/nowhere'"),
    ],
)  # fmt: skip
def test_advice(name: str, options: dict[str, Any], level: str, words: str) -> None:
    found = advice(getattr(checks, name), **options)
    assert found[0][0] == level
    assert words in found[0][1]


@pytest.mark.parametrize(("gil", "level"), [(True, "note"), (False, "ok")])
def test_several_loops_use_several_processors_without_a_gil(
    monkeypatch: pytest.MonkeyPatch, gil: bool, level: str
) -> None:
    monkeypatch.setattr(checks, "has_gil", lambda: gil)
    assert [each[0] for each in advice(checks._workers, processes=2, loops=2)] == [level]


def test_few_descriptors(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "descriptors_for_clients", lambda: 900)
    assert advice(checks._descriptors) == [
        ("warning", "each worker may hold 900 connections; raise the limit (ulimit -n, LimitNOFILE=)")
    ]


def test_kubernetes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "10.0.0.1")
    assert "--drain 5 serves them" in advice(checks._graceful)[1][1]
    assert len(advice(checks._graceful, drain=5.0)) == 1


def test_the_backlog(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(checks, "SOMAXCONN", tmp_path / "somaxconn")
    assert advice(checks._backlog) == []
    (tmp_path / "somaxconn").write_text("128\n", encoding="ascii")
    assert advice(checks._backlog)[0][0] == "warning"
    assert advice(checks._backlog, backlog=128) == [("ok", "128 connections may wait to be accepted")]


def test_addresses(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        name = f"127.0.0.1:{taken.getsockname()[1]}"
        assert [finding.level for finding in checks._addresses(Options("a:b", listen=[name, "127.0.0.1:0"]))] == [
            "error",
            "ok",
        ]
    found = advice(checks._addresses, listen=["0.0.0.0:0"], trusted_proxies=["*"], reload=True)
    assert [level for level, _ in found] == ["ok", "warning", "warning"]
    assert "trusts every peer, and 0.0.0.0:0 is public" in found[1][1]
    assert "for development" in found[2][1]
    assert advice(checks._addresses, listen=["127.0.0.1:0"], trusted_proxies=["*"], reload=True) == [
        ("ok", "127.0.0.1:0 is free")
    ]
    assert advice(checks._addresses, listen=["fd:3"])[0][0] == "note"
    seen = {"listen": ["127.0.0.1:0"], "health_listen": "0.0.0.0:0"}
    assert [level for level, _ in advice(checks._addresses, **seen)] == ["ok", "ok"]
    found = advice(checks._addresses, **seen, health_public=True)
    (warning,) = [text for level, text in found if level == "warning"]
    assert "shows its live page" in warning


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as sock:
        return int(sock.getsockname()[1])


@pytest.mark.parametrize("flag", ["listen", "health_listen", "redirect_http"])
@pytest.mark.parametrize("kind", ["tcp", "unix"])
def test_two_addresses_that_exclude_each_other(flag: str, kind: str, tmp_path: Path) -> None:
    if kind == "unix" and sys.platform == "win32":
        pytest.skip("there are no unix sockets")
    name = f"127.0.0.1:{free_port()}" if kind == "tcp" else f"unix:{tmp_path / 'sock'}"
    options: dict[str, Any] = {"listen": [name, name]} if flag == "listen" else {"listen": [name], flag: name}
    found = [finding for finding in advice(checks._addresses, **options) if finding[0] != "note"]
    assert found[0] == ("ok", f"{name} is free")
    assert [level for level, _ in found[1:]] == ["error"]
    assert f"{name} is in use" in found[1][1]
    assert advice(checks._addresses, listen=[name])[0][0] == "ok", "all are closed in the end"
    assert not (tmp_path / "sock").exists()


def test_one_descriptor_for_two_listeners() -> None:
    found = advice(checks._addresses, listen=["fd:3", "fd:3"])
    assert found[1] == ("error", "fd:3 is there twice")


@pytest.mark.parametrize(
    ("module", "options", "text"),
    [
        (
            "watchfiles",
            {"reload": True},
            "--reload and --watchfiles need watchfiles; pip install 'zibai-server[reload]'",
        ),
        ("watchfiles", {"watchfiles": "*.html"}, "--reload and --watchfiles need watchfiles"),
        ("trustme", {"tls_dev": True}, "--tls-dev needs trustme; pip install 'zibai-server[tls-dev]'"),
    ],
)
def test_a_missing_extra(module: str, options: dict[str, Any], text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    found = [finding for finding in checks.findings(Options("plain:app", **options)) if finding.subject == "extras"]
    assert [(finding.level, finding.code) for finding in found] == [("error", 2)]
    assert text.partition(";")[0] in found[0].text


def test_extras_that_are_there() -> None:
    pytest.importorskip("watchfiles")
    pytest.importorskip("trustme")
    assert [level for level, _ in advice(checks._extras, reload=True, tls_dev=True)] == ["ok", "ok"]


@pytest.mark.parametrize("name", ["log_file", "control"])
def test_a_file_that_cannot_be_written(name: str, tmp_path: Path) -> None:
    flag = "--" + name.replace("_", "-")
    assert advice(checks._files, **{name: str(tmp_path)})[0] == (
        "error",
        f"{flag}: {str(tmp_path)!r} cannot be written",
    )
    assert advice(checks._files, **{name: str(tmp_path / "new")})[0][0] == "ok"


def test_a_log_file_that_is_there_needs_no_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """``/dev/stdout`` in a container."""
    (tmp_path / "log").touch()
    monkeypatch.setattr(os, "access", lambda path, mode: path != str(tmp_path))
    assert [level for level, _ in advice(checks._files, log_file=str(tmp_path / "log"))] == ["ok"]
    assert advice(checks._files, log_file=str(tmp_path / "new"))[0][0] == "error"


@pytest.mark.skipif(sys.platform == "win32", reason="there are no unix sockets")
def test_a_unix_socket(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    found = advice(checks._addresses, listen=["unix:sock"])
    assert [level for level, _ in found] == ["ok", "note"]
    assert "--unix-socket-perms 660 --unix-socket-group GROUP" in found[1][1]
    assert len(advice(checks._addresses, listen=["unix:sock"], unix_socket_perms=0o660)) == 1
    assert not (tmp_path / "sock").exists()


def test_certificates(credentials: Credentials) -> None:
    certificate = credentials.server
    assert advice(checks._certificate, certfile=certificate)[0][0] == "ok"
    found = [
        finding
        for finding in checks.findings(Options("a:b", certfile=credentials.authority))
        if finding.subject == "certificate"
    ]
    assert [finding.level for finding in found] == ["error"]


def test_a_certificate_that_expires(credentials: Credentials, monkeypatch: pytest.MonkeyPatch) -> None:
    certificate = credentials.server
    for left, level, words in (
        (3600.0 * 36, "warning", "expires in 1.5 days"),
        (-86400.0, "error", "expired 1.0 days ago"),
    ):
        monkeypatch.setattr(checks, "_seconds_left", lambda path, left=left: left)
        ((found, text),) = advice(checks._certificate, certfile=certificate)
        assert found == level
        assert words in text


# --- the command ---------------------------------------------------------------------------------------


def test_a_server_that_would_start() -> None:
    done = run("check", "plain:app", *FREE, "--no-gevent", "--max-workers", "3")
    assert done.returncode == 0, done.stderr
    assert "  max_workers  3            --max-workers\n" in done.stdout
    assert "  ok       application  'plain:app' is imported in " in done.stdout
    assert "requests run in threads" in done.stdout


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("api:app", "requests run as tasks; not tried: its lifespan\n"),
        ("api:app --lifespan off", "requests run as tasks\n"),
        ("hidden:app --no-gevent", "requests run as tasks; not tried: its lifespan\n"),
        ("hidden:app --interface asgi", "requests run as tasks; not tried: its lifespan\n"),
        ("hidden:app --no-gevent --before-serve hidden:setup", "not tried: its lifespan and --before-serve\n"),
    ],
)
def test_an_asgi_application_runs_as_tasks(folder: Path, line: str, words: str) -> None:
    done = run("check", *line.split(), *FREE, cwd=folder)
    assert done.returncode == 0, done.stdout
    assert words in done.stdout


@pytest.mark.skipif(find_spec("gevent") is None, reason="nothing would patch")
def test_gevent_that_patches_in_front_of_asgi(folder: Path) -> None:
    done = run("check", "hidden:app", *FREE, cwd=folder)
    assert done.returncode == 3
    assert "'hidden:app' is an ASGI application, and gevent, which is installed, has patched" in done.stdout


def test_an_event_loop_that_is_not_installed(folder: Path) -> None:
    module = "winloop" if sys.platform == "win32" else "uvloop"
    (folder / f"{module}.py").write_text(f"raise ModuleNotFoundError(name={module!r})\n", encoding="utf-8")
    done = run("check", "api:app", *FREE, "--loop", "uvloop", cwd=folder)
    assert done.returncode == 2
    assert f"{module} is not installed; pip install 'zibai-server[uvloop]'" in done.stdout


def test_json_and_strict() -> None:
    done = run("check", "plain:app", *FREE, "--json", "--no-gevent", "--keep-alive-timeout", "5", "--strict")
    report = json.loads(done.stdout)
    assert done.returncode == report["exit_code"] == 1
    assert set(report["options"]) == {option.name for option in declared()}
    assert report["options"]["keep_alive_timeout"] == {"value": 5.0, "origin": "--keep-alive-timeout"}
    assert report["options"]["backlog"]["origin"] == "default"
    assert {"level", "subject", "text", "trace", "code"} == set(report["findings"][0])
    assert any(finding["subject"] == "keep-alive" and finding["level"] == "warning" for finding in report["findings"])
    assert {finding["code"] for finding in report["findings"]} == {0}, "without an error"
    done = run("check", "nowhere:app", *FREE, "--json", "--no-gevent")
    codes = {finding["level"]: finding["code"] for finding in json.loads(done.stdout)["findings"]}
    assert codes["error"] == done.returncode == 3


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "broken.py").write_text("print('noise')\nimport nowhere_xyz\n", encoding="utf-8")
    (tmp_path / "leaves.py").write_text("import os\nos._exit(7)\n", encoding="utf-8")
    (tmp_path / "hangs.py").write_text("import time\ntime.sleep(60)\n", encoding="utf-8")
    api = "async def app(scope, receive, send): ...\ndef make_app(): return app\n"
    (tmp_path / "api.py").write_text(api, encoding="utf-8")
    (tmp_path / "hidden.py").write_text("from api import app\ndef setup(): raise OSError\n", encoding="utf-8")
    return tmp_path


@pytest.mark.parametrize(
    "start",
    [
        "import subprocess, sys; subprocess.Popen([sys.executable, '-c', CODE])",
        "import threading; threading.Thread(target=exec, args=[CODE]).start()",
    ],
    ids=["program", "thread"],
)
@pytest.mark.daily("program")
def test_what_an_application_starts_at_its_import_holds_nothing_up(tmp_path: Path, start: str) -> None:
    """It was said not to be imported within the boot timeout."""
    with Gate() as gate:
        code = f"import socket; socket.create_connection(('127.0.0.1', {gate.port})).recv(1)"
        source = f"CODE = {code!r}\n{start}\ndef app(environ, start_response): ..."
        (tmp_path / "starts.py").write_text(source, encoding="utf-8")
        done = run("check", "starts:app", *FREE, "--no-gevent", cwd=tmp_path)
    assert "'starts:app' is imported in " in done.stdout
    assert done.returncode == 0


@pytest.mark.daily("broken")
@pytest.mark.parametrize(
    ("line", "code", "words"),
    [
        ("broken:app --reload", 3, "error    application  importing 'broken' failed: ModuleNotFoundError: No module"),
        ("api:make_app", 3, "error    application  'api:make_app' is a factory, not an application; have it called"),
        ("leaves:app", 3, "error    application  the process that imports 'leaves:app' has ended with code 7"),
        ("hangs:app --boot-timeout 2", 3, "error    application  'hangs:app' is not imported in 2 s (--boot-timeout)"),
        ("api:app --logging-config nowhere.toml", 2, "error    application  --logging-config: 'nowhere.toml' cannot"),
        ("api:app --chdir nowhere", 2, "error    files        --chdir: 'nowhere' is no directory"),
    ],
)
def test_an_application_that_cannot_be_loaded(folder: Path, line: str, code: int, words: str) -> None:
    done = run("check", *line.split(), *FREE, "--no-gevent", cwd=folder)
    assert done.returncode == code
    assert words in done.stdout
    assert "1 error" in done.stdout.splitlines()[-1]


def test_an_application_in_a_zip_file_with_the_command(tmp_path: Path) -> None:
    """As zipapp makes them: only the command itself has the file in its sys.path, also without variables (-I)."""
    archive = tmp_path / "all.pyz"
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr("zipped.py", "def app(environ, start_response): ...")
        file.writestr("__main__.py", ZIPPED)
    done = subprocess.run(
        [sys.executable, "-I", str(archive), "check", "zipped:app"],
        capture_output=True,
        text=True,
        timeout=DEADLINE,
        check=False,
    )
    assert "'zipped:app' is imported in" in done.stdout


def test_a_mistake_is_told_as_at_a_start(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        check(["a:b", "--max-workers", "0"])
    assert caught.value.code == 2
    assert capsys.readouterr().err == "zibai: error: --max-workers must be at least 1, not 0\n"


@pytest.mark.parametrize("word", ["--max-workers", "-w", "max_workers", "ZIBAI_MAX_WORKERS", "threads"])
def test_explain(word: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ZIBAI_THREADS", "7")
    assert check(["--explain", word]) == 0
    text = capsys.readouterr().out
    assert text.startswith("-w, --max-workers, --threads NUMBER\n  threads or greenlets of each worker")
    assert "  variable: ZIBAI_MAX_WORKERS\n  file:     max_workers = ...\n  default:  10\n" in text
    assert text.endswith("  here:     7 (environment variable ZIBAI_THREADS)\n")


def test_explain_everything(capsys: pytest.CaptureFixture[str]) -> None:
    for option in declared():
        assert check(["--explain", option.name]) == 0
        assert option.help in capsys.readouterr().out


@pytest.mark.parametrize(
    ("word", "says"),
    [
        ("--timeout", "--timeout is a flag of gunicorn; here it is --request-timeout"),
        ("xyz", "there is no option 'xyz'; zibai --help-all shows all of them"),
        ("", "there is no option ''; zibai --help-all shows all of them"),
        ("--workres", "there is no option '--workres'; did you mean --workers?"),
        ("ZIBAI_MAX_WORKER", "there is no option 'ZIBAI_MAX_WORKER'; did you mean --max-workers?"),
    ],
)
def test_explain_what_there_is_not(word: str, says: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        check(["--explain", word])
    assert says in capsys.readouterr().err


def test_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert check(["--help"]) == 0
    assert max(map(len, capsys.readouterr().out.splitlines())) <= 105
