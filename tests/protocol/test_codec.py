"""The codec: the table of raw requests through every lane, limits, cost, and any bytes at all."""

from __future__ import annotations

import re
import time
from typing import TYPE_CHECKING, NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from zibai.errors import Refused
from zibai.protocol.http1 import Codec, Request, codec, fast, reference, request
from zibai.protocol.http1.fast import FastLane
from zibai.protocol.http1.fast_bytes import BytesLane
from zibai.protocol.http1.request import MAX_TARGET

import requests_table
from requests_table import GOOD, Case, Seen, chunked, get, head, post
from support import check_each

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

MAX_HEAD = 64 * 1024


class AtOnce(Codec):
    """One whose reader asks first whether what has come is all of a request, as a connection does."""

    __slots__ = ()


#: Every lane has to give the same: how a codec is made that uses it, from the limits of a head and of its target.
LANES: dict[str, Callable[..., Codec]] = {
    "reference": lambda max_head, max_target=MAX_TARGET: Codec(max_head, None, max_target),
    "fast": lambda max_head, max_target=MAX_TARGET: Codec(max_head, FastLane(max_target), max_target),
    "bytes": lambda max_head, max_target=MAX_TARGET: Codec(max_head, BytesLane(max_target), max_target),
    "at once": lambda max_head, max_target=MAX_TARGET: AtOnce(max_head, FastLane(max_target), max_target),
}


@pytest.fixture(params=LANES)
def make(request: pytest.FixtureRequest) -> Callable[[int], Codec]:
    return LANES[request.param]


class Outcome(NamedTuple):
    requests: tuple[Seen, ...]
    status: int | None
    left: bytes


def lines(found: Request) -> tuple[bytes, ...]:
    """The environ of a request as lines, in the order of their names."""
    return tuple(f"{key}: {value}".encode("latin-1") for key, value in sorted(found.environ.items()))


def joined(seen: Seen) -> Seen:
    """What the table says field by field, as an application sees it: one value for each name (RFC 9110 5.3)."""
    environ: dict[str, str] = {}
    for field in seen.fields:
        name, _, value = field.decode("latin-1").partition(": ")
        key = name.upper().replace("-", "_")
        key = key if key in ("CONTENT_TYPE", "CONTENT_LENGTH") else f"HTTP_{key}"
        between = "; " if key == "HTTP_COOKIE" else ","
        environ[key] = f"{environ[key]}{between}{value}" if key in environ else value
    if "CONTENT_LENGTH" in environ:
        environ["CONTENT_LENGTH"] = str(int(environ["CONTENT_LENGTH"]))
    return seen._replace(fields=tuple(f"{key}: {value}".encode("latin-1") for key, value in sorted(environ.items())))


TABLE = [case._replace(requests=tuple(map(joined, case.requests))) for case in requests_table.TABLE]
CASES = {case.name: case for case in TABLE}
SEEN_GOOD, CHUNKED = joined(requests_table.SEEN_GOOD), joined(requests_table.CHUNKED)


class Reader:
    """Reads all that a codec has after each piece, as a connection does."""

    def __init__(self, codec: Codec) -> None:
        self.codec = codec
        self.requests: list[Seen] = []
        self.status: int | None = None
        self.in_body = False

    def feed(self, piece: bytes) -> None:
        if self.status is not None:
            return
        if isinstance(self.codec, AtOnce) and not self.in_body:
            whole = self.codec.receive(piece, 10_000)
            if whole is not None:
                self.see(*whole)
                assert not self.codec.has_bytes
                assert not self.codec.in_body
                return
        else:
            self.codec.feed(piece)
        try:
            while self.step():
                pass
        except Refused as refused:
            self.status = int(refused.status)

    def step(self) -> bool:
        """Whether something was read."""
        if self.in_body:
            data = self.codec.next_body()
            if data:
                self.requests[-1] = self.requests[-1]._replace(body=self.requests[-1].body + data)
            self.in_body = data != b""
            assert self.in_body or not self.codec.in_body
            return data is not None
        found = self.codec.next_request()
        if found is None:
            return False
        self.see(found)
        self.in_body = self.codec.in_body
        assert self.in_body is found.has_body
        return True

    def see(self, found: Request, body: bytes = b"") -> None:
        self.requests.append(
            Seen(found.method, found.target, lines(found), body, version=found.version, keep_alive=found.keep_alive)
        )

    @property
    def outcome(self) -> Outcome:
        return Outcome(tuple(self.requests), self.status, rest(self.codec))


