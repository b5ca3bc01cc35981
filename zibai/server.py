"""``main(options)``: a server as the command line starts it, in one process or under a parent.

The listeners are opened here, once, before anything else can fail, and what they are is said. What a user did wrong
ends as one line and an exit code. What the environment says of listeners, systemd and a master before this one is taken
out of it here, so that nobody else takes it for his.
"""

import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from functools import partial
from math import inf
from socket import socket
from typing import NamedTuple, Self

from . import loader, worker
from .clock import clock
from .config.options import Options
from .core import Ties, warn_of_strangers
from .engine.loop import Loop
from .errors import LoadError, UsageError, ZibaiError, format_exception
from .gateway.wsgi import Application
from .listeners import Listeners
from .logger import logger
from .net import inherited
from .net.bind import describe, give_unix_socket
from .notify import Notifier, Reporter, SingleReporter
from .probes import Probes
from .reloader import Reloader
from .supervise import mainloop
from .supervise.child import start_helper
from .supervise.output import Collector
from .supervise.preload import Preload
from .supervise.prompt import Prompt, forking
from .supervise.pulse import Pulse
from .supervise.roster import PATIENCE, READY, SETTLED
from .system import daemon, home, lastword, pidfile, privileges, standard, terminal, title
from .system.signals import Signals, hear_of_children, signals_held_back
from .system.usage import NO_LIMITS, Usage, usage
from .telemetry import board_file as control
from .telemetry import logfile
from .telemetry import setup as logs
from .telemetry.scoreboard import Scoreboard
from .tls.devcert import certified
from .upgrade import Predecessor, Upgrade
from .version import __version__


def main(options: Options, *, exits: bool = False) -> None:
    """Serve until told to end; the main thread's. Raises SystemExit with the exit code when that is not 0.

    ``exits`` says that the process ends with it; then a signal that comes late does not change the exit code.
    0: asked to end. 1: an error of ours or of the machine. 2: wrong usage. 3: the application cannot be loaded.
    """
    launcher: daemon.Launcher | None = None
    standard.make_sure()
    hear_of_children()
    try:
        options.validate()
        # Before anything moves, to another directory or into another process.
        surroundings = Surroundings.take(options)
        identity = surroundings.identity
        if surroundings.directory:
            home.keep(surroundings.directory)
        if options.chdir is not None:
            _change_directory(options.chdir)
        if options.pid_file is not None:
            pidfile.check(options.pid_file, surroundings.parent)
        if identity is not None:
            identity.adapt_environment()
        if options.log_file is not None:
            logfile.prepare(options.log_file, bool(options.log_max_bytes), None if identity is None else identity.owner)
        if options.daemon and surroundings.before is None:  # a successor is in the background already
            launcher = daemon.detach()
        if identity is None:
            logs.configure_as(options)
        else:
            logs.hold()
        _serve(options, exits, surroundings, _do_nothing if launcher is None else launcher.is_up)
    except KeyboardInterrupt:
        pass  # the quick exit
    except ZibaiError as error:
        logs.let_go()
        lastword.exit_code = error.exit_code
        text = f"zibai: error: {error}\n"
        if isinstance(error, LoadError) and error.trace:
            text = error.trace.rstrip("\n") + "\n" + text
        standard.say(text)
        if launcher is not None:
            launcher.has_failed(text, error.exit_code)
        raise SystemExit(error.exit_code) from None
    except Exception as error:
        logs.let_go()
        lastword.exit_code = 1
        if launcher is not None:
            launcher.has_failed(format_exception(error, error.__traceback__), 1)
        raise


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


def serve_as_guest(options: Options, app: Application | None) -> None:
    """For :func:`zibai.run`: like ``main``, but what goes wrong is raised, and the environment is not for us."""
    if options.log_file is not None:
        logfile.prepare(options.log_file, bool(options.log_max_bytes))
    logs.configure_as(options)
    try:
        surroundings = Surroundings("", os.getppid(), None, None, [], None, guest=True, app=app)
        _serve(options, False, surroundings, _do_nothing)
    except KeyboardInterrupt:
        pass  # the quick exit


