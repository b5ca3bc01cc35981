"""A connection as tasks use it: a stream that the loop tells what its client does.

Everything here runs in the thread of the event loop; :mod:`.async_stream` says when.
"""

from math import inf
from typing import TYPE_CHECKING, Any

from ..clock import AHEAD
from .connection import Connection
from .states import STOPPED
from .stream import Stream

if TYPE_CHECKING:
    from .async_stream import AsyncStream


class TaskStream(Stream):
    """The side of tasks, from the first request of a connection to its last: a stream that never blocks.

    ``running`` hears from the loop what the client does: it is the exchange of the request at hand, or the messages of
    a connection that has been upgraded. ``shared`` has the facts that the gateway gives to all requests of the
    connection.
    """

    __slots__ = ("running", "shared")

    def __init__(self, connection: Connection) -> None:
        super().__init__(connection)
        self.running: AsyncStream | None = None
        self.shared: Any = None

    def begin(self, now: float) -> None:
        """A request begins; ``now`` is by :func:`zibai.clock.clock`."""
        self.body, self.connection.body = self.connection.body, None
        self.started, self.status, self.sent = now, 499, 0
        self.queued = queued = now - self.since - AHEAD
        if queued < 0.0:
            self.queued = 0.0  # Windows has a coarse clock
        if self._left:
            self._left -= 1
            if not self._left:
                self.sender.closing = True

    @property
    def due(self) -> float:
        """The deadline of the connection, without that of unsent bytes."""
        return inf if self.running is None else self.running.due

    def feed(self, data: bytes) -> None:
        """Bytes have come."""
        if self.running is not None:
            self.running.feed(data)

    def go_on(self) -> None:
        """A pause is over: use the bytes at hand, before more are read."""
        if self.running is not None:
            self.running.go_on()

    def end(self, *, reset: bool) -> None:
        """The client has ended its side, or reset the connection. In the first case it may still read."""
        if reset:
            self.sender.closing = self.sender.broken = True
            self.sender.discard_unsent()
        self.connection.pause = STOPPED  # a poller would report the end again and again
        self.note_end()

    def note_end(self) -> None:
        """The client has ended its side, or the connection is broken."""
        if self.running is not None:
            self.running.note_end()

    def written(self) -> None:
        """The client has taken something, or the connection is broken."""
        if self.running is not None:
            self.running.written()

    def expire(self, now: float) -> None:
        """The deadline has passed: :attr:`due`, or that of unsent bytes."""
        if self.running is not None:
            self.running.expire(now)
