"""Five loggers that never fail, and records that know the request that they are about.

Code states facts, once, and the format decides what becomes of them. A record of a request has the fields of
:data:`NAMED` as attributes. Beside them it keeps the text values of the environ, and looks there when a format or a
filter names a field that the record does not have: ``%(HTTP_COOKIE)s`` prints the value, or ``-``. For formats this
happens in the record (its ``__dict__`` is a dict with ``__missing__``), so that a plain ``logging.Formatter`` can do it
too. Not all of the environ becomes fields: a handler that writes all fields, as JSON handlers do, would write cookies
and passwords.

A log that fails is no matter of the client, and must not end a thread, a worker or the server. Filters, handlers and
formatters are often the user's code, and logging itself lets their exceptions pass; our loggers do not.
"""

import logging
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from types import TracebackType
from typing import Any, Final

from .consolelog import ConsoleHandler
from .errors import format_exception, print_exception
from .formatter import MESSAGE, Fields, escape, indented
from .logfile import LogFile

MUTE: Final = 10.0
"""Seconds after the complaint about a failing log in which there is no other."""

# --------------------------------------------------------------------------------------------- loggers


class Logger(logging.Logger):
    """A logger that never raises what a filter, a handler, a formatter or a record factory raises."""

    kept = False  # whether they stay enabled, whatever the application configures

    def _log(  # type: ignore[override]
        self, level: int, msg: object, args: Any, exc_info: Any = None, *, stacklevel: int = 1, **more: Any
    ) -> None:
        try:
            super()._log(level, msg, args, exc_info, stacklevel=stacklevel + 1, **more)  # this frame is not the caller
        except BaseException as error:
            if _is_thrown(error):
                raise
            complain(self, error, msg)

    def handle(self, record: logging.LogRecord) -> None:
        try:
            super().handle(record)
        except BaseException as error:
            if _is_thrown(error):
                raise
            complain(self, error, record)

    def __setattr__(self, name: str, value: Any) -> None:
        if name == "disabled" and Logger.kept:
            value = False
        super().__setattr__(name, value)


def _get(name: str) -> logging.Logger:
    manager = logging.Logger.manager
    before, manager.loggerClass = manager.loggerClass, Logger
    try:
        found: Any = logging.getLogger(name)
    finally:
        manager.loggerClass = before
    if not isinstance(found, Logger):
        # It may be there already, and be of a class that the program has set for its loggers.
        base = type(found)
        with suppress(TypeError):  # a class that takes no other base
            found.__class__ = Logger if base is logging.Logger else type("Logger", (Logger, base), {})
    return found  # type: ignore[no-any-return]


#: Starting, ending and the management of processes.
logger = _get("zibai")
#: What is wrong with what clients send; off unless its level is set to DEBUG.
debug_logger = _get("zibai.debug")
#: One record for each exchange that is not answered with a 5xx.
access_logger = _get("zibai.access")
#: One record for each exchange that is answered with a 5xx, and what the application does wrong.
error_logger = _get("zibai.error")
#: What workers print, when it is captured; the process of a record is the worker's.
output_logger = _get("zibai.output")


def keep_enabled() -> None:
    """From now on no configuration disables our loggers: a dictConfig of the application does that by default.

    The level is there to silence one of them.
    """
    Logger.kept = True
    for each in (logger, debug_logger, access_logger, error_logger, output_logger):
        each.disabled = False


def safely(log: Callable[..., object], *args: Any) -> None:
    """Call a function that logs, where nothing may be raised whatever it is: in a runner, and in the server loop."""
    try:
        log(*args)
    except BaseException as error:
        complain(logger, error, "")


def complain(failing: logging.Logger, error: BaseException, lost: object) -> None:
    """Say that the log has failed, and what it has lost; not more often than the log can bear."""
    global _silent_until
    now = time.monotonic()
    if now < _silent_until:
        return
    _silent_until = now + MUTE
    what = f"the handlers or filters of the logger {failing.name} failed, and a record is lost"
    try:
        what += ":\n" + indented(_tell(lost))
        info = (type(error), error, error.__traceback__)
        record = logging.LogRecord(logger.name, logging.ERROR, __file__, 0, "%s", (what,), info)
        if failing is logger or not logger.isEnabledFor(logging.ERROR):
            raise ValueError("there is no other logger")
        logging.Logger.handle(logger, record)
    except BaseException:
        print_exception(what, error)


