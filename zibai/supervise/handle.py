"""The methods by which programs and people use a parent's main loop while it runs, from any thread.

Their requests are queued for the loop. Values are read from the scoreboard, or from the loop's list of workers, and may
be a moment old.
"""

import os
from collections.abc import Callable, Iterator

from ..telemetry.board_view import describe, table
from ..telemetry.scoreboard import Scoreboard
from .mainloop import MainLoop
from .roster import Roster


class Workers:
    """The workers of a supervisor: a table to show, (process id, state) to iterate over; a call sets their number."""

    def __init__(self, supervisor: "Handle") -> None:
        self._supervisor = supervisor

    def __call__(self, number: int) -> None:
        if number < 1:
            raise ValueError("there must be at least one worker")
        self._supervisor.ask(lambda roster: roster.change_wanted_to(number))

    def __iter__(self) -> Iterator[tuple[int, str]]:
        loop = self._supervisor.loop
        return iter([] if loop is None else loop.workers)

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def __repr__(self) -> str:
        board = self._supervisor.board
        if board is None or self._supervisor.loop is None:
            return "\n".join(f"worker {pid}, {state}" for pid, state in self) or "no workers"
        return "\n".join(table(describe(board)))


class Handle:
    """The methods of a running supervisor, for any thread of the program."""

    loop: MainLoop | None = None
    board: Scoreboard | None = None

    def __init__(self, loop: MainLoop | None = None, board: Scoreboard | None = None) -> None:
        self.loop, self.board = loop, board
        self.workers = Workers(self)

    def ask(self, request: Callable[[Roster], object]) -> None:
        """Have the loop call ``request`` soon; does nothing when no loop runs."""
        loop = self.loop
        if loop is not None:
            loop.ask(request)

    def reload(self) -> None:
        """Replace every worker, one after the other."""
        self.ask(Roster.restart)

    def stop(self, how: str = "drain") -> None:
        """Ask for the end of all workers: ``"drain"`` lets them finish, ``"quit"`` does not."""
        self.ask(lambda roster: roster.end(how))

    def __repr__(self) -> str:
        number = len(self.workers)
        return f"<supervisor {os.getpid()}, {number} worker{'' if number == 1 else 's'}>"
