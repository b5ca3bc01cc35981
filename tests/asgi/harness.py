"""What the tests of ASGI stand on: a server in a thread, small applications, and clients that leave in every way."""

from __future__ import annotations

import asyncio
import socket
import struct
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from serving import Serving, serving
from support import DEADLINE, Client

if TYPE_CHECKING:
    import threading
    from collections.abc import Iterator

Message = dict[str, Any]
Receive = "Callable[[], Awaitable[Message]]"
Send = "Callable[[Message], Awaitable[None]]"

START: Message = {"type": "http.response.start", "status": 200, "headers": []}
END: Message = {"type": "http.response.body", "body": b"fine"}


@contextmanager
def asgi(app: Any, **options: Any) -> Iterator[Serving]:
    """Serve an application that knows HTTP only."""

    async def http_only(scope: Message, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            raise AssertionError("no lifespan")
        await app(scope, receive, send)

    with serving(http_only, valid=False, **options) as server:
        yield server


async def until(event: threading.Event) -> None:
    """Wait, in an application, for something that the test says."""
    deadline = time.monotonic() + DEADLINE
    while not event.is_set():
        assert time.monotonic() < deadline
        await asyncio.sleep(0.002)


async def read_body(receive: Any) -> bytes:
    """The whole body; ``ConnectionError`` where it does not come whole."""
    body = b""
    while (message := await receive())["type"] == "http.request":
        body += message["body"]
        if not message["more_body"]:
            return body
    raise ConnectionError("the client has left")


async def respond(send: Any, body: bytes = b"fine", status: int = 200, *fields: tuple[bytes, bytes]) -> None:
    await send({"type": "http.response.start", "status": status, "headers": [*fields]})
    await send({"type": "http.response.body", "body": body})


def request(target: str = "/", *fields: str, method: str = "GET", version: str = "1.1", body: bytes = b"") -> bytes:
    return "\r\n".join([f"{method} {target} HTTP/{version}", "Host: test", *fields, "", ""]).encode("latin-1") + body


def reset(client: Client) -> None:
    """Leave by RST."""
    client.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    client.close()


def half_close(client: Client) -> None:
    client.socket.shutdown(socket.SHUT_WR)


def hello(server: Serving) -> None:
    """The server is well: another client gets its response."""
    with Client(server.port) as client:
        assert client.get("/hello").status == 200


def errors(server: Serving) -> list[str]:
    """What was logged as an error, with tracebacks; for after the server's end."""
    return [
        record.getMessage() + ("" if record.exc_info is None else repr(record.exc_info[1]))
        for record in server.records
        if record.levelname in ("ERROR", "CRITICAL")
    ]


def tracebacks(server: Serving) -> list[Any]:
    return [record.exc_info for record in server.records if record.exc_info]
