"""Waiting for any number of things at once, also on Windows.

``multiprocessing.connection.wait`` takes 63 things there before Python 3.13, and a parent waits for two of each worker.
More of them are waited for in batches, each in a thread of its own. Such a wait costs a millisecond, and a parent waits
a few times in a second, or not at all.
"""

import socket
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from multiprocessing import connection
from typing import Any, Final

BATCH: Final = 62
"""Things that one wait takes on Windows, beside the socket that ends it."""


def wait(sources: Sequence[Any], timeout: float | None = None) -> list[Any]:
    """Those of ``sources`` that are ready; none when ``timeout`` seconds have passed."""
    if sys.platform != "win32" or sys.version_info >= (3, 13) or len(sources) <= BATCH:
        return connection.wait(sources, timeout)
    return wait_in_batches(sources, timeout)


def wait_in_batches(sources: Sequence[Any], timeout: float | None, size: int = BATCH) -> list[Any]:
    """The same, with no more than ``size`` of them, and a socket, in one call of the system."""
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
                end_all()  # the first batch that has something, or an error, ends the waits of the others

        with ThreadPoolExecutor(len(batches), "zibai-waits") as pool:
            try:
                return [source for ready in pool.map(look, range(len(batches))) for source in ready]
            finally:
                end_all()  # KeyboardInterrupt in this thread: leaving the block waits for the others
