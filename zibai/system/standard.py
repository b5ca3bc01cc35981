"""Standard input, output and error, if the program that starts the server has closed them.

The next file or socket that is opened would get the number of a closed one. Then a client would receive what the
application prints, and a worker would inherit a socket as its standard error.
"""

import os
import sys
from contextlib import suppress
from typing import Any


def make_sure() -> None:
    """Open the null device for descriptors 0 to 2 that are closed, and give Python the streams that it lacks."""
    for fd in (0, 1, 2):
        make_sure_of(fd)
    module: Any = sys
    for fd, name in enumerate(("stdin", "stdout", "stderr")):
        if getattr(sys, name) is None:
            stream = text(fd, "r" if fd == 0 else "w")
            setattr(module, name, stream)
            setattr(module, f"__{name}__", stream)


def make_sure_of(fd: int) -> None:
    """Open the null device as ``fd`` if it is closed; child processes inherit it, like any of the three."""
    try:
        os.fstat(fd)
    except OSError:
        free = os.open(os.devnull, os.O_RDWR)
        if free == fd:
            os.set_inheritable(fd, True)
        else:
            os.dup2(free, fd)
            os.close(free)


def text(fd: int, mode: str = "w") -> Any:
    """A text stream on a descriptor: flushed line by line for people who watch, in UTF-8 whatever the locale."""
    return open(fd, mode, buffering=1, encoding="utf-8", errors="backslashreplace", closefd=False)


def say(words: str) -> None:
    """Print to standard error, if there is one."""
    try:
        sys.stderr.write(words)
        sys.stderr.flush()
    except (AttributeError, OSError, ValueError):
        # The application has closed or replaced it.
        with suppress(OSError):
            os.write(2, words.encode("utf-8", "backslashreplace"))
