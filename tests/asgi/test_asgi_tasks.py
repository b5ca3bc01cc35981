"""Tasks, contexts and the event loop: traps 24 to 34 of other servers."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import gc
import sys
import threading
import time
import weakref
from math import inf
from types import SimpleNamespace
from typing import Any

import pytest
from harness import END, START, asgi, errors, read_body, request, respond, tracebacks, until

from zibai.engine.async_stream import AsyncStream
from zibai.engine.backends import tasks
from zibai.engine.backends.tasks import Tasks
from zibai.engine.backends.turning import Turning
from zibai.engine.loop import Loop
from zibai.gateway.asgi_http import HttpExchange
from zibai.telemetry.row import Row

from support import DEADLINE, Client, wait_for

VARIABLE: contextvars.ContextVar[str] = contextvars.ContextVar("VARIABLE", default="unset")


KINDS = [
    "plain", "pause", "body", "slow body", "stalled send", "pipelined", "pipelined pause", "background",
    "background pause",
]  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
def test_no_context_of_one_request_is_seen_by_the_next(kind: str) -> None:
    """Traps 24 and 25: uvicorn#2167, starlette#2335, cpython#140947, langflow#14769."""
    seen: list[tuple[str, str]] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        seen.append((scope["path"], VARIABLE.get()))
        task = asyncio.current_task()  # which nothing keeps, so that it may serve again
        assert task is not None
        VARIABLE.set(scope["path"])
        if "pause" in kind:
            await asyncio.sleep(0.001)
        await read_body(receive)
        if kind == "stalled send":
            await send(START)
            for _ in range(50):
                await send({**END, "body": b"x" * 100_000, "more_body": True})
            await send(END)
        else:
            await respond(send)
        if "background" in kind:
            await asyncio.sleep(0.01)
        assert VARIABLE.get() == scope["path"]
        assert asyncio.current_task() is task

    has_body = kind in ("body", "slow body")
    with asgi(app) as server, Client(server.port) as client:
        for number in range(6):
            if "pipelined" in kind:
                if not number:
                    client.send(b"".join(request(f"/{each}") for each in range(6)))
            elif has_body:
                client.send(request(f"/{number}", "Content-Length: 3", method="POST"))
                if kind == "slow body":
                    wait_for(lambda number=number: len(seen) > number)  # it waits for the body
                client.send(b"abc")
            else:
                client.send(request(f"/{number}"))
            assert client.read().status == 200
    assert seen == [(f"/{number}", "unset") for number in range(6)]
    assert not errors(server)


def test_no_turn_of_the_server_loop_has_the_context_of_a_request(monkeypatch: pytest.MonkeyPatch) -> None:
    """Trap 24: whatever makes the loop turn. A turn writes the log lines of others, and begins their requests."""
    seen: set[str] = set()
    turn = Loop.turn

    def look(loop: Loop, block: bool) -> None:
        seen.add(VARIABLE.get())
        turn(loop, block)

    monkeypatch.setattr(Loop, "turn", look)

    async def app(scope: Any, receive: Any, send: Any) -> None:
        VARIABLE.set("of a request")
        if scope["path"] == "/pause":
            await asyncio.sleep(0)
        await read_body(receive)
        if scope["path"] == "/large":
            await send(START)
            for _ in range(50):
                await send({**END, "body": b"x" * 100_000, "more_body": True})
            await send(END)
        else:
            await respond(send)
        await asyncio.sleep(0)

    with asgi(app) as server, Client(server.port) as client:
        for _ in range(3):
            client.send(request("/pause") * 2)  # its end makes the loop turn
            assert [client.read().status for _ in range(2)] == [200, 200]
            client.send(request("/large"))  # and what its client does not take
            assert client.read().status == 200
            client.send(request("/body", "Content-Length: 3", method="POST"))  # and waiting for bytes
            client.send(b"abc")
            assert client.read().status == 200
    assert seen == {"unset"}
    assert not errors(server)


