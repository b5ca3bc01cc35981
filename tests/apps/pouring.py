"""Applications that send for ever, in small pieces, and wait for nothing."""

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
        while True:
            await send({"type": "websocket.send", "bytes": PIECE})
    path = scope["path"]
    if path == "/hints":
        while True:
            await send({"type": "http.response.early_hint", "links": [b"</a.css>"]})
    await send({"type": "http.response.start", "status": 200})
    while path == "/pieces":
        await send({"type": "http.response.body", "body": PIECE, "more_body": True})
    await send({"type": "http.response.body", "body": b"hello"})
    while path == "/late":
        await send({"type": "http.response.body", "body": PIECE})


def wsgi(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
    write = start_response("200 OK", [("Content-Type", "text/plain")])
    while environ["PATH_INFO"] == "/write":
        write(PIECE)
    return pieces() if environ["PATH_INFO"] == "/pieces" else [b"hello"]


def pieces() -> Iterator[bytes]:
    while True:
        yield PIECE
