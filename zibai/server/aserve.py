"""``await aserve()``: an ASGI application within the event loop of a program that has one already.

The program goes on beside the server, and both may share resources, such as a pool of connections. The server installs
no signal handlers and ends no process. It runs in a task of its own. So if the caller is cancelled, the graceful
shutdown begins, and every request in flight has its time.
"""

import asyncio
from collections.abc import Sequence
from socket import socket
from typing import Any, Unpack

from ..config.keywords import ServeOptions
from ..errors import UsageError
from ..gateway.interface import resolve
from .serve import Server
from .settings import check
from .ties import Hook, Hooks, Ties


async def aserve(
    *,
    app: Any,
    bind_socket: socket | None = None,
    bind_sockets: Sequence[socket] = (),
    graceful_exit: asyncio.Event | None = None,
    before_serve_hook: Hook | None = None,
    before_graceful_exit_hook: Hook | None = None,
    before_died_hook: Hook | None = None,
    **options: Unpack[ServeOptions],
) -> None:
    """Serve ``app`` in the running event loop until ``graceful_exit`` is set and every request has its response.

    If the caller is cancelled, the same end begins, also while the application starts. It takes at most
    ``graceful_exit_timeout``; then ``CancelledError`` is raised. The rest is as for :func:`~zibai.serve`.

    :param app: an ASGI application.
    :param graceful_exit: set it, in the thread of the event loop, to end.
    :param options: those of :func:`~zibai.serve`, but ``loop``.
    :raises UsageError: also for a WSGI application, and for ``loop``.
    :raises LoadError: if the application fails in the start of its lifespan.
    """
    sockets = [*bind_sockets] if bind_socket is None else [bind_socket, *bind_sockets]
    settings = check("aserve()", app, sockets, options)
    if resolve(app, settings.interface) != "asgi":
        raise UsageError(
            "aserve() serves ASGI applications, and this is one of WSGI, which would block the event loop; "
            "write await asyncio.to_thread(zibai.serve, app=...)"
        )
    if settings.loop != "auto":
        raise UsageError(f"aserve() runs in the event loop that runs already, so there is no loop={settings.loop!r}")
    end = asyncio.Event() if graceful_exit is None else graceful_exit
    if not isinstance(end, asyncio.Event):
        raise TypeError("graceful_exit of aserve() is an asyncio.Event")
    hooks = Hooks(before_serve_hook, before_graceful_exit_hook, before_died_hook)
    running = asyncio.get_running_loop()
    server = Server(app, sockets, settings, end=end, backend=None, hooks=hooks, ties=Ties(), running=running)
    task = running.create_task(server.live(), name="zibai")
    cancelled: asyncio.CancelledError | None = None
    while not task.done():
        try:
            await asyncio.wait({task})
        except asyncio.CancelledError as error:
            cancelled = error
            end.set()
    for sock in sockets:
        sock.close()
    task.result()  # raises its error
    if cancelled is not None:
        raise cancelled
