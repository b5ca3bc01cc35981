"""Events of workers and restarts: they are logged and counted, and clients of the control channel wait for them.

The main thread of the parent makes them all. It also calls the subscribers, so these must not block.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING, Final, Literal, NamedTuple

from ..logger import logger

if TYPE_CHECKING:
    from ..telemetry.scoreboard import Rows, Scoreboard
    from ..telemetry.totals import Totals

Kind = Literal["waits", "begun", "replaced", "done", "aborted", "ending"]


class Event(NamedTuple):
    """A step of a restart or of the shutdown, in words.

    ``generation`` is that of the new workers. ``trace`` is the traceback of new code that cannot be loaded.
    """

    kind: Kind
    text: str
    generation: int
    trace: str = ""


Subscriber = Callable[[Event], object]

_LEVELS: Final = {"aborted": logger.error}


class Ledger:
    """Logs events, passes them on to subscribers, and counts them and the workers in the totals of ``board``.

    Only the main thread calls it.
    """

    def __init__(self, board: "Scoreboard | None") -> None:
        self._totals: Totals | None = None if board is None else board.totals
        self._subscribers: list[Subscriber] = []
        self.trace = ""  # of the last worker that could not serve, until a restart begins

    def subscribe(self, subscriber: Subscriber) -> None:
        """Call ``subscriber`` with each event from now on."""
        self._subscribers.append(subscriber)

    def unsubscribe(self, subscriber: Subscriber) -> None:
        """Do not call it any more. Idempotent."""
        if subscriber in self._subscribers:
            self._subscribers.remove(subscriber)

    def tell(self, event: Event) -> None:
        """An event of the roster."""
        if event.kind == "begun":
            self.trace = ""
        if event.kind == "aborted":
            event = event._replace(trace=self.trace)
        if event.kind in ("begun", "done", "aborted"):
            self._count(f"restarts_{event.kind}")
        _LEVELS.get(event.kind, logger.info)("%s", event.text)
        for subscriber in list(self._subscribers):
            subscriber(event)

    def started(self) -> None:
        """A worker was started."""
        self._count("worker_starts")

    def want(self, workers: int) -> None:
        """Note the number of workers that are wanted."""
        if self._totals is not None:
            self._totals.want(workers)

    def ended(self, row: "Rows | None", cause: str) -> None:
        """A worker has ended: keep its counters, and free its row."""
        self._count(f"ended_{cause}")
        if row is not None and self._totals is not None:
            with self._totals.retiring(row.read()):
                row.clear()

    def _count(self, name: str) -> None:
        if self._totals is not None:
            self._totals.count(name)

    def close(self) -> None:
        """The scoreboard is about to be closed."""
        self._totals = None
