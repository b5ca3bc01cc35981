"""A response without end to a client that takes all of it at once, or of which nothing is sent: nobody ever waits, and
yet others are served."""

from __future__ import annotations

import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest

from support import Client, Server, get, wait_for

if TYPE_CHECKING:
    from collections.abc import Iterator

UPGRADE = (
    b"GET %b HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
)


class Reader:
    """Takes what comes, as fast as it can."""

    def __init__(self, client: Client) -> None:
        self.size = 0
        self._socket = client.socket
        self._thread = threading.Thread(target=self._run)

    def _run(self) -> None:
        room = bytearray(2**20)
        try:
            while size := self._socket.recv_into(room):
                self.size += size
        except OSError:
            pass

    @contextmanager
    def reading(self) -> Iterator[None]:
        self._thread.start()
        try:
            yield
        finally:
            self._socket.shutdown(2)
            self._thread.join()


@pytest.mark.parametrize(
    ("app", "path", "flags"),
    [
        pytest.param("asgi", "/pieces", (), id="asgi"),
        pytest.param("asgi", "/pieces", ("--loop", "uvloop"), id="uvloop"),
        pytest.param("asgi", "/hints", (), id="hints"),
        pytest.param("asgi", "/late", (), id="late"),
        pytest.param("asgi", "ws", (), id="websocket"),
        pytest.param("wsgi", "/pieces", (), id="greenlets"),
        pytest.param("wsgi", "/write", (), id="greenlets-write"),
        pytest.param("wsgi", "/pieces", ("--no-gevent",), id="threads"),
    ],
)
def test_a_client_that_takes_everything_holds_nobody(app: str, path: str, flags: tuple[str, ...]) -> None:
    if "uvloop" in flags:
        pytest.importorskip("uvloop")
    if app == "wsgi" and not flags:
        pytest.importorskip("gevent")
    ends = ("--graceful-exit-timeout", "0.5")
    with Server(f"pouring:{app}", *ends, *flags) as server, Client(server.port) as client:
        client.send(UPGRADE % b"/" if path == "ws" else f"GET {path} HTTP/1.1\r\nHost: a\r\n\r\n".encode())
        reader = Reader(client)
        with reader.reading():
            wait_for(lambda: reader.size > (100_000 if path != "/late" else 0))
            for _ in range(3):
                before = reader.size
                assert get(server.port, "/").body == b"hello"
                if path != "/late":
                    wait_for(lambda before=before: reader.size > before)  # type: ignore[misc]
        server.stop()


@pytest.mark.parametrize(
    ("app", "request_", "flags"),
    [
        pytest.param("asgi", b"GET /empty", (), id="asgi"),
        pytest.param("asgi", b"GET /empty", ("--loop", "uvloop"), id="uvloop"),
        pytest.param("asgi", b"HEAD /pieces", (), id="head"),
        pytest.param("wsgi", b"GET /empty", (), id="greenlets"),
        pytest.param("wsgi", b"GET /write-empty", (), id="greenlets-write"),
        pytest.param("wsgi", b"HEAD /write", (), id="greenlets-head"),
        pytest.param("wsgi", b"GET /empty", ("--no-gevent",), id="threads"),
    ],
)
def test_pieces_of_which_nothing_is_sent_hold_nobody(app: str, request_: bytes, flags: tuple[str, ...]) -> None:
    if "uvloop" in flags:
        pytest.importorskip("uvloop")
    if app == "wsgi" and not flags:
        pytest.importorskip("gevent")
    # Each is asked for twice: the second one begins when the first one has gone on for a while.
    with Server(f"pouring:{app}", "--graceful-exit-timeout", "0.5", *flags) as server:
        with Client(server.port) as first, Client(server.port) as second:
            for client in (first, second):
                client.send(request_ + b" HTTP/1.1\r\nHost: a\r\n\r\n")
                assert get(server.port, "/").body == b"hello"
        server.stop()


@pytest.mark.parametrize("target", [b"/deaf", b"/deaf-late", b"ws"])
def test_an_application_that_does_not_hear_of_the_end_holds_nobody(target: bytes) -> None:
    """It receives again and again, whatever it is told."""
    with Server("pouring:asgi", "--graceful-exit-timeout", "0.5") as server:
        with Client(server.port) as client:
            client.send(UPGRADE % b"/deaf" if target == b"ws" else b"GET %b HTTP/1.1\r\nHost: a\r\n\r\n" % target)
            assert get(server.port, "/").body == b"hello"
        for _ in range(2):
            assert get(server.port, "/").body == b"hello"
        server.stop()