@pytest.mark.parametrize("kind", ["at once", "after a pause"])
def test_no_step_of_a_request_is_within_a_step_of_another(kind: str) -> None:
    """Trap 25: the end of a request lets the pipelined one begin, but not there: of many, the stack would be full."""
    depths: list[int] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        frame: Any = sys._getframe()
        mine, depth = frame.f_code, 0
        while frame is not None:
            depth += frame.f_code is mine
            frame = frame.f_back
        depths.append(depth)
        if kind == "after a pause":
            await asyncio.sleep(0)
        await respond(send)

    with asgi(app) as server, Client(server.port) as client:
        client.send(request() * 100)
        for _ in range(100):
            assert client.read().status == 200
    assert depths == [1] * 100


def test_what_the_start_has_set_is_seen_by_every_request() -> None:
    seen: list[str] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            VARIABLE.set("startup")
            await receive()
            await send({"type": "lifespan.startup.complete"})
            await receive()
            await send({"type": "lifespan.shutdown.complete"})
            return
        seen.append(VARIABLE.get())
        VARIABLE.set("mine")
        await respond(send)

    from serving import serving

    with serving(app, valid=False) as server, Client(server.port) as client:
        for _ in range(3):
            assert client.get("/").status == 200
    assert seen == ["startup"] * 3


@pytest.mark.parametrize("when", ["within the request", "in the background", "in the background, later"])
def test_a_task_that_waits_is_not_collected(when: str) -> None:
    """Trap 26: uvicorn#972: the event loop has weak references to tasks alone."""
    entered, go, over = threading.Event(), threading.Event(), threading.Event()
    held: list[Any] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        if scope["path"] == "/collect":
            gc.collect()
            await respond(send)
            return
        if when == "in the background, later":
            await asyncio.sleep(0)
        if when != "within the request":
            await respond(send)
        future = asyncio.get_running_loop().create_future()
        held.append(weakref.ref(future))  # nothing refers to the task but the task
        loop = asyncio.get_running_loop()
        threading.Thread(target=lambda: (go.wait(DEADLINE), loop.call_soon_threadsafe(finish))).start()

        def finish() -> None:
            waiting = held[0]()
            if waiting is not None:
                waiting.set_result(None)

        entered.set()
        await future
        over.set()
        if when == "within the request":
            await respond(send)

    with asgi(app) as server, Client(server.port) as client, Client(server.port) as other:
        client.send(request())
        assert entered.wait(DEADLINE)
        assert other.get("/collect").status == 200  # in the thread of the event loop, whose step is over by then
        go.set()
        assert over.wait(DEADLINE)
        assert client.read().status == 200
    assert not errors(server)


@pytest.mark.parametrize("keep", [list, dict, weakref.WeakKeyDictionary], ids=lambda kind: kind.__name__)
def test_a_task_that_an_application_keeps_is_used_once(keep: Any) -> None:
    """Trap 27: SQLAlchemy's scopefunc=current_task would give a session to the next user."""
    store: Any = keep()
    first: list[bool] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        task = asyncio.current_task()
        first.append(task not in store)
        if keep is list:
            store.append(task)
        else:
            store[task] = "a session"
        await respond(send)

    with asgi(app) as server, Client(server.port) as client:
        for _ in range(5):
            assert client.get("/").status == 200
    assert first == [True] * 5


