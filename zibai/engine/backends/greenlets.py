"""Greenlets: requests run in greenlets that are used again and again, started straight from the hub.

The hub owns the server loop: one of its callbacks turns it, without ever blocking, and switches into an idle runner,
a greenlet, for each connection that is ready. The runner switches back to the callback when it is done, so an exchange
costs two switches. If the application blocks, gevent switches to the hub, which is in the middle of that callback. So
the callback goes on with the next connection and gives the blocked one away (:mod:`.greenlet_runners`).

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

from ...errors import MissingExtra
from ...logger import safely
from ...system.forks import close_in_children
from ...system.stacks import Stack
from ...telemetry.scoreboard import Row
from ..stream import Stream
from . import Blocking, Turns
from .blocked import Watch
from .hubpoller import HubPoller

try:
    import gevent
    import gevent.os
    from gevent import monkey
    from gevent.event import Event

    from .greenlet_runners import Runner, Runners
    from .hub_wait import SHORTEST, FairStream, Readiness
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


class Greenlets(Blocking):
    """Drives the loop from gevent's hub. ``slots`` is how many exchanges may run at once."""

    runners = "greenlets"

    def __init__(self, slots: int, row: Row) -> None:
        self.readiness = Readiness()
        self.make_stream = FairStream
        self._row = row
        # A greenlet that is about to rest still has its slot while the next one runs, so there is one slot more.
        self._runners = Runners(self, row.slots[slots::-1])
        self._hub: Any = gevent.get_hub()
        self.stopped = False
        self._ask = self._hub.loop.async_()  # for a sign of life
        self._watch = Watch(
            "gevent's hub",
            self._ask.send,
            lambda: self._runners.are_busy,
            partial(monkey.get_original, "_thread"),
        )
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
        self._runners.end()
        self._close()

    def close_in_child(self) -> None:
        """In a child that the application has forked: its copy of this hub would go on serving.

        The parent's descriptors stay open. Nothing is unregistered, since both processes share the epoll object.
        """
        self.stopped = True
        forker = gevent.getcurrent()
        if isinstance(forker, Runner):
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
        return self._runners.where(slot)

    def waiting(self) -> list[list[FrameType]]:
        return self._runners.waiting()

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
        self._runners.check()
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
        runner = self._runners.take()
        runner.job = stream
        runner.switch()
        if runner.job is not None:
            # This exchange blocks, or a later one of this runner: gevent has switched back to its hub, which is here.
            runner.given_away = True
            if not self.stopped:
                self.loop.give_away(runner.job)
