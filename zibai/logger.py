"""Five loggers, and records that know the exchange they are about.

Code says facts, once, and the format says what becomes of them. A record of an exchange keeps the text values of the
environ beside its own fields, and looks there when a format names a field it has not got: ``%(REMOTE_ADDR)s`` and
``%(HTTP_REFERER)s`` print the value, or ``-``. This happens in the record (its ``__dict__`` is a dict with
``__missing__``), so that a plain ``logging.Formatter`` can do it too. The environ is not copied into the record's
fields: a handler that writes all fields, as JSON handlers do, would write cookies and passwords.

What a client sends ends up in these lines, so it is escaped on the way: no control character, quote or backslash
of theirs can end a line, begin another or colour a terminal.

A record costs twice as much as all else that a plain request does. So the access log does not make one where nobody
could tell: where one handler of ours writes a format that ends with the message and begins with what stays the same for
a second. Then that beginning is made once a second, by ``logging``, and the line is written.
"""

import copy
import json
import logging
import logging.config
import os
import re
import sys
import time
import tomllib
import traceback
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from pathlib import Path
from string import Template
from types import FrameType, TracebackType
from typing import Any, Literal, TextIO

from .errors import UsageError
from .logfile import LogFile
from .options import Options

#: Starting, ending and the management of processes.
logger = logging.getLogger("zibai")
#: What is wrong with what clients send; off unless its level is set to DEBUG.
debug_logger = logging.getLogger("zibai.debug")
#: One record for each exchange that is not answered with a 5xx.
access_logger = logging.getLogger("zibai.access")
#: One record for each exchange that is answered with a 5xx, and what the application does wrong.
error_logger = logging.getLogger("zibai.error")
#: What workers print, when it is captured; the process of a record is the worker's.
output_logger = logging.getLogger("zibai.output")

ExcInfo = BaseException | tuple[type[BaseException], BaseException, TracebackType | None] | None

# C0, DEL, C1, and what delimits a value; the two separators are line ends to many a viewer.
_UNSAFE = re.compile('[\x00-\x1f\x7f-\x9f"\\\\\u2028\u2029]')

# The same in a traceback, which has line ends, quotes and backslashes of its own.
_UNSAFE_IN_TRACE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029]")


def _escape_match(match: re.Match[str]) -> str:
    return f"\\x{ord(match[0]):02x}"


def escape(text: str) -> str:
    """``text`` from a client, fit for a log line."""
    return _UNSAFE.sub(_escape_match, text)


# ---------------------------------------------------------------------------------------------- records


class Fields(dict[str, Any]):
    """The fields of a record, and behind them the environ; what neither has is ``-``."""

    def __init__(self, fields: Mapping[str, Any], environ: Mapping[str, str]) -> None:
        super().__init__(fields)
        self.environ = environ

    def __missing__(self, key: str) -> str:
        return escape(self.environ.get(key, "-"))


class ExchangeRecord(logging.LogRecord):
    """A record whose format may name any key of the environ."""

    def __init__(self, name: str, level: int, msg: str, args: tuple[object, ...], exc_info: ExcInfo) -> None:
        if isinstance(exc_info, BaseException):
            exc_info = (type(exc_info), exc_info, exc_info.__traceback__)
        super().__init__(name, level, __file__, 0, msg, args, exc_info)

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
    record.__dict__ = Fields(record.__dict__ | facts, texts)
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
    """One record for an exchange: ``duration`` in seconds, ``response_length`` the bytes of the body."""
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
    logger.handle(_attach(record, environ, status=status, duration=Seconds(duration), response_length=response_length))


MESSAGE = '%s "%s %s %s" %d %d %.1fms'


def _write_at_once(logger: logging.Logger, level: int, args: tuple[object, ...]) -> bool:
    """Write the line of an exchange without a record; False, and nothing done, where somebody might miss the record.

    The configuration may change at any time, so it is looked at each time.
    """
    handlers = logger.handlers
    if len(handlers) != 1 or logger.propagate or logger.filters:
        return False
    handler = handlers[0]
    return type(handler) is ConsoleHandler and handler.write_at_once(logger.name, level, args)


