"""The codec of WebSocket: both lanes give the same, whatever comes and wherever it is cut."""

from __future__ import annotations

import os
import struct
import tracemalloc
import zlib
from typing import TYPE_CHECKING, Any
from unittest.mock import patch

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("websockets")

from zibai.errors import Refused
from zibai.protocol.websocket.codec import ENOUGH, STEP, Codec
from zibai.protocol.websocket.deflate import Agreed
from zibai.protocol.websocket.reference import is_close_code, shorten_reason

from wsclient import BINARY, CLOSE, CONT, FIN, PING, PONG, RSV1, TEXT, close, frame, text

if TYPE_CHECKING:
    from collections.abc import Iterable

AGREED = Agreed.from_offers("permessage-deflate; client_max_window_bits")
assert AGREED is not None
MAX_SIZE = 300


def deflated(data: bytes) -> bytes:
    made = zlib.compressobj(wbits=-12)
    return (made.compress(data) + made.flush(zlib.Z_SYNC_FLUSH))[:-4]


def run(pieces: Iterable[bytes], *, fast: bool, agreed: Agreed | None = AGREED) -> tuple[Any, ...]:
    """What becomes of the bytes of a client, whose messages are taken as they come."""
    codec = Codec(MAX_SIZE, 4, agreed, 256, fast=fast)
    found: list[Any] = []
    for piece in pieces:
        codec.feed(piece)
        while codec.messages or codec.paused:
            if codec.messages:
                message = codec.messages.popleft()
                found.append(message)
                codec.taken(message)
            else:
                codec.go_on()
    return found, b"".join(codec.replies), codec.close, codec.over


def take(codec: Codec) -> str | bytes:
    """The next message. There is always time to read on."""
    message = codec.messages.popleft()
    if codec.taken(message):
        codec.go_on()
    return message


def padded(opcode: int, data: bytes, width: int) -> bytes:
    """A frame whose length has so many bytes, whether it needs them or not."""
    whole = frame(opcode, data)
    return whole[:1] + bytes([254 if width == 2 else 255]) + len(data).to_bytes(width, "big") + whole[-len(data) - 4 :]


words = st.one_of(st.binary(max_size=130), st.text(max_size=40).map(str.encode), st.just(b"x" * 250))
data_opcodes = st.sampled_from([TEXT, BINARY])
good = st.builds(frame, st.sampled_from([CONT, TEXT, BINARY]), words, st.sampled_from([FIN, 0]))
whole = st.builds(frame, data_opcodes, words)
control = st.builds(frame, st.sampled_from([PING, PONG]), st.binary(max_size=125))
closing = st.one_of(
    st.builds(close, st.sampled_from([None, 1000, 1001, 3000, 1006, 999, 5000]), st.text(max_size=9)),
    st.binary(max_size=5).map(lambda data: frame(CLOSE, data)),
)
compressed = st.builds(frame, data_opcodes, words.map(deflated), st.just(FIN | RSV1))
odd = st.builds(
    lambda opcode, data, first, masked, size: frame(opcode, data, first, b"\1\2\3\4" if masked else None, size),
    st.integers(0, 15),
    st.binary(max_size=20),
    st.sampled_from([FIN, 0, FIN | 0x40, 0x40, FIN | 0x20, FIN | 0x10]),
    st.booleans(),
    st.sampled_from([None, None, 5, 126, 301, 70_000, 1 << 40]),
)
wide = st.builds(padded, st.integers(0, 15), words, st.sampled_from([2, 8]))
frames = st.lists(st.one_of(whole, whole, whole, good, control, compressed, closing, odd, wide), max_size=12).map(
    b"".join
)
cuts = st.lists(st.integers(1, 400), max_size=20)


def cut(data: bytes, sizes: list[int]) -> list[bytes]:
    found = []
    for size in sizes:
        found.append(data[:size])
        data = data[size:]
    return [piece for piece in [*found, data] if piece]


@settings(max_examples=400, deadline=None)
@given(frames, cuts, st.booleans())
def test_both_lanes_give_the_same(data: bytes, sizes: list[int], deflate: bool) -> None:
    """The reference lane has it byte by byte: in one piece, it would reply to what stands behind an error of ours.

    The fast lane pauses now and then, or not at all.
    """
    agreed = AGREED if deflate else None
    fast = run(cut(data, sizes), fast=True, agreed=agreed)
    assert fast == run([bytes([byte]) for byte in data], fast=False, agreed=agreed)
    assert fast == run([data] if data else [], fast=True, agreed=agreed)
    with patch("zibai.protocol.websocket.codec.STEP", 2):
        assert fast == run(cut(data, sizes), fast=True, agreed=agreed)


