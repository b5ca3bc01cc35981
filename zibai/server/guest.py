"""``zibai.run()``: a server at a Python prompt, with an application that was typed there.

Such an application has no name by which a new process could import it, so workers are forked; on a system without fork
the process itself serves. When the server ends, by Ctrl-C, it leaves no process, thread, signal handler or setting of
the terminal behind. Errors are raised and never end the process. gevent is not used, since it would patch the prompt.
"""

import gc
import sys
import threading
from collections.abc import Sequence
from typing import Unpack

from ..config.keywords import RunOptions
from ..config.options import Options, declared
from ..errors import UsageError
from ..gateway.interface import Application
from ..logger import logger
from ..supervise.worker import describe
from ..system import terminal
from ..system.patching import is_patched
from . import start as server

A_MOMENT = 1.0
"""Seconds that a thread has to end; a thread that runs the application may take longer."""


def run(
    app: Application | str,
    *,
    listen: str | Sequence[str] | None = "127.0.0.1:8000",
    processes: int | None = 0,
    interactive: bool | None = False,
    **options: Unpack[RunOptions],
) -> None:
    """Serve until Ctrl-C. Only the main thread may call it.

    :param app: a WSGI or ASGI application, or its name, ``"module:attribute"``, as on the command line.
    :param listen: an address, or several.
    :param processes: worker processes; 0 serves in this one. For an application without a name they are forked, with
        the application as it is at that moment. Where this is impossible, this process serves, with a warning.
    :param interactive: a prompt, ``zibai>>``, while it serves.
    :param options: any other field of :class:`~zibai.Options`.
    """
    server.check_thread("zibai.run()")
    named = isinstance(app, str)
    if not named and not callable(app):
        raise UsageError(f"{app!r} cannot be called, so it is no application")
    settings = Options(
        app=app if isinstance(app, str) else describe(app),
        listen=[listen] if isinstance(listen, str) else None if listen is None else list(listen),
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
    if not is_patched() and not (named and wants_workers):
        settings.no_gevent = True
    before = set(threading.enumerate())
    with terminal.kept():
        try:
            server.serve_as_guest(settings, None if isinstance(app, str) else app)
        finally:
            for thread in set(threading.enumerate()) - before:
                if thread.name.startswith("zibai-"):
                    thread.join(A_MOMENT)
            gc.collect()  # the parts of a server form reference cycles, which would keep the scoreboard's file open


def _obstacle_to_fork() -> str:
    """Why an application without a name cannot be passed to another process; empty if it can."""
    if sys.platform == "win32":
        return "Windows cannot fork an application that was typed at a prompt"
    if is_patched():
        return "a process that gevent has patched cannot be forked"
    if threading.active_count() > 1:
        return "a process that has threads cannot be forked"
    return ""
