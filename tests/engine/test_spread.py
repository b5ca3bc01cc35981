"""A burst of connections is spread over all workers, and no worker waits for one that takes nobody."""

from __future__ import annotations

import os
import signal
import sys
from collections import Counter
from contextlib import ExitStack
from math import inf

import pytest

from zibai.engine.spread import AHEAD_BY, LEAVE, ROWS_CHECK_INTERVAL, Spread
from zibai.telemetry.row import Row

from rig import GET, Rig, read
from support import Client, Server, is_stopped, wait_for


def sibling(connections: int, state: str = "ready", *, full: bool = False) -> Row:
    row = Row.private(1)
    row.assign(state, 1, 0, 0.0)
    row.connections = connections
    if full:
        row.mark_full(True)
    return row


def spread(*others: Row, slots: int = 10) -> Spread:
    return Spread(lambda: [(False, each) for each in others], slots)


def test_a_worker_that_is_alone_takes_everybody() -> None:
    assert spread().room(1000, 1.0) == inf
    assert spread(sibling(0, "draining"), sibling(0, "starting"), sibling(0, "")).room(1000, 1.0) == inf


@pytest.mark.parametrize(
    ("has", "least", "room"),
    [(0, 0, AHEAD_BY), (2, 0, AHEAD_BY - 2), (5, 9, 8 + AHEAD_BY), (0, 100, 153)],
)
def test_a_worker_takes_a_few_more_than_the_one_that_has_fewest(has: int, least: int, room: int) -> None:
    assert spread(sibling(least), sibling(least + 50)).room(has, 1.0) == room


def test_one_that_is_ahead_leaves_clients_to_the_other_for_a_moment() -> None:
    ahead = spread(sibling(0))
    assert ahead.room(AHEAD_BY, 1.0) == 0
    assert ahead.room(AHEAD_BY, 1.0 + LEAVE) == 1  # the sibling has taken nobody
    assert ahead.room(AHEAD_BY + 1, 1.0 + 1.9 * LEAVE) == 1
    assert ahead.room(AHEAD_BY + 2, 1.0 + 2.1 * LEAVE) == 0


def test_one_runner_is_ahead_with_one_client() -> None:
    assert spread(sibling(0), slots=1).room(0, 1.0) == 1
    assert spread(sibling(0), slots=1).room(1, 1.0) == 0


def test_nothing_is_left_to_one_that_takes_nobody() -> None:
    assert spread(sibling(0, full=True)).room(AHEAD_BY, 1.0) == 1
    other = sibling(0)
    ahead = spread(other)
    assert ahead.room(0, 1.0) == AHEAD_BY
    other.assign("draining", 1, 0, 0.0)
    assert ahead.room(AHEAD_BY, 1.0) == 1  # seen at once, although who the siblings are is looked at once a second
    assert ahead.room(AHEAD_BY, 1.0 + ROWS_CHECK_INTERVAL) == inf


def test_the_row_tells_how_many_connections_there_are(monkeypatch: pytest.MonkeyPatch) -> None:
    with Rig(monkeypatch) as rig:
        assert rig.row.connections == 0
        first, _ = rig.connect()
        second, _ = rig.connect()
        assert rig.row.connections == 2
        first.close()
        rig.until(lambda: rig.row.connections == 1)
        second.close()
        rig.until(lambda: rig.row.connections == 0)
        rig.connect()
    assert rig.row.connections == 0


def test_the_loop_comes_back_to_those_that_it_has_left(monkeypatch: pytest.MonkeyPatch) -> None:
    other = sibling(0)
    with Rig(monkeypatch, siblings=lambda: [(True, other)]) as rig:
        clients = [rig.client() for _ in range(AHEAD_BY + 2)]
        rig.queued(len(clients))
        rig.until(lambda: len(rig.connections) == AHEAD_BY)
        rig.turn()
        assert len(rig.connections) == AHEAD_BY
        rig.turn()
        assert not rig.accepting
        assert rig.loop.timeout() == pytest.approx(LEAVE)
        rig.turn(after=LEAVE)
        assert len(rig.connections) == AHEAD_BY + 1
        rig.turn()
        assert len(rig.connections) == AHEAD_BY + 2
        for client in clients:
            client.send(GET)
            rig.until(rig.run)
            assert read(client)


def burst(server: Server, clients: int) -> Counter[bytes]:
    """How many of so many connections each worker has taken."""
    with ExitStack() as stack:
        connected = [stack.enter_context(Client(server.port)) for _ in range(clients)]
        for client in connected:
            client.send(b"GET /pid HTTP/1.1\r\nHost: a\r\n\r\n")
        return Counter(client.read().body for client in connected)


@pytest.mark.slow
def test_a_burst_is_spread(backend: tuple[str, ...]) -> None:
    """Not on a busy machine, where a worker may be slow to wake, since no sibling waits for it."""
    with Server("mortal:app", "-p", "2", "-w", "40", *backend) as server:
        wait_for(lambda: sum("worker ready" in line for line in server.log) == 2)
        taken = [burst(server, 16) for _ in range(10)]
    assert sum(max(each.values()) <= 11 for each in taken) >= 5, taken


@pytest.mark.skipif(sys.platform != "linux", reason="/proc says whether a process is stopped")
def test_nobody_waits_for_a_worker_that_is_stopped() -> None:
    with Server("mortal:app", "-p", "2", "-w", "40", "--no-gevent") as server:
        wait_for(lambda: sum("worker ready" in line for line in server.log) == 2)
        stopped, other = server.children()
        os.kill(stopped, signal.SIGSTOP)
        try:
            wait_for(lambda: is_stopped(stopped))
            assert burst(server, 16) == {str(other).encode(): 16}
        finally:
            os.kill(stopped, signal.SIGCONT)
