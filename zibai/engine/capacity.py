"""How room is made for a new client when there are as many connections as there may be.

A client without a place is not dropped: it waits in the backlog, or a sibling process accepts it. But idle connections
would keep it waiting for a minute. So when a client has waited for a moment (a sibling would have been faster), two
things make room: responses say ``Connection: close``, and the connection that has been idle the longest is closed,
unless its client has just sent something. An idle connection is a kept-alive one, or one on which nothing has come at
all. When there is none, the connection is closed whose request has been incomplete for the longest time: its client is
slow, or an attacker.

Without ``--max-connections`` the limit of descriptors says how many connections there may be. The application needs
some descriptors for itself, and files need some: those with request bodies, and those that are sent to slow clients.

Everything here is the loop owner's.
"""

from collections.abc import Callable, Iterable, Iterator
from math import inf
from socket import MSG_PEEK
from typing import Final

from ..logger import logger
from .connection import Connection
from .context import Service
from .states import HEAD, PROXY
from .table import Table

FULL_PAUSE: Final = 0.1
"""Seconds until the listeners are watched again while there is no place: the poller would report them all the time."""

CROWDED: Final = 1.0
"""Seconds that responses say close after a client has waited."""

IDLE_BEFORE_CLOSE: Final = 1.0
"""Seconds that a connection has to be idle to be closed. A client that has just got a response may be sending."""

SLOW: Final = 2.0
"""Seconds after which an incomplete head may make room. A client sends a head at once, and sends a lost packet again
within a second. The oldest head goes first, and not the shortest: an attacker can make a head of any length."""


class Capacity:
    """``most`` is how many connections there may be, ``limit`` how many the poller can take.

    ``again`` is when to look at the listeners again, ``inf`` while they are looked at; ``until`` is how long
    responses say close. Both are by the loop's clock.
    """

    def __init__(self, service: Service, report: Callable[..., None], limit: float) -> None:
        self.limit = limit
        self.most = min(limit, service.limits.max_connections, service.load.descriptors)
        self.again = inf
        self.until = -inf
        self._service = service
        self._report = report
        self._seen = -inf  # when a client waited last
        self._warned = -inf

    @property
    def places(self) -> float:
        """How many connections there may be now. Files of bodies and of responses leave fewer."""
        service, load = self._service, self._service.load
        return min(self.most, max(1, load.descriptors - load.files - service.unsent.files))

    def is_open(self, now: float, connections: int) -> bool:
        """Whether to look at the listeners, with so many connections open."""
        if self.again != inf and (now >= self.again or connections < self.places):
            self.again = inf
        return self.again == inf

    def make_room(self, table: Table, now: float) -> None:
        """A client waits and there is no place: close a connection for it, if there is one to be closed."""
        chosen = self.choose(table.connections.values(), now)
        if chosen is not None:
            table.drop(chosen)

    def choose(self, connections: Iterable[Connection], now: float) -> Connection | None:
        """A client waits and there is no place: the connection to close for it, if there is one."""
        seen, self._seen = self._seen, now
        if now < self.until or now - seen <= CROWDED:
            self.until = now + CROWDED
            self._warn(now)
            for _, _, each in sorted(self._candidates(connections, now), key=lambda found: found[:2]):
                if _is_silent(each):
                    return each
        self.again = now + FULL_PAUSE
        return None

    def _candidates(self, connections: Iterable[Connection], now: float) -> Iterator[tuple[bool, float, Connection]]:
        """The connections that may be closed, each with whether a part of a head has come and since when it waits."""
        limits = self._service.limits
        for each in connections:
            begun = not each.idle
            if not begun or each.state is HEAD or each.state is PROXY:
                is_kept = each.served and not begun
                since = each.deadline - (limits.keep_alive_timeout if is_kept else limits.header_timeout)
                if since <= now - (SLOW if begun else IDLE_BEFORE_CLOSE):
                    yield begun, since, each

    def _warn(self, now: float) -> None:
        if now < self._warned + 60:
            return
        self._warned = now
        if self.most == self.limit:
            bound = "select() of this system"
        elif self.most == self._service.limits.max_connections:
            bound = "--max-connections"
        else:
            bound = "the limit of descriptors (ulimit -n)"
        self._report(
            logger.warning,
            "%d connections are open, as many as %s allows, and more want in; the longest idle are closed for them, "
            "then those whose requests have been incomplete for the longest time",
            self.places,
            bound,
        )


def _is_silent(connection: Connection) -> bool:
    """Whether nothing has come that was not read yet, not even the end."""
    if connection.pause:
        return False  # it has something, or its client does not take something, which has a limit of its own
    try:
        connection.receive_raw(1, MSG_PEEK)
    except BlockingIOError:
        return True
    except OSError:
        pass  # it is about to be closed by itself
    return False
