"""``await zibai.aserve()``: a server within an event loop that runs before and after it."""

from __future__ import annotations

import asyncio
import contextvars
import gc
import logging
import signal
import socket
import subprocess
import sys
import threading
from typing import TYPE_CHECKING, Any

import pytest
from harness import request, respond

import zibai
from zibai.errors import LoadError, UsageError

from support import DEADLINE, Client, environment

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator

VARIABLE: contextvars.ContextVar[str] = contextvars.ContextVar("VARIABLE", default="unset")


class App:
    """What happened within an application, and the events of the test's own event loop."""

    def __init__(self) -> None:
        self.said: list[str] = []
        self.entered, self.go = asyncio.Event(), asyncio.Event()

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            for phase in ("startup", "shutdown"):
                await receive()
                self.said.append(phase)
                await send({"type": f"lifespan.{phase}.complete"})
            return
        if scope["path"] == "/variable":
            await respond(send, VARIABLE.get().encode())
            VARIABLE.set("of a request")
            return
        if scope["path"].startswith("/wait"):
            self.entered.set()
            try:
                await self.go.wait()
            except asyncio.CancelledError:
                await asyncio.sleep(0)
                self.said.append("cancelled")
                raise
        await respond(send)


class Guest:
    """A server in a task of the test."""

    def __init__(self, app: Any, **options: Any) -> None:
        self.listener = zibai.create_bind_socket("127.0.0.1:0")
        self.port = self.listener.getsockname()[1]
        self.end, self.ready = asyncio.Event(), asyncio.Event()
        self.task = asyncio.create_task(
            zibai.aserve(
                app=app,
                bind_socket=self.listener,
                graceful_exit=self.end,
                before_serve_hook=self.ready.set,
                **options,
            )
        )

    async def serves(self) -> None:
        await asyncio.wait_for(self.ready.wait(), DEADLINE)

    async def ended(self) -> None:
        await asyncio.wait_for(self.task, DEADLINE)


def in_loop(main: Callable[[], Awaitable[None]], loop: str = "asyncio") -> None:
    """Run a test, and see that nothing of it is left in the event loop."""

    async def whole() -> None:
        before = set(threading.enumerate())
        await main()
        assert asyncio.all_tasks() == {asyncio.current_task()}
        gc.collect()
        for thread in set(threading.enumerate()) - before:
            if thread.name.startswith("zibai"):
                await asyncio.to_thread(thread.join, DEADLINE)
                assert not thread.is_alive()

    factory = None if loop == "asyncio" else pytest.importorskip(loop).new_event_loop
    with asyncio.Runner(loop_factory=factory, debug=loop == "asyncio") as runner:
        runner.run(whole())


async def get(port: int, target: str = "/") -> bytes:
    def ask() -> bytes:
        with Client(port) as client:
            return client.get(target).body

    return await asyncio.to_thread(ask)


@pytest.fixture(autouse=True)
def log(caplog: pytest.LogCaptureFixture) -> Iterator[pytest.LogCaptureFixture]:
    logger = logging.getLogger("zibai")
    logger.propagate, before = True, logger.propagate
    caplog.set_level(logging.DEBUG, "zibai")
    yield caplog
    logger.propagate = before
    assert not [record for record in caplog.records if record.levelname == "ERROR" and record.name == "asyncio"]


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
def test_it_serves_until_its_event_is_set(loop: str) -> None:
    async def main() -> None:
        app = App()
        guest = Guest(app)
        await guest.serves()
        assert app.said == ["startup"]
        assert [await get(guest.port, path) for path in ("/", "/", "/x")] == [b"fine"] * 3
        waiting = asyncio.create_task(get(guest.port, "/wait"))
        await asyncio.wait_for(app.entered.wait(), DEADLINE)
        guest.end.set()
        done, _ = await asyncio.wait({guest.task}, timeout=0.2)
        assert not done, "a request is in flight"
        app.go.set()
        assert await waiting == b"fine"
        await guest.ended()
        assert app.said == ["startup", "shutdown"]
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", guest.port))
        await asyncio.sleep(0)  # the event loop is as it was

    in_loop(main, loop)


