"""A poller of gevent's watchers, where the hub cannot watch a poller of the system (Windows, macOS)."""

from collections.abc import Callable
from typing import Any

from ...net.poller import READ, WRITE


class HubPoller:
    """One watcher of ``loop`` for each descriptor.

    Watchers report into ``_ready`` and ask for a turn, whose ``poll`` takes what is there. A watcher reports again
    as long as its socket stays ready, so it is level-triggered.
    """

    def __init__(self, loop: Any, turn_soon: Callable[[], None]) -> None:
        self._loop = loop
        self._turn_soon = turn_soon
        self._watchers: dict[int, Any] = {}
        self._ready: dict[int, int] = {}

    def register(self, fd: int, events: int) -> None:
        watcher = self._watchers[fd] = self._loop.io(fd, (events & READ and 1) | (events & WRITE and 2))
        watcher.start(self._report, fd, pass_events=True)

    def modify(self, fd: int, events: int) -> None:
        self.unregister(fd)
        self.register(fd, events)

    def _report(self, events: int, fd: int) -> None:
        self._ready[fd] = self._ready.get(fd, 0) | (events & 1 and READ) | (events & 2 and WRITE)
        self._turn_soon()

    def unregister(self, fd: int) -> None:
        watcher = self._watchers.pop(fd)
        watcher.stop()
        watcher.close()
        self._ready.pop(fd, None)

    def poll(self, timeout: float | None, most: int = -1) -> list[tuple[int, int]]:
        ready, self._ready = self._ready, {}
        return list(ready.items())

    def close(self) -> None:
        for fd in list(self._watchers):
            self.unregister(fd)
