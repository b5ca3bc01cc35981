"""One call of a WSGI application: the callables that it gets, and how its response is sent.

:class:`Exchange` speaks PEP 3333 to the application and sends the bytes that a :class:`~zibai.gateway.reply.Reply`
makes. The head goes out with the first piece of the body. Until then the application may call start_response again,
and an error becomes a 500.

Each request is one log record: a 5xx goes to ``zibai.error`` with the traceback, all else to ``zibai.access``.
"""

from collections.abc import Callable, Iterable, Iterator
from http import HTTPStatus
from types import TracebackType
from typing import Final

from ..clock import clock, head_end
from ..engine.outgoing import File, read_at
from ..engine.sending import TAIL
from ..engine.stream import CLIENT_CHECK_INTERVAL, Stream
from ..errors import Gone, Refused
from ..logger import debug_logger
from ..protocol.http1.response import ResponseHead, interim, prepare
from .complaints import Complaints
from .filewrapper import FileWrapper, open_plain
from .reply import JOIN, Reply, exact, instead, joined
from .shortcut import send_at_once

ExcInfo = tuple[type[BaseException], BaseException, TracebackType] | tuple[None, None, None]
Headers = list[tuple[str, str]]

HALF_CLOSED: Final = 5.0
"""Seconds that an application may go on without sending a byte to a client that has ended its side of the connection.
Such a client has left, or it has only half closed and still reads. Only sending would show which."""


