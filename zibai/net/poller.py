"""Which descriptors are ready: the best system call for it, behind one small interface.

On Linux that is ``select.epoll`` itself. The layer of ``selectors`` makes an object for each event, which costs a fifth
of a whole request. Elsewhere :class:`Polled` puts the same interface in front of a selector.
"""

import select
import sys
import time
from math import inf
from selectors import EVENT_READ, EVENT_WRITE, BaseSelector, DefaultSelector, SelectSelector
from typing import Final, Protocol

READ: Final = 1
WRITE: Final = 4
"""Events to register; the numbers are those of epoll (EPOLLIN, EPOLLOUT). ``poll`` may return others, for errors."""

SELECT_LIMIT: Final = 500
"""The most connections if there is only select(). On Windows it takes 512 sockets; some are not connections."""

EMPTY_WAIT: Final = 1.0
"""Seconds of a wait without a timeout, if there is only select() and nothing is registered."""


class Poller(Protocol):
    """Level-triggered. Descriptors are numbers, and each is registered once."""

    def register(self, fd: int, events: int) -> object: ...
    def modify(self, fd: int, events: int) -> object: ...
    def unregister(self, fd: int) -> object: ...

    def poll(self, timeout: float | None, most: int = -1) -> list[tuple[int, int]]:
        """Wait at most ``timeout`` seconds (None is no limit). Returns the ready descriptors with their events.

        With epoll, no more than ``most`` of them (-1 is no limit). The others come next, before any of these again.
        """

    def close(self) -> object: ...


class Polled:
    """A selector as a poller. ``limit`` is the number of connections that it can watch."""

    def __init__(self, selector: BaseSelector) -> None:
        self._selector = selector
        self._only_selects = isinstance(selector, SelectSelector)
        self.limit = SELECT_LIMIT if self._only_selects else inf

    def register(self, fd: int, events: int) -> None:
        self._selector.register(fd, _of_selectors(events))

    def modify(self, fd: int, events: int) -> None:
        self._selector.modify(fd, _of_selectors(events))

    def unregister(self, fd: int) -> None:
        self._selector.unregister(fd)

    def poll(self, timeout: float | None, most: int = -1) -> list[tuple[int, int]]:
        if self._only_selects and not self._selector.get_map():
            # On Windows select() raises an error without any socket.
            time.sleep(EMPTY_WAIT if timeout is None else max(0.0, timeout))
            return []
        return [
            (key.fd, (events & EVENT_READ and READ) | (events & EVENT_WRITE and WRITE))
            for key, events in self._selector.select(timeout)
        ]

    def fileno(self) -> int:
        """The descriptor that another poller can watch. Raises ``ValueError`` where there is none, as on Windows."""
        fileno = getattr(self._selector, "fileno", None)
        if fileno is None:
            raise ValueError("a select() has no descriptor")
        return int(fileno())

    def close(self) -> None:
        self._selector.close()


def _of_selectors(events: int) -> int:
    return (events & READ and EVENT_READ) | (events & WRITE and EVENT_WRITE)


def make_poller() -> Poller:
    """The best poller of this system, for a thread that may block in it."""
    if sys.platform == "linux":
        return select.epoll()
    return Polled(DefaultSelector())
