"""Requests of other threads to the parent's main loop.

A thread appends a function, and wakes the main loop by a byte on a socket. The main loop calls the functions in their
order. A bug in one of them is logged, and must not end the main loop: with it all workers would end.
"""

import socket
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING

from ..logger import logger

if TYPE_CHECKING:
    from .roster import Roster


class Asked:
    """Functions of the roster. Any thread may ``add``; the rest is the main loop's, which waits for ``source``."""

    def __init__(self) -> None:
        self._requests: deque[Callable[[Roster], object]] = deque()
        self.source, self._bell = socket.socketpair()
        self._bell.setblocking(False)

    def add(self, request: Callable[["Roster"], object]) -> None:
        """Let the main loop call ``request``, soon. Does nothing after ``close``."""
        self._requests.append(request)
        with suppress(OSError):  # the main loop has many requests already, or has ended
            self._bell.send(b"\0")

    def do(self, roster: "Roster") -> None:
        """Call the functions that were added; the ``source`` is ready."""
        self.source.recv(4096)
        while self._requests:
            try:
                self._requests.popleft()(roster)
            except Exception:
                logger.exception("a request to the main loop failed")

    def close(self) -> None:
        """Ignore all further requests."""
        self.source.close()
        self._bell.close()
