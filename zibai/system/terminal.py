"""The terminal, when a person sits at it: what it is set to, and to whom its Ctrl-C goes."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any


def leave() -> None:
    """Let this process not hear the terminal's Ctrl-C: it is for the person at the prompt, and not for a worker.

    On POSIX it goes to the group of processes in the foreground.
    """
    if sys.platform == "win32":
        import ctypes

        ctypes.windll.kernel32.SetConsoleCtrlHandler(None, True)
    else:
        os.setpgid(0, 0)


class Stdin:
    """The terminal of a parent, on its way to a worker: multiprocessing gives a worker /dev/null to read from.

    A developer who calls ``breakpoint()`` in the application has to be read. Made in the parent; in the worker
    ``restore`` puts it back.
    """

    def __init__(self, file: int = 0) -> None:
        self._file = file

    @classmethod
    def of_this_process(cls) -> "Stdin | None":
        """None where nobody sits at it, and on Windows."""
        try:
            is_terminal = sys.platform != "win32" and sys.stdin.isatty() and sys.stdin.fileno() == 0
        except (AttributeError, OSError, ValueError):  # it is closed, or something else
            return None
        return cls() if is_terminal else None

    def __reduce__(self) -> Any:
        return _saved, ()

    def restore(self) -> None:
        os.dup2(self._file, 0)
        os.close(self._file)
        sys.stdin = open(0, closefd=False)  # noqa: SIM115 -- it stays open


def _saved() -> Stdin:
    """In a spawned process, when its arguments are read: multiprocessing closes descriptor 0 after that."""
    return Stdin(os.dup(0))


def hear_ctrl_c() -> None:
    """Let this process hear Ctrl-C again, when it was started within :func:`ctrl_c_held_back`."""
    if sys.platform == "win32":
        import ctypes

        ctypes.windll.kernel32.SetConsoleCtrlHandler(None, False)


def hears_ctrl_c() -> bool:
    """Whether this process hears Ctrl-C. On Windows it does not when its own parent has said so (``start /b``)."""
    if sys.platform == "win32":
        import ctypes

        # SetConsoleCtrlHandler(None, ...) sets a flag that no function reads: PEB.ProcessParameters->ConsoleFlags.
        pointer = ctypes.sizeof(ctypes.c_void_p)
        block = ctypes.windll.ntdll.RtlGetCurrentPeb
        block.restype = ctypes.c_void_p
        parameters = ctypes.c_void_p.from_address(block() + 4 * pointer).value or 0
        return not ctypes.c_uint32.from_address(parameters + 16 + pointer).value & 1
    return True


@contextmanager
def ctrl_c_held_back() -> Iterator[None]:
    """On Windows, a process that is started in here does not hear Ctrl-C, until it calls :func:`hear_ctrl_c`.

    Neither does this process for that moment, which is short.
    """
    heard = hears_ctrl_c()
    if sys.platform == "win32" and heard:
        leave()
    try:
        yield
    finally:
        if heard:
            hear_ctrl_c()


@contextmanager
def kept() -> Iterator[None]:
    """Afterwards the terminal is set as before, whatever a process has done to it that was ended in the middle."""
    if sys.platform == "win32":
        yield
        return
    import termios

    try:
        fd = sys.stdin.fileno()
        before = termios.tcgetattr(fd)
    except (AttributeError, OSError, ValueError, termios.error):
        yield  # there is none
        return
    try:
        yield
    finally:
        # Who sets it from the background is stopped.
        with suppress(OSError, termios.error):  # it has been hung up
            if os.tcgetpgrp(fd) == os.getpgrp():
                termios.tcsetattr(fd, termios.TCSANOW, before)
