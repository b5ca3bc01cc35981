"""The surroundings of a server: what the environment passes to it, and what is prepared before it serves."""

import os
from collections.abc import Callable
from contextlib import AbstractContextManager
from socket import socket
from typing import NamedTuple, Self

from ..config import envfile
from ..config.options import Options, runners
from ..errors import UsageError, ZibaiError
from ..gateway.interface import Application
from ..logger import logger
from ..net import inherited
from ..net.bind import describe
from ..net.unix_socket import give_unix_socket
from ..system import home, privileges
from ..system.machine import name_process
from ..telemetry import board_file as control
from ..telemetry import logpath
from ..telemetry import setup as logs
from ..telemetry.scoreboard import Scoreboard
from ..version import __version__
from . import peek
from .listeners import Listeners
from .systemd import Notifier
from .upgrade import Predecessor


class Environment(NamedTuple):
    """The data that the starting process passes to this server. The variables are removed: no other process may use
    them.

    Relative paths of the command start in ``directory``, also when an upgrade repeats the command. ``parent`` is the
    process that has started this one; if it is a server that is being upgraded, it is the ``predecessor``. ``identity``
    is the user that the server becomes. As a ``guest`` the server runs in a process that goes on without it, at a
    prompt; ``app`` is an application that was typed there, and has no name by which another process could find it.
    """

    directory: str
    parent: int
    predecessor: Predecessor | None
    notifier: Notifier | None
    given: list[inherited.Given]
    identity: privileges.Identity | None
    guest: bool = False
    app: Application | None = None

    @classmethod
    def take(cls, options: Options) -> Self:
        """Read the variables; called before the directory or the process id changes, since they name this id."""
        predecessor = Predecessor.from_environment(os.environ)
        notifier = Notifier.from_environment(os.environ)
        if notifier is not None and predecessor is not None:
            notifier.predecessor = lambda: predecessor.pid if predecessor.is_alive() else 0
        directory = home.current()
        given = inherited.from_environment(os.environ)
        identity = privileges.find(options.user, options.group)
        return cls(directory, os.getppid(), predecessor, notifier, given, identity)


def change_directory(path: str) -> None:
    """``--chdir``. Raises :class:`UsageError`."""
    try:
        os.chdir(path)
    except OSError as error:
        raise UsageError(f"--chdir: cannot change to {path!r}: {error.strerror}") from error


def check_files(options: Options) -> None:
    """Raise UsageError, before anything is opened, for a file or directory that each worker would miss."""
    if options.app_dir is not None and not os.path.isdir(options.app_dir):
        raise UsageError(f"--app-dir: {options.app_dir!r} is no directory")
    if options.env_file is not None:
        envfile.read(options.env_file)


class Prepared(NamedTuple):
    """The things that a parent and a single process need. ``on_up`` is called when the server is up; ``endpoint`` is
    the address of the control channel.
    """

    options: Options
    environment: Environment
    listeners: Listeners
    board: Scoreboard | None
    on_up: Callable[[], object]
    endpoint: str = ""


def check_tls(options: Options, sockets: list[socket]) -> None:
    """Raises :class:`UsageError` if the certificate cannot be used."""
    if options.certfile:
        from ..tls.https import check  # not in the memory of a server that speaks no TLS

        check(options, sockets)


def names(options: Options, sockets: list[socket]) -> list[str]:
    """The addresses on which the server listens, with their schemes; ``--url-scheme`` may be a proxy's scheme."""
    sockets = sockets[:-1] if options.redirect_http else sockets
    return [describe(sock, "https" if options.certfile else "http") for sock in sockets]


def scoreboard(
    options: Options, processes: int, names: list[str], predecessor: int, endpoint: str = ""
) -> AbstractContextManager[Scoreboard | None]:
    """The scoreboard of ``--control``, or one in the directory of this user."""
    loops = peek.loops(options)
    slots = runners(options, "wsgi", loops)
    facts = {
        "version": __version__,
        "app": options.app,
        "listen": names,
        "processes": processes,
        "slots": slots,
        "endpoint": endpoint,
    }
    # A restart has workers of both generations, so there is room for twice as many; 30 more are for SIGTTIN.
    workers = 2 * processes + 30 if processes else 1
    name, slots = name_process(os.getpid()), -(-slots // loops) + 1
    return control.open_board(options.control, name, workers, slots, facts, predecessor, loops)


def become(identity: privileges.Identity, options: Options, sockets: list[socket], board: Scoreboard | None) -> None:
    """Go on as another user, who must be able to use and to remove the files that were made for them."""
    group = identity.gid if options.unix_socket_group is None else -1
    try:
        for sock in sockets:
            give_unix_socket(sock, (identity.uid, group))
        if board is not None:
            board.give(identity.owner)
    except OSError as error:
        raise ZibaiError(f"cannot give files to {identity.name}: {error}") from error
    identity.assume()
    for flag, path in logs.files_of(options):
        logpath.prepare(path, bool(options.log_max_bytes), flag=flag)
    logs.configure_as(options)
    if not home.may_enter(""):
        logger.warning(
            "%s may not enter the directory %s: nothing is imported from there; give the permission, or start zibai in "
            "another directory",
            identity.name,
            home.real(),
        )
