"""Where the values of options come from, through the real command."""

from __future__ import annotations

import os
import sys
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path

import pytest

from support import Client, Server, get, run, wait_for

APP = """
import os
import sys
try:
    import helper
except ImportError:
    helper = None

def app(environ, start_response):
    start_response("200 OK", [])
    return [repr((os.environ.get("COLOUR"), environ["SCRIPT_NAME"], helper and helper.VALUE)).encode()]
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "site_.py").write_text(APP, encoding="utf-8")
    return tmp_path


@pytest.mark.daily("single")
@pytest.mark.parametrize("workers", [0, 1], ids=["single", "parent"])
def test_the_command_alone_serves_what_the_file_says(folder: Path, workers: int) -> None:
    text = 'app = "site_:app"\nlisten = "127.0.0.1:0"\nno_gevent = true\n'
    text += f'workers = {workers}\n[shop]\nurl_prefix = "/shop"\n'
    (folder / "zibai.toml").write_text(text, encoding="utf-8")
    with Server(None, "--profile", "shop", listen=None, cwd=folder) as server:
        assert get(server.port, "/shop/").body == b"(None, '/shop', None)"
        assert server.stop() == 0


def test_the_port_of_a_platform(folder: Path) -> None:
    with Server("site_:app", "--no-gevent", listen=None, cwd=folder, env={"PORT": "0"}) as server:
        assert server.address.startswith("http://0.0.0.0:")
        assert get(server.port).status == 200


def test_the_workers_of_a_platform(folder: Path) -> None:
    """With the line end that ``docker run --env-file`` leaves in the variables of a file from Windows."""
    variables = {"WEB_CONCURRENCY": "2\r", "ZIBAI_APP": "site_:app\r", "PORT": "0\r", "ZIBAI_NO_GEVENT": "on\r"}
    with Server(None, listen=None, cwd=folder, env=variables) as server:
        assert server.address.startswith("http://0.0.0.0:")
        assert get(server.port).status == 200
        wait_for(lambda: len([line for line in server.log if "worker ready: threads" in line]) == 2)
        assert server.stop() == 0


@pytest.mark.parametrize("encode", [("utf-8-sig", "\r\n"), ("utf-8", "\n")], ids=["Windows", "plain"])
def test_a_file_with_the_marks_of_windows(folder: Path, encode: tuple[str, str]) -> None:
    encoding, end = encode
    text = end.join(('app = "site_:app"', 'listen = "127.0.0.1:0"', "no_gevent = true", ""))
    (folder / "zibai.toml").write_bytes(text.encode(encoding))
    with Server(None, listen=None, cwd=folder) as server:
        assert get(server.port).status == 200


@pytest.mark.skipif(find_spec("dotenv") is None, reason="python-dotenv is not installed")
def test_a_file_of_variables(folder: Path) -> None:
    (folder / ".env").write_text("COLOUR='dark red'\nPATH=/nowhere\n", encoding="utf-8")
    flags = ("--env-file", ".env", "--no-gevent", "--reload")
    with Server("site_:app", *flags, cwd=folder) as server:
        assert get(server.port).body == b"('dark red', '', None)"
        server.wait_for_log("watching *.py (1 file), .env (1 file) below ")
        (folder / ".env").write_text("COLOUR=green\n", encoding="utf-8")
        wait_for(lambda: get(server.port).body == b"('green', '', None)")
        server.wait_for_log("restart begun (.env has changed)")


@pytest.mark.skipif(find_spec("dotenv") is None, reason="python-dotenv is not installed")
def test_a_file_of_variables_that_is_not_there(folder: Path) -> None:
    done = run("site_:app", "--env-file", "nowhere", cwd=folder)
    assert (done.returncode, done.stderr) == (
        2,
        "zibai: error: --env-file: cannot read 'nowhere': No such file or directory\n",
    )


def test_a_directory_to_import_from(folder: Path) -> None:
    (folder / "src").mkdir()
    (folder / "site_.py").rename(folder / "src" / "site_.py")
    with Server("site_:app", "--app-dir", "src", "--no-gevent", cwd=folder) as server:
        assert get(server.port).status == 200
    done = run("site_:app", "--app-dir", "lib", cwd=folder)
    assert (done.returncode, done.stderr) == (2, "zibai: error: --app-dir: 'lib' is no directory\n")


@pytest.mark.skipif(find_spec("watchfiles") is None, reason="watchfiles is not installed")
def test_reload_watches_what_is_imported_from_elsewhere(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    shared = tmp_path_factory.mktemp("shared")
    (shared / "helper.py").write_text("VALUE = 1\n", encoding="utf-8")
    (folder / "venv").mkdir()
    flags = ("--reload", "--app-dir", str(shared), "--no-gevent")
    with Server("site_:app", *flags, cwd=folder) as server:
        assert get(server.port).body == b"(None, '', 1)"
        server.wait_for_log(f"watching *.py (1 file) below {folder.resolve()}; a change restarts the workers")
        server.wait_for_log(f"watching *.py (1 file) below {shared.resolve()}; ")
        assert not any(sys.prefix in line for line in server.log if "watching" in line)
        (shared / "helper.py").write_text("VALUE = 2222\n", encoding="utf-8")
        wait_for(lambda: get(server.port).body == b"(None, '', 2222)")
        server.wait_for_log("restart begun (helper.py has changed)")
        (folder / "site_.py").write_text(APP.replace("b", "b"), encoding="utf-8")
        server.wait_for_log("restart begun (site_.py has changed)")


IMPORTS = """
import importlib.util, sys
sys.path.append({folder!r})
import packed.deep, lone
spec = importlib.util.spec_from_file_location("named", {folder!r} + "/named/named.py")
named = importlib.util.module_from_spec(spec)
sys.modules["named"] = named
spec.loader.exec_module(named)
def body():
    return repr((packed.deep.VALUE, lone.VALUE, named.VALUE)).encode()
