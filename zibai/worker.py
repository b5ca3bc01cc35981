"""A worker's life: gevent, the application, the hooks, ``serve``, and how it is told to end.

It is the same whether the worker is a child of the parent process or, without ``--subprocess``, the only process
there is.

Two ways to end arrive, as signals or through the pipe: graceful sets the event that ``serve`` waits for, quick raises
KeyboardInterrupt where ``serve`` waits. A thread of its own (:class:`Control`) listens for both, since neither a
handler of a signal may touch an event (the main thread may be inside its lock) nor the hub of gevent wait for a pipe
on Windows. When it has passed on a quick exit and the process is still there after ``LAST_WORD``, because the
application holds the GIL or the hub, it ends the process itself.
"""

import logging
import os
import signal
import sys
import threading
from _thread import interrupt_main, start_new_thread
from collections.abc import Callable
from multiprocessing.connection import wait
from socket import socket
from types import ModuleType
from typing import Any

from . import importer
from . import logger as logs
from .core import serve
from .errors import LoadError, MissingExtra, ZibaiError
from .logger import logger
from .options import Options, script_name
from .process import Parent, Signals
from .sockets import raise_descriptor_limit

GRACEFUL = ("SIGTERM", "SIGQUIT", "SIGBREAK")
QUICK = ("SIGINT",)
# They are the parent's; a terminal or an operator may send them to the whole group.
IGNORED = ("SIGHUP", "SIGTTIN", "SIGTTOU")

LAST_WORD = 3.0
"""Seconds that a quick exit may take before the process is ended from within."""


def run_child(parent: Parent, options: Options, sockets: list[socket]) -> None:
    """The main function of a worker process; ends it with the exit code."""
    try:
        logs.configure(options.no_access_log, options.logging_config_filepath)
        run(options, sockets, parent)
    except LoadError as error:
        parent.failed(error)
        sys.exit(error.exit_code)
    except ZibaiError as error:
        parent.failed(LoadError(str(error)))
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        pass  # asked to end before it served
    finally:
        logging.shutdown()


def run(options: Options, sockets: list[socket], parent: Parent | None = None) -> None:
    """Load the application and serve it until told to end. The main thread's. Raises :class:`LoadError` and others."""
    raise_descriptor_limit()
    greenlets = None if options.no_gevent else _patch()
    end = threading.Event()
    names = GRACEFUL + QUICK if parent is None else GRACEFUL + QUICK + IGNORED
    with Signals(names, interrupting=greenlets is None) as signals, Control(signals, parent, end, greenlets):
        importer.add_cwd_to_path()
        app = importer.load_app(options.app, options.call)
        before_serve, before_graceful_exit, before_died = (
            importer.import_from_string(spec) if spec else None
            for spec in (options.before_serve, options.before_graceful_exit, options.before_died)
        )

        def begin() -> None:
            if before_serve is not None:
                # A worker whose hook fails must not serve: what the hook prepares is not there.
                importer.guarded("the hook before_serve", before_serve)
            if parent is not None:
                parent.ready()
            logger.info("worker ready: %s", "greenlets" if greenlets else "threads")

        serve(
            app=app,
            bind_sockets=sockets,
            backlog=options.backlog,
            max_workers=options.max_workers,
            graceful_exit=end,
            graceful_exit_timeout=options.graceful_exit_timeout,
            backend="greenlets" if greenlets else "threads",
            url_scheme=options.url_scheme,
            url_prefix=script_name(options),
            header_timeout=options.header_timeout,
            keep_alive_timeout=options.keep_alive_timeout,
            socket_timeout=options.socket_timeout,
            h11_max_incomplete_event_size=options.h11_max_incomplete_event_size,
            max_body_size=options.max_body_size,
            stream_request_body=options.stream_request_body,
            max_request_pre_process=options.max_request_pre_process,
            max_request_hook=None if parent is None else parent.worn,
            multiprocess=parent is not None,
            before_serve_hook=begin,
            before_graceful_exit_hook=before_graceful_exit,
            before_died_hook=before_died,
        )


def _patch() -> ModuleType | None:
    """Let gevent patch, if it is installed; nothing of the application is imported yet."""
    try:
        from .backends import greenlets
    except MissingExtra:
        logger.info(
            "gevent is not installed, so requests run in threads; pip install 'zibai-server[gevent]' for greenlets"
        )
        return None
    greenlets.patch()
    return greenlets


class Control:
    """Listens for the ways to end, in a thread of the system; a context manager around ``serve``.

    ``_over`` is set by the main thread alone, when there is nothing left to be ended; the thread only reads it.
    """

    def __init__(
        self, signals: Signals, parent: Parent | None, end: threading.Event, greenlets: ModuleType | None
    ) -> None:
        self._signals = signals
        self._parent = parent
        self._over = False
        self._start: Callable[[Callable[[], None]], object]
        if greenlets is None:
            self._graceful, self._quick = end.set, _interrupting(end)
            self._start = lambda function: start_new_thread(function, ())
        else:
            self._graceful, self._quick = greenlets.calling_from_threads(end.set), greenlets.interrupting()
            self._start = greenlets.start_thread
        # A signal has raised KeyboardInterrupt in the main thread by itself; gevent's has to be told.
        self._quick_by_signal = self._quick if greenlets is not None or sys.platform == "win32" else _do_nothing

    def __enter__(self) -> None:
        self._start(self._listen)

    def __exit__(self, *_: object) -> None:
        self._over = True

    def _listen(self) -> None:
        sources: list[Any] = [self._signals.socket]
        if self._parent is not None:
            sources.append(self._parent.pipe)
        while True:
            try:
                ready = wait(sources)
                names = self._signals.read()
            except (OSError, ValueError):
                return  # closed under us: it is over
            if self._over:
                return
            verb = self._parent.receive() if self._parent is not None and self._parent.pipe in ready else ""
            if verb == "gone":
                sources.remove(self._parent.pipe)  # type: ignore[union-attr]
            if verb == "quit" or any(name in QUICK for name in names):
                (self._quick if verb == "quit" else self._quick_by_signal)()
                self._insist()
            elif verb in ("drain", "gone") or any(name in GRACEFUL for name in names):
                self._graceful()

    def _insist(self) -> None:
        """A quick exit has begun. If it does not come to its end, or somebody asks again, end the process from here."""
        try:
            wait([self._signals.socket], LAST_WORD)
        except (OSError, ValueError):
            return  # closed under us: it is over
        if not self._over:
            os._exit(0)


def _interrupting(end: threading.Event) -> Callable[[], None]:
    """What raises KeyboardInterrupt in the calling, the main, thread, from another one."""
    if sys.platform == "win32":

        def interrupt() -> None:
            interrupt_main()
            end.set()  # nothing interrupts a thread that waits for a lock there, so the lock is opened, too

        return interrupt
    main = threading.get_ident()
    return lambda: signal.pthread_kill(main, signal.SIGINT)


def _do_nothing() -> None:
    pass
