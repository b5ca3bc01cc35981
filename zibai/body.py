"""Request bodies: those that nobody has sent, those that wait whole, and those that an application reads as they come.

A body has a limit of size and a minimum of speed, whoever waits for it.
"""

import io
import time
from contextlib import suppress
from http import HTTPStatus
from typing import BinaryIO, Final

from .errors import Gone, Refused
from .http1 import Codec
from .http1.response import CONTINUE
from .load import TURN, spool
from .peer import Peered
from .scoreboard import READING
from .service import IN_MEMORY, LATER, RECEIVE, STARVED, Service
from .sockets import Endpoint, Socket

RATE_AFTER: Final = 10.0
"""Seconds that a body may take at any rate; from then on the minimum is asked of it, on average."""


class _NoBody(io.BytesIO):
    """The body of all requests that have none: it is empty and open, whatever an application does to it."""

    def write(self, data: object) -> int:
        raise io.UnsupportedOperation("write")

    def close(self) -> None:
        """Do nothing: it is not one request's."""


NO_BODY: Final = _NoBody()

_A_READ: Final = 64
"""What a runner that reads a body at full speed counts for one step of it, see :data:`zibai.load.TURN`."""


class Receiver(Peered):
    """What a connection has and does of the body of its request. ``read`` and what it calls are the runner's.

    ``pause`` says why the loop does not read from it.
    """

    __slots__ = (
        "_body_since", "_body_waited", "_continued", "_held", "_received", "_spooled", "_starved_since", "_taken",
        "body", "codec", "interims", "pause", "refusal",
    )  # fmt: skip

    def __init__(self, sock: Socket, peer: object, endpoint: Endpoint, service: Service) -> None:
        super().__init__(sock, peer, endpoint, service)
        self.codec = Codec(service.max_head, service.lane, service.max_target)
        self.body: BinaryIO = NO_BODY
        self.refusal: Refused | None = None  # what is wrong with a streamed body
        self.interims = 0  # interim answers before the answer
        self._received = 0
        self._body_waited = 0.0  # seconds that a runner has waited for it
        self._continued = False  # whether 100 Continue went out, or is no longer allowed
        self.pause = 0
        self._body_since = 0.0  # when the loop began to wait for the body
        self._starved_since = 0.0  # when there was no more room for it; 0 while there is
        self._held = self._spooled = 0  # bytes of the body that count as in memory, or in a file
        self._taken = 0  # what a runner has read since it last let others run

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
            held = self._held
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
        self._held += size
        self.service.load.memory += size

    def release_body(self) -> None:
        """The body is not needed any more: close it, and give back what it holds."""
        load = self.service.load
        load.memory -= self._held
        if self._spooled:
            load.disk -= self._spooled
            load.files -= 1
        load.freed = True
        self._held = self._spooled = 0
        with suppress(OSError):  # a file writes its buffer now, and the disk is full; nobody will read it
            self.body.close()

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
        self._taken += taken
        if self._taken > TURN:
            self._taken = 0
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
