"""Which server a command is for: named by its file, pid file, address or application, or the only one."""

import argparse
import os
import sys
from collections.abc import Callable
from typing import Any, NamedTuple

from ..errors import ZibaiError
from ..telemetry.board_file import default_paths, directories, is_served, reason
from ..telemetry.board_view import describe
from ..telemetry.scoreboard import Scoreboard


class Found(NamedTuple):
    """A running server: the path and the contents of its scoreboard."""

    path: str
    pid: int
    namespace: int
    facts: dict[str, Any]

    @property
    def endpoint(self) -> str:
        """The address of its control channel; raises ZibaiError if it has none."""
        if not self.facts.get("endpoint"):
            raise ZibaiError(f"process {self.pid} has no control channel")
        return str(self.facts["endpoint"])

    def runs(self) -> bool:
        """Whether it has not ended."""
        return is_served(self.path, self.pid, self.namespace)

    def describe(self) -> dict[str, Any]:
        """The present contents of its scoreboard, as plain values; raises OSError or ValueError."""
        board = Scoreboard.open(self.path)
        try:
            return describe(board)
        finally:
            board.release()

    def __str__(self) -> str:
        return f"process {self.pid} ({self.facts.get('app', '')}, {' '.join(self.facts.get('listen', []))})"


def _leave_pipe() -> None:
    """After the reader of standard output has left, as in ``zibai ps | head``: let the exit not write the rest."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def run_command(name: str, run: Callable[[], int]) -> int:
    """Run a command; returns its exit code. An error is one line and 1; a reader that has left is no error."""
    try:
        code = run()
        sys.stdout.flush()
        return code
    except ZibaiError as error:
        sys.stderr.write(f"zibai {name}: error: {error}\n")
        return 1
    except BrokenPipeError:
        _leave_pipe()
        return 0


def add_arguments(parser: argparse.ArgumentParser, target: str = "SERVER") -> None:
    """The ways to name a server."""
    parser.add_argument(
        "words",
        metavar=target,
        nargs="*",
        default=[],
        help="its address (:8000) or its application (default: the only one)",
    )
    parser.add_argument("--control", metavar="PATH", help="the server with this file")
    parser.add_argument("--pid-file", metavar="PATH", help="the server that has written this file")


def find_all(args: argparse.Namespace, name: str | None) -> list[Found]:
    """The servers of this user that match ``args`` and ``name``; raises ZibaiError if there is none."""
    pid = None if args.pid_file is None else _read_pid(args.pid_file)
    if args.control:
        found = [_look(args.control)]
    else:
        found = []
        for path in default_paths():
            try:
                found.append(_look(path))
            except ZibaiError:
                continue  # its server is gone
    found = [each for each in found if pid in (None, each.pid) and (name is None or _is_called(each, name))]
    if not found and not args.control:
        places = " and ".join(map(str, directories())) or "any directory of this user"
        what = "no server is found" if name is None and pid is None else f"no server {name or pid} is found"
        raise ZibaiError(f"{what} in {places}; name its file with --control PATH")
    if not found:
        raise ZibaiError(f"the server of {args.control} is not the one that is meant")
    return found


def find_one(args: argparse.Namespace, name: str | None) -> Found:
    """The only server that is meant; raises ZibaiError if there are several."""
    found = [each for each in find_all(args, name) if each.facts.get("endpoint") is not None]
    if len(found) > 1:
        lines = "".join(f"\n  {each}" for each in found)
        raise ZibaiError(f"several servers run; name one by its address, or by --control or --pid-file:{lines}")
    if not found:
        raise ZibaiError("only supervised functions run, which have no control channel")
    return found[0]


def _look(path: str) -> Found:
    try:
        board = Scoreboard.open(path)
    except (OSError, ValueError) as error:
        raise ZibaiError(reason(error)) from None
    board.release()
    found = Found(path, board.pid, board.namespace, board.facts)
    if not found.runs():
        raise ZibaiError(f"the server of {path}, process {found.pid}, is gone")
    return found


def _is_called(server: Found, name: str) -> bool:
    """Whether it listens at an address like ``:8000`` or ``unix:/run/s``, or serves an application of this name."""
    addresses = [str(each) for each in server.facts.get("listen", [])]
    if server.facts.get("app") == name or name in addresses:
        return True
    ends = [address.partition("://")[2] or address for address in addresses]
    return any(end == name or (name.startswith(":") and end.endswith(name)) for end in ends)


def _read_pid(path: str) -> int:
    try:
        with open(path, "rb") as file:
            return int(file.read(100))
    except OSError as error:
        raise ZibaiError(f"--pid-file: {error.strerror}") from None
    except ValueError:
        raise ZibaiError(f"--pid-file: {path} has no process id") from None
