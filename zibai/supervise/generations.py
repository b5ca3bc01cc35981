"""Which workers are old, which is replaced next, and the course of a restart, from "begun" to "done" or "aborted".

A worker belongs to a generation, and a restart is a new generation. Workers of an old generation are replaced one by
one: a new worker starts, and when it is ready, an old one drains. There is never a moment without workers, and if the
new code does not start, the old workers have not been touched.

With ``eager``, for development, the old workers begin to drain when the new ones start. They finish their requests, and
new requests wait for the new code. It serves in every case: if it fails, it serves a page with the error.

A restart that is asked for while another one goes on makes the code of that one old. So it begins at once, and the
worker that is starting is not needed any more. But if restarts were asked for faster than a worker starts, no worker
would ever be ready. So a restart is begun anew only once. All requests after that are joined to one restart, which
waits until the restart before it is over, or goes on only because old workers still drain, or until a worker takes so
long to start that it seems to hang.

Each restart that has begun ends with the event "done" or "aborted", since a client may wait for it. The exception: if
another restart or the end of the server begins before that.
"""

from collections.abc import Callable, Sequence
from math import inf
from typing import Final

from .events import Event, Kind
from .record import DRAINING, READY, STARTING, TO_REPLACE, Worker

DRAINS: Final = 1.0
"""Seconds that old workers get, when all new ones are ready, before a waiting restart begins. Most end within that
time, and then the first restart is reported as done."""


