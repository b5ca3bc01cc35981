"""The reference lane: h11 reads whatever comes.

h11 reads one head, and the body when it is chunked. A body with a declared length is only counted, by
the codec, for every lane alike. We never tell h11 what we answer: each request gets an h11 connection
of its own, so its state of the other direction does not matter to us.
"""

import re
from http import HTTPStatus

import h11

from ..errors import Refused
from .request import Head

# chunk-size [chunk-ext] (RFC 9112 7.1), of plain visible characters. 16 digits are 2^64.
_SIZE_LINE = re.compile(rb"([0-9A-Fa-f]{1,16})((?:[ \t]*;[\t\x20-\x7e\x80-\xff]*)?)\r\n")
# A trailer line, or the empty line that ends the body. No line folding, no control characters.
_TRAILER_LINE = re.compile(rb"(?:[!#$%&'*+.^_`|~0-9A-Za-z-]+:[\t\x20-\x7e\x80-\xff]*)?\r\n")
_MAX_CHUNK = 2**63 - 1
"""A larger size is sent to overflow somebody's counter, and never for its data."""

_MAX_LINE = 4096
_MAX_OVERHEAD = 16 * 1024
"""Bytes that chunk extensions may cost in a body on top of one byte for each byte of data; nobody uses
them, and 10 KiB of extension on each one-byte chunk is an attack."""


def parse(head: bytes) -> tuple[Head, h11.Connection]:
    """Read one complete head, up to and with its empty line; the connection goes on with a chunked body."""
    # The head is complete, so what this bounds are the trailers of a chunked body.
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
    """Decodes a chunked body by h11, and refuses what h11 lets pass.

    h11 takes a bare LF for the end of a trailer, does not look into chunk extensions and does not bound what they
    cost in total; each of these has been a way to smuggle or to starve (waitress, llhttp, Go).
    So the framing lines are looked at here before h11 gets them, one at a time; the data goes through as it is.
    """

    def __init__(self, connection: h11.Connection) -> None:
        self._h11 = connection
        self._inside = 0  # bytes of the current chunk, with its CRLF, that are still to come
        self._trailers = False
        self._allowance = _MAX_OVERHEAD

    def decode(self, buffer: bytearray) -> bytes | None:
        """Take the next piece of the body from the front of ``buffer``.

        Returns None when more bytes are needed and ``b""`` at the end of the body; raises :class:`Refused`.
        """
        while True:
            # h11 comes first: what it still has, the CRLF behind the data, it may refuse.
            event = _next_event(self._h11)
            if isinstance(event, h11.Data) and event.data:
                return bytes(event.data)
            if isinstance(event, h11.EndOfMessage):
                return b""
            if self._inside:
                piece = bytes(buffer[: self._inside])
                self._inside -= len(piece)
                self._allowance += len(piece)
            else:
                piece = self._next_line(buffer)
            if not piece:
                return None
            del buffer[: len(piece)]
            self._h11.receive_data(piece)

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
        else:
            self._allowance -= len(line[2])
            size = int(line[1], 16)
            if size > _MAX_CHUNK:
                raise Refused(HTTPStatus.BAD_REQUEST, "malformed chunk")
            self._trailers = not size
            self._inside = size + 2 if size else 0  # the data and the CRLF behind it
        if self._allowance < 0:
            raise Refused(HTTPStatus.BAD_REQUEST, "too much framing in the body")
        return line[0]
