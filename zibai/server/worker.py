"""A worker's life: gevent, the application, the hooks, ``serve``, and how it is told to end.

It is the same whether the worker is a child of the parent process or, without ``--subprocess``, the only process
there is.

Two ways to end arrive, as signals or through the pipe: graceful sets the event that ``serve`` waits for, quick raises
KeyboardInterrupt where ``serve`` waits. While the application is imported nothing is in flight, so both ways are quick.
A thread of its own (:class:`Control`) listens for both, since neither a handler of a signal may touch an event (the
main thread may be inside its lock) nor the hub of gevent wait for a pipe on Windows. It also sets the last moment
(:mod:`zibai.system.lastword`): nothing that hangs, before or after the end of the server, keeps the process for more
than ``LAST_WORD`` seconds beyond the time limit. So this thread writes no log line, since nobody may read the log.

With ``--drain`` a signal for a graceful exit first makes a lame duck of the process: it serves on, and says close in
each answer. :class:`Control` counts the time. But what a parent says goes over that: from its ``lame`` to its ``drain``
the signals mean nothing, since who sends them to the whole group, as systemd does, has told the parent, too.
"""

import logging
import os
import sys
import threading
from _thread import allocate_lock, get_ident
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import replace
from math import inf
from multiprocessing.connection import wait
from random import randrange
from socket import socket
from types import FrameType, ModuleType
from typing import Any, NamedTuple

from .. import importer
from ..clock import clock
from ..config.options import Options
from ..engine.loop import Loop
from ..errors import LoadError, MissingExtra, ZibaiError
from ..gateway.wsgi import Application
from ..logger import logger
from ..supervise.pipe import Parent, wait_in_step
from ..system import lastword, terminal, title
from ..system.forks import forget_in_children
from ..system.lastword import LAST_WORD
from ..system.machine import raise_descriptor_limit
from ..system.signals import Signals, interrupting
from ..system.stacks import format_stack
from ..telemetry import logfile
from ..telemetry import setup as logs
from ..telemetry.scoreboard import Scoreboard
from .serve import Hooks, Server, Ties

GRACEFUL = ("SIGTERM", "SIGQUIT", "SIGBREAK")
QUICK = ("SIGINT",)
UPGRADE = ("SIGUSR2",)
# They are the parent's; a terminal or an operator may send them to the whole group.
IGNORED = ("SIGHUP", "SIGTTIN", "SIGTTOU", "SIGUSR2")
REOPEN = "SIGUSR1"


class Site(NamedTuple):
    """What is the user's."""

    app: Application
    hooks: Hooks = Hooks()


class Preloaded(NamedTuple):
    """What a worker finds done that was forked: the application, and gevent's patching, if there is any.

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
    if options.interactive:
        terminal.leave()
    if stdin is not None:
        stdin.restore()
    if parent.outlet is not None:
        parent.outlet.redirect()
    try:
        if preloaded is None:
            with nullcontext() if parent.outlet is None else parent.outlet.uncaptured():
                logs.configure_as(options)
        row = board.row(number) if board is not None and number is not None else None
        run(options, sockets, parent, Ties(row=row), exits=True, app=app, preloaded=preloaded)
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

    ``exits``: see :class:`zibai.system.signals.Signals`. ``app`` is one that needs no loading, since it was made at a
    prompt. As a ``guest`` the server is in a process that goes on without it.
    """

    def show_title(*state: str) -> None:
        if not guest:
            title.show("single" if parent is None else "worker", options.app, *state)

    show_title("starting")
    forget_in_children(*sockets)  # the application may fork as soon as it is imported
    hub = prepare(options) if preloaded is None else preloaded.hub
    end = threading.Event()
    names = (*GRACEFUL, *QUICK, REOPEN, *(UPGRADE if parent is None else IGNORED))
    ties = ties or Ties()
    ties.directory = directory() if preloaded is None else preloaded.directory
    tell = ties.on_start
    ends = exits and not guest
    control = Control(
        parent,
        end,
        hub,
        options.boot_timeout,
        options.drain,
        may_end=not guest,
        graceful_timeout=options.graceful_exit_timeout,
        arm=lastword.arm if ends else _do_nothing,
    )
    # A worker hears the same wish from the terminal and from its parent, so a second signal says nothing there.
    late = lastword.hurry if ends and parent is None else None
    with Signals(names, interrupting=hub is None, exits=exits, late=late) as signals, control.listening(signals):
        if parent is not None and not options.interactive:
            parent.hear_ctrl_c()
        site = _begin(options, load(options, app) if preloaded is None else preloaded.site)
        signals.reassert()

        def started(loop: Loop) -> None:
            control.attach(loop)
            show_title()
            if parent is not None:
                parent.ready()
            logger.info("worker ready: %s", "greenlets" if hub else "threads")
            tell(loop)

        def draining() -> None:
            show_title("draining")
            if site.hooks.before_graceful_exit is not None:
                site.hooks.before_graceful_exit()

        ties.before_start, ties.on_start = control.prepare, started
        if parent is not None:
            # Often enough that one beat may be late.
            ties.beat_every = options.worker_timeout / 3 or inf
            ties.multiprocess, ties.on_worn, ties.on_stuck = True, parent.worn, parent.stuck
        hooks = site.hooks._replace(before_serve=None, before_graceful_exit=draining)
        backend = "greenlets" if hub else "threads"
        limit = _with_jitter(options.max_request_pre_process)
        options = replace(options, max_request_pre_process=limit)
        Server(site.app, sockets, options, end=end, backend=backend, hooks=hooks, ties=ties).run()