class Generations:
    """The generation that workers should have, ``current``, and the restart that goes on, if one does.

    ``tell`` is called with each event of a restart. This object decides and reports;
    :class:`~zibai.supervise.roster.Roster`, whose thread makes all calls, acts.
    """

    def __init__(self, clock: Callable[[], float], tell: Callable[[Event], object], *, eager: bool) -> None:
        self._clock = clock
        self._tell_event = tell
        self.eager = eager
        self.current = 0
        self._began: float | None = None  # while a restart goes on
        self._is_renewed = False  # whether it has been begun anew
        self._complete = inf  # since when all its workers are ready
        self._next: str | None = None  # the reason of the restart that waits, if there is one
        self._longest = 0.0  # the longest time, in seconds, that a worker has taken to be ready

    def is_old(self, worker: Worker) -> bool:
        """Whether it is to be replaced."""
        return worker.generation != self.current

    def missing(self, workers: Sequence[Worker], wanted: int) -> int:
        """How many workers to start: all missing ones, and a replacement for an old one while no other starts."""
        active = [worker for worker in workers if worker.is_active]
        missing = wanted - len(active)
        # A worker that was told to end before it served counts, or each of a hundred restarts would start a worker.
        leaving = any(worker.state is DRAINING and not worker.was_ready for worker in workers)
        starting = leaving or any(worker.state is STARTING for worker in active)
        if missing <= 0 and not starting and any(map(self.is_old, active)):
            missing = 1
        if self.eager and not leaving:
            missing = wanted - sum(not self.is_old(worker) for worker in active)
        return missing

    def surplus(self, workers: Sequence[Worker], wanted: int) -> list[tuple[Worker, Worker]]:
        """The workers that are too many, the old ones first, then the oldest. Each comes with the worker that replaces
        it.

        A worker that is starting does not count, so no worker drains before its replacement is ready.
        """
        ready = [worker for worker in workers if worker.state is READY]
        ready.sort(key=lambda worker: not self.is_old(worker))
        return [(worker, ready[-1]) for worker in ready[: max(0, len(ready) - wanted)]]

    def note_start(self, seconds: float) -> None:
        """Note the seconds that a worker has taken to be ready."""
        self._longest = max(self._longest, seconds)

    # When a restart begins.

    def ask(self, why: str) -> bool:
        """Whether a restart that is asked for now may begin at once. Otherwise it waits for :meth:`waiting`."""
        if self._began is None or not self._is_renewed:
            return True
        if self._next is None:
            self.tell("waits", f"restart asked for{_because(why)}: it begins when the one that goes on is over")
            self._next = why
        return False

    def waiting(self, workers: Sequence[Worker]) -> str | None:
        """The reason of the waiting restart, if it must begin now."""
        now = self._clock()
        if self.due(workers) > now:
            return None
        # The new code may only start more slowly: a worker that is ended now has more time at its next try.
        self._longest = max(self._longest, *(now - each.started for each in workers if each.state is STARTING), 0.0)
        return self._next

    def cancel(self) -> None:
        """The waiting restart does not begin: the end of the server is announced."""
        self._next = None

    def due(self, workers: Sequence[Worker]) -> float:
        """When the waiting restart begins at the latest, as far as is known; ``inf`` if none waits."""
        if self._next is None:
            return inf
        if self._began is None:
            return -inf
        hangs = [worker.started + 2 * self._longest + 1 for worker in workers if worker.state is STARTING]
        return min(self._complete + DRAINS, *hangs, inf)

    # The course of a restart.

    def begin(self, wanted: int, why: str) -> None:
        """A restart begins."""
        self.current += 1
        # A restart whose workers are all ready is complete, and not begun anew.
        self._is_renewed = self._began is not None and self._complete == inf and self._next is None
        self._complete, self._next = inf, None
        self._began = self._clock()
        number = f"{wanted} worker{'' if wanted == 1 else 's'}"
        self.tell("begun", f"restart begun{_because(why)}: new workers replace {number}")

    def look(self, workers: Sequence[Worker], wanted: int) -> None:
        """Report when all wanted workers run the code of this generation. An old one that drains may still accept.

        With ``eager`` a worker whose code fails serves a page with the error. Then the restart is reported as aborted.
        """
        if self._began is None:
            return
        new = [worker for worker in workers if worker.state is READY and not self.is_old(worker)]
        if len(new) < wanted:
            self._complete = inf
            return
        self._complete = min(self._complete, self._clock())
        if not any(map(self.is_old, workers)):
            duration, self._began = self._clock() - self._began, None
            if any(worker.failed for worker in new):
                self.tell("aborted", "restart aborted: the new code does not start; each request gets the traceback")
            else:
                self.tell("done", f"restart done after {duration:.1f} s: all workers run the new code")

    def fail(self, failed: Worker, workers: Sequence[Worker], pause: float) -> None:
        """A worker has ended before it was ready; the next start is in ``pause`` seconds.

        It aborts the restart. Old workers stay, and belong to this generation from now on. There may be none: all may
        have died, or ``eager`` has told them to drain.
        """
        if self.is_old(failed):
            return  # its end says nothing about the new code
        active = [worker for worker in workers if worker.is_active]
        if any(worker.generation not in (TO_REPLACE, self.current) for worker in active):
            what = "the new code does not start; the old workers keep serving"
        elif self._began is None:
            return
        elif any(worker.state is READY for worker in active):
            what = "a worker with the new code does not start; the other workers keep serving"
        else:
            what = f"the new code does not start, and no worker is ready; the next start is in {pause:g} s"
        self.stop_restart()
        for worker in workers:
            if worker.generation != TO_REPLACE:
                worker.generation = self.current
        self.tell("aborted", f"restart aborted: {what}")

    def stop_restart(self) -> None:
        """The restart does not go on: it is aborted, or the end of the server begins."""
        self._began = None

    def tell_replaced(self, old: Worker, new: Worker) -> None:
        """A worker drains; if it is an old one, tell which one replaces it."""
        if self.is_old(old):
            self.tell("replaced", f"worker {old.process.pid} is replaced by {new.process.pid}")

    def tell(self, kind: Kind, text: str) -> None:
        """Tell an event."""
        self._tell_event(Event(kind, text, self.current))


def _because(why: str) -> str:
    return f" ({why})" if why else ""
