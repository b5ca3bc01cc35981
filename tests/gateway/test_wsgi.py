"""The gateway through real sockets: PEP 3333 as an application and its client see it."""

from __future__ import annotations

import gc
import gzip
import io
import json
import logging
import os
import socket
import struct
import sys
import threading
import weakref
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any
from wsgiref.util import request_uri

import pytest

from zibai import create_bind_socket
from zibai.config.addresses import Trust
from zibai.engine.outgoing import SENT_AT_ONCE
from zibai.errors import BindError
from zibai.gateway.wsgi import Gateway
from zibai.protocol.http1 import FastLane
from zibai.telemetry.format import Formatter

from serving import serving
from support import DEADLINE, Client, Response, get, raw, read_response, wait_for

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from credentials import Credentials

    App = Callable[[dict[str, Any], Callable[..., Any]], Iterable[bytes]]

TEXT = [("Content-Type", "text/plain")]
CUT = (ConnectionError, EOFError)  # what a client meets when its answer is not whole


def answering(*pieces: Any, status: str = "200 OK", fields: Iterable[tuple[str, str]] = ()) -> App:
    def app(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        start_response(status, [*TEXT, *fields])
        return list(pieces)

    return app


def echo(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
    body = environ["wsgi.input"].read(-1)
    start_response("200 OK", TEXT)
    return [body]


def ask(app: App, request: bytes = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n", **options: Any) -> Response:
    """One request, and its answer."""
    with serving(app, **options) as server, Client(server.port) as client:
        client.send(request)
        return client.read("HEAD" if request.startswith(b"HEAD") else "GET")


def post(body: bytes, *fields: str, path: str = "/", length: int | None = None) -> bytes:
    lines = [f"POST {path} HTTP/1.1", "Host: a", f"Content-Length: {len(body) if length is None else length}", *fields]
    return "\r\n".join([*lines, "", ""]).encode() + body


@contextmanager
def broken(app: App, **options: Any) -> Iterator[tuple[Client, list[tuple[str, int]]]]:
    """A connection to an application that breaks the rules; afterwards, that the server lives and has logged it.

    The list is filled with what was logged: for each exchange its logger and status.
    """
    exchanges: list[tuple[str, int]] = []

    def behind(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        return (answering(b"fine") if environ["PATH_INFO"] == "/fine" else app)(environ, start_response)

    with serving(behind, valid=False, **options) as server:
        with Client(server.port) as client:
            yield client, exchanges
        assert get(server.port, "/fine").body == b"fine"
    # Two threads may log in another order than their clients were answered in.
    logged = server.exchanges
    logged.remove(("zibai.access", 200))
    exchanges += logged


# --- Answers --------------------------------------------------------------------------------------


def test_one_piece_gets_a_length_and_several_are_chunked() -> None:
    answer = ask(answering(b"hello"), valid=False)
    assert (answer.status, answer.body, answer.headers["Content-Length"]) == (200, b"hello", "5")
    answer = ask(answering(b"hello", b" ", b"world"))
    assert (answer.status, answer.body, answer.headers["Transfer-Encoding"]) == (200, b"hello world", "chunked")


def test_http10_gets_no_chunks() -> None:
    with serving(answering(b"a", b"b")) as server:
        answer = raw(server.port, b"GET / HTTP/1.0\r\n\r\n")
    assert answer.endswith(b"\r\n\r\nab")
    assert b"\r\nConnection: close\r\n" in answer


def test_http10_is_kept_if_it_asks_and_the_length_is_known() -> None:
    with serving(answering(b"a", b"b", fields=[("Content-Length", "2")])) as server, Client(server.port) as client:
        for _ in range(2):
            client.send(b"GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n")
            answer = client.read()
            assert (answer.body, answer.headers["Connection"]) == (b"ab", "keep-alive")


@pytest.mark.parametrize("pieces", [[], [b""], [b"", b""]])
def test_no_pieces_are_an_empty_body(pieces: list[bytes]) -> None:
    assert ask(answering(*pieces)).headers["Content-Length"] == "0"


def test_every_answer_has_date_and_server_and_own_ones_win() -> None:
    answer = ask(answering(b"a"))
    assert (answer.headers["Server"], answer.headers["Date"][-4:]) == ("zibai", " GMT")
    answer = ask(answering(b"a", fields=[("Server", "mine"), ("Date", "today")]))
    assert (answer.headers.get_all("Server"), answer.headers.get_all("Date")) == (["mine"], ["today"])


@pytest.mark.parametrize(
    ("method", "status"), [("HEAD", "200 OK"), ("GET", "204 No Content"), ("GET", "304 Not Modified")]
)
@pytest.mark.parametrize("pieces", [[b"a"], [b"a", b"b"], []])
def test_what_has_no_body_sends_none_and_the_next_answer_is_read_right(
    method: str, status: str, pieces: list[bytes]
) -> None:
    closed = []

    class Body(list[bytes]):
        def close(self) -> None:
            closed.append(True)

    def app(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        start_response(status, [])
        return Body(pieces)

    with serving(app, valid=False) as server, Client(server.port) as client:
        client.send(f"{method} / HTTP/1.1\r\nHost: a\r\n\r\n".encode() * 2 + b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        for _ in range(2):
            assert client.read(method).status == int(status[:3])
        assert client.read().body == (b"".join(pieces) if method == "HEAD" else b"")
    assert len(closed) == 3


def test_the_application_may_close_the_connection() -> None:
    with serving(answering(b"a", fields=[("Connection", "close")]), valid=False) as server:
        answer = raw(server.port, b"GET / HTTP/1.1\r\nHost: a\r\n\r\n" * 2)
    assert answer.count(b"HTTP/1.1 200 OK") == 1
    assert server.exchanges == [("zibai.access", 200)]


HOPS = [
    *("Keep-Alive", "Proxy-Authenticate", "Proxy-Authorization", "Proxy-Connection", "TE", "Trailer", "Upgrade"),
    *("TRANSFER-ENCODING", "Connection"),
]  # fmt: skip


@pytest.mark.parametrize("name", HOPS)
def test_fields_of_one_hop_are_removed_and_that_is_said_once(name: str) -> None:
    with serving(answering(b"a", fields=[(name, "5")]), valid=False) as server, Client(server.port) as client:
        for _ in range(3):
            answer = client.get()
            assert answer.body == b"a"
            assert answer.headers[name] is None
    [record] = server.logged("zibai.error")
    assert record.getMessage().startswith(f"the field {name} is the server's to send; it is removed")


def test_fields_of_one_hop_are_removed_from_an_interim_answer_too() -> None:
    def app(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        environ["wsgi.early_hints"]([("Link", "</a>"), ("Upgrade", "h2c")])
        return answering(b"a")(environ, start_response)

    with serving(app) as server, Client(server.port) as client:
        for _ in range(2):
            hints = client.get()
            assert (hints.status, hints.headers.items()) == (103, [("Link", "</a>")])
            assert client.read().status == 200
    [record] = server.logged("zibai.error")
    assert record.getMessage().startswith("the field Upgrade is the server's to send; it is removed")


def test_what_is_changed_after_the_check_does_not_go_out() -> None:
    def app(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        fields = [*TEXT]
        start_response("200 OK", fields)
        fields.append(("X", "a\r\nY: b"))
        return [b"a"]

    assert ask(app).headers["Y"] is None


def test_fields_may_come_from_an_iterator() -> None:
    def app(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        start_response("200 OK", iter([*TEXT, ("X", "1")]))
        return [b"a"]

    assert ask(app, valid=False).headers["X"] == "1"


def test_a_generator_may_start_the_answer_with_its_first_piece() -> None:
    def app(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        start_response("201 Created", TEXT)
        yield b"a"
        yield b"b"

    assert ask(app).body == b"ab"


@pytest.mark.parametrize("framed", [True, False])
def test_write_sends_before_what_is_returned(framed: bool) -> None:
    def app(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        write = start_response("200 OK", [*TEXT, *([("Content-Length", "6")] if framed else [])])
        write(b"ab")
        write(b"")
        write(b"cd")
        return [b"ef"]

    answer = ask(app)
    assert (answer.status, answer.body) == (200, b"abcdef")


def test_what_write_was_given_is_on_its_way_when_it_returns() -> None:
    go = threading.Event()

    def app(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        start_response("200 OK", [*TEXT, ("Content-Length", "2")])(b"a")
        assert go.wait(DEADLINE)
        return [b"b"]

    with serving(app) as server, Client(server.port) as client:
        client.send(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        while client.file.readline() != b"\r\n":
            pass
        assert client.file.read(1) == b"a"
        go.set()
        assert client.file.read(1) == b"b"


# --- start_response -------------------------------------------------------------------------------


def fail() -> Any:
    try:
        raise RuntimeError("on purpose")
    except RuntimeError:
        return sys.exc_info()


def test_exc_info_before_the_head_replaces_the_answer() -> None:
    def app(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        start_response("200 OK", [*TEXT, ("X", "1")])
        start_response("503 Later", TEXT, fail())
        return [b"later"]

    answer = ask(app)
    assert (answer.status, answer.reason, answer.headers["X"], answer.body) == (503, "Later", None, b"later")


def test_exc_info_after_empty_pieces_still_replaces_it() -> None:
    def app(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        start_response("200 OK", TEXT)
        yield b""
        start_response("503 Later", TEXT, fail())
        yield b"later"

    assert ask(app).status == 503


def test_exc_info_after_the_head_raises_it_and_the_client_sees_the_cut() -> None:
    def app(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        start_response("200 OK", TEXT)
        yield b"a"
        start_response("500 Failed", TEXT, fail())
        yield b"b"

    with serving(app) as server, Client(server.port) as client:
        with pytest.raises(CUT):
            client.get()
    [record] = server.logged("zibai.error")
    assert record.exc_info is not None
    assert str(record.exc_info[1]) == "on purpose"


def once(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
    start_response("200 OK", TEXT)
    return [b"a"]


def twice(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
    start_response("200 OK", TEXT)
    return once(environ, start_response)


def raising(error: type[BaseException], environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
    raise error("on purpose")


def raising_late(
    error: type[BaseException], environ: dict[str, Any], start_response: Callable[..., Any]
) -> Iterable[bytes]:
    start_response("200 OK", [*TEXT, ("Content-Length", "5")])
    raise error("on purpose")
    yield b""


def starting(*args: Any) -> App:
    def app(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        start_response(*args)
        return [b"a"]

    return app


def writing(data: Any) -> App:
    def app(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        start_response("200 OK", TEXT)(data)
        return []

    return app


@pytest.mark.parametrize(
    "app",
    [
        pytest.param(twice, id="start_response twice"),
        pytest.param(lambda environ, start_response: [b"a"], id="no start_response"),
        pytest.param(lambda environ, start_response: [], id="no start_response and no body"),
        pytest.param(lambda environ, start_response: None, id="no iterable"),
        pytest.param(answering("text"), id="text"),
        pytest.param(answering(""), id="empty text"),
        pytest.param(answering(bytearray(b"a")), id="bytearray"),
        pytest.param(answering(None), id="None"),
        pytest.param(writing("text"), id="write text"),
        pytest.param(starting("200 OK\r\nX: 1", TEXT), id="CR LF in the status"),
        pytest.param(starting("200 OK", [("X", "a\r\nY: b")]), id="CR LF in a value"),
        pytest.param(starting("200 OK", [("X Y", "")]), id="space in a name"),
        pytest.param(starting("200 OK", [("X", "\u20ac")]), id="not latin-1"),
        pytest.param(starting("200 OK", [("X", 1)]), id="a number for a value"),
        pytest.param(starting("200 OK", [("X",)]), id="half a field"),
        pytest.param(starting("200 OK", None), id="no fields"),
        pytest.param(starting("200 OK", [("Content-Length", "a")]), id="malformed length"),
        pytest.param(starting("200 OK", [("Content-Length", "1"), ("Content-Length", "2")]), id="two lengths"),
        pytest.param(starting("103 Early Hints", []), id="an interim status"),
        pytest.param(starting(200, []), id="a number for a status"),
        pytest.param(answering(fields=[("Content-Length", "5")]), id="nothing of a promised body"),
        pytest.param(answering(b"", b"", fields=[("Content-Length", "5")]), id="empty pieces of a promised body"),
        *(
            pytest.param(partial(how, error), id=f"{how.__name__} {error.__name__}")
            for how in (raising, raising_late)
            for error in (RuntimeError, SystemExit, KeyboardInterrupt, BaseException, MemoryError, RecursionError)
        ),
    ],
)
def test_a_failure_before_the_head_is_a_500_on_a_connection_that_stays(app: App) -> None:
    with broken(app) as (client, exchanges):
        for _ in range(2):
            answer = client.get()
            assert (answer.status, answer.body) == (500, b"500 Internal Server Error\n")
            assert sorted(answer.headers.keys()) == ["Content-Length", "Content-Type", "Date", "Server"]
    assert exchanges == [("zibai.error", 500)] * 2


def test_a_500_is_logged_with_its_traceback() -> None:
    with serving(partial(raising, RuntimeError)) as server:
        assert get(server.port, "/a%20b").status == 500
    [record] = server.logged("zibai.error")
    assert record.levelno == logging.ERROR
    assert record.exc_info is not None
    assert record.exc_info[0] is RuntimeError
    assert record.exc_text is None
    assert "/a%20b" in record.getMessage()


@pytest.mark.parametrize("fields", [[], [("Content-Length", "5")]])
@pytest.mark.parametrize("error", [RuntimeError, SystemExit, BaseException])
def test_a_failure_in_the_middle_cuts_the_connection(error: type[BaseException], fields: list[tuple[str, str]]) -> None:
    def app(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        start_response("200 OK", [*TEXT, *fields])
        yield b"a"
        raise error("on purpose")

    with broken(app) as (client, exchanges):
        with pytest.raises(CUT):
            client.get()
    assert exchanges == [("zibai.error", 200)]


def test_a_failure_in_the_middle_resets_http10_too() -> None:
    # Where the end of the connection marks the end of the body, a plain close would look like a whole answer.
    def app(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        start_response("200 OK", TEXT)
        yield b"a"
        raise RuntimeError("on purpose")

    with broken(app) as (client, _):
        client.send(b"GET / HTTP/1.0\r\n\r\n")
        with pytest.raises(ConnectionResetError):
            client.rest()


def test_a_failure_of_close_spoils_no_answer_that_is_out() -> None:
    class Body(list[bytes]):
        def close(self) -> None:
            raise RuntimeError("on purpose")

    def app(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        start_response("200 OK", TEXT)
        return Body([b"a"])

    with broken(app) as (client, exchanges):
        assert [client.get().body for _ in range(2)] == [b"a", b"a"]
    assert exchanges == [("zibai.error", 200)] * 2


def test_more_than_the_length_is_dropped_and_that_is_said_once() -> None:
    with serving(answering(b"abc", b"def", fields=[("Content-Length", "4")]), valid=False) as server:
        with Client(server.port) as client:
            assert [client.get().body for _ in range(3)] == [b"abcd"] * 3
    assert [record.getMessage() for record in server.logged("zibai.error")] == [
        "more than Content-Length is given; the rest is dropped (said once, at '/')"
    ]


def test_less_than_the_length_is_a_cut() -> None:
    with broken(answering(b"abc", fields=[("Content-Length", "4")])) as (client, exchanges):
        with pytest.raises(CUT):
            client.get()
    assert exchanges == [("zibai.error", 200)]


def test_an_application_may_take_the_environ_apart() -> None:
    def app(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        environ.clear()
        start_response("200 OK", [*TEXT, ("Content-Length", "1")])
        return [b"abc"]

    with serving(app, valid=False) as server:
        assert get(server.port).body == b"a"
    assert server.exchanges == [("zibai.access", 200)]


@pytest.mark.parametrize("stream", [False, True])
def test_neither_exchange_nor_connection_leaves_garbage(stream: bool) -> None:
    class Mark:
        pass

    marks: list[weakref.ref[Any]] = []

    def app(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        environ["mark"] = mark = Mark()
        marks.extend(map(weakref.ref, [mark, environ["wsgi.input"]]))
        environ["wsgi.input"].read()
        start_response("200 OK", TEXT)
        return [b"a"]

    gc.collect()
    gc.disable()
    try:
        with serving(app, valid=False, stream_request_body=stream) as server, Client(server.port) as client:
            for _ in range(3):
                client.send(post(b"abc"))
                assert client.read().status == 200
            wait_for(lambda: not any(mark() for mark in marks[::2]))
        wait_for(lambda: not any(mark() for mark in marks))  # a runner that has just ended may hold the last one
    finally:
        gc.enable()
    assert len(marks) == 6


def test_what_an_application_keeps_cannot_reach_into_the_next_exchange() -> None:
    kept: list[tuple[Callable[[Any], object], Any]] = []

    def app(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        for call, argument in kept:
            with pytest.raises((AttributeError, RuntimeError)):
                call(argument)
        kept.append((start_response("200 OK", TEXT), b"late"))
        kept.append((environ["wsgi.early_hints"], [("X", "1")]))
        return [b"a"]

    with serving(app, valid=False) as server, Client(server.port) as client:
        assert [client.get().body for _ in range(3)] == [b"a"] * 3


# --- close() (R25) --------------------------------------------------------------------------------


class Closing:
    """An iterable that says when it is closed."""

    def __init__(self, pieces: Iterable[bytes]) -> None:
        self.pieces = iter(pieces)
        self.closed = threading.Event()

    def __iter__(self) -> Iterator[bytes]:
        return self.pieces

    def close(self) -> None:
        assert not self.closed.is_set()
        self.closed.set()


def failing() -> Iterator[bytes]:
    yield b"a"
    raise RuntimeError("on purpose")


@pytest.mark.parametrize("pieces", [[b"a", b"b"], [], failing(), ["text"]], ids=["some", "none", "failing", "text"])
@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_the_iterable_is_closed_however_it_went(method: str, pieces: Iterable[bytes]) -> None:
    body = Closing(pieces)

    def app(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        start_response("200 OK", TEXT)
        return body

    with serving(app, valid=False) as server, Client(server.port) as client:
        client.send(f"{method} / HTTP/1.1\r\nHost: a\r\n\r\n".encode())
        assert body.closed.wait(DEADLINE)


def test_the_iterable_is_closed_when_the_client_leaves_which_is_no_error() -> None:
    body = Closing(iter(lambda: b"x" * 100_000, b""))  # without an end

    def app(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        start_response("200 OK", TEXT)
        return body

    with serving(app) as server:
        with Client(server.port) as client:
            client.send(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
            assert client.file.read(1000)
        assert body.closed.wait(DEADLINE)
    assert server.logged("zibai.error") == []
    assert server.exchanges == [("zibai.access", 200)]
    [record] = server.logged("zibai.debug")
    assert "the client has left" in record.getMessage()
    assert record.exc_info is None


# --- what is not sent is not made -----------------------------------------------------------------


def counting(pieces: Iterable[bytes], steps: list[int]) -> Iterator[bytes]:
    for piece in pieces:
        steps.append(len(piece))
        yield piece


def endless(piece: bytes) -> Iterator[bytes]:
    return iter(lambda: piece, None)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("method", "status", "fields", "piece", "most"),
    [
        ("HEAD", "200 OK", [], b"a", 0),
        ("HEAD", "200 OK", [("Content-Length", "5")], b"a", 0),
        ("GET", "204 No Content", [], b"a", 0),
        ("GET", "304 Not Modified", [], b"", 0),
        ("GET", "200 OK", [("Content-Length", "2")], b"a", 3),
        ("GET", "200 OK", [("Content-Length", "2")], b"aaa", 2),
        ("GET", "200 OK", [("Content-Length", "0")], b"a", 2),
        ("GET", "200 OK", [("Content-Length", "0")], b"", 2),
    ],
)
@pytest.mark.parametrize("lazy", [False, True], ids=["at once", "lazily"])
def test_an_endless_iterable_is_closed_when_nothing_of_it_is_sent(
    method: str, status: str, fields: list[tuple[str, str]], piece: bytes, most: int, lazy: bool
) -> None:
    steps: list[int] = []

    def app(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        if lazy:
            return late(start_response)
        start_response(status, [*TEXT, *fields])
        return counting(endless(piece), steps)

    def late(start_response: Callable[..., Any]) -> Iterator[bytes]:
        start_response(status, [*TEXT, *fields])
        yield from counting(endless(piece), steps)

    with serving(app, valid=False) as server, Client(server.port) as client:
        for _ in range(2):
            client.send(f"{method} / HTTP/1.1\r\nHost: a\r\n\r\n".encode())
            answer = client.read("HEAD" if not most else "GET")
            assert answer.status == int(status[:3])
    assert len(steps) <= 2 * (most or lazy)
    assert server.logged("zibai.error") == [] or most


def test_what_fails_behind_the_last_promised_byte_cuts_nothing() -> None:
    def app(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        start_response("200 OK", [*TEXT, ("Content-Length", "2")])
        yield b"ok"
        raise RuntimeError("on purpose")

    with serving(app, valid=False) as server, Client(server.port) as client:
        assert [client.get().body for _ in range(2)] == [b"ok"] * 2
    assert server.exchanges == [("zibai.error", 200)] * 2


def test_an_application_comes_to_its_end_behind_the_last_promised_byte() -> None:
    ends = []

    def app(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        start_response("200 OK", [*TEXT, ("Content-Length", "2")])
        yield b"ok"
        ends.append(True)

    with serving(app, valid=False) as server, Client(server.port) as client:
        assert client.get().body == b"ok"
    assert ends == [True]


def test_writing_what_is_not_sent_ends_with_the_client() -> None:
    begun = threading.Event()

    def app(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        write = start_response("200 OK", TEXT)
        while True:
            write(b"a")
            begun.set()

    with serving(app, valid=False) as server:
        with Client(server.port) as client:
            client.send(b"HEAD / HTTP/1.1\r\nHost: a\r\n\r\n")
            assert begun.wait(DEADLINE)
            client.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        wait_for(lambda: server.exchanges)
    assert server.exchanges == [("zibai.access", 200)]


@pytest.mark.parametrize("size", [256 * 1024 - 1, 256 * 1024, 3_000_000])
def test_a_large_chunk_is_framed_as_any_other(size: int) -> None:
    piece = os.urandom(size)

    def app(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        start_response("200 OK", TEXT)
        yield piece
        yield b"end"

    answer = ask(app)
    assert answer.headers["Transfer-Encoding"] == "chunked"
    assert answer.body == piece + b"end"


# --- wsgi.file_wrapper ----------------------------------------------------------------------------

CONTENT = bytes(range(256)) * 10_000  # more than the buffers of a socket take at once


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "file"
    path.write_bytes(CONTENT)
    return path


def sending(make: Callable[[], Any], *fields: tuple[str, str], files: list[Any] | None = None) -> App:
    def app(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        start_response("200 OK", [*TEXT, *fields])
        file = make()
        if files is not None:
            files.append(file)
        wrapper: Iterable[bytes] = environ["wsgi.file_wrapper"](file, 8192)
        return wrapper

    return app


@pytest.fixture
def sendfile(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The counts that os.sendfile was asked for."""
    if not hasattr(os, "sendfile"):
        pytest.skip("there is no sendfile here")
    calls = []
    real = os.sendfile

    def spy(out: int, file: int, offset: int, count: int) -> int:
        calls.append(count)
        return real(out, file, offset, count)

    monkeypatch.setattr(os, "sendfile", spy)
    return calls


def test_a_file_is_sent_by_the_kernel_and_closed(path: Path, sendfile: list[int]) -> None:
    files: list[Any] = []
    answer = ask(sending(lambda: path.open("rb"), files=files), valid=False)
    assert answer.body == CONTENT
    assert answer.headers["Content-Length"] == str(len(CONTENT))
    assert sendfile[0] == SENT_AT_ONCE
    assert len(CONTENT) > SENT_AT_ONCE
    assert files[0].closed


def test_a_file_is_sent_the_same_where_there_is_no_sendfile(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "sendfile", raising=False)
    files: list[Any] = []
    assert ask(sending(lambda: path.open("rb"), files=files)).body == CONTENT
    assert files[0].closed


def seeked(path: Path, offset: int, buffering: int = -1) -> Any:
    file = path.open("rb", buffering)
    assert len(file.read(offset)) == offset  # so that the buffer has read ahead
    return file


@pytest.mark.parametrize("buffering", [0, -1])
@pytest.mark.parametrize("offset", [1, 70_000, len(CONTENT)])
@pytest.mark.parametrize("plain", [True, False])
def test_a_file_is_sent_from_where_it_stands(
    path: Path, offset: int, buffering: int, plain: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not plain:
        monkeypatch.delattr(os, "sendfile", raising=False)
    assert ask(sending(lambda: seeked(path, offset, buffering)), valid=False).body == CONTENT[offset:]


@pytest.mark.parametrize("plain", [True, False])
def test_content_length_may_be_a_part_of_the_file(path: Path, plain: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if not plain:
        monkeypatch.delattr(os, "sendfile", raising=False)
    with serving(sending(lambda: seeked(path, 10), ("Content-Length", "100000")), valid=False) as server:
        with Client(server.port) as client:
            assert [client.get().body for _ in range(2)] == [CONTENT[10:100_010]] * 2


@pytest.mark.parametrize("plain", [True, False])
def test_content_length_over_the_size_of_the_file_is_a_cut(
    path: Path, plain: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not plain:
        monkeypatch.delattr(os, "sendfile", raising=False)
    length = ("Content-Length", str(len(CONTENT) + 1))
    with broken(sending(lambda: path.open("rb"), length)) as (client, exchanges):
        with pytest.raises(CUT):
            client.get()
    assert exchanges == [("zibai.error", 200)]


def test_head_sends_nothing_of_a_file(path: Path, sendfile: list[int]) -> None:
    files: list[Any] = []
    with serving(sending(lambda: path.open("rb"), files=files), valid=False) as server, Client(server.port) as client:
        client.send(b"HEAD / HTTP/1.1\r\nHost: a\r\n\r\nHEAD / HTTP/1.1\r\nHost: a\r\n\r\n")
        assert [client.read("HEAD").status for _ in range(2)] == [200, 200]
    assert sendfile == []
    assert all(file.closed for file in files)


def test_what_is_no_plain_file_is_read(path: Path, tmp_path: Path) -> None:
    packed = tmp_path / "file.gz"
    packed.write_bytes(gzip.compress(CONTENT, 1))
    makers: dict[str, Callable[[], Any]] = {
        "memory": lambda: io.BytesIO(CONTENT),
        "gzip": lambda: gzip.GzipFile(packed),  # it has a descriptor, of other bytes
        "own": type("Own", (), {"read": io.BytesIO(CONTENT).read}),  # read() is all that PEP 3333 asks for
    }
    for make in makers.values():
        assert ask(sending(make), valid=False).body == CONTENT


@pytest.mark.skipif(sys.platform == "win32", reason="a pipe is no file there")
def test_a_pipe_is_read() -> None:
    def make() -> Any:
        reading, writing = os.pipe()
        os.write(writing, b"from a pipe")
        os.close(writing)
        return os.fdopen(reading, "rb")

    assert ask(sending(make), valid=False).body == b"from a pipe"


@pytest.mark.skipif(not os.path.exists("/proc/self/status"), reason="needs files that do not know their size")
def test_a_file_that_does_not_know_its_size_is_read() -> None:
    assert b"Name:" in ask(sending(partial(Path("/proc/self/status").open, "rb")), valid=False).body


def test_a_file_behind_write_comes_behind_it(path: Path) -> None:
    for fields in ([], [("Content-Length", str(len(CONTENT) + 3))]):

        def app(environ: dict[str, Any], start_response: Callable[..., Any], fields: Any = fields) -> Iterable[bytes]:
            start_response("200 OK", [*TEXT, *fields])(b"abc")
            wrapper: Iterable[bytes] = environ["wsgi.file_wrapper"](path.open("rb"))
            return wrapper

        assert ask(app, valid=False).body == b"abc" + CONTENT


# --- Interim answers ------------------------------------------------------------------------------


def hinting(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
    environ["wsgi.early_hints"]([("Link", "</a>")])
    environ["wsgix.informational"]("102 Processing", [])
    start_response("200 OK", TEXT)
    yield b"a"
    environ["wsgi.early_hints"]([("Link", "</too-late>")])
    yield b"b"


def test_interim_answers_come_before_the_final_one() -> None:
    with serving(hinting) as server, Client(server.port) as client:
        client.send(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        hints, processing, final = client.read(), client.read(), client.read()
    assert (hints.status, hints.headers.items()) == (103, [("Link", "</a>")])
    assert (processing.status, processing.headers.items()) == (102, [])
    assert (final.status, final.body) == (200, b"ab")


def test_http10_gets_no_interim_answers() -> None:
    with serving(hinting) as server:
        assert raw(server.port, b"GET / HTTP/1.0\r\n\r\n").startswith(b"HTTP/1.1 200 OK\r\n")


@pytest.mark.parametrize("args", [("200 OK", []), ("103 x", [("X", "a\r\nb")]), ("103 x\r\n", [])])
def test_what_is_no_interim_answer_is_the_error_of_the_application(args: tuple[str, list[tuple[str, str]]]) -> None:
    def app(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        environ["wsgix.informational"](*args)
        return answering(b"a")(environ, start_response)

    assert ask(app).status == 500


# --- The environ ----------------------------------------------------------------------------------


def telling(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
    start_response("200 OK", [("Content-Type", "application/json")])
    return [json.dumps({name: value for name, value in environ.items() if type(value) in (str, bool)}).encode()]


def environ_of(target: str, *fields: str, body: bytes = b"", **options: Any) -> dict[str, Any]:
    request = "\r\n".join([f"POST {target} HTTP/1.1", "Host: a", *fields, "", ""]).encode("latin-1")
    answer = ask(telling, request + body, **options)
    assert answer.status == 200
    environ: dict[str, Any] = json.loads(answer.body)
    return environ


class LyingBytes(bytes):
    """One whose methods all tell something else than it holds."""

    def __len__(self) -> int:
        return 1

    def __bool__(self) -> bool:
        return False

    def __bytes__(self) -> bytes:
        return b"lie"

    def __getitem__(self, _: Any) -> Any:
        return b"lie"


@pytest.mark.parametrize("how", ["one piece", "pieces", "generator", "write"])
@pytest.mark.parametrize("fields", [[], [("Content-Length", "6")]])
def test_a_subclass_of_bytes_counts_as_the_bytes_that_it_holds(how: str, fields: list[tuple[str, str]]) -> None:
    def app(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        write = start_response("200 OK", [*TEXT, *fields])
        pieces = [LyingBytes(b"abcdef")] if how == "one piece" else [LyingBytes(b"abc"), LyingBytes(b"def")]
        if how == "write":
            for piece in pieces:
                write(piece)
            return []
        return iter(pieces) if how == "generator" else pieces

    with serving(app, valid=False) as server, Client(server.port) as client:
        assert [client.get().body for _ in range(2)] == [b"abcdef"] * 2


def test_205_has_no_content_whatever_the_application_gives() -> None:
    for fields in ([], [("Content-Length", "3")]):
        with serving(answering(b"abc", status="205 Reset Content", fields=fields), valid=False) as server:
            with Client(server.port) as client:
                for _ in range(2):
                    answer = client.get()
                    assert (answer.status, answer.headers["Content-Length"], answer.body) == (205, "0", b"")
        assert server.exchanges == [("zibai.access", 205)] * 2


def test_the_target_is_there_as_sent_and_decoded() -> None:
    environ = environ_of("/a%20b/%E4%BD%A0%2Fc%zz?q=%20&r")
    assert environ["PATH_INFO"] == "/a b/" + "你".encode().decode("latin-1") + "/c%zz"
    assert environ["QUERY_STRING"] == "q=%20&r"
    assert environ["REQUEST_URI"] == environ["RAW_URI"] == "/a%20b/%E4%BD%A0%2Fc%zz?q=%20&r"
    assert environ["SCRIPT_NAME"] == ""
    assert environ["REQUEST_METHOD"] == "POST"
    assert environ["SERVER_PROTOCOL"] == "HTTP/1.1"
    assert environ["wsgi.url_scheme"] == "http"


@pytest.mark.parametrize(
    ("target", "path"), [("//a//b", "//a//b"), ("http://b/c?d", "/c"), ("http://b", "/"), ("/..", "/..")]
)
def test_paths_are_not_repaired(target: str, path: str) -> None:
    environ = environ_of(target)
    assert environ["PATH_INFO"] == path
    assert environ["REQUEST_URI"] == target


def test_an_absolute_target_gives_the_host() -> None:
    assert environ_of("http://b:1/c")["HTTP_HOST"] == "b:1"


def test_the_asterisk_is_no_path() -> None:
    answer = ask(telling, b"OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n")
    environ = json.loads(answer.body)
    assert (environ["PATH_INFO"], environ["REQUEST_URI"]) == ("", "*")


@pytest.mark.parametrize(
    ("target", "script", "path"),
    [
        ("/app/a", "/app", "/a"),
        ("/app", "/app", ""),
        ("/app/", "/app", "/"),
        ("/application", "/app", "/application"),
        ("/a", "/app", "/a"),
        ("/%61pp/a", "/app", "/a"),
    ],
)
def test_the_prefix_is_taken_off(target: str, script: str, path: str) -> None:
    environ = environ_of(target, url_prefix="/app/")
    assert (environ["SCRIPT_NAME"], environ["PATH_INFO"], environ["REQUEST_URI"]) == (script, path, target)


@pytest.mark.parametrize(
    ("target", "forwarded", "url_prefix", "script", "path"),
    [
        ("/a", "/shop", "", "/shop", "/a"),
        ("/", "/shop/", "", "/shop", "/"),
        ("/shop/a", "/shop", "", "/shop", "/a"),
        ("/a", "/shop", "/app", "/shop/app", "/a"),
        ("/app/a", "/shop", "/app", "/shop/app", "/a"),
        ("/shop/app/a", "/shop", "/app", "/shop/app", "/a"),
        ("/a", "/app", "/app", "/app", "/a"),
        ("/app/a", "/app", "/app", "/app", "/a"),
        ("/%61pp/a", "/%73hop", "/app", "/shop/app", "/a"),
        ("/a", "//evil", "/app", "/app", "/a"),
    ],
)
def test_the_prefix_of_a_proxy_comes_first(
    target: str, forwarded: str, url_prefix: str, script: str, path: str
) -> None:
    environ = environ_of(
        target, f"X-Forwarded-Prefix: {forwarded}", url_prefix=url_prefix, forwarded_fields="for,prefix"
    )
    assert (environ["SCRIPT_NAME"], environ["PATH_INFO"], environ["REQUEST_URI"]) == (script, path, target)


def test_each_request_of_a_connection_has_its_own_client() -> None:
    with serving(telling) as server, Client(server.port) as client:
        for address, fields in [
            ("1.2.3.4", ["X-Forwarded-For: 1.2.3.4"]),
            ("127.0.0.1", []),
            ("5.6.7.8", ["Forwarded: for=5.6.7.8"]),
            ("1.2.3.4", ["X-Forwarded-For: 1.2.3.4"]),
        ]:
            environ = json.loads(client.get("/", *fields).body)
            assert (environ["REMOTE_ADDR"], "REMOTE_PORT" in environ) == (address, not fields)
    assert [record.__dict__["REMOTE_ADDR"] for record in server.logged("zibai.access")] == [
        "1.2.3.4", "127.0.0.1", "5.6.7.8", "1.2.3.4",
    ]  # fmt: skip


def test_what_is_remembered_of_a_head_depends_on_the_scheme_it_came_by() -> None:
    gateway = Gateway(lambda *_: [])
    lane = FastLane(base=gateway.base)
    service = SimpleNamespace(trust=Trust((), "host"), limits=SimpleNamespace(stream_body=False))
    for scheme, port in (("http", "80"), ("https", "443"), ("http", "80"), ("https", "443")):
        request = lane.recognise(b"GET / HTTP/1.1\r\nHost: a\r\nX-Forwarded-Host: b\r\n\r\n")
        facts = {"REMOTE_ADDR": "", "wsgi.url_scheme": scheme}
        stream: Any = SimpleNamespace(body=None, facts=facts, service=service)
        environ = gateway.environ(stream, request)
        gateway._proxies.use(stream, True, request, environ)
        assert (environ["HTTP_HOST"], environ["SERVER_PORT"], environ["wsgi.url_scheme"]) == ("b", port, scheme)


def test_what_cannot_be_believed_is_said_once_aloud_and_each_time_quietly() -> None:
    with serving(telling, forwarded_fields="for,port") as server, Client(server.port) as client:
        for _ in range(3):
            client.get("/", "X-Forwarded-Port: 99999", "X-Forwarded-For: 1.2.3.4")
    assert [record.getMessage() for record in server.logged("zibai.debug")] == [
        f"from {client_name}: X-Forwarded-Port is malformed: '99999'"
        for client_name in {record.args[0] for record in server.logged("zibai.debug")}  # type: ignore[index]
        for _ in range(3)
    ]
    (said,) = (record.getMessage() for record in server.logged("zibai"))
    assert said.endswith("X-Forwarded-Port is malformed: '99999'")


def test_nobody_is_believed_where_nobody_is_trusted() -> None:
    environ = environ_of("/", "X-Forwarded-For: 1.2.3.4", "X-Forwarded-Prefix: /evil", trusted_proxies=["none"])
    assert (environ["REMOTE_ADDR"], environ["SCRIPT_NAME"]) == ("127.0.0.1", "")
    assert environ["HTTP_X_FORWARDED_FOR"] == "1.2.3.4"


def test_fields_become_keys() -> None:
    environ = environ_of("/", "X-One: 1", "x-two: \xe9", "Content-Type: a/b", "Content-Length: 0")
    assert (environ["HTTP_X_ONE"], environ["HTTP_X_TWO"]) == ("1", "\xe9")
    assert (environ["CONTENT_TYPE"], environ["CONTENT_LENGTH"]) == ("a/b", "0")
    assert not {"HTTP_CONTENT_TYPE", "HTTP_CONTENT_LENGTH"} & environ.keys()


def test_repeated_fields_and_cookies_are_joined() -> None:
    environ = environ_of("/", "X: 1", "Cookie: a=b", "X: 2", "Cookie: c=d", "X: 3,4")
    assert (environ["HTTP_X"], environ["HTTP_COOKIE"]) == ("1,2,3,4", "a=b; c=d")


def test_names_that_would_forge_a_key_are_dropped() -> None:
    environ = environ_of("/", "X_Forwarded_For: evil", "Content_Length: 5", "Proxy: evil", "X-Forwarded-For: 1", "_: 1")
    assert environ["HTTP_X_FORWARDED_FOR"] == "1"
    assert "evil" not in environ.values()
    assert not {"HTTP_PROXY", "HTTP_CONTENT_LENGTH", "CONTENT_LENGTH", "HTTP__"} & environ.keys()


def test_fields_reach_no_key_of_the_server() -> None:
    environ = environ_of("/", "Script-Name: /evil", "Remote-User: evil", "Path-Info: evil", "wsgi.url-scheme: evil")
    assert (environ["SCRIPT_NAME"], environ["PATH_INFO"], environ["wsgi.url_scheme"]) == ("", "/", "http")
    assert "REMOTE_USER" not in environ


def test_a_request_without_a_body_has_no_length() -> None:
    assert "CONTENT_LENGTH" not in environ_of("/")


def test_a_chunked_body_that_is_there_has_a_length_and_no_coding() -> None:
    body = b"3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n"
    environ = environ_of("/", "Transfer-Encoding: chunked", body=body)
    assert environ["CONTENT_LENGTH"] == "5"
    assert "HTTP_TRANSFER_ENCODING" not in environ
    environ = environ_of("/", "Transfer-Encoding: chunked", body=body, stream_request_body=True)
    assert "CONTENT_LENGTH" not in environ
    assert "HTTP_TRANSFER_ENCODING" not in environ
    assert environ["wsgi.input_terminated"] is True


def test_gateways_share_nothing() -> None:
    """The same head at two gateways of one server: each makes its own environ of it, however often it comes."""
    head = b"GET /shop/a HTTP/1.1\r\nHost: a\r\n\r\n"
    service = SimpleNamespace(trust=Trust(), limits=SimpleNamespace(stream_body=False))
    ways = [("http", ""), ("https", "/shop"), ("https", ""), ("http", "/shop")]
    gateways = [Gateway(lambda *_: [], url_scheme=scheme, script_name=name) for scheme, name in ways]
    lanes = [FastLane(base=gateway.base) for gateway in gateways]
    for _ in range(4):
        for (scheme, name), gateway, lane in zip(ways, gateways, lanes, strict=True):
            request = lane.recognise(head)
            stream: Any = SimpleNamespace(body=None, facts={"X": "1"}, service=service)
            environ = gateway.environ(stream, request)
            found = [environ[key] for key in ("wsgi.url_scheme", "SCRIPT_NAME", "PATH_INFO")]
            assert found == [scheme, name, "/a" if name else "/shop/a"]
            environ["PATH_INFO"] = "what an application writes there"


def test_what_a_gateway_remembers_is_bounded() -> None:
    gateway, service = Gateway(lambda *_: []), SimpleNamespace(trust=Trust(), limits=SimpleNamespace(stream_body=False))
    lane = FastLane(base=gateway.base)
    for number in (each // 2 for each in range(6000)):
        host = "a" * (number % 2 * 1000 + 1)
        fields = f"Host: {host}\r\nX-Forwarded-For: 1.2.{number // 256}.{number % 256}"
        request: Any = lane.recognise(f"GET / HTTP/1.1\r\n{fields}\r\n\r\n".encode())
        stream: Any = SimpleNamespace(body=None, facts={"REMOTE_ADDR": ""}, service=service)
        environ = gateway.environ(stream, request)
        gateway._proxies.use(stream, True, request, environ)
        assert environ["REMOTE_ADDR"] == f"1.2.{number // 256}.{number % 256}"
    assert max(len(gateway._templates), len(gateway._proxies._by_request)) <= 512
    assert len(gateway._proxies._by_fields) <= 1024
    assert max(sum(len(text or "") for text in key) for key in gateway._proxies._by_fields) <= 512


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    "fields",
    [
        ["X-Forwarded-For: 1.2.3.4", "Forwarded: for=8.8.8.8"],
        ["X-Forwarded-Proto: https", "Forwarded: proto=http"],
        ["X-Forwarded-For: 1.2.3.4", "Forwarded: for=unknown"],
    ],
)
def test_fields_that_contradict_each_other_are_refused(fields: list[str], stream: bool) -> None:
    seen: list[object] = []

    def app(environ: dict[str, Any], start_response: Callable[..., Any]) -> list[bytes]:
        seen.append(environ["REMOTE_ADDR"])
        start_response("200 OK", TEXT)
        return [environ["wsgi.input"].read()]

    with serving(app, valid=False, stream_request_body=stream) as server, Client(server.port) as client:
        for _ in range(2):
            client.send("\r\n".join(["POST / HTTP/1.1", "Host: a", *fields, "Content-Length: 3", "", "abc"]).encode())
            answer = client.read()
            assert (answer.status, answer.body) == (400, b"400 Bad Request\n")
        client.send(b"POST / HTTP/1.1\r\nHost: a\r\nX-Forwarded-For: 1.2.3.4\r\nContent-Length: 3\r\n\r\nabc")
        assert client.read().body == b"abc", "the proxy can keep its connection"
    assert seen == ["1.2.3.4"]
    records = server.logged("zibai.access")
    assert [(record.__dict__["status"], record.__dict__["REMOTE_ADDR"]) for record in records] == [
        (400, ""), (400, ""), (200, "1.2.3.4")
    ], "the log does not name the proxy as the client"  # fmt: skip
    assert len([record for record in server.logged("zibai.debug") if "contradict" in record.getMessage()]) == 2
    (said,) = (record.getMessage() for record in server.logged("zibai"))
    assert "Forwarded and X-Forwarded-* contradict each other" in said
    assert "have your proxy remove" in said


def test_by_default_host_port_and_prefix_are_ordinary_fields() -> None:
    fields = ["X-Forwarded-Host: evil", "X-Forwarded-Port: 666", "X-Forwarded-Prefix: /public", "Forwarded: host=evil"]
    environ = environ_of("/public/admin", *fields)
    keys = ("HTTP_HOST", "SERVER_NAME", "SCRIPT_NAME", "PATH_INFO", "REMOTE_ADDR")
    assert [environ[key] for key in keys] == ["a", "127.0.0.1", "", "/public/admin", "127.0.0.1"]
    assert environ["SERVER_PORT"] != "666"
    keys = ("HTTP_X_FORWARDED_HOST", "HTTP_X_FORWARDED_PORT", "HTTP_X_FORWARDED_PREFIX", "HTTP_FORWARDED")
    assert [environ[key] for key in keys] == ["evil", "666", "/public", "host=evil"]
    environ = environ_of("/public/admin", *fields, forwarded_fields="host,port,prefix")
    keys = ("HTTP_HOST", "SERVER_PORT", "SCRIPT_NAME", "PATH_INFO")
    assert [environ[key] for key in keys] == ["evil:666", "666", "/public", "/admin"]


@pytest.mark.parametrize(
    ("listen", "connect", "name", "peer"),
    [
        ("[::1]:0", "::1", "[::1]", "::1"),
        ("[::]:0", "::1", "[::1]", "::1"),
        ("[::]:0", "127.0.0.1", "127.0.0.1", "127.0.0.1"),
        ("127.0.0.1:0", "127.0.0.1", "127.0.0.1", "127.0.0.1"),
    ],
)
@pytest.mark.parametrize("host", [[], ["Host:"]])
def test_addresses_have_the_form_of_cgi(listen: str, connect: str, name: str, peer: str, host: list[str]) -> None:
    """RFC 3875: an address of IPv6 is a name in brackets; and IPv4 is IPv4, whatever the listener is."""
    try:
        listener = create_bind_socket(listen, dualstack_ipv6=True)
    except BindError:
        pytest.skip("no IPv6")
    with serving(telling, listener=listener) as server:
        with socket.create_connection((connect, server.port), DEADLINE) as client, client.makefile("rb") as file:
            client.sendall("\r\n".join(["GET / HTTP/1.0", *host, "", ""]).encode())
            environ = json.loads(read_response(file).body)
    assert (environ["SERVER_NAME"], environ["REMOTE_ADDR"]) == (name, peer)
    assert environ.get("HTTP_HOST") == ("" if host else None)
    assert request_uri(environ) == f"http://{name}:{server.port}/"
    (record,) = server.logged("zibai.access")
    assert record.getMessage().startswith(f'{peer} "GET / ')


def test_an_application_that_takes_a_chunked_body_for_empty_is_told_once() -> None:
    def by_length(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        body = environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH", 0)))
        start_response("200 OK", TEXT)
        return [body]

    chunked = b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n"
    for stream, body in ((False, b"abc"), (True, b"")):
        with serving(by_length, valid=False, stream_request_body=stream) as server, Client(server.port) as client:
            for _ in range(2):
                client.send(chunked)
                assert client.read().body == body
        told = [record for record in server.records if "no CONTENT_LENGTH" in record.getMessage()]
        assert len(told) == stream


def test_what_reads_to_the_end_gets_a_streamed_chunked_body() -> None:
    with serving(echo, stream_request_body=True) as server, Client(server.port) as client:
        client.send(b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n")
        assert client.read().body == b"abc"
    assert not [record for record in server.records if record.levelno >= logging.WARNING]


def test_both_ends_of_the_connection_are_told() -> None:
    with serving(telling) as server, Client(server.port) as client:
        environ = json.loads(client.get().body)
        assert (environ["REMOTE_ADDR"], environ["REMOTE_PORT"]) == ("127.0.0.1", str(client.socket.getsockname()[1]))
        assert (environ["SERVER_NAME"], environ["SERVER_PORT"]) == ("127.0.0.1", str(server.port))


def test_a_wildcard_listener_tells_the_address_that_was_reached() -> None:
    with serving(telling, listener=create_bind_socket("0.0.0.0:0")) as server:
        environ = json.loads(get(server.port).body)
        assert (environ["SERVER_NAME"], environ["SERVER_PORT"]) == ("127.0.0.1", str(server.port))


@pytest.mark.skipif(sys.platform == "win32", reason="there are no unix sockets")
def test_a_unix_socket_has_no_addresses_but_what_cgi_wants(tmp_path: Path) -> None:
    where = tmp_path / "socket"
    with serving(telling, listener=create_bind_socket(f"unix:{where}"), url_scheme="https") as server:
        assert server.address == str(where)
        environ = json.loads(get(where).body)
    assert (environ["SERVER_NAME"], environ["SERVER_PORT"], environ["REMOTE_ADDR"]) == ("localhost", "443", "")
    assert environ["wsgi.url_scheme"] == "https"


def test_the_environ_is_of_the_request_alone() -> None:
    with serving(telling) as server, Client(server.port) as client:
        assert "HTTP_X" in json.loads(client.get("/a?b", "X: 1").body)
        environ = json.loads(client.get("/").body)
        assert "HTTP_X" not in environ
        assert environ["QUERY_STRING"] == ""


# --- Bodies ---------------------------------------------------------------------------------------

both_ways = pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])


@both_ways
@pytest.mark.parametrize("size", [0, 1, 100_000, 1_000_000])
def test_a_body_arrives(size: int, stream: bool) -> None:
    body = os.urandom(size)
    with serving(echo, stream_request_body=stream) as server, Client(server.port) as client:
        for _ in range(2):
            client.send(post(body))
            assert client.read().body == body


@both_ways
def test_a_body_that_is_not_read_is_no_request(stream: bool) -> None:
    evil = b"GET /evil HTTP/1.1\r\nHost: a\r\n\r\n"
    seen = []

    def app(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        seen.append(environ["PATH_INFO"])
        return answering(b"a")(environ, start_response)

    chunked = b"POST /2 HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n%x\r\n%b\r\n0\r\n\r\n" % (
        len(evil),
        evil,
    )
    with serving(app, stream_request_body=stream) as server, Client(server.port) as client:
        client.send(
            post(evil, path="/1") + chunked + post(evil * 2000, path="/3") + b"GET /4 HTTP/1.1\r\nHost: a\r\n\r\n"
        )
        assert [client.read().body for _ in range(4)] == [b"a"] * 4
    assert seen == ["/1", "/2", "/3", "/4"]


def test_a_large_body_that_is_not_read_ends_the_connection_and_the_answer_arrives() -> None:
    with serving(answering(b"too much", status="413 Too Much"), stream_request_body=True) as server:
        with Client(server.port) as client:
            client.send(post(b"x" * 1024 * 1024))
            answer = client.read()
            assert (answer.status, answer.body) == (413, b"too much")
            assert client.rest() == b""
    assert server.exchanges == [("zibai.access", 413)]


def test_the_rest_of_a_body_that_is_malformed_is_not_answered_twice() -> None:
    with serving(answering(b"a"), stream_request_body=True) as server:
        answer = raw(server.port, b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nX\r\n")
    assert answer.count(b"HTTP/1.1 ") == 1
    assert answer.startswith(b"HTTP/1.1 200 OK")


@both_ways
def test_a_body_over_the_limit_is_413(stream: bool) -> None:
    with serving(echo, max_body_size=10, stream_request_body=stream) as server:
        with Client(server.port) as client:
            client.send(post(b"x" * 10))
            assert client.read().status == 200
            client.send(post(b"x" * 11))
            assert client.read().status == 413
            assert client.rest() == b""
        chunked = (
            b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nabcde\r\n6\r\nfghijk\r\n0\r\n\r\n"
        )
        assert raw(server.port, chunked).startswith(b"HTTP/1.1 413 ")


def test_a_body_that_ends_too_early_reaches_no_application() -> None:
    with serving(partial(raising, RuntimeError)) as server, Client(server.port) as client:
        client.send(post(b"abc", length=10))
        client.socket.shutdown(socket.SHUT_WR)
        assert client.rest() == b""
    assert server.exchanges == []


def reading(seen: list[BaseException]) -> App:
    def app(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        for _ in range(2):  # it raises again, and never looks like an end
            try:
                environ["wsgi.input"].read(100)
            except OSError as error:
                seen.append(error)
        if environ["PATH_INFO"] == "/wrap":
            raise RuntimeError("could not read") from seen[-1]
        raise seen[-1]

    return app


@pytest.mark.parametrize("path", ["/", "/wrap"])
@pytest.mark.parametrize(
    ("request_", "status"),
    [
        (b"Content-Length: 10\r\n\r\nabc", 400),
        (b"Transfer-Encoding: chunked\r\n\r\n5\r\nab", 400),
        (b"Transfer-Encoding: chunked\r\n\r\nX\r\n", 400),
        (b"Transfer-Encoding: chunked\r\n\r\n20\r\n" + b"x" * 32 + b"\r\n0\r\n\r\n", 413),
    ],
    ids=["length", "chunk", "malformed", "too large"],
)
def test_a_streamed_body_that_does_not_come_whole_raises(request_: bytes, status: int, path: str) -> None:
    seen: list[BaseException] = []
    with serving(reading(seen), valid=False, stream_request_body=True, max_body_size=20) as server:
        with Client(server.port) as client:
            client.send(f"POST {path} HTTP/1.1\r\nHost: a\r\n".encode() + request_)
            client.socket.shutdown(socket.SHUT_WR)
            answer = client.read()
            assert (answer.status, answer.headers["Connection"]) == (status, "close")
            assert client.rest() == b""
    assert len(seen) == 2
    assert all(isinstance(error, ConnectionError) for error in seen)
    assert server.exchanges == [("zibai.access", status)]
    assert server.logged("zibai.error") == []


def reset(client: Client) -> None:
    client.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    client.file.close()
    client.socket.close()


def test_a_client_that_resets_in_the_middle_of_its_body_is_one_line() -> None:
    seen: list[BaseException] = []
    entered = threading.Event()

    def app(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        entered.set()
        return reading(seen)(environ, start_response)

    with serving(app, valid=False, stream_request_body=True) as server:
        client = Client(server.port)
        client.send(post(b"abc", length=10))
        assert entered.wait(DEADLINE)
        reset(client)
        wait_for(lambda: len(seen) == 2)
    assert server.exchanges == [("zibai.access", 499)]
    assert server.logged("zibai.error") == []


@both_ways
def test_a_body_that_stands_still_is_408(stream: bool) -> None:
    with serving(echo, stream_request_body=stream, socket_timeout=0.1) as server, Client(server.port) as client:
        client.send(post(b"abc", length=10))
        assert client.read().status == 408
        assert client.rest() == b""


# --- 100 Continue (R16) ---------------------------------------------------------------------------

CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
EXPECT = "Expect: 100-continue"


@both_ways
def test_continue_comes_when_the_body_is_wanted_and_once(stream: bool) -> None:
    with serving(echo, stream_request_body=stream) as server, Client(server.port) as client:
        for _ in range(2):
            client.send(post(b"", EXPECT, length=6))
            assert client.read().status == 100
            client.send(b"abc")
            client.send(b"def")
            assert client.read().body == b"abcdef"


def test_streaming_continue_comes_when_the_application_reads() -> None:
    entered, go = threading.Event(), threading.Event()

    def app(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        entered.set()
        assert go.wait(DEADLINE)
        return echo(environ, start_response)

    with serving(app, stream_request_body=True) as server, Client(server.port) as client:
        client.send(post(b"", EXPECT, length=3))
        assert entered.wait(DEADLINE)
        client.socket.setblocking(False)
        with pytest.raises(BlockingIOError):
            client.socket.recv(1, socket.MSG_PEEK)
        client.socket.settimeout(DEADLINE)
        go.set()
        assert client.read().status == 100
        client.send(b"abc")
        assert client.read().body == b"abc"


@both_ways
def test_no_continue_for_a_body_that_is_too_large(stream: bool) -> None:
    with serving(echo, max_body_size=10, stream_request_body=stream) as server:
        assert raw(server.port, post(b"", EXPECT, length=11)).startswith(b"HTTP/1.1 413 ")


def late(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
    start_response("200 OK", TEXT)
    yield b"a"
    yield environ["wsgi.input"].read(3)


def test_no_continue_once_the_answer_has_begun() -> None:
    with serving(late, stream_request_body=True) as server, Client(server.port) as client:
        client.send(post(b"", EXPECT, length=3))
        while client.file.readline() != b"\r\n":
            pass
        client.send(b"abc")
        assert client.rest() == b"1\r\na\r\n3\r\nabc\r\n0\r\n\r\n"  # and then it ends


@pytest.mark.parametrize(
    "app", [answering(b"a"), partial(raising, RuntimeError), starting("200 OK", [("Content-Length", "a")])]
)
def test_where_no_continue_was_sent_the_connection_ends(app: App) -> None:
    # The client may or may not send its body now, so what comes next cannot be told from a request.
    with serving(app, valid=False, stream_request_body=True) as server, Client(server.port) as client:
        client.send(post(b"", EXPECT, length=40))
        answer = client.read()
        assert answer.status in (200, 500)
        assert answer.headers["Connection"] == "close"
        client.send(b"GET /evil HTTP/1.1\r\nHost: a\r\n\r\n")
        assert client.rest() == b""
    assert len(server.exchanges) == 1


@both_ways
def test_http10_gets_no_continue(stream: bool) -> None:
    with serving(echo, stream_request_body=stream) as server:
        answer = raw(server.port, b"POST / HTTP/1.0\r\nExpect: 100-continue\r\nContent-Length: 3\r\n\r\nabc")
    assert answer.startswith(b"HTTP/1.1 200 OK")


@both_ways
def test_a_body_that_comes_along_does_not_break_the_rule(stream: bool) -> None:
    with serving(echo, stream_request_body=stream) as server, Client(server.port) as client:
        for _ in range(2):
            client.send(post(b"abc", EXPECT))
            answer = client.read()
            if answer.status == 100:
                answer = client.read()
            assert answer.body == b"abc"


# --- Slow clients, and no block delayed -----------------------------------------------------------


@contextmanager
def slow(app: App) -> Iterator[Client]:
    """A client that has asked and takes nothing yet, over sockets with small buffers, so that the rest is lent."""
    listener = create_bind_socket("127.0.0.1:0")
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 16 * 1024)
    with serving(app, listener=listener, valid=False) as server:
        sock = socket.socket()
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 16 * 1024)
        sock.settimeout(DEADLINE)
        sock.connect(server.address)
        client = Client.__new__(Client)
        client.socket, client.file = sock, sock.makefile("rb")
        with client:
            client.send(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
            yield client


@pytest.mark.parametrize("pieces", [1, 3, 300])
def test_a_slow_client_gets_a_long_answer_whole(pieces: int) -> None:
    body = os.urandom(3_000_000 // pieces) * pieces

    def app(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        start_response("200 OK", TEXT)
        size = len(body) // pieces
        return [body[start : start + size] for start in range(0, len(body), size)]

    with slow(app) as client:
        assert client.read().body == body


@pytest.mark.parametrize("size", [1000, 300 * 1024, 2_000_000])
def test_a_piece_is_on_its_way_before_the_next_is_given(size: int) -> None:
    given, go = threading.Event(), threading.Event()
    first = os.urandom(size)

    def app(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        start_response("200 OK", [*TEXT, ("Content-Length", str(2 * size))])
        for _ in range(2):
            yield first
            given.set()
            assert go.wait(DEADLINE)

    with slow(app) as client:
        if size < 1_000_000:  # what is under 1 MiB does not hold the application although nobody reads
            assert given.wait(DEADLINE)
        while client.file.readline() != b"\r\n":
            pass
        assert client.file.read(size) == first
        assert not go.is_set()
        go.set()
        assert client.file.read(size) == first


# --- Logging, and what the server survives --------------------------------------------------------


def test_each_request_is_one_record() -> None:
    def app(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        status = environ["PATH_INFO"][1:]
        return answering(b"abc", status=f"{status} x")(environ, start_response)

    codes = [200, 301, 404, 499, 500, 503]
    with serving(app) as server, Client(server.port) as client:
        for code in codes:
            assert client.get(f"/{code}").status == code
    assert server.exchanges == [("zibai.error" if code >= 500 else "zibai.access", code) for code in codes]
    for record in server.records:
        assert record.__dict__["response_length"] == 3
        assert record.__dict__["duration"] > 0
        assert record.__dict__["REMOTE_ADDR"] == "127.0.0.1"
        assert record.exc_info is None


def test_a_refused_request_is_one_line_for_the_debugger_and_one_in_the_access_log() -> None:
    with serving(answering(b"a")) as server:
        for request in (b"GET /\r\n", b"GET / HTTP/1.1\r\n\r\n", b"GET / HTTP/2.0\r\n\r\n", b"\x16\x03\x01"):
            assert raw(server.port, request).count(b"HTTP/1.1 ") == 1
    told = [record.name for record in server.records if "status" not in record.__dict__]
    assert told == [*["zibai.debug"] * 4, "zibai"], "once, that a client began with TLS"
    assert [(name, status) for name, status in server.exchanges] == [
        *[("zibai.access", 400)] * 2,
        ("zibai.error", 505),
        ("zibai.access", 400),
    ]
    assert server.logged("zibai.error")[0].levelname == "WARNING", "it is the client's fault"
    line = Formatter("%(message)s %(HTTP_USER_AGENT)s %(response_length)s")
    assert line.format(server.logged("zibai.access")[0]) == '127.0.0.1 "- - -" 400 16 0.0ms - 16'


REFUSED = [
    (b"POST /a?b HTTP/1.1\r\nHost: h\r\nContent-Length: 101\r\n\r\n", 413),
    (b"POST /a?b HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n65\r\n" + b"x" * 101, 413),
    (b"POST /a?b HTTP/1.1\r\nHost: h\r\nContent-Length: 9\r\n\r\n", 408),
    (b"POST /a?b HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\nxyz\r\n", 400),
]


@pytest.mark.parametrize(("request_", "status"), REFUSED)
@pytest.mark.parametrize("forwarded", [False, True])
def test_what_is_known_of_a_refused_request_is_in_the_access_log(request_: bytes, status: int, forwarded: bool) -> None:
    field = b"User-Agent: me\r\n" + (b"X-Forwarded-For: 8.8.8.8\r\n" if forwarded else b"")
    request_ = request_.replace(b"Host: h\r\n", b"Host: h\r\n" + field)
    with serving(answering(b"a"), max_body_size=100, header_timeout=0.2, socket_timeout=0.2) as server:
        with Client(server.port) as client:
            client.send(request_)
            response = client.read()
    assert response.status == status
    assert server.exchanges == [("zibai.access", status)]
    (record,) = server.logged("zibai.access")
    assert Formatter("%(PATH_INFO)s %(QUERY_STRING)s %(HTTP_USER_AGENT)s").format(record) == "/a b me"
    client_address = "8.8.8.8" if forwarded else "127.0.0.1"
    assert record.getMessage().startswith(f'{client_address} "POST /a?b HTTP/1.1" {status} {len(response.body)} ')
    assert (record.__dict__["duration"] > 0.1) == (status == 408)


def test_plain_http_to_a_port_of_tls_is_in_the_access_log(credentials: Credentials) -> None:
    with serving(answering(b"a"), certfile=str(credentials.server)) as server:
        answer = raw(server.port, b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
    assert server.exchanges == [("zibai.access", 400)]
    length = len(answer.partition(b"\r\n\r\n")[2])
    assert server.logged("zibai.access")[0].getMessage() == f'127.0.0.1 "- - -" 400 {length} 0.0ms'


def test_a_refused_request_poisons_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is made for the log is not what the next request with the same head gets."""
    app = lambda environ, start: start("200 OK", []) and [f"{environ['SCRIPT_NAME']}{environ['PATH_INFO']}".encode()]
    head = b"POST /m/a HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n"
    with serving(app, url_prefix="/m", valid=False) as server:
        assert raw(server.port, head + b"zz\r\n").startswith(b"HTTP/1.1 400 ")
        with Client(server.port) as client:
            client.send(head + b"0\r\n\r\n")
            assert client.read().body == b"/m/a"


def test_a_silent_access_log_says_nothing_but_errors() -> None:
    with serving(answering(b"a")) as server:
        access = logging.getLogger("zibai.access")
        access.setLevel(logging.CRITICAL + 1)  # what --no-access-log does
        assert get(server.port).status == 200
        assert server.exchanges == []
        access.setLevel(logging.INFO)  # an application may change its mind, which is seen within a second
        wait_for(lambda: get(server.port).status == 200 and server.exchanges)


def test_no_line_of_the_log_can_be_forged() -> None:
    fields = ["User-Agent: \x1b\xa0\"'\\", "X: \x85\u2028".encode().decode("latin-1")]
    with serving(partial(raising, RuntimeError)) as server:
        for target in ("/%0d%0aevil", "/%1b%5b31m", '/"\\'):
            get(server.port, target)
            raw(server.port, f"GET {target}\x1b\x00 HTTP/1.1\r\n{fields}\r\n\r\n".encode())
    formatter = logging.Formatter("%(message)s %(PATH_INFO)s %(HTTP_USER_AGENT)s")
    for record in server.records:
        record.exc_info = None
        line = formatter.format(record) if "status" in record.__dict__ else record.getMessage()
        assert line.isprintable(), line
    assert len(server.records) == 9


def test_nothing_that_clients_do_ends_the_server() -> None:
    with serving(echo) as server:
        for _ in range(200):
            client = Client(server.port)
            reset(client)
        for request in (b"G", b"\x00", post(b"abc", length=10), post(b"abc"), b"\r\n"):
            client = Client(server.port)
            client.send(request)
            reset(client)
        assert get(server.port).status == 200
    assert server.logged("zibai.error") == []
    assert server.logged("zibai") == []


def test_more_broken_applications_than_threads_leave_them_all() -> None:
    with serving(partial(raising, SystemExit), max_workers=2) as server, Client(server.port) as client:
        for _ in range(10):
            assert client.get().status == 500


def test_pipelined_requests_are_answered_in_order_one_at_a_time() -> None:
    running: list[str] = []

    def app(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        running.append(environ["PATH_INFO"])
        assert len(running) == 1
        start_response("200 OK", TEXT)
        yield running[0].encode()
        running.clear()

    with serving(app) as server, Client(server.port) as client:
        sender = threading.Thread(
            target=client.send, args=[b"".join(b"GET /%d HTTP/1.1\r\nHost: a\r\n\r\n" % n for n in range(2000))]
        )
        sender.start()
        assert [client.read().body for _ in range(2000)] == [b"/%d" % number for number in range(2000)]
        sender.join(DEADLINE)


def test_after_a_refusal_nothing_more_is_served() -> None:
    seen = []

    def app(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        seen.append(environ["PATH_INFO"])
        return answering(b"a")(environ, start_response)

    good, bad = b"GET /good HTTP/1.1\r\nHost: a\r\n\r\n", b"GET /bad HTTP/1.1\r\n\r\n"
    evil = b"GET /evil HTTP/1.1\r\nHost: a\r\n\r\n"
    with serving(app) as server:
        assert raw(server.port, good + bad + evil).count(b"HTTP/1.1 ") == 2
        # With the end of the bad one where a read of 64 KiB ends.
        padding = b"GET /good HTTP/1.1\r\nHost: a\r\nX: %b\r\n\r\n"
        size = 64 * 1024 - len(padding % b"") - len(bad)
        assert raw(server.port, padding % (b"x" * size) + bad + evil).count(b"HTTP/1.1 ") == 2
    assert seen == ["/good", "/good"]


def test_what_an_application_does_to_an_empty_body_does_not_reach_the_next_request() -> None:
    """W6, R13: each request without a body has an input of its own."""

    def app(environ: dict[str, Any], start_response: Callable[..., Any]) -> list[bytes]:
        body = environ["wsgi.input"]
        found = [body.read(), str(body.tell()), sorted(body.__dict__), body.closed]
        body.user, body.read = "alice", partial(body.read, 5)
        body.writelines([b"secret"])
        body.seek(3)
        if environ["PATH_INFO"] == "/close":
            body.close()
        start_response("200 OK", [("Content-Type", "text/plain")])
        return [repr(found).encode()]

    with serving(app, valid=False) as server, Client(server.port) as client:
        # GET again and again, which is remembered as a whole; and requests without a body that come in other ways.
        found = {client.get(target).body for target in ("/", "/", "/close", "/", "/close")}
        for raw in (
            b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n",
            b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
            b"GET / HTTP/1.1\r\nHost: a\r\n\r\n" * 2,
        ):
            client.send(raw)
            found.add(client.read().body)
        found.add(client.read().body)
        with Client(server.port) as other:
            found.add(other.get().body)
        assert found == {b"[b'', '0', [], False]"}
