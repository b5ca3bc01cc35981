"""Time in which this process did not run, which no time limit may count.

A container may be paused, a laptop closed, a process stopped. The clock goes on meanwhile. The system does not tell
when a pause began, so all the time since the last look at the clock is taken for it.
"""

from collections.abc import Callable
from math import inf
from typing import Any, Final

from ..clock import clock

LONGEST_STEP: Final = 2.0
"""Seconds to wait at most before the next look at the clock, while a time limit runs."""

BUSY_DELAY: Final = 1.0
"""Seconds that a process may run late on a busy machine before it counts as paused for that time."""


def wait_in_step(wait: Callable[..., list[Any]], sources: list[Any], timeout: float | None) -> tuple[list[Any], float]:
    """Wait for at most ``LONGEST_STEP`` of ``timeout`` seconds.

    Returns the sources that are ready, and the seconds that this process was paused.
    """
    if timeout is None:
        return wait(sources, None), 0.0
    step = min(timeout, LONGEST_STEP)
    before = clock()
    ready = wait(sources, step)
    taken = clock() - before
    return ready, taken if taken > step + BUSY_DELAY else 0.0


class Pauses:
    """Notices pauses of a loop that looks at the clock before and after each wait."""

    def __init__(self) -> None:
        self._seen = clock()
        self._expected = inf  # when the loop means to be back

    def look(self, timeout: float | None = 0.0) -> float:
        """The seconds of a pause since the last look, or 0. The loop means to be back in ``timeout`` seconds."""
        now = clock()
        paused = now - self._seen if now - self._expected > BUSY_DELAY else 0.0
        self._seen = now
        self._expected = inf if timeout is None else now + timeout
        return paused
