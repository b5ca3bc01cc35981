"""Lines of the log: made from a record, or for a plain request without one.

Text of clients is part of these lines, so it is escaped: no control character, quote or backslash of a client can end a
line, begin another one or colour a terminal.

A record costs twice as much as everything else in a plain request. So the access log makes none if the line would be
the same: if the only handler is one of this package (:class:`AtOnce`), and its format ends with the message and begins
with fields that stay the same for a second, or for a millisecond. Then ``logging`` makes the beginning of the line once
a second, and the handler writes the line. The formats of ``--access-log-format`` need no record either.
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
"""The message of a request: client, request line, status, bytes of the body, milliseconds."""


def _zone() -> tuple[object, ...]:
    """The time zone of the process, which the application may change."""
    return time.timezone, time.altzone, time.tzname


# This module is imported before the user's code.
_zone_at_start, _at_start = _zone(), time.localtime()


def local_time(created: float) -> time.struct_time:
    """The local time of the process as it started, with its offset for ``%z``."""
    if _zone() == _zone_at_start:
        return time.localtime(created)
    # The rules for summer time are lost with the zone, so this is the offset at the start.
    date = time.gmtime(created + _at_start.tm_gmtoff)
    return time.struct_time((*date[:9], _at_start.tm_zone, _at_start.tm_gmtoff))


class Fields(dict[str, Any]):
    """The fields of a record, then those of the environ; any other field is ``-``.

    ``head`` is the status line and the fields of the response, as they are sent; empty where they are not known.
    """

    def __init__(self, fields: Mapping[str, Any], environ: Mapping[str, Any], head: bytes = b"") -> None:
        super().__init__(fields)
        self.environ = environ
        self.head = head

    def __missing__(self, key: str) -> str:
        return escape(self.environ.get(key, "-"))

    def get(self, key: str, default: Any = None) -> Any:
        """For formatters that ask for each field that their format names, as JSON formatters do."""
        if key in self:
            return self[key]
        value = self.environ.get(key)
        return default if value is None else escape(value)


_DIRECTIVE: Final = re.compile("%.", re.DOTALL)

_MILLISECONDS: Final = "\1"
"""The placeholder of the milliseconds in the beginning of lines; no format of the log can contain it."""

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
        # Whether the text before the message is the same for a whole second.
        fields = re.findall(r"%\((\w+)\)", self._text) if style == "%" and not defaults and datefmt else []
        self.is_steady = (
            fields[-1:] == ["message"]
            and self._text.endswith("%(message)s")
            and {"asctime", "process", "levelname", "name"}.issuperset(fields[:-1])
        )

    def converter(self, created: float | None) -> time.struct_time:
        """The local time at the start, since all processes write one log. An application may change the time zone of
        its process, as Django does in the workers."""
        return local_time(time.time() if created is None else created)

    def formatTime(self, record: logging.LogRecord, datefmt: str | None = None) -> str:  # noqa: N802 - logging's
        """As ``logging`` does; ``%f`` in ``datefmt`` are the milliseconds, three digits."""
        if datefmt and "%f" in datefmt:
            digits = record.__dict__.get("milliseconds") or f"{int(record.msecs):03d}"
            datefmt = _DIRECTIVE.sub(lambda found: digits if found[0] == "%f" else found[0], datefmt)
        return super().formatTime(record, datefmt)

    def formatException(self, ei: Any) -> str:  # noqa: N802 - the name is logging's
        """Indented, since a client may have sent the text of an exception. Never raises."""
        return indented(format_exception(ei[1], ei[2]))

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 - the name is logging's
        fields = record.__dict__
        if self._defaults or not isinstance(fields, Fields):
            fields = Fields(self._defaults | fields, getattr(fields, "environ", {}))
        return self._write(self._text, fields)


class ByFields(ABC):
    """A formatter that can make the line of a response without a record."""

    @abstractmethod
    def line(self, fields: Fields) -> str:
        """The line, of ``created``, ``process``, ``name``, ``levelname``, ``message`` and what a record of a response
        has."""


class AtOnce(logging.Handler, ABC):
    """A handler that can write the line of a request without a record."""

    stream: Any
    terminator: str

    # Cached: (valid from, valid until, key, the beginning of the line, whether it has milliseconds). Replaced as one
    # tuple, so any thread may do it.
    _beginning: tuple[float, float, object, str | None, bool] = (0.0, 0.0, None, None, False)

    def emit(self, record: logging.LogRecord) -> None:
        try:
            self.write_line(self.format(record) + self.terminator)
        except RecursionError:
            raise
        except Exception:
            self.handleError(record)

    def write_at_once(self, name: str, level: int, args: tuple[object, ...]) -> bool:
        """Write the line of a record of ``MESSAGE`` for this logger; False, with nothing written, if it might
        differ."""
        formatter, stream, now = self.formatter, self.stream, time.time()
        if self.filters or level < self.level or type(formatter) is not Formatter or not formatter.is_steady:
            return False
        since, until, key, template, is_fine = self._beginning
        if not since <= now < until or key != (formatter, stream, name, level):
            since, template, is_fine = float(int(now)), None, False
            if self.is_plain():
                beginning = _begin_lines(formatter, name, level, now)
                is_fine = _MILLISECONDS in beginning
                beginning = beginning.replace("%", "%%").replace(_MILLISECONDS, "%03d", 1)
                template = f"{beginning}{MESSAGE}{self.terminator}"
            self._beginning = since, since + 1, (formatter, stream, name, level), template, is_fine
        if template is None:
            return False
        if is_fine:
            args = ((now - since) * 1000,) + args  # noqa: RUF005 -- which costs twice as much
        line = template % args
        try:  # the same as write_fields, without another call
            with self.lock or nullcontext():
                self.write_line(line)
        except Exception:
            return False  # the record that is made instead will fail, too, and logging reports the error
        return True

    def write_fields(self, level: int, fields: Fields) -> bool:
        """Write the line that the formatter, a :class:`ByFields`, makes for a response; False, with nothing written, if
        a record is needed."""
        formatter: Any = self.formatter
        if self.filters or level < self.level:
            return False
        line = formatter.line(fields) + self.terminator
        try:
            with self.lock or nullcontext():
                self.write_line(line)
        except Exception:
            return False
        return True

    def is_plain(self) -> bool:
        """Whether it writes the text of its formatter unchanged; may differ from second to second."""
        return True

    @abstractmethod
    def write_line(self, line: str) -> None:
        """Write a line with its end; may raise any error of writing. The handler's lock is held."""


def _begin_lines(formatter: Formatter, name: str, level: int, now: float) -> str:
    """The beginning of the lines of this second, with :data:`_MILLISECONDS` in the place of milliseconds."""
    record = logging.LogRecord(name, level, __file__, 0, "", (), None)
    record.created = now  # not a moment later, which may be in the next second
    record.milliseconds = _MILLISECONDS
    return formatter.format(record)
