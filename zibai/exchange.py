"""One exchange: what an application is given to answer with, and how its answer goes out.

:class:`Exchange` is one call of the application and its answer. The head of an answer goes out with the first piece of
its body, so that start_response may be called again until then, and an error before it can still become a 500.

One record a request is logged: 5xx at ``zibai.error`` with the traceback, all else at ``zibai.access``.
"""

import io
import logging
import os
import stat
from collections.abc import Callable, Iterable
from http import HTTPStatus
from types import TracebackType
from typing import Any, BinaryIO

from .connection import Connection
from .errors import Gone
from .http1 import response
from .http1.request import Block, Request
from .http1.response import HOP_BY_HOP, Answer, Framing, head_end, interim, prepare
from .logger import access_logger, debug_logger, error_logger, log_exchange
from .scoreboard import clock

ExcInfo = tuple[type[BaseException], BaseException, TracebackType] | tuple[None, None, None]
Environ = dict[str, Any]
Headers = list[tuple[str, str]]

BLOCK = 64 * 1024
"""Bytes that are read from a file at once where it cannot be sent by the kernel."""


_PLAIN_FILES = (io.FileIO, io.BufferedReader, io.BufferedRandom)


class FileWrapper:
    """``wsgi.file_wrapper``: a file as an iterable; the server sends a plain file by ``os.sendfile`` instead."""

    def __init__(self, file: BinaryIO, block_size: int = BLOCK) -> None:
        self.file = file
        self.block_size = block_size
        if hasattr(file, "close"):
            self.close = file.close

    def __iter__(self) -> "FileWrapper":
        return self

    def __next__(self) -> bytes:
        if block := self.file.read(self.block_size):
            return block
        raise StopIteration


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


_OUT = Framing(Request("HEAD", "/", "/", "", "HTTP/1.1", Block([], {})), Answer("200 OK", ()), 0, True, b"")
"""That of an answer that went out at once, whole; nothing may be sent after it."""

_LENGTH = Framing(Request("GET", "/", "/", "", "HTTP/1.1", Block([], {})), Answer("200 OK", ()), 0, True, b"")
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
        self._send(data, None)

    def early_hints(self, headers: Headers) -> None:
        """Send 103 Early Hints (RFC 8297)."""
        self.informational("103 Early Hints", headers)

    def informational(self, status: str, headers: Headers) -> None:
        """Send an interim answer (1xx), unless the head is out or the client, of HTTP/1.0, knows none."""
        data = interim(status, headers)
        for name, _ in headers:
            if name.lower() in HOP_BY_HOP:
                self._say_removed(name)
        assert self._connection.request is not None
        if self._framing is None and self._connection.request.is_http11:
            self._connection.interims += 1
            self._connection.send(data)

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
        until, end = response.day
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
        if isinstance(iterable, FileWrapper) and self._send_file(iterable):
            return
        # A single piece is the whole body, so its length is known (PEP 3333, "Handling the Content-Length Header").
        single = hasattr(iterable, "__len__") and len(iterable) == 1  # type: ignore[arg-type]
        for data in iterable:
            # An empty piece does not begin the answer: start_response may still be called again.
            if data or not isinstance(data, bytes):
                self._send(data, len(data) if single else None)
        self._finish()

    def _send(self, data: bytes, size: int | None) -> None:
        """Send a piece of the body, after the head. ``size`` is that of the whole body when it is known."""
        if type(data) is not bytes and not isinstance(data, bytes):
            raise TypeError(f"the application must give bytes, not {type(data).__name__}")
        if self._complete:
            # The close() of an iterable may call write(), and a client would take these bytes for the next response.
            raise RuntimeError("the application called write() after the end of its response")
        connection, framing = self._connection, self._framing
        head = b""
        if framing is None:
            framing, head = self._begin(size)
        if framing.bodyless:
            data = b""
        elif framing.chunked:
            self.sent += len(data)
            if data:
                data = b"%x\r\n%b\r\n" % (len(data), data)
        else:
            if self._left is not None:
                if len(data) > self._left:
                    self._complaints.say_once("more than Content-Length is given; the rest is dropped", connection)
                    data = data[: self._left]
                self._left -= len(data)
            self.sent += len(data)
        if head and len(data) < BLOCK:
            connection.send(head + data)
        else:
            if head:
                connection.send(head)
            if data:
                connection.send(data)

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
        """Send a plain file by the kernel; False where it has to be read and sent."""
        if not self._connection.endpoint.plain or not hasattr(os, "sendfile") or self.answer is None:
            return False
        try:
            fd = wrapper.file.fileno()
            offset = wrapper.file.tell()
            info = os.fstat(fd)
        except (OSError, ValueError, AttributeError):
            return False
        if not stat.S_ISREG(info.st_mode) or not isinstance(wrapper.file, _PLAIN_FILES):
            return False  # whatever else has a descriptor may decode what it reads, as gzip does
        size = info.st_size - offset
        if size <= 0:
            return False  # also a file of /proc, which does not know its size
        framing = self._framing
        if framing is None:
            framing, head = self._begin(size)
            self._connection.send(head)
        if framing.chunked:
            return False  # write() has begun an answer of unknown length
        if not framing.bodyless:
            count = size if self._left is None else min(size, self._left)
            sent = self._connection.send_file(fd, offset, count)
            self.sent += sent
            if self._left is not None:
                self._left -= sent
        self._finish()
        return True

    # When it goes wrong, and the record of it.

    def end_early(self, error: Gone, environ: Environ) -> None:
        """The client is gone or its body is: no fault of the application, no traceback."""
        connection = self._connection
        # The environ is the application's: it may have taken anything out.
        method, path = environ.get("REQUEST_METHOD"), environ.get("PATH_INFO")
        debug_logger.debug("%s %s: %s", method, ascii(path), error)
        if self._framing is None and connection.refusal is not None and not connection.broken:
            self._answer(connection.refusal.status)
        elif not self._complete:
            connection.cut()

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

    def log(self, connection: Connection, environ: Environ) -> None:
        error = self._error
        failed = error is not None or connection.status >= 500
        logger, level = (error_logger, logging.ERROR) if failed else (access_logger, logging.INFO)
        if logger.isEnabledFor(level):
            duration = clock() - connection.started
            log_exchange(logger, level, environ, connection.status, duration, self.sent, error)
        self._error = None  # it refers to this frame; a cycle would keep the environ until the next collection
