"""One worker as the parent's decisions see it: its state, its generation, its deadline."""

from math import inf
from typing import Any, Final, Protocol

from ..system.usage import Usage

STARTING: Final = "starting"
READY: Final = "ready"
DRAINING: Final = "draining"

TO_REPLACE: Final = -1
"""The generation of a worker that is to be replaced, whatever the current generation is."""

KILL_AFTER: Final = 4.0
"""Seconds beyond its own time limit that a worker has to end before it is killed."""

LAST_WORDS: Final = 1.0
"""Seconds beyond the boot timeout in which a worker that is not ready reports where it hangs."""

SETTLED: Final = 1.0
"""Seconds that a worker has to be ready to be replaced at once when it dies. Without this limit, workers that die at
once would be started as fast as the machine can."""


class Process(Protocol):
    """The methods of a worker that the roster calls; see :class:`zibai.supervise.child.Child`."""

    @property
    def pid(self) -> int: ...
    def announce_drain(self) -> None: ...
    def drain(self, replacement: Any = None) -> None: ...
    def quit(self) -> None: ...
    def kill(self) -> None: ...
    def beat(self) -> float | None: ...
    def uses_processor(self) -> bool: ...
    def usage(self) -> Usage: ...


class Worker:
    """A worker: STARTING, then READY, then DRAINING, until it is gone."""

    def __init__(self, process: Any, generation: int, started: float, deadline: float) -> None:
        self.process: Any = process
        self.started = started
        self.ready_since = started
        self.generation = generation
        self.state = STARTING
        self.deadline = deadline  # when it must be ready, or send a heartbeat, or be gone
        self.failed = False  # whether it has said that it cannot serve, or only a page that shows why
        self.was_ready = False  # whether it has served
        self.told = ""  # "drain" or "quit", once it has been told to end
        self.excused_until = -inf  # heartbeats that are missing before this time do not count: the parent was paused
        self.is_over_limit = False  # whether the last sample was over a limit

    @property
    def is_active(self) -> bool:
        """Whether it has not been told to end."""
        return self.state is not DRAINING

    def __repr__(self) -> str:
        return f"<worker {self.process.pid}, {self.state}, generation {self.generation}>"