def needs_parent(options: Options) -> str:
    """The flag of an option that does nothing in a single process; empty if there is none.

    A new version of the code, and a process that has served enough, hangs or takes too much, need somebody who starts
    another one; a question about a process that is busy, a prompt and what is printed need somebody who is not.
    """
    names = (
        "watchfiles",
        "max_request_pre_process",
        "request_timeout",
        "max_worker_memory",
        "max_worker_descriptors",
        "capture_output",
        "health_listen",
        "interactive",
        "preload",
    )
    given = [name for name in names if getattr(options, name)]
    return "--" + given[0].replace("_", "-") if given else ""


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


def _serve(options: Options, exits: bool, surroundings: Surroundings, on_up: Callable[[], object]) -> None:
    """Open and say what there is to be opened, become who is to serve, and serve."""
    processes = options.subprocess or int(bool(needs_parent(options)))
    limits = Usage(options.max_worker_memory, options.max_worker_descriptors)
    if limits != NO_LIMITS and usage(os.getpid()) == NO_LIMITS:
        raise UsageError(
            "--max-worker-memory, --max-worker-descriptors: this system does not tell what a process takes"
        )
    prompt = Prompt() if options.interactive else None
    before, identity = surroundings.before, surroundings.identity
    with Listeners(options, surroundings.given, before and before.listeners) as listeners, ExitStack() as stack:
        # First of all: KeyboardInterrupt would come in the middle of anything, and in some of that it gets lost.
        signals = stack.enter_context(mainloop.signals(exits=exits, prompt=prompt is not None)) if processes else None
        limit = options.graceful_exit_timeout + lastword.LAST_WORD
        if signals is None:
            stack.enter_context(signals_held_back(lastword.Lookout(limit) if exits else None))
        elif exits:
            signals.heard = lambda name: lastword.arm(limit) if name in lastword.ENDS else None
        logger.info("zibai %s, process %d", __version__, os.getpid())
        owner = None if identity is None else identity.owner
        options = stack.enter_context(_certified(options, listeners.sockets, owner))
        names = _names(options, listeners.sockets)
        _announce(options, listeners, names)
        if options.pid_file is not None:
            stack.enter_context(pidfile.held(options.pid_file, surroundings.parent, owner))
        scoreboard = _scoreboard(options, processes, names, before.pid if before else 0)
        # Root may have to make the file of --control. The other one is in a directory of the user that serves.
        board = stack.enter_context(scoreboard) if options.control else None
        if identity is not None:
            _become(identity, options, [*listeners.sockets, *listeners.health], board)
            _check_tls(options, listeners.sockets)  # once more: root may read what this user may not
        if not options.control:
            board = stack.enter_context(scoreboard)
        if options.daemon and options.log_file is not None:
            if processes:
                start_helper()  # it would keep that very file open for as long as the server runs
            daemon.print_to(options.log_file)
        ground = _Ground(options, surroundings, listeners, board, on_up)
        if signals is None:
            _serve_alone(ground, exits)
        else:
            _serve_as_parent(ground, processes, limits, signals, prompt, exits)


def _announce(options: Options, listeners: Listeners, names: list[str]) -> None:
    for name in names:
        logger.info("listening on %s", name)
    if options.redirect_http is not None:
        logger.info("redirecting %s to https", describe(listeners.sockets[-1]))
    warn_of_strangers(options, listeners.sockets)
    for sock in listeners.health:
        logger.info("health checks on %s", describe(sock))


