"""Clients that leave: traps 1 to 10 of other servers, and what a client does while its application runs."""

from __future__ import annotations

import asyncio
import threading
import time
from typing import TYPE_CHECKING, Any

import pytest
from harness import END, START, asgi, errors, half_close, hello, read_body, request, reset, respond, tracebacks, until

from zibai.engine.async_request import AsyncRequest
from zibai.engine.loop import Loop
from zibai.net.kernel import HALF_CLOSE

from support import DEADLINE, Client, wait_for
from wsclient import handshake

if TYPE_CHECKING:
    from collections.abc import Callable

INTERNAL = b"500 Internal Server Error\n"
PATIENT = dict.fromkeys(("keep_alive_timeout", "header_timeout", "socket_timeout"), 10 * DEADLINE)
"""No limit of the server ends before that of the test: what happens is told by an event."""

LEAVE: dict[str, Callable[[Client], None]] = {"reset": reset, "close": Client.close, "half-close": half_close}


async def endless(send: Any) -> None:
    await send(START)
    while True:
        await send({"type": "http.response.body", "body": b"x" * 1000, "more_body": True})
        await asyncio.sleep(0.001)


async def in_group(send: Any) -> None:
    async with asyncio.TaskGroup() as group:
        group.create_task(endless(send))
        group.create_task(asyncio.sleep(60))


async def in_groups(send: Any) -> None:
    async with asyncio.TaskGroup() as group:
        group.create_task(in_group(send))


async def wrapped(send: Any) -> None:
    try:
        await endless(send)
    except OSError as error:
        raise RuntimeError("my own") from error


async def with_a_cause(send: Any) -> None:
    cause = None
    try:
        await endless(send)
    except OSError as error:
        cause = error
    raise RuntimeError("my own, and no context") from cause


async def with_a_cancellation(send: Any) -> None:
    """As a group of anyio raises both."""
    try:
        await endless(send)
    except OSError as error:
        raise BaseExceptionGroup("both", [asyncio.CancelledError(), error]) from None


async def in_context(send: Any) -> None:
    try:
        await endless(send)
    finally:
        raise KeyError("while another error is handled")


CONSEQUENCES = [endless, in_group, in_groups, wrapped, with_a_cause, with_a_cancellation, in_context]


@pytest.mark.parametrize("app", CONSEQUENCES, ids=lambda app: app.__name__)
def test_what_an_application_makes_of_our_error_is_no_fault(app: Any) -> None:
    """Trap 1: uvicorn#2271, asgiref#578."""
    done = threading.Event()

    async def main(scope: Any, receive: Any, send: Any) -> None:
        if scope["path"] == "/hello":
            await respond(send)
            return
        try:
            await app(send)
        finally:
            done.set()

    with asgi(main) as server:
        with Client(server.port) as client:
            client.send(request())
            assert client.socket.recv(10)
            reset(client)
        assert done.wait(DEADLINE)
        hello(server)
    assert not tracebacks(server)
    assert not [record for record in server.logged("zibai.error") if record.levelname == "ERROR"]


@pytest.mark.parametrize("beside", [False, True], ids=["alone", "beside ours"])
def test_an_error_of_the_application_is_its_own_though_the_client_has_left(beside: bool) -> None:
    """The other side of trap 1."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        assert (await receive())["type"] == "http.disconnect"
        try:
            await send(START)
        except OSError as error:
            ours = error
        mine = KeyError("mine")
        if beside:
            raise ExceptionGroup("both", [ours, mine])
        raise mine

    with asgi(app) as server:
        with Client(server.port) as client:
            client.send(request())
            half_close(client)
            drop(client)
    assert "KeyError('mine')" in "".join(errors(server))


def drop(client: Client) -> None:
    """Read to the end, whichever it is."""
    try:
        client.rest()
    except ConnectionError:
        pass


MESSAGES: list[dict[str, Any]] = [
    {"type": "http.response.early_hint", "links": [b"</a.css>"]},
    START,
    {**END, "more_body": True},
    {"type": "http.response.pathsend", "path": __file__},
    {"type": "http.response.zerocopysend", "file": 0},
    END,
    {"type": "http.response.trailers", "headers": []},
]


@pytest.mark.parametrize("leave", LEAVE)
def test_send_raises_oserror_after_the_disconnect(leave: str) -> None:
    """Trap 2: granian#650, #922."""
    raised: list[BaseException] = []
    heard = threading.Event()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        if scope["path"] == "/hello":
            await respond(send)
            return
        await receive()
        assert (await receive())["type"] == "http.disconnect"
        assert (await receive())["type"] == "http.disconnect"  # and each time
        for message in MESSAGES:
            try:
                await send(message)
            except OSError as error:
                raised.append(error)
        heard.set()

    with asgi(app) as server:
        with Client(server.port) as client:
            client.send(request())
            LEAVE[leave](client)
            assert heard.wait(DEADLINE)
            if leave == "half-close":
                drop(client)
        hello(server)
    assert len(raised) == len(MESSAGES)
    assert not tracebacks(server)
    assert ("zibai.access", 499) in server.exchanges


