"""The command zibai check: it finds, without serving, every fault that can be known before.

It prints each option with its origin, and the result of each check. The exit code is 0 if the server would start, 1 if
the machine would prevent it, 2 for wrong usage and 3 if the application cannot be loaded. With ``--strict`` a warning
leads to 1 as well.
"""

import json
import os
import platform
import sys
from collections.abc import Sequence
from dataclasses import asdict
from difflib import get_close_matches
from typing import Any

from ..config.foreign import translation
from ..config.option import Option
from ..config.sources import PREFIX, Settings, listed, names
from ..version import __version__
from .arguments import Parser, read
from .findings import Finding, findings
from .texts import default_of, flags_of, metavar_of

HELP = """\
usage: zibai check [--json] [--strict] [options] module:attribute
       zibai check --explain OPTION

Say what would be wrong with a server, without serving: the options and where each one comes from, the
application, certificate, addresses, limits of the machine, and what is dangerous. The options are those
of zibai.

  --json              one JSON object
  --strict            exit with 1 for a warning, too
  --explain OPTION    what an option means, how it is written in each place, and its value here

Exit code: 0 the server would start, 1 it would not, 2 wrong usage, 3 the application cannot be loaded.
"""


def check(argv: Sequence[str]) -> int:
    """The command ``zibai check``; returns its exit code."""
    words = list(argv)
    if "-h" in words or "--help" in words:
        sys.stdout.write(HELP)
        return 0
    if "--explain" in words:
        position = words.index("--explain")
        return _explain("".join(words[position + 1 : position + 2]), [*words[:position], *words[position + 2 :]])
    as_json, strict = _take(words, "--json"), _take(words, "--strict")
    settings = read(words)
    options = settings.options
    found: list[Finding] = []
    if options.chdir is not None and not os.path.isdir(options.chdir):
        found = [Finding("error", "files", f"--chdir: {options.chdir!r} is no directory", code=2)]
    else:
        os.chdir(options.chdir or ".")
        found = list(findings(options))
    errors = [finding.code for finding in found if finding.level == "error"]
    code = max(errors, default=0) or int(strict and any(finding.level == "warning" for finding in found))
    sys.stdout.write(_as_json(settings, found, code) if as_json else _as_text(settings, found))
    return code


def _take(words: list[str], flag: str) -> bool:
    is_there = flag in words
    if is_there:
        words.remove(flag)
    return is_there


def _as_json(settings: Settings, found: list[Finding], code: int) -> str:
    values = {
        name: {"value": value, "origin": settings.origins.get(name, "default")}
        for name, value in asdict(settings.options).items()
    }
    report: dict[str, Any] = {
        "version": __version__,
        "python": platform.python_version(),
        "options": values,
        "findings": [
            {**finding._asdict(), "code": finding.code if finding.level == "error" else 0} for finding in found
        ],
        "exit_code": code,
    }
    return json.dumps(report, indent=2, default=str) + "\n"


def _as_text(settings: Settings, found: list[Finding]) -> str:
    lines = [f"zibai {__version__}, Python {platform.python_version()}, {platform.system()}", "", "options:"]
    rows = [
        (option.name, option.show(value), _origin(option, settings))
        for option in listed()
        if option.name in settings.origins and (value := getattr(settings.options, option.name)) is not None
    ]
    widths = [max(len(row[column]) for row in rows) for column in (0, 1)]
    lines += [f"  {name:{widths[0]}}  {value:{widths[1]}}  {origin}" for name, value, origin in rows]
    lines += ["  all others have their defaults", "", "checks:"]
    for level, subject, text, trace, _ in found:
        lines += [f"  {line}" for line in trace.splitlines()]
        lines.append(f"  {level:7}  {subject:11}  {text}")
    counts = {level: sum(finding.level == level for finding in found) for level in ("error", "warning")}
    texts = [f"{number} {level}{'s' * (number != 1)}" for level, number in counts.items() if number]
    return "\n".join([*lines, "", ", ".join(texts) or "nothing is wrong"]) + "\n"


def _origin(option: Option, settings: Settings) -> str:
    origin = settings.origins[option.name]
    return "the command line" if option.positional and origin == option.flag else origin


def _explain(word: str, argv: Sequence[str]) -> int:
    """``--explain``: for a flag, a key or a variable."""
    name = word.removeprefix(PREFIX).lower().lstrip("-").replace("-", "_")
    option = names().get(name) or next((each for each in listed() if each.short == word), None)
    if option is None:
        near = get_close_matches(name, names(), n=1)
        hint = f"did you mean --{near[0].replace('_', '-')}?" if near else "zibai --help-all shows all of them"
        text = translation(word) or f"there is no option {word!r}; {hint}"
        Parser(prog="zibai check").error(text)
    sys.stdout.write("\n".join(_explanation(option, argv)) + "\n")
    return 0


def _explanation(option: Option, argv: Sequence[str]) -> list[str]:
    metavar = "" if option.positional else f" {metavar_of(option) or ''}".rstrip()
    default = default_of(option)
    if default is None:
        default = "off" if option.kind is bool else "none"
    lines = [
        ", ".join([*flags_of(option), *option.older_flags, *option.known_as]) + metavar,
        f"  {option.help}",
        f"  variable: {PREFIX}{option.name.upper()}" + (f", then {option.environment}" if option.environment else ""),
        f"  file:     {option.name} = ...",
        f"  default:  {default}",
    ]
    if option.choices:
        lines.append(f"  one of:   {', '.join(option.choices)}")
    settings = read(["app:app", *argv])
    if option.name in settings.origins and not option.positional:
        value = option.show(getattr(settings.options, option.name))
        lines.append(f"  here:     {value} ({settings.origins[option.name]})")
    return lines
