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
import re
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Final

from .errors import format_exception, print_exception

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


# ---------------------------------------------------------------------------------------------- records


# C0, DEL, C1, and what delimits a value; the two separators are line ends to many a viewer.
_UNSAFE = re.compile('[\x00-\x1f\x7f-\x9f"\\\\\u2028\u2029]')


# The same in a traceback, which has line ends, quotes and backslashes of its own.
_UNSAFE_IN_TRACE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029]")


def _escape_match(match: re.Match[str]) -> str:
    return f"\\x{ord(match[0]):02x}"


def escape(text: str) -> str:
    """``text`` from a client, fit for a log line."""
    return _UNSAFE.sub(_escape_match, text)


def indented(text: str) -> str:
    """Lines of which none can be taken for a line of the log, whatever a client has put into them."""
    return "  " + _UNSAFE_IN_TRACE.sub(_escape_match, text.removesuffix("\n")).replace("\n", "\n  ")
