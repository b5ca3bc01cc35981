"""The first moments of a worker process: the parent's steps around the start, and the first steps of the worker."""

import errno
import os
import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import import_module
from multiprocessing import resource_tracker
from typing import Any, Final
from weakref import WeakSet

from ..system import holdback, terminal
from . import output
from .pipe import Parent

PIPE_SIZE: Final = 1024**2
"""Bytes of the pipe by which a worker on Windows gets its arguments, which are some kilobytes."""

# While a worker has a copy of the parent's end of a sibling's pipe, the sibling does not learn that the parent is gone.
_pipes: WeakSet[Any] = WeakSet()


def close_in_forks(pipe: Any) -> None:
    """Close this parent's end of a pipe in each worker that is forked while the pipe exists."""
    _pipes.add(pipe)


@contextmanager
def signals_held_back(spawning: bool = True) -> Iterator[None]:
    """Hold signals back while a worker is started.

    The worker inherits the mask until its :class:`~zibai.system.signals.Signals` lifts it. Without the mask Ctrl-C,
    which a terminal sends to the whole group, would kill a worker that has no handlers yet, with a traceback. Windows
    can hold back only Ctrl-C, and :meth:`Parent.hear_ctrl_c` lets it through.
    """
    with holdback.signals_held_back(), terminal.ctrl_c_held_back():
        if spawning:
            start_helper()
            with _roomy_pipe():
                yield
        else:
            yield


@contextmanager
def _roomy_pipe() -> Iterator[None]:
    """On Windows, let ``multiprocessing`` make a pipe that takes everything that it writes to a new process.

    It writes before it looks at the process, and it holds the other end of the pipe itself. So with the usual 4 KiB it
    would wait for ever if the process has died before it reads: one Ctrl-Break while a worker starts is enough.
    """
    if sys.platform != "win32":
        yield
        return
    popen: Any = import_module("multiprocessing.popen_spawn_win32")
    api = popen._winapi
    popen._winapi = _RoomyPipes(api)
    try:
        yield
    finally:
        popen._winapi = api


class _RoomyPipes:
    """The functions of ``_winapi``, with larger pipes."""

    def __init__(self, api: Any) -> None:
        self._api = api

    def __getattr__(self, name: str) -> Any:
        return getattr(self._api, name)

    def CreatePipe(self, attributes: object, size: int) -> Any:  # noqa: N802 -- the name is Windows'
        return self._api.CreatePipe(attributes, max(size, PIPE_SIZE))


def start_helper() -> None:
    """Start the resource tracker of ``multiprocessing``, if it does not run, before the first spawn does.

    It inherits the mask, so that no signal to the whole group ends it: it ignores only two signals itself. If it has
    ended all the same, ``multiprocessing`` warns about lost resources, and a warning may be an error. Nothing of zibai
    is lost with it.
    """
    if sys.platform == "win32":
        return
    with holdback.signals_held_back():
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            resource_tracker.ensure_running()
        holdback.hold_signals_back()  # starting it has let two signals through again


def run(target: Callable[..., None], parent: Parent, *args: Any) -> None:
    """Run ``target`` in a worker process, and wait for the application's threads before its child processes.

    ``multiprocessing`` itself waits for child processes first. But those of a ``ProcessPoolExecutor`` end only when a
    thread of the pool tells them to, which it does when the threads are shut down.
    """
    try:
        target(parent, *args)
    finally:
        threading._shutdown()  # type: ignore[attr-defined]


def run_forked(target: Callable[..., None], parent: Parent, *args: Any) -> None:
    """The same in a forked worker. It closes the descriptors of the parent first, and hangs at once or never."""
    os.strerror(errno.ENOENT)  # takes the lock of the locale, so that a copy of a held lock hangs here
    parent.started()
    for pipe in _pipes:
        pipe.close()
    output.close_readers()
    run(target, parent, *args)
