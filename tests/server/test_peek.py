"""Whether an application is ASGI, by the look of its source and by a process that imports it."""

from __future__ import annotations

import os
import sys
from importlib.util import find_spec
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

from zibai.config.options import Options
from zibai.server import peek, worker

from support import DEADLINE, Gate

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize(
    ("source", "looks"),
    [
        ("from fastapi import FastAPI\napp = FastAPI()", True),
        ("from django.core.asgi import get_asgi_application\napp = get_asgi_application()", True),
        ("async def app(scope, receive, send): ...", True),
        ("class App:\n    async def __call__(self, *given): ...", True),
        ("from sanic import Sanic\napp = Sanic('shop')", True),
        ("from lilya.apps import Lilya\napp = Lilya()", True),
        ("from fastmcp import FastMCP\napp = FastMCP('shop').http_app()", True),
        ("from a2wsgi import WSGIMiddleware\nfrom shop import app\napp = WSGIMiddleware(app)", True),
        ("from shop import app\nif __name__ == '__main__':\n    import uvicorn\n    uvicorn.run(app)", True),
        ("from flask import Flask\napp = Flask(__name__)", False),
        ("from flask import Flask\napp = Flask(__name__)\nnoisy = ['uvicorn.access']", False),
        ("async def view(request): ...\ndef app(environ, start_response): ...", False),
    ],
)
def test_the_source_tells(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: str, looks: bool) -> None:
    (tmp_path / "site_.py").write_text(source, encoding="ascii")
    monkeypatch.chdir(tmp_path)
    assert peek.looks_like_asgi(Options("site_:app")) is looks
    assert not peek.looks_like_asgi(Options("site_:app", interface="wsgi"))
    assert peek.looks_like_asgi(Options("site_:app", interface="asgi"))


@pytest.mark.parametrize(
    ("source", "app", "interface"),
    [
        ("async def app(scope, receive, send): ...", "app", "asgi"),
        ("async def app(scope, receive, send): ...", "", "asgi"),
        ("import fastapi\napi: fastapi.FastAPI = fastapi.FastAPI()", "api", "asgi"),
        ("from django.core.asgi import get_asgi_application\napp = get_asgi_application()", "app", "asgi"),
        ("from sanic import Sanic\napp = Sanic('shop')", "app", "asgi"),
        ("from fastmcp import FastMCP\nmcp = FastMCP('shop')\napp = mcp.http_app()", "app", "asgi"),
        ("from a2wsgi import WSGIMiddleware\napp = WSGIMiddleware(flask)", "app", "asgi"),
        ("from a2wsgi import ASGIMiddleware\napp = ASGIMiddleware(inner)", "app", ""),
        ("def app(environ, start_response): ...", "app", "wsgi"),
        ("async def as3(scope, receive, send): ...\ndef app(environ, start_response): ...", "app", ""),
        ("async def app2(scope, receive, send): ...\ndef app(environ, start_response): ...", "app", ""),
        ("from fastapi import FastAPI\ndef make(): return FastAPI()", "make()", ""),
        ("from fastapi import FastAPI\nadmin = FastAPI()\nfrom shop import app", "app", ""),
    ],
)
def test_the_first_line_of_the_log_says_what_it_knows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: str, app: str, interface: str
) -> None:
    (tmp_path / "site_.py").write_text(source, encoding="ascii")
    monkeypatch.chdir(tmp_path)
    name = f"site_:{app}" if app else "site_"
    assert peek.likely_interface(Options(name)) == interface
    assert peek.likely_interface(Options(name, interface="wsgi")) == "wsgi"
    assert peek.likely_interface(Options(name, interface="asgi")) == "asgi"


def test_what_cannot_be_found_looks_like_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert not peek.looks_like_asgi(Options("nowhere.at_all:app"))


@pytest.mark.skipif(find_spec("gevent") is None, reason="nothing would patch")
@pytest.mark.parametrize(
    ("source", "is_asgi"),
    [
        ("print('noise')\nasync def app(scope, receive, send): ...", True),
        ("import asgi_of_others_is_not_there\ndef app(environ, start_response): ...", False),
        ("# not asgi\ndef app(environ, start_response): ...", False),
    ],
)
def test_another_process_decides(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: str, is_asgi: bool) -> None:
    (tmp_path / "site_.py").write_text(source, encoding="ascii")
    monkeypatch.chdir(tmp_path)
    assert peek.is_asgi(Options("site_:app")) is is_asgi


