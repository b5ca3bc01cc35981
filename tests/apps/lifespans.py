"""Applications of ASGI whose life is not smooth."""

import asyncio
import signal
import sys
import time


async def refuses(scope, receive, send):
    await receive()
    await send({"type": "lifespan.startup.failed", "message": "the database is away"})


async def waits(scope, receive, send):
    """Starts for ever."""
    await receive()
    print("entered", file=sys.stderr, flush=True)
    await asyncio.sleep(1000)


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


async def starts_late(scope, receive, send):
    """Waits in its start. What it has begun there it ends, and it passes on what ends it, as Starlette does."""
    await receive()
    # Not from here: a signal that comes now would hit this function, and not the event loop.
    asyncio.get_running_loop().call_later(0.01, say, "waiting")
    try:
        await asyncio.sleep(600)
    except BaseException as error:
        await send({"type": "lifespan.startup.failed", "message": repr(error)})
        raise
    finally:
        await asyncio.sleep(0)  # what is to be done at the end may await
        say("cleaned up")


def say(text):
    print(text, file=sys.stderr, flush=True)
