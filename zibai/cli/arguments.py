"""The command ``zibai``, made from the declarations in :mod:`zibai.config.options`.

A flag that is left out is not passed on, so that only the dataclass has the defaults. Wrong usage is one line and
exit code 2, whether argparse finds it or :meth:`Options.validate` does.

A flag with several values would swallow the application behind it: ``zibai -l 127.0.0.1:8000 example:app``. So the
values of each use of such a flag stay apart until the end. If no application was given, it is the last value of a use
whose flag refuses that value: ``example:app`` is no address, since its port is no number.
"""

import argparse
import os
import shutil
import sys
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, NoReturn

from ..config.option import Option
from ..config.options import Options, declared
from ..errors import UsageError
from ..version import __version__
from .texts import flags_of, long_help, metavar_of, short_help


class Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        """One line, without the usage that argparse puts before it."""
        self.exit(UsageError.exit_code, f"{self.prog}: error: {message}\n")

    def format_help(self) -> str:
        return short_help()


class _HelpAll(argparse.Action):
    """``--help-all``, which ends the command as ``--help`` does."""

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> NoReturn:
        sys.stdout.write(long_help(min(shutil.get_terminal_size().columns, LONGEST_LINE) - 1))
        parser.exit()


LONGEST_LINE = 100
"""Columns of ``--help-all`` in a wider terminal."""


def make_parser() -> argparse.ArgumentParser:
    # No abbreviations: they would change their meaning with each new option.
    parser = Parser(prog="zibai", allow_abbrev=False)
    parser.add_argument("--help-all", action=_HelpAll, nargs=0, default=argparse.SUPPRESS)
    parser.add_argument("--version", action="version", version=f"zibai {__version__}")
    for option in declared():
        keywords = _keywords(option)
        parser.add_argument(*flags_of(option), **keywords)
        for flag in option.older_flags:
            # Apart from the others, so that an error message has the flag that the user has typed.
            parser.add_argument(flag, dest=option.name, **keywords)
    return parser


def _keywords(option: Option) -> dict[str, Any]:
    """The arguments of ``add_argument``."""
    keywords: dict[str, Any] = {"default": argparse.SUPPRESS}
    if option.kind is bool:
        return keywords | {"action": "store_true"}
    if option.positional:
        # Optional for argparse, so that parse_args can find the application behind a flag.
        return keywords | {"nargs": "?", "metavar": option.metavar}

    keywords |= {"type": partial(_parse, option), "metavar": metavar_of(option)}
    # Not argparse's choices: Options.validate checks them, for programs as well.
    if option.kind is list:
        keywords |= {"action": "append", "nargs": "+"}
    return keywords


def _parse(option: Option, text: str) -> Any:
    try:
        return option.parse(text)
    except ValueError:
        kind = "an octal number" if option.octal else "a whole number" if option.kind is int else "a number"
        kind += ", or one with K, M or G" if option.size else ""
        raise argparse.ArgumentTypeError(f"{text!r} is not {' or '.join([kind, *option.words])}") from None


def parse_args(argv: Sequence[str]) -> Options:
    """Options from command-line arguments, without the program's name; raises SystemExit(2) for wrong ones."""
    parser = make_parser()
    given = vars(parser.parse_args(argv))
    lists = [option for option in declared() if option.kind is list and option.name in given]
    for option in lists:
        for values in given[option.name]:
            if "app" not in given and len(values) > 1 and not _usable(option, values[-1]):
                given["app"] = values.pop()
        given[option.name] = [value for values in given[option.name] for value in values]
    if "app" not in given:
        parser.error("which application? Name it as module:attribute, for example: zibai example:app")
    try:
        options = Options(**_from_environment(given), **given)
        options.validate()
    except UsageError as error:
        parser.error(str(error))
    return options


def _from_environment(given: Mapping[str, Any]) -> dict[str, Any]:
    """The values of flags that were left out and have a variable of the environment instead."""
    found = {}
    for option in declared():
        text = os.environ.get(option.environment or "")
        if text and option.name not in given:
            try:
                found[option.name] = _parse(option, text)
            except argparse.ArgumentTypeError as error:
                raise UsageError(f"environment variable {option.environment}: {error}") from None
    return found


def _usable(option: Option, value: str) -> bool:
    try:
        option.validate([value])
    except UsageError:
        return False
    return True


def main(argv: Sequence[str] | None = None) -> int:
    """The console command; raises SystemExit when its exit code is not 0."""
    argv = sys.argv[1:] if argv is None else argv
    if argv[:1] == ["ps"]:  # no application has this name: there is a colon in each
        from .ps import ps

        return ps(argv[1:])
    if argv[:1] and argv[0] in ("reload", "stop", "workers", "dump", "reopen"):
        from .steer import steer

        return steer(argv)
    options = parse_args(argv)
    from ..server.start import main as run_main

    run_main(options, exits=True)
    return 0