def rest(codec: Codec) -> bytes:
    """What has arrived and is not used."""
    return bytes(codec._buffer) + codec._piece[codec._at :]


def read(codec: Codec, pieces: Iterable[bytes]) -> Outcome:
    reader = Reader(codec)
    for piece in pieces:
        reader.feed(piece)
    return reader.outcome


def cut(data: bytes, size: int) -> Iterator[bytes]:
    return (data[start : start + size] for start in range(0, len(data), size))


# One test is the whole table in one lane: with a test for each case there were 7000 of them each day, and pytest took
# longer to keep account of them than the codec to read.


def test_a_request_in_one_piece_is_what_the_table_says(make: Callable[[int], Codec]) -> None:
    def check(case: Case) -> None:
        assert read(make(MAX_HEAD), [case.raw]) == (case.requests, case.status, case.left)

    check_each(check, CASES)


@pytest.mark.daily("reference", "fast")
def test_one_byte_at_a_time_gives_the_same(make: Callable[[int], Codec]) -> None:
    def check(case: Case) -> None:
        assert read(make(MAX_HEAD), cut(case.raw, 1)) == (case.requests, case.status, case.left)

    check_each(check, CASES)


@pytest.mark.daily("reference", "fast")
def test_two_pieces_give_the_same_wherever_the_cut_is(make: Callable[[int], Codec]) -> None:
    def check(case: Case) -> None:
        # Long cases are long for their limits; their first and last bytes are where the structure is.
        places = range(len(case.raw) + 1) if len(case.raw) < 300 else [*range(100), *range(-100, 0)]
        for place in places:
            outcome = read(make(MAX_HEAD), [case.raw[:place], case.raw[place:]])
            assert outcome == (case.requests, case.status, case.left), place

    check_each(check, CASES)


def test_a_request_behind_a_good_one_gives_the_same(make: Callable[[int], Codec]) -> None:
    def check(case: Case) -> None:
        expected = ((SEEN_GOOD, SEEN_GOOD, *case.requests), case.status, case.left)
        assert read(make(MAX_HEAD), [GOOD + GOOD + case.raw]) == expected

    check_each(check, CASES)


def test_a_good_request_behind_is_read_unless_something_was_refused(make: Callable[[int], Codec]) -> None:
    def check(case: Case) -> None:
        expected = (*case.requests, SEEN_GOOD) if case.status is None else case.requests
        for pieces in ([case.raw + GOOD], [case.raw, GOOD], [*cut(case.raw, 1), GOOD]):
            outcome = read(make(MAX_HEAD), pieces)
            assert (outcome.requests, outcome.status) == (expected, case.status)

    # What is not complete takes the next bytes for its own.
    check_each(check, {name: case for name, case in CASES.items() if not case.left})


def test_a_codec_that_has_refused_is_dead(make: Callable[[int], Codec]) -> None:
    def check(case: Case) -> None:
        reader = Reader(make(MAX_HEAD))
        reader.feed(case.raw)
        for piece in (GOOD, GOOD):
            reader.codec.feed(piece)
            assert reader.codec.next_request() is None
            assert not reader.codec.in_body

    check_each(check, {name: case for name, case in CASES.items() if case.status})


def test_continue_is_expected_by_http11_only(make: Callable[[int], Codec]) -> None:
    for version, expected in (("1.1", True), ("1.0", False)):
        codec = make(MAX_HEAD)
        codec.feed(head(f"POST / HTTP/{version}", "Host: a", "Expect: 100-continue", "Content-Length: 1"))
        found = codec.next_request()
        assert found is not None
        assert found.expects_continue is expected


# --- Limits ---------------------------------------------------------------------------------------

LONG_TARGET = head("GET /" + "a" * 2000 + " HTTP/1.1", "Host: a")
LONG_FIELD = get("X: " + "a" * 2000)
MANY_FIELDS = get(*["X: " + "a" * 20] * 100)


@pytest.mark.parametrize("size", [1, 7, 1000, 10**6], ids="pieces of {}".format)
@pytest.mark.parametrize(
    ("raw", "status"), [(LONG_TARGET, 414), (LONG_FIELD, 431), (MANY_FIELDS, 431)], ids=["target", "field", "fields"]
)
def test_a_head_is_bounded_to_the_byte_whole_or_cut(
    make: Callable[[int], Codec], raw: bytes, status: int, size: int
) -> None:
    assert len(read(make(len(raw)), cut(raw, size)).requests) == 1
    assert read(make(len(raw) - 1), cut(raw, size)) == ((), 431, b"")
    assert read(make(1000), cut(raw, size)) == ((), status, b"")


