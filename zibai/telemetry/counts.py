"""The counters of each thread or greenlet: its requests by method and status, and their durations.

A slot of the scoreboard has these numbers in shared memory. So they are not lost when a worker is killed, and no lock
is needed, since the thread or greenlet of the slot is the only writer. Numbers only grow. A reader sums the slots of
all rows, and the parent adds up the rows of workers that have ended (:mod:`zibai.telemetry.totals`).
"""

from bisect import bisect_left
from collections.abc import Sequence
from typing import Any, Final, NamedTuple, Self

BOUNDS: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
"""Upper bounds of the buckets of durations, in seconds. A duration counts in the first bucket whose bound is not below
it; a last bucket has no bound."""

METHODS: Final = ("read", "write", "other")
"""Classes of methods: GET and HEAD; POST, PUT, PATCH and DELETE; all others. The first letter decides, since that is
cheap: of WebDAV's methods, those with a P count as writing."""

CLASSES: Final = ("other", "1xx", "2xx", "3xx", "4xx", "5xx")

REFUSALS: Final = (400, 408, 411, 413, 414, 417, 421, 431, 501, 503, 505, 507, 0)
"""Status codes of the responses with which the server itself refuses a request; 0 is any other."""

_BUCKETS: Final = len(BOUNDS) + 1
_COLUMNS: Final = 10  # by the first digit of the status; an application may send any
_WAITS: Final = _BUCKETS + len(METHODS) * _COLUMNS
_MICROSECONDS: Final = _WAITS + _BUCKETS
SIZE: Final = _MICROSECONDS + 1
"""The number of counters in a slot: the buckets of durations; the requests by method and first digit of the status; the
buckets of the waits for the slot, and the sum of the waits in microseconds. A wait of the first bucket, as most are, is
not counted: that bucket has all requests that are not in the others."""

PLACES: Final = bytes(
    _BUCKETS + _COLUMNS * (0 if letter in b"GH" else 1 if letter in b"PD" else 2) for letter in range(256)
)
"""Where the numbers of a class of methods begin, by the first letter of the method."""


def refusal_place(status: int) -> int:
    """The place of a status among :data:`REFUSALS`."""
    return REFUSALS.index(status) if status in REFUSALS else len(REFUSALS) - 1


def count_wait(numbers: list[int], seconds: float) -> tuple[int, int]:
    """Count a wait in the numbers of a slot; returns the two places that have changed."""
    place = _WAITS + bisect_left(BOUNDS, seconds)
    numbers[place] += 1
    numbers[_MICROSECONDS] += int(seconds * 1_000_000)
    return place, _MICROSECONDS


class Counted(NamedTuple):
    """The sum of any number of slots: ``numbers`` as in a slot, and ``seconds``, the sum of all durations."""

    numbers: Sequence[int] = (0,) * SIZE
    seconds: float = 0.0

    def plus(self, other: Self) -> "Counted":
        """The sum of both."""
        return Counted([a + b for a, b in zip(self.numbers, other.numbers, strict=True)], self.seconds + other.seconds)

    def responses(self) -> list[int]:
        """The responses, by the first digit of their status."""
        return [sum(same) for same in zip(*map(self._digits, range(len(METHODS))), strict=True)]

    def _digits(self, method: int) -> Sequence[int]:
        start = _BUCKETS + method * _COLUMNS
        return self.numbers[start : start + _COLUMNS]

    def describe(self) -> dict[str, Any]:
        """As plain values: ``buckets``, not cumulative; ``seconds``; ``by`` method and class, without zeros; and
        ``queue``, the same for the waits."""
        by: dict[str, dict[str, int]] = {}
        for place, method in enumerate(METHODS):
            digits = self._digits(place)
            found = dict(zip(CLASSES, [digits[0] + sum(digits[6:]), *digits[1:6]], strict=True))
            if any(digits):
                by[method] = {name: number for name, number in found.items() if number}
        buckets, waits = list(self.numbers[:_BUCKETS]), list(self.numbers[_WAITS:_MICROSECONDS])
        waits[0] = max(0, sum(buckets) - sum(waits[1:]))
        queue = {"buckets": waits, "seconds": round(self.numbers[_MICROSECONDS] / 1_000_000, 6)}
        return {"buckets": buckets, "seconds": round(self.seconds, 6), "by": by, "queue": queue}
