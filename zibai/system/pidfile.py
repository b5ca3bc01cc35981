"""``--pid-file``: a file with the process id of the server, to which signals are sent.

A file of another server that runs is kept. :func:`check` looks before any address is bound, so that the error message
names that process. :func:`written` looks again, and writes once the addresses are bound: only one server can do that. A
file is taken over if its process has ended, or was started after the file was written, if it is this process (in a
container ids are used again), or if it is the parent of this process: a server that an upgrade replaces. If this
process ends first, it writes the old id again. Both may end at the same time. So the old server says that it ends
before it looks at the file for the last time, and this process asks once more after it has written: one of them sees
what the other did, and removes the file.

The user of the server may be unable to write to the directory. Then the file, which belongs to that user, is emptied at
the end and not removed.
"""

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Final

from ..errors import ZibaiError
from .machine import is_alive, start_time

YOUNGER: Final = 2.0
"""Seconds between a file and the start of a process that cannot have written it. The kernel tells the second in which
the machine was started, and adjusts it with the clock."""


def check(path: str, predecessor: int) -> int | None:
    """The process id in the file, or None; raises :class:`ZibaiError` if the file must not be overwritten.

    ``predecessor`` is the process that may be replaced: the parent of the command.
    """
    try:
        # As bytes: this user may be unable to read Python's own files, so the module of an encoding may be missing.
        with open(path, "rb") as file:
            text, changed = file.read(100).strip(), os.fstat(file.fileno()).st_mtime
    except FileNotFoundError:
        return None
    except OSError as error:
        raise _unusable(path, error) from error
    if not text:
        return None
    if not text.isdigit():
        raise ZibaiError(f"--pid-file: {path!r} is not a file with a process id; move it away")
    pid = int(text)
    if pid not in (os.getpid(), predecessor) and 0 < pid < 2**31 and is_alive(pid) and not _is_younger(pid, changed):
        raise ZibaiError(
            f"--pid-file: {path!r} belongs to process {pid}, which is running; end it, or name another file"
        )
    return pid


def _is_younger(pid: int, changed: float) -> bool:
    """Whether a process was started after the file was ``changed``: it has the id of a server that has ended. After the
    start of a machine, and even more of a container, the ids are the same again."""
    started = start_time(pid)
    return started is not None and started > changed + YOUNGER


@contextmanager
def written(
    path: str,
    predecessor: int,
    owner: tuple[int, int] | None = None,
    is_watching: Callable[[], bool] | None = None,
) -> Iterator[None]:
    """Write the file, and remove it at the end if this process is still in it. ``owner`` is the user and group that
    will remove it. ``is_watching`` tells whether the predecessor still runs, and will look at the file at its end."""
    is_watching = is_watching or (lambda: os.getppid() == predecessor)
    replaced = check(path, predecessor)
    try:
        path = os.path.abspath(path)
        _write(path, os.getpid(), owner)
    except OSError as error:
        raise _unusable(path, error) from error
    try:
        yield
    finally:
        with suppress(ZibaiError, OSError):  # another program has replaced it
            if check(path, os.getpid()) == os.getpid():
                # While that process is the parent of this one, the id still belongs to it.
                gives_back = replaced is not None and replaced == predecessor and is_watching()
                if replaced is not None and gives_back:
                    _write(path, replaced, None)
                if not gives_back or (not is_watching() and check(path, predecessor) == predecessor):
                    _remove(path)


def _write(path: str, pid: int, owner: tuple[int, int] | None) -> None:
    """Write the file in one step, so that no reader sees half of a number."""
    text = f"{pid}\n".encode()
    draft = f"{path}.{os.getpid()}"
    try:
        with suppress(FileNotFoundError):
            os.unlink(draft)  # left by a process that had the same id and was killed
        file = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644)
    except PermissionError:
        # The directory belongs to root: only the file itself can be written, if it belongs to this user.
        if not os.path.exists(path):
            raise
        with open(path, "r+b", buffering=0) as there:
            there.write(text)
            there.truncate()
        return
    try:
        with open(file, "wb") as stream:
            stream.write(text)
            if owner is not None and sys.platform != "win32":
                os.fchown(file, *owner)
        os.replace(draft, path)
    except OSError:
        os.unlink(draft)
        raise


def _remove(path: str) -> None:
    try:
        os.unlink(path)
    except PermissionError:
        os.truncate(path, 0)


def _unusable(path: str, error: OSError) -> ZibaiError:
    return ZibaiError(f"--pid-file: {path!r} cannot be used: {error.strerror}")
