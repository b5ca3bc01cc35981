"""The texts of the declarations of options: the help, ``docs/options.md``, and the keywords in an editor."""

import json
import textwrap
from collections.abc import Iterable, Iterator
from itertools import groupby

from ..config.option import Option
from ..config.options import declared
from ..config.sources import listed

COLUMN = 35
"""The column where the texts of ``--help`` begin; with 79 columns, 44 are left for each."""

_USAGE = """\
usage: zibai [options] module:attribute
       zibai check [--json] [--strict] [options] module:attribute
       zibai migrate gunicorn.conf.py | gunicorn [its flags]
       zibai completion bash|zsh|fish
       zibai ps|reload|stop|workers|dump|reopen [--help] [SERVER]
"""


def short_help() -> str:
    """The options that people use first, one line each, for a terminal of 80 columns."""
    lines = [
        _USAGE,
        "A pure-Python server of WSGI and ASGI applications.",
        "",
        "Options that people use first, with their defaults in parentheses:",
    ]
    for title, group in _groups(option for option in listed() if option.brief):
        lines += ["", f"{title}:"]
        lines += [_line(_usage_of(option), _with_default(option, option.brief, "")) for option in group]
    lines += [
        "",
        "Help:",
        _line("-h, --help", "show this text"),
        _line("--help-all", f"show all {len(listed())} options, at length"),
        _line("--version", "show the version"),
    ]
    return "\n".join(lines) + "\n"


def long_help(width: int) -> str:
    """All options with their long texts, for a terminal of ``width`` columns."""
    lines = [_USAGE, *textwrap.wrap("A pure-Python server of WSGI and ASGI applications. All options:", width)]
    for title, group in _groups(listed()):
        lines += ["", f"{title}:"]
        for option in group:
            lines.append(f"  {_usage_of(option)}{_other_names(option)}")
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
        "all of them. [Variables and a file](configuration.md) have them too: `ZIBAI_MAX_WORKERS=20`,",
        "`max_workers = 20`. An older name still works: as a flag, as an argument of `Options` and `serve()`, and as",
        "an attribute. A flag after *also* is known from other servers, and is a flag only.",
    ]
    for title, group in _groups(listed()):
        lines += ["", f"## {title}", "", "| flag | default | meaning |", "| --- | --- | --- |"]
        lines += [_row(option) for option in group]
    for text, names in (
        ("`serve()` accepts the options that do not concern the process around the server", _embedded()),
        ("These options need a parent process, so each of them starts at least one worker", _needing_a_parent()),
        ("`run()`, the server at a prompt, refuses the options that would change its process", _not_at_a_prompt()),
    ):
        lines += ["", f"{text}: " + ", ".join(f"`{name}`" for name in names) + "."]
    return "\n".join(lines) + "\n"


def keywords_source() -> str:
    """The text of ``zibai/config/keywords.py``."""
    given = {"app", "listen", "processes", "interactive"}  # parameters of run() itself
    lines = _KEYWORDS.splitlines()
    for name, base, about, options in (
        (
            "ServeOptions",
            "TypedDict",
            "What :func:`zibai.serve` takes.",
            [each for each in declared() if each.embedded],
        ),
        (
            "RunOptions",
            "ServeOptions",
            "What :func:`zibai.run` takes.",
            [each for each in declared() if each.at_prompt and not each.embedded],
        ),
    ):
        lines += ["", "", f"class {name}({base}, total=False):", f'    """{about}"""', ""]
        for option in options:
            hint = _hint(option)
            lines += [f"    {alias}: {hint}" for alias in option.aliases]
            if option.name in given:
                continue
            lines.append(f"    {option.name}: {hint}")
            text = _with_default(option, option.help).replace("\\", "\\\\")
            wrapped = textwrap.wrap(f'"""{text}"""', 116, break_on_hyphens=False, break_long_words=False)
            lines += [f"    {line}" for line in wrapped]
    return "\n".join(lines) + "\n"


_KEYWORDS = '''\
"""The keywords of ``serve()`` and ``run()``, for type checkers and editors. None stands for the default.

Made from zibai/config/options.py by docs/generate_keywords.py: change it there.
"""

from typing import Literal, TypedDict'''


def _hint(option: Option) -> str:
    """The annotation of an option."""
    if option.choices is not None:
        return f"Literal[{', '.join(json.dumps(choice) for choice in option.choices)}] | None"
    return ("list[str]" if option.kind is list else option.kind.__name__) + " | None"


def default_of(option: Option) -> str | None:
    """The default as text; None if there is none, or if it is off."""
    if option.default is False or option.default is None or option.positional:
        return None
    return option.show(option.default)


def metavar_of(option: Option) -> str | None:
    """The placeholder of the value after the flag; None for a flag without a value."""
    if option.kind is bool:
        return None
    if option.choices is not None and option.metavar is None:
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


def _other_names(option: Option) -> str:
    """The flags that mean the same, in parentheses; empty if there are none."""
    others = []
    if option.aliases:
        others.append(f"older name: {', '.join(option.older_flags)}")
    if option.known_as:
        others.append(f"also {', '.join(option.known_as)}")
    return f" ({'; '.join(others)})" if others else ""


def _line(left: str, text: str) -> str:
    return f"  {left}".ljust(COLUMN) + text


def _row(option: Option) -> str:
    flags = ", ".join(f"`{name}`" for name in flags_of(option))
    if option.aliases:
        flags += "; older name: " + ", ".join(f"`{name}`" for name in option.older_flags)
    if option.known_as:
        flags += "; also " + ", ".join(f"`{name}`" for name in option.known_as)
    default = default_of(option)
    meaning = (
        option.help
        if option.choices is None or option.metavar is not None
        else f"{option.help}; one of {', '.join(option.choices)}"
    )
    cells = [flags, "" if default is None else f"`{default}`", meaning]
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def _embedded() -> list[str]:
    return [option.name for option in declared() if option.embedded]


def _needing_a_parent() -> list[str]:
    return [option.flag for option in declared() if option.needs_parent]


def _not_at_a_prompt() -> list[str]:
    return [option.name for option in declared() if not option.at_prompt]
