"""Waiting for any number of things at once, also on Windows.

On Windows ``multiprocessing.connection.wait`` takes 63 objects before Python 3.13, and a parent waits for two of each
worker. A longer list is waited for in batches, each in a thread of its own. Such a wait costs a millisecond, and a
parent waits a few times a second at most.

In a program that gevent has patched, a thread of the hub's pool waits: gevent does not patch the waiting functions of
Windows, and the wait would block the hub with all greenlets.
"""

import socket
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from multiprocessing import connection
from typing import Any, Final

from ..system.patching import is_patched

MAX_OBJECTS: Final = 62
"""Objects that one wait takes on Windows, beside the socket that ends it."""


def wait(sources: Sequence[Any], timeout: float | None = None) -> list[Any]:
    """The ``sources`` that are ready; none when ``timeout`` seconds have passed."""
    if sys.platform != "win32":
        return connection.wait(sources, timeout)
    pool = _pool_of_hub()
    if pool is not None:
        return wait_in_batches(sources, timeout, run=pool.map)
    if sys.version_info >= (3, 13) or len(sources) <= MAX_OBJECTS:
        return connection.wait(sources, timeout)
    return wait_in_batches(sources, timeout)


def _pool_of_hub() -> Any:
    """gevent's pool of threads, if gevent has patched this program; else None."""
    if not is_patched():
        return None
    return sys.modules["gevent"].get_hub().threadpool


def wait_in_batches(
    sources: Sequence[Any], timeout: float | None, size: int = MAX_OBJECTS, run: Callable[..., Any] | None = None
) -> list[Any]:
    """The same, with at most ``size`` sources and a socket in one system call.

    ``run`` calls a function with each of some arguments at the same time, as the ``map`` of a pool does.
    """
    batches = [sources[start : start + size] for start in range(0, len(sources), size)]
    with ExitStack() as stack:
        pairs = [socket.socketpair() for _ in batches]
        for pair in pairs:
            for sock in pair:
                stack.enter_context(sock)

        def end_all() -> None:
            for _, ender in pairs:
                ender.send(b"\0")

        def look(number: int) -> list[Any]:
            end = pairs[number][0]
            try:
                return [source for source in connection.wait([*batches[number], end], timeout) if source is not end]
            finally:
                end_all()  # the first batch with a result, or an error, ends the waits of the others

        if run is None:
            run = stack.enter_context(ThreadPoolExecutor(len(batches), "zibai-waits")).map
        try:
            return [source for ready in run(look, range(len(batches))) for source in ready]
        finally:
            end_all()  # KeyboardInterrupt in this thread: leaving the block waits for the others
