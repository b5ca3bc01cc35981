"""Watches files, by watchfiles, in a thread; one callback when something that matters has changed.

What matters is said by patterns, ``"*.py;.env"``, against the name of a file or its path below the current directory.
Folders that no source lives in, and which change all the time, are never looked at.
"""

import os
import threading
from collections.abc import Callable, Iterable
from fnmatch import fnmatch
from pathlib import Path
from types import TracebackType
from typing import Self

from .errors import MissingExtra

IGNORED = frozenset(
    {
        # caches and editors
        "__pycache__", ".cache", ".mypy_cache", ".pytest_cache", ".ruff_cache", ".hypothesis", ".idea", ".vscode",
        # virtual environments
        ".venv", "venv", ".env", "env", ".virtualenv", "virtualenv", "site-packages", ".tox", ".nox",
        # version control
        ".git", ".hg", ".svn", ".bzr", ".jj", "CVS",
        # builds
        "build", "dist", ".eggs",
        # Node
        "node_modules", "bower_components", ".npm", ".yarn",
    }
)  # fmt: skip
"""Names of folders, at any depth; docs/processes.md lists them."""


def matches(path: str, patterns: Iterable[str], root: str) -> bool:
    """Whether a change of ``path``, below ``root``, matters."""
    relative = Path(os.path.relpath(path, root))
    if IGNORED.intersection(relative.parts[:-1]):
        return False
    return any(fnmatch(relative.name, pattern) or fnmatch(relative.as_posix(), pattern) for pattern in patterns)


class Reloader:
    """Calls ``changed``, from its thread, after files that match ``patterns`` (separated by ``;``) have changed.

    A context manager. Raises :class:`MissingExtra` when watchfiles cannot be imported.
    """

    def __init__(self, patterns: str, changed: Callable[[], None]) -> None:
        try:
            from watchfiles import watch
        except ImportError as error:
            text = "--watchfiles needs watchfiles; pip install 'zibai-server[reload]'"
            raise MissingExtra.because(error, "watchfiles", text) from None
        self._watch = watch
        self._patterns = [pattern.strip() for pattern in patterns.split(";") if pattern.strip()]
        self._changed = changed
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="zibai-reloader", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        root = os.getcwd()
        # An editor that saves a burst of files is done when nothing has changed for 50 ms (`step`).
        for _ in self._watch(
            root,
            watch_filter=lambda change, path: matches(path, self._patterns, root),
            stop_event=self._stop,
            rust_timeout=60_000,
        ):
            self._changed()
