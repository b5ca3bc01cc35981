"""The condition of the parent: its main loop writes it, and the health checks read it, even if the main loop hangs."""

from math import inf
from typing import Final

from ..clock import clock
from .record import READY

STALL: Final = 5.0
"""Seconds that one turn of the main loop may take, or be late, before it counts as hung; a spawn takes 10 ms."""


class Pulse:
    """The state of the main loop. The main thread writes, other threads read.

    Each attribute is one value, set in one step, and no two of them have to agree. So there is no lock.
    """

    def __init__(self) -> None:
        self._condition = "starting"
        self._expected = clock()  # when the main loop must be back

    def finds(self, condition: str) -> None:
        """Note the condition of the roster."""
        self._condition = condition

    def waits(self, timeout: float | None) -> None:
        """The main loop begins to wait, for at most ``timeout`` seconds; None is no limit."""
        self._expected = inf if timeout is None else clock() + timeout

    def wakes(self) -> None:
        """The main loop has something to do."""
        self._expected = clock()

    @property
    def live(self) -> str:
        """The response to /livez: "ok" or the reason why not."""
        return "ok" if clock() < self._expected + STALL else "stalled"

    @property
    def ready(self) -> str:
        """The response to /readyz."""
        return "ok" if self._condition == READY else self._condition
