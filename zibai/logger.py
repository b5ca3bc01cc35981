"""Five loggers, and records that know the exchange they are about.

Code says facts, once, and the format says what becomes of them. A record of an exchange keeps the text values of the
environ beside its own fields, and looks there when a format names a field it has not got: ``%(REMOTE_ADDR)s`` and
``%(HTTP_REFERER)s`` print the value, or ``-``. This happens in the record (its ``__dict__`` is a dict with
``__missing__``), so that a plain ``logging.Formatter`` can do it too. The environ is not copied into the record's
fields: a handler that writes all fields, as JSON handlers do, would write cookies and passwords.
"""

import copy
import json
import logging
import logging.config
import os
import sys
import tomllib
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any, TextIO

from .errors import UsageError
from .formatter import MESSAGE, AtOnce, Fields, Formatter, escape
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

# ---------------------------------------------------------------------------------------------- records


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


# --------------------------------------------------------------------------------------------- handler


_COLOURS = {
    logging.DEBUG: "36",
    logging.INFO: "32",
    logging.WARNING: "33",
    logging.ERROR: "31",
    logging.CRITICAL: "1;31",
}


class ConsoleHandler(logging.StreamHandler[TextIO], AtOnce):
    """To stderr, the level in colour if that is a terminal.

    The handler colours, not the formatter, because only the handler knows where the line goes.
    """

    def is_plain(self) -> bool:
        return not _takes_colour(self.stream)

    def write_line(self, line: str) -> None:
        self.stream.write(line)
        self.stream.flush()

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
                "class": f"{Formatter.__module__}.Formatter",
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
