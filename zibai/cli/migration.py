"""The migration of a configuration: the given flags and settings, and the zibai.toml as it grows."""

import json
from dataclasses import dataclass
from typing import Any, NamedTuple

from ..config.option import Option
from ..config.sources import check, names
from ..config.values import Setting, read_text, read_value
from ..errors import UsageError
from ..version import __version__


@dataclass(frozen=True, repr=False)
class Opaque:
    """A value of a configuration that is no plain value, such as a function or a class; ``text`` names it."""

    text: str

    def __repr__(self) -> str:
        return self.text


class Given(NamedTuple):
    """A flag or setting and its value, as it was written."""

    name: str
    value: Any

    def __str__(self) -> str:
        if self.value is True or self.value == "":
            return self.name
        value = self.value if isinstance(self.value, str) else repr(self.value)
        return f"{self.name} {value}" if self.name.startswith("-") else f"{self.name} = {self.value!r}"

    @property
    def key(self) -> str:
        return self.name.lstrip("-").replace("-", "_")


class Migration:
    """The result, as it grows.

    ``values`` has the settings by the names of options here, each with a note. ``pending`` has flags that are decided
    together at the end. ``left`` has lines about those without a counterpart. A value of an earlier layer is not
    replaced.
    """

    def __init__(self, server: str, source: str) -> None:
        self.server = server
        self.source = source
        self.values: dict[str, tuple[Setting, str]] = {}
        self.pending: dict[str, Given] = {}
        self.left: list[str] = []
        self._decided: set[str] = set()

    def put(self, given: Given, option: Option, value: Any, note: str = "") -> None:
        """Set an option, unless it cannot have this value, or a layer before has set it."""
        if option.name in self._decided:
            return
        try:
            if isinstance(value, Opaque):
                raise UsageError("only plain values can be written down")
            if isinstance(value, str) and option.kind is not list:
                setting = read_text(option, value, str(given))
            else:
                setting = read_value(option, value, str(given))
            check(option, setting)
        except UsageError as error:
            self.leave(given, str(error))
        else:
            self.values[option.name] = setting, note

    def add(self, given: Given, option: Option, item: str) -> None:
        """Add one item to an option that is a list."""
        present = self.values[option.name][0].value if option.name in self.values else []
        self.put(given, option, [*present, item])

    def postpone(self, name: str, given: Given) -> None:
        """Keep a flag that depends on others, which may come later."""
        if name not in self._decided:
            self.pending[name] = given

    def leave(self, given: Given, why: str) -> None:
        self.left.append(f"{given}: {why.removeprefix(str(given)).lstrip(': ')}")

    def end_layer(self) -> None:
        """End the present layer: later ones count less."""
        self._decided = set(self.values) | set(self.pending)

    def as_toml(self) -> str:
        lines = [f"# Made from {_line(self.source)} by zibai migrate {__version__}; try it with: zibai check", ""]
        for name, option in names().items():
            if name != option.name or name not in self.values:
                continue
            setting, note = self.values[name]
            if setting.value == option.default:
                continue
            value = option.show(setting.value) if option.octal else setting.value
            if note:
                lines.append(f"# {_line(setting.origin)}: {note}")
            text = json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")  # which JSON allows, and TOML not
            lines.append(f"{name} = {text}")
        if self.left:
            lines += ["", "# Without a counterpart:", *(f"#   {_line(text)}" for text in self.left)]
        return "\n".join(lines) + "\n"


def _line(text: str) -> str:
    """``text`` in one line of a comment, where TOML allows no other control character than a tab either."""
    return " ".join("".join(each if each.isprintable() else " " for each in text).split())
