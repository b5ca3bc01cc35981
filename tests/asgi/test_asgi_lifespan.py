"""The lifespan of an application, alone and within a server: traps 43 and 45 to 48 of other servers."""

from __future__ import annotations

import asyncio
import contextvars
import gc
import logging
import signal
import sys
import threading
import time
from typing import TYPE_CHECKING, Any

import pytest
from harness import request, respond, until

from zibai import create_bind_socket, serve
from zibai.engine.backends.tasks import Tasks
from zibai.errors import LoadError
from zibai.gateway import lifespan as module
from zibai.gateway.lifespan import Lifespan

from serving import serving
from support import DEADLINE, Client, Server, listens, run, wait_for

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    App = Callable[[Any, Any, Any], Awaitable[Any]]

VARIABLE: contextvars.ContextVar[str] = contextvars.ContextVar("VARIABLE", default="unset")


async def whole(scope: Any, receive: Any, send: Any) -> None:
    """A lifespan without fault; other requests get a response."""
    if scope["type"] != "lifespan":
        await respond(send)
        return
    assert scope["asgi"] == {"version": "3.0", "spec_version": "2.0"}
    scope["state"]["begun"] = 1
    VARIABLE.set("startup")
    assert await receive() == {"type": "lifespan.startup"}
    await send({"type": "lifespan.startup.complete"})
    assert await receive() == {"type": "lifespan.shutdown"}
    scope["state"]["ended"] = 1
    await send({"type": "lifespan.shutdown.complete"})


async def raises_at_once(scope: Any, receive: Any, send: Any) -> None:
    if scope["type"] != "http":
        raise KeyError(scope["type"])
    await respond(send)


async def returns_at_once(scope: Any, receive: Any, send: Any) -> None:
    if scope["type"] == "http":
        await respond(send)


async def returns_later(scope: Any, receive: Any, send: Any) -> None:
    if scope["type"] == "lifespan":
        await receive()
    else:
        await respond(send)


async def raises_later(scope: Any, receive: Any, send: Any) -> None:
    await receive()
    raise ZeroDivisionError("no database")


async def exits(scope: Any, receive: Any, send: Any) -> None:
    await receive()
    raise SystemExit(7)


async def cancels(scope: Any, receive: Any, send: Any) -> None:
    await receive()
    raise asyncio.CancelledError


async def refuses(scope: Any, receive: Any, send: Any) -> None:
    await receive()
    await send({"type": "lifespan.startup.failed", "message": "the database\nis away"})


async def refuses_and_raises(scope: Any, receive: Any, send: Any) -> None:
    await refuses(scope, receive, send)
    raise KeyError("what Starlette does")


async def refuses_and_stays(scope: Any, receive: Any, send: Any) -> None:
    await refuses(scope, receive, send)
    await asyncio.sleep(60)


def start(app: App, mode: Any = "auto") -> Lifespan:
    """Start it, and end it again."""

    async def main() -> Lifespan:
        lifespan = Lifespan(app, mode)
        await asyncio.wait_for(lifespan.start(), 5)
        await lifespan.stop(1)
        return lifespan

    return asyncio.run(main())


def test_all_of_it() -> None:
    lifespan = start(whole)
    assert lifespan.state == {"begun": 1, "ended": 1}
    assert lifespan.context[VARIABLE] == "startup"


@pytest.mark.parametrize("app", [raises_at_once, returns_at_once, returns_later], ids=lambda app: app.__name__)
def test_an_application_without(app: App, caplog: pytest.LogCaptureFixture) -> None:
    """Trap 46: uvicorn#260, and trap 47: hypercorn#315, which waited for ever."""
    with caplog.at_level(logging.DEBUG, "zibai.debug"):
        start(app)
    assert [record.levelname for record in caplog.records if record.name.startswith("zibai")] in ([], ["DEBUG"])
    with pytest.raises(LoadError):
        start(app, "on")


