"""Applications that send or receive for ever, in small or empty pieces, and wait for nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

PIECE = b"0123456789"


async def asgi(scope: dict[str, Any], receive: Callable[..., Any], send: Callable[..., Any]) -> None:
    if scope["type"] == "lifespan":
        raise AssertionError("no lifespan")
    if scope["type"] == "websocket":
        await receive()
        await send({"type": "websocket.accept"})
        while scope["path"] == "/deaf":
            await receive()
        while True:
            await send({"type": "websocket.send", "bytes": PIECE})
    path = scope["path"]
    if path == "/hints":
        while True:
            await send({"type": "http.response.early_hint", "links": [b"</a.css>"]})
    while path == "/deaf":
        await receive()
    await send({"type": "http.response.start", "status": 200})
    while path in {"/pieces", "/empty"}:
        await send({"type": "http.response.body", "body": PIECE if path == "/pieces" else b"", "more_body": True})
    await send({"type": "http.response.body", "body": b"hello"})
    while path == "/late":
        await send({"type": "http.response.body", "body": PIECE})
    while path == "/deaf-late":
        await receive()


def wsgi(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
    write = start_response("200 OK", [("Content-Type", "text/plain")])
    path = environ["PATH_INFO"]
    while path in {"/write", "/write-empty"}:
        write(PIECE if path == "/write" else b"")
    return pieces(b"" if path == "/empty" else PIECE) if path in {"/pieces", "/empty"} else [b"hello"]


def pieces(piece: bytes) -> Iterator[bytes]:
    while True:
        yield piece
