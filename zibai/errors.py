"""Errors raised on purpose, each with the answer it stands for.

An error has one owner. A :class:`Refused` belongs to the client that sent the bytes and carries the HTTP
status of the answer; a :class:`Gone` means there is nobody left to answer. What ends the program
carries its exit code: 1 for what the machine denies us, 2 for wrong usage, 3 for an application that cannot
be loaded. The text of these errors is one line that a user can act on. Anything else that is raised is a
bug, ours or the application's, and is shown with its traceback.
"""

from http import HTTPStatus
from typing import Self


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
