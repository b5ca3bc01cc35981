"""The ASGI applications: the same responses as those of :mod:`benchmarks.apps`, where there is a counterpart."""

import asyncio
import json
from collections.abc import Awaitable, Callable
from typing import Any

from .apps import CHUNK, CHUNKS, HELLO

Receive = Callable[[], Awaitable[dict[str, Any]]]
Send = Callable[[dict[str, Any]], Awaitable[None]]
App = Callable[[dict[str, Any], Receive, Send], Awaitable[None]]


async def _respond(send: Send, body: bytes, kind: bytes = b"text/plain; charset=utf-8") -> None:
    headers = [(b"content-type", kind), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})


async def _live(receive: Receive, send: Send) -> None:
    """A lifespan with nothing in it."""
    for phase in ("startup", "shutdown"):
        await receive()
        await send({"type": f"lifespan.{phase}.complete"})


def _with_lifespan(app: App) -> App:
    async def whole(scope: dict[str, Any], receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await _live(receive, send)
        else:
            await app(scope, receive, send)

    return whole


@_with_lifespan
async def hello(scope: dict[str, Any], receive: Receive, send: Send) -> None:
    await _respond(send, HELLO)


@_with_lifespan
async def post(scope: dict[str, Any], receive: Receive, send: Send) -> None:
    """Reads JSON, answers JSON."""
    data, more = b"", True
    while more:
        message = await receive()
        data, more = data + message.get("body", b""), message.get("more_body", False)
    order = json.loads(data)
    body = json.dumps({"id": order["id"], "total": sum(item["price"] for item in order["items"])}).encode()
    await _respond(send, body, b"application/json")


@_with_lifespan
async def stream(scope: dict[str, Any], receive: Receive, send: Send) -> None:
    headers = [(b"content-type", b"text/html; charset=utf-8")]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    for left in reversed(range(CHUNKS)):
        await send({"type": "http.response.body", "body": CHUNK, "more_body": left > 0})


@_with_lifespan
async def wait(scope: dict[str, Any], receive: Receive, send: Send) -> None:
    """Every call waits for 10 ms, as for a database, and blocks nothing."""
    await asyncio.sleep(0.010)
    await _respond(send, HELLO)


@_with_lifespan
async def echo(scope: dict[str, Any], receive: Receive, send: Send) -> None:
    """Sends each message of a WebSocket back; says hello over HTTP."""
    if scope["type"] != "websocket":
        await _respond(send, HELLO)
        return
    await receive()
    await send({"type": "websocket.accept"})
    while (event := await receive())["type"] == "websocket.receive":
        if event.get("text") is not None:
            await send({"type": "websocket.send", "text": event["text"]})
        else:
            await send({"type": "websocket.send", "bytes": event["bytes"]})
