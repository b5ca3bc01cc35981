"""The processes of the workers: how each is made, its row of the scoreboard, and which of them live.

A worker is spawned or forked by this process, or forked by a loader that has imported the application
(:mod:`.preload`). It gets a free row of the scoreboard; when all are taken, it runs without one.

The thread of the main loop makes all calls, but for ``pids``.
"""

import os
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

from ..telemetry import logfile
from ..telemetry.scoreboard import Rows, Scoreboard
from .child import Child, Method, start_captured
from .output import Collector, Outlet
from .preload import Preload
from .roster import Roster
from .sentinel import reap_orphans


class Crew:
    """Runs ``target(parent, *args, board, row)`` in each worker.

    ``board`` may be None, and so may ``row``, the number of the worker's row, when all rows are taken. ``method`` is
    how a worker is made, within ``starting()``; with ``preload`` its loaders fork the workers. ``collector`` takes the
    output of workers. ``shares_listeners`` is passed to every :class:`Child`.
    """

    def __init__(
        self,
        target: Callable[..., None],
        args: tuple[Any, ...],
        board: Scoreboard | None = None,
        *,
        method: Method = "spawn",
        starting: Callable[[], AbstractContextManager[None]] = nullcontext,
        collector: Collector | None = None,
        shares_listeners: Callable[[], bool] = lambda: False,
        preload: Preload | None = None,
    ) -> None:
        self._target = target
        self._args = args
        self.board = board
        self._rows = list(board.workers()) if board is not None else []
        self._method = method
        self._starting = starting
        self._collector = collector
        self._shares_listeners = shares_listeners
        self._preload = preload
        self.children: list[Child] = []

    def __repr__(self) -> str:
        return f"<Crew: {len(self.children)} workers>"

    @property
    def pids(self) -> list[int]:
        """The process ids of all workers. Any thread: this does not receive from a loader."""
        return [child.known_pid for child in list(self.children)]

    def start(self, generation: int) -> Child:
        """Start a worker."""
        taken = [child.row for child in self.children]
        number = next((number for number, row in enumerate(self._rows) if row not in taken), None)
        row = None if number is None else self._rows[number]
        if row is not None:
            row.clear()
        with self._starting():
            child = self._make(generation, (*self._args, self.board, number), row)
        self.children.append(child)
        return child

    def _make(self, generation: int, args: tuple[Any, ...], row: Rows | None) -> Child:
        def make(outlet: Outlet | None) -> Child:
            if self._preload is None:
                child = Child(self._target, args, row, method=self._method, outlet=outlet)
            else:
                child = self._preload.child(generation, self._target, args, row, outlet)
            child.shares_listeners = self._shares_listeners
            return child

        return start_captured(make, self._collector)

    def sources(self) -> list[Any]:
        """Descriptors that become ready at messages and ends, for :func:`~zibai.supervise.waiting.wait`."""
        found: list[Any] = [] if self._preload is None else [*self._preload.pipes]
        for child in self.children:
            found += [child.sentinel, child.pipe] if child.speaks else [child.sentinel]
        return found

    def publish(self, roster: Roster) -> None:
        """Write the states of the workers into the scoreboard."""
        for worker in roster.workers:
            if worker.process.row is not None:
                worker.process.row.assign(worker.state, worker.process.pid, worker.generation, worker.started)

    def look_after(self) -> None:
        """Look after the loaders, and after orphans that process 1 has adopted."""
        if self._preload is not None:
            self._preload.look()
        if os.getpid() == 1:
            loaders = self._preload.pids if self._preload is not None else set()
            reap_orphans({child.pid for child in self.children} | loaders)

    def reopen_logs(self) -> None:
        """Reopen the log files of this process, of all workers and of the loaders."""
        logfile.reopen()
        for child in self.children:
            child.reopen()
        if self._preload is not None:
            self._preload.reopen()

    def kill(self) -> None:
        """Kill all workers: the main loop has a bug, and no other process would end them."""
        for child in self.children:
            child.kill()

    def close(self) -> None:
        """No worker is started any more. The board's file stays open as long as a row of it is referenced."""
        self.board, self._rows = None, []
        if self._collector is not None:
            self._collector.close()
