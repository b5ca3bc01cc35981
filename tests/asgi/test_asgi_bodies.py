"""A small body that comes together with its head: the application has it at once, and nothing of it stays."""

from __future__ import annotations

import asyncio
import threading
import tracemalloc
from typing import TYPE_CHECKING, Any

import pytest
from harness import asgi, errors, request, respond, until

from support import Client, wait_for

if TYPE_CHECKING:
    from zibai.engine.load import Load

BODY = b"abcdef"
POST = request("/", "Content-Length: 6", method="POST", body=BODY)


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
def test_it_is_one_message_however_it_comes(loop: str) -> None:
    """Cut at each byte, the application receives the same bytes, and then waits for the end of its client."""
    pytest.importorskip(loop)
    heard: list[list[Any]] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        mine: list[Any] = []
        heard.append(mine)
        while not mine or mine[-1]["more_body"]:
            mine.append(await receive())
        await respond(send)
        mine.append(await receive())

    head = len(POST) - len(BODY)
    with asgi(app, loop=loop) as server:
        for cut in (0, *range(head, len(POST))):
            with Client(server.port) as client:
                calls = len(heard)
                client.send(POST[:cut])
                if cut:
                    wait_for(lambda: len(heard) > calls and (cut == head or heard[-1]))  # noqa: B023
                client.send(POST[cut:])
                assert client.read().body == b"fine"
                assert client.get("/").status == 200
    for posted, got in zip(heard[::2], heard[1::2], strict=True):
        assert b"".join(each["body"] for each in posted[:-1]) == BODY
        assert got == [{"type": "http.request", "body": b"", "more_body": False}, {"type": "http.disconnect"}]
        assert posted[-1] == {"type": "http.disconnect"}
    assert heard[0][0] == {"type": "http.request", "body": BODY, "more_body": False}
    assert not errors(server)


@pytest.mark.parametrize("read", [True, False], ids=["read", "not read"])
def test_it_counts_as_memory_until_the_response_is_over(loads: list[Load], read: bool) -> None:
    go = threading.Event()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        if scope["path"] == "/":
            if read:
                await receive()
            await until(go)
        await respond(send)

    with asgi(app) as server, Client(server.port) as client:
        client.send(POST)
        (load,) = wait_for(lambda: [each for each in loads if each.memory])
        assert load.memory == len(BODY)
        go.set()
        assert client.read().status == 200
        assert client.get("/next").status == 200
        assert not load.memory


def test_what_runs_in_the_background_holds_no_body(loads: list[Load]) -> None:
    """Of 50 requests that have their response, and whose bodies nobody has read."""
    over = threading.Event()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await respond(send)
        await until(over)

    data = request("/", "Content-Length: 50000", method="POST", body=b"x" * 50_000)
    tracemalloc.start()
    try:
        with asgi(app) as server, Client(server.port) as client:
            for _ in range(50):
                client.send(data)
                assert client.read().status == 200
            wait_for(lambda: not loads[0].memory)
            kept = tracemalloc.get_traced_memory()[0]
            over.set()
    finally:
        tracemalloc.stop()
    assert kept < 1_000_000


def test_pipelined_bodies_stay_with_their_requests() -> None:
    """Read or not, at once or after a pause."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        if "pause" in scope["path"]:
            await asyncio.sleep(0.001)
        await respond(send, (await receive())["body"] if "read" in scope["path"] else b"-")

    paths = ["/read", "/", "/pause", "/pause-read"] * 5
    with asgi(app) as server, Client(server.port) as client:
        for _ in range(3):
            data = [
                request(path, "Content-Length: 9", method="POST", body=path[:9].ljust(9).encode()) for path in paths
            ]
            client.send(b"".join(data))
            bodies = [client.read().body.decode().strip() for _ in paths]
            assert bodies == [path[:9] if "read" in path else "-" for path in paths]


def test_one_that_is_too_long_is_refused_with_its_head() -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        raise AssertionError("not called")

    with asgi(app, max_body_size=5) as server, Client(server.port) as client:
        client.send(POST)
        assert client.read().status == 413
    assert not errors(server)