def test_a_stalled_send_ends_with_its_client() -> None:
    """Trap 3: uvicorn#2754, #336: a drain that waits hears of the reset."""
    over = threading.Event()
    exchanges: list[Any] = []
    sent = [0]

    async def app(scope: Any, receive: Any, send: Any) -> None:
        if scope["path"] == "/hello":
            await respond(send)
            return
        exchanges.append(send.__self__)
        await send(START)
        try:
            while True:
                await send({**END, "body": b"x" * 100_000, "more_body": True})
                sent[0] += 1
        except OSError:
            over.set()
            raise

    def stalls() -> bool:
        """Whether it waits, and a turn of the loop has changed nothing."""
        before = sent[0]
        hello(server)
        return bool(exchanges) and exchanges[0].phase == "send" and sent[0] == before

    with asgi(app, **PATIENT) as server:
        with Client(server.port) as client:
            client.send(request())
            wait_for(stalls)
            assert not over.is_set()
            reset(client)
        assert over.wait(DEADLINE)
    assert not tracebacks(server)


@pytest.mark.parametrize("how", ["only sends", "reads the body", "reads the body late", "streams", "raises", "cancels"])
def test_a_half_closed_client_gets_its_response(how: str) -> None:
    """Trap 4: uvicorn#1264: FIN is not absence."""
    entered, go, more = threading.Event(), threading.Event(), threading.Event()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        if scope["path"] == "/hello":
            await respond(send)
            return
        entered.set()
        if how == "reads the body":
            assert await read_body(receive) == b"abc"
        await until(go)
        if how == "reads the body late":
            assert await read_body(receive) == b"abc"
        if how == "raises":
            raise KeyError("mine")
        if how == "cancels":
            raise asyncio.CancelledError
        if how == "streams":
            await send(START)
            await send({**END, "body": b"la", "more_body": True})
            await until(more)
            await send({**END, "body": b"te"})
        else:
            await respond(send, b"late")

    with asgi(app) as server, Client(server.port) as client:
        client.send(request("/", "Content-Length: 3", method="POST"))
        assert entered.wait(DEADLINE)
        client.send(b"abc")
        half_close(client)
        hello(server)  # the loop has looked at its connections since the end came
        go.set()
        if how == "streams":
            assert client.file.readline() == b"HTTP/1.1 200 OK\r\n"
            while client.file.readline() != b"la\r\n":  # before the rest is there
                pass
            more.set()
            assert client.rest() == b"2\r\nte\r\n0\r\n\r\n"
        else:
            response = client.read()
            failed = how in ("raises", "cancels")
            assert (response.status, response.body) == ((500, INTERNAL) if failed else (200, b"late"))
            assert client.rest() == b""


def test_pipelined_requests_of_a_half_closed_client_are_all_run() -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await asyncio.sleep(0.01)
        await respond(send, scope["path"].encode())

    with asgi(app) as server, Client(server.port) as client:
        client.send(request("/1") + request("/2") + request("/3"))
        half_close(client)
        assert [client.read().body for _ in range(3)] == [b"/1", b"/2", b"/3"]
        assert client.rest() == b""


