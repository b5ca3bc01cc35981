"""Lines of the log: how a record becomes one, and how an exchange does without a record.

What a client sends ends up in these lines, so it is escaped on the way: no control character, quote or backslash
of theirs can end a line, begin another or colour a terminal.

A record costs twice as much as all else that a plain request does. So the access log does not make one where nobody
could tell: where one handler of ours (:class:`AtOnce`) writes a format that ends with the message and begins with what
stays the same for a second. Then that beginning is made once a second, by ``logging``, and the line is written.
"""

import logging
import re
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from string import Template
from typing import Any, Final, Literal

from ..errors import format_exception
from ..logger import escape, indented

MESSAGE: Final = '%s "%s %s %s" %d %d %.1fms'
"""Of an exchange: its client, request line, status, bytes of the body, milliseconds."""


def _zone() -> tuple[object, ...]:
    """Differs as soon as the application has changed the time zone of the process."""
    return time.timezone, time.altzone, time.tzname


# This module is imported before anything of the user's.
_zone_at_start, _at_start = _zone(), time.localtime()


def local_time(created: float) -> time.struct_time:
    """The local time of the process as it started, with its offset for ``%z``."""
    if _zone() == _zone_at_start:
        return time.localtime(created)
    # The rules for summer time are gone with the zone, so this is the offset of the start.
    date = time.gmtime(created + _at_start.tm_gmtoff)
    return time.struct_time((*date[:9], _at_start.tm_zone, _at_start.tm_gmtoff))


class Fields(dict[str, Any]):
    """The fields of a record, and behind them the environ; what neither has is ``-``."""

    def __init__(self, fields: Mapping[str, Any], environ: Mapping[str, str]) -> None:
        super().__init__(fields)
        self.environ = environ

    def __missing__(self, key: str) -> str:
        return escape(self.environ.get(key, "-"))

    def get(self, key: str, default: Any = None) -> Any:
        """For formatters that ask for each field that their format names, as JSON formatters do."""
        if key in self:
            return self[key]
        value = self.environ.get(key)
        return default if value is None else escape(value)


_STYLES: dict[str, Callable[[str, Fields], str]] = {
    "%": lambda text, fields: text % fields,
    "{": str.format_map,
    "$": lambda text, fields: Template(text).substitute(fields),
}


class Formatter(logging.Formatter):
    """A ``logging.Formatter`` that prints ``-`` for a missing field, of any record and in each of the styles."""

    def __init__(
        self,
        fmt: str | None = None,
        datefmt: str | None = None,
        style: Literal["%", "{", "$"] = "%",
        validate: bool = True,
        *,
        defaults: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(fmt, datefmt, style, validate, defaults=defaults)
        self._text = self._fmt or ""
        self._write = _STYLES[style]
        self._defaults = dict(defaults or {})
        # Whether what stands before the message is the same for a whole second.
        fields = re.findall(r"%\((\w+)\)", self._text) if style == "%" and not defaults and datefmt else []
        self.is_steady = (
            fields[-1:] == ["message"]
            and self._text.endswith("%(message)s")
            and {"asctime", "process", "levelname", "name"}.issuperset(fields[:-1])
            and "%f" not in (datefmt or "")
        )

    def converter(self, created: float | None) -> time.struct_time:
        """An application may change the time zone of its process, as Django does in the workers. All processes write
        one log, which keeps one clock."""
        return local_time(time.time() if created is None else created)

    def formatException(self, ei: Any) -> str:  # noqa: N802 - the name is logging's
        """Indented, since the text of an exception may be a client's. Never raises."""
        return indented(format_exception(ei[1], ei[2]))

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 - the name is logging's
        fields = record.__dict__
        if self._defaults or not isinstance(fields, Fields):
            fields = Fields(self._defaults | fields, getattr(fields, "environ", {}))
        return self._write(self._text, fields)


class AtOnce(logging.Handler, ABC):
    """A handler that can write the line of an exchange without a record."""

    stream: Any
    terminator: str

    # From when until when the beginning of a line is right, for whom it was made, and that. Set at once, by any thread.
    _beginning: tuple[float, float, object, str | None] = (0.0, 0.0, None, None)

    def write_at_once(self, name: str, level: int, args: tuple[object, ...]) -> bool:
        """What a record of ``MESSAGE`` for this logger would come to; False, and nothing done, where it might not."""
        formatter, stream, now = self.formatter, self.stream, time.time()
        if self.filters or level < self.level or type(formatter) is not Formatter or not formatter.is_steady:
            return False
        since, until, key, beginning = self._beginning
        if not since <= now < until or key != (formatter, stream, name, level):
            beginning = None
            if self.is_plain():
                record = logging.LogRecord(name, level, __file__, 0, "", (), None)
                record.created = now  # not a moment later, which may be the next second
                beginning = formatter.format(record)
            since = float(int(now))
            self._beginning = since, since + 1, (formatter, stream, name, level), beginning
        if beginning is None:
            return False
        line = f"{beginning}{MESSAGE % args}{self.terminator}"
        try:
            with self.lock or nullcontext():
                self.write_line(line)
        except Exception:
            return False  # the record that is made then fails too, and logging tells why
        return True

    def is_plain(self) -> bool:
        """Whether it writes what its formatter makes, and nothing else; may change from second to second."""
        return True

    @abstractmethod
    def write_line(self, line: str) -> None:
        """Write a line with its end; raises what writing does. The handler's lock is held."""