@pytest.mark.parametrize("together", [False, True], ids=["one by one", "in one turn"])
@pytest.mark.parametrize("when", ["before the response", "at the end", "and takes it back"])
def test_a_request_that_cancels_itself_does_not_hit_the_next(when: str, together: bool) -> None:
    """Trap 28."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        task = asyncio.current_task()
        assert task is not None
        if scope["path"] == "/next":
            assert not task.cancelling()
            await asyncio.sleep(0)
            await respond(send, b"next")
            return
        if when == "before the response":
            task.cancel()
        await respond(send)
        task.cancel()
        if when == "and takes it back":
            task.uncancel()

    with asgi(app) as server, Client(server.port) as client:
        for _ in range(3):
            if together:
                client.send(request() + request("/next"))
                assert [client.read().body for _ in range(2)] == [b"fine", b"next"]
            else:
                assert client.get("/").status == 200
                assert client.get("/next").body == b"next"
    assert not errors(server)


def test_children_of_an_application_start_later() -> None:
    """Trap 29: cpython#155418, #128550, #128588: eager children."""
    order: list[str] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        async def child() -> None:
            order.append("child")

        async with asyncio.TaskGroup() as group:
            group.create_task(child())
            order.append("parent")
        await respond(send)

    with asgi(app) as server, Client(server.port) as client:
        assert client.get("/").status == 200
    assert order == ["parent", "child"]


def test_two_servers_in_two_threads() -> None:
    """Trap 30: aiohttp#13535: a task of another thread's loop. And trap 31: nothing asks a loop for eager tasks."""
    loops: list[Any] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        loop, task = asyncio.get_running_loop(), asyncio.current_task()
        loops.append((loop, threading.get_ident()))
        assert task is not None
        assert task.get_loop() is loop
        if scope["path"] == "/pause":
            await asyncio.sleep(0.001)
        await respond(send)

    async def main() -> None:  # and this thread has a loop that runs, too
        with asgi(app) as one:
            threading.Thread(target=ask, args=[one.port]).start()  # so that all of its threads are there
            await until(over)
            over.clear()
            with asgi(app) as two:
                threading.Thread(target=ask, args=[one.port, two.port]).start()
                await until(over)

    over = threading.Event()

    def ask(*ports: int) -> None:
        for port in ports * 3:
            with Client(port) as client:
                for path in ("/", "/pause", "/"):  # at last a task that may serve again
                    assert client.get(path).status == 200
        over.set()

    asyncio.run(main())
    assert len(set(loops)) == 2


