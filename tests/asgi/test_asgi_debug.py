"""Debug modes of asyncio and Python find nothing: no task that was forgotten, no coroutine, no socket."""

from __future__ import annotations

import subprocess
import sys

import pytest

from support import APPS, DEADLINE, environment

PROGRAM = """
import asyncio, contextlib, gc, logging, socket, sys, threading

logging.basicConfig(level=logging.DEBUG, format="%(name)s: %(levelname)s: %(message)s")
logging.getLogger("zibai.access").setLevel(logging.CRITICAL)

from zibai import create_bind_socket, serve


async def app(scope, receive, send):
    if scope["type"] == "lifespan":
        await receive()
        await send({"type": "lifespan.startup.complete"})
        await receive()
        await send({"type": "lifespan.shutdown.complete"})
        return
    path = scope["path"]
    if path == "/wait":
        await asyncio.sleep(0.01)
    elif path == "/body":
        while (await receive())["more_body"]:
            pass
    elif path == "/receive":
        await receive()
        waiting = asyncio.create_task(receive())
        await asyncio.sleep(0)
        waiting.cancel()
    elif path == "/forever":
        await send({"type": "http.response.start", "status": 200})
        while True:
            await send({"type": "http.response.body", "body": b"x", "more_body": True})
            await asyncio.sleep(0.01)
    elif path == "/error":
        raise KeyError("mine")
    elif path == "/cancelled":
        asyncio.current_task().cancel()
    await send({"type": "http.response.start", "status": 200})
    await send({"type": "http.response.body", "body": b"fine"})
    if path == "/background":
        await asyncio.sleep(60)


def ask():
    assert ready.wait(20)
    with contextlib.ExitStack() as stack:
        for path in sys.argv[1].split(","):
            sock = stack.enter_context(socket.create_connection(listener.getsockname()))
            sock.sendall(f"POST {path} HTTP/1.1\\r\\nHost: a\\r\\nContent-Length: 6\\r\\n\\r\\nabc".encode())
            if path != "/half":
                sock.sendall(b"def")
                assert sock.recv(1000).startswith(b"HTTP/1.1 ")
    end.set()


ready, end = threading.Event(), threading.Event()
listener = create_bind_socket("127.0.0.1:0")
thread = threading.Thread(target=ask)
thread.start()
serve(app=app, bind_socket=listener, graceful_exit=end, before_serve_hook=ready.set, graceful_exit_timeout=1)
thread.join()
gc.collect()
"""

PATHS = "/,/wait,/body,/receive,/error,/cancelled,/background,/forever,/half,/"


@pytest.mark.daily("some")
@pytest.mark.parametrize("paths", ["", "/", "/wait", PATHS], ids=["none", "parked", "suspended", "some"])
def test_nothing_is_forgotten(paths: str) -> None:
    command = [sys.executable, "-X", "dev", "-W", "error", "-c", PROGRAM, paths or "/,/"]
    env = environment({"PYTHONASYNCIODEBUG": "1"})
    done = subprocess.run(command, cwd=APPS, env=env, capture_output=True, text=True, timeout=DEADLINE, check=False)
    assert done.returncode == 0, done.stderr
    lines = [line for line in done.stderr.splitlines() if line.startswith(("asyncio", "Task was", "sys:", "<sys>"))]
    slow = ("Using selector", "Close <", "Executing <", "poll ")  # what asyncio says of its own speed
    assert not [line for line in lines if not any(word in line for word in slow)], done.stderr
    for word in ("never awaited", "was destroyed", "never retrieved", "ResourceWarning", "unclosed"):
        assert word not in done.stderr, done.stderr