def prepare(options: Options) -> ModuleType | None:
    """What comes before the application, once in a process; returns the backend for greenlets, if it is to be used."""
    raise_descriptor_limit()
    return None if options.no_gevent else _patch()


def directory() -> str:
    """The current one; empty when somebody has removed it."""
    try:
        return os.getcwd()
    except OSError:
        return ""


def load(options: Options, app: Application | None = None) -> Site:
    """Import everything of the user's, but for an ``app`` that is there."""
    try:
        if app is None:
            importer.add_cwd_to_path()
            app = importer.load_app(options.app, options.call)
        hooks = (
            importer.import_from_string(spec) if spec else None
            for spec in (options.before_serve, options.before_graceful_exit, options.before_died)
        )
        return Site(app, Hooks(*hooks))
    except LoadError as error:
        return _instead(options, error)


def _begin(options: Options, site: Site) -> Site:
    """Call the hook that comes before serving."""
    try:
        if site.hooks.before_serve is not None:
            importer.guarded("the hook before_serve", site.hooks.before_serve)
        return site
    except LoadError as error:
        return _instead(options, error)


def _instead(options: Options, error: LoadError) -> Site:
    """A worker whose code fails must not serve. But with ``--watchfiles`` somebody is at work on it: then the
    failure is what is served, until the next change.
    """
    if options.watchfiles is None:
        raise error
    logger.error("%s\n%s", error, error.trace)
    return Site(_failure_page(error))


def _failure_page(error: LoadError) -> Application:
    """An application that shows why the real one cannot be loaded; for developers only."""
    text = f"{error}\n\n{error.trace}".encode("utf-8", "backslashreplace")

    def app(environ: dict[str, Any], start_response: Callable[..., object]) -> list[bytes]:
        start_response("500 Internal Server Error", [("Content-Type", "text/plain; charset=utf-8")])
        return [text]

    return app


