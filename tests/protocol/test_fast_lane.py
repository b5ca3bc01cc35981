"""The fast lane: what it has to take, and that what it takes is what h11 gives, to the last attribute.

`test_codec` runs the table of raw requests through it as through every lane. Here are almost right heads by the
thousand, a memory that has seen other ones before, ordinary traffic, and what it costs.
"""

from __future__ import annotations

import sys
import threading
import time
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from zibai import create_bind_socket, serve
from zibai.errors import Refused, UsageError
from zibai.protocol.http1 import BytesLane, Codec, FastLane, fast, request, shapes

from ordinary_heads import CHROME, ORDINARY, WRK
from requests_table import GOOD, TABLE, get, head, post
from serving import serving
from support import Client, raw

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from zibai.protocol.http1 import Request
    from zibai.protocol.http1.shapes import Shape

MAX_HEAD = 64 * 1024

# ``remembered`` says what the lane does with a request, and nothing about the request.
ATTRIBUTES = [name for name in dir(request.Request) if not name.startswith("_") and name not in ("block", "remembered")]


# They remember each shape at once: a head is read by the strict expression first, and by its shape when it comes again.
LANES: dict[str, Callable[[], FastLane]] = {
    "environ": partial(FastLane, sample=1),
    "bytes": partial(BytesLane, sample=1),
}
KINDS = pytest.mark.parametrize("kind", [FastLane, BytesLane], ids=["environ", "bytes"])


@pytest.fixture(scope="module", params=LANES.values(), ids=LANES)
def new_lane(request: pytest.FixtureRequest) -> Callable[[], FastLane]:
    """Both lanes, each of which has to give what h11 does."""
    return request.param  # type: ignore[no-any-return]


def facts(found: Request) -> dict[str, object]:
    """Everything public of a request."""
    return {name: getattr(found, name) for name in ATTRIBUTES}


def read(data: bytes, lane: FastLane | None, max_head: int = MAX_HEAD) -> list[object]:
    """All that a codec makes of bytes: requests and bodies, then the refusal or what is left over."""
    codec = Codec(max_head, lane)
    codec.feed(data)
    outcome: list[object] = []
    try:
        while (found := codec.next_request()) is not None:
            outcome.append(facts(found))
            while piece := codec.next_body():
                outcome.append(piece)
            if piece is None:
                break
    except Refused as refused:
        outcome.append(int(refused.status))
    outcome.append(bytes(codec._buffer) + codec._piece[codec._at :])
    return outcome


def assert_same(data: bytes, lane: FastLane) -> None:
    """Twice, so that the second time the block is known if it is ever to be."""
    expected = read(data, None)
    for _ in range(2):
        assert read(data, lane) == expected


def takes(lane: FastLane, data: bytes) -> bool:
    """Whether the lane takes the head at the front; if so, h11 has to see the same in it."""
    raw_head = data[: data.find(b"\r\n\r\n") + 4]
    found = lane.recognise(raw_head)
    if found is None:
        return False
    codec = Codec(MAX_HEAD)
    codec.feed(raw_head)
    expected = codec.next_request()
    assert expected is not None
    assert facts(found) == facts(expected)
    return True


def test_a_request_is_compared_whole() -> None:
    assert {*ATTRIBUTES} >= {"method", "target", "path", "query", "version", "environ"}
    assert {*ATTRIBUTES} >= {"keep_alive", "length", "chunked", "expects_continue", "is_http11", "has_body"}


# --- What it has to take --------------------------------------------------------------------------

ordinary = pytest.mark.parametrize("data", ORDINARY.values(), ids=ORDINARY)


@ordinary
def test_ordinary_traffic_is_taken(data: bytes, new_lane: Callable[[], FastLane]) -> None:
    lane = new_lane()
    assert takes(lane, data)
    assert takes(lane, data)  # from memory


@ordinary
def test_ordinary_traffic_is_the_same_in_both_lanes(data: bytes, new_lane: Callable[[], FastLane]) -> None:
    lane = new_lane()
    for stream in (data, data + data, data + GOOD + data[:-1], b"\r\n" + data):
        assert_same(stream, lane)


EVERY_BYTE = bytes([9, *range(32, 127), *range(128, 256)])