_silent_until = 0.0


def _tell(lost: object) -> str:
    if not isinstance(lost, logging.LogRecord):
        return str(lost)
    cause = lost.exc_info[1] if lost.exc_info else None
    return lost.getMessage() + ("" if cause is None else "\n" + format_exception(cause, cause.__traceback__))


def _is_thrown(error: BaseException) -> bool:
    """Whether it was thrown into the log from outside: by Ctrl-C, a kill or a Timeout of gevent."""
    if isinstance(error, Exception):
        return False
    makers = {each.__module__.partition(".")[0] for each in type(error).__mro__}
    return isinstance(error, KeyboardInterrupt) or bool(makers & {"gevent", "greenlet"})


ExcInfo = BaseException | tuple[type[BaseException], BaseException, TracebackType | None] | None

# ---------------------------------------------------------------------------------------------- records


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
"""Keys of the environ that a record has as fields, where the request has them. No cookie and no password is among
them."""


class ExchangeRecord(logging.LogRecord):
    """A record whose format, and whose filters, may name any key of the environ."""

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
        # copy.copy and pickle, which a QueueHandler does, would make a plain dict of the fields.
        return _restore, (dict(self.__dict__), getattr(self.__dict__, "environ", {}))


def _restore(fields: Mapping[str, Any], environ: Mapping[str, str]) -> ExchangeRecord:
    record = ExchangeRecord.__new__(ExchangeRecord)
    record.__dict__ = Fields(fields, environ)
    return record


def _attach(record: ExchangeRecord, environ: Mapping[str, object], **facts: object) -> ExchangeRecord:
    # Only text: a record may be kept for long, and must not keep sockets and files with it.
    texts = {key: value for key, value in environ.items() if isinstance(value, str)}
    named = {key: escape(texts[key]) for key in NAMED if key in texts}
    record.__dict__ = Fields(record.__dict__ | named | facts, texts)
    return record


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
) -> None:
    """One record for an exchange: ``duration`` in seconds, ``response_length`` the bytes of the body. Never raises."""
    try:
        if not logger.isEnabledFor(level):
            return
        get = environ.get
        what: tuple[Any, ...] = get("REMOTE_ADDR"), get("REQUEST_METHOD"), get("REQUEST_URI"), get("SERVER_PROTOCOL")
        client, method, target, protocol = what
        text = f"{client}{method}{target}{protocol}"
        # All that _UNSAFE looks for is one of the two, or not printable; mostly there is nothing to escape.
        if not (text.isprintable() and client and method and target and protocol) or '"' in text or "\\" in text:
            what = tuple(escape(str(value or "-")) for value in what)
        args = (*what, status, response_length, duration * 1000)
        if exc_info is None and _write_at_once(logger, level, args):
            return
        record = ExchangeRecord(logger.name, level, MESSAGE, args, exc_info)
        facts = {"status": status, "duration": Seconds(duration), "response_length": response_length}
        logger.handle(_attach(record, environ, **facts))
    except BaseException as error:  # the client has its response, and the runner goes on
        complain(logger, error, "")


def _write_at_once(logger: logging.Logger, level: int, args: tuple[object, ...]) -> bool:
    """Write the line of an exchange without a record; False, and nothing done, where somebody might miss the record.

    The configuration may change at any time, so it is looked at each time.
    """
    handlers = logger.handlers
    if len(handlers) != 1 or logger.propagate or logger.filters:
        return False
    handler = handlers[0]
    # Not of a class that somebody has made from ours, which may do more with a record.
    if type(handler) is ConsoleHandler or type(handler) is LogFile:
        return handler.write_at_once(logger.name, level, args)
    return False


def log_error(environ: Mapping[str, object], msg: str, *args: object, exc_info: ExcInfo = None) -> None:
    """An error of the application within an exchange, with its environ, to ``zibai.error``; text in ``args`` is
    escaped."""
    if not error_logger.isEnabledFor(logging.ERROR):
        return
    safe = tuple(escape(str(arg)) if isinstance(arg, str | BaseException) else arg for arg in args)
    record = ExchangeRecord(error_logger.name, logging.ERROR, msg, safe, exc_info)
    error_logger.handle(_attach(record, environ))
