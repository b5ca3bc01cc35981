"""Messages of a WebSocket, and how it ends."""

from __future__ import annotations

import asyncio
import select
import threading
import time
from contextlib import suppress
from typing import Any

import pytest
from harness import asgi, errors, half_close, reset, respond, tracebacks, until

from zibai.engine.async_stream import HIGH
from zibai.engine.context import RECEIVE
from zibai.engine.message_limits import LONG_READ
from zibai.engine.message_stream import MessageStream
from zibai.protocol.websocket.codec import Codec

from support import DEADLINE, Client
from wsclient import (
    BINARY,
    CLOSE,
    CONT,
    FIN,
    PING,
    PONG,
    RSV2,
    TEXT,
    Hearing,
    Peer,
    accept,
    close,
    echo,
    frame,
    messages,
    text,
)


def test_echo() -> None:
    sizes = (0, 1, 125, 126, 65535, 65536, 1_000_000)
    with asgi(echo) as server, Peer(server.port) as peer:
        for size in sizes:
            peer.send(text("é" * size), frame(BINARY, b"\xff" * size))
            assert peer.read() == (FIN | TEXT, "é".encode() * size)
            assert peer.read() == (FIN | BINARY, b"\xff" * size)
        peer.send(close(1000))
        assert peer.read_close() == (1000, "")
        assert peer.at_end()
    assert not errors(server)


def test_a_long_message_is_read_in_long_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    """A turn of the loop for each 64 KiB costs a third of such a message. Other frames may follow it at once."""
    sizes: list[int] = []
    feed = Codec.feed

    def watch(codec: Codec, data: bytes) -> None:
        sizes.append(len(data))
        feed(codec, data)

    monkeypatch.setattr(Codec, "feed", watch)
    sent = frame(BINARY, bytes(8_000_000)) + text("behind")
    with asgi(echo) as server, Peer(server.port) as peer:
        sender = threading.Thread(target=peer.send, args=(sent,))
        sender.start()
        assert peer.read() == (FIN | BINARY, bytes(8_000_000))
        assert peer.texts(1) == ["behind"]
        sender.join()
    assert RECEIVE < max(sizes) <= LONG_READ
    assert sum(sizes) == len(sent)
    (line,) = [record for record in server.logged("zibai.access") if "close_code" in record.__dict__]
    assert line.bytes_in == len(sent)


def test_for_a_long_message_that_is_awaited_reading_does_not_stop(monkeypatch: pytest.MonkeyPatch) -> None:
    """To stop and to go on is 2 % of such an echo. It stops when the next message comes before that one is taken."""
    stops: list[int] = []
    look_soon = MessageStream.look_soon

    def watch(self: MessageStream) -> None:
        stops.append(len(self._codec.messages))
        look_soon(self)

    monkeypatch.setattr(MessageStream, "look_soon", watch)
    with asgi(echo) as server, Peer(server.port) as peer:
        for _ in range(10):
            peer.send(frame(BINARY, bytes(1_000_000)))
            assert peer.read() == (FIN | BINARY, bytes(1_000_000))
    assert stops == []


@pytest.mark.parametrize("leave", [reset, half_close])
def test_a_client_that_leaves_in_a_long_message(leave: Any) -> None:
    app = Hearing()
    with asgi(app) as server:
        peer = Peer(server.port)
        peer.send(frame(BINARY, bytes(1_000_000))[:-1])
        leave(peer.client)
        assert app.done.wait(DEADLINE)
        peer.client.close()
    assert app.heard == [(1006, "")]
    assert not errors(server)


def test_on_uvloop() -> None:
    pytest.importorskip("uvloop")
    with asgi(echo, loop="uvloop") as server, Peer(server.port) as peer:
        peer.send(text("x"), frame(PING, b"p"))
        assert sorted(peer.read() for _ in range(2)) == [(FIN | TEXT, b"x"), (FIN | PONG, b"p")]
        peer.send(close(1000))
        assert peer.read_close() == (1000, "")
        assert peer.at_end()


@pytest.mark.parametrize("size", [1, 2, 3, 7, 4096])
def test_wherever_it_is_cut(size: int) -> None:
    data = text("a") + frame(TEXT, b"b", first=0) + frame(PING, b"p") + frame(CONT, b"c") + text("d" * 200)
    with asgi(echo) as server, Peer(server.port) as peer:
        for place in range(0, len(data), size):
            peer.send(data[place : place + size])
        found = [peer.read() for _ in range(4)]
        assert (FIN | PONG, b"p") in found
        assert [each.data for each in found if each.first == FIN | TEXT] == [b"a", b"bc", b"d" * 200]


