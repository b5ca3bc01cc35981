"""The parent and the rows of the scoreboard, with children that are no processes and a wait that the test answers."""

from __future__ import annotations

import logging
import signal
import sys
from contextlib import closing
from typing import TYPE_CHECKING, Any

import pytest

from zibai.logger import logger
from zibai.supervise import crew, mainloop
from zibai.supervise import pauses as pauses_module
from zibai.supervise.child import Ending
from zibai.supervise.crew import Crew
from zibai.supervise.mainloop import MainLoop
from zibai.supervise.pipe import Message
from zibai.telemetry.scoreboard import Row, Scoreboard, black_box

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from zibai.supervise.roster import Roster


class FakeChild:
    """One that does nothing; it is its own pipe and sentinel, which the test finds ready when it likes."""

    pids = iter(range(100, 200))

    def __init__(self, target: object, args: tuple[Any, ...], row: Row | None, **_: object) -> None:
        *self.args, self.board, self.number = args
        self.row = row
        self.before = None if row is None else row.read().state
        self.pid = next(self.pids)
        self.pipe = self.sentinel = self
        self.speaks = True
        self.says: list[Message] = []
        self.closed = False
        self.reopened = 0

    def start(self) -> None:
        pass

    def beat(self) -> float | None:
        return None

    def receive(self) -> Iterator[Message]:
        while self.says:
            yield self.says.pop(0)

    def ending(self) -> Ending:
        return Ending("was killed by SIGSEGV", story="" if self.row is None else black_box(self.row.read()))

    def reopen(self) -> None:
        self.reopened += 1

    def quit(self) -> None:
        pass

    def close(self) -> None:
        self.closed = True


class World:
    """A main loop of which the test does the steps."""

    socket = "signals"

    def __init__(self, monkeypatch: pytest.MonkeyPatch, processes: int, board: Scoreboard | None) -> None:
        self._ready: list[FakeChild] = []
        monkeypatch.setattr(crew, "Child", FakeChild)
        monkeypatch.setattr(mainloop, "wait", lambda sources, timeout: self._ready)
        self.board = board
        self.ups: list[list[str]] = []
        self.looked = 0
        self.loop = MainLoop(Crew(print, ("options",), board), processes, on_up=self.is_up, observers=[self])
        self.signals: list[str] = []
        self.tick()

    def look(self, roster: Roster) -> None:
        self.looked += roster.was_up

    def sources(self) -> list[Any]:
        return []

    def on_signal(self, name: str) -> None:
        """An observer hears those, too."""

    def is_up(self) -> None:
        assert self.looked, "who watches the roster knows it before others are told"
        self.ups.append([worker.state for worker in self.loop._roster.workers])

    def read(self) -> list[str]:
        signals, self.signals = self.signals, []
        return signals

    def tick(self) -> None:
        self.loop._decide()

    @property
    def children(self) -> list[FakeChild]:
        return list(self.loop.children)  # type: ignore[arg-type]

    @property
    def numbers(self) -> list[int | None]:
        return [child.number for child in self.children]

    @property
    def states(self) -> list[tuple[str, int]]:
        assert self.board is not None
        return [(report.state, report.pid) for report in (row.read() for row in self.board.rows())]

    def say(self, child: FakeChild, verb: str) -> None:
        child.says.append(Message(verb))
        self._hear(child)

    def _hear(self, *children: FakeChild) -> None:
        self._ready = list(children)
        for child in self.children:
            child.sentinel = child if child in children and not child.says else self  # type: ignore[assignment]
        self.loop._wait(self, None)  # type: ignore[arg-type]
        self.tick()

    def wake(self) -> None:
        """Have the loop do what other threads have asked for."""
        self._ready = [self.loop._asked.source]  # type: ignore[list-item]
        self.loop._wait(self, None)  # type: ignore[arg-type]
        self.tick()

    def die(self, *children: FakeChild) -> None:
        self._hear(*children)

    def close(self) -> None:
        self.loop._asked.close()


@pytest.fixture
def board(tmp_path: Path) -> Iterator[Scoreboard]:
    board = Scoreboard.create(str(tmp_path / "board"), 3, 1, {})
    yield board
    board.close()


def test_each_worker_has_a_row_of_its_own(monkeypatch: pytest.MonkeyPatch, board: Scoreboard) -> None:
    world = World(monkeypatch, 2, board)
    one, two = world.children
    assert (one.args, one.board) == (["options"], board)
    assert world.numbers == [0, 1]
    assert world.states == [("starting", one.pid), ("starting", two.pid), ("", 0)]
    world.say(two, "ready")
    assert world.states == [("starting", one.pid), ("ready", two.pid), ("", 0)]
    world.close()


def test_more_workers_than_rows(monkeypatch: pytest.MonkeyPatch, board: Scoreboard) -> None:
    world = World(monkeypatch, 5, board)
    assert world.numbers == [0, 1, 2, None, None]
    assert [child.row is None for child in world.children] == [False, False, False, True, True]
    for child in world.children:
        world.say(child, "ready")
    assert world.states == [("ready", child.pid) for child in world.children[:3]]
    world.die(world.children[4])
    assert world.numbers == [0, 1, 2, None, None], "there is still none"
    world.die(world.children[1])
    assert world.numbers == [0, 2, None, None, 1], "the next one gets the row that has come free"
    world.close()