@pytest.mark.parametrize("size", [1, 7, 40, 1000], ids="pieces of {}".format)
@pytest.mark.parametrize("method", ["GET", "M" * 32])
@pytest.mark.parametrize("lane", LANES)
def test_a_target_is_bounded_to_the_byte_whole_or_cut(lane: str, method: str, size: int) -> None:
    line = method + " /{} HTTP/1.1"
    longest = head(line.format("a" * 19), "Host: a")
    assert [seen.target for seen in read(LANES[lane](MAX_HEAD, 20), cut(longest * 2, size)).requests] == [
        "/" + "a" * 19
    ] * 2
    for raw, status in [
        (head(line.format("a" * 20), "Host: a"), 414),
        (head(line.format("a" * 20), "Host: a", "X: \x00"), 414),  # what came first counts
        (head(line.format("a" * 200), "Host: a"), 414),
        (method.encode() + b" /" + b"a" * 50, 414),
        (method.encode() + b" /" + b"a" * 10 + b"\x00" + b"a" * 50, 400),
        (head(line.format("a" * 18 + " a"), "Host: a"), 400),
        (method.encode() + b" /" + b" " * 50, 400),
        (method.encode() + b" / HTTP/1.1" + b"1" * 50, 400),
    ]:
        assert read(LANES[lane](MAX_HEAD, 20), cut(raw, size)) == ((), status, b""), raw


@pytest.mark.parametrize("size", [1, 7, 1000, 10**6], ids="pieces of {}".format)
@pytest.mark.parametrize(
    ("raw", "status"),
    [
        (b"GET /" + b"a" * 2000, 414),
        (b"GET / HTTP/1.1\r\nX: " + b"a" * 2000, 431),
        (b"GET / HTTP/1.1\r\n" + b"X: a\r\n" * 400, 431),
        (b"GET / HTTP/1.1\r\nX: \x00" + b"a" * 2000, 400),  # what came first counts
        (b"GET / HTTP/1.1\r\nX: " + b"a" * 2000 + b"\x00", 431),
        (b"G(T /" + b"a" * 2000, 400),
        (b"GET / FTP/1\r\n" + b"a" * 2000, 400),
    ],
    ids=range(7),
)
def test_a_head_without_an_end_is_refused_at_the_limit(
    make: Callable[[int], Codec], raw: bytes, status: int, size: int
) -> None:
    assert read(make(1000), cut(raw, size)) == ((), status, b"")


def test_the_limit_is_of_one_head_not_of_what_lies_behind_it(make: Callable[[int], Codec]) -> None:
    requests = read(make(len(GOOD)), [GOOD * 10_000]).requests
    assert requests == (SEEN_GOOD,) * 10_000


def test_empty_lines_before_a_request_take_no_memory(make: Callable[[int], Codec]) -> None:
    codec = make(100)
    for _ in range(1000):
        codec.feed(b"\r\n" * 100)
        assert codec.next_request() is None
        assert not codec.has_bytes


def test_a_thousand_chunks_with_ten_kibibytes_of_extension_are_cut_off(make: Callable[[int], Codec]) -> None:
    chunk = b"1;" + b"a" * 4000 + b"\r\nx\r\n"
    outcome = read(make(MAX_HEAD), [chunked(b""), *[chunk] * 1000])
    assert outcome == ((CHUNKED._replace(body=b"x" * 4),), 400, b"")


def test_extensions_may_cost_as_much_as_there_is_data(make: Callable[[int], Codec]) -> None:
    chunk = b"64;" + b"a" * 90 + b"\r\n" + b"x" * 100 + b"\r\n"
    outcome = read(make(MAX_HEAD), [chunked(b""), *[chunk] * 1000, b"0\r\n\r\n"])
    assert outcome == ((CHUNKED._replace(body=b"x" * 100_000),), None, b"")


# --- Cost: the work is counted, not the time ------------------------------------------------------


class Work:
    """Bytes that the codec has looked at."""

    def __init__(self) -> None:
        self.bytes = 0


class CountingBytes(bytearray):
    work: Work

    def find(self, sub: bytes, start: int = 0, stop: int | None = None) -> int:  # type: ignore[override]
        stop = len(self) if stop is None else min(stop, len(self))
        found = super().find(sub, start, stop)
        self.work.bytes += (stop if found < 0 else found) - start
        return found


