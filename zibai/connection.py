"""One client, from its first byte to its last.

A connection has one owner at a time. It is the *server loop* while it waits: for a head, a body, the client to
take an answer, or a lingering close. It is a *runner*, a thread or greenlet, while its application runs.
The loop's side (``readable``, ``writable``, ``expire``, ``finish``, ``refuse``) never blocks; it moves ``state`` and
``deadline``, and the loop watches the socket accordingly. The runner's side (``exchange`` and what an
application calls from within: ``send``, ``send_file``, ``read``) may block, and waits only through ``Service.waits``.

One thing is shared. What a runner could not send at once, up to 1 MiB, is lent to the loop, which sends it while the
application goes on: PEP 3333 wants no block delayed, and a slow client must not hold a thread for
it. From then on ``out`` is touched under ``lock``, by whoever finds the socket writable; the bytes
stay in one buffer, so their order cannot change. A runner that has lent nothing takes no lock.
"""

import io
import os
import socket
import struct
import sys
import tempfile
import time
from _thread import allocate_lock
from collections.abc import Callable
from dataclasses import dataclass, field
from http import HTTPStatus
from math import inf
from typing import BinaryIO, Final, Protocol, cast

from .errors import Gone, Refused
from .http1 import END, Codec, FastLane, Request
from .http1.response import CONTINUE, plain
from .logger import debug_logger, error_logger
from .scoreboard import CALLED, READING, SENDING, Row, Slot, clock
from .sockets import Endpoint, Socket

# The states, and who owns the connection in each.
HEAD: Final = "head"  # loop: waits for a request, or for the rest of its head
BODY: Final = "body"  # loop: waits for the rest of the body
READY: Final = "ready"  # loop: has a request, waits for a runner
APP: Final = "app"  # runner
FLUSH: Final = "flush"  # loop: the client has not taken the whole answer yet
DISCARD: Final = "discard"  # loop: reads the rest of a body that the application left unread
LINGER: Final = "linger"  # loop: the last answer is out; reads on for a moment, then closes
CLOSED: Final = "closed"  # loop: to be closed now

RECEIVE: Final = 64 * 1024
"""Bytes of one read; what bounds a complete head that arrives in one piece."""

IN_MEMORY: Final = 512 * 1024
"""Bytes of a body that are kept in memory; a larger one goes to a temporary file."""

TAIL: Final = 1024 * 1024
"""Bytes of an answer that the loop finishes for a runner."""

LINGER_TIME: Final = 2.0
"""Seconds of a lingering close. Closing a socket with unread input makes the kernel send RST, and the client
loses the answer it has not read yet (RFC 9112 9.6)."""

DISCARD_BYTES: Final = 256 * 1024
"""Bytes of an unread body that are worth reading to keep the connection."""


class Waits(Protocol):
    """How a runner of a backend waits. Both return False when ``timeout`` seconds went by without it."""

    def wait_readable(self, sock: Socket, timeout: float) -> bool: ...
    def wait_writable(self, sock: Socket, timeout: float) -> bool: ...


@dataclass(slots=True, kw_only=True)
class Service:
    """What the connections of one ``serve()`` share.

    ``draining`` is set once, when the end begins, and read by anyone. ``application`` is called by a runner with the
    connection. ``lend`` tells the loop, from any thread, that a runner's connection has something to send.
    ``report`` runs a logging call where logging may block, which is not everywhere the loop runs. ``row`` is where the
    server says what it does. ``lane`` None leaves every head to h11. Timeouts are seconds, sizes bytes; ``max_body`` 0
    is no limit. The loop's owner counts answers by the first digit of their status in ``answered``, interim ones
    besides the final ones, and the bytes of their bodies in ``sent``.
    """

    application: "Callable[[Connection], None]"
    waits: Waits
    report: Callable[..., None]
    row: Row
    lend: "Callable[[Connection], None]" = field(init=False)
    lane: FastLane | None = field(default_factory=FastLane)
    recognise: Callable[[bytes], Request | None] = field(init=False)
    whole_body: int = field(init=False)  # bytes of a body that may be taken together with its head
    header_timeout: float = 10.0
    keep_alive_timeout: float = 75.0
    socket_timeout: float = 30.0
    max_head: int = 64 * 1024
    max_body: int = 1024**3
    stream_body: bool = False
    draining: bool = False
    answered: list[int] = field(default_factory=lambda: [0] * 10)
    sent: int = 0

    def __post_init__(self) -> None:
        self.whole_body = 0 if self.stream_body else min(self.max_body or RECEIVE, IN_MEMORY)
        self.recognise = _nothing if self.lane is None or self.max_head < RECEIVE else self.lane.recognise


