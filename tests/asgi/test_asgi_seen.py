"""What others see of the requests that tasks run, and what ends them: slots, stacks, slow requests, time limits."""

from __future__ import annotations

import asyncio
import re
import threading
import time
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

import pytest
from harness import END, START, asgi, errors, hello, request, respond, tracebacks, until

from zibai.engine import health
from zibai.engine import loop as loop_module
from zibai.engine.backends.task_requests import Requests
from zibai.engine.backends.tasks import Tasks
from zibai.server import serve as serve_module
from zibai.server.dump import describe_self
from zibai.telemetry.row import Row, black_box

from support import DEADLINE, Client, wait_for

if TYPE_CHECKING:
    from collections.abc import Iterator

    from serving import Serving


class Gate:
    """An application that waits at ``/wait/...`` for the test, in a function of its own."""

    def __init__(self) -> None:
        self.entered: list[str] = []
        self.go = threading.Event()

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["path"].startswith("/wait"):
            self.entered.append(scope["path"])
            await self.wait()
        await respond(send)

    async def wait(self) -> None:
        await until(self.go)  # the innermost of the application


@pytest.fixture
def engines(monkeypatch: pytest.MonkeyPatch) -> list[Tasks]:
    """The backend of each server that starts, whose row has three slots: two for requests that wait."""
    found: list[Tasks] = []
    start = Tasks.start

    def starting(engine: Tasks, loop: Any) -> None:
        found.append(engine)
        start(engine, loop)

    monkeypatch.setattr(Tasks, "start", starting)
    monkeypatch.setattr(serve_module, "MOST_SLOTS", 2)
    return found


@pytest.fixture
def rows(monkeypatch: pytest.MonkeyPatch) -> list[Row]:
    found: list[Row] = []
    make = Requests.__init__

    def making(requests: Requests, loop: Any, row: Row) -> None:
        found.append(row)
        make(requests, loop, row)

    monkeypatch.setattr(Requests, "__init__", making)
    return found


@contextmanager
def waiting(server: Serving, gate: Gate, *paths: str) -> Iterator[list[Client]]:
    """Requests that wait, one after the other."""
    with ExitStack() as stack:
        clients = []
        for path in paths:
            client = stack.enter_context(Client(server.port))
            client.send(request(path))
            wait_for(lambda path=path: path in gate.entered)
            clients.append(client)
        yield clients


def read_until(client: Client, line: bytes) -> None:
    while (got := client.file.readline()) != line:
        assert got


def served(row: Row) -> int:
    return sum(row.read().counted.describe()["buckets"])


def names(row: Row) -> list[str]:
    return [each.what for each in row.running()]


def test_the_requests_that_run_longest_have_the_slots(engines: list[Tasks], rows: list[Row]) -> None:
    gate = Gate()
    with asgi(gate, max_workers=10) as server, waiting(server, gate, "/wait/1", "/wait/2", "/wait/3", "/wait/4"):
        (row,) = rows
        wait_for(lambda: row.read().unlisted == 2)
        assert names(row) == ["GET /wait/1", "GET /wait/2"]
        assert [each.what for each in engines[0].running()] == [f"GET /wait/{number}" for number in range(1, 5)]
        assert "it was serving 2 more requests, for less time" in black_box(row.read())
        hello(server)  # the slot for first steps is free all the time
        wait_for(lambda: names(row) == ["GET /wait/1", "GET /wait/2"])
        gate.go.set()
        wait_for(lambda: not names(row))
        assert row.read().unlisted == 0
        wait_for(lambda: served(row) == 5)


def test_the_slot_of_a_request_that_ends_goes_to_the_oldest_without_one(rows: list[Row], engines: list[Tasks]) -> None:
    ends = {f"/wait/{number}": threading.Event() for number in range(5)}
    gate = Gate()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        if scope["path"] in ends:
            gate.entered.append(scope["path"])
            await until(ends[scope["path"]])
        await respond(send)

    with asgi(app, max_workers=10) as server, waiting(server, gate, *ends) as clients:
        (row,) = rows
        began = {each.what: each.since for each in engines[0].running()}
        ends["/wait/1"].set()
        assert clients[1].read().status == 200
        wait_for(lambda: names(row) == ["GET /wait/0", "GET /wait/2"])
        assert {each.what: each.since for each in row.running()}["GET /wait/2"] == began["GET /wait/2"]
        ends["/wait/3"].set()  # one without a slot
        assert clients[3].read().status == 200
        wait_for(lambda: row.read().unlisted == 1)
        ends["/wait/0"].set()
        wait_for(lambda: names(row) == ["GET /wait/2", "GET /wait/4"])
        assert row.read().unlisted == 0
        ends["/wait/2"].set()
        wait_for(lambda: names(row) == ["GET /wait/4"])
        ends["/wait/4"].set()
        wait_for(lambda: served(row) == 5)
        with waiting(server, gate, "/wait/1"):  # whose event is set
            pass


