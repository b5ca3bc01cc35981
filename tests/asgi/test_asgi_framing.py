"""What reaches the wire: traps 12 to 22 of other servers, and each row of the table of receive and send."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import struct
import threading
import time
from email.utils import parsedate
from math import inf
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from harness import END, START, asgi, errors, half_close, read_body, request, respond, tracebacks, until

from zibai.engine.backends.tasks import Tasks
from zibai.engine.context import RECEIVE
from zibai.engine.loop import Loop
from zibai.engine.states import STOPPED
from zibai.engine.task_loop import TaskLoop
from zibai.gateway import given_file

from support import DEADLINE, Client, Response, read_response, wait_for

if TYPE_CHECKING:
    from collections.abc import Iterator

Fields = list[tuple[bytes, bytes]]


def start(*fields: tuple[Any, Any], status: Any = 200, **more: Any) -> dict[str, Any]:
    return {"type": "http.response.start", "status": status, "headers": list(fields), **more}


def body(data: Any = b"fine", more: bool = False) -> dict[str, Any]:
    return {"type": "http.response.body", "body": data, "more_body": more}


class Said:
    """A server whose application sends what the test says; ``pause`` in the list ends its step."""

    def __init__(self) -> None:
        self.messages: list[Any] = []
        self.failures: list[BaseException] = []
        self.received: list[Any] = []
        self.scopes: list[Any] = []
        self.ends = 0

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        self.scopes.append(scope)
        if scope["path"] == "/next":
            await respond(send, b"next")
            return
        try:
            for message in self.messages:
                if message == "pause":
                    await asyncio.sleep(0.01)
                elif message == "receive":
                    self.received.append(await receive())
                elif isinstance(message, BaseException):
                    raise message
                else:
                    await send(message)
        except BaseException as error:
            self.failures.append(error)
            raise
        finally:
            self.ends += 1


@pytest.fixture
def said() -> Said:
    return Said()


PAUSED = pytest.mark.parametrize("paused", [False, True], ids=["at once", "after a pause"])


def exchange(said: Said, *messages: Any, data: bytes | None = None, method: str = "GET", **options: Any) -> Any:
    """The response to these messages, and what comes for the next request on the connection: None where it is over."""
    said.messages = list(messages)
    with asgi(said, **options) as server, Client(server.port) as client:
        client.send(data or request("/", method=method))
        first = read_response(client.file, method)
        try:
            following: Response | None = client.get("/next")
        except (EOFError, ConnectionError):
            following = None
    return server, first, following


@PAUSED
def test_more_than_the_content_length_is_dropped(said: Said, paused: bool) -> None:
    """Trap 12: granian sent it, and it became the next response."""
    messages = [start((b"content-length", b"4")), body(b"fine, and more", more=paused), *["pause", body()] * paused]
    server, first, following = exchange(said, *messages)
    assert first.body == b"fine"
    assert following.body == b"next"
    assert any("more than Content-Length" in record.getMessage() for record in server.logged("zibai.error"))


@pytest.mark.parametrize("kind", ["pathsend", "zerocopysend"])
@PAUSED
def test_more_of_a_file_than_the_content_length_is_dropped(said: Said, file: Path, kind: str, paused: bool) -> None:
    """Trap 12 again: here the kernel sends the body."""
    with file.open("rb") as source:
        given = {"path": str(file)} if kind == "pathsend" else {"file": source}
        sent = {"type": f"http.response.{kind}", **given}
        server, first, following = exchange(said, start((b"content-length", b"4")), *["pause"] * paused, sent)
    assert first.body == file.read_bytes()[:4]
    assert following.body == b"next"
    assert any("more than Content-Length" in record.getMessage() for record in server.logged("zibai.error"))


@PAUSED
def test_less_than_the_content_length_cuts(said: Said, paused: bool) -> None:
    """Trap 13: granian left the connection open."""
    said.messages = [start((b"content-length", b"40")), *["pause"] * paused, body()]
    with asgi(said) as server, Client(server.port) as client:
        client.send(request())
        with pytest.raises((EOFError, ConnectionError)):
            client.read()
    assert any("less than its Content-Length" in record.getMessage() for record in server.logged("zibai.error"))
    assert server.exchanges == [("zibai.access", 200)]  # and not 499: the client has not left


@pytest.mark.parametrize(
    "messages",
    [
        pytest.param([start()], id="no body"),
        pytest.param([start((b"content-length", b"5")), body(b"")], id="nothing of a promised body"),
        pytest.param([start(), body(b"fine", more=True)], id="no last piece"),
        pytest.param([start(trailers=True), body()], id="no trailers"),
    ],
)
def test_an_incomplete_response_of_which_nothing_went_out_is_a_500(said: Said, messages: list[Any]) -> None:
    """A client that meets a reset without a response may send its request again, elsewhere as well."""
    server, first, following = exchange(said, *messages, data=request("/", "TE: trailers"))
    assert (first.status, first.body) == (500, b"500 Internal Server Error\n")
    assert following.body == b"next"
    assert server.exchanges == [("zibai.error", 500), ("zibai.access", 200)]


def test_an_incomplete_response_of_which_something_went_out_is_cut(said: Said) -> None:
    said.messages = [start(), body(b"fine", more=True), "pause"]
    with asgi(said) as server, Client(server.port) as client:
        client.send(request())
        with pytest.raises((EOFError, ConnectionError)):
            client.read()


WRONG: dict[str, tuple[Any, type[BaseException]]] = {
    # trap 14
    "two lengths": (start((b"content-length", b"4"), (b"Content-Length", b"5")), ValueError),
    "a negative length": (start((b"content-length", b"-4")), ValueError),
    "a length of words": (start((b"content-length", b"four")), ValueError),
    "an empty name": (start((b"", b"x")), ValueError),
    "a bad name": (start((b"a b", b"x")), ValueError),
    "CR LF in a value": (start((b"x", b"a\r\nSet-Cookie: evil")), ValueError),
    "LF in a value": (start((b"x", b"a\nb")), ValueError),
    "NUL in a value": (start((b"x", b"a\0b")), ValueError),
    "CR LF in a name": (start((b"x\r\ny", b"a")), ValueError),
    "a name of text": (start(("x", b"a")), TypeError),
    "a value of text": (start((b"x", "a")), TypeError),
    "a number as a value": (start((b"x", 1)), TypeError),
    "a status of text": (start(status="200"), TypeError),
    "no status": ({"type": "http.response.start"}, KeyError),
    "status 100": (start(status=100), ValueError),
    "status 101": (start(status=101), ValueError),
    "status 1000": (start(status=1000), ValueError),
    # the table
    "a body first": (body(), RuntimeError),
    "trailers first": ({"type": "http.response.trailers", "headers": []}, RuntimeError),
    "an unknown type": ({"type": "http.response.nonsense"}, ValueError),
    "a message of a WebSocket": ({"type": "websocket.send", "text": "x"}, ValueError),
    "a file first": ({"type": "http.response.pathsend", "path": __file__}, RuntimeError),
}


@pytest.mark.parametrize("wrong", WRONG)
def test_what_is_wrong_is_told_to_the_application_and_not_to_the_client(said: Said, wrong: str) -> None:
    message, error = WRONG[wrong]
    server, first, following = exchange(said, message)
    assert first.status == 500
    assert following.body == b"next"  # nothing was sent, so the framing allows to go on
    assert [type(each) for each in said.failures] == [error]
    assert len(tracebacks(server)) == 1
    assert ("zibai.error", 500) in server.exchanges


@PAUSED
def test_two_equal_lengths_are_one(said: Said, paused: bool) -> None:
    """Trap 14: what a proxy behind makes of two is its own business."""
    lengths = (b"content-length", b"4"), (b"Content-Length", b"4")
    _, first, following = exchange(said, start(*lengths), *["pause"] * paused, body())
    assert first.headers.get_all("Content-Length") == ["4"]
    assert (first.body, following.body) == (b"fine", b"next")


def test_start_twice(said: Said) -> None:
    _, first, following = exchange(said, start(), start())
    assert isinstance(said.failures[0], RuntimeError)
    assert (first.status, following.body) == (500, b"next")


def test_a_body_of_text(said: Said) -> None:
    _, first, _ = exchange(said, start(), body("text"))
    assert isinstance(said.failures[0], TypeError)
    assert first.status == 500


def test_the_application_may_go_on_after_a_wrong_message() -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        with pytest.raises(ValueError, match="Content-Length"):
            await send(start((b"content-length", b"x")))
        await respond(send, b"mended")

    with asgi(app) as server, Client(server.port) as client:
        assert client.get("/").body == b"mended"


@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
@PAUSED
def test_bodies_of_any_bytes(said: Said, kind: Any, paused: bool) -> None:
    _, first, following = exchange(said, start(), *["pause"] * paused, body(kind(b"fine")))
    assert (first.body, following.body) == (b"fine", b"next")


@pytest.mark.parametrize(
    "message",
    [
        {"type": "http.response.start", "status": 200},
        {"type": "http.response.start", "status": 200, "headers": iter([(b"x", b"y")])},
        {"type": "http.response.start", "status": 200, "headers": ([b"x", bytearray(b"y")],)},
        {"type": "http.response.start", "status": 200, "headers": [(b"X", b"y")], "trailers": False},
    ],
    ids=["missing", "iterator", "lists", "tuples"],
)
def test_headers_of_any_iterable_or_none(said: Said, message: Any) -> None:
    _, first, following = exchange(said, message, {"type": "http.response.body"})
    assert (first.status, first.body, following.body) == (200, b"", b"next")
    assert first.headers["X"] == ("y" if "headers" in message else None)
    assert first.headers["Content-Length"] == "0"


@pytest.mark.parametrize("coding", [None, b"chunked", b"gzip, chunked", b"gzip"])
@pytest.mark.parametrize("version", ["1.0", "1.1"])
@pytest.mark.parametrize("fields", [[], ["Connection: keep-alive"]], ids=["", "kept"])
def test_the_coding_of_the_body_is_the_server_s(
    said: Said, coding: bytes | None, version: str, fields: list[str]
) -> None:
    """Trap 15: uvicorn sends chunks to a client of HTTP/1.0, and those of the application within its own."""
    codings = [] if coding is None else [(b"transfer-encoding", coding)]
    said.messages = [start(*codings), body(b"a", more=True), "pause", body(b"b")]
    with asgi(said) as server, Client(server.port) as client:
        client.send(request("/", *fields, version=version))
        response = client.read()
        assert response.headers.get_all("Transfer-Encoding") == (["chunked"] if version == "1.1" else None)
        assert response.body == b"ab"
        if version == "1.0":  # its end is the end of the connection
            assert response.headers["Connection"] == "close"
            assert client.rest() == b""
        else:
            assert client.get("/next").body == b"next"


BODYLESS: dict[str, Fields] = {
    "plain": [],
    "a length": [(b"content-length", b"9")],
    "two codings": [(b"content-encoding", b"gzip"), (b"transfer-encoding", b"gzip, chunked")],
    "chunks": [(b"transfer-encoding", b"chunked")],
}


@pytest.mark.parametrize("status", [204, 205, 304])
@pytest.mark.parametrize("fields", BODYLESS)
@pytest.mark.parametrize("pieces", [1, 2])
@PAUSED
def test_a_status_without_a_body(said: Said, status: int, fields: str, pieces: int, paused: bool) -> None:
    """Trap 15: a body of it became the next response."""
    messages = [body(b"forbidden", more=number > 1) for number in range(pieces, 0, -1)]
    _, first, following = exchange(said, start(*BODYLESS[fields], status=status), *["pause"] * paused, *messages)
    lengths = {204: None, 205: "0", 304: "9" if fields == "a length" else None}
    assert (first.status, first.headers["Transfer-Encoding"]) == (status, None)
    assert first.headers["Content-Length"] == lengths[status]
    assert following.body == b"next"


@pytest.mark.parametrize("fields", BODYLESS)
@pytest.mark.parametrize("pieces", [1, 2])
@PAUSED
def test_head_has_the_head_alone(said: Said, fields: str, pieces: int, paused: bool) -> None:
    messages = [body(b"forbidden", more=number > 1) for number in range(pieces, 0, -1)]
    _, first, following = exchange(said, start(*BODYLESS[fields]), *["pause"] * paused, *messages, method="HEAD")
    assert first.headers["Content-Length"] == ("9" if fields == "a length" else None)
    assert following.body == b"next"


@PAUSED
def test_date_and_server_of_the_application(said: Said, paused: bool) -> None:
    """Trap 16: uvicorn and hypercorn send two dates."""
    fields = [(b"date", b"Thu, 01 Jan 1970 00:00:00 GMT"), (b"Server", b"mine")]
    _, first, _ = exchange(said, start(*fields), *["pause"] * paused, body())
    assert first.headers.get_all("Date") == ["Thu, 01 Jan 1970 00:00:00 GMT"]
    assert first.headers.get_all("Server") == ["mine"]


@PAUSED
def test_date_and_server_of_ours(said: Said, paused: bool) -> None:
    _, first, _ = exchange(said, start(), *["pause"] * paused, body())
    assert parsedate(first.headers.get_all("Date")[0])
    assert len(first.headers.get_all("Server")) == 1


def test_an_absolute_target(said: Said) -> None:
    """Trap 17: hypercorn takes all of it for the path."""
    exchange(said, start(), body(), data=request("http://test/a%20b?c=%20"))
    scope = said.scopes[0]
    assert (scope["path"], scope["raw_path"], scope["query_string"]) == ("/a b", b"/a%20b", b"c=%20")


def test_white_space_behind_a_value(said: Said) -> None:
    """Trap 18: httptools keeps a tab."""
    exchange(said, start(), body(), data=request("/", "X: a b \t", "Y:\t"))
    assert (b"x", b"a b") in said.scopes[0]["headers"]
    assert (b"y", b"") in said.scopes[0]["headers"]


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
@pytest.mark.parametrize("kind", ["at once", "after a pause", "mixed"])
def test_fifty_pipelined_requests(kind: str, loop: str) -> None:
    """Trap 19: uvicorn#2238, gunicorn#3727. With uvloop a timer for at once has no when()."""
    pytest.importorskip(loop)

    async def app(scope: Any, receive: Any, send: Any) -> None:
        number = int(scope["path"][1:])
        data = await read_body(receive)
        if kind == "after a pause" or (kind == "mixed" and number % 3):
            await asyncio.sleep(0.001)
        await respond(send, scope["path"].encode() + data)

    with asgi(app, loop=loop) as server, Client(server.port) as client:
        requests = [
            request(f"/{each}", f"Content-Length: {each}", method="POST", body=b"x" * each)
            if each % 2
            else request(f"/{each}")
            for each in range(50)
        ]
        client.send(b"".join(requests))
        for each in range(50):
            assert client.read().body == b"/%d" % each + b"x" * each * (each % 2)
        assert client.get("/50").body == b"/50"


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
def test_requests_that_come_while_another_waits(loop: str) -> None:
    """Trap 19: each in a packet of its own, and the first has come whole."""
    pytest.importorskip(loop)
    entered, go = threading.Event(), threading.Event()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        if scope["path"] == "/waits":
            entered.set()
            await until(go)
        await respond(send, scope["path"].encode())

    with asgi(app, loop=loop) as server, Client(server.port) as client, Client(server.port) as other:
        for _ in range(2):
            client.send(request("/waits"))
            assert entered.wait(DEADLINE)
            client.send(request("/one"))
            assert other.get("/").status == 200  # the loop has read what came until now
            client.send(request("/two"))
            assert other.get("/").status == 200
            go.set()
            assert [client.read().body for _ in range(3)] == [b"/waits", b"/one", b"/two"]
            entered.clear()
            go.clear()