def _nothing(data: bytes) -> None:
    """The fast lane where there is none, or where it might take a head that is too large."""


class Connection:
    """One client. See the module for who may call what."""

    __slots__ = (
        "_begun", "_continued", "_discarded", "_received", "_slot", "alone", "body", "broken", "closing", "codec",
        "deadline", "endpoint", "facts", "fd", "interims", "lent", "lock", "out", "peer", "refusal", "request", "sent",
        "service", "sock", "started", "state", "status", "watched",
    )  # fmt: skip

    def __init__(self, sock: Socket, peer: object, endpoint: Endpoint, service: Service, now: float) -> None:
        self.sock, self.fd, self.peer = sock, sock.fileno(), peer
        self.endpoint, self.service = endpoint, service
        self.codec = Codec(service.max_head, service.lane)
        self.state = HEAD
        self.deadline = now + service.header_timeout
        self.watched = 0  # what the loop has asked its selector for; the loop's alone
        self.request: Request | None = None
        self.started = 0.0  # when the runner began, by the scoreboard's clock
        self.status = 0  # of the last answer; 499 is nginx's word for a client that left before it began
        self.sent = 0  # bytes of its body
        self.interims = 0  # interim answers before it
        self.facts: dict[str, str] = {}  # the gateway's, of this connection
        self._slot = service.row.slots[0]  # the runner's, while there is one
        self.body: BinaryIO = io.BytesIO()
        self.refusal: Refused | None = None  # what is wrong with a streamed body
        self._received = 0
        self.alone = False  # whether the whole of a request has come in one piece, and nothing else
        self._continued = False  # whether 100 Continue went out, or is no longer allowed
        self._discarded = 0
        self._begun = False  # whether a head has begun, so that its deadline runs
        self.closing = False  # no further request after this answer
        self.broken = False  # nothing can be sent any more
        self.lock = allocate_lock()
        self.out = bytearray()
        self.lent = False

    @property
    def idle(self) -> bool:
        """Whether it waits for a request of which not a byte has come."""
        return self.state is HEAD and not self._begun

    # The loop's side.

    def readable(self, now: float) -> None:
        """The socket has bytes, its end or an error; read once."""
        try:
            data = self.sock.recv(RECEIVE)
        except (BlockingIOError, InterruptedError):
            return
        except OSError:
            data = b""
        if not data:
            # The end before a whole request, or after the last one: there is nobody left to answer.
            self.state = CLOSED
        elif self.state is HEAD:
            # What came before was all of it, so nothing waits in the codec, which need not be asked then.
            request = self.service.recognise(data) if self.alone and data.endswith(END) else None
            if request is not None and request.length == 0:
                self.body = io.BytesIO()
            else:
                whole = self.codec.receive(data, self.service.whole_body)
                if whole is None:
                    self._advance(now)
                    return
                request, body = whole
                self.body = io.BytesIO(body)
            self.request = request
            self._begun = False
            self._continued = self.alone = True
            self.state = READY
            self.deadline = inf
        elif self.state is not LINGER:
            self.codec.feed(data)
            self._advance(now)

    def _advance(self, now: float) -> None:
        """Go as far as the bytes at hand allow."""
        try:
            if self.state is DISCARD:
                self._discard(now)
            if self.state is HEAD:
                self._take(self.codec.next_request(), now)
            elif self.state is BODY:
                self._read_body(now)
        except Refused as refusal:
            self.refuse(refusal, now)

    def _take(self, request: Request | None, now: float) -> None:
        """A head is complete, or is not yet."""
        self.request = request
        self.alone = False
        if request is None:
            if self.codec.has_bytes and not self._begun:
                # The whole head has this long, from its first byte; not each byte.
                self._begun = True
                self.deadline = now + self.service.header_timeout
            return
        self._begun = False
        self._received = 0
        self._continued = not (request.expects_continue and request.has_body)
        limit = self.service.max_body
        if limit and request.length is not None and request.length > limit:
            raise Refused(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, f"a body of {request.length} bytes")
        if not request.has_body:
            self.body = io.BytesIO()
        elif self.service.stream_body:
            self.body = io.BufferedReader(BodyReader(self), RECEIVE)
        else:
            self.body = io.BytesIO()
            self.state = BODY
            self.deadline = now + self.service.socket_timeout
            if not self._continued:
                self._continued = True
                if not self.codec.has_bytes:  # else it comes without waiting for us
                    self.interims += 1
                    self.out += CONTINUE
                    self.writable(now)
            if self.state is BODY:
                self._read_body(now)
            return
        self._make_ready()

    def _read_body(self, now: float) -> None:
        try:
            while piece := self.codec.next_body():
                self._count(len(piece))
                self.deadline = now + self.service.socket_timeout
                self.body.write(piece)
                if self._received > IN_MEMORY and isinstance(self.body, io.BytesIO):
                    spool = cast("BinaryIO", tempfile.TemporaryFile())  # noqa: SIM115 -- closed by finish() and close()
                    spool.write(self.body.getbuffer())
                    self.body = spool
            if piece is None:
                return
            self.body.seek(0)  # may be what finds the disk full: a file writes its buffer now
        except OSError as error:
            self.service.report(error_logger.error, "a request body cannot be spooled: %s", error)
            raise Refused(HTTPStatus.INSUFFICIENT_STORAGE, str(error)) from None
        self._make_ready()

    def _make_ready(self) -> None:
        self.state = READY
        self.deadline = inf

    def _count(self, size: int) -> None:
        """Count bytes of the body against the limit, which a chunked one meets only here."""
        self._received += size
        if 0 < self.service.max_body < self._received:
            raise Refused(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, "a chunked body")

    def _discard(self, now: float) -> None:
        """Read what an application left of its body, within bounds, so that the connection can be kept."""
        try:
            while piece := self.codec.next_body():
                self._discarded += len(piece)
        except Refused as refusal:
            # The request has its answer already, and a second one would be taken for that of the next.
            self._log_refusal(refusal)
            self._linger(now)
            return
        if piece is not None:
            self._recycle(now)
        elif self._discarded > DISCARD_BYTES:
            self._linger(now)

    def refuse(self, refusal: Refused, now: float) -> None:
        """Answer a request that no application sees, once, and let the connection end."""
        self._log_refusal(refusal)
        self.request = None
        self.closing = True
        self.service.answered[refusal.status // 100] += 1
        self.out += plain(refusal.status)
        self.state = FLUSH
        self.deadline = now + self.service.socket_timeout
        self.writable(now)

    def _log_refusal(self, refusal: Refused) -> None:
        self.service.report(debug_logger.debug, "refused %s: %d, %s", self.peer, refusal.status, ascii(str(refusal)))

    def writable(self, now: float) -> None:
        """The socket takes bytes: send what waits, in any state that has some."""
        with self.lock:
            self._push(now)
            if self.out or self.state is APP:
                return
        if self.state is FLUSH:
            self._flushed(now)
        elif self.broken:
            self.state = CLOSED

    def _push(self, now: float) -> None:
        """Send from the front of ``out``, under the lock. When it is empty nothing is lent any more."""
        try:
            sent = self.sock.send(self.out) if self.out else 0
        except (BlockingIOError, InterruptedError):
            return
        except OSError:
            self.broken = True
            self.out.clear()
        else:
            del self.out[:sent]
            if sent:
                self.deadline = now + self.service.socket_timeout
        if not self.out:
            self.lent = False
            if self.state is APP:
                self.deadline = inf

    def finish(self, now: float) -> None:
        """The runner is done. Send the rest, then read the next request or close."""
        self.body.close()
        if self.out and not self.broken:
            # Nobody else touches it now, so no lock is needed.
            self.state = FLUSH
            self.deadline = now + self.service.socket_timeout
        else:
            self._flushed(now)

    def _flushed(self, now: float) -> None:
        """Nothing is left to be sent of the last answer."""
        self.lent = False
        if self.broken:
            self.state = CLOSED
        elif self.closing:
            self._linger(now)
        else:
            self._answered(now)

    def _answered(self, now: float) -> None:
        """The whole answer is out and the connection is to be kept."""
        if self.codec.in_body:
            self.state = DISCARD
            self._discarded = 0
            self.deadline = now + LINGER_TIME
            self._advance(now)
        else:
            self._recycle(now)

    def _recycle(self, now: float) -> None:
        self.request = None
        self.state = HEAD
        self.deadline = now + self.service.keep_alive_timeout
        if self.codec.has_bytes:
            self._advance(now)

    def _linger(self, now: float) -> None:
        """The last answer is out: say so, and give the client the time to read it before the socket goes."""
        request = self.request
        if request is not None and not request.keep_alive and not self.codec.in_body and not self.codec.has_bytes:
            # The client asked for the end and has sent all it may send, so nothing unread can turn into RST.
            self.state = CLOSED
            return
        try:
            self.sock.shutdown(socket.SHUT_WR)
        except OSError:
            self.state = CLOSED
            return
        self.state = LINGER
        self.deadline = now + LINGER_TIME

    def expire(self, now: float) -> None:
        """The deadline has passed in the state it was set for."""
        if (self.state is HEAD and self._begun) or self.state is BODY:
            self.refuse(Refused(HTTPStatus.REQUEST_TIMEOUT, f"{self.state} not complete in time"), now)
        elif self.state is DISCARD:
            self._linger(now)
        elif self.state is APP:
            # What was lent stands still; the runner learns of it at its next send.
            self.deadline = inf
            self.abort()
        else:
            if self.state is FLUSH:
                self.service.report(debug_logger.debug, "%s does not take its answer", self.peer)
            self.state = CLOSED

    def abort(self) -> None:
        """Cut the connection under a runner; the socket stays open until the loop closes it."""
        with self.lock:
            self.broken = True
            self.out.clear()
        try:
            self.sock.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass  # the client was faster

    def close(self) -> None:
        """Release everything. Only the loop calls this, once the runner has given the connection back."""
        self.state = CLOSED
        try:
            self.body.close()
        except OSError:
            pass  # a file writes its buffer now, and the disk is full; nobody will read it
        self.sock.close()

    # The runner's side.

    def exchange(self, slot: Slot) -> None:
        """Run the application for the request at hand. Never raises; leaves the connection to be finished."""
        self.started = began = clock()
        self.status = 499
        self.sent = 0
        self._slot = slot
        slot.begin(self.request.summary, began)  # type: ignore[union-attr]
        try:
            self.service.application(self)
        except BaseException:
            # The gateway catches what applications raise, so this is a bug of ours; the runner must live on.
            error_logger.exception("the gateway failed")
            self.status = HTTPStatus.INTERNAL_SERVER_ERROR
            self.cut()
        slot.end(self.status, began, clock())

    def cut(self) -> None:
        """End the exchange so that the client sees that its answer is not whole."""
        self.closing = self.broken = True
        try:
            # With RST, since the end of the connection may be how the end of the body is marked.
            self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
        except OSError:
            pass  # there is no connection left to reset

    def send(self, data: bytes | memoryview) -> None:
        """Send, or lend what the client does not take at once; waits while that is over 1 MiB. Raises :class:`Gone`."""
        if self.out:
            self._send_behind(data)
            return
        # Only the runner adds to `out`, so it stays empty and no lock is needed.
        view = data
        while view:
            if self.broken:
                raise Gone("the client has left")
            try:
                sent = self.sock.send(view)
                if sent == len(view):
                    return
                view = memoryview(view)[sent:]
            except (BlockingIOError, InterruptedError):
                if len(view) <= TAIL:
                    self._lend(view)
                    return
                self._wait_writable()
            except OSError as error:
                self.broken = True
                raise Gone(f"the client has left: {error}") from None

    def _send_behind(self, data: bytes | memoryview) -> None:
        """Send behind what is still waiting."""
        self.drain(max(0, TAIL - len(data)))
        if len(data) > TAIL:
            self.send(data)
        else:
            self._lend(data)

    def _lend(self, data: bytes | memoryview) -> None:
        with self.lock:
            self.out += data
            new, self.lent = not self.lent, True
            self.deadline = time.monotonic() + self.service.socket_timeout
        if new:
            self.service.lend(self)

    def drain(self, size: int = 0) -> None:
        """Wait until no more than ``size`` bytes wait to be sent. Raises :class:`Gone`."""
        while len(self.out) > size:
            self._wait_writable()
            with self.lock:
                self._push(time.monotonic())
        if self.broken:
            raise Gone("the client has left")

    def _wait_writable(self) -> None:
        if self.broken or not self._wait(self.service.waits.wait_writable, SENDING):
            self.broken = True
            raise Gone(f"the client took nothing for {self.service.socket_timeout:g} s")

    def _wait(self, wait: Callable[[Socket, float], bool], phase: int) -> bool:
        """Wait for the client as the backend does; the scoreboard tells that it is not the application that is slow."""
        self._slot.phase(phase)
        try:
            return wait(self.sock, self.service.socket_timeout)
        finally:
            self._slot.phase(CALLED)

    def send_file(self, file: int, offset: int, count: int) -> int:
        """Send ``count`` bytes of the file descriptor from ``offset`` by ``os.sendfile``; return how many it had."""
        if sys.platform == "win32":
            raise AssertionError("there is no sendfile on Windows")
        self.drain()
        done = 0
        while done < count:
            try:
                sent = os.sendfile(self.fd, file, offset + done, count - done)
            except (BlockingIOError, InterruptedError):
                if count - done <= TAIL:
                    rest = os.pread(file, count - done, offset + done)
                    self.send(rest)
                    return done + len(rest)
                self._wait_writable()
                continue
            except OSError as error:
                self.broken = True
                raise Gone(f"the client has left: {error}") from None
            if not sent:
                break
            done += sent
        return done

    def forbid_continue(self) -> None:
        """The final answer begins: no 100 Continue from now on.

        A client that still waits for one may or may not send its body then, so the connection ends (RFC 9110 10.1.1).
        """
        if not self._continued:
            self._continued = self.closing = True

    def read(self) -> bytes:
        """The next piece of a streamed body, ``b""`` at its end. Raises :class:`Gone` when it does not come whole."""
        if not self._continued:
            self._continued = True
            self.interims += 1
            self.send(CONTINUE)
        if self.refusal is not None:
            raise self._stop_reading(self.refusal)
        while True:
            try:
                piece = self.codec.next_body()
                if piece is not None:
                    self._count(len(piece))
                    return piece
            except Refused as refusal:
                raise self._stop_reading(refusal) from None
            self.codec.feed(self._receive())

    def _receive(self) -> bytes:
        while True:
            try:
                data = self.sock.recv(RECEIVE)
            except (BlockingIOError, InterruptedError):
                timeout = self.service.socket_timeout
                if not self._wait(self.service.waits.wait_readable, READING):
                    refusal = Refused(HTTPStatus.REQUEST_TIMEOUT, f"nothing of it came for {timeout:g} s")
                    raise self._stop_reading(refusal) from None
            except OSError as error:
                self.broken = True
                raise Gone(f"the client has left: {error}") from None
            else:
                if not data:
                    raise self._stop_reading(Refused(HTTPStatus.BAD_REQUEST, "it ends too early"))
                return data

    def _stop_reading(self, refusal: Refused) -> Gone:
        self.closing = True
        self.refusal = refusal
        return Gone(f"the request body cannot be read: {refusal}")


_RESET = struct.pack("hh" if sys.platform == "win32" else "ii", 1, 0)


class BodyReader(io.RawIOBase):
    """The raw side of a streamed ``wsgi.input``; an ``io.BufferedReader`` stands before it."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._piece = memoryview(b"")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: "io.WriteableBuffer") -> int:  # type: ignore[name-defined]
        if not self._piece:
            self._piece = memoryview(self._connection.read())
        target = memoryview(buffer).cast("B")
        size = min(len(target), len(self._piece))
        target[:size] = self._piece[:size]
        self._piece = self._piece[size:]
        return size

    def close(self) -> None:
        # The connection has us as its body, which would be a cycle, and keep its buffers until a collection.
        self.__dict__.pop("_connection", None)
        super().close()
