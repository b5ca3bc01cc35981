"""What a server needs around it before it serves."""

import os
from collections.abc import Callable
from contextlib import AbstractContextManager
from socket import socket
from typing import NamedTuple, Self

from ..config.options import Options
from ..errors import UsageError, ZibaiError
from ..gateway.wsgi import Application
from ..net import inherited
from ..net.bind import describe
from ..net.unix_socket import give_unix_socket
from ..system import home, privileges
from ..telemetry import board_file as control
from ..telemetry import logfile
from ..telemetry import setup as logs
from ..telemetry.scoreboard import Scoreboard
from ..version import __version__
from .listeners import Listeners
from .systemd import Notifier
from .upgrade import Predecessor


class Surroundings(NamedTuple):
    """What whoever starts this server says to it, and nobody else is to hear: the variables are removed.

    Relative paths of the command start in ``directory``, also when it is given again. ``parent`` is the process that
    has started this one, ``before`` what it hands over if it is a server, too. ``identity`` is who is to serve. As a
    ``guest`` the server is in a process that goes on without it, somebody's prompt; ``app`` is an application that was
    typed there, and has no name by which another process could find it.
    """

    directory: str
    parent: int
    before: Predecessor | None
    notifier: Notifier | None
    given: list[inherited.Given]
    identity: privileges.Identity | None
    guest: bool = False
    app: Application | None = None

    @classmethod
    def take(cls, options: Options) -> Self:
        """To be called before the directory or the process is another one: the variables speak to this process id."""
        before = Predecessor.from_environment(os.environ)
        notifier = Notifier.from_environment(os.environ)
        if notifier is not None and before is not None:
            notifier.predecessor = lambda: before.pid if before.is_alive() else 0
        directory = home.current()
        given = inherited.from_environment(os.environ)
        identity = privileges.find(options.user, options.group)
        return cls(directory, os.getppid(), before, notifier, given, identity)


def _change_directory(path: str) -> None:
    try:
        os.chdir(path)
    except OSError as error:
        raise UsageError(f"--chdir: cannot change to {path!r}: {error.strerror}") from error


class _Ground(NamedTuple):
    """What was prepared, and both ways to serve stand on. ``on_up`` is called when the first worker is ready."""

    options: Options
    surroundings: Surroundings
    listeners: Listeners
    board: Scoreboard | None
    on_up: Callable[[], object]


def _check_tls(options: Options, sockets: list[socket]) -> None:
    if options.certfile:
        from ..tls.https import check  # not in the memory of a server that speaks no TLS

        check(options, sockets)


def _names(options: Options, sockets: list[socket]) -> list[str]:
    """Where the server listens, with the scheme that it speaks there; that of ``--url-scheme`` may be a proxy's."""
    sockets = sockets[:-1] if options.redirect_http else sockets
    return [describe(sock, "https" if options.certfile else "http") for sock in sockets]


def _scoreboard(
    options: Options, processes: int, names: list[str], predecessor: int
) -> AbstractContextManager[Scoreboard | None]:
    facts = {
        "version": __version__,
        "app": options.app,
        "listen": names,
        "processes": processes,
    }
    # Twice as many rows as workers, since a restart has both generations; and some for SIGTTIN.
    rows = 2 * processes + 30 if processes else 1
    return control.held(options.control, os.getpid(), rows, options.max_workers + 1, facts, predecessor)


def _become(identity: privileges.Identity, options: Options, sockets: list[socket], board: Scoreboard | None) -> None:
    """Go on as another user, who has to be able to use and to remove what was made for them."""
    group = identity.gid if options.unix_socket_group is None else -1
    try:
        for sock in sockets:
            give_unix_socket(sock, (identity.uid, group))
        if board is not None:
            board.give(identity.owner)
    except OSError as error:
        raise ZibaiError(f"cannot give files to {identity.name}: {error}") from error
    identity.assume()
    if options.log_file is not None:
        logfile.prepare(options.log_file, bool(options.log_max_bytes))
    logs.configure_as(options)
