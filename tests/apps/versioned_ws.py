"""WebSockets that say which version they are, and echo; HTTP as ``versioned_asgi``."""

import asyncio
from pathlib import Path

DECIDE = Path("decide")
VERSION = Path("version.txt").read_text(encoding="ascii")


async def app(scope, receive, send):
    if scope["type"] == "websocket":
        await chat(scope, receive, send)
    elif scope["type"] == "http":
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/plain")]})
        await send({"type": "http.response.body", "body": VERSION.encode()})
    else:
        raise AssertionError("no lifespan")


async def chat(scope, receive, send):
    await receive()
    if scope["path"] == "/late":  # it decides when it is told to
        while not DECIDE.exists():  # noqa: ASYNC110, ASYNC240
            await asyncio.sleep(0.01)
    await send({"type": "websocket.accept"})
    await send({"type": "websocket.send", "text": VERSION})
    while (event := await receive())["type"] == "websocket.receive":
        await send({"type": "websocket.send", "text": event["text"]})
    print("closed", event["code"], event["reason"], flush=True)
    if scope["path"] == "/stays":
        await asyncio.sleep(60)