@pytest.mark.parametrize("come", ["alone", "together"])
@PAUSED
def test_nothing_runs_behind_a_close(said: Said, come: str, paused: bool) -> None:
    """Trap 19, the other half."""
    said.messages = [start((b"connection", b"close")), *["pause"] * paused, body()]
    with asgi(said) as server, Client(server.port) as client:
        client.send(request() * (3 if come == "together" else 1))
        assert client.read().headers["Connection"] == "close"
        if come == "alone":
            client.send(request())  # the server reads it no more, or throws it away
        assert client.rest() == b""
    assert len(said.scopes) == 1


@pytest.fixture
def deadlines(monkeypatch: pytest.MonkeyPatch) -> dict[str, list[float]]:
    """When the connection of each request would have to be ended: in the queue, before its first step and after it."""
    found: dict[str, list[float]] = {"queued": [], "begins": [], "waits": []}
    count, run, suspend = Loop._end_turn, Tasks._run, TaskLoop.suspend

    def look_at_queue(loop: Loop, now: float, events: int, most: int) -> None:
        count(loop, now, events, most)
        found["queued"] += [connection.deadline for connection, _ in loop._ready]

    def look_before(tasks: Tasks, stream: Any) -> None:
        found["begins"].append(stream.connection.deadline)
        run(tasks, stream)

    def look_after(loop: TaskLoop, stream: Any) -> None:
        suspend(loop, stream)
        found["waits"].append(stream.connection.deadline)

    monkeypatch.setattr(Loop, "_end_turn", look_at_queue)
    monkeypatch.setattr(Tasks, "_run", look_before)
    monkeypatch.setattr(TaskLoop, "suspend", look_after)
    return found


