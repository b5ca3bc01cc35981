"""The PROXY protocol: the header that a load balancer sends before the first byte of a client. Bytes in, facts out.

Version 1 is a line of text, version 2 is binary (the specification is HAProxy's ``proxy-protocol.txt``). Neither can be
skipped or negotiated, so a listener requires it from every connection or from none.

:func:`parse` reads the first bytes of a connection and never needs more than the header: while the header is not
complete, all bytes so far are part of it. So its caller can take these bytes and leave the rest, a request or the start
of TLS, to the next stage. Bytes that cannot become a header are refused as early as possible.
"""

import re
from ipaddress import ip_address
from typing import Final, NamedTuple

from ..config.addresses import read_address

SIGNATURE: Final = b"\r\n\r\n\0\r\nQUIT\n"
"""The first bytes of version 2; no request begins with them."""

MAX_LINE: Final = 107
"""Bytes of the longest possible line of version 1, with its CRLF."""

_LINE = re.compile(
    rb"PROXY (?:UNKNOWN(?: [\x21-\x7e ]*)?|TCP([46]) ([^ ]+) ([^ ]+) (0|[1-9][0-9]{0,4}) (0|[1-9][0-9]{0,4}))"
)
_LOCAL, _PROXY = 0x20, 0x21
# The size of an address by the family of version 2. The block has two of them, and for IP also two ports.
_IP_SIZES = {1: 4, 2: 16}
_UNIX, _UNIX_SIZE = 3, 216


class Malformed(ValueError):
    """These bytes are not the beginning of a PROXY header."""


class Header(NamedTuple):
    """A header of ``size`` bytes, with both ends of the connection to the load balancer: host and port.

    They are None if the header does not name them (``LOCAL``, a health check of the load balancer itself, or
    ``UNKNOWN``): then the ends of the real connection count. For a unix socket both are empty text.
    """

    size: int
    source: tuple[str, int] | str | None = None
    destination: tuple[str, int] | str | None = None


def parse(data: bytes) -> Header | None:
    """The header at the beginning of ``data``, None while it is incomplete; raises :class:`Malformed`."""
    if data[:1] == b"P":
        return _parse_line(data)
    if not SIGNATURE.startswith(data[:12]):
        raise Malformed("no PROXY header")
    return _parse_binary(data) if len(data) >= 16 else None


def _parse_line(data: bytes) -> Header | None:
    if not data.startswith(b"PROXY "[: len(data)]):
        raise Malformed("no PROXY header")
    end = data.find(b"\n", 0, MAX_LINE) + 1
    if not end:
        if len(data) >= MAX_LINE:
            raise Malformed("a PROXY line that does not end")
        return None
    match = _LINE.fullmatch(data[: end - 2]) if data[end - 2 : end] == b"\r\n" else None
    if match is None:
        raise Malformed("a malformed PROXY line")
    if match[1] is None:
        return Header(end)
    source, destination = (_end(match[2 + n], int(match[4 + n]), match[1] == b"6") for n in (0, 1))
    return Header(end, source, destination)


def _end(text: bytes, port: int, ipv6: bool) -> tuple[str, int]:
    address = read_address(text.decode("latin-1"))
    if address is None or b"%" in text or (b":" in text) != ipv6 or port > 65535:
        raise Malformed("a PROXY line with a bad address")
    return str(address), port


def _parse_binary(data: bytes) -> Header | None:
    """Parse version 2. The first 16 bytes are there: signature, version and command, family and transport, size."""
    command, family, transport = data[12], data[13] >> 4, data[13] & 15
    if command not in (_LOCAL, _PROXY) or family > _UNIX or transport > 2:
        raise Malformed("a PROXY header of an unknown version, command or family")
    length = int.from_bytes(data[14:16], "big")
    size = 16 + length
    spoken = command == _PROXY and family and transport
    needed = 0 if not spoken else _UNIX_SIZE if family == _UNIX else 2 * _IP_SIZES[family] + 4
    if length < needed:
        raise Malformed("a PROXY header without its addresses")
    if len(data) < size:
        return None
    # The TLVs behind the addresses are ignored.
    if not spoken:
        return Header(size)
    if family == _UNIX:
        return Header(size, "", "")
    width = _IP_SIZES[family]
    ports = 16 + 2 * width
    return Header(
        size,
        (_unpack(data[16 : 16 + width]), int.from_bytes(data[ports : ports + 2], "big")),
        (_unpack(data[16 + width : ports]), int.from_bytes(data[ports + 2 : ports + 4], "big")),
    )


def _unpack(packed: bytes) -> str:
    address = ip_address(packed)
    return str(getattr(address, "ipv4_mapped", None) or address)
