"""Socket.IO with its own client: python-socketio on ASGI, and Flask-SocketIO on WSGI, where it has no WebSocket.

A client of Socket.IO begins with long polling and asks for a WebSocket then. One that gets none goes on with polling.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import pytest

from support import Server

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path
    from typing import Any

ASGI = """
import socketio

server = socketio.AsyncServer(async_mode="asgi", ping_interval=1, ping_timeout=1)  # a poll lasts as long at the end

@server.event
async def say(sid, data):
    await server.emit("said", data, to=sid)
    return "heard"

@server.event
async def later(sid, data):
    async def work():
        await server.sleep(0.01)
        await server.emit("done", data, to=sid)
    server.start_background_task(work)

@server.event
async def disconnect(sid, reason):
    print("left", reason, file=__import__("sys").stderr, flush=True)

app = socketio.ASGIApp(server)
"""
FLASK = """
import os

from flask import Flask
from flask_socketio import SocketIO, emit

app = Flask(__name__)
server = SocketIO(app, async_mode=os.environ["ASYNC_MODE"], ping_interval=1, ping_timeout=1)

@server.on("say")
def say(data):
    emit("said", data)
    return "heard"

@server.on("later")
def later(data):
    def work():
        server.sleep(0.01)
        server.emit("done", data)
    server.start_background_task(work)
"""


@pytest.fixture
def client() -> Iterator[Any]:
    client = pytest.importorskip("socketio").SimpleClient()
    yield client
    client.disconnect()


def talk(client: Any, server: Server, transports: list[str] | None) -> str:
    """Say something, hear it, and hear what is sent later; the transport at the end."""
    client.connect(f"http://127.0.0.1:{server.port}", transports=transports or ["polling", "websocket"])
    assert client.call("say", {"n": 1}, timeout=20) == "heard"
    assert client.receive(20) == ["said", {"n": 1}]
    client.emit("later", b"\x00\xff")
    assert client.receive(20) == ["done", b"\x00\xff"]
    return str(client.transport)


def unwanted(server: Server) -> list[str]:
    return [line for line in server.log if "Traceback" in line or '" 500 ' in line]


@pytest.mark.filterwarnings("ignore")  # of the client
@pytest.mark.parametrize("transports", [None, ["polling"], ["websocket"]], ids=["both", "polling", "websocket"])
def test_python_socketio(tmp_path: Path, client: Any, transports: list[str] | None) -> None:
    pytest.importorskip("websocket")
    (tmp_path / "chat.py").write_text(ASGI, encoding="ascii")
    with Server("chat:app", "--interface", "asgi", cwd=tmp_path) as server:
        assert talk(client, server, transports) == ("polling" if transports == ["polling"] else "websocket")
        client.disconnect()
        server.wait_for_log("left ")
        assert server.stop() == 0
    assert not unwanted(server)


@pytest.mark.filterwarnings("ignore")  # of the client
@pytest.mark.skipif(sys.platform == "win32", reason="gevent")
@pytest.mark.parametrize("mode", ["threading", "gevent"])
def test_flask_socketio_goes_on_with_polling(tmp_path: Path, client: Any, mode: str) -> None:
    """One clear response to the WebSocket that it has not, and one line that says what to use."""
    for name in ("flask_socketio", "websocket", mode):
        pytest.importorskip(name)
    (tmp_path / "chat.py").write_text(FLASK, encoding="ascii")
    flags = ("--no-gevent",) if mode == "threading" else ()
    with Server("chat:app", *flags, cwd=tmp_path, env={"ASYNC_MODE": mode}) as server:
        server.wait_for_log("worker ready: threads" if flags else "worker ready: greenlets")
        assert talk(client, server, None) == "polling"
        client.disconnect()
        assert "Serve WebSockets from an ASGI application" in server.wait_for_log("a client asks for WebSocket")
        assert server.wait_for_log("transport=websocket").split('"')[-1].split()[0] == "501"
        assert server.stop() == 0
    assert not unwanted(server)
