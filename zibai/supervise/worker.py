"""The life of a worker that runs a function, and what that function may ask.

The function runs in the main thread. A thread of its own (:class:`_Ear`) listens to the parent and to signals, as in
:mod:`zibai.server.worker`, and tells it the two ways to end: a graceful one calls ``before_stop`` and then sets the
event ``end``; a quick one raises KeyboardInterrupt where the function is. A graceful end that takes longer than it may
becomes a quick one, so a function that knows nothing of all this still gets to its ``finally``; and a quick one that
takes longer than ``LAST_WORD`` ends the process from here.

Where gevent has patched the module of the function, the event and the hook are the hub's.
"""

import os
import sys
import threading
from _thread import get_ident, start_new_thread
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from math import inf
from multiprocessing.connection import wait
from types import ModuleType
from typing import Any, Final, NamedTuple

from .. import importer
from ..clock import clock
from ..errors import LoadError
from ..logger import logger
from ..system import terminal
from ..system.signals import Signals, interrupting
from ..system.stacks import format_stack
from ..telemetry.scoreboard import Row, Scoreboard
from .pipe import Parent, wait_in_step

GRACEFUL: Final = ("SIGTERM", "SIGQUIT", "SIGBREAK")
QUICK: Final = ("SIGINT",)
# They are the parent's; a terminal or an operator may send them to the whole group.
IGNORED: Final = ("SIGHUP", "SIGTTIN", "SIGTTOU", "SIGUSR1", "SIGUSR2")

LAST_WORD: Final = 3.0
"""Seconds that a quick end may take."""


class Job(NamedTuple):
    """What a worker is to do. ``detached`` is from the terminal's Ctrl-C."""

    target: Callable[..., object]
    args: tuple[Any, ...]
    before_stop: Callable[[], object] | None
    says_ready: bool
    detached: bool
    boot_timeout: float
    graceful_timeout: float

    @property
    def name(self) -> str:
        return describe(self.target)


def describe(function: Callable[..., object]) -> str:
    """``module.function``, as people know it."""
    module, name = getattr(function, "__module__", None), getattr(function, "__qualname__", None)
    return repr(function) if name is None else name if module in (None, "__main__") else f"{module}.{name}"


class CurrentWorker:
    """This process, as the function that is supervised in it sees it; see :func:`current_worker`. Any thread's.

    ``end`` is set when the function is to come to its end.
    """

    def __init__(self, parent: Parent, row: Row | None) -> None:
        self.end = threading.Event()
        self._parent = parent
        self._row = row
        self.is_ready = False
        self._has_beaten = False

    def ready(self) -> None:
        """Say that this worker does its work now; with ``says_ready`` that is for the function to say."""
        if not self.is_ready:
            self.is_ready = True
            self._parent.ready()

    def beat(self) -> None:
        """Say that all is well. Who has once said it has to say it again within ``worker_timeout``, or is replaced."""
        if self._row is not None:
            self._row.beat([])
            if not self._has_beaten:
                self._has_beaten = True
                self._parent.beats()

    def __repr__(self) -> str:
        state = "ending" if self.end.is_set() else "ready" if self.is_ready else "starting"
        return f"<worker {os.getpid()}, {state}>"


_current: CurrentWorker | None = None


def current_worker() -> CurrentWorker:
    """What a function that runs under a :class:`~zibai.Supervisor` may ask of its worker; RuntimeError elsewhere."""
    if _current is None:
        raise RuntimeError("this process is no worker of a zibai.Supervisor")
    return _current


def main(parent: Parent, job: Job, board: Scoreboard | None, number: int | None) -> None:
    """The main function of a worker process."""
    global _current
    if job.detached:
        terminal.leave()
    if parent.outlet is not None:
        parent.outlet.redirect()
    row = board.row(number) if board is not None and number is not None else None
    _current = worker = CurrentWorker(parent, row)
    hub = _hub()
    ear = _Ear(parent, job, worker, hub)
    names = GRACEFUL + QUICK + IGNORED
    try:
        with Signals(names, interrupting=hub is None, exits=True) as signals, ear.listening(signals):
            if not job.detached:
                parent.hear_ctrl_c()
            if not job.says_ready:
                worker.ready()
            importer.guarded(job.name, job.target, *job.args)
    except LoadError as error:
        if isinstance(error.__cause__, SystemExit):
            raise error.__cause__ from None
        parent.failed(error)
        sys.exit(1)
    except KeyboardInterrupt:
        pass  # the quick end


