"""The fast lane: a recogniser of the heads that nearly every client sends.

It is no parser. It accepts a head of which it knows every byte, or it declines the head, which h11 then parses from the
first byte. It repairs nothing and refuses nothing, so odd and hostile heads meet h11. A head means the same in both
lanes: the policy, :func:`~zibai.protocol.http1.request.decide`, is one function for both, and a head that it refuses is
declined here.

There are three ways to recognise a head, tried in this order:

 - whole: a head that has come before, byte for byte, costs one lookup in a dict. Polls, health checks and load
   generators send the same head again and again. It is remembered when it comes for the second time, so a head that
   never comes again costs a lookup and no memory;
 - by lines: visible ASCII, each line a known name, a colon, one space and a value. Clients differ in values and not in
   names, so names are remembered, and values are accepted as they are. Nearly all heads are like that;
 - by one strict expression: plain heads that are spelled in another way (no space behind the colon, tabs, obs-text, a
   name for the second time); the policy then reads their lines as it reads those of h11.

The expression matches in one way or not at all: a repetition is followed by a character that it cannot match, and no
repetition backtracks. So the time is linear in the bytes, whatever they are.
"""

import re
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Final

from ...errors import Refused
from .request import (
    DROPPED,
    FORWARDS,
    FRAMES,
    HOST,
    HOST_FIELD,
    MAX_FIELDS,
    MAX_TARGET,
    Request,
    decide,
    learn_name,
    names,
    read_fields,
)

# Origin-form only, without a fragment (RFC 9112 3.2.1); CONNECT is not served.
_METHOD = re.compile(r"(?!CONNECT\Z)[!#$%&'*+.^_`|~0-9A-Za-z-]{1,32}+").fullmatch
_TARGET = re.compile(r"/[\x21\x22\x24-\x7e]*+").fullmatch
TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]++").fullmatch
# Field lines, each of a token, a colon, and visible characters, obs-text, spaces and tabs, but without space or tab at
# the end, which is rare; then the empty line.
_FIELDS = re.compile(
    rb"(?:[!#$%%&'*+.^_`|~0-9A-Za-z-]++:[\t\x20-\x7e\x80-\xff]*+(?<![\t ])\r\n){0,%d}\r\n" % MAX_FIELDS
).fullmatch
# Name and value of each line; only for text that the expression above matches.
_PAIRS = re.compile(rb"([^:\r]++):[\t ]*+([^\r]*+)\r\n").findall

# Heads with these fields are left to h11.
_RARE = frozenset({"HTTP_EXPECT", "HTTP_TRANSFER_ENCODING", "HTTP_UPGRADE"})

# Values of Connection that change nothing in HTTP/1.1.
_KEPT = frozenset({"keep-alive", "Keep-Alive"})

METHODS: Final = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
_VERSIONS: Final = frozenset({"HTTP/1.1", "HTTP/1.0"})

MAX_REQUESTS: Final = 512
"""Whole heads that are remembered, and hashes of heads that have come once."""

MAX_KNOWN: Final = 1536
"""Bytes of a head that may be remembered. With its request, it takes several times as much memory."""

MAX_HOSTS: Final = 256
"""Hosts that are known to be well-formed."""


