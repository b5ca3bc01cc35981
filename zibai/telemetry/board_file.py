"""Where the scoreboard of a running server lies, for ``zibai ps``.

The file is found by its path, ``--control``, or by its name in a directory that only its user may write to: the runtime
directory of the user, or a private directory below the one for temporary files, where any user could take the name
first. A reader needs no reply from the server, so it works even while the server hangs. A file whose server has ended
is ignored.

If the file cannot be made, the server logs that and runs. Its scoreboard is then in memory without a name (on Windows
in a file of another name), so that the supervision of workers does not depend on other users or on a full disk.
"""

import os
import stat
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from ..logger import logger
from ..system.machine import is_alive, is_foreign
from .openfile import is_locked
from .scoreboard import ASIDE, HIDDEN, OtherVersion, Scoreboard

if sys.platform == "win32":
    import _winapi

PREFIX, SUFFIX = "zibai-", ".board"


def directories() -> list[Path]:
    """Where the servers of this user put their scoreboards."""
    if (runtime := _runtime()) is not None:
        return [runtime]
    try:
        common = Path(tempfile.gettempdir())
    except OSError:
        return []  # a read-only system without a directory for temporary files
    if sys.platform == "win32":
        return [common]  # it belongs to this user
    return list(_private_directories(common, os.geteuid()))


def _runtime() -> Path | None:
    """The runtime directory, if there is one and this user may write to it."""
    runtime = os.environ.get("XDG_RUNTIME_DIR", "")
    return Path(runtime) if os.path.isdir(runtime) and os.access(runtime, os.W_OK) else None


def _private_directories(common: Path, uid: int) -> Iterator[Path]:
    """The private directories of this user in it, the one without a random name first."""
    names = [common / f"{PREFIX}{uid}", *sorted(common.glob(f"{PREFIX}{uid}-*"))]
    return (path for path in names if _is_private(path, uid))


def _is_private(path: Path, uid: int) -> bool:
    """Whether it is a directory, not a link, to which only this user may write."""
    try:
        info = path.lstat()
    except OSError:
        return False
    return stat.S_ISDIR(info.st_mode) and info.st_uid == uid and not info.st_mode & 0o022


def default_path(name: str) -> str:
    """The path of a server's scoreboard; raises OSError without a directory for it. ``name`` is the process's."""
    return os.path.join(_runtime() or _private_directory(), f"{PREFIX}{name}{SUFFIX}")


def _private_directory() -> str:
    """A directory for the files of this user. If another user has taken its name, it gets a random one."""
    common = tempfile.gettempdir()
    if sys.platform == "win32":
        return common
    uid = os.geteuid()
    for there in _private_directories(Path(common), uid):
        return str(there)
    path = os.path.join(common, f"{PREFIX}{uid}")
    try:
        os.mkdir(path, 0o700)
    except FileExistsError:
        path = tempfile.mkdtemp(prefix=f"{PREFIX}{uid}-", dir=common)
    return path


def create(
    path: str, workers: int, slots: int, facts: dict[str, Any], predecessor: int = 0, loops: int = 1
) -> Scoreboard:
    """Make the file of the scoreboard, and replace one whose server has ended; raises OSError, in words.

    The file of ``predecessor``, a process that this one replaces, is moved aside.
    """
    try:
        return Scoreboard.create(path, workers, slots, facts, loops)
    except FileExistsError:
        try:
            pid, namespace = _owner(path)
        except ValueError as error:
            raise OSError(str(error)) from None
    if pid == predecessor and not is_foreign(namespace):
        os.replace(path, path + ASIDE)
    elif (pid != os.getpid() or is_foreign(namespace)) and is_served(path, pid, namespace):
        raise OSError(f"{path} belongs to process {pid}")
    else:
        os.unlink(path)
    return Scoreboard.create(path, workers, slots, facts, loops)


def _owner(path: str) -> tuple[int, int]:
    """The process of the server of a scoreboard, and its PID namespace, 0 if that is not known; raises OSError or
    ValueError."""
    try:
        board = Scoreboard.open(path)
    except OtherVersion as other:
        return other.pid, 0
    board.release()
    return board.pid, board.namespace


def reason(error: OSError | ValueError) -> str:
    """What is wrong with ``--control``, without the path that errors of the system repeat."""
    return f"--control: {error.strerror}" if isinstance(error, OSError) and error.strerror else str(error)


@contextmanager
def open_board(
    path: str | None,
    name: str,
    workers: int,
    slots: int,
    facts: dict[str, Any],
    predecessor: int = 0,
    loops: int = 1,
) -> Iterator[Scoreboard | None]:
    """A scoreboard in the file that :func:`create` makes: at ``path``, or by its ``name``. It has room for ``workers``,
    each with ``loops`` rows.

    If no file can be made, it is in memory without a name, or None if there is no room for that either: serving is more
    important than ``zibai ps``.
    """
    try:
        if path is None:
            tidy()
        board: Scoreboard | None = create(path or default_path(name), workers, slots, facts, predecessor, loops)
    except OSError as error:
        why = reason(error) if path else f"{error.strerror or error}; name a place for it by --control"
        logger.warning("no file for zibai ps: %s", why)
        board = Scoreboard.anonymous(workers, slots, facts, loops)
    if board is None:
        logger.warning("no memory for the state of the workers, so workers that hang are not noticed")
        yield None
        return
    try:
        yield board
    finally:
        board.close()


def is_served(path: str, pid: int, namespace: int) -> bool:
    """Whether the server of a scoreboard still runs: process ``pid`` of this PID ``namespace``.

    This process must not have the file open.
    """
    if sys.platform == "win32":
        # Windows soon gives the id of a dead process to another one. But an open file cannot be removed there.
        try:
            shared, existing, delete = 7, 3, 0x10000  # FILE_SHARE_*, OPEN_EXISTING, DELETE
            _winapi.CloseHandle(_winapi.CreateFile(path, delete, shared, 0, existing, 0, 0))
        except OSError:
            return True
        return False
    return is_locked(path) if is_foreign(namespace) else is_alive(pid)


def tidy() -> None:
    """Remove the files that killed servers have left."""
    for path in default_paths():
        try:
            if not is_served(path, *_owner(path)):
                os.unlink(path)
        except (OSError, ValueError):
            continue  # it belongs to another user, or is being made
    if sys.platform == "win32":
        for folder in directories():
            for hidden in folder.glob(f"{PREFIX}*{HIDDEN}"):
                with suppress(OSError):  # its server runs: an open file cannot be removed there
                    hidden.unlink()


def default_paths() -> list[str]:
    """The scoreboards of this user, for ``zibai ps``. Files and links of other users are not opened."""
    files = (path for folder in directories() for path in folder.glob(f"{PREFIX}*{SUFFIX}"))
    return sorted(str(path) for path in files if _is_ours(path))


def _is_ours(path: Path) -> bool:
    try:
        info = path.lstat()
    except OSError:
        return False  # removed since
    return stat.S_ISREG(info.st_mode) and (sys.platform == "win32" or info.st_uid == os.geteuid())
