"""The log as JSON lines: each record is one object in one line, whatever a client has sent and whatever went wrong.

Every record has ``time``, ``level``, ``logger``, ``pid``, ``worker`` and ``message``. A record of a response also has
the facts of its request, and the durations of its phases (``queue_ms`` and so on). A record of an error has
``traceback``. Unknown fields are left out. The names are documented in ``docs/logging.md``.

JSON has its own escapes, so only the message is escaped as in a line of text. Only ASCII is written: no reader can take
a character for the end of a line, and half a surrogate pair cannot make a line invalid.
"""

import json
import logging
import time
from typing import Any, Final

from ..errors import format_exception
from .access import user_of, zone
from .format import ByFields, Fields, local_time

worker: int | None = None
"""The number of this worker among those of its parent; None in any other process. Set once, at the start."""

PHASES: Final = ("queue", "head", "body", "application", "send")
"""The phases of a request. A record has the known ones as ``queue_ms`` and so on, in milliseconds."""

_REQUEST: Final = {
    "client": "REMOTE_ADDR",
    "method": "REQUEST_METHOD",
    "path": "PATH_INFO",
    "query": "QUERY_STRING",
    "target": "REQUEST_URI",
    "protocol": "SERVER_PROTOCOL",
    "host": "HTTP_HOST",
    "referer": "HTTP_REFERER",
    "user_agent": "HTTP_USER_AGENT",
    "request_id": "HTTP_X_REQUEST_ID",
    "traceparent": "HTTP_TRACEPARENT",
}
"""Fields of a request by their keys in the environ."""

_MORE: Final = (
    *(f"{phase}_ms" for phase in PHASES),
    *("close_code", "messages_in", "messages_out", "bytes_in", "bytes_out"),  # of a WebSocket
)

_encode: Final = json.JSONEncoder(separators=(", ", ": "), default=str, skipkeys=True).encode


class JsonFormatter(logging.Formatter, ByFields):
    """Makes a JSON object of a record, in one line."""

    _second: tuple[int, str, str] = (-1, "", "")  # a second, and its text before and after the milliseconds

    def format(self, record: logging.LogRecord) -> str:
        fields = record.__dict__
        values = self._begin(fields, record.getMessage())
        if isinstance(fields, Fields):
            _describe(values, fields)
        if record.exc_info and record.exc_info[1] is not None:
            values["traceback"] = format_exception(record.exc_info[1], record.exc_info[2])
        elif record.exc_text:
            values["traceback"] = record.exc_text
        if record.stack_info:
            values["stack"] = record.stack_info
        return _encode({key: _readable(value) for key, value in values.items()})

    def line(self, fields: Fields) -> str:
        values = self._begin(fields, fields["message"])
        _describe(values, fields)
        return _encode({key: _readable(value) for key, value in values.items()})

    def _begin(self, fields: dict[str, Any], message: str) -> dict[str, Any]:
        return {
            "time": self._time(fields["created"]),
            "level": fields["levelname"],
            "logger": fields["name"],
            "pid": fields["process"],
            "worker": worker,
            "message": message,
        }

    def _time(self, created: float) -> str:
        """RFC 3339, with milliseconds and the offset from UTC."""
        now = int(created)
        second, before, behind = self._second
        if second != now:
            date = local_time(now)
            before, behind = time.strftime("%Y-%m-%dT%H:%M:%S.", date), zone(date, ":")
            self._second = now, before, behind
        return f"{before}{int((created - now) * 1000):03d}{behind}"


def _describe(values: dict[str, Any], fields: Fields) -> None:
    """Add the known facts of a request and its response."""
    environ = fields.environ
    for name, key in _REQUEST.items():
        value = environ.get(key)
        if value:
            values[name] = _decoded(value)
    user = user_of(environ)
    if user:
        values["user"] = user
    if "status" in fields:
        values["status"], values["bytes"] = fields["status"], fields["response_length"]
        values["duration_ms"] = round(float(fields["duration"]) * 1000, 3)
        for name in _MORE:
            if name in fields:
                values[name] = fields[name]


def _decoded(value: str) -> str:
    """Text of an environ, which is latin-1 in the words of PEP 3333, as the UTF-8 that it most likely is."""
    if value.isascii():
        return value
    try:
        return value.encode("latin-1").decode("utf-8")
    except UnicodeError:
        return value


def _readable(value: Any) -> Any:
    """``value`` with halves of surrogate pairs escaped: file names may have them, and many readers refuse them."""
    if isinstance(value, str) and not value.isascii():
        return value.encode("utf-8", "backslashreplace").decode("utf-8")
    return value
