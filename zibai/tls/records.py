"""The bytes of one client, given to OpenSSL a few records at a time.

OpenSSL reads all that it is given in one call. A client that sends records of one byte, or 27 bytes that ask for new
keys again and again, would make 64 KiB of them cost as much as thousands of requests, in one step of the server loop.

Bytes in, bytes out. Only the length in the head of a record is looked at (RFC 8446 5.1), which is never encrypted; what
makes no sense OpenSSL refuses.
"""

from typing import Final

RECORDS: Final = 128
"""Records that OpenSSL gets at once: about 1 ms, if each of them asks for new keys."""

_HEAD: Final = 5


class Records:
    """``more`` says that there are records that did not go in the last :meth:`take`; ``taken`` how many went."""

    __slots__ = ("_inside", "_rest", "more", "taken")

    def __init__(self) -> None:
        self._inside = 0  # bytes of a record, of which OpenSSL has the beginning, that are still to come
        self._rest = b""
        self.more = False
        self.taken = 0

    def take(self, data: bytes) -> bytes:
        """What OpenSSL is to get now, with ``data`` behind all that has come before."""
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
