"""The lifespan of an ASGI application: its start before the first request, and its end after the last one.

One task calls the application with a scope of type ``lifespan`` (ASGI, Lifespan Protocol 2.0). It lives as long as the
worker. With ``--lifespan auto`` an application may have no lifespan: it raises, or returns, before it asks for the
first event, and is served without. An application that raises later has failed and must not serve.

Everything here is for the thread of the event loop.
"""

import asyncio
from collections.abc import Awaitable, Callable
from contextvars import Context, copy_context
from typing import Any, Literal

from ..errors import LoadError, format_exception, last_line
from ..logger import debug_logger, error_logger

Message = dict[str, Any]
Application = Callable[
    [Message, Callable[[], Awaitable[Message]], Callable[[Message], Awaitable[None]]], Awaitable[Any]
]
Mode = Literal["auto", "on", "off"]

LEAST: float = 5.0
"""Seconds that the shutdown gets at least, however late it begins."""

MOMENT: float = 1.0
"""Seconds in which a task must end after its last message."""


class Lifespan:
    """The task of one application.

    ``state`` is ``scope["state"]``, filled by the application; each request gets a shallow copy. ``context`` is the
    context (of contextvars) at the end of the start; each request begins with a copy of it.
    """

    def __init__(self, application: Application, mode: Mode = "auto") -> None:
        self.state: dict[str, Any] = {}
        self.context: Context = copy_context()
        self._application = application
        self._mode = mode
        self._task: asyncio.Task[None] | None = None
        self._events: asyncio.Queue[Message] | None = None
        self._error: BaseException | None = None  # raised by the application
        self._serving = False  # whether the application has said that it has started
        self._asked = False  # whether the application has asked for an event
        self._given_up = False  # whether the shutdown has come before the end of the start
        self._told: asyncio.Future[Message] | None = None  # its reply to the event at hand

    def __repr__(self) -> str:
        state = "none" if self._task is None else "over" if self._task.done() else "running"
        return f"<Lifespan: {state}>"

    async def start(self, end: asyncio.Future[Any] | None = None, patience: float = 0.0) -> bool:
        """Tell the application to start, and wait until it has. Raises :class:`~zibai.errors.LoadError`.

        If ``end`` comes meanwhile, the start has ``patience`` seconds to complete. Returns whether it has.
        """
        if self._mode == "off":
            return True
        loop = asyncio.get_running_loop()
        self._events = asyncio.Queue()
        self._events.put_nowait({"type": "lifespan.startup"})
        self._told = loop.create_future()
        self._task = loop.create_task(self._run(), name="zibai lifespan", context=self.context)
        told, task = self._told, self._task
        waiting: set[asyncio.Future[Any]] = {told, task}
        await asyncio.wait(waiting if end is None else {*waiting, end}, return_when=asyncio.FIRST_COMPLETED)
        if end is not None and not (told.done() or task.done()):
            await asyncio.wait(waiting, timeout=patience, return_when=asyncio.FIRST_COMPLETED)
        if self._given_up or not (told.done() or task.done()):
            return False
        if told.done():
            message = told.result()
            if message["type"] == "lifespan.startup.failed":
                await _ended(task, MOMENT)
                raise LoadError("the application refuses to start: lifespan.startup.failed", _text(message))
            # At once: what such a task runs beside the requests is gone, and the end may be weeks away.
            task.add_done_callback(lambda _: self._log_error())
            return True
        self._task, error = None, asyncio.CancelledError() if task.cancelled() else self._error
        if error is not None and (self._asked or self._mode == "on"):
            trace = format_exception(error, error.__traceback__)
            raise LoadError(f"the application failed in its lifespan: {last_line(error)}", trace) from error
        if self._mode == "on":
            raise LoadError("--lifespan on: the application has returned without lifespan.startup.complete")
        why = "it returned at once" if error is None else last_line(error)
        debug_logger.debug("the application has no lifespan: %s", why)
        return True

    async def stop(self, seconds: float) -> None:
        """Tell the application to shut down, and wait at most ``seconds``. Failures are logged."""
        task, events = self._task, self._events
        if task is None or events is None:
            return
        if task.done() or not self._serving:
            self._given_up = not self._serving  # an interrupt has left start(), which may still wait
            task.cancel()  # if it is not done, the shutdown comes before the end of its start
            await _ended(task, MOMENT)
            self._log_error()
            return
        self._told = told = asyncio.get_running_loop().create_future()
        events.put_nowait({"type": "lifespan.shutdown"})
        waiting: set[asyncio.Future[Any]] = {told, task}
        await asyncio.wait(waiting, timeout=max(seconds, LEAST), return_when=asyncio.FIRST_COMPLETED)
        if told.done() and told.result()["type"] == "lifespan.shutdown.failed":
            error_logger.error("the end of the application failed: lifespan.shutdown.failed\n%s", _text(told.result()))
        elif not told.done() and not task.done():
            error_logger.error("the application has not ended its lifespan in time; it is cancelled")
        await _ended(task, MOMENT if told.done() else 0)
        self._log_error()

    def _log_error(self) -> None:
        error, self._error = self._error, None
        if error is not None:
            error_logger.error("the application failed in its lifespan", exc_info=error)

    async def _run(self) -> None:
        scope = {"type": "lifespan", "asgi": {"version": "3.0", "spec_version": "2.0"}, "state": self.state}
        try:
            await self._application(scope, self._receive, self._send)
        except (asyncio.CancelledError, KeyboardInterrupt):
            raise
        except BaseException as error:  # also SystemExit, which would end the event loop
            self._error = error

    async def _receive(self) -> Message:
        self._asked = True
        assert self._events is not None
        return await self._events.get()

    async def _send(self, message: Message) -> None:
        kind, told = message["type"], self._told
        phase = "shutdown" if self._serving else "startup"
        if kind not in {f"lifespan.{phase}.complete", f"lifespan.{phase}.failed"}:
            raise ValueError(f"{kind!r} is no message of the {phase} of a lifespan")
        if told is None or told.done():
            raise RuntimeError(f"{kind} was sent twice, or before its event")
        told.set_result(message)
        self._serving |= kind == "lifespan.startup.complete"


async def _ended(task: "asyncio.Task[None]", patience: float) -> None:
    """Give a task so many seconds to end, then cancel it."""
    if patience and not task.done() and not task.cancelling():
        await asyncio.wait({task}, timeout=patience)
    if not task.done():
        task.cancel()
        await asyncio.wait({task}, timeout=1.0)


def _text(message: Message) -> str:
    return str(message.get("message") or "")
