"""What WebSockets may do to all other clients: how long a turn of the server loop lasts, whatever they send."""

from __future__ import annotations

import asyncio
import threading
from typing import TYPE_CHECKING, Any

import pytest
from harness import asgi, errors, half_close, reset, respond, until

from zibai.engine.load import TURN, Load
from zibai.engine.loop import Loop
from zibai.protocol.websocket.codec import STEP

from support import DEADLINE, Client, wait_for
from wsclient import BINARY, CONT, FIN, PING, PONG, TEXT, Hearing, Peer, accept, close, echo, frame, messages, text

if TYPE_CHECKING:
    from credentials import Credentials

NO_MEMORY = "the server has no memory for so large a message now"
FLOODS = {
    "pings": frame(PING) * 10_000,
    "pongs": frame(PONG) * 10_000,
    "fragments": frame(TEXT, first=0) + frame(CONT, first=0) * 2_000 + frame(CONT),
}


@pytest.fixture
def budgets(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """What was left of the budget of each turn."""
    found: list[int] = []
    end = Loop._end_turn

    def watch(loop: Loop, now: float, events: int, most: int) -> None:
        found.append(loop.service.load.budget)
        end(loop, now, events, most)

    monkeypatch.setattr(Loop, "_end_turn", watch)
    return found


async def app(scope: Any, receive: Any, send: Any) -> None:
    await (respond(send) if scope["type"] == "http" else echo(scope, receive, send))


@pytest.mark.parametrize("name", FLOODS)
def test_a_turn_does_not_take_long(name: str, budgets: list[int]) -> None:
    """All clients together cost a turn no more than its budget, and the last step may go beyond it."""
    with asgi(app) as server:
        peers = [Peer(server.port) for _ in range(10)]
        threads = [threading.Thread(target=peer.send, args=(FLOODS[name], text("end"))) for peer in peers]
        for thread in threads:
            thread.start()
        with Client(server.port) as client:
            assert client.get().status == 200
        for peer, thread in zip(peers, threads, strict=True):
            while (found := peer.read()) != (FIN | TEXT, b"end"):
                assert found in ((FIN | PONG, b""), (FIN | TEXT, b""))
            thread.join()
            peer.client.close()
    assert -STEP - 100 < min(budgets) < TURN - 500


def test_over_tls(budgets: list[int], credentials: Credentials) -> None:
    with asgi(app, certfile=credentials.server) as server:
        context = credentials.context()
        with Peer(server.port, tls=context) as peer:
            peer.send(FLOODS["pongs"], text("end"), frame(PING))
            assert sorted(peer.read() for _ in range(2)) == [(FIN | TEXT, b"end"), (FIN | PONG, b"")]
    assert min(budgets) < TURN - 500


def test_what_a_client_has_left_behind_is_no_load(loads: list[Load]) -> None:
    """The application receives what came before the end, when the connection is already closed."""
    stop, done = threading.Event(), threading.Event()
    heard: list[Any] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await accept(receive, send)
        await until(stop)
        await messages(receive, heard)
        done.set()

    with asgi(app, ws_max_queue=4) as server:
        peer = Peer(server.port)
        peer.send(text("x") * 100, frame(TEXT, b"y" * 10_000)[:-1])
        (load,) = wait_for(lambda: [each for each in loads if each.memory > 10_000])
        reset(peer.client)
        wait_for(lambda: not load.memory)
        stop.set()
        assert done.wait(DEADLINE)
    assert heard[0] == "x"
    assert heard[-1] == (1006, "")
    assert not load.memory


def test_long_messages_that_wait_for_the_application_have_a_bound_in_sum(loads: list[Load]) -> None:
    """An application may receive late, or never."""
    stop = threading.Event()
    heard: list[Any] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await accept(receive, send)
        await until(stop)
        await messages(receive, heard)

    with asgi(app, max_bodies_memory=500_000) as server, Peer(server.port) as first, Peer(server.port) as second:
        first.send(frame(BINARY, bytes(400_000)))
        (load,) = wait_for(lambda: [each for each in loads if each.memory >= 400_000])
        second.send(frame(BINARY, bytes(400_000)))
        assert second.read_close() == (1013, NO_MEMORY)
        assert second.at_end()
        stop.set()
        first.send(text("short"), close(1000))
        assert first.read_close() == (1000, "")
        wait_for(lambda: not load.memory)
    assert sorted(heard, key=str) == [(1000, ""), (1013, NO_MEMORY), bytes(400_000), "short"]


def test_an_application_that_always_finds_a_message_lets_others_run() -> None:
    """A read of 64 KiB may have 9,000 messages, and each ``receive`` returns at once."""
    found: list[int] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await accept(receive, send)
        ticks = asyncio.ensure_future(tick())
        while (await receive())["type"] == "websocket.receive":
            found[-1] += 1
        ticks.cancel()

    async def tick() -> None:
        while True:
            found.append(0)
            await asyncio.sleep(0)

    async def begin(scope: Any, receive: Any, send: Any) -> None:
        found.append(0)
        await app(scope, receive, send)

    with asgi(begin) as server, Peer(server.port) as peer:
        peer.send(text("x") * 50_000, close(1000))
        assert peer.read_close() == (1000, "")
    assert sum(found) == 50_000
    assert max(found) < TURN + 100


@pytest.mark.parametrize("leave", [half_close, Client.close], ids=["half-close", "close"])
@pytest.mark.parametrize("name", ["pongs", "fragments"])
def test_a_client_that_leaves_is_heard_to_the_end(name: str, leave: Any) -> None:
    app = Hearing()
    with asgi(app) as server:
        peer = Peer(server.port)
        peer.send(FLOODS[name], text("last"))
        leave(peer.client)
        assert app.done.wait(DEADLINE)
        peer.client.close()
    assert [each for each in app.heard if each] == ["last", (1006, "")]
    assert not errors(server)


def test_a_reset_in_a_pause_ends_it() -> None:
    app = Hearing()
    with asgi(app) as server:
        peer = Peer(server.port)
        peer.send(FLOODS["fragments"] * 5)
        reset(peer.client)
        assert app.done.wait(DEADLINE)
    assert app.heard[-1] == (1006, "")
    assert not errors(server)


def test_the_close_handshake_in_a_pause() -> None:
    """The application closes while much of what the client has sent is not read."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await accept(receive, send)
        await receive()
        await send({"type": "websocket.close", "code": 3000})

    with asgi(app, ws_close_timeout=DEADLINE) as server:
        for behind in (FLOODS["pongs"], FLOODS["fragments"]):
            with Peer(server.port, behind=text("go")) as peer:
                peer.send(behind, close(3000))
                assert peer.read_close() == (3000, "")
                assert peer.at_end()
    lines = [record for record in server.logged("zibai.access") if "close_code" in record.__dict__]
    assert [line.close_code for line in lines] == [3000, 3000]
