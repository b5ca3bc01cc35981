"""Checks of options that are paths: of URLs, or of files that the server writes.

Each function raises UsageError, without the name of the option, which the caller adds.
"""

from ..errors import UsageError


def check_prefix(value: str) -> None:
    """Raise UsageError unless ``value`` can be removed from a path so that the rest begins with a slash."""
    if value.endswith("/") or (value and not value.startswith("/")):
        raise UsageError(f"{value!r} must start with a slash and not end with one, or be empty")


def check_log_file(value: str) -> None:
    """Raise UsageError for ``-``, which gunicorn takes for standard error."""
    if value == "-":
        raise UsageError("the log goes to standard error already; leave it out")


def check_file(value: str) -> None:
    """Raise UsageError for ``-``, which means a standard stream and no file, and for no name at all."""
    if value in ("", "-"):
        raise UsageError(f"{value!r} names no file")


def check_place(value: str) -> None:
    """Raise UsageError for no name; ``-`` is standard output."""
    if not value:
        raise UsageError("'' names no file")
