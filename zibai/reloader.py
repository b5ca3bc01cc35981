"""Watches files, by watchfiles, in a thread; one callback when something that matters has changed.

What matters is said by patterns, ``"*.py;.env"``, against the name of a file or its path below the directory that is
watched. Folders that no source lives in, and which change all the time, are never looked at.
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

LOOK = 1.0
"""Seconds between two looks at what the directory's name means; nothing tells when a link is switched."""


def matches(path: str, patterns: Iterable[str], root: str) -> bool:
    """Whether a change of ``path``, below ``root``, matters."""
    relative = Path(os.path.relpath(path, root))
    if IGNORED.intersection(relative.parts[:-1]):
        return False
    return any(fnmatch(relative.name, pattern) or fnmatch(relative.as_posix(), pattern) for pattern in patterns)


class Reloader:
    """Calls ``changed``, from its thread, after files that match ``patterns`` (separated by ``;``) have changed.

    They are below ``root``, the current directory by default.

    A context manager. Raises :class:`MissingExtra` when watchfiles is not installed.
    """

    def __init__(self, patterns: str, changed: Callable[[], None], root: str = "") -> None:
        try:
            from watchfiles import watch
        except ImportError:
            raise MissingExtra("--watchfiles needs watchfiles; pip install 'zibai-server[reload]'") from None
        self._watch = watch
        self._patterns = [pattern.strip() for pattern in patterns.split(";") if pattern.strip()]
        self._changed = changed
        self._root = root or os.getcwd()
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
        while not self._stop.is_set():
            root = os.path.realpath(self._root)
            try:
                self._watch_until_it_moves(root)
            except FileNotFoundError:
                self._stop.wait(LOOK)  # it has been removed, and may come back

    def _watch_until_it_moves(self, root: str) -> None:
        """Until the directory is another one, since it is named by a symbolic link that was switched."""
        # An editor that saves a burst of files is done when nothing has changed for 50 ms (`step`).
        for changes in self._watch(
            root,
            watch_filter=lambda change, path: matches(path, self._patterns, root),
            stop_event=self._stop,
            rust_timeout=int(LOOK * 1000),
            yield_on_timeout=True,
        ):
            moved = os.path.realpath(self._root) != root
            if changes or moved:
                self._changed()
            if moved:
                return