def _with_jitter(requests: int | None) -> int | None:
    """Up to a tenth more, so that workers that started together are not worn together."""
    return requests and requests + randrange(requests // 10 + 1)  # noqa: S311 -- no secret


def _patch() -> ModuleType | None:
    """Let gevent patch, if it is installed; nothing of the application is imported yet."""
    try:
        from ..engine.backends import greenlets
    except MissingExtra as error:
        if error.is_broken:
            logger.warning("%s; requests run in threads", error)
            return None
        logger.info(
            "gevent is not installed, so requests run in threads; pip install 'zibai-server[gevent]' for greenlets"
        )
        return None
    greenlets.patch()
    from ..supervise import hub

    return hub


class Control:
    """Listens for the ways to end, in a thread of the system, while ``listening``.

    Channels to adopt connections from may come before there is a loop; they lie in ``_channels`` then, and whoever
    comes second, the thread with a channel or the main thread with the loop, passes them on. So it is with
    ``_is_lame``. ``_over`` is set by the main thread alone, when there is nothing left to be ended. The process of
    somebody's prompt ``may_end`` never. ``arm`` sets the last moment of the process, in seconds.
    """

    def __init__(
        self,
        parent: Parent | None,
        end: threading.Event,
        hub: ModuleType | None,
        boot_timeout: float,
        lame_time: float = 0.0,
        may_end: bool = True,
        graceful_timeout: float = 0.0,
        arm: Callable[[float], object] = lambda seconds: None,
    ) -> None:
        self._parent = parent
        self._graceful_timeout = graceful_timeout
        self._arm = arm
        self._boot_timeout = boot_timeout
        self._may_end = may_end
        self._lame_time = lame_time
        self._is_lame = False
        self._lame_until = inf  # when the graceful exit begins, if that is for us to say
        self._is_booting = parent is not None
        self._serves = False  # whether clients have been let in
        # Of the system: gevent has numbers of its own.
        self._main = get_ident()
        self._greenlet = None if hub is None else hub.current()
        self._over = False
        self._listens = allocate_lock()  # held by the thread
        self._loop: Loop | None = None
        self._heir: Any = None
        self._cedes = False
        self._channels: deque[Any] = deque()
        self._start: Callable[[Callable[[], None]], threading.Thread | None]
        if hub is None:
            self._graceful, self._quick = end.set, _interrupting(end)
            # Both take the locks of handlers, and a handler may wait for ever in a write to a full pipe.
            self._refuse_upgrade: Callable[[], object] = _aside(_refuse_upgrade)
            self._reopen: Callable[[], object] = _aside(logfile.reopen)
            self._start = _in_thread
            self._wait: Callable[..., list[Any]] = wait
        else:
            self._graceful, self._quick = (
                hub.calling_from_threads(end.set),
                hub.interrupting(lambda: self._over),
            )
            # The locks of handlers are gevent's: a thread of the system must not wait for them.
            self._refuse_upgrade = hub.spawning_from_threads(_refuse_upgrade)
            self._reopen = hub.spawning_from_threads(logfile.reopen)
            self._start, self._wait = hub.start_thread, hub.wait_as_thread
        # A signal has raised KeyboardInterrupt in the main thread by itself; gevent's has to be told.
        self._quick_by_signal = self._quick if hub is not None or sys.platform == "win32" else _do_nothing

    def prepare(self, loop: Loop) -> None:
        """The loop takes its first client soon. The main thread's."""
        self._serves = True
        if self._is_lame:
            loop.service.draining = True

    def attach(self, loop: Loop) -> None:
        """The loop turns. The main thread's."""
        self._is_booting = False
        self._loop = loop
        self.prepare(loop)  # again, for what has come in between
        self._bequeath(loop)
        self._adopt()

    def _bequeath(self, loop: Loop) -> None:
        """Tell the loop, before it drains, who comes after it."""
        if self._heir is not None:
            loop.hand_over_to(self._heir)
        if self._cedes:
            loop.cedes = lambda: True

    def _adopt(self) -> None:
        while self._loop is not None and self._channels:
            with suppress(IndexError):  # the other thread has just taken it
                self._loop.adopt_from(self._channels.popleft())

    @contextmanager
    def listening(self, signals: Signals) -> Iterator[None]:
        """Around everything that can be ended."""
        self._signals = signals
        self._listens.acquire()
        thread = self._start(self._run)
        try:
            yield
        except BaseException:
            self._arm(LAST_WORD)
            raise
        finally:
            # Does nothing after a signal, which has set an earlier moment.
            self._arm(self._graceful_timeout + LAST_WORD)
            self._over = True
            signals.wake()
            if thread is not None:
                thread.join(LAST_WORD)  # who goes on afterwards wants nothing left behind

    def join(self) -> None:
        """Wait for the end of the thread, once nothing is ``listening`` any more."""
        with self._listens:
            pass

    def _run(self) -> None:
        try:
            self._listen()
        finally:
            self._listens.release()

    def _listen(self) -> None:
        sources: list[Any] = [self._signals.socket]
        if self._parent is not None:
            sources.append(self._parent.pipe)
        while not self._over:
            try:
                ready, stopped = wait_in_step(self._wait, sources, self._patience())
                names = self._signals.read()
            except (OSError, ValueError):
                return  # closed under us: it is over
            if self._over:
                return
            if stopped and self._parent is not None:
                self._parent.since += stopped
            if not ready and self._is_booting and self._patience() == 0:
                self._give_up()
            verb, channel = "", None
            if self._parent is not None and self._parent.pipe in ready:
                verb, channel = self._parent.receive()
                if verb == "gone":
                    sources.remove(self._parent.pipe)
                    if self._parent.outlet is not None:
                        self._parent.outlet.restore()
            if verb == "adopt":
                self._channels.append(channel)
                self._adopt()
                channel = None  # connections come through it and must not go back
            if self._parent is None and any(name in UPGRADE for name in names):
                self._refuse_upgrade()
            if verb == "reopen" or REOPEN in names:
                self._reopen()
            if verb == "lame":
                self._make_lame(until=inf)
            # A signal may have come in the same moment as a verb.
            is_interrupted = any(name in QUICK for name in names)
            if verb == "quit" or is_interrupted or self._ends_early(verb, names):
                self._arm(LAST_WORD)
                (self._quick_by_signal if is_interrupted and verb != "quit" else self._quick)()
                self._insist()
            elif verb in {"drain", "cede", "gone"} or self._shall_drain(sum(name in GRACEFUL for name in names)):
                self._arm(self._graceful_timeout + LAST_WORD)
                self._heir = channel
                self._cedes = verb == "cede"
                if self._loop is not None:
                    self._bequeath(self._loop)
                self._graceful()

    def _ends_early(self, verb: str, names: Sequence[str]) -> bool:
        """Whether the end has been asked for before anything was served: then there is nothing to finish.

        After its parent has said ``lame``, a worker leaves signals to the parent.
        """
        if self._serves:
            return False
        return verb in {"drain", "cede", "gone"} or (not self._is_lame and any(name in GRACEFUL for name in names))

    def _shall_drain(self, wishes: int) -> bool:
        """Whether the graceful exit begins now, with so many signals for it, or because the time before it is over."""
        if self._loop is None:
            return wishes > 0 and not self._is_lame
        if not self._lame_time:
            return wishes > 0
        if wishes and not self._is_lame:
            self._make_lame(until=clock() + self._lame_time)
            wishes -= 1
        if self._lame_until == inf or not (wishes or clock() >= self._lame_until):
            return False
        self._lame_until = inf
        return True

    def _make_lame(self, until: float) -> None:
        self._is_lame = True
        self._lame_until = until
        if self._loop is not None:
            self._loop.service.draining = True

    def _frame(self) -> FrameType | None:
        """Where the main thread, or its greenlet, is."""
        return getattr(self._greenlet, "gr_frame", None) or sys._current_frames().get(self._main)

    def _patience(self) -> float | None:
        """Seconds that are left to the application to come up, or to the lame duck; None when nobody counts."""
        if self._lame_until < inf:
            return max(0.0, self._lame_until - clock())
        if self._parent is None or not self._is_booting:
            return None
        return max(0.0, self._parent.since + self._boot_timeout - clock())

    def _give_up(self) -> None:
        """The application does not come up. Say where it stands; the parent decides what becomes of the server."""
        assert self._parent is not None
        trace = format_stack(self._frame())
        self._parent.failed(LoadError(f"not ready in {self._boot_timeout:g} s; the main thread is here:", trace))
        os._exit(LoadError.exit_code)

    def _insist(self) -> None:
        """A quick exit has begun. If it does not come to its end, end the process from here.

        A single process that is asked once more ends at once. In a worker signals say nothing: one is the echo of what
        interrupts the main thread, and Ctrl-C reaches it from the terminal and through its parent.
        """
        until = clock() + LAST_WORD
        try:
            while not self._over and (rest := until - clock()) > 0:
                self._wait([self._signals.socket], rest)
                again = any(name in QUICK or name in GRACEFUL for name in self._signals.read())
                if again and self._parent is None:
                    break
        except (OSError, ValueError):
            return  # closed under us: it is over
        if not self._over and self._may_end:
            os._exit(0)


def _in_thread(function: Callable[[], None]) -> threading.Thread:
    thread = threading.Thread(target=function, name="zibai-control", daemon=True)
    thread.start()
    return thread


def _interrupting(end: threading.Event) -> Callable[[], None]:
    """What raises KeyboardInterrupt in the calling, the main, thread, from another one."""
    interrupt = interrupting()
    if sys.platform == "win32":

        def interrupt_and_open() -> None:
            interrupt()
            end.set()  # nothing interrupts a thread that waits for a lock there, so the lock is opened, too

        return interrupt_and_open
    return interrupt


def _aside(function: Callable[[], None]) -> Callable[[], None]:
    """What calls ``function`` in a thread of its own, so that its caller never waits."""
    return lambda: lastword.start_thread(function)


def _do_nothing(*_: object) -> None:
    pass


def _refuse_upgrade() -> None:
    logger.error("SIGUSR2 starts no new master: there is none in a single process; start it with --processes 1")
