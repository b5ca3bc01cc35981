"""The directory of a server, by the name that the user gave it.

Deploy tools put each release into a separate directory, switch a symbolic link, ``current -> releases/2``, and restart
the server. But the system resolves links: a process that was started in ``current`` stays in ``releases/1``, and so do
its workers and its import path, even after ``releases/1`` was removed. Shells keep the name in ``PWD``. So the parent
changes to that name again before it starts a worker.
"""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing import process, spawn


def current() -> str:
    """The current directory, by its name in ``PWD`` if there is one; empty if the directory has been removed."""
    path = real()
    name = os.environ.get("PWD", "")
    return name if path and os.path.isabs(name) and _is_same(name, path) else path


def real() -> str:
    """The current directory as the system names it; empty if the directory has been removed."""
    try:
        return os.getcwd()
    except OSError:
        return ""


def may_enter(name: str) -> bool:
    """Whether this user may change to the directory ``name``; without a name, to the current one."""
    return os.access(name or os.curdir, os.X_OK)


def keep(name: str) -> None:
    """Let processes that are started later import from ``name``, even if it means another directory by then.

    This process must be in the directory that ``name`` means now.
    """
    if not name or os.getcwd() == name:
        return
    real = os.getcwd()
    while os.path.basename(real) == os.path.basename(name) and _is_same(os.path.dirname(real), os.path.dirname(name)):
        real, name = os.path.dirname(real), os.path.dirname(name)

    def renamed(path: str) -> str:
        return name + path[len(real) :] if path == real or path.startswith(real + os.sep) else path

    sys.path[:] = [renamed(path) for path in sys.path]
    sys.executable = renamed(sys.executable)
    spawn.set_executable(sys.executable)
    main = sys.modules["__main__"]
    if getattr(main, "__file__", None):
        main.__file__ = renamed(str(main.__file__))
    process.ORIGINAL_DIR = renamed(process.ORIGINAL_DIR)  # type: ignore[attr-defined]


@contextmanager
def entered(name: str) -> Iterator[None]:
    """Start a worker within this block, in the directory that ``name`` means now; raises OSError with the name."""
    try:
        os.chdir(name)
    except OSError as error:
        raise OSError(f"cannot change to the directory {name!r}: {error.strerror}") from error
    yield


def _is_same(one: str, other: str) -> bool:
    try:
        return os.path.samefile(one, other)
    except OSError:
        return False