class FastLane:
    """The heads that one server knows, for all its connections.

    ``base`` is the beginning of each environ; it is never changed. Any thread may call the lane, without a lock: a
    request is complete before it is stored and is not changed afterwards, and each lookup, store and clearing is a
    single operation of a dict or set. Two threads may both learn the same head; then the later one stays, and they are
    equal. Threads that find a dict full at the same time may clear it twice or store one entry more, which is harmless.
    Entries of a hostile client are dropped when a dict is full, and cost other clients a lookup that fails.
    """

    __slots__ = ("_base", "_hosts", "_max_target", "_once", "known")

    def __init__(self, max_target: int = MAX_TARGET, base: Mapping[str, Any] = MappingProxyType({})) -> None:
        self._max_target = max_target
        self._base = dict(base)
        self.known: dict[bytes, Request] = {}  # by the whole head
        self._once: set[int] = set()  # hashes of heads that have come once
        self._hosts: set[str] = set()

    def recognise(self, head: bytes) -> Request | None:
        """The request of ``head``, None if the lane declines it: any other bytes than one whole plain head."""
        request = self.known.get(head)
        if request is not None:
            return request
        request = self._read_lines(head) or self._read_fields(head)
        if request is not None:
            request.raw = head
            if len(head) <= MAX_KNOWN:
                self._remember(head, request)
        return request

    def _remember(self, head: bytes, request: Request) -> None:
        """Keep a head that comes for the second time.

        Both caches are cleared when they are full, and not by age: frequent heads are soon there again, and a lookup
        writes nothing.
        """
        once = self._once
        if (number := hash(head)) not in once:
            if len(once) >= MAX_REQUESTS:
                once.clear()
            once.add(number)
            return
        if len(self.known) >= MAX_REQUESTS:
            self.known.clear()
        request.remembered = True
        self.known[head] = request

    def _read_lines(self, head: bytes) -> Request | None:
        """By lines, the quick way: None for a head that is spelled in an unusual way.

        One function on purpose, since every request pays for it. For a head of eight lines it takes 4 µs, where the
        expression and the policy take 8 and h11 over 30. :meth:`_read_fields` is the plain way; a test holds both
        against h11.
        """
        text = head.decode("latin-1")
        lines = text.split("\r\n")
        # Three searches in C: for bytes that are not visible ASCII, and for values that begin or end with a space.
        if not ("".join(lines).isprintable() and text.isascii()) or " \r\n" in text or ":  " in text:
            return None
        method, _, rest = lines[0].partition(" ")
        target, _, version = rest.partition(" ")
        if (
            version != "HTTP/1.1"
            or target[:1] != "/"
            or "#" in target
            or method not in METHODS
            or len(target) > self._max_target
            or len(lines) > MAX_FIELDS + 3
            or lines[-1]
            or lines[-2]
        ):
            return None
        del lines[0], lines[-2:]
        environ, find, meanings = self._base.copy(), names.get, 0
        for line in lines:
            name, colon, value = line.partition(": ")
            key, meaning = find(name) or _learn(name)
            if not colon:
                return None
            meanings |= meaning
            environ[key] = value
        if meanings & DROPPED or not meanings & HOST_FIELD or len(environ) != len(self._base) + len(lines):
            return None  # also two fields of one name, which the policy joins
        if environ["HTTP_HOST"] not in self._hosts and not self._learn_host(environ["HTTP_HOST"]):
            return None
        path, _, query = target.partition("?")
        request = Request(method, target, path, query, version, environ)
        if meanings >= FRAMES:
            find = environ.get
            if not frame(request, meanings, find("CONTENT_LENGTH", "0"), find("HTTP_CONNECTION", "keep-alive")):
                return decided(request)
        request.forwards = meanings & FORWARDS != 0
        return request

    def _learn_host(self, host: str) -> bool:
        """Whether it is well-formed; then it is remembered."""
        if not HOST.fullmatch(host):
            return False
        if len(self._hosts) >= MAX_HOSTS:
            self._hosts.clear()
        self._hosts.add(host)
        return True

    def _read_fields(self, head: bytes) -> Request | None:
        """By the expression, and by the policy, as for h11."""
        line, _, fields = head.partition(b"\r\n")
        parts = line.decode("latin-1").split(" ")
        if len(parts) != 3:
            return None
        method, target, version = parts
        if (
            version not in _VERSIONS
            or not _METHOD(method)
            or not _TARGET(target)
            or len(target) > self._max_target
            or not _FIELDS(fields)
        ):
            return None
        path, _, query = target.partition("?")
        request = Request(method, target, path, query, version, self._base.copy())
        try:
            read_fields(_PAIRS(fields), request.environ)
        except Refused:
            return None
        return decided(request)


def frame(request: Request, meanings: int, length: str, connection: str) -> bool:
    """Set the length of the body, where the fields of the framing are spelled as clients do it; they are ASCII.

    False leaves them to the policy, :func:`decide`, which gives the same and takes 4 µs more, a sixth of a POST.
    """
    if meanings & FRAMES or connection not in _KEPT or not length.isdecimal() or len(length) > 18:
        return False
    request.length = int(length)
    return length[0] != "0" or length == "0"


def decided(request: Request) -> Request | None:
    """The request, if the policy accepts it and it has no rare field."""
    try:
        decide(request)
    except Refused:
        return None
    return request if _RARE.isdisjoint(request.environ) else None


def _learn(name: str) -> tuple[str, int]:
    """The key and the meaning of a new name; a name that is no token must not be remembered."""
    return learn_name(name) if TOKEN(name) else ("", DROPPED)
