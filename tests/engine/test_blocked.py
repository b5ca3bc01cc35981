"""The watch over gevent's hub: a hub that the test blocks, and the real thread that watches it."""

from __future__ import annotations

import _thread
import logging
import queue
import sys
import threading
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, Self

import pytest

from zibai.engine.backends import blocked
from zibai.engine.backends.blocked import WARNING_INTERVAL, Watch
from zibai.logger import logger

from support import DEADLINE, wait_for

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from types import FrameType


class Hub:
    """A thread that does what it is sent, one thing after the other, as a hub does; ``blocked`` is an application."""

    def __init__(self) -> None:
        self._todo: queue.Queue[Callable[[], object] | None] = queue.Queue()
        self.signs = 0  # how often it was asked
        self.closed = False
        self.blocked = False
        self._thread = threading.Thread(target=self._live, daemon=True)
        self._thread.start()

    def _live(self) -> None:
        while (function := self._todo.get()) is not None:
            function()

    def do(self, function: Callable[[], object]) -> Any:
        """Call a function in the hub's thread: what it returns."""
        answer: queue.Queue[Any] = queue.Queue()
        self._todo.put(lambda: answer.put(function()))
        return answer.get(timeout=DEADLINE)

    def block(self) -> Application:
        return Application(self)

    def end(self) -> None:
        self._todo.put(None)
        self._thread.join(DEADLINE)

    def answer(self, callback: Callable[[], None]) -> None:
        """Call this when asked for a sign of life."""
        self._callback = callback

    def ask(self) -> None:
        if self.closed:
            raise ValueError("operation on destroyed watcher")
        self.signs += 1
        self._todo.put(self._callback)


class Application:
    """While it runs the hub does nothing else."""

    def __init__(self, hub: Hub) -> None:
        self._hub = hub
        self._may_go = threading.Event()
        self._entered = threading.Event()

    def __enter__(self) -> Self:
        self._hub._todo.put(self._compute)
        assert self._entered.wait(DEADLINE)
        return self

    def _compute(self) -> None:
        self._hub.blocked = True
        self._entered.set()
        assert self._may_go.wait(DEADLINE)
        self._hub.blocked = False

    def __exit__(self, *_: object) -> None:
        self._may_go.set()


class Lock:
    """A lock whose time limit is over when ``is_over`` says so, and not because the machine is slow."""

    def __init__(self, lock: Any, is_over: Callable[[], bool]) -> None:
        self._lock = lock
        self._is_over = is_over
        self.release, self.locked = lock.release, lock.locked
        self.late = 0  # how often the limit was over

    def acquire(self, timeout: float = -1) -> bool:
        if timeout == -1:
            return bool(self._lock.acquire())
        while not self._lock.acquire(timeout=0.001):
            if self._is_over():
                self.late += 1
                return False
        return True


class World(logging.Handler):
    """A hub that is watched. ``busy`` says that an exchange has begun, ``now`` is the clock of the warnings."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        super().__init__()
        monkeypatch.setattr(logger, "handlers", [self])
        self.warnings: list[str] = []
        monkeypatch.setattr(blocked, "time", SimpleNamespace(monotonic=lambda: self.now))
        # What runs in the fake hub's thread is all in this file.
        monkeypatch.setattr(blocked, "application_frame", self._call)
        self.call_of = "_compute"
        self.looks = 0
        self.now = 1000.0
        self.busy = False
        self.patient = False
        self.asked: Callable[[], None] = lambda: None  # called by the thread when it wants to know that
        self.hub = Hub()
        self.ended = threading.Event()  # the thread that watches is gone
        self.watch = self.hub.do(lambda: Watch("the hub", self.hub.ask, self._is_busy, self._thread))
        self.hub.answer(self.watch.live)
        self.watch._pause = Lock(self.watch._pause, lambda: True)
        self.sign = self.watch._sign = Lock(self.watch._sign, lambda: self.hub.blocked and not self.patient)
        self.hub.do(self.watch.start)

    def emit(self, record: logging.LogRecord) -> None:
        self.warnings.append(record.getMessage())

    def _call(self, frame: FrameType | None) -> FrameType | None:
        self.looks += 1
        while frame is not None and frame.f_code.co_name != self.call_of:
            frame = frame.f_back
        return frame

    def _is_busy(self) -> bool:
        self.asked()
        return self.busy

    def _thread(self, name: str) -> Any:
        return self._start if name == "start_new_thread" else getattr(_thread, name)

    def _start(self, function: Callable[[], None], args: tuple[()]) -> None:
        def live() -> None:
            function(*args)
            self.ended.set()

        threading.Thread(target=live, daemon=True).start()

    def turn(self) -> None:
        """As the backend's callback does."""

        def turn() -> None:
            self.watch.turns += 1
            if self.watch.asleep:
                self.watch.ring()

        self.hub.do(turn)

    def more_signs(self) -> None:
        """Wait until it has asked again, twice, since the first could have been on its way."""
        seen = self.hub.signs
        wait_for(lambda: self.hub.signs >= seen + 2)


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    world = World(monkeypatch)
    yield world
    if not world.ended.is_set():
        world.hub.do(world.watch.stop)
    assert world.ended.wait(DEADLINE)
    world.hub.end()


