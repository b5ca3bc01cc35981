"""The declaration of an option, behind each field of :class:`zibai.config.options.Options`.

A field's name is the long flag, its annotation the type of the value. An :class:`Option` has the facts that a type
cannot express, and reads, shows and checks values. This module does not know which options there are.
"""

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import MISSING, dataclass, field, fields, replace
from difflib import get_close_matches
from functools import wraps
from operator import attrgetter
from types import NoneType
from typing import TYPE_CHECKING, Any, Generic, NamedTuple, TypeVar, get_args, get_origin, get_type_hints

from ..errors import UsageError

T = TypeVar("T")

# epoll counts milliseconds in a C int, which ends after 24 days.
LONGEST_WAIT = 1_000_000.0

SHORTEST_WAIT = 0.01
"""Seconds. A shorter time is over before anything can happen in it, and is a mistake: perhaps in its unit."""

FASTEST = 1e12
"""Bytes a second, more than any client has."""

_UNITS = {"K": 2**10, "M": 2**20, "G": 2**30}

# Numbers as people write them. int() and float() also accept "1_000", " 2", "1e3", "infinity" and digits of other
# scripts. NaN and inf are for validate(), which has a better message.
_NUMBERS = {int: re.compile(r"-?[0-9]+"), float: re.compile(r"-?(?:[0-9]+\.?[0-9]*|\.[0-9]+|inf|nan)")}
_OCTAL = re.compile(r"-?(?:0o)?[0-7]+")

# The kind of a value, in the words of an error message.
KINDS = {bool: "True or False", int: "a whole number", float: "a number", str: "text", list: "a list of text"}


class Defaulted(Generic[T]):
    """The type of a field that is never None, and that may be set to None, which stands for its default.

    Only type checkers see a descriptor here. The fields themselves hold plain values.
    """

    if TYPE_CHECKING:

        def __get__(self, instance: object, owner: type | None = None) -> T: ...

        def __set__(self, instance: object, value: T | None) -> None: ...


class Bounds(NamedTuple):
    """The bounds of a number: at least ``minimum``, more than ``above``, at most ``maximum``. None is no bound.

    A number that keeps these and is smaller than ``least`` makes no sense, unless it is 0 and may be.
    """

    minimum: float | None = None
    above: float | None = None
    maximum: float | None = None
    least: float | None = None

    def validate(self, value: Any, option: "Option") -> None:
        """Raise UsageError unless ``value`` is within the bounds."""
        # Not "value < minimum": NaN is neither above nor below anything, and must be refused.
        if self.minimum is not None and not value >= self.minimum:
            raise UsageError(f"{option.flag} must be at least {option.show(self.minimum)}, not {option.show(value)}")
        if self.above is not None and not value > self.above:
            raise UsageError(f"{option.flag} must be more than {option.show(self.above)}, not {option.show(value)}")
        if self.maximum is not None and not value <= self.maximum:
            raise UsageError(f"{option.flag} must be at most {option.show(self.maximum)}, not {option.show(value)}")
        if self.least is not None and value < self.least and value != 0:
            must = "0 or at least" if self.minimum == 0 else "at least"
            raise UsageError(f"{option.flag} must be {must} {option.show(self.least)}, not {option.show(value)}")


_ANY = Bounds()


