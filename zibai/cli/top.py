"""The command zibai top: the data of ``zibai ps``, live.

It reads the scoreboard of the server, so watching costs the server nothing. Only for the stack of a worker or request
does it ask the server, through the control channel. At the end the settings of the terminal are restored in any case.
"""

import argparse
import os
import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from io import TextIOWrapper
from time import monotonic
from types import FrameType
from typing import TYPE_CHECKING, Any, Final

from ..errors import ZibaiError
from ..telemetry.rates import compare, processor
from .find import Found, add_arguments, find_one, run_command
from .keys import Keyboard
from .steer import Parser, ask

if TYPE_CHECKING:
    from .view import Display, Item, Screen

SIZE_CHECK_INTERVAL: Final = 0.25
"""Seconds after which the size of the terminal is looked at again."""


def top(argv: Sequence[str]) -> int:
    """The command ``zibai top``; returns its exit code: 0 when the user or the server has ended it."""
    parser = Parser(prog="zibai top", description="What a server does, live.", allow_abbrev=False)
    add_arguments(parser)
    parser.add_argument(
        "--interval", type=float, default=1.0, metavar="SECONDS", help="seconds between two looks (default: 1)"
    )
    args = parser.parse_args(argv)
    if len(args.words) > 1:
        parser.error("too many arguments; a port is written as :8000")
    if not 0.1 <= args.interval <= 60:
        parser.error("--interval is from 0.1 to 60 seconds")
    try:
        return run_command("top", lambda: _run(args))
    except (KeyboardInterrupt, EOFError):
        return 0


def _run(args: argparse.Namespace) -> int:
    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        raise ZibaiError("this is no terminal; zibai ps shows the same once, and zibai ps --json as data")
    if os.environ.get("TERM", "").lower() in ("dumb", "unknown"):
        raise ZibaiError("this terminal cannot move its cursor; zibai ps shows the same once")
    from .view import Display, Screen  # raises MissingExtra

    server = find_one(args, args.words[0] if args.words else None)
    try:
        watch = Watch(server)
    except (OSError, ValueError):
        raise ZibaiError(f"{server} has ended") from None
    if isinstance(sys.stdout, TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # not every terminal has the characters of the bars
    with _signals(), Keyboard() as keyboard, Display() as display:
        why = _loop(watch, keyboard, display, Screen(), args)
    if why:
        sys.stdout.write(why + "\n")
    return 0


class Watch:
    """The last two looks at a server."""

    def __init__(self, server: Found) -> None:
        self.server = server
        self.now = server.describe()
        self._before = self.now
        self.rates: dict[str, Any] = compare(self.now, self.now)
        self.cpu: dict[int, float] = {}

    def look(self) -> str:
        """Look again. Returns why the server cannot be shown any more, empty if it can."""
        if not self.server.runs():
            return f"{self.server} has ended"
        try:
            described = self.server.describe()
        except (OSError, ValueError):
            return f"{self.server} has ended"
        if described["pid"] != self.server.pid:
            return f"{self.server} is replaced by process {described['pid']}"
        self._before, self.now = self.now, described
        self.rates, self.cpu = compare(self._before, self.now), processor(self._before, self.now)
        return ""


def _loop(watch: Watch, keyboard: Keyboard, display: "Display", screen: "Screen", args: argparse.Namespace) -> str:
    """Show the server until the user leaves or the server ends. Returns why it has ended, if so."""
    due = monotonic() + args.interval
    while True:
        size = display.size
        display.draw(screen.lines(watch.now, watch.rates, watch.cpu, size))
        key = ""
        while not key and display.size == size and (left := due - monotonic()) > 0:
            key = keyboard.read(min(SIZE_CHECK_INTERVAL, left))
        wish = screen.press(key)
        if wish == "quit":
            return ""
        if wish == "stack" and screen.chosen is not None:
            title = f"worker {screen.chosen.pid}" + (f": {screen.chosen.what}" if screen.chosen.what else "")
            screen.show(title, "asking the worker ...")
            display.draw(screen.lines(watch.now, watch.rates, watch.cpu, size))
            screen.show(title, _stack(watch.server, screen.chosen, args))
        if monotonic() >= due:
            if why := watch.look():
                return why
            screen.history.append(watch.rates["rate"])
            due = monotonic() + args.interval


def _stack(server: Found, item: "Item", args: argparse.Namespace) -> str:
    """The stacks of a worker, or only that of a request, if it still runs; or why there are none."""
    quiet = argparse.Namespace(**{**vars(args), "json": False})
    try:
        text = "\n".join(line["text"] for line in ask(quiet, server, "dump", pid=item.pid) if "pid" in line)
    except ZibaiError as error:
        return str(error)
    if not item.what:
        return text
    found = [block for block in blocks(text) if block.startswith(f"{item.what} for ")]
    return "\n\n".join(found) if found else f"the request has ended; what the worker executes:\n\n{text}"


def blocks(text: str) -> list[str]:
    """The parts of a dump: a line that is not indented begins a new one."""
    found: list[str] = []
    for line in text.splitlines():
        if line.startswith(" ") and found:
            found[-1] += f"\n{line}"
        else:
            found.append(line)
    return found


@contextmanager
def _signals() -> Iterator[None]:
    """Within the block, a signal for the end leaves it in order, so that the terminal is set back."""

    def leave(number: int, frame: FrameType | None) -> None:
        sys.exit(128 + number)

    names = [name for name in ("SIGTERM", "SIGHUP", "SIGBREAK") if hasattr(signal, name)]
    before = {name: signal.signal(getattr(signal, name), leave) for name in names}
    try:
        yield
    finally:
        for name, handler in before.items():
            signal.signal(getattr(signal, name), handler)
