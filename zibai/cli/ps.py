"""The command zibai ps: the state of the workers of running servers."""

import argparse
import json
import sys
from collections.abc import Sequence

from ..errors import ZibaiError
from ..telemetry.board_view import table
from .find import add_arguments, find_all, run_command


def ps(argv: Sequence[str]) -> int:
    """The command ``zibai ps``; returns its exit code, 1 when no server is found."""
    parser = argparse.ArgumentParser(
        prog="zibai ps", description="What the workers of running servers do.", allow_abbrev=False
    )
    parser.add_argument("--json", action="store_true", help="one JSON object a server, each on a line")
    add_arguments(parser)
    args = parser.parse_args(argv)
    return run_command("ps", lambda: _show(args))


def _show(args: argparse.Namespace) -> int:
    shown, missing = False, ""
    for name in args.words or [None]:
        for each in find_all(args, name):
            try:
                server = each.describe()
            except (OSError, ValueError) as error:
                missing = f"the state of process {each.pid} cannot be read any more: {error}"
                continue  # it has ended since
            shown = True
            sys.stdout.write(json.dumps(server) + "\n" if args.json else "\n".join(table(server)) + "\n")
    if not shown:
        raise ZibaiError(missing)
    return 0
