"""Whether this worker accepts clients while none of its runners is free.

A connection that waits in the backlog of a listener is in no log. It has no time limit, and no worker refuses it. So a
worker without siblings goes on accepting, and its requests wait in its own queue, in their order.

A worker with siblings leaves the backlog to the worker that is free first, because a request that waits in one worker
cannot be run by another. When all workers have been full for :data:`ALL_FULL`, one of them accepts a single connection:
the *probe*. This worker is the first of the full ones in the scoreboard. The probe is the oldest connection of the
backlog, so it has waited longest. Its wait is measured (the kernel knows since when the request is there) and logged.
When the wait is too long, the request is refused, and the next connection is the probe. So each request in the backlog
is refused when its time is over. All connections but the probe stay in the backlog, where the next free worker takes
them.

A worker that hangs accepts no client, though it may have said that it is free. So the probe is also accepted when
connections have been in the backlog at each check for :data:`BACKLOG_STAYS`. And a worker that is full writes that
again at each check. If the mark of a worker is older than :data:`STALE`, the worker hangs, and the next one leads.

A worker that still starts takes no part in this. But it will have free runners soon, so it counts as a sibling.

Everything here is the loop owner's, but for the mark in each worker's row, which its siblings read.
"""

from collections.abc import Callable, Iterable
from math import inf
from typing import Any, Final

from ..clock import clock
from ..telemetry.row import Row
from .states import BODY, HANDSHAKE, HEAD, PASSED, PROXY, READY

ALL_FULL: Final = 0.25
"""Seconds that all workers have to be full before one of them accepts a probe."""

BACKLOG_STAYS: Final = 1.0
"""Seconds that connections must be in the backlog, though a worker says that it is free, before there is a probe."""

SIBLINGS_CHECK_INTERVAL: Final = 0.1
"""Seconds between two checks of the siblings."""

FREE_MOMENT: Final = 0.05
"""Seconds that a worker may have a free runner between two requests, and still counts as full."""

STALE: Final = 3 * SIBLINGS_CHECK_INTERVAL
"""Seconds without a new mark after which a full worker counts as one that hangs."""

_UNSERVED: Final = (PROXY, HANDSHAKE, HEAD, BODY, READY)


class Overload:
    """``siblings`` returns the rows of the other workers in the scoreboard, each with whether it comes before ours.
    ``is_anyone_waiting`` asks the system whether a connection is in the backlog.

    ``full`` says whether no runner is free. ``again`` is when to look at the siblings again, ``inf`` if that is not
    needed. ``full_at`` is when clients last had to wait in the backlog.
    """

    def __init__(
        self,
        row: Row,
        siblings: Callable[[], Iterable[tuple[bool, Row]]],
        is_anyone_waiting: Callable[[], bool],
    ) -> None:
        self.full = False
        self.again = inf
        self.full_at = -inf
        self._row = row
        self._siblings = siblings
        self._is_anyone_waiting = is_anyone_waiting
        self._look_at = -inf
        self._is_only_worker = self._leads = False
        self._free_at = -inf  # when a runner was free last, by the loop's clock
        self._full_since = inf  # since when all workers are full
        self._lost_since = inf  # since when connections are in the backlog, though a worker says that it is free
        self._probe: Any = None

    def note(self, full: bool, now: float) -> None:
        """Whether a runner is free has changed."""
        self.full = full
        self._row.mark_full(full)
        if not full:
            self._free_at, self.again = now, inf
        elif now - self._free_at > FREE_MOMENT:
            self._full_since = self._lost_since = inf
            self._leads = False

    def accepts(self, now: float) -> bool:
        """Whether to accept, while no runner is free."""
        if now >= self._look_at:
            self._look(now)
        return self._is_only_worker or (self._leads and not self._is_waiting())

    def _look(self, now: float) -> None:
        self._look_at = now + SIBLINGS_CHECK_INTERVAL
        self._row.mark_full(True)
        others = [(first, row, row.state) for first, row in self._siblings()]
        self._is_only_worker = not any(state in ("ready", "starting") for _, _, state in others)
        self.again = inf if self._is_only_worker else self._look_at
        at = clock()
        full = [(first, row.is_full(at - STALE, at - FREE_MOMENT)) for first, row, state in others if state == "ready"]
        all_full = all(is_full for _, is_full in full)
        self._full_since = min(self._full_since, now) if all_full else inf
        is_lost = not all_full and self._is_anyone_waiting()
        self._lost_since = min(self._lost_since, now) if is_lost else inf
        self._leads = (now - self._full_since >= ALL_FULL or now - self._lost_since >= BACKLOG_STAYS) and not any(
            first and is_full for first, is_full in full
        )

    def accepted(self, connection: Any) -> None:
        """A connection was accepted."""
        if self.full and not self._is_only_worker:
            self._probe = connection

    def _is_waiting(self) -> bool:
        """Whether the last probe has sent something and still waits."""
        probe = self._probe
        if probe is not None and probe.state is PASSED:
            probe = self._probe = probe.follower
        return probe is not None and probe.state in _UNSERVED and not probe.idle
