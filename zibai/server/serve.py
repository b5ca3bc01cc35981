"""``serve()``: one application on one or more listening sockets, in this process, until it is told to end.

It puts the parts together: a backend (what runs), the server loop (what waits), the gateway (what is called). It may be
called from any thread of any program: it installs no signal handler, configures no logging, patches nothing.
"""

import threading
from collections.abc import Sequence
from contextlib import suppress
from contextvars import copy_context
from dataclasses import replace
from inspect import isawaitable
from math import inf
from socket import socket
from typing import TYPE_CHECKING, Any, Literal, Unpack

from ..clock import clock
from ..config.keywords import ServeOptions
from ..config.options import Options, runners, script_name
from ..engine.backends import Backend
from ..engine.context import Service
from ..engine.health import Health
from ..engine.loop import Loop
from ..errors import Refused
from ..gateway.interface import resolve
from ..gateway.wsgi import Application, Gateway
from ..logger import logger
from ..net.bind import listen
from ..net.listener import Listener
from ..system.forks import forget_in_children
from ..telemetry.row import Row, others
from . import kinds
from .settings import check
from .ties import Hook, Hooks, Ties

if TYPE_CHECKING:
    import asyncio

    from ..gateway.lifespan import Lifespan
    from ..tls.https import Https


def serve(
    *,
    app: Application,
    bind_socket: socket | None = None,
    bind_sockets: Sequence[socket] = (),
    graceful_exit: threading.Event | None = None,
    backend: Literal["threads", "greenlets"] | None = None,
    before_serve_hook: Hook | None = None,
    before_graceful_exit_hook: Hook | None = None,
    before_died_hook: Hook | None = None,
    **options: Unpack[ServeOptions],
) -> None:
    """Serve ``app`` until ``graceful_exit`` is set and every request in flight has its response.

    :param app: a WSGI application (PEP 3333), or an ASGI application, whose event loop runs in the calling thread.
    :param bind_socket: a bound socket, see :func:`~zibai.create_bind_socket`; or several as ``bind_sockets``.
        They are taken over: made to listen, and closed when the end begins.
    :param graceful_exit: set it, from any thread, to end. With greenlets, make it after gevent has patched.
        The server sets it after ``max_requests`` requests.
    :param backend: ``"threads"`` or ``"greenlets"``; None is greenlets in a program that gevent has patched.
    :param before_serve_hook: called before the first request; what it raises ends ``serve``.
    :param before_graceful_exit_hook: called when ``graceful_exit`` is set.
    :param before_died_hook: called at the very end. What these two raise is logged.
    :param options: ``max_workers``, ``url_prefix``, ``header_timeout`` and so on: the fields of
        :class:`~zibai.Options` that are not about the process around the server, with their defaults, for which None
        stands, too.
    :raises ValueError: without a socket, or for a backend that there is not.
    :raises TypeError: for an option that there is not, or that is not the server's.
    :raises UsageError: for an option that makes no sense, a certificate that cannot be used, or an
        object that is neither a WSGI nor an ASGI application, such as a factory.
    :raises BindError: if a socket cannot listen.
    :raises MissingExtra: if ``backend`` is ``"greenlets"`` and gevent cannot be imported.
    """
    sockets = [*bind_sockets] if bind_socket is None else [bind_socket, *bind_sockets]
    settings = check("serve()", app, sockets, options)
    hooks = Hooks(before_serve_hook, before_graceful_exit_hook, before_died_hook)
    end = threading.Event() if graceful_exit is None else graceful_exit
    Server(app, sockets, settings, end=end, backend=backend, hooks=hooks, ties=Ties()).run()


