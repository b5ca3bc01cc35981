"""gevent's hub, and threads of the system beside it that wait where the hub cannot, and tell it.

Imported only where gevent is in use.
"""

import select
import sys
from collections.abc import Callable
from multiprocessing import connection
from typing import Any

import gevent
import gevent.os
from gevent import monkey


def fork() -> int:
    """``os.fork``, whose child goes on with a hub that is its own.

    Not the one that gevent puts into ``os``: that makes a hub in the parent, which would watch the children.
    """
    if sys.platform == "win32":
        raise OSError("no fork")
    return int(gevent.os.fork_gevent())


def start_thread(function: Callable[[], None]) -> None:
    """Start a thread of the system, also where ``threading`` makes greenlets."""
    monkey.get_original("_thread", "start_new_thread")(function, ())


def wait_as_thread(sources: list[Any], timeout: float | None = None) -> list[Any]:
    """``multiprocessing.connection.wait`` for a thread of the system, where that function would make a hub for it."""
    if sys.platform == "win32":
        return connection.wait(sources, timeout)  # asks the system without what gevent patches
    poll = monkey.get_original("select", "poll")()
    for source in sources:
        poll.register(source, select.POLLIN)
    ready = {fd for fd, _ in poll.poll(None if timeout is None else timeout * 1000)}
    return [source for source in sources if source.fileno() in ready]


def current() -> Any:
    """The greenlet that calls."""
    return gevent.getcurrent()


def calling_from_threads(function: Callable[[], None]) -> Callable[[], None]:
    """What makes the hub of this thread call ``function`` soon; it may be called by any thread of the system."""
    watcher = gevent.get_hub().loop.async_()
    watcher.start(function)
    return watcher.send


def spawning_from_threads(function: Callable[[], object]) -> Callable[[], None]:
    """The same, for a ``function`` that may block: it runs in a greenlet of its own."""

    def spawn() -> None:
        gevent.spawn(function)

    return calling_from_threads(spawn)


def interrupting(is_over: Callable[[], bool]) -> Callable[[], None]:
    """What raises KeyboardInterrupt in the calling greenlet, where it waits; it may be called by any thread.

    Not any more when ``is_over`` says so, in the hub: the greenlet would meet it wherever it has got to since.
    """
    greenlet = gevent.getcurrent()
    return calling_from_threads(lambda: None if is_over() else greenlet.throw(KeyboardInterrupt))
