"""Threads: a baton, so that the thread that finds a request runs it.

Handing each request to another thread costs three quarters of the speed, since the GIL changes hands twice. So the
thread that holds the *baton*, the leader, turns the loop and runs applications itself, inline. The next in line, the
*deputy*, watches: once an exchange has lasted ``BATON_LIMIT``, the deputy gives the connection away in the leader's
name, takes the baton and leads. The old leader finishes its exchange, gives its connection back to the loop and queues
up.

A taken baton is evidence that this application blocks. For a *spell* after it (1 s, doubling up to 16 s while it
keeps happening) the leader passes the baton on before it runs anything, as a plain pool does.

There is one thread more than exchanges that may run at once. So the loop has a leader for deadlines, slow clients and
the shutdown also while every slot is busy. Threads start when they are first needed.

Shared state is changed under ``_lock``, with two exceptions for the sake of speed: a lock there costs 4 % of a plain
request.

 - The leader sets its ``stake`` and counts ``_turns`` without the lock, and then reads ``_watching``. A deputy that is
   about to sleep clears ``_watching`` first and looks at those two after it. So either the deputy sees the exchange, or
   the leader sees that it must ring.
 - Whether the baton was lost shows in the stake: leader and deputy both try to take the entry away, and only one of
   them can (a list's ``pop`` is one step). Each runner has its own stake, so it cannot take that of a later leader.

Without a GIL, "first" and "after" hold because each of these writes takes the lock of its object in CPython, which is a
full barrier on x86-64. docs/design.md lists the other shared state.
"""

import sys
import threading
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from math import inf
from typing import Any

from ...clock import clock
from ...logger import logger, safely
from ...net.poller import make_poller
from ...system.forks import close_in_children
from ...system.stacks import Stack
from ...telemetry.scoreboard import Row
from ..stream import Stream
from . import Blocking, Turns
from .baton import Runner, Spell
from .polling import Bell, Readiness

BATON_LIMIT = 0.005
"""Seconds that an exchange may last before the deputy takes the baton: the switch interval of a GIL."""

CERTAIN_WITHIN = 0.001
"""Seconds that a deputy may be late and be sure that the application blocks, and not that the machine is busy."""


