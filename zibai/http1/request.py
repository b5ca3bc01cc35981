"""A request, and the policy that decides which ones an application may see.

A lane says what the bytes mean (:class:`Head`); :func:`check` says whether we take it, the same for
every lane, and makes the :class:`Request`. The greater part of it is :func:`read_fields`, which makes the
:class:`Block` of the fields; the fast lane calls it alone, since of a block that it has seen it knows the answer.
Everything that h11 lets pass and a server has to refuse
(RFC 9112, and the advisories of other servers) stands here or, where it needs the raw bytes, in
``codec``. It refuses and never repairs: two readers of the same bytes that repair differently are
how requests are smuggled.
"""

import re
from collections.abc import Iterable, Sequence
from http import HTTPStatus
from typing import NamedTuple

from ..errors import Refused

MAX_FIELDS = 128
"""Fields of one head. Browsers send about 15, proxies add a few; each one costs an entry in the environ."""

MAX_TARGET = 8 * 1024
"""Bytes of a request target, unless somebody says otherwise: what proxies take, and RFC 9112 3 asks for at least."""

# uri-host [":" port], RFC 9110 7.2 and RFC 3986 3.2.2; with a name in it.
HOST = re.compile(r"(?:\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._~!$&'()*+,;=%-]+)(?::[0-9]*)?")
# No repetition gives anything back: with a "#" at the end, that would take quadratic time.
_ABSOLUTE = re.compile(r"(?i:https?)://([^/?#]*+)([^#]*+)")
# What proxies say of the client that they have a request from (RFC 7239, and what there was before it).
FORWARDING = frozenset(
    {"HTTP_FORWARDED"} | {f"HTTP_X_FORWARDED_{name}" for name in ("FOR", "PROTO", "HOST", "PORT", "PREFIX")}
)
# Not int() on raw text: it takes signs, underscores, spaces and other scripts' digits.
_LENGTH = re.compile(r"[0-9]{1,19}")

# What a field name is: in lower case, and its key in an environ, "" for what no application may see. Names are few and
# come again with every request; the bounds are against who makes them up. Several threads may use it without a lock:
# each step is one operation of a dict, and whoever is late only learns a name once more.
_names: dict[bytes, tuple[bytes, str]] = {}
_MAX_NAMES = 1024
_LONG_NAME = 64  # bytes


class Head(NamedTuple):
    """What a lane read from the bytes of one head; values without outer white space."""

    method: str
    target: str
    version: str  # "1.1"
    fields: Sequence[tuple[bytes, bytes]]


class Block:
    """What the fields of a head say. Requests may share one, also at the same time, so nobody changes it.

    ``fields`` are those that an application may see, names in lower case. ``environ`` has them as CGI variables
    (RFC 3875 4.1.18), "HTTP_HOST", with native strings of latin-1 (PEP 3333); whoever wants to add to it makes a copy.
    ``length`` is the declared size of the body in bytes, 0 without a body, None when it is chunked. ``keep_alive``
    is whether the client wants the connection kept, ``expects_continue`` whether it waits for 100 Continue.

    ``plain`` says that an answer needs no thought: HTTP/1.1, to be kept alive, and nothing waits for 100 Continue.
    ``forwards`` says that there are fields in which a proxy tells who the client is, from a proxy or not.
    """

    __slots__ = (
        "chunked",
        "environ",
        "expects_continue",
        "fields",
        "forwards",
        "keep_alive",
        "length",
        "plain",
    )

    def __init__(self, fields: list[tuple[bytes, bytes]], environ: dict[str, str]) -> None:
        self.fields = fields
        self.environ = environ
        self.length: int | None = 0
        self.chunked = self.expects_continue = self.keep_alive = self.plain = self.forwards = False


class Request:
    """One request, checked: its request line, and the :class:`Block` of its fields.

    Exchanges may share one, also at the same time, so nobody changes it. ``summary`` is method and path, for the
    scoreboard. ``plain`` says that its answer needs no thought, see :class:`Block`, and has its body.

    ``remembered`` says that a lane keeps this object and may return it again, so that a caller can keep what it has
    made of it. The caller keeps that itself: a lane may serve several gateways, and each makes something else.
    """

    # What every exchange asks for lies here as well, the rest is looked up in the block.
    __slots__ = (
        "block", "forwards", "keep_alive", "length", "method", "path", "plain", "query", "remembered",
        "summary", "target", "version",
    )  # fmt: skip

    def __init__(self, method: str, target: str, path: str, query: str, version: str, block: Block) -> None:
        self.method = method
        self.target = target
        self.path = path
        self.query = query
        self.version = version  # "HTTP/1.1"
        self.block = block
        self.length = block.length
        self.keep_alive = block.keep_alive
        self.forwards = block.forwards
        self.plain = block.plain and method != "HEAD"
        self.summary = f"{method} {path}".encode("ascii", "replace")
        self.remembered = False

    @property
    def fields(self) -> list[tuple[bytes, bytes]]:
        return self.block.fields

    @property
    def environ(self) -> dict[str, str]:
        """The fields as CGI variables. Other requests have the same dict, so it must never be changed."""
        return self.block.environ

    @property
    def chunked(self) -> bool:
        return self.block.chunked

    @property
    def expects_continue(self) -> bool:
        return self.block.expects_continue

    @property
    def is_http11(self) -> bool:
        """Whether the client knows chunked bodies, interim answers and connections kept by default."""
        return self.version != "HTTP/1.0"

    @property
    def has_body(self) -> bool:
        return self.length != 0