def test_a_half_closed_long_poll_costs_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Trap 5: a level-triggered end spins. Turns are counted, since on a busy machine their time is short."""
    turn, turns = Loop.turn, [0]
    spent: list[int] = []
    closed = threading.Event()

    def count(loop: Loop, block: bool) -> None:
        turns[0] += 1
        turn(loop, block)

    monkeypatch.setattr(Loop, "turn", count)

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await read_body(receive)
        if scope["path"] == "/polled":
            await until(closed)
            before = turns[0]
            await asyncio.sleep(0.5)
            spent.append(turns[0] - before)
        await respond(send)

    with asgi(app) as server, Client(server.port) as client:
        client.send(request("/polled"))
        half_close(client)
        hello(server)  # the loop has looked at its connections since the end came
        closed.set()
        assert client.read().body == b"fine"
    assert spent[0] < 20


@pytest.mark.parametrize("leave", LEAVE)
def test_an_application_hears_of_it_while_it_works(leave: str) -> None:
    """Trap 6: uvicorn#501, #847, granian#286, #412."""
    entered, heard = threading.Event(), threading.Event()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        if scope["path"] == "/hello":
            await respond(send)
            return
        await read_body(receive)
        listening = asyncio.create_task(receive())
        entered.set()
        assert (await listening)["type"] == "http.disconnect"
        heard.set()

    with asgi(app, **PATIENT) as server:
        with Client(server.port) as client:
            client.send(request())
            assert entered.wait(DEADLINE)
            LEAVE[leave](client)
            assert heard.wait(DEADLINE)
        hello(server)


@pytest.mark.parametrize("leave", ["reset", "close"])
def test_a_background_task_outlives_its_client(leave: str) -> None:
    """Trap 7: starlette#1438."""
    go, noted = threading.Event(), threading.Event()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await respond(send)
        await until(go)
        noted.set()

    with asgi(app) as server:
        with Client(server.port) as client:
            client.send(request())
            assert client.read().status == 200
            LEAVE[leave](client)
        hello_with(server.port, go)
        assert noted.wait(DEADLINE)
    assert not tracebacks(server)


def hello_with(port: int, go: threading.Event) -> None:
    """One more request, of another client, before the background task may go on."""
    with Client(port) as client:
        assert client.get("/").status == 200
    go.set()


@pytest.mark.parametrize("when", ["it waits", "it has its message"])
def test_a_cancelled_receive_is_cancelled_and_loses_nothing(when: str) -> None:
    """Trap 8: gunicorn#3654, and trap 9: Starlette's is_disconnected, which cancels a receive before its first step."""
    told, cancelled = threading.Event(), threading.Event()
    bodies: list[bytes] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        early = asyncio.create_task(receive())
        early.cancel()  # before its first step
        with pytest.raises(asyncio.CancelledError):
            await early
        late = asyncio.create_task(receive())
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        late.cancel()  # while it waits
        with pytest.raises(asyncio.CancelledError):
            await late
        last = asyncio.create_task(receive())
        told.set()
        if when == "it has its message":
            await asyncio.wait({last})
        assert last.cancel() is (when == "it waits")
        cancelled.set()
        try:
            bodies.append((await last)["body"])
        except asyncio.CancelledError:
            assert when == "it waits"
        bodies.append(await read_body(receive))
        await respond(send)

    with asgi(app) as server, Client(server.port) as client:
        client.send(request("/", "Content-Length: 6", method="POST"))
        assert told.wait(DEADLINE)
        if when == "it has its message":
            client.send(b"abc")
        assert cancelled.wait(DEADLINE)
        client.send(b"def" if when == "it has its message" else b"abcdef")
        assert client.read().status == 200
    assert b"".join(bodies) == b"abcdef"
    assert not errors(server)


