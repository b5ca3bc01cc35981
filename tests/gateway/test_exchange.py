"""What one call of an application sends, over a connection that counts the sends."""

from __future__ import annotations

from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from zibai import clock
from zibai.errors import Gone
from zibai.gateway import exchange as exchange_module
from zibai.gateway.complaints import Complaints
from zibai.gateway.exchange import Exchange
from zibai.gateway.reply import JOIN
from zibai.gateway.shortcut import send_at_once
from zibai.protocol.http1 import FastLane

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from zibai.engine.stream import Stream
    from zibai.protocol.http1.request import Request

TEXT = ("Content-Type", "text/plain")


class Line:
    """What an exchange uses of a connection. ``takes`` bytes of each send go out by the short cut; None fails it."""

    def __init__(self, request: Request, takes: float | None = float("inf"), **state: Any) -> None:
        self.request = request
        self.connection = SimpleNamespace(request=request)
        self.sends: list[bytes] = []
        self.service = SimpleNamespace(draining=False)
        self.was_cut = False
        self.sender = SimpleNamespace(closing=False, broken=False, out=b"")
        self.refusal = None
        self.sock = SimpleNamespace(send=self._take)
        self._takes = takes
        self.__dict__.update(state)

    def _take(self, data: bytes) -> int:
        if self._takes is None:
            raise BlockingIOError
        taken = min(len(data), int(min(self._takes, len(data))))
        self.sends.append(data[:taken])
        return taken

    def send(self, data: bytes) -> None:
        self.sends.append(data)

    def forbid_continue(self) -> None: ...
    def drain(self, size: int = 0) -> None: ...

    def send_nothing(self) -> None:
        pass

    def has_left(self, patience: float = 0.0) -> bool:
        return False

    def cut(self) -> None:
        self.was_cut = True