def test_a_cancellation_is_a_graceful_end() -> None:
    """Also when it is asked for several times, as anyio does."""

    async def main() -> None:
        app = App()
        guest = Guest(app)
        await guest.serves()
        waiting = asyncio.create_task(get(guest.port, "/wait"))
        await asyncio.wait_for(app.entered.wait(), DEADLINE)
        for _ in range(3):
            guest.task.cancel()
            await asyncio.sleep(0.01)
        assert not guest.task.done()
        app.go.set()
        assert await waiting == b"fine"
        with pytest.raises(asyncio.CancelledError):
            await guest.ended()
        assert app.said == ["startup", "shutdown"]

    in_loop(main)


def test_the_end_takes_its_time_and_no_more() -> None:
    async def main() -> None:
        app = App()
        guest = Guest(app, graceful_exit_timeout=0.3)
        await guest.serves()
        waiting = asyncio.create_task(asyncio.to_thread(_rest, guest.port))
        await asyncio.wait_for(app.entered.wait(), DEADLINE)
        guest.task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await guest.ended()
        assert app.said == ["startup", "cancelled", "shutdown"]
        assert not await waiting

    in_loop(main)


def _rest(port: int) -> bytes:
    with Client(port) as client:
        client.send(request("/wait"))
        try:
            return client.rest()
        except ConnectionResetError:
            return b""


def test_a_timeout_and_a_task_group_end_it() -> None:
    async def main() -> None:
        app = App()
        guest = Guest(app)
        await guest.serves()
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.05):
                await guest.task
        assert app.said == ["startup", "shutdown"]
        app = App()
        ready = asyncio.Event()

        async def fail() -> None:
            await ready.wait()
            raise KeyError("of another task")

        async def both() -> None:
            listener = zibai.create_bind_socket("127.0.0.1:0")
            async with asyncio.TaskGroup() as group:
                group.create_task(zibai.aserve(app=app, bind_socket=listener, before_serve_hook=ready.set))
                group.create_task(fail())

        with pytest.raises(ExceptionGroup):
            await both()
        assert app.said == ["startup", "shutdown"]

    in_loop(main)


def test_contexts_and_tasks_of_the_caller_are_its_own() -> None:
    """Requests see what the caller has set, and the caller nothing of requests. No task of the caller is cancelled."""

    async def main() -> None:
        VARIABLE.set("of the caller")
        mine = asyncio.create_task(asyncio.sleep(DEADLINE))
        guest = Guest(App())
        await guest.serves()
        for _ in range(2):
            assert await get(guest.port, "/variable") == b"of the caller"
        assert VARIABLE.get() == "of the caller"
        guest.end.set()
        await guest.ended()
        assert not mine.done()
        mine.cancel()
        await asyncio.wait({mine})

    in_loop(main)


def test_two_at_once_and_one_after_the_other() -> None:
    async def main() -> None:
        for _ in range(2):
            guests = [Guest(App()), Guest(App())]
            for guest in guests:
                await guest.serves()
            assert await asyncio.gather(*(get(guest.port) for guest in guests)) == [b"fine"] * 2
            for guest in guests:
                guest.end.set()
                await guest.ended()

    in_loop(main)


async def fails(scope: Any, receive: Any, send: Any) -> None:
    await receive()
    raise ZeroDivisionError("no database")