def test_a_row_is_cleared_and_used_again_when_its_worker_is_gone(
    monkeypatch: pytest.MonkeyPatch, board: Scoreboard, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(logger, "propagate", True)
    caplog.set_level(logging.ERROR)
    world = World(monkeypatch, 2, board)
    one, two = world.children
    for child in (one, two):
        world.say(child, "ready")
        assert child.row is not None
        child.row.each[0].slots[0].begin(b"GET /%d" % child.pid, 1.0)
        child.row.each[0].beat([1] * 14)
    world.die(one)
    assert f"it was serving GET /{one.pid}" in caplog.text, "it is read before it is cleared"
    assert one.closed
    kept, new = world.children
    assert kept is two
    assert (new.number, new.before) == (0, "")
    report = board.row(0).read()
    assert (report.state, report.pid, report.counters["requests"], report.running) == ("starting", new.pid, 0, [])
    assert board.row(1).read().running[0].what == f"GET /{two.pid}", "the other's is left alone"
    world.close()


def test_what_a_dying_worker_writes_late_does_not_reach_the_next(
    monkeypatch: pytest.MonkeyPatch, board: Scoreboard
) -> None:
    world = World(monkeypatch, 1, board)
    (one,) = world.children
    world.say(one, "ready")
    monkeypatch.setattr(world.loop._roster, "_start_missing", lambda now: None)
    world.die(one)
    assert world.states == [("", 0)] * 3, "zibai ps does not show the dead"
    monkeypatch.undo()
    board.row(0).slots[0].begin(b"GET /", 1.0)  # by a child of that worker, say
    monkeypatch.setattr(crew, "Child", FakeChild)
    world.tick()
    assert world.numbers == [0]
    assert board.row(0).read().running == []
    world.close()


def test_a_process_that_cannot_be_started_takes_no_row(monkeypatch: pytest.MonkeyPatch, board: Scoreboard) -> None:
    def start(child: FakeChild) -> None:
        raise BlockingIOError(11, "Resource temporarily unavailable")

    with monkeypatch.context() as patch:
        patch.setattr(FakeChild, "start", start)
        world = World(monkeypatch, 2, board)
        assert world.children == []
        assert world.states == [("", 0)] * 3
    world.loop._roster._backoff.until = 0.0
    world.tick()
    assert world.numbers == [0, 1]
    world.close()


def test_without_a_scoreboard_nobody_has_a_row(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World(monkeypatch, 2, None)
    assert [(child.number, child.row) for child in world.children] == [(None, None)] * 2
    world.say(world.children[0], "ready")
    world.die(world.children[0])
    assert len(world.children) == 2
    world.close()


def test_it_is_up_when_none_of_the_first_is_starting_any_more(monkeypatch: pytest.MonkeyPatch) -> None:
    with closing(World(monkeypatch, 3, None)) as world:
        one, two, three = world.children
        world.say(one, "ready")
        world.say(two, "ready")
        assert world.ups == []
        world.die(three)  # which is tried again, later
        assert world.ups == [["ready", "ready"]]
        world.die(one)
        world.say(world.children[-1], "ready")
        assert len(world.ups) == 1, "once"


def test_it_is_not_up_when_it_is_told_to_end_before(monkeypatch: pytest.MonkeyPatch) -> None:
    with closing(World(monkeypatch, 2, None)) as world:
        one, _ = world.children
        world.say(one, "ready")
        world.loop._roster.end("quit")
        world.die(*world.children)
        assert world.ups == []


@pytest.mark.skipif(sys.platform == "win32", reason="there is no SIGUSR1")
def test_log_files_are_reopened_in_parent_and_workers(monkeypatch: pytest.MonkeyPatch) -> None:
    reopened: list[str] = []
    monkeypatch.setattr(crew.logfile, "reopen", lambda: reopened.append("parent"))
    with mainloop.signals(exits=False) as signals:
        assert signal.SIGUSR1 in signals._numbers
    with closing(World(monkeypatch, 2, None)) as world:
        world.signals = ["SIGUSR1"]
        world._hear()
        assert (reopened, [child.reopened for child in world.children]) == (["parent"], [1, 1])


def test_a_bug_in_what_another_thread_asks_for_ends_nothing(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(logger, "propagate", True)

    def fail(roster: Roster) -> None:
        raise RecursionError

    world = World(monkeypatch, 1, None)
    asked: list[Roster] = []
    world.loop.ask(fail)
    world.loop.ask(asked.append)
    world.wake()
    assert len(asked) == 1
    assert "RecursionError" in caplog.text
    world.close()


@pytest.mark.parametrize(("away", "told"), [(0.5, []), (2.9, []), (3.1, [3.1]), (3600.0, [3600.0])])
def test_a_loop_that_was_stopped_itself_tells_the_roster(
    monkeypatch: pytest.MonkeyPatch, away: float, told: list[float]
) -> None:
    """It waits for two seconds at most, and may be a second late."""
    now = [1000.0]
    for module in (mainloop, pauses_module):
        monkeypatch.setattr(module, "clock", lambda: now[0])
    with closing(World(monkeypatch, 1, None)) as world:
        pauses: list[float] = []
        monkeypatch.setattr(world.loop._roster, "on_pause", pauses.append)

        def wait(sources: list[Any], timeout: float) -> list[Any]:
            now[0] += away
            return []

        monkeypatch.setattr(mainloop, "wait", wait)
        world.loop._wait(world, 2.0)  # type: ignore[arg-type]
        assert pauses == [pytest.approx(each) for each in told]


def test_a_loop_that_is_held_up_between_two_waits_tells_the_roster(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [1000.0]
    for module in (mainloop, pauses_module):
        monkeypatch.setattr(module, "clock", lambda: now[0])
    with closing(World(monkeypatch, 1, None)) as world:
        pauses: list[float] = []
        monkeypatch.setattr(world.loop._roster, "on_pause", pauses.append)
        world.tick()
        now[0] += 10
        world.loop._wait(world, 2.0)  # type: ignore[arg-type]
        assert pauses == [10]