def request(head: bytes = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n") -> Request:
    found = FastLane().recognise(head)
    assert found is not None
    return found


def make(line: Line) -> Exchange:
    exchange = Exchange()
    exchange._stream, exchange._complaints = _stream(line), Complaints()
    exchange.head = exchange.reply = exchange.error = None
    exchange.sent, exchange._look_at = 0, 0.0
    return exchange


def send(pieces: Iterable[bytes], *fields: tuple[str, str], asked: Request | None = None) -> Line:
    line = Line(asked or request())
    exchange = make(line)
    exchange.start_response("200 OK", [TEXT, *fields])
    exchange.send_all(pieces)
    return line


def body(line: Line) -> bytes:
    return b"".join(line.sends).partition(b"\r\n\r\n")[2]


@pytest.mark.parametrize("kind", [list, tuple])
@pytest.mark.parametrize("promised", [False, True])
def test_many_small_pieces_of_a_list_are_few_sends(kind: type, promised: bool) -> None:
    fields = [("Content-Length", "12600000")] if promised else []
    line = send(kind([b"a" * 100] * 126_000), *fields)
    assert len(line.sends) <= 12_600_000 // (JOIN - 100) + 2
    assert body(line).count(b"a") >= 12_600_000
    assert max(map(len, line.sends)) <= JOIN + 200


def test_a_list_of_a_few_pieces_is_one_chunk() -> None:
    line = send([b"Hello", b"", b" ", b"World"])
    assert len(line.sends) == 2
    assert body(line) == b"b\r\nHello World\r\n0\r\n\r\n"


def test_pieces_of_anything_else_go_out_one_by_one() -> None:
    """PEP 3333: no block is delayed until the next one is made."""
    line = Line(request())
    seen = []

    def pieces() -> Iterable[bytes]:
        for number in range(5):
            yield b"%d" % number
            seen.append(len(line.sends))

    exchange = make(line)
    exchange.start_response("200 OK", [TEXT])
    exchange.send_all(pieces())
    assert seen == [1, 2, 3, 4, 5]


class Own(list):  # type: ignore[type-arg]
    """A list that may make its pieces while it is iterated."""


def test_a_subclass_of_list_is_not_joined() -> None:
    assert len(send(Own([b"a", b"b"])).sends) == 3


def test_a_list_with_something_else_than_bytes_is_an_error_before_anything_is_sent() -> None:
    line = Line(request())
    exchange = make(line)
    exchange.start_response("200 OK", [TEXT])
    with pytest.raises(TypeError, match="must give bytes"):
        exchange.send_all([b"a", "b"])  # type: ignore[list-item]
    assert line.sends == []


class Proxy:
    """What libraries for tracing wrap around an iterator: a proxy has all special methods, whatever it stands for."""

    def __init__(self, error: Exception, *pieces: bytes) -> None:
        self.error, self.pieces = error, iter(pieces)

    def __len__(self) -> int:
        raise self.error

    def __iter__(self) -> Iterator[bytes]:
        return self.pieces


@pytest.mark.parametrize("error", [TypeError("no len()"), AttributeError("__len__"), OverflowError()], ids=repr)
@pytest.mark.parametrize("pieces", [(), (b"a",), (b"a", b"b")])
def test_an_iterable_without_the_length_that_it_seems_to_have(error: Exception, pieces: tuple[bytes, ...]) -> None:
    assert send(Proxy(error, *pieces)).sends == send(iter(pieces)).sends


@pytest.mark.parametrize(
    ("returned", "says"),
    [
        (None, "must return a list of bytes, not NoneType"),
        (200, "must return a list of bytes, not int"),
        (b"text", "must give bytes, not int; has it returned bytes by itself, and not in a list?"),
        ("text", "must give bytes, not str$"),
    ],
    ids=repr,
)
def test_an_application_that_returns_something_else_is_told_what_is_wanted(returned: Any, says: str) -> None:
    line = Line(request())
    exchange = make(line)
    exchange.start_response("200 OK", [TEXT])
    with pytest.raises(TypeError, match=f"the application {says}"):
        exchange.send_all(returned)
    assert line.sends == []


STATUSES = st.sampled_from(["200 OK", "404 Not Found", "204 No Content", "304 Not Modified", "205 Reset Content"])
FIELDS = st.lists(
    st.sampled_from(
        [TEXT, ("Content-Length", "5"), ("Content-Length", "4"), ("Date", "now"), ("Stream", "close"), ("TE", "a")]
    ),
    max_size=2,
    unique=True,
)
HEADS = st.sampled_from(
    [
        b"GET / HTTP/1.1\r\nHost: a\r\n\r\n",
        b"HEAD / HTTP/1.1\r\nHost: a\r\n\r\n",
        b"GET / HTTP/1.0\r\nHost: a\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\nStream: close\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\n\r\n",
    ]
)


@settings(deadline=None)
@given(
    HEADS,
    STATUSES,
    FIELDS,
    st.lists(st.sampled_from([0, 4, 5, JOIN - 1, JOIN]), max_size=2),
    st.sampled_from([None, 0, 3, float("inf")]),
    st.booleans(),
    st.booleans(),
    st.booleans(),
    st.sampled_from([list, tuple, iter]),
)
def test_the_short_cut_sends_what_the_long_way_sends(
    head: bytes,
    status: str,
    fields: list[tuple[str, str]],
    sizes: list[int],
    takes: float | None,
    closing: bool,
    draining: bool,
    waiting: bool,
    kind: Callable[[list[bytes]], Iterable[bytes]],
) -> None:
    """The gateway tries the short cut itself for a list, and the exchange for all else."""
    until, end = clock.day
    pieces = [bytes(size) for size in sizes]
    found = []
    for short in (True, False):
        service = SimpleNamespace(draining=draining)
        line = Line(request(head), takes, service=service)
        line.sender.closing, line.sender.out = closing, b"before" if waiting else b""
        exchange = make(line)
        try:
            exchange.start_response(status, fields)
            sent = short and kind is list and len(pieces) == 1
            if not (sent and send_at_once(exchange, _stream(line), line.request, pieces[0])):
                with pytest.MonkeyPatch.context() as patch:
                    if not short:
                        patch.setattr(exchange_module, "send_at_once", lambda *args, **kwargs: False)
                    exchange.send_all(kind(pieces))
        except ValueError:
            exchange.fail(ValueError())
        assert exchange.reply is not None
        found.append((b"".join(line.sends), exchange.sent, line.sender.closing, line.was_cut, exchange.reply.complete))
    if clock.day == (until, end):  # else the Date of the two differs
        assert found[0] == found[1]


def _stream(line: Line) -> Stream:
    return line  # type: ignore[return-value]


@pytest.mark.parametrize("error", [Gone("on purpose"), KeyboardInterrupt()])
def test_a_response_that_the_short_cut_could_not_send_whole_is_cut(error: BaseException) -> None:
    def fail(data: bytes) -> None:
        raise error

    line = Line(request(), None, send=fail)
    exchange = make(line)
    exchange.start_response("200 OK", [TEXT])
    with pytest.raises(type(error)):
        send_at_once(exchange, _stream(line), line.request, b"abc")
    exchange.fail(error)
    assert line.was_cut


def test_nothing_can_be_written_behind_the_short_cut() -> None:
    line = Line(request())
    exchange = make(line)
    write = exchange.start_response("200 OK", [TEXT])
    assert send_at_once(exchange, _stream(line), line.request, b"abc")
    for data in (b"more", b""):
        with pytest.raises(RuntimeError, match="after the end"):
            write(data)
    assert body(line) == b"abc"