def test_a_start_that_fails_raises() -> None:
    async def main() -> None:
        guest = Guest(fails)
        with pytest.raises(LoadError, match="no database"):
            await guest.ended()
        assert guest.listener.fileno() < 0

    in_loop(main)


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
def test_an_end_that_comes_during_the_start(loop: str) -> None:
    """Nothing is served yet, so the start alone has the time of the graceful exit."""

    async def waits(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        entered.set()
        try:
            await go.wait()
        finally:
            left.append(1)
        await send({"type": "lifespan.startup.complete"})
        await receive()
        await send({"type": "lifespan.shutdown.complete"})

    entered, go, left = asyncio.Event(), asyncio.Event(), list[int]()

    async def main() -> None:
        for way in ("cancel", "event", "timeout"):
            left.clear()
            entered.clear()
            guest = Guest(waits, graceful_exit_timeout=0.1)
            await asyncio.wait_for(entered.wait(), DEADLINE)
            if way == "event":
                guest.end.set()
                await guest.ended()
            elif way == "cancel":
                guest.task.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await guest.ended()
            else:
                with pytest.raises(TimeoutError):
                    await asyncio.wait_for(guest.task, 0.1)
            assert left
            assert not guest.ready.is_set()
            assert guest.listener.fileno() < 0

        # A start that completes in that time is followed by the orderly end of the application.
        entered.clear()
        guest = Guest(waits)
        await asyncio.wait_for(entered.wait(), DEADLINE)
        guest.end.set()
        go.set()
        await guest.ended()

    in_loop(main, loop)


def test_a_hook_that_fails_raises_and_the_lifespan_ends() -> None:
    async def main() -> None:
        def hook() -> None:
            raise KeyError("mine")

        app = App()
        with zibai.create_bind_socket("127.0.0.1:0") as listener, pytest.raises(KeyError):
            await zibai.aserve(app=app, bind_socket=listener, before_serve_hook=hook)
        assert app.said == ["startup", "shutdown"]

    in_loop(main)


def wsgi(environ: Any, start_response: Any) -> list[bytes]:
    raise AssertionError


@pytest.mark.parametrize(
    ("app", "options", "error", "told"),
    [
        (wsgi, {}, UsageError, "asyncio.to_thread"),
        (fails, {"interface": "wsgi"}, UsageError, "asyncio.to_thread"),
        (fails, {"loop": "uvloop"}, UsageError, "loop='uvloop'"),
        (fails, {"processes": 2}, TypeError, r"aserve\(\) takes no option 'processes'"),
        (fails, {"max_workers": 0}, UsageError, "max.workers"),
        (fails, {"graceful_exit": threading.Event()}, TypeError, "asyncio.Event"),
    ],
)
def test_what_cannot_be_had_is_refused(app: Any, options: Any, error: type[Exception], told: str) -> None:
    async def main() -> None:
        with zibai.create_bind_socket("127.0.0.1:0") as listener, pytest.raises(error, match=told):
            await zibai.aserve(app=app, bind_socket=listener, **options)

    in_loop(main)


def test_without_a_socket() -> None:
    async def main() -> None:
        with pytest.raises(ValueError, match=r"aserve\(\) needs a bind_socket"):
            await zibai.aserve(app=fails)

    in_loop(main)


PROGRAM = """
import asyncio, zibai


async def app(scope, receive, send):
    if scope["type"] == "http":
        print("entered", flush=True)
        await asyncio.sleep(0.5)
        await send({"type": "http.response.start", "status": 200})
        await send({"type": "http.response.body", "body": b"fine"})


async def main():
    listener = zibai.create_bind_socket("127.0.0.1:0")
    ready = lambda: print(listener.getsockname()[1], flush=True)
    try:
        await zibai.aserve(app=app, bind_socket=listener, before_serve_hook=ready)
    except asyncio.CancelledError:
        print("cancelled", flush=True)
        raise


try:
    asyncio.run(main())
except KeyboardInterrupt:
    print("interrupted")
"""


@pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX")
def test_ctrl_c_ends_the_program_and_loses_no_request() -> None:
    """asyncio.run() makes a cancellation of it."""
    command = [sys.executable, "-X", "dev", "-W", "error", "-c", PROGRAM]
    with subprocess.Popen(command, env=environment(), stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        with Client(int(process.stdout.readline())) as client:
            client.send(request())
            assert process.stdout.readline() == "entered\n"
            process.send_signal(signal.SIGINT)
            assert client.read().body == b"fine"
        assert process.stdout.read().split() == ["cancelled", "interrupted"]
    assert process.returncode == 0
