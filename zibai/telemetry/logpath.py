"""The path of a log file, checked before the log is configured, so that a wrong one is an error in one line."""

import errno
import os
import stat
import sys
from typing import Final

from ..errors import UsageError

_OUTPUTS: Final = ("/dev/std", "/dev/fd/", "/proc/self/fd/")
"""Paths of open files, which the system opens anew: not as another user, and no socket, such as that of systemd."""

_REMEDIES: Final = {
    "--access-log": "; write --access-log - for standard output",
    "--log-file": "; leave it out, since the log goes to standard error",
}

_pipes: Final[list[int]] = []
"""Open pipes. The reader of a pipe takes the close of its last writer for the end, so they stay open as long as this
process. Only the main thread adds to them, before it serves."""


def prepare(path: str, rotated: bool, owner: tuple[int, int] | None = None, *, flag: str = "--log-file") -> None:
    """Make sure that this user can write the log file that ``flag`` names; raises UsageError, in one line, otherwise.

    With an ``owner``, this process is root and is going to become that user. A missing file is then made and given to
    the owner. A file that exists is not touched: if the owner may write to the directory, it can be a link, which root
    must not follow. Call the function again as the owner.
    """
    # Without waiting, since a pipe that nobody reads can be opened only when somebody does.
    flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | getattr(os, "O_NONBLOCK", 0)
    try:
        try:
            file = os.open(path, flags | os.O_EXCL, 0o666)
            if owner is not None and sys.platform != "win32":
                os.fchown(file, *owner)
        except FileExistsError:
            if owner is not None:
                return
            file = os.open(path, flags)
        mode = os.fstat(file).st_mode
        if stat.S_ISFIFO(mode):
            _pipes.append(file)
        else:
            os.close(file)
    except OSError as error:
        why = "it is a pipe that nobody reads, or a socket" if error.errno == errno.ENXIO else error.strerror
        remedy = _REMEDIES[flag] if path.startswith(_OUTPUTS) else ""
        raise UsageError(f"{flag}: {path!r} cannot be written: {why}{remedy}") from error
    if owner is None and rotated and stat.S_ISREG(mode) and not _may_rename(path):
        raise UsageError(f"--log-max-bytes: no permission to rename {path!r}; put it into a directory of this user")


def _may_rename(path: str) -> bool:
    return os.access(os.path.dirname(os.path.abspath(path)), os.W_OK | os.X_OK)