def log_error(environ: Mapping[str, object], msg: str, *args: object, exc_info: ExcInfo = None) -> None:
    """An error of the application within an exchange, with its environ, to ``zibai.error``; text in ``args`` is
    escaped."""
    if not error_logger.isEnabledFor(logging.ERROR):
        return
    safe = tuple(escape(str(arg)) if isinstance(arg, str | BaseException) else arg for arg in args)
    record = ExchangeRecord(error_logger.name, logging.ERROR, msg, safe, exc_info)
    error_logger.handle(_attach(record, environ))


# ----------------------------------------------------------------------------------- formatter and handler


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

    def formatException(self, ei: Any) -> str:  # noqa: N802 - the name is logging's
        """Indented: what a client sent may be in the text of the exception, and must not begin a line of its own."""
        text = _UNSAFE_IN_TRACE.sub(_escape_match, super().formatException(ei))
        return "  " + text.replace("\n", "\n  ")

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 - the name is logging's
        fields = record.__dict__
        if self._defaults or not isinstance(fields, Fields):
            fields = Fields(self._defaults | fields, getattr(fields, "environ", {}))
        return self._write(self._text, fields)


_COLOURS = {
    logging.DEBUG: "36",
    logging.INFO: "32",
    logging.WARNING: "33",
    logging.ERROR: "31",
    logging.CRITICAL: "1;31",
}


class ConsoleHandler(logging.StreamHandler[TextIO]):
    """To stderr, the level in colour if that is a terminal.

    The handler colours, not the formatter, because only the handler knows where the line goes.
    """

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
            if not _takes_colour(stream):
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
                stream.write(line)
                stream.flush()
        except Exception:
            return False  # logging has its own ways to tell that
        return True

    def format(self, record: logging.LogRecord) -> str:
        colour = _COLOURS.get(record.levelno)
        if colour is not None and _takes_colour(self.stream):
            record = copy.copy(record)  # the other handlers get it plain
            record.levelname = f"\x1b[{colour}m{record.levelname}\x1b[0m"
        return super().format(record)


def _takes_colour(stream: TextIO) -> bool:
    if not stream.isatty() or os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb":
        return False
    # The old Windows console prints escape sequences as they are; Windows Terminal and the terminals of
    # Unix shells, which set TERM, know them.
    return sys.platform != "win32" or bool(os.environ.keys() & {"WT_SESSION", "TERM"})


# ------------------------------------------------------------------------------------------ configuration


def configure_as(options: Options) -> None:
    """:func:`configure` by what the command line says."""
    file = None
    if options.log_file is not None:
        file = {"filename": options.log_file, "maxBytes": options.log_max_bytes, "backupCount": options.log_backups}
    configure(options.no_access_log, options.logging_config_filepath, file)


def configure(no_access_log: bool, config_filepath: str | None, file: dict[str, Any] | None = None) -> None:
    """Set up the five loggers, for a process of our own: parent or worker, never within ``serve``.

    They write to stderr, or to the :class:`LogFile` with the arguments ``file``. The file ``config_filepath``, JSON or
    TOML by its ending, is merged over :func:`default_config`, so it need only say what differs. Raises UsageError, in
    one line that names it, when it cannot be used.
    """
    config = default_config(file)
    if config_filepath is not None:
        config = _merge(config, _read(config_filepath))
    try:
        if no_access_log:
            # By level, and not Logger.disabled, which any later dictConfig of the application takes back.
            silent = {"level": logging.CRITICAL + 1, "handlers": [], "propagate": False}
            config["loggers"]["zibai.access"] = silent
        logging.config.dictConfig(config)
    except Exception as error:  # dictConfig promises four kinds, and factories named in a file can raise anything
        if config_filepath is None:
            raise  # nobody's fault but ours
        raise _unusable(config_filepath, error) from error


