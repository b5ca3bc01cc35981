"""The configuration of the log in the processes of the command: the default, or a file of the user.

While the server is root and going to be another user, it opens no log file and imports nothing for the log: that user
could have put links and modules there. So records are held back until :func:`configure`.
"""

import json
import logging
import logging.config
import tomllib
from contextlib import suppress
from pathlib import Path
from typing import Any

from ..config.options import Options
from ..errors import UsageError
from ..importer import add_cwd_to_path
from ..logger import keep_enabled
from .console import ConsoleHandler
from .format import Formatter
from .logfile import LogFile, remember_handlers


def configure_as(options: Options) -> None:
    """Call :func:`configure` with the options of the command line.

    The user's file may name formatters, filters and handlers of the project, which are imported as ``python`` would.
    """
    if options.logging_config is not None:
        with suppress(OSError):  # the current directory has been removed
            add_cwd_to_path()
    file = None
    if options.log_file is not None:
        file = {"filename": options.log_file, "maxBytes": options.log_max_bytes, "backupCount": options.log_backups}
    configure(options.no_access_log, options.logging_config, file, options.log_level.upper())


def configure(
    no_access_log: bool, config_filepath: str | None, file: dict[str, Any] | None = None, level: str = "INFO"
) -> None:
    """Set up the five loggers, for a process of our own: parent or worker, never within ``serve``.

    They write to stderr, or to the :class:`LogFile` with the arguments ``file``. The file ``config_filepath``, JSON or
    TOML by its ending, is merged over :func:`default_config`, so it needs only the differences. Raises UsageError, in
    one line that names the file, if it cannot be used.
    """
    config = default_config(file, level)
    if config_filepath is not None:
        config = _merge(config, _read(config_filepath))
    try:
        if no_access_log:
            silent = {"level": logging.CRITICAL + 1, "handlers": [], "propagate": False}
            config["loggers"]["zibai.access"] = silent
        logging.config.dictConfig(config)
    except Exception as error:  # dictConfig documents four types, and factories named in a file can raise any
        if config_filepath is None:
            raise  # our own fault
        raise _unusable(config_filepath, error) from error
    keep_enabled()
    remember_handlers()
    _held.pass_on()


class _Held(logging.Handler):
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


_held = _Held()


def hold() -> None:
    """Keep the log in memory until :func:`configure`; at the start, by the main thread."""
    for name, settings in default_config()["loggers"].items():
        logger = logging.getLogger(name)
        logger.setLevel(settings["level"])
        logger.handlers, logger.propagate = [_held], False


def let_go() -> None:
    """After a failed start: write the records that are held back to standard error."""
    if not _held.is_empty:
        configure(False, None)


def default_config(file: dict[str, Any] | None = None, level: str = "INFO") -> dict[str, Any]:
    """A new dict for ``logging.config.dictConfig``, which changes its argument.

    Each logger with its own handler and formatter, all by the same short name, so that a file can change one alone.
    The handlers have no ``stream``, which a FileHandler would refuse if a file makes one of them that.
    """
    # A bar before the output of workers, or a worker could print what looks like a line of the server.
    formats = dict.fromkeys(("default", "access", "error"), "%(asctime)s [%(process)d] %(levelname)s %(message)s")
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
                "datefmt": "%Y-%m-%d %H:%M:%S %z",
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


def _merge(base: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """``base`` with ``changes``, dict by dict; any other value, lists included, is replaced."""
    merged = dict(base)
    for key, value in changes.items():
        below = base.get(key)
        # "()" names a factory that is called with all other keys: it does not know the keys of ours.
        if isinstance(below, dict) and isinstance(value, dict) and "()" not in value:
            if value.get("class", below.get("class")) != below.get("class"):
                # Another class does not know the arguments of our class.
                below = {name: below[name] for name in ("formatter", "level", "filters") if name in below}
            merged[key] = _merge(below, value)
        else:
            merged[key] = value
    return merged


def _read(filepath: str) -> dict[str, Any]:
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
