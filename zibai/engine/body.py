"""Request bodies: those that wait whole, and those that an application reads while they arrive.

A body has a limit of size and a minimum of speed, whoever waits for it.
"""

import io
import time
from http import HTTPStatus
from typing import Any, Final

from ..errors import Gone, Refused
from ..net.listener import Endpoint, Socket
from ..protocol.http1 import Codec
from ..protocol.http1.response import CONTINUE
from ..telemetry.scoreboard import READING
from .context import IN_MEMORY, RECEIVE, Service
from .load import TURN, spool
from .preamble import Peered
from .states import LATER, STARVED

RATE_AFTER: Final = 10.0
"""Seconds that a body may take at any rate; from then on the minimum is asked of it, on average."""


_A_READ: Final = 64
"""What a runner that reads a body at full speed counts for one step of it, see :data:`zibai.engine.load.TURN`."""


class Receiver(Peered):
    """What a connection has and does of the body of its request. ``read`` and what it calls are the runner's.

    ``pause`` says why the loop does not read from it. ``body_held`` is how many bytes of memory the body counts for.
    """

    __slots__ = (
        "_body_since",
        "_body_waited",
        "_continued",
        "_reader",
        "_received",
        "_since_yield",
        "_spooled",
        "_starved_since",
        "body",
        "body_held",
        "codec",
        "interims",
        "pause",
        "refusal",
    )  # fmt: skip

    def __init__(self, sock: Socket, peer: object, endpoint: Endpoint, service: Service) -> None:
        super().__init__(sock, peer, endpoint, service)
        self.codec = Codec(service.max_head, service.lane, service.max_target, service.base)
        self.body: Any = None  # a BinaryIO, of the request at hand; None for a request without a body
        self.refusal: Refused | None = None  # what is wrong with a streamed body
        self.interims = 0  # interim answers before the answer
        self._reader: BodyReader | None = None  # what reads a streamed body from the client
        self._received = 0
        self._body_waited = 0.0  # seconds that a runner has waited for it
        self._continued = False  # whether 100 Continue went out, or is no longer allowed
        self.pause = 0
        self._body_since = 0.0  # when the loop began to wait for the body
        self._starved_since = 0.0  # when there was no more room for it; 0 while there is
        self.body_held = self._spooled = 0  # bytes of the body that count as in memory, or in a file
        self._since_yield = 0  # what a runner has read since it last let others run

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
            # its buffer now. The response is out, and nobody reads the body any more.
            pass

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

    # The loop's side.

    def _next_piece(self) -> bytes | None:
        """The next piece of the body, ``b""`` at its end. None when more bytes are needed, or a ``pause`` is.

        A connection gets one piece in a turn if that took long, and nothing when the turn has taken long enough.
        """
        load, codec = self.service.load, self.codec
        if self.pause:
            return None
        if load.budget <= 0:
            self.pause = LATER
            return None
        piece = codec.next_body()
        load.budget -= codec.spent
        if codec.paused:
            self.pause = LATER
        return piece

    def _starve(self, now: float) -> bool:
        """Whether there is no room for more of the body; then the client has to wait for it."""
        load = self.service.load
        grows_in_file = self._spooled or self._received + RECEIVE > IN_MEMORY or load.memory + RECEIVE > load.max_memory
        if not grows_in_file or load.has_room(new=not self._spooled):
            if self._starved_since:
                # To wait for us was no fault of the client's.
                self._body_since += now - self._starved_since
                self._starved_since = 0.0
                self.deadline = now + self._patience(now - self._body_since)
            return False
        self._starved_since = self._starved_since or now
        self.pause = STARVED
        self.deadline = self._starved_since + self.service.socket_timeout
        return True

    def _store(self, piece: bytes) -> None:
        """Put a piece behind the others: in memory, or in a file if the body or all bodies together are too large."""
        load, size = self.service.load, len(piece)
        if not self._spooled:
            if self._received <= IN_MEMORY and load.memory + size <= load.max_memory:
                self._hold(size)
                self.body.write(piece)
                return
            assert isinstance(self.body, io.BytesIO)
            file = spool()
            held = self.body_held
            self._hold(-held)
            self._spooled = held
            load.disk += held
            load.files += 1
            begun, self.body = self.body, file
            file.write(begun.getbuffer())
        self._spooled += size
        load.disk += size
        self.body.write(piece)

    def _hold(self, size: int) -> None:
        self.body_held += size
        self.service.load.memory += size

    def drop_body(self) -> None:
        """Release a body that no application has in its hands, and give back what it holds."""
        if self.body is not None:
            self.release_body()
        self.give_back()

    def give_back(self) -> None:
        """The body is released: what it has held is free. The loop counts, so the runner that releases it does not."""
        load = self.service.load
        load.memory -= self.body_held
        if self._spooled:
            load.disk -= self._spooled
            load.files -= 1
        load.freed = True
        self.body_held = self._spooled = 0

    # The runner's side.

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


class BodyReader(io.RawIOBase):
    """The raw side of a streamed ``wsgi.input``; an ``io.BufferedReader`` stands before it."""

    def __init__(self, connection: Receiver) -> None:
        self._connection = connection
        self._piece = memoryview(b"")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: "io.WriteableBuffer") -> int:  # type: ignore[name-defined]
        if not self._piece:
            connection: Receiver | None = self.__dict__.get("_connection")
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
