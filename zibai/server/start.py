"""``main(options)``: a server as the command line starts it, in one process or under a parent.

The listeners are opened and announced here, once, before anything else can fail. An error of the user ends as one line
and an exit code. The variables of listeners, systemd and a server that is being upgraded are removed from the
environment here, so that no child process takes them for its own.
"""

import os
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from functools import partial
from socket import socket
from typing import TYPE_CHECKING

from ..config.effects import remarks
from ..config.options import Options, declared, runners
from ..errors import LoadError, UsageError, ZibaiError, format_exception
from ..gateway.interface import Application
from ..logger import logger
from ..net.bind import describe
from ..system import daemon, home, lastword, pidfile, standard
from ..system.holdback import signals_held_back
from ..system.machine import available_cpus
from ..system.patching import has_gil
from ..system.privileges import Identity
from ..system.signals import hear_of_children
from ..system.usage import NO_LIMITS, Usage, usage
from ..telemetry import logpath
from ..telemetry import setup as logs
from ..telemetry.scoreboard import Scoreboard
from ..tls.devcert import certified
from ..version import __version__
from . import environment as around
from . import guard, peek
from .endpoint import address_for
from .environment import Environment, Prepared
from .listeners import Listeners
from .settings import warn_of_strangers

if TYPE_CHECKING:
    from ..supervise.prompt import Prompt


def main(options: Options, *, exits: bool = False) -> None:
    """Serve until told to end; only for the main thread. Raises SystemExit with the exit code when that is not 0.

    ``exits`` says that the process ends afterwards; then a late signal does not change the exit code.
    0: asked to end. 1: an error of zibai or of the machine. 2: wrong usage. 3: the application cannot be loaded.
    """
    launcher: daemon.Launcher | None = None
    standard.make_sure()
    try:
        check_thread("main()")
        hear_of_children()
        options.validate()
        # Before this process changes its directory, or its id with --daemon.
        environment = Environment.take(options)
        identity = environment.identity
        if environment.directory:
            home.keep(environment.directory)
        if options.chdir is not None:
            around.change_directory(options.chdir)
        around.check_files(options)
        if options.pid_file is not None:
            pidfile.check(options.pid_file, environment.parent)
        if identity is not None:
            identity.adapt_environment()
        _prepare_log_files(options, identity)
        if options.daemon and environment.predecessor is None:  # a successor is in the background already
            launcher = daemon.detach()
        if identity is None:
            logs.configure_as(options)
        else:
            logs.buffer()
        _serve(options, exits, environment, (lambda: None) if launcher is None else launcher.is_up)
    except KeyboardInterrupt:
        pass  # the quick exit
    except ZibaiError as error:
        logs.flush()
        lastword.exit_code = error.exit_code
        text = f"zibai: error: {error}\n"
        if isinstance(error, LoadError) and error.trace:
            text = error.trace.rstrip("\n") + "\n" + text
        standard.say(text)
        if launcher is not None:
            launcher.has_failed(text, error.exit_code)
        raise SystemExit(error.exit_code) from None
    except Exception as error:
        logs.flush()
        lastword.exit_code = 1
        if launcher is not None:
            launcher.has_failed(format_exception(error, error.__traceback__), 1)
        raise


def check_thread(name: str) -> None:
    """Raise UsageError unless this is the main thread, which alone can handle signals, for a function of this name."""
    if threading.get_native_id() != threading.main_thread().native_id:
        raise UsageError(f"{name} must be called in the main thread; in other threads, write zibai.serve(app=...)")


def _prepare_log_files(options: Options, identity: Identity | None) -> None:
    """Make sure that the log files can be written; raises UsageError. Redirectable ones are checked later."""
    for flag, path in logs.files_of(options):
        if not (identity and identity.may_redirect(path)):
            logpath.prepare(path, bool(options.log_max_bytes), None if identity is None else identity.owner, flag=flag)


