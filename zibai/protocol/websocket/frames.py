"""The layout of a frame (RFC 6455 5.2): reading the lengths of clients' frames, and writing whole frames.

Clients mask their frames, and the server masks none (RFC 6455 5.1).
"""

from struct import Struct
from typing import Final

LONG: Final = 64 * 1024
"""A message of this size or more is not copied behind its head, since a second send costs less."""

PING: Final = b"\x89\x00"

_head_of_16, _head_of_64 = Struct("!BBH").pack, Struct("!BBQ").pack
_short_texts = [bytes((0x81, size)) for size in range(126)]


def write_frame(first: int, data: bytes) -> tuple[bytes, ...]:
    """A whole frame, in pieces; ``first`` is its first byte."""
    size = len(data)
    if size < 126:
        return ((_short_texts[size] if first == 0x81 else bytes((first, size))) + data,)
    head = _head_of_16(first, 126, size) if size < 65536 else _head_of_64(first, 127, size)
    return (head + data,) if size < LONG else (head, data)


def read_size(data: bytes | bytearray, at: int) -> tuple[int, int]:
    """The extended length of the client's frame at ``at``, and where its masked data begins.

    While the length is incomplete, they are the number that announces it, 126 or 127, and 0. A length with more bytes
    than it needs (RFC 6455 5.2) is read as one that is too long for any frame.
    """
    have = len(data) - at
    if data[at + 1] & 127 == 126:
        if have < 4:
            return 126, 0
        size = data[at + 2] << 8 | data[at + 3]
        return size if size > 125 else _TOO_LONG, at + 8
    if have < 10:
        return 127, 0
    size = int.from_bytes(data[at + 2 : at + 10], "big")
    return size if size > 65535 else _TOO_LONG, at + 14


_TOO_LONG: Final = 1 << 64
