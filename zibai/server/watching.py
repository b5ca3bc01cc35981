"""The directories that ``--reload`` and ``--watchfiles`` watch.

The parent watches the directory of the application and the others from which Python imports. An application may import
from elsewhere: it appends to ``sys.path``, or loads a file by its name. Only its worker knows that, and tells the
parent before it is ready. For a package, everything below its folder is watched. For a single module, only the files
beside it are watched, since the folder may hold other projects.
"""

import os
import sys
import sysconfig
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any, Final

from ..config.options import Options, watched
from ..system import home
from .places import is_below
from .reloader import Reloader

BEGAN: Final = time.time()
"""A time before this process imports the application. A file that is saved later may differ from the imported one."""


class Watched:
    """Watches until the end of ``stack``, and calls ``changed`` as :class:`Reloader` does.

    ``directory`` is that of the application, empty for the current one. The parent's main thread owns it.
    """

    def __init__(self, stack: ExitStack, options: Options, directory: str, changed: Callable[[str], object]) -> None:
        self._stack = stack
        self._changed = changed
        self._whole: list[str] = []  # folders that are watched with everything below
        self._shallow: set[str] = set()
        self._reloaders: dict[bool, Reloader] = {}  # one for each kind: deep or not
        if patterns := watched(options):
            for root in roots(options, directory):
                self._whole.append(os.path.realpath(root))
                self._watch(root, patterns, deep=True)

    def add(self, folders: list[tuple[str, bool]], since: float) -> None:
        """Watch the :func:`imported` folders of a worker. A change counts from the time of day ``since`` on."""
        for folder, deep in folders:
            if folder in self._shallow or any(is_below(folder, each) for each in self._whole):
                continue
            if deep:
                self._whole.append(folder)
            else:
                self._shallow.add(folder)
            self._watch(folder, "*.py", deep=deep, since=since)

    def _watch(self, root: str, patterns: str, *, deep: bool, since: float | None = None) -> None:
        if deep in self._reloaders:
            self._reloaders[deep].add(root, patterns, since)
        else:
            made = Reloader(patterns, self._changed, root, warns=deep, deep=deep, since=since)
            self._reloaders[deep] = self._stack.enter_context(made)


def roots(options: Options, directory: str) -> list[str]:
    """The directories of the parent's: that of the application, and others that Python imports from.

    ``directory`` is the current one, or empty. ``sys.path`` has what ``PYTHONPATH`` and editable installations add;
    what belongs to Python, or was installed, does not change while a developer works.
    """
    here = directory or home.real()
    found = [here] if here else []
    if not options.reload:
        return found
    for entry in (options.app_dir or "", *sys.path):
        path = os.path.realpath(entry) if entry else ""
        if not os.path.isdir(path) or path == os.path.dirname(path) or _is_installed(path):
            continue
        if not any(is_below(path, os.path.realpath(root)) for root in found):
            found.append(path)
    return found


def imported() -> list[tuple[str, bool]]:
    """The folders from which this process has imported, each with whether everything below belongs to the import."""
    folders = {(os.path.realpath(folder), deep) for folder, deep in set(_places())}
    return sorted((folder, deep) for folder, deep in folders if not _is_installed(folder))


def _places() -> Iterator[tuple[str, bool]]:
    modules: dict[str, Any] = dict(sys.modules)  # an application may put anything there
    own = __name__.partition(".")[0]
    for name, module in modules.items():
        file, top = getattr(module, "__spec__", None) and getattr(module, "__file__", None), name.partition(".")[0]
        if isinstance(file, str) and file.endswith(".py") and top != own:
            packages = [path for path in getattr(modules.get(top), "__path__", ()) if is_below(file, path)]
            yield (packages[0], True) if packages else (os.path.dirname(file), False)


def _is_installed(path: str) -> bool:
    folders = {*sysconfig.get_paths().values(), sys.prefix, sys.base_prefix}
    return bool({"site-packages", "dist-packages"}.intersection(path.split(os.sep))) or any(
        is_below(path, os.path.realpath(folder)) for folder in folders
    )
