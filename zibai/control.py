"""Where a running server's scoreboard lies, and ``zibai ps``, which reads it.

The file is found by its path, ``--control``, or else by its name in a directory that only its user may write to: the
runtime directory of the user, or a private one below that for temporary files, where anybody could take the name before
us. Nobody is asked: the figures are there also when the server hangs. A file whose server is gone is passed over.

A server without such a file goes on, and says so. Its scoreboard is then in memory that has no name, so that the
supervision of the workers does not depend on what other users, or a full disk, do.
"""

import argparse
import json
import os
import stat
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from .clock import clock
from .logger import logger
from .scoreboard import ASIDE, Report, Scoreboard
from .system.machine import is_alive

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
        return [common]  # it is this user's
    return list(_private_directories(common, os.geteuid()))


def _runtime() -> Path | None:
    """The runtime directory, if there is one and it is this user's to write to."""
    runtime = os.environ.get("XDG_RUNTIME_DIR", "")
    return Path(runtime) if os.path.isdir(runtime) and os.access(runtime, os.W_OK) else None


def _private_directories(common: Path, uid: int) -> Iterator[Path]:
    """Those of this user there, the one without a random name first."""
    names = [common / f"{PREFIX}{uid}", *sorted(common.glob(f"{PREFIX}{uid}-*"))]
    return (path for path in names if _is_private(path, uid))


def _is_private(path: Path, uid: int) -> bool:
    """Whether it is a directory, and no link to one, to which only this user may write."""
    try:
        info = path.lstat()
    except OSError:
        return False
    return stat.S_ISDIR(info.st_mode) and info.st_uid == uid and not info.st_mode & 0o022


def default_path(name: int | str) -> str:
    """Where the server puts its scoreboard; OSError when there is no place. ``name`` is its process id."""
    return os.path.join(_runtime() or _private_directory(), f"{PREFIX}{name}{SUFFIX}")


def _private_directory() -> str:
    """A directory for the files of this user. Where another user has taken its name, it gets a random one."""
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


def create(path: str, rows: int, slots: int, facts: dict[str, Any], predecessor: int = 0) -> Scoreboard:
    """Make the scoreboard's file, in place of one whose server is gone; OSError, in words, when it cannot be.

    That of ``predecessor``, a process whose work this one takes over, is moved aside.
    """
    try:
        return Scoreboard.create(path, rows, slots, facts)
    except FileExistsError:
        try:
            old = Scoreboard.open(path)
        except ValueError as error:
            raise OSError(str(error)) from None
    old.release()
    if old.pid == predecessor:
        os.replace(path, path + ASIDE)
    elif old.pid != os.getpid() and is_served(path, old.pid):
        raise OSError(f"{path} is that of process {old.pid}")
    else:
        os.unlink(path)
    return Scoreboard.create(path, rows, slots, facts)


def reason(error: OSError | ValueError) -> str:
    """What is wrong with ``--control``, without the path that the system's own errors repeat, however long it is."""
    return f"--control: {error.strerror}" if isinstance(error, OSError) and error.strerror else str(error)


@contextmanager
def held(
    path: str | None,
    name: int | str,
    rows: int,
    slots: int,
    facts: dict[str, Any],
    predecessor: int = 0,
) -> Iterator[Scoreboard | None]:
    """A scoreboard in its file, as :func:`create` makes it: at ``path``, or else by its ``name``.

    Where there can be no file it is in memory without a name, and None on a system that has none. A server that runs is
    worth more than ``zibai ps``.
    """
    try:
        if path is None:
            tidy()
        board: Scoreboard | None = create(path or default_path(name), rows, slots, facts, predecessor)
    except OSError as error:
        why = reason(error) if path else f"{error.strerror or error}; name a place for it by --control"
        logger.warning("no file for zibai ps: %s", why)
        board = Scoreboard.anonymous(rows, slots, facts)
    if board is None:
        yield None
        return
    try:
        yield board
    finally:
        board.close()


def is_served(path: str, pid: int) -> bool:
    """Whether the server of a scoreboard, process ``pid``, still runs. This process must not have the file open."""
    if sys.platform == "win32":
        # Windows soon gives the id of a dead process to another one. But nobody can remove a file that is open there.
        try:
            everybody, existing, delete = 7, 3, 0x10000  # FILE_SHARE_*, OPEN_EXISTING, DELETE
            _winapi.CloseHandle(_winapi.CreateFile(path, delete, everybody, 0, existing, 0, 0))
        except OSError:
            return True
        return False
    return is_alive(pid)


def tidy() -> None:
    """Remove what servers that were killed have left in the directories."""
    for path in _default_paths():
        try:
            board = Scoreboard.open(path)
            board.release()
            if not is_served(path, board.pid):
                os.unlink(path)
        except (OSError, ValueError):
            continue  # somebody else's, or one that is being made


