"""The pause before the next start of a worker, after workers that died before they were ready."""

from collections.abc import Callable
from math import inf
from typing import Final

LONGEST_PAUSE: Final = 30.0
"""Seconds of the longest pause; pauses begin with one second and double."""


class Backoff:
    """Until the time ``until`` no worker may be started; the last pause has ``seconds``.

    Failures that are more than ``memory`` seconds older than the longest pause do not count any more.
    """

    def __init__(self, clock: Callable[[], float], memory: float) -> None:
        self._clock = clock
        self._memory = memory
        self.seconds = 0.0
        self.until = -inf

    def fail(self) -> None:
        """Begin a pause, longer than the last one. Failures during a pause count as one."""
        now = self._clock()
        if self.until <= now:
            long_ago = now - self.until > LONGEST_PAUSE + self._memory
            self.seconds = 1.0 if long_ago else min(LONGEST_PAUSE, self.seconds * 2 or 1.0)
            self.until = now + self.seconds

    def succeed(self) -> None:
        """A worker serves: the next pause is a short one."""
        self.seconds = 0.0

    def due(self) -> float:
        """When the pause is over; ``inf`` without one."""
        return self.until if self.until > self._clock() else inf

    def end(self) -> None:
        """End the pause."""
        self.until = -inf
