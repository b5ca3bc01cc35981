"""``zibai.run()``: a server for who sits at a prompt, with an application that was typed there.

Such an application cannot be named, so workers get it by a fork; where there is none, the process itself serves. When
it ends, by Ctrl-C, everything is as before: no process, thread, handler of a signal or setting of the terminal is left.
Errors are raised, and never end the process. gevent is not asked for, since it would patch somebody's prompt.
"""

import gc
import sys
import threading
from collections.abc import Sequence
from typing import Any

from ..config.options import Options, declared
from ..errors import UsageError
from ..gateway.wsgi import Application
from ..logger import logger
from ..supervise.worker import describe
from ..system import terminal
from . import start as server

A_MOMENT = 1.0
"""Seconds for a thread that has been told to end; one that runs the application may take longer."""


def run(
    app: Application | str,
    *,
    listen: str | Sequence[str] = "127.0.0.1:8000",
    processes: int = 0,
    interactive: bool = False,
    **options: Any,
) -> None:
    """Serve until Ctrl-C; the main thread's.

    :param app: a WSGI application, or its name, ``"module:attribute"``, as on the command line.
    :param listen: an address, or several.
    :param processes: worker processes; 0 serves in this one. Workers with an application that is not named are
        forked, as it is then; where nothing can be forked, this process serves, and says so.
    :param interactive: a prompt, ``zibai>>``, while it serves.
    :param options: any other field of :class:`~zibai.Options`.
    """
    named = isinstance(app, str)
    if not named and not callable(app):
        raise UsageError(f"{app!r} cannot be called, so it is no application")
    settings = Options(
        app=app if isinstance(app, str) else describe(app),
        listen=[listen] if isinstance(listen, str) else list(listen),
        processes=processes,
        interactive=interactive,
        **options,
    )
    settings.validate()
    for each in declared():
        if not each.at_prompt and getattr(settings, each.name):
            raise UsageError(f"{each.name} would change the process of the prompt; use the command zibai")
    wants_workers = bool(settings.processes or server.needs_parent(settings))
    obstacle = None if named or not wants_workers else _obstacle_to_fork()
    if obstacle:
        if flag := server.needs_parent(settings):
            raise UsageError(f"{flag} needs worker processes, and {obstacle}; name the application, as 'module:app'")
        logger.warning("%s: this process serves by itself", obstacle)
        settings.processes = 0
    if not _is_patched() and not (named and wants_workers):
        settings.no_gevent = True
    before = set(threading.enumerate())
    with terminal.kept():
        try:
            server.serve_as_guest(settings, None if isinstance(app, str) else app)
        finally:
            for thread in set(threading.enumerate()) - before:
                if thread.name.startswith("zibai-"):
                    thread.join(A_MOMENT)
            gc.collect()  # what a server is made of hangs together in circles, and the scoreboard's file with it


def _obstacle_to_fork() -> str:
    """Why an application that is not named cannot come into another process; empty if it can."""
    if sys.platform == "win32":
        return "Windows cannot fork an application that was typed at a prompt"
    if _is_patched():
        return "a process that gevent has patched cannot be forked"
    if threading.active_count() > 1:
        return "a process that has threads cannot be forked"
    return ""


def _is_patched() -> bool:
    monkey = sys.modules.get("gevent.monkey")
    return monkey is not None and bool(monkey.is_module_patched("threading"))
