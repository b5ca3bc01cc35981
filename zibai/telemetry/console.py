"""The handler that writes the log to standard error, the level in colour on a terminal."""

import copy
import logging
import os
import sys
from typing import Any, TextIO

from ..logger import complain
from ..system.standard import text
from .format import AtOnce

_COLOURS = {
    logging.DEBUG: "36",
    logging.INFO: "32",
    logging.WARNING: "33",
    logging.ERROR: "31",
    logging.CRITICAL: "1;31",
}


class ConsoleHandler(AtOnce, logging.StreamHandler[TextIO]):
    """Writes to standard error, with the level in colour on a terminal.

    The handler colours, not the formatter, because only the handler knows its stream.
    """

    stream: Any  # None if the process has no standard error

    def is_plain(self) -> bool:
        return not _takes_colour(self.stream)

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 - the name is logging's
        """Report only now and then that the reader of a pipe has left, or that a disk is full. Otherwise each line
        would print a whole traceback."""
        error = sys.exc_info()[1]
        if isinstance(error, OSError):
            complain(logging.getLogger(record.name), error, record)
        else:
            super().handleError(record)

    def write_line(self, line: str) -> None:
        stream = self.stream
        if stream is None:
            return
        if getattr(stream, "closed", False):
            stream = self._open_again()
        try:
            stream.write(line)
        except UnicodeEncodeError:
            encoding = getattr(stream, "encoding", None) or "ascii"
            stream.write(line.encode(encoding, "backslashreplace").decode(encoding))
        stream.flush()

    def _open_again(self) -> Any:
        """Open descriptor 2 again: the application has closed ``sys.stderr``, which leaves the descriptor open."""
        if self.stream is not sys.__stderr__:
            raise ValueError("the stream of this handler is closed")
        self.stream = stream = text(2)
        return stream

    def format(self, record: logging.LogRecord) -> str:
        colour = _COLOURS.get(record.levelno)
        if colour is not None and _takes_colour(self.stream):
            record = copy.copy(record)  # other handlers get it without colour
            record.levelname = f"\x1b[{colour}m{record.levelname}\x1b[0m"
        return super().format(record)


def _takes_colour(stream: TextIO | None) -> bool:
    if stream is None or os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb":
        return False
    try:
        if not stream.isatty():
            return False
    except (AttributeError, OSError, ValueError):
        return False  # the application has closed or replaced the stream
    # The old Windows console prints escape sequences as text; Windows Terminal and the terminals of Unix shells, which
    # set TERM, interpret them.
    return sys.platform != "win32" or bool(os.environ.keys() & {"WT_SESSION", "TERM"})
