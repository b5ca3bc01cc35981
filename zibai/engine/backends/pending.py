"""Watchers and callbacks that an exchange has left in gevent's loop: a timer that will fire, a kill that will hit."""

from itertools import count
from typing import Any


def counting(loop: Any) -> Any:
    """An object whose ``activecnt`` is the number of watchers and callbacks that are started: the loop, if it
    counts."""
    watcher = loop.timer(60)
    before = loop.activecnt
    watcher.start(_do_nothing)
    counts = loop.activecnt != before
    watcher.stop()
    watcher.close()
    return loop if counts else Kept(loop)


def _do_nothing() -> None:
    pass


class Kept:
    """Counts what is started in a loop of gevent whose own ``activecnt`` is always 0: libuv's, the only one on Windows.

    It keeps a set of the watchers that are started, and a queue of callbacks. If a future gevent lacks them, the
    count differs each time, so that no greenlet runs a second exchange.
    """

    __slots__ = ("_callbacks", "_turns", "_watchers")

    def __init__(self, loop: Any) -> None:
        self._watchers = getattr(loop, "_keepaliveset", None)
        self._callbacks = getattr(loop, "_callbacks", None)
        self._turns = count()

    def __repr__(self) -> str:
        known = self._watchers is not None and self._callbacks is not None
        return f"<Kept: {self.activecnt} started>" if known else "<Kept: nothing is known>"

    @property
    def activecnt(self) -> int:
        if self._watchers is None or self._callbacks is None:
            return next(self._turns)
        return len(self._watchers) + len(self._callbacks)
