"""The stream of one connection, split into requests and bodies.

Unused bytes are in one buffer. But a piece that arrives while the buffer is empty stays as it is and is used from its
front: usually it is one whole head, or a part of a body, and then it is never copied. The fast lane parses heads there
as long as it can; the rest goes to the buffer.

The codec searches a head in the buffer for its empty line. Each byte is searched once, however the head is split (so
one byte a packet costs linear time). An incomplete head is bounded. The raw bytes are checked: control characters, bare
CR or LF and folded lines are refused here for both lanes, because attackers smuggle requests past a strict parser
through a lenient one (RFC 9112 2.2, 5.2). The fast lane accepts nothing that would be refused here.

The result does not depend on how the bytes were split: if a check refuses a part of a head, it refuses the whole head
with the same status. So the bytes are checked in their order.

After a refusal a codec parses no more bytes of its connection as a request.
"""

import re
from collections.abc import Mapping
from http import HTTPStatus
from types import MappingProxyType
from typing import Any

from ...errors import Refused
from . import reference
from .fast import FastLane
from .request import MAX_FIELDS, MAX_TARGET, Request, check

# Control characters, CR without LF, LF without CR, and a line that begins with white space (obs-fold).
_FORBIDDEN = re.compile(rb"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]|\r(?!\n)|(?<!\r)\n|\n[ \t]")
# The beginning of a request line: a method, which is a token. The longest registered one has 17 characters.
_METHOD = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]{1,32}(?: |\Z)")
_REQUEST_LINE = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+ [\x21-\x7e]+ HTTP/[0-9]\.[0-9]\r\n")
_EMPTY_LINES = re.compile(rb"(?:\r\n)*+")
END = b"\r\n\r\n"


