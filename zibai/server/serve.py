"""``serve()``: one application on one or more listening sockets, in this process, until it is told to end.

It puts the parts together: a backend, which runs requests, the server loop, which waits, and the gateway, which calls
the application. Any thread of any program may call it: it installs no signal handler, configures no logging, patches
nothing.
"""

import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from inspect import isawaitable
from socket import socket
from typing import TYPE_CHECKING, Any, Literal, Unpack

from ..clock import clock
from ..config.keywords import ServeOptions
from ..config.options import Options, runners, script_name, usual_loops
from ..engine.backends import Backend
from ..gateway.interface import Application, resolve
from ..gateway.wsgi import Gateway
from ..logger import logger, safely
from ..net.bind import listen
from ..net.listener import Listener
from ..system.forks import close_in_children
from ..telemetry.row import Row, others
from . import kinds
from .assembly import Part, make_loops
from .loops import Backends, Loops, share
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
        They are taken over: made to listen, and closed when the end begins, or when the start fails.
    :param graceful_exit: set it, from any thread, to end. With greenlets, make it after gevent has patched.
        The server sets it after ``max_requests`` requests.
    :param backend: ``"threads"`` or ``"greenlets"``; None is greenlets in a program that gevent has patched.
    :param before_serve_hook: called before the first request; an error that it raises ends ``serve``.
    :param before_graceful_exit_hook: called when ``graceful_exit`` is set.
    :param before_died_hook: called at the very end. Errors of these two hooks are logged.
    :param options: ``max_workers``, ``url_prefix``, ``header_timeout`` and so on: the fields of
        :class:`~zibai.Options` that are not about the process around the server, with their defaults, for which None
        stands, too.
    :raises ValueError: without a socket, or for an unknown backend.
    :raises TypeError: for an unknown option, or one that is not for a server without processes.
    :raises UsageError: for an option that makes no sense, a certificate that cannot be used, or an
        object that is neither a WSGI nor an ASGI application, such as a factory.
    :raises BindError: if a socket cannot listen.
    :raises MissingExtra: if ``backend`` is ``"greenlets"`` and gevent cannot be imported.
    """
    sockets = [*bind_sockets] if bind_socket is None else [bind_socket, *bind_sockets]
    settings = check("serve()", app, sockets, options)
    hooks = Hooks(before_serve_hook, before_graceful_exit_hook, before_died_hook)
    end = threading.Event() if graceful_exit is None else graceful_exit
    server = Server(app, sockets, settings, end=end, backend=backend, hooks=hooks, ties=Ties())
    try:
        server.run()
    finally:
        for sock in sockets:
            sock.close()
        if graceful_exit is None:
            end.set()  # a thread may wait for it, and nobody else can set it


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
        """``options`` are valid; their ``app`` and options about processes are ignored.

        With ``redirect_http`` the last of ``sockets`` is for that. In an event loop that is ``running``, ``end`` is an
        event of asyncio.
        """
        self._sockets = sockets
        self._options = options
        self._end = end
        self._hooks = hooks
        self._ties = ties
        self._interface = resolve(app, options.interface)
        self._backend = backend
        self._loops = self._count_loops()
        self._runners = runners(options, self._interface, self._loops)
        self._rows = list(ties.rows)[: self._loops] or [self._make_row(number) for number in range(self._loops)]
        self._running = running
        self._lifespan: Lifespan | None = None
        self._told: asyncio.Future[Any] | None = None  # with a lifespan: done when the end begins
        mounted = {"url_scheme": options.url_scheme, "script_name": script_name(options)}
        if self._interface == "wsgi":
            several = self._runners > 1
            make = partial(Gateway, app, multithread=several, multiprocess=ties.multiprocess, **mounted)
            # One for each loop, since a shared object costs time: all processors count the references to it.
            self._gateways: list[Any] = [make() for _ in self._rows]
        else:
            gateway, self._lifespan = kinds.make_asgi_gateway(app, options, mounted)
            self._gateways = [gateway]

    def _count_loops(self) -> int:
        """How many server loops there are. Raises UsageError."""
        loops = len(self._ties.rows) or usual_loops(self._options)
        if loops == 1:
            return 1
        obstacle = kinds.obstacle_to_loops(self._options, self._interface, self._backend)
        if obstacle:
            logger.info("--loops 0: one server loop, since %s", obstacle)
        return 1 if obstacle else loops

    def _make_row(self, number: int) -> Row:
        """The row of a loop that is in no scoreboard."""
        # Each thread and greenlet needs a slot of its own; tasks share slots.
        slots = self._share(number) if self._interface == "wsgi" else min(self._runners, MOST_SLOTS)
        row = Row.private(slots + 1)
        row.assign("ready", 0, 0, 0.0)
        return row

    def run(self) -> None:
        """Serve. Raises what :func:`serve` raises."""
        with suppress(StopIteration):
            self.live().send(None)  # runs to its end: here, everything that it awaits blocks

    async def live(self) -> None:
        """The whole life of the server. It suspends only in an event loop that is ``running``."""
        close_in_children(*self._sockets)
        engines: list[Any] = []
        try:
            engines.extend(map(self._make_engine, range(self._loops)))
            self._ties.engine = engines[0] if self._loops == 1 else Backends(engines)
            if self._lifespan is not None:
                self._told = engines[0].told(self._end)
                start = self._lifespan.start(self._told, self._options.graceful_exit_timeout)
                if not await _done(engines[0].run(start)):  # the end has come meanwhile
                    return await self._stop(engines[0])
            # A renewed certificate concerns all loops, so its log line names none of them.
            https = self._prepare_tls(engines[0].report if self._loops == 1 else safely)
            for sock in self._sockets:
                listen(sock, self._options.backlog)
            self._call_before_serve()
            parts = [self._make_part(number, engine) for number, engine in enumerate(engines)]
        except BaseException:
            for engine in engines:
                await self._stop(engine)  # it holds descriptors
            raise
        loops = make_loops(parts, self._options, self._ties, self._end.set, tasks=self._lifespan is not None)
        if https is not None:
            for loop, part in zip(loops.each, parts, strict=True):
                https.attach(loop, part.listeners, self._runners > 1, self._ties.multiprocess)
        try:
            close_in_children(*loops.each)
            self._start(engines, loops)  # in here, since Ctrl-C may come as soon as there are threads
            try:
                await _done(engines[0].wait(self._told or self._end))
            finally:
                self._ties.on_end()
            if loops.failure is not None:
                raise loops.failure
            await self._end_gracefully(engines, loops)
        except KeyboardInterrupt:
            self._tell_cut("the quick exit begins")
            raise
        finally:
            # Also when the wait is interrupted, for example by KeyboardInterrupt: then this is the quick exit.
            loops.quit()
            for engine in engines:
                engine.cancel()
            for engine, has_ended in zip(engines, await _join(engines, QUICK_EXIT_TIME), strict=True):
                if has_ended or self._lifespan is not None:
                    await self._stop(engine)
            for listener in (each for part in parts for each in part.listeners):
                listener.close()  # the loop has closed it, unless the loop is broken
            self._hooks.call("before_died")

    def _start(self, engines: list[Any], loops: Loops) -> None:
        self._ties.before_start(loops)
        for engine, loop in zip(engines, loops.each, strict=True):
            engine.start(loop)
        self._ties.on_start(loops)
        loops.admit()  # not earlier: a request may end this process before its parent knows that it serves

    async def _end_gracefully(self, engines: list[Any], loops: Loops) -> None:
        loops.say_close()  # in every response from now on, also while the hook runs
        self._hooks.call("before_graceful_exit")
        timeout = self._options.graceful_exit_timeout
        loops.drain(timeout)
        for engine in engines:
            engine.ending(timeout)
        if not all(await _join(engines, timeout)):
            self._tell_cut(f"after {timeout:g} s of the graceful shutdown")

    def _call_before_serve(self) -> None:
        hook = self._hooks.before_serve
        if hook is not None and self._lifespan is not None:
            self._lifespan.context.run(hook)  # requests begin with a copy of that
        elif hook is not None:
            hook()

    def _make_part(self, number: int, engine: Backend) -> Part:
        # The first loop alone closes the sockets themselves: two might close one descriptor twice.
        listeners = [Listener(sock, closes_origin=not number) for sock in self._sockets]
        return Part(engine, self._gateways[number], self._rows[number], self._share(number), listeners)

    def _share(self, number: int) -> int:
        return share(self._runners, number, self._loops)

    def _make_engine(self, number: int) -> Any:
        if self._lifespan is None:
            loop = f"loop {number + 1}" if self._loops > 1 else ""
            return kinds.make_backend(self._backend, self._share(number), self._rows[number], loop)
        return kinds.make_tasks(self._options, self._rows[0], self._gateways[0], self._lifespan, self._running)

    async def _stop(self, engine: Any) -> None:
        if self._told is not None:
            self._told.cancel()
        if self._lifespan is not None:
            await _done(engine.run(self._lifespan.stop(5.0)))
        await _done(engine.stop())

    def _prepare_tls(self, report: Callable[..., None]) -> "Https | None":
        """The :class:`Https` of this server. None without TLS, so that it is not in memory."""
        if self._options.certfile is None:
            return None
        from ..tls.https import Https

        https = Https(self._options, report, self._ties.directory)
        https.load(self._sockets)
        return https

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


async def _done(result: Any) -> Any:
    """The result of a method of an engine, which has blocked, or returns an awaitable."""
    return await result if isawaitable(result) else result


async def _join(engines: Sequence[Backend], seconds: float) -> list[bool]:
    """Call ``engine.join`` for each; return which have ended in time. It waits in steps, so that the time in which this
    process itself was stopped does not count.
    """
    ended = []
    for engine in engines:
        is_over = False
        while not is_over and seconds > JOIN_STEP:
            began = clock()
            is_over = bool(await _done(engine.join(JOIN_STEP)))
            seconds -= min(JOIN_STEP, clock() - began)
        ended.append(is_over or bool(await _done(engine.join(max(0.0, seconds)))))
    return ended


MOST_SLOTS = 64
"""The most slots for tasks of a server without a parent, and the most requests in a log line."""

JOIN_STEP = 1.0
"""Seconds that the end waits before it waits again."""

QUICK_EXIT_TIME = 2.0
"""Seconds for the loop to close its connections at a quick exit. It is late only because of a bug, or of an application
that never releases the GIL; then the process must end without it."""
