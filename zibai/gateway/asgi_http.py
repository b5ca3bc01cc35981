"""One HTTP request of an ASGI application, and its response (ASGI, HTTP & WebSocket spec 2.5).

:class:`HttpExchange` gives the application ``receive`` and ``send``. What a :class:`~zibai.gateway.reply.Reply` makes
of the messages is held until the step of the application ends, so that pieces that it gives at once go out together;
a head is never held for longer, because a client of an event stream waits for it.

The end of the response frees the connection, and not the end of the coroutine: a background task must not hold up the
next request.

A client that has ended its side of the connection may still read. So an application that listens (``receive``) hears
``http.disconnect`` at once, and from then on ``send`` raises. An application that only sends goes on until the kernel
says that nobody takes it. What an application makes of our own error is no fault of the application: it is logged for
``zibai.debug``, without a traceback.

Everything here is for the thread of the event loop. The tasks that an application makes of ``receive`` and ``send``
run in it, too.
"""

from asyncio import CancelledError
from collections.abc import Callable
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, Final

from ..clock import head_end
from ..engine.async_stream import HIGH, AsyncStream, TaskStream
from ..engine.outgoing import File
from ..errors import Gone, Refused
from ..logger import debug_logger, error_logger, safely
from ..protocol.http1.response import ResponseHead, interim, prepare_raw, trailer_lines
from .blame import is_ours
from .given_file import duplicate, open_path
from .reply import Reply, instead
from .shortcut import _SENT as SENT

if TYPE_CHECKING:
    from ..engine.backends.tasks import Tasks
    from .asgi import Gateway

Message = dict[str, Any]

TOGETHER: Final = 32 * 1024
"""Bytes that are held until the step of the application ends; more is sent at once."""

_JOIN: Final = 64 * 1024
"""Bytes of a body that one ``http.request`` has at most."""


