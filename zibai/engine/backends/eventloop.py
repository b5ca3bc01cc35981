"""The event loops of asyncio that tasks can run in."""

import asyncio
import os
import sys
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from importlib import import_module
from typing import Any

from ...errors import MissingExtra
from ...system.forks import end_child


def make_event_loop(name: str) -> asyncio.AbstractEventLoop:
    """A new event loop. Raises :class:`~zibai.errors.MissingExtra` where the one of that name is not installed."""
    loop = asyncio.new_event_loop() if name != "uvloop" else _make_uvloop()
    loop.set_default_executor(Pool(thread_name_prefix="asyncio"))
    return loop


def _make_uvloop() -> asyncio.AbstractEventLoop:
    module = "winloop" if sys.platform == "win32" else "uvloop"
    try:
        loop: asyncio.AbstractEventLoop = import_module(module).new_event_loop()
    except ImportError as error:
        text = f"{module} is not installed; pip install 'zibai-server[uvloop]', or leave out --loop uvloop"
        raise MissingExtra.because(error, module, text) from None
    return loop


def waiting_tasks() -> list[str]:
    """The tasks in the event loop that ``asyncio.get_event_loop()`` has given this thread, if it does not run."""
    loop = _set_event_loop()
    if loop is None or loop.is_running() or loop.is_closed():
        return []
    return sorted(getattr(task.get_coro(), "__qualname__", task.get_name()) for task in asyncio.all_tasks(loop))


def _set_event_loop() -> asyncio.AbstractEventLoop | None:
    """The event loop that is set in this thread. It makes none, as :func:`asyncio.get_event_loop` did before 3.14."""
    if sys.version_info >= (3, 14):
        try:
            return asyncio.get_event_loop()
        except RuntimeError:
            return None
    return getattr(getattr(asyncio.get_event_loop_policy(), "_local", None), "_loop", None)


class Pool(ThreadPoolExecutor):
    """The threads of ``asyncio.to_thread`` and ``run_in_executor(None, ...)``.

    A child that a function forks in one of them ends when the function does. The thread would wait in it for ever, and
    first do what other requests had left to the pool.
    """

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> "Future[Any]":
        return super().submit(_run_in, os.getpid(), fn, *args, **kwargs)


def _run_in(pid: int, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
    """Call a function of the application in this process, and end a child of it."""
    try:
        return fn(*args, **kwargs)
    finally:
        if os.getpid() != pid:
            end_child()
