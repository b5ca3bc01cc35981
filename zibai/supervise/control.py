"""The thread of a worker that listens to the parent and to signals, and makes the main thread stop.

It is a thread of the system, also where gevent has patched ``threading``. A signal handler must not touch an event (the
main thread may be inside the event's lock), and gevent's hub cannot wait for a pipe on Windows, so neither of them can
do this work. The thread only translates. A graceful shutdown sets the event ``end``. A quick exit raises
KeyboardInterrupt in the main thread, and ends the process itself when that takes longer than ``LAST_WORD``. A worker
that does not become ready within its boot timeout reports where it hangs.

A subclass decides what each message and signal means: :mod:`zibai.supervise.worker` for a function,
``zibai.server.control`` for the HTTP server.
"""

import os
import sys
import threading
from _thread import allocate_lock, get_ident
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from math import inf
from multiprocessing.connection import wait
from types import FrameType, ModuleType
from typing import Any, ClassVar, Final

from ..clock import clock
from ..errors import LoadError, ZibaiError
from ..system.lastword import LAST_WORD
from ..system.signals import Signals, interrupting
from ..system.stacks import format_stack
from .pauses import wait_in_step
from .pipe import Parent

GRACEFUL_SIGNALS: Final = ("SIGTERM", "SIGQUIT", "SIGBREAK")
"""Signals that ask for a graceful shutdown."""

QUICK_SIGNALS: Final = ("SIGINT",)
"""Signals that ask for a quick exit."""

REOPEN: Final = "SIGUSR1"
"""The signal that asks for reopened log files."""

UPGRADE: Final = "SIGUSR2"
"""The signal that asks the parent for an upgrade."""

FOR_PARENT: Final = ("SIGHUP", "SIGTTIN", "SIGTTOU", UPGRADE)
"""Signals that only the parent obeys. A worker ignores them: a terminal or an operator may send them to the group."""


class MainThread:
    """The thread or greenlet that a :class:`Control` stops. Make this object in that thread.

    ``hub`` is :mod:`zibai.supervise.hub` in a process that gevent has patched. ``interrupted`` is set before it is.
    """

    __slots__ = ("_greenlet", "_ident", "hub", "interrupted")

    def __init__(self, hub: ModuleType | None) -> None:
        self.hub = hub
        self.interrupted = False
        self._ident = get_ident()  # the system's: gevent has numbers of its own
        self._greenlet = None if hub is None else hub.current()

    def __repr__(self) -> str:
        return f"<MainThread {self._ident}>"

    @property
    def sigint_interrupts(self) -> bool:
        """Whether SIGINT raises KeyboardInterrupt in it by itself. gevent's main greenlet must be told."""
        return self.hub is None and sys.platform != "win32"

    def is_current(self) -> bool:
        """Whether this is called in its thread, by whatever greenlet."""
        return get_ident() == self._ident

    def place(self) -> tuple[str, FrameType | None]:
        """Words about where it is, and the frame. Its greenlet may wait for one that keeps gevent's hub from running:
        with gevent each thread is a greenlet, and some wait where gevent cannot see it, as for a pipe.
        """
        waits = getattr(self._greenlet, "gr_frame", None)
        runs = sys._current_frames().get(self._ident)
        if waits is None or runs is None or f"{os.sep}gevent{os.sep}" in runs.f_code.co_filename:
            return "the main thread is here:", waits or runs
        return "another greenlet blocks gevent's hub; with --no-gevent it is a thread of its own; it is here:", runs