def test_a_burst_is_answered_by_few_sends() -> None:
    with asgi(echo) as server, Peer(server.port) as peer:
        peer.send(*[text(str(number)) for number in range(1000)])
        assert peer.texts(1000) == list(map(str, range(1000)))


@pytest.mark.parametrize(
    ("sent", "code"),
    [
        (close(1000), (1000, "")),
        (close(4123, "enough"), (4123, "enough")),
        (close(), (1005, "")),
        (close(1001), (1001, "")),
        (frame(TEXT, b"\xff"), (1007, "invalid start byte")),
        (frame(TEXT, b"\xed\xa0\x80"), (1007, "invalid continuation byte")),
        (frame(TEXT, b"x", mask=None), (1002, "incorrect masking")),
        (frame(3), (1002, "invalid opcode")),
        (frame(TEXT, b"x", first=FIN | RSV2), (1002, "reserved bits must be 0")),
        (frame(PING, b"x" * 126), (1002, "control frame too long")),
        (frame(CONT, b"x"), (1002, "unexpected continuation frame")),
        (close(1006), (1002, "invalid status code")),
        (frame(CLOSE, b"x"), (1002, "close frame too short")),
    ],
    ids=repr,
)
def test_the_application_hears_why_it_ends(sent: bytes, code: tuple[int, str]) -> None:
    """Traps 51 and 52: codes that were lost, and 1006 in the place of others."""
    heard: list[Any] = []
    done = threading.Event()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await accept(receive, send)
        await messages(receive, heard)
        heard.append(await asyncio.wait_for(receive(), DEADLINE))  # trap 11: again
        with pytest.raises(OSError, match="closed"):
            await send({"type": "websocket.send", "text": "x"})
        with pytest.raises(OSError, match="closed"):
            await send({"type": "websocket.close"})
        done.set()

    with asgi(app) as server, Peer(server.port) as peer:
        peer.send(text("before"), sent)
        assert peer.read_close()[0] == code[0]
        assert peer.at_end()
        assert done.wait(DEADLINE)
    assert heard == ["before", code, {"type": "websocket.disconnect", "code": code[0], "reason": code[1]}]
    assert not errors(server)


def test_the_close_frame_may_come_between_fragments() -> None:
    """Trap 67: Autobahn 7.1.5."""
    app = Hearing()
    with asgi(app) as server, Peer(server.port) as peer:
        peer.send(frame(TEXT, b"begun", first=0), close(1000, "enough"), frame(CONT, b"late"))
        assert peer.read_close() == (1000, "enough")
    assert app.heard == [(1000, "enough")]


def test_too_large_a_message_is_refused_by_its_head() -> None:
    """Trap 60: wsproto waits for what a head claims."""
    app = Hearing()
    with asgi(app, ws_max_size=1000) as server:
        for data in (
            frame(BINARY, size=1 << 30),
            frame(BINARY, b"x" * 1001),
            frame(TEXT, b"x" * 600, first=0) + frame(CONT, size=401),
        ):
            with Peer(server.port) as peer:
                peer.send(frame(BINARY, b"y" * 1000), data)
                assert peer.read_close()[0] == 1009
    assert [each[0] for each in app.heard if isinstance(each, tuple)] == [1009] * 3
    assert app.heard.count(b"y" * 1000) == 3


@pytest.mark.parametrize("leave", [reset, half_close, Client.close], ids=["reset", "half-close", "close"])
def test_a_connection_that_is_lost(leave: Any) -> None:
    """Trap 65: uvicorn says 1005."""
    app = Hearing()
    with asgi(app) as server:
        peer = Peer(server.port)
        peer.send(text("last"))
        leave(peer.client)
        assert app.done.wait(DEADLINE)
        peer.client.close()
    assert app.heard in ([*app.heard[:-1], (1006, "")], ["last", (1006, "")])
    if leave is not reset:  # which may overtake the message
        assert app.heard == ["last", (1006, "")]
    assert not errors(server)


def test_the_application_closes() -> None:
    """Trap 49: no disconnect after its own close."""
    heard: list[Any] = []
    done = threading.Event()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await accept(receive, send)
        await send({"type": "websocket.close", "code": 3001, "reason": "r" * 200})
        await messages(receive, heard)
        await messages(receive, heard)
        done.set()

    with asgi(app) as server, Peer(server.port) as peer:
        assert peer.read_close() == (3001, "r" * 123)
        assert done.wait(DEADLINE)
        peer.send(text("late"), close(3001))
        assert peer.at_end()
    assert heard == [(3001, "r" * 123)] * 2
    (line,) = [record for record in server.logged("zibai.access") if "close_code" in record.__dict__]
    assert line.close_code == 3001


