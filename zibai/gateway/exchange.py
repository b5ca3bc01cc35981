"""One exchange: what an application is given to answer with, and how its answer goes out.

:class:`Exchange` is one call of the application and its answer. The head of an answer goes out with the first piece of
its body, so that start_response may be called again until then, and an error before it can still become a 500.

One record a request is logged: 5xx at ``zibai.error`` with the traceback, all else at ``zibai.access``.
"""

import logging
from collections.abc import Callable, Iterable, Iterator
from http import HTTPStatus
from types import TracebackType
from typing import Any, Final

from .. import clock as clocks
from ..clock import clock, head_end
from ..engine.connection import Connection
from ..engine.outgoing import STEP, File, read_at
from ..engine.sending import LOOK, TAIL
from ..errors import Gone, Refused
from ..logger import access_logger, debug_logger, error_logger
from ..protocol.http1.request import Request
from ..protocol.http1.response import Answer, Framing, interim, prepare
from ..telemetry.records import log_exchange
from .filewrapper import BLOCK, FileWrapper, open_plain

ExcInfo = tuple[type[BaseException], BaseException, TracebackType] | tuple[None, None, None]
Environ = dict[str, Any]
Headers = list[tuple[str, str]]

HALF_CLOSED: Final = 5.0
"""Seconds that an application may go on without a byte for a client that has ended its side of the connection. Such a
client has left, or has only half closed and still reads; before it is sent something nobody can tell."""


def _exact(data: object) -> bytes:
    """A piece of a body as plain bytes. A subclass counts as what it holds: its methods may tell another length."""
    if not isinstance(data, bytes):
        raise TypeError(f"the application must give bytes, not {type(data).__name__}")
    return memoryview(data).tobytes()


class Complaints:
    """What was said of an application: a fault that is the same at each request is logged once.

    Any runner's; two may both be the first.
    """

    def __init__(self) -> None:
        self._said: set[str] = set()

    def say_once(self, message: str, connection: Connection) -> None:
        if message not in self._said:
            self._said.add(message)
            path = connection.request.path if connection.request is not None else ""
            error_logger.warning("%s (said once, at %s)", message, ascii(path))


_OUT = Framing(Request("HEAD", "/", "/", "", "HTTP/1.1", {}), Answer("200 OK", ()), 0, True, b"")
"""That of an answer that went out at once, whole; nothing may be sent after it."""

_LENGTH = Framing(Request("GET", "/", "/", "", "HTTP/1.1", {}), Answer("200 OK", ()), 0, True, b"")
"""That of any plain answer with a Content-Length; its head is not in it."""


