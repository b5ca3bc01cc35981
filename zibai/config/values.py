"""Values as people write them: text of flags and variables, and the types of TOML.

Durations have units (``30s``, ``5m``, ``1h``), and so have sizes (``512M``).
"""

import re
import shlex
from typing import Any, Final, NamedTuple

from ..errors import UsageError
from .option import Option

_TRUE: Final = ("1", "true", "yes", "on")
_FALSE: Final = ("0", "false", "no", "off")
SWITCHED: Final = (*_TRUE, *_FALSE)
_SECONDS: Final = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_DURATION = re.compile(r"([0-9]+(?:\.[0-9]+)?)(ms|s|m|h|d)")


class Setting(NamedTuple):
    """A value and its origin, in the words of an error message: ``zibai.toml: max_workers``."""

    value: Any
    origin: str


def read_text(option: Option, text: str, origin: str) -> Setting:
    """The value that ``text`` means. Raises UsageError."""
    try:
        if option.kind is bool:
            return Setting(read_bool(text), origin)
        if option.kind is list:
            return Setting(shlex.split(text), origin)
        return Setting(parse(option, text), origin)
    except ValueError:
        raise UsageError(f"{origin}: {text!r} is not {expected(option)}") from None


def read_value(option: Option, value: Any, origin: str) -> Setting:
    """The same for a value of TOML, which has types of its own."""
    if isinstance(value, str):
        return Setting([value], origin) if option.kind is list else read_text(option, value, origin)
    if option.octal:
        raise UsageError(f"{origin}: write the octal number as text, as in {option.show(option.default)!r}")
    if option.kind is str and type(value) in (int, float) and (option.choices or option.metavar == "NAME"):
        return Setting(str(value), origin)  # 1.3 for a version, 1000 for a user
    if option.kind is float and type(value) is int:
        return Setting(float(value), origin)
    return Setting(value, origin)


def parse(option: Option, text: str) -> Any:
    """``text`` as the command line has it (one item of a list); ValueError if it is no such value."""
    duration = _DURATION.fullmatch(text) if option.metavar == "SECONDS" else None
    if duration is not None:
        return float(duration[1]) * _SECONDS[duration[2]]
    return option.parse(text)


def read_bool(text: str) -> bool:
    """The boolean of a text; ValueError if it means neither yes nor no."""
    if text.lower() in _TRUE:
        return True
    if text.lower() in _FALSE:
        return False
    raise ValueError(text)


def expected(option: Option) -> str:
    """What a text must be, for an error message."""
    if option.kind is bool:
        return "true or false"
    kind = "an octal number" if option.octal else "a whole number" if option.kind is int else "a number"
    if option.kind is list:
        kind = "a list of words, with quotes in pairs"
    kind += ", or one with K, M or G" if option.size else ""
    kind += ", or one with s, m or h" if option.metavar == "SECONDS" else ""
    return " or ".join([kind, *option.words])
