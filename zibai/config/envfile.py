"""The file of ``--env-file``: variables for the application, read by python-dotenv."""

import os

from ..errors import MissingExtra, UsageError


def read(path: str) -> dict[str, str]:
    """The variables in a file, with ``${NAME}`` replaced; a name without a value is left out. Raises UsageError."""
    try:
        from dotenv import dotenv_values
    except ImportError as error:
        text = "--env-file needs python-dotenv; pip install 'zibai-server[env]'"
        raise MissingExtra.because(error, "dotenv", text) from None
    try:
        with open(path, encoding="utf-8-sig") as file:
            values = dotenv_values(stream=file)
    except OSError as error:
        raise UsageError(f"--env-file: cannot read {path!r}: {error.strerror}") from None
    except UnicodeError:
        raise UsageError(f"--env-file: {path!r} is not UTF-8") from None
    if any("\0" in name + (value or "") for name, value in values.items()):
        raise UsageError(f"--env-file: {path!r} has a null character, which no variable can hold")
    return {name: value for name, value in values.items() if value is not None}


def load(path: str) -> None:
    """Set the variables that the environment does not have yet. Raises UsageError."""
    for name, value in read(path).items():
        os.environ.setdefault(name, value)
