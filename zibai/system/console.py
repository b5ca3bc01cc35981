"""The ends that Windows announces: the console is closed, the user logs off, the system or a container stops.

Windows calls a handler in a new thread of each process of the console. It ends the process when the handler returns, or
after a time that the process cannot change: five seconds for a closed console (HandlerRoutine in the documentation of
Windows' console). The C runtime has a handler that raises SIGBREAK and returns, so the process would end when Python
has only set a flag. The handler here comes before that one: it raises SIGBREAK as well, and never returns. The process
ends when its main thread has finished the requests in flight.
"""

import signal
import sys
from collections.abc import Callable
from typing import Any, Final

from .patching import original

ENDS: Final = frozenset({2, 5, 6})
"""CTRL_CLOSE_EVENT, CTRL_LOGOFF_EVENT and CTRL_SHUTDOWN_EVENT."""

_routine: Any = None  # Windows calls it, so it must not be collected


def hold_the_end() -> None:
    """Let a process that handles SIGBREAK end by itself, gracefully, when Windows announces its end.

    For the main thread of a process that ends after it has served. A second call does nothing; so does the first one on
    another system.
    """
    global _routine
    if sys.platform != "win32" or _routine is not None:
        return
    import ctypes

    _routine = ctypes.WINFUNCTYPE(ctypes.c_int, ctypes.c_uint32)(handler(_raise_sigbreak))
    # The handler is never removed: while a handler runs, Windows keeps the list of handlers locked.
    ctypes.windll.kernel32.SetConsoleCtrlHandler(_routine, True)


def handler(ask: Callable[[], object]) -> Callable[[int], bool]:
    """The handler of console events. It calls ``ask`` and then waits for ever if an event ends the process.

    Each call comes in its own thread. False leaves an event, Ctrl-C or Ctrl-Break, to the next handler.
    """

    def handle(event: int) -> bool:
        if event not in ENDS:
            return False
        ask()
        never = original("_thread", "allocate_lock")()
        never.acquire()
        never.acquire()
        return True

    return handle


def _raise_sigbreak() -> None:
    if sys.platform == "win32":
        signal.raise_signal(signal.SIGBREAK)