@pytest.mark.daily("pause")
@pytest.mark.parametrize("kind", ["plain", "pause", "body"])
def test_ten_thousand_requests_leave_nothing(kind: str) -> None:
    """Trap 33: nggit in uvicorn#2799: a task that is done before it is in the set stays for ever."""
    amount = 2000
    counts: list[int] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        if scope["path"] == "/count":
            gc.collect()
            counts.append(len(gc.get_objects()))
            counts.append(len(asyncio.all_tasks()))
        elif kind == "pause":
            await asyncio.sleep(0)
        elif kind == "body":
            await read_body(receive)
        await respond(send)

    one = request("/", "Content-Length: 1", method="POST", body=b"x") if kind == "body" else request("/")
    with asgi(app) as server, Client(server.port) as client:

        def many() -> None:
            for _ in range(amount // 50):
                client.send(one * 50)
                for _ in range(50):
                    assert client.read().status == 200

        many()
        server.records.clear()
        client.get("/count")
        many()
        server.records.clear()
        client.get("/count")
    before, tasks_before, after, tasks_after = counts
    assert after - before < amount / 10
    assert tasks_after == tasks_before <= 2


def test_ready_requests_leave_time_to_the_event_loop() -> None:
    """Trap 34: one turn starves timers. Here each request works for 2 ms, and a task waits for 1 ms in each step."""
    ticks = [0]
    between: list[int] = []
    started = threading.Event()
    amount, work = 128, 0.002

    async def tick() -> None:
        while True:
            await asyncio.sleep(0.001)
            ticks[0] += 1

    async def app(scope: Any, receive: Any, send: Any) -> None:
        if scope["path"] == "/tick":
            ticking = asyncio.create_task(tick())
            await read_body(receive)
            started.set()
            await receive()
            ticking.cancel()
            return
        between.append(ticks[0])
        over = time.perf_counter() + work
        while time.perf_counter() < over:
            pass
        await respond(send)

    with asgi(app) as server, Client(server.port) as ticker:
        ticker.send(request("/tick"))
        assert started.wait(DEADLINE)
        with contextlib.ExitStack() as stack:
            clients = [stack.enter_context(Client(server.port)) for _ in range(amount)]
            for client in clients:
                client.send(request())
            for client in clients:
                assert client.read().status == 200
    # A turn runs 5 ms, so three of them at the most, and after at most three turns the task has its step.
    assert between[-1] - between[0] > amount / 20


@pytest.mark.parametrize("bound", ["number", "time"])
def test_a_turn_begins_so_many_requests_and_no_more(monkeypatch: pytest.MonkeyPatch, bound: str) -> None:
    """Trap 34, whichever of the two bounds comes first."""
    begun: list[Any] = []
    later: list[Any] = []
    monkeypatch.setattr(tasks, "TURN_LIMIT" if bound == "time" else "TURN_TIME", inf)
    pause = 0.001 if bound == "time" else 0.0

    def take() -> Any:
        return SimpleNamespace(started=1000.0 + len(begun) * pause) if len(begun) < 1000 else None

    def call_soon(callback: Any, *, context: Any) -> None:
        later.append(callback)

    event_loop: Any = SimpleNamespace(call_soon=call_soon)
    turns = SimpleNamespace(finished=False, turn=lambda block: None, take=take, timeout=lambda: None)
    backend: Any = Tasks(event_loop, Row.private(2), None, contextvars.Context)  # type: ignore[arg-type]
    backend.loop = turns
    backend._run = begun.append
    for number in range(1, 4):
        backend._turn()
        assert len(later) == number, "the rest comes in another turn"
        expected = number * tasks.TURN_LIMIT if bound == "number" else None
        assert len(begun) == expected or (bound == "time" and len(begun) <= number * 7)
    backend.poller.close()


def test_a_timer_that_is_early_is_set_again() -> None:
    """uvloop rounds to milliseconds. Nothing would turn the loop any more, and idle connections would stay for ever."""
    now, left = 1000.0, 0.5
    timers: list[tuple[float, Any]] = []

    class EventLoop:
        def time(self) -> float:
            return now

        def call_at(self, when: float, callback: Any, *, context: Any) -> Any:
            timers.append((when, callback))
            return SimpleNamespace(cancel=lambda: None)

    turns = SimpleNamespace(finished=False, turn=lambda block: None, take=lambda: None, timeout=lambda: left)
    backend: Any = Tasks(EventLoop(), Row.private(2), None, contextvars.Context)  # type: ignore[arg-type]
    backend.loop = turns
    backend._turn()
    for _ in range(2):  # early by a part of a millisecond
        when, callback = timers.pop()
        assert when == now + left
        now, left = when - 0.0003, 0.0003
        callback()
    backend._turn()
    assert len(timers) == 1, "a timer that is there is left alone"
    backend.poller.close()


def test_one_callback_serves_the_steps_at_hand_and_the_turn(caplog: pytest.LogCaptureFixture) -> None:
    """A bug at the end of one step does not harm the others, and nothing runs twice."""
    due: list[Any] = []
    seen: list[Any] = []

    def turn() -> None:
        turning.is_due = False
        seen.append("turn")

    def fail() -> None:
        raise RuntimeError("a bug")

    def call_soon(call: Any, *, context: contextvars.Context) -> None:
        due.append(call)

    event_loop: Any = SimpleNamespace(call_soon=call_soon)
    turning = Turning(event_loop, turn)
    turning.after_step(lambda: seen.append("first"))
    turning.after_step(fail)
    turning.soon()
    turning.after_step(lambda: seen.append("second"))
    turning.soon()
    assert len(due) == 1
    due.pop()()
    assert seen == ["first", "second", "turn"]
    assert "the gateway failed" in caplog.text
    turning.soon()
    turning.after_step(lambda: seen.append("third"))
    for each in due:
        each()
    assert seen == ["first", "second", "turn", "turn", "third"]
    turning.after_step(turning.soon)
    turning.after_step(lambda: turning.after_step(lambda: seen.append("later")))
    due[-1]()
    assert seen[5:] == ["turn"]
    due[-1]()
    assert seen[5:] == ["turn", "later"]


def test_an_exchange_begins_as_its_bases_do() -> None:
    """It does not call them."""
    stream: Any = SimpleNamespace(connection=SimpleNamespace(request=None), body=None)
    base, exchange = AsyncStream(stream, tasks := SimpleNamespace()), HttpExchange(stream, tasks, SimpleNamespace())  # type: ignore[arg-type]
    assert vars(base).items() <= vars(exchange).items()


def test_background_work_does_not_hold_the_connection() -> None:
    entered, go, over = threading.Event(), threading.Event(), threading.Event()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await respond(send)
        if scope["path"] == "/background":
            entered.set()
            await until(go)
            over.set()

    with asgi(app) as server, Client(server.port) as client:
        client.send(request("/background") + request("/"))
        assert [client.read().status for _ in range(2)] == [200, 200]
        assert entered.wait(DEADLINE)
        assert not over.is_set()
        go.set()
    assert over.is_set()  # the end waits for it


def test_the_end_of_the_server_waits_for_background_work_and_no_longer() -> None:
    stopped: list[str] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await respond(send)
        try:
            await asyncio.sleep(60)
        finally:
            await asyncio.sleep(0.01)
            stopped.append("finally")

    begun = time.monotonic()
    with asgi(app, graceful_exit_timeout=0.5) as server, Client(server.port) as client:
        assert client.get("/").status == 200
    assert stopped == ["finally"]
    assert 0.4 < time.monotonic() - begun < 10
    assert not tracebacks(server)


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
def test_tasks_that_an_application_has_made_end_with_their_finally(loop: str) -> None:
    """Trap 41. The end of the server does not wait for them, since they are no requests; but it lets them clean up."""
    pytest.importorskip(loop)
    stopped: list[str] = []
    made: list[Any] = []

    async def work() -> None:
        try:
            await asyncio.sleep(600)
        finally:
            await asyncio.sleep(0.01)
            stopped.append("finally")

    async def app(scope: Any, receive: Any, send: Any) -> None:
        made.append(asyncio.create_task(work()))
        await asyncio.sleep(0)  # it has begun
        await respond(send)

    with asgi(app, loop=loop, graceful_exit_timeout=10 * DEADLINE) as server, Client(server.port) as client:
        for _ in range(3):
            assert client.get("/").status == 200
    assert stopped == ["finally"] * 3
    assert not errors(server)


def test_threads_and_async_generators() -> None:
    closed = threading.Event()

    async def numbers() -> Any:
        try:
            for number in range(10):
                yield number
        finally:
            await asyncio.sleep(0)
            closed.set()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        VARIABLE.set("mine")
        assert await asyncio.to_thread(VARIABLE.get) == "mine"
        async for number in numbers():
            if number == 3:
                break
        await respond(send)

    with asgi(app) as server, Client(server.port) as client:
        assert client.get("/").status == 200
        wait_for(lambda: gc.collect() or closed.is_set())


def test_a_child_may_serve_the_request() -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        async with asyncio.TaskGroup() as group:
            body = group.create_task(read_body(receive))
            group.create_task(send(START))
        await asyncio.create_task(send({**END, "body": body.result()}))

    with asgi(app) as server, Client(server.port) as client:
        for _ in range(3):
            client.send(request("/", "Content-Length: 3", method="POST", body=b"abc"))
            assert client.read().body == b"abc"


def test_timeouts_and_cancellation_from_outside() -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.01):
                await asyncio.sleep(10)
        task = asyncio.current_task()
        assert task is not None
        asyncio.get_running_loop().call_soon(task.cancel)
        with pytest.raises(asyncio.CancelledError):
            await asyncio.sleep(10)
        task.uncancel()
        await respond(send)

    with asgi(app) as server, Client(server.port) as client:
        for _ in range(3):
            assert client.get("/").status == 200
