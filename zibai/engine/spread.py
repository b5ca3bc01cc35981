"""How many new clients this worker takes before its siblings: a burst of connections is spread over all of them.

Every connection wakes all workers that wait. The first one to wake could accept a whole burst while the others still
wait for a processor, and would then run all its requests. So each worker writes two numbers into its row of the
scoreboard: how many connections it has, and when it last saw that clients wait. The sibling with the fewest connections
decides how many clients a worker accepts:

 - A worker may have a few connections more than that sibling.
 - The sibling's number is out of date until it runs again. So a worker accepts only a few clients, whatever the numbers
   say, until the sibling has seen clients again.

After that, the worker accepts nothing for moments of a millisecond. The sibling has been woken already. If it still
sees no clients after some of these moments, it hangs or is busy, and it is passed over until it sees clients.

In a steady flow of clients, all workers are awake, and these moments would only cost time. So they are counted when
clients still wait at their end. A worker has a credit for them, which is enough for some bursts and grows slowly. When
it is used up, a worker leaves nothing to others. Accepting one by one instead costs up to 5 % of a steady flow.

Everything here is the loop owner's, but for the numbers in each worker's row, which its siblings read.
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
"""Seconds that new clients are left to a sibling, before this worker looks at them again."""

PATIENCE: Final = 0.01
"""Seconds that new clients are left to a sibling that does not see them. On a busy machine, a process that was woken
may wait some milliseconds for a processor."""

CREDIT: Final = 0.1
"""Seconds that clients may wait in moments in which they are left to siblings, after a time without such moments. It is
enough for 20 bursts of 16, one straight after the other."""

SHARE: Final = 0.01
"""The share of the time that clients may wait in such moments, in a steady flow of new clients. Without a bound, a
steady flow lost half of its rate."""

ROWS_CHECK_INTERVAL: Final = 1.0
"""Seconds between two checks of which workers are siblings."""


class Spread:
    """``row`` is ours. ``siblings`` returns the rows of the other workers, each with whether it comes before ours.

    ``slots`` is how many requests this worker runs at the same time. A worker with a single slot is ahead with one
    connection. ``accepted`` is how many clients it has accepted; the caller counts them.
    """

    def __init__(self, row: Row, siblings: Callable[[], Iterable[tuple[bool, Row]]], slots: int) -> None:
        self.accepted = 0
        self._row = row
        self._siblings = siblings
        self._ahead = min(AHEAD_BY, slots)
        self._ready: list[Row] = []
        self._look_at = self._looked_at = -inf
        self._has_left = False  # whether the last look has left the clients to a sibling
        self._credit = CREDIT
        self._sign: tuple[Row | None, float] = (None, 0.0)  # of the sibling with fewest connections: what it saw last
        self._before = 0  # what ``accepted`` was when that sign was new
        self._until = inf  # when the patience with that sibling ends
        self._passed: dict[Row, float] = {}  # siblings that are passed over, each until it sees clients again

    def room(self, connections: int, waited: bool) -> float:
        """How many clients may be accepted now by a worker with so many ``connections``.

        0 while new clients are left to a sibling; then ask again after ``LEAVE``. ``waited`` says whether they
        have been there since then.
        """
        at = clock()
        if at >= self._look_at:
            self._look_at = at + ROWS_CHECK_INTERVAL
            self._ready = [row for _, row in self._siblings() if row.state == "ready"]
        if not self._ready:
            return inf
        self._credit = min(CREDIT, self._credit + SHARE * (at - self._looked_at))
        if self._has_left and waited:
            self._credit -= LEAVE
        self._looked_at = at
        room = self._room(connections, at)
        self._has_left = not room
        self._row.seen = at if room else at + LEAVE
        return room

    def _room(self, connections: int, at: float) -> float:
        least, fewest = None, inf
        for row in self._ready:
            has = row.connections
            if has < fewest and self._passed.get(row) != row.seen:
                least, fewest = row, has
        if least is None:
            return inf
        room = fair = fewest + fewest // 2 + self._ahead - connections
        seen = least.seen
        if (least, seen) != self._sign:
            self._sign, self._before, self._until = (least, seen), self.accepted, inf
        if seen <= at:
            room = min(fair, self._before + self._ahead - self.accepted)
        if room > 0:
            return room
        if self._credit <= 0:
            return inf
        if not _takes(least):
            return max(1, fair)
        self._until = min(self._until, at + PATIENCE)
        if at < self._until:
            return 0
        self._passed[least] = seen
        return self._room(connections, at)


def _takes(row: Row) -> bool:
    """Whether a worker takes new clients."""
    at = clock()
    return row.state == "ready" and not row.is_full(at - STALE, at - FREE_MOMENT)