class Threads(Blocking):
    """The baton. ``slots`` is how many exchanges may run at once; there is one thread, and slot of ``row``, more.
    ``name`` is that of the server loop, such as "loop 2", in a process that has several."""

    runners = "threads"
    make_stream = Stream

    def __init__(self, slots: int, row: Row, name: str = "") -> None:
        self.readiness = Readiness()
        self._name = name
        self._row = row
        self._runners: list[Runner] = []
        self.poller = make_poller()
        self._limit = slots + 1
        self._loop: Turns
        self._lock = threading.Lock()
        self._leader: Runner | None = None
        self._parked: deque[Runner] = deque()  # the runners that wait for the baton; the first is the deputy
        self._coming: Runner | None = None  # has been started and has not parked yet
        self._spared = -inf  # when the exchange began that gets twice the time; no reference to it
        self._turns = 0  # counts inline exchanges; the deputy sees by it whether the leader works
        self._watching = False  # whether the deputy looks by itself, or has to be rung
        self._stopped = False
        self._spell = Spell()
        self._done = threading.Event()
        self._bell = Bell()

    # The interface.

    def start(self, loop: Turns) -> None:
        self._loop = loop
        close_in_children(self)
        loop.watch(self._bell.fileno(), self._bell.hear)
        self._add_runner()

    def wake(self) -> None:
        self._bell.ring()

    def report(self, log: Callable[..., None], message: str, *args: Any) -> None:
        safely(log, f"{self._name}: {message}" if self._name else message, *args)

    def join(self, timeout: float | None) -> bool:
        return self._done.wait(timeout)

    def stop(self) -> None:
        with self._lock:
            self._stopped = True
            idle = [*self._parked]
            for runner in idle:
                runner.ring()
        for runner in idle:
            runner.join()
        self._bell.close()
        self.poller.close()

    def close_in_child(self) -> None:
        """In a child that the application has forked: its only thread ends when the application returns."""
        self._lock = threading.Lock()  # a thread that the child does not have may have held the old lock
        self._stopped = True
        self._bell.close()
        self.poller.close()

    def where(self, slot: int) -> tuple[str, Stack]:
        runner = self._runners[slot]
        return f"thread {runner.name}", sys._current_frames().get(runner.ident or 0)

    # A runner's life.

    def _add_runner(self) -> None:
        """Start one more thread, which finds out by itself what it is needed for.

        Nothing is started if all threads are there, or if one is on its way. Not under the lock, since starting takes a
        while and a log handler may do anything.
        """
        with self._lock:
            if self._coming is not None or len(self._runners) == self._limit:
                return
            self._coming = runner = Runner(self._live, self._row.slots[len(self._runners)], self._name)
            self._runners.append(runner)
        try:
            runner.start()
        except RuntimeError as error:
            with self._lock:
                self._coming = None
                self._runners.remove(runner)
                self._limit = len(self._runners)
            if not self._limit:
                raise
            logger.error("%s, see ulimit -u and limits of the container; serving with %d threads", error, self._limit)

    def _live(self, me: Runner) -> None:
        failure: BaseException | None = None
        while True:
            try:
                if failure is not None:  # within the try, since a program may raise the next error at any moment
                    self._recover(me, failure)
                    failure = None
                if not self._wait_for_baton(me):
                    return
                self._lead(me)
            except BaseException as error:
                failure = error

    def _recover(self, me: Runner, error: BaseException) -> None:
        """An error has left a runner, perhaps while it ran a stream. The thread lives on.

        Its slot comes free, the connection is closed, and the baton is passed on. The error is a bug of the server, or
        the program has raised it in this thread from outside. If the thread ended, it would be missing from then on.
        """
        with self._lock:
            is_leader = self._leader is me  # else the connection was given away, by a deputy or by this thread
            me.stake.clear()
        me.end_left(self._loop, inline=is_leader)
        if is_leader:
            self._loop.mend()
        with self._lock:
            if self._coming is me:
                self._coming = None
            if me in self._parked:
                self._parked.remove(me)
            if self._leader is me:
                self._pass_on()
        with suppress(BaseException):  # a handler of the log may raise anything
            logger.error("an error came out of a server thread, which serves on", exc_info=error)

    def _wait_for_baton(self, me: Runner) -> bool:
        """Queue up, and watch as the deputy when it is this thread's turn; False at the end."""
        seen = -1
        with self._lock:
            self._parked.append(me)
            if self._coming is me:
                self._coming = None
        while True:
            timeout: float | None = -1.0  # until it is rung
            with self._lock:
                leader = self._leader
                if leader is None:
                    self._promote(me)
                if self._stopped or leader is None or leader is me:
                    return not self._stopped
                if self._parked[0] is me:
                    timeout = self._watch(leader, seen)
                    seen = self._turns
                if timeout is None:
                    self._promote(me)
                    return True
            me.gate.acquire(timeout=timeout)

    def _promote(self, runner: Runner | None) -> None:
        """Give the baton to a parked runner, or leave it for the runner that parks next. Under the lock."""
        self._leader = runner
        self._watching = False  # there is another deputy now, and it sleeps
        if runner is not None:
            self._parked.remove(runner)

    def _watch(self, leader: Runner, seen: int) -> float | None:
        """The deputy's look, under the lock. Returns the seconds until the next look, None when it takes the baton."""
        self._watching = False
        stake = leader.stake[:]
        if not stake and self._turns == seen:
            return -1.0  # the leader waits in the poller; it rings before it runs again
        self._watching = True
        if not stake:
            return BATON_LIMIT
        inline = stake[0]
        left = inline[1] + BATON_LIMIT - clock()
        if left > 0:
            return left
        if left < -CERTAIN_WITHIN and inline[1] != self._spared:
            # The deputy itself is late, for want of the GIL or of a processor. The leader may be waiting for it, too.
            self._spared = inline[1]
            return BATON_LIMIT
        try:
            taken = leader.stake.pop()
        except IndexError:
            return BATON_LIMIT  # it has just ended
        self._loop.give_away(taken[0])
        if taken is inline:  # else it is the next exchange, which has just begun and is no evidence
            self._spell.note(clock())
        return None

    def _pass_on(self) -> bool:
        """Give the baton to the deputy; without one, to the thread that parks next. Returns whether there is a deputy.

        Under the lock.
        """
        deputy = self._parked[0] if self._parked else None
        self._promote(deputy)
        if deputy is not None:
            deputy.ring()
        return deputy is not None

    # The leader.

    def _lead(self, me: Runner) -> None:
        """Turn the loop and run what is ready, until the baton is lost or passed on, or the loop has finished.

        It is one function on purpose: every request runs through it, and one more call costs 5 % of what is left.
        """
        loop, slot, stake, spell = self._loop, me.slot, me.stake, self._spell
        stream: Stream | None = None
        me.given, me.gave_away = None, False
        try:
            while not loop.finished:
                stream = loop.take()
                if stream is None:
                    loop.turn(block=True)
                    continue
                now = clock()
                if now < spell.until:
                    self._run_passed(me, stream)
                    return
                stake.append((stream, now))
                self._turns += 1
                if not self._watching:
                    self._call_deputy()
                stream.exchange(slot, now)
                try:
                    stake.pop()
                except IndexError:
                    loop.give_back(me.giving(stream))
                    return
                loop.finish(stream)
        except BaseException:
            me.left = stream
            raise
        with self._lock:
            self._stopped = True
        self._done.set()

    def _call_deputy(self) -> None:
        with self._lock:
            if self._parked:
                self._parked[0].ring()
                return
        self._add_runner()

    def _run_passed(self, me: Runner, stream: Stream) -> None:
        """Pass the baton on, then run as a thread of a pool does."""
        self._loop.give_away(stream)
        me.gave_away = True
        with self._lock:
            is_led = self._pass_on()
        if not is_led:
            self._add_runner()
        stream.exchange(me.slot, clock())
        self._loop.give_back(me.giving(stream))
