"""Stays in a phase of a request until the test lets it go, as ASGI; see tests/e2e/test_e2e_asgi_ends.py.

A target with a query names the port of a ``Gate``: the application connects to it, and goes on at its end.
"""

import asyncio
import os
import sys
import time

TEXT = [(b"content-type", b"text/plain")]
BIG = 16 * 1024 * 1024
PIECE = 64 * 1024


async def app(scope, receive, send):
    if scope["type"] == "lifespan":
        await lifespan(receive, send)
        return
    path, query = scope["path"], scope["query_string"].decode()
    if scope["type"] == "websocket":
        await send({"type": "websocket.accept"})
    try:
        await PATHS[path](query, receive, send)
    except asyncio.CancelledError:
        say("cancelled", path)
        raise
    finally:
        await asyncio.sleep(0)  # what is to be done at the end may await
        say("finally", path)


def say(*words):
    print(*words, file=sys.stderr, flush=True)


async def lifespan(receive, send):
    await receive()
    await send({"type": "lifespan.startup.complete"})
    await receive()
    say("the lifespan ends")
    await send({"type": "lifespan.shutdown.complete"})


async def respond(send, body):
    await send({"type": "http.response.start", "status": 200, "headers": TEXT})
    await send({"type": "http.response.body", "body": body})


async def pass_gate(port):
    reader, writer = await asyncio.open_connection("127.0.0.1", int(port))
    try:
        await reader.read()
    finally:
        writer.close()


async def pid(query, receive, send):
    await respond(send, str(os.getpid()).encode())


async def version(query, receive, send):
    await respond(send, b"1")


async def body(query, receive, send):
    found, more = b"", True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            return
        found, more = found + message["body"], message["more_body"]
    await respond(send, found)


async def waits(query, receive, send):
    await pass_gate(query)
    await respond(send, b"waited")


async def streams(query, receive, send):
    await send({"type": "http.response.start", "status": 200, "headers": TEXT})
    await send({"type": "http.response.body", "body": b"begun\n", "more_body": True})
    await pass_gate(query)
    await send({"type": "http.response.body", "body": b"ended\n"})


async def background(query, receive, send):
    await respond(send, b"responded")
    await pass_gate(query)
    say("the background task ends")


async def deaf(query, receive, send):
    """Hears nothing of its client, nor of the server."""
    await pass_gate(query)


async def big(query, receive, send):
    """More than the buffers of the system take, in pieces."""
    await send({"type": "http.response.start", "status": 200, "headers": TEXT})
    for _ in range(BIG // PIECE):
        await send({"type": "http.response.body", "body": bytes(PIECE), "more_body": True})
    await send({"type": "http.response.body"})


async def blocks(query, receive, send):
    """Blocks the event loop for so many seconds."""
    time.sleep(float(query))  # noqa: ASYNC251
    await respond(send, str(os.getpid()).encode())


PATHS = {
    "/pid": pid,
    "/version": version,
    "/echo": body,
    "/waits": waits,
    "/streams": streams,
    "/background": background,
    "/big": big,
    "/blocks": blocks,
    "/deaf": deaf,
}