class Control:
    """Listens to ``parent``, if there is one, and to signals, while ``listening``.

    ``hub`` is :mod:`zibai.supervise.hub` in a process that gevent has patched. ``arm`` sets the last moment of the
    process, in seconds from now. With ``may_exit`` false the process is never ended from here. Only the main thread
    sets ``_over``, when there is nothing left to stop.
    """

    BOOT_EXIT_CODE: ClassVar[int] = 1
    """Exit code of a process that does not become ready in time."""

    def __init__(
        self,
        parent: Parent | None,
        end: threading.Event,
        hub: ModuleType | None,
        *,
        boot_timeout: float,
        graceful_timeout: float,
        may_exit: bool = True,
        arm: Callable[[float], object] = lambda seconds: None,
    ) -> None:
        self._parent = parent
        self._boot_timeout = boot_timeout
        self._graceful_timeout = graceful_timeout
        self._may_exit = may_exit
        self._arm = arm
        self._main = MainThread(hub)
        self._over = False
        self._runs = allocate_lock()  # held while the thread runs
        self._wait: Callable[..., list[Any]] = wait
        self._set_end: Callable[[], object] = end.set
        if hub is None:
            self._interrupt: Callable[[], object] = interrupting()
        else:
            self._wait = hub.wait_as_thread
            self._set_end = hub.calling_from_threads(end.set)
            self._interrupt = hub.interrupting(lambda: self._over)

    @contextmanager
    def listening(self, signals: Signals) -> Iterator[None]:
        """Listen within this block, around everything that can be asked to stop."""
        self._signals = signals
        self._runs.acquire()
        thread = self._start(self._run)
        try:
            yield
        except BaseException:
            self._arm(LAST_WORD)
            raise
        finally:
            # Does nothing after a request to stop, which has set an earlier moment.
            self._arm(self._graceful_timeout + LAST_WORD)
            self._over = True
            signals.wake()
            if thread is not None:
                thread.join(LAST_WORD)  # if the process goes on, it must not keep this thread

    def _start(self, function: Callable[[], None]) -> threading.Thread | None:
        """Run ``function`` in a thread of the system; None where such a thread cannot be joined."""
        hub = self._main.hub
        try:
            if hub is None:
                return _in_thread(function)
            hub.start_thread(function)
        except RuntimeError as error:
            self._runs.release()
            raise ZibaiError(f"{error}: see ulimit -u, and the limit of processes of the container") from error
        return None

    def join(self) -> None:
        """Wait until the thread has ended. Call this after ``listening``."""
        with self._runs:
            pass

    def _run(self) -> None:
        try:
            self._listen()
        finally:
            self._runs.release()

    def _listen(self) -> None:
        sources: list[Any] = [self._signals.socket]
        if self._parent is not None:
            sources.append(self._parent.pipe)
        while not self._over:
            try:
                ready, stopped = wait_in_step(self._wait, sources, self._time_left())
                names = self._signals.read()
            except (OSError, ValueError):
                return  # the main thread has closed them: it is over
            if self._over:
                return
            if stopped:
                self._on_pause(stopped)
            if not ready and self._is_starting() and self._time_left() == 0:
                self._give_up()
            verb, channel = "", None
            if self._parent is not None and self._parent.pipe in ready:
                verb, channel = self._parent.receive()
                if verb == "gone":
                    sources.remove(self._parent.pipe)
                    if self._parent.outlet is not None:
                        self._parent.outlet.restore()
            self._obey(verb, channel, names)

    def was_interrupted(self) -> bool:
        """Whether KeyboardInterrupt was raised in the main thread, which calls this while it is ``listening``.

        Another exception may have come of it: the C code of pydantic makes one, and so does a library that catches
        BaseException.
        """
        return self._main.interrupted or any(map(self._signals.came, QUICK_SIGNALS))

    def _obey(self, verb: str, channel: Any, names: Sequence[str]) -> None:
        """Do what the parent (``verb``, with a ``channel``) and signals (``names``) ask. Both may come at once."""
        raise NotImplementedError

    def _is_starting(self) -> bool:
        """Whether the boot timeout counts."""
        raise NotImplementedError

    def _on_pause(self, seconds: float) -> None:
        """This process was stopped for so long, which does not count against its boot timeout."""
        if self._parent is not None:
            self._parent.since += seconds

    def _due(self) -> float:
        """When the next time limit is over; ``inf`` without one."""
        return self._parent.since + self._boot_timeout if self._parent is not None and self._is_starting() else inf

    def _time_left(self) -> float | None:
        """Seconds until the next time limit is over; None without one."""
        due = self._due()
        return None if due == inf else max(0.0, due - clock())

    def _quit(self, *, by_sigint: bool) -> None:
        """Begin the quick exit, and end the process from here if the main thread does not end.

        At a second request a single process ends at once. In a worker a second signal means nothing: Ctrl-C reaches a
        worker from the terminal and through its parent.
        """
        self._arm(LAST_WORD)
        self._main.interrupted = True
        interrupts = not (by_sigint and self._main.sigint_interrupts)
        if interrupts:
            self._interrupt()
        self._insist(echo=interrupts and self._main.hub is None)

    def _insist(self, *, echo: bool) -> None:
        """End the process if the main thread does not end it.

        ``echo``: interrupting the main thread makes a SIGINT, which will be read here and is not another request.
        """
        until = clock() + LAST_WORD
        try:
            while not self._over and (rest := until - clock()) > 0:
                self._wait([self._signals.socket], rest)
                again = [name for name in self._signals.read() if name in QUICK_SIGNALS or name in GRACEFUL_SIGNALS]
                if echo and "SIGINT" in again:
                    echo = False
                    again.remove("SIGINT")
                if again and self._parent is None:
                    break
        except (OSError, ValueError):
            return  # the main thread has closed them: it is over
        if not self._over and self._may_exit:
            os._exit(0)

    def _give_up(self) -> None:
        """Tell the parent where the main thread hangs, and end the process. The parent decides about the others."""
        assert self._parent is not None
        words, frame = self._main.place()
        self._parent.failed(LoadError(f"not ready in {self._boot_timeout:g} s; {words}", format_stack(frame)))
        os._exit(self.BOOT_EXIT_CODE)


def _in_thread(function: Callable[[], None]) -> threading.Thread:
    thread = threading.Thread(target=function, name="zibai-control", daemon=True)
    thread.start()
    return thread
