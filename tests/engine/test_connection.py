"""A connection without a server: what an application reads from it, and what it lends to the loop.

The loop's side is called by hand, over a socket that is scripted or a pair of real ones.
"""

from __future__ import annotations

import io
import socket
import tempfile
from collections import deque
from math import inf
from typing import TYPE_CHECKING, Any, Literal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from zibai.engine import body as module
from zibai.engine import context as service_module
from zibai.engine.backends.threads import Readiness
from zibai.engine.body import Intake
from zibai.engine.connection import Connection
from zibai.engine.load import TURN
from zibai.engine.sending import TAIL
from zibai.engine.states import APP, HEAD, READY
from zibai.engine.stream import Stream
from zibai.net.listener import Endpoint
from zibai.telemetry.scoreboard import Row

from rig import make_service

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from zibai.engine.context import Service

ENDPOINT = Endpoint("127.0.0.1", "80")


class Script:
    """A socket that gives the pieces of a script one by one, and has nothing between them; and what waits for it."""

    def __init__(self, pieces: list[bytes]) -> None:
        self.pieces = deque(pieces)
        self.ready = True

    def fileno(self) -> int:
        return -1

    def recv(self, size: int) -> bytes:
        if not self.ready:
            raise BlockingIOError
        assert self.pieces, "it waits for more than there is"
        self.ready = False
        piece = self.pieces.popleft()
        assert len(piece) <= size
        return piece

    def shutdown(self, how: int) -> None:
        pass

    def close(self) -> None:
        pass

    def wait_readable(self, sock: object, timeout: float) -> bool:
        self.ready = True
        return bool(self.pieces)

    def wait_writable(self, sock: object, timeout: float) -> bool:
        return True


def service(readiness: Any, **options: Any) -> Service:
    made = make_service(
        application=lambda stream: None,
        readiness=readiness,
        report=lambda log, *args: log(*args),
        row=Row.private(1),
        **options,
    )
    made.lend = lambda connection: None
    return made


# --- wsgi.input is io.BytesIO to whoever reads it -------------------------------------------------

NEXT = b"GET /next HTTP/1.1\r\nHost: a\r\n\r\n"

bodies = st.lists(st.sampled_from([b"\n", b"\r\n", b"a", b"line\n", b"x" * 50]) | st.binary(max_size=20)).map(b"".join)
sizes = st.none() | st.integers(-1, 60)
calls = st.lists(
    st.one_of(
        st.tuples(st.sampled_from(["read", "readline"]), st.just(()) | sizes.map(lambda size: (size,))),
        st.tuples(st.just("readlines"), st.just(()) | sizes.map(lambda hint: (hint,))),
        st.tuples(st.just("next"), st.just(())),
        st.tuples(st.just("iterate"), st.just(())),
    ),
    max_size=12,
)


def call(file: Any, name: str, args: tuple[Any, ...]) -> object:
    if name == "next":
        return next(file, None)
    if name == "iterate":
        return list(file)
    return getattr(file, name)(*args)


def expect(file: io.BytesIO, buffered: bool, name: str, args: tuple[Any, ...]) -> object:
    if not buffered or name != "readlines":
        return call(file, name, args)
    # The one difference within the standard library: BytesIO stops at the hint, and buffered files behind it.
    start = file.tell()
    lines = io.BufferedReader(io.BytesIO(file.read())).readlines(*args)
    file.seek(start + sum(map(len, lines)))
    return lines


@st.composite
def sent(draw: st.DrawFn) -> tuple[bytes, list[bytes]]:
    """A body, and the pieces that a POST of it, and the request behind it, arrive in."""
    body = draw(bodies)
    raw = b"POST / HTTP/1.1\r\nHost: a\r\n"
    if draw(st.booleans()):
        raw += b"Content-Length: %d\r\n\r\n%b" % (len(body), body)
    else:
        raw += b"Transfer-Encoding: chunked\r\n\r\n"
        rest = body
        while rest:
            size = draw(st.integers(1, len(rest)))
            raw += b"%x\r\n%b\r\n" % (size, rest[:size])
            rest = rest[size:]
        raw += b"0\r\n\r\n"
    raw += NEXT
    pieces = []
    while raw:
        size = draw(st.integers(1, 100))
        pieces.append(raw[:size])
        raw = raw[size:]
    return body, pieces


def arrive(script: Script, **options: Any) -> Stream:
    """The stream at the moment when its application is called."""
    connection = Connection(script, None, ENDPOINT, service(script, **options), 0.0)  # type: ignore[arg-type]
    turn(connection)
    connection.state = APP
    connection.stream = stream = Stream(connection)
    if connection.body is not None:
        body, connection.body = connection.body, None
        stream.body = stream._open(body, connection) if isinstance(body, Intake) else body
    return stream


def turn(connection: Connection) -> None:
    """Do what the loop does, until there is a request."""
    while connection.state is not READY:
        connection.service.load.budget = TURN
        connection.sock.ready = True  # type: ignore[attr-defined]
        if connection.pause:
            connection.resume(0.0)
        else:
            connection.readable(0.0)