@pytest.mark.parametrize(
    "plain",
    [
        head("GET / HTTP/1.0"),
        head("M" * 32 + " / HTTP/1.1", "Host: a"),
        head("!#$%&'*+-.^_`|~9 / HTTP/1.1", "Host: a", "!#$%&'*+-.^`|~9: 1"),
        head(b"GET /" + EVERY_BYTE[2:95].replace(b"#", b"") + b" HTTP/1.1", "Host: a"),
        get(b"X:" + EVERY_BYTE),
        get("X:", "Y:\t \ta"),
        get("Connection: close"),
        get("Connection: keep-alive, te", "CONNECTION: CLOSE"),
        head("GET / HTTP/1.0", "Connection: Keep-Alive"),
        get("X_Forwarded_For: evil", "Proxy: evil"),
        get("X: 1", "x: 2", "Cookie: a=1", "cookie: b=2"),
        get(*["X: 1"] * 127),
        post("Content-Length: 007"),
        head("GET /a?b?c=/?d HTTP/1.1", "Host: [::1]:80"),
        head("GET //a HTTP/1.1", "hOST:a"),
        get("X: " + "a" * 60_000),
    ],
    ids=range(16),
)
def test_plain_heads_are_taken(plain: bytes, new_lane: Callable[[], FastLane]) -> None:
    assert takes(new_lane(), plain)
    assert_same(plain, new_lane())


@pytest.mark.parametrize(
    "odd",
    [
        b"",
        b"\r\n",
        b"\r\n\r\n",
        get()[:-1],
        get()[:-2],
        get() + b"\r\n",
        get() + get(),
        b"\r\n" + get(),
        get("Transfer-Encoding: chunked"),
        get("Expect: 100-continue"),
        get("Upgrade: websocket", "Connection: upgrade"),
        post("Content-Length: 1", "Content-Length: 1"),
        post("Content-Length: 1, 1"),
        post("Content-Length: +1"),
        head("CONNECT /a HTTP/1.1", "Host: a"),
        head("OPTIONS * HTTP/1.1", "Host: a"),
        head("GET http://a/ HTTP/1.1", "Host: a"),
        head("GET /#a HTTP/1.1", "Host: a"),
        head("GET / HTTP/1.2", "Host: a"),
        head("GET / HTTP/1.1", "Host: a", "Host: a"),
        head("GET / HTTP/1.1"),
        get(*["X: 1"] * 128),
        get("X: a "),
        get("X: a", " b"),
    ],
    ids=range(24),
)
def test_what_is_odd_in_any_way_is_left_to_h11(odd: bytes, new_lane: Callable[[], FastLane]) -> None:
    assert new_lane().recognise(odd) is None
    assert_same(odd, new_lane())


