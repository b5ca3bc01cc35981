"""``--preload``, the parent's side: loaders, and the workers that they fork.

The parent never imports the application. With ``--preload`` it spawns a *loader*, which imports the application once
and forks a worker for each order. So the workers share that memory, and new code is a new loader. A forked worker
(:class:`~zibai.supervise.forked.Forked`) has a pipe of its own and obeys the rules of any other worker. The roster
does not know that there are loaders. If a loader dies, its workers keep serving, and a new loader forks the next one.

A loader is *proven* when a worker of it was ready. Workers come from the latest loader, proven or not yet. If that
loader fails, they come from the one before, which stays until another loader is proven and its own workers are gone. So
after a broken deployment a worker that dies is replaced by a worker with the old code.

Only the parent's main thread calls anything here.
"""

from collections.abc import Callable
from contextlib import suppress
from itertools import count
from typing import Any, Final, Self

from ..clock import clock
from ..logger import logger
from ..telemetry.scoreboard import Rows
from .child import start_captured
from .forked import Forked
from .loader import Loader, Order
from .output import Collector, Outlet

LOADER_END_TIME: Final = 4.0
"""Seconds that a loader has to end before it is killed."""


class Preload:
    """Makes workers that are forked. ``target(parent, *args)`` is the main function of a loader.

    ``collector`` takes the output of loaders. A context manager that ends the loaders.
    """

    def __init__(self, target: Callable[..., None], args: tuple[Any, ...], collector: Collector | None = None) -> None:
        self._target = target
        self._collector = collector
        self._args = args
        self._serials = count()
        self._loaders: list[Loader] = []  # the oldest first
        self._current: Loader | None = None  # the latest proven one, perhaps dead
        self._generation = -1
        self._has_stopped_listening = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for loader in self._loaders:
            loader.leave()
        until = clock() + LOADER_END_TIME
        for loader in self._loaders:
            while loader.speaks and loader.hear(max(0.0, until - clock())):
                pass
            if loader.speaks:
                loader.kill()
            loader.ending()
            loader.close()

    def __repr__(self) -> str:
        return f"<Preload {sorted(self.pids)}>"

    @property
    def pids(self) -> set[int]:
        """The process ids of all loaders."""
        return {loader.pid for loader in self._loaders}

    @property
    def pipes(self) -> list[Any]:
        """The pipes to wait for: one is ready when :meth:`look` has something to do."""
        return [loader.pipe for loader in self._loaders if loader.speaks]

    def child(
        self,
        generation: int,
        target: Callable[..., None],
        args: tuple[Any, ...],
        row: Rows | None = None,
        outlet: Outlet | None = None,
    ) -> Forked:
        """A worker that is not started yet. OSError when it needs a new loader and the system has no room for one."""
        self.look()
        # No loader that is older than the proven one: the proven code must be served.
        able = [
            loader
            for loader in self._loaders
            if loader.speaks and not loader.leaving and (self._current is None or loader.serial >= self._current.serial)
        ]
        if generation != self._generation or not able:
            loader = self._start()
            self._loaders.append(loader)
            self._generation = generation
            able = [loader]
        return Forked(able[-1], target, args, row, outlet)

    def _start(self) -> Loader:
        return start_captured(
            lambda outlet: Loader(self._target, self._args, next(self._serials), outlet), self._collector
        )

    def look(self) -> None:
        """Note the facts that loaders send, notice loaders that have ended, and end loaders that are not needed."""
        for loader in list(self._loaders):
            while loader.hear():
                pass
            if loader.proven and (self._current is None or loader.serial > self._current.serial):
                self._current = loader
            if not loader.speaks:
                self._note_end(loader)
        for loader in self._loaders:
            if loader.speaks and not loader.forks and loader is not self._current:
                loader.leave()

    def _note_end(self, loader: Loader) -> None:
        """Its process is gone, but its workers may still need it."""
        if not loader.end_noticed:
            loader.end_noticed = True
            reason = loader.ending().reason
            if loader.proven and not loader.leaving:
                logger.error("the loader, process %d, %s; its workers keep serving", loader.pid, reason)
        if not loader.forks:
            self._loaders.remove(loader)
            loader.close()

    def stop_listening(self) -> None:
        """Let the loaders close the listeners, since no worker is started any more. Idempotent."""
        if not self._has_stopped_listening:
            self._has_stopped_listening = True
            self._order_all("stop_listening")

    def reopen(self) -> None:
        """Let the loaders reopen the log files."""
        self._order_all("reopen")

    def _order_all(self, verb: str) -> None:
        for loader in self._loaders:
            with suppress(OSError):
                loader.order(Order(verb))
