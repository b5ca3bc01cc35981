"""Lines of the access log in a format of ``--access-log-format``: the meaning of each of gunicorn's atoms.

A formatter is made from a format once. For a line it computes only the atoms that the format names. Text of clients is
escaped, as everywhere in the log (:mod:`zibai.telemetry.format`).
"""

import base64
import copy
import logging
import re
import time
from collections.abc import Callable, Mapping
from typing import Any, Final

from ..config.atoms import Atom, parse
from ..logger import escape
from .format import ByFields, Fields, Formatter, local_time

Part = Callable[[Fields], str]

_MONTHS: Final = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")


class AccessFormatter(Formatter, ByFields):
    """Writes the records of responses by the atoms of ``fmt``, or by the name of a format, and a traceback below.

    Records that are not about a response, as some of ``zibai.error``, are written in the default format.
    """

    def __init__(self, fmt: str, datefmt: str | None = None, style: Any = "%", validate: bool = True) -> None:
        super().__init__(DEFAULT, datefmt, style, validate)
        self._line = compile_format(fmt)

    def line(self, fields: Fields) -> str:
        return self._line(fields)

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 - the name is logging's
        fields = record.__dict__
        if isinstance(fields, Fields) and "status" in fields:
            return self._line(fields)
        return super().formatMessage(record)


DEFAULT: Final = "%(asctime)s [%(process)d] %(levelname)s %(message)s"
"""The default format of the log."""

DATE: Final = "%Y-%m-%d %H:%M:%S.%f %z"
"""The default format of times."""


class Responses(logging.Handler):
    """Gives ``handler`` the records of responses, without a traceback, and no others.

    A separate access log has a line for each response, also for those in ``zibai.error``.
    """

    def __init__(self, handler: logging.Handler) -> None:
        super().__init__()
        self.handler = handler

    def emit(self, record: logging.LogRecord) -> None:
        fields = record.__dict__
        if isinstance(fields, Fields) and "status" in fields and record.levelno >= self.handler.level:
            record = copy.copy(record)  # other handlers get it with its traceback
            record.exc_info = record.exc_text = None
            self.handler.handle(record)


def compile_format(text: str) -> Part:
    """The function that makes a line of the fields of a record."""
    template, parts = "", []
    for each in parse(text):
        if isinstance(each, Atom):
            template += f"%{each.pad or ''}s"
            parts.append(_part(each))
        else:
            template += each.replace("%", "%%")
    return lambda fields: template % tuple([part(fields) for part in parts])


def _part(atom: Atom) -> Part:
    match atom.letter:
        case "i":
            key = atom.name.upper().replace("-", "_")
            return _text(key if key in ("CONTENT_TYPE", "CONTENT_LENGTH") else f"HTTP_{key}")
        case "o":
            return _response_field(atom.name)
        case "e":
            return _variable(atom.name)
        case "t":
            return _Clock()
    return _PARTS[atom.letter]


def _safe(text: object) -> str:
    """``text`` of a client, made safe for a line and for quotes around it; ``-`` if it is empty or no text."""
    if not text or not isinstance(text, str):
        return "-"
    return text if text.isprintable() and '"' not in text and "\\" not in text else escape(text)


def _text(key: str) -> Part:
    """The value of a key of the environ."""
    return lambda fields: _safe(fields.environ.get(key))


def _variable(name: str) -> Part:
    """The same, without regard to the case of the key, as gunicorn does."""
    names = dict.fromkeys((name, name.upper(), name.lower()))

    def find(fields: Fields) -> str:
        return _safe(next((fields.environ[key] for key in names if key in fields.environ), None))

    return find


def _response_field(name: str) -> Part:
    """A field of the response, from its head."""
    if name.lower() == "content-length":
        return lambda fields: str(fields["response_length"])  # the server may have set it
    search = re.compile(
        rb"\r\n%b:[ \t]*([^\r\n]*)" % re.escape(name.encode("latin-1", "replace")), re.IGNORECASE
    ).search

    def find(fields: Fields) -> str:
        found = search(fields.head)
        return _safe(None if found is None else found[1].decode("latin-1"))

    return find


class _Clock:
    """The time of Apache's logs, such as ``[28/Nov/2026:14:02:51 +0100]``, made once a second; in English anywhere."""

    _last: tuple[int, str] = (-1, "")  # replaced as one tuple, so any thread may do it

    def __call__(self, fields: Fields) -> str:
        second, text = self._last
        now = int(fields["created"])
        if now != second:
            date = local_time(now)
            month = _MONTHS[date.tm_mon - 1]
            text = f"[{date.tm_mday:02d}/{month}/{time.strftime('%Y:%H:%M:%S', date)} {zone(date)}]"
            self._last = now, text
        return text


def zone(date: time.struct_time, colon: str = "") -> str:
    """The offset of a local time from UTC, such as ``+0100``."""
    minutes = (date.tm_gmtoff or 0) // 60
    hours, minutes = divmod(abs(minutes), 60)
    return f"{'-' if (date.tm_gmtoff or 0) < 0 else '+'}{hours:02d}{colon}{minutes:02d}"


def user_of(environ: Mapping[str, Any]) -> str:
    """The name that a client has given by Basic authentication (RFC 7617), or that the application has set; or ``""``.

    The server does not check it.
    """
    if environ.get("REMOTE_USER"):
        return str(environ["REMOTE_USER"])
    scheme, _, credentials = environ.get("HTTP_AUTHORIZATION", "").partition(" ")
    if scheme.lower() != "basic":
        return ""
    try:
        return base64.b64decode(credentials.strip(), validate=True).partition(b":")[0].decode("utf-8", "replace")
    except ValueError:  # also if it is not ASCII
        return ""


def _request_line(fields: Fields) -> str:
    get = fields.environ.get
    return _safe(f"{get('REQUEST_METHOD') or '-'} {get('REQUEST_URI') or '-'} {get('SERVER_PROTOCOL') or '-'}")


def _path(fields: Fields) -> str:
    """The path as it was sent, without the query."""
    return _safe(fields.environ.get("REQUEST_URI", "").partition("?")[0])


_PARTS: Final[dict[str, Part]] = {
    "h": _text("REMOTE_ADDR"),
    "l": lambda fields: "-",
    "u": lambda fields: _safe(user_of(fields.environ)),
    "r": _request_line,
    "m": _text("REQUEST_METHOD"),
    "U": _path,
    "q": lambda fields: escape(fields.environ.get("QUERY_STRING", "")),
    "H": _text("SERVER_PROTOCOL"),
    "s": lambda fields: str(fields["status"]),
    "B": lambda fields: str(fields["response_length"]),
    "b": lambda fields: str(fields["response_length"] or "-"),
    "f": _text("HTTP_REFERER"),
    "a": _text("HTTP_USER_AGENT"),
    "T": lambda fields: str(int(fields["duration"])),
    "D": lambda fields: str(int(fields["duration"] * 1_000_000)),
    "M": lambda fields: str(int(fields["duration"] * 1000)),
    "L": lambda fields: f"{float(fields['duration']):.6f}",
    "p": lambda fields: f"<{fields['process']}>",
}
