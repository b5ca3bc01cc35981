"""The records of requests: their fields, and how a line is written without one.

A record has the fields of :data:`NAMED` as attributes. Beside them it keeps the text values of the environ, for a
format or a filter that names another field: ``%(HTTP_COOKIE)s`` prints the value, or ``-``. The ``__dict__`` of the
record is a dict with ``__missing__``, so that this works with a plain ``logging.Formatter`` as well. The other values
are no fields: a handler that writes all fields, as JSON handlers do, would write cookies and passwords.
"""

import logging
import os
import time
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Any, Final, NamedTuple

from ..logger import access_logger, complain, error_logger, escape
from .access import AccessFormatter
from .console import ConsoleHandler
from .format import MESSAGE, Fields
from .jsonlines import JsonFormatter
from .logfile import LogFile

ExcInfo = BaseException | tuple[type[BaseException], BaseException, TracebackType | None] | None


NAMED: Final = (
    "REMOTE_ADDR",
    "REMOTE_USER",
    "REQUEST_METHOD",
    "REQUEST_URI",
    "PATH_INFO",
    "QUERY_STRING",
    "SERVER_PROTOCOL",
    "HTTP_HOST",
    "HTTP_REFERER",
    "HTTP_USER_AGENT",
    "HTTP_X_REQUEST_ID",
)
"""Keys of the environ that become fields of a record, if the request has them: no cookies and no passwords."""

ALWAYS: Final = frozenset(NAMED[:1] + NAMED[2:7])
"""The fields that every record has, ``-`` where they are not known. A filter may read them as attributes; if that
raised an error, any client could keep its malformed requests out of the log."""


class ExchangeRecord(logging.LogRecord):
    """A record whose formats and filters may name any key of the environ."""

    def __init__(self, name: str, level: int, msg: str, args: tuple[object, ...], exc_info: ExcInfo) -> None:
        if isinstance(exc_info, BaseException):
            exc_info = (type(exc_info), exc_info, exc_info.__traceback__)
        super().__init__(name, level, __file__, 0, msg, args, exc_info)

    def __getattr__(self, name: str) -> str:
        value = getattr(self.__dict__, "environ", {}).get(name)
        if value is None:
            raise AttributeError(f"this log record has no {name}, and neither has the environ of its request")
        return escape(value)

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        # copy.copy and pickle, which a QueueHandler uses, would make a plain dict of the fields.
        fields = self.__dict__
        return _restore, (dict(fields), getattr(fields, "environ", {}), getattr(fields, "head", b""))


def _restore(fields: Mapping[str, Any], environ: dict[str, str], head: bytes) -> ExchangeRecord:
    record = ExchangeRecord.__new__(ExchangeRecord)
    record.__dict__ = Fields(fields, environ, head)
    return record


def _attach(
    record: ExchangeRecord, environ: Mapping[str, object], facts: Mapping[str, object], head: bytes = b""
) -> ExchangeRecord:
    texts = _texts(environ)
    named: dict[str, str] = {key: escape(texts.get(key, "-")) for key in NAMED if key in texts or key in ALWAYS}
    fields = Fields(record.__dict__, texts, head)
    fields.update(named)
    fields.update(facts)
    record.__dict__ = fields
    return record


def _texts(environ: Mapping[str, object]) -> dict[str, str]:
    """The text values of an environ: an application may set anything, and a record must not keep sockets and files."""
    return {key: value for key, value in environ.items() if isinstance(value, str)}


class ResponseDetails(NamedTuple):
    """Details of a response that only some formats show: its ``head`` as it is sent, and the seconds of its ``phases``,
    by name."""

    head: bytes
    phases: Mapping[str, float]


class Seconds(float):
    """Prints as ``0.001`` and never as ``1e-05``; any other number format works as for a float."""

    def __str__(self) -> str:
        return f"{self:.3f}"


