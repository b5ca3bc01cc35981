"""How many new clients this worker takes before its siblings: a burst of connections is spread over all of them.

Every connection wakes all workers that wait. The first one to wake could accept a whole burst while the others still
wake up, and would then run all its requests. So each worker writes into its row of the scoreboard how many
connections it has. A worker that has a few more than a sibling accepts nothing for a moment. The sibling has been woken
already. If the sibling accepts no client in that time, because it is busy or hangs, this worker accepts.

Everything here is the loop owner's, but for the number in each worker's row, which its siblings read.
"""

from collections.abc import Callable, Iterable
from math import inf
from typing import Final

from ..clock import clock
from ..telemetry.row import Row
from .overload import FREE_MOMENT, STALE

AHEAD_BY: Final = 3
"""Connections by which a worker may be ahead of a sibling, plus half of the sibling's number."""

LEAVE: Final = 0.001
"""Seconds that new clients are left to a sibling. After that, for as many seconds, each turn accepts one client."""

ROWS_CHECK_INTERVAL: Final = 1.0
"""Seconds between two checks of which workers are siblings."""


class Spread:
    """``siblings`` returns the rows of the other workers, each with whether it comes before ours.

    ``slots`` is how many requests this worker runs at the same time. A worker with a single slot is ahead with one
    connection.
    """

    def __init__(self, siblings: Callable[[], Iterable[tuple[bool, Row]]], slots: int) -> None:
        self._siblings = siblings
        self._ahead = min(AHEAD_BY, slots)
        self._ready: list[Row] = []
        self._look_at = -inf
        self._left_until = -inf

    def room(self, connections: int, now: float) -> float:
        """How many clients may be accepted now by a worker with so many ``connections``.

        0 while new clients are left to a sibling, for ``LEAVE``.
        """
        if now >= self._look_at:
            self._look_at = now + ROWS_CHECK_INTERVAL
            self._ready = [row for _, row in self._siblings() if row.state == "ready"]
        least, fewest = None, inf
        for row in self._ready:
            has = row.connections
            if has < fewest:
                least, fewest = row, has
        if least is None:
            return inf
        room = fewest + fewest // 2 + self._ahead - connections
        if room > 0:
            return room
        if now < self._left_until + LEAVE or not _takes(least):
            return 1
        self._left_until = now + LEAVE
        return 0


def _takes(row: Row) -> bool:
    """Whether a worker takes new clients."""
    at = clock()
    return row.state == "ready" and not row.is_full(at - STALE, at - FREE_MOMENT)
