"""A burst of connections is spread over all workers, and no worker waits for one that takes nobody."""

from __future__ import annotations

import os
import signal
import sys
from collections import Counter
from contextlib import ExitStack
from math import inf

import pytest

from zibai.clock import clock
from zibai.engine import spread as module
from zibai.engine.spread import AHEAD_BY, CREDIT, LEAVE, PATIENCE, ROWS_CHECK_INTERVAL, SHARE, Spread
from zibai.telemetry.row import Row

from rig import GET, Rig, read
from support import Client, Server, is_stopped, wait_for


def sibling(connections: int, state: str = "ready", *, seen: float = 0.0, full: bool = False) -> Row:
    row = Row.private(1)
    row.assign(state, 1, 0, 0.0)
    row.connections, row.seen = connections, seen
    if full:
        row.mark_full(True)
    return row


class Worker:
    """The spread of a worker, whose clock stands still until the test moves it."""

    def __init__(self, patch: pytest.MonkeyPatch, *others: Row, slots: int = 10) -> None:
        self.now = clock()
        patch.setattr(module, "clock", lambda: self.now)
        self.row = Row.private(1)
        self.spread = Spread(self.row, lambda: [(False, each) for each in others], slots)

    def room(self, connections: int = 0, *, after: float = 0.0, waited: bool = True) -> float:
        self.now += after
        return self.spread.room(connections, waited)

    def leaves(self, connections: int, seconds: float = PATIENCE) -> None:
        """It leaves clients to others for so many seconds."""
        begun = self.now
        for number in range(round(seconds / LEAVE)):
            assert self.room(connections) == 0
            # Not a sum of many: its error depends on how long the machine is up, and may be the last step.
            self.now = begun + (number + 1) * LEAVE


def test_a_worker_that_is_alone_takes_everybody(monkeypatch: pytest.MonkeyPatch) -> None:
    alone = Worker(monkeypatch)
    assert alone.room(1000) == inf
    assert alone.row.seen == 0  # nor does it write anything
    assert Worker(monkeypatch, sibling(0, "draining"), sibling(0, "starting"), sibling(0, "")).room(1000) == inf


@pytest.mark.parametrize(
    ("has", "least", "room"),
    [(0, 0, AHEAD_BY), (2, 0, AHEAD_BY - 2), (5, 9, 8 + AHEAD_BY), (0, 100, 153)],
)
def test_a_worker_takes_a_few_more_than_the_one_that_has_fewest(
    monkeypatch: pytest.MonkeyPatch, has: int, least: int, room: int
) -> None:
    seen = clock() + 1  # it has seen these clients, and leaves them to us
    assert Worker(monkeypatch, sibling(least, seen=seen), sibling(least + 50, seen=seen)).room(has) == room


def test_a_few_are_taken_until_the_other_has_seen_them(monkeypatch: pytest.MonkeyPatch) -> None:
    other = sibling(50)  # it may be about to close all of them
    worker = Worker(monkeypatch, other)
    assert worker.room() == AHEAD_BY
    worker.spread.accepted += AHEAD_BY - 1
    assert worker.room() == 1
    worker.spread.accepted += 1
    assert worker.room() == 0
    other.seen = worker.now
    assert worker.room(after=LEAVE) == AHEAD_BY
    worker.spread.accepted += AHEAD_BY
    assert worker.room() == 0


def test_a_worker_that_is_ahead_leaves_clients_to_the_other_for_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    other = sibling(0)
    worker = Worker(monkeypatch, other)
    worker.leaves(AHEAD_BY)
    assert worker.room(AHEAD_BY) == inf  # the sibling has seen nothing
    assert worker.room(AHEAD_BY + 100, after=ROWS_CHECK_INTERVAL) == inf  # it is not waited for again
    other.seen = worker.now
    worker.leaves(AHEAD_BY)


def test_the_next_sibling_decides_when_one_hangs(monkeypatch: pytest.MonkeyPatch) -> None:
    hanging = sibling(0)
    worker = Worker(monkeypatch, hanging, sibling(10, seen=clock() + 100))
    worker.leaves(AHEAD_BY)
    assert worker.room(AHEAD_BY) == 15


def test_a_sibling_that_sees_clients_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    other = sibling(0)
    worker = Worker(monkeypatch, other)
    for _ in range(3):
        worker.leaves(AHEAD_BY, PATIENCE - LEAVE)
        other.seen = worker.now


def test_a_steady_flow_is_held_up_for_a_small_share_of_the_time(monkeypatch: pytest.MonkeyPatch) -> None:
    other = sibling(4)
    worker = Worker(monkeypatch, other)
    left, turns = 0, 2000
    for turn in range(turns):
        other.seen = worker.now
        room = worker.room(20, after=LEAVE)
        assert room in (0, inf), turn
        left += not room
    assert left * LEAVE == pytest.approx(CREDIT + SHARE * turns * LEAVE, abs=2 * LEAVE)
    assert worker.room(20, after=CREDIT / SHARE) == 0
    worker.leaves(20)


