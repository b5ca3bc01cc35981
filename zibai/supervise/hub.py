"""gevent's hub, and threads of the system beside it: they wait where the hub cannot, and wake it.

Imported only where gevent is in use.
"""

import gc
import select
import sys
import threading
from collections.abc import Callable
from multiprocessing import connection
from types import FrameType
from typing import Any, Final

import gevent
import gevent.os
from greenlet import greenlet

from ..system.patching import original

LOOKS: Final = 10
"""Looks at a greenlet that runs, a millisecond apart."""


def fork() -> int:
    """``os.fork``, with a new hub in the child.

    gevent's own replacement of ``os.fork`` makes a hub in the parent, which would watch the children.
    """
    if sys.platform == "win32":
        raise OSError("no fork")
    threads = threading.enumerate()
    pid = int(gevent.os.fork_gevent())
    if pid == 0:
        _keep(threads)
    return pid


def _keep(threads: list[threading.Thread]) -> None:
    """Let ``threading`` know, in a forked process, the threads that gevent has made greenlets: they go on there.

    It forgets all but the one that has forked, and raises a KeyError at the end of each other one.
    """
    active: dict[int | None, threading.Thread] = threading._active  # type: ignore[attr-defined]
    for thread in threads:
        if not isinstance(thread, threading._DummyThread):
            active.setdefault(thread.ident, thread)


def start_thread(function: Callable[[], None]) -> None:
    """Start a thread of the system, also where ``threading`` makes greenlets."""
    original("_thread", "start_new_thread")(function, ())


def wait_as_thread(sources: list[Any], timeout: float | None = None) -> list[Any]:
    """``multiprocessing.connection.wait`` for a thread of the system, for which the patched one would make a hub."""
    if sys.platform == "win32":
        return connection.wait(sources, timeout)  # uses nothing that gevent patches
    poll = original("select", "poll")()
    for source in sources:
        poll.register(source, select.POLLIN)
    ready = {fd for fd, _ in poll.poll(None if timeout is None else timeout * 1000)}
    return [source for source in sources if source.fileno() in ready]


def greenlets() -> list[tuple[str, FrameType | None]]:
    """Each greenlet of the process that has begun, with its frame. For a thread of the system; visits every object.

    A greenlet that runs has no frame of its own: the frame of its thread shows it.
    """
    found = [each for each in gc.get_objects() if isinstance(each, greenlet) and each]
    return [(f"greenlet {getattr(each, 'name', '') or type(each).__name__}", _frame(each)) for each in found]


def _frame(each: greenlet) -> FrameType | None:
    # A greenlet that ran at the first look may begin to wait before the look at its thread, and be missed in both.
    for _ in range(LOOKS):
        if each.gr_frame is not None:
            break
        original("time", "sleep")(0.001)
    return each.gr_frame


def current() -> Any:
    """The calling greenlet."""
    return gevent.getcurrent()


def calling_from_threads(function: Callable[[], None]) -> Callable[[], None]:
    """A function that makes the hub of this thread call ``function`` soon. Any thread of the system may call it."""
    watcher = gevent.get_hub().loop.async_()
    watcher.start(function)
    return watcher.send


def spawning_from_threads(function: Callable[[], object]) -> Callable[[], None]:
    """The same for a ``function`` that may block: it runs in a greenlet of its own."""

    def spawn() -> None:
        gevent.spawn(function)

    return calling_from_threads(spawn)


def interrupting(is_over: Callable[[], bool]) -> Callable[[], None]:
    """A function that raises KeyboardInterrupt in the calling greenlet, where it waits. Any thread may call it.

    It does nothing once ``is_over`` returns true in the hub: the exception would hit the greenlet at a later place.
    """
    greenlet = gevent.getcurrent()
    return calling_from_threads(lambda: None if is_over() else greenlet.throw(KeyboardInterrupt))