class CountingPattern:
    """A pattern that counts how far it has looked; a match that fails counts as all that it might have seen."""

    def __init__(self, pattern: re.Pattern[bytes], work: Work) -> None:
        self.pattern, self.work = pattern, work

    def look(self, how: str, data: bytearray, start: int = 0, stop: int | None = None) -> re.Match[bytes] | None:
        stop = len(data) if stop is None else min(stop, len(data))
        found: re.Match[bytes] | None = getattr(self.pattern, how)(data, start, stop)
        self.work.bytes += (found.end() if found else stop) - start
        return found

    def search(self, *args: object) -> re.Match[bytes] | None:
        return self.look("search", *args)  # type: ignore[arg-type]

    def match(self, *args: object) -> re.Match[bytes] | None:
        return self.look("match", *args)  # type: ignore[arg-type]

    def fullmatch(self, *args: object) -> re.Match[bytes] | None:
        return self.look("fullmatch", *args)  # type: ignore[arg-type]


@pytest.fixture
def work(monkeypatch: pytest.MonkeyPatch) -> Work:
    work = Work()
    for module in (codec, fast, reference, request):
        for name, pattern in vars(module).copy().items():
            if isinstance(pattern, re.Pattern) and isinstance(pattern.pattern, bytes):
                monkeypatch.setattr(module, name, CountingPattern(pattern, work))
    return work


@pytest.mark.parametrize("target", ["http://" + "a" * 60_000, "http://a:" + "1" * 60_000, "/" + "a" * 60_000])
def test_a_target_is_read_in_linear_time(target: str) -> None:
    """A second look for each letter would take a minute."""
    before = time.process_time()
    with pytest.raises(Refused, match="target"):
        request.check(request.Head("GET", target + "#", "1.1", [(b"host", b"a")]))
    assert time.process_time() - before < 0.5


@pytest.mark.parametrize(
    "raw",
    [
        get(*(f"X-{number}: " + "a" * 480 for number in range(120))),
        get("X: " + "a" * 60_000),
        head("GET /" + "a" * (MAX_TARGET - 1) + " HTTP/1.1", "Host: a"),
        chunked(b"1\r\nx\r\n" * 10_000 + b"0\r\n\r\n"),
        chunked(b"F000\r\n" + b"x" * 0xF000 + b"\r\n0\r\n\r\n"),
        b"\r\n" * 10_000 + get(),
    ],
    ids=["fields", "field", "target", "chunks", "chunk", "empty lines"],
)
@pytest.mark.daily("fast")
def test_one_byte_at_a_time_is_linear_work(make: Callable[[int], Codec], work: Work, raw: bytes) -> None:
    reader = Reader(make(MAX_HEAD))
    reader.codec._buffer = CountingBytes()
    reader.codec._buffer.work = work
    for piece in cut(raw, 1):
        reader.feed(piece)
    assert len(reader.requests) == 1
    assert reader.status is None
    assert work.bytes < 40 * len(raw)  # each byte is looked at a few times, and a method again until it ends


@pytest.mark.parametrize(
    "raw",
    [
        get("X: " + "a " * 30_000),
        get("X: a" + " " * 60_000 + "b"),
        get("X: " + " " * 60_000),
        get("X: a" + " " * 60_000),
        get("X: " + "\t " * 30_000 + "\x00"),
        get("X" * 60_000 + " : a"),
        get("X" * 60_000),
        get("Connection: " + "," * 60_000),
        get("Connection: " + "close, " * 8_000),
        get("Cookie: " + "a=b; " * 12_000),
        head("GET / HTTP/1.1", "Host: " + "a" * 60_000 + "/"),
        head("GET / HTTP/1.1", "Host: [" + ":" * 60_000),
        head("GET http://" + "a" * 60_000 + " HTTP/1.1", "Host: a"),
        head("GET http://a/" + "?" * 60_000 + "# HTTP/1.1", "Host: a"),
        head("GET /" + "%" * 60_000 + " HTTP/1.1", "Host: a"),
        head("GET " + " " * 60_000, "Host: a"),
        post("Content-Length: " + "1," * 30_000),
        post("Content-Length: " + "1, " * 20_000 + "1"),
        post("Transfer-Encoding: " + "chunked," * 7_000),
        get(*["A:"] * 15_000),
        b"GET / HTTP/1.1" + b"\r" * 60_000,
        b"\r\n" * 30_000 + b"\r",
    ],
    ids=range(22),
)
def test_a_hostile_head_of_the_full_size_gives_an_answer(make: Callable[[int], Codec], raw: bytes) -> None:
    # An expression that tries all ways would run into the time limit of the tests here.
    assert len(raw) > 30_000
    whole = read(make(MAX_HEAD), [raw + GOOD])
    assert (len(whole.requests) > 0) is (whole.status is None)
    assert read(make(MAX_HEAD), cut(raw + GOOD, 4096)) == whole