# ------------------------------------------------------------------------------------------------ zibai ps


def ps(argv: Sequence[str]) -> int:
    """The command ``zibai ps``; returns its exit code, 1 when no server is found."""
    parser = argparse.ArgumentParser(
        prog="zibai ps", description="What the workers of running servers do.", allow_abbrev=False
    )
    parser.add_argument("--json", action="store_true", help="one JSON object a server, each on a line")
    parser.add_argument("--control", metavar="PATH", help="the server with this file (default: all of this user)")
    args = parser.parse_args(argv)
    try:
        code = _show(args)
        sys.stdout.flush()
    except BrokenPipeError:
        # Who reads has seen enough, as in `zibai ps | head`; what is left must not be flushed again at the exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    return code


def _show(args: argparse.Namespace) -> int:
    found = False
    for path in [args.control] if args.control else _default_paths():
        try:
            board = Scoreboard.open(path)
        except (OSError, ValueError) as error:
            if args.control:
                sys.stderr.write(f"zibai ps: error: {reason(error)}\n")
            continue
        server = describe(board)
        board.release()
        if is_served(path, board.pid):
            found = True
            sys.stdout.write(json.dumps(server) + "\n" if args.json else "\n".join(table(server)) + "\n")
        elif args.control:
            sys.stderr.write(f"zibai ps: error: the server of {path}, process {board.pid}, is gone\n")
    if not found and not args.control:
        places = " and ".join(map(str, directories())) or "any directory of this user"
        sys.stderr.write(f"zibai ps: error: no server is found in {places}; name its file with --control PATH\n")
    return 0 if found else 1


def _default_paths() -> list[str]:
    """The files of this user. What others put there, as links, is not opened."""
    files = (path for folder in directories() for path in folder.glob(f"{PREFIX}*{SUFFIX}"))
    return sorted(str(path) for path in files if _is_ours(path))


def _is_ours(path: Path) -> bool:
    try:
        info = path.lstat()
    except OSError:
        return False  # gone since
    return stat.S_ISREG(info.st_mode) and (sys.platform == "win32" or info.st_uid == os.geteuid())


def describe(board: Scoreboard) -> dict[str, Any]:
    """What ``--json`` prints: plain data, times in seconds ago or since."""
    now = clock()
    workers = [_worker(report, now) for report in (row.read() for row in board.rows()) if report.state]
    return {"pid": board.pid, **board.facts, "up": _past(now, board.started), "workers": workers}


def _worker(report: Report, now: float) -> dict[str, Any]:
    return {
        "pid": report.pid,
        "state": report.state,
        "generation": report.generation,
        "up": _past(now, report.started),
        "beat": _past(now, report.beat) if report.beat else None,
        "cpu": round(report.cpu, 3),
        **report.counters,
        "running": [
            {**_request(each.what), "phase": each.phase, "seconds": _past(now, each.since)} for each in report.running
        ],
        "finished": [
            {
                **_request(each.what),
                "status": each.status,
                "seconds": round(each.ended - each.began, 6),
                "ago": _past(now, each.ended),
            }
            for each in report.finished
        ],
    }


def _past(now: float, then: float) -> float:
    return round(max(0.0, now - then), 3)


def _request(what: str) -> dict[str, str]:
    method, _, path = what.partition(" ")
    return {"method": method, "path": path}


_COLUMNS = ("pid", "state", "up", "beat", "cpu", "requests", "4xx", "5xx", "open", "idle", "busy", "queue")


def table(server: dict[str, Any]) -> Iterator[str]:
    """For people: a line for the server, one for each worker, and one for each request that runs."""
    name = f"zibai {server.get('version', '')}, {server.get('app', '')}"
    yield ", ".join([name, f"process {server['pid']}", f"up {_age(server['up'])}", *server.get("listen", [])])
    columns = _COLUMNS if server.get("listen") else _COLUMNS[:5]  # a supervised function answers no requests
    yield "".join(f"{name:>9}" for name in ("worker", *columns[1:]))
    for worker in server["workers"]:
        yield "".join(f"{_cell(name, worker[name]):>9}" for name in columns)
        for each in worker["running"]:
            yield f"{'':>9}  {each['method']} {each['path']}  {_age(each['seconds'])}, {each['phase']}"


def _cell(name: str, value: Any) -> str:
    if name in ("up", "beat", "cpu"):
        return "-" if value is None else _age(value)
    return str(value)


def _age(seconds: float) -> str:
    """A length of time in the largest units that tell enough: 4.2 s, 12 min, 3.5 h, 2.1 d."""
    if seconds < 100:
        return f"{seconds:.1f} s"
    for size, unit in ((60, "min"), (3600, "h"), (86400, "d")):
        if seconds < 100 * size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds / 86400:.0f} d"
