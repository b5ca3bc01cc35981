"""The life of a worker: gevent, the application, the hooks, the server, the end.

It is the same whether the worker is a child of the parent process or, with ``--processes 0``, the only process.
:mod:`zibai.server.control` listens for the two ways to stop, graceful and quick.
"""

import gc
import logging
import signal
import sys
import threading
from collections.abc import Callable
from dataclasses import replace
from functools import cache, partial
from math import inf
from random import randrange
from socket import socket
from types import ModuleType
from typing import NamedTuple

from ..config.effects import remarks_on
from ..config.options import Options
from ..errors import LoadError, MissingExtra, ZibaiError
from ..gateway.interface import Application, Interface
from ..logger import logger
from ..supervise.control import FOR_PARENT, GRACEFUL_SIGNALS, QUICK_SIGNALS, REOPEN, UPGRADE
from ..supervise.pipe import Parent
from ..system import home, lastword, terminal, title
from ..system.forks import close_in_children
from ..system.machine import raise_descriptor_limit
from ..system.patching import has_gil
from ..system.signals import Signals
from ..telemetry import jsonlines
from ..telemetry import setup as logs
from ..telemetry.row import Row
from ..telemetry.scoreboard import Scoreboard
from . import application, dump, peek, sampling
from .application import Site
from .control import HANGUP, Control
from .loops import Loops
from .serve import Server
from .ties import Hooks, Ties
from .watching import BEGAN, imported


class Preloaded(NamedTuple):
    """What the loader has done for a forked worker: ``hub`` is that of gevent, if gevent is used.

    ``directory`` was the current one before the application was loaded.
    """

    site: Site
    hub: ModuleType | None
    directory: str = ""


def run_child(
    parent: Parent,
    options: Options,
    sockets: list[socket],
    board: Scoreboard | None,
    number: int | None,
    *,
    app: Application | None = None,
    preloaded: Preloaded | None = None,
    stdin: terminal.Stdin | None = None,
) -> None:
    """The main function of a worker process; ends it with the exit code."""
    parent.set_up_process(detached=options.interactive, stdin=stdin)
    dump.prepare()
    jsonlines.worker = number
    try:
        if preloaded is None:
            with parent.uncaptured():
                logs.configure_as(options)
        if board is not None and number is not None:
            ties = Ties(rows=board.worker(number).each, siblings=cache(partial(board.others, number)))
        else:
            ties = Ties(siblings=cache(without_a_row))
        run(options, sockets, parent, ties, exits=True, app=app, preloaded=preloaded)
    except ZibaiError as error:
        lastword.exit_code = error.exit_code
        parent.failed(error if isinstance(error, LoadError) else LoadError(str(error)))
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        pass  # asked to end before it served
    except Exception:
        lastword.exit_code = 1
        raise
    finally:
        logging.shutdown()


def without_a_row() -> list[tuple[bool, Row]]:
    """The siblings of a worker without a row in the scoreboard: there may be some, and nothing is known about them."""
    row = Row.private(0)
    row.assign("ready", 0, 0, 0.0)
    return [(True, row)]


def run(
    options: Options,
    sockets: list[socket],
    parent: Parent | None = None,
    ties: Ties | None = None,
    *,
    exits: bool = False,
    app: Application | None = None,
    preloaded: Preloaded | None = None,
    guest: bool = False,
) -> None:
    """Load the application and serve it until told to end; the main thread's. Raises :class:`LoadError` and others.

    ``exits``: see :class:`zibai.system.signals.Signals`. ``app`` is an application that was made at a prompt and needs
    no loading. As a ``guest`` the server is in a process that goes on without it, and ``exits`` is False.
    """

    def show_title(*state: str) -> None:
        if not guest:
            title.show("single" if parent is None else "worker", options.app, *state)

    show_title("starting")
    close_in_children(*sockets)  # the application may fork as soon as it is imported
    hub = prepare(options) if preloaded is None else preloaded.hub
    end = threading.Event()
    ties = replace(ties or Ties(), directory=home.real() if preloaded is None else preloaded.directory)
    control = _make_control(parent, end, hub, options, may_exit=not guest, ends=exits)
    names = (*GRACEFUL_SIGNALS, *QUICK_SIGNALS, REOPEN, *(_of_single_process(guest) if parent is None else FOR_PARENT))
    # A worker gets the signals of the terminal a second time from its parent, so a second signal means nothing there.
    late = lastword.hurry if exits and parent is None else None
    with Signals(names, interrupting=hub is None, exits=exits, late=late) as signals, control.listening(signals):
        if parent is not None and not options.interactive:
            parent.hear_ctrl_c()
        site = _load(options, app, preloaded, control)
        signals.reassert()

        def serve() -> None:
            interface = _interface(site, options)
            backend = backend_of(options, interface, hub)
            tied = _tie(ties, control, parent, options, partial(_announce, site, parent, show_title, backend, exits))
            settings = replace(options, interface=interface, max_request_pre_process=_with_jitter(options.max_requests))
            hooks = _hooks(site, show_title, is_single=parent is None)
            Server(site.app, sockets, settings, end=end, backend=backend, hooks=hooks, ties=tied).run()

        try:
            serve()
            return
        except LoadError as error:  # the lifespan refuses to start, or gevent has patched this process
            site = application.fail(options, error, interrupted=control.was_interrupted())
        serve()


