"""Tasks behind a poller in which a thread waits, as on Windows, whose event loop can watch none; on every system."""

from __future__ import annotations

import asyncio
import threading
from contextlib import ExitStack
from types import SimpleNamespace
from typing import Any

import pytest
from harness import asgi, errors, half_close, read_body, request, respond, until

from zibai.engine.backends import tasks

from support import DEADLINE, Client


@pytest.fixture(autouse=True)
def windows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tasks, "sys", SimpleNamespace(platform="win32"))


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
def test_requests_of_every_kind(loop: str) -> None:
    """At once and after a pause, pipelined, with a body that comes late, of many clients; the end wakes it, too."""
    pytest.importorskip(loop)

    async def app(scope: Any, receive: Any, send: Any) -> None:
        data = await read_body(receive)
        if scope["path"] == "/pause":
            await asyncio.sleep(0.001)
        await respond(send, scope["path"].encode() + data)

    with asgi(app, loop=loop) as server, ExitStack() as stack:
        clients = [stack.enter_context(Client(server.port)) for _ in range(50)]
        for _ in range(3):
            for number, client in enumerate(clients):
                client.send(request(("/pause", "/")[number % 2]) * 3)
            for number, client in enumerate(clients):
                assert [client.read().body for _ in range(3)] == [(b"/pause", b"/")[number % 2]] * 3
        for client in clients:
            client.send(request("/", "Content-Length: 3", method="POST", body=b"a"))
        for client in clients:
            client.send(b"bc")
            assert client.read().body == b"/abc"
        half_close(clients[0])
        assert clients[0].rest() == b""
    assert not errors(server)


def test_an_idle_connection_is_closed_in_time() -> None:
    """The thread waits without limit, so it is the timer of the event loop that turns."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await respond(send)

    with asgi(app, keep_alive_timeout=0.3) as server, Client(server.port) as client:
        assert client.get("/").body == b"fine"
        assert client.rest() == b""


def test_what_comes_after_the_end_is_not_delivered() -> None:
    """Trap 44: unsloth#8469: Windows' event loop delivers data to a connection that is closed."""
    entered, go, over = threading.Event(), threading.Event(), threading.Event()
    heard: list[Any] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        if scope["path"] == "/hello":
            await respond(send)
            return
        entered.set()
        await send({"type": "http.response.start", "status": 200, "headers": [(b"connection", b"close")]})
        await send({"type": "http.response.body", "body": b"fine"})
        await until(go)
        heard.extend([await receive() for _ in range(3)])
        over.set()

    with asgi(app) as server, Client(server.port) as client:
        client.send(request("/", "Content-Length: 100", method="POST", body=b"abc"))
        assert entered.wait(DEADLINE)
        assert client.read().body == b"fine"
        client.send(b"d" * 97 + request("/late"))
        with Client(server.port) as other:
            assert other.get("/hello").status == 200  # the loop has looked at its connections
        go.set()
        assert over.wait(DEADLINE)
    assert heard == [{"type": "http.disconnect"}] * 3
    assert not errors(server)