def log_exchange(
    logger: logging.Logger,
    level: int,
    environ: Mapping[str, object],
    status: int,
    duration: float,
    response_length: int,
    exc_info: ExcInfo = None,
    tell: Callable[[], ResponseDetails] | None = None,
) -> None:
    """Log one request at a level that is enabled: ``duration`` in seconds, ``response_length`` the bytes of the body.

    Never raises. ``tell`` is called where a record is made.
    """
    try:
        get = environ.get
        client, method = get("REMOTE_ADDR"), get("REQUEST_METHOD")
        target, protocol = get("REQUEST_URI"), get("SERVER_PROTOCOL")
        text = f"{client}{method}{target}{protocol}"
        # A quick check for matches of _UNSAFE: usually there is nothing to escape.
        if not (text.isprintable() and client and method and target and protocol) or '"' in text or "\\" in text:
            what = (escape(str(value or "-")) for value in (client, method, target, protocol))
            client, method, target, protocol = what
        args = (client, method, target, protocol, status, response_length, duration * 1000)
        handler = _handler_at_once(logger) if exc_info is None else None
        if handler is not None and handler.write_at_once(logger.name, level, args):
            return
        facts: dict[str, object] = {"status": status, "duration": Seconds(duration), "response_length": response_length}
        head = b""
        if tell is not None:
            head, phases = tell()
            for name, seconds in phases.items():
                facts[f"{name}_ms"] = round(seconds * 1000, 3)
        if handler is not None and type(handler.formatter) in (AccessFormatter, JsonFormatter):
            basic = {"name": logger.name, "levelname": logging.getLevelName(level), "message": MESSAGE % args}
            made = {"created": time.time(), "process": os.getpid(), **basic, **facts}
            if handler.write_fields(level, Fields(made, _texts(environ), head)):
                return
        record = ExchangeRecord(logger.name, level, MESSAGE, args, exc_info)
        logger.handle(_attach(record, environ, facts, head))
    except BaseException as error:  # the client has its response, and the thread or greenlet continues
        complain(logger, error, "")


def log_websocket(environ: Mapping[str, object], code: int, reason: str, duration: float, counts: Any) -> None:
    """Log the end of a WebSocket: its close code, ``duration`` in seconds, and its traffic (``messages_in``,
    ``messages_out``, ``bytes_in``, ``bytes_out`` of ``counts``). Never raises.
    """
    try:
        who = escape(str(environ.get("REMOTE_ADDR") or "-")), escape(str(environ.get("REQUEST_URI") or "-"))
        numbers = counts.messages_in, counts.messages_out, counts.bytes_in, counts.bytes_out
        record = ExchangeRecord(
            access_logger.name, logging.INFO, _CLOSED, (*who, code, escape(reason), duration, *numbers), None
        )
        names = ("messages_in", "messages_out", "bytes_in", "bytes_out")
        facts = {"status": 101, "close_code": code, "duration": Seconds(duration), "response_length": counts.bytes_out}
        access_logger.handle(_attach(record, environ, {**facts, **dict(zip(names, numbers, strict=True))}))
    except BaseException as error:  # the event loop goes on
        complain(access_logger, error, "")


_CLOSED: Final = '%s "WEBSOCKET %s" closed %d "%s" after %.1fs, messages in %d out %d, bytes in %d out %d'


def _handler_at_once(logger: logging.Logger) -> ConsoleHandler | LogFile | None:
    """The handler that may write the line of a request without a record; None if the record might be needed.

    The configuration may change at any time, so it is checked each time.
    """
    handlers = logger.handlers
    if len(handlers) != 1 or logger.propagate or logger.filters:
        return None
    handler = handlers[0]
    # Not a subclass, which may do more with a record.
    return handler if type(handler) is ConsoleHandler or type(handler) is LogFile else None


def log_error(environ: Mapping[str, object], msg: str, *args: object, exc_info: ExcInfo = None) -> None:
    """Log an error of the application in a request to ``zibai.error``, with the environ; text in ``args`` is
    escaped."""
    if not error_logger.isEnabledFor(logging.ERROR):
        return
    safe = tuple(escape(str(arg)) if isinstance(arg, str | BaseException) else arg for arg in args)
    record = ExchangeRecord(error_logger.name, logging.ERROR, msg, safe, exc_info)
    error_logger.handle(_attach(record, environ, {}))
