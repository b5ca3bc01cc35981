"""The commands that steer a running server: ``zibai reload``, ``stop``, ``workers``, ``dump`` and ``reopen``.

They ask the server through its control channel, and print its responses. Exit codes, for scripts that deploy: 0 for
success, 1 if the server is not found, refuses or has ended, 2 for wrong usage, 3 if a restart was aborted.
"""

import argparse
import json
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from typing import Any, Final, NoReturn

from ..errors import ZibaiError
from ..server.endpoint import connect
from .find import Found, add_arguments, find_one, run_command

ABORTED: Final = 3
"""The exit code of ``zibai reload --wait`` when the new code does not start."""

FIRST_RESPONSE: Final = 20.0
"""Seconds that a server has for its first response. If it takes longer, it hangs."""


class Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: error: {message}\n")


def steer(argv: Sequence[str]) -> int:
    """Run ``zibai COMMAND ...``; returns the exit code."""
    command, *rest = argv
    text, prepare = COMMANDS[command]
    parser = Parser(prog=f"zibai {command}", description=text, allow_abbrev=False)
    add_arguments(parser, {"workers": "N|SERVER", "dump": "PID|SERVER"}.get(command, "SERVER"))
    parser.add_argument("--json", action="store_true", help="print each line of the response as JSON")
    run = prepare(parser)
    args = parser.parse_args(rest)
    numbers = [int(word) for word in args.words if word.isdecimal()]
    names = [word for word in args.words if not word.isdecimal()]
    if len(names) > 1 or len(numbers) > (command in ("workers", "dump")):
        parser.error("too many arguments; a port is written as :8000")
    try:
        number, name = numbers[0] if numbers else None, names[0] if names else None
        return run_command(command, lambda: run(args, find_one(args, name), number))
    except KeyboardInterrupt:
        return 130


def ask(args: argparse.Namespace, server: Found, command: str, **fields: Any) -> Iterator[dict[str, Any]]:
    """The lines of the response, printed as JSON if that is wanted. Raises ZibaiError, also for an error in them."""
    first: float | None = FIRST_RESPONSE
    try:
        with closing(connect(server.endpoint)) as channel:
            channel.send({"command": command, "by": f"zibai {command}", **fields})
            while True:
                line = json.loads(channel.receive(first))
                first = None
                if args.json:
                    sys.stdout.write(json.dumps(line) + "\n")
                    sys.stdout.flush()
                if "error" in line and not line.get("aborted"):
                    raise ZibaiError(line["error"])
                yield line
                if "ok" in line or "error" in line:
                    return
    except TimeoutError:
        raise ZibaiError(f"{server} does not respond") from None
    except BrokenPipeError:
        if args.json:
            raise  # standard output
        raise ZibaiError(f"{server} has closed the control channel") from None
    except (OSError, EOFError, ValueError) as error:
        why = "has closed the control channel" if isinstance(error, EOFError) else f"cannot be reached: {error}"
        raise ZibaiError(f"{server} {why}") from None


def _say(args: argparse.Namespace, text: str) -> None:
    if not args.json:
        sys.stdout.write(text + "\n")
        sys.stdout.flush()


Run = Callable[[argparse.Namespace, Found, int | None], int]


def _reload(parser: argparse.ArgumentParser) -> Run:
    parser.add_argument(
        "--wait", action="store_true", help="wait until all workers run the new code; exit code 3 if not"
    )

    def run(args: argparse.Namespace, server: Found, _: int | None) -> int:
        for line in ask(args, server, "reload", wait=args.wait):
            if "event" in line:
                _say(args, line["text"])
            elif "error" in line:
                sys.stderr.write(line.get("trace", "").rstrip("\n") + "\n" if line.get("trace") else "")
                sys.stderr.write(f"zibai reload: error: {line['error']}\n")
                return ABORTED
            elif not args.wait:
                _say(args, "restart begun; the log says when it is done, and so does --wait")
        return 0

    return run


def _stop(parser: argparse.ArgumentParser) -> Run:
    parser.add_argument("--now", action="store_true", help="quick exit: do not let requests finish")
    parser.add_argument("--wait", action="store_true", help="wait until the server has ended")

    def run(args: argparse.Namespace, server: Found, _: int | None) -> int:
        for _line in ask(args, server, "stop", now=args.now):
            _say(args, f"{'quick exit' if args.now else 'graceful shutdown'} of {server} begun")
        while args.wait and server.runs():
            time.sleep(0.05)
        return 0

    return run


def _workers(parser: argparse.ArgumentParser) -> Run:
    def run(args: argparse.Namespace, server: Found, number: int | None) -> int:
        for line in ask(args, server, "workers", number=number):
            _say(args, f"workers wanted: {line['wanted']}")
            for worker in line["workers"]:
                _say(args, f"  {worker['pid']} {worker['state']}")
        return 0

    return run


def _dump(parser: argparse.ArgumentParser) -> Run:
    def run(args: argparse.Namespace, server: Found, pid: int | None) -> int:
        for line in ask(args, server, "dump", pid=pid):
            if "pid" in line:
                _say(args, f"--- worker {line['pid']}\n{line['text']}\n")
        return 0

    return run


def _reopen(parser: argparse.ArgumentParser) -> Run:
    def run(args: argparse.Namespace, server: Found, _: int | None) -> int:
        for _line in ask(args, server, "reopen"):
            pass
        return 0

    return run


COMMANDS: Final[dict[str, tuple[str, Callable[[argparse.ArgumentParser], Run]]]] = {
    "reload": ("Replace all workers, one by one, by workers with the code that is there now.", _reload),
    "stop": ("End a server: let its requests finish, or not.", _stop),
    "workers": ("Show how many workers there should be, or change it to N.", _workers),
    "dump": ("Show what each thread and greenlet of the workers, or of the worker PID, executes.", _dump),
    "reopen": ("Reopen the log files after they were moved.", _reopen),
}
