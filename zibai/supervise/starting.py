"""The first moments of a worker process, on both sides: what the parent does around the start, and what runs first."""

import errno
import os
import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing import resource_tracker
from typing import Any
from weakref import WeakSet

from ..system import signals as system_signals
from ..system import terminal
from . import output
from .pipe import Parent

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
    with system_signals.signals_held_back(), terminal.ctrl_c_held_back():
        if spawning:
            start_helper()
        yield


def start_helper() -> None:
    """Start the resource tracker of ``multiprocessing``, if it does not run, before the first spawn does.

    It inherits the mask, so that no signal to the whole group ends it; it ignores only two of them itself. If it has
    been ended all the same, ``multiprocessing`` warns of lost resources, and a warning may be an error. Nothing of
    zibai is lost with it.
    """
    if sys.platform == "win32":
        return
    with system_signals.signals_held_back():
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            resource_tracker.ensure_running()
        system_signals.hold_signals_back()  # starting it has let two signals through again


def run(target: Callable[..., None], parent: Parent, *args: Any) -> None:
    """Run ``target`` in a worker process, and wait for the application's threads before its child processes.

    ``multiprocessing`` itself waits for child processes first. Those of a ``ProcessPoolExecutor`` end when a thread of
    the pool tells them to, and that thread does so when the threads are shut down.
    """
    try:
        target(parent, *args)
    finally:
        threading._shutdown()  # type: ignore[attr-defined]


def run_forked(target: Callable[..., None], parent: Parent, *args: Any) -> None:
    """The same in a forked worker: hang at once or never, and close the descriptors of the parent first."""
    os.strerror(errno.ENOENT)  # takes the lock of the locale
    parent.started()
    for pipe in _pipes:
        pipe.close()
    output.close_readers()
    run(target, parent, *args)
