"""One HTTP request of an ASGI application, and its response (ASGI, HTTP & WebSocket spec 2.5).

:class:`HttpExchange` gives the application ``receive`` and ``send``. The messages of the response are for
:mod:`.asgi_response`.

The connection is free when the response ends, and not when the coroutine ends: a background task must not delay the
next request.

A client that has ended its side of the connection may still read. So an application that listens (``receive``) hears
``http.disconnect`` at once, and from then on ``send`` raises. An application that only sends goes on until the kernel
reports that the client has left. An error that this server has raised in the application is not the application's
fault: it is logged for ``zibai.debug``, without a traceback.

Everything here is for the thread of the event loop. The tasks that an application makes of ``receive`` and ``send``
run in it, too.
"""

from asyncio import CancelledError, current_task, sleep
from http import HTTPStatus
from typing import Final

from ..engine.async_request import NO_BODY
from ..engine.async_stream import HIGH
from ..errors import Gone, Refused
from ..logger import debug_logger, error_logger
from ..protocol.http1.raw_response import trailer_lines
from ..protocol.http1.response import interim
from .asgi_response import Message, Responding
from .blame import is_farewell, is_ours
from .given_file import Unsized, duplicate, open_path

LISTENER_MOMENT: Final = 0.1
"""Seconds that a task that listens has to react before ``send`` raises."""

_JOIN: Final = 64 * 1024
"""The most bytes of a body in one ``http.request``."""


