"""The command ``zibai``, made from the declarations in :mod:`zibai.config.options`.

A flag that is left out is not passed on, so the dataclass alone knows the defaults. Wrong usage is one line and
exit code 2, whether argparse sees it or :meth:`Options.validate` does.

A flag that takes several values would swallow the application behind it: ``zibai -l 127.0.0.1:8000 example:app``.
Each use of such a flag is therefore kept apart until the end, and if no application was given, the last value of one
of them that its flag cannot use is taken for it. ``example:app`` can be no address, its port is no number.
"""

import argparse
import os
import sys
from collections.abc import Mapping, Sequence
from functools import partial
from itertools import groupby
from typing import Any, NoReturn

from ..config.option import Option
from ..config.options import Options, declared
from ..errors import UsageError
from ..version import __version__


class Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        """One line, without the usage that argparse puts before it."""
        self.exit(UsageError.exit_code, f"{self.prog}: error: {message}\n")


def make_parser() -> argparse.ArgumentParser:
    # No abbreviations: they would change their meaning with each new option.
    parser = Parser(
        prog="zibai",
        usage="%(prog)s [options] module:attribute\n       %(prog)s ps [--json] [--control PATH]",
        description="A pure-Python WSGI server.",
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"zibai {__version__}")
    for title, group in groupby(declared(), key=lambda option: option.group):
        section = parser.add_argument_group(title)
        for option in group:
            section.add_argument(*_names(option), **_keywords(option))
    return parser


def _names(option: Option) -> list[str]:
    return [option.flag] if option.short is None else [option.short, option.flag]


def _keywords(option: Option) -> dict[str, Any]:
    """The arguments of ``add_argument``."""
    default = _default(option)
    text = option.help if default is None else f"{option.help} (default: {default})"
    keywords: dict[str, Any] = {"help": text.replace("%", "%%"), "default": argparse.SUPPRESS}
    if option.kind is bool:
        return keywords | {"action": "store_true"}
    if option.positional:
        # Optional for argparse, so that parse_args can find the application behind a flag.
        return keywords | {"nargs": "?", "metavar": option.metavar}

    keywords |= {"type": partial(_parse, option)}
    keywords["metavar"] = option.metavar or ("NUMBER" if option.kind is int else None)
    if option.choices is not None:
        keywords["metavar"] = "|".join(option.choices)  # that it is one of them, Options.validate says
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


def _default(option: Option) -> str | None:
    """The default as text; None where there is nothing to say: no default, off, not set."""
    if option.default is False or option.default is None or option.positional:
        return None
    return option.show(option.default)


def parse_args(argv: Sequence[str]) -> Options:
    """Options from command-line arguments, without the program's name; wrong ones end with SystemExit(2)."""
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
    """The console command; ends with SystemExit when its exit code is not 0."""
    argv = sys.argv[1:] if argv is None else argv
    if argv[:1] == ["ps"]:  # no application can be called so: it has no colon
        from .ps import ps

        return ps(argv[1:])
    options = parse_args(argv)
    from ..server.start import main as run_main

    run_main(options, exits=True)
    return 0


def options_markdown() -> str:
    """The text of ``docs/options.md``."""
    lines = [
        "# Options",
        "",
        "<!-- Made from zibai/options.py by docs/generate_options.py: change it there. -->",
        "",
        "Each option is a flag of the command `zibai` and a field of `zibai.Options`: `--max-workers 20` is",
        "`Options(..., max_workers=20)`.",
    ]
    for title, group in groupby(declared(), key=lambda option: option.group):
        lines += ["", f"## {title}", "", "| flag | default | meaning |", "| --- | --- | --- |"]
        lines += [_row(option) for option in group]
    embedded = [f"`{option.name}`" for option in declared() if option.embedded]
    lines += ["", "`serve()` takes those that are not about the process around it: " + ", ".join(embedded) + "."]
    return "\n".join(lines) + "\n"


def _row(option: Option) -> str:
    flags = ", ".join(f"`{name}`" for name in _names(option))
    default = _default(option)
    meaning = option.help if option.choices is None else f"{option.help}; one of {', '.join(option.choices)}"
    cells = [flags, "" if default is None else f"`{default}`", meaning]
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"
