"""Watches files with watchfiles, in a thread; one callback when a file that matters has changed.

The log says what is watched when it begins, and which file has changed. Patterns, ``"*.py;.env"``, are matched against
the name of a file and its path below the watched directory (:mod:`zibai.server.places`).
"""

import os
import re
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from types import TracebackType
from typing import Final, Self

from ..errors import MissingExtra
from ..logger import escape, logger
from .places import Place, matches

RETRY_INTERVAL: Final = 1.0
"""Seconds between two tries to watch files that cannot be watched, and between two looks at the directories."""

_WILD = re.compile(r"[*?\[]")


class Reloader:
    """Calls ``changed``, from its thread, after files that match ``patterns`` (separated by ``;``) have changed.

    The argument names the files, for the log. The files are below ``root``, by default the current directory, and below
    the directories that any thread may ``add``. All of them use one watch of the system, since a user has only a few
    (``fs.inotify.max_user_instances``). Without ``deep``, only the files in these folders count. With ``warns``, a
    pattern that matches no file there is logged. A change counts from the time of day ``since`` on, by default from the
    start of the thread.

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
        self._changed = changed
        self._deep = deep
        self._lock = threading.Lock()
        self._places = [Place(root, patterns, warns, since)]  # protected by the lock
        self._over = threading.Event()
        self._wake = threading.Event()  # set, with the lock held, when a watch must end
        self._thread = threading.Thread(target=self._run, name="zibai-reloader", daemon=True)

    def add(self, root: str, patterns: str, since: float | None = None) -> None:
        """Watch another directory as well."""
        with self._lock:
            self._places.append(Place(root, patterns, False, since))
            self._wake.set()

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._lock:
            self._over.set()
            self._wake.set()
        self._thread.join(RETRY_INTERVAL)  # a file system that hangs must not delay the end

    def _run(self) -> None:
        """Watch until the end, whatever goes wrong: developers expect that their changes are noticed."""
        polls = False
        told: set[str] = set()
        while places := self._next():
            began = time.monotonic()
            try:
                self._watch_once(places, polls)
            except FileNotFoundError:
                self._wake.wait(RETRY_INTERVAL)  # a folder has been removed since it was found
            except Exception as error:
                at_once = time.monotonic() - began < RETRY_INTERVAL
                polls = at_once and not polls
                if str(error) not in told:
                    told.add(str(error))
                    remedy = "polling them instead" if polls else "trying again"
                    logger.warning("--watchfiles: the files cannot be watched: %s; %s", error, remedy)
                self._over.wait(RETRY_INTERVAL if at_once else 0)

    def _next(self) -> list[Place]:
        """The places to watch now; none at the end."""
        with self._lock:
            self._wake.clear()
            return [] if self._over.is_set() else self._places.copy()

    def _watch_once(self, places: list[Place], polls: bool) -> None:
        """Watch until the end, until a directory is added, removed or replaced, or until a new folder appears that
        must be named to be watched.
        """
        whole = True
        for place in places:
            whole = place.look(self._deep) and whole
            if not place.is_announced:
                _announce(place)
        names = _missed(places)
        if names or any(place.is_other for place in places):
            self._changed(_in_words(names))
        known = {folder for place in places for folder in place.folders}
        if not known:
            self._wake.wait(RETRY_INTERVAL)  # the directory has been removed, and may come back
            return

        def matters(path: str) -> bool:
            return _owner(places, path, self._deep) is not None or (not whole and os.path.isdir(path))

        is_first = True
        # A burst of saved files is over when no file has changed for 50 ms (`step`).
        for changes in self._watch(
            *([place.real for place in places if place.folders] if whole else sorted(known)),
            watch_filter=lambda _, path: matters(path),
            stop_event=self._wake,
            rust_timeout=int(RETRY_INTERVAL * 1000),
            yield_on_timeout=True,
            recursive=whole,
            force_polling=polls or None,
            ignore_permission_denied=True,
        ):
            heard = {path: _owner(places, path, self._deep) for _, path in changes}
            names = sorted(place.hear(path) for path, place in heard.items() if place is not None)
            # A file may have changed before the system watched it.
            if names := names or (_missed(places) if is_first else []):
                self._changed(_in_words(names))
            is_first = False
            for place in places:
                place.follow()
            is_new = self._deep and not whole and any(path not in known and os.path.isdir(path) for path in heard)
            if is_new or any(place.has_moved() for place in places):
                return


def _owner(places: list[Place], path: str, deep: bool) -> Place | None:
    """The first place for which a change of ``path`` matters."""
    # A system that knows several spellings of a path may report one that is in none of the places.
    near = [place for place in places if place.holds(path, deep)] or places
    return next((place for place in near if place.matters(path)), None)


def _missed(places: list[Place]) -> list[str]:
    """Files whose changes no watch has reported."""
    return [name for place in places for name in place.missed()]


def _announce(place: Place) -> None:
    """Log what is watched, and warn about a pattern that was probably meant in another way."""
    place.is_announced = True
    found = dict.fromkeys(place.patterns, 0)
    for folder in place.folders:
        with suppress(OSError):
            for name in os.listdir(folder):
                for pattern in place.patterns:
                    found[pattern] += matches(os.path.join(folder, name), [pattern], place.real)
    texts = [f"{pattern} ({number} file{'s' * (number != 1)})" for pattern, number in found.items()]
    logger.info("watching %s below %s; a change restarts the workers", ", ".join(texts), place.real)
    if not place.warns:
        return
    for pattern, number in found.items():
        if number == 0:
            logger.warning("--watchfiles: no file below %s matches %s now", place.real, pattern)
    only = place.patterns[0] if len(place.patterns) == 1 else ""
    if only and not _WILD.search(only) and found[only]:
        logger.warning(
            "--watchfiles %s watches this name alone; if your shell has replaced a pattern by it, quote the "
            "pattern: --watchfiles '*%s'",
            only,
            os.path.splitext(only)[1],
        )


def _in_words(paths: list[str]) -> str:
    """Which files have changed; without any, the link to the directory has changed."""
    if not paths:
        return "the directory is another one now"
    more = len(paths) - 1
    return f"{escape(paths[0])}{f' and {more} more' if more else ''} {'have' if more else 'has'} changed"