class Exchange:
    """One request and its answer; lives in one runner."""

    # Where it begins; the class has it, so that an exchange pays only for what it needs. For the same reason its
    # gateway makes it without an __init__, which would cost twice as much.
    _complaints: "Complaints"
    _connection: Connection
    answer: Answer | None = None  # what start_response was called with
    sent = 0  # bytes of the body that the application gave and that were sent
    _framing: Framing | None = None  # set when the head is out
    _left: int | None = None  # bytes that Content-Length still promises
    _look_at = 0.0  # when to look next whether the client is there
    _complete = False  # whether the whole answer was given to the connection
    _error: BaseException | None = None

    # What the application is given.

    def start_response(self, status: str, headers: Headers, exc_info: ExcInfo | None = None) -> Callable[[bytes], None]:
        """PEP 3333's start_response; raises for what must not be sent, and ``exc_info`` once the head is out."""
        if exc_info is not None:
            try:
                if self._framing is not None and exc_info[1] is not None:
                    raise exc_info[1].with_traceback(exc_info[2])
            finally:
                exc_info = None
        elif self.answer is not None:
            raise AssertionError("start_response was called twice without exc_info")
        answer = prepare(status, headers)
        if answer.code < 200:
            raise ValueError(f"{status!r} is no final status; interim answers go by wsgix.informational")
        self.answer = answer
        return self.write

    def write(self, data: bytes) -> None:
        """PEP 3333's write callable: ``data`` is on its way when it returns."""
        self._send(data if type(data) is bytes else _exact(data), None)
        if not data or self._is_satisfied():
            self._look_for_client()

    def early_hints(self, headers: Headers) -> None:
        """Send 103 Early Hints (RFC 8297)."""
        self.informational("103 Early Hints", headers)

    def informational(self, status: str, headers: Headers) -> None:
        """Send an interim answer (1xx), unless the head is out or the client, of HTTP/1.0, knows none."""
        data, removed = interim(status, headers)
        for name in removed:
            self._say_removed(name)
        assert self._connection.request is not None
        if self._framing is None and self._connection.request.is_http11:
            self._connection.interims += 1
            if self._connection.out:
                self._connection.drain(TAIL)
            self._connection.send(data)

    def client_disconnected(self) -> bool:
        """``zibai.client_disconnected``: whether nobody waits for this response any more. Any thread."""
        connection: Connection | None = self.__dict__.get("_connection")
        return connection is None or connection.has_left()

    # The answer.

    def send_at_once(self, connection: Connection, pieces: list[bytes]) -> bool:
        """Send an answer of one piece, if there is nothing about it to think about; most are like that.

        It does what the rest of this class does with such an answer, in a third of the time.
        """
        answer = self.answer
        if answer is None or not answer.plain or len(pieces) != 1 or self._framing is not None:
            return False
        data = pieces[0]
        if (
            type(data) is not bytes
            or (size := len(data)) >= BLOCK
            or not connection.request.plain  # type: ignore[union-attr]
            or connection.closing
            or connection.service.draining
        ):
            return False
        if answer.length == size:
            head = answer.data
        elif answer.length is None:
            head = b"%bContent-Length: %d\r\n" % (answer.data, size)
        else:
            return False
        until, end = clocks.day
        if clock() >= until:
            end = head_end()
        data = head + end + data
        self.sent = size
        self._framing = _OUT
        # Sender.send would do the same, at the cost of the call; it does the rest, and finds out what is wrong.
        try:
            done = 0 if connection.out else connection.sock.send(data)
        except OSError:
            done = 0
        if done != len(data):
            connection.send(data[done:])
        self._complete = True
        return True

    def send_all(self, iterable: Iterable[bytes]) -> None:
        """Send what the application has returned. When this returns, all that is left needs no runner."""
        if self._is_satisfied():
            # A body that nobody gets is not made: the iterable may have no end.
            self._finish()
            self._look_for_surplus(iter(iterable))
            return
        if type(iterable) is FileWrapper and self._send_file(iterable):
            return
        # A single piece is the whole body, so its length is known (PEP 3333, "Handling the Content-Length Header").
        single = hasattr(iterable, "__len__") and len(iterable) == 1  # type: ignore[arg-type]
        whole = type(iterable) is list or type(iterable) is tuple
        pieces = iter(iterable)
        for piece in pieces:
            data = piece if type(piece) is bytes else _exact(piece)
            # An empty piece does not begin the answer: start_response may still be called again.
            if data:
                self._send(data, len(data) if single else None, whole)
            elif not whole:
                self._look_for_client()
            if self._is_satisfied() or (self._framing is None and self.answer is not None and self.answer.length == 0):
                self._finish()
                self._look_for_surplus(pieces)
                return
        self._finish()

    def _is_satisfied(self) -> bool:
        """Whether no further byte of a body may be sent: there is none, or all that was promised is given."""
        framing, answer = self._framing, self.answer
        if framing is not None:
            return framing.bodyless or self._left == 0
        assert self._connection.request is not None
        return answer is not None and (answer.bodyless or self._connection.request.method == "HEAD")

    def _look_for_surplus(self, pieces: Iterator[bytes]) -> None:
        """The last byte that was promised is given. Give the application one step, not more, to come to its end.

        Many have something to do behind their last piece, and closing the iterable there would leave it undone.
        """
        if self._framing is not None and not self._framing.bodyless and next(pieces, b""):
            self._say_surplus()

    def _say_surplus(self) -> None:
        self._complaints.say_once("more than Content-Length is given; the rest is dropped", self._connection)

    def _look_for_client(self) -> None:
        """Nothing was sent, so nothing tells that the client has left: look, at intervals. Raises :class:`Gone`."""
        now = clock()
        if now >= self._look_at:
            self._look_at = now + LOOK
            if self._connection.has_left(HALF_CLOSED):
                raise Gone("the client has left")

    def _send(self, data: bytes, size: int | None, whole: bool = False) -> None:
        """Send a piece of the body, after the head. ``size`` is that of the whole body when it is known.

        If the client is slow, wait for it first, unless the ``whole`` body exists, or this piece is the last of it.
        """
        if self._complete:
            # The close() of an iterable may call write(), and a client would take these bytes for the next response.
            raise RuntimeError("the application called write() after the end of its response")
        connection, framing = self._connection, self._framing
        head = tail = b""
        if framing is None:
            framing, head = self._begin(size)
        if framing.bodyless:
            data = b""
        elif self._left is not None:
            if len(data) > self._left:
                self._say_surplus()
                data = data[: self._left]
            self._left -= len(data)
        given = len(data)
        if framing.chunked:
            if len(data) >= STEP:
                head, tail = b"%b%x\r\n" % (head, len(data)), b"\r\n"  # without a copy of what is large
            elif data:
                data = b"%x\r\n%b\r\n" % (len(data), data)
        if connection.out and not whole and self._left != 0:
            connection.drain(max(0, TAIL - len(data)))
        if head and len(data) < BLOCK:
            data = head + data
        elif head:
            connection.send(head)
        self.sent += given
        if data:
            connection.send(data)
        if tail:
            connection.send(tail)

    def _begin(self, size: int | None) -> tuple[Framing, bytes]:
        answer = self.answer
        if answer is None:
            raise AssertionError("the application did not call start_response")
        connection = self._connection
        request = connection.request
        assert request is not None
        if (
            answer.plain
            and answer.length is not None
            and request.plain
            and not (connection.closing or connection.service.draining)
        ):
            # What follows, where there is nothing to think about.
            self._framing, self._left = _LENGTH, answer.length
            return _LENGTH, answer.data + head_end()
        connection.forbid_continue()
        keep_alive = request.keep_alive and not connection.service.draining and not connection.closing
        framing = Framing(request, answer, size, keep_alive, head_end())
        for name in answer.removed:
            self._say_removed(name)
        self._left = None if framing.bodyless else framing.length
        connection.closing = not framing.keep_alive
        # From here on the head counts as sent: whatever fails now, no second one may follow.
        self._framing = framing
        return framing, framing.head

    def _say_removed(self, name: str) -> None:
        self._complaints.say_once(f"the field {name} is the server's to send; it is removed", self._connection)

    def _finish(self) -> None:
        """The application has given everything."""
        framing = self._framing
        if framing is None:
            self._send(b"", 0)  # an iterable without a piece, or of empty ones
            framing = self._framing
        assert framing is not None
        if framing.chunked:
            self._connection.send(b"0\r\n\r\n")
        elif self._left:
            raise ValueError(f"the application gave {self._left} bytes less than its Content-Length")
        self._complete = True

    def _send_file(self, wrapper: FileWrapper) -> bool:
        """Send a plain file without reading it in Python; False where it has to be read."""
        if self.answer is None:
            return False
        file = open_plain(wrapper.file, self._connection.endpoint.plain)
        if file is None:
            return False
        promised = self.answer.length if self._framing is None else self._left
        count = file.left if promised is None else min(file.left, promised)
        if count < BLOCK:
            return self._send_small_file(file, count)
        connection = self._connection
        size, file.left = file.left, count
        try:
            framing, head = (self._framing, b"") if self._framing is not None else self._begin(size)
            assert framing is not None
            if framing.chunked:
                head = b"%x\r\n" % count  # write() has begun a response of unknown length
            connection.send(head)
        except BaseException:
            file.close()
            raise
        self.sent += count
        connection.send_file(file)
        if framing.chunked:
            connection.send(b"\r\n")
        elif self._left is not None:
            self._left -= count
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

    # When it goes wrong, and the record of it.

    def end_early(self, error: Gone) -> None:
        """The client is gone or its body is: no fault of the application, no traceback."""
        connection = self._connection
        request = connection.request
        if request is not None:  # and not the environ, into which the application may have put anything
            debug_logger.debug("%s %s: %s", request.method, ascii(request.path), ascii(str(error)))
        if self._framing is None and connection.refusal is not None and not connection.broken:
            self._answer(connection.refusal.status)
        elif not self._complete:
            connection.cut()

    def refuse(self, refusal: Refused) -> None:
        """The application is not to be called."""
        debug_logger.debug("refused %s: %d, %s", self._connection.peer, refusal.status, refusal)
        self._answer(refusal.status)

    def fail(self, error: BaseException) -> None:
        """The application raised: a 500 while the head is not out, else a cut that the client can see."""
        if self._connection.refusal is not None and self._framing is None:
            # It tripped over a body that did not come whole, and hid the cause in an error of its own.
            self._answer(self._connection.refusal.status)
            return
        self._error = error
        if self._framing is None:
            self._answer(HTTPStatus.INTERNAL_SERVER_ERROR)
        elif not self._complete:
            self._connection.cut()

    def _answer(self, status: HTTPStatus) -> None:
        """Answer in the application's stead, while the head is not out."""
        line = f"{status.value} {status.phrase}"
        self.answer = prepare(line, [("Content-Type", "text/plain; charset=utf-8")])
        body = f"{line}\n".encode()
        try:
            self._send(body, len(body))
        except Gone:
            pass  # nobody reads it; it is logged as what it is

    def log(self, connection: Connection, environ: Environ, *, by_loop: bool = False) -> None:
        """Log the exchange as it is now. ``by_loop`` says that the loop calls, which must not block."""
        error = self._error
        failed = error is not None or connection.status >= 500
        logger, level = (error_logger, logging.ERROR) if failed else (access_logger, logging.INFO)
        if logger.isEnabledFor(level):
            duration = clock() - connection.started
            sent = max(0, self.sent - connection.lost)
            facts = (logger, level, environ, connection.status, duration, sent, error)
            if by_loop:
                connection.service.report(log_exchange, *facts)
            else:
                log_exchange(*facts)
        self._error = None  # it refers to this frame; a cycle would keep the environ until the next collection