@dataclass(frozen=True, kw_only=True)
class Option:
    """One declaration.

    :ivar help: the long text, for ``zibai --help-all`` and ``docs/options.md``.
    :ivar brief: the text of the option's line in ``zibai --help``; empty for an option that is not shown there.
    :ivar aliases: older names of the field, which stay names of a flag, an argument and an attribute.
    :ivar known_as: flags of other servers that mean the same; flags only, so that a program has one name to learn.
    :ivar short: the flag of one letter, such as ``-p``.
    :ivar octal: the value is written in octal.
    :ivar size: a number of bytes, which may be written as 512M.
    :ivar words: words that the command line accepts instead of a value, each with a function that returns its value.
    :ivar environment: the environment variable that the command line reads when the flag is left out.
    :ivar check: raises UsageError for a bad value; for a list, it is called with each item.
    :ivar embedded: :func:`zibai.serve` accepts the option, since it does not concern the process around the server.
    :ivar needs_parent: the option does nothing in a single process, so it starts a parent with a worker.
    :ivar at_prompt: :func:`zibai.run` accepts the option, since it does not change the process of the prompt.
    """

    help: str
    group: str
    brief: str = ""
    name: str = ""
    aliases: tuple[str, ...] = ()
    known_as: tuple[str, ...] = ()
    kind: type = str
    nullable: bool = False
    default: Any = MISSING
    short: str | None = None
    metavar: str | None = None
    choices: tuple[str, ...] | None = None
    bounds: Bounds = _ANY
    octal: bool = False
    size: bool = False
    words: Mapping[str, Callable[[], Any]] = field(default_factory=dict)
    environment: str | None = None
    check: Callable[[str], object] | None = None
    embedded: bool = False
    needs_parent: bool = False
    at_prompt: bool = True

    @property
    def positional(self) -> bool:
        """An option without a default is a positional argument: it cannot be left out, and needs no flag."""
        return self.default is MISSING

    @property
    def flag(self) -> str:
        """The long flag, or the name of a positional argument."""
        return self.name if self.positional else _flag(self.name)

    @property
    def older_flags(self) -> list[str]:
        """The long flags of the aliases."""
        return [_flag(name) for name in self.aliases]

    def make_default(self) -> Any:
        """The value of a field that is left out or None; a list is a new one each time."""
        if self.positional:
            return None
        return self.default.copy() if self.kind is list and self.default else self.default

    def parse(self, text: str) -> Any:
        """The value that ``text`` on the command line stands for (one item of a list); ValueError if none."""
        if text in self.words:
            return self.words[text]()
        if self.choices and text.lower() in self.choices:
            return text.lower()  # INFO, as Python and many variables have it
        unit = _UNITS.get(text[-1:].upper(), 1) if self.size else 1
        digits = text if unit == 1 else text[:-1]
        plain = _OCTAL if self.octal else _NUMBERS.get(self.kind)
        if plain is None:
            return text
        if not plain.fullmatch(digits):
            raise ValueError(text)
        return int(digits, 8) if self.octal else self.kind(digits) * unit

    def show(self, value: Any) -> str:
        """``value`` as the command line accepts it."""
        if self.octal:
            return f"{value:o}"
        if self.kind is float:
            return f"{value:g}"
        return " ".join(value) if self.kind is list else str(value)

    def validate(self, value: Any) -> None:
        """Raise UsageError, in one line that starts with the flag, unless ``value`` may be used."""
        if value is None and self.nullable:
            return
        if not self._is_plain(value):
            raise UsageError(f"{self.flag} must be {KINDS[self.kind]}, not {value!r}")
        if self.kind is list and not value:
            raise UsageError(f"{self.flag} needs at least one value")
        if any("\0" in text for text in (value if self.kind is list else [value]) if isinstance(text, str)):
            raise UsageError(f"{self.flag} must not contain a null character, not {value!r}")
        if self.choices is not None and value not in self.choices:
            near = get_close_matches(str(value), self.choices, 1, 0.7)
            hint = f"; did you mean {near[0]}?" if near else ""
            raise UsageError(f"{self.flag} must be one of {', '.join(self.choices)}, not {value!r}{hint}")
        # serve() has no name for its application.
        if value == "" != self.default and self.check is None and not self.positional:
            raise UsageError(f"{self.flag} must not be empty")
        self.bounds.validate(value, self)
        if self.check is not None:
            for item in value if self.kind is list else [value]:
                try:
                    self.check(item)
                except UsageError as error:
                    raise UsageError(f"{self.flag}: {error}") from None

    def _is_plain(self, value: Any) -> bool:
        if self.kind is list:
            return type(value) is list and all(isinstance(item, str) for item in value)
        if self.kind is float:
            return type(value) in (int, float) and not math.isnan(value)
        return value is self.default or type(value) is self.kind  # isinstance would accept True as a number


def _flag(name: str) -> str:
    return "--" + name.replace("_", "-")


def option(default: Any = MISSING, **declaration: Any) -> Any:
    """A field of :class:`Options`; the keywords are those of :class:`Option` and of :class:`Bounds`."""
    bounds = Bounds(**{name: declaration.pop(name) for name in Bounds._fields if name in declaration})
    declared = Option(default=default, bounds=bounds, **declaration)
    if isinstance(default, list):
        return field(default_factory=default.copy, metadata={"option": declared})
    return field(default=default, metadata={"option": declared})


def seconds(default: float, **declaration: Any) -> Any:
    """A field of more than 0 seconds."""
    return option(default, above=0, **{**_TIME, **declaration})


def patience(default: float, **declaration: Any) -> Any:
    """A field of seconds, where 0 is no limit."""
    return option(default, minimum=0, **{**_TIME, **declaration})


_TIME: dict[str, Any] = {"maximum": LONGEST_WAIT, "least": SHORTEST_WAIT, "metavar": "SECONDS"}


def read_declarations(cls: type) -> tuple[Option, ...]:
    """The options of a dataclass, in the order of its fields."""
    hints = get_type_hints(cls)
    return tuple(_complete(item.metadata["option"], item.name, hints[item.name]) for item in fields(cls))


def accept_aliases(cls: type[T]) -> type[T]:
    """Make the aliases of a dataclass of options work: as properties, and as arguments of its constructor.

    If a call has both names, the alias counts: ``dataclasses.replace(options, alias=1)`` adds the current value under
    the field's own name.
    """
    names = {alias: each.name for each in fields(cls) for alias in each.metadata["option"].aliases}  # type: ignore[arg-type]
    for alias, name in names.items():
        setattr(cls, alias, property(attrgetter(name), _setter(name), doc=f"The older name of ``{name}``."))
    construct = cls.__init__

    @wraps(construct)
    def __init__(self: Any, *args: Any, **values: Any) -> None:  # noqa: N807 (it is that method)
        for alias in names.keys() & values.keys():
            values[names[alias]] = values.pop(alias)
        construct(self, *args, **values)

    cls.__init__ = __init__  # type: ignore[method-assign]
    return cls


def _setter(name: str) -> Callable[[Any, Any], None]:
    return lambda options, value: setattr(options, name, value)


def _complete(declaration: Option, name: str, hint: Any) -> Option:
    """Add the name of the field and, from ``Defaulted[int]`` or ``str | None``, its kind."""
    if get_origin(hint) is Defaulted:
        (hint,) = get_args(hint)
    alternatives = get_args(hint) if NoneType in get_args(hint) else (hint,)
    kind = next(each for each in alternatives if each is not NoneType)
    return replace(declaration, name=name, kind=get_origin(kind) or kind, nullable=len(alternatives) > 1)
