"""``main(options)``: a server as the command line starts it, in one process or under a parent.

The listeners are bound here, once, before anything else can fail, and what they are is said. What a user did wrong
ends as one line and an exit code.
"""

import os
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from socket import socket

from . import logger as logs
from . import mainloop, worker
from .errors import LoadError, ZibaiError
from .logger import logger
from .options import Options
from .reloader import Reloader
from .sockets import create_bind_socket, describe, listen, unlink_unix_socket
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
    # A new version of the code, and a process that has served enough, need somebody who starts another one.
    supervised = options.watchfiles is not None or options.max_request_pre_process is not None
    processes = options.subprocess or int(supervised)
    with _listeners(options) as sockets, ExitStack() as stack:
        logger.info("zibai %s, process %d", __version__, os.getpid())
        for sock in sockets:
            logger.info("listening on %s", describe(sock, options.url_scheme))
        if not processes:
            worker.run(options, sockets, exits=exits)
            return
        developing = options.watchfiles is not None
        loop = mainloop.MainLoop(
            worker.run_child,
            (options, sockets),
            processes,
            options.graceful_exit_timeout,
            eager=developing,
            exits=exits,
        )
        if options.watchfiles is not None:
            stack.enter_context(Reloader(options.watchfiles, loop.restart_soon))
        loop.run()


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


def _release(sock: socket) -> None:
    unlink_unix_socket(sock)
    sock.close()
