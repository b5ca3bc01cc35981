"""The opening handshake of WebSocket, seen from the server (RFC 6455 4.2).

The codec of HTTP has read the head, refused malformed ones, and found out whether the client asks for an upgrade to
WebSocket (:attr:`~zibai.protocol.http1.request.Request.upgrades`). This module refuses requests for an upgrade that is
not allowed, and makes the response to the others. Checking the origin is left to the application.
"""

import re
from base64 import b64encode
from collections.abc import Iterable
from hashlib import sha1
from http import HTTPStatus
from typing import Any, Final

from ...errors import Refused
from ..http1.raw_response import decode_fields
from ..http1.request import Request
from ..http1.response import HOP_BY_HOP, SERVER, validate

VERSION: Final = "13"

_GUID: Final = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"

# 16 bytes in base64. Two fields of that name were joined by a comma, and do not match.
_KEY: Final = re.compile(r"[A-Za-z0-9+/]{21}[AQgw]==")

_OURS: Final = HOP_BY_HOP | {
    "content-length", "sec-websocket-accept", "sec-websocket-extensions", "sec-websocket-protocol",
    "sec-websocket-version",
}  # fmt: skip


def check(request: Request) -> None:
    """Raise :class:`Refused` for a request for an upgrade that is not allowed (RFC 6455 4.2.1)."""
    environ = request.environ
    if request.method != "GET":
        raise Refused(HTTPStatus.BAD_REQUEST, f"a WebSocket handshake by {request.method}")
    if request.has_body:
        raise Refused(HTTPStatus.BAD_REQUEST, "a WebSocket handshake with a body")
    if environ.get("HTTP_SEC_WEBSOCKET_VERSION", "") != VERSION:
        raise Refused(HTTPStatus.UPGRADE_REQUIRED, "another version of WebSocket, or none")
    if not _KEY.fullmatch(environ.get("HTTP_SEC_WEBSOCKET_KEY", "")):
        raise Refused(HTTPStatus.BAD_REQUEST, "a Sec-WebSocket-Key that is not one of 16 bytes")


def offered(request: Request) -> list[str]:
    """The subprotocols that the client offers, in its order, from all fields of that name (RFC 6455 4.1)."""
    names = request.environ.get("HTTP_SEC_WEBSOCKET_PROTOCOL", "").split(",")
    return [name for each in names if (name := each.strip(" \t"))]


def accept(
    request: Request, subprotocol: str | None, extensions: str, fields: Iterable[Iterable[Any]]
) -> tuple[bytes, list[str]]:
    """The response that completes the handshake (RFC 6455 4.2.2), and the names of fields that it leaves out.

    ``fields`` are those of the application, as bytes; fields that only the server sends are left out.

    Raises TypeError and ValueError, for the application, for a field that cannot be sent.
    """
    pairs = decode_fields(fields)
    key = request.environ["HTTP_SEC_WEBSOCKET_KEY"].encode("ascii")
    answer = b64encode(sha1(key + _GUID, usedforsecurity=False).digest()).decode("ascii")
    ours = [("Upgrade", "websocket"), ("Connection", "Upgrade"), ("Sec-WebSocket-Accept", answer)]
    if subprotocol is not None:
        ours.append(("Sec-WebSocket-Protocol", subprotocol))
    if extensions:
        ours.append(("Sec-WebSocket-Extensions", extensions))
    validate("101 Switching Protocols", [*ours, *pairs])
    lines = [f"{name}: {value}\r\n" for name, value in ours]
    names = {name.lower() for name, _ in pairs}
    if "server" not in names:
        lines.append(SERVER)
    lines += [f"{name}: {value}\r\n" for name, value in pairs if name.lower() not in _OURS]
    head = f"HTTP/1.1 101 Switching Protocols\r\n{''.join(lines)}\r\n".encode("latin-1")
    return head, [name for name, _ in pairs if name.lower() in _OURS]