@pytest.fixture
def warned(world: World) -> World:
    """A world that has warned once."""
    world.busy = True
    world.turn()
    with world.hub.block():
        wait_for(lambda: world.warnings)
    world.more_signs()
    return world


def test_it_sleeps_when_nothing_turns_and_asks_nobody(world: World) -> None:
    wait_for(lambda: world.watch.asleep)
    signs = world.hub.signs
    with world.hub.block():
        pass
    assert world.watch.asleep
    assert world.hub.signs == signs
    assert world.warnings == []


def test_it_is_woken_by_the_next_turn_and_sleeps_again(world: World) -> None:
    for _ in range(3):
        wait_for(lambda: world.watch.asleep)
        signs = world.hub.signs
        world.turn()
        wait_for(lambda signs=signs: world.hub.signs > signs)


def test_a_turn_that_it_has_not_seen_keeps_it_awake(world: World) -> None:
    """The hub turns after the thread has looked and before it says that it sleeps, so nobody rings."""

    def turn() -> None:
        world.watch.turns += 1

    world.asked = turn
    world.turn()
    seen = world.hub.signs
    wait_for(lambda: world.hub.signs > seen + 5 * blocked._LINGER)


def test_it_stays_awake_while_an_exchange_runs(world: World) -> None:
    wait_for(lambda: world.watch.asleep)
    world.busy = True
    seen = world.hub.signs
    world.turn()
    wait_for(lambda: world.hub.signs > seen + 3 * blocked._LINGER)
    assert not world.watch.asleep
    world.busy = False
    wait_for(lambda: world.watch.asleep)


def test_an_application_that_blocks_the_hub_is_told_with_its_stack(world: World) -> None:
    world.busy = True
    world.turn()
    with world.hub.block():
        (warning,) = wait_for(lambda: world.warnings)
    first, *stack = warning.splitlines()
    assert first == "an application has blocked the hub for 0.1 s, so that nothing else runs:"
    assert any("in _compute" in line for line in stack)


def test_one_warning_while_it_blocks_and_one_in_ten_seconds(warned: World) -> None:
    warned.now += WARNING_INTERVAL - 1
    for late in (4, 6, 8):  # two looks at each
        with warned.hub.block():
            wait_for(lambda late=late: warned.sign.late == late)
        warned.more_signs()
    assert len(warned.warnings) == 1
    warned.now += 1
    with warned.hub.block():
        wait_for(lambda: len(warned.warnings) == 2)
        warned.now += 10 * WARNING_INTERVAL
    warned.more_signs()
    assert len(warned.warnings) == 2, "a long one is not told of twice"


def test_a_busy_machine_is_no_fault_of_the_application(world: World) -> None:
    """The hub's thread is in the server or in gevent, or nowhere."""
    world.busy = True
    world.call_of = "nowhere"
    world.turn()
    with world.hub.block():
        wait_for(lambda: world.looks > 5)
    world.more_signs()
    assert world.warnings == []


def test_many_calls_in_a_row_are_no_call_that_blocks(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    def another(_: FrameType | None) -> FrameType:
        world.looks += 1
        return sys._getframe()  # a new one each time

    monkeypatch.setattr(blocked, "application_frame", another)
    world.busy = True
    world.turn()
    with world.hub.block():
        wait_for(lambda: world.looks > 5)
    world.more_signs()
    assert world.warnings == []


def test_it_ends_while_it_sleeps(world: World) -> None:
    wait_for(lambda: world.watch.asleep)
    world.hub.do(world.watch.stop)
    assert world.ended.wait(DEADLINE)


def test_it_ends_while_it_looks(world: World) -> None:
    world.busy = True
    world.turn()
    world.more_signs()
    world.hub.do(world.watch.stop)
    assert world.ended.wait(DEADLINE)


def test_it_ends_while_the_hub_is_blocked(world: World) -> None:
    """At a quick end the application may never let go; who calls ``stop`` is then another thread."""
    world.busy = True
    world.turn()
    with world.hub.block():
        wait_for(lambda: world.warnings)
        world.watch.stop()
        assert world.ended.wait(DEADLINE)


def test_it_ends_before_its_limit_without_a_warning(world: World) -> None:
    wait_for(lambda: world.watch.asleep)
    world.patient = True
    with world.hub.block():
        signs = world.hub.signs
        world.watch.turns += 1
        world.watch.ring()
        wait_for(lambda: world.hub.signs > signs)
        world.watch.stop()
        assert world.ended.wait(DEADLINE)
    assert world.warnings == []
