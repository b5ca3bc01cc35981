"""An application of ASGI that forks, and whose child comes back to the server."""

from __future__ import annotations

import asyncio
import os
import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable


def fork(path: str) -> str:
    said = str(os.getpid())
    if os.fork() == 0 and path == "/pool-exits":
        sys.exit()
    if os.getpid() != int(said) and path == "/pool-raises":
        raise RuntimeError("on purpose")
    return said


async def asgi(scope: dict[str, Any], receive: Callable[..., Any], send: Callable[..., Any]) -> None:
    """``later`` is a fork that does not come in the first step."""
    if scope["type"] != "http":
        raise AssertionError("no lifespan")
    path, query = scope["path"], scope["query_string"].decode()
    said = str(os.getpid())
    if path == "/wait":
        reader, writer = await asyncio.open_connection("127.0.0.1", int(query))
        await reader.read(1)
        writer.close()
    elif path == "/thread":
        said = await asyncio.get_running_loop().run_in_executor(None, str, os.getpid())
    elif path == "/task":
        await asyncio.gather(asyncio.create_task(leave()), return_exceptions=True)
    elif path.startswith("/pool"):
        said = await asyncio.get_running_loop().run_in_executor(None, fork, path)
    elif path != "/":
        if "later" in query:
            await asyncio.sleep(0.001)
        if os.fork() == 0:
            if path == "/exits":
                sys.exit()
            if path == "/awaits":
                while True:  # noqa: ASYNC110
                    await asyncio.sleep(0)
    await send({"type": "http.response.start", "status": 200})
    await send({"type": "http.response.body", "body": f"by {said}".encode()})


async def leave() -> None:
    if os.fork() == 0:
        sys.exit()
