"""The terminal of a person at a prompt: its settings, and which processes react to its Ctrl-C."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any


def leave() -> None:
    """Leave the foreground group of the terminal, so that Ctrl-C reaches the prompt and not this worker."""
    if sys.platform == "win32":
        import ctypes

        ctypes.windll.kernel32.SetConsoleCtrlHandler(None, True)
    else:
        os.setpgid(0, 0)


class Stdin:
    """The terminal of a parent, as an argument for a worker: multiprocessing gives workers /dev/null as standard input.

    ``breakpoint()`` in the application needs the terminal. The parent makes the object; in the worker, ``restore`` puts
    the terminal back.
    """

    def __init__(self, file: int = 0) -> None:
        self._file = file

    @classmethod
    def of_this_process(cls) -> "Stdin | None":
        """None if standard input is no terminal, and on Windows."""
        try:
            is_terminal = sys.platform != "win32" and sys.stdin.isatty() and sys.stdin.fileno() == 0
        except (AttributeError, OSError, ValueError):  # closed, or replaced by another object
            return None
        return cls() if is_terminal else None

    def __reduce__(self) -> Any:
        return _saved, ()

    def restore(self) -> None:
        os.dup2(self._file, 0)
        os.close(self._file)
        sys.stdin = open(0, closefd=False)  # noqa: SIM115 -- it stays open


def _saved() -> Stdin:
    """Called in a spawned process when it reads its arguments: multiprocessing closes descriptor 0 after that."""
    return Stdin(os.dup(0))


def hear_ctrl_c() -> None:
    """Let this process react to Ctrl-C again, if it was started within :func:`ctrl_c_held_back`."""
    if sys.platform == "win32":
        import ctypes

        ctypes.windll.kernel32.SetConsoleCtrlHandler(None, False)


def has_terminal() -> bool:
    """Whether this process has a controlling terminal that is open."""
    if sys.platform == "win32":
        return False
    try:
        os.close(os.open("/dev/tty", os.O_RDWR | os.O_NOCTTY))
    except OSError:
        return False
    return True


def hears_ctrl_c() -> bool:
    """Whether this process reacts to Ctrl-C. On Windows its own parent may have prevented that (``start /b``)."""
    if sys.platform == "win32":
        import ctypes

        # SetConsoleCtrlHandler(None, ...) sets a flag for which there is no function that reads it:
        # PEB.ProcessParameters->ConsoleFlags.
        pointer = ctypes.sizeof(ctypes.c_void_p)
        block = ctypes.windll.ntdll.RtlGetCurrentPeb
        block.restype = ctypes.c_void_p
        parameters = ctypes.c_void_p.from_address(block() + 4 * pointer).value or 0
        return not ctypes.c_uint32.from_address(parameters + 16 + pointer).value & 1
    return True


@contextmanager
def ctrl_c_held_back() -> Iterator[None]:
    """On Windows, processes that are started within this block ignore Ctrl-C until they call :func:`hear_ctrl_c`.

    For that short time this process ignores it, too.
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
    """Restore the settings of the terminal at the end: a process that was killed may have left others."""
    if sys.platform == "win32":
        yield
        return
    import termios

    try:
        fd = sys.stdin.fileno()
        before = termios.tcgetattr(fd)
    except (AttributeError, OSError, ValueError, termios.error):
        yield  # no terminal
        return
    try:
        yield
    finally:
        # The system stops a background process that changes the terminal.
        with suppress(OSError, termios.error):  # it has been hung up
            if os.tcgetpgrp(fd) == os.getpgrp():
                termios.tcsetattr(fd, termios.TCSANOW, before)