def test_reading_stops_at_the_number_of_messages() -> None:
    codec = Codec(1000, 4)
    codec.feed(b"".join(map(text, "abcdefghi")) + frame(PING, b"late"))
    assert (list(codec.messages), codec.full, codec.replies) == (list("abcd"), True, [])
    found, went_on = "", ""
    while codec.messages:
        message = str(codec.messages.popleft())
        found += message
        if codec.taken(message):
            went_on += message
            assert codec.paused
            codec.go_on()
    assert (found, went_on) == ("abcdefghi", "cf"), "when a quarter is left"
    assert codec.replies == [b"\x8a\x04late"]
    assert not codec.full


def test_reading_stops_at_the_size_of_messages() -> None:
    codec = Codec(1 << 20, 1000)
    codec.feed(text("x" * 40_000) * 3)
    assert len(codec.messages) == 2
    assert codec.size == 80_000 >= ENOUGH
    assert not codec.taken(codec.messages.popleft())
    assert codec.full
    assert codec.taken(codec.messages.popleft())
    codec.go_on()
    assert (len(codec.messages), codec.full) == (1, False)


def test_a_close_frame_is_read_although_nobody_takes_the_messages() -> None:
    codec = Codec(1000, 2)
    codec.feed(text("x") * 10 + close(1000))
    assert codec.full
    codec.end(1012, "restart")
    assert codec.over
    assert codec.close == (1012, "restart")
    assert len(codec.messages) == 2


def test_nothing_is_made_for_plain_messages() -> None:
    codec = Codec(1000, 32, AGREED, 256)
    codec.feed(text("x") + frame(BINARY, b"y" * 900) + text("z")[:3])
    codec.encode("x" * 255)
    assert codec._protocol is None
    codec.feed(text("z")[3:] + frame(PONG) + frame(PING, b"p") + frame(PONG, b"q" * 125))
    assert codec._protocol is None, "an idle WebSocket sends pongs"
    assert codec.replies == [b"\x8a\x01p"]
    codec.feed(frame(TEXT, first=0))
    assert codec._protocol is not None
    assert codec._deflate is not None
    assert codec._deflate._made is None, "the compressor is 32 KiB"
    assert len(codec.messages) == 3


@pytest.mark.parametrize("size", [0, 100, 64 * 1024, 64 * 1024 + 1, 1 << 20])
@pytest.mark.parametrize("step", [1024, 65536, 1 << 22])
def test_a_long_message_in_pieces(size: int, step: int) -> None:
    data = text("before") + frame(BINARY, bytes(size)) + text("behind")
    codec = Codec(1 << 20, 32)
    for place in range(0, len(data), step):
        codec.feed(data[place : place + step])
        while codec.messages:
            assert take(codec) in ("before", bytes(size), "behind")
    assert codec.buffered == 0
    assert not codec.over


def test_what_waits_is_counted() -> None:
    codec = Codec(1 << 20, 32)
    codec.feed(frame(BINARY, bytes(500_000))[:-1])
    assert codec.buffered == 500_013
    codec.feed(b"\0")
    assert codec.buffered == 0
    assert len(take(codec)) == 500_000
    codec.feed(frame(TEXT, b"x" * 1000, first=0))
    assert codec.buffered == 1000


def memory_of(codec: Codec, pieces: Iterable[bytes]) -> int:
    """Bytes of memory that the codec holds after these pieces, and did not hold before."""
    tracemalloc.start()
    try:
        for piece in pieces:
            codec.feed(piece)
            while codec.paused:
                codec.go_on()
            assert not codec.over
        return tracemalloc.get_traced_memory()[0]
    finally:
        tracemalloc.stop()


@pytest.mark.daily("empty-2", "one byte-1")
@pytest.mark.parametrize("opcode", [TEXT, BINARY])
@pytest.mark.parametrize("data", [b"", b"x"], ids=["empty", "one byte"])
def test_short_fragments_cost_their_size(opcode: int, data: bytes) -> None:
    """No limit of sizes sees the memory of an object for each fragment."""
    codec = Codec(1 << 20, 32)
    codec.feed(frame(opcode, b"begun", first=0))
    assert memory_of(codec, [frame(CONT, data, first=0) * 1000] * 20) < 40_000 * len(data) + 10_000
    codec.feed(frame(CONT))
    whole = b"begun" + data * 20_000
    assert list(codec.messages) == [whole.decode() if opcode == TEXT else whole]