def check(head: Head) -> Request:
    """Make the request of a head, or raise :class:`Refused` with the answer for the client."""
    method, target, version, fields = head
    if not version.startswith("1."):
        raise Refused(HTTPStatus.HTTP_VERSION_NOT_SUPPORTED, f"HTTP/{version}")
    if len(fields) > MAX_FIELDS:
        raise Refused(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE, f"{len(fields)} fields")
    block = read_fields(fields, version != "1.0")
    path, query, host = _read_target(method, target)
    if host is not None:
        # RFC 9112 3.2.2: the authority of an absolute target replaces whatever Host says.
        block.fields = [(name, value) for name, value in block.fields if name != b"host"]
        block.fields.append((b"host", host.encode("ascii")))
        block.environ["HTTP_HOST"] = host
    return Request(method, target, path, query, "HTTP/" + version, block)


def read_fields(fields: Iterable[tuple[bytes, bytes]], http11: bool) -> Block:
    """Read the fields of a head, whatever its request line; raises :class:`Refused`.

    Fields of one name are one value, a list (RFC 9110 5.3), so what they mean is read after they were joined.
    """
    kept: list[tuple[bytes, bytes]] = []
    environ: dict[str, str] = {}
    for spelled, value in fields:
        name, key = _names.get(spelled) or _learn_name(spelled)
        if not key:
            continue
        kept.append((name, value))
        text = value.decode("latin-1")
        if key in environ:
            text = _join(key, environ[key], text)
        environ[key] = text
    block = Block(kept, environ)
    _read_framing(block, http11)
    _read_connection(block, http11)
    host = environ.get("HTTP_HOST")
    if host is None:
        if http11:
            raise _bad("no Host")
    elif host and not HOST.fullmatch(host):
        # An empty one is served: a client whose target names no host has to send that (RFC 9112 3.2), and health checks
        # do.
        raise _bad("malformed Host")
    block.plain = http11 and block.keep_alive and not block.expects_continue
    block.forwards = not environ.keys().isdisjoint(FORWARDING)
    return block


def _learn_name(spelled: bytes) -> tuple[bytes, str]:
    name = spelled.lower()
    key = name.decode("ascii").upper().replace("-", "_")
    if b"_" in name or name == b"proxy":
        # `a_b` and `a-b` are the same key in an environ, so the one would forge the other;
        # HTTP_PROXY is read as a setting by many HTTP clients ("httpoxy").
        key = ""
    elif key not in {"CONTENT_TYPE", "CONTENT_LENGTH"}:
        key = "HTTP_" + key
    if len(spelled) <= _LONG_NAME:
        if len(_names) >= _MAX_NAMES:
            _names.clear()
        _names[spelled] = name, key
    return name, key


def _join(key: str, first: str, second: str) -> str:
    """The value of two fields of one name."""
    if key == "HTTP_HOST":
        # Joined they could be one again: a comma may stand in a host. In a length or a coding it is refused.
        raise _bad("two Hosts")
    return first + ("; " if key == "HTTP_COOKIE" else ",") + second


def _read_framing(block: Block, http11: bool) -> None:
    """Find out how the body is framed (RFC 9112 6)."""
    length = block.environ.get("CONTENT_LENGTH")
    coding = block.environ.get("HTTP_TRANSFER_ENCODING")
    if coding is not None:
        if coding.lower() != "chunked":
            raise Refused(HTTPStatus.NOT_IMPLEMENTED, "unknown transfer coding")
        if length is not None or not http11:
            # RFC 9112 6.1 lets us refuse, and whoever sends both may be smuggling.
            raise _bad("Transfer-Encoding with Content-Length or in HTTP/1.0")
        block.chunked = True
        block.length = None
    elif length is not None:
        if not _LENGTH.fullmatch(length):
            raise _bad("malformed Content-Length")
        block.length = int(length)
        block.environ["CONTENT_LENGTH"] = str(block.length)  # without zeros before


def _read_connection(block: Block, http11: bool) -> None:
    """Find out what the client wants of the connection."""
    expected = block.environ.get("HTTP_EXPECT")
    if expected is not None:
        if _options(expected) != {"100-continue"}:
            raise Refused(HTTPStatus.EXPECTATION_FAILED, "unknown expectation")
        # RFC 9110 10.1.1: the expectation of an HTTP/1.0 client is ignored.
        block.expects_continue = http11
    wanted = block.environ.get("HTTP_CONNECTION")
    if wanted is None:
        block.keep_alive = http11
    else:
        options = _options(wanted)
        block.keep_alive = "close" not in options and (http11 or "keep-alive" in options)


def _options(value: str) -> set[str]:
    # No other letter of latin-1 becomes one of ASCII in lower case.
    return {option.strip(" \t") for option in value.lower().split(",")}


def _read_target(method: str, target: str) -> tuple[str, str, str | None]:
    """Split the target (RFC 9112 3.2) into path and query; the third is the host of an absolute one."""
    host = None
    if method == "CONNECT":
        # A tunnel is not for an origin server, and what follows must never be read as a request.
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
