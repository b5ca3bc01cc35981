"""What the declarations of options say to people: ``zibai --help``, ``zibai --help-all`` and ``docs/options.md``."""

import textwrap
from collections.abc import Iterable, Iterator
from itertools import groupby

from ..config.option import Option
from ..config.options import declared

COLUMN = 35
"""Where the texts of ``--help`` begin; with 79 columns, 44 are left for each."""

_USAGE = """\
usage: zibai [options] module:attribute
       zibai ps|reload|stop|workers|dump|reopen [--help] [SERVER]
"""


def short_help() -> str:
    """The options that people use first, one line each, for a terminal of 80 columns."""
    lines = [
        _USAGE,
        "A pure-Python WSGI server.",
        "",
        "Options that people use first, with their defaults in parentheses:",
    ]
    for title, group in _groups(option for option in declared() if option.brief):
        lines += ["", f"{title}:"]
        lines += [_line(_usage_of(option), _with_default(option, option.brief, "")) for option in group]
    lines += [
        "",
        "Help:",
        _line("-h, --help", "show this text"),
        _line("--help-all", f"show all {len(declared())} options, at length"),
        _line("--version", "show the version"),
    ]
    return "\n".join(lines) + "\n"


def long_help(width: int) -> str:
    """All options with their long texts, for a terminal of ``width`` columns."""
    lines = [_USAGE, *textwrap.wrap("A pure-Python WSGI server. All options:", width)]
    for title, group in _groups(declared()):
        lines += ["", f"{title}:"]
        for option in group:
            older = f" (older name: {', '.join(option.older_flags)})" if option.aliases else ""
            lines.append(f"  {_usage_of(option)}{older}")
            lines += textwrap.wrap(
                _with_default(option, option.help),
                width,
                initial_indent=" " * 8,
                subsequent_indent=" " * 8,
                break_on_hyphens=False,
                break_long_words=False,
            )
    return "\n".join(lines) + "\n"


def options_markdown() -> str:
    """The text of ``docs/options.md``."""
    lines = [
        "# Options",
        "",
        "<!-- Made from zibai/config/options.py by docs/generate_options.py: change it there. -->",
        "",
        "Each option is a flag of the command `zibai` and a field of `zibai.Options`: `--max-workers 20` is",
        "`Options(..., max_workers=20)`. `zibai --help` shows the options that people use first, `zibai --help-all`",
        "all of them. An older name still works: as a flag, as an argument of `Options` and `serve()`, and as an",
        "attribute.",
    ]
    for title, group in _groups(declared()):
        lines += ["", f"## {title}", "", "| flag | default | meaning |", "| --- | --- | --- |"]
        lines += [_row(option) for option in group]
    for text, names in (
        ("`serve()` accepts the options that do not concern the process around the server", _embedded()),
        ("These options need a parent process, so each of them starts at least one worker", _needing_a_parent()),
        ("`run()`, the server at a prompt, refuses the options that would change its process", _not_at_a_prompt()),
    ):
        lines += ["", f"{text}: " + ", ".join(f"`{name}`" for name in names) + "."]
    return "\n".join(lines) + "\n"


def default_of(option: Option) -> str | None:
    """The default as text; None where there is nothing to say: no default, off, not set."""
    if option.default is False or option.default is None or option.positional:
        return None
    return option.show(option.default)


def metavar_of(option: Option) -> str | None:
    """What stands for the value behind the flag; None for a flag without a value."""
    if option.kind is bool:
        return None
    if option.choices is not None:
        return "|".join(option.choices)
    return option.metavar or ("NUMBER" if option.kind is int else option.name.upper())


def flags_of(option: Option) -> list[str]:
    """The flags that the help shows: the short one, if there is one, and the long one."""
    return [option.flag] if option.short is None else [option.short, option.flag]


def _groups(options: Iterable[Option]) -> Iterator[tuple[str, Iterator[Option]]]:
    return groupby(options, key=lambda option: option.group)


def _usage_of(option: Option) -> str:
    metavar = metavar_of(option)
    if option.positional:
        return str(metavar)
    several = " ..." if option.kind is list else ""
    return ", ".join(flags_of(option)) + ("" if metavar is None else f" {metavar}{several}")


def _with_default(option: Option, text: str, word: str = "default: ") -> str:
    default = default_of(option)
    return text if default is None else f"{text} ({word}{default})"


def _line(left: str, text: str) -> str:
    return f"  {left}".ljust(COLUMN) + text


def _row(option: Option) -> str:
    flags = ", ".join(f"`{name}`" for name in flags_of(option))
    if option.aliases:
        flags += "; older name: " + ", ".join(f"`{name}`" for name in option.older_flags)
    default = default_of(option)
    meaning = option.help if option.choices is None else f"{option.help}; one of {', '.join(option.choices)}"
    cells = [flags, "" if default is None else f"`{default}`", meaning]
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def _embedded() -> list[str]:
    return [option.name for option in declared() if option.embedded]


def _needing_a_parent() -> list[str]:
    return [option.flag for option in declared() if option.needs_parent]


def _not_at_a_prompt() -> list[str]:
    return [option.name for option in declared() if not option.at_prompt]
