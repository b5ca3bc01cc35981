"""``--pid-file``: where the process id of the server stands, for those who send it signals.

Another server that runs keeps its file. :func:`check` looks before anything is bound, so that its process id is what
the user hears of; :func:`held` looks again, and writes when the addresses are ours, which two servers cannot both say.
A file is taken over when its process is gone, when it is ourselves (in a container the numbers come again), and when it
is our parent: a server that was started by the one that it replaces. Should it end first, it gives the file back.

The directory may be closed to the user who serves; then the file, which is his, is emptied in the end and not removed.
"""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from ..errors import ZibaiError
from .machine import is_alive


def check(path: str, predecessor: int) -> int | None:
    """The process id in the file, if any; :class:`ZibaiError` when the file has to stay as it is.

    ``predecessor`` is the process that may be replaced: the parent of the command.
    """
    try:
        # As bytes: who has become a user that may not read Python's own files finds no module for an encoding.
        with open(path, "rb") as file:
            text = file.read(100).strip()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise _unusable(path, error) from error
    if not text:
        return None
    if not text.isdigit():
        raise ZibaiError(f"--pid-file: {path!r} is something else than a file with a process id; move it away")
    pid = int(text)
    if pid not in (os.getpid(), predecessor) and 0 < pid < 2**31 and is_alive(pid):
        raise ZibaiError(f"--pid-file: {path!r} is that of process {pid}, which runs; end it, or name another file")
    return pid


@contextmanager
def held(path: str, predecessor: int, owner: tuple[int, int] | None = None) -> Iterator[None]:
    """Write the file, and remove it in the end if it is still ours; ``owner`` is who will be allowed to."""
    replaced = check(path, predecessor)
    path = os.path.abspath(path)
    try:
        _write(path, os.getpid(), owner)
    except OSError as error:
        raise _unusable(path, error) from error
    try:
        yield
    finally:
        with suppress(ZibaiError, OSError):  # somebody has made something else of it
            if check(path, os.getpid()) == os.getpid():
                # As long as it is our parent it is the process that it was, and no other with its number.
                if replaced is not None and replaced == predecessor == os.getppid():
                    _write(path, replaced, None)
                else:
                    _remove(path)


def _write(path: str, pid: int, owner: tuple[int, int] | None) -> None:
    """At once, so that nobody reads half of a number."""
    text = f"{pid}\n".encode()
    draft = f"{path}.{os.getpid()}"
    try:
        with suppress(FileNotFoundError):
            os.unlink(draft)  # of one that had our number and was killed
        file = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644)
    except PermissionError:
        # A directory of root's: what can be written there is the file itself, if it is ours.
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
