"""Watches files with watchfiles, in a thread; one callback when a file that matters has changed.

The log says what is watched when it begins, and which file has changed. Patterns, ``"*.py;.env"``, are matched against
the name of a file and its path below the watched directory. Folders that hold no sources and change all the time are
ignored.
"""

import os
import re
import sys
import threading
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from fnmatch import fnmatch
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from ..errors import MissingExtra
from ..logger import escape, logger

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

PAUSE: Final = 1.0
"""Seconds between two tries to watch files that cannot be watched, and between two looks at the target of the
directory's name: the system does not tell when a link is switched."""

CLOCK: Final = 1.0
"""Seconds by which the time of a file may lag behind the clock."""

SHOWN: Final = 3
"""Files that a line of the log names."""

_WILD = re.compile(r"[*?\[]")


def matches(path: str, patterns: Iterable[str], root: str) -> bool:
    """Whether a change of ``path``, below ``root``, matters."""
    relative = Path(os.path.relpath(path, root))
    if IGNORED.intersection(relative.parts[:-1]):
        return False
    return any(fnmatch(relative.name, pattern) or fnmatch(relative.as_posix(), pattern) for pattern in patterns)


class Reloader:
    """Calls ``changed``, from its thread, after files that match ``patterns`` (separated by ``;``) have changed.

    The argument says which, for the log.

    The files are below ``root``, by default the current directory, and when it is not ``deep`` in that folder alone.
    ``warns`` of a pattern that matches no file there. A change counts from
    the time of day ``since`` on, by default from the start of the thread.

    A context manager. Raises :class:`MissingExtra` when watchfiles cannot be imported.
    """

    def __init__(
        self,
        patterns: str,
        changed: Callable[[str], object],
        root: str = "",
        *,
        warns: bool = True,
        deep: bool = True,
        since: float | None = None,
    ) -> None:
        try:
            from watchfiles import watch
        except ImportError as error:
            text = "--reload and --watchfiles need watchfiles; pip install 'zibai-server[reload]'"
            raise MissingExtra.because(error, "watchfiles", text) from None
        self._watch = watch
        self._patterns = [pattern.strip() for pattern in patterns.split(";") if pattern.strip()]
        self._changed = changed
        self._warns = warns
        self._deep = deep
        self._since = since
        self._root = root or os.getcwd()
        self._stop = threading.Event()
        self._known: set[str] = set()  # the folders that were watched last
        self._ended: float | None = None  # when that watch ended
        self._thread = threading.Thread(target=self._run, name="zibai-reloader", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join(PAUSE)  # a file system that hangs must not delay the end

    def _run(self) -> None:
        """Watch until the end, whatever goes wrong: developers expect that their changes are noticed."""
        polls = False
        told: set[str] = set()
        with suppress(OSError):  # the directory has been removed, and may come back
            self._announce(os.path.realpath(self._root))
        while not self._stop.is_set():
            began = time.monotonic()
            try:
                self._watch_once(os.path.realpath(self._root), polls)
            except FileNotFoundError:
                self._stop.wait(PAUSE)  # the directory has been removed, and may come back
            except Exception as error:
                at_once = time.monotonic() - began < PAUSE
                polls = at_once and not polls
                if str(error) not in told:
                    told.add(str(error))
                    remedy = "polling them instead" if polls else "trying again"
                    logger.warning("--watchfiles: the files cannot be watched: %s; %s", error, remedy)
                self._stop.wait(PAUSE if at_once else 0)

    def _watch_once(self, root: str, polls: bool) -> None:
        """Watch until the end, until the symbolic link to the directory is switched, or until a new folder appears that
        must be named to be watched.
        """
        began, self._since = self._since or time.time(), None
        folders, whole = self._tree(root)
        if self._ended is not None and (name := self._find_changed(root, folders, self._ended - CLOCK, self._known)):
            self._changed(_in_words([name]))
        known = set(folders)
        is_first = True
        try:
            # A burst of saved files is over when no file has changed for 50 ms (`step`).
            for changes in self._watch(
                *([root] if whole else folders),
                watch_filter=lambda _, path: self._matters(path, root) or (not whole and os.path.isdir(path)),
                stop_event=self._stop,
                rust_timeout=int(PAUSE * 1000),
                yield_on_timeout=True,
                recursive=whole,
                force_polling=polls or None,
                ignore_permission_denied=True,
            ):
                moved = os.path.realpath(self._root) != root
                paths = sorted({os.path.relpath(path, root) for _, path in changes if self._matters(path, root)})
                if is_first and not paths and (name := self._find_changed(root, folders, began, known)):
                    paths = [name]  # it changed before the system watched it
                is_first = False
                if moved or paths:
                    self._changed(_in_words(paths))
                if moved or (not whole and any(path not in known and os.path.isdir(path) for _, path in changes)):
                    return
        finally:
            self._known, self._ended = known, time.time()

    def _announce(self, root: str) -> None:
        """Log what is watched, and warn of a pattern that was probably meant in another way."""
        found = dict.fromkeys(self._patterns, 0)
        for folder in self._tree(root)[0]:
            with suppress(OSError):
                for name in os.listdir(folder):
                    for pattern in self._patterns:
                        found[pattern] += matches(os.path.join(folder, name), [pattern], root)
        texts = [f"{pattern} ({number} file{'s' * (number != 1)})" for pattern, number in found.items()]
        logger.info("watching %s below %s; a change restarts the workers", ", ".join(texts), root)
        if not self._warns:
            return
        for pattern, number in found.items():
            if number == 0:
                logger.warning("--watchfiles: no file below %s matches %s now", root, pattern)
        only = self._patterns[0] if len(self._patterns) == 1 else ""
        if only and not _WILD.search(only) and found[only]:
            logger.warning(
                "--watchfiles %s watches this name alone; if your shell has replaced a pattern by it, quote the "
                "pattern: --watchfiles '*%s'",
                only,
                os.path.splitext(only)[1],
            )

    def _tree(self, root: str) -> tuple[list[str], bool]:
        return tree(root) if self._deep else ([root], False)

    def _matters(self, path: str, root: str) -> bool:
        return matches(path, self._patterns, root)

    def _find_changed(self, root: str, folders: list[str], since: float, known: set[str]) -> str:
        """A file that has changed while nothing was watched, or is in a folder that is not known; empty if none is."""
        for folder in folders:
            with suppress(OSError), os.scandir(folder) as entries:
                for entry in entries:
                    is_new = folder not in known or entry.stat().st_mtime > since
                    if is_new and entry.is_file() and self._matters(entry.path, root):
                        return os.path.relpath(entry.path, root)
        return ""


def _in_words(paths: list[str]) -> str:
    """Which files have changed; without any, it is the link to the directory."""
    if not paths:
        return "the directory is another one now"
    more = len(paths) - 1
    return f"{escape(paths[0])}{f' and {more} more' if more else ''} {'have' if more else 'has'} changed"


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
