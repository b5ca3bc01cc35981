"""The reference lane: h11 parses any head.

h11 parses one head, and the body if it is chunked. The codec itself counts a body with a declared length, for both
lanes. h11 never sees the response: each request gets an h11 connection of its own, so the state of the other direction
does not matter.
"""

import re
from http import HTTPStatus
from typing import Final

import h11

from ...errors import Refused
from .request import MAX_FIELDS, Head

# chunk-size [chunk-ext] (RFC 9112 7.1), of plain visible characters. 16 digits are 2^64.
_SIZE_LINE = re.compile(rb"([0-9A-Fa-f]{1,16})((?:[ \t]*;[\t\x20-\x7e\x80-\xff]*)?)\r\n")
# A trailer line, or the empty line that ends the body. No line folding, no control characters.
_TRAILER_LINE = re.compile(rb"(?:[!#$%&'*+.^_`|~0-9A-Za-z-]+:[\t\x20-\x7e\x80-\xff]*)?\r\n")
_MAX_CHUNK = 2**63 - 1
"""A larger size is an attempt to overflow a counter."""

# The size line of a plain chunk: no extension, and no more digits than clients send.
_PLAIN_LINE = re.compile(rb"([0-9A-Fa-f]{1,8})\r\n")

_MAX_LINE = 4096
_MAX_OVERHEAD = 16 * 1024
"""Bytes of chunk extensions and trailers in a body, beyond as many bytes as its data has. No client uses them, and
10 KiB of extension on each one-byte chunk is an attack."""

_MAX_FRAMING = 64 * 1024
"""The same for the size lines of chunks: a chunk of one byte has six bytes to read for one of data."""

_FOR_CRLF = 4
"""The cost of the CRLF after a chunk: its two bytes, and two more, since it is counted as data when it comes."""

LINES: Final = 256
"""Framing lines that one call reads, so that each call is short, whatever a client sends: about 0.2 ms."""

ODD: Final = 16
"""The cost of a line that h11 reads, in plain lines."""


def parse(head: bytes) -> tuple[Head, h11.Connection]:
    """Parse one complete head, with its empty line; the connection then decodes a chunked body."""
    # The head is complete, so this bounds the trailers of a chunked body.
    connection = h11.Connection(h11.SERVER, max_incomplete_event_size=len(head) + _MAX_LINE)
    connection.receive_data(head)
    event = _next_event(connection)
    assert isinstance(event, h11.Request)  # the head is complete, so h11 gives a request or refuses
    fields = list(event.headers)
    return Head(
        event.method.decode("ascii"), event.target.decode("ascii"), event.http_version.decode("ascii"), fields
    ), connection


def _next_event(connection: h11.Connection) -> object:
    try:
        return connection.next_event()
    except h11.RemoteProtocolError as error:
        raise Refused(HTTPStatus(error.error_status_hint), str(error)) from None


