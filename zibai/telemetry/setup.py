"""The configuration of the log in the processes of the command: the default, or a file of the user.

While the server is root and will become another user, it opens no log file and imports nothing for the log: that user
could have put links and modules there. So records are kept in memory until :func:`configure`.
"""

import json
import logging
import logging.config
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Final, NamedTuple

from ..config.options import Options
from ..errors import UsageError
from ..importer import add_cwd_to_path
from ..logger import access_logger, error_logger, keep_enabled
from .access import DATE, DEFAULT, AccessFormatter, Responses
from .console import ConsoleHandler
from .format import Formatter
from .jsonlines import JsonFormatter
from .logfile import LogFile, remember_handlers


def files_of(options: Options) -> list[tuple[str, str]]:
    """The log files: the flag that names each, and its path."""
    named = (("--log-file", options.log_file), ("--access-log", options.access_log))
    return [(flag, path) for flag, path in named if path is not None and path != STDOUT]


def configure_as(options: Options) -> None:
    """Call :func:`configure` with the options of the command line.

    The user's file may name formatters, filters and handlers of the project, which are imported as ``python`` would.
    """
    if options.logging_config is not None:
        with suppress(OSError):  # the current directory has been removed
            add_cwd_to_path()
    limits = {"maxBytes": options.log_max_bytes, "backupCount": options.log_backups}
    file = None if options.log_file is None else {"filename": options.log_file, **limits}
    access = Access(options.access_log, options.access_log_format, limits)
    configure(options.no_access_log, options.logging_config, file, options.log_level.upper(), access)


STDOUT: Final = "-"
"""The path that stands for standard output, as with gunicorn."""


class Access(NamedTuple):
    """The values of ``--access-log`` and ``--access-log-format``. ``limits`` are arguments of a :class:`LogFile`."""

    path: str | None = None
    format: str = "default"
    limits: dict[str, Any] = {}  # noqa: RUF012 -- never changed


def configure(
    no_access_log: bool,
    config_filepath: str | None,
    file: dict[str, Any] | None = None,
    level: str = "INFO",
    access: Access = Access(),  # noqa: B008 -- a tuple
) -> None:
    """Set up the five loggers in a parent or worker of the server, never within ``serve``.

    They write to stderr, or to the :class:`LogFile` with the arguments ``file``. The file ``config_filepath``, JSON or
    TOML by its ending, is merged over :func:`default_config`, so it needs only the differences. Raises UsageError, in
    one line that names the file, if it cannot be used.
    """
    config = default_config(file, level)
    changes = {} if config_filepath is None else _read(config_filepath)
    _use_format(config, access, changes.get("formatters") or {})
    if access.path is not None:
        _separate(config, access)
    config = _merge(config, changes)
    try:
        if no_access_log:
            silent = {"level": logging.CRITICAL + 1, "handlers": [], "propagate": False}
            config["loggers"]["zibai.access"] = silent
        logging.config.dictConfig(config)
    except Exception as error:  # dictConfig documents four types, and factories named in a file can raise any
        if config_filepath is None:
            raise  # a bug of the server
        raise _unusable(config_filepath, error) from error
    if access.path is not None:
        for handler in access_logger.handlers:
            error_logger.addHandler(Responses(handler))
    keep_enabled()
    remember_handlers()
    _buffer.pass_on()


def take_strays() -> None:
    """Take what asyncio logs to the server's log, where nobody else takes it: errors of tasks that nobody awaits.

    Call this after the application has configured logging, which may disable the loggers that exist by then.
    """
    asyncio = logging.getLogger("asyncio")
    if not any(isinstance(each, _Strays) for each in asyncio.handlers):
        asyncio.addHandler(_Strays(asyncio))


class _Strays(logging.Handler):
    """Gives the records of a logger to ``zibai.error`` if no other handler gets them.

    Python would print them to standard error as they are: without time and process, and between lines of JSON.
    """

    def __init__(self, logger: logging.Logger) -> None:
        super().__init__()
        self._logger = logger

    def emit(self, record: logging.LogRecord) -> None:
        logger = self._logger
        propagates = logger.propagate and logger.parent is not None and logger.parent.hasHandlers()
        if logger.handlers == [self] and not propagates:
            error_logger.handle(record)


class _Buffer(logging.Handler):
    """Keeps records until handlers may write them."""

    def __init__(self) -> None:
        super().__init__()
        self._records: list[logging.LogRecord] = []

    def emit(self, record: logging.LogRecord) -> None:
        self._records.append(record)

    def pass_on(self) -> None:
        """Pass the records to the handlers that their loggers have now."""
        records, self._records = self._records, []
        for record in records:
            logger = logging.getLogger(record.name)
            if logger.isEnabledFor(record.levelno):
                logger.handle(record)

    @property
    def is_empty(self) -> bool:
        return not self._records


_buffer = _Buffer()


