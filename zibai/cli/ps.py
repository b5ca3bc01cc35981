"""The command zibai ps: what the workers of running servers do."""

import argparse
import json
import os
import sys
from collections.abc import Sequence

from ..telemetry.board_file import default_paths, directories, is_served, reason
from ..telemetry.board_view import describe, table
from ..telemetry.scoreboard import Scoreboard


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
        # The reader has closed the pipe, as in `zibai ps | head`; the exit must not flush the rest into it.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    return code


def _show(args: argparse.Namespace) -> int:
    found = False
    for path in [args.control] if args.control else default_paths():
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
