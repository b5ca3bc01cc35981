"""A worker that runs a function, and the object by which that function talks to its parent.

The function runs in the main thread. The control thread (:mod:`zibai.supervise.control`) ends it in one of two ways. A
graceful end calls ``before_stop`` and then sets the event ``end``. A quick end raises KeyboardInterrupt in the
function. A graceful end that takes too long becomes a quick one, so even a function that ignores the event reaches its
``finally``. A quick end that takes too long ends the process.

Where gevent has patched the process, the hub sets the event and runs the hook.
"""

import os
import sys
import threading
from _thread import start_new_thread
from collections.abc import Callable, Sequence
from math import inf
from types import ModuleType
from typing import Any, NamedTuple

from .. import importer
from ..clock import clock
from ..errors import LoadError
from ..logger import logger
from ..system.patching import is_patched
from ..system.signals import Signals
from ..telemetry.scoreboard import Row, Scoreboard
from .control import FOR_PARENT, GRACEFUL_SIGNALS, QUICK_SIGNALS, REOPEN, Control
from .pipe import Parent


class Job(NamedTuple):
    """The function of a worker, and how to run it. ``detached``: the terminal's Ctrl-C does not reach it."""

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
    """``module.function``, for people."""
    module, name = getattr(function, "__module__", None), getattr(function, "__qualname__", None)
    return repr(function) if name is None else name if module in (None, "__main__") else f"{module}.{name}"


class CurrentWorker:
    """This worker process, as its supervised function sees it; see :func:`current_worker`. Any thread may use it.

    ``end`` is set when the function must end.
    """

    def __init__(self, parent: Parent, row: Row | None) -> None:
        self.end = threading.Event()
        self._parent = parent
        self._row = row
        self.is_ready = False
        self._has_beaten = False

    def ready(self) -> None:
        """Say that this worker does its work now; called by the function if it has ``says_ready``."""
        if not self.is_ready:
            self.is_ready = True
            self._parent.ready()

    def beat(self) -> None:
        """Send a heartbeat. Each further one must follow within ``worker_timeout``, or the worker is killed."""
        if self._row is not None:
            self._row.beat([])
            if not self._has_beaten:
                self._has_beaten = True
                self._parent.sends_heartbeats()

    def __repr__(self) -> str:
        state = "ending" if self.end.is_set() else "ready" if self.is_ready else "starting"
        return f"<worker {os.getpid()}, {state}>"


_current: CurrentWorker | None = None


def current_worker() -> CurrentWorker:
    """The worker that the calling function runs in. RuntimeError outside of a :class:`~zibai.Supervisor`."""
    if _current is None:
        raise RuntimeError("this process is no worker of a zibai.Supervisor")
    return _current


def main(parent: Parent, job: Job, board: Scoreboard | None, number: int | None) -> None:
    """The main function of a worker process."""
    global _current
    parent.set_up_process(detached=job.detached)
    row = board.row(number) if board is not None and number is not None else None
    _current = worker = CurrentWorker(parent, row)
    hub = _hub()
    control = _Control(parent, job, worker, hub)
    names = (*GRACEFUL_SIGNALS, *QUICK_SIGNALS, *FOR_PARENT, REOPEN)
    try:
        with Signals(names, interrupting=hub is None, exits=True) as signals, control.listening(signals):
            if not job.detached:
                parent.hear_ctrl_c()
            if not job.says_ready:
                worker.ready()
            try:
                importer.guarded(job.name, job.target, *job.args)
            except LoadError:
                if control.was_interrupted():
                    raise KeyboardInterrupt from None
                raise
    except LoadError as error:
        if isinstance(error.__cause__, SystemExit):
            raise error.__cause__ from None
        parent.failed(error)
        sys.exit(1)
    except KeyboardInterrupt:
        pass  # the quick end


def _hub() -> ModuleType | None:
    """The module that deals with gevent, if gevent has patched this process."""
    if not is_patched():
        return None
    from . import hub

    return hub


class _Control(Control):
    """Obeys the parent and signals for one function."""

    def __init__(self, parent: Parent, job: Job, worker: CurrentWorker, hub: ModuleType | None) -> None:
        super().__init__(parent, worker.end, hub, boot_timeout=job.boot_timeout, graceful_timeout=job.graceful_timeout)
        self._worker = worker
        self._before_stop = job.before_stop
        self._quit_at = inf  # when the time of a graceful end is over
        if hub is None:
            self._start_hook: Callable[[], object] = lambda: start_new_thread(self._call_hook, ())
        else:
            self._start_hook = hub.spawning_from_threads(self._call_hook)

    def _start(self, function: Callable[[], None]) -> threading.Thread | None:
        """Run ``function`` in a thread that ``threading`` does not list: the supervised function may look for threads
        before it forks.
        """
        if self._main.hub is not None:
            return super()._start(function)
        start_new_thread(function, ())
        return None

    def _obey(self, verb: str, channel: Any, names: Sequence[str]) -> None:
        if channel is not None:
            channel.close()  # there are no connections to hand over
        if any(name in QUICK_SIGNALS for name in names):
            self._quit(by_sigint=True)
        elif verb == "quit" or clock() >= self._quit_at:
            self._quit(by_sigint=False)
        elif verb in {"drain", "drain_shared", "gone"} or any(name in GRACEFUL_SIGNALS for name in names):
            if self._worker.is_ready:
                self._drain()
            else:  # it has no work yet that it could finish
                self._quit(by_sigint=False)

    def _is_starting(self) -> bool:
        return not self._worker.is_ready

    def _due(self) -> float:
        return self._quit_at if self._quit_at < inf else super()._due()

    def _on_pause(self, seconds: float) -> None:
        super()._on_pause(seconds)
        self._quit_at += seconds

    def _drain(self) -> None:
        if self._quit_at == inf:
            self._quit_at = clock() + self._graceful_timeout
            self._set_end() if self._before_stop is None else self._start_hook()

    def _call_hook(self) -> None:
        """Call the hook in a separate thread or greenlet, since it may block, and set the event after it."""
        assert self._before_stop is not None
        try:
            self._before_stop()
        except Exception:
            logger.exception("before_stop failed")
        finally:
            self._worker.end.set()

    def _quit(self, *, by_sigint: bool) -> None:
        self._quit_at = inf
        self._set_end()
        super()._quit(by_sigint=by_sigint)
