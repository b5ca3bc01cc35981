"""Incomplete messages and frames.

A client chooses the size of the pieces that it sends. An object for each piece takes about 60 bytes, which no limit of
sizes sees. So everything here takes about as many bytes of memory as have come, however small the pieces are.
"""

from codecs import getincrementaldecoder
from typing import Final

from websockets.typing import BytesLike

Message = str | bytes

SHORT: Final = 1024
"""A piece of a long frame of fewer bytes is no object of its own."""

_utf8 = getincrementaldecoder("utf-8")


class Fragments:
    """A message whose last fragment has not come yet. Text is checked as it comes, and decoded once."""

    __slots__ = ("_data", "_decoder")

    def __init__(self, *, text: bool) -> None:
        self._decoder = _utf8() if text else None
        self._data = bytearray()

    def add(self, data: BytesLike, *, last: bool) -> None:
        """Raises UnicodeDecodeError as soon as the text cannot be valid."""
        if self._decoder is not None:
            self._decoder.decode(data, last)
        self._data += data

    def join(self) -> Message:
        return bytes(self._data) if self._decoder is None else self._data.decode()


class LongFrame:
    """A frame of ``size`` bytes, with its head, that is not complete.

    Its pieces are joined once. A buffer that grows to 1 MiB is copied many times, which costs a fifth of an echo of it.
    ``buffered`` is how many bytes have come.
    """

    __slots__ = ("_pieces", "_size", "buffered")

    def __init__(self, begun: bytes, size: int) -> None:
        self._pieces: list[bytes | bytearray] = [begun]
        self._size = size
        self.buffered = len(begun)

    def add(self, data: bytes) -> bool:
        """Add bytes. Returns whether the frame is complete; then more bytes may have come after it."""
        last = self._pieces[-1]
        if len(data) >= SHORT:
            self._pieces.append(data)
        elif type(last) is bytearray:
            last += data
        else:
            self._pieces.append(bytearray(data))
        self.buffered += len(data)
        return self.buffered >= self._size

    @property
    def missing(self) -> int:
        """Bytes that are missing."""
        return self._size - self.buffered

    def join(self) -> bytes:
        return b"".join(self._pieces)
