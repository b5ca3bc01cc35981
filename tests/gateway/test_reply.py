"""The bytes of a response, without a connection: what a client reads of them is what the application gave."""

from __future__ import annotations

from http import HTTPStatus
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import h11
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from zibai.gateway.reply import JOIN, LARGE_CHUNK, Reply, exact, instead, joined
from zibai.protocol.http1.request import Request
from zibai.protocol.http1.response import ResponseHead

if TYPE_CHECKING:
    from collections.abc import Iterable

END = b"Date: Thu, 01 Jan 1970 00:00:00 GMT\r\n\r\n"


def request(method: str = "GET", version: str = "HTTP/1.1") -> Request:
    return Request(method, "/", "/", "", version, {})


def begin(
    status: str = "200 OK",
    *fields: tuple[str, str],
    asked: Request | None = None,
    size: int | None = None,
    keep_alive: bool = True,
) -> Reply:
    return Reply(ResponseHead(status, fields), asked or request(), size, keep_alive, END)


def read(method: str, data: bytes, *, ended: bool = False) -> tuple[int, bytes]:
    """Status and body as h11 reads them: exactly one response, and all of it."""
    client = h11.Connection(h11.CLIENT)
    client.send(h11.Request(method=method, target="/", headers=[("Host", "a")]))
    client.send(h11.EndOfMessage())
    client.receive_data(data)
    if ended:
        client.receive_data(b"")
    status, body = 0, b""
    while not isinstance(event := client.next_event(), h11.EndOfMessage):
        assert not isinstance(event, (h11.NEED_DATA, h11.PAUSED)), "the response is not whole"
        if isinstance(event, h11.Response):
            status = event.status_code
        elif isinstance(event, h11.Data):
            body += bytes(event.data)
    assert client.trailing_data[0] == b""
    return status, body


def test_the_head_waits_for_the_first_piece_and_goes_with_it() -> None:
    reply = begin(size=5)
    (first,) = reply.give(b"first")
    assert first.startswith(b"HTTP/1.1 200 OK\r\nServer: zibai\r\nContent-Length: 5\r\n")
    assert first.endswith(END + b"first")
    assert (reply.left, reply.given, reply.finish()) == (0, 5, ())


def test_a_piece_without_bytes_sends_the_head_alone() -> None:
    reply = begin()
    (head,) = reply.give(b"")
    assert head.endswith(b"Transfer-Encoding: chunked\r\n" + END)
    assert reply.give(b"") == ()
    assert reply.give(b"a") == (b"1\r\na\r\n",)
    assert reply.finish() == (b"0\r\n\r\n",)


def test_a_response_without_a_piece_has_a_head() -> None:
    assert read("GET", b"".join(begin(size=0).finish())) == (200, b"")


@pytest.mark.parametrize("size", [JOIN - 1, JOIN, LARGE_CHUNK - 1, LARGE_CHUNK])
@pytest.mark.parametrize("known", [False, True])
def test_a_large_piece_is_not_copied(size: int, known: bool) -> None:
    data = bytes(size)
    parts = begin(size=size if known else None).give(data)
    assert any(part is data for part in parts) == (size >= (JOIN if known else LARGE_CHUNK))


@pytest.mark.parametrize(
    ("method", "status"), [("HEAD", "200 OK"), ("GET", "204 No Content"), ("GET", "205 x"), ("GET", "304 x")]
)
def test_nothing_of_a_body_is_sent_where_there_is_none(method: str, status: str) -> None:
    reply = begin(status, asked=request(method))
    sent = b"".join((*reply.give(b"abc"), *reply.give(b"def"), *reply.finish()))
    assert sent.endswith(END)
    assert read(method, sent) == (int(status[:3]), b"")
    assert (reply.given, reply.left, reply.surplus, reply.has_body) == (0, 0, False, False)


def test_more_than_was_promised_is_dropped_and_told() -> None:
    reply = begin("200 OK", ("Content-Length", "4"))
    sent = b"".join(reply.give(b"ab"))
    assert (reply.left, reply.surplus) == (2, False)
    sent += b"".join(reply.give(b"cde"))
    assert (reply.left, reply.surplus, reply.given) == (0, True, 4)
    assert reply.give(b"f") == ()
    assert read("GET", sent + b"".join(reply.finish())) == (200, b"abcd")


def test_less_than_was_promised_cannot_be_finished() -> None:
    reply = begin("200 OK", ("Content-Length", "4"))
    reply.give(b"abc")
    with pytest.raises(ValueError, match="gave 1 bytes less"):
        reply.finish()
    assert not reply.complete