def serve_as_guest(options: Options, app: Application | None) -> None:
    """For :func:`zibai.run`: like ``main``, but errors are raised, and the environment belongs to the prompt."""
    for flag, path in logs.files_of(options):
        logpath.prepare(path, bool(options.log_max_bytes), flag=flag)
    logs.configure_as(options)
    try:
        environment = Environment("", os.getppid(), None, None, [], None, guest=True, app=app)
        _serve(options, False, environment, lambda: None)
    except KeyboardInterrupt:
        pass  # the quick exit


def needs_parent(options: Options) -> str:
    """The flag of a given option that does nothing in a single process; empty if there is none.

    Restarts, replacements of workers, responses while a worker is busy, the prompt and captured output need a process
    beside the worker.
    """
    given = (each.flag for each in declared() if each.needs_parent and getattr(options, each.name))
    return next(given, "")


def _serve(options: Options, exits: bool, environment: Environment, on_up: Callable[[], object]) -> None:
    """Open the listeners, become the user that serves, and serve in this process or in workers."""
    processes = options.processes or int(bool(needs_parent(options)))
    # Before anything is opened. A single process needs no supervisor in its memory, and a parent no engine.
    if processes:
        from .parent import hear_signals, serve_as_parent
    else:
        from .single import serve_alone
    if processes and environment.app is None:
        guard.check()
    limits = _limits(options)
    loops = peek.loops(options)
    prompt = _prompt() if options.interactive else None
    predecessor, identity = environment.predecessor, environment.identity
    limit = options.graceful_exit_timeout + lastword.LAST_WORD
    listeners = Listeners(options, environment.given, predecessor and predecessor.listeners)
    listeners.look_up()
    with ExitStack() as stack:
        # Signals wait until they are handled: with their usual effect they would end this process and leave the file of
        # a unix socket behind. KeyboardInterrupt may come in the middle of anything, and in some places it gets lost.
        stack.enter_context(signals_held_back(lastword.Lookout(limit) if exits else None))
        stack.enter_context(listeners)
        signals = stack.enter_context(hear_signals(prompt, exits, limit)) if processes else None
        logger.info("zibai %s, process %d", __version__, os.getpid())
        owner = None if identity is None else identity.owner
        options = stack.enter_context(_certified(options, listeners.sockets, owner))
        names = around.names(options, listeners.sockets)
        _announce(options, listeners, names, processes)
        of_user = _made_by_user(options, identity)
        if options.app and not environment.guest:
            _tell(options, processes, loops)
        if options.pid_file is not None and options.pid_file not in of_user:
            stack.enter_context(_pid_file(options.pid_file, environment, owner))
        open_board = partial(_open_board, stack, options, environment, processes, names)
        # Only root may be able to make the file of --control. By default it is in a directory of the serving user.
        early = options.control is not None and options.control not in of_user
        board, endpoint = open_board() if early else (None, "")
        if identity is not None:
            around.become(identity, options, [*listeners.sockets, *listeners.health], board)
            around.check_tls(options, listeners.sockets)  # once more: root may read what this user may not
        if options.pid_file in of_user:
            stack.enter_context(_pid_file(options.pid_file, environment))
        if not early:
            board, endpoint = open_board()
        _redirect_output(options, processes)
        prepared = Prepared(options, environment, listeners, board, on_up, endpoint)
        if signals is None:
            serve_alone(prepared, exits)
        else:
            serve_as_parent(prepared, processes, limits, signals, prompt, exits)


def _pid_file(
    path: str, environment: Environment, owner: tuple[int, int] | None = None
) -> AbstractContextManager[None]:
    old = environment.predecessor
    return pidfile.written(path, environment.parent, owner, None if old is None else old.is_watching)


def _open_board(
    stack: ExitStack, options: Options, environment: Environment, processes: int, names: list[str]
) -> tuple[Scoreboard | None, str]:
    """The scoreboard, and the address of the control channel beside it."""
    endpoint = "" if environment.guest else address_for(options.control)
    predecessor = environment.predecessor.pid if environment.predecessor else 0
    return stack.enter_context(around.scoreboard(options, processes, names, predecessor, endpoint)), endpoint


