"""``zibai dump``: the stacks of a worker, each with its request.

The control thread of a worker makes the text, also while every thread, greenlet or task of the worker is busy. It
cannot run while C code of the application holds the GIL. For that case :mod:`faulthandler` writes the stacks from the
handler of a signal, without the interpreter. On Linux it writes into memory, or a file without a name, that the parent
finds in ``/proc``; on macOS it writes to standard error. Windows has no such signal.
"""

import faulthandler
import os
import signal
import sys
import tempfile
import threading
import time
from _thread import get_ident
from collections.abc import Callable
from contextlib import suppress
from types import FrameType
from typing import TYPE_CHECKING, Any, Final

from ..clock import clock
from ..system.stacks import Stack, format_stack, root

if TYPE_CHECKING:
    from .loops import Engine

TEXT_LIMIT: Final = 60_000
"""The most characters of a text: the pipe of a worker takes so many while the parent does not read."""

NAME: Final = "zibai-stacks"

SIGNAL_TIME: Final = 1.0
"""Seconds that a process has to handle a signal. A stopped process does not handle it."""

Greenlets = Callable[[], list[tuple[str, Stack]]]

_MAIN: Final = threading.main_thread().ident or 0  # the system's; gevent has numbers of its own
_file: Any = None


def prepare() -> None:
    """In a worker, before the application is loaded: let a signal write the stacks."""
    global _file
    if sys.platform == "win32":
        return
    with suppress(OSError, RuntimeError, ValueError):
        if sys.platform == "linux":
            _file = os.fdopen(_make_nameless(), "wb", buffering=0)
        faulthandler.register(_number(), file=2 if _file is None else _file, all_threads=True, chain=False)


def _make_nameless() -> int:
    if sys.platform == "linux" and hasattr(os, "memfd_create"):  # not in a Python that was built on an old Linux
        return os.memfd_create(NAME)
    number, path = tempfile.mkstemp(prefix=NAME)
    os.unlink(path)
    return number


def _number() -> int:
    """A signal that is used for nothing else: a real-time signal, or that of Ctrl-T."""
    if sys.platform == "linux":
        return int(signal.SIGRTMIN + 5)
    if sys.platform == "darwin":
        return int(signal.SIGINFO)
    return 0


def describe_self(engine: "Engine | None", greenlets: Greenlets | None) -> str:
    """The stacks of this process: of each request that ``engine`` runs, then of all other threads, tasks and greenlets.

    Any thread.
    """
    parts: list[str] = []
    shown: set[int] = set()

    def show(title: str, stack: Stack) -> None:
        shown.add(root(stack))
        parts.append(f"{title}:\n{format_stack(stack)}")

    now = clock()
    for each in [] if engine is None else engine.running():
        name, stack = engine.where(each.slot)  # type: ignore[union-attr]
        if stack is None and greenlets is not None:
            stack = _main_frame()  # the greenlet that runs at this moment has no frame of its own
        show(f"{each.what} for {now - each.since:.1f} s ({each.phase}), {name}", stack)
    names = {ident: thread.name for ident, thread in list(threading._active.items())}  # type: ignore[attr-defined]
    names[_MAIN] = "MainThread"
    for ident, frame in sys._current_frames().items():
        if ident != get_ident() and root(frame) not in shown:
            show(f"thread {names.get(ident, ident)}", frame)
    others = [] if engine is None else engine.others()
    for name, stack in others + ([] if greenlets is None else greenlets()):
        if stack is not None and root(stack) not in shown:
            show(name, stack)
    text = "\n".join(parts)
    return text if len(text) <= TEXT_LIMIT else text[:TEXT_LIMIT] + "\n(the rest is too long)"


def _main_frame() -> FrameType | None:
    return sys._current_frames().get(_MAIN)


def describe_process(pid: int) -> str:
    """The stacks of a worker that does not respond, as :mod:`faulthandler` writes them; the innermost call first."""
    why = "the worker does not respond"
    if sys.platform == "darwin":
        os.kill(pid, _number())
        return f"{why}; its stacks are in its standard error"
    if sys.platform != "linux":
        return f"{why}, and this system has no way to see its stacks"
    path = _find(pid)
    if path is None:
        return f"{why}, and has not prepared to show its stacks"
    try:
        with open(path, "rb") as file:
            file.seek(0, os.SEEK_END)
            os.kill(pid, _number())
            found, until = b"", clock() + SIGNAL_TIME
            while clock() < until:
                time.sleep(0.05)
                more = file.read(TEXT_LIMIT)
                if found and not more:
                    break
                found += more
    except OSError as error:
        return f"{why}: {error.strerror}"
    text = found.decode("utf-8", "replace").rstrip("\n")
    return text or f"{why}, and does not handle signals either: it is stopped, or waits for a device"


def _find(pid: int) -> str | None:
    """The memory or file of :func:`prepare` in a worker."""
    folder = f"/proc/{pid}/fd"
    with suppress(OSError):
        for name in os.listdir(folder):
            with suppress(OSError):
                path, deleted, _ = os.readlink(f"{folder}/{name}").partition(" (deleted)")
                if path == f"/memfd:{NAME}" or (deleted and os.path.basename(path).startswith(NAME)):
                    return f"{folder}/{name}"
    return None