@pytest.mark.parametrize("mode", ["auto", "on"])
@pytest.mark.parametrize(
    ("app", "told"),
    [
        (raises_later, "no database"),
        (exits, "SystemExit"),
        (cancels, "CancelledError"),
        (refuses, "the database\nis away"),
        (refuses_and_raises, "the database\nis away"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_a_start_that_fails_has_its_reason(app: App, told: str, mode: str) -> None:
    """Trap 45: starlette#486, connexion#1693, uvicorn#2862: it was hidden; trap 48."""
    with pytest.raises(LoadError) as caught:
        start(app, mode)
    assert told in str(caught.value) + caught.value.trace
    assert caught.value.exit_code == 3
    if app is raises_later:
        assert "Traceback" in caught.value.trace
        assert "raises_later" in caught.value.trace


def test_who_refuses_need_not_return(monkeypatch: pytest.MonkeyPatch) -> None:
    begun = time.monotonic()
    with pytest.raises(LoadError):
        start(refuses_and_stays)
    assert time.monotonic() - begun < 5


def test_off() -> None:
    called: list[int] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        called.append(1)

    start(app, "off")
    assert not called


def test_complete_without_receive() -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "lifespan.startup.complete"})
        await receive()
        assert (await receive())["type"] == "lifespan.shutdown"
        scope["state"]["ended"] = 1

    assert start(app, "on").state == {"ended": 1}


WRONG = [
    ("lifespan.startup.complete", "lifespan.startup.complete", ValueError),
    ("lifespan.shutdown.complete", None, ValueError),  # before its time
    ("lifespan.nonsense", None, ValueError),
    ("http.response.start", None, ValueError),
    ("lifespan.startup.complete", "lifespan.shutdown.complete", RuntimeError),  # before its event
]


@pytest.mark.parametrize(("first", "second", "error"), WRONG)
def test_wrong_messages(first: str, second: str | None, error: type[Exception]) -> None:
    found: list[BaseException] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        try:
            await send({"type": first})
            if second is not None:
                await send({"type": second})
        except Exception as failure:
            found.append(failure)
        if second is None:
            await send({"type": "lifespan.startup.complete"})
        await receive()

    start(app, "on")
    assert [type(each) for each in found] == [error]


async def fails_at_the_end(scope: Any, receive: Any, send: Any) -> None:
    await receive()
    await send({"type": "lifespan.startup.complete"})
    await receive()
    await send({"type": "lifespan.shutdown.failed", "message": "cannot close"})


async def raises_at_the_end(scope: Any, receive: Any, send: Any) -> None:
    await receive()
    await send({"type": "lifespan.startup.complete"})
    await receive()
    raise ZeroDivisionError("at the end")


async def raises_between(scope: Any, receive: Any, send: Any) -> None:
    await receive()
    await send({"type": "lifespan.startup.complete"})
    raise ZeroDivisionError("between")


async def hangs_at_the_end(scope: Any, receive: Any, send: Any) -> None:
    await receive()
    await send({"type": "lifespan.startup.complete"})
    await receive()
    await asyncio.sleep(60)


@pytest.mark.parametrize(
    ("app", "told"),
    [
        (fails_at_the_end, "cannot close"),
        (raises_at_the_end, "at the end"),
        (raises_between, "between"),
        (hangs_at_the_end, "in time"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_an_end_that_fails_is_logged(
    app: App, told: str, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Trap 45, the shutdown."""
    monkeypatch.setattr(module, "LEAST", 0.1)
    logging.getLogger("zibai.error").propagate = True

    async def main() -> None:
        lifespan = Lifespan(app)
        await lifespan.start()
        await asyncio.sleep(0)
        await lifespan.stop(0.1)

    with caplog.at_level(logging.ERROR):
        asyncio.run(main())
    assert told in caplog.text


def test_a_failure_between_is_logged_at_once_and_once(caplog: pytest.LogCaptureFixture) -> None:
    """What the application runs in its lifespan, as a group of tasks, is gone from then on."""
    logging.getLogger("zibai.error").propagate = True
    fail = asyncio.Event()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await send({"type": "lifespan.startup.complete"})
        async with asyncio.TaskGroup() as group:
            group.create_task(raises())
            await receive()

    async def raises() -> None:
        await fail.wait()
        raise ZeroDivisionError("of a task beside the requests")

    async def main() -> None:
        lifespan = Lifespan(app)
        await lifespan.start()
        assert not caplog.records
        fail.set()
        async with asyncio.timeout(DEADLINE):
            while not caplog.records:  # noqa: ASYNC110 -- the log has no event
                await asyncio.sleep(0)
        await lifespan.stop(0.1)

    with caplog.at_level(logging.ERROR):
        asyncio.run(main())
    assert [record.levelname for record in caplog.records] == ["ERROR"]
    assert "of a task beside the requests" in caplog.text


def test_an_end_that_takes_too_long_is_cancelled_when_its_time_is_over(monkeypatch: pytest.MonkeyPatch) -> None:
    """It was cancelled a second later, when the process had been ended in the meantime, and no ``finally`` ran."""
    monkeypatch.setattr(module, "LEAST", 0.01)
    monkeypatch.setattr(module, "MOMENT", 2 * DEADLINE)
    took: list[float] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await send({"type": "lifespan.startup.complete"})
        await receive()
        begun = time.monotonic()
        try:
            await asyncio.sleep(60)
        finally:
            took.append(time.monotonic() - begun)

    async def main() -> None:
        lifespan = Lifespan(app)
        await lifespan.start()
        await lifespan.stop(0)

    asyncio.run(main())
    assert took[0] < DEADLINE


def test_a_slow_end_has_its_time() -> None:
    ended: list[int] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await send({"type": "lifespan.startup.complete"})
        await receive()
        await asyncio.sleep(0.3)
        ended.append(1)
        await send({"type": "lifespan.shutdown.complete"})

    async def main() -> None:
        lifespan = Lifespan(app)
        await lifespan.start()
        await lifespan.stop(0)  # it gets LEAST at least

    asyncio.run(main())
    assert ended == [1]


def test_the_task_is_held() -> None:
    """Trap 26 once more."""

    async def main() -> None:
        lifespan = Lifespan(whole)
        await lifespan.start()
        gc.collect()
        await lifespan.stop(1)
        assert lifespan.state["ended"] == 1

    asyncio.run(main())


# Within a server.


def test_the_order_of_a_life() -> None:
    order: list[str] = []
    end = threading.Event()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            await receive()
            order.append("startup")
            await send({"type": "lifespan.startup.complete"})
            await receive()
            order.append("shutdown")
            await send({"type": "lifespan.shutdown.complete"})
            return
        await respond(send)
        end.set()
        await asyncio.sleep(0.05)
        order.append("background")

    listener = create_bind_socket("127.0.0.1:0")
    port = listener.getsockname()[1]
    ready = threading.Event()

    def ask() -> None:
        assert ready.wait(DEADLINE)
        with Client(port) as client:
            client.get("/")

    asking = threading.Thread(target=ask)
    asking.start()
    serve(
        app=app,
        bind_socket=listener,
        graceful_exit=end,
        before_serve_hook=lambda: (order.append("before_serve"), ready.set()),
        before_graceful_exit_hook=lambda: order.append("before_graceful_exit"),
        before_died_hook=lambda: order.append("before_died"),
    )
    asking.join()
    order.remove("before_graceful_exit")  # beside the background task
    assert order == ["startup", "before_serve", "background", "shutdown", "before_died"]


@pytest.mark.parametrize("app", [raises_later, refuses, exits], ids=lambda app: app.__name__)
def test_a_server_whose_application_does_not_start(app: App) -> None:
    listener = create_bind_socket("127.0.0.1:0")
    ready: list[int] = []
    with pytest.raises(LoadError):
        serve(app=app, bind_socket=listener, before_serve_hook=lambda: ready.append(1))
    assert not ready
    listener.close()


@pytest.mark.parametrize("app", [raises_at_once, returns_at_once, returns_later, whole], ids=lambda app: app.__name__)
def test_a_server_with_and_without(app: App) -> None:
    with serving(app, valid=False) as server, Client(server.port) as client:
        assert client.get("/").status == 200
    assert not [record for record in server.records if record.levelname == "ERROR"]


def test_an_exit_that_comes_during_the_start() -> None:
    """Trap 43: uvicorn#2812: the shutdown was skipped."""
    heard: list[str] = []
    end = threading.Event()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        heard.append((await receive())["type"])
        end.set()
        await asyncio.sleep(0.05)
        await send({"type": "lifespan.startup.complete"})
        heard.append((await receive())["type"])
        await send({"type": "lifespan.shutdown.complete"})

    serve(app=app, bind_socket=create_bind_socket("127.0.0.1:0"), graceful_exit=end)
    assert heard == ["lifespan.startup", "lifespan.shutdown"]


async def never_starts(scope: Any, receive: Any, send: Any) -> None:
    await receive()
    await asyncio.sleep(1000)


def test_a_start_that_the_end_overtakes_has_not_failed() -> None:
    async def main() -> None:
        entered = asyncio.Event()

        async def app(scope: Any, receive: Any, send: Any) -> None:
            entered.set()
            await never_starts(scope, receive, send)

        lifespan = Lifespan(app)
        starting = asyncio.create_task(lifespan.start())
        await entered.wait()
        await lifespan.stop(1)
        assert await starting is False

    asyncio.run(main())


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
def test_a_start_without_end_has_the_time_of_the_graceful_exit(loop: str) -> None:
    if loop == "uvloop":
        pytest.importorskip("uvloop")
    end = threading.Event()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        end.set()
        await never_starts(scope, receive, send)

    with create_bind_socket("127.0.0.1:0") as listener:
        ready: list[int] = []
        begun = time.monotonic()
        serve(
            app=app,
            bind_socket=listener,
            graceful_exit=end,
            graceful_exit_timeout=0.2,
            before_serve_hook=lambda: ready.append(1),
            loop=loop,
        )
        assert 0.2 <= time.monotonic() - begun < DEADLINE
        assert not ready
        assert listener.fileno() < 0


@pytest.mark.skipif(sys.platform == "win32", reason="signals between processes are POSIX")
@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM"])
@pytest.mark.parametrize("mode", [(), ("-p", "1"), ("-p", "1", "--preload")], ids=["single", "worker", "preload"])
@pytest.mark.daily("single-SIGINT", "worker-SIGTERM")
def test_an_interrupted_start_ends_at_once_and_is_no_error(mode: tuple[str, ...], name: str) -> None:
    with Server("lifespans:waits", *mode, "--graceful-exit-timeout", "3600", "--no-gevent") as server:
        server.wait_for_log("entered")
        server.signal(getattr(signal, name))
        assert server.wait() == 0
    assert not [line for line in server.log if "Traceback" in line or "ERROR" in line or "LoadError" in line]


def test_a_hook_that_fails_after_the_start() -> None:
    heard: list[str] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        heard.append((await receive())["type"])
        await send({"type": "lifespan.startup.complete"})
        heard.append((await receive())["type"])
        await send({"type": "lifespan.shutdown.complete"})

    listener = create_bind_socket("127.0.0.1:0")
    with pytest.raises(ZeroDivisionError):
        serve(app=app, bind_socket=listener, before_serve_hook=lambda: 1 / 0)
    assert heard == ["lifespan.startup", "lifespan.shutdown"]
    listener.close()


def test_the_exit_code_of_a_start_that_failed() -> None:
    """Trap 48: hypercorn exits with 0."""
    done = run("lifespans:refuses", "--listen", "127.0.0.1:0", "--no-gevent")
    assert done.returncode == 3
    assert "the database" in done.stderr


# The end of a server.


def test_endless_event_streams_end_and_downloads_do_not() -> None:
    """Trap 39: uvicorn#2829/#2913, python-sdk#514, sse-starlette#132; trap 41: finally runs."""
    streaming, downloading, told = threading.Event(), threading.Event(), threading.Event()
    closed: list[str] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        kind = b"text/event-stream" if scope["path"] == "/events" else b"application/octet-stream"
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", kind)]})
        try:
            if scope["path"] == "/events":
                while True:
                    await send({"type": "http.response.body", "body": b"data: x\n\n", "more_body": True})
                    streaming.set()
                    await asyncio.sleep(0.01)
            for _ in range(5):
                await send({"type": "http.response.body", "body": b"x" * 1000, "more_body": True})
                downloading.set()
                await until(told)
                await asyncio.sleep(0.02)
            await send({"type": "http.response.body"})
        finally:
            await asyncio.sleep(0)
            closed.append(scope["path"])

    with serving(app, valid=False, lifespan="off", graceful_exit_timeout=15) as server:
        with Client(server.port) as events, Client(server.port) as download:
            events.send(request("/events"))
            download.send(request("/download"))
            assert streaming.wait(DEADLINE)
            assert downloading.wait(DEADLINE)
            begun = time.monotonic()
            server.end.set()
            assert events.read().body.endswith(b"data: x\n\n")  # with a proper end
            told.set()
            assert download.read().body == b"x" * 5000
    assert time.monotonic() - begun < 10
    assert closed == ["/events", "/download"]
    assert not [record for record in server.records if record.exc_info]


def test_an_event_stream_that_begins_while_the_server_ends_is_told() -> None:
    """It began too late to be told with the others, and would last until the end of the graceful shutdown."""
    entered, go = threading.Event(), threading.Event()

    async def events(scope: Any, receive: Any, send: Any) -> None:
        entered.set()
        await until(go)
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/event-stream")]})
        while True:
            await send({"type": "http.response.body", "body": b"data: x\n\n", "more_body": True})
            await asyncio.sleep(0.01)

    with (
        serving(events, valid=False, lifespan="off", graceful_exit_timeout=100 * DEADLINE) as server,
        Client(server.port) as client,
    ):
        client.send(request("/"))
        assert entered.wait(DEADLINE)
        server.end.set()
        wait_for(lambda: not listens(server.port))
        go.set()
        assert client.read().body.endswith(b"data: x\n\n")


def test_everybody_is_told_and_then_cancelled(monkeypatch: pytest.MonkeyPatch) -> None:
    """At three quarters of the time, and at its end. Between the two, who listens has its step, however slow it is."""
    heard: list[tuple[str, float]] = []
    entered = threading.Barrier(3)
    begun = [0.0]
    cancel = Tasks.cancel

    def cancel_later(tasks: Tasks) -> None:
        if heard:
            cancel(tasks)
        elif not tasks.event_loop.is_closed():
            tasks.event_loop.call_later(0.01, cancel_later, tasks)

    monkeypatch.setattr(Tasks, "cancel", cancel_later)

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        listening = asyncio.create_task(receive())
        await asyncio.get_running_loop().run_in_executor(None, entered.wait)
        try:
            if scope["path"] == "/listens":
                message = await listening
                assert receive.__self__.ending  # it was told, and its connection is not just cut
                heard.append((message["type"], time.monotonic() - begun[0]))
            else:
                await asyncio.sleep(60)
        except asyncio.CancelledError:
            await asyncio.sleep(0.01)
            heard.append(("cancelled", time.monotonic() - begun[0]))
            raise

    with serving(app, valid=False, lifespan="off", graceful_exit_timeout=1) as server:
        with Client(server.port) as one, Client(server.port) as two:
            one.send(request("/listens"))
            two.send(request("/sleeps"))
            entered.wait(DEADLINE)
            begun[0] = time.monotonic()
            server.end.set()
            wait_for(lambda: len(heard) == 2)
    assert [kind for kind, _ in heard] == ["http.disconnect", "cancelled"]
    assert 0.6 < heard[0][1] < heard[1][1]
    assert heard[1][1] > 0.9


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
@pytest.mark.parametrize("when", ["child", "awaited child", "callback", "background", "start", "end"])
@pytest.mark.daily("asyncio")
def test_sys_exit_in_an_application_ends_no_server(when: str, loop: str) -> None:
    """asyncio lets it out of the event loop, whichever task or callback raises it."""
    pytest.importorskip(loop)
    waiting, go = threading.Event(), threading.Event()
    tasks: list[Any] = []
    over: list[str] = []

    async def leave() -> None:
        await asyncio.sleep(0)
        sys.exit(3)

    async def app(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            for phase in ("startup", "shutdown"):
                await receive()
                if (when, phase) in (("start", "startup"), ("end", "shutdown")):
                    tasks.append(asyncio.create_task(leave()))
                    await asyncio.sleep(0.01)
                await send({"type": f"lifespan.{phase}.complete"})
            over.append("shutdown")
        elif scope["path"] == "/waits":
            waiting.set()
            await until(go)
            await respond(send)
        elif scope["path"] == "/exits":
            if when == "background":
                await respond(send)
                await asyncio.sleep(0)
                sys.exit(3)
            if when == "callback":
                asyncio.get_running_loop().call_soon(sys.exit, 3)
            elif "child" in when:
                tasks.append(asyncio.create_task(leave()))
                if when == "awaited child":
                    await tasks[0]
            await asyncio.sleep(0.01)
            await respond(send)
        else:
            await respond(send)

    with serving(app, valid=False, loop=loop) as server, Client(server.port) as waits, Client(server.port) as client:
        waits.send(request("/waits"))
        assert waiting.wait(DEADLINE)
        assert client.get("/exits").status == (500 if when == "awaited child" else 200)
        assert client.get("/").status == 200
        go.set()
        assert waits.read().status == 200
        assert not server.end.is_set()
    assert over == ["shutdown"], "the end is as it always is"
    said = [record.getMessage() for record in server.logged("zibai.error") if record.exc_info]
    assert any("SystemExit outside a request" in text for text in said) is (when != "background")
    tasks.clear()
    gc.collect()


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
def test_an_application_that_stops_the_event_loop_ends_no_server(loop: str) -> None:
    pytest.importorskip(loop)

    async def app(scope: Any, receive: Any, send: Any) -> None:
        if scope["path"] == "/stops":
            asyncio.get_running_loop().stop()
        await asyncio.sleep(0.01)
        await respond(send)

    with serving(app, valid=False, loop=loop, lifespan="off") as server, Client(server.port) as client:
        for path in ("/stops", "/", "/stops", "/"):
            assert client.get(path).status == 200
        assert not server.end.is_set()
    told = "the application has called stop() of the event loop, which does not end the worker"
    assert [record.getMessage() for record in server.logged("zibai.error")].count(told) == 2


@pytest.mark.parametrize("when", ["first step", "later", "background", "child"])
def test_ctrl_c_in_an_application_ends_the_server(when: str, caplog: pytest.LogCaptureFixture) -> None:
    """And nothing of it is left, also where a task does not want to end."""
    cleaned: list[str] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        if scope["path"] == "/waits":
            try:
                await asyncio.sleep(60)
            finally:
                cleaned.append("finally")
        if when == "background":
            await respond(send)
        if when != "first step":
            await asyncio.sleep(0.01)
        if when == "child":
            await asyncio.gather(interrupted())
        raise KeyboardInterrupt

    async def interrupted() -> None:
        raise KeyboardInterrupt

    listener = create_bind_socket("127.0.0.1:0")
    port = listener.getsockname()[1]
    end = threading.Event()
    ready = threading.Event()
    failed: list[BaseException] = []

    def serve_it() -> None:
        try:
            serve(
                app=app, bind_socket=listener, graceful_exit=end, lifespan="off", before_serve_hook=ready.set
            )  # fmt: skip
        except BaseException as error:
            failed.append(error)

    serving_it = threading.Thread(target=serve_it)
    serving_it.start()
    assert ready.wait(DEADLINE)
    with Client(port) as waits, Client(port) as client:
        waits.send(request("/waits"))
        client.send(request())
        serving_it.join(DEADLINE)
        assert not serving_it.is_alive()
    end.set()  # for the thread that waits for it
    assert [type(each) for each in failed] == [KeyboardInterrupt]
    failed.clear()
    gc.collect()  # a socket that was left open is an error now, and not in the next test
    assert cleaned == ["finally"]
    if when in {"later", "background"}:
        assert "never retrieved" not in caplog.text, "asyncio need not report what ends the server"


@pytest.mark.slow
def test_a_blocked_event_loop_is_named_and_not_killed() -> None:
    """Trap 42: uvicorn#2506 kills the worker after 5 s. Only a parent can do so, so there is one."""
    from support import Server

    with Server("lifespans:blocks", "-p", "1", "--interface", "asgi") as server:
        with Client(server.port) as client:
            assert client.get("/?0").body == b"fine"
            before = server.children()
            assert client.get("/?8").body == b"fine"
            assert client.get("/?0").body == b"fine"
        assert "has blocked the event loop" in server.wait_for_log("has blocked")
        assert server.children() == before
        assert not [line for line in server.log if "killed" in line]
