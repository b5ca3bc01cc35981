"""The body of one request: its limits of size and rate, where it is kept, and when there is no room for more.

An :class:`Intake` is there only while a body is read: a request without a body, or with a small one that has come
together with its head, has none. By default the application gets a whole body, and the loop reads it. Where bodies are
streamed, a runner reads the body (see :mod:`.reading`), and the loop reads only the part that the application leaves.
An intake has the same owner as its connection, one at a time, so nothing here has a lock. ``load`` belongs to the loop:
a runner calls only :meth:`Intake.count` and :meth:`Intake.patience`, which do not touch it.
"""

import io
from http import HTTPStatus
from typing import Any, Final

from ..errors import Refused
from ..logger import debug_logger, error_logger
from ..protocol.http1 import Codec, Request
from .context import IN_MEMORY, RECEIVE, Service
from .load import spool
from .pace import patience
from .states import LATER, STARVED

DISCARD_BYTES: Final = 256 * 1024
"""Bytes of an unread body that are worth reading to keep the connection."""


def log_refusal(service: Service, peer: object, refusal: Refused) -> None:
    """Log, for debugging, why a request of a client is refused."""
    service.report(debug_logger.debug, "refused %s: %d, %s", peer, refusal.status, ascii(str(refusal)))


class Intake:
    """Takes the body of one request out of a codec.

    ``pause`` says why it has stopped before the codec was empty, in the words of :mod:`.states`. ``deadline`` is the
    time by which the next piece must have come, or there must be room for it.
    """

    __slots__ = (
        "_discarded", "_service", "_since", "_starved_since", "codec", "deadline", "file", "memory", "pause",
        "received", "spooled",
    )  # fmt: skip

    def __init__(self, codec: Codec, service: Service, now: float) -> None:
        self.codec, self._service = codec, service
        self._since = now  # when the loop began to wait for it
        self._starved_since = 0.0  # when there was no more room for it; 0 while there is
        self._discarded = 0  # bytes of it that were thrown away
        self.file: Any = None  # a BinaryIO with the bytes so far of a body that is to be whole
        self.received = 0  # bytes of it
        self.memory = self.spooled = 0  # bytes of it that count as in memory, or in a file
        self.pause = 0
        self.deadline = 0.0

    def __repr__(self) -> str:
        return f"<Intake: {self.received} bytes, {self.memory} in memory and {self.spooled} in a file>"

    # Limits.

    def count(self, size: int) -> None:
        """Count bytes of the body against the limit; of a chunked body nothing else does. Raises :class:`Refused`."""
        self.received += size
        if 0 < self._service.limits.max_body < self.received:
            raise Refused(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, "a chunked body")

    def patience(self, waited: float) -> float:
        """Seconds that the next piece may take, after ``waited`` seconds of waiting for the body."""
        limits = self._service.limits
        return patience(limits.socket_timeout, limits.min_body_rate, self.received, waited)

    def waited(self, now: float) -> float:
        """Seconds that the loop has waited for it."""
        return now - self._since

    # A body that is to be whole; the loop's.

    def begin(self, now: float) -> None:
        """The body is to be whole before its application runs."""
        self.file = io.BytesIO()
        self.deadline = now + self.patience(0.0)

    def read(self, now: float) -> bool:
        """Take the bytes at hand; return whether the body is complete. Raises :class:`Refused`."""
        limits, self.pause = self._service.limits, 0
        try:
            while self._has_room(now):
                piece = self._next_piece()
                if piece:
                    self.count(len(piece))
                    rate = limits.min_body_rate
                    self.deadline = now + patience(limits.socket_timeout, rate, self.received, now - self._since)
                    self._store(piece)
                    if self.codec.in_body:
                        continue
                elif piece is None:
                    return False
                self.file.seek(0)  # may find the disk full, since the file writes its buffer now
                return True
        except OSError as error:
            self._service.report(error_logger.error, "a request body cannot be spooled: %s", error)
            raise Refused(HTTPStatus.INSUFFICIENT_STORAGE, str(error)) from None
        return False

    def _has_room(self, now: float) -> bool:
        """Whether there is room for more of the body; if not, the client has to wait for it."""
        load = self._service.load
        grows_in_file = self.spooled or self.received + RECEIVE > IN_MEMORY or load.memory + RECEIVE > load.max_memory
        if not grows_in_file or load.has_room(new=not self.spooled):
            if self._starved_since:
                # The time that the client had to wait for room does not count.
                self._since += now - self._starved_since
                self._starved_since = 0.0
                self.deadline = now + self.patience(now - self._since)
            return True
        self._starved_since = self._starved_since or now
        self.pause = STARVED
        self.deadline = self._starved_since + self._service.limits.socket_timeout
        return False

    def _store(self, piece: bytes) -> None:
        """Put a piece behind the others: in memory, or in a file if the body or all bodies together are too large."""
        load, size = self._service.load, len(piece)
        if not self.spooled:
            if self.received <= IN_MEMORY and load.memory + size <= load.max_memory:
                self.memory += size
                load.memory += size
                self.file.write(piece)
                return
            begun, self.file = self.file, spool()
            load.memory -= self.memory
            load.disk += self.memory
            load.files += 1
            self.memory, self.spooled = 0, self.memory
            self.file.write(begun.getbuffer())
        self.spooled += size
        load.disk += size
        self.file.write(piece)

    # Either kind; the loop's.

    def _next_piece(self) -> bytes | None:
        """The next piece of the body, ``b""`` at its end. None when more bytes are needed, or a ``pause`` is.

        A connection gets one piece in a turn if that took long, and nothing when the turn has taken long enough.
        """
        load, codec = self._service.load, self.codec
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

    def discard(self, peer: object) -> bool | None:
        """Throw away the bytes at hand of a body that its application has left unread.

        Returns whether that was the end of the body; None if it is too long to read on for the sake of the connection.
        """
        self.pause = 0
        try:
            while piece := self._next_piece():
                self._discarded += len(piece)
        except Refused as refusal:
            # The request has its response already. The client would take another one for the response to its next
            # request.
            log_refusal(self._service, peer, refusal)
            return None
        return True if piece is not None else None if self._discarded > DISCARD_BYTES else False

    def hint_if_unread(self, request: Request | None) -> None:
        """The application of ``request`` has returned before the end of the body."""
        if not self.received and request is not None and request.length is None:
            self._service.hint(
                "the application has read nothing of a chunked request body. With --stream-request-body such a "
                "body has no CONTENT_LENGTH; frameworks that go by it, as Django, Falcon and Bottle do, take it "
                "for empty: leave the flag out for them"
            )

    def close(self) -> None:
        """Close the temporary file."""
        file, self.file = self.file, None
        if file is not None:
            file.close()

    def free_memory(self) -> None:
        """Uncount the memory and disk of a body that was released. The loop counts, so no runner calls this."""
        load = self._service.load
        load.memory -= self.memory
        if self.spooled:
            load.disk -= self.spooled
            load.files -= 1
        self.memory = self.spooled = 0
