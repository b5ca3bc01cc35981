"""Which workers are old, which is replaced next, and the story of a restart, from "begun" to "done" or "aborted".

A worker belongs to a generation, and a restart is a new generation. Workers of an old generation are replaced one by
one: a new worker starts, and when it is ready, an old one drains. There is never a moment without workers, and if the
new code does not start, the old workers have not been touched.

With ``eager``, for development, the old workers begin to drain when the new ones start. They finish their requests, and
new requests wait for the new code, which serves in every case, if only a page that shows why it fails.

Every restart that has begun is told to be done or aborted, unless another restart or the end of the server begins
before that: a client may wait for it.
"""

from collections.abc import Callable, Sequence

from .events import Event, Kind
from .record import DRAINING, READY, STARTING, TO_REPLACE, Worker


class Generations:
    """The generation that workers should have, ``current``, and the restart that goes on, if one does.

    ``tell`` is called with each event of a restart. It decides and tells; :class:`~zibai.supervise.roster.Roster`,
    whose thread makes all calls, does the rest.
    """

    def __init__(self, clock: Callable[[], float], tell: Callable[[Event], object], *, eager: bool) -> None:
        self._clock = clock
        self._tell_event = tell
        self.eager = eager
        self.current = 0
        self._began: float | None = None  # while a restart goes on

    def is_old(self, worker: Worker) -> bool:
        """Whether it is to be replaced."""
        return worker.generation != self.current

    def missing(self, workers: Sequence[Worker], wanted: int) -> int:
        """How many to start: all that are missing, and a replacement for an old worker while no other one starts."""
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
        """The workers that are too many, the old ones first, then the oldest; each with one that stays, to replace it.

        A worker that is starting does not count, so no worker drains before its replacement is ready.
        """
        ready = [worker for worker in workers if worker.state is READY]
        ready.sort(key=lambda worker: not self.is_old(worker))
        return [(worker, ready[-1]) for worker in ready[: max(0, len(ready) - wanted)]]

    # The story of a restart.

    def begin(self, wanted: int, why: str) -> None:
        """A restart begins."""
        self.current += 1
        self._began = self._clock()
        number = f"{wanted} worker{'' if wanted == 1 else 's'}"
        self.tell("begun", f"restart begun{why and f' ({why})'}: new workers replace {number}")

    def look(self, workers: Sequence[Worker], wanted: int) -> None:
        """Tell when all wanted workers run the code of this generation. An old one that drains may still accept.

        With ``eager`` a worker whose code fails serves as well, a page that shows why. That restart is aborted.
        """
        if self._began is None:
            return
        new = [worker for worker in workers if worker.state is READY and not self.is_old(worker)]
        if len(new) >= wanted and not any(map(self.is_old, workers)):
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
            return  # it says nothing about the new code
        active = [worker for worker in workers if worker.is_active]
        if any(worker.generation not in (TO_REPLACE, self.current) for worker in active):
            what = "the new code does not start; the old workers keep serving"
        elif self._began is None:
            return
        elif any(worker.state is READY for worker in active):
            what = "a worker with the new code does not start; the other workers keep serving"
        else:
            what = f"the new code does not start, and no worker is ready; the next start is in {pause:g} s"
        self.forget()
        for worker in workers:
            if worker.generation != TO_REPLACE:
                worker.generation = self.current
        self.tell("aborted", f"restart aborted: {what}")

    def forget(self) -> None:
        """The restart does not go on: it is aborted, or the end of the server begins."""
        self._began = None

    def tell_replaced(self, old: Worker, new: Worker) -> None:
        """A worker drains; if it is an old one, tell which one replaces it."""
        if self.is_old(old):
            self.tell("replaced", f"worker {old.process.pid} is replaced by {new.process.pid}")

    def tell(self, kind: Kind, text: str) -> None:
        """Tell an event."""
        self._tell_event(Event(kind, text, self.current))