def test_a_dump_shows_every_request_with_what_it_awaits(engines: list[Tasks]) -> None:
    gate = Gate()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        if scope["path"] == "/group":
            async with asyncio.TaskGroup() as group:
                group.create_task(gate(dict(scope, path="/wait/in group"), receive, send))
        elif scope["path"] == "/gather":
            await asyncio.gather(asyncio.sleep(0), gate(dict(scope, path="/wait/in gather"), receive, send))
        else:
            await gate(scope, receive, send)
            await late(gate)

    async def late(gate: Gate) -> None:
        await until(over)  # after the response

    def is_whole(text: str) -> bool:
        """Whether it has all requests; a task that executes at this moment has no stack yet."""
        for path in paths:
            stack_text = text.partition(f"GET {path} for ")[2].partition("GET /")[0]
            words = ("s (app), a task:", "# the innermost of the application", "in __call__")
            if not all(word in stack_text for word in words):
                return False
        return "# after the response" in text  # a task that belongs to no request any more

    paths = ("/wait/1", "/wait/2", "/wait/3", "/group", "/gather")
    over = threading.Event()
    with asgi(app, max_workers=10) as server, ExitStack() as stack:
        for path in paths:
            stack.enter_context(Client(server.port)).send(request(path))
        for _ in range(2):  # when the second has its response, the task of the first waits
            assert stack.enter_context(Client(server.port)).get("/").status == 200
        wait_for(lambda: len(gate.entered) == 5)
        wait_for(lambda: is_whole(describe_self(engines[0], None)))
        over.set()
        gate.go.set()


def test_a_dump_says_what_a_request_waits_for(engines: list[Tasks]) -> None:
    entered = threading.Event()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        entered.set()
        if scope["path"] == "/body":
            await receive()
        await send(START)
        while True:
            await send({**END, "body": b"x" * 100_000, "more_body": True})

    with asgi(app) as server:
        for path, phase, field in (("/body", "body", "Content-Length: 5"), ("/send", "send", "A: b")):
            with Client(server.port) as client:
                client.send(request(path, field))
                assert entered.wait(DEADLINE)
                wait_for(lambda phase=phase: [each.phase for each in engines[0].running()] == [phase])
            wait_for(lambda: not engines[0].running())


def test_every_slow_request_is_logged_with_its_stack(engines: list[Tasks]) -> None:
    gate = Gate()
    paths = [f"/wait/{number}" for number in range(5)]
    with asgi(gate, max_workers=10, slow_request=0.2) as server, waiting(server, gate, *paths):

        def slow() -> list[str]:
            return [text for record in server.records if "has run for" in (text := record.getMessage())]

        wait_for(lambda: len(slow()) == 5)
        assert sorted(text.split(": ")[1].split(",")[0] for text in slow()) == [f"GET {path}" for path in paths]
        for text in slow():
            assert "# the innermost of the application" in text
        hello(server)
        gate.go.set()
    assert len(slow()) == 5, "once each"


# --- time limits ------------------------------------------------------------------------------------


@pytest.fixture
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """The server looks at its requests more often than once a second."""
    monkeypatch.setattr(loop_module, "SOON", 0.1)


pytestmark = pytest.mark.usefixtures("soon")


