"""``main(options)``: a server as the command line starts it, in one process or under a parent.

The listeners are bound here, once, before anything else can fail, and what they are is said. What a user did wrong
ends as one line and an exit code.
"""

import logging
import os
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from math import inf
from socket import socket

from . import control, loader, mainloop, worker
from . import logger as logs
from .errors import LoadError, ZibaiError
from .logger import logger
from .options import Options
from .preload import Preload
from .reloader import Reloader
from .scoreboard import Scoreboard, clock
from .sockets import create_bind_socket, describe, listen, unlink_unix_socket
from .supervisor import READY
from .version import __version__


def main(options: Options, *, exits: bool = False) -> None:
    """Serve until told to end; the main thread's. Raises SystemExit with the exit code when that is not 0.

    ``exits`` says that the process ends with it; then a signal that comes late does not change the exit code.
    0: asked to end. 1: an error of ours or of the machine. 2: wrong usage. 3: the application cannot be loaded.
    """
    try:
        options.validate()
        logs.configure(options.no_access_log, options.logging_config_filepath)
        _serve(options, exits)
    except KeyboardInterrupt:
        pass  # the quick exit
    except ZibaiError as error:
        if isinstance(error, LoadError) and error.trace:
            sys.stderr.write(error.trace.rstrip("\n") + "\n")
        sys.stderr.write(f"zibai: error: {error}\n")
        raise SystemExit(error.exit_code) from None


def _serve(options: Options, exits: bool) -> None:
    # A new version of the code, and a process that has served enough or hangs, need somebody who starts another one.
    supervised = bool(options.watchfiles is not None or options.max_request_pre_process or options.request_timeout)
    supervised = supervised or options.preload
    processes = options.subprocess or int(supervised)
    with _listeners(options) as sockets, ExitStack() as stack:
        # First of all: KeyboardInterrupt would come in the middle of anything, and in some of that it gets lost.
        signals = stack.enter_context(mainloop.signals(exits=exits)) if processes else None
        logger.info("zibai %s, process %d", __version__, os.getpid())
        for sock in sockets:
            logger.info("listening on %s", describe(sock, options.url_scheme))
        board = stack.enter_context(_scoreboard(options, processes, sockets))
        if signals is None:
            row = None if board is None else board.row(0)
            if row is not None:
                row.assign(READY, os.getpid(), 0, clock())
            worker.run(options, sockets, row=row, exits=exits)
            return

        def stop_listening() -> None:
            # The kernel would go on to accept for us connections that no worker takes any more.
            for sock in sockets:
                _release(sock)
            if preload is not None:
                preload.stop_listening()

        preload = None
        if options.preload:
            preload = stack.enter_context(Preload(loader.run_loader, (options, sockets, board)))
        developing = options.watchfiles is not None
        loop = mainloop.MainLoop(
            worker.run_child,
            (options, sockets),
            processes,
            board,
            graceful_timeout=options.graceful_exit_timeout,
            boot_timeout=options.boot_timeout,
            worker_timeout=options.worker_timeout or inf,
            eager=developing,
            on_end=stop_listening,
            preload=preload,
        )
        if options.watchfiles is not None:
            stack.enter_context(Reloader(options.watchfiles, loop.restart_soon))
        loop.run(signals)


@contextmanager
def _listeners(options: Options) -> Iterator[list[socket]]:
    """Every address of ``--listen``, listening; the files of unix sockets go in the end."""
    with ExitStack() as stack:
        sockets = []
        for address in options.listen:
            sock = create_bind_socket(
                address, unix_socket_perms=options.unix_socket_perms, dualstack_ipv6=options.dualstack_ipv6
            )
            stack.callback(_release, sock)
            listen(sock, options.backlog)
            sockets.append(sock)
        yield sockets


@contextmanager
def _scoreboard(options: Options, processes: int, sockets: list[socket]) -> Iterator[Scoreboard | None]:
    """The scoreboard in its file; None where there can be none, since it is worth less than a server that runs."""
    path = options.control or control.default_path(os.getpid())
    if not options.control:
        control.tidy()
    facts = {
        "version": __version__,
        "app": options.app,
        "listen": [describe(sock, options.url_scheme) for sock in sockets],
        "processes": processes,
    }
    # Twice as many rows as workers, since a restart has both generations; and some for SIGTTIN.
    rows = 2 * processes + 30 if processes else 1
    try:
        board = control.create(path, rows, options.max_workers + 1, facts)
    except OSError as error:
        # Only who named a file wants to know.
        logger.log(logging.WARNING if options.control else logging.DEBUG, "no file for zibai ps: %s", error)
        yield None
        return
    try:
        yield board
    finally:
        board.close()


def _release(sock: socket) -> None:
    unlink_unix_socket(sock)
    sock.close()