@pytest.mark.parametrize("code", [999, 1005, 1006, 1015, 5000, "1000", 1000.0, True])
def test_a_code_that_cannot_be_sent(code: Any) -> None:
    raised: list[Any] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await accept(receive, send)
        try:
            await send({"type": "websocket.close", "code": code})
        except ValueError as error:
            raised.append(error)

    with asgi(app) as server, Peer(server.port) as peer:
        assert peer.read_close() == (1000, "")
    assert len(raised) == 1


async def returns(scope: Any, receive: Any, send: Any) -> None:
    await accept(receive, send)


async def raises(scope: Any, receive: Any, send: Any) -> None:
    await accept(receive, send)
    raise KeyError("mine")


async def accepts_twice(scope: Any, receive: Any, send: Any) -> None:
    await accept(receive, send)
    await send({"type": "websocket.accept"})


async def sends_nothing(scope: Any, receive: Any, send: Any) -> None:
    await accept(receive, send)
    await send({"type": "websocket.send"})


async def sends_bytes_as_text(scope: Any, receive: Any, send: Any) -> None:
    await accept(receive, send)
    await send({"type": "websocket.send", "text": b"x"})


async def sends_a_surrogate(scope: Any, receive: Any, send: Any) -> None:
    await accept(receive, send)
    await send({"type": "websocket.send", "text": "\ud800"})


@pytest.mark.parametrize(
    ("app", "code"),
    [
        (returns, 1000),
        (raises, 1011),
        (accepts_twice, 1011),
        (sends_nothing, 1011),
        (sends_bytes_as_text, 1011),
        (sends_a_surrogate, 1011),
    ],
)
def test_the_end_of_the_application_is_the_end(app: Any, code: int) -> None:
    with asgi(app) as server, Peer(server.port) as peer:
        assert peer.read_close() == (code, "")
        peer.send(close(code))
        assert peer.at_end()
    assert len(errors(server)) == (code == 1011)


def test_any_bytes_are_taken() -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await accept(receive, send)
        for data in (b"a", bytearray(b"b"), memoryview(b"c")):
            await send({"type": "websocket.send", "bytes": data, "text": None})

    with asgi(app) as server, Peer(server.port) as peer:
        assert [peer.read() for _ in range(3)] == [(FIN | BINARY, data) for data in (b"a", b"b", b"c")]


def test_pings_are_answered_while_the_application_does_not_receive() -> None:
    """Trap 61: granian sends no pong then."""
    stop = threading.Event()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await accept(receive, send)
        await until(stop)

    with asgi(app) as server, Peer(server.port) as peer:
        peer.send(text("x"), frame(PING, b"1"), text("y"), frame(PING, b"2"))
        assert [peer.read() for _ in range(2)] == [(FIN | PONG, b"1"), (FIN | PONG, b"2")]
        stop.set()
        assert peer.read_close() == (1000, "")


def test_a_client_that_takes_no_pongs_is_not_read_from(monkeypatch: pytest.MonkeyPatch) -> None:
    """It could fill the memory of the server, which answers pings whatever the application does."""
    waiting = [0]
    send = MessageStream._send

    def watch(stream: MessageStream, data: bytes) -> None:
        send(stream, data)
        waiting.append(stream.waiting)

    locked = []
    written = MessageStream.written

    def hear(stream: MessageStream) -> None:
        locked.append(stream.stream.sender.lock.locked())
        written(stream)

    monkeypatch.setattr(MessageStream, "_send", watch)
    monkeypatch.setattr(MessageStream, "written", hear)
    ping = frame(PING, b"p" * 125)
    with asgi(echo) as server, Peer(server.port) as peer:
        plain = peer.client.socket
        plain.settimeout(1)
        sent = 0
        with suppress(TimeoutError):
            while sent < 50_000_000:
                sent += plain.send(ping * 500)
        assert sent < 50_000_000
        plain.settimeout(DEADLINE)
        whole, begun = divmod(sent, len(ping))
        for _ in range(whole):
            assert peer.read() == (FIN | PONG, b"p" * 125)
        peer.send(ping[begun:] if begun else b"", text("still here"))
        frames = [peer.read() for _ in range(1 + bool(begun))]
        assert frames[-1] == (FIN | TEXT, b"still here")
    assert HIGH < max(waiting) <= HIGH + 2 * RECEIVE
    assert set(locked) == {False}, "it reads on then, and may have to send"


