"""A streamed body: what a runner reads from the client while its application runs.

Everything here is the runner's, and may block.
"""

import io
import time
from http import HTTPStatus
from typing import TYPE_CHECKING, Final

from ..errors import Gone, Refused
from ..net.poller import WRITE
from ..protocol.http1.response import CONTINUE
from ..telemetry.scoreboard import READING
from .body import Intake
from .context import RECEIVE
from .load import TURN

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

    from .stream import Stream

_A_READ: Final = 64
"""The cost of one step of reading a body at full speed, in the measure of :data:`zibai.engine.load.TURN`."""


class BodyReader(io.RawIOBase):
    """The raw side of a streamed ``wsgi.input``; an ``io.BufferedReader`` stands before it.

    ``refusal`` is the fault of a bad body, whose connection then ends. ``continued`` says whether 100 Continue went
    out, or is no longer allowed.
    """

    __slots__ = ("_intake", "_piece", "_since_yield", "_stream", "_waited", "continued", "refusal")

    def __init__(self, stream: "Stream", intake: Intake, *, continued: bool) -> None:
        self._stream: Stream | None = stream
        self._intake = intake
        self._piece = memoryview(b"")
        self._waited = 0.0  # seconds that the runner has waited for it
        self._since_yield = 0  # the cost of the reads since the runner last let others run
        self.refusal: Refused | None = None
        self.continued = continued

    def __repr__(self) -> str:
        return f"<BodyReader: {self._intake.received} bytes read>"

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: "WriteableBuffer") -> int:
        if not self._piece:
            self._piece = memoryview(self._read())
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

        Also, the stream refers to this object, and a cycle would keep its buffers until a collection.
        """
        self._stream = None
        self._piece = memoryview(b"")

    def _read(self) -> bytes:
        """The next piece, ``b""`` at the end. Raises :class:`Gone` when the body does not come whole."""
        stream = self._stream
        if stream is None:
            raise ValueError("the request is over, and wsgi.input with it")
        if not self.continued:
            self.continued = True
            stream.interims += 1
            stream.send(CONTINUE)
        if self.refusal is not None:
            raise self._stop(stream, self.refusal)
        intake = self._intake
        codec = intake.codec
        while True:
            try:
                piece = codec.next_body()
                if piece is not None:
                    intake.count(len(piece))
                    self._since_yield += codec.spent + _A_READ
                    if self._since_yield > TURN:
                        # If a client's next bytes are always there, no other greenlet would ever run.
                        self._since_yield = 0
                        stream.service.readiness.wait_readable(stream.sock, 0)
                    return piece
            except Refused as refusal:
                raise self._stop(stream, refusal) from None
            if not codec.paused:
                codec.feed(self._receive(stream))

    def _receive(self, stream: "Stream") -> bytes:
        while True:
            try:
                data = stream.sock.recv(RECEIVE)
            except (BlockingIOError, InterruptedError):
                # Only the time of waiting here counts, not the time between two reads of the application.
                before = time.monotonic()
                timeout = max(0.0, self._intake.patience(self._waited))
                if not self._await_bytes(stream, timeout):
                    refusal = Refused(HTTPStatus.REQUEST_TIMEOUT, f"it comes too slowly, or not: {timeout:g} s")
                    raise self._stop(stream, refusal) from None
                self._waited += time.monotonic() - before
            except OSError as error:
                stream.sender.closing = stream.sender.broken = True
                raise Gone(f"the client has left: {error}") from None
            else:
                if not data:
                    raise self._stop(stream, Refused(HTTPStatus.BAD_REQUEST, "it ends too early"))
                return data

    def _await_bytes(self, stream: "Stream", timeout: float) -> bool:
        """Wait until it makes sense to receive again; False when that took too long."""
        readiness, wanted = stream.service.readiness, stream.connection.next_bytes()
        if not wanted:
            readiness.wait_readable(stream.sock, 0)  # so that other runners run in between: many clients may do this
            return True
        return stream.wait(readiness.wait_writable if wanted == WRITE else readiness.wait_readable, READING, timeout)

    def _stop(self, stream: "Stream", refusal: Refused) -> Gone:
        stream.sender.closing = True
        self.refusal = refusal
        return Gone(f"the request body cannot be read: {refusal}")