class HttpExchange(Responding):
    """``receive`` and ``send`` of one request; any number of tasks of the application may wait in ``receive``."""

    def __repr__(self) -> str:
        return f"<HttpExchange: {self.request.method} {self.request.path}, {self.reply or 'not begun'}>"

    # What the application is given.

    async def receive(self) -> Message:
        """The next event: a piece of the body, or the end of the client."""
        while not (self.complete or self._heard or self.ending):
            body = self.body
            if body is None:
                self.body = NO_BODY
                file, self.stream.body = self.stream.body, None
                whole = b"" if file is None else file.getvalue()
                return {"type": "http.request", "body": whole, "more_body": False}
            if body.over:
                self._make_waiters().listener = current_task()
                await self.gone()
                break
            try:
                piece = await self.read(_JOIN)
            except Gone:
                body.over = True
                break
            if not body.over:  # else another task has received the end of it meanwhile
                body.over = not self.in_body
                return {"type": "http.request", "body": piece, "more_body": self.in_body}
        if self.complete or self._heard:
            await self.let_others_run()
        self._heard = not self.complete
        return {"type": "http.disconnect"}

    async def send(self, message: Message) -> None:
        """Take a message of the response. Raises :class:`~zibai.errors.Gone`, an ``OSError``, without a client."""
        kind = message["type"]
        if self.complete:
            self._gateway.complaints.late(kind, self.request)
            await sleep(0)  # an application that goes on for ever must not hold the event loop
            return
        sender = self.stream.sender
        if self._heard or self.ending or sender.broken:
            await self._leave_to_listener()
            raise Gone("the server ends" if self.ending else "the client has left")
        if kind == "http.response.body":
            if self._send_body(message):
                await self.rest_if_tired()
        elif kind == "http.response.start":
            self._start(message)
        else:
            unsized = self._send_extension(kind, message)
            if unsized is not None:
                more = kind != "http.response.pathsend" and bool(message.get("more_body"))
                await self._send_unsized(unsized, more=more)
            await self.rest_if_tired()
        if sender.out and self.waiting > HIGH and not self.complete:
            try:
                await self.drain()
            except Gone:
                await self._leave_to_listener()
                raise

    def _send_extension(self, kind: str, message: Message) -> Unsized | None:
        """Take a message of an extension. A file that must be read piece by piece is returned."""
        if kind in ("http.response.pathsend", "http.response.zerocopysend"):
            by_kernel, by_path = self.connection.endpoint.plain, kind == "http.response.pathsend"
            file = open_path(message["path"], by_kernel) if by_path else duplicate(message, by_kernel)
            if isinstance(file, Unsized):
                return file
            self._send_file(file, more=not by_path and bool(message.get("more_body")))
        elif kind == "http.response.early_hint":
            self._send_hints(message)
        elif kind == "http.response.trailers":
            self._send_trailers(message)
        else:
            raise ValueError(f"{kind!r} is no message of an HTTP response")
        return None

    def _send_hints(self, message: Message) -> None:
        links = [("Link", bytes(link).decode("latin-1")) for link in message["links"]]
        data, _ = interim("103 Early Hints", links)
        if self.reply is not None or not self.request.is_http11:
            return
        self.stream.interims += 1
        self._make_pending().look()
        try:
            self.push(data)
        except Gone:
            pass  # the client has left, which the log and the next message tell

    def _send_trailers(self, message: Message) -> None:
        """Take trailers. A client that has not asked for them does not get them (RFC 9110 6.5.1)."""
        pending = self._pending
        if pending is None or pending.trailers is None or not pending.body_over:
            raise RuntimeError("http.response.trailers was sent before the end of the body, or was not announced")
        if self.request.takes_trailers:
            pending.trailers += trailer_lines(message.get("headers") or ())
        if not message.get("more_trailers"):
            self._finish()

    async def _send_unsized(self, file: Unsized, *, more: bool) -> None:
        """Send a file of which only reading tells where it ends: in pieces, between which the event loop turns."""
        try:
            data, is_all = file.read_first()
            if is_all:
                self._send_body({"body": data, "more_body": more})
                return
            while data and not (self.complete or (self.reply is not None and self.reply.left == 0)):
                await self.send({"type": "http.response.body", "body": data, "more_body": True})
                await sleep(0)
                data = file.read()
            if not self.complete:
                await self.send({"type": "http.response.body", "body": b"", "more_body": more})
        finally:
            file.close()

    async def _leave_to_listener(self) -> None:
        """Before ``send`` raises, give a task that waits in ``receive`` time to hear of the end and to cancel this one.

        Django and task groups do so. Django does not expect that ``send`` raises: it would end the request without its
        signal ``request_finished``, and so would not release the resources of the request.
        """
        waiters = self._waiters
        if waiters is None:
            return
        listener, waiters.listener = waiters.listener, None
        if listener is not None and listener is not current_task():
            await sleep(LISTENER_MOMENT)

    # The end of the response, and of the coroutine.

    async def run(self) -> None:
        """Call the application. Raises nothing but KeyboardInterrupt."""
        try:
            await self._gateway.callable(self._gateway.scope(self), self.receive, self.send)
        except KeyboardInterrupt:
            if not self.complete:
                self._cut()
            raise
        except Refused as refusal:
            self._finally(self._refuse, refusal)
        except BaseException as error:
            self._finally(self._fail, error)
        else:
            if not self.complete or self._tasks.forked:
                self._finally(self._return)
        finally:
            if self.suspended is not None:
                self._tasks.end(self)

    def _return(self) -> None:
        """The application has returned."""
        if self.complete:
            return
        if self.refusal is not None and not self.on_wire:
            self._respond(self.refusal.status)
        elif self._heard or self.ending or self.broken:
            self._leave()
        elif self.timed_out and not self.on_wire:
            self._respond(HTTPStatus.GATEWAY_TIMEOUT)
        elif self.on_wire or self.head is not None:
            error_logger.error("the application returned before its response to %s was complete", self._path)
            self._end_incomplete()
        else:
            error_logger.error("the application returned without a response to %s", self._path)
            self._end_incomplete()

    def _refuse(self, refusal: Refused) -> None:
        """Respond to a request that the application does not see: its forwarding fields contradict each other."""
        debug_logger.debug("refused %s: %d, %s", self.connection.peer, refusal.status, refusal)
        self._respond(refusal.status)

    def _fail(self, error: BaseException) -> None:
        """The application has raised."""
        if self.complete:
            if not (is_ours(error) or isinstance(error, CancelledError)):
                error_logger.error("an error after the response to %s", self._path, exc_info=error)
            return
        if self.refusal is not None and not self.on_wire:
            # It failed because its body did not come whole.
            self._respond(self.refusal.status)
            return
        left = self._heard or self.ending or self.broken
        if left and (is_farewell(error) or isinstance(error, CancelledError)):
            debug_logger.debug("%s: %s", self._path, ascii(str(error)))
            self._leave()
            return
        status = HTTPStatus.GATEWAY_TIMEOUT if self.timed_out else HTTPStatus.INTERNAL_SERVER_ERROR
        told = None if self.timed_out and isinstance(error, CancelledError) else error
        if self.on_wire:
            self._cut(told)
        else:
            self._respond(status, told)

    def _leave(self) -> None:
        """The application has stopped because its client has left, or because the server ends."""
        if self.is_endless and self.reply is not None and not self.broken:
            self._finish()  # an event stream has no promised end, so nothing is missing
        else:
            self._cut()