def test_a_receive_that_is_cancelled_when_its_bytes_come_loses_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Trap 8: it was woken already, and a cancellation must be heard all the same. Django waits for it."""
    told = threading.Event()
    waiting: list[asyncio.Task[Any]] = []
    bodies: list[bytes] = []
    feed = AsyncRequest.feed

    def feed_and_cancel(exchange: AsyncRequest, data: bytes) -> None:
        feed(exchange, data)  # which wakes the task
        for task in waiting:
            assert task.cancel()
        waiting.clear()

    monkeypatch.setattr(AsyncRequest, "feed", feed_and_cancel)

    async def app(scope: Any, receive: Any, send: Any) -> None:
        task = asyncio.create_task(receive())
        await asyncio.sleep(0)  # it has had its first step, and waits
        waiting.append(task)
        told.set()
        with pytest.raises(asyncio.CancelledError):
            await task
        bodies.append(await read_body(receive))
        await respond(send)

    with asgi(app) as server, Client(server.port) as client:
        client.send(request("/", "Content-Length: 6", method="POST"))
        assert told.wait(DEADLINE)
        client.send(b"abc")
        wait_for(lambda: not waiting)
        client.send(b"def")
        assert client.read().status == 200
    assert bodies == [b"abcdef"]
    assert not errors(server)


@pytest.mark.parametrize("come", [0, 3, 6], ids=["no body", "half a body", "a body"])
def test_receive_within_a_cancelled_task_takes_what_is_there_and_nothing_else(come: int) -> None:
    """Trap 9: Starlette's is_disconnected: it calls ``receive`` in a scope that is cancelled already.

    What is there is returned by the first step, so that the cancellation hits a later wait. What is not there stays.
    """
    told, go = threading.Event(), threading.Event()
    first: list[bytes] = []
    bodies: list[bytes] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        if come == 3:
            told.set()
            await until(go)
        task = asyncio.current_task()
        assert task is not None
        task.cancel()
        with pytest.raises(asyncio.CancelledError):  # noqa: PT012
            first.append((await receive())["body"])
            await asyncio.sleep(0)
        assert task.uncancel() == 0
        assert receive.__self__.phase == "app"  # and nothing waits any more
        if come < 6:
            told.set()
            bodies.append(await read_body(receive))
        await respond(send)

    with asgi(app) as server, Client(server.port) as client:
        client.send(request("/", "Content-Length: 6", method="POST", body=b"abcdef"[:come]))
        if come == 3:
            assert told.wait(DEADLINE)
            told.clear()
            go.set()
        if come < 6:
            assert told.wait(DEADLINE)
            client.send(b"abcdef"[come:])
        assert client.read().status == 200
    assert b"".join(first) == b"abcdef"[:come]
    assert b"".join(first + bodies) == b"abcdef"
    assert not errors(server)


def test_a_cancelled_send_leaves_the_response_whole() -> None:
    size = 40

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send(START)
        for number in range(size):
            sending = asyncio.create_task(
                send({**END, "body": bytes([number]) * 100_000, "more_body": number < size - 1})
            )
            await asyncio.sleep(0)
            if number % 3 == 0:
                sending.cancel()
            await asyncio.wait({sending})

    with asgi(app) as server, Client(server.port) as client:
        client.send(request())
        assert client.read().body == b"".join(bytes([number]) * 100_000 for number in range(size))


@pytest.mark.parametrize("why", ["half-close", "reset", "half a body", "the response is over"])
def test_a_disconnect_that_is_there_is_told_without_a_pause(why: str) -> None:
    """Trap 10: anycorn#77: a queued disconnect came a checkpoint too late. And it is told each time."""
    found: list[Any] = []
    told, over = threading.Event(), threading.Event()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        if scope["path"] == "/hello":
            await respond(send)
            return
        await receive()
        await until(told)
        if why == "the response is over":
            await respond(send)
        for _ in range(2):
            coroutine = receive()
            try:
                coroutine.send(None)
            except StopIteration as stop:
                found.append(stop.value)
            coroutine.close()
        over.set()

    with asgi(app) as server, Client(server.port) as client:
        if why == "half a body":
            client.send(request("/", "Content-Length: 6", method="POST", body=b"abc"))
        else:
            client.send(request())
        if why == "reset":
            hello(server)  # it has the request, which a reset could overtake
            reset(client)
        elif why != "the response is over":
            half_close(client)
        hello(server)  # the loop has looked at its connections since the end came
        told.set()
        assert over.wait(DEADLINE)
        if why == "the response is over":
            half_close(client)
        if why != "reset":
            drop(client)
    assert found == [{"type": "http.disconnect"}] * 2


def test_many_may_wait_for_the_end_of_a_client() -> None:
    heard: list[str] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        heard.extend(message["type"] for message in await asyncio.gather(*(receive() for _ in range(5))))

    with asgi(app) as server, Client(server.port) as client:
        client.send(request())
        half_close(client)
        drop(client)
    assert heard == ["http.disconnect"] * 5


def test_two_readers_share_a_body() -> None:
    """Each piece goes to one of them, and only one hears of the end of the body."""
    told = threading.Event()
    parts: list[Any] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        both = [asyncio.create_task(receive()) for _ in range(2)]
        await asyncio.sleep(0)
        told.set()
        done, rest = await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
        parts.extend(each.result() for each in done)
        await respond(send)
        parts.extend([await each for each in rest])

    with asgi(app) as server, Client(server.port) as client:
        client.send(request("/", "Content-Length: 3", method="POST"))
        assert told.wait(DEADLINE)
        client.send(b"abc")
        assert client.read().status == 200
    assert parts == [{"type": "http.request", "body": b"abc", "more_body": False}, {"type": "http.disconnect"}]


