"""Connections that the server loop does not read from for a while, and when it goes on with them.

The ``pause`` of a connection is the reason. If a connection has more to do than a turn has time for, it goes on in the
next turn; such connections take turns, first come, first served. A connection without room for its body waits until
another one has made room.

Everything here is the loop owner's.
"""

from collections import OrderedDict
from collections.abc import Iterator
from math import inf
from typing import Final

from ..net.poller import WRITE
from .load import Load
from .pollable import Pollable
from .states import CHOKED, STARVED, STOPPED

AGAIN: Final = 0.5
"""Seconds until room for bodies is looked for again, since other processes may have made it."""

_CHECK_COST: Final = 16
"""The cost of a look whether a body has room, in the measure of a turn's budget."""


class Deferred:
    """``load`` has the rest of the turn's budget, and tells whether there is room for bodies.

    ``busy`` is False while no connection waits here. An ordinary turn looks only at that.
    """

    def __init__(self, load: Load) -> None:
        self._load = load
        self.busy = False
        self._soon: OrderedDict[Pollable, None] = OrderedDict()
        self._starved: OrderedDict[Pollable, None] = OrderedDict()
        self._again = 0.0  # when to look for room although no connection here has made any

    def put(self, connection: Pollable) -> int:
        """Take a paused connection. Returns the events that the poller must watch meanwhile."""
        if connection.pause is CHOKED:
            return WRITE
        if connection.pause is STOPPED:
            return 0
        self.busy = True
        (self._starved if connection.pause is STARVED else self._soon)[connection] = None
        return 0

    def discard(self, connection: Pollable) -> None:
        """Let go of a connection that is about to be closed."""
        self._soon.pop(connection, None)
        self._starved.pop(connection, None)

    def wait(self, now: float) -> float:
        """Seconds until a connection may go on."""
        if self._soon:
            return 0
        if self._starved:
            return 0 if self._load.freed else max(0.0, self._again - now)
        return inf

    def resumed(self, now: float) -> Iterator[Pollable]:
        """The connections that go on in this turn, each at most once, and only while the turn has time for them."""
        load = self._load
        for _ in range(len(self._soon)):
            if load.budget <= 0 or not self._soon:
                return
            yield self._soon.popitem(last=False)[0]
        self.busy = bool(self._soon or self._starved)
        if not self._starved or not (load.freed or now >= self._again):
            return
        load.freed = False
        self._again = now + AGAIN
        for _ in range(len(self._starved)):
            if load.budget <= 0 or not self._starved:
                return
            load.budget -= _CHECK_COST
            yield self._starved.popitem(last=False)[0]
