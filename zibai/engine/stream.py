"""The runner's side of a connection: what blocks, while the loop goes on with everything else.

A runner (a thread or a greenlet) owns a connection from the beginning of :meth:`Stream.exchange` to its end. Within it
the gateway sends the response and reads a streamed body. All waiting is done by ``Service.waits``, as the backend does
it.

``send`` never waits. A runner that is to send one more piece of a response that goes on waits by ``drain`` first. That
bounds what lies in memory, and nothing else lets a slow client hold a runner.
"""

import io
import socket
import time
from collections.abc import Callable
from http import HTTPStatus
from math import inf
from typing import Any, Final

from ..clock import clock
from ..errors import Gone, Refused
from ..logger import error_logger, safely
from ..net.kernel import ENDED, RESET, look_for_client
from ..net.listener import Socket
from ..protocol.http1 import Codec, Request
from ..protocol.http1.response import CONTINUE
from ..telemetry.scoreboard import CALLED, READING, SENDING, Slot
from .context import RECEIVE, Service
from .load import TURN
from .outgoing import SMALL, STEP, File, Outgoing
from .sending import LOOK, TAIL, Sender

RATE_AFTER: Final = 10.0
"""Seconds that a body may take at any rate. After that it must have come at the minimum rate, on average."""

_A_READ: Final = 64
"""What a runner that reads a body at full speed counts for one step of it, see :data:`zibai.engine.load.TURN`."""