@pytest.mark.skipif(find_spec("gevent") is None, reason="nothing would patch")
@pytest.mark.parametrize(
    ("source", "outright"),
    [
        ("from fastapi import FastAPI\napp = FastAPI()\napp.state.x = app.mount(path='/')\nif app == 1: ...", True),
        ("import fastapi\napp: fastapi.FastAPI = fastapi.FastAPI(\n    title='shop',\n)", True),
        ("from django.core.asgi import get_asgi_application\napp = get_asgi_application()", True),
        ("from fastapi import FastAPI\napp = FastAPI()\napp = Wsgi(app)", False),
        ("from fastapi import FastAPI\napp = FastAPI()\nif debug:\n    app = Wsgi(app)", False),
        ("from fastapi import FastAPI\napp = FastAPI()\ndef app(environ, start_response): ...", False),
        ("from fastapi import FastAPI\napp = FastAPI()\nfrom shop import app", False),
        ("from fastapi import FastAPI\napp = FastAPI()\nfrom shop import (\n    app,\n)", False),
        ("from fastapi import FastAPI\nif True:\n    app = FastAPI()", False),
        ("from fastapi import FastAPI\napplication = app = FastAPI()\nserve(\n    app=app,\n)\n'\\d'", True),
        ("from fastapi import FastAPI\napp = FastAPI()\napp, cache = Wsgi(app), {}", False),
        ("from fastapi import FastAPI\napp = FastAPI()\nif debug: app = Wsgi(app)", False),
        ("from fastapi import FastAPI\napp = FastAPI()\ntry: ...\nexcept Exception as app: ...", False),
        ("'''\napp = FastAPI()\n'''\nfrom shop import *", False),
        ("from fastapi import FastAPI\napp = FastAPI().wsgi", False),
        ("from fastapi import FastAPI\napp = FastAPI(\n)()", False),
        ("from fastapi import FastAPI\napp = FastAPI(", False),
        ("async def app(scope, receive, send): ...", False),
        ("from fastapi import FastAPI\napi = FastAPI()", False),
    ],
)
def test_what_the_source_says_outright_is_not_imported_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: str, outright: bool
) -> None:
    """A worker with gevent installed would take twice as long to start."""
    began: list[Any] = []
    monkeypatch.setattr(
        peek.subprocess, "run", lambda *args, **keywords: began.append(args) or SimpleNamespace(returncode=0)
    )
    (tmp_path / "site_.py").write_text(source, encoding="ascii")
    monkeypatch.chdir(tmp_path)
    if not peek.has_gil():
        pytest.skip("gevent is left out")
    assert peek.is_asgi(Options("site_:app")) is outright
    assert (not began) is outright


LEFT = {
    "a program": "import subprocess, sys; subprocess.Popen([sys.executable, '-c', CODE])",
    "a fork": "import os, socket\nif os.fork() == 0:\n    exec(CODE)\n    os._exit(0)",
    "a thread": "import threading; threading.Thread(target=exec, args=[CODE]).start()",
}


@pytest.mark.skipif(find_spec("gevent") is None, reason="nothing would patch")
@pytest.mark.parametrize("what", LEFT)
def test_what_an_application_starts_at_its_import_holds_nothing_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    """It had the pipe by which the process tells, or kept that process: gevent then patched for an ASGI application,
    after the boot timeout, and the server did not start."""
    if what == "a fork" and not hasattr(os, "fork"):
        pytest.skip("this system cannot fork")
    with Gate() as gate:
        code = f"import socket; socket.create_connection(('127.0.0.1', {gate.port})).recv(1)"
        source = f"CODE = {code!r}\n{LEFT[what]}\nasync def app(scope, receive, send): ..."
        (tmp_path / "site_.py").write_text(source, encoding="ascii")
        monkeypatch.chdir(tmp_path)
        assert peek.is_asgi(Options("site_:app", boot_timeout=DEADLINE))


@pytest.mark.parametrize("gil", [True, False])
def test_greenlets_are_for_a_python_with_a_gil(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, gil: bool) -> None:
    """The import of gevent would turn the GIL on."""
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "gevent").mkdir()
    (tmp_path / "gevent" / "__init__.py").write_text("raise AssertionError('it is imported')\n", encoding="ascii")
    monkeypatch.delitem(sys.modules, "gevent", raising=False)
    monkeypatch.setattr(sys, "_is_gil_enabled", lambda: gil, raising=False)
    monkeypatch.setattr(worker, "raise_descriptor_limit", lambda: None)
    monkeypatch.setattr(worker, "_patch", lambda: "a hub")
    monkeypatch.chdir(tmp_path)
    options = Options("nowhere:app")
    assert peek.may_use_gevent(options) is gil
    assert not peek.may_use_gevent(Options("nowhere:app", no_gevent=True))
    assert worker.prepare(options) == ("a hub" if gil else None)
    assert peek.leaves_gevent_out(options) is not gil
    assert not peek.leaves_gevent_out(Options("nowhere:app", no_gevent=True))
    assert not peek.leaves_gevent_out(Options("nowhere:app", interface="asgi"))


@pytest.mark.parametrize(
    ("source", "flags", "expected"),
    [
        ("def app(environ, start_response): ...", {}, True),
        ("async def app(scope, receive, send): ...", {}, False),
        ("app = FastAPI()", {}, False),
        ("app = Flask(__name__)\nasync def other(scope, receive, send): ...", {}, False),
        ("def app(environ, start_response): ...", {"no_gevent": True}, False),
        ("def app(environ, start_response): ...", {"interface": "asgi"}, False),
        ("app = FastAPI()", {"interface": "wsgi"}, True),
    ],
)
def test_gevent_is_missed_by_wsgi_applications_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: str, flags: dict[str, Any], expected: bool
) -> None:
    (tmp_path / "site_.py").write_text(source, encoding="ascii")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "_is_gil_enabled", lambda: True, raising=False)
    options = Options("site_:app", **flags)
    assert not peek.lacks_gevent(options) or find_spec("gevent") is None
    monkeypatch.setattr(peek, "_is_installed", lambda package: False)
    assert peek.lacks_gevent(options) is expected