def _prompt() -> "Prompt":
    from ..supervise.prompt import Prompt

    return Prompt()


def _redirect_output(options: Options, processes: int) -> None:
    """Let a server in the background print into its log file."""
    if options.daemon and options.log_file is not None:
        if processes:
            from ..supervise.starting import start_helper

            start_helper()  # first, or it would keep the log file open for as long as the server runs
        daemon.print_to(options.log_file)


def _made_by_user(options: Options, identity: Identity | None) -> list[str]:
    """The files that root must not make, because the serving user could redirect them with a link."""
    paths = [path for path in (options.pid_file, options.control) if path is not None]
    return [path for path in paths if identity is not None and identity.may_redirect(path)]


def _limits(options: Options) -> Usage:
    limits = Usage(options.max_worker_memory, options.max_worker_descriptors)
    if limits != NO_LIMITS and usage(os.getpid()) == NO_LIMITS:
        raise UsageError(
            "--max-worker-memory, --max-worker-descriptors: this system does not tell what a process takes"
        )
    return limits


def _announce(options: Options, listeners: Listeners, names: list[str], processes: int) -> None:
    for name in names:
        logger.info("listening on %s", name)
    if options.redirect_http is not None:
        logger.info("redirecting %s to https", describe(listeners.sockets[-1]))
    warn_of_strangers(options, listeners.sockets)
    for sock in listeners.health:
        logger.info("health checks on %s", describe(sock))
    for text in remarks(options, is_single=not processes):
        logger.warning("%s", text)


def _tell(options: Options, processes: int, loops: int) -> None:
    """Log which application is about to be served, by how many workers, and how to end the server."""
    interface = peek.likely_interface(options)
    number = runners(options, interface, loops)
    kind = "greenlet" if peek.may_use_gevent(options) else "thread"
    kind = "task" if interface == "asgi" else kind
    many = f"{number:,} {kind}{'' if number == 1 else 's'}" if interface else ""  # "worker ready" will tell
    many += f" in {loops} loops" if many and loops > 1 else ""
    workers = f"{processes} worker{'' if processes == 1 else 's'}" if processes else "one process"
    if many:
        workers = f"{workers} of {many}" if processes else f"{many}, {workers}"
    python = ".".join(map(str, sys.version_info[:3])) + ("" if has_gil() else " without GIL")
    how = "zibai stop or Ctrl-Break" if sys.platform == "win32" else "zibai stop or SIGTERM"
    if sys.stderr is not None and sys.stderr.isatty() and not options.daemon:
        how = "Ctrl-C"
    logger.info("starting %s: %s; Python %s; %s ends it", options.app, workers, python, how)
    if loops > 1 and has_gil():
        logger.warning(
            "--loops %d: this Python has a GIL, so the loops take turns; for several processors, write --processes %d",
            loops,
            loops * max(1, processes),
        )
    elif loops == 1 and not options.loops:
        logger.info("--loops 0: one server loop in each process, %s", _why_one(options))
    if peek.leaves_gevent_out(options):
        logger.info(
            "gevent is installed and not used, since it would turn the GIL on; requests run in threads. For greenlets "
            "set PYTHON_GIL=1 in the environment"
        )
    elif peek.lacks_gevent(options):
        logger.info(
            "gevent is not installed, so requests run in threads; pip install 'zibai-server[gevent]' for greenlets"
        )


def _why_one(options: Options) -> str:
    if has_gil():
        return "since this Python has a GIL"
    if peek.looks_like_asgi(options):
        return "since the application looks like ASGI"
    if available_cpus() // max(1, options.processes) > 1:
        return "since --max-workers or --max-connections is 1"
    return "since there is no processor for another"


@contextmanager
def _certified(options: Options, sockets: list[socket], owner: tuple[int, int] | None) -> Iterator[Options]:
    """The options, with a certificate that is known to work. Raises UsageError before any worker is started."""
    with ExitStack() as stack:
        if options.tls_dev:
            options = stack.enter_context(certified(options, owner))
        around.check_tls(options, sockets)
        yield options
