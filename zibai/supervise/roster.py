"""What the parent decides: how many workers, which next, who is late.

Facts come in (a worker is ready, has failed, has gone; somebody wants a restart, one worker more, the end); each only
changes a fact. :meth:`Roster.tick` compares the facts with what is wanted and does the next steps, so the order
in which things happened does not matter, and two that happen at once are not a special case. It waits for nothing,
knows no process, signal or clock but those it is given, and says when it wants to be called again.

A worker is STARTING, READY, DRAINING, then gone. It belongs to a generation; a restart is nothing but a new
generation. A worker of an old one is replaced: one starts, and when it is ready, one of the old drains. So there is
never a moment without workers, and if the new code does not come up, the old ones have not been touched.

With ``eager``, for development, the old ones begin to drain as soon as the new ones start. They finish what they
have, and what comes meanwhile waits for the new code, which comes up in any case: if only to show why it cannot.

A graceful end may have a time before it, ``lame_time``, in which the server is a *lame duck*: all goes on as before,
but each answer says close, and load balancers are told to look elsewhere. A second wish for the end cuts it short.
"""

import logging
from collections.abc import Callable
from math import inf
from typing import Any, Final, Protocol

from ..logger import logger
from ..system.usage import NO_LIMITS, Usage, in_words
from .child import Ending

STARTING: Final = "starting"
READY: Final = "ready"
DRAINING: Final = "draining"

LAST_WORDS: Final = 1.0
"""Seconds beyond the boot timeout, in which a worker that is not ready says where it stands."""

PATIENCE: Final = 4.0
"""Seconds beyond its own time limit that a worker has to end before it is killed."""

LONGEST_PAUSE: Final = 30.0
"""Seconds between two tries to start a worker that dies before it is ready; they begin with one and double."""

SETTLED: Final = 1.0
"""Seconds that a worker has to be ready to be replaced at once when it dies; else it might be started in a storm."""

BETWEEN_SAMPLES: Final = 2.0
"""Seconds between two looks at what the workers take. One look may meet a peak; two in a row are a habit."""


class Process(Protocol):
    """What the roster does with a worker; see :class:`zibai.supervise.child.Child`."""

    @property
    def pid(self) -> int: ...
    def lame(self) -> None: ...
    def drain(self, heir: Any = None) -> None: ...
    def quit(self) -> None: ...
    def kill(self) -> None: ...
    def beat(self) -> float | None: ...
    def burns(self) -> bool: ...
    def usage(self) -> Usage: ...


class Worker:
    """A worker as the parent sees it."""

    def __init__(self, process: Any, generation: int, started: float, deadline: float) -> None:
        self.process: Any = process
        self.started = started
        self.ready_since = started
        self.generation = generation
        self.state = STARTING
        self.deadline = deadline  # when it must be ready, or have beaten again, or be gone
        self.failed = False  # whether it has said that it cannot serve
        self.was_ready = False  # whether it has served
        self.told = ""  # "drain" or "quit", once it is to end
        self.excused_until = -inf  # until then nothing was to be heard of it, since the parent was away as well
        self.is_over = False  # whether it took more than it may when it was last looked at

    @property
    def is_active(self) -> bool:
        return self.state is not DRAINING


