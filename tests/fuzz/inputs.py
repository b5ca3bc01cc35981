"""What is sent: bytes, and where they are cut. Everything follows from the random generator that is passed in."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from random import Random

WIRE = Path(__file__).parent.parent / "wire"
LONG = 3000  # bytes of a seed from which on it is taken seldom: it is long for a limit, and slow


class Input(NamedTuple):
    data: bytes
    cuts: list[list[int]]  # for each lane, the sizes of its pieces; what is left comes last


# What structure is made of, and what has been taken for structure.
TOKENS = [
    *(b"\r\n", b"\r\n\r\n", b"\n", b"\r", b"\r\n ", b"\r\n\t", b" ", b"\t", b":", b": ", b",", b";", b"=", b'"', b"\0"),
    *(b"\x0b", b"\x0c", b"\x1b[31m", b"\x1f", b"\x7f", b"\x80", b"\x85", b"\xa0", b"\xff", "\u2028".encode()),
    *(b"GET ", b"POST ", b"HEAD ", b"OPTIONS * ", b"CONNECT a:1 ", b"/", b"*", b"?", b"#", b"%00", b"%0d%0a", b"//"),
    *(b"http://b/", b" HTTP/1.1\r\n", b" HTTP/1.0\r\n", b" HTTP/2.0\r\n", b" HTTP/1.1", b"HTTP/"),
    *(b"Host: a\r\n", b"Host: b\r\n", b"Content-Length: 5\r\n", b"Content-Length: 0\r\n", b"Content-Length:"),
    *(b"Transfer-Encoding: chunked\r\n", b"Transfer-Encoding:", b"chunked", b"identity", b"Trailer: X\r\n"),
    *(b"Connection: close\r\n", b"Connection: keep-alive\r\n", b"Expect: 100-continue\r\n", b"Upgrade: h2c\r\n"),
    *(b"X_Y: 1\r\n", b"Proxy: a\r\n", b"Cookie: a=b\r\n", b"User-Agent: \\x1b\r\n", b"Referer: /\"\r\n"),
    *(b"0\r\n\r\n", b"0\r\n", b"5\r\nhello\r\n", b"1;a=b\r\nx\r\n", b"ffffffffffffffff\r\n", b"-1", b"+5", b"0x5"),
    *(b"00000000000000000000", b"18446744073709551616", b"2147483648", b"a" * 100, b"a" * 5000, b"X: 1\r\n" * 130),
]  # fmt: skip

METHODS = [b"GET", b"GET", b"POST", b"POST", b"HEAD", b"PUT", b"DELETE", b"OPTIONS", b"get", b"M-SEARCH"]
PATHS = [b"/%d", b"/%d?a=b", b"/a%%20b/%d", b"//%d", b"http://b/%d", b"/%d/" + b"a" * 90]
FIELDS = [
    *(b"X-Y: 1", b"Accept: */*", b"User-Agent: fuzz", b"Cookie: a=1", b"Cookie: b=2", b"X_Y: evil", b"Proxy: evil"),
    *(b"Connection: close", b"Connection: keep-alive", b"Connection: te", b"Upgrade: h2c", b"Expect: 100-continue"),
    *(b"X: \xe9", b"X:", b"Referer: \"'\\", b"TE: trailers", b"Content-Type: text/plain", b"X-Forwarded-For: 6.6.6.6"),
]  # fmt: skip


class Inputs:
    """The source of inputs; ``lanes`` is how many ways to cut each of them has."""

    def __init__(self, lanes: int) -> None:
        self._lanes = lanes
        seeds = [path.read_bytes() for path in sorted(WIRE.rglob("*.http"))]
        assert seeds, "there is no corpus"
        self._usual = [seed for seed in seeds if len(seed) < LONG]
        self._long = [seed for seed in seeds if len(seed) >= LONG]

    def make(self, random: Random) -> Input:
        parts = [self._part(random) for _ in range(random.choice([1, 1, 2, 2, 3, 5]))]
        data = bytearray(b"".join(parts))
        for _ in range(random.choice([0, 0, 1, 1, 2, 3, 6])):
            mutate(data, random)
        return Input(bytes(data), [cuts(len(data), random) for _ in range(self._lanes)])

    def _part(self, random: Random) -> bytes:
        kind = random.random()
        if kind < 0.01:
            return random.choice(self._long)
        return random.choice(self._usual) if kind < 0.5 else grow(random)


def grow(random: Random) -> bytes:
    """A request that is right, as far as it goes."""
    version = random.choice([b"1.1"] * 5 + [b"1.0"])
    line = b"%b %b HTTP/%b" % (random.choice(METHODS), random.choice(PATHS) % random.randrange(1000), version)
    fields = [b"Host: a", *random.sample(FIELDS, random.randrange(5))]
    body = random.randbytes(random.choice([0, 1, 5, 200, 1000]))
    framing = random.randrange(3)
    if framing == 1:
        fields.append(b"Content-Length: %d" % len(body))
    elif framing == 2 and version == b"1.1":
        fields.append(b"Transfer-Encoding: chunked")
        body = chunk(body, random)
    else:
        body = b""
    random.shuffle(fields)
    return b"\r\n".join([line, *fields, b"", body])


def chunk(body: bytes, random: Random) -> bytes:
    pieces = []
    while body:
        size = random.randrange(1, len(body) + 1)
        pieces.append(b"%x%b\r\n%b\r\n" % (size, random.choice([b"", b"", b";a=b"]), body[:size]))
        body = body[size:]
    return b"".join([*pieces, b"0\r\n", random.choice([b"", b"", b"X: 1\r\n"]), b"\r\n"])


def mutate(data: bytearray, random: Random) -> None:
    place = random.randrange(len(data) + 1)
    size = random.choice([0, 0, 1, 1, 2, 10, 50])
    match random.randrange(6):
        case 0 | 1:
            data[place : place + size] = random.choice(TOKENS)
        case 2:
            data[place : place + size] = random.randbytes(random.randrange(3))
        case 3:
            data[place:place] = data[place : place + 10 * size]
        case 4:
            other = random.randrange(len(data) + 1)
            data[other:other] = data[place : place + size]
        case 5:
            del data[place : place + size]


def cuts(size: int, random: Random) -> list[int]:
    match random.randrange(8):
        case 0 | 1 | 2:
            return []
        case 3 if size < 400:
            return [1] * size
        case 4 | 5:
            return [random.randrange(1, 1 + size)] if size else []
        case _:
            return [random.randrange(1, 200) for _ in range(random.randrange(12))]