# --- Any bytes at all -----------------------------------------------------------------------------

PIECES = [
    *(b"GET", b"POST", b" ", b"/", b"HTTP/1.1", b"HTTP/1.0", b"\r\n", b"\r\n\r\n", b"\r", b"\n", b":", b"0", b";a"),
    *(b"Host: a\r\n", b"Content-Length: 3\r\n", b"Transfer-Encoding: chunked\r\n", b"Expect: 100-continue\r\n"),
    *(b"3\r\nabc\r\n", b"0\r\n\r\n", b"0\r\n", b"X: 1\r\n", b"\x00", b"\xff", b"\t", get()[:-2], post()[:-2], GOOD),
    *(chunked(b""), post("Content-Length: 3") + b"abc", b"GET / HTTP/1.1\r\n", b"GET * HTTP/2.0\r\n"),
]  # fmt: skip
stream = st.lists(st.sampled_from(PIECES) | st.binary(max_size=4), max_size=20).map(b"".join) | st.binary(max_size=200)


@st.composite
def mutated(draw: st.DrawFn) -> bytes:
    """Cases of the table in a row, with a few bytes changed."""
    usual = [case.raw for case in TABLE if len(case.raw) < 300]
    data = bytearray(b"".join(draw(st.lists(st.sampled_from(usual), min_size=1, max_size=3))))
    for _ in range(draw(st.integers(0, 3))):
        place = draw(st.integers(0, len(data)))
        data[place : place + draw(st.integers(0, 2))] = draw(st.sampled_from(PIECES) | st.binary(max_size=2))
    return bytes(data)


@settings(max_examples=600, deadline=None, database=None)
@given(
    data=stream | mutated(),
    max_head=st.sampled_from([20, 60, MAX_HEAD]),
    max_target=st.sampled_from([1, 5, MAX_TARGET]),
    cuts=st.lists(st.integers(1, 40)),
)
def test_any_bytes_are_read_or_refused_the_same_however_they_are_cut(
    data: bytes, max_head: int, max_target: int, cuts: list[int]
) -> None:
    """Each example in all lanes: to draw it takes longer than to read it."""
    pieces, rest = [], data
    for size in cuts:
        pieces.append(rest[:size])
        rest = rest[size:]
    for lane, make in LANES.items():
        whole = read(make(max_head, max_target), [data])
        assert read(make(max_head, max_target), [*pieces, rest]) == whole, lane
        assert read(make(max_head, max_target), cut(data, 1)) == whole, lane


def test_a_body_over_the_limit_is_not_taken_with_its_head() -> None:
    for limit, taken in ((5, True), (4, False)):
        codec = Codec(MAX_HEAD, FastLane())
        whole = codec.receive(post("Content-Length: 5") + b"12345", limit)
        assert (whole is not None) is taken
        assert codec.has_bytes is not taken


@pytest.mark.parametrize("limit", [0, 100])
@pytest.mark.parametrize(
    "data",
    [
        b"GET / HTTP/1.1\r\nHost: a\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\n\r\nGET /next HTTP/1.1\r\nHost: a\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\nok",
        b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\nExpect: 100-continue\r\n\r\n",
    ],
    ids=["alone", "pipelined", "with its body", "before its body", "chunked", "expect"],
)
def test_the_lane_reads_a_head_once(monkeypatch: pytest.MonkeyPatch, data: bytes, limit: int) -> None:
    """Also a head that it declines, and one whose body the caller takes by itself."""
    heads: list[bytes] = []
    recognise = FastLane.recognise

    def count(lane: FastLane, head: bytes) -> Request | None:
        heads.append(head)
        return recognise(lane, head)

    monkeypatch.setattr(FastLane, "recognise", count)
    codec = Codec(1000, FastLane())
    whole = codec.receive(data, limit)
    request = codec.next_request() if whole is None else whole[0]
    assert request is not None
    assert heads.count(data[: data.index(b"\r\n\r\n") + 4]) == 1