@pytest.mark.parametrize("kind", ["waits", "cleans up", "in a group", "raises another error", "responds"])
def test_the_time_of_a_request_is_over(kind: str) -> None:
    """It alone is cancelled. Nothing of its response was sent, so its client gets one, and keeps its connection."""
    cleaned: list[str] = []
    gate = Gate()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        if scope["path"] != "/late":
            await gate(scope, receive, send)
            return
        try:
            if kind == "in a group":
                async with asyncio.TaskGroup() as group:
                    group.create_task(asyncio.sleep(DEADLINE))
            else:
                await asyncio.sleep(DEADLINE)
        except asyncio.CancelledError:
            if kind == "raises another error":
                raise KeyError("mine") from None
            if kind != "responds":
                raise
            await respond(send, b"mine", 503)
        finally:
            if kind == "cleans up":
                await asyncio.sleep(0.05)
            cleaned.append(kind)

    with asgi(app, request_timeout=0.5, slow_request=0) as server, Client(server.port) as late:
        late.send(request("/late"))
        response = late.read()
        assert response.status == (503 if kind == "responds" else 504)
        wait_for(lambda: cleaned == [kind])
        assert late.get("/").body == b"fine"
        assert not server.end.is_set()
    said = [record.getMessage() for record in server.records if "--request-timeout" in record.getMessage()]
    assert len(said) == 1
    assert re.match(r"--request-timeout is over; cancelled after 0.[5-9] s: GET /late, a task\n", said[0])
    assert "in app" in said[0]
    assert ("zibai.error", response.status) in server.exchanges
    assert bool(tracebacks(server)) == (kind == "raises another error")


def test_a_response_that_has_begun_is_cut() -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send(START)
        await send({**END, "more_body": True})
        await asyncio.sleep(DEADLINE)

    with asgi(app, request_timeout=0.3) as server, Client(server.port) as client:
        client.send(request())
        read_until(client, b"fine\r\n")
        with pytest.raises(ConnectionResetError):
            client.rest()
    assert not tracebacks(server)


def test_the_time_of_others_is_not_over() -> None:
    """An event stream has no end that could be late, and work after a response is no request."""
    over, ended = threading.Event(), threading.Event()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        if scope["path"] == "/events":
            await send({**START, "headers": [(b"content-type", b"text/event-stream")]})
            await send({**END, "body": b"data: 1\n\n", "more_body": True})
            await until(over)
            await send({**END, "body": b"data: 2\n\n"})
        elif scope["path"] == "/late":
            await asyncio.sleep(DEADLINE)
        else:
            await respond(send)
            await until(over)
            ended.set()

    with asgi(app, request_timeout=0.3, slow_request=0.1) as server, Client(server.port) as events:
        events.send(request("/events"))
        read_until(events, b"data: 1\n")
        with Client(server.port) as client:
            assert client.get("/background").body == b"fine"
            assert client.get("/late").status == 504
        over.set()
        read_until(events, b"data: 2\n")
        assert ended.wait(DEADLINE)
    slow = [record.getMessage() for record in server.records if "has run for" in record.getMessage()]
    assert [text.split(": ")[1].split(",")[0] for text in slow] == ["GET /late"]


def test_a_task_that_does_not_end_costs_its_worker(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(health, "END_LIMIT", 0.2)
    go = threading.Event()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        while not go.is_set():
            try:
                await until(go)
            except asyncio.CancelledError:
                pass
        await respond(send)

    with asgi(app, request_timeout=0.3, graceful_exit_timeout=DEADLINE) as server, Client(server.port) as client:
        client.send(request())
        assert server.end.wait(DEADLINE)  # with a parent, it asks for a replacement
        go.set()
        assert client.read().body == b"fine", "it has the time of a graceful exit"
    said = [record.getMessage() for record in server.records if "--request-timeout" in record.getMessage()]
    assert [text.partition("; ")[2].split()[0] for text in said] == ["cancelled", "running"]


@pytest.mark.parametrize("step", ["first", "later"])
def test_the_request_that_blocks_the_event_loop_is_named(step: str) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        if step == "later":
            await asyncio.sleep(0.01)
        if scope["path"] == "/blocks":
            time.sleep(0.5)  # noqa: ASYNC251 -- the guilty line
        await respond(send)

    with asgi(app) as server, Client(server.port) as client:
        assert client.get("/blocks").body == b"fine"
        (text,) = wait_for(lambda: [text for each in server.records if "blocked" in (text := each.getMessage())])
    assert text.splitlines()[0] == (
        "an application has blocked the event loop for 0.1 s in GET /blocks, so that nothing else runs:"
    )
    assert "the guilty line" in text
    assert not errors(server)