def test_a_long_frame_in_short_pieces_costs_its_size() -> None:
    codec = Codec(1 << 20, 32)
    codec.feed(frame(BINARY, size=1 << 20))
    assert memory_of(codec, (b"%02d" % (number % 100) for number in range(50_000))) < 150_000
    assert codec.buffered == 100_014


def test_a_claim_costs_nothing() -> None:
    """Trap 60: what a head claims is neither waited for nor reserved."""
    codec = Codec(16 << 20, 32)
    codec.feed(frame(BINARY, size=1 << 40)[:14])
    assert codec.over
    assert codec.close is not None
    assert codec.close[0] == 1009


@pytest.mark.parametrize("fast", [True, False])
@pytest.mark.parametrize("size", [1 << 63, (1 << 63) + 5, (1 << 64) - 1])
@pytest.mark.parametrize("opcode", [TEXT, BINARY, CONT])
def test_a_length_has_63_bits(opcode: int, size: int, fast: bool) -> None:
    """RFC 6455 5.2. It is no size that is too big, for no frame may claim it."""
    codec = Codec(16 << 20, 32, fast=fast)
    if opcode == CONT:
        codec.feed(frame(TEXT, b"begun", first=0))
    codec.feed(frame(opcode, size=size)[:14])
    assert codec.close == (1002, "the highest bit of a length is set")
    assert codec.over
    other = Codec(16 << 20, 32, fast=fast)
    other.feed(frame(BINARY, size=(1 << 63) - 1)[:14])
    assert other.close is not None
    assert other.close[0] == 1009


@pytest.mark.parametrize("fast", [True, False])
@pytest.mark.parametrize("opcode", [TEXT, BINARY, CONT, PING, PONG, CLOSE])
@pytest.mark.parametrize(("size", "width"), [(0, 2), (125, 2), (0, 8), (125, 8), (126, 8), (65535, 8)])
def test_a_length_has_no_more_bytes_than_it_needs(size: int, width: int, opcode: int, fast: bool) -> None:
    """RFC 6455 5.2: the minimal number of bytes must be used. Browsers refuse the same of a server."""
    data = padded(opcode, bytes(size), width)
    for cuts in ([len(data)], [1] * len(data)):
        codec = Codec(16 << 20, 32, fast=fast)
        if opcode == CONT:
            codec.feed(frame(TEXT, b"begun", first=0))
        for piece in cut(data, cuts):
            codec.feed(piece)
        assert codec.close == (1002, "a length has more bytes than it needs")
        assert codec.over
        assert not codec.messages


@pytest.mark.parametrize("fast", [True, False])
def test_the_longest_and_the_shortest_of_each_length(fast: bool) -> None:
    codec = Codec(1 << 20, 32, fast=fast)
    for size in (0, 125, 126, 65535, 65536):
        codec.feed(frame(BINARY, bytes(size)))
        assert take(codec) == bytes(size)
    assert codec.close is None


@pytest.mark.parametrize("fast", [True, False])
def test_the_limit_of_messages_is_none_of_control_frames(fast: bool) -> None:
    codec = Codec(100, 32, fast=fast)
    codec.feed(frame(TEXT, b"x" * 100, first=0) + frame(PING, b"p" * 125) + frame(CONT))
    assert list(codec.messages) == ["x" * 100]
    assert codec.replies == [b"\x8a\x7d" + b"p" * 125]
    codec.feed(frame(TEXT, b"y" * 100, first=0) + close(1000, "r" * 123))
    assert codec.close == (1000, "r" * 123)


@pytest.mark.parametrize("fast", [True, False])
@pytest.mark.parametrize("first", [0, FIN])
@pytest.mark.parametrize("size", [126, 1000, 1 << 40])
def test_a_long_control_frame_is_refused_by_its_head(size: int, first: int, fast: bool) -> None:
    codec = Codec(16 << 20, 32, fast=fast)
    codec.feed(frame(PING, b"p", size=size, first=first)[:14])
    assert codec.close == (1002, "control frame too long")
    assert codec.over


