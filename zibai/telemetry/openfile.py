"""An open file: its locks, whether its path still names it, and the outputs that are redirected with it.

On POSIX the lock is on the file itself (``flock``). On Windows it is on a file beside it.
"""

import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any, Final

if sys.platform == "win32":
    import msvcrt
else:
    import fcntl

LONGEST_TURN: Final = 1.0
"""Seconds that a record waits on Windows while another record is written; then it is written without the lock."""


def open_at_once(path: str, flags: int) -> int:
    """Open a file, and do not wait for a reader if it is a FIFO: that is ENXIO, and the record is lost.

    A thread that waits holds the lock of the handler, and then everything that logs stands still.
    """
    if sys.platform == "win32":
        return os.open(path, flags, 0o666)
    file = os.open(path, flags | os.O_NONBLOCK, 0o666)
    os.set_blocking(file, True)
    return file


def let_outputs_follow(old: os.stat_result, new: Any) -> None:
    """Redirect the outputs of this process from the old file to the new one: a daemon prints into its log."""
    for output in (1, 2):
        with suppress(OSError):  # it is closed
            if os.path.samestat(os.fstat(output), old):
                os.dup2(new.fileno(), output)


def is_named(path: str, file: Any) -> bool:
    """Whether ``path`` still names the open file, which may have been moved."""
    try:
        return os.path.samestat(os.stat(path), os.fstat(file if isinstance(file, int) else file.fileno()))
    except OSError:
        return False


def lock(file: Any, *, exclusive: bool = False) -> bool:
    """Try to lock an open file, exclusively or shared; raises OSError where the system has no locks."""
    if sys.platform != "win32":
        try:
            fcntl.flock(file, (fcntl.LOCK_EX if exclusive else fcntl.LOCK_SH) | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
    return True


def is_locked(path: str) -> bool:
    """Whether a process has locked the file, or may have, on a file system without locks. Two that ask at the same
    moment may see each other. For POSIX.
    """
    try:
        file = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_NOFOLLOW", 0))
    except OSError:
        return False
    try:
        return not lock(file, exclusive=True)
    except OSError:
        return True
    finally:
        os.close(file)


def unlock(file: Any) -> None:
    """Release the lock of an open file."""
    if sys.platform != "win32":
        with suppress(OSError):
            fcntl.flock(file, fcntl.LOCK_UN)


@contextmanager
def turn_beside(path: str) -> Iterator[bool]:
    """Hold a lock on a file beside ``path``, for Windows. Yields False if that took too long."""
    with open(path + ".lock", "ab") as file:
        until = time.monotonic() + LONGEST_TURN
        while not (is_ours := _lock_byte(file.fileno())) and time.monotonic() < until:
            time.sleep(0.001)  # msvcrt.LK_LOCK would try only once a second
        yield is_ours  # closing the file ends the lock


def _lock_byte(file: int) -> bool:
    if sys.platform == "win32":
        try:
            os.lseek(file, 0, os.SEEK_SET)
            msvcrt.locking(file, msvcrt.LK_NBLCK, 1)
        except OSError:
            return False
        return True
    return lock(file, exclusive=True)
