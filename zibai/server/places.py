"""A directory that is watched: which changes there matter, and which changes no watch has reported.

Between two watches, and before the system has begun to watch, files change unseen. Such changes show in the times of
the files, and in folders that were not there. A change is reported only once.
"""

import os
import sys
import time
from collections.abc import Iterable
from contextlib import suppress
from fnmatch import fnmatch
from pathlib import Path
from typing import Final

from ..telemetry.logfile import is_log

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
"""Names of folders, at any depth; docs/development.md lists them."""

CLOCK: Final = 1.0
"""Seconds by which the time of a file may lag behind the clock."""


def matches(path: str, patterns: Iterable[str], root: str) -> bool:
    """Whether a change of ``path``, below ``root``, matters."""
    relative = Path(os.path.relpath(path, root))
    if IGNORED.intersection(relative.parts[:-1]):
        return False
    return any(fnmatch(relative.name, pattern) or fnmatch(relative.as_posix(), pattern) for pattern in patterns)


class Place:
    """A directory that is watched. The thread of its reloader owns this object."""

    def __init__(self, root: str, patterns: str, warns: bool, since: float | None) -> None:
        self.root = root or os.getcwd()
        self.real = self.root  # without symbolic links
        self.patterns = [pattern.strip() for pattern in patterns.split(";") if pattern.strip()]
        self.warns = warns
        self.folders: list[str] = []  # the folders to watch; none while the directory is missing
        self.is_other = False  # whether another directory has taken its place since the last look
        self.is_announced = False  # whether it was logged
        self._since = since  # the time of day from which unreported changes count
        self._known: set[str] | None = None  # the folders that were watched last; None before the first watch
        self._told: dict[str, int] = {}  # the times of files whose change was reported
        self._identity: tuple[str, int, int] | None = None
        self._last: tuple[str, int, int] | None = None  # its identity when it was there last

    def look(self, deep: bool) -> bool:
        """Find what to watch: this folder, or when ``deep`` all below. Whether the system can watch it as a whole."""
        self.real = os.path.realpath(self.root)
        self._identity = self._identify()
        self.is_other = None not in (self._last, self._identity) and self._last != self._identity
        self._last = self._identity or self._last
        if self._since is None or self.is_other:
            self._since, self._known = time.time(), None
        if self._identity is None:
            self.folders = []
            return True
        self.folders, whole = tree(self.real) if deep else ([self.real], False)
        return whole

    def has_moved(self) -> bool:
        """Whether the directory has gone or come, or its link was switched. The system does not tell."""
        return self._identify() != self._identity

    def holds(self, path: str, deep: bool) -> bool:
        """Whether ``path`` is in the directory; ``deep``: or anywhere below it."""
        return is_below(path, self.real) if deep else os.path.dirname(path) == self.real

    def matters(self, path: str) -> bool:
        """Whether a change of ``path`` matters. Logs do not: each restart is logged, and would cause another."""
        if os.path.basename(path) in IGNORED and os.path.isdir(path):
            return False  # the first import makes __pycache__
        try:
            return matches(path, self.patterns, self.real) and not is_log(path)
        except ValueError:
            return False  # on another drive of Windows

    def hear(self, path: str) -> str:
        """Remember that the change of ``path`` is reported; return its name for the log."""
        with suppress(OSError):
            self._told[path] = os.stat(path).st_mtime_ns
        return os.path.relpath(path, self.real)

    def missed(self) -> list[str]:
        """The files whose changes no watch has reported."""
        found = []
        for folder in self.folders:
            is_new = self._known is not None and folder not in self._known
            with suppress(OSError), os.scandir(folder) as entries:
                found += [self.hear(entry.path) for entry in entries if self._is_untold(entry, is_new)]
        return found

    def _is_untold(self, entry: os.DirEntry[str], is_new: bool) -> bool:
        try:
            changed = entry.stat()
        except OSError:
            return False  # a link to nothing, as editors make them for their locks; or it has just been removed
        counts = is_new or changed.st_mtime > (self._since or 0)
        is_told = self._told.get(entry.path) == changed.st_mtime_ns
        return counts and not is_told and entry.is_file() and self.matters(entry.path)

    def follow(self) -> None:
        """A watch has reported all changes until now."""
        self._known, self._since = set(self.folders), max(self._since or 0, time.time() - CLOCK)

    def _identify(self) -> tuple[str, int, int] | None:
        try:
            found = os.stat(self.root)
        except OSError:
            return None
        return os.path.realpath(self.root), found.st_dev, found.st_ino


def is_below(path: str, folder: str) -> bool:
    """Whether ``path`` is ``folder``, or below it."""
    return path == folder or path.startswith(folder.rstrip(os.sep) + os.sep)


def tree(root: str) -> tuple[list[str], bool]:
    """The folders below ``root`` that can be read and that matter, and whether ``root`` can be watched as a whole.

    Linux watches single folders, and watchfiles walks through all of them. At a folder that this user may not read it
    gives up, and does not watch the folders after it. Then the folders must be named one by one.
    """
    if sys.platform != "linux":
        return [root], True
    folders: list[str] = []
    failures: list[OSError] = []
    seen: set[tuple[int, int]] = set()
    for folder, names, _ in os.walk(root, onerror=failures.append, followlinks=True):
        with suppress(OSError):
            info = os.stat(folder)
            if (info.st_dev, info.st_ino) in seen:
                names.clear()  # a link to a folder that is known
                continue
            seen.add((info.st_dev, info.st_ino))
        if not IGNORED.intersection(Path(os.path.relpath(folder, root)).parts):
            folders.append(folder)
    return folders or [root], not any(isinstance(error, PermissionError) for error in failures)
