"""The terminal, when a person sits at it: what it is set to, and to whom its Ctrl-C goes."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress


def leave() -> None:
    """Let this process not hear the terminal's Ctrl-C: it is for who sits at a prompt, and not for a worker.

    On POSIX it goes to the group of processes in the foreground.
    """
    if sys.platform == "win32":
        import ctypes

        ctypes.windll.kernel32.SetConsoleCtrlHandler(None, True)
    else:
        os.setpgid(0, 0)


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