@pytest.mark.parametrize("first", [0, 3], ids=["never", "after some"])
def test_a_client_that_sends_faster_than_the_application_receives_has_to_wait(first: int) -> None:
    """Trap 62: websockets#105: a queue without bound."""
    stop = threading.Event()
    heard: list[Any] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await accept(receive, send)
        heard.extend([await receive() for _ in range(first)])
        await until(stop)
        await messages(receive, heard)

    piece = text("x" * 1000) * 100
    with asgi(app) as server, Peer(server.port) as peer:
        sock = peer.client.socket
        sock.settimeout(0.5)
        sent = 0
        try:
            while sent < 500_000_000:
                sent += sock.send(piece)
        except TimeoutError:
            pass
        assert sent < 50_000_000, "what the kernel takes, and 64 KiB"
        sock.settimeout(DEADLINE)
        stop.set()
        rest = -sent % 1008
        peer.send((piece * 2)[sent % 1008 : sent % 1008 + rest] if rest else b"", close(1000))
        assert peer.read_close() == (1000, "")
    assert len(heard) == (sent + rest) // 1008 + 1


def test_parts_of_long_messages_have_a_bound_in_sum() -> None:
    """What is not whole counts as the bodies of requests do. Messages that fit into one read are always taken."""
    app = Hearing()
    with asgi(app, max_bodies_memory=500_000) as server:
        with Peer(server.port) as first, Peer(server.port) as second, Peer(server.port) as third:
            first.send(frame(BINARY, bytes(300_000))[:-1])
            second.send(frame(BINARY, bytes(300_000))[:-1])
            code = select_close(first, second)
            assert code == (1013, "the server has no memory for so large a message now")
            third.send(text("short"), close(1000))
            assert third.read_close() == (1000, "")
    assert "short" in app.heard


def select_close(*peers: Peer) -> tuple[int, str]:
    """That of the first of these that is closed."""
    readable, _, _ = select.select([peer.client.socket for peer in peers], [], [], DEADLINE)
    return next(peer for peer in peers if peer.client.socket in readable).read_close()


def test_a_client_that_takes_nothing_makes_the_application_wait() -> None:
    waits, stop = threading.Event(), threading.Event()
    given: list[int] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await accept(receive, send)
        for number in range(10_000):
            task = asyncio.ensure_future(send({"type": "websocket.send", "bytes": bytes(100_000)}))
            done, _ = await asyncio.wait({task}, timeout=0.5)
            if not done:
                waits.set()
                await until(stop)
            await task
            given.append(number)
            if stop.is_set():
                break

    with asgi(app) as server, Peer(server.port) as peer:
        assert waits.wait(DEADLINE)
        assert len(given) < 200
        stop.set()
        for _ in range(len(given) + 1):
            assert len(peer.read().data) == 100_000
        assert peer.read_close() == (1000, "")
    assert not errors(server)


def test_a_client_that_takes_nothing_for_too_long_is_cut() -> None:
    over = threading.Event()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await accept(receive, send)
        try:
            while True:
                await send({"type": "websocket.send", "bytes": bytes(100_000)})
        except OSError:
            over.set()

    with asgi(app, socket_timeout=1.0) as server, Peer(server.port):
        assert over.wait(DEADLINE)
    assert not tracebacks(server)


def test_any_number_of_tasks_may_receive() -> None:
    heard: list[Any] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await accept(receive, send)
        waiting = [asyncio.ensure_future(receive()) for _ in range(3)]
        await asyncio.sleep(0)
        waiting.pop(0).cancel()
        await send({"type": "websocket.send", "text": "go"})
        heard.extend([(await each).get("text") for each in waiting])
        await messages(receive, heard)

    with asgi(app) as server, Peer(server.port) as peer:
        assert peer.texts(1) == ["go"]
        peer.send(*map(text, "abc"), close(1000))
        peer.read_close()
    assert sorted(heard[:2]) == ["a", "b"]
    assert heard[2:] == ["c", (1000, "")]


def test_it_holds_no_slot() -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "http":
            await respond(send)
        else:
            await echo(scope, receive, send)

    with asgi(app, max_workers=2) as server:
        peers = [Peer(server.port) for _ in range(10)]
        with Client(server.port) as client:
            assert client.get().status == 200
        for peer in peers:
            peer.send(text("x"))
            assert peer.texts(1) == ["x"]
            peer.client.close()