class Stream(Sender):
    """What a runner does with a connection. Everything here is the runner's, except what :meth:`_count` and
    :meth:`_patience` say of a body, whichever side reads it.
    """

    __slots__ = (
        "_body_waited", "_continued", "_exchanges", "_reader", "_received", "_since_yield", "_slot", "body", "codec",
        "ended", "interims", "refusal", "request", "sent", "started", "status",
    )  # fmt: skip

    def __init__(self, sock: Socket, service: Service) -> None:
        super().__init__(sock, service)
        self.codec = Codec(service.max_head, service.lane, service.max_target, service.base)
        self.request: Request | None = None
        self.body: Any = None  # a BinaryIO, of the request at hand; None for a request without a body
        self.refusal: Refused | None = None  # what is wrong with a streamed body
        self.interims = 0  # interim responses before the response
        self.started = 0.0  # when the runner began, by the package's clock
        self.status = 0  # of the last response; 499 is nginx's word for a client that left before it began
        self.sent = 0  # bytes of its body
        self.ended = inf  # when the client was first seen to have ended its side
        self._slot: Slot = service.row.slots[0]  # the runner's, while there is one
        self._exchanges = 0  # where their number is limited
        self._reader: BodyReader | None = None  # what reads a streamed body from the client
        self._received = 0  # bytes of the body
        self._body_waited = 0.0  # seconds that a runner has waited for it
        self._continued = False  # whether 100 Continue went out, or is no longer allowed
        self._since_yield = 0  # what a runner has read since it last let others run

    # The exchange.

    def exchange(self, slot: Slot, now: float) -> None:
        """Run the application for the request at hand. Never raises; leaves the connection to be finished.

        ``now`` is by :func:`zibai.clock.clock`.
        """
        self.started = now
        self.status = 499
        self.sent = 0
        self._slot = slot
        slot.begin(self.request.summary, now)  # type: ignore[union-attr]
        if self.service.keep_alive_requests:
            self.count_exchange()
        try:
            self.service.new_context().run(self.service.application, self)
        except BaseException:
            # The gateway catches what applications raise, so this is a bug of ours; the runner must live on.
            safely(error_logger.exception, "the gateway failed")
            self.status = HTTPStatus.INTERNAL_SERVER_ERROR
            self.cut()
        if self.body is not None:
            self.release_body()
        slot.end(self.status, now, clock())

    def count_exchange(self) -> None:
        """A request begins, where their number is limited."""
        self._exchanges += 1
        self.closing |= self._exchanges >= self.service.keep_alive_requests

    def give_up(self, slot: Slot) -> None:
        """End an exchange that was left by an error, as if ``exchange`` had returned. Never raises.

        Such an error can come from outside: a program may raise one in any of its threads
        (``PyThreadState_SetAsyncExc``), and it may hit the server's own code.
        """
        self.status = HTTPStatus.INTERNAL_SERVER_ERROR
        self.cut()
        if self.body is not None:
            self.release_body()
        slot.end(self.status, self.started, clock())

    def release_body(self) -> None:
        """End the body of a request whose application has returned. Never raises.

        A runner calls this, and not the loop: the application has had the body in its hands, so closing it may raise
        any error and may block.
        """
        body, self.body = self.body, None
        reader, self._reader = self._reader, None
        try:
            if reader is not None:
                BodyReader.let_go(reader)
            # Not body.close(), which an application may have replaced.
            type(body).close(body)
        except BaseException:  # noqa: S110
            # The application keeps a view of it, or has detached its raw side, or the disk is full and a file writes
            # its buffer now. The response is out, and nothing reads the body any more.
            pass

    # Sending.

    def send(self, data: bytes | memoryview) -> None:
        """Send, or lend what the client does not take at once. Never waits. Raises :class:`Gone`."""
        if self.out:
            self._lend(data)
            return
        # Only the runner adds to `out`, so it stays empty and no lock is needed.
        view = data
        while view:
            if self.broken:
                self.lost += len(view)
                raise Gone("the client has left")
            try:
                sent = self.sock.send(view)
                if sent == len(view):
                    return
                view = memoryview(view)[sent:]
            except (BlockingIOError, InterruptedError):
                self._lend(view)
                return
            except OSError as error:
                self.broken = True
                self.lost += len(view)
                raise Gone(f"the client has left: {error}") from None

    def _lend(self, data: bytes | memoryview) -> None:
        with self.lock:
            if self.broken:
                self.lost += len(data)
            self._check()
            if type(self.out) is bytearray and len(data) >= SMALL:
                self.out = Outgoing(self.out)
            self.out += data
            new = self._note_lent()
        if new:
            self.service.lend(self)

    def _check(self) -> None:
        if self.broken:
            raise Gone("the client has left")

    def send_file(self, file: File) -> None:
        """Send a file behind all else; never waits. The file is ours from now on. Raises Gone and FileFault."""
        new = False
        with self.lock:
            if self.broken:
                self.lost += file.left
                file.close()
            self._check()
            if type(self.out) is bytearray:
                self.out = Outgoing(self.out)
            self.out.add_file(file)
            now = time.monotonic()
            if not self.lent:
                self.start_clock(now)
            # As much as the kernel is likely to take goes at once; a client as fast as the file must not hold us.
            for _ in range(TAIL // STEP):
                if not (self.out and self._push(now)):
                    break
            if self.out:
                new = self._note_lent()
        if new:
            self.service.lend(self)
        if self.fault is not None:
            fault, self.fault = self.fault, None
            raise fault
        self._check()

    def abort(self) -> None:
        """Cut the connection under a runner; the socket stays open until the loop closes it.

        In HTTP/1.0 the end of the connection may mark the end of the body, so an orderly end would hide the cut. To
        close the socket resets the connection then, and the shutdown only wakes a runner that waits for a body.
        """
        orderly = self.request is None or self.request.is_http11
        with self.lock:
            self.broken = True
            self.forget()
        if not orderly:
            self.cut()
        try:
            self.sock.shutdown(socket.SHUT_RDWR if orderly else socket.SHUT_RD)
        except OSError:
            pass  # the client was faster

    def drain(self, size: int = 0) -> None:
        """Wait until no more than ``size`` bytes wait to be sent. Raises :class:`Gone`."""
        while len(self.out) > size:
            # By and by, since the loop may cut the connection meanwhile.
            if not self._wait_writable(min(LOOK, self.service.socket_timeout)):
                with self.lock:
                    slow = bool(self.out) and self.is_too_slow(time.monotonic())
                    self.broken |= slow
                if slow:
                    raise Gone(f"the client took nothing for {self.service.socket_timeout:g} s, or too little")
            with self.lock:
                self._push(time.monotonic())
        self._check()

    def hold(self) -> None:
        """The application has given all. Keep its runner as long as too much memory waits for slow clients in all."""
        while self.service.unsent.exceeded and self._held > TAIL and not self.broken:
            self._wait(self.service.waits.wait_writable, SENDING, LOOK)
            with self.lock:
                self._push(time.monotonic())

    def has_left(self, patience: float = 0.0) -> bool:
        """Whether the client has reset the connection, or ended its side, ``patience`` seconds ago or before."""
        found = RESET if self.broken else look_for_client(self.sock)
        if found == ENDED:
            now = time.monotonic()
            self.ended = min(self.ended, now)
            return now - self.ended >= patience
        return found == RESET

    def _wait_writable(self, timeout: float) -> bool:
        self._check()
        return self._wait(self.service.waits.wait_writable, SENDING, timeout)

    def _wait(self, wait: Callable[[Socket, float], bool], phase: int, timeout: float) -> bool:
        """Wait for the client as the backend does; the scoreboard tells that it is not the application that is slow."""
        self._slot.phase(phase)
        try:
            return wait(self.sock, timeout)
        finally:
            self._slot.phase(CALLED)

    # Reading a streamed body.

    def forbid_continue(self) -> None:
        """The final response begins: no 100 Continue from now on.

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
                    self._let_others_run(self.codec.spent + _A_READ)
                    return piece
            except Refused as refusal:
                raise self._stop_reading(refusal) from None
            if not self.codec.paused:
                self.codec.feed(self._receive())

    def _let_others_run(self, taken: int) -> None:
        """A client that always has the next bytes there would never let a greenlet wait, and all others would."""
        self._since_yield += taken
        if self._since_yield > TURN:
            self._since_yield = 0
            self.service.waits.wait_readable(self.sock, 0)

    def _receive(self) -> bytes:
        while True:
            try:
                data = self.sock.recv(RECEIVE)
            except (BlockingIOError, InterruptedError):
                # Only what is waited for here counts, not what the application does between two reads.
                before = time.monotonic()
                timeout = max(0.0, self._patience(self._body_waited))
                if not self._await_bytes(timeout):
                    refusal = Refused(HTTPStatus.REQUEST_TIMEOUT, f"it comes too slowly, or not: {timeout:g} s")
                    raise self._stop_reading(refusal) from None
                self._body_waited += time.monotonic() - before
            except OSError as error:
                self.broken = True
                raise Gone(f"the client has left: {error}") from None
            else:
                if not data:
                    raise self._stop_reading(Refused(HTTPStatus.BAD_REQUEST, "it ends too early"))
                return data

    def _await_bytes(self, timeout: float) -> bool:
        """Wait until it makes sense to receive again; False when that took too long."""
        return self._wait(self.service.waits.wait_readable, READING, timeout)

    def _stop_reading(self, refusal: Refused) -> Gone:
        self.closing = True
        self.refusal = refusal
        return Gone(f"the request body cannot be read: {refusal}")

    def _count(self, size: int) -> None:
        """Count bytes of the body against the limit, which a chunked one meets only here."""
        self._received += size
        if 0 < self.service.max_body < self._received:
            raise Refused(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, "a chunked body")

    def _patience(self, waited: float) -> float:
        """Seconds that the next piece of the body may take, after so many in which it was waited for.

        That is until the average would fall below the minimum rate, if no more came: so nothing has to be measured.
        """
        service = self.service
        if not service.min_body_rate:
            return service.socket_timeout
        return min(service.socket_timeout, max(RATE_AFTER, self._received / service.min_body_rate) - waited)


class BodyReader(io.RawIOBase):
    """The raw side of a streamed ``wsgi.input``; an ``io.BufferedReader`` stands before it."""

    def __init__(self, connection: Stream) -> None:
        self._connection = connection
        self._piece = memoryview(b"")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: "io.WriteableBuffer") -> int:  # type: ignore[name-defined]
        if not self._piece:
            connection: Stream | None = self.__dict__.get("_connection")
            if connection is None:
                raise ValueError("the request is over, and wsgi.input with it")
            self._piece = memoryview(connection.read())
        target = memoryview(buffer).cast("B")
        size = min(len(target), len(self._piece))
        target[:size] = self._piece[:size]
        self._piece = self._piece[size:]
        return size

    def close(self) -> None:
        self.let_go()
        super().close()

    def let_go(self) -> None:
        """Read no more from the connection: its next bytes may be another request's.

        Also, the connection refers to this object, and a cycle would keep its buffers until a collection.
        """
        self.__dict__.pop("_connection", None)
        self._piece = memoryview(b"")
