"""A response without end to a client that takes all of it at once: nobody ever waits, and yet others are served."""

from __future__ import annotations

import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest

from support import Client, Server, get, wait_for

if TYPE_CHECKING:
    from collections.abc import Iterator

UPGRADE = (
    b"GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
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
        client.send(UPGRADE if path == "ws" else f"GET {path} HTTP/1.1\r\nHost: a\r\n\r\n".encode())
        reader = Reader(client)
        with reader.reading():
            wait_for(lambda: reader.size > (100_000 if path != "/late" else 0))
            for _ in range(3):
                before = reader.size
                assert get(server.port, "/").body == b"hello"
                if path != "/late":
                    wait_for(lambda before=before: reader.size > before)  # type: ignore[misc]
        server.stop()