@pytest.mark.parametrize("kind", ["memory", "spooled", "streamed"])
@settings(max_examples=200, deadline=None, database=None)
@given(sent=sent(), calls=calls)
def test_input_reads_as_bytesio_does(
    kind: Literal["memory", "spooled", "streamed"], sent: tuple[bytes, list[bytes]], calls: list[tuple[str, Any]]
) -> None:
    body, pieces = sent
    with pytest.MonkeyPatch.context() as patch:
        for each in (module, service_module):
            patch.setattr(each, "IN_MEMORY", -1 if kind == "spooled" else 1_000_000)
        stream = arrive(Script(pieces), stream_body=kind == "streamed")
        if body:
            assert isinstance(stream.body, io.BytesIO) is (kind == "memory")
    expected, connection = io.BytesIO(body), stream.connection
    given = stream.body or io.BytesIO()  # which the gateway makes of none
    for name, args in calls:
        assert call(given, name, args) == expect(expected, kind != "memory", name, args)
    # Whatever was left unread, the next request is the one that was sent.
    if stream.body is not None:
        stream.release_body()
    connection.finish(0.0)
    turn(connection)
    assert connection.request is not None
    assert connection.request.target == "/next"
    connection.close()


def test_a_body_is_spooled_from_the_limit_on_and_its_file_goes_with_it(monkeypatch: pytest.MonkeyPatch) -> None:
    files: list[Any] = []

    def temporary(**options: Any) -> Any:
        files.append(real(**options))
        return files[-1]

    real = tempfile.TemporaryFile
    monkeypatch.setattr(tempfile, "TemporaryFile", temporary)
    for size in (module.IN_MEMORY, module.IN_MEMORY + 1):
        body = b"x" * size
        raw = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n%b" % (size, body)
        stream = arrive(Script([raw[start : start + 60_000] for start in range(0, len(raw), 60_000)]))
        assert stream.body.read() == body
        stream.release_body()
        stream.connection.finish(0.0)
        assert stream.connection.state is HEAD
    assert len(files) == 1
    assert files[0].closed


def test_the_file_of_a_client_that_leaves_goes_with_it(monkeypatch: pytest.MonkeyPatch) -> None:
    for each in (module, service_module):
        monkeypatch.setattr(each, "IN_MEMORY", 10)
    raw = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 100\r\n\r\n" + b"x" * 50
    script = Script([raw, b""])
    connection = Connection(script, None, ENDPOINT, service(script), 0.0)  # type: ignore[arg-type]
    connection.readable(0.0)
    assert connection.intake is not None
    body = connection.intake.file
    assert not isinstance(body, io.BytesIO)
    script.ready = True
    connection.readable(0.0)
    connection.close()
    assert body.closed


# --- What is lent ---------------------------------------------------------------------------------


@pytest.fixture
def pair() -> Iterator[tuple[Stream, socket.socket, list[Connection]]]:
    """The stream of a connection whose application runs, its client, and what the loop was told."""
    ours, client = socket.socketpair()
    with ours, client:
        ours.setblocking(False)
        told: list[Connection] = []
        made = service(Readiness(), socket_timeout=10.0)
        made.lend = told.append
        connection = Connection(ours, None, ENDPOINT, made, 0.0)
        connection.state, connection.deadline = READY, inf
        connection.state = APP
        yield Stream(connection), client, told


def fill(stream: Stream) -> None:
    """Send until the socket takes no more and something is lent."""
    data = b"x" * 100_000
    while not stream.out:
        stream.send(data)


def take(client: socket.socket) -> int:
    """Take all that is there."""
    client.setblocking(False)
    taken = 0
    try:
        while data := client.recv(1 << 20):
            taken += len(data)
    except BlockingIOError:
        pass
    return taken


def by_the_loop(stream: Stream) -> None:
    stream.connection.writable(0.0)


def by_the_runner(stream: Stream) -> None:
    stream.drain()


@pytest.mark.parametrize("send", [by_the_loop, by_the_runner])
def test_what_is_lent_again_is_told_again(
    pair: tuple[Stream, socket.socket, list[Connection]], send: Callable[[Stream], None]
) -> None:
    stream, client, told = pair
    connection = stream.connection
    for number in range(1, 4):
        fill(stream)
        assert told == [connection] * number
        connection.await_client()
        assert connection.deadline < inf
        stream.send(b"more")  # it knows already
        assert told == [connection] * number
        while stream.out:  # where the pair is of TCP, all that was sent is not there at once
            take(client)
            send(stream)
        # Nothing is lent, so nothing can stand still: an application that pauses now is not cut.
        connection.await_client()
        assert connection.deadline == inf
        take(client)


def test_sending_never_waits_and_draining_does(pair: tuple[Stream, socket.socket, list[Connection]]) -> None:
    stream, client, _ = pair
    waited = []

    class Reading(Readiness):
        def wait_writable(self, sock: Any, timeout: float) -> bool:
            waited.append(take(client))
            return super().wait_writable(sock, timeout)

    stream.service.readiness = Reading()
    size = 4 * TAIL
    stream.send(b"x" * size)
    for _ in range(20):
        stream.send(b"y" * 100_000)
    assert not waited
    assert len(stream.out) > 2 * TAIL
    stream.drain(TAIL)
    assert waited
    assert 0 < len(stream.out) <= TAIL
    stream.drain()
    assert sum(waited) + take(client) == size + 2_000_000
    assert stream.service.unsent.memory == 0