class HttpExchange(AsyncStream):
    """``receive`` and ``send`` of one request; any number of tasks of the application may wait in ``receive``."""

    head: ResponseHead | None = None
    reply: Reply | None = None
    complete = False  # whether the last byte of the response was given to the stream
    on_wire = False  # whether the first one was
    error: BaseException | None = None  # what the application raised
    _held: "list[bytes] | tuple[()]" = ()
    _held_size = 0
    _flushing = False  # whether a flush is due when the step ends
    _heard = False  # whether the application was told that its client has left
    _given = False  # whether the last piece of the body was
    _trailers: list[bytes] | None = None  # where the application has promised some
    facts: dict[str, str] | None = None  # of the client, where its proxy tells more than its connection

    def __init__(self, stream: TaskStream, tasks: "Tasks", gateway: "Gateway") -> None:
        self.stream = stream
        self.connection = connection = stream.connection
        self.sender = stream.sender
        self.request = request = connection.request  # type: ignore[assignment]
        self._tasks = tasks
        self._gateway = gateway
        self._body_over = False  # whether the application has had all of it
        self._bodyless = not request.has_body  # type: ignore[union-attr]
        if request.expects_continue and not self._bodyless:  # type: ignore[union-attr]
            self.continued = False

    def __repr__(self) -> str:
        return f"<HttpExchange: {self.request.method} {self.request.path}, {self.reply or 'not begun'}>"

    # What the application is given.

    async def receive(self) -> Message:
        """The next event: a piece of the body, or the end of the client."""
        while not (self.complete or self._heard or self.ending):
            if self._body_over:
                await self.gone()
                break
            if self._bodyless:
                self._body_over = True
                return {"type": "http.request", "body": b"", "more_body": False}
            try:
                piece = await self.read(_JOIN)
            except Gone:
                self._body_over = True
                break
            if not self._body_over:  # else another task has had the end of it meanwhile
                self._body_over = not self.in_body
                return {"type": "http.request", "body": piece, "more_body": self.in_body}
        self._heard = not self.complete
        return {"type": "http.disconnect"}

    async def send(self, message: Message) -> None:
        """Take a message of the response. Raises :class:`~zibai.errors.Gone`, an ``OSError``, without a client."""
        kind = message["type"]
        if self.complete:
            self._gateway.complaints.late(kind, self.stream)
            return
        if self._heard or self.ending or self.broken:
            raise Gone("the server ends" if self.ending else "the client has left")
        if kind == "http.response.body":
            self._send_body(message)
        elif kind == "http.response.start":
            self._start(message)
        else:
            self._send_extension(kind, message)
        if self.waiting > HIGH and not self.complete:
            await self.drain()

    # The response.

    def _start(self, message: Message) -> None:
        if self.head is not None:
            raise RuntimeError("http.response.start was sent twice")
        self.head = prepare_raw(message["status"], message.get("headers") or ())
        self._trailers = [] if message.get("trailers") else None
        self._flush_soon()

    def _send_body(self, message: Message) -> None:
        data = message.get("body", b"")
        if type(data) is not bytes:
            data = memoryview(data).tobytes()
        more = bool(message.get("more_body"))
        if self._given:
            raise RuntimeError("http.response.body was sent after the last piece of the body")
        if not more and self.reply is None and self._send_at_once(data):
            return
        reply = self.reply or self._begin(None if more or self._trailers is not None else len(data))
        for part in reply.give(data):
            self._hold(part)
        if reply.surplus:
            self._gateway.complaints.surplus(self.stream)
        if not more:
            self._end_body()

    def _send_at_once(self, data: bytes) -> bool:
        """Short cut for a response of one piece, by one send; returns whether it was sent.

        It does what the rest of :meth:`_send_body` does with such a response, in a third of the time.
        """
        head, sender, size = self.head, self.sender, len(data)
        if (
            head is None
            or not head.plain
            or self._held
            or self._trailers is not None
            or size >= _JOIN
            or not self.request.plain
            or sender.closing
            or self.stream.service.draining
        ):
            return False
        if head.length == size:
            start = head.data
        elif head.length is None:
            start = b"%bContent-Length: %d\r\n" % (head.data, size)
        else:
            return False
        self.reply = SENT
        self.complete = self.on_wire = True
        self.size = size
        try:
            self.stream.send(start + head_end() + data)
        except Gone:
            pass
        self._over()
        return True

    def _end_body(self) -> None:
        """The application has given its last piece. Trailers may follow."""
        self._given = True
        if self._trailers is None:
            self._finish()

    def _begin(self, size: int | None) -> Reply:
        if self.head is None:
            raise RuntimeError("http.response.body was sent before http.response.start")
        self.forbid_continue()
        keep_alive = self.request.keep_alive and not self.closing
        self.reply = reply = Reply(self.head, self.request, size, keep_alive, head_end())
        for name in self.head.removed:
            self._gateway.complaints.removed(name, self.stream)
        if not reply.keep_alive:
            self.end_after_this()
        return reply

    def _finish(self) -> None:
        """The application has given everything."""
        reply = self.reply
        assert reply is not None
        try:
            for part in reply.finish(b"".join(self._trailers or ())):
                self._hold(part)
        except ValueError as error:  # less than it has promised
            error_logger.error("%s, at %s", error, ascii(self.request.path))
            self._cut()
            return
        reply.complete = self.complete = True
        self._flush()
        self._over()

    def _hold(self, part: bytes) -> None:
        if not self._held:
            self._held = []
        self._held.append(part)
        self._held_size += len(part)
        if self._held_size >= TOGETHER:
            self._flush()
        else:
            self._flush_soon()

    def _flush_soon(self) -> None:
        if not (self._flushing or self.stepping or self.complete):
            self._flushing = True
            self.call_soon(self.end_step)

    @property
    def is_endless(self) -> bool:
        return self.head is not None and b"text/event-stream" in self.head.data.lower()

    def end_step(self) -> None:
        """The step of the application has ended without an end of the response: nothing is held any longer."""
        self._flushing = False
        if self.complete or self._heard or self.ending or self.broken:
            return
        if self.reply is None and self.head is not None:
            for part in self._begin(None).give(b""):
                self._hold(part)
        self._flush()

    def _flush(self) -> None:
        """Send what is held. A client that has left is noticed at the next message."""
        held, self._held, self._held_size = self._held, (), 0
        if not held:
            return
        self.on_wire = True
        try:
            self.push(held[0] if len(held) == 1 else b"".join(held))
        except Gone:
            pass

    def _send_extension(self, kind: str, message: Message) -> None:
        if kind == "http.response.early_hint":
            self._send_hints(message)
        elif kind == "http.response.pathsend":
            self._send_file(open_path(message["path"], self.connection.endpoint.plain))
        elif kind == "http.response.trailers":
            self._send_trailers(message)
        elif kind == "http.response.zerocopysend":
            self._send_file(duplicate(message, self.connection.endpoint.plain), more=bool(message.get("more_body")))
        else:
            raise ValueError(f"{kind!r} is no message of an HTTP response")

    def _send_hints(self, message: Message) -> None:
        links = [("Link", bytes(link).decode("latin-1")) for link in message["links"]]
        data, _ = interim("103 Early Hints", links)
        if self.reply is not None or not self.request.is_http11:
            return
        self.stream.interims += 1
        try:
            self.push(data)
        except Gone:
            pass

    def _send_file(self, file: File, more: bool = False) -> None:
        """Send a file without reading it here. It is the loop that sends what the client does not take at once."""
        try:
            promised = None if self.head is None else self.head.length
            reply = self.reply or self._begin(None if more else file.left)
            count = file.left if reply.left is None else min(file.left, reply.left)
            if reply.left is not None and promised is not None and file.left > count:
                self._gateway.complaints.surplus(self.stream)
            before, behind = reply.around(count) if count else (b"", b"")
        except BaseException:
            file.close()
            raise
        file.left = count
        if before:
            self._hold(before)
        self._flush()
        self.on_wire = True
        if count:
            self.push_file(file)
        else:
            file.close()
        if behind:
            self._hold(behind)
        if not more:
            self._end_body()

    def _send_trailers(self, message: Message) -> None:
        """Take trailers. A client that has not asked for them does not get them (RFC 9110 6.5.1)."""
        if not self._given or self._trailers is None:
            raise RuntimeError("http.response.trailers was sent before the end of the body, or was not announced")
        if self._gateway.takes_trailers(self.request):
            self._trailers += trailer_lines(message.get("headers") or ())
        if not message.get("more_trailers"):
            self._finish()

    def _over(self) -> None:
        self._gateway.log(self)
        self.release()

    # The end of the coroutine.

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
            self._finally(self._return)

    def _finally(self, end: Callable[..., None], *args: Any) -> None:
        """Bring the response to its end. A bug of ours costs this connection, and not the server."""
        try:
            end(*args)
        except Exception:
            safely(error_logger.exception, "the gateway failed")
            self.cut()
            self.release()

    def _return(self) -> None:
        """The application has returned."""
        if self.complete:
            return
        if self.refusal is not None and not self.on_wire:
            self._respond(self.refusal.status)
        elif self._heard or self.ending or self.broken:
            self._leave()
        elif self.on_wire or self.head is not None:
            error_logger.error("the application returned before its response to %s was complete", self._path)
            self._cut()
        else:
            error_logger.error("the application returned without a response to %s", self._path)
            self._respond(HTTPStatus.INTERNAL_SERVER_ERROR)

    def _refuse(self, refusal: Refused) -> None:
        """The application was not called: what proxies say of the client contradicts itself."""
        debug_logger.debug("refused %s: %d, %s", self.connection.peer, refusal.status, refusal)
        self._respond(refusal.status)

    def _fail(self, error: BaseException) -> None:
        """The application has raised."""
        if self.complete:
            if not (is_ours(error) or isinstance(error, CancelledError)):
                error_logger.error("an error after the response to %s", self._path, exc_info=error)
            return
        if self.refusal is not None and not self.on_wire:
            # It failed over a body that did not come whole.
            self._respond(self.refusal.status)
            return
        left = self._heard or self.ending or self.broken
        if left and (is_ours(error) or isinstance(error, CancelledError)):
            debug_logger.debug("%s: %s", self._path, ascii(str(error)))
            self._leave()
            return
        self.error = error
        if self.on_wire:
            self._cut()
        else:
            self._respond(HTTPStatus.INTERNAL_SERVER_ERROR)

    @property
    def _path(self) -> str:
        return ascii(self.request.path)

    def _respond(self, status: HTTPStatus) -> None:
        """Respond instead of the application, of whose response nothing has gone out."""
        self._held, self._held_size = (), 0
        self.head, body = instead(status)
        self.reply, self._trailers = None, None
        for part in self._begin(len(body)).give(body):
            self._hold(part)
        self._finish()

    def _leave(self) -> None:
        """The application has stopped because its client has left, or because the server ends."""
        if self.is_endless and self.reply is not None and not self.broken:
            self._given = True
            self._finish()  # an event stream has no end that could be missing
        else:
            self._cut()

    def _cut(self) -> None:
        """End the connection so that the client sees that the response is not whole."""
        self._held = ()
        self.complete = True
        self.cut()
        self._over()
