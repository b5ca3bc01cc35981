"""Greenlets: requests run in greenlets that are used again and again, started straight from the hub.

The hub owns the server loop: one of its callbacks turns it, without ever blocking, and switches into an idle runner,
a greenlet, for each connection that is ready. The runner switches back to the callback when it is done, so an exchange
costs two switches. If the application blocks, gevent switches to the hub, which is in the middle of that callback. So
the callback goes on with the next connection and gives the blocked one away. A new greenlet for each request would
halve the speed.

Everything runs in one thread, so nothing here needs a lock. Other threads may only call ``wake``. Code in a hub's
callback must not block, but logging may (a handler's lock, a socket). So a separate greenlet writes the loop's own log
records.

On Linux all connections sit in one epoll object, and its descriptor is the only thing that the hub watches. Elsewhere
an object like that cannot be watched in turn, and each socket has a watcher of its own (``hubpoller``).
"""

import sys
import time
from collections.abc import Callable
from functools import partial
from importlib import metadata
from types import FrameType
from typing import TYPE_CHECKING, Any

from ...clock import clock
from ...errors import MissingExtra
from ...logger import logger, safely
from ...system.forks import close_in_children, end_child
from ...system.stacks import Stack, frames_of
from ...telemetry.scoreboard import Row, Slot
from ..states import APP
from ..stream import Stream
from . import Blocking, Turns
from .blocked import Watch
from .hubpoller import HubPoller
from .pending import counting

try:
    import gevent
    import gevent.os
    from gevent import monkey
    from gevent.event import Event

    from .hub_wait import SHORTEST, Readiness
except ImportError as error:
    text = "gevent is not installed; pip install 'zibai-server[gevent]', or run with --no-gevent"
    raise MissingExtra.because(error, "gevent", text) from None


def patch() -> None:
    """Make the standard library cooperative; before anything of the application is imported.

    gevent asks for its plugins at 25 steps, and each time reads the metadata of all installed packages. That is 80 ms
    of each start with 120 packages, and 170 ms on Python 3.12. Here they are read once.
    """
    entry_points = metadata.entry_points
    metadata.entry_points = entry_points().select
    try:
        monkey.patch_all()
    finally:
        metadata.entry_points = entry_points


if TYPE_CHECKING:
    from ...net.poller import Poller

    _Greenlet = gevent.Greenlet[[], None]  # generic for type checkers only
else:
    _Greenlet = gevent.Greenlet


class _Runner(_Greenlet):
    """A greenlet that runs one exchange after the other. Between two it is switched out, with ``job`` None.

    It ends after an exchange that blocked or left something behind in the hub: a Timeout that the application has
    started and forgotten, or a kill, must not hit the next request.
    """

    def __init__(self, backend: "Greenlets", slot: Slot) -> None:
        super().__init__()
        self.slot = slot
        self.job: Stream | None = None
        self.given_away = False
        self.forked = False  # whether its application has forked this process
        self._backend = backend

    def _run(self) -> None:
        try:
            self._work()
        except BaseException as error:
            self._backend.recover(self, error)

    def _work(self) -> None:
        backend, hub = self._backend, gevent.get_hub()
        loop, pending = backend.loop, backend.pending
        while not backend.stopped:
            stream = self.job
            while stream is not None:
                watchers = pending.activecnt
                stream.exchange(self.slot, clock())
                if self.forked:
                    end_child()  # else its hub would run the greenlets of other requests
                if self.given_away or pending.activecnt != watchers:
                    backend.retire(self)
                    return
                loop.finish(stream)
                # The next one without a switch to the hub and back, which would cost a tenth of its time.
                self.job = stream = loop.take()
            backend.idle = self
            try:
                hub.switch()
            except BaseException:  # noqa: S112
                continue  # a kill, at the end or by an application that knows this greenlet; no exchange runs