@pytest.mark.parametrize("length", [126, 127])
@pytest.mark.parametrize("masked", [0, 128])
def test_a_bad_head_is_refused_before_its_length_is_there(masked: int, length: int) -> None:
    """A client may send no more than that, and would then wait for the end until its ping is missed."""
    for first in range(256):
        for more in (b"", b"\x01"):
            head = bytes([first, masked | length]) + more
            assert run([head], fast=True) == run([head], fast=False), head


def finished(data: bytes) -> bytes:
    """Compressed with a final block, and the octet behind it (RFC 7692 7.2.3.4)."""
    made = zlib.compressobj(wbits=-12)
    return made.compress(data) + made.flush(zlib.Z_FINISH) + b"\0"


NO_CONTEXT = Agreed.from_offers("permessage-deflate; client_no_context_takeover; client_max_window_bits")


@pytest.mark.parametrize("agreed", [AGREED, NO_CONTEXT], ids=["context", "no-context"])
@pytest.mark.parametrize("size", [5, 5000, 70_000])
@pytest.mark.parametrize("padded", [True, False])
def test_messages_that_end_by_a_final_block(padded: bool, size: int, agreed: Agreed) -> None:
    codec = Codec(1 << 20, 32, agreed, 256)
    for byte in b"abc":
        data = bytes([byte]) + os.urandom(size)
        packed = finished(data) if padded else finished(data)[:-1]
        codec.feed(frame(BINARY, packed, FIN | RSV1))
        assert take(codec) == data
        half = len(packed) // 2
        codec.feed(frame(BINARY, packed[:half], RSV1) + frame(CONT, packed[half:]))
        assert take(codec) == data
        codec.feed(frame(BINARY, packed, RSV1) + frame(CONT, b""))
        assert take(codec) == data
        codec.feed(frame(TEXT, deflated(b"hello"), FIN | RSV1))
        assert take(codec) == "hello"
    assert codec.close is None


@pytest.mark.parametrize("agreed", [AGREED, NO_CONTEXT], ids=["context", "no-context"])
def test_what_comes_behind_a_final_block_is_not_kept(agreed: Agreed) -> None:
    """zlib would keep it without a limit, and none of it would count for the size of the message."""
    more = frame(CONT, bytes(range(256)), 0)
    for data in (
        frame(BINARY, finished(b"hello") + b"more", FIN | RSV1),
        frame(BINARY, finished(b"hello"), RSV1) + more,
    ):
        codec = Codec(1 << 20, 32, agreed, 256)
        codec.feed(data)
        assert codec.close == (1002, "compressed data goes on behind its final block")
        assert codec.over
        assert not codec.messages


def test_a_bomb_is_not_inflated() -> None:
    codec = Codec(1 << 20, 32, AGREED, 256)
    codec.feed(frame(BINARY, deflated(bytes(50 << 20)), FIN | RSV1))
    assert codec.over
    assert codec.close is not None
    assert codec.close[0] == 1009
    assert not codec.messages


MANY = {
    "pings": frame(PING, b"p") * 9_000,
    "pongs": frame(PONG) * 10_000,
    "empty fragments": frame(CONT, first=0) * 10_000,
    "fragments": frame(CONT, b"x", first=0) * 9_000,
}


@pytest.mark.parametrize("name", MANY)
def test_one_step_does_not_take_long(name: str) -> None:
    """A read of 64 KiB may have 10,000 frames, of 12 µs each in the reference lane."""
    codec = Codec(1 << 20, 32)
    codec.feed(frame(TEXT, first=0))
    codec.spent = 0
    codec.feed(MANY[name])
    buffered, steps = codec.buffered, 0
    while codec.paused:
        assert STEP <= codec.spent < STEP + 20
        codec.spent, steps = 0, steps + 1
        codec.go_on()
        assert codec.buffered < buffered, "it goes on"
        buffered = codec.buffered
    assert steps >= 8
    codec.feed(frame(CONT, b"end"))
    (message,) = codec.messages
    assert str(message).endswith("end")
    assert codec.replies == [b"\x8a\x01p"] * 9_000 * (name == "pings")


def test_what_comes_in_a_pause_waits() -> None:
    codec = Codec(1 << 20, 32)
    codec.feed(frame(PONG) * 5_000)
    buffered = codec.buffered
    codec.feed(text("behind"))
    assert codec.paused
    assert codec.buffered == buffered + len(text("behind")), "nothing was read"
    while codec.paused:
        codec.go_on()
    assert list(codec.messages) == ["behind"]