COME = {
    "alone": [[request()], [request()], [request()], [request()]],
    "together": [[request()] * 4],
    "cut in two": [[request()[:20]], [request()[20:] + request()[:20]], [request()[20:], request(), request()]],
    "with bodies": [[request("/", "Content-Length: 3", method="POST", body=b"abc")] * 2, [request()] * 2],
}


@pytest.mark.parametrize("come", COME)
@pytest.mark.parametrize("kind", ["at once", "after a pause"])
def test_no_limit_of_an_idle_connection_stays_with_a_request(
    deadlines: dict[str, list[float]], come: str, kind: str
) -> None:
    """Trap 20: uvicorn#2243: the timer of the keep-alive ended a pipelined request."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        if kind == "after a pause":
            await asyncio.sleep(0)
        await respond(send)

    sent, read = b"", 0
    with asgi(app) as server, Client(server.port) as client:
        for pieces in COME[come]:
            client.send(b"".join(pieces))
            sent += b"".join(pieces)
            while sent.count(b"\r\n\r\n") > read:
                assert client.read().status == 200
                read += 1
    assert read == len(deadlines["begins"]) == 4
    assert len(deadlines["waits"]) == (4 if kind == "after a pause" else 0)
    assert {each for found in deadlines.values() for each in found} == {inf}


@pytest.mark.parametrize("slots", [1, 2], ids=["in the queue", "while it runs"])
def test_no_timer_of_an_idle_connection_ends_a_pipelined_request(slots: int) -> None:
    """The same, by what a client sees: its second request takes longer than an idle connection is kept."""
    entered, go, hold = threading.Event(), threading.Event(), threading.Event()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        if scope["path"] == "/first":
            entered.set()
            await until(go)
        elif scope["path"] == ("/holds" if slots == 1 else "/second"):
            hold.set()
            await asyncio.sleep(0.6)
        await respond(send)

    with asgi(app, keep_alive_timeout=0.2, max_workers=slots) as server:
        with Client(server.port) as client, Client(server.port) as other:
            with Client(server.port) as last:
                assert last.get("/").status == 200  # the two before it are accepted, and have no request behind them
            client.send(request("/first") + request("/second"))
            assert entered.wait(DEADLINE)
            other.send(request("/holds"))  # with one slot it is before the second request
            go.set()
            assert [client.read().status for _ in range(2)] == [200, 200]
            assert hold.is_set()
            assert client.rest() == b""  # and now it is idle


TINY = b"8\r\nxxxxxxxx\r\n"
"""A chunk of one byte is refused by the codec, this one is not."""


@pytest.mark.daily("1 MiB")
@pytest.mark.parametrize("size", [1 << 20, 1 << 23], ids=["1 MiB", "8 MiB"])
def test_a_body_of_tiny_chunks_costs_no_square(size: int) -> None:
    """Trap 21: uvicorn#2845. One body costs about as much as 16 of a 16th, and a square would cost 16 times that."""
    lengths: list[int] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        lengths.append(len(await read_body(receive)))
        await respond(send)

    def spend(client: Client, amount: int) -> float:
        """The processor time of so many bodies of equal size, of the server and of this client."""
        body = TINY * (size // amount // len(b"xxxxxxxx")) + b"0\r\n\r\n"
        data = request("/", "Transfer-Encoding: chunked", method="POST", body=body)
        before = time.process_time()
        for _ in range(amount):
            sending = threading.Thread(target=client.send, args=[data])
            sending.start()
            assert client.read().status == 200
            sending.join()
        return time.process_time() - before

    with asgi(app, min_body_rate=0) as server, Client(server.port, timeout=55) as client:
        parts = spend(client, 16)
        assert spend(client, 1) < 4 * parts
    assert lengths == [size // 16] * 16 + [size]


def test_what_waits_of_a_body_is_bounded_and_is_received_together() -> None:
    """The other side of trap 21: an application that receives late finds 64 KiB, and they are one message."""
    exchanges: list[Any] = []
    go = threading.Event()
    messages: list[int] = []
    amount = 100_000

    async def app(scope: Any, receive: Any, send: Any) -> None:
        exchanges.append(receive.__self__)
        await until(go)
        more = True
        while more:
            message = await receive()
            messages.append(len(message["body"]))
            more = message["more_body"]
        await respond(send)

    with asgi(app, min_body_rate=0) as server, Client(server.port) as client:
        client.send(request("/", "Transfer-Encoding: chunked", method="POST"))
        sending = threading.Thread(target=client.send, args=[TINY * amount + b"0\r\n\r\n"])
        sending.start()
        connection = wait_for(lambda: exchanges and exchanges[0].connection)
        wait_for(lambda: connection.pause is STOPPED)
        waiting = connection.codec.size
        go.set()
        assert client.read().status == 200
        sending.join()
    assert RECEIVE <= waiting < 2 * RECEIVE
    assert messages[0] >= RECEIVE // len(TINY) * 8
    assert sum(messages) == amount * 8


@PAUSED
def test_length_and_chunks_of_the_application(said: Said, paused: bool) -> None:
    """Trap 22: hypercorn#279, #284."""
    fields = [(b"content-length", b"4"), (b"transfer-encoding", b"chunked"), (b"connection", b"keep-alive")]
    server, first, following = exchange(said, start(*fields), *["pause"] * paused, body())
    assert first.headers["Transfer-Encoding"] is None
    assert first.headers.get_all("Content-Length") == ["4"]
    assert (first.body, following.body) == (b"fine", b"next")
    assert sum("is removed" in record.getMessage() for record in server.logged("zibai.error")) == 2


# The table of receive and send.


def test_a_message_after_completion_is_ignored_and_said_once(said: Said) -> None:
    server, first, following = exchange(said, start(), body(), body(b"late"), start(), "pause", body(b"late"))
    assert (first.body, following.body) == (b"fine", b"next")
    assert said.failures == []
    assert sum("it is ignored" in record.getMessage() for record in server.logged("zibai.error")) == 2  # of each type


def test_what_comes_late_is_blamed_on_its_own_request() -> None:
    """By then the connection has the next one."""
    next_began, said_late = threading.Event(), threading.Event()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        if scope["path"] == "/next":
            next_began.set()
            await until(said_late)
            await respond(send)
            return
        await respond(send)
        await until(next_began)
        await send(body(b"late"))
        said_late.set()

    with asgi(app) as server, Client(server.port) as client:
        assert client.get("/first").status == client.get("/next").status == 200
    assert ["'/first'" in record.getMessage() for record in server.logged("zibai.error")] == [True]


ERRORS = [KeyError("x"), SystemExit(3), asyncio.CancelledError(), ExceptionGroup("all", [KeyError("x")])]


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
@pytest.mark.parametrize("when", ["first", "after a pause", "after start"])
def test_a_raise_before_the_wire_is_a_500(said: Said, error: BaseException, when: str) -> None:
    before = {"first": [], "after a pause": ["pause"], "after start": [start((b"x", b"secret"))]}[when]
    server, first, following = exchange(said, *before, error)
    assert (first.status, first.headers["X"]) == (500, None)
    assert following.body == b"next"
    assert len(tracebacks(server)) == 1


@pytest.mark.parametrize("error", [*ERRORS, None], ids=lambda error: type(error).__name__)
@pytest.mark.parametrize("length", [True, False])
def test_a_raise_or_return_later_cuts(said: Said, error: BaseException | None, length: bool) -> None:
    said.messages = [
        start(*[(b"content-length", b"400")] * length), body(more=True), "pause", *[error] * (error is not None)
    ]  # fmt: skip
    with asgi(said) as server, Client(server.port) as client:
        client.send(request())
        with pytest.raises((EOFError, ConnectionError)):
            client.read()
    assert len(errors(server)) == 1


def test_a_return_without_a_start_is_a_500(said: Said) -> None:
    server, first, following = exchange(said)
    assert (first.status, following.body) == (500, b"next")
    assert "without a response" in errors(server)[0]


def test_a_value_that_is_returned_is_ignored() -> None:
    async def app(scope: Any, receive: Any, send: Any) -> Any:
        await respond(send)
        return b"nonsense"

    with asgi(app) as server, Client(server.port) as client:
        assert client.get("/").body == b"fine"
    assert not errors(server)


@PAUSED
def test_a_raise_after_completion_is_logged(said: Said, paused: bool) -> None:
    server, first, following = exchange(said, start(), body(), *["pause"] * paused, KeyError("late"))
    assert (first.body, following.body) == (b"fine", b"next")
    assert "KeyError('late')" in "".join(errors(server))


REFUSED: dict[str, tuple[dict[str, Any], list[str], bytes, int]] = {
    "too large": ({"max_body_size": 10}, ["Transfer-Encoding: chunked"], b"b\r\nabcdefghijk\r\n0\r\n\r\n", 413),
    "malformed": ({}, ["Transfer-Encoding: chunked"], b"3\r\nabcX", 400),
    "too early": ({}, ["Content-Length: 5"], b"abc", 400),
    "too slow": ({"socket_timeout": 0.3}, ["Content-Length: 5"], b"abc", 408),
}


@pytest.mark.parametrize("what", REFUSED)
@pytest.mark.parametrize("begun", [False, True], ids=["nothing sent", "begun"])
@pytest.mark.parametrize("reaction", ["returns", "raises", "responds"])
def test_a_body_that_does_not_come(what: str, begun: bool, reaction: str) -> None:
    """The application hears ``http.disconnect``; then 413, 408 or 400 if nothing was sent, else a cut."""
    options, fields, data, status = REFUSED[what]
    last: list[Any] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        if begun:
            await send(start())
            await send(body(b"begun", more=True))
            await asyncio.sleep(0.001)
        while (message := await receive())["type"] == "http.request":
            assert message["more_body"]
        last.extend([message, await receive()])
        if reaction == "raises":
            raise ValueError("no body")
        if reaction == "responds":
            await respond(send)

    with asgi(app, **options) as server, Client(server.port) as client:
        client.send(request("/", *fields, method="POST", body=data))
        if what == "too early":
            half_close(client)
        if begun:
            with pytest.raises((EOFError, ConnectionError)):
                client.read()
        else:
            response = client.read()
            assert (response.status, response.headers["Connection"]) == (status, "close")
            assert client.rest() == b""
    assert last == [{"type": "http.disconnect"}] * 2
    if reaction != "raises":
        assert not tracebacks(server)


def test_a_client_that_closes_within_its_body_gets_no_last_piece() -> None:
    messages: list[Any] = []
    over = threading.Event()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        while not messages or messages[-1]["type"] == "http.request":
            messages.append(await receive())
        over.set()

    with asgi(app) as server:
        with Client(server.port) as client:
            client.send(request("/", "Content-Length: 10", method="POST", body=b"abc"))
        assert over.wait(DEADLINE)
    assert messages[-1] == {"type": "http.disconnect"}
    assert all(message["more_body"] for message in messages[:-1])
    assert b"".join(message["body"] for message in messages[:-1]) == b"abc"


@PAUSED
@pytest.mark.parametrize("rest", [b"", b"defghij"], ids=["part", "whole"])
def test_receive_after_completion_is_a_disconnect(said: Said, paused: bool, rest: bytes) -> None:
    """Also where some of the body was not read: it is nobody's business any more."""
    said.messages = [start(), body(), *["pause"] * paused, "receive", "receive"]
    with asgi(said) as server, Client(server.port) as client:
        client.send(request("/", "Content-Length: 10", method="POST", body=b"abc" + rest))
        assert client.read().body == b"fine"
        client.send((b"" if rest else b"defghij") + request("/next"))
        assert client.read().body == b"next"
    assert said.received == [{"type": "http.disconnect"}] * 2


def test_receive_that_waits_when_the_response_is_complete() -> None:
    found: list[Any] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        if scope["method"] == "GET":
            await respond(send, b"next")
            return
        waiting = asyncio.create_task(receive())
        await asyncio.sleep(0)  # it has had its first step, and waits
        await respond(send)
        found.append(await waiting)

    with asgi(app) as server, Client(server.port) as client:
        client.send(request("/", "Content-Length: 3", method="POST"))
        assert client.read().body == b"fine"
        client.send(b"abc" + request())
        assert client.read().body == b"next"
    assert found == [{"type": "http.disconnect"}]


EXPECT = request("/", "Content-Length: 3", "Expect: 100-continue", method="POST")


@PAUSED
def test_100_continue_comes_at_the_first_receive(paused: bool) -> None:
    go = threading.Event()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        if paused:
            await until(go)
        await respond(send, await read_body(receive))

    with asgi(app) as server, Client(server.port) as client:
        client.send(EXPECT)
        if paused:
            client.socket.settimeout(0.1)
            with pytest.raises(TimeoutError):
                client.socket.recv(1)
            client.socket.settimeout(DEADLINE)
            go.set()
        assert client.read().status == 100
        client.send(b"abc")
        assert client.read().body == b"abc"


@PAUSED
def test_a_final_response_without_receive_closes_and_has_no_100(said: Said, paused: bool) -> None:
    said.messages = [start(status=403), *["pause"] * paused, body(), "receive"]
    with asgi(said) as server, Client(server.port) as client:
        client.send(EXPECT)
        response = client.read()
        assert (response.status, response.headers["Connection"]) == (403, "close")
        assert client.rest() == b""
    assert said.received == [{"type": "http.disconnect"}]


def hint(*links: bytes) -> dict[str, Any]:
    return {"type": "http.response.early_hint", "links": list(links)}


@pytest.mark.parametrize("after_start", [False, True])
def test_early_hints(said: Said, after_start: bool) -> None:
    said.messages = [*[start()] * after_start, hint(b"</a.css>; rel=preload"), *[start()] * (not after_start), body()]
    with asgi(said) as server, Client(server.port) as client:
        client.send(request())
        early = client.read()
        assert (early.status, early.headers["Link"]) == (103, "</a.css>; rel=preload")
        assert client.read().body == b"fine"
        client.send(request(version="1.0"))
        assert client.read().status == 200
    assert not said.failures


@PAUSED
def test_early_hints_come_not_behind_the_head(said: Said, paused: bool) -> None:
    messages = [start(), body(b"a", more=True), *["pause"] * paused, hint(b"</a.css>"), body(b"b")]
    _, first, following = exchange(said, *messages)
    assert (first.status, first.body, following.body) == (200, b"ab", b"next")


def test_early_hints_that_split_the_response(said: Said) -> None:
    _, first, following = exchange(said, hint(b"</a.css>\r\nX: evil"))
    assert (first.status, following.body) == (500, b"next")
    assert isinstance(said.failures[0], ValueError)


TRAILERS = {"type": "http.response.trailers", "headers": [(b"x-sum", b"1"), (b"content-length", b"9")]}


@pytest.mark.parametrize("asked", [True, False])
def test_trailers(said: Said, asked: bool) -> None:
    said.messages = [
        start(trailers=True), body(), {**TRAILERS, "more_trailers": True}, {**TRAILERS, "headers": [(b"y", b"2")]}
    ]  # fmt: skip
    with asgi(said) as server, Client(server.port) as client:
        client.send(request("/", *["TE: trailers"] * asked, "Connection: close"))
        data = client.rest()
    assert ("http.response.trailers" in said.scopes[0]["extensions"]) is asked
    assert b"Transfer-Encoding: chunked\r\n" in data
    assert data.endswith(b"\r\n4\r\nfine\r\n0\r\nx-sum: 1\r\ny: 2\r\n\r\n" if asked else b"\r\n4\r\nfine\r\n0\r\n\r\n")


def test_a_file_behind_the_last_piece(said: Said, file: Path) -> None:
    said.messages = [start(trailers=True), body(), {"type": "http.response.pathsend", "path": str(file)}]
    with asgi(said) as server, Client(server.port) as client:
        client.send(request())
        assert client.read().status == 500  # nothing was on the wire
    assert isinstance(said.failures[0], RuntimeError)


def test_trailers_behind_a_file(said: Said, file: Path) -> None:
    """They need a body in chunks, although the size of the file is known."""
    said.messages = [start(trailers=True), {"type": "http.response.pathsend", "path": str(file)}, TRAILERS]
    with asgi(said) as server, Client(server.port) as client:
        client.send(request("/", "TE: trailers", "Connection: close"))
        data = client.rest()
    assert b"Transfer-Encoding: chunked\r\n" in data
    assert data.endswith(file.read_bytes()[-256:] + b"\r\n0\r\nx-sum: 1\r\n\r\n")


def test_trailers_of_a_client_of_http10(said: Said) -> None:
    said.messages = [start(trailers=True), body(), TRAILERS]
    with asgi(said) as server, Client(server.port) as client:
        client.send(request("/", "TE: trailers", version="1.0"))
        assert client.rest().endswith(b"\r\n\r\nfine")


@pytest.fixture
def file(tmp_path: Path) -> Iterator[Path]:
    path = tmp_path / "file"
    path.write_bytes(bytes(range(256)) * 8000)
    return path


@pytest.mark.parametrize("fields", [[], [(b"content-length", b"2048000")]], ids=["no length", "length"])
@PAUSED
def test_pathsend(said: Said, file: Path, fields: Fields, paused: bool) -> None:
    messages = [start(*fields), *["pause"] * paused, {"type": "http.response.pathsend", "path": str(file)}]
    _, first, following = exchange(said, *messages)
    assert first.body == file.read_bytes()
    assert first.headers["Content-Length"] == (None if paused and not fields else "2048000")
    assert following.body == b"next"


def test_pathsend_and_head(said: Said, file: Path) -> None:
    messages = [start((b"content-length", b"2048000")), {"type": "http.response.pathsend", "path": str(file)}]
    server, first, following = exchange(said, *messages, method="HEAD")
    assert (first.headers["Content-Length"], following.body) == ("2048000", b"next")
    assert not server.logged("zibai.error")  # the application has given as much as it promised


@pytest.mark.parametrize("what", ["missing", "a directory", "a FIFO", "a device"])
def test_pathsend_of_what_cannot_be_sent_is_a_500(said: Said, tmp_path: Path, what: str) -> None:
    path = tmp_path / "no such file"
    if what == "a directory":
        path = tmp_path
    elif what == "a FIFO":
        os.mkfifo(path)
    elif what == "a device":
        path = Path("/dev/zero")
    _server, first, following = exchange(said, start(), {"type": "http.response.pathsend", "path": str(path)})
    assert (first.status, following.body) == (500, b"next")
    assert isinstance(said.failures[0], OSError)


def test_an_empty_file(said: Said, tmp_path: Path) -> None:
    path = tmp_path / "empty"
    path.write_bytes(b"")
    _, first, following = exchange(said, start(), {"type": "http.response.pathsend", "path": str(path)})
    assert (first.status, first.body, following.body) == (200, b"", b"next")


ODD_FILES = [
    "/proc/version",  # it says that it is empty
    "/sys/kernel/mm/transparent_hugepage/enabled",  # it says that it has 4096 bytes
]


@pytest.mark.parametrize("path", ODD_FILES)
@pytest.mark.parametrize("kind", ["pathsend", "zerocopysend", "a part"])
def test_a_file_that_does_not_say_its_size(said: Said, path: str, kind: str) -> None:
    """What reading it gives was lost: an empty body with 200, or a cut response."""
    if not os.path.exists(path):
        pytest.skip("not on this system")
    data = Path(path).read_bytes()
    assert os.stat(path).st_size != len(data) > 5
    with open(path, "rb") as source:
        sent: dict[str, Any] = {"type": "http.response.pathsend", "path": path}
        if kind != "pathsend":
            sent = {"type": "http.response.zerocopysend", "file": source}
        if kind == "a part":
            sent |= {"offset": 2, "count": 3}
            data = data[2:5]
        server, first, following = exchange(said, start(), sent)
    assert (first.status, first.body, following.body) == (200, data, b"next")
    assert first.headers["Content-Length"] == str(len(data))
    assert not server.logged("zibai.error")


class Endless:
    """In place of ``read_at``: a file that never ends, as a trace of the kernel; it counts what was read."""

    def __init__(self, limit: float = inf) -> None:
        self.limit = limit
        self.size = 0

    def __call__(self, fd: int, size: int, offset: int) -> bytes:
        os.fstat(fd)  # it is open
        assert offset == self.size
        assert self.size < 200_000_000, "all of it is read"
        data = b"x" * min(size, 4096, max(0, int(min(self.limit, 2**40) - self.size)))
        self.size += len(data)
        return data


@pytest.mark.parametrize("kind", ["pathsend", "zerocopysend"])
def test_an_endless_file_holds_nobody(said: Said, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    """It goes out in pieces, as fast as its client takes them, until that leaves."""
    endless = Endless()
    monkeypatch.setattr(given_file, "read_at", endless)
    (tmp_path / "trace").touch()
    with (tmp_path / "trace").open("rb") as source:
        sent = {"path": source.name} if kind == "pathsend" else {"file": source.fileno()}
        said.messages = [start(), {"type": f"http.response.{kind}", **sent}]
        with asgi(said) as server, Client(server.port) as client, Client(server.port) as other:
            client.send(request())
            got = client.socket.recv(4096)
            assert b"Transfer-Encoding: chunked" in got
            for _ in range(5):
                client.socket.recv(2**20)
                assert other.get("/next").body == b"next"
            client.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            client.close()
            wait_for(lambda: said.ends)
            assert isinstance(said.failures[0], OSError)
            assert other.get("/next").body == b"next"


@pytest.mark.parametrize("fields", [[], [(b"content-length", b"300000")]], ids=["no length", "length"])
@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_no_more_of_an_unsized_file_is_read_than_is_sent(
    said: Said, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fields: Fields, method: str
) -> None:
    endless = Endless(inf if fields or method == "HEAD" else 400_000)
    monkeypatch.setattr(given_file, "read_at", endless)
    (tmp_path / "trace").touch()
    sent = {"type": "http.response.pathsend", "path": str(tmp_path / "trace")}
    _, first, following = exchange(said, start(*fields), sent, method=method)
    assert len(first.body) == (0 if method == "HEAD" else 300_000 if fields else 400_000)
    assert following.body == b"next"
    assert endless.size < 500_000


@pytest.mark.parametrize("what", ["a directory", "a FIFO", "a device", "a socket"])
def test_zerocopysend_of_what_is_no_file_is_a_500(said: Said, tmp_path: Path, what: str) -> None:
    """Reading /dev/zero would never end, and reading a FIFO may never begin."""
    with contextlib.ExitStack() as stack:
        if what == "a socket":
            fd = stack.enter_context(socket.socket()).fileno()
        else:
            os.mkfifo(tmp_path / "fifo")
            path = {"a directory": tmp_path, "a FIFO": tmp_path / "fifo", "a device": Path("/dev/zero")}[what]
            fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
            stack.callback(os.close, fd)
        sent = {"type": "http.response.zerocopysend", "file": fd, "count": 10}
        _, first, following = exchange(said, start(), sent)
    assert (first.status, following.body) == (500, b"next")
    assert "is no regular file, so the server cannot send it" in str(said.failures[0])


def test_an_empty_file_needs_no_temporary_directory(
    said: Said, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "empty"
    path.write_bytes(b"")
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "missing"))
    _, first, following = exchange(said, start(), {"type": "http.response.pathsend", "path": str(path)})
    assert (first.status, first.body, following.body) == (200, b"", b"next")


def test_a_file_over_tls(said: Said, file: Path, credentials: Any) -> None:
    """The kernel would send it past TLS."""
    said.messages = [start(), {"type": "http.response.pathsend", "path": str(file)}]
    with (
        asgi(said, certfile=credentials.server) as server,
        Client(server.port, tls=credentials.context()) as client,
    ):
        assert client.get("/").body == file.read_bytes()
        assert client.get("/next").body == b"next"
    assert said.scopes[0]["scheme"] == "https"


@pytest.mark.parametrize("number", [False, True], ids=["object", "descriptor"])
def test_zerocopysend(said: Said, file: Path, number: bool) -> None:
    with file.open("rb") as source:
        source.seek(10)
        if number:
            os.lseek(source.fileno(), 10, os.SEEK_SET)
        given = source.fileno() if number else source
        zero = {"type": "http.response.zerocopysend", "file": given}
        messages = [
            start(),
            {**zero, "count": 5, "more_body": True},
            {**zero, "offset": 100, "count": 50, "more_body": True},
            {"type": "http.response.body", "body": b"between", "more_body": True},
            {**zero, "count": 5, "more_body": True},
            {**zero, "offset": 2_000_000},
        ]
        _, first, following = exchange(said, *messages)
    data = file.read_bytes()
    assert first.body == data[10:15] + data[100:150] + b"between" + data[15:20] + data[2_000_000:]
    assert following.body == b"next"


def test_a_file_for_a_client_that_stalls(said: Said, tmp_path: Path) -> None:
    """The loop sends it while others are served, and a second request comes behind it."""
    path = tmp_path / "large"
    with path.open("wb") as large:
        large.truncate(20_000_000)
    said.messages = [start(), {"type": "http.response.pathsend", "path": str(path)}]
    with asgi(said) as server, Client(server.port) as client:
        client.send(request() + request("/next"))
        with Client(server.port) as other:
            assert other.get("/next").body == b"next"
        assert client.read().body == bytes(20_000_000)
        assert client.read().body == b"next"


def test_a_full_server_waits_and_then_refuses() -> None:
    entered, go = threading.Event(), threading.Event()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        if scope["path"] == "/first":
            entered.set()
            await until(go)
        await respond(send)

    with asgi(app, max_workers=1, queue_timeout=0.3) as server:
        with Client(server.port) as first, Client(server.port) as second:
            assert first.get("/").status == second.get("/").status == 200
            first.send(request("/first"))
            assert entered.wait(DEADLINE)
            assert second.get("/").status == 503
            go.set()
            assert first.read().status == 200


def test_held_pieces_go_out_together_and_a_head_at_once() -> None:
    """The client of an event stream sees its head before there is an event; 16 pieces of one step are one packet."""
    go = threading.Event()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send(START)
        await until(go)
        for number in range(16):
            await send(body(b"%x" % number, more=number < 15))

    with asgi(app) as server, Client(server.port) as client:
        client.send(request())
        head = client.socket.recv(1000)
        assert head.endswith(b"\r\n\r\n")
        go.set()
        assert client.socket.recv(10_000) == b"".join(b"1\r\n%x\r\n" % number for number in range(16)) + b"0\r\n\r\n"


def test_a_slow_client_holds_back_the_application() -> None:
    counts: list[int] = [0]
    exchanges: list[Any] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        if scope["path"] == "/next":
            await respond(send)
            return
        exchanges.append(send.__self__)
        await send(START)
        for _ in range(200):
            await send(body(b"x" * 100_000, more=True))
            counts[0] += 1
        await send(END)

    def stalls(server: Any) -> bool:
        """Whether it waits, and a turn of the loop has changed nothing."""
        before = counts[0]
        with Client(server.port) as other:
            assert other.get("/next").status == 200
        return bool(exchanges) and exchanges[0].phase == "send" and counts[0] == before

    with asgi(app) as server, Client(server.port) as client:
        client.send(request())
        wait_for(lambda: stalls(server))
        assert counts[0] < 150
        assert exchanges[0].waiting < 300_000
        assert len(client.read().body) == 20_000_004


def test_a_client_that_takes_nothing_is_gone_after_the_socket_timeout() -> None:
    over = threading.Event()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send(START)
        try:
            while True:
                await send(body(b"x" * 100_000, more=True))
        except OSError:
            over.set()
            raise

    with asgi(app, socket_timeout=0.3) as server, Client(server.port) as client:
        client.send(request())
        assert over.wait(DEADLINE)
    assert not tracebacks(server)


def test_keep_alive_requests_are_counted() -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await respond(send)

    with asgi(app, max_keep_alive_requests=2) as server, Client(server.port) as client:
        assert client.get("/").headers["Connection"] is None
        assert client.get("/").headers["Connection"] == "close"
        assert client.rest() == b""


def test_an_unread_body_does_not_become_the_next_request(said: Said) -> None:
    evil = request("/evil")
    _, first, following = exchange(
        said, start(), body(), data=request("/", f"Content-Length: {len(evil)}", method="POST", body=evil)
    )
    assert (first.body, following.body) == (b"fine", b"next")
    assert [scope["path"] for scope in said.scopes] == ["/", "/next"]


@pytest.mark.parametrize("size", [0, 1, 65_000, 70_000, 1_000_000])
@PAUSED
def test_bodies_of_every_size(size: int, paused: bool) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        if paused:
            await asyncio.sleep(0.01)
        await respond(send, await read_body(receive))

    data = os.urandom(size)
    with asgi(app) as server, Client(server.port) as client:
        for _ in range(2):
            client.send(request("/", f"Content-Length: {size}", method="POST", body=data))
            assert client.read().body == data
        client.send(request("/", "Transfer-Encoding: chunked", method="POST"))
        for at in range(0, size, 10_000):
            piece = data[at : at + 10_000]
            client.send(b"%x\r\n%b\r\n" % (len(piece), piece))
        client.send(b"0\r\n\r\n")
        assert client.read().body == data
