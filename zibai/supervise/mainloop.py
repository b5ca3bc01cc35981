"""The parent's main loop: it waits for signals, messages and ends of workers, and changed files, and tells the roster.

One call of :func:`zibai.supervise.waiting.wait` waits for all of that, on every system; nothing is polled. While a time
limit runs, the loop wakes every few seconds, only to notice by the clock whether it was paused: the parent, or the
whole server, may have been stopped, in a paused container or a closed laptop. The parent never imports the application.
"""

import json
import os
from collections.abc import Callable, Sequence
from contextlib import closing
from typing import Any, Protocol

from ..clock import clock
from ..errors import LoadError
from ..logger import logger
from ..system import lastword
from ..system.signals import Signals, hear_of_children
from .asked import Asked
from .child import Child
from .crew import Crew
from .events import Ledger
from .pauses import LONGEST_STEP, Pauses
from .pipe import Message
from .pulse import Pulse
from .record import STARTING
from .roster import Roster
from .waiting import wait

# The action of each signal. Signals that a system does not have are never sent.
_ASKS_FOR: dict[str, Callable[[Roster], object]] = {
    "SIGINT": lambda roster: roster.end("quit", "SIGINT"),
    "SIGTERM": lambda roster: roster.end("drain", "SIGTERM"),
    "SIGBREAK": lambda roster: roster.end("drain", "SIGBREAK"),
    "SIGQUIT": lambda roster: roster.end("drain", "SIGQUIT"),
    "SIGHUP": lambda roster: roster.restart("SIGHUP"),
    "SIGTTIN": lambda roster: roster.change_wanted(+1),
    "SIGTTOU": lambda roster: roster.change_wanted(-1),
}


class Observer(Protocol):
    """Looks at the roster after each turn of the main loop, and has things of its own to wait for.

    ``look`` returns the seconds until it wants to be called again, None for never. ``on_signal`` gets the name of each
    signal before the roster does. The main thread calls them all.
    """

    def sources(self) -> Sequence[Any]: ...
    def on_signal(self, name: str) -> object: ...
    def look(self, roster: Roster) -> float | None: ...


def signals(*, exits: bool, prompt: bool = False) -> Signals:
    """The signals of the parent. Enter them before the server announces itself.

    With a ``prompt`` Ctrl-C is left to the prompt.
    """
    hear_of_children()
    names = [name for name in _ASKS_FOR if not (prompt and name == "SIGINT")]
    # Orphans that process 1 has adopted have no sentinel, so SIGCHLD must wake the loop.
    names += ["SIGUSR1", "SIGUSR2", *(["SIGCHLD"] if os.getpid() == 1 else [])]
    return Signals(names, exits=exits, late=lastword.hurry if exits else None)