class Server:
    """One application on its sockets, with its parts put together. Made and run by one thread."""

    def __init__(
        self,
        app: Application,
        sockets: Sequence[socket],
        options: Options,
        *,
        end: "threading.Event | asyncio.Event",
        backend: str | None,
        hooks: Hooks,
        ties: Ties,
        running: "asyncio.AbstractEventLoop | None" = None,
    ) -> None:
        """``options`` are valid; their ``app`` and what is about processes are not looked at.

        With ``redirect_http`` the last of ``sockets`` is for that. In an event loop that is ``running``, ``end`` is an
        event of asyncio.
        """
        self._sockets = sockets
        self._options = options
        self._end = end
        self._hooks = hooks
        self._ties = ties
        self._interface = resolve(app, options.interface)
        self._runners = runners(options, self._interface)
        # Each thread and greenlet needs a slot of its own; tasks share those that there are.
        slots = self._runners if self._interface == "wsgi" else min(self._runners, MOST_SLOTS)
        self._row = Row.private(slots + 1) if ties.row is None else ties.row
        self._backend = backend
        self._running = running
        self._lifespan: Lifespan | None = None
        mounted = {"url_scheme": options.url_scheme, "script_name": script_name(options)}
        if self._interface == "wsgi":
            several = self._runners > 1
            self._gateway = Gateway(app, multithread=several, multiprocess=ties.multiprocess, **mounted)
        else:
            self._gateway, self._lifespan = kinds.make_asgi_gateway(app, options, mounted)

    def run(self) -> None:
        """Serve. Raises what :func:`serve` raises."""
        with suppress(StopIteration):
            self.live().send(None)  # until its end: all that it waits for blocks

    async def live(self) -> None:
        """The whole life of the server. It suspends only in an event loop that is ``running``."""
        forget_in_children(*self._sockets)
        engine = self._make_engine()
        self._ties.engine = engine
        try:
            if self._lifespan is not None:
                await _done(engine.run(self._lifespan.start()))
            https = self._prepare_tls(engine)
            for sock in self._sockets:
                listen(sock, self._options.backlog)
            self._call_before_serve()
            listeners = [Listener(sock) for sock in self._sockets]
        except BaseException:
            await self._stop(engine)  # it holds descriptors
            raise
        loop = self._make_loop(engine, listeners)
        if https is not None:
            https.attach(loop, listeners, self._runners > 1, self._ties.multiprocess)
        try:
            forget_in_children(loop)
            self._ties.before_start(loop)
            engine.start(loop)  # in here, since Ctrl-C may come as soon as there are threads
            self._ties.on_start(loop)
            try:
                await _done(engine.wait(self._end))
            finally:
                self._ties.on_end()
            if loop.failure is not None:
                raise loop.failure
            loop.service.draining = True  # every response says close from now on, also while the hook runs
            _call_hook("before_graceful_exit", self._hooks.before_graceful_exit)
            timeout = self._options.graceful_exit_timeout
            loop.drain(timeout)
            engine.ending(timeout)
            if not await _join(engine, timeout):
                self._tell_cut(f"after {timeout:g} s of the graceful shutdown")
        except KeyboardInterrupt:
            self._tell_cut("the quick exit begins")
            raise
        finally:
            # Also when the wait is interrupted, by KeyboardInterrupt for one: then this is the quick exit.
            loop.quit()
            engine.cancel()
            if await _done(engine.join(QUICK)) or self._lifespan is not None:
                await self._stop(engine)
            for listener in listeners:
                listener.close()  # the loop has done it, unless it is the loop that is broken
            _call_hook("before_died", self._hooks.before_died)

    def _call_before_serve(self) -> None:
        hook = self._hooks.before_serve
        if hook is not None and self._lifespan is not None:
            self._lifespan.context.run(hook)  # requests begin with a copy of that
        elif hook is not None:
            hook()

    def _make_engine(self) -> Any:
        if self._lifespan is None:
            return kinds.make_backend(self._backend, self._runners, self._row)
        return kinds.make_tasks(self._options, self._row, self._gateway, self._lifespan, self._running)

    async def _stop(self, engine: Any) -> None:
        if self._lifespan is not None:
            await _done(engine.run(self._lifespan.stop(5.0)))
        await _done(engine.stop())

    def _prepare_tls(self, engine: Backend) -> "Https | None":
        """None without; a server that speaks no TLS need not have it in memory."""
        if self._options.certfile is None:
            return None
        from ..tls.https import Https

        https = Https(self._options, engine.report, self._ties.directory)
        https.load(self._sockets)
        return https

    def _make_loop(self, engine: Backend, listeners: list[Listener]) -> Loop:
        options, ties = self._options, self._ties
        gateway: Any = self._gateway
        service = Service.from_options(
            options,
            application=gateway.serve if self._lifespan is None else gateway.make,
            # Of the context that called serve(), after the hook before_serve: each request begins with a copy of it.
            new_context=copy_context().copy,
            waits=engine.waits,
            report=engine.report,
            refused=self._note_refusal,
            row=self._row,
            siblings=ties.siblings,
            base=self._gateway.base,
        )
        if self._lifespan is not None:  # tasks read the body themselves
            service = replace(service, limits=replace(service.limits, stream_body=True))
        health = Health(
            service,
            engine,
            slow_request=options.slow_request or inf,
            request_timeout=options.request_timeout or inf,
            beat_every=ties.beat_every,
            on_stuck=ties.on_stuck or self._end.set,
            on_beat=ties.on_beat,
        )
        enough = ties.on_max_requests or self._end.set
        kind: type[Loop] = Loop if self._lifespan is None else kinds.task_loop()
        loop = kind(service, engine, listeners, health, self._runners, options.max_requests, enough)
        service.lend = loop.lend
        loop.on_failure = self._end.set
        health.look(0, ())  # the first beat, so that a worker that is ready has one
        return loop

    def _tell_cut(self, when: str) -> None:
        """Log the requests that do not get their whole response, if there are any."""
        running = [] if self._ties.engine is None else self._ties.engine.running()
        if running:
            now = clock()
            listed, left = running[:MOST_SLOTS], len(running) - MOST_SLOTS
            lines = "".join(f"\n  {each.what} for {now - each.since:.1f} s ({each.phase})" for each in listed)
            lines += f"\n  and {others(left)}" if left > 0 else ""
            number = f"{len(running)} request{'' if len(running) == 1 else 's'}"
            logger.warning("%s, and %s cut:%s", when, f"{number} {'is' if len(running) == 1 else 'are'}", lines)

    def _note_refusal(self, connection: Any, refusal: Refused, response: bytes) -> None:
        """Count and log a request that the application never sees. The server loop calls this."""
        self._row.refuse(refusal.status)
        self._gateway.log_refusal(connection, refusal, response)


async def _done(result: Any) -> Any:
    """What a method of an engine returns, which has blocked, or has to be awaited."""
    return await result if isawaitable(result) else result


async def _join(engine: Backend, seconds: float) -> bool:
    """``engine.join``, in steps: so the time in which this process itself was stopped does not count."""
    while seconds > STEP:
        if await _done(engine.join(STEP)):
            return True
        seconds -= STEP
    return bool(await _done(engine.join(seconds)))


MOST_SLOTS = 64
"""Tasks of which a server without a parent knows what they run, and requests of which a log line tells."""

STEP = 1.0
"""Seconds that the end waits before it waits again."""

QUICK = 2.0
"""Seconds for the loop to close its connections at a quick exit. It is only late if it is held by a bug or by an
application that never lets go of the GIL; then the process has to end without it."""


def _call_hook(name: str, hook: Hook | None) -> None:
    if hook is None:
        return
    try:
        hook()
    except Exception:
        logger.exception("the hook %s failed", name)
