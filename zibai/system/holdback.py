"""Signals that are held back until this process is ready for them.

A signal that comes before its handler is set would end the process in the middle of its start. So signals are blocked
before the first process is started, their children inherit that, and :class:`~zibai.system.signals.Signals` lets them
through once it has set its handlers. A mask belongs to the thread that sets it; the rest here, to the main thread.
"""

import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

from .lastword import Lookout


@contextmanager
def signals_held_back(lookout: Lookout | None = None) -> Iterator[None]:
    """Block signals until :class:`~zibai.system.signals.Signals` handles them, or to the end of the block.

    Meanwhile ``lookout`` looks for pending signals. Windows has no such mask; there only Ctrl-Break waits, and only if
    nobody handles it yet.
    """
    global _lookout
    if sys.platform == "win32":
        with _ctrl_break_held_back():
            yield
        return
    old = hold_signals_back()
    if lookout is not None:
        lookout.begin()
        _lookout = lookout
    try:
        yield
    finally:
        _end_lookout()
        signal.pthread_sigmask(signal.SIG_SETMASK, old)


@contextmanager
def _ctrl_break_held_back() -> Iterator[None]:
    """Remember a Ctrl-Break, which would end this process at once, and raise it again when signals are let through,
    or at the end of the block.
    """
    number = getattr(signal, "SIGBREAK", None)
    if number is None or signal.getsignal(number) is not signal.SIG_DFL:
        yield
        return
    try:
        signal.signal(number, _remember)
    except ValueError:  # another thread
        yield
        return
    try:
        yield
    finally:
        if signal.getsignal(number) is _remember:
            signal.signal(number, signal.SIG_DFL)
        _raise_remembered()


def _remember(number: int, frame: FrameType | None) -> None:
    _remembered.add(number)


_remembered: set[int] = set()


def _raise_remembered() -> None:
    while _remembered:
        signal.raise_signal(_remembered.pop())


_lookout: Lookout | None = None


def _end_lookout() -> None:
    global _lookout
    if _lookout is not None:
        _lookout.end()
        _lookout = None


def hold_signals_back() -> set[Any]:
    """Block signals in this thread and its children, until they are let through. Returns the former mask."""
    if sys.platform == "win32":
        return set()
    return signal.pthread_sigmask(signal.SIG_BLOCK, _HELD_BACK)


def let_through() -> None:
    """Signals have handlers from now on, and those that were held back come."""
    if sys.platform != "win32":
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _HELD_BACK)
    _end_lookout()
    _raise_remembered()


_HELD_BACK = {
    getattr(signal, name)
    for name in ("SIGINT", "SIGTERM", "SIGQUIT", "SIGHUP", "SIGTTIN", "SIGTTOU", "SIGUSR1", "SIGUSR2")
    if hasattr(signal, name)
}
