"""Clients that come while no runner is free: whether this worker accepts them all the same.

A connection that waits in the backlog of a listener is in no log, no limit of time holds for it, and no worker refuses
it. So a worker that is *alone* accepts on, and its requests wait in its own queue, in their order.

A worker with siblings leaves the backlog to the one that is free first, because a request that waits in one worker
cannot be run by another. Only when all workers have been full for :data:`PATIENCE`, one of them, the
first of those in the scoreboard, accepts a single connection: a *probe*. That is the oldest of the backlog, so its wait
is the longest of all: it is measured (the kernel knows since when the request is there), logged and, when it is too
long, refused. Then the next one is the probe. So each request in the backlog is refused when its time is over. Of the
others only the probe waits in a worker; the rest stay in the backlog, where the next free worker takes them.

Everything here is the loop owner's, but for the mark in each worker's row, which its siblings read.
"""

from collections.abc import Callable, Iterable
from math import inf
from typing import Any, Final

from ..clock import clock
from ..telemetry.row import Row
from .states import BODY, HANDSHAKE, HEAD, PASSED, PROXY, READY

PATIENCE: Final = 0.25
"""Seconds that all workers have to be full."""

LOOK: Final = 0.1
"""Seconds between two looks at the siblings."""

MOMENT: Final = 0.05
"""Seconds that a worker may have a free runner between two requests, and still counts as full."""

_UNSERVED: Final = (PROXY, HANDSHAKE, HEAD, BODY, READY)


class Overload:
    """``siblings`` returns the rows of the other workers in the scoreboard, each with whether it comes before ours.

    ``full`` says whether no runner is free; ``again`` is when to look at the siblings again, ``inf`` without need;
    ``full_at`` is when clients last had to wait in the backlog.
    """

    def __init__(self, row: Row, siblings: Callable[[], Iterable[tuple[bool, Row]]]) -> None:
        self.full = False
        self.again = inf
        self.full_at = -inf
        self._row = row
        self._siblings = siblings
        self._look_at = -inf
        self._alone = self._leads = False
        self._free_at = -inf  # when a runner was free last, by the loop's clock
        self._since = inf  # since when all workers are full
        self._probe: Any = None

    def note(self, full: bool, now: float) -> None:
        """Whether a runner is free has changed."""
        self.full = full
        self._row.mark_full(None if full else clock())
        if not full:
            self._free_at, self.again = now, inf
        elif now - self._free_at > MOMENT:
            self._since, self._leads = inf, False

    def accepts(self, now: float) -> bool:
        """Whether to accept, while no runner is free."""
        if now >= self._look_at:
            self._look(now)
        return self._alone or (self._leads and not self._is_waiting())

    def _look(self, now: float) -> None:
        self._look_at = now + LOOK
        others = [(first, row) for first, row in self._siblings() if row.serves]
        self._alone = not others
        self.again = inf if self._alone else self._look_at
        moment = clock() - MOMENT
        self._since = min(self._since, now) if all(row.is_full(moment) for _, row in others) else inf
        self._leads = now - self._since >= PATIENCE and not any(first for first, _ in others)

    def accepted(self, connection: Any) -> None:
        """A connection was accepted."""
        if self.full and not self._alone:
            self._probe = connection

    def _is_waiting(self) -> bool:
        """Whether the last one that was accepted while no runner was free has sent something and still waits."""
        probe = self._probe
        if probe is not None and probe.state is PASSED:
            probe = self._probe = probe.follower
        return probe is not None and probe.state in _UNSERVED and not probe.idle
