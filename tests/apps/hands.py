"""What applications do with the objects that they are given, and with the server around them."""

from __future__ import annotations

import time
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

from zibai.engine.stream import Stream

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

TEXT = [("Content-Type", "text/plain")]
kept: list[Any] = []
user: ContextVar[str] = ContextVar("user", default="nobody")


def before_serve() -> None:
    user.set("the hook's")


class Awkward(BaseException):
    def __str__(self) -> str:
        raise ValueError("cannot be printed")


def fail(*_: object) -> None:
    raise Awkward


class Visit:
    """Sets the context variable when it is called, iterated and closed; sends what it has found each time."""

    def __init__(self, environ: dict[str, Any], write: Callable[[bytes], object]) -> None:
        self.name, self.environ, self.write = environ["QUERY_STRING"], environ, write

    def set(self) -> bytes:
        found = user.get()
        user.set(self.name)
        return found.encode() + b"\n"

    def __iter__(self) -> Iterator[bytes]:
        found = self.set()
        while self.environ["wsgi.input"].read(10_000):  # for a streamed body, this is where 100 Continue is sent
            pass
        yield found
        time.sleep(0.01)  # others run meanwhile
        yield self.set()

    def close(self) -> None:
        kept.append(self.set())


class Late:
    """Writes when it is closed."""

    def __init__(self, pieces: Iterable[bytes], write: Callable[[bytes], object]) -> None:
        self.pieces, self.write = pieces, write

    def __iter__(self) -> Iterator[bytes]:
        yield from self.pieces

    def close(self) -> None:
        self.write(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nwrong")


def app(environ: dict[str, Any], start_response: Callable[..., Callable[[bytes], object]]) -> Iterable[bytes]:
    path, body = environ["PATH_INFO"], environ["wsgi.input"]
    if path == "/visit":
        return Visit(environ, start_response("200 OK", TEXT))
    if path.startswith("/late"):
        fields = [*TEXT, ("Content-Length", "4")] if path == "/late/length" else TEXT
        return Late([b"ri", b"gh"], start_response("200 OK", fields))
    if path == "/kept":
        # What was kept of other requests: it must not reach into this one.
        found = []
        for each in kept:
            try:
                found.append(each.read() if hasattr(each, "read") else bytes(each))
            except ValueError as error:
                found.append(type(error).__name__.encode())
        kept.clear()
        start_response("200 OK", TEXT)
        return [b"".join(found)]
    if path == "/view":
        kept.append(body.getbuffer() if hasattr(body, "getbuffer") else memoryview(body.read()))
    elif path == "/detach":
        kept.append(body.detach() if hasattr(body, "raw") else body)
    elif path == "/close":
        body.close()
    elif path == "/attributes":
        body.close = body.read = body.seek = body.flush = fail
        for name in ("close", "let_go"):
            if hasattr(body, "raw"):
                setattr(body.raw, name, fail)
    elif path == "/environ":
        environ.clear()
        environ["PATH_INFO"] = environ["REQUEST_METHOD"] = 5
    start_response("200 OK", TEXT)
    return [path.encode()]


def exchange(stream: Stream, *args: Any) -> None:
    """``Stream.exchange``, and then an error that no server can know of."""
    target = stream.request.target if stream.request is not None else ""
    if target != "/dies/before":
        original(stream, *args)
    if target == "/dies/late":
        time.sleep(0.05)
    if target.startswith("/dies"):
        raise Awkward


original = Stream.exchange
Stream.exchange = exchange  # type: ignore[method-assign]
