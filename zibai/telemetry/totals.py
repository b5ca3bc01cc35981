"""The counters of a server since its start, apart from the rows of the running workers.

Only the main loop's thread of the parent writes here: it adds the row of each worker that has ended, so that no sum
ever falls, and it counts the events of workers. ``lock`` is held while a row moves into the totals, and by a reader in
this process while it reads both. A reader in another process may see the row twice, or not at all, for a microsecond.
"""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

from .counts import REFUSALS, SIZE, Counted

SUMS: Final = ("requests", "1xx", "2xx", "3xx", "4xx", "5xx", "bytes")
"""The counters of a row that are added up."""

EVENTS: Final = (
    "worker_starts",
    "ended_stopped",  # it was told to end, or has ended by itself in order
    "ended_exit",  # with an exit code
    "ended_signal",
    "ended_killed",  # by the parent, since it was late
    "ended_memory",  # by the kernel, for want of memory
    "restarts_begun",
    "restarts_done",
    "restarts_aborted",
)
"""The counters of workers and restarts."""

_WANTED: Final = "wanted"
"""How many workers there should be; the only number here that may fall."""

_NAMES: Final = (*SUMS, *EVENTS, _WANTED)
_NUMBERS: Final = len(_NAMES) + len(REFUSALS) + SIZE

TOTALS_SIZE: Final = 8 * (_NUMBERS + 2)
"""Bytes of the totals in the scoreboard; the last two numbers are seconds: of all durations, and of the processor."""


class Totals:
    """The totals of one scoreboard, in ``memory`` of :data:`TOTALS_SIZE` bytes."""

    def __init__(self, memory: memoryview) -> None:
        self.lock = threading.Lock()
        self._use(memory)

    def _use(self, memory: memoryview) -> None:
        self._numbers = memory[: 8 * _NUMBERS].cast("Q")
        self._seconds = memory[8 * _NUMBERS :].cast("d")

    def detach(self) -> None:
        """Continue in private memory, with the same contents, so that the file can be closed."""
        before = self._numbers, self._seconds
        self._use(memoryview(bytearray(bytes(self._numbers) + bytes(self._seconds))))
        for each in before:
            each.release()

    def count(self, event: str) -> None:
        """Count one of :data:`EVENTS`."""
        self._numbers[_NAMES.index(event)] += 1

    def want(self, workers: int) -> None:
        """Note how many workers there should be."""
        self._numbers[_NAMES.index(_WANTED)] = workers

    @contextmanager
    def retiring(self, report: Any) -> Iterator[None]:
        """Add the :class:`~zibai.telemetry.row.Report` of a worker that has ended; the block clears its row."""
        with self.lock:
            sums = [report.counters[name] for name in SUMS]
            added = [*sums, *[0] * (len(_NAMES) - len(SUMS)), *report.refusals, *report.counted.numbers]
            for place, number in enumerate(added):
                if number:
                    self._numbers[place] += number
            self._seconds[0] += report.counted.seconds
            self._seconds[1] += report.cpu
            yield

    def read(self) -> tuple[dict[str, int], list[int], Counted, float]:
        """The numbers by name, the refusals, the counters of slots, and seconds of the processor."""
        numbers = self._numbers.tolist()
        names = dict(zip(_NAMES, numbers, strict=False))
        rest = numbers[len(_NAMES) :]
        counted = Counted(rest[len(REFUSALS) :], self._seconds[0])
        return names, rest[: len(REFUSALS)], counted, self._seconds[1]
