"""One WebSocket of an ASGI application (ASGI, HTTP & WebSocket spec 2.5).

It begins as a request with a response: the application accepts the handshake, by 101, or denies it, by any other
response. Until then it is a :class:`~zibai.gateway.asgi_response.Responding` and holds a slot. Then the request is
over, and the messages go through a :class:`~zibai.engine.message_stream.MessageStream`.

An application that returns closes the WebSocket with 1000, one that raises with 1011. At the end of the server it is
closed with 1001, or with 1012 if another process serves on, so that the client connects again.

Everything here is for the thread of the event loop.
"""

from asyncio import CancelledError
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, Final

from ..config.options import Options
from ..engine.async_stream import HIGH, MESSAGES
from ..engine.message_limits import MessageLimits
from ..engine.message_stream import ABNORMAL_CLOSURE, MessageStream
from ..engine.task_stream import TaskStream
from ..errors import Gone, Refused
from ..logger import debug_logger, error_logger
from ..protocol.http1.response import ResponseHead
from ..protocol.websocket import handshake
from ..protocol.websocket.codec import Codec
from ..protocol.websocket.deflate import Agreed
from ..protocol.websocket.reference import is_close_code
from .asgi_response import Message, Responding
from .blame import is_farewell

if TYPE_CHECKING:
    from ..engine.backends.tasks import Tasks
    from .asgi import Gateway

_SWITCHING: Final = ResponseHead("101 Switching Protocols", ())
"""The head in the log record of a handshake that was accepted."""

_GOING_AWAY: Final = 1001, "the server ends"
_RESTART: Final = 1012, "the server restarts"


class WebSockets:
    """Makes the exchanges of one server; the settings that they share."""

    def __init__(self, options: Options) -> None:
        self.limits = MessageLimits.from_options(options)

    def __call__(self, stream: TaskStream, tasks: "Tasks", gateway: "Gateway") -> "WebSocketExchange":
        return WebSocketExchange(stream, tasks, gateway, self.limits)


class Opening:
    """An opening handshake (RFC 6455 4), and its ``socket`` once the application has accepted.

    ``connected``, ``disconnected``: the application has had these events. ``agreed``: how messages are compressed.
    """

    __slots__ = ("agreed", "connected", "disconnected", "limits", "socket")

    def __init__(self, limits: MessageLimits) -> None:
        self.limits = limits
        self.agreed: Agreed | None = None
        self.connected = self.disconnected = False
        self.socket: MessageStream | None = None

    def __repr__(self) -> str:
        return f"<Opening: {self.socket or 'not accepted'}>"