class ChunkedBody:
    """Decodes a chunked body by h11, and refuses what h11 accepts.

    h11 takes a bare LF for the end of a trailer, does not check chunk extensions and does not bound their total cost;
    each of these has been a way to smuggle or to starve (waitress, llhttp, Go). So the framing lines are checked here
    before h11 gets them, one at a time; the data goes through as it is.

    With ``cuts``, whole plain chunks are taken out here and h11 never sees them, which takes a tenth of the time. At
    that moment h11 is between two chunks, so it misses nothing. A property test holds both ways against each other.

    ``spent`` is the cost of the last call, in plain framing lines. ``paused`` says that this was as much as one call
    may cost, so the next call needs no more bytes.
    """

    def __init__(self, connection: h11.Connection, *, cuts: bool) -> None:
        self.spent = 0
        self._h11 = connection
        self._cuts = cuts
        self._inside = 0  # bytes of the current chunk, with its CRLF, that are still to come
        self._trailers = False
        self._trailer_lines = 0
        self._allowance = _MAX_OVERHEAD
        self._framing = _MAX_FRAMING
        self._ended = False
        self._refusal: Refused | None = None  # for the next call: the data before it is returned first

    @property
    def paused(self) -> bool:
        return self.spent >= LINES

    def decode(self, buffer: bytearray) -> bytes | None:
        """Take the next piece of the body from the front of ``buffer``: the data of at most ``LINES`` chunks.

        Returns None when more bytes are needed, or another call if ``paused``, and ``b""`` at the end of the body;
        raises :class:`Refused`.
        """
        self.spent = 0
        pieces: list[bytes | bytearray] = []
        if not self._ended and self._refusal is None:
            try:
                self._read(buffer, pieces)
            except Refused as refusal:
                self._refusal = refusal
        if pieces:
            return b"".join(pieces)
        if self._refusal is not None:
            raise self._refusal
        return b"" if self._ended else None

    def _read(self, buffer: bytearray, pieces: list[bytes | bytearray]) -> None:
        while self.spent < LINES or self._trailers:  # trailers are few
            # h11 comes first: it still has the CRLF after the data, and may refuse it.
            event = _next_event(self._h11)
            if isinstance(event, h11.Data):
                pieces.append(event.data)
                continue
            if isinstance(event, h11.EndOfMessage):
                self._ended = True
                return
            if self._cuts and not (self._inside or self._trailers):
                self._take_chunks(buffer, pieces)
                if self.spent >= LINES:
                    return
            if self._inside:
                piece = bytes(buffer[: self._inside])
                self._inside -= len(piece)
                self._allowance += len(piece)
                self._framing += len(piece)
            else:
                piece = self._next_line(buffer)
                self.spent += ODD
            if not piece:
                return
            del buffer[: len(piece)]
            self._h11.receive_data(piece)

    def _take_chunks(self, buffer: bytearray, pieces: list[bytes | bytearray]) -> None:
        """Take whole plain chunks from the front of ``buffer``. The first other chunk is for h11."""
        end = spent = 0
        framing = self._framing
        try:
            while self.spent + spent < LINES:
                line = _PLAIN_LINE.match(buffer, end, end + 10)
                if line is None:
                    return
                start = line.end()
                size = int(line[1], 16)
                if not size or buffer[start + size : start + size + 2] != b"\r\n":
                    return
                framing -= start - end + _FOR_CRLF
                if framing < 0:
                    return  # the plain way refuses it
                pieces.append(buffer[start : start + size])
                spent += 1
                end = start + size + 2
                framing += size + 2
                self._allowance += size + 2
                self._framing = framing
        finally:
            del buffer[:end]
            self.spent += spent

    def _next_line(self, buffer: bytearray) -> bytes:
        """The framing line at the front of ``buffer`` with its CRLF, or ``b""`` when it is not complete."""
        end = buffer.find(b"\n", 0, _MAX_LINE) + 1
        if not end and len(buffer) < _MAX_LINE:
            return b""
        line = (_TRAILER_LINE if self._trailers else _SIZE_LINE).fullmatch(buffer, 0, end)
        if line is None:
            raise Refused(HTTPStatus.BAD_REQUEST, "malformed trailer" if self._trailers else "malformed chunk")
        if self._trailers:
            self._allowance -= line.end()
            self._trailer_lines += 1
            if self._trailer_lines > MAX_FIELDS + 1:  # the last one is empty
                raise Refused(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE, f"over {MAX_FIELDS} trailers")
        else:
            self._allowance -= len(line[2])
            self._framing -= line.end() + _FOR_CRLF
            size = int(line[1], 16)
            if size > _MAX_CHUNK:
                raise Refused(HTTPStatus.BAD_REQUEST, "malformed chunk")
            self._trailers = not size
            self._inside = size + 2 if size else 0  # the data and the CRLF behind it
        if self._allowance < 0 or self._framing < 0:
            raise Refused(HTTPStatus.BAD_REQUEST, "too much framing in the body")
        return line[0]
