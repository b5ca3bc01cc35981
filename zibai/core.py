"""``serve()``: one application on one or more listening sockets, in this process, until it is told to end.

It puts the parts together: a backend (who runs), the server loop (what waits), the gateway (what is called). It may be
called from any thread of any program: it installs no signal handler, configures no logging, patches nothing.
"""

import sys
import threading
from collections.abc import Callable, Sequence
from math import inf
from socket import socket
from typing import Literal

from .backends import Backend
from .health import Health
from .http1 import FastLane
from .logger import logger
from .loop import Loop
from .scoreboard import Row
from .service import Service
from .sockets import Listener, listen
from .wsgi import Application, Gateway

Hook = Callable[[], object]


def serve(
    *,
    app: Application,
    bind_socket: socket | None = None,
    bind_sockets: Sequence[socket] = (),
    backlog: int | None = None,
    max_workers: int = 10,
    graceful_exit: threading.Event | None = None,
    graceful_exit_timeout: float = 10.0,
    backend: Literal["threads", "greenlets"] | None = None,
    url_scheme: str = "http",
    url_prefix: str = "",
    header_timeout: float = 10.0,
    keep_alive_timeout: float = 75.0,
    socket_timeout: float = 30.0,
    http: str = "auto",
    h11_max_incomplete_event_size: int = 64 * 1024,
    max_body_size: int = 1024**3,
    stream_request_body: bool = False,
    slow_request: float | None = 30.0,
    request_timeout: float | None = None,
    max_request_pre_process: int | None = None,
    multiprocess: bool = False,
    before_serve_hook: Hook | None = None,
    before_graceful_exit_hook: Hook | None = None,
    before_died_hook: Hook | None = None,
    max_request_hook: Hook | None = None,
    stuck_hook: Hook | None = None,
    row: Row | None = None,
    beat_every: float | None = None,
    started_hook: Callable[[Loop], object] | None = None,
) -> None:
    """Serve ``app`` until ``graceful_exit`` is set and what is in flight has been answered.

    :param app: a WSGI application (PEP 3333).
    :param bind_socket: a bound socket, see :func:`~zibai.create_bind_socket`; or several as ``bind_sockets``.
        They are taken over: made to listen, and closed when the end begins.
    :param backlog: connections that may wait to be accepted; None is 2048.
    :param max_workers: threads or greenlets that run the application at the same time.
    :param graceful_exit: set it, from any thread, to end. With greenlets, make it after gevent has patched. It
        is set by the server itself after ``max_request_pre_process`` requests.
    :param graceful_exit_timeout: seconds for what is in flight then; what is left after that is cut.
    :param backend: ``"threads"`` or ``"greenlets"``; None is greenlets in a program that gevent has patched.
    :param url_scheme: ``wsgi.url_scheme``, ``"http"`` or ``"https"``.
    :param url_prefix: ``SCRIPT_NAME``, the path the application is mounted at, "" or "/prefix".
    :param header_timeout: seconds for a whole request head, from its first byte.
    :param keep_alive_timeout: seconds that a connection may be idle between requests.
    :param socket_timeout: seconds without progress in a body, of a request or an answer.
    :param http: ``"auto"`` reads plain request heads by the fast lane and the rest by h11, ``"h11"`` all by h11.
    :param h11_max_incomplete_event_size: bytes of a request head at the most.
    :param max_body_size: bytes of a request body at the most, 0 for no limit.
    :param stream_request_body: call the application at once and let it read the body as it comes.
    :param slow_request: seconds that a request may run before it is logged with its stack; None is never.
    :param request_timeout: seconds that a request may run before the server ends itself; None is never.
    :param max_request_pre_process: end after so many requests; None is never.
    :param max_request_hook: called then instead, by whoever runs the server loop; it must not block.
    :param stuck_hook: the same, for ``request_timeout``.
    :param row: where the server says what it does, with a slot more than ``max_workers``; see :mod:`zibai.scoreboard`.
    :param beat_every: seconds between two beats in ``row`` of an idle server; None is no beat without an event.
    :param multiprocess: ``wsgi.multiprocess``: whether other processes serve the same application.
    :param before_serve_hook: called before the first request; what it raises ends ``serve``.
    :param before_graceful_exit_hook: called when ``graceful_exit`` is set.
    :param before_died_hook: called at the very end. What these two raise is logged.
    :param started_hook: called with the server loop when it turns, for who supervises it.
    :raises ValueError: for arguments that make no sense.
    :raises BindError: if a socket cannot listen.
    :raises MissingExtra: if ``backend`` is ``"greenlets"`` and gevent is not installed.
    """
    sockets = [*bind_sockets] if bind_socket is None else [bind_socket, *bind_sockets]
    if not sockets:
        raise ValueError("serve() needs a bind_socket or bind_sockets")
    if max_workers < 1:
        raise ValueError("max_workers must be at least 1")
    if http not in {"auto", "h11"}:
        raise ValueError(f'http must be "auto" or "h11", not {http!r}')
    end = threading.Event() if graceful_exit is None else graceful_exit
    row = Row.private(max_workers + 1) if row is None else row
    engine = _make_backend(backend, max_workers, row)
    gateway = Gateway(
        app,
        url_scheme=url_scheme,
        script_name=url_prefix.rstrip("/"),
        multithread=max_workers > 1,
        multiprocess=multiprocess,
    )
    service = Service(
        application=gateway.serve,
        waits=engine.waits,
        report=engine.report,
        row=row,
        lane=FastLane() if http == "auto" else None,
        header_timeout=header_timeout,
        keep_alive_timeout=keep_alive_timeout,
        socket_timeout=socket_timeout,
        max_head=h11_max_incomplete_event_size,
        max_body=max_body_size,
        stream_body=stream_request_body,
    )
    try:
        for sock in sockets:
            listen(sock, 2048 if backlog is None else backlog)
        if before_serve_hook is not None:
            before_serve_hook()
    except BaseException:
        engine.stop()  # it holds descriptors
        raise
    listeners = [Listener(sock) for sock in sockets]
    health = Health(
        service,
        engine,
        slow_request=slow_request or inf,
        request_timeout=request_timeout or inf,
        beat_every=beat_every or inf,
        on_stuck=stuck_hook or end.set,
    )
    loop = Loop(service, engine, listeners, health, max_workers, max_request_pre_process, max_request_hook or end.set)
    service.lend = loop.lend
    loop.on_failure = end.set
    health.look(0, ())  # the first beat, so that a worker that is ready has one
    engine.start(loop)
    try:
        if started_hook is not None:
            started_hook(loop)
        end.wait()
        if loop.failure is not None:
            raise loop.failure
        service.draining = True  # every answer says close from now on, also while the hook runs
        _call_hook("before_graceful_exit", before_graceful_exit_hook)
        loop.drain()
        if not engine.join(graceful_exit_timeout):
            logger.warning("after %g s some requests are not finished; they are cut", graceful_exit_timeout)
    finally:
        # Also when the wait is interrupted, by KeyboardInterrupt for one: then this is the quick exit.
        loop.quit()
        if engine.join(QUICK):
            engine.stop()
        for listener in listeners:
            listener.close()  # the loop has done it, unless it is the loop that is broken
        _call_hook("before_died", before_died_hook)


QUICK = 2.0
"""Seconds for the loop to close its connections at a quick exit. It is only late if it is held by a bug or by an
application that never lets go of the GIL; then the process has to end without it."""


def _make_backend(name: str | None, slots: int, row: Row) -> Backend:
    if name is None:
        # Whoever patched has imported it, so gevent is asked only where it is in use.
        monkey = sys.modules.get("gevent.monkey")
        name = "greenlets" if monkey is not None and monkey.is_module_patched("threading") else "threads"
    if name == "greenlets":
        from .backends.greenlets import Greenlets

        return Greenlets(slots, row)
    if name == "threads":
        from .backends.threads import Threads

        return Threads(slots, row)
    raise ValueError(f'backend must be "threads" or "greenlets", not {name!r}')


def _call_hook(name: str, hook: Hook | None) -> None:
    if hook is None:
        return
    try:
        hook()
    except Exception:
        logger.exception("the hook %s failed", name)