class WebSocketExchange(Responding):
    """``receive`` and ``send`` of one WebSocket; any number of tasks of the application may wait in ``receive``."""

    def __init__(self, stream: TaskStream, tasks: "Tasks", gateway: "Gateway", limits: MessageLimits) -> None:
        super().__init__(stream, tasks, gateway)
        self._opening = Opening(limits)

    def __repr__(self) -> str:
        return f"<WebSocketExchange: {self.request.path}, {self._opening.socket or 'not accepted'}>"

    # What the application is given.

    async def receive(self) -> Message:
        """The next event: a message of the client, or the end."""
        if not self._opening.connected:
            self._opening.connected = True
            return {"type": "websocket.connect"}
        socket = self._opening.socket or await self._decision()
        message = None if socket is None else socket.take()
        if message is None and socket is not None:
            message = await socket.next()
        if message is None:
            if self._opening.disconnected:
                await self.let_others_run()
            self._opening.disconnected = True
            code, reason = (socket.end if socket is not None else None) or ABNORMAL_CLOSURE
            return {"type": "websocket.disconnect", "code": code, "reason": reason}
        return {"type": "websocket.receive", "text" if isinstance(message, str) else "bytes": message}

    async def send(self, message: Message) -> None:
        """Take a message. Raises :class:`~zibai.errors.Gone`, an ``OSError``, once the WebSocket is closed."""
        socket, kind = self._opening.socket, message["type"]
        if socket is None:
            self._respond_to_handshake(kind, message)
            await self.rest_if_tired()
            if self.waiting > HIGH and not self.complete:
                await self.drain()
        elif kind == "websocket.send":
            text = message.get("text")
            if text is None:
                data = message["bytes"]
                socket.send(data if type(data) is bytes else memoryview(data).tobytes())
            elif isinstance(text, str):
                socket.send(text)
            else:
                raise TypeError(f"the text of a message must be a str, not {type(text).__name__}")
            if socket.waiting > HIGH or not socket.counts.messages_out % MESSAGES:
                await socket.drain()
        elif kind == "websocket.close":
            if socket.end is not None:
                raise Gone("the WebSocket is closed")
            code = message.get("code", 1000)
            if not is_close_code(code):
                raise ValueError(f"{code!r} is no code that may close a WebSocket")
            socket.close(code, message.get("reason") or "")
        elif kind == "websocket.accept":
            raise RuntimeError("websocket.accept was sent twice")
        else:
            raise ValueError(f"{kind!r} is no message of a WebSocket that was accepted")

    async def _decision(self) -> MessageStream | None:
        """Wait until another task has accepted; None when it has denied, or the client has left."""
        while self._opening.socket is None and not (self.complete or self.ended or self.broken):
            await self._wait(self._make_waiters().end)
        return self._opening.socket

    # The handshake.

    def _respond_to_handshake(self, kind: str, message: Message) -> None:
        if self.complete or self.ended or self.broken:
            raise Gone("the handshake was denied" if self.complete else "the client has left")
        if kind == "websocket.http.response.body":
            self._send_body(message)
        elif self.head is not None:
            raise RuntimeError(f"{kind} was sent after websocket.http.response.start")
        elif kind == "websocket.accept":
            self._accept(message)
        elif kind == "websocket.close":
            self._deny(HTTPStatus.FORBIDDEN)
        elif kind == "websocket.http.response.start":
            self.end_after_this()
            self._start(message)
        elif kind == "websocket.send":
            raise RuntimeError("websocket.send was sent before websocket.accept")
        else:
            raise ValueError(f"{kind!r} is no message of a WebSocket")

    def _accept(self, message: Message) -> None:
        gateway, request, stream, agreed = self._gateway, self.request, self.stream, self._opening.agreed
        subprotocol = message.get("subprotocol")
        if subprotocol is not None and subprotocol not in handshake.offered(request):
            gateway.complaints.subprotocol(subprotocol, request)
            subprotocol = None
        field = "" if agreed is None else agreed.field
        head, removed = handshake.accept(request, subprotocol, field, message.get("headers") or ())
        for name in removed:
            gateway.complaints.removed(name, request)
        self.push(head)
        self.head, self.on_wire, self.complete = _SWITCHING, True, True
        gateway.log(self, None)
        opening, limits = self._opening, self._opening.limits
        codec = Codec(limits.max_size, limits.max_queue, agreed, limits.compress_from)
        opening.socket = stream.running = socket = MessageStream(stream, self._tasks, codec, limits, self._hang_up)
        self._tasks.upgrade(self)
        socket.begin(self.connection.codec.take_rest())
        self.wake_all()
        if self._tasks.is_ending:
            self.tell_end()

    def _deny(self, status: HTTPStatus, error: BaseException | None = None) -> None:
        self.end_after_this()
        self._respond(status, error)

    # The end.

    @property
    def upgraded(self) -> bool:
        return self._opening.socket is not None

    @property
    def is_endless(self) -> bool:
        """No: a handshake that waits for its decision is a request, with the time limit of a request."""
        return self._opening.socket is not None

    def tell_end(self) -> None:
        """The server ends. An application that has not yet decided on the handshake is told after its decision."""
        if self._opening.socket is not None:
            self._opening.socket.close(*(_RESTART if self._tasks.loop.is_replaced else _GOING_AWAY))

    def _hang_up(self) -> None:
        """The connection is over."""
        socket = self._opening.socket
        assert socket is not None
        self._gateway.log_close(self, socket.end or ABNORMAL_CLOSURE, socket.counts)
        self.release()

    async def run(self) -> None:
        """Call the application, and stay until the connection is over. Raises nothing but KeyboardInterrupt."""
        try:
            try:
                handshake.check(self.request)
                offers = self.request.environ.get("HTTP_SEC_WEBSOCKET_EXTENSIONS")
                if offers and self._opening.limits.compress_from:
                    self._opening.agreed = Agreed.from_offers(offers)
                await self._gateway.callable(self._scope(), self.receive, self.send)
            except KeyboardInterrupt:
                self._finally(self._abandon)
                raise
            except Refused as refusal:
                self._finally(self._refuse, refusal)
            except BaseException as error:
                self._finally(self._fail, error)
            else:
                self._finally(self._return)
            while self._opening.socket is not None and not self.released:
                await self._wait(self._make_waiters().end)
        finally:
            self._tasks.end(self)

    def _scope(self) -> dict[str, Any]:
        scope = self._gateway.scope(self)
        del scope["method"]
        scope["type"] = "websocket"
        scope["scheme"] = "wss" if scope["scheme"] == "https" else "ws"
        scope["subprotocols"] = handshake.offered(self.request)
        scope["extensions"] = {"websocket.http.response": {}}
        return scope

    def _abandon(self) -> None:
        """The process ends, by Ctrl-C."""
        if self._opening.socket is not None:
            self._opening.socket.cut_now()
        elif not self.complete:
            self._cut()

    def _refuse(self, refusal: Refused) -> None:
        """Refuse a bad handshake, or one with contradictory forwarding fields. The application was not called."""
        debug_logger.debug("refused %s: %d, %s", self.connection.peer, refusal.status, refusal)
        self._deny(refusal.status)

    def _respond(self, status: HTTPStatus, error: BaseException | None = None) -> None:
        if status is not HTTPStatus.UPGRADE_REQUIRED:
            super()._respond(status, error)
            return
        body = b"426 Upgrade Required\n"
        self.head = ResponseHead("426 Upgrade Required", [("Content-Type", "text/plain; charset=utf-8")])
        # RFC 9110 15.5.22, RFC 6455 4.2.2. Applications may not send these fields of one hop.
        self.head.data += b"Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
        self._send_body({"body": body})

    def _return(self) -> None:
        """The application has returned."""
        if self._opening.socket is not None:
            self._opening.socket.close(1000)
        elif self.complete:
            pass
        elif self.ended or self.broken:
            self._cut()
        elif self.timed_out and not self.on_wire:
            self._deny(HTTPStatus.GATEWAY_TIMEOUT)
        elif self.on_wire or self.head is not None:
            error_logger.error("the application returned before its response to %s was complete", self._path)
            self._cut()
        else:
            error_logger.error("the application returned without a response to the WebSocket %s", self._path)
            self._deny(HTTPStatus.INTERNAL_SERVER_ERROR)

    def _fail(self, error: BaseException) -> None:
        """The application has raised."""
        socket = self._opening.socket
        gone = self.ended or self.broken or (socket is not None and socket.end is not None)
        cancelled = isinstance(error, CancelledError) and self._tasks.is_ending
        expired = isinstance(error, CancelledError) and self.timed_out and socket is None
        ours = cancelled or (gone and (expired or is_farewell(error)))
        if ours:
            debug_logger.debug("%s: %s", self._path, ascii(str(error)))
        if socket is not None or self.complete:
            if not ours:
                error_logger.error("the application failed in the WebSocket %s", self._path, exc_info=error)
            if socket is not None and cancelled:
                socket.cut_now()
            elif socket is not None:
                socket.close(1011)
            return
        told = None if ours or expired else error
        if ours or self.on_wire:
            self._cut(told)
        else:
            self._deny(HTTPStatus.GATEWAY_TIMEOUT if self.timed_out else HTTPStatus.INTERNAL_SERVER_ERROR, told)
