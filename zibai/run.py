"""``main(options)``: a server as the command line starts it, in one process or under a parent.

The listeners are opened here, once, before anything else can fail, and what they are is said. What a user did wrong
ends as one line and an exit code. What the environment says of listeners, systemd and a master before this one is taken
out of it here, so that nobody else takes it for his.
"""

import os
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from math import inf
from socket import socket
from typing import NamedTuple, Self

from . import control, inherited, mainloop, worker
from . import logger as logs
from .core import Ties
from .errors import LoadError, ZibaiError
from .listeners import Listeners
from .logger import logger
from .loop import Loop
from .notify import Notifier, Reporter, SingleReporter
from .options import Options
from .probes import Probes, Pulse
from .reloader import Reloader
from .scoreboard import Scoreboard, clock
from .sockets import describe
from .supervisor import READY
from .upgrade import Predecessor, Upgrade
from .version import __version__


def main(options: Options, *, exits: bool = False) -> None:
    """Serve until told to end; the main thread's. Raises SystemExit with the exit code when that is not 0.

    ``exits`` says that the process ends with it; then a signal that comes late does not change the exit code.
    0: asked to end. 1: an error of ours or of the machine. 2: wrong usage. 3: the application cannot be loaded.
    """
    try:
        options.validate()
        surroundings = Surroundings.take()
        logs.configure(options.no_access_log, options.logging_config_filepath)
        _serve(options, exits, surroundings)
    except KeyboardInterrupt:
        pass  # the quick exit
    except ZibaiError as error:
        if isinstance(error, LoadError) and error.trace:
            sys.stderr.write(error.trace.rstrip("\n") + "\n")
        sys.stderr.write(f"zibai: error: {error}\n")
        raise SystemExit(error.exit_code) from None


class Surroundings(NamedTuple):
    """What whoever starts this server says to it, and nobody else is to hear: the variables are removed.

    To be taken before anything moves: relative paths of the command start in ``directory``, also when it is given
    again, and the variables speak to the process with this id.
    """

    directory: str
    before: Predecessor | None
    notifier: Notifier | None
    given: list[inherited.Given]

    @classmethod
    def take(cls) -> Self:
        before = Predecessor.from_environment(os.environ)
        notifier = Notifier.from_environment(os.environ)
        if notifier is not None and before is not None:
            notifier.predecessor = lambda: before.pid if before.is_alive() else 0
        try:
            directory = os.getcwd()
        except OSError:
            directory = ""  # somebody has removed it
        return cls(directory, before, notifier, inherited.from_environment(os.environ))


def _serve(options: Options, exits: bool, surroundings: Surroundings) -> None:
    # A new version of the code, and a process that has served enough or hangs, need somebody who starts another one;
    # and a question about a process that is busy needs somebody who is not.
    supervised = bool(
        options.watchfiles is not None
        or options.max_request_pre_process
        or options.request_timeout
        or options.health_listen
    )
    processes = options.subprocess or int(supervised)
    directory, before, notifier, given = surroundings
    with Listeners(options, given, before and before.listeners) as listeners, ExitStack() as stack:
        # First of all: KeyboardInterrupt would come in the middle of anything, and in some of that it gets lost.
        signals = stack.enter_context(mainloop.signals(exits=exits)) if processes else None
        logger.info("zibai %s, process %d", __version__, os.getpid())
        for sock in listeners.sockets:
            logger.info("listening on %s", describe(sock, options.url_scheme))
        for sock in listeners.health:
            logger.info("health checks on %s", describe(sock))
        board = stack.enter_context(_scoreboard(options, processes, listeners.sockets, before.pid if before else 0))
        if signals is None:
            _serve_alone(options, exits, listeners, before, notifier, board)
            return
        upgrade = Upgrade(directory, before, listeners, notifier, board)
        observers: list[mainloop.Observer] = [upgrade]
        if notifier is not None:
            observers.append(Reporter(notifier, board.rows() if board is not None else ()))
        pulse = Pulse()
        if listeners.health:
            probes = Probes(listeners.health, pulse, lambda: listeners.is_health_kept or upgrade.has_company())
            observers.append(stack.enter_context(probes))
        developing = options.watchfiles is not None
        loop = mainloop.MainLoop(
            worker.run_child,
            (options, listeners.sockets),
            processes,
            board,
            graceful_timeout=options.graceful_exit_timeout,
            boot_timeout=options.boot_timeout,
            worker_timeout=options.worker_timeout or inf,
            lame_time=lambda: 0.0 if upgrade.has_company() else options.drain,
            eager=developing,
            on_end=listeners.stop,
            cedes=lambda: listeners.are_kept or upgrade.has_company(),
            observers=observers,
            pulse=pulse,
        )
        if options.watchfiles is not None:
            stack.enter_context(Reloader(options.watchfiles, loop.restart_soon))
        loop.run(signals)


def _serve_alone(
    options: Options,
    exits: bool,
    listeners: Listeners,
    before: Predecessor | None,
    notifier: Notifier | None,
    board: Scoreboard | None,
) -> None:
    """Without a parent."""
    ties = Ties(row=None if board is None else board.row(0))
    if ties.row is not None:
        ties.row.assign(READY, os.getpid(), 0, clock())
    reporter = None if notifier is None else SingleReporter(notifier, ties.row)
    if reporter is not None:
        ties.beat_every, ties.on_beat, ties.on_end = reporter.beat_every, reporter.beat, reporter.stopping

    def started(loop: Loop) -> None:
        loop.cedes = lambda: listeners.are_kept or (before is not None and before.is_alive())
        if reporter is not None:
            reporter.started()
        if before is not None:
            before.tell()

    ties.on_start = started
    worker.run(options, listeners.sockets, ties=ties, exits=exits)


@contextmanager
def _scoreboard(
    options: Options, processes: int, sockets: list[socket], predecessor: int
) -> Iterator[Scoreboard | None]:
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
        board = control.create(path, rows, options.max_workers + 1, facts, predecessor)
    except OSError as error:
        # Only who named a file wants to know.
        if options.control:
            logger.warning("no file for zibai ps: %s", control.reason(error))
        else:
            logger.debug("no file for zibai ps: %s", error)
        yield None
        return
    try:
        yield board
    finally:
        board.close()
