"""The first five minutes: the mistakes that newcomers make, and the one helpful line that each of them gets."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, NamedTuple

import pytest

from support import ROOT, Server, get, run

if TYPE_CHECKING:
    import subprocess
    from pathlib import Path

SITE = """
class App:
    def __call__(self, environ, start_response):
        start_response("200 OK", [("Content-Type", "text/plain")])
        return [b"Hello World!"]

def create_app(config="default"):
    return App()

def view(request):
    return "Hello World!"

async def api(scope, receive, send):
    pass

async def page():
    pass

def make_none():
    pass

logger = nothing = None
wsgi = App()
"""


class Mistake(NamedTuple):
    """What is typed, and what is said."""

    line: str
    says: str
    code: int = 2
    variables: dict[str, str] | None = None


LOAD = 3
WORKERS = "--workers 1 "

MISTAKES = [
    Mistake("", "which application? Name it as module:attribute, for example: zibai example:app"),
    Mistake("nowhere", "no module named 'nowhere'; check the name, or start zibai in the directory that holds", LOAD),
    Mistake("nowhere:app", "no module named 'nowhere'; check the name, or start zibai in the directory that", LOAD),
    Mistake("src/nowhere.py", "there is no file 'src/nowhere.py'; check the path", LOAD),
    Mistake("site_.app", "no module named 'site_.app'", LOAD),
    Mistake("site_:app", "module 'site_' has no attribute 'app'; did you mean ", LOAD),
    Mistake("site_:", "'site_:' is not of the form module:attribute, as in example:app", LOAD),
    Mistake("site_:creat_app", "module 'site_' has no attribute 'creat_app'; did you mean create_app()?", LOAD),
    Mistake("site_:create_app", "'site_:create_app' is a factory, not an application; have it called: zibai 's", LOAD),
    Mistake("site_:create_app(config)", "'site_:create_app(config)' is no call with plain values, as in", LOAD),
    Mistake("site_:make_none --factory", "'site_:make_none' returned None, which cannot be called; it should", LOAD),
    Mistake("site_:App", "'site_:App' is a class, not an application; have an instance made: zibai 'site_:App(", LOAD),
    Mistake("site_:nothing", "'site_:nothing' is None and cannot be called; name an application", LOAD),
    Mistake("site_:view", "'site_:view' takes request, and a WSGI application takes environ and start_response", LOAD),
    Mistake("site_:page", "'site_:page' is async: write def page(environ, start_response) for WSGI, or async d", LOAD),
    Mistake("site_:wsgi()", "'site_:wsgi()' is an application, not a factory; leave the call out", LOAD),
    Mistake("site_:page --factory", "'site_:page' is async, and a factory must not be", LOAD),
    Mistake("package/site:wsgi", "'package/site' is no module; for a file, write package/site.py:wsgi", LOAD),
    Mistake(".", "'.' is a directory; name a module in it, and the directory with --app-dir", LOAD),
    Mistake("package:site", "'package:site' is a module; name the application in it, as in package.site:app", LOAD),
    Mistake("site_:wsgi --ws wsproto", "--ws must be one of auto, on, off, not 'wsproto'"),
    Mistake("site_:wsgi -k gevent", "-k is a flag of gunicorn without a counterpart here: leave it out, since gevent"),
    Mistake("site_:wsgi --timeout 30", "--timeout is a flag of gunicorn; here it is --request-timeout"),
    Mistake("site_:wsgi --wokers 2", "unrecognized arguments: --wokers 2; did you mean --workers?"),
    Mistake("site_:wsgi -workers 2", "-workers: a long flag has two dashes; write --workers"),
    Mistake("site_:wsgi --reload yes", "unrecognized arguments: yes; the value of a switch comes after an equals"),
    Mistake("run site_:wsgi", "there is no command 'run'; leave it out: zibai site_:wsgi"),
    Mistake("chekc site_:wsgi", "there is no command 'chekc'; did you mean check?"),
    Mistake("site_:wsgi --workers two", "argument --workers: 'two' is not a whole number or auto"),
    Mistake("site_:wsgi --bind 0.0.0.0", "--listen: '0.0.0.0' is no address; write HOST:PORT, [IPV6]:PORT, :PORT"),
    Mistake("site_:wsgi --bind 8000", "--listen: '8000' is no address; write HOST:PORT, [IPV6]:PORT, :PORT, unix:PAT"),
    Mistake("site_:wsgi --host localhost:80", "--host: 'localhost:80' is no host; write a name or an address, and the"),
    Mistake("site_:wsgi --host=", "--host must not be empty"),
    Mistake("site_:wsgi --port http", "argument --port: 'http' is not a whole number"),
    Mistake("site_:wsgi --listen :1 --port 2", "--port and --listen both say where to listen; leave one out"),
    Mistake("site_:wsgi -c gunicorn.conf.py", "--config: 'gunicorn.conf.py' is no TOML; zibai migrate gunicorn.conf."),
    Mistake("site_:wsgi --profile live", "--profile: there is no file with profiles here; write zibai.toml, or add"),
    Mistake("site_:wsgi -l :0 --certfile nowhere.pem", "--certfile"),
    Mistake("site_:wsgi --app-dir nowhere", "--app-dir: 'nowhere' is no directory"),
    Mistake("site_:wsgi", "environment variable PORT: 'tcp' is no port number", variables={"PORT": "tcp"}),
    Mistake("site_:wsgi", "environment variable ZIBAI_WORKERS: 'x' is not a", variables={"ZIBAI_WORKERS": "x"}),
]  # fmt: skip


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "site_.py").write_text(SITE, encoding="utf-8")
    (tmp_path / "package").mkdir()
    (tmp_path / "package" / "__init__.py").write_text("from . import site\n", encoding="utf-8")
    (tmp_path / "package" / "site.py").write_text(SITE, encoding="utf-8")
    return tmp_path


@pytest.mark.parametrize("mistake", MISTAKES, ids=[f"zibai {each.line}" for each in MISTAKES])
def test_a_mistake_is_one_helpful_line(folder: Path, mistake: Mistake) -> None:
    listen = ["--listen", "127.0.0.1:0"] if mistake.code == LOAD else []
    done: subprocess.CompletedProcess[str] = run(
        *mistake.line.split(), *listen, "--no-gevent", cwd=folder, env=mistake.variables
    )
    assert done.returncode == mistake.code
    assert "Traceback" not in done.stderr
    lines = [line for line in done.stderr.splitlines() if not line.startswith("20")]  # the log has times
    assert lines[-1].startswith(f"zibai: error: {mistake.says}")
    assert len(lines) == 1
    assert "worker ready" not in done.stderr


@pytest.mark.daily("module")
@pytest.mark.parametrize(
    "name",
    [
        pytest.param("package.site", id="module"),
        pytest.param("site_:create_app()", id="call"),
        pytest.param("site_:create_app('prod')", id="call with an argument"),
        pytest.param("package/site.py", id="path"),
        pytest.param("package/site.py:wsgi", id="path and name"),
    ],
)
def test_ways_to_name_an_application(folder: Path, name: str) -> None:
    with Server(name, "--no-gevent", cwd=folder) as server:
        assert get(server.port).body == b"Hello World!"


EVENTLET = """
def monkey_patch():
    import select, _thread
    from . import patcher
    patcher.already_patched["thread"] = True
    vars(select).pop("epoll", None)
    raise RuntimeError("cannot release un-acquired lock")
