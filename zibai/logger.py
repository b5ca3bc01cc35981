"""Five loggers that never raise.

A log that fails must not cost a response, a thread, a worker or the server. Filters, handlers and formatters are often
the user's code. ``logging`` lets their exceptions pass; these loggers catch them and complain, at most once in ten
seconds.
"""

import logging
import re
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Final

from .errors import format_exception, print_exception

COMPLAINT_INTERVAL: Final = 10.0
"""Seconds between two complaints about a failing log."""


class Logger(logging.Logger):
    """A logger that raises no exception of a filter, a handler, a formatter or a record factory."""

    kept = False  # whether all of them stay enabled when the application configures logging

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
        # It may exist already, of a class that the program has set for its loggers.
        base = type(found)
        with suppress(TypeError):  # a class that accepts no other base
            found.__class__ = Logger if base is logging.Logger else type("Logger", (Logger, base), {})
    return found  # type: ignore[no-any-return]


#: Starting, ending and the management of processes.
logger = _get("zibai")
#: Errors in what clients send; off unless its level is set to DEBUG.
debug_logger = _get("zibai.debug")
#: One record for each request whose response is no 5xx.
access_logger = _get("zibai.access")
#: One record for each request whose response is a 5xx, and errors of the application.
error_logger = _get("zibai.error")
#: The output of workers, if it is captured; the process of a record is the worker's.
output_logger = _get("zibai.output")


def keep_enabled() -> None:
    """Keep these loggers enabled from now on: a dictConfig of the application disables them by default.

    To silence one of them, set its level.
    """
    Logger.kept = True
    for each in (logger, debug_logger, access_logger, error_logger, output_logger):
        each.disabled = False


def safely(log: Callable[..., object], *args: Any) -> None:
    """Call a function that logs, and raise nothing: for threads that run requests, and for the server loop."""
    try:
        log(*args)
    except BaseException as error:
        complain(logger, error, "")


def complain(failing: logging.Logger, error: BaseException, lost: object) -> None:
    """Log that the log has failed, with the record that is lost; at most once in ``COMPLAINT_INTERVAL`` seconds."""
    global _silent_until
    now = time.monotonic()
    if now < _silent_until:
        return
    _silent_until = now + COMPLAINT_INTERVAL
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
    """Whether it was raised from outside of the log: by Ctrl-C, a kill or a Timeout of gevent."""
    if isinstance(error, Exception):
        return False
    makers = {each.__module__.partition(".")[0] for each in type(error).__mro__}
    return isinstance(error, KeyboardInterrupt) or bool(makers & {"gevent", "greenlet"})


# C0, DEL, C1, and the delimiters of a value; many viewers take the two separators for line ends.
_UNSAFE = re.compile('[\x00-\x1f\x7f-\x9f"\\\\\u2028\u2029]')


# The same for a traceback, which has line ends, quotes and backslashes of its own.
_UNSAFE_IN_TRACE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029]")


def _escape_match(match: re.Match[str]) -> str:
    return f"\\x{ord(match[0]):02x}"


def escape(text: str) -> str:
    """``text`` from a client, made safe for a log line."""
    return _UNSAFE.sub(_escape_match, text)


def indented(text: str) -> str:
    """``text`` as indented lines, so that a client cannot forge a line of the log in it."""
    return "  " + _UNSAFE_IN_TRACE.sub(_escape_match, text.removesuffix("\n")).replace("\n", "\n  ")
