"""Errors raised on purpose, each with the answer it stands for.

An error has one owner. A :class:`Refused` belongs to the client that sent the bytes and carries the HTTP
status of the answer; a :class:`Gone` means there is nobody left to answer. What ends the program
carries its exit code: 1 for what the machine denies us, 2 for wrong usage, 3 for an application that cannot
be loaded. The text of these errors is one line that a user can act on. Anything else that is raised is a
bug, ours or the application's, and is shown with its traceback.
"""

import sys
import traceback
from collections.abc import Iterator
from http import HTTPStatus
from types import TracebackType
from typing import Final, Self


class ZibaiError(Exception):
    """Base of everything that Zibai raises on purpose; ``exit_code`` is the status of the process it ends."""

    exit_code = 1


class UsageError(ZibaiError):
    """An option, flag or argument makes no sense, alone or together with another."""

    exit_code = 2


class MissingExtra(UsageError):
    """An optional package is asked for and not installed; the text names the extra to install.

    ``is_broken`` when it is installed and cannot be imported, which another installation would not mend.
    """

    is_broken = False

    @classmethod
    def because(cls, error: ImportError, package: str, text: str) -> Self:
        """Of an ``error`` that importing ``package`` raised; ``text`` is for one that is not installed."""
        if isinstance(error, ModuleNotFoundError) and (error.name or "").partition(".")[0] == package:
            return cls(text)
        made = cls(f"{package} is installed and cannot be imported: {error}")
        made.is_broken = True
        return made


class BindError(ZibaiError):
    """A listening socket cannot be made: the address is taken, forbidden or unknown."""


class LoadError(ZibaiError):
    """The application cannot be loaded.

    ``trace`` is the traceback of the user's own code, without our frames, or empty when a line says all.
    """

    exit_code = 3

    def __init__(self, message: str, trace: str = "") -> None:
        super().__init__(message)
        self.trace = trace


class Refused(ZibaiError):
    """What the client sent is answered by ``status`` and the end of the connection; the application never sees it."""

    def __init__(self, status: HTTPStatus, reason: str, retry_after: int | None = None) -> None:
        """``retry_after`` are the seconds after which the client may come again."""
        super().__init__(reason)
        self.status = status
        self.retry_after = retry_after
        self.waited = 0.0  # seconds that the request was waited for, or that it has waited itself


class Gone(ZibaiError, ConnectionError):
    """The client left or stood still for too long in the middle of an exchange.

    A ``ConnectionError``, because that is what an application that reads a body or writes expects.
    """


MOST: Final = 256 * 1024
"""Characters of one exception. A message may have any size, and nobody reads more."""


def format_exception(error: BaseException, frames: TracebackType | None) -> str:
    """What Python prints of an exception, its causes included, with ``frames`` as its own traceback."""
    try:
        text = "".join(traceback.format_exception(type(error), error, frames))
    except BaseException as failure:  # an import of the user's code may raise SystemExit
        lines = [
            "Traceback (most recent call last):",
            *_plain_lines(frames),
            plain_line(error),
            f"(Python could not format this exception: {plain_line(failure)})",
        ]
        text = "\n".join(lines) + "\n"
    if len(text) > MOST:
        half = MOST // 2
        text = f"{text[:half]}\n[{len(text) - 2 * half} characters are left out here]\n{text[-half:]}"
    return text


def last_line(error: BaseException) -> str:
    """The type and the message of an exception, in one line."""
    try:
        # A syntax error has its place before that line, and notes come after it.
        lines = [line for line in traceback.format_exception_only(error) if not line.startswith(" ")]
        text = "".join(lines).splitlines()[0]
    except BaseException:  # as above
        text = plain_line(error)
    return text if len(text) <= MOST else text[:MOST] + " ..."


def plain_line(error: BaseException) -> str:
    """The same without any help of ``traceback``."""
    name = "an exception"
    try:
        name = str(type(error).__qualname__)
        lines = str(error).splitlines()
    except BaseException:  # the user's __str__ may raise anything
        return f"{name}: <it has no text>"
    return f"{name}: {lines[0]}" if lines else name


def _plain_lines(frames: TracebackType | None) -> Iterator[str]:
    """The lines of a traceback without source code, which a loader of the user might have to give."""
    while frames is not None:
        code = frames.tb_frame.f_code
        yield f'  File "{code.co_filename}", line {frames.tb_lineno}, in {code.co_name}'
        frames = frames.tb_next


def print_exception(what: str, error: BaseException) -> None:
    """To standard error, where no log is left that could take it; nothing where that fails too."""
    try:
        sys.stderr.write(f"{what}\n{format_exception(error, error.__traceback__)}")
        sys.stderr.flush()
    except BaseException:  # noqa: S110 -- there is nobody left to tell
        pass
