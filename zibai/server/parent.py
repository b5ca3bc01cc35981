"""The parent of worker processes."""

import os
from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack, closing, nullcontext
from functools import partial
from math import inf
from typing import Any

from ..config.options import Options, watched
from ..gateway.interface import Application
from ..net.bind import is_public
from ..net.kernel import backlog_of
from ..supervise import mainloop
from ..supervise.crew import Crew
from ..supervise.output import Collector
from ..supervise.preload import Preload
from ..supervise.prompt import Prompt, forking
from ..supervise.pulse import Pulse
from ..supervise.record import KILL_AFTER, SETTLED
from ..system import home, lastword, terminal, title
from ..system.signals import Signals
from ..system.usage import Usage
from ..telemetry.board_view import describe
from ..telemetry.scoreboard import Scoreboard
from ..telemetry.statsd import Statsd
from . import environment as around
from . import targets
from .commands import Commands
from .endpoint import Endpoint
from .environment import Prepared
from .listeners import Listeners
from .systemd import Reporter
from .upgrade import Upgrade
from .watching import Watched


def hear_signals(prompt: Prompt | None, exits: bool, limit: float) -> Signals:
    """The signals of a parent, which has ``limit`` seconds to end after one of them if the process ``exits``."""
    signals = mainloop.signals(exits=exits, prompt=prompt is not None)
    if exits:
        signals.heard = lambda name: lastword.arm(limit) if name in lastword.ENDS else None
    return signals


def serve_as_parent(
    prepared: Prepared, processes: int, limits: Usage, signals: Signals, prompt: Prompt | None, exits: bool
) -> None:
    """Run the main loop, with workers and with everything that watches them, until told to end."""
    options, environment, listeners, board, on_up, endpoint = prepared
    app = environment.app
    if not environment.guest:
        title.show("parent", options.app)
    obstacle = "a prompt has the terminal" if prompt is not None or environment.guest else ""
    upgrade = Upgrade(environment.directory, environment.predecessor, listeners, environment.notifier, board, obstacle)
    pulse = Pulse()
    collector = Collector() if options.capture_output else None
    is_debugged = processes == 1 or bool(watched(options))
    stdin = terminal.Stdin.of_this_process() if is_debugged and not obstacle and not options.daemon else None
    with ExitStack() as stack:
        observers = _observers(stack, prepared, upgrade, pulse)
        preload: Preload | None = None
        if options.preload and app is None:  # an application from a prompt is forked from this process anyway
            preload = Preload(partial(targets.run_loader, stdin=stdin), (options, listeners.sockets, board), collector)
            stack.enter_context(preload)
        crew = Crew(
            partial(_target(app), app=app, stdin=None if preload else stdin),
            (options, listeners.sockets),
            board,
            method="spawn" if app is None else "fork",
            starting=_starting(prepared, prompt, collector),
            collector=collector,
            shares_listeners=lambda: listeners.are_kept or upgrade.is_shared(),
            preload=preload,
        )
        loop = mainloop.MainLoop(
            crew,
            processes,
            on_up=on_up,
            on_end=partial(_stop_listening, listeners, preload),
            observers=observers,
            pulse=pulse,
            limits=limits,
            drain_delay=lambda: 0.0 if upgrade.is_shared() else options.drain,
            **_rules(options),
        )
        if exits and not environment.guest:
            signals.heard = _overseer(options, loop, preload).heard
        loop.on_imports = Watched(stack, options, _directory(prepared), loop.restart_soon).add
        if not environment.guest:
            stack.enter_context(Endpoint(endpoint, Commands(loop, signals.heard)))
        if prompt is None:
            loop.run(signals)
        else:
            prompt.run(loop, signals, board)


def _target(app: Application | None) -> Callable[..., None]:
    """The main function of a worker. A forked worker has the imports of its parent, and must not repeat them."""
    if app is None:
        return targets.run_worker
    from .worker import run_child

    return run_child


