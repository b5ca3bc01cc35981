"""How the parent is, said by its main loop for who has to tell others while it may hang; see
:mod:`zibai.server.probes`."""

from math import inf
from typing import Final

from ..clock import clock
from .record import READY

STALL: Final = 5.0
"""Seconds that one round of the main loop may take, or be late, before it counts as dead; a spawn takes 10 ms."""


class Pulse:
    """What the main loop says of itself. The main thread writes, any other reads.

    Each attribute is one value that is set at once, and no two of them have to agree, so there is no lock.
    """

    def __init__(self) -> None:
        self._condition = "starting"
        self._expected = clock()  # when the main loop has to be seen again

    def finds(self, condition: str) -> None:
        """What it has found out about the workers."""
        self._condition = condition

    def waits(self, timeout: float | None) -> None:
        """It has done everything and goes to wait, for so long if nothing happens; None is for ever."""
        self._expected = inf if timeout is None else clock() + timeout

    def wakes(self) -> None:
        """It has something to do."""
        self._expected = clock()

    @property
    def live(self) -> str:
        """What /livez answers: "ok" or what is wrong."""
        return "ok" if clock() < self._expected + STALL else "stalled"

    @property
    def ready(self) -> str:
        """What /readyz answers."""
        return "ok" if self._condition == READY else self._condition