def test_the_limit_of_a_head_is_kept_to_the_byte(new_lane: Callable[[], FastLane]) -> None:
    for data in (WRK, CHROME):
        lane = new_lane()
        for max_head in (len(data), len(data) - 1):
            for stream in (data, data + data, GOOD[: max_head // 2] + data):
                expected = read(stream, None, max_head)
                assert read(stream, lane, max_head) == expected
                assert (expected[-2] == 431) is (max_head < len(data)) or not stream.startswith(data)


# --- Almost right ---------------------------------------------------------------------------------


def mostly(usual: Iterable[str], odd: Iterable[str]) -> st.SearchStrategy[bytes]:
    """One of the usual ones, or once in about 25 times an odd one, so that a head has few faults or none."""
    right, wrong = ([text.encode("latin-1") for text in texts] for texts in (usual, odd))
    return st.sampled_from(right * (24 * len(wrong) // len(right)) + wrong)


METHODS = mostly(
    ["GET", "POST", "HEAD", "get", "M-SEARCH", "A" * 32],
    ["CONNECT", "OPTIONS", "A" * 33, "", "G T", "G\xe9T", "(", "\r\nGET", "\nGET", " GET", "PRI"],
)
TARGETS = mostly(
    ["/", "/a/b", "/?", "/a?b=c", "/a?b?c", "//a", "/%20%", "/http://b/", "/" + "a" * 500],
    ["*", "a", "", "/#", "/a#b", "http://b/c", "http://b", "http://", "/\xe9", "/\x7f", "/a b", "/\t", "/\x00", "?a"],
)
VERSIONS = mostly(
    ["HTTP/1.1", "HTTP/1.1", "HTTP/1.1", "HTTP/1.0"],
    ["HTTP/1.2", "HTTP/2.0", "HTTP/0.9", "http/1.1", "HTTP/1.10", "HTTP/1.1 ", "HTTP/1.", "HTTP/1.\xb9", "HTTP/1,1"],
)
LINE_ENDS = mostly(["\r\n"], ["\n", "\r", "\r\r\n", "\r\n\r\n", "\r\n ", " \r\n", "\r\n\t"])
SPACES = mostly([" "], ["  ", "\t", ""])
NAMES = mostly(
    ["X", "x-y", "Accept", "Cookie", "User-Agent", "Content-Type", "Connection", "!", "x" * 100, "X_Y", "Proxy"],
    [
        *("Host", "HOST", "content-length", "Transfer-Encoding", "Expect", "Upgrade", "Content_Length", "TE", "_"),
        *("X ", "X\t", " X", "", "X\xe9", "(", "X\x00", "X\r"),
    ],
)
COLONS = mostly([": ", ":", ":\t", ":  \t "], [" : ", "", "::", ":\x0b", ":\r\n ", ":\xa0"])
VALUES = mostly(
    ["", "a", "close", "Keep-Alive", "keep-alive, te", "a=1; b=2", "a \t b", "\xe9\xff\x85\xa0", "v" * 300, ":", "100"],
    ["a ", "\ta", " ", "\t", "a\x00", "\x0b", "a\rb", "a\nb", "\x7f", "1, 1", "+1", "0x1", "chunked", "100-continue"],
)
HOSTS = mostly(["a", "a:80", "[::1]:80", "a,b", "A-B.c"], ["", "a b", "a/b", "a@b", "\xe9", "a:b", ":80", "[g]", "a\t"])
LENGTHS = mostly(
    ["0", "3", "003", "4"], ["", "+3", "-1", "3 3", "3,3", "3, 3", "3,4", "0x3", "3.0", "\xb3", "1" * 19, "1" * 20]
)
BYTES = st.sampled_from([*b"\r\n\t :;,_-#?/.01AaHh\x00\x0b\x0c\x1f\x7f\x80\x85\xa0\xff"])


@st.composite
def lines(draw: st.DrawFn) -> list[bytes]:
    """Field lines, without their ends: a Host, some others, and perhaps a length."""
    found = [draw(NAMES) + draw(COLONS) + draw(VALUES) for _ in range(draw(st.integers(0, 4)))]
    hosts = draw(st.sampled_from([1] * 12 + [0, 2]))
    lengths = draw(st.sampled_from([0, 0, 0, 1, 1, 2]))
    for name, values, number in ((b"Host", HOSTS, hosts), (b"Content-Length", LENGTHS, lengths)):
        for _ in range(number):
            found.insert(draw(st.integers(0, len(found))), name + draw(COLONS) + draw(values))
    return found + [b"X: 1"] * draw(st.sampled_from([0] * 20 + [122, 123, 124, 125, 126, 127, 128]))


@st.composite
def heads(draw: st.DrawFn) -> bytes:
    """A head that is almost right, or right."""
    data = draw(METHODS) + draw(SPACES) + draw(TARGETS) + draw(SPACES) + draw(VERSIONS)
    found = draw(lines())
    if len(found) > 10:  # there it is the number that counts
        return b"\r\n".join([data, *found, b"", b""])
    for line in found:
        data += draw(LINE_ENDS) + line
    return data + draw(LINE_ENDS) + draw(LINE_ENDS)


@st.composite
def with_wrong_bytes(draw: st.DrawFn, source: st.SearchStrategy[bytes]) -> bytes:
    data = bytearray(draw(source))
    for _ in range(draw(st.integers(0, 2))):
        place = draw(st.integers(0, len(data)))
        data[place : place + draw(st.integers(0, 1))] = bytes(draw(st.lists(BYTES, max_size=1)))
    return bytes(data)


almost_right = with_wrong_bytes(heads()) | with_wrong_bytes(st.sampled_from([*ORDINARY.values()]))
bodies = st.sampled_from([b"", b"abc", b"abcd", b"ab", b"\r\n", b"\r\n\r\n", b"3\r\nabc\r\n0\r\n\r\n"])


@settings(max_examples=800, deadline=None, database=None)
@given(data=almost_right, body=bodies, behind=st.sampled_from([b"", GOOD, GOOD[:20], GOOD + WRK]))
def test_an_almost_right_head_is_declined_or_read_as_h11_does(data: bytes, body: bytes, behind: bytes) -> None:
    """Each example in both lanes: to draw it takes longer than to read it."""
    for new_lane in LANES.values():
        lane = new_lane()
        if takes(lane, data):
            assert takes(lane, data)
        assert_same(data + body + behind, lane)


SEEN_MUCH = [new_lane() for new_lane in LANES.values()]


@settings(max_examples=400, deadline=None, database=None)
@given(first=heads(), second=heads(), version=VERSIONS)
def test_what_was_read_before_makes_no_difference(first: bytes, second: bytes, version: bytes) -> None:
    """Another request line before the same fields, and one memory for all the examples."""
    _, _, fields = first.partition(b"\r\n")
    for data in (first, second, b"PUT /b " + version + b"\r\n" + fields, first + second):
        for lane in SEEN_MUCH:
            assert_same(data + GOOD, lane)


def test_all_of_the_table_is_the_same_after_all_the_others(new_lane: Callable[[], FastLane]) -> None:
    lane = new_lane()
    expected = {case.name: read(case.raw, None) for case in TABLE}
    for case in [*TABLE, *reversed(TABLE), *TABLE]:
        assert read(case.raw, lane) == expected[case.name], case.name


@pytest.mark.parametrize(
    ("plain", "others"),
    [
        (post("Content-Length: 3", "Connection: close"), bytes(range(256))),
        (head("GET /a?b HTTP/1.0", "Host: a:1", "X-Y: a b", "Cookie: c"), bytes(range(256))),
        (CHROME, b"\r\n\t :_\x00\xff"),
    ],
    ids=["POST", "HTTP/1.0", "Chrome"],
)
def test_one_other_byte_makes_another_head(plain: bytes, others: bytes, new_lane: Callable[[], FastLane]) -> None:
    """With the right head in memory: each byte of it replaced, taken out, or with another one before it."""
    lane = new_lane()
    assert takes(lane, plain)
    for place in range(len(plain)):
        variants = {plain[:place] + plain[place + 1 :]}
        for other in others:
            variants.add(plain[:place] + bytes([other]) + plain[place + 1 :])
        variants.add(plain[:place] + plain[place : place + 1] + plain[place:])
        for data in variants:
            found = lane.recognise(data)
            if found is not None:
                assert [facts(found), b""] == read(data, None)
        assert takes(lane, plain)


# --- Memory ---------------------------------------------------------------------------------------


def test_a_head_means_something_else_in_another_version(new_lane: Callable[[], FastLane]) -> None:
    lane = new_lane()
    for _ in range(3):
        for version, kept in (("1.1", True), ("1.0", False)):
            found = lane.recognise(head(f"GET / HTTP/{version}", "Host: a"))
            assert found is not None
            assert found.keep_alive is kept


def requests_of(lane: FastLane) -> int:
    return len(lane.known)


def test_the_same_request_is_read_once(new_lane: Callable[[], FastLane]) -> None:
    lane = new_lane()
    once = lane.recognise(get("X: 1"))
    assert once is not None
    assert not once.remembered, "it may never come again, and belongs to the exchange"
    assert requests_of(lane) == 0
    first = lane.recognise(get("X: 1"))
    assert first is not None
    assert first.remembered
    assert lane.recognise(get("X: 1")) is first
    assert once.environ is not first.environ
    lines = ("GET /other HTTP/1.1", "HEAD / HTTP/1.1", "GET / HTTP/1.0")
    for other in (get("X: 2"), *(head(line, "Host: a", "X: 1") for line in lines)):
        assert lane.recognise(other) is not first
        assert takes(lane, other)


def test_memory_is_bounded(new_lane: Callable[[], FastLane]) -> None:
    lane = new_lane()
    for number in range(fast.MAX_REQUESTS * 3):
        for _ in range(2):
            assert takes(lane, head(f"GET /{number} HTTP/1.1", f"Host: a{number}", f"X: {number % 7}"))
        assert requests_of(lane) <= fast.MAX_REQUESTS
        assert len(lane._once) <= fast.MAX_REQUESTS
        assert len(lane._hosts) <= fast.MAX_HOSTS
    lane = new_lane()
    edge = "a" * (fast.MAX_KNOWN - len(get("X: ")))
    for _ in range(2):
        assert takes(lane, get("X: " + edge))
        assert takes(lane, get("X: a" + edge))
    assert requests_of(lane) == 1


def test_what_comes_once_does_not_put_out_what_comes_often(new_lane: Callable[[], FastLane]) -> None:
    lane = new_lane()
    often = [lane.recognise(get("X: often")) for _ in range(3)][-1]
    for number in range(fast.MAX_REQUESTS * 3):
        assert takes(lane, get(f"X: {number}"))
    assert lane.recognise(get("X: often")) is often


def test_an_environ_begins_with_the_base() -> None:
    base = {"wsgi.run_once": False, "REQUEST_METHOD": None}
    lane = FastLane(base=base)
    for data in (get("X: 1"), get("X:1"), get("X: 1", "X: 2")):
        for _ in range(3):
            found = lane.recognise(data)
            codec = Codec(MAX_HEAD, base=base)
            codec.feed(data)
            plain = codec.next_request()
            assert found is not None
            assert plain is not None
            assert found.environ == plain.environ
            assert found.environ.items() >= base.items()
    assert base == {"wsgi.run_once": False, "REQUEST_METHOD": None}


def test_what_is_declined_is_not_remembered(new_lane: Callable[[], FastLane]) -> None:
    lane = new_lane()
    for data in (get("Expect: 100-continue"), get("X: a "), get("Content-Length: +1"), get() + get()):
        assert lane.recognise(data) is None
    assert requests_of(lane) == 0
    assert lane._once == set()


@KINDS
def test_memory_of_names_is_bounded(kind: type[FastLane]) -> None:
    for number in range(request.MAX_NAMES * 2):
        lane = kind()
        assert takes(lane, get(f"X-{number}: 1", "N" * 1000 + ": 1"))
        assert len(request.names) <= request.MAX_NAMES
    assert max(map(len, request.names)) <= 64


# --- Shapes ---------------------------------------------------------------------------------------


def shapes_of(lane: FastLane) -> list[Shape]:
    return [shape for found in lane._shapes._by_ends.values() for shape in found]


@KINDS
def test_what_has_the_shape_of_earlier_heads_is_read_by_it(
    kind: type[FastLane], monkeypatch: pytest.MonkeyPatch
) -> None:
    lane = kind(sample=3)
    for number in range(3):
        assert shapes_of(lane) == []
        assert takes(lane, get("Accept: */*", f"X: {number}"))
    assert len(shapes_of(lane)) == 1
    monkeypatch.setattr(kind, "_read_fields", lambda lane, head: pytest.fail(f"{head!r} has the shape"))
    for line in ("GET /a?b=c HTTP/1.1", "PUT /%20 HTTP/1.1"):
        assert takes(lane, head(line, "Host: a:1", "Accept: a b", "X: other"))
    monkeypatch.undo()
    for other in (
        get("accept: */*", "X: 1"),
        get("X: 1", "Accept: */*"),
        get("Accept: */*"),
        get("Accept:*/*", "X: 1"),
    ):
        assert lane._read_by_shape(other) is None
        assert takes(lane, other)


@KINDS
@pytest.mark.parametrize(
    "field", ["Upgrade: a", "Expect: 100-continue", "Transfer-Encoding: chunked", "X_Y: 1", "Proxy: a", "x: 1"]
)
def test_names_that_are_not_enough_are_no_shape(kind: type[FastLane], field: str) -> None:
    lane = kind(sample=1)
    for _ in range(3):
        lane.recognise(get("X: 1", field))
        assert shapes_of(lane) == []
    assert lane.recognise(head("GET / HTTP/1.1", "X: 1")) is None, "it has no Host"
    assert lane.recognise(head("GET / HTTP/1.0", "X: 1")) is not None
    assert shapes_of(lane) == []


@KINDS
def test_a_shape_is_remembered_once(kind: type[FastLane]) -> None:
    lane = kind(sample=1)
    for _ in range(3):
        assert takes(lane, head("GET / HTTP/1.0", "Host: a", "X: 1"))
        assert takes(lane, get("X:1"))
        assert len(shapes_of(lane)) == 1


@KINDS
def test_memory_of_shapes_is_bounded(kind: type[FastLane]) -> None:
    lane = kind(sample=1)
    for fields in (1, 2, shapes.MAX_SHAPE_FIELDS - 1, shapes.MAX_SHAPE_FIELDS):
        for number in range(shapes.MAX_SHAPES * 2):
            assert takes(lane, get(*(f"X-{number}-{place}: 1" for place in range(fields))))
    assert len(shapes_of(lane)) == shapes.MAX_SHAPES * 3, "a head with a Host as well has too many fields"
    lane = kind(sample=1)
    for size in (0, 1):
        assert takes(lane, get("N" * (shapes.MAX_SHAPE_TEXT - len("Host") + size) + ": 1"))
        assert len(shapes_of(lane)) == 1


@KINDS
def test_names_that_a_client_invents_do_not_put_out_a_frequent_shape_for_long(kind: type[FastLane]) -> None:
    lane = kind(sample=8)
    found = []
    for number in range(8 * shapes.MAX_SHAPES * 20):
        lane.recognise(get(f"X-{number}: 1"))
        usual = get(f"X: {number}")
        found.append(lane._read_by_shape(usual) is not None)
        assert lane.recognise(usual) is not None
    assert sum(found) > len(found) * 0.8


def test_threads_may_share_it(monkeypatch: pytest.MonkeyPatch, new_lane: Callable[[], FastLane]) -> None:
    monkeypatch.setattr(fast, "MAX_REQUESTS", 3)
    monkeypatch.setattr(request, "MAX_NAMES", 5)
    lane = new_lane()
    data = [head("GET / HTTP/1.1", f"Host: a{number}", f"X-{number}: {number}") for number in range(8)]
    expected = [read(each, None) for each in data]
    wrong: list[object] = []

    def run(turn: int) -> None:
        for step in range(300):
            number = (turn * step + turn) % len(data)
            if read(data[number], lane) != expected[number]:
                wrong.append(number)

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        threads = [threading.Thread(target=run, args=(turn,)) for turn in (1, 2, 3, 5)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        sys.setswitchinterval(interval)
    assert wrong == []


# --- The codec ------------------------------------------------------------------------------------


class Counting(FastLane):
    """Counts how many heads it takes, and the bytes that it is shown."""

    def __init__(self) -> None:
        super().__init__()
        self.taken = self.shown = 0

    def recognise(self, head: bytes) -> Request | None:
        found = super().recognise(head)
        self.taken += found is not None
        self.shown += len(head)
        return found


def count(pieces: Iterable[bytes], lane: FastLane) -> int:
    """Feed the pieces, read what there is after each, and return the number of requests."""
    codec = Codec(MAX_HEAD, lane)
    requests = 0
    for piece in pieces:
        codec.feed(piece)
        while True:
            while codec.next_body():
                pass
            if codec.in_body or codec.next_request() is None:
                break
            requests += 1
    return requests


@pytest.mark.parametrize("size", [10**6, 65536, 1000, 30])
@pytest.mark.parametrize("data", [WRK, ORDINARY["curl -d"]], ids=["GET", "POST"])
def test_pipelined_requests_are_taken_however_they_are_cut(data: bytes, size: int) -> None:
    lane = Counting()
    stream = data * 2000
    assert count((stream[start : start + size] for start in range(0, len(stream), size)), lane) == 2000
    assert lane.taken == 2000
    assert lane.shown < 3 * len(stream)  # linear


def test_one_that_is_declined_among_many_holds_up_only_itself() -> None:
    lane = Counting()
    odd = head("GET http://a/ HTTP/1.1", "Host: a")
    assert count([(WRK * 9 + odd) * 200], lane) == 2000
    assert lane.taken == 1800


def test_a_head_in_pieces_is_taken_once_it_is_whole() -> None:
    lane = Counting()
    assert count([CHROME[:300], CHROME[300:500], CHROME[500:]], lane) == 1
    assert lane.taken == 1


def test_a_body_is_not_copied(new_lane: Callable[[], FastLane]) -> None:
    codec = Codec(MAX_HEAD, new_lane())
    piece = b"a" * 1000
    codec.feed(post("Content-Length: 2000"))
    assert codec.next_request() is not None
    for _ in range(2):
        codec.feed(piece)
        assert codec.next_body() is piece
    assert codec.next_body() == b""
    assert not codec.has_bytes


# --- Time -----------------------------------------------------------------------------------------

HOSTILE: dict[str, Callable[[int], bytes]] = {
    "a method": lambda size: b"A" * size,
    "a target without an end": lambda size: b"GET /" + b"a" * size,
    "a target, then no version": lambda size: head("GET /" + "%" * size + " HTTP/1.1x", "Host: a"),
    "spaces": lambda size: head("GET / " + " " * size + "HTTP/1.1", "Host: a"),
    "question marks": lambda size: head("GET /" + "?" * size + " HTTP/1.1", "Host: a"),
    "a name": lambda size: get("X" * size),
    "a name, then a space": lambda size: get("X" * size + " : a"),
    "a value, then NUL": lambda size: get("X: " + "a " * (size // 2) + "\x00"),
    "a value of spaces": lambda size: get("X:" + " " * size),
    "spaces behind a value": lambda size: get("X: a" + " \t" * (size // 2)),
    "colons": lambda size: get("X" + ":" * size),
    "fields": lambda size: get(*["A:"] * (size // 4)),
    "fields without an end": lambda size: get(*["A:"] * 126, "X: " + "a" * size)[:-2],
    "the most fields, long ones": lambda size: get(*["X: " + "a" * (size // 130)] * 127),
    "a Host": lambda size: head("GET / HTTP/1.1", "Host: " + "a" * size + "/"),
    "a Host of colons": lambda size: head("GET / HTTP/1.1", "Host: [" + ":" * size),
    "a Connection": lambda size: get("Connection: " + "close, " * (size // 7)),
    "a length": lambda size: post("Content-Length: " + "1" * size),
    "cookies": lambda size: get("Cookie: " + "a=b; " * (size // 5) + "a"),
    "requests": lambda size: get() * (size // len(get())),
    "line ends": lambda size: b"\r\n" * (size // 2),
}


@pytest.mark.parametrize("make", HOSTILE.values(), ids=HOSTILE)
def test_four_times_the_bytes_take_about_four_times_as_long(
    make: Callable[[int], bytes], new_lane: Callable[[], FastLane]
) -> None:
    def seconds(size: int) -> float:
        data = make(size)
        lanes = [new_lane() for _ in range(3)]
        for lane in lanes:
            for names in ([], ["X"], ["X", "Cookie"], ["Connection"], ["X"] * 127, ["A"] * 40):
                lane.recognise(get(*(f"{name}: a" for name in names)))  # for those that remember shapes
            lane.recognise(head("GET / HTTP/1.1", "Host: a", "Cookie: a=b"))
        start = time.thread_time()
        for lane in lanes:
            lane.recognise(data)
        return time.thread_time() - start

    # The best of several, of both in turns: the machine may be busy with something else. Quadratic time is 16.
    short = long = float("inf")
    for _ in range(6):
        short, long = min(short, seconds(16 * 1024)), min(long, seconds(64 * 1024))
    assert long < 9 * max(short, 20e-6)


# --- Through a server -----------------------------------------------------------------------------


def test_an_application_that_changes_its_environ_changes_it_for_itself() -> None:
    def app(environ: dict[str, Any], start_response: Callable[..., Any]) -> list[bytes]:
        body = f"{environ['HTTP_X']} {environ['CONTENT_LENGTH']}".encode()
        environ["HTTP_X"] = environ["CONTENT_LENGTH"] = "evil"
        start_response("200 OK", [("Content-Type", "text/plain")])
        return [body]

    with serving(app, valid=False) as server, Client(server.port) as client:
        for _ in range(3):
            client.send(post("X: good", "Content-Length: 01") + b"a")
            assert client.read().body == b"good 1"


@pytest.mark.parametrize(("http", "taken"), [("auto", 1), ("h11", 0)])
def test_the_option_leaves_everything_to_h11(http: str, taken: int, monkeypatch: pytest.MonkeyPatch) -> None:
    found: list[Request | None] = []
    recognise = FastLane.recognise
    monkeypatch.setattr(FastLane, "recognise", lambda self, head: found.append(recognise(self, head)) or found[-1])

    def app(environ: dict[str, Any], start_response: Callable[..., Any]) -> list[bytes]:
        start_response("200 OK", [("Content-Type", "text/plain")])
        return [environ["HTTP_HOST"].encode()]

    with serving(app, valid=False, http=http) as server:
        assert raw(server.port, head("GET / HTTP/1.1", "Host: a", "Connection: close")).endswith(b"\r\n\r\na")
    assert len(found) == taken
    assert all(found)


def test_there_is_no_other_choice() -> None:
    with create_bind_socket("127.0.0.1:0") as sock, pytest.raises(UsageError, match="--http must be"):
        serve(app=lambda *_: [], bind_socket=sock, http="h2")