def default_config(file: dict[str, Any] | None = None) -> dict[str, Any]:
    """A new dict for ``logging.config.dictConfig``, which takes its argument apart.

    Each logger with its own handler and formatter, all by the same short name, so that a file can change one alone.
    No ``stream`` for the handlers: it would be in the way of a file that makes one of them a FileHandler.
    """
    # A bar before what workers print, or one could print what looks like a line of the server.
    formats = dict.fromkeys(("default", "access", "error"), "%(asctime)s [%(process)d] %(levelname)s %(message)s")
    formats["output"] = "%(asctime)s [%(process)d] | %(message)s"
    handler = (
        {"class": f"{__name__}.ConsoleHandler"} if file is None else {"class": f"{LogFile.__module__}.LogFile", **file}
    )
    return {
        "version": 1,
        "disable_existing_loggers": False,
        "formatters": {
            name: {
                "class": f"{__name__}.Formatter",
                "format": text,
                "datefmt": "%Y-%m-%d %H:%M:%S",
            }
            for name, text in formats.items()
        },
        "handlers": {name: {**handler, "formatter": name} for name in formats},
        "loggers": {
            "zibai": {"level": "INFO", "handlers": ["default"], "propagate": False},
            "zibai.debug": {"level": "INFO", "handlers": ["default"], "propagate": False},
            "zibai.access": {"level": "INFO", "handlers": ["access"], "propagate": False},
            "zibai.error": {"level": "INFO", "handlers": ["error"], "propagate": False},
            "zibai.output": {"level": "INFO", "handlers": ["output"], "propagate": False},
        },
    }


def _merge(base: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """``base`` with ``changes`` laid over it, dict by dict; anything else is replaced, lists too."""
    merged = dict(base)
    for key, value in changes.items():
        below = base.get(key)
        # "()" names a factory that is called with all the other keys: ours would be strange to it.
        if isinstance(below, dict) and isinstance(value, dict) and "()" not in value:
            if value.get("class", below.get("class")) != below.get("class"):
                # Another class does not know the arguments of ours either.
                below = {name: below[name] for name in ("formatter", "level", "filters") if name in below}
            merged[key] = _merge(below, value)
        else:
            merged[key] = value
    return merged


def _read(filepath: str) -> dict[str, Any]:
    loads: dict[str, Callable[[str], Any]] = {".json": json.loads, ".toml": tomllib.loads}
    load = loads.get(Path(filepath).suffix.lower())
    if load is None:
        raise UsageError(f"--logging-config-filepath: {filepath!r} must end in .json or .toml")
    try:
        config = load(Path(filepath).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise _unusable(filepath, error) from error
    if not isinstance(config, dict):
        raise _unusable(filepath, ValueError("it should be an object with the keys of dictConfig"))
    return config


def _unusable(filepath: str, error: Exception) -> UsageError:
    """The reason in one line; dictConfig wraps the true one, so the causes are told as well."""
    reasons = []
    cause: BaseException | None = error
    while cause is not None:
        text = cause.strerror if isinstance(cause, OSError) else str(cause)
        reasons.append(" ".join((text or repr(cause)).split()))
        cause = cause.__cause__
    return UsageError(f"--logging-config-filepath: {filepath!r} cannot be used: {': '.join(reasons)}")


# ----------------------------------------------------------------------------------------------- stacks

_BELOW = (
    str(Path(__file__).parent),
    "threading.py",
    os.sep + "gevent" + os.sep,
    "<frozen",
    "<string>",
    os.sep + "multiprocessing" + os.sep,
)


def format_stack(frame: FrameType | None) -> str:
    """Where a thread or greenlet is, as in a traceback; without what comes before the application."""
    summary = traceback.extract_stack(frame) if frame is not None else []
    while len(summary) > 1 and any(below in summary[0].filename for below in _BELOW):
        del summary[0]
    return "".join(traceback.format_list(summary)).rstrip("\n") or "  (it has just ended)"
