"""Clients that come while no runner is free: who accepts them, and since when they wait."""

from __future__ import annotations

import sys
import time
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

from zibai.clock import clock
from zibai.engine.overload import LOOK, MOMENT, PATIENCE, Overload
from zibai.engine.states import APP, HANDSHAKE, HEAD, PASSED, READY
from zibai.telemetry.row import Row

from rig import GET, Rig, read

if TYPE_CHECKING:
    from pathlib import Path

linux = pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells since when a request is there")


def sibling(state: str = "ready", *, full: bool = True) -> Row:
    row = Row.private(1)
    row.assign(state, 1, 0, 0.0)
    row.mark_full(None if full else clock() - 1)
    return row


def overload(*others: tuple[bool, Row]) -> Overload:
    made = Overload(Row.private(1), lambda: others)
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
    assert not overload((False, sibling("starting", full=False))).accepts(100.0)


def test_one_that_has_siblings_waits_until_all_have_been_full_for_a_while() -> None:
    busy = overload((False, sibling()), (False, sibling()))
    assert not busy.accepts(100.0)
    assert busy.again == 100.0 + LOOK
    assert not busy.accepts(100.0 + PATIENCE - 0.01)
    assert busy.accepts(100.0 + PATIENCE + LOOK)


def test_a_sibling_that_is_free_gets_the_client() -> None:
    other = sibling()
    busy = overload((False, other))
    busy.accepts(100.0)
    other.mark_full(clock() - 2 * MOMENT)
    assert not busy.accepts(101.0)
    other.mark_full(None)
    assert not busy.accepts(102.0)  # counted anew
    other.mark_full(clock())  # between two requests
    assert busy.accepts(103.0)


def test_a_moment_between_two_requests_of_our_own_does_not_count() -> None:
    busy = overload((False, sibling()))
    busy.accepts(100.0)
    for moment, is_full in ((MOMENT / 2, True), (2 * MOMENT, False)):
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
        assert rig.row.is_full(0.0)
        running.exchange(rig.row.slots[0], clock())
        rig.loop.give_back(running)
        rig.until(rig.run)
        assert not rig.row.is_full(clock())


@linux
def test_what_waited_in_the_backlog_has_waited(monkeypatch: pytest.MonkeyPatch) -> None:
    """And comes before what has come to this worker later."""
    free = sibling(full=False)
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
        rig.loop._admission.overload.full_at = rig.now
        rig.until(lambda: len(rig.loop._ready) == 1)
        assert rig.loop._ready[0][1] == rig.now
