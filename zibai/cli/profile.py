"""The command zibai profile: a profile of the workers of a server, as a flame graph and as a file of speedscope.

The workers sample themselves (:mod:`zibai.server.sampling`), so neither root nor ptrace is needed, nor another
program in the container.
"""

import argparse
import json
import os
import sys
from collections.abc import Iterator, Sequence
from datetime import datetime
from math import isfinite
from typing import Any

from ..errors import ZibaiError
from ..version import __version__
from . import flame, speedscope
from .find import Found, add_arguments, find_one, run_command
from .steer import Parser, ask

TEXT = "Sample what the workers execute, and write a flame graph (SVG) and a file for speedscope."


def profile(argv: Sequence[str]) -> int:
    """The command ``zibai profile``; returns its exit code, as :func:`zibai.cli.steer.steer` does."""
    parser = Parser(prog="zibai profile", description=TEXT, allow_abbrev=False)
    parser.add_argument("seconds", metavar="SECONDS", type=_seconds, help="how long, at most 600")
    add_arguments(parser)
    parser.add_argument("--pid", type=int, help="sample only this worker (default: all)")
    parser.add_argument(
        "--output",
        metavar="PATH",
        help="where to write: PATH.svg and PATH.speedscope.json, or only one of them when PATH ends so (default: "
        "zibai-PID-TIME in the current directory)",
    )
    parser.add_argument("--json", action="store_true", help="print each line of the response as JSON")
    args = parser.parse_args(argv)
    if len(args.words) > 1:
        parser.error("too many arguments; a port is written as :8000")
    try:
        return run_command("profile", lambda: _run(args))
    except KeyboardInterrupt:
        sys.stderr.write("zibai profile: aborted; nothing is written, and the workers stop sampling\n")
        return 130


def _seconds(text: str) -> float:
    try:
        seconds = float(text.removesuffix("s"))
    except ValueError:
        seconds = 0.0
    if not isfinite(seconds) or seconds <= 0:
        raise argparse.ArgumentTypeError(f"{text!r} is no number of seconds; write zibai profile 30 :8000")
    return seconds


def _run(args: argparse.Namespace) -> int:
    server = find_one(args, args.words[0] if args.words else None)
    picture, scope = _paths(args.output, server.pid)
    found: dict[int, dict[str, Any]] = {}
    for line in ask(args, server, "profile", seconds=args.seconds, pid=args.pid):
        if "begun" in line:
            _say(args, f"sampling {len(line['begun'])} {_plural('worker', line['begun'])} for {args.seconds:g} s")
        elif "profile" in line:
            found[line["pid"]] = line["profile"]
            _say(args, _summary(line["pid"], line["profile"]))
        elif "missing" in line:
            _say(args, f"worker {line['pid']}: no samples, since {line['missing']}")
    if not found:
        raise ZibaiError("no worker has sent samples, so nothing is written")
    for path in _write(server, found, picture, scope):
        _say(args, f"written: {path}")
    return 0


def _plural(word: str, items: Sequence[object]) -> str:
    return word if len(items) == 1 else f"{word}s"


def _paths(output: str | None, pid: int) -> tuple[str, str]:
    """The paths of the picture and of the file of speedscope, empty for one that is not wanted. Raises ZibaiError.

    So a missing directory is noticed at once, and not when the time of the profile has passed.
    """
    base = output or f"zibai-{pid}-{datetime.now().astimezone():%Y%m%d-%H%M%S}"
    directory = os.path.dirname(os.path.abspath(base))
    if not os.access(directory, os.W_OK | os.X_OK) or not os.path.isdir(directory) or os.path.isdir(base):
        raise ZibaiError(f"--output: cannot write to {base}")
    if base.endswith(".svg"):
        return base, ""
    if base.endswith(".json"):
        return "", base
    return f"{base}.svg", f"{base}.speedscope.json"


def _summary(pid: int, found: dict[str, Any]) -> str:
    looks = max(1, found["looks"])
    cost = found["cpu"] / max(found["seconds"], 0.001)
    return (
        f"worker {pid}: {found['looks']} samples in {found['seconds']:.1f} s; a request was running in "
        f"{found['busy'] / looks:.0%} of them; sampling used {cost:.1%} of a processor"
    )


def _write(server: Found, found: dict[int, dict[str, Any]], picture: str, scope: str) -> Iterator[str]:
    """Write the files; yields the path of each. Raises ZibaiError."""
    app = server.facts.get("app", "")
    seconds = max(each["seconds"] for each in found.values())
    looks = sum(each["looks"] for each in found.values())
    busy = sum(each["busy"] for each in found.values())
    subtitle = (
        f"{len(found)} {_plural('worker', list(found))}, {seconds:.1f} s, {looks} samples; a request was running in "
        f"{busy / max(1, looks):.0%} of them. Width is time; threads that waited for work are left out."
    )
    name = f"{app}, process {server.pid}"
    if picture:
        yield _write_file(picture, flame.draw(name, subtitle, found))
    if scope:
        yield _write_file(scope, json.dumps(speedscope.describe(name, found, __version__)))


def _write_file(path: str, text: str) -> str:
    """Write a file; returns its path. Raises ZibaiError."""
    try:
        with open(path, "w", encoding="utf-8") as file:
            file.write(text)
    except OSError as error:
        raise ZibaiError(f"--output: cannot write {path}: {error.strerror}") from None
    return path


def _say(args: argparse.Namespace, text: str) -> None:
    if not args.json:
        sys.stdout.write(text + "\n")
        sys.stdout.flush()
