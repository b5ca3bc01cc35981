"""The command ``zibai``, made from the declarations in :mod:`zibai.config.options`.

A flag that is left out is not passed on, so that only the dataclass has the defaults. Wrong usage is one line and
exit code 2, whether argparse finds it or :meth:`Options.validate` does.

A flag with several values would swallow the application after it: ``zibai -l 127.0.0.1:8000 example:app``. So the
values of each use of such a flag stay separate until the end. If no application was given, it is the last value of a
use, if the flag refuses that value: ``example:app`` is no address, since its port is no number.
"""

import argparse
import os
import re
import shutil
import sys
from collections.abc import Sequence
from difflib import get_close_matches
from functools import partial
from typing import Any, NoReturn

from ..config.foreign import translation
from ..config.option import Option
from ..config.options import Options, declared
from ..config.sources import Layer, Settings, gather, listed, names
from ..config.values import SWITCHED, Setting, expected, parse, read_text
from ..errors import UsageError
from ..version import __version__
from . import COMMANDS, STEERING
from .texts import flags_of, long_help, metavar_of, short_help

_WITHOUT_VALUE = re.compile(r"argument (?:.*/)?(\S+): expected (?:at least )?one argument")


class Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        """One line, without the usage that argparse puts before it. It shows what to type where a value is missing."""
        if found := _WITHOUT_VALUE.fullmatch(message):
            flag = found[1]
            option = next(each for each in listed() if flag in (*flags_of(each), *each.older_flags, *each.known_as))
            message = f"{flag} needs a value: {flag} {metavar_of(option)}" + (option.brief and f" ({option.brief})")
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
    for option in listed():
        keywords = _keywords(option)
        parser.add_argument(*flags_of(option), **keywords)
        for flag in (*option.older_flags, *option.known_as):
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
        return parse(option, text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not {expected(option)}") from None


def parse_args(argv: Sequence[str]) -> Options:
    """Options from command-line arguments, without the program's name, and from the other sources of options.

    Raises SystemExit(2) for wrong ones.
    """
    return read(argv).options


def read(argv: Sequence[str]) -> Settings:
    """The same, with the origin of each value."""
    parser = make_parser()
    try:
        settings = gather(_given(parser, argv), os.environ)
    except UsageError as error:
        parser.error(str(error))
    for warning in settings.warnings:
        sys.stderr.write(f"{parser.prog}: warning: {warning}\n")
    return settings


def _given(parser: argparse.ArgumentParser, argv: Sequence[str]) -> Layer:
    """The layer of the command line. Raises UsageError or SystemExit."""
    switches, argv = _split_switches(argv)
    found, unknown = parser.parse_known_args(argv)
    given = vars(found) | switches
    if unknown:
        parser.error(_files(given, unknown) or _no_command(given.get("app", ""), unknown) or _unknown(unknown))
    lists = [option for option in declared() if option.kind is list and option.name in given]
    for option in lists:
        for values in given[option.name]:
            if "app" not in given and len(values) > 1 and not _usable(option, values[-1]):
                given["app"] = values.pop()
        given[option.name] = [value for values in given[option.name] for value in values]
    flags = {option.name: option.flag for option in listed()}
    return {name: Setting(value, flags[name]) for name, value in given.items()}


def _split_switches(argv: Sequence[str]) -> tuple[dict[str, bool], list[str]]:
    """Take out arguments like ``--preload=no``, which override a file or variable. Raises UsageError."""
    switches: dict[str, bool] = {}
    rest: list[str] = []
    for position, word in enumerate(argv):
        if word == "--":
            return switches, [*rest, *argv[position:]]
        flag, equals, text = word.partition("=")
        if re.fullmatch(r"-[a-z][a-z-]+", flag) and flag[1:].replace("-", "_") in names():
            raise UsageError(f"{flag}: a long flag has two dashes; write -{flag}")  # argparse takes it for -w orkers
        option = names().get(flag[2:].replace("-", "_")) if equals and flag.startswith("--") else None
        if option is None or option.kind is not bool:
            rest.append(word)
            continue
        switches[option.name] = read_text(option, text, flag).value
    return switches, rest


def _files(given: dict[str, Any], words: list[str]) -> str:
    """The error message for files that the shell has made of a pattern; empty if the words are something else."""
    if words[0].startswith("-") or not os.path.isfile(given.get("watchfiles") or ""):
        return ""
    if not any(map(os.path.isfile, (words[0], given.get("app") or ""))):
        return ""
    return "--watchfiles takes one value, and the shell has made files of it; quote it: '*.py'"


def _no_command(first: str, words: list[str]) -> str:
    """The error message for a first word that was meant as a command; empty if it may be an application."""
    if words[0].startswith("-") or not first.isidentifier():
        return ""
    near = get_close_matches(first, (*COMMANDS, *STEERING), n=1, cutoff=0.7)
    if near:
        return f"there is no command {first!r}; did you mean {near[0]}?"
    if ":" in words[0] or words[0].endswith(".py"):
        return f"there is no command {first!r}; leave it out: zibai {words[0]}"
    return ""


def _unknown(words: list[str]) -> str:
    """The error message for words that are no flag, with the counterpart of another server's flag, or a similar one."""
    taken_back = names().get(words[0].removeprefix("--no-").replace("-", "_"))
    if words[0].startswith("--no-") and taken_back is not None and taken_back.kind is bool:
        return f"unrecognized arguments: {words[0]}; write {taken_back.flag}=no"
    for word in words:
        flag = word.partition("=")[0] if word.startswith("--") else word[:2]
        if flag.startswith("-") and (text := translation(flag)):
            return text
    text = f"unrecognized arguments: {' '.join(words)}"
    if words[0].lower() in SWITCHED:
        return f"{text}; the value of a switch comes after an equals sign, as in --reload={words[0]}"
    flags = [flag for option in listed() for flag in (option.flag, *option.older_flags, *option.known_as)]
    flags += ["--help", "--help-all", "--version"]
    near = get_close_matches(words[0].partition("=")[0], flags, n=1, cutoff=0.7) if words[0].startswith("--") else []
    return f"{text}; did you mean {near[0]}?" if near else text


def _usable(option: Option, value: str) -> bool:
    try:
        option.validate([value])
    except UsageError:
        return False
    return True