"""


@pytest.mark.daily("gevent-threads", "eventlet-greenlets")
@pytest.mark.parametrize(
    "flags", [("--no-gevent",), (), ("--interface", "asgi")], ids=["threads", "greenlets", "tasks"]
)
@pytest.mark.parametrize("library", ["eventlet", "gevent"])
def test_an_application_that_patches_the_server(tmp_path: Path, library: str, flags: tuple[str, ...]) -> None:
    """Applications that ran on gunicorn's eventlet or gevent often do. With gevent, the server has done it already."""
    call = "gevent.monkey.patch_all" if library == "gevent" else "eventlet.monkey_patch"
    (tmp_path / "site_.py").write_text(f"import {call.rpartition('.')[0]}\n{call}()\n{SITE}", encoding="utf-8")
    if library == "eventlet":  # what it does, so that the tests do not need it
        (tmp_path / "eventlet").mkdir()
        (tmp_path / "eventlet" / "__init__.py").write_text(EVENTLET, encoding="utf-8")
        (tmp_path / "eventlet" / "patcher.py").write_text("already_patched = {}", encoding="utf-8")
    if library == "gevent" and not flags:
        with Server("site_:wsgi", cwd=tmp_path) as server:
            assert get(server.port).body == b"Hello World!"
        return
    for more in ((), ("--workers", "1"), ("--workers", "1", "--watchfiles", "*.py")):
        done = run("site_:wsgi", "--listen", "127.0.0.1:0", *flags, *more, cwd=tmp_path)
        assert done.returncode == LOAD
        assert f"zibai: error: 'site_:wsgi' patches the standard library with {library}, on which" in done.stderr


NO_THREAD = """
import _thread
def fail(*args, **keywords):
    raise RuntimeError("can't start new thread")
_thread.start_new_thread = _thread.start_joinable_thread = fail  # the second is that of Python 3.13
"""


@pytest.mark.daily("preload-threads", "workers-greenlets", "single-tasks")
@pytest.mark.parametrize(
    "flags", [("--no-gevent",), (), ("--interface", "asgi")], ids=["threads", "greenlets", "tasks"]
)
@pytest.mark.parametrize("more", ["", "--workers 1", "--workers 1 --preload"], ids=["single", "workers", "preload"])
def test_a_system_that_allows_no_thread(folder: Path, more: str, flags: tuple[str, ...]) -> None:
    """As in a container whose limit of processes is reached. The start of a loader must not hang."""
    if "--preload" in more and sys.platform == "win32":
        pytest.skip("no fork")
    (folder / "sitecustomize.py").write_text(NO_THREAD, encoding="utf-8")
    path = {"PYTHONPATH": f"{folder}{os.pathsep}{ROOT}"}
    done = run("site_:wsgi", "--listen", "127.0.0.1:0", *more.split(), *flags, cwd=folder, env=path)
    assert done.returncode in (1, LOAD)
    assert done.stderr.splitlines()[-1].startswith("zibai: error: can't start new thread: see ulimit -u, and the ")
    assert "Traceback" not in done.stderr
