"""How long a client may take: for its body, and for the response.

Two limits hold at the same time. Some bytes must move within ``socket_timeout``. And from :data:`RATE_AFTER` on, the
average rate so far must not be below the minimum rate.
"""

from typing import Final

from ..net.kernel import unsent
from ..net.listener import Socket

RATE_AFTER: Final = 10.0
"""Seconds that a client may take for a body, or a part of a response, at any rate. Then the minimum rate counts."""


def patience(timeout: float, rate: float, size: int, spent: float) -> float:
    """Seconds that the next byte may take, after ``size`` bytes in ``spent`` seconds. ``rate`` 0 is no minimum.

    That is the time until the average would fall below the minimum if no more bytes came. So nothing is measured.
    """
    return min(timeout, max(RATE_AFTER, size / rate) - spent) if rate else timeout


class Pace:
    """How fast a client takes its unsent bytes, from the moment when there are any.

    The kernel takes bytes in lumps, up to some MiB at a time. So at the ``deadline`` (by the loop's clock) the kernel
    is asked how much the client has really taken meanwhile. A :class:`~zibai.engine.sending.Sender` makes one, and the
    side that holds the lock of the sender uses it.
    """

    __slots__ = ("_backlog", "_given", "_rate", "_seen", "_since", "_sock", "_timeout", "deadline")

    def __init__(self, sock: Socket, timeout: float, rate: float, now: float) -> None:
        self._sock, self._timeout, self._rate = sock, timeout, rate
        self._since = now
        self._given = 0  # bytes that the kernel was given since then
        self._backlog = unsent(sock)  # bytes that the kernel had before
        self._seen = 0  # bytes of both that the client had taken at the last look
        self.deadline = now + timeout

    def __repr__(self) -> str:
        return f"<Pace: {self._seen} bytes taken since {self._since:.1f}, more until {self.deadline:.1f}>"

    def gave(self, size: int, now: float) -> None:
        """The kernel has taken so many bytes."""
        self._given += size
        self._seen = self._taken()
        self.deadline = now + self._patience(now, self._given)

    def is_too_slow(self, now: float) -> bool:
        """Whether the deadline has passed and the client has taken too little. If it has not, set a new deadline."""
        if now < self.deadline:
            return False  # the deadline was moved while the caller waited for the lock
        taken = self._taken()
        left = self._patience(now, taken)
        if taken <= self._seen or left <= 0:
            return True
        self._seen = taken
        self.deadline = now + left
        return False

    def _taken(self) -> int:
        """Bytes that the client has taken since something waits."""
        return self._backlog + self._given - unsent(self._sock)

    def _patience(self, now: float, taken: int) -> float:
        # A client that has taken nothing yet has no rate; it has the whole timeout.
        return patience(self._timeout, self._rate if taken > 0 else 0, taken, now - self._since)
