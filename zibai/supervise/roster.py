"""What the parent decides: how many workers run, which one starts or drains next, when the server has ended.

Facts come in: a worker is ready, has failed, has gone; the user asks for a restart, for one more worker, for the end.
Each of these calls only records a fact. :meth:`Roster.tick` compares the facts with the wanted state and takes the next
steps. So the order of events does not matter, and two events at once are not a special case. The roster waits for
nothing, uses only the processes, signals and clock that it is given, and says when it must be called again.
:mod:`zibai.supervise.watch` finds the workers that are late or too large, :mod:`zibai.supervise.generations` those that
a restart replaces.

With ``drain_delay`` a graceful shutdown is announced first. Until it begins the server works as before, but each
response says ``Connection: close`` and load balancers are told to look elsewhere. A second request for the end begins
the shutdown at once.
"""

import logging
from collections.abc import Callable
from math import inf

from ..logger import logger
from ..system.usage import NO_LIMITS, Usage
from .backoff import Backoff
from .child import Ending
from .events import Event
from .generations import Generations
from .record import DRAINING, KILL_AFTER, LAST_WORDS, READY, STARTING, TO_REPLACE, Process, Worker
from .watch import Watch


class Roster:
    """Keeps ``wanted`` workers serving. ``spawn`` starts one, and raises OSError when the system has no room.

    ``graceful_timeout`` is the time that workers themselves allow for a graceful shutdown. ``drain_delay`` tells, when
    the end is asked for, the seconds before a graceful one. A worker that was ready for less than ``settle`` seconds is
    replaced after a pause, like a worker that never was ready. ``boot_timeout``, ``worker_timeout`` and ``limits``:
    see :class:`~zibai.supervise.watch.Watch`; ``eager``: :mod:`zibai.supervise.generations`. ``tell`` is called with
    each event. All times are seconds; ``inf`` is no limit. When ``finished`` is set, all workers have ended;
    ``failure`` says then that the server has never come up. One thread makes all calls.
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
        drain_delay: Callable[[], float] = lambda: 0.0,
        settle: float = 0.0,
        limits: Usage = NO_LIMITS,
        eager: bool = False,
        tell: Callable[[Event], object] = lambda event: None,
    ) -> None:
        self._spawn = spawn
        self._clock = clock
        self._graceful_timeout = graceful_timeout
        self._boot_timeout = boot_timeout
        self._watch = Watch(clock, boot_timeout=boot_timeout, worker_timeout=worker_timeout, limits=limits)
        self._drain_delay = drain_delay
        self._settle = settle
        self._generations = Generations(clock, tell, eager=eager)
        self.wanted = wanted
        self.workers: list[Worker] = []
        self.finished = False
        self.failure = False
        self._ending = ""  # "drain" or "quit"
        self._drain_at = inf  # when an announced shutdown begins
        self.was_up = False  # whether a worker has ever been ready
        self._backoff = Backoff(clock, boot_timeout)

    def __repr__(self) -> str:
        return f"<Roster {self.condition}, {len(self.workers)} of {self.wanted} workers, generation {self.generation}>"

    # Facts.

    def find(self, process: Process) -> Worker:
        """The worker of a process."""
        return next(worker for worker in self.workers if worker.process is process)

    def on_ready(self, worker: Worker) -> None:
        """It serves."""
        worker.was_ready = True
        if worker.state is DRAINING and worker.told == "drain":
            # It was told to end while it started, and was ready first. Now it may finish its requests.
            worker.deadline = self._clock() + self._graceful_timeout + KILL_AFTER
        if worker.state is STARTING:
            worker.state = READY
            worker.ready_since = self._clock()
            self._watch.expect_heartbeats(worker)
            self._generations.note_start(worker.ready_since - worker.started)
            self.was_up = True
            if not self._settle:
                self._backoff.succeed()

    def on_heartbeats(self, worker: Worker) -> None:
        """It has sent its first heartbeat after it was ready, and must send more from now on."""
        if worker.state is READY:
            self._watch.expect_heartbeats(worker)

    def on_max_requests(self, worker: Worker) -> None:
        """It has served its maximum of requests."""
        worker.generation = TO_REPLACE

    def on_hung(self, worker: Worker) -> None:
        """One of its requests runs for too long. The others may finish, once another worker is ready."""
        logger.error("replacing worker %d: a request has run longer than --request-timeout", worker.process.pid)
        worker.generation = TO_REPLACE

    def on_failed(self, worker: Worker) -> None:
        """It has said why it cannot serve. Its process ends by itself, or serves a page with the error."""
        worker.failed = True

    def on_gone(self, worker: Worker, ending: Ending) -> None:
        """Its process has ended."""
        self.workers.remove(worker)
        if self._ending == "quit":
            return
        if worker.state is DRAINING or self._ending:
            if not ending.clean and not worker.failed:
                when = "while it drained" if worker.was_ready else "before it was ready"
                logger.error("worker %d %s %s%s", worker.process.pid, ending.reason, when, ending.story)
        elif worker.state is STARTING:
            self._not_ready(worker, ending.reason)
        else:
            pause = ""
            if self._clock() - worker.ready_since < self._settle:
                self._backoff.fail()
                pause = f" in {self._backoff.seconds:g} s"
            level = logging.INFO if ending.clean else logging.ERROR
            text = "worker %d %s; starting another%s%s"
            logger.log(level, text, worker.process.pid, ending.reason, pause, ending.story)

    def _not_ready(self, worker: Worker, reason: str) -> None:
        """It ended before it was ready."""
        if not worker.failed:
            logger.error("worker %d %s before it was ready", worker.process.pid, reason)
        if not self.was_up:
            self.failure = True
            self.end("quit")
            return
        self._backoff.fail()
        self._generations.fail(worker, self.workers, self._backoff.seconds)

    @property
    def generation(self) -> int:
        """The generation that workers should have."""
        return self._generations.current

    @property
    def is_up(self) -> bool:
        """Whether all wanted workers are ready."""
        return sum(worker.state is READY for worker in self.workers) >= self.wanted

    @property
    def is_ending(self) -> bool:
        """Whether the end has begun; no worker is started any more."""
        return bool(self._ending)

    @property
    def drain_announced(self) -> bool:
        """Whether a graceful shutdown is announced, and has not begun."""
        return self._drain_at < inf and not self._ending

    @property
    def condition(self) -> str:
        """The condition for load balancers, in one word: they send requests here while it is "ready"."""
        if self._ending or self.drain_announced:
            return DRAINING
        if any(worker.state is READY for worker in self.workers):
            return READY
        return "down" if self.was_up else STARTING

    def on_pause(self, seconds: float) -> None:
        """This process has not run for so long: the machine, or the whole server, may have been stopped."""
        for worker in self.workers:
            self._watch.excuse(worker, seconds)

    # Requests of the user.

    def restart(self, why: str = "") -> int | None:
        """Replace every worker, one after the other; ``why`` is for the log. Returns the generation of the new workers.

        It may wait for another one (:mod:`.generations`). Once the end has been asked for it does nothing; then None.
        """
        if self._ending or self.drain_announced:
            return None
        if not self._generations.ask(why):
            return self.generation + 1
        self._begin_restart(why)
        return self.generation

    def _begin_restart(self, why: str) -> None:
        self._generations.begin(self.wanted, why)
        self._backoff.end()
        if self.is_up:
            for worker in self.workers:
                if worker.state is STARTING:
                    # A replacement whose code is already old. It may have begun to serve just now, so it drains.
                    self._stop(worker, "drain")

    def change_wanted(self, by: int) -> None:
        """More workers, or fewer; never below one."""
        self.wanted = max(1, self.wanted + by)
        logger.info("workers wanted: %d", self.wanted)

    def change_wanted_to(self, number: int) -> None:
        """Exactly this number of workers."""
        self.change_wanted(number - self.wanted)

    def end(self, how: str, why: str = "") -> None:
        """End all workers: "drain" is graceful; "quit" is not, and overrides "drain". ``why`` is for the log.

        With ``drain_delay`` the first "drain" of a server that has been up is only announced. The shutdown begins when
        that time is over, or at the second call.
        """
        if self._ending in {how, "quit"}:
            return
        drain_delay = 0.0 if self.drain_announced or not self.was_up else self._drain_delay()
        if how == "drain" and drain_delay:
            self._drain_at = self._clock() + drain_delay
            self._generations.cancel()
            text = "graceful shutdown in %g s%s; until then each response says Connection: close"
            logger.info(text, drain_delay, why and f" ({why})")
            for worker in self.workers:
                worker.process.announce_drain()
            return
        self._ending = how
        self._generations.stop_restart()
        name = "graceful shutdown" if how == "drain" else "quick exit"
        if not self.failure:
            self._generations.tell("ending", f"{name} begun{why and f' ({why})'}")
        for worker in self.workers:
            self._stop(worker, how)

    # Decisions.

    def tick(self) -> float | None:
        """Take the next steps; return the seconds until the next call is due, None for never."""
        now = self._clock()
        self._watch.check_deadlines(self.workers)
        if self.drain_announced and now >= self._drain_at:
            self.end("drain")
        if self._ending:
            if self.was_up and not self.workers and not self.finished:
                logger.info("all workers have ended")
            self.finished = not self.workers
        else:
            self._watch.check_usage(self.workers)
            for worker, replacement in self._generations.surplus(self.workers, self.wanted):
                self._replace(worker, replacement)
            self._generations.look(self.workers, self.wanted)
            if (why := self._generations.waiting(self.workers)) is not None:
                self._begin_restart(why)
            self._start_missing(now)
        due = min((worker.deadline for worker in self.workers), default=inf)
        if not self._ending:
            others = (self._watch.due(self.workers), self._backoff.due(), self._generations.due(self.workers))
            due = min(due, *others)
        if self.drain_announced:
            due = min(due, self._drain_at)
        return None if due == inf else max(0.0, due - self._clock())

    def _start_missing(self, now: float) -> None:
        """Start the workers that are missing, all at once, unless starts have failed a moment ago."""
        if now < self._backoff.until:
            return
        active = [worker for worker in self.workers if worker.is_active]
        missing = self._generations.missing(self.workers, self.wanted)
        for _ in range(missing):
            try:
                process = self._spawn()
            except OSError as error:
                self._backoff.fail()
                logger.error("cannot start a worker: %s; next try in %g s", error, self._backoff.seconds)
                return
            if self.drain_announced:
                process.announce_drain()
            self.workers.append(Worker(process, self.generation, now, now + self._boot_timeout + LAST_WORDS))
        if self._generations.eager and missing > 0:
            for worker in filter(self._generations.is_old, active):
                self._replace(worker, self.workers[-1])

    def _replace(self, worker: Worker, replacement: Worker) -> None:
        self._generations.tell_replaced(worker, replacement)
        self._stop(worker, "drain", replacement)

    def _stop(self, worker: Worker, how: str, replacement: Worker | None = None) -> None:
        """Tell a worker to end; ``replacement`` takes over its idle connections.

        A worker that is starting has nothing to finish, so it ends at once either way.
        """
        finishes = how == "drain" and worker.was_ready
        worker.told = how
        worker.state = DRAINING
        worker.deadline = self._clock() + KILL_AFTER + (self._graceful_timeout if finishes else 0.0)
        if how == "drain":
            worker.process.drain(replacement and replacement.process)
        else:
            worker.process.quit()
