"""The values of forwarded fields: hops, schemes, hosts, ports and prefixes, each read strictly.

Pure functions from text to text; each raises :class:`Malformed` for what it cannot read.
"""

import re
from typing import Final
from urllib.parse import unquote_to_bytes

from ..config.addresses import Address, read_address
from .http1.request import HOST

_SCHEMES: Final = {"http": "http", "https": "https", "ws": "http", "wss": "https"}

# One end of a hop (RFC 7239 6): an address or a name that hides one, and a port, which may be hidden as well.
_NODE = re.compile(
    r"(?:(?P<hidden>(?i:unknown)|_[A-Za-z0-9._-]+)|(?P<v4>[0-9.]{7,15})"
    r"|\[(?P<v6>[0-9A-Fa-f:.]{2,45}(?:%[0-9A-Za-z._~-]{1,32})?)\])"
    r"(?::(?:(?P<port>[0-9]{1,5})|_[A-Za-z0-9._-]+))?"
)

# The path of a URL, of segments that are not empty (RFC 3986 3.3); a comma separates two values.
_PREFIX = re.compile(r"((?:/[A-Za-z0-9._~!$&'()*+;=:@%-]++)*+)/?")
_PORT = re.compile(r"[0-9]{1,5}")


class Malformed(ValueError):
    """A value that cannot be read; the text is the value, or says what is wrong."""


def split_host(host: str) -> tuple[str, str]:
    """Name and port of a host; the port is empty if there is none."""
    name, colon, port = host.rpartition(":")
    return (name, port) if colon and not host.endswith("]") else (host, "")


def read_node(text: str, *, bare: bool) -> tuple[Address | None, str | None]:
    """Address (None if it is hidden) and port of a hop; ``bare`` allows an IPv6 address without brackets."""
    match = _NODE.fullmatch(text)
    if match is None:
        address = read_address(text) if bare else None
        if address is None:
            raise Malformed(text)
        return address, None
    port = match["port"]
    if port is not None and int(port) > 65535:
        raise Malformed(text)
    if match["hidden"]:
        return None, None
    address = read_address(match["v4"] or match["v6"])
    if address is None or (match["v6"] is not None and ":" not in text.partition("]")[0]):
        raise Malformed(text)
    return address, port


def _read_scheme(text: str) -> str:
    if text.lower() not in _SCHEMES:
        raise Malformed(text)
    return _SCHEMES[text.lower()]


def _read_host(text: str) -> str:
    if not HOST.fullmatch(text):
        raise Malformed(text)
    name, port = split_host(text)
    if port:
        _read_port(port)
    return text if port else name


def _read_port(text: str) -> str:
    if not _PORT.fullmatch(text) or not 0 < int(text) < 65536:
        raise Malformed(text)
    return str(int(text))


def _read_prefix(text: str) -> str:
    match = _PREFIX.fullmatch(text)
    if match is None:
        raise Malformed(text)
    path = unquote_to_bytes(match[1]).decode("latin-1")
    # Checked after decoding, as the application reads it: no segment may lead elsewhere or end a line.
    if re.search(r"[\x00-\x1f\x7f]|//|/\.{1,2}(?:/|$)", path):
        raise Malformed(text)
    return path


READERS: Final = {"proto": _read_scheme, "host": _read_host, "port": _read_port, "prefix": _read_prefix}


def show(error: Malformed) -> str:
    """The text of an error, escaped, in at most 100 characters."""
    text = str(error)
    return ascii(text if len(text) <= 100 else text[:100] + "...")
