"""The greenlets that run exchanges, one after the other, and which of them may run another.

A new greenlet for each request would halve the speed: Python maps memory for the frames of each. But an application may
leave something behind that will hit its greenlet later, such as a Timeout that it has started and forgotten, or a kill.
That must not hit the next request. Whatever can hit a greenlet refers to it. So after each exchange the references to
its greenlet are counted. It ends if anything besides the server refers to it, and runs the next exchange otherwise.

How many references the server has depends on how the greenlet was switched to. After an exchange that has not blocked,
that is as it was before. After one that has blocked, the hub counts the references while the greenlet is switched out,
and compares them with those to a greenlet that has run nothing yet.

Everything here runs in the hub's thread, and needs no lock.
"""

import sys
from collections.abc import Callable
from functools import partial
from types import FrameType
from typing import TYPE_CHECKING, Any, Protocol

import gevent

from ...clock import clock
from ...logger import logger
from ...system.forks import end_child
from ...system.stacks import Stack, frames_of
from ...telemetry.scoreboard import Slot
from ..states import APP
from . import Turns

if TYPE_CHECKING:
    from ..stream import Stream

    _Greenlet = gevent.Greenlet[[], None]  # generic for type checkers only
else:
    _Greenlet = gevent.Greenlet


class Owner(Protocol):
    """The backend, as its runners see it."""

    loop: Turns
    stopped: bool  # no exchange begins any more

    def report(self, log: Callable[..., None], *args: Any) -> None:
        """Call ``log`` where it may block."""


class Runner(_Greenlet):
    """A greenlet that runs exchanges. Between two it rests: it is switched out, with ``job`` None."""

    def __init__(self, runners: "Runners", slot: Slot) -> None:
        super().__init__()
        self.slot = slot
        self.job: Stream | None = None
        self.given_away = False
        self.forked = False  # whether its application has forked this process
        self._runners = runners

    def _run(self) -> None:
        try:
            self._work()
        except BaseException as error:
            self._runners.recover(self, error)

    def _work(self) -> None:
        runners, hub, count = self._runners, gevent.get_hub(), sys.getrefcount
        owner, loop = runners.owner, runners.owner.loop
        while True:
            stream = self.job
            while stream is not None:
                references = count(self)
                stream.exchange(self.slot, clock())
                if self.forked:
                    end_child()  # else its hub would run the greenlets of other requests
                if self.given_away:
                    self.job, self.given_away = None, False
                    loop.give_back(stream)
                    resting = runners.unchecked
                    break
                if count(self) != references:
                    runners.retire(self)
                    return
                loop.finish(stream)
                # The next one without a switch to the hub and back, which would cost a tenth of its time.
                self.job = stream = loop.take()
            else:
                resting = runners.idle
            if owner.stopped:
                return
            stream = None  # a greenlet that rests keeps no connection
            resting.append(self)
            try:
                hub.switch()
            except BaseException:  # a kill, at the end or by an application that knows this greenlet
                runners.forget(self)
                return


class Runners:
    """All runners of a backend, its ``owner``. Each has one of the ``slots`` until it ends."""

    def __init__(self, owner: Owner, slots: list[Slot]) -> None:
        self.owner = owner
        self._free = slots
        self._most = len(slots)
        self._by_slot: dict[int, Runner] = {}  # the last one of each slot, which may have ended
        self.idle: list[Runner] = []  # those that rest
        self.unchecked: list[Runner] = []  # those that rest, and to which something else may refer
        self._references = 0  # to a runner that rests and has run nothing

    def __repr__(self) -> str:
        return f"<Runners: {len(self.idle)} idle, {len(self._free)} of {self._most} slots free>"

    @property
    def are_busy(self) -> bool:
        """Whether an exchange runs; any thread may ask."""
        return len(self._free) + len(self.idle) + len(self.unchecked) < self._most

    # In the hub.

    def check(self) -> None:
        """End those runners to which something else refers."""
        if not self._references:
            self._make().switch()
            self.unchecked.append(self.idle.pop())
        while self.unchecked:
            runner = self.unchecked.pop()
            references = sys.getrefcount(runner)
            self._references = self._references or references
            if references == self._references:
                self.idle.append(runner)
            else:
                runner.throw()

    def take(self) -> Runner:
        """A runner for the next exchange."""
        return self.idle.pop() if self.idle else self._make()

    def _make(self) -> Runner:
        slot = self._free.pop()
        runner = self._by_slot[slot.number] = Runner(self, slot)
        return runner

    # In a runner.

    def recover(self, runner: Runner, error: BaseException) -> None:
        """An error has left a runner, perhaps while it ran a connection; the greenlet ends.

        Its slot comes free, and the connection is closed. The error is a bug of the server, or it was thrown into the
        greenlet from outside.
        """
        stream = runner.job
        if stream is not None and stream.connection.state is APP:
            stream.give_up(runner.slot)
            self.retire(runner)
        else:
            self.forget(runner)
        # Not here, since a handler of the log may block, and may raise anything.
        report = partial(logger.error, exc_info=error)
        self.owner.report(report, "an error came out of a server greenlet, which has ended")

    def retire(self, runner: Runner) -> None:
        """Its exchange is over, and it may not run another."""
        stream = runner.job
        assert stream is not None
        if runner.given_away:
            self.owner.loop.give_back(stream)
        else:
            self.owner.loop.finish(stream)
        self.forget(runner)

    def forget(self, runner: Runner) -> None:
        """It ends, and has no exchange any more."""
        runner.job = None
        for resting in (self.idle, self.unchecked):
            if runner in resting:
                resting.remove(runner)
        self._free.append(runner.slot)

    # From elsewhere.

    def end(self) -> None:
        """End those that rest."""
        # By the hub: when a greenlet ends, its parent goes on, and not the greenlet that has switched to it.
        gevent.killall([*self.idle, *self.unchecked])

    def where(self, slot: int) -> tuple[str, Stack]:
        runner = self._by_slot.get(slot)
        return "a greenlet", None if runner is None else runner.gr_frame

    def waiting(self) -> list[list[FrameType]]:
        frames = [runner.gr_frame for runner in list(self._by_slot.values()) if runner.job is not None]
        return [frames_of(frame) for frame in frames if frame is not None]  # the greenlet that runs has no frame
