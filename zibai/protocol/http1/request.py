"""A request, and the policy that decides which ones an application may see.

A lane parses the bytes (:class:`Head`). :func:`check` accepts or refuses the head, in the same way for both lanes, and
makes the :class:`Request`. Most of it is :func:`decide`, which interprets the fields; the fast lane calls it if there
is anything to decide. Everything that h11 accepts and a server must refuse (RFC 9112, and the advisories of other
servers) is refused here or, if it needs the raw bytes, in ``codec``. Nothing is repaired: requests are smuggled past
two parsers that repair the same bytes differently.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from http import HTTPStatus
from types import MappingProxyType
from typing import Any, NamedTuple

from ...errors import Refused

MAX_FIELDS = 128
"""Fields of one head. Browsers send about 15, proxies add a few; each one costs an entry in the environ."""

MAX_TARGET = 8 * 1024
"""Bytes of a request target by default: what proxies accept, and what RFC 9112 3 recommends at least."""

# uri-host [":" port], RFC 9110 7.2 and RFC 3986 3.2.2; with a name in it. Possessive: else exponential.
HOST = re.compile(r"(?:\[[0-9A-Fa-f:.]+\]|(?:[A-Za-z0-9._~!$&'()*+,;=-]++|%[0-9A-Fa-f]{2})++)(?::[0-9]*)?")
# Possessive repetitions: with backtracking, a "#" at the end would take quadratic time.
_ABSOLUTE = re.compile(r"(?i:https?)://([^/?#]*+)([^#]*+)")
# The forwarding fields of proxies (RFC 7239, and the older ones).
FORWARDING = frozenset(
    {"HTTP_FORWARDED"} | {f"HTTP_X_FORWARDED_{name}" for name in ("FOR", "PROTO", "HOST", "PORT", "PREFIX")}
)
# Not int() on raw text: it takes signs, underscores, spaces and other scripts' digits.
_LENGTH = re.compile(r"[0-9]{1,19}")

# A cache of field names: the key in an environ ("" if no application may see the field) and the meaning. Names are few
# and come again with every request; the bounds are for clients that invent names. Several threads may use it without a
# lock: each step is one operation of a dict, and at worst two threads learn the same name.
names: dict[str, tuple[str, int]] = {}
MAX_NAMES = 1024
LONG_NAME = 64  # characters; a longer one is not remembered

DROPPED, HOST_FIELD, FORWARDS, FRAMES, LENGTH, CONNECTION = 1, 2, 4, 8, 16, 32
"""The meaning of a name: hidden from applications, Host, a forwarding field, or a field that decides about the framing
of the body or the connection. Content-Length and Connection are of the last kind; many requests have them."""

_FRAMING = {
    "CONTENT_LENGTH": LENGTH,
    "HTTP_CONNECTION": CONNECTION,
    **dict.fromkeys(("HTTP_TRANSFER_ENCODING", "HTTP_EXPECT", "HTTP_UPGRADE"), FRAMES),
}


class Head(NamedTuple):
    """The parsed bytes of one head; values have no outer white space."""

    method: str
    target: str
    version: str  # "1.1"
    fields: Sequence[tuple[bytes, bytes]]


class Request:
    """One request, checked.

    ``environ`` has its fields as CGI variables (RFC 3875 4.1.18), "HTTP_HOST", with native strings of latin-1 (PEP
    3333), on top of the environ that the caller passes. ``length`` is the declared size of the body in bytes, 0 without
    a body, None when it is chunked. ``keep_alive`` is whether the client wants the connection kept,
    ``expects_continue`` whether it waits for 100 Continue. ``forwards`` says that there are forwarding fields, whether
    a proxy has sent them or not. ``plain`` says that the response needs no special treatment: HTTP/1.1, kept alive, no
    100 Continue, and it has a body. ``upgrades`` says that the client asks for WebSocket on this connection.
    ``summary`` is method and path, for the scoreboard.

    ``remembered`` says that a lane keeps this object and returns it again, also to several exchanges at the same time.
    Then neither it nor its environ may be changed, and a caller may cache values that it derives from it. Any other
    request belongs only to its caller.
    """

    __slots__ = (
        "chunked", "environ", "expects_continue", "forwards", "keep_alive", "length", "method", "path", "plain",
        "query", "raw", "remembered", "summary", "target", "upgrades", "version",
    )  # fmt: skip

    def __init__(self, method: str, target: str, path: str, query: str, version: str, environ: dict[str, Any]) -> None:
        """A plain request without a body; :func:`decide` sets the rest by the fields."""
        self.method = method
        self.target = target
        self.path = path
        self.query = query
        self.version = version  # "HTTP/1.1"
        self.environ = environ
        self.raw = b""  # the head, as it came
        self.length: int | None = 0
        self.keep_alive = True
        self.chunked = self.expects_continue = self.forwards = self.remembered = self.upgrades = False
        self.plain = method != "HEAD"
        self.summary = f"{method} {path}".encode("ascii", "replace")

    @property
    def is_http11(self) -> bool:
        """Whether the client supports chunked bodies, interim responses and connections that are kept by default."""
        return self.version != "HTTP/1.0"

    @property
    def has_body(self) -> bool:
        """Whether a body follows, which may be empty if it is chunked."""
        return self.length != 0

    @property
    def takes_trailers(self) -> bool:
        """Whether the client has asked for trailers (RFC 9110 10.1.4)."""
        return "trailers" in self.environ.get("HTTP_TE", "").lower()

    @property
    def fields(self) -> list[tuple[bytes, bytes]]:
        """The fields as they came, with their names in lower case.

        Names that no application may see in an environ are left out here, too. The host of an absolute target replaces
        the field (RFC 9112 3.2.2).
        """
        found = []
        for line in self.raw.split(b"\r\n")[1:-2]:
            name, _, value = line.partition(b":")
            text = name.decode("latin-1")
            key, _ = names.get(text) or learn_name(text)
            if key:
                found.append((name.lower(), value.strip(b"\t ")))
        return found if self.target[:1] in "/*" else with_host(found, self.environ["HTTP_HOST"])


def with_host(fields: list[tuple[bytes, bytes]], host: str) -> list[tuple[bytes, bytes]]:
    """The fields, with another Host."""
    return [(b"host", host.encode("latin-1")), *(pair for pair in fields if pair[0] != b"host")]


def check(head: Head, base: Mapping[str, Any] = MappingProxyType({})) -> Request:
    """Make the request of a head, or raise :class:`Refused` with the response for the client.

    Its environ begins with ``base``, which has no key that a field could have.
    """
    method, target, version, fields = head
    if not version.startswith("1."):
        raise Refused(HTTPStatus.HTTP_VERSION_NOT_SUPPORTED, f"HTTP/{version}")
    if len(fields) > MAX_FIELDS:
        raise Refused(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE, f"{len(fields)} fields")
    environ = dict(base)
    read_fields(fields, environ)
    path, query, host = _read_target(method, target)
    request = Request(method, target, path, query, f"HTTP/{version}", environ)
    decide(request)
    if host is not None:
        # RFC 9112 3.2.2: the authority of an absolute target replaces Host.
        environ["HTTP_HOST"] = host
    return request


def read_fields(fields: Iterable[tuple[bytes, bytes]], environ: dict[str, Any]) -> None:
    """Put the fields of a head into ``environ``; raises :class:`Refused`.

    Fields of one name are one value, a list (RFC 9110 5.3).
    """
    for spelled, value in fields:
        name = spelled.decode("latin-1")
        key, _ = names.get(name) or learn_name(name)
        if not key:
            continue
        text = value.decode("latin-1")
        environ[key] = _join(key, environ[key], text) if key in environ else text


def decide(request: Request) -> None:
    """Interpret the fields of a request, after they were joined; raises :class:`Refused`."""
    environ, http11 = request.environ, request.is_http11
    _read_framing(request, http11)
    _read_connection(request, http11)
    host = environ.get("HTTP_HOST")
    if host is None:
        if http11:
            raise _bad("no Host")
    elif host and not HOST.fullmatch(host):
        # An empty Host is accepted: clients send it if their target has no host (RFC 9112 3.2), and health checks do.
        raise _bad("malformed Host")
    request.plain = http11 and request.keep_alive and not request.expects_continue and request.method != "HEAD"
    request.forwards = not environ.keys().isdisjoint(FORWARDING)


def learn_name(spelled: str) -> tuple[str, int]:
    """The key and the meaning of a field name, which is a token."""
    key = spelled.upper().replace("-", "_")
    meaning = 0
    if "_" in spelled or key == "PROXY":
        # `a_b` and `a-b` are the same key in an environ, so one could forge the other;
        # many HTTP clients read HTTP_PROXY as a setting ("httpoxy").
        key, meaning = "", DROPPED
    elif key not in {"CONTENT_TYPE", "CONTENT_LENGTH"}:
        key = "HTTP_" + key
    if key in _FRAMING:
        meaning = _FRAMING[key]
    elif key in FORWARDING:
        meaning = FORWARDS
    elif key == "HTTP_HOST":
        meaning = HOST_FIELD
    if len(spelled) <= LONG_NAME:
        if len(names) >= MAX_NAMES:
            names.clear()
        names[spelled] = key, meaning
    return key, meaning


def _join(key: str, first: str, second: str) -> str:
    """The value of two fields of one name."""
    if key == "HTTP_HOST":
        # Joined they could be valid: a host may contain a comma. In a length or a coding, a comma is refused later.
        raise _bad("two Hosts")
    return first + ("; " if key == "HTTP_COOKIE" else ",") + second


def _read_framing(request: Request, http11: bool) -> None:
    """Find out how the body is framed (RFC 9112 6)."""
    length = request.environ.get("CONTENT_LENGTH")
    coding = request.environ.get("HTTP_TRANSFER_ENCODING")
    if coding is not None:
        if coding.lower() != "chunked":
            raise Refused(HTTPStatus.NOT_IMPLEMENTED, "unknown transfer coding")
        if length is not None or not http11:
            # RFC 9112 6.1 allows refusing it, and a client that sends both may be smuggling.
            raise _bad("Transfer-Encoding with Content-Length or in HTTP/1.0")
        request.chunked = True
        request.length = None
    elif length is not None:
        if not _LENGTH.fullmatch(length):
            raise _bad("malformed Content-Length")
        request.length = int(length)
        request.environ["CONTENT_LENGTH"] = str(request.length)  # without leading zeros


def _read_connection(request: Request, http11: bool) -> None:
    """Read Expect, Connection and Upgrade."""
    expected = request.environ.get("HTTP_EXPECT")
    if expected is not None:
        if _options(expected) != {"100-continue"}:
            raise Refused(HTTPStatus.EXPECTATION_FAILED, "unknown expectation")
        # RFC 9110 10.1.1: the expectation of an HTTP/1.0 client is ignored.
        request.expects_continue = http11
    wanted = request.environ.get("HTTP_CONNECTION")
    if wanted is None:
        request.keep_alive = http11
    else:
        options = _options(wanted)
        request.keep_alive = "close" not in options and (http11 or "keep-alive" in options)
        # RFC 9110 7.8: an Upgrade that Connection does not name, or in HTTP/1.0, is ignored.
        if "upgrade" in options and http11:
            request.upgrades = "websocket" in _options(request.environ.get("HTTP_UPGRADE", ""))


def _options(value: str) -> set[str]:
    # No other letter of latin-1 becomes one of ASCII in lower case.
    return {option.strip(" \t") for option in value.lower().split(",")}


def _read_target(method: str, target: str) -> tuple[str, str, str | None]:
    """Split the target (RFC 9112 3.2) into path and query; the third is the host of an absolute one."""
    host = None
    if method == "CONNECT":
        # An origin server opens no tunnel, and the bytes that follow must never be parsed as a request.
        raise _bad("CONNECT")
    if target == "*" and method == "OPTIONS":
        return "", "", None
    if not target.startswith("/"):
        absolute = _ABSOLUTE.fullmatch(target)
        if absolute is None:
            raise _bad("malformed target")
        host, target = absolute.groups()
        if not HOST.fullmatch(host):
            raise _bad("malformed host in the target")
        if not target.startswith("/"):
            target = "/" + target
    if "#" in target:
        raise _bad("fragment in the target")
    path, _, query = target.partition("?")
    return path, query, host


def _bad(reason: str) -> Refused:
    return Refused(HTTPStatus.BAD_REQUEST, reason)