def test_nothing_may_follow_a_complete_response() -> None:
    reply = begin(size=1)
    reply.give(b"a")
    reply.finish()
    assert not reply.complete, "only the gateway knows whether it has sent all"
    reply.complete = True
    for data in (b"b", b""):
        with pytest.raises(RuntimeError, match="after the end"):
            reply.give(data)


@pytest.mark.parametrize("begun", [False, True])
@pytest.mark.parametrize("fields", [[], [("Content-Length", "8")]])
def test_bytes_that_are_sent_by_other_means_are_framed_the_same(fields: list[tuple[str, str]], begun: bool) -> None:
    reply = begin("200 OK", *fields)
    sent = b"".join(reply.give(b"abc")) if begun else b""
    before, behind = reply.around(8 - 3 * begun)
    sent += before + b"d" * (8 - 3 * begun) + behind + b"".join(reply.finish())
    assert read("GET", sent) == (200, b"abc" * begun + b"d" * (8 - 3 * begun))
    assert reply.given == 8


@pytest.mark.parametrize("keep_alive", [False, True])
def test_the_end_of_the_connection_is_the_end_of_a_body_of_http_1_0(keep_alive: bool) -> None:
    reply = begin(asked=request(version="HTTP/1.0"), keep_alive=keep_alive)
    sent = b"".join((*reply.give(b"abc"), *reply.finish()))
    assert not reply.keep_alive
    assert read("GET", sent, ended=True) == (200, b"abc")


@settings(deadline=None)
@given(
    st.lists(st.binary(max_size=9) | st.integers(JOIN - 200, JOIN + 1), max_size=6),
    st.sampled_from(["GET", "HEAD"]),
    st.sampled_from(["none", "size", "field", "less"]),
    st.booleans(),
)
def test_a_client_reads_what_was_given(described: list[bytes | int], method: str, length: str, join: bool) -> None:
    pieces = [bytes(each) for each in described]
    body = b"".join(pieces)
    promised = len(body) // 2 if length == "less" else len(body)
    fields = [("Content-Length", str(promised))] if length in ("field", "less") else []
    reply = begin("200 OK", *fields, asked=request(method), size=len(body) if length == "size" else None)
    given = list(joined(pieces)) if join else pieces
    sent = b"".join(part for data in given for part in reply.give(data)) + b"".join(reply.finish())
    expected = b"" if method == "HEAD" else body[:promised]
    assert read(method, sent) == (200, expected)
    assert reply.given == len(expected)
    assert reply.surplus == (method == "GET" and promised < len(body))


@pytest.mark.parametrize("status", [HTTPStatus.INTERNAL_SERVER_ERROR, HTTPStatus.REQUEST_TIMEOUT])
def test_the_response_of_the_server_instead_of_the_application(status: HTTPStatus) -> None:
    head, body = instead(status)
    reply = Reply(head, request(), len(body), True, END)
    assert read("GET", b"".join(reply.give(body))) == (status, f"{status.value} {status.phrase}\n".encode())


# --- Pieces ---------------------------------------------------------------------------------------


@settings(deadline=None)
@given(st.lists(st.binary(max_size=9) | st.integers(0, 2 * JOIN), max_size=9))
def test_joined_pieces_are_the_same_body_in_fewer_pieces(described: list[bytes | int]) -> None:
    pieces = [bytes(each) for each in described]
    made = list(joined(pieces))
    assert b"".join(made) == b"".join(pieces)
    assert b"" not in made
    assert all(len(piece) <= JOIN or any(piece is each for each in pieces) for piece in made)
    assert all(len(one) + len(other) > JOIN for one, other in pairwise(made)), "none too many"


class Longer(bytes):
    def __len__(self) -> int:
        return 10

    def __bytes__(self) -> bytes:
        return b"lie"


def test_a_piece_is_what_it_holds_and_bytes() -> None:
    assert list(joined([Longer(b"abc"), b"d"])) == [b"abcd"]
    assert type(exact(Longer(b"abc"))) is bytes
    no_bytes: Iterable[Any] = ["a", None, bytearray(b"a"), memoryview(b"a"), 1]
    for piece in no_bytes:
        with pytest.raises(TypeError, match="must give bytes"):
            list(joined([b"a", piece]))


def test_it_shows_how_far_it_is() -> None:
    reply = begin(size=4)
    reply.give(b"a")
    assert repr(reply) == "<Reply: 1 bytes given, 3 bytes left>"
    assert repr(begin()) == "<Reply: 0 bytes given, open>"
