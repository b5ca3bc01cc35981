"""The deadline of a process that was told to end: it ends then, whatever hangs in it. :func:`arm` sets it.

An application can keep its process alive in many ways: a thread that is no daemon, an ``atexit`` handler or a hook that
does not return, a log into a pipe that is not read. So the end depends on none of these. A thread of the system waits,
takes no shared lock, writes the stacks of all threads to descriptor 2, and ends the process. If it cannot run, because
C code holds the GIL or the interpreter is being taken apart, a thread of :mod:`faulthandler` follows. That one needs no
interpreter, but can only end with exit code 1.

Only processes that end after serving arm it. A program that calls ``serve()`` is never ended.
"""

import faulthandler
import os
import signal
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from math import inf
from time import perf_counter as clock
from typing import Any, Final

from .patching import original
from .stacks import format_stack

LAST_WORD: Final = 3.0
"""Seconds that a process has to end after its time limit. The parent kills a worker one second later."""

HURRY: Final = 0.5
"""Seconds that are left if a signal comes while the interpreter ends: enough for an end that does not hang."""

FAULTHANDLER_EXTRA: Final = 0.5
"""Seconds after the deadline at which :mod:`faulthandler` follows."""

STUCK: Final = 1.0
"""Seconds that a main loop has to notice a signal; if it takes longer, it hangs."""

exit_code = 0
"""The exit code of the process. The code that notices a failure sets it."""

_deadline = inf
_before: Callable[[], object] | None = None  # the function that the thread calls at the deadline
_bell: Any = None  # a lock that is released to wake the thread for an earlier deadline; None without a thread
_silent_file: Any = None  # faulthandler needs its file for as long as it waits


def arm(seconds: float, before: Callable[[], object] | None = None) -> None:
    """End the process in so many seconds, after a call of ``before``, unless it ends by itself.

    A later call can only bring the end closer. Any thread; also a handler of a signal, so nothing here takes a lock.
    """
    global _deadline, _before, _bell
    until = clock() + seconds
    if until >= _deadline:
        return
    _deadline, _before = until, before
    if _bell is None:
        # Both threads begin now: Python 3.12 starts no thread while the interpreter waits for threads to end.
        _bell, ask, told = (_taken_lock() for _ in range(3))
        start_thread(lambda: _tell(ask, told))
        start_thread(lambda: _end(_bell, ask, told))
    else:
        with suppress(RuntimeError):  # it is awake already
            _bell.release()
    _arm_faulthandler(seconds + FAULTHANDLER_EXTRA)


def _taken_lock() -> Any:
    lock = original("_thread", "allocate_lock")()
    lock.acquire()
    return lock


def is_armed() -> bool:
    """Whether the deadline is set."""
    return _deadline < inf


def hurry() -> None:
    """End soon: the user has asked again while the interpreter ends."""
    arm(HURRY)


def _arm_faulthandler(seconds: float) -> None:
    global _silent_file
    with suppress(OSError, RuntimeError, ValueError, OverflowError):  # no descriptor or thread is left
        # A terminal or a pipe that is not read would block faulthandler, so its output is discarded.
        _silent_file = _silent_file or open(os.devnull, "wb")  # noqa: SIM115 -- it stays open
        faulthandler.dump_traceback_later(seconds, exit=True, file=_silent_file)


def start_thread(function: Callable[[], object]) -> None:
    """Start a thread of the system that the interpreter does not wait for."""
    with suppress(RuntimeError):  # the system has no room for a thread, or the interpreter takes none any more
        original("_thread", "start_new_thread")(function, ())


def _end(bell: Any, ask: Any, told: Any) -> None:
    while (left := _deadline - clock()) > 0:
        bell.acquire(timeout=left)
    if _before is not None:
        _before()
    ask.release()
    told.acquire(timeout=FAULTHANDLER_EXTRA / 2)  # descriptor 2 may be a pipe that is not read
    os._exit(exit_code)


def _tell(ask: Any, told: Any) -> None:
    """When asked, write what still runs: without ``logging``, whose locks may be held."""
    ask.acquire()
    text = f"zibai: process {os.getpid()} has not ended in time and ends now; it was here:\n{_stacks()}\n"
    with suppress(OSError):
        original("os", "write")(2, text.encode("utf-8", "backslashreplace"))
    told.release()


def _stacks() -> str:
    """The main thread and each other thread that keeps the interpreter from ending; of greenlets only the names."""
    frames = sys._current_frames()
    stacks = []
    # threading.enumerate() takes a lock.
    for ident, thread in list(threading._active.items()):  # type: ignore[attr-defined]
        if thread is threading.main_thread() or not thread.daemon:
            stacks.append(f"{thread.name}:")
            if ident in frames:
                stacks.append(format_stack(frames[ident]))
    return "\n".join(stacks)


class Lookout:
    """Looks for pending signals that ask for the end, while they are blocked.

    They are blocked while a server starts, when its first log line may hang. ``limit`` is the time for the end.
    """

    def __init__(self, limit: float) -> None:
        self._limit = limit
        self._lock = original("_thread", "allocate_lock")()

    def begin(self) -> None:
        self._lock.acquire()
        start_thread(self._look)

    def end(self) -> None:
        """Stop looking: the signals are not blocked any more."""
        if self._lock.locked():
            self._lock.release()

    def _look(self) -> None:
        if sys.platform == "win32":
            return
        while not self._lock.acquire(timeout=HURRY):
            if any(signal.Signals(number).name in ENDS for number in signal.sigpending()):
                arm(self._limit)
                return


class Overseer:
    """Ends a parent whose main loop hangs, for example in a write to a log that is not read.

    ``workers`` returns the process ids of all children. ``takes_note`` returns whether the main loop has begun the end.
    ``limit`` returns, by the name of the signal, how many seconds the whole end may take. ``heard`` is called in the
    handler of each signal.
    """

    def __init__(
        self, workers: Callable[[], list[int]], takes_note: Callable[[], bool], limit: Callable[[str], float]
    ) -> None:
        self._workers = workers
        self._takes_note = takes_note
        self._limit = limit

    def heard(self, name: str) -> None:
        if name in ENDS:
            arm(self._limit(name), self._kill)
            if not self._takes_note():
                start_thread(lambda: self._stand_in(name))

    def _stand_in(self, name: str) -> None:
        """Pass the signal on to the workers if the main loop does not."""
        original("time", "sleep")(STUCK)
        if not self._takes_note():
            self._send(getattr(signal, name))

    def _kill(self) -> None:
        if sys.platform != "win32":
            self._send(signal.SIGKILL)

    def _send(self, number: int) -> None:
        for pid in self._workers():
            with suppress(OSError):
                os.kill(pid, number)


ENDS: Final = frozenset({"SIGINT", "SIGTERM", "SIGQUIT", "SIGBREAK"})
"""The signals that ask for the end."""