def buffer() -> None:
    """Keep the log in memory until :func:`configure`; at the start, by the main thread."""
    for name, settings in default_config()["loggers"].items():
        logger = logging.getLogger(name)
        logger.setLevel(settings["level"])
        logger.handlers, logger.propagate = [_buffer], False


def flush() -> None:
    """After a failed start: write the records that are kept in memory to standard error."""
    if not _buffer.is_empty:
        configure(False, None)


def default_config(file: dict[str, Any] | None = None, level: str = "INFO") -> dict[str, Any]:
    """A new dict for ``logging.config.dictConfig``, which changes its argument.

    Each logger has its own handler and formatter, all with the same short name, so that a file can change only one.
    The handlers have no ``stream``: a file may turn one of them into a FileHandler, which would refuse it.
    """
    # A bar before the output of workers: otherwise a worker could print a line that looks like the server's.
    formats = dict.fromkeys(("default", "access", "error"), DEFAULT)
    formats["output"] = "%(asctime)s [%(process)d] | %(message)s"
    handler = (
        {"class": f"{ConsoleHandler.__module__}.ConsoleHandler"}
        if file is None
        else {"class": f"{LogFile.__module__}.LogFile", **file}
    )
    return {
        "version": 1,
        "disable_existing_loggers": False,
        "formatters": {
            name: {
                "class": f"{Formatter.__module__}.Formatter",
                "format": text,
                "datefmt": DATE,
            }
            for name, text in formats.items()
        },
        "handlers": {name: {**handler, "formatter": name} for name in formats},
        "loggers": {
            "zibai": {"level": level, "handlers": ["default"], "propagate": False},
            "zibai.debug": {"level": level, "handlers": ["default"], "propagate": False},
            "zibai.access": {"level": level, "handlers": ["access"], "propagate": False},
            "zibai.error": {"level": level, "handlers": ["error"], "propagate": False},
            "zibai.output": {"level": "INFO", "handlers": ["output"], "propagate": False},
        },
    }


def _use_format(config: dict[str, Any], access: Access, changed: Mapping[str, Any]) -> None:
    """Let the formatters use a format; those that the user's own configuration has ``changed`` stay.

    JSON is used by all of them, since a program that reads JSON lines cannot read any other line. Any other format is
    for lines about responses: the access log's, and those of the error log if there is one log for both.
    """
    formatters = config["formatters"]
    for name in formatters.keys() - changed.keys():
        if access.format == "json":
            formatters[name] = {"class": f"{JsonFormatter.__module__}.JsonFormatter"}
        elif access.format != "default" and (name == "access" or (name == "error" and access.path is None)):
            formatters[name] |= {"class": f"{AccessFormatter.__module__}.AccessFormatter", "format": access.format}


def _separate(config: dict[str, Any], access: Access) -> None:
    """Let the access log write to its own place. There each response has a line, whatever ``--log-level`` is."""
    settings = config["loggers"]["zibai.access"]
    settings["level"] = min(settings["level"], "INFO", key=lambda name: logging.getLevelNamesMapping()[name])
    if access.path == STDOUT:
        place: dict[str, Any] = {"class": f"{ConsoleHandler.__module__}.ConsoleHandler", "stream": "ext://sys.stdout"}
    else:
        place = {"class": f"{LogFile.__module__}.LogFile", "filename": access.path, **access.limits}
    config["handlers"]["access"] = {**place, "formatter": "access"}


def _merge(base: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """``base`` with ``changes``, dict by dict; any other value, lists included, is replaced."""
    merged = dict(base)
    for key, value in changes.items():
        below = base.get(key)
        # "()" names a factory that is called with all other keys: it does not know the default's keys.
        if isinstance(below, dict) and isinstance(value, dict) and "()" not in value:
            if value.get("class", below.get("class")) != below.get("class"):
                # Another class does not know the arguments of the default's class.
                below = {name: below[name] for name in ("formatter", "level", "filters") if name in below}
            merged[key] = _merge(below, value)
        else:
            merged[key] = value
    return merged


def _read(filepath: str) -> dict[str, Any]:
    import tomllib  # see zibai.config.file

    loads: dict[str, Any] = {".json": json.loads, ".toml": tomllib.loads}
    load = loads.get(Path(filepath).suffix.lower())
    if load is None:
        raise UsageError(f"--logging-config: {filepath!r} must end in .json or .toml")
    try:
        config = load(Path(filepath).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise _unusable(filepath, error) from error
    if not isinstance(config, dict):
        raise _unusable(filepath, ValueError("it should be an object with the keys of dictConfig"))
    return config


def _unusable(filepath: str, error: Exception) -> UsageError:
    """The reason in one line, with its causes: dictConfig wraps the true reason."""
    reasons = []
    cause: BaseException | None = error
    while cause is not None:
        text = cause.strerror if isinstance(cause, OSError) else str(cause)
        reasons.append(" ".join((text or repr(cause)).split()))
        cause = cause.__cause__
    return UsageError(f"--logging-config: {filepath!r} cannot be used: {': '.join(reasons)}")
