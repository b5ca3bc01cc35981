"""The fast lane: a recogniser of the heads that nearly every client sends.

It is no parser. It takes a head that two strict expressions match, or it declines, and what it declines h11 reads from
the first byte. It repairs nothing and refuses nothing, so whatever is odd or hostile meets h11. What it takes
means the same in both lanes: the policy, :func:`~zibai.http1.request.read_fields`, is one function for both, and
what that refuses is declined here.

A client sends the very same fields with each request of a connection, and its neighbours send them as well. So the
lane remembers what a block of fields, byte for byte, has turned out to be. For a block that it has seen, a head costs
the match of its request line and one look into a dict. And since a remembered block ends with the empty line and has
none before, finding it also says where the head ends. What is asked for again and again is remembered whole, with its
request line, and costs one look.

The expressions match in one way or not at all: what stands behind a repetition begins with a character that it cannot
match, and no repetition gives anything back. So the time is linear in the bytes, whatever they are.
"""

import re

from ..errors import Refused
from .request import MAX_FIELDS, MAX_TARGET, Block, Request, read_fields

# Origin-form only, without a fragment (RFC 9112 3.2.1); CONNECT is no method that we serve.
_REQUEST_LINE = re.compile(
    r"(?!CONNECT )([!#$%&'*+.^_`|~0-9A-Za-z-]{1,32}+) (/[\x21\x22\x24-\x7e]*+) (HTTP/1\.[01])"
).fullmatch
# Field lines, each of a token, a colon, and visible characters, obs-text, spaces and tabs, but none of these two at
# the end, where hardly anybody has them; then the empty line.
_FIELDS = re.compile(
    rb"(?:[!#$%%&'*+.^_`|~0-9A-Za-z-]++:[\t\x20-\x7e\x80-\xff]*+(?<![\t ])\r\n){0,%d}\r\n" % MAX_FIELDS
).fullmatch
# Name and value of each line; only for what the expression above has matched.
_PAIRS = re.compile(rb"([^:\r]++):[\t ]*+([^\r]*+)\r\n").findall

# What a client may be asking for with these, h11 shall read.
_RARE = frozenset({"HTTP_EXPECT", "HTTP_TRANSFER_ENCODING", "HTTP_UPGRADE"})

MAX_BLOCKS = 256
"""Blocks that are remembered, for each version of HTTP."""

MAX_BLOCK = 4096
"""Bytes of a block that is remembered. With what is made of it, it takes several times as much memory."""


MAX_REQUESTS = 512
"""Whole requests that are remembered, with their request line: polls, health checks, what a page always asks for."""

MAX_KNOWN = 1536
"""Bytes of the head of a request that is remembered."""


class FastLane:
    """What one server remembers of the heads it has read; for all its connections.

    Any thread may call it, without a lock: a block, or a request, is complete before it is put into the dict and is not
    changed afterwards, and each look, store and clearing is a single operation of the dict. Two threads may both learn
    the same block; then the later one stays, and they are equal. Threads that find the dict full together may clear
    it twice or leave one block more in it; neither is wrong.
    """

    __slots__ = ("_blocks", "_max_target", "known")

    def __init__(self, max_target: int = MAX_TARGET) -> None:
        self._max_target = max_target
        self.known: dict[bytes, Request] = {}  # by the whole head
        # The version is not in the block, but says what it means.
        self._blocks: dict[str, dict[bytes, Block]] = {"HTTP/1.0": {}, "HTTP/1.1": {}}

    def recognise(self, head: bytes) -> Request | None:
        """The request of ``head``, None when it is for h11 to read: any other bytes than one whole plain head.

        It may be one that others have been given, and is not to be changed.
        """
        request = self.known.get(head)
        if request is None:
            line, _, fields = head.partition(b"\r\n")
            request = self._read(line, fields)
            if request is not None and len(head) <= MAX_KNOWN:
                if len(self.known) >= MAX_REQUESTS:
                    self.known.clear()
                request.remembered = True
                self.known[head] = request
        return request

    def _read(self, line: bytes, fields: bytes) -> Request | None:
        match = _REQUEST_LINE(line.decode("latin-1"))
        if match is None:
            return None
        method, target, version = match.groups()
        if len(target) > self._max_target:
            return None
        block = self._blocks[version].get(fields) or self._learn(version, fields)
        if block is None:
            return None
        path, _, query = target.partition("?")
        return Request(method, target, path, query, version, block)

    def _learn(self, version: str, fields: bytes) -> Block | None:
        if not _FIELDS(fields):
            return None
        try:
            block = read_fields(_PAIRS(fields), version != "HTTP/1.0")
        except Refused:
            return None
        if not _RARE.isdisjoint(block.environ):
            return None
        if len(fields) <= MAX_BLOCK:
            blocks = self._blocks[version]
            # Emptied, and not by age: what is sent often is soon there again, and a look writes nothing.
            if len(blocks) >= MAX_BLOCKS:
                blocks.clear()
            blocks[fields] = block
        return block
