"""Errors raised on purpose, each with the status or exit code that it leads to.

A :class:`Refused` is about the bytes of a client and has the HTTP status of the response; a :class:`Gone` means that
the client has left. An error that ends the program has its exit code: 1 if the machine denies something, 2 for wrong
usage, 3 for an application that cannot be loaded. The text of these errors is one line that a user can act on. Any
other exception is a bug of the server or of the application, and is shown with its traceback.
"""

import linecache
import sys
import traceback
from collections.abc import Iterator
from http import HTTPStatus
from types import TracebackType
from typing import Final, Self


class ZibaiError(Exception):
    """Base of all errors that zibai raises on purpose; ``exit_code`` is that of a process that it ends."""

    exit_code = 1


class UsageError(ZibaiError):
    """An option, flag or argument is wrong, alone or together with another one."""

    exit_code = 2


class MissingExtra(UsageError):
    """An optional package is needed and not installed; the text names the extra to install.

    ``is_broken``: the package is installed and cannot be imported, so that another installation would not help.
    """

    is_broken = False

    @classmethod
    def because(cls, error: ImportError, package: str, text: str) -> Self:
        """Made from the ``error`` of importing ``package``; ``text`` is used if the package is not installed."""
        if isinstance(error, ModuleNotFoundError) and (error.name or "").partition(".")[0] == package:
            return cls(text)
        made = cls(f"{package} is installed and cannot be imported: {error}")
        made.is_broken = True
        return made


class BindError(ZibaiError):
    """A listening socket cannot be made: the address is taken, forbidden or unknown."""


class LoadError(ZibaiError):
    """The application cannot be loaded.

    ``trace`` is the traceback of the user's code, without the frames of this package, or empty if one line is enough.
    """

    exit_code = 3

    def __init__(self, message: str, trace: str = "") -> None:
        super().__init__(message)
        self.trace = trace


class Refused(ZibaiError):
    """A request is refused with ``status`` and the end of the connection; the application never sees it."""

    def __init__(self, status: HTTPStatus, reason: str, retry_after: int | None = None) -> None:
        """``retry_after``: the seconds after which the client may try again."""
        super().__init__(reason)
        self.status = status
        self.retry_after = retry_after
        self.waited = 0.0  # seconds that the server has waited for the request, or the request for a thread
        self.phase = ""  # the phase of this wait: "head", "body" or "queue"


class Gone(ZibaiError, ConnectionError):
    """The client has left or has stalled for too long in the middle of an exchange.

    It is a ``ConnectionError``, as an application that reads a body or writes expects.
    """


TEXT_LIMIT: Final = 256 * 1024
"""The most characters of one exception: a message may have any size, and the rest is left out."""


def format_exception(error: BaseException, frames: TracebackType | None) -> str:
    """The text that Python prints for an exception, causes included, with ``frames`` as its traceback."""
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
    if len(text) > TEXT_LIMIT:
        half = TEXT_LIMIT // 2
        text = f"{text[:half]}\n[{len(text) - 2 * half} characters are left out here]\n{text[-half:]}"
    return text


def last_line(error: BaseException) -> str:
    """The type and the message of an exception, in one line."""
    try:
        # The lines before it are the place of a syntax error, those after it are notes.
        lines = [line for line in traceback.format_exception_only(error) if not line.startswith(" ")]
        text = "".join(lines).splitlines()[0]
    except BaseException:  # as above
        text = plain_line(error)
    return text if len(text) <= TEXT_LIMIT else text[:TEXT_LIMIT] + " ..."


def plain_line(error: BaseException) -> str:
    """The same, without the module ``traceback``."""
    name = "an exception"
    try:
        name = str(type(error).__qualname__)
        lines = str(error).splitlines()
    except BaseException:  # the user's __str__ may raise anything
        return f"{name}: <it has no text>"
    return f"{name}: {lines[0]}" if lines else name


def _plain_lines(frames: TracebackType | None) -> Iterator[str]:
    """The lines of a traceback, without the module ``traceback``."""
    while frames is not None:
        code = frames.tb_frame.f_code
        yield f'  File "{code.co_filename}", line {frames.tb_lineno}, in {code.co_name}'
        try:
            source = linecache.getline(code.co_filename, frames.tb_lineno).strip()
        except BaseException:  # it may call a loader of the user
            source = ""
        if source:
            yield f"    {source}"
        frames = frames.tb_next


def print_exception(what: str, error: BaseException) -> None:
    """Print to standard error, if no log is left; never raises."""
    try:
        sys.stderr.write(f"{what}\n{format_exception(error, error.__traceback__)}")
        sys.stderr.flush()
    except BaseException:  # noqa: S110 -- there is no place left to report it
        pass
