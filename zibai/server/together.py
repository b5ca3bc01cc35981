"""Joins the reports of several server loops of one process into one.

A supervising process knows workers and not loops. It is told when the maximum of requests is reached, when a request is
stuck, and of each heartbeat of the process (:mod:`.ties`). The owners of the loops report here, and each is a thread,
so everything is changed under a lock. A single loop needs none of this and has no such object.
"""

import threading
from collections.abc import Callable

from ..engine.loop import Loop
from .ties import Ties


class Together:
    """Counts the reports of ``loops`` server loops, whose owners call it.

    ``max_requests`` is for all loops together, 0 is no limit; each loop reports after ``step`` of them. ``end`` ends
    the server if ``ties`` have no function for that.
    """

    def __init__(self, ties: Ties, loops: int, max_requests: int, end: Callable[[], object]) -> None:
        self.ties = ties
        self._loops = loops
        self.has_finished: Callable[[int], bool] = lambda number: False  # whether that loop has; set before they turn
        self._lock = threading.Lock()
        self._silent = set(range(loops))  # loops that have not sent a heartbeat since on_beat was called
        self._answered = 0
        self._enough = max_requests
        self.step = max(1, max_requests // 1000)  # requests of a loop after which it reports
        self._on_max_requests = ties.on_max_requests or end
        self._on_hung: Callable[[], object] | None = ties.on_hung or end

    def beat(self, number: int) -> None:
        """A loop has looked at itself. When all loops that have not finished have, the process has a heartbeat."""
        with self._lock:
            self._silent.discard(number)
            if all(self.has_finished(each) for each in self._silent):
                self._silent = set(range(self._loops))
                self.ties.on_beat()
            self.ties.on_look()

    def hung(self) -> None:
        """A request of a loop is stuck; reported once."""
        with self._lock:
            tell, self._on_hung = self._on_hung, None
        if tell is not None:
            tell()

    def count(self, loop: Loop) -> None:
        """A loop has served a step of requests."""
        with self._lock:
            before, self._answered = self._answered, self._answered + self.step
            enough = before < self._enough <= self._answered
        if enough:
            self._on_max_requests()
        loop.requests_left = self.step