class Roster:
    """Keeps ``wanted`` workers serving. ``spawn`` starts one, and raises OSError when the system has no room.

    ``graceful_timeout`` is what the workers themselves take for a graceful exit, ``boot_timeout`` the time until one
    must be ready, ``worker_timeout`` the time between two of its beats, in seconds; ``inf`` is for ever. ``lame_time``
    says, when the end is asked for, how many there are before a graceful one. One that is ready for less than
    ``settle`` seconds is replaced after a pause, as if it had never been. One that takes more than ``limits``, in two
    samples, is replaced; nothing is looked at without a limit. After ``finished`` the server ends;
    ``failure`` says then that it has never come up. Everything is the caller's one thread's.
    """

    def __init__(
        self,
        spawn: Callable[[], Process],
        wanted: int,
        clock: Callable[[], float],
        *,
        graceful_timeout: float = 10.0,
        boot_timeout: float = 60.0,
        worker_timeout: float = inf,
        lame_time: Callable[[], float] = lambda: 0.0,
        settle: float = 0.0,
        limits: Usage = NO_LIMITS,
        eager: bool = False,
    ) -> None:
        self._spawn = spawn
        self._clock = clock
        self._graceful_timeout = graceful_timeout
        self._boot_timeout = boot_timeout
        self._worker_timeout = worker_timeout
        self._lame_time = lame_time
        self._settle = settle
        self._limits = limits
        self._next_sample = -inf
        self._eager = eager
        self.wanted = wanted
        self.workers: list[Worker] = []
        self.generation = 0
        self.finished = False
        self.failure = False
        self._ending = ""  # "drain" or "quit"
        self._lame_until = inf  # finite for a lame duck
        self.was_up = False  # whether there has ever been a ready worker
        self._pause = 0.0
        self._spawn_after = -inf

    # Facts.

    def find(self, process: Process) -> Worker:
        return next(worker for worker in self.workers if worker.process is process)

    def on_ready(self, worker: Worker) -> None:
        """It serves."""
        worker.was_ready = True
        if worker.state is DRAINING and worker.told == "drain":
            # It was told to end while it started, and was ready first: now it may finish what it has begun.
            worker.deadline = self._clock() + self._graceful_timeout + PATIENCE
        if worker.state is STARTING:
            worker.state = READY
            worker.ready_since = self._clock()
            # Without a scoreboard there are no beats to wait for.
            worker.deadline = inf if worker.process.beat() is None else self._clock() + self._worker_timeout
            self.was_up = True
            if not self._settle:
                self._pause = 0.0

    def on_beats(self, worker: Worker) -> None:
        """It has beaten for the first time, after it was ready: from now on it has to."""
        if worker.state is READY:
            worker.deadline = self._clock() + self._worker_timeout

    def on_worn(self, worker: Worker) -> None:
        """It has served as many requests as it may."""
        worker.generation = -1

    def on_stuck(self, worker: Worker) -> None:
        """It has a request that runs longer than it may. Its other requests may finish once another worker is ready."""
        logger.error("worker %d is replaced, for a request that runs longer than --request-timeout", worker.process.pid)
        worker.generation = -1

    def on_failed(self, worker: Worker) -> None:
        """It has said why it cannot serve; its process ends by itself."""
        worker.failed = True

    def on_gone(self, worker: Worker, ending: Ending) -> None:
        """Its process has ended."""
        self.workers.remove(worker)
        if self._ending == "quit":
            return
        if worker.state is DRAINING or self._ending:
            if not ending.clean and not worker.failed:
                logger.error("worker %d %s while it drained%s", worker.process.pid, ending.reason, ending.story)
        elif worker.state is STARTING:
            self._not_ready(worker, ending.reason)
        else:
            pause = ""
            if self._clock() - worker.ready_since < self._settle:
                self._hold_back()
                pause = f" in {self._pause:g} s"
            level = logging.INFO if ending.clean else logging.ERROR
            text = "worker %d %s; starting another%s%s"
            logger.log(level, text, worker.process.pid, ending.reason, pause, ending.story)

    def _not_ready(self, worker: Worker, reason: str) -> None:
        """It ended, or stood still, before it was ready."""
        if not worker.failed:
            logger.error("worker %d %s before it was ready", worker.process.pid, reason)
        if not self.was_up:
            self.failure = True
            self.end("quit")
            return
        if any(other.generation not in (-1, self.generation) for other in self.workers if other.is_active):
            logger.error("the restart is given up; the workers of before serve on")
            for other in self.workers:
                if other.generation != -1:
                    other.generation = self.generation
        self._hold_back()

    def _hold_back(self) -> None:
        """Start nobody for a while, which is longer each time; what failed together, or long ago, counts once."""
        now = self._clock()
        if self._spawn_after <= now:
            long_ago = now - self._spawn_after > LONGEST_PAUSE + self._boot_timeout
            self._pause = 1.0 if long_ago else min(LONGEST_PAUSE, self._pause * 2 or 1.0)
            self._spawn_after = now + self._pause

    @property
    def is_up(self) -> bool:
        """Whether all that are wanted are ready."""
        return sum(worker.state is READY for worker in self.workers) >= self.wanted

    @property
    def is_ending(self) -> bool:
        """Whether no worker is started any more."""
        return bool(self._ending)

    @property
    def is_lame(self) -> bool:
        """Whether the end has been asked for, and has not begun."""
        return self._lame_until < inf and not self._ending

    @property
    def condition(self) -> str:
        """In one word, what a load balancer is told: it sends requests here while that is "ready"."""
        if self._ending or self.is_lame:
            return DRAINING
        if any(worker.state is READY for worker in self.workers):
            return READY
        return "down" if self.was_up else STARTING

    def on_pause(self, seconds: float) -> None:
        """This process itself has not run for so long: the machine, or all of the server, may have been stopped.

        Each worker gets that time in addition. A worker that has hung since is judged by the rest.
        """
        now = self._clock()
        for worker in self.workers:
            worker.deadline += seconds
            last = max(worker.process.beat() or -inf, worker.excused_until)
            worker.excused_until = min(now, last + seconds)

    # Wishes.

    def restart(self) -> None:
        """Replace every worker, one after the other; not any more when the end has been asked for."""
        if self._ending or self.is_lame:
            return
        self.generation += 1
        self._spawn_after = -inf
        if self.is_up:
            for worker in self.workers:
                if worker.state is STARTING:
                    self._stop(worker, "quit")  # a replacement whose code is old already

    def change_wanted(self, by: int) -> None:
        """One worker more, or one fewer; never below one."""
        self.wanted = max(1, self.wanted + by)
        logger.info("workers wanted: %d", self.wanted)

    def change_wanted_to(self, number: int) -> None:
        """So many workers."""
        self.change_wanted(number - self.wanted)

    def end(self, how: str) -> None:
        """End all workers: "drain" or "quit"; the second goes over the first.

        With ``lame_time``, "drain" makes a lame duck of a server that has been up; when that time is over, or at the
        second wish, it begins.
        """
        if self._ending in {how, "quit"}:
            return
        lame_time = 0.0 if self.is_lame or not self.was_up else self._lame_time()
        if how == "drain" and lame_time:
            self._lame_until = self._clock() + lame_time
            logger.info("every answer says close; the graceful exit begins in %g s", lame_time)
            for worker in self.workers:
                worker.process.lame()
            return
        self._ending = how
        for worker in self.workers:
            self._stop(worker, how)

    # Decisions.

    def tick(self) -> float | None:
        """Do what is to be done now; return the seconds until it is time again, None for never."""
        now = self._clock()
        for worker in self.workers:
            if worker.deadline <= now:
                self._judge(worker, now)
        if self.is_lame and now >= self._lame_until:
            self.end("drain")
        if self._ending:
            self.finished = not self.workers
        else:
            self._weigh(now)
            self._trim()
            self._fill(now)
        due = min((worker.deadline for worker in self.workers), default=inf)
        if self._watched():
            due = min(due, self._next_sample)
        if self._spawn_after > now and not self._ending:
            due = min(due, self._spawn_after)
        if self.is_lame:
            due = min(due, self._lame_until)
        return None if due == inf else max(0.0, due - self._clock())

    def _judge(self, worker: Worker, now: float) -> None:
        """Its deadline has passed."""
        if worker.state is READY:
            beat, limit = worker.process.beat(), self._worker_timeout
            if beat is not None:
                beat = max(beat, worker.excused_until)
            if beat is not None and now - beat >= limit and worker.process.burns():
                limit *= 2  # it works, or the machine is slow; but a loop that turns in vain works, too
            if beat is None or now - beat < limit:
                worker.deadline = inf if beat is None else beat + limit
                return
            logger.error("worker %d has stood still for %.0f s and is killed", worker.process.pid, now - beat)
        elif worker.state is STARTING:
            logger.error("worker %d was not ready in %g s and is killed", worker.process.pid, self._boot_timeout)
        else:
            logger.error("worker %d did not end in time and is killed", worker.process.pid)
        worker.deadline = inf
        worker.process.kill()

    def _watched(self) -> list[Worker]:
        """The workers whose memory or descriptors matter."""
        if self._limits == NO_LIMITS or self._ending:
            return []
        return [worker for worker in self.workers if worker.state is READY and worker.generation != -1]

    def _weigh(self, now: float) -> None:
        """Take a sample of what the workers take. Who took too much before, too, is of yesterday."""
        watched = self._watched()
        if not watched or now < self._next_sample:
            return
        self._next_sample = now + BETWEEN_SAMPLES
        for worker in watched:
            excess = in_words(worker.process.usage(), self._limits)
            if excess and worker.is_over:
                logger.error("worker %d is replaced: it has %s", worker.process.pid, excess)
                worker.generation = -1
            worker.is_over = bool(excess)

    def _trim(self) -> None:
        """Drain the workers that are too many: those of an old generation first, then the oldest.

        One that is starting does not count as serving, so nobody drains before his replacement is ready.
        """
        ready = [worker for worker in self.workers if worker.state is READY]
        ready.sort(key=lambda worker: worker.generation == self.generation)
        for worker in ready[: max(0, len(ready) - self.wanted)]:
            self._stop(worker, "drain", ready[-1])

    def _fill(self, now: float) -> None:
        """Start what is missing at once, and a replacement for an old worker while no other one starts."""
        if now < self._spawn_after:
            return
        active = [worker for worker in self.workers if worker.is_active]
        missing = self.wanted - len(active)
        # One that never served and has been told to end counts, or each of a hundred restarts would start a worker.
        young = any(worker.state is DRAINING and not worker.was_ready for worker in self.workers)
        starting = young or any(worker.state is STARTING for worker in active)
        if missing <= 0 and not starting and any(worker.generation != self.generation for worker in active):
            missing = 1
        if self._eager and not young:
            missing = self.wanted - sum(worker.generation == self.generation for worker in active)
        for _ in range(missing):
            try:
                process = self._spawn()
            except OSError as error:
                logger.error("no worker can be started: %s", error)
                self._hold_back()
                return
            if self.is_lame:
                process.lame()
            self.workers.append(Worker(process, self.generation, now, now + self._boot_timeout + LAST_WORDS))
        if self._eager and missing > 0:
            heir = self.workers[-1]
            for worker in active:
                if worker.generation != self.generation:
                    self._stop(worker, "drain", heir)

    def _stop(self, worker: Worker, how: str, heir: Worker | None = None) -> None:
        """Tell a worker to end; ``heir`` is one that takes over its idle connections.

        A worker that is starting has nothing to finish, so it ends at once in any case.
        """
        finishes = how == "drain" and worker.was_ready
        worker.told = how
        worker.state = DRAINING
        worker.deadline = self._clock() + PATIENCE + (self._graceful_timeout if finishes else 0.0)
        if how == "drain":
            worker.process.drain(heir and heir.process)
        else:
            worker.process.quit()