def test_a_background_task_goes_on_when_the_connection_is_over() -> None:
    go, done = threading.Event(), threading.Event()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await accept(receive, send)
        await messages(receive, [])
        await until(go)
        done.set()

    with asgi(app) as server:
        with Peer(server.port) as peer:
            peer.send(close(1000))
            assert peer.read_close() == (1000, "")
            assert peer.at_end()
        go.set()
        assert done.wait(DEADLINE)


def test_an_error_after_the_end_is_the_application_s() -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await accept(receive, send)
        await messages(receive, [])
        raise KeyError("mine")

    with asgi(app) as server, Peer(server.port) as peer:
        peer.send(close(1000))
        assert peer.read_close() == (1000, "")
    assert "KeyError('mine')" in "".join(errors(server))


def test_what_an_application_makes_of_our_error_is_no_fault() -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await accept(receive, send)
        async with asyncio.TaskGroup() as group:
            group.create_task(asyncio.sleep(60))
            group.create_task(chatter(send))

    async def chatter(send: Any) -> None:
        while True:
            await send({"type": "websocket.send", "bytes": bytes(1000)})
            await asyncio.sleep(0.001)

    with asgi(app) as server:
        with Peer(server.port) as peer:
            peer.read()
            reset(peer.client)
        began = time.monotonic()
    assert time.monotonic() - began < DEADLINE
    assert not tracebacks(server)


def test_a_client_that_does_not_close_is_cut() -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await accept(receive, send)

    with asgi(app, ws_close_timeout=0.3) as server, Peer(server.port) as peer:
        assert peer.read_close() == (1000, "")
        with pytest.raises(ConnectionError):
            peer.read()


def test_a_silent_client_is_sent_pings_and_closed() -> None:
    """Trap 66: quart#64: iOS leaves without a word."""
    app = Hearing()
    with asgi(app, ws_ping_interval=0.2, ws_ping_timeout=0.4) as server, Peer(server.port) as peer:
        for _ in range(3):
            assert peer.read() == (FIN | PING, b"")
            peer.send(frame(PONG))
        assert peer.read() == (FIN | PING, b"")
        assert peer.read_close() == (1011, "no response to a ping")
    assert app.heard == [(1011, "no response to a ping")]


def test_pings_go_on_when_a_slow_client_has_taken_all() -> None:
    """What waited for the client has had a deadline of its own."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await accept(receive, send)
        await send({"type": "websocket.send", "bytes": bytes(8_000_000)})
        await messages(receive, [])

    with asgi(app, ws_ping_interval=0.5, ws_ping_timeout=100.0) as server, Peer(server.port) as peer:
        while (found := peer.read()).first != FIN | BINARY:
            assert found.first == FIN | PING
        for _ in range(2):
            assert peer.read().first == FIN | PING
            peer.send(frame(PONG))


def test_a_client_whose_messages_wait_is_not_taken_for_dead() -> None:
    """Trap 63."""
    stop = threading.Event()
    heard: list[Any] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await accept(receive, send)
        await until(stop)
        await messages(receive, heard)

    with asgi(app, ws_ping_interval=0.1, ws_ping_timeout=0.1) as server, Peer(server.port) as peer:
        peer.send(*[text(str(number)) for number in range(100)])
        peer.client.socket.settimeout(1.0)
        with pytest.raises(TimeoutError):
            peer.client.socket.recv(1)
        peer.client.socket.settimeout(DEADLINE)
        stop.set()
        peer.send(close(1000))
        while peer.client.socket.recv(1) != b"\x88":
            pass
    assert heard == [*map(str, range(100)), (1000, "")]


class WebSocketDisconnect(Exception):
    """As Starlette, FastAPI and Litestar raise it when they receive the event."""


@pytest.mark.parametrize("kind", ["bare", "group", "bug", "mixed", "early"])
def test_what_frameworks_raise_when_the_client_has_left_is_no_error(kind: str) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await accept(receive, send)
        if kind == "early":
            raise WebSocketDisconnect
        while (await receive())["type"] != "websocket.disconnect":
            pass
        match kind:
            case "bare":
                raise WebSocketDisconnect
            case "group":
                raise ExceptionGroup("", [WebSocketDisconnect(), ExceptionGroup("", [WebSocketDisconnect()])])
            case "bug":
                try:
                    raise WebSocketDisconnect
                except WebSocketDisconnect:
                    {}["room"]
            case "mixed":
                raise ExceptionGroup("", [WebSocketDisconnect(), KeyError("room")])

    with asgi(app) as server, Peer(server.port) as client:
        client.send(text("hello"), close(1000))
        assert client.read_close()[0] == (1011 if kind == "early" else 1000)
    assert len(errors(server)) == (0 if kind in ("bare", "group") else 1)
