"""The parent of worker processes."""

import os
from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack, nullcontext
from functools import partial
from math import inf

from ..config.options import Options
from ..supervise import mainloop
from ..supervise.output import Collector
from ..supervise.preload import Preload
from ..supervise.prompt import Prompt, forking
from ..supervise.pulse import Pulse
from ..supervise.roster import PATIENCE, SETTLED
from ..system import home, lastword, terminal, title
from ..system.signals import Signals
from ..system.usage import Usage
from . import loader, worker
from .probes import Probes
from .reloader import Reloader
from .surroundings import _Ground
from .systemd import Reporter
from .upgrade import Upgrade


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
