"""Which workers are late, and which take too much memory or too many descriptors."""

from collections.abc import Callable, Iterable
from math import inf
from typing import Final

from ..logger import logger
from ..system.usage import NO_LIMITS, Usage, in_words
from .record import READY, STARTING, TO_REPLACE, Worker

BETWEEN_SAMPLES: Final = 2.0
"""Seconds between two samples of the usage of workers. One sample may meet a peak; two in a row are no accident."""


class Watch:
    """Kills workers whose deadline has passed, and marks workers that are over ``limits`` for replacement.

    ``boot_timeout`` is the time until a worker must be ready, ``worker_timeout`` the longest time between two of its
    heartbeats, in seconds. Without a limit no sample is taken.
    """

    def __init__(
        self, clock: Callable[[], float], *, boot_timeout: float, worker_timeout: float, limits: Usage = NO_LIMITS
    ) -> None:
        self._clock = clock
        self._boot_timeout = boot_timeout
        self._worker_timeout = worker_timeout
        self._limits = limits
        self._next_sample = -inf

    def expect_heartbeats(self, worker: Worker) -> None:
        """Set the deadline of a worker that serves. Without a scoreboard there are no heartbeats to wait for."""
        worker.deadline = inf if worker.process.beat() is None else self._clock() + self._worker_timeout

    def excuse(self, worker: Worker, seconds: float) -> None:
        """The parent, or the whole server, was paused for ``seconds``. The worker gets that time in addition.

        For a worker that hangs since then, only the time after the pause counts.
        """
        worker.deadline += seconds
        last = max(worker.process.beat() or -inf, worker.excused_until)
        worker.excused_until = min(self._clock(), last + seconds)

    def check_deadlines(self, workers: Iterable[Worker]) -> None:
        """Kill each worker that is late."""
        now = self._clock()
        for worker in workers:
            if worker.deadline <= now and (reason := self._lateness(worker, now)):
                logger.error("worker %d killed: %s", worker.process.pid, reason)
                worker.deadline = inf
                worker.process.kill()

    def _lateness(self, worker: Worker, now: float) -> str:
        """Why a worker whose deadline has passed is late; empty if it is not, and then it has a new deadline."""
        if worker.state is STARTING:
            return f"not ready in {self._boot_timeout:g} s"
        if worker.state is not READY:
            return "it did not end in time"
        beat, limit = worker.process.beat(), self._worker_timeout
        if beat is not None:
            beat = max(beat, worker.excused_until)
        if beat is not None and now - beat >= limit and worker.process.uses_processor():
            limit *= 2  # it computes, or the machine is slow; but an endless loop uses the processor, too
        if beat is None or now - beat < limit:
            worker.deadline = inf if beat is None else beat + limit
            return ""
        return f"no heartbeat for {now - beat:.0f} s"

    def check_usage(self, workers: Iterable[Worker]) -> None:
        """Take a sample, if it is time. A worker over its limit in two samples in a row is marked for replacement."""
        now = self._clock()
        watched = self._watched(workers)
        if not watched or now < self._next_sample:
            return
        self._next_sample = now + BETWEEN_SAMPLES
        for worker in watched:
            excess = in_words(worker.process.usage(), self._limits)
            if excess and worker.is_over_limit:
                logger.error("replacing worker %d: it has %s", worker.process.pid, excess)
                worker.generation = TO_REPLACE
            worker.is_over_limit = bool(excess)

    def due(self, workers: Iterable[Worker]) -> float:
        """When the next sample is to be taken; ``inf`` for never."""
        return self._next_sample if self._watched(workers) else inf

    def _watched(self, workers: Iterable[Worker]) -> list[Worker]:
        """The workers whose memory or descriptors matter."""
        if self._limits == NO_LIMITS:
            return []
        return [worker for worker in workers if worker.state is READY and worker.generation != TO_REPLACE]