def _load(options: Options, app: Application | None, preloaded: Preloaded | None, control: Control) -> Site:
    try:
        return application.run_hook(application.load(options, app) if preloaded is None else preloaded.site)
    except LoadError as error:
        return application.fail(options, error, interrupted=control.was_interrupted())


def _interface(site: Site, options: Options) -> Interface:
    """The interface of the application. Options that have no effect on that are logged."""
    interface = site.interface(options.interface)
    if interface == "asgi":
        logs.take_strays()
    if site.failure is None:
        for text in remarks_on(options, interface):
            logger.warning("%s", text)
    return interface


def _of_single_process(guest: bool) -> tuple[str, ...]:
    """The signals that a single process handles only to log why it does not obey them.

    ``nohup`` ignores SIGHUP, and that stays. At a prompt it belongs to the prompt.
    """
    hears = not guest and sys.platform != "win32" and signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN
    return (UPGRADE, HANGUP) if hears else (UPGRADE,)


def _make_control(
    parent: Parent | None, end: threading.Event, hub: ModuleType | None, options: Options, *, may_exit: bool, ends: bool
) -> Control:
    return Control(
        parent,
        end,
        hub,
        boot_timeout=options.boot_timeout,
        graceful_timeout=options.graceful_exit_timeout,
        drain_delay=options.drain,
        may_exit=may_exit,
        arm=lastword.arm if ends else lambda seconds: None,
    )


def _tie(ties: Ties, control: Control, parent: Parent | None, options: Options, announce: Callable[[], object]) -> Ties:
    """Tie a server to the control thread and to the parent. ``announce`` is called when it serves."""

    def started(loops: Loops) -> None:
        control.attach(loops)
        if parent is not None and options.reload:
            parent.imports(imported(), BEGAN)
        announce()
        ties.on_start(loops)

    tied = replace(ties, before_start=control.prepare, on_start=started, on_look=control.note_look)
    control.engine = lambda: tied.engine
    sampling.waiting = lambda: [] if tied.engine is None else tied.engine.waiting()
    if parent is not None:
        tied.beat_every = options.worker_timeout / 3 or inf  # often enough that one heartbeat may be late
        tied.multiprocess = True
        tied.on_max_requests, tied.on_hung = parent.reached_max_requests, parent.hung
    return tied


def _freeze() -> None:
    """Keep the garbage collector from what exists at the start, which mostly stays.

    A full collection goes through all of it, and takes 5 ms for an application without a framework. With a thousand
    requests at once, collections took a tenth of the time.
    """
    gc.collect()
    gc.freeze()


def _announce(site: Site, parent: Parent | None, show_title: Callable[[], object], backend: str, exits: bool) -> None:
    """Tell the parent that the worker serves, even if it serves only a page with an error."""
    if exits:  # the process is the server's own
        _freeze()
    show_title()
    if parent is not None and site.failure is not None:
        parent.shows(site.failure)
    if parent is not None:
        parent.ready()
    logger.info("worker ready: %s", backend)


def backend_of(options: Options, interface: Interface, hub: ModuleType | None) -> str:
    """The name of the backend. Raises :class:`LoadError`."""
    if interface == "wsgi":
        return "greenlets" if hub else "threads"
    if hub is not None:
        raise LoadError(
            f"{options.app!r} is an ASGI application, and gevent, which is installed, has patched this process; write "
            "--interface asgi, and it does not"
        )
    return "tasks"


def _hooks(site: Site, show_title: Callable[[str], None], *, is_single: bool) -> Hooks:
    """The hooks that are called later. Without a parent (``is_single``) the process itself logs its end."""

    def draining() -> None:
        show_title("draining")
        if is_single:
            logger.info("graceful shutdown begun")
        if site.hooks.before_graceful_exit is not None:
            site.hooks.before_graceful_exit()

    return site.hooks._replace(before_serve=None, before_graceful_exit=draining)


def prepare(options: Options) -> ModuleType | None:
    """Prepare the process for the application; called once. Returns gevent's hub module, if gevent is to be used."""
    raise_descriptor_limit()
    return None if options.no_gevent or not has_gil() or peek.is_asgi(options) else _patch()


def _with_jitter(requests: int | None) -> int | None:
    """``requests``, plus up to a tenth, so that workers that started together do not reach it together."""
    return requests and requests + randrange(requests // 10 + 1)  # noqa: S311 -- no secret


def _patch() -> ModuleType | None:
    """Let gevent patch, if it is installed; nothing of the application is imported yet."""
    try:
        from ..engine.backends import greenlets
    except MissingExtra as error:
        if error.is_broken:  # else the start has said it
            logger.warning("%s; requests run in threads", error)
        return None
    greenlets.patch()
    from ..supervise import hub

    return hub