def test_a_reset_is_seen_though_nothing_is_read() -> None:
    """64 KiB wait that the application does not take, so the loop does not read; nothing else would tell."""
    entered, heard = threading.Event(), threading.Event()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        entered.set()
        assert (await receive())["type"] == "http.disconnect"
        heard.set()

    with asgi(app, **PATIENT) as server, Client(server.port) as client:
        client.send(request())
        assert entered.wait(DEADLINE)
        client.socket.settimeout(0.2)
        try:
            while True:
                client.send(request("/next") * 1000)
        except TimeoutError:
            pass
        reset(client)
        assert heard.wait(DEADLINE)


def test_a_reset_makes_send_fail() -> None:
    """Also of an application that only sends: it need not send twice to learn it."""
    gone, over = threading.Event(), threading.Event()
    entered = threading.Event()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        entered.set()
        await until(gone)
        with pytest.raises(OSError, match="left"):
            await send(START)
        over.set()

    with asgi(app) as server:
        with Client(server.port) as client:
            client.send(request())
            assert entered.wait(DEADLINE)
            reset(client)
        gone.set()
        assert over.wait(DEADLINE)
    assert not tracebacks(server)


def test_a_request_whose_client_left_in_the_queue_is_not_run() -> None:
    """The one slot is taken meanwhile."""
    entered, go = threading.Event(), threading.Event()
    seen: list[str] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        seen.append(scope["path"])
        if scope["path"] == "/first":
            entered.set()
            await until(go)
        await respond(send)

    with asgi(app, max_workers=1) as server, Client(server.port) as first, Client(server.port) as second:
        # Both connections are there before the one slot is taken: with none free the server accepts nothing.
        assert first.get("/warm").status == second.get("/warm").status == 200
        first.send(request("/first"))
        assert entered.wait(DEADLINE)
        second.send(request("/second"))
        reset(second)
        time.sleep(2 * HALF_CLOSE)  # the server asks only for the client of a request that has waited for HALF_CLOSE
        go.set()
        assert first.read().status == 200
        assert first.get("/third").status == 200
    assert seen == ["/warm", "/warm", "/first", "/third"]


def test_an_event_stream_ends_with_its_client() -> None:
    over = threading.Event()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({**START, "headers": [(b"content-type", b"text/event-stream")]})
        try:
            while True:
                await send({**END, "body": b"data: x\n\n", "more_body": True})
                await asyncio.sleep(0.02)
        finally:
            over.set()

    with asgi(app, **PATIENT) as server:
        with Client(server.port) as client:
            client.send(request())
            assert client.socket.recv(10)
        assert over.wait(DEADLINE)
    assert not tracebacks(server)


@pytest.mark.parametrize("size", [10, 1_000_000], ids=["small", "stalled"])
@pytest.mark.parametrize("cancels", [True, False])
def test_a_task_that_listens_may_cancel_the_one_that_sends(size: int, cancels: bool) -> None:
    """As Django does, which does not expect that ``send`` raises: it would keep what the request has held."""
    ended: list[str] = []
    over = threading.Event()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        async def stream() -> None:
            await send(START)
            try:
                while True:
                    await send({**END, "body": b"x" * size, "more_body": True})
                    await asyncio.sleep(0)
            except BaseException as error:
                ended.append(type(error).__name__)
                raise

        sending = asyncio.create_task(stream())
        try:
            await read_body(receive)
            assert (await receive())["type"] == "http.disconnect"
            if cancels:
                sending.cancel()
            await asyncio.wait({sending})
        finally:
            over.set()

    with asgi(app) as server:
        for _ in range(10):
            over.clear()
            with Client(server.port) as client:
                client.send(request())
                assert client.socket.recv(100)
                reset(client)
            assert over.wait(DEADLINE)
    assert set(ended) == {"CancelledError" if cancels else "Gone"}
    assert not errors(server)


@pytest.mark.parametrize("kind", ["http", "websocket"])
def test_an_application_that_does_not_end_is_told_ever_less_often(kind: str) -> None:
    """Each client that comes and leaves would add 5 ms to every turn of the event loop."""
    told: list[float] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        while True:
            event = (await receive())["type"]
            if event == "websocket.connect":
                await send({"type": "websocket.accept"})
            elif event == f"{kind}.disconnect":
                told.append(time.monotonic())

    with asgi(app, graceful_exit_timeout=0.1) as server:
        with Client(server.port) as client:
            client.send(request("/") if kind == "http" else handshake("/"))
            if kind == "websocket":
                assert client.read().status == 101
        wait_for(lambda: any("again and again" in each.getMessage() for each in server.records))
        count = len(told)
        wait_for(lambda: len(told) >= count + 5)
    assert told[count + 4] - told[count] >= 0.02 + 0.04 + 0.08