def _serve_as_parent(
    ground: _Ground, processes: int, limits: Usage, signals: Signals, prompt: Prompt | None, exits: bool
) -> None:
    """With workers, and with all that watches them."""
    options, surroundings, listeners, board, on_up = ground
    app = surroundings.app
    if not surroundings.guest:
        title.show("master", options.app)
    hindrance = "a prompt has the terminal" if prompt is not None or surroundings.guest else ""
    upgrade = Upgrade(surroundings.directory, surroundings.before, listeners, surroundings.notifier, board, hindrance)
    observers: list[mainloop.Observer] = [upgrade]
    if surroundings.notifier is not None:
        observers.append(Reporter(surroundings.notifier, board.rows() if board is not None else ()))
    pulse = Pulse()
    collector = Collector() if options.capture_output else None
    is_debugged = processes == 1 or options.watchfiles is not None
    stdin = terminal.Stdin.of_this_process() if is_debugged and not hindrance and not options.daemon else None
    preload: Preload | None = None

    def stop_listening() -> None:
        listeners.stop()
        if preload is not None:
            preload.stop_listening()

    with ExitStack() as stack:
        if listeners.health:
            probes = Probes(listeners.health, pulse, lambda: listeners.is_health_kept or upgrade.has_company())
            observers.insert(0, stack.enter_context(probes))
        if options.preload and app is None:  # else the workers are forked from here in any case
            preload = Preload(partial(loader.run_loader, stdin=stdin), (options, listeners.sockets, board), collector)
            stack.enter_context(preload)
        loop = mainloop.MainLoop(
            partial(worker.run_child, app=app, stdin=None if preload else stdin),
            (options, listeners.sockets),
            processes,
            board,
            method="spawn" if app is None else "fork",
            starting=_starting(ground, prompt, collector),
            collector=collector,
            limits=limits,
            graceful_timeout=options.graceful_exit_timeout,
            boot_timeout=options.boot_timeout,
            # A prompt of a debugger blocks the hub of gevent for as long as a developer thinks.
            worker_timeout=inf if options.watchfiles is not None else options.worker_timeout or inf,
            settle=SETTLED,
            lame_time=lambda: 0.0 if upgrade.has_company() else options.drain,
            eager=options.watchfiles is not None,
            on_up=on_up,
            on_end=stop_listening,
            cedes=lambda: listeners.are_kept or upgrade.has_company(),
            observers=observers,
            pulse=pulse,
            preload=preload,
        )
        if exits and not surroundings.guest:
            signals.heard = _overseer(options, loop, preload).heard
        if options.watchfiles is not None:
            stack.enter_context(Reloader(options.watchfiles, loop.restart_soon, _directory(ground)))
        if prompt is None:
            loop.run(signals)
        else:
            prompt.run(loop, signals, board)


def _starting(
    ground: _Ground, prompt: Prompt | None, collector: Collector | None
) -> Callable[[], AbstractContextManager[None]]:
    """What is around the start of each worker."""
    if ground.surroundings.app is not None:
        return partial(forking, prompt, collector)
    directory = _directory(ground)
    return partial(home.entered, directory) if directory else nullcontext


def _directory(ground: _Ground) -> str:
    """Where the application is, by name. Empty in the process of a prompt: there the directory is the user's."""
    directory, chdir = ground.surroundings.directory, ground.options.chdir
    return os.path.join(directory, chdir) if directory and chdir else directory


BEYOND = 0.25
"""Seconds beyond the time limit of its workers that the parent has to end."""


def _overseer(options: Options, loop: mainloop.MainLoop, preload: Preload | None) -> lastword.Overseer:
    """What ends this parent and its workers when the main loop does not."""

    def children() -> list[int]:
        return [*loop.pids, *([] if preload is None else preload.pids)]

    def limit(name: str) -> float:
        if name == "SIGINT":
            return PATIENCE + BEYOND
        return options.graceful_exit_timeout + PATIENCE + BEYOND + (0.0 if loop.is_ending else options.drain)

    return lastword.Overseer(children, lambda: loop.is_ending, limit)


def _serve_alone(ground: _Ground, exits: bool) -> None:
    """Without a parent."""
    options, surroundings, listeners, board, on_up = ground
    before, notifier = surroundings.before, surroundings.notifier
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
        on_up()

    ties.on_start = started
    guest, app = surroundings.guest, surroundings.app
    worker.run(options, listeners.sockets, ties=ties, exits=exits, app=app, guest=guest)


@contextmanager
def _certified(options: Options, sockets: list[socket], owner: tuple[int, int] | None) -> Iterator[Options]:
    """Options whose certificate can be used, if they want one; UsageError else, before any worker is started."""
    with ExitStack() as stack:
        if options.tls_dev:
            options = stack.enter_context(certified(options, owner))
        _check_tls(options, sockets)
        yield options


def _check_tls(options: Options, sockets: list[socket]) -> None:
    if options.certfile:
        from .tls.https import check  # not in the memory of a server that speaks no TLS

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


def _do_nothing() -> None:
    pass