def test_what_is_inflated_counts() -> None:
    codec = Codec(1 << 20, 32, AGREED, 256)
    codec.feed(frame(BINARY, deflated(bytes(1 << 20)), FIN | RSV1))
    assert len(codec.messages) == 1
    assert codec.spent > 1000


def test_a_ping_is_answered_until_the_client_closes() -> None:
    """RFC 6455 5.5.2: also behind our close frame."""
    for fast in (True, False):
        codec = Codec(1000, 32, fast=fast)
        codec.end(1000)
        codec.feed(frame(PING, b"p") + text("late") + close(1000) + frame(PING, b"q"))
        assert codec.replies == [b"\x88\x02\x03\xe8", b"\x8a\x01p"]
        assert codec.over
        assert not codec.messages


def test_compressed_fragments_with_a_ping_between() -> None:
    """Trap 60: wsproto fails."""
    data = deflated(b"hello" * 50)
    codec = Codec(1000, 32, AGREED, 256)
    codec.feed(frame(TEXT, data[:3], RSV1) + frame(PING, b"p") + frame(CONT, data[3:]))
    assert list(codec.messages) == ["hello" * 50]
    assert codec.replies == [b"\x8a\x01p"]


def test_what_is_compressed() -> None:
    """Trap 58: to compress short messages costs more than it saves."""
    codec = Codec(1000, 32, AGREED, 256)
    (short,) = codec.encode("x" * 255)
    (long,) = codec.encode("x" * 256)
    assert short == b"\x81\x7e\x00\xff" + b"x" * 255
    assert long[0] == 0xC1
    assert zlib.decompressobj(wbits=-12).decompress(long[2:] + b"\0\0\xff\xff") == b"x" * 256
    (binary,) = Codec(1000, 32, None, 256).encode(b"x" * 256)
    assert binary[0] == 0x82


@pytest.mark.parametrize("size", [0, 125, 126, 65535, 65536])
def test_the_frames_of_the_server(size: int) -> None:
    data = b"".join(Codec(1000, 32).encode(b"x" * size))
    length = data[1] if data[1] < 126 else struct.unpack_from("!H" if data[1] == 126 else "!Q", data, 2)[0]
    assert (data[0], length) == (0x82, size)
    assert data.endswith(b"x" * size)
    assert len(data) == size + (2 if size < 126 else 4 if size < 65536 else 10)


def test_windows_are_small() -> None:
    """Trap 57: 316 KiB for each client."""
    for offer in ("permessage-deflate", "permessage-deflate; client_max_window_bits=15; server_max_window_bits=15"):
        agreed = Agreed.from_offers(offer)
        assert agreed is not None
        assert agreed.server_bits <= 12
    assert "client_max_window_bits=12" in AGREED.field


@pytest.mark.parametrize(
    ("offers", "field"),
    [
        ("x-webkit-deflate-frame", None),
        ("permessage-deflate; unknown", None),
        ("permessage-deflate; server_max_window_bits=7", None),
        ("permessage-deflate; server_max_window_bits=8, permessage-deflate", "server_max_window_bits=12"),
        ("foo, permessage-deflate; server_no_context_takeover; client_no_context_takeover", "no_context_takeover"),
    ],
)
def test_offers(offers: str, field: str | None) -> None:
    agreed = Agreed.from_offers(offers)
    assert (agreed is None) == (field is None)
    if agreed is not None:
        assert str(field) in agreed.field


@pytest.mark.parametrize("offers", ["=", "permessage-deflate; =", 'permessage-deflate; a="', "\x7f"])
def test_malformed_offers(offers: str) -> None:
    with pytest.raises(Refused):
        Agreed.from_offers(offers)


def test_offers_without_end_are_not_read() -> None:
    assert Agreed.from_offers("x, " * 300 + "permessage-deflate") is not None
    assert Agreed.from_offers("x, " * 400 + "permessage-deflate") is None
    assert Agreed.from_offers("=" * 2000) is None


def test_codes_and_reasons() -> None:
    assert [code for code in range(900, 5100) if is_close_code(code)] == [
        *(1000, 1001, 1002, 1003, 1007, 1008, 1009, 1010, 1011, 1012, 1013, 1014),
        *range(3000, 5000),
    ]
    assert shorten_reason("é" * 100) == "é" * 61
    assert shorten_reason("short") == "short"