def test_moments_in_which_nobody_waited_cost_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    other = sibling(0)
    worker = Worker(monkeypatch, other)
    for _ in range(1000):
        other.seen = worker.now
        assert worker.room(AHEAD_BY, after=LEAVE, waited=False) == 0


def test_only_moments_that_were_left_cost_anything(monkeypatch: pytest.MonkeyPatch) -> None:
    other = sibling(0)
    worker = Worker(monkeypatch, other)
    for _ in range(1000):
        other.seen = worker.now
        assert worker.room(0, after=LEAVE) == AHEAD_BY
    worker.leaves(AHEAD_BY)


def test_one_runner_is_ahead_with_one_client(monkeypatch: pytest.MonkeyPatch) -> None:
    assert Worker(monkeypatch, sibling(0), slots=1).room(0) == 1
    assert Worker(monkeypatch, sibling(0), slots=1).room(1) == 0


def test_nothing_is_left_to_one_that_takes_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    worker = Worker(monkeypatch, sibling(4, full=True))
    assert worker.room(20) == 1
    assert worker.room() == AHEAD_BY
    worker.spread.accepted += AHEAD_BY
    assert worker.room() == 9  # as many as are fair, since it will not see these clients
    other = sibling(0)
    worker = Worker(monkeypatch, other)
    assert worker.room() == AHEAD_BY
    other.assign("draining", 1, 0, 0.0)
    assert worker.room(AHEAD_BY) == 1  # seen at once, although who the siblings are is looked at once a second
    assert worker.room(AHEAD_BY, after=ROWS_CHECK_INTERVAL) == inf


def test_the_row_tells_when_clients_were_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    worker = Worker(monkeypatch, sibling(0))
    assert worker.room() == AHEAD_BY
    assert worker.row.seen == pytest.approx(worker.now, abs=2e-6)
    assert worker.room(AHEAD_BY, after=1.0) == 0
    assert worker.row.seen == pytest.approx(worker.now + LEAVE, abs=2e-6)  # its own clients are known until then


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
        monkeypatch.setattr(module, "clock", lambda: rig.now)
        clients = [rig.client() for _ in range(2 * AHEAD_BY + 2)]
        rig.queued(len(clients))
        rig.until(lambda: len(rig.connections) == AHEAD_BY)
        rig.turn()
        assert len(rig.connections) == AHEAD_BY
        rig.turn()
        assert not rig.accepting
        assert rig.loop.timeout() == pytest.approx(LEAVE)
        rig.turn(after=LEAVE)
        assert len(rig.connections) == AHEAD_BY
        other.connections, other.seen = AHEAD_BY, rig.now
        rig.turn()
        rig.turn(after=LEAVE)
        assert len(rig.connections) == 2 * AHEAD_BY
        for _ in range(round(PATIENCE / LEAVE) + 2):
            rig.turn(after=LEAVE)
        assert len(rig.connections) == len(clients)
        for client in clients:
            client.send(GET)
            rig.until(rig.run)
            assert read(client)


def test_the_loop_tells_whether_clients_have_waited(monkeypatch: pytest.MonkeyPatch) -> None:
    other = sibling(0)
    with Rig(monkeypatch, siblings=lambda: [(True, other)]) as rig:
        monkeypatch.setattr(module, "clock", lambda: rig.now)
        spread = rig.loop.admission.spread
        clients = [rig.client() for _ in range(AHEAD_BY + 1)]
        rig.queued(len(clients))
        rig.until(lambda: not rig.accepting)
        assert spread.accepted == AHEAD_BY
        assert spread._credit == CREDIT
        rig.turn(after=LEAVE)
        assert spread._credit == pytest.approx(CREDIT - LEAVE, abs=SHARE * LEAVE)
        clients[-1].close()
        rig.listener.accept()[0].close()  # the sibling has taken it
        rig.turn(after=LEAVE)
        rig.turn(after=LEAVE)
        assert rig.accepting
        credit = spread._credit
        clients.append(rig.client())
        rig.queued(1)
        rig.turn(after=LEAVE)
        assert spread._credit >= credit


def burst(server: Server, clients: int) -> Counter[bytes]:
    """How many of so many connections each worker has taken."""
    with ExitStack() as stack:
        connected = [stack.enter_context(Client(server.port)) for _ in range(clients)]
        for client in connected:
            client.send(b"GET /pid HTTP/1.1\r\nHost: a\r\n\r\n")
        return Counter(client.read().body for client in connected)


@pytest.mark.slow
def test_a_burst_is_spread(backend: tuple[str, ...]) -> None:
    """Not always on a busy machine, where a worker may be slow to wake, since no sibling waits for it for long."""
    with Server("mortal:app", "-p", "2", "-w", "40", *backend) as server:
        wait_for(lambda: sum("worker ready" in line for line in server.log) == 2)
        taken = [burst(server, 16) for _ in range(10)]
    assert sum(max(each.values()) <= 11 for each in taken) >= 8, taken


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
