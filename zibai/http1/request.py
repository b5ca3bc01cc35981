"""A request, and the policy that decides which ones an application may see.

A lane says what the bytes mean (:class:`Head`); :func:`check` says whether we take it, the same for
every lane, and makes the :class:`Request`. Everything that h11 lets pass and a server has to refuse
(RFC 9112, and the advisories of other servers) stands here or, where it needs the raw bytes, in
``codec``. It refuses and never repairs: two readers of the same bytes that repair differently are
how requests are smuggled.
"""

import re
from collections.abc import Sequence
from http import HTTPStatus
from typing import NamedTuple

from ..errors import Refused

MAX_FIELDS = 128
"""Fields of one head. Browsers send about 15, proxies add a few; each one costs an entry in the environ."""

# uri-host [":" port], RFC 9110 7.2 and RFC 3986 3.2.2. An empty host is refused: nobody sends it in good faith.
_HOST = re.compile(r"(?:\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._~!$&'()*+,;=%-]+)(?::[0-9]*)?")
_ABSOLUTE = re.compile(r"(?i:https?)://([^/?#]*)([^#]*)")
# Not int() on raw text: it takes signs, underscores, spaces and other scripts' digits.
_LENGTH = re.compile(rb"[0-9]{1,19}")


class Head(NamedTuple):
    """What a lane read from the bytes of one head; names in lower case, values without outer white space."""

    method: str
    target: str
    version: str  # "1.1"
    fields: Sequence[tuple[bytes, bytes]]


class Request:
    """One request, checked. ``length`` is the declared size of the body in bytes, None when it is chunked."""

    __slots__ = (
        "chunked",
        "expects_continue",
        "fields",
        "keep_alive",
        "length",
        "method",
        "path",
        "query",
        "target",
        "version",
    )

    def __init__(self, head: Head) -> None:
        self.method, self.target, version, _ = head
        self.version = "HTTP/" + version
        self.path = self.query = ""
        self.fields: list[tuple[bytes, bytes]] = []
        self.length: int | None = 0
        self.chunked = self.expects_continue = False
        self.keep_alive = version != "1.0"

    @property
    def is_http11(self) -> bool:
        """Whether the client knows chunked bodies, interim answers and connections kept by default."""
        return self.version != "HTTP/1.0"

    @property
    def has_body(self) -> bool:
        return self.length != 0


def check(head: Head) -> Request:
    """Make the request of a head, or raise :class:`Refused` with the answer for the client."""
    if not head.version.startswith("1."):
        raise Refused(HTTPStatus.HTTP_VERSION_NOT_SUPPORTED, f"HTTP/{head.version}")
    if len(head.fields) > MAX_FIELDS:
        raise Refused(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE, f"{len(head.fields)} fields")
    request = Request(head)
    hosts = _read_fields(request, head.fields)
    if len(hosts) > 1 or (request.is_http11 and not hosts):
        raise _bad(f"{len(hosts)} Host fields")
    host = _read_target(request)
    if host is not None:
        # RFC 9112 3.2.2: the authority of an absolute target replaces whatever Host says.
        request.fields = [(name, value) for name, value in request.fields if name != b"host"]
        request.fields.append((b"host", host.encode("ascii")))
        hosts.append(host)
    if not all(map(_HOST.fullmatch, hosts)):
        raise _bad("malformed Host")
    return request


def _read_fields(request: Request, fields: Sequence[tuple[bytes, bytes]]) -> list[str]:
    """Take what frames the request from its fields and keep those that an application may see; return its Hosts."""
    hosts: list[str] = []
    lengths: set[bytes] = set()
    for name, value in fields:
        if name == b"host":
            hosts.append(value.decode("latin-1"))
        elif name == b"content-length":
            lengths.add(value)
        elif name == b"transfer-encoding":
            if value.lower() != b"chunked" or request.chunked:
                raise Refused(HTTPStatus.NOT_IMPLEMENTED, "unknown transfer coding")
            request.chunked = True
        elif name == b"connection":
            _read_connection(request, value)
        elif name == b"expect":
            if value.lower() != b"100-continue":
                raise Refused(HTTPStatus.EXPECTATION_FAILED, "unknown expectation")
            # RFC 9110 10.1.1: the expectation of an HTTP/1.0 client is ignored.
            request.expects_continue = request.is_http11
        elif b"_" in name or name == b"proxy":
            # `a_b` and `a-b` are the same key in an environ, so the one would forge the other;
            # HTTP_PROXY is read as a setting by many HTTP clients ("httpoxy").
            continue
        request.fields.append((name, value))
    if request.chunked:
        if lengths or not request.is_http11:
            # RFC 9112 6.1 lets us refuse, and whoever sends both may be smuggling.
            raise _bad("Transfer-Encoding with Content-Length or in HTTP/1.0")
        request.length = None
    elif lengths:
        if len(lengths) > 1 or not _LENGTH.fullmatch(value := lengths.pop()):
            raise _bad("malformed Content-Length")
        request.length = int(value)
    return hosts


def _read_connection(request: Request, value: bytes) -> None:
    options = {option.strip(b" \t") for option in value.lower().split(b",")}
    if b"close" in options:
        request.keep_alive = False
    elif b"keep-alive" in options and not request.is_http11:
        request.keep_alive = True


def _read_target(request: Request) -> str | None:
    """Split the target (RFC 9112 3.2) into path and query; return the host of an absolute one."""
    target, host = request.target, None
    if request.method == "CONNECT":
        # A tunnel is not for an origin server, and what follows must never be read as a request.
        raise _bad("CONNECT")
    if target == "*" and request.method == "OPTIONS":
        return None
    if not target.startswith("/"):
        absolute = _ABSOLUTE.fullmatch(target)
        if absolute is None:
            raise _bad("malformed target")
        host, target = absolute.groups()
        if not target.startswith("/"):
            target = "/" + target
    if "#" in target:
        raise _bad("fragment in the target")
    request.path, _, request.query = target.partition("?")
    return host


def _bad(reason: str) -> Refused:
    return Refused(HTTPStatus.BAD_REQUEST, reason)