class Exchange:
    """One request and its response; lives in one runner.

    The gateway makes it without arguments and sets its attributes, since an ``__init__`` would cost twice as much, and
    defaults in the class are found by a search, which costs 3 % of a plain request.
    """

    __slots__ = ("_complaints", "_look_at", "_stream", "error", "head", "reply", "sent")

    _stream: Stream
    _complaints: Complaints
    head: ResponseHead | None  # of the last call of start_response
    sent: int  # bytes of the body that were given to the connection
    error: BaseException | None  # what the application raised
    reply: Reply | None  # made when the head goes out
    _look_at: float  # when to look next whether the client is there

    def __repr__(self) -> str:
        stream: Stream | None = self._stream
        request = None if stream is None else stream.request
        what = "over" if request is None else f"{request.method} {request.path}"
        return f"<Exchange: {what}, {self.reply or 'not begun'}>"

    # What the application is given.

    def start_response(self, status: str, headers: Headers, exc_info: ExcInfo | None = None) -> Callable[[bytes], None]:
        """PEP 3333's start_response. Raises for a bad head, and raises ``exc_info`` once the head is out."""
        if exc_info is not None:
            try:
                if self.reply is not None and exc_info[1] is not None:
                    raise exc_info[1].with_traceback(exc_info[2])
            finally:
                exc_info = None
        elif self.head is not None:
            raise AssertionError("start_response was called twice without exc_info")
        head = prepare(status, headers)
        if head.code < 200:
            raise ValueError(f"{status!r} is no final status; interim responses go by wsgix.informational")
        self.head = head
        return self.write

    def write(self, data: bytes) -> None:
        """PEP 3333's write callable: when it returns, ``data`` is on its way."""
        done = self._send(data if type(data) is bytes else exact(data))
        if not data or done:
            self._look_for_client()

    def early_hints(self, headers: Headers) -> None:
        """Send 103 Early Hints (RFC 8297)."""
        self.informational("103 Early Hints", headers)

    def informational(self, status: str, headers: Headers) -> None:
        """Send an interim response (1xx), unless the head is out or the client speaks HTTP/1.0."""
        data, removed = interim(status, headers)
        stream = self._stream
        for name in removed:
            self._complaints.removed(name, stream.request)
        assert stream.request is not None
        if self.reply is None and stream.request.is_http11:
            stream.interims += 1
            if stream.sender.out:
                stream.drain(TAIL)
            stream.send(data)

    def client_disconnected(self) -> bool:
        """``zibai.client_disconnected``: whether no client waits for this response any more. Any thread may call it."""
        stream: Stream | None = self._stream
        return stream is None or stream.has_left()

    # The response.

    def send_all(self, iterable: Iterable[bytes]) -> None:
        """Send the iterable of the application. When this returns, the rest of the response needs no runner."""
        if self._is_satisfied():
            # A body that no client gets is not iterated: the iterable may have no end.
            self._finish()
            self._look_for_surplus(iter(iterable))
            return
        if type(iterable) is FileWrapper and self._send_file(iterable):
            return
        # A single piece is the whole body, so its length is known (PEP 3333, "Handling the Content-Length Header").
        try:
            single = hasattr(iterable, "__len__") and len(iterable) == 1  # type: ignore[arg-type]
        except Exception:
            single = False  # a proxy of an iterator has __len__, and no length
        whole = type(iterable) is list or type(iterable) is tuple
        try:
            pieces = joined(iterable) if whole and not single else iter(iterable)
        except TypeError as error:
            raise TypeError(f"the application must return a list of bytes, not {type(iterable).__name__}") from error
        stream = self._stream
        request = stream.connection.request
        assert request is not None
        for piece in pieces:
            data = piece if type(piece) is bytes else exact(piece)
            # An empty piece does not begin the response: start_response may still be called again.
            if data:
                if self.reply is None and not whole and send_at_once(self, stream, request, data, whole=single):
                    self._look_for_surplus(pieces)
                    return
                satisfied = self._send(data, len(data) if single else None, whole)
            else:
                if not whole:
                    self._look_for_client()
                head = self.head
                satisfied = self._is_satisfied() or (self.reply is None and head is not None and head.length == 0)
            if satisfied:
                self._finish()
                self._look_for_surplus(pieces)
                return
        self._finish()

    def _is_satisfied(self) -> bool:
        """Whether no further byte of a body may be sent: the response has none, or all promised bytes are given."""
        reply, head = self.reply, self.head
        if reply is not None:
            return reply.left == 0
        request = self._stream.connection.request
        assert request is not None
        return head is not None and (head.bodyless or request.method == "HEAD")

    def _look_for_surplus(self, pieces: Iterator[bytes]) -> None:
        """The last promised byte is given. Let the application take one more step, to come to its end.

        Many applications have something to do after their last piece, and closing the iterable there would skip it.
        """
        if self.reply is not None and self.reply.has_body and next(pieces, b""):
            self._complaints.surplus(self._stream.request)

    def _look_for_client(self) -> None:
        """Check, at intervals, whether the client has left while nothing is sent to it. Raises :class:`Gone`."""
        now = clock()
        if now >= self._look_at:
            self._look_at = now + CLIENT_CHECK_INTERVAL
            if self._stream.has_left(HALF_CLOSED):
                raise Gone("the client has left")
        self._stream.send_nothing()

    def _send(self, data: bytes, size: int | None = None, whole: bool = False) -> bool:
        """Send a piece of the body, after the head; return whether the response is satisfied.

        ``size`` is that of the whole body when it is known. If the client is slow, wait for it first, unless the
        ``whole`` body exists, or this piece is the last of it.
        """
        reply = self.reply or self._begin(size)
        parts = reply.give(data)
        stream, satisfied = self._stream, reply.left == 0
        if satisfied and reply.surplus:
            self._complaints.surplus(stream.request)
        if stream.sender.out and not whole and not satisfied:
            stream.drain(max(0, TAIL - len(data)))
        self.sent = reply.given
        for part in parts:
            stream.send(part)
        return satisfied

    def _begin(self, size: int | None) -> Reply:
        """Make the reply. From here on the head counts as sent: whatever fails now, no second head may follow."""
        head = self.head
        if head is None:
            raise AssertionError("the application did not call start_response")
        stream = self._stream
        request = stream.connection.request
        assert request is not None
        stream.forbid_continue()
        keep_alive = request.keep_alive and not stream.service.draining and not stream.sender.closing
        reply = Reply(head, request, size, keep_alive, head_end())
        for name in head.removed:
            self._complaints.removed(name, stream.request)
        stream.sender.closing = not reply.keep_alive
        self.reply = reply
        return reply

    def _finish(self) -> None:
        """The application has given everything."""
        # An iterable without a piece, or of empty ones, is a body of a known length.
        reply = self.reply or self._begin(0)
        for part in reply.finish():
            self._stream.send(part)
        reply.complete = True

    def _send_file(self, wrapper: FileWrapper) -> bool:
        """Send a plain file without reading it in Python; False where it must be read."""
        if self.head is None:
            return False
        file = open_plain(wrapper.file, self._stream.connection.endpoint.plain)
        if file is None:
            return False
        promised = self.head.length if self.reply is None else self.reply.left
        count = file.left if promised is None else min(file.left, promised)
        if count < JOIN:
            return self._send_small_file(file, count)
        stream = self._stream
        size, file.left = file.left, count
        try:
            reply = self.reply or self._begin(size)
            before, behind = reply.around(count)
            stream.send(before)
        except BaseException:
            file.close()
            raise
        self.sent = reply.given
        stream.send_file(file)
        if behind:
            stream.send(behind)
        self._finish()
        return True

    def _send_small_file(self, file: File, count: int) -> bool:
        """Send a file that is a piece like any other; False when it is not as long as it says."""
        size = file.left
        try:
            data = read_at(file.fd, count, file.offset)
        except OSError:
            data = b""
        finally:
            file.close()
        if len(data) != count:
            return False
        self._send(data, size)
        self._finish()
        return True

    # When it goes wrong.

    def end_early(self, error: Gone) -> None:
        """The client has left, or its body did not come whole. The application is not at fault: log no traceback."""
        stream = self._stream
        request = stream.request
        if request is not None:  # and not the environ, into which the application may have put anything
            debug_logger.debug("%s %s: %s", request.method, ascii(request.path), ascii(str(error)))
        if self.reply is None and stream.refusal is not None and not stream.sender.broken:
            self._respond(stream.refusal.status)
        else:
            self._cut()

    def refuse(self, refusal: Refused) -> None:
        """Refuse the request instead of calling the application."""
        debug_logger.debug("refused %s: %d, %s", self._stream.connection.peer, refusal.status, refusal)
        self._respond(refusal.status)

    def fail(self, error: BaseException) -> None:
        """The application raised: a 500 while the head is not out, else a cut that the client can see."""
        if self._stream.refusal is not None and self.reply is None:
            # The application failed because its body did not come whole, and raised an error of its own.
            self._respond(self._stream.refusal.status)
            return
        self.error = error
        if self.reply is None or not self.reply.begun:  # not begun: it has promised a body and given nothing
            self.reply = None
            self._respond(HTTPStatus.INTERNAL_SERVER_ERROR)
        else:
            self._cut()

    def _cut(self) -> None:
        """Unless the response is complete, end the connection so that the client sees that it is not."""
        if self.reply is None or not self.reply.complete:
            self._stream.cut()

    def _respond(self, status: HTTPStatus) -> None:
        """Respond instead of the application, while the head is not out."""
        self.head, body = instead(status)
        try:
            self._send(body, len(body))
        except Gone:
            pass  # no client reads it; it is logged all the same
