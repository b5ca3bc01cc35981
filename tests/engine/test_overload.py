"""Clients that come while no runner is free: who accepts them, and since when they wait."""

from __future__ import annotations

import errno
import sys
import time
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

from zibai.clock import clock
from zibai.config.addresses import Trust
from zibai.engine.overload import ALL_FULL, BACKLOG_STAYS, FREE_MOMENT, SIBLINGS_CHECK_INTERVAL, STALE, Overload
from zibai.engine.states import APP, HANDSHAKE, HEAD, PASSED, READY
from zibai.server import worker
from zibai.telemetry import row as row_module
from zibai.telemetry.row import Row

from rig import GET, Rig, ended, read

if TYPE_CHECKING:
    from pathlib import Path

linux = pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells since when a request is there")


def mark(row: Row, full: bool, ago: float = 0.0) -> None:
    """What a worker has written of itself some seconds ago."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(row_module, "clock", lambda: clock() - ago)
        row.mark_full(full)


def sibling(state: str = "ready", *, full: bool = True, ago: float = 0.0) -> Row:
    row = Row.private(1)
    row.assign(state, 1, 0, 0.0)
    mark(row, full, ago if full else 1.0)
    return row


def overload(*others: tuple[bool, Row], backlog: list[bool] | None = None) -> Overload:
    """One whose worker is full. ``backlog`` says at each look whether a connection waits there; else that fails."""
    made = Overload(Row.private(1), lambda: others, (backlog or []).pop)
    made.note(True, 100.0)
    return made


def test_a_worker_that_is_alone_accepts_on_at_once() -> None:
    lonely = overload()
    assert lonely.accepts(100.0)
    lonely.accepted(SimpleNamespace(state=READY, idle=False))
    assert lonely.accepts(100.0)
    assert lonely.again == float("inf")


@pytest.mark.parametrize("state", ["draining", ""])
def test_workers_that_do_not_serve_are_no_siblings(state: str) -> None:
    assert overload((False, sibling(state, full=False))).accepts(100.0)


def test_one_that_starts_will_be_free() -> None:
    """Or the first worker of a server would take clients that it cannot run, a moment before the others are ready."""
    starting = overload((False, sibling("starting", full=False)))
    assert not starting.accepts(100.0)
    assert starting.accepts(
        100.0 + ALL_FULL + SIBLINGS_CHECK_INTERVAL
    )  # but nobody has to wait until then: the start may take long


def test_one_that_has_siblings_waits_until_all_have_been_full_for_a_while() -> None:
    busy = overload((False, sibling()), (False, sibling()))
    assert not busy.accepts(100.0)
    assert busy.again == 100.0 + SIBLINGS_CHECK_INTERVAL
    assert not busy.accepts(100.0 + ALL_FULL - 0.01)
    assert busy.accepts(100.0 + ALL_FULL + SIBLINGS_CHECK_INTERVAL)


def test_a_sibling_that_is_free_gets_the_client() -> None:
    other = sibling()
    busy = overload((False, other), backlog=[False])
    busy.accepts(100.0)
    mark(other, False, 2 * FREE_MOMENT)
    assert not busy.accepts(101.0)
    mark(other, True)
    assert not busy.accepts(102.0)  # counted anew
    mark(other, False)  # between two requests
    assert busy.accepts(103.0)


@pytest.mark.parametrize("first", [False, True])
@pytest.mark.parametrize("full", [False, True])
def test_a_sibling_that_hangs_keeps_nobody_waiting(first: bool, full: bool) -> None:
    """Stopped, for example: it has said that it is free, or that it is full, and nothing since then."""
    hung = sibling()
    mark(hung, full, 2 * STALE)
    busy = overload((first, hung), backlog=[True] * 3)
    assert not busy.accepts(100.0)
    assert not busy.accepts(100.0 + BACKLOG_STAYS - 0.01)
    assert busy.accepts(100.0 + BACKLOG_STAYS + SIBLINGS_CHECK_INTERVAL)


def test_connections_have_to_be_in_the_backlog_at_each_look() -> None:
    seen = [(100.0, True), (100.9, False), (101.0, True), (101.9, True), (102.1, True)]
    busy = overload((False, sibling(full=False)), backlog=[waits for _, waits in reversed(seen)])
    assert [busy.accepts(moment) for moment, _ in seen] == [False, False, False, False, True]


def test_the_first_of_the_full_ones_leads() -> None:
    busy = overload((True, sibling(full=False)), (True, sibling()), backlog=[True] * 2)
    busy.accepts(100.0)
    assert not busy.accepts(105.0)


def test_a_worker_without_a_row_is_not_alone() -> None:
    """On a system without shared memory, when the file of the scoreboard cannot be made."""
    busy = Overload(Row.private(1), worker.without_a_row, lambda: True)
    busy.note(True, 100.0)
    assert not busy.accepts(100.0)
    assert not busy.accepts(100.0 + BACKLOG_STAYS - 0.01)
    assert busy.accepts(100.0 + BACKLOG_STAYS + SIBLINGS_CHECK_INTERVAL)


def test_a_full_worker_says_so_again_at_each_look() -> None:
    row = Row.private(1)
    busy = Overload(row, lambda: [(False, sibling())], bool)
    busy.note(True, 100.0)
    mark(row, True, 2 * STALE)
    busy.accepts(100.0)
    assert row.is_full(clock() - STALE, clock())


def test_a_moment_between_two_requests_of_our_own_does_not_count() -> None:
    busy = overload((False, sibling()))
    busy.accepts(100.0)
    for moment, is_full in ((FREE_MOMENT / 2, True), (2 * FREE_MOMENT, False)):
        busy.note(False, 101.0)
        busy.note(True, 101.0 + moment)
        assert busy.accepts(102.0) == is_full


def test_only_the_first_of_all_accepts_on() -> None:
    second = overload((True, sibling()), (False, sibling()))
    second.accepts(100.0)
    assert not second.accepts(105.0)


def test_one_client_at_a_time() -> None:
    busy = overload((False, sibling()))
    busy.accepts(100.0)
    assert busy.accepts(101.0)
    for state in (HEAD, HANDSHAKE, READY):
        probe: Any = SimpleNamespace(state=state, idle=False)
        busy.accepted(probe)
        assert not busy.accepts(101.0)
    probe.idle, probe.state = True, HEAD  # it has sent nothing, so it does not wait
    assert busy.accepts(101.0)
    probe.state, probe.follower = PASSED, SimpleNamespace(state=READY, idle=False)
    assert not busy.accepts(101.0)
    probe.follower.state = APP
    assert busy.accepts(101.0)


def test_a_full_loop_without_siblings_accepts_what_comes(monkeypatch: pytest.MonkeyPatch) -> None:
    with Rig(monkeypatch, slots=1) as rig:
        first = rig.client()
        first.send(GET)
        rig.until(lambda: len(rig.loop._ready) == 1)
        running = rig.take()
        for number in range(1, 4):
            rig.client().send(GET)
            rig.until(lambda number=number: len(rig.loop._ready) == number)
        assert rig.row.is_full(0.0, clock())
        running.exchange(rig.row.slots[0], clock())
        rig.loop.give_back(running)
        rig.until(rig.run)
        assert not rig.row.is_full(0.0, clock())


@linux
def test_what_waited_in_the_backlog_has_waited(monkeypatch: pytest.MonkeyPatch) -> None:
    """And comes before what has come to this worker later."""
    free = sibling(full=False)
    free.connections, free.seen = 2, clock() + 60  # it leaves clients to us
    with Rig(monkeypatch, slots=1, siblings=lambda: [(False, free)]) as rig:
        kept, _ = rig.connect()
        busy, _ = rig.connect()
        busy.send(GET)
        rig.until(lambda: len(rig.loop._ready) == 1)
        running = rig.take()
        rig.turn()
        assert not rig.accepting
        late = rig.client()
        late.send(GET)
        rig.queued(1)
        began = time.monotonic()
        while time.monotonic() - began < 0.05:  # what is measured has to pass
            time.sleep(0.01)
        kept.send(GET)
        rig.until(lambda: len(rig.loop._ready) == 1)
        running.exchange(rig.row.slots[0], clock())
        rig.loop.give_back(running)
        rig.turn()
        rig.until(lambda: len(rig.loop._ready) == 2)
        (first, since), (second, other) = rig.loop._ready
        assert first.sock.getpeername() == late.getsockname()
        assert second.sock.getpeername() == kept.getsockname()
        assert 0.04 <= rig.now - since < 10
        assert other == rig.now
        rig.until(rig.run)
        assert read(late)


@pytest.mark.skipif(sys.platform == "win32", reason="there are no unix sockets")
def test_a_unix_socket_does_not_tell(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with Rig(monkeypatch, slots=1, unix=tmp_path / "s") as rig:
        client = rig.client()
        client.send(GET)
        rig.loop.admission.overload.full_at = rig.now
        rig.until(lambda: len(rig.loop._ready) == 1)
        assert rig.loop._ready[0][1] == rig.now


# --- a client that is closed at once, while no runner is free -----------------------------------------

PROXY = b"PROXY TCP4 192.0.2.1 192.0.2.2 1 2\r\n"


def take_the_runner(rig: Rig, request: bytes = GET) -> None:
    client, _ = rig.connect()
    client.send(request)
    rig.take()
    rig.turn()
    assert rig.loop.admission.overload.full


def test_a_proxy_without_trust_costs_only_itself(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with Rig(monkeypatch, slots=1, proxy_protocol=True, trust=Trust(["127.0.0.1"])) as rig:
        take_the_runner(rig, PROXY + GET)
        trust, rig.service.trust = rig.service.trust, Trust()
        stranger, _ = rig.client(), rig.until(lambda: rig.service._hinted)
        assert ended(stranger) == b""
        rig.service.trust = trust
        rig.client().send(PROXY + GET)
        rig.until(lambda: len(rig.loop._ready) == 1)
    assert [record.levelname for record in caplog.records] == ["WARNING"]


def test_a_poller_that_takes_no_more_costs_the_new_client(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with Rig(monkeypatch, slots=1) as rig:
        take_the_runner(rig)
        register = rig.backend.poller.register
        failed: list[int] = []

        def fail(fd: int, events: int) -> None:
            failed.append(fd)
            raise OSError(errno.ENOSPC, "no watch is left")

        monkeypatch.setattr(rig.backend.poller, "register", fail)
        client = rig.client()
        rig.until(lambda: failed)
        assert ended(client) in {b"", b"<reset>"}
        monkeypatch.setattr(rig.backend.poller, "register", register)
        rig.client().send(GET)
        rig.until(lambda: len(rig.loop._ready) == 1)
    assert [record.levelname for record in caplog.records] == ["ERROR"]


@linux
def test_a_client_behind_a_proxy_has_waited_in_the_backlog_too(monkeypatch: pytest.MonkeyPatch) -> None:
    with Rig(monkeypatch, slots=1, proxy_protocol=True, trust=Trust(["127.0.0.1"])) as rig:
        take_the_runner(rig, PROXY + GET)
        rig.client().send(PROXY + GET)
        rig.queued(1)
        time.sleep(0.05)  # what is measured has to pass
        rig.until(lambda: len(rig.loop._ready) == 1)
        ((connection, since),) = rig.loop._ready
        assert 0.04 <= rig.now - since < 10
        assert connection.peer[0] == "192.0.2.1"