class MainLoop:
    """Keeps ``processes`` workers of ``crew`` until it is told to end.

    The thread that calls ``run`` owns it; other threads may only ``ask``. ``on_up`` is called once, when at least one
    worker is ready and none is starting. ``on_end`` is called when the end begins, perhaps more than once. ``pulse``
    gets the condition of the server. The other keywords are those of :class:`Roster`.
    """

    def __init__(
        self,
        crew: Crew,
        processes: int,
        *,
        on_up: Callable[[], object] = lambda: None,
        on_end: Callable[[], object] = lambda: None,
        observers: Sequence[Observer] = (),
        pulse: Pulse | None = None,
        **rules: Any,
    ) -> None:
        self._crew = crew
        self._on_up: Callable[[], object] | None = on_up
        self._on_end = on_end
        self._observers = observers
        self._pulse = Pulse() if pulse is None else pulse
        self.ledger = Ledger(crew.board)
        self._roster = Roster(self._spawn, processes, clock, tell=self.ledger.tell, **rules)
        self._pauses = Pauses()
        self._error: LoadError | None = None
        self._is_over = False
        self.on_reply: Callable[[Child, Message], object] = lambda child, message: None
        self.on_imports: Callable[[list[tuple[str, bool]], float], object] = lambda folders, since: None
        self._asked = Asked()

    def restart_soon(self, why: str = "") -> None:
        """Ask for a restart; ``why`` is for the log. Any thread."""
        self.ask(lambda roster: roster.restart(why))

    def signal_soon(self, name: str) -> None:
        """Do what a signal of this name does. Any thread."""
        self.ask(lambda roster: self._obey(name))

    def ask(self, request: Callable[[Roster], object]) -> None:
        """Let the loop call ``request`` with the roster, soon. Any thread."""
        self._asked.add(request)

    @property
    def workers(self) -> list[tuple[int, str]]:
        """Process id and state of each worker. Any thread; the list may be a moment old."""
        return [(worker.process.pid, worker.state) for worker in list(self._roster.workers)]

    @property
    def pids(self) -> list[int]:
        """The process ids of all workers. Any thread: unlike ``workers`` it does not receive from a loader."""
        return self._crew.pids

    @property
    def children(self) -> list[Child]:
        """The processes of the workers. Only for functions that the loop calls for ``ask``."""
        return self._crew.children

    @property
    def is_over(self) -> bool:
        """Whether this loop has ended, so that requests are ignored. Any thread."""
        return self._is_over

    @property
    def is_ending(self) -> bool:
        """Whether this loop has noticed that the end was asked for. Any thread."""
        return self._roster.is_ending or self._roster.drain_announced

    def run(self, signals: Signals | None) -> None:
        """Raises the :class:`LoadError` of a worker when the server has never come up.

        Only a main thread can have ``signals``. Without them the loop ends when another thread asks for it.
        """
        roster = self._roster
        with closing(self._asked):
            try:
                while True:
                    timeout = self._decide()
                    if roster.finished:
                        break
                    if timeout is not None:
                        timeout = min(timeout, LONGEST_STEP)
                    self._pulse.waits(timeout)
                    self._wait(signals, timeout)
            except BaseException:
                self._crew.kill()
                raise
            finally:
                self._is_over = True
                self.ledger.close()
                self._crew.close()
        if roster.failure:
            raise self._error or LoadError("no worker has come up")

    def _decide(self) -> float | None:
        """Let the roster decide, then publish its state. Returns the seconds until the next call, None for never."""
        roster = self._roster
        self._look_at_clock()
        timeout = roster.tick()
        self.ledger.want(roster.wanted)
        self._crew.publish(roster)
        due = [timeout, *(observer.look(roster) for observer in self._observers)]
        self._tell_up()
        if roster.is_ending:
            self._on_end()
        return min((each for each in due if each is not None), default=None)

    def _look_at_clock(self, timeout: float | None = 0.0) -> None:
        """Tell the roster if this loop was paused. The loop means to be back here in ``timeout`` seconds."""
        if paused := self._pauses.look(timeout):
            self._roster.on_pause(paused)

    def _tell_up(self) -> None:
        roster = self._roster
        starting = any(worker.state is STARTING for worker in roster.workers)
        if self._on_up is not None and roster.was_up and not starting and not roster.is_ending:
            self._on_up()
            self._on_up = None

    def _spawn(self) -> Child:
        child = self._crew.start(self._roster.generation)
        self.ledger.started()
        return child

    def _wait(self, signals: Signals | None, timeout: float | None) -> None:
        sources: list[Any] = [self._asked.source] if signals is None else [signals.socket, self._asked.source]
        sources += self._crew.sources()
        for observer in self._observers:
            sources += observer.sources()
        self._look_at_clock(timeout)
        ready = set(wait(sources, timeout))
        self._look_at_clock()
        self._pulse.wakes()
        # Signals come first: Ctrl-C at the terminal also ends the workers, and then they need no replacements.
        for name in [] if signals is None else signals.read():
            self._obey(name)
        for child in list(self._crew.children):
            self._look_at(child, ready)
        if self._asked.source in ready:
            self._asked.do(self._roster)
        self._crew.look_after()

    def _look_at(self, child: Child, ready: set[Any]) -> None:
        """Receive the messages of a worker, and note its end."""
        if child.pipe in ready or child.sentinel in ready:
            for message in child.receive():
                self._hear(child, message)
        if child.sentinel in ready:
            self._crew.children.remove(child)
            ending = child.ending()
            self._roster.on_gone(self._roster.find(child), ending)
            self.ledger.ended(child.row, ending.cause)
            child.close()

    def _obey(self, name: str) -> None:
        """Do the action of a signal."""
        for observer in self._observers:
            observer.on_signal(name)
        if name in _ASKS_FOR:
            _ASKS_FOR[name](self._roster)
        elif name == "SIGUSR1":
            self._crew.reopen_logs()

    def _hear(self, child: Child, message: Message) -> None:
        worker = self._roster.find(child)
        match message.verb:
            case "ready":
                self._roster.on_ready(worker)
            case "heartbeats":
                self._roster.on_heartbeats(worker)
            case "max_requests":
                self._roster.on_max_requests(worker)
            case "hung":
                self._roster.on_hung(worker)
            case "dump" | "profile":
                self.on_reply(child, message)
            case "imports":
                self.on_imports(*json.loads(message.text))
            case "shows":
                self._roster.on_failed(worker)
                self.ledger.trace = message.trace or message.text
            case "failed":
                self._roster.on_failed(worker)
                self._error = LoadError(message.text, message.trace)
                self.ledger.trace = message.trace or message.text
                if self._roster.was_up:
                    # At the first start run() raises it, once for all workers that failed with it.
                    told = f"{message.text}\n{message.trace}" if message.trace else message.text
                    logger.error("worker %d cannot serve: %s", child.pid, told)
