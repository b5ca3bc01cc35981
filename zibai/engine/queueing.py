"""Requests that wait too long for a runner: they are refused in time, and the log says so.

Everything here is the loop owner's.
"""

from collections.abc import Callable
from functools import partial
from http import HTTPStatus
from math import ceil, inf
from typing import TYPE_CHECKING, Final

from ..errors import Refused
from ..logger import logger
from .context import Service
from .table import Table

if TYPE_CHECKING:
    from collections import deque

    from .connection import Connection

BUSY_WARNING: Final = 1.0
"""Seconds that a request waits for a runner before a warning is logged, at most once a minute."""


class Queue:
    """Watches ``ready``: the connections that wait for a runner, oldest first, each with the time since when it waits.

    ``patience`` is the seconds that the first may wait before it is refused or a warning is logged.
    """

    def __init__(
        self, service: Service, ready: "deque[tuple[Connection, float]]", runners: str, backlog: Callable[[], int]
    ) -> None:
        """``runners`` is the word for them in messages; ``backlog`` counts the connections that are not accepted."""
        self.ready = ready
        self.patience = min(BUSY_WARNING, service.limits.queue_timeout)
        self._timeout = service.limits.queue_timeout
        self._report = service.report
        self._runners = runners
        self._backlog = backlog
        self._warned = -inf

    def __repr__(self) -> str:
        return f"<{len(self.ready)} requests wait for a runner>"

    def backdate(self, since: float) -> None:
        """The last request of the queue has waited since then: put it where it belongs."""
        ready = self.ready
        connection, _ = ready.pop()
        place = len(ready)
        while place and ready[place - 1][1] > since:
            place -= 1
        ready.insert(place, (connection, since))

    def due(self) -> float:
        """When to look next while all runners are busy and requests wait."""
        since = self.ready[0][1]
        return min(max(since + BUSY_WARNING, self._warned + 60), since + self._timeout)

    def look(self, now: float, table: Table, slots: int, busy: bool) -> None:
        """Refuse the requests that have waited for too long. ``busy`` says that all ``slots`` are taken."""
        ready, timeout = self.ready, self._timeout
        waiting, waited = len(ready), now - ready[0][1]
        late = 0
        while ready and now - ready[0][1] >= timeout:
            connection, since = ready.popleft()
            refusal = Refused(HTTPStatus.SERVICE_UNAVAILABLE, f"no runner for {timeout:g} s", ceil(timeout))
            refusal.phase, refusal.waited = "queue", now - since
            table.step(connection, partial(connection.refuse, refusal), now)
            late += 1
        if (late or busy) and now >= self._warned + 60:
            self._warned = now
            waiting += self._backlog()
            self._report(
                logger.warning,
                "all %d %s are busy and %s, the first for %.1f s%s; --max-workers may be too small",
                slots,
                self._runners,
                "1 request waits" if waiting == 1 else f"{waiting} requests wait",
                waited,
                f", of which {late} got a 503 (--queue-timeout)" if late else "",
            )
