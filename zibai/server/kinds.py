"""The backend and the gateway for each kind of application.

A server of WSGI applications on threads has neither gevent nor asyncio in memory: each is imported where it is used.
"""

from typing import TYPE_CHECKING, Any

from ..config.options import Options
from ..errors import MissingExtra, UsageError
from ..gateway.interface import single
from ..system.patching import is_patched
from ..telemetry.row import Row

if TYPE_CHECKING:
    from asyncio import AbstractEventLoop

    from ..engine.backends import Backend
    from ..engine.backends.guest_loop import GuestLoop
    from ..engine.backends.own_loop import OwnLoop
    from ..engine.loop import Loop
    from ..gateway.asgi import Gateway, Upgrade
    from ..gateway.lifespan import Lifespan


def obstacle_to_loops(options: Options, interface: str, backend: str | None) -> str:
    """Why a process can have only one server loop, and what to do instead; empty if it can have several.

    Raises UsageError for such an obstacle if ``options`` ask for several.
    """
    obstacle = ""
    if interface == "asgi":
        obstacle = "an ASGI application has one event loop in each process; for several processors, write --processes"
    elif backend == "greenlets" or (backend is None and is_patched()):
        obstacle = "gevent runs all greenlets in one thread; write --no-gevent, or --processes for several processors"
    if obstacle and options.loops > 1:
        raise UsageError(f"--loops {options.loops}: {obstacle}")
    return obstacle


def make_backend(name: str | None, slots: int, row: Row, loop: str = "") -> "Backend":
    """The backend of a WSGI application. ``loop`` is the name of its server loop in a process that has several."""
    if name is None:
        name = "greenlets" if is_patched() else "threads"
    if name == "greenlets":
        from ..engine.backends.greenlets import Greenlets

        return Greenlets(slots, row)
    if name == "threads":
        from ..engine.backends.threads import Threads

        return Threads(slots, row, loop)
    raise ValueError(f'backend must be "threads" or "greenlets", not {name!r}')


def make_asgi_gateway(app: Any, options: Options, mounted: dict[str, str]) -> "tuple[Gateway, Lifespan]":
    """The gateway of an ASGI application, and its lifespan."""
    from ..gateway.asgi import Gateway
    from ..gateway.lifespan import Lifespan

    app = single(app)
    lifespan = Lifespan(app, options.lifespan)  # type: ignore[arg-type]  # it is one of the choices
    gateway = Gateway(app, lifespan, **mounted)
    if options.ws != "off":
        gateway.upgrade = _make_upgrade(options)
    return gateway, lifespan


def _make_upgrade(options: Options) -> "Upgrade":
    """The maker of exchanges for WebSocket. Raises ``MissingExtra`` if it is missing and the options require it."""
    try:
        from ..gateway.asgi_websocket import WebSockets
    except ImportError as error:
        text = "WebSocket needs websockets; pip install 'zibai-server[websocket]'"
        missing = MissingExtra.because(error, "websockets", text)
        if options.ws == "on" or missing.is_broken:
            raise missing from None
        from ..gateway.asgi import without_websockets

        return without_websockets
    return WebSockets(options)


def make_tasks(
    options: Options, row: Row, gateway: Any, lifespan: "Lifespan", running: "AbstractEventLoop | None"
) -> "OwnLoop | GuestLoop":
    """The backend of an ASGI application, for an event loop that is ``running`` or for its own.

    Raises ``UsageError`` in a process that gevent has patched, and in a thread whose event loop runs already.
    """
    if is_patched():
        raise UsageError("gevent has patched this process, in which no event loop can run; write --interface asgi")
    import asyncio

    if running is None and asyncio._get_running_loop() is not None:
        raise UsageError(
            "an event loop runs in this thread already, and an ASGI application would need another one; write "
            "await zibai.aserve(app=...), or start the server in a thread or process of its own"
        )
    from ..engine.backends.eventloop import make_event_loop
    from ..engine.backends.guest_loop import GuestLoop
    from ..engine.backends.own_loop import OwnLoop

    if running is not None:
        return GuestLoop(running, row, gateway.make, lambda: lifespan.context)
    return OwnLoop(make_event_loop(options.loop), row, gateway.make, lambda: lifespan.context)


def task_loop() -> "type[Loop]":
    """The server loop of tasks."""
    from ..engine.task_loop import TaskLoop

    return TaskLoop
