"""The gateway: one exchange with a WSGI application (PEP 3333).

:class:`Gateway` belongs to a server and holds what all its exchanges share; it is called by a runner with a
connection whose request and body are there. :class:`Exchange` is one call of the application and
its answer. The head of an answer goes out with the first piece of its body, so that start_response may be
called again until then, and an error before it can still become a 500.

One record a request is logged: 5xx at ``zibai.error`` with the traceback, all else at ``zibai.access``.
"""

import io
import logging
import os
import stat
import sys
from collections.abc import Callable, Iterable, Sized
from http import HTTPStatus
from types import TracebackType
from typing import Any, BinaryIO
from urllib.parse import unquote_to_bytes

from .connection import Connection, http_date
from .errors import Gone
from .http1.response import Framing, interim, validate
from .logger import access_logger, debug_logger, error_logger, log_exchange
from .scoreboard import clock

ExcInfo = tuple[type[BaseException], BaseException, TracebackType] | tuple[None, None, None]
Environ = dict[str, Any]
Headers = list[tuple[str, str]]
Application = Callable[[Environ, Callable[..., Callable[[bytes], object]]], Iterable[bytes]]

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


class Gateway:
    """Calls ``application`` for the connections of one server; any number of runners at once.

    ``script_name`` is the path prefix the application is mounted at, "" or "/prefix". Its state is not changed
    after the start, but for the set of things that are logged only once.
    """

    def __init__(
        self,
        application: Application,
        *,
        url_scheme: str = "http",
        script_name: str = "",
        multithread: bool = True,
        multiprocess: bool = False,
    ) -> None:
        self.application = application
        self.script_name = script_name
        self._default_port = "443" if url_scheme == "https" else "80"
        self._said: set[str] = set()
        self._base: Environ = {
            "SCRIPT_NAME": script_name,
            "SERVER_SOFTWARE": "zibai",
            "GATEWAY_INTERFACE": "CGI/1.1",
            "wsgi.version": (1, 0),
            "wsgi.url_scheme": url_scheme,
            "wsgi.errors": sys.stderr,
            "wsgi.multithread": multithread,
            "wsgi.multiprocess": multiprocess,
            "wsgi.run_once": False,
            "wsgi.input_terminated": True,
            "wsgi.file_wrapper": FileWrapper,
        }

    def __call__(self, connection: Connection) -> None:
        Exchange(self, connection).run()

    def environ(self, connection: Connection) -> Environ:
        """The environ of the request at hand: native strings of latin-1 (PEP 3333)."""
        request, endpoint, peer = connection.request, connection.endpoint, connection.peer
        assert request is not None
        environ = self._base.copy()
        path = request.path
        if "%" in path:
            path = unquote_to_bytes(path).decode("latin-1")
        if self.script_name and path.startswith(self.script_name):
            # A proxy in front may have taken the prefix off already; then the path is left as it is.
            rest = path[len(self.script_name) :]
            path = rest if rest[:1] in ("", "/") else path
        environ["REQUEST_METHOD"] = request.method
        environ["PATH_INFO"] = path
        environ["QUERY_STRING"] = request.query
        environ["REQUEST_URI"] = environ["RAW_URI"] = request.target
        environ["SERVER_PROTOCOL"] = request.version
        environ["SERVER_NAME"] = endpoint.host or "localhost"
        environ["SERVER_PORT"] = endpoint.port or self._default_port
        if isinstance(peer, tuple):
            environ["REMOTE_ADDR"] = peer[0]
            environ["REMOTE_PORT"] = str(peer[1])
        else:
            environ["REMOTE_ADDR"] = ""  # a unix socket has no address to tell
        environ.update(request.environ)
        if request.length is None and not connection.service.stream_body:
            # The body lies here whole and no longer chunked, so its length is a fact that frameworks can use.
            environ["CONTENT_LENGTH"] = str(connection.body.seek(0, io.SEEK_END))
            connection.body.seek(0)
            environ.pop("HTTP_TRANSFER_ENCODING", None)
        environ["wsgi.input"] = connection.body
        return environ

    def say_once(self, message: str, environ: Environ) -> None:
        """Log a fault of the application that is the same at each request; two runners may both be the first."""
        if message not in self._said:
            self._said.add(message)
            error_logger.warning("%s (said once, at %s)", message, ascii(environ.get("PATH_INFO")))


