"""Django with a database, and Channels: the real command, workers, and clients that leave.

Each test skips where its framework is not installed.
"""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Any

import pytest

from support import GRACEFUL, Client, Server, get, wait_for
from wsclient import BINARY, Peer, close, frame, text

if TYPE_CHECKING:
    from pathlib import Path

FORM = "Content-Type: application/x-www-form-urlencoded"


def post(client: Client, target: str, body: bytes, *fields: str) -> Any:
    head = [f"POST {target} HTTP/1.1", "Host: test", f"Content-Length: {len(body)}", *fields, "", ""]
    client.send("\r\n".join(head).encode() + body)
    return client.read()


def errors(server: Server) -> list[str]:
    return [line for line in server.log if "ERROR" in line or "Traceback" in line]


@pytest.fixture
def database(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATABASE", str(tmp_path / "notes.sqlite3"))


@pytest.mark.usefixtures("database")
@pytest.mark.parametrize("target", ["/endless", "/generated"])
def test_django_with_a_database(target: str) -> None:
    """A client that leaves ends its request: the body is closed, and Django gives back what the request has held.

    gunicorn#3654: a ``receive`` that swallows a cancellation leaks a connection of the database a request.
    """
    pytest.importorskip("django")
    with Server("django_asgi:app", "--no-gevent") as server:

        def state() -> dict[str, Any]:
            return dict(json.loads(get(server.port, "/state").body))

        with Client(server.port) as client:
            for number in range(3):
                assert json.loads(post(client, "/add", f"name=n{number}".encode(), FORM).body) == {"id": number + 1}
            assert json.loads(client.get("/names").body) == ["n0", "n1", "n2"]
            assert json.loads(post(client, "/add_many", b"").body) == {"count": 13}
            assert client.get("/hello").body == b"hello"
        for _ in range(5):
            with Client(server.port) as client:
                client.send(f"GET {target} HTTP/1.1\r\nHost: test\r\n\r\n".encode())
                while client.file.readline().strip():
                    pass
                assert client.file.readline()
        found = wait_for(lambda: (seen := state())["closed"] == 5 and seen["started"] == seen["finished"] + 1 and seen)
        assert found["started"] >= 12
        assert not errors(server)
        assert get(server.port, "/fails").status == 500
        wait_for(lambda: (seen := state())["started"] == seen["finished"] + 1)
        assert server.stop() == 0


@pytest.mark.usefixtures("database")
@pytest.mark.skipif(sys.platform == "win32", reason="a signal of POSIX restarts")
def test_django_over_a_restart() -> None:
    """An endless response ends with its worker, and the database sees every note that a client was told of."""
    pytest.importorskip("django")
    import signal

    with Server("django_asgi:app", "--no-gevent", "-p", "1", "--graceful-exit-timeout", "2") as server:
        with Client(server.port) as endless:
            with Client(server.port) as client:
                assert post(client, "/add", b"name=first", FORM).status == 200
            endless.send(b"GET /generated HTTP/1.1\r\nHost: test\r\n\r\n")
            assert endless.file.readline().startswith(b"HTTP/1.1 200")
            server.signal(signal.SIGHUP)
            added = 1
            while not any("restart done" in line for line in server.log):
                with Client(server.port) as client:
                    assert post(client, "/add", b"name=more", FORM).status == 200
                    added += 1
        assert len(json.loads(get(server.port, "/names").body)) == added
        assert server.stop() == 0


@pytest.mark.usefixtures("database")
def test_channels() -> None:
    pytest.importorskip("channels")
    with Server("channels_app:app", "--no-gevent") as server:
        with Client(server.port) as client:
            assert post(client, "/echo", b"abc" * 50_000).body == b"abc" * 50_000
            assert client.get("/pieces").body == b"0\n1\n2\n3\n4\n"
            assert client.get("/hello").body == b"hello", "Django behind it"
            assert json.loads(post(client, "/add", b"name=x", FORM).body) == {"id": 1}
        with Client(server.port) as client:
            client.send(b"GET /events HTTP/1.1\r\nHost: test\r\n\r\n")
            while client.file.readline() != b"data: waits\n":
                pass
        assert get(server.port, "/left").body == b"left"
        assert not errors(server)
        assert server.stop() == 0


@pytest.mark.usefixtures("database")
def test_channels_over_websocket() -> None:
    """By the layer of channels in memory, so that what one client sends comes to all of a group."""
    pytest.importorskip("channels")
    with Server("channels_app:app", "--no-gevent", "--interface", "asgi") as server:
        with Peer(server.port, "/room/ann", "Sec-WebSocket-Protocol: chat") as ann:
            assert ann.response.headers["Sec-WebSocket-Protocol"] == "chat"
            assert ann.texts(1) == ['"ann has come"']
            with Peer(server.port, "/room/bob") as bob:
                assert ann.texts(1) == bob.texts(1) == ['"bob has come"']
                bob.send(text('{"n": 1}'))
                assert ann.texts(1) == bob.texts(1) == ["\"bob: {'n': 1}\""]
                bob.send(close(4001, "enough"))
                assert bob.read_close() == (4001, "enough")
            assert ann.texts(1) == ['"bob has left: 4001"']
            lost = Peer(server.port, "/room/eve")
            assert ann.texts(1) == ['"eve has come"']
            lost.client.close()
            assert ann.texts(1) == ['"eve has left: 1006"']
            with Peer(server.port, "/room/nobody") as denied:
                assert denied.response.status == 403
            assert ann.texts(1) == ['"nobody has left: 1006"']
            with Peer(server.port, "/echoing") as echoing:
                echoing.send(text("one"), frame(BINARY, b"\xff"), text("bye"))
                assert [echoing.read().data for _ in range(3)] == [b"one", b"\xff", b"bye"]
                assert echoing.read_close()[0] == 4000
            server.signal(GRACEFUL)
            assert ann.read_close() == (1001, "the server ends")
            ann.send(close(1001))
            assert ann.at_end()
        assert server.wait() == 0
    assert not errors(server)
