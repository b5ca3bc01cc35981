"""Answers: one policy that says which fields go out, how the body is framed and whether the connection stays.

Everything an application gives is checked before a byte of it is on the wire; a CR or LF in a name, a value or
the status would let a user of the application write answers of his own (response splitting).
"""

import re
from collections.abc import Iterable
from http import HTTPStatus

from .request import Request

Fields = Iterable[tuple[str, str]]

SERVER = b"Server: zibai\r\n"

_STATUS = re.compile(r"[1-9][0-9]{2}(?: [\t\x20-\x7e\x80-\xff]*)?")
_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_VALUE = re.compile(r"[\t\x20-\x7e\x80-\xff]*")
_LENGTH = re.compile(r"[0-9]{1,19}")
# RFC 9110 7.6.1 and PEP 3333: the fields of one hop are the server's.
HOP_BY_HOP = frozenset(
    {
        "connection", "keep-alive", "proxy-authenticate", "proxy-authorization", "proxy-connection", "te", "trailer",
        "transfer-encoding", "upgrade",
    }
)  # fmt: skip


def validate(status: str, fields: Fields) -> None:
    """Raise ``TypeError`` or ``ValueError``, for the application, when this cannot be sent."""
    if type(status) is not str:
        raise TypeError(f"the status must be a str, not {status!r}")
    if not _STATUS.fullmatch(status):
        raise ValueError(f"malformed status {status!r}")
    for name, value in fields:
        if type(name) is not str or type(value) is not str:
            raise TypeError(f"names and values of fields must be str, not {name!r}: {value!r}")
        if not _NAME.fullmatch(name):
            raise ValueError(f"malformed field name {name!r}")
        if not _VALUE.fullmatch(value):
            raise ValueError(f"forbidden character in the field {name}: {value!r}")


def interim(status: str, fields: Fields) -> bytes:
    """An interim answer (1xx), which has no framing fields (RFC 9110 15.2)."""
    validate(status, fields)
    if status[0] != "1" or status.startswith("101"):
        raise ValueError(f"not an interim status: {status!r}")
    lines = [f"{name}: {value}\r\n" for name, value in fields if name.lower() not in HOP_BY_HOP | {"content-length"}]
    return f"HTTP/1.1 {status}\r\n{''.join(lines)}\r\n".encode("latin-1")


CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"


class Framing:
    """How one answer goes out: its head, and what has to be done to its body.

    ``bodyless``: nothing of a body may be sent (HEAD, 204, 304). ``chunked``: each piece is a chunk.
    ``length``: the bytes that were promised, None where the end is marked otherwise. ``keep_alive``: whether the
    connection may carry another request.
    """

    __slots__ = ("bodyless", "chunked", "head", "keep_alive", "length", "removed")

    def __init__(
        self, request: Request, status: str, fields: Fields, size: int | None, keep_alive: bool, date: bytes
    ) -> None:
        """``size`` is that of the whole body in bytes when it is known; ``date`` is the value of Date."""
        code = int(status[:3])
        self.bodyless = request.method == "HEAD" or code in (204, 304)
        self.chunked = False
        self.length: int | None = None
        self.removed: list[str] = []  # fields of one hop, which are not the application's to send
        lines = [f"HTTP/1.1 {status}\r\n"]
        own_server = own_date = False
        for name, value in fields:
            key = name.lower()
            if key in HOP_BY_HOP:
                if key == "connection" and "close" in value.lower():
                    keep_alive = False
                else:
                    self.removed.append(name)
                continue
            if key == "content-length":
                again, self.length = self.length is not None, _length(value, self.length)
                if again or code == 204:
                    continue  # RFC 9110 8.6: once, and never with 204
            own_server |= key == "server"
            own_date |= key == "date"
            lines.append(f"{name}: {value}\r\n")
        if self.length is None and not self.bodyless:
            if size is not None:
                self.length = size
                lines.append(f"Content-Length: {size}\r\n")
            elif request.is_http11:
                self.chunked = True
                lines.append("Transfer-Encoding: chunked\r\n")
            else:
                keep_alive = False  # the end of the connection is the end of the body
        if not keep_alive:
            lines.append("Connection: close\r\n")
        elif not request.is_http11:
            lines.append("Connection: keep-alive\r\n")
        self.keep_alive = keep_alive
        head = "".join(lines).encode("latin-1")
        if not own_server:
            head += SERVER
        if not own_date:
            head += b"Date: " + date + b"\r\n"
        self.head = head + b"\r\n"


def _length(value: str, first: int | None) -> int:
    """The value of a Content-Length, which may be said again but not changed."""
    if not _LENGTH.fullmatch(value) or first not in {None, int(value)}:
        raise ValueError(f"malformed or second Content-Length {value!r}")
    return int(value)


def plain(status: HTTPStatus, date: bytes) -> bytes:
    """Our own answer to what never reaches an application; the connection ends with it."""
    body = f"{status.value} {status.phrase}\n".encode()
    return (
        f"HTTP/1.1 {status.value} {status.phrase}\r\nContent-Type: text/plain; charset=utf-8\r\n"
        f"Content-Length: {len(body)}\r\nConnection: close\r\n"
    ).encode() + b"%sDate: %s\r\n\r\n%s" % (SERVER, date, body)