class Exchange:
    """One request and its answer; lives in one runner."""

    __slots__ = (
        "_complete", "_connection", "_error", "_fields", "_framing", "_gateway", "_left", "_sent", "_status", "environ",
    )  # fmt: skip

    def __init__(self, gateway: Gateway, connection: Connection) -> None:
        self._gateway = gateway
        self._connection = connection
        self._status = ""  # empty: start_response has not been called
        self._fields: Headers = []
        self._framing: Framing | None = None  # set when the head is out
        self._left: int | None = None  # bytes that Content-Length still promises
        self._sent = 0  # bytes of the body that the application gave and that were sent
        self._complete = False  # whether the whole answer was given to the connection
        self._error: BaseException | None = None
        self.environ = gateway.environ(connection)
        self.environ["wsgi.early_hints"] = self.early_hints
        self.environ["wsgix.informational"] = self.informational

    def run(self) -> None:
        """Call the application, send what it gives, and log the exchange."""
        try:
            iterable = self._gateway.application(self.environ, self.start_response)
            try:
                self._send_all(iterable)
            finally:
                if hasattr(iterable, "close"):
                    iterable.close()
        except Gone as error:
            self._end_early(error)
        except BaseException as error:  # SystemExit as well: an application does not end a worker
            self._fail(error)
        connection = self._connection
        connection.sent = self._sent
        if self._status:
            connection.status = int(self._status[:3])
        self._log()
        # The environ refers to us, a cycle that would keep it until the next collection. And what an application
        # keeps, write() for one, must not reach into the next exchange of the connection.
        del self.environ, self._connection

    # What the application is given.

    def start_response(self, status: str, headers: Headers, exc_info: ExcInfo | None = None) -> Callable[[bytes], None]:
        """PEP 3333's start_response; raises for what must not be sent, and ``exc_info`` once the head is out."""
        if exc_info is not None:
            try:
                if self._framing is not None and exc_info[1] is not None:
                    raise exc_info[1].with_traceback(exc_info[2])
            finally:
                exc_info = None
        elif self._status:
            raise AssertionError("start_response was called twice without exc_info")
        # A copy: what is changed behind our back after the check would go out unchecked.
        fields = list(headers)
        validate(status, fields)
        if status[0] == "1":
            raise ValueError(f"{status!r} is no final status; interim answers go by wsgix.informational")
        self._status, self._fields = status, fields
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
        assert self._connection.request is not None
        if self._framing is None and self._connection.request.is_http11:
            self._connection.interims += 1
            self._connection.send(data)

    # The answer.

    def _send_all(self, iterable: Iterable[bytes]) -> None:
        if isinstance(iterable, FileWrapper) and self._send_file(iterable):
            return
        # A single piece is the whole body, so its length is known (PEP 3333, "Handling the Content-Length Header").
        single = isinstance(iterable, Sized) and len(iterable) == 1
        for data in iterable:
            # An empty piece does not begin the answer: start_response may still be called again.
            if data or not isinstance(data, bytes):
                self._send(data, len(data) if single else None)
        self._finish()

    def _send(self, data: bytes, size: int | None) -> None:
        """Send a piece of the body, after the head. ``size`` is that of the whole body when it is known."""
        if type(data) is not bytes and not isinstance(data, bytes):
            raise TypeError(f"the application must give bytes, not {type(data).__name__}")
        framing = self._framing
        head = b""
        if framing is None:
            framing, head = self._begin(size)
        if framing.bodyless:
            data = b""
        elif framing.chunked:
            self._sent += len(data)
            if data:
                data = b"%x\r\n%b\r\n" % (len(data), data)
        else:
            if self._left is not None:
                if len(data) > self._left:
                    self._gateway.say_once("more than Content-Length is given; the rest is dropped", self.environ)
                    data = data[: self._left]
                self._left -= len(data)
            self._sent += len(data)
        if head and len(data) < BLOCK:
            self._connection.send(head + data)
        else:
            if head:
                self._connection.send(head)
            if data:
                self._connection.send(data)

    def _begin(self, size: int | None) -> tuple[Framing, bytes]:
        if not self._status:
            raise AssertionError("the application did not call start_response")
        connection = self._connection
        request = connection.request
        assert request is not None
        connection.forbid_continue()
        keep_alive = request.keep_alive and not connection.service.draining and not connection.closing
        framing = Framing(request, self._status, self._fields, size, keep_alive, http_date())
        for name in framing.removed:
            self._gateway.say_once(f"the field {name} is the server's to send; it is removed", self.environ)
        self._left = None if framing.bodyless else framing.length
        connection.closing = not framing.keep_alive
        # From here on the head counts as sent: whatever fails now, no second one may follow.
        self._framing = framing
        return framing, framing.head

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
        if not self._connection.endpoint.plain or not hasattr(os, "sendfile") or not self._status:
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
        if self._framing is None:
            self._begin(size)
            assert self._framing is not None
            self._connection.send(self._framing.head)
        framing = self._framing
        if framing.chunked:
            return False  # write() has begun an answer of unknown length
        if not framing.bodyless:
            count = size if self._left is None else min(size, self._left)
            sent = self._connection.send_file(fd, offset, count)
            self._sent += sent
            if self._left is not None:
                self._left -= sent
        self._finish()
        return True

    # When it goes wrong, and the record of it.

    def _end_early(self, error: Gone) -> None:
        """The client is gone or its body is: no fault of the application, no traceback."""
        connection = self._connection
        # The environ is the application's: it may have taken anything out.
        method, path = self.environ.get("REQUEST_METHOD"), self.environ.get("PATH_INFO")
        debug_logger.debug("%s %s: %s", method, ascii(path), error)
        if self._framing is None and connection.refusal is not None and not connection.broken:
            self._answer(connection.refusal.status)
        elif not self._complete:
            connection.cut()

    def _fail(self, error: BaseException) -> None:
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
        self._status = f"{status.value} {status.phrase}"
        self._fields = [("Content-Type", "text/plain; charset=utf-8")]
        body = f"{self._status}\n".encode()
        try:
            self._send(body, len(body))
        except Gone:
            pass  # nobody reads it; it is logged as what it is

    def _log(self) -> None:
        error = self._error
        connection = self._connection
        failed = error is not None or connection.status >= 500
        logger, level = (error_logger, logging.ERROR) if failed else (access_logger, logging.INFO)
        if logger.isEnabledFor(level):
            duration = clock() - connection.started
            log_exchange(logger, level, self.environ, connection.status, duration, self._sent, error)
        self._error = None  # it refers to this frame; a cycle would keep the environ until the next collection