def _observers(stack: ExitStack, prepared: Prepared, upgrade: Upgrade, pulse: Pulse) -> list[mainloop.Observer]:
    """The observers of the roster. The probes come first, so that load balancers learn a change from them first."""
    listeners, notifier, board = prepared.listeners, prepared.environment.notifier, prepared.board
    observers: list[mainloop.Observer] = []
    if listeners.health:
        # Not in the memory of a parent without --health-listen: they read requests as the workers do.
        from ..telemetry.metrics import Metrics
        from .live import Live
        from .probes import Probes

        options = prepared.options
        names = around.names(options, listeners.sockets)
        public = any(map(is_public, listeners.health))
        probes = Probes(
            listeners.health,
            pulse,
            lambda: listeners.is_health_kept or upgrade.is_shared(),
            None if board is None else partial(Metrics, partial(_look, board, names, listeners)),
            None if board is None else Live(partial(describe, board), public=public, allowed=options.health_public),
        )
        observers.append(stack.enter_context(probes))
    if prepared.options.statsd is not None and board is not None:
        look = partial(_look, board, around.names(prepared.options, listeners.sockets), listeners, measured=False)
        stack.enter_context(Statsd(prepared.options.statsd, prepared.options.statsd_prefix, look))
    observers.append(stack.enter_context(closing(upgrade)))
    if notifier is not None:
        observers.append(Reporter(notifier, board.workers() if board is not None else ()))
    return observers


def _look(
    board: Scoreboard, names: list[str], listeners: Listeners, *, measured: bool = True
) -> tuple[dict[str, Any], dict[str, int]]:
    """The data of the metrics and of statsd. The thread of the probes or of statsd calls this."""
    # The last listener may be the one of --redirect-http, which has no name.
    found = zip(names, map(backlog_of, listeners.sockets), strict=False)
    return describe(board, measured=measured), {name: waiting for name, waiting in found if waiting is not None}


def _rules(options: Options) -> dict[str, Any]:
    """The time limits of the roster."""
    return {
        "graceful_timeout": options.graceful_exit_timeout,
        "boot_timeout": options.boot_timeout,
        # A debugger's prompt blocks gevent's hub, and so the heartbeat, for as long as the developer thinks.
        "worker_timeout": inf if watched(options) else options.worker_timeout or inf,
        "settle": SETTLED,
        "eager": bool(watched(options)),
    }


def _stop_listening(listeners: Listeners, preload: Preload | None) -> None:
    listeners.stop()
    if preload is not None:
        preload.stop_listening()


def _starting(
    prepared: Prepared, prompt: Prompt | None, collector: Collector | None
) -> Callable[[], AbstractContextManager[None]]:
    """The context in which each worker is started."""
    if prepared.environment.app is not None:
        return partial(forking, prompt, collector)
    directory = _directory(prepared)
    if not (directory or home.real()) or not home.may_enter(directory):
        directory = os.sep  # the directory was removed, or --user may not enter it: no process can be spawned there
    return partial(home.entered, directory) if directory else nullcontext


def _directory(prepared: Prepared) -> str:
    """The name of the application's directory. Empty at a prompt, where the current directory is the user's."""
    directory, chdir = prepared.environment.directory, prepared.options.chdir
    return os.path.join(directory, chdir) if directory and chdir else directory


PARENT_EXTRA = 0.25
"""Seconds beyond the time limit of its workers that the parent has to end."""


def _overseer(options: Options, loop: mainloop.MainLoop, preload: Preload | None) -> lastword.Overseer:
    """It ends this parent and its workers when the main loop does not."""

    def children() -> list[int]:
        return [*loop.pids, *([] if preload is None else preload.pids)]

    def limit(name: str) -> float:
        if name == "SIGINT":
            return KILL_AFTER + PARENT_EXTRA
        return options.graceful_exit_timeout + KILL_AFTER + PARENT_EXTRA + (0.0 if loop.is_ending else options.drain)

    return lastword.Overseer(children, lambda: loop.is_ending, limit)
