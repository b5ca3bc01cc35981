"""Which descriptors are ready: the system's own way to ask, behind one small interface.

On Linux that is ``select.epoll`` itself, without the layer of ``selectors``, which makes an object of each event and
costs a fifth of what a whole request does. Elsewhere :class:`Polled` puts the same interface before a selector.
"""

import select
import sys
import time
from math import inf
from selectors import EVENT_READ, EVENT_WRITE, BaseSelector, DefaultSelector, SelectSelector
from typing import Final, Protocol

READ: Final = 1
WRITE: Final = 4
"""What can be asked for; the numbers are epoll's (EPOLLIN, EPOLLOUT). An answer may have others, for errors."""

SELECT_LIMIT: Final = 500
"""Connections where there is only select(), which takes 512 sockets on Windows; some of them are not connections."""

IDLE: Final = 1.0
"""Seconds between two looks where there is only select(), nothing is registered, and the wait has no limit."""


class Poller(Protocol):
    """Level-triggered. Descriptors are numbers, and each is registered once."""

    def register(self, fd: int, events: int) -> object: ...
    def modify(self, fd: int, events: int) -> object: ...
    def unregister(self, fd: int) -> object: ...

    def poll(self, timeout: float | None) -> list[tuple[int, int]]:
        """The descriptors that are ready, and for what; waits ``timeout`` seconds, None is for ever."""

    def close(self) -> object: ...


class Polled:
    """A selector as a poller. ``limit`` is how many connections it can take."""

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

    def poll(self, timeout: float | None) -> list[tuple[int, int]]:
        if self._only_selects and not self._selector.get_map():
            # On Windows select() refuses to wait for nothing.
            time.sleep(IDLE if timeout is None else max(0.0, timeout))
            return []
        return [
            (key.fd, (events & EVENT_READ and READ) | (events & EVENT_WRITE and WRITE))
            for key, events in self._selector.select(timeout)
        ]

    def close(self) -> None:
        self._selector.close()


def _of_selectors(events: int) -> int:
    return (events & READ and EVENT_READ) | (events & WRITE and EVENT_WRITE)


def make_poller() -> Poller:
    """The best one here, for who may block in it."""
    if sys.platform == "linux":
        return select.epoll()
    return Polled(DefaultSelector())
