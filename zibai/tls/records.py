"""The bytes of one client, given to OpenSSL a few records at a time.

OpenSSL reads all of its input in one call. If a client sends records of one byte, or 27 bytes that ask for new keys
again and again, 64 KiB of them cost as much as thousands of requests, in one step of the server loop.

Bytes in, bytes out. Only the length in the head of a record is read, which is never encrypted (RFC 8446 5.1). OpenSSL
refuses malformed records.
"""

from typing import Final

RECORDS: Final = 128
"""Records that OpenSSL gets in one call: about 1 ms, if each of them asks for new keys."""

_HEAD: Final = 5


class Records:
    """Splits the bytes of a client. ``more``: the last :meth:`take` left records; ``taken``: how many it took."""

    __slots__ = ("_inside", "_rest", "more", "taken")

    def __init__(self) -> None:
        self._inside = 0  # missing bytes of a record whose beginning OpenSSL has
        self._rest = b""
        self.more = False
        self.taken = 0

    def take(self, data: bytes) -> bytes:
        """The bytes for OpenSSL: ``data``, after the bytes that were left behind."""
        if self._rest:
            data = self._rest + data
        size, end, taken = len(data), self._inside, 0
        while end + _HEAD <= size and taken < RECORDS:
            end += _HEAD + (data[end + 3] << 8 | data[end + 4])
            taken += 1
        self.taken = taken
        if end >= size:
            self._inside, self._rest, self.more = end - size, b"", False
            return data
        self._inside, self._rest = 0, data[end:]
        self.more = size - end >= _HEAD
        return data[:end]
