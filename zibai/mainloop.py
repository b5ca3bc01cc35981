"""The parent waits: for signals, for what workers say, for their ends, for changed files. And tells the supervisor.

One call of ``multiprocessing.connection.wait`` waits for all of it, on every system; nothing is polled. The parent
never imports the application.
"""

import socket
import time
from collections.abc import Callable
from multiprocessing.connection import wait
from typing import Any

from .errors import LoadError
from .logger import logger
from .process import Child, Message, Signals
from .supervisor import Supervisor

# What each signal wishes for. A system that has not got one cannot send it.
_WISHES: dict[str, Callable[[Supervisor], None]] = {
    "SIGINT": lambda supervisor: supervisor.end("quit"),
    "SIGTERM": lambda supervisor: supervisor.end("drain"),
    "SIGBREAK": lambda supervisor: supervisor.end("drain"),
    "SIGQUIT": lambda supervisor: supervisor.end("drain"),
    "SIGHUP": lambda supervisor: supervisor.restart(),
    "SIGTTIN": lambda supervisor: supervisor.change_wanted(+1),
    "SIGTTOU": lambda supervisor: supervisor.change_wanted(-1),
}


class MainLoop:
    """Runs ``target(parent, *args)`` in ``processes`` workers until it is told to end. The main thread's."""

    def __init__(
        self,
        target: Callable[..., None],
        args: tuple[Any, ...],
        processes: int,
        graceful_timeout: float,
        *,
        eager: bool = False,
        exits: bool = False,
    ) -> None:
        self._target = target
        self._exits = exits
        self._args = args
        self._children: list[Child] = []
        self._supervisor = Supervisor(self._spawn, processes, time.monotonic, graceful_timeout, eager)
        self._error: LoadError | None = None
        # What another thread wants done here (a changed file, so far) is a byte on this socket.
        self._changes, self._changed = socket.socketpair()
        self._changed.setblocking(False)

    def restart_soon(self) -> None:
        """Ask for a restart. Any thread."""
        try:
            self._changed.send(b"\0")
        except OSError:
            pass  # it is asked for already, or all is over

    def run(self) -> None:
        """Raises the :class:`LoadError` of a worker when the server has never come up."""
        supervisor = self._supervisor
        with Signals(list(_WISHES), exits=self._exits) as signals, self._changes, self._changed:
            try:
                while True:
                    timeout = supervisor.tick()
                    if supervisor.finished:
                        break
                    self._wait(signals, timeout)
            except BaseException:
                # A bug of ours: the workers go with us, or nobody would end them.
                for child in self._children:
                    child.kill()
                raise
        if supervisor.failure:
            raise self._error or LoadError("no worker has come up")

    def _spawn(self) -> Child:
        child = Child(self._target, self._args)
        child.start()
        self._children.append(child)
        return child

    def _wait(self, signals: Signals, timeout: float | None) -> None:
        sources: list[Any] = [signals.socket, self._changes]
        for child in self._children:
            sources += [child.sentinel, child.pipe] if child.speaks else [child.sentinel]
        ready = set(wait(sources, timeout))
        # Signals come first: a Ctrl-C at the terminal reaches the workers, too, and who ends by it needs no successor.
        for name in signals.read():
            if name in _WISHES:
                _WISHES[name](self._supervisor)
        for child in list(self._children):
            if child.pipe in ready or child.sentinel in ready:
                for message in child.receive():
                    self._hear(child, message)
            if child.sentinel in ready:
                self._children.remove(child)
                self._supervisor.on_gone(self._supervisor.find(child), child.how_it_ended())
                child.close()
        if self._changes in ready:
            self._changes.recv(4096)
            self._supervisor.restart()

    def _hear(self, child: Child, message: Message) -> None:
        worker = self._supervisor.find(child)
        match message.verb:
            case "ready":
                self._supervisor.on_ready(worker)
            case "worn":
                self._supervisor.on_worn(worker)
            case "failed":
                self._supervisor.on_failed(worker)
                self._error = LoadError(message.text, message.trace)
                if self._supervisor.was_up:
                    # At the first start it is raised, once for all workers that failed alike.
                    logger.error("worker %d cannot serve: %s\n%s", child.pid, message.text, message.trace)