class Codec:
    """Bytes in, requests and bodies out. ``max_head`` bounds a head and ``max_target`` its request target, in bytes;
    without ``lane``, which has the same limit of a target, h11 parses them all. The environ of each request begins with
    ``base``, which must be that of the lane.
    """

    __slots__ = (
        "_at", "_base", "_buffer", "_chunked", "_dead", "_lane", "_left", "_line_seen", "_max_head", "_max_target",
        "_piece", "_recognised", "_scanned", "paused", "spent",
    )  # fmt: skip

    def __init__(
        self,
        max_head: int,
        lane: FastLane | None = None,
        max_target: int = MAX_TARGET,
        base: Mapping[str, Any] = MappingProxyType({}),
    ) -> None:
        self._base = base
        self._max_head = max_head
        self._max_target = max_target
        self._lane = lane
        self._piece = b""  # the last bytes, while the buffer is empty; empty once they are used
        self._at = 0  # how many bytes of it are used
        # The lane's result for the head at the front of the piece, and where that ends; None if it was not asked.
        self._recognised: tuple[Request | None, int] | None = None
        self._buffer = bytearray()
        self._scanned = 0
        self._line_seen = False  # whether the request line of an incomplete head was checked
        self._left = 0  # missing bytes of a body with a declared length
        self._chunked: reference.ChunkedBody | None = None
        self._dead = False
        self.spent = 0
        self.paused = False

    def feed(self, data: bytes) -> None:
        """Add bytes of the client."""
        if self._buffer or self._piece:
            self._settle()
            self._buffer += data
        else:
            self._piece = data

    def receive(self, data: bytes, limit: int) -> tuple[Request, bytes] | None:
        """Add bytes while the next request is awaited.

        Returns the request with its body, of at most ``limit`` bytes, if ``data`` is exactly that; most requests arrive
        like that. None means that the caller must call :meth:`next_request`.
        """
        if self._lane is not None and not (self._piece or self._buffer):
            end = len(data) if data.endswith(END) else data.find(END) + 4
            if 4 <= end <= self._max_head:
                request = self._lane.recognise(data[:end])
                if request is not None and request.length == len(data) - end <= limit:
                    return request, data[end:]
                # Kept, so that the lane does not read the head twice. Declined bytes may be more than one head.
                if request is not None or data.find(END) + 4 == end:
                    self._recognised = request, end
        self.feed(data)
        return None

    def _settle(self) -> None:
        """Move the rest of the piece to the buffer."""
        if self._piece:
            self._buffer += self._piece[self._at :] if self._at else self._piece
            self._piece = b""
            self._at = 0
            self._recognised = None

    @property
    def has_bytes(self) -> bool:
        """Whether there are unused bytes: of a head that has begun, of a body, or of the next request."""
        return bool(self._piece or self._buffer)

    @property
    def size(self) -> int:
        """The number of unused bytes."""
        return len(self._buffer) + len(self._piece) - self._at

    @property
    def in_body(self) -> bool:
        """Whether the body of the last request has not been read to its end."""
        return self._left > 0 or self._chunked is not None

    def next_request(self) -> Request | None:
        """The next request, None while its head is incomplete; raises :class:`Refused`. Call it after the last body."""
        if self._dead:
            return None
        declined = False  # whether the fast lane has declined this head
        if self._piece:
            if self._lane is not None:
                request = self._recognise(self._lane)
                if request is not None:
                    return request
                declined = True
            self._settle()
        buffer = self._buffer
        if not buffer:
            return None
        if not self._scanned:
            # RFC 9112 2.2: empty lines before a request line are ignored.
            if buffer.startswith(b"\r\n"):
                del buffer[: _EMPTY_LINES.match(buffer).end()]  # type: ignore[union-attr]
            if not buffer or buffer == b"\r":
                return None
        end = buffer.find(END, max(0, self._scanned - 3)) + 4
        try:
            self._inspect(end)
            if end < 4:
                self._scanned = len(buffer)
                return None
            request = self._read(bytes(buffer[:end]), None if declined else self._lane)
        except Refused:
            self._dead = True
            buffer.clear()
            raise
        del buffer[:end]
        self._scanned = 0
        self._line_seen = False
        self._left = request.length or 0
        return request

    def _recognise(self, lane: FastLane) -> Request | None:
        """The request at the front of the piece, if the fast lane accepts it."""
        piece, start = self._piece, self._at
        known, self._recognised = self._recognised, None
        if known is not None:
            request, end = known
        else:
            request, end = None, len(piece)
            if not start and end <= self._max_head and piece.endswith(END):
                # Most likely exactly one head, which the lane can recognise without a search for its end.
                request = lane.recognise(piece)
            if request is None:
                end = piece.find(END, start) + 4
                if end < 4 or end - start > self._max_head or end - start == len(piece):
                    return None
                request = lane.recognise(piece[start:end])
        if request is None:
            return None
        self._use(end - start)
        self._left = request.length or 0
        return request

    def _use(self, size: int) -> None:
        """Skip ``size`` bytes of the piece."""
        self._at += size
        if self._at == len(self._piece):
            self._piece = b""
            self._at = 0

    def _read(self, head: bytes, lane: FastLane | None) -> Request:
        """Read one complete head; raises :class:`Refused`."""
        request = lane.recognise(head) if lane is not None else None
        if request is None:
            parsed, connection = reference.parse(head)
            request = check(parsed, self._base)
            request.raw = head
            # Without the fast lane h11 also parses all of a body.
            cuts = self._lane is not None
            self._chunked = reference.ChunkedBody(connection, cuts=cuts) if request.chunked else None
        return request

    def _inspect(self, end: int) -> None:
        """Refuse a head for its raw bytes, as early as possible. ``end`` is below 4 if the head is incomplete."""
        buffer = self._buffer
        size = end if end >= 4 else len(buffer)
        stop = min(size, self._max_head)
        target = longest = 0  # where the target begins, and where a line with the longest one ends
        if not self._line_seen and (method := _METHOD.match(buffer, 0, stop)):
            target = method.end()
            longest = target + self._max_target + len(" HTTP/1.1\r\n")
        endless = 0 < longest <= stop and buffer.find(b"\n", self._scanned, longest) < 0
        if endless:
            stop = longest
        stop -= buffer[stop - 1] == 13  # a last CR may be half of a CRLF
        if _FORBIDDEN.search(buffer, max(0, self._scanned - 2), stop):
            raise Refused(HTTPStatus.BAD_REQUEST, "control character, bare CR or LF, or folded line in the head")
        if endless and buffer.find(b" ", target, target + self._max_target + 1) < 0:
            raise Refused(HTTPStatus.REQUEST_URI_TOO_LONG, f"target of over {self._max_target} bytes")
        if not self._line_seen:
            # The bytes cannot become a request, so the rest is not awaited.
            self._line_seen = buffer.find(b"\n", self._scanned, stop) >= 0
            if not target or endless or (self._line_seen and not _REQUEST_LINE.match(buffer)):
                raise Refused(HTTPStatus.BAD_REQUEST, "malformed request line")
        if size > self._max_head:
            status = HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE if self._line_seen else HTTPStatus.REQUEST_URI_TOO_LONG
            raise Refused(status, f"head of over {self._max_head} bytes")
        # h11 would first parse all of them, which takes up to 40 ms.
        if end >= 4 and (fields := buffer.count(b"\n", 0, end) - 2) > MAX_FIELDS:
            raise Refused(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE, f"{fields} fields")

    def take_rest(self) -> bytes:
        """All unused bytes, for another protocol, which the connection speaks from now on."""
        self._settle()
        rest = bytes(self._buffer)
        self._buffer.clear()
        return rest

    def next_body(self) -> bytes | None:
        """The next piece of the body, ``b""`` at its end, None when more bytes are needed; raises :class:`Refused`.

        One call does not take long, whatever the client sends: after None with ``paused``, call it again. ``spent`` is
        the cost of the call, in framing lines.
        """
        self.spent = 0
        self.paused = False
        if self._chunked is not None:
            self._settle()
            try:
                piece = self._chunked.decode(self._buffer)
                self.spent = self._chunked.spent
                self.paused = self._chunked.paused
            except Refused:
                self._dead = True
                self._chunked = None
                self._buffer.clear()
                raise
            if piece == b"":
                self._chunked = None
            return piece
        if not self._left:
            return b""
        if self._piece:
            piece = self._piece[self._at : self._at + self._left]
            self._use(len(piece))
        elif self._buffer:
            piece = bytes(self._buffer[: self._left])
            del self._buffer[: len(piece)]
        else:
            return None
        self._left -= len(piece)
        return piece
