"""The loop's side of request bodies: where they are kept, and when there is no room for more.

A body has a limit of size and a minimum of speed, whether the loop or a runner waits for it.
"""

import io
from http import HTTPStatus
from math import inf

from ..errors import Refused
from ..logger import error_logger
from ..net.listener import Socket
from .context import IN_MEMORY, RECEIVE, Service
from .load import spool
from .states import LATER, READY, STARVED
from .stream import Stream


class Receiver(Stream):
    """What the loop does with the body of a request that is to be whole before its application runs.

    ``pause`` says why the loop does not read from the connection. ``body_held`` is how many bytes of memory count for
    it: of its body, or of what lies in its codec.
    """

    __slots__ = ("_body_since", "_spooled", "_starved_since", "body_held", "pause")

    def __init__(self, sock: Socket, service: Service) -> None:
        super().__init__(sock, service)
        self.pause = 0
        self._body_since = 0.0  # when the loop began to wait for the body
        self._starved_since = 0.0  # when there was no more room for it; 0 while there is
        self.body_held = self._spooled = 0  # bytes of the body that count as in memory, or in a file

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

    def _read_body(self, now: float) -> None:
        """Take what has come of the body. Raises :class:`Refused`."""
        try:
            while not self._starve(now) and (piece := self._next_piece()):
                self._count(len(piece))
                self.deadline = now + self._patience(now - self._body_since)
                self._store(piece)
                if not self.codec.in_body:
                    piece = b""  # which needs no room any more
                    break
            if self.pause or piece is None:
                return
            self.body.seek(0)  # may be what finds the disk full: a file writes its buffer now
        except OSError as error:
            self.service.report(error_logger.error, "a request body cannot be spooled: %s", error)
            raise Refused(HTTPStatus.INSUFFICIENT_STORAGE, str(error)) from None
        self._make_ready()

    def _make_ready(self) -> None:
        """The request is there: it waits for a runner."""
        self._hold(self.codec.size)  # which stays here as long as the application runs
        self.state = READY
        self.deadline = inf
