"""The response of an ASGI application: which bytes its messages become, and when they are sent.

A :class:`~zibai.gateway.reply.Reply` makes bytes of the messages. They are held until the step of the application ends,
so that pieces of one step go out together. A head is never held for longer, because a client of an event stream waits
for it.

Everything here is for the thread of the event loop.
"""

from asyncio import sleep
from collections.abc import Callable
from http import HTTPStatus
from io import BytesIO
from typing import TYPE_CHECKING, Any

from ..clock import head_end
from ..engine.async_request import AsyncRequest, Body
from ..engine.outgoing import File
from ..errors import Gone
from ..logger import error_logger, safely
from ..protocol.http1.raw_response import prepare_raw
from ..system.forks import end_child
from .pending import TOGETHER, Pending
from .reply import Reply, instead
from .shortcut import send_at_once

if TYPE_CHECKING:
    from ..engine.backends.tasks import Tasks
    from ..engine.task_stream import TaskStream
    from ..protocol.http1.response import ResponseHead
    from .asgi import Gateway

Message = dict[str, Any]


class Responding(AsyncRequest):
    """The response side of an exchange. It is one object with the other sides, since a second one would cost 4 % of a
    plain request. Parts that only some requests need are made for them (``_pending``, ``body``, ``suspended``).
    """

    def __init__(self, stream: "TaskStream", tasks: "Tasks", gateway: "Gateway") -> None:
        """Set all attributes, also those of the bases: their own calls would cost 1 % of a plain request."""
        self.stream = stream
        self.connection = connection = stream.connection
        self.request = connection.request  # type: ignore[assignment]
        self._tasks = tasks
        self._gateway = gateway
        self.ending = self.ended = self.released = False
        self._waiters = self.suspended = self.body = None
        body = stream.body
        if body is not None and type(body) is not BytesIO:  # else it is there, for receive()
            stream.body = None
            self.body = Body(continued=not self.request.expects_continue)
        self.head: ResponseHead | None = None
        self.reply: Reply | None = None
        self.sent = 0  # bytes of the body of a response that took the short cut
        self.complete = False  # whether the last byte of the response was given to the stream
        self.on_wire = False  # whether the first byte was
        self.facts: dict[str, str] | None = None  # of the client, where its proxy tells more than its connection
        self._heard = False  # whether the application was told that its client has left
        self._pending: Pending | None = None

    def _start(self, message: Message) -> None:
        if self.head is not None:
            raise RuntimeError("http.response.start was sent twice")
        self.head = prepare_raw(message["status"], message.get("headers") or ())
        if message.get("trailers"):
            self._make_pending().trailers = []
        if self.suspended is not None:  # else the end of the first step does it
            self._end_step_soon()

    def _make_pending(self) -> Pending:
        if self._pending is None:
            self._pending = Pending()
        return self._pending

    @property
    def _has_trailers(self) -> bool:
        return self._pending is not None and self._pending.trailers is not None

    def _send_body(self, message: Message) -> bool:
        data = message.get("body", b"")
        if type(data) is not bytes:
            data = memoryview(data).tobytes()
        more = bool(message.get("more_body"))
        if self._pending is not None and self._pending.body_over:
            raise RuntimeError("http.response.body was sent after the last piece of the body")
        if not more and self.reply is None and self._send_at_once(data):
            return False
        reply = self.reply or self._begin(None if more or self._has_trailers else len(data))
        parts = reply.give(data)
        tired = not parts and more and self._make_pending().look()
        for part in parts:
            tired = self._queue(part)
        if reply.surplus:
            self._gateway.complaints.surplus(self.request)
        if not more:
            self._end_body()
        return tired

    def _send_at_once(self, data: bytes) -> bool:
        """Short cut for a response of one piece, which all gateways share; returns whether it was sent."""
        pending = self._pending
        if pending is not None and (pending.pieces or pending.trailers is not None):
            return False
        try:
            if not send_at_once(self, self.stream, self.request, data):
                return False
        except Gone:
            pass  # the client has left, which the log and the next message tell
        self.complete = self.on_wire = True
        self._gateway.log(self, None)
        self.release()
        return True

    def _end_body(self) -> None:
        """The application has given its last piece. Trailers may follow."""
        pending = self._pending
        if pending is None or pending.trailers is None:
            self._finish()
        else:
            pending.body_over = True

    def _begin(self, size: int | None) -> Reply:
        if self.head is None:
            raise RuntimeError("http.response.body was sent before http.response.start")
        self.forbid_continue()
        keep_alive = self.request.keep_alive and not self.closing
        self.reply = reply = Reply(self.head, self.request, size, keep_alive, head_end())
        for name in self.head.removed:
            self._gateway.complaints.removed(name, self.request)
        if not reply.keep_alive:
            self.end_after_this()
        if self.stream.service.draining and self.is_endless:
            self.call_soon(self.tell_end)  # the other requests were told before this one began
        return reply

    def _finish(self, error: BaseException | None = None) -> None:
        """The application has given everything. ``error`` is the error that it raised, if the response is a 500."""
        reply, pending = self.reply, self._pending
        assert reply is not None
        trailers = () if pending is None else pending.trailers or ()
        try:
            for part in reply.finish(b"".join(trailers)):
                self._queue(part)
        except ValueError as fault:  # less than it has promised
            error_logger.error("%s, at %s", fault, ascii(self.request.path))
            if reply.given:
                self._flush()
            self._end_incomplete()
            return
        reply.complete = self.complete = True
        self._flush()
        self._over(error)

    def _queue(self, part: bytes) -> bool:
        """Send a part, soon; return whether the event loop must turn before more is sent."""
        pending = self._make_pending()
        pending.pieces.append(part)
        pending.size += len(part)
        if pending.size >= TOGETHER:
            self._flush()
            return pending.look()
        self._flush_soon()
        return False

    async def rest_if_tired(self) -> None:
        if self._pending is not None and self._pending.tired and not self.complete:
            await sleep(0)
            self._pending.rested()

    async def let_others_run(self) -> None:
        """For an event that is told again and again: pause, once the step has lasted long, and then ever longer.

        A pause raises in a task, or in a scope of anyio, that is cancelled, and then the event is not told: frameworks
        ask in such a scope whether the client has left.
        """
        pending = self._make_pending()
        if pending.pause or pending.look():
            self._gateway.complaints.endless(self.request)
            pending.pause = min(2 * pending.pause or 0.01, 1.0)
            await sleep(pending.pause)
            pending.rested()
        else:
            self._end_step_soon()

    def _flush_soon(self) -> None:
        if not self.complete:
            self._end_step_soon()

    def _end_step_soon(self) -> None:
        suspended = self.suspended  # None in the first step, whose end does it
        if suspended is not None and not suspended.flush_is_due:
            suspended.flush_is_due = True
            self._tasks.after_step(self.end_step)

    @property
    def is_endless(self) -> bool:
        return self.head is not None and b"text/event-stream" in self.head.data.lower()

    def end_step(self) -> None:
        """The step of the application has ended, and the response has not: send what is held."""
        if self.suspended is not None:
            self.suspended.flush_is_due = False
        if self._pending is not None:
            self._pending.since = 0.0
        if self.complete or self._heard or self.ending or self.broken:
            return
        if self.reply is None and self.head is not None:
            self._make_pending().pieces += self._begin(None).give(b"")
        self._flush()

    def _flush(self) -> None:
        """Send what is held. A client that has left is noticed at the next message."""
        pending = self._pending
        if pending is None or not pending.pieces:
            return
        self.on_wire = True
        try:
            self.push(pending.take())
        except Gone:
            pass  # the client has left, which the log and the next message tell

    def _send_file(self, file: File, more: bool = False) -> None:
        """Send a file without reading it here. The loop sends the part that the client does not take at once."""
        try:
            if self._pending is not None and self._pending.body_over:
                raise RuntimeError("a file was sent after the last piece of the body")
            promised = None if self.head is None else self.head.length
            reply = self.reply or self._begin(None if more or self._has_trailers else file.left)
            count = file.left if reply.left is None else min(file.left, reply.left)
            if reply.has_body and promised is not None and file.left > count:
                self._gateway.complaints.surplus(self.request)
            before, behind = reply.around(count) if count else (b"", b"")
        except BaseException:
            file.close()
            raise
        file.left = count
        if before:
            self._queue(before)
        self._flush()
        self.on_wire = True
        if count:
            self.push_file(file)
            self._make_pending().look()
        else:
            file.close()
        if behind:
            self._queue(behind)
        if not more:
            self._end_body()

    def _over(self, error: BaseException | None = None) -> None:
        self._gateway.log(self, error)
        self.release()

    @property
    def _path(self) -> str:
        return ascii(self.request.path)

    def _respond(self, status: HTTPStatus, error: BaseException | None = None) -> None:
        """Respond instead of the application, before any byte was sent. ``error`` is the error that it raised."""
        if self._pending is not None:
            self._pending.clear()
        self.head, body = instead(status)
        self.reply = None
        for part in self._begin(len(body)).give(body):
            self._queue(part)
        self._finish(error)

    def _end_incomplete(self) -> None:
        """The response is incomplete: send a 500 if nothing was sent yet, else cut the connection."""
        if self.on_wire:
            self._cut()
        else:
            self._respond(HTTPStatus.INTERNAL_SERVER_ERROR)

    def _cut(self, error: BaseException | None = None) -> None:
        """End the connection so that the client sees that the response is incomplete."""
        if self._pending is not None:
            self._pending.clear()
        self.complete = True
        self.cut()
        self._over(error)

    def _finally(self, end: Callable[..., None], *args: Any) -> None:
        """End the response. A bug of the server costs this connection, and not the server."""
        if self._tasks.forked:
            end_child()
        try:
            end(*args)
        except Exception:
            safely(error_logger.exception, "the gateway failed")
            self.complete = True  # what the application has left must not touch the connection any more
            self.cut()
            self.release()