class Greenlets(Blocking):
    """Drives the loop from gevent's hub. ``slots`` is how many exchanges may run at once."""

    runners = "greenlets"

    def __init__(self, slots: int, row: Row) -> None:
        self.readiness = Readiness()
        self.make_stream = Stream
        self._row = row
        # A greenlet that is about to end still has its slot while the next one runs, so there is one slot more.
        self._free = row.slots[slots::-1]
        self._runners: dict[int, _Runner] = {}
        self._hub: Any = gevent.get_hub()
        self._turning = False
        self.pending = counting(self._hub.loop)
        self.stopped = False
        self._ask = self._hub.loop.async_()  # for a sign of life
        self._watch = Watch(
            "gevent's hub",
            self._ask.send,
            lambda: len(self._free) + (self.idle is not None) <= slots,
            partial(monkey.get_original, "_thread"),
        )
        self.idle: _Runner | None = None  # one is enough: while it runs without blocking no other does
        self._done = Event()
        self._turn_soon = self._hub.loop.async_()  # the one watcher that other threads may touch
        self._timer: Any = None
        self._timer_due = 0.0
        self._io: Any = None
        self.poller: Poller
        if sys.platform == "linux":
            # gevent removes epoll when it patches, since it blocks. The server only polls it without waiting.
            self.poller = epoll = monkey.get_original("select", "epoll")()
            self._io = self._hub.loop.io(epoll.fileno(), 1)
        else:
            self.poller = HubPoller(self._hub.loop, self._turn_soon.send)

    # The interface.

    def start(self, loop: Turns) -> None:
        self.loop = loop
        close_in_children(self)
        self._turn_soon.start(self._turn)
        if self._io is not None:
            self._io.start(self._turn)
        self._ask.start(self._watch.live)
        self._watch.start()
        self.wake()

    def wake(self) -> None:
        if not self.stopped:
            self._turn_soon.send()

    def report(self, log: Callable[..., None], *args: Any) -> None:
        gevent.spawn(safely, log, *args)

    def join(self, timeout: float | None) -> bool:
        return bool(self._done.wait(timeout))

    def stop(self) -> None:
        self.stopped = True
        if self.idle is not None:
            # By the hub: when a greenlet ends, its parent goes on, and not the greenlet that has switched to it.
            self.idle.kill()
        self._close()

    def close_in_child(self) -> None:
        """In a child that the application has forked: its copy of this hub would go on serving.

        The parent's descriptors stay open. Nothing is unregistered, since both processes share the epoll object.
        """
        self.stopped = True
        forker = gevent.getcurrent()
        if isinstance(forker, _Runner):
            forker.forked = True
        self._close_watchers()
        self._close()

    def _close(self) -> None:
        self.poller.close()
        self._watch.stop()
        for watcher in (self._ask, self._turn_soon):
            watcher.stop()
            watcher.close()

    def _close_watchers(self) -> None:
        for watcher in (self._timer, self._io):
            if watcher is not None:
                watcher.stop()
                watcher.close()

    def where(self, slot: int) -> tuple[str, Stack]:
        runner = self._runners.get(slot)
        return "a greenlet", None if runner is None else runner.gr_frame

    def waiting(self) -> list[list[FrameType]]:
        frames = [runner.gr_frame for runner in list(self._runners.values()) if runner.job is not None]
        return [frames_of(frame) for frame in frames if frame is not None]  # the greenlet that runs has no frame

    # In the hub.

    def _turn(self) -> None:
        """One turn of the loop and what it made ready; never blocks."""
        loop = self.loop
        if loop.finished or self.stopped:
            return  # it was woken before the watchers were closed
        watch = self._watch
        watch.turns += 1
        if watch.asleep:
            watch.ring()
        loop.turn(block=False)
        while (stream := loop.take()) is not None:
            self._run(stream)
            if self.stopped:
                return  # in a child that the application has just forked
        if loop.finished:
            self._close_watchers()
            self._done.set()
        else:
            self._set_timer(loop.timeout())

    def _set_timer(self, timeout: float | None) -> None:
        """Turn again in ``timeout`` seconds. A timer that fires earlier may stay; it costs one idle turn."""
        if timeout is None:
            return
        due = time.monotonic() + timeout
        if self._timer is None or not self._timer.active or due < self._timer_due:
            if self._timer is not None:
                self._timer.stop()
                self._timer.close()
            self._timer = self._hub.loop.timer(timeout and max(timeout, SHORTEST))
            self._timer.start(self._turn)
            self._timer_due = due

    def _run(self, stream: Stream) -> None:
        runner, self.idle = self.idle or self._make_runner(), None
        runner.job = stream
        runner.switch()
        if runner.job is not None:
            # This exchange blocks, or a later one of this runner: gevent has switched back to its hub, which is here.
            runner.given_away = True
            if not self.stopped:
                self.loop.give_away(runner.job)

    def _make_runner(self) -> _Runner:
        slot = self._free.pop()
        runner = self._runners[slot.number] = _Runner(self, slot)
        return runner

    # In a runner.

    def recover(self, runner: _Runner, error: BaseException) -> None:
        """An error has left a runner, perhaps while it ran a connection; the greenlet ends.

        Its slot comes free, and the connection is closed. The error is a bug of the server, or it was thrown into the
        greenlet from outside.
        """
        stream = runner.job
        if stream is not None and stream.connection.state is APP:
            stream.give_up(runner.slot)
            self.retire(runner)
        else:
            runner.job = None
            self._free.append(runner.slot)
        if self.idle is runner:
            self.idle = None
        # In a greenlet of its own, since a handler of the log may block, and may raise anything.
        self.report(partial(logger.error, exc_info=error), "an error came out of a server greenlet, which has ended")

    def retire(self, runner: _Runner) -> None:
        """Its exchange is over, and it may not run another."""
        stream, runner.job = runner.job, None
        assert stream is not None
        if runner.given_away:
            self.loop.give_back(stream)
        else:
            self.loop.finish(stream)
        self._free.append(runner.slot)