def _hub() -> ModuleType | None:
    """What deals with gevent, if it has patched this process."""
    monkey = sys.modules.get("gevent.monkey")
    if monkey is None or not monkey.is_module_patched("threading"):
        return None
    from . import hub

    return hub


class _Ear:
    """Listens to the parent and to signals, in a thread of the system.

    ``_over`` is set by the main thread alone, when the function has ended.
    """

    def __init__(self, parent: Parent, job: Job, worker: CurrentWorker, hub: ModuleType | None) -> None:
        self._parent = parent
        self._job = job
        self._worker = worker
        self._main = get_ident()
        self._over = False
        self._quick_at = inf  # when a graceful end has had its time
        self._set: Callable[[], object] = worker.end.set
        self._hook: Callable[[], object] = lambda: start_new_thread(self._before_stop, ())
        self._wait: Callable[..., list[Any]] = wait
        self._start: Callable[[Callable[[], None]], object] = lambda function: start_new_thread(function, ())
        if hub is None:
            self._interrupt = interrupting()
        else:
            self._set = hub.calling_from_threads(worker.end.set)
            self._hook = hub.spawning_from_threads(self._before_stop)
            self._wait, self._start = hub.wait_as_thread, hub.start_thread
            self._interrupt = hub.interrupting(lambda: self._over)
        # A signal has raised KeyboardInterrupt in the main thread by itself; gevent's has to be told.
        self._is_interrupted_by_signals = hub is None and sys.platform != "win32"

    @contextmanager
    def listening(self, signals: Signals) -> Iterator[None]:
        """Around the function."""
        self._signals = signals
        self._start(self._listen)
        try:
            yield
        finally:
            self._over = True
            signals.wake()

    def _listen(self) -> None:
        sources: list[Any] = [self._signals.socket, self._parent.pipe]
        while not self._over:
            try:
                ready, stopped = wait_in_step(self._wait, sources, self._patience())
                names = self._signals.read()
            except (OSError, ValueError):
                return  # closed under us: it is over
            if self._over:
                return
            self._parent.since += stopped
            self._quick_at += stopped
            verb = ""
            if self._parent.pipe in ready:
                verb, channel = self._parent.receive()
                if channel is not None:
                    channel.close()  # there are no connections to hand over
            if verb == "gone":
                sources.remove(self._parent.pipe)
                if self._parent.outlet is not None:
                    self._parent.outlet.restore()
            if any(name in QUICK for name in names):
                self._quick(tell=not self._is_interrupted_by_signals)
            elif verb == "quit" or clock() >= self._quick_at:
                self._quick(tell=True)
            elif verb in {"drain", "cede", "gone"} or any(name in GRACEFUL for name in names):
                if self._worker.is_ready:
                    self._graceful()
                else:  # it does no work yet that it could finish
                    self._quick(tell=True)
            elif self._patience() == 0:
                self._give_up()

    def _patience(self) -> float | None:
        """Seconds until it is time for something."""
        due = self._quick_at
        if not self._worker.is_ready and due == inf:
            due = self._parent.since + self._job.boot_timeout
        return None if due == inf else max(0.0, due - clock())

    def _graceful(self) -> None:
        if self._quick_at == inf:
            self._quick_at = clock() + self._job.graceful_timeout
            self._set() if self._job.before_stop is None else self._hook()

    def _before_stop(self) -> None:
        """In a thread or greenlet of its own: the hook may take its time, and the event is for afterwards."""
        assert self._job.before_stop is not None
        try:
            self._job.before_stop()
        except Exception:
            logger.exception("before_stop failed")
        finally:
            self._worker.end.set()

    def _quick(self, tell: bool) -> None:
        """The function has ``LAST_WORD`` seconds for its ``finally``; then the process is ended from here."""
        self._quick_at = inf
        self._set()
        if tell:
            self._interrupt()
        until = clock() + LAST_WORD
        try:
            while not self._over and (rest := until - clock()) > 0:
                self._wait([self._signals.socket], rest)
                self._signals.read()
        except (OSError, ValueError):
            return  # closed under us: it is over
        if not self._over:
            os._exit(0)

    def _give_up(self) -> None:
        """It does not get ready. Say where it stands; the parent decides what becomes of the rest."""
        trace = format_stack(sys._current_frames().get(self._main))
        timeout = self._job.boot_timeout
        self._parent.failed(LoadError(f"not ready in {timeout:g} s; the main thread is here:", trace))
        os._exit(1)