"""

WSGI = """
def app(environ, start_response):
    start_response("200 OK", [])
    return [body()]
"""

ASGI = """
async def app(scope, receive, send):
    if scope["type"] == "http":
        await send({"type": "http.response.start", "status": 200})
        await send({"type": "http.response.body", "body": body()})
"""

KINDS = {"threads": (WSGI, ("--no-gevent",)), "greenlets": (WSGI, ()), "tasks": (ASGI, ())}


def instances(pid: int) -> int:
    """How many instances of inotify a process has."""
    found = 0
    for path in Path(f"/proc/{pid}/fd").iterdir():
        with suppress(OSError):
            found += os.readlink(path) == "anon_inode:inotify"
    return found


@pytest.mark.skipif(find_spec("watchfiles") is None, reason="watchfiles is not installed")
@pytest.mark.daily("threads")
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("broken", [False, True], ids=["works", "fails first"])
def test_reload_watches_what_only_the_application_knows_of(
    folder: Path, tmp_path_factory: pytest.TempPathFactory, broken: bool, kind: str
) -> None:
    if kind == "greenlets":
        pytest.importorskip("gevent")
    source, flags = KINDS[kind]
    other = tmp_path_factory.mktemp("other")
    (folder / "site_.py").write_text(IMPORTS.format(folder=str(other)) + source, encoding="utf-8")
    files = [other / name for name in ("packed/deep.py", "lone.py", "named/named.py")]
    for file in (*files, other / "beside" / "not_imported.py"):
        file.parent.mkdir(exist_ok=True)
        file.write_text("1/0\n" if broken and file == files[-1] else "VALUE = 1\n", encoding="utf-8")
    (other / "packed" / "__init__.py").touch()
    with Server("site_:app", "--reload", *flags, cwd=folder) as server:
        if broken:
            assert b"ZeroDivisionError" in get(server.port).body
            files[-1].write_text("VALUE = 1  # mended\n", encoding="utf-8")
        wait_for(lambda: get(server.port).body == b"(1, 1, 1)")
        for number, file in enumerate(files):
            (other / "beside" / "not_imported.py").write_text(f"VALUE = {number}\n", encoding="utf-8")
            file.write_text("VALUE = 2222\n", encoding="utf-8")
            # Not the words of the log: one write may be two changes, and the second is told of with the next file.
            values = f"({', '.join(['2222'] * (number + 1) + ['1'] * (2 - number))})".encode()
            wait_for(lambda values=values: get(server.port).body == values)
        server.wait_for_log(f"restart begun ({files[0].name} has changed)")
        watched = [line for line in server.log if " below " in line]
        assert len([line for line in watched if str(other) in line]) == 3, "each once"
        assert any(f"worker ready: {kind}" in line for line in server.log)
        if sys.platform == "linux":
            assert instances(server.pid) == 2, "one for folders with all below, one for those without"
        assert not any(sys.prefix in line for line in watched)
        assert not any("not_imported" in line for line in server.log)


@pytest.mark.skipif(find_spec("watchfiles") is None, reason="watchfiles is not installed")
@pytest.mark.daily("names")
@pytest.mark.parametrize(
    ("pattern", "warning"),
    [
        pytest.param(
            "site_.py", "--watchfiles site_.py watches this name alone; if your shell has", id="names one file"
        ),
        pytest.param("*.html;*.py", "matches *.html now", id="matches none"),
    ],
)
def test_a_pattern_that_was_meant_in_another_way(folder: Path, pattern: str, warning: str) -> None:
    with Server("site_:app", "--watchfiles", pattern, "--no-gevent", cwd=folder) as server:
        assert "WARNING" in server.wait_for_log(warning)


def test_the_log_level(folder: Path) -> None:
    with Server("site_:app", "--log-level", "debug", "--no-gevent", cwd=folder) as server:
        with Client(server.port) as client:
            client.send(b"GET / HTTP/1.1\r\n\r\n")
            assert client.read().status == 400
        server.wait_for_log("DEBUG")
    with Server("site_:app", "--listen", "127.0.0.1:0", "--no-gevent", listen=None, cwd=folder) as server:
        get(server.port)
        server.wait_for_log("GET /")
    done = run("site_:app", "--log-level", "warning", "--pid-file", "nowhere/pid", cwd=folder)
    assert "INFO" not in done.stderr
