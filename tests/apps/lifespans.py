"""Applications of ASGI whose life is not smooth."""

import asyncio
import signal
import sys
import time


async def refuses(scope, receive, send):
    await receive()
    await send({"type": "lifespan.startup.failed", "message": "the database is away"})


async def blocks(scope, receive, send):
    """Blocks the event loop for as many seconds as the query says."""
    if scope["type"] != "http":
        raise AssertionError("no lifespan")
    time.sleep(int(scope["query_string"] or 0))  # noqa: ASYNC251
    await send({"type": "http.response.start", "status": 200})
    await send({"type": "http.response.body", "body": b"fine"})


async def signals(scope, receive, send):
    """Takes the wake-up descriptor, as ``add_signal_handler`` does, and then as many seconds as the query says."""
    if scope["type"] != "http":
        raise AssertionError("no lifespan")
    asyncio.get_running_loop().add_signal_handler(signal.SIGUSR2, int)
    print("entered", file=sys.stderr, flush=True)
    await asyncio.sleep(float(scope["query_string"]))
    await send({"type": "http.response.start", "status": 200})
    await send({"type": "http.response.body", "body": b"fine"})
