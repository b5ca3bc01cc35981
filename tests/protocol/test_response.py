"""Answers: what an application may send, and the one framing policy."""

from __future__ import annotations

import time
from email.utils import formatdate
from enum import Enum, StrEnum
from http import HTTPStatus
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from zibai import clock as clock_module
from zibai.clock import head_end, http_date
from zibai.protocol.http1 import response
from zibai.protocol.http1.raw_response import prepare_raw
from zibai.protocol.http1.request import Head, Request, check
from zibai.protocol.http1.response import Framing, ResponseHead, interim, plain, prepare, validate

if TYPE_CHECKING:
    from collections.abc import Sequence

TEXT = ("Content-Type", "text/plain")
DATE = b"Thu, 01 Jan 1970 00:00:00 GMT"
END = b"Date: " + DATE + b"\r\n\r\n"


def request(method: str = "GET", version: str = "1.1", *fields: tuple[bytes, bytes]) -> Request:
    return check(Head(method, "/", version, [(b"host", b"a"), *fields]))


def framing(
    request: Request, status: str = "200 OK", *fields: tuple[str, str], size: int | None = None, keep_alive: bool = True
) -> Framing:
    return Framing(request, ResponseHead(status, fields), size, request.keep_alive and keep_alive, END)


def lines(framing: Framing) -> list[bytes]:
    """The lines of the head, which is one."""
    assert framing.head.endswith(b"\r\n\r\n")
    assert framing.head.count(b"\r\n\r\n") == 1
    return framing.head[:-4].split(b"\r\n")


def named(framing: Framing, name: bytes) -> list[bytes]:
    return [line for line in lines(framing)[1:] if line.lower().startswith(name.lower() + b":")]


# --- What an application may send (R22) -----------------------------------------------------------

BAD_CHARACTERS = ["\r", "\n", "\r\n", "\x00", "\x01", "\x0b", "\x0c", "\x1c", "\x7f"]


@pytest.mark.parametrize("status", ["200 OK", "200 ", "200", "999 Own", "404 Not\tFound", "200 \xe9", "100 Continue"])
def test_a_status_of_three_digits_and_a_reason_is_valid(status: str) -> None:
    validate(status, [])


@pytest.mark.parametrize(
    "status",
    [
        *("", "20", "2000 OK", "099 x", "0 x", "200OK", " 200 OK", "OK", "2e2 OK", "-20 x", "٢٠٠ OK", "200 \u20ac"),
        *(f"200 O{character}K" for character in BAD_CHARACTERS),
        *(f"200 OK{character}" for character in BAD_CHARACTERS),
        "200 OK\r\nX-Evil: 1",
    ],
)
def test_any_other_status_is_refused(status: str) -> None:
    with pytest.raises(ValueError, match="malformed status"):
        validate(status, [])


@pytest.mark.parametrize("status", [200, b"200 OK", None, HTTPStatus.OK])
def test_a_status_is_text(status: str) -> None:
    with pytest.raises(TypeError, match="the status must be a str"):
        prepare(status, [])


@pytest.mark.parametrize("field", [("X", ""), ("X", "a\tb \xe9"), ("!#$%&'*+-.^_`|~", "1"), ("x-y", " a ")])
def test_fields_of_token_and_latin1_text_are_valid(field: tuple[str, str]) -> None:
    validate("200 OK", [field])


@pytest.mark.parametrize(
    "field",
    [
        *((name, "") for name in ["", " ", "X Y", "X:", "X ", " X", "\xe9", "(X)", "X\u2028"]),
        *((f"X{character}", "") for character in BAD_CHARACTERS),
        *(("X", f"a{character}b") for character in BAD_CHARACTERS),
        *(("X", f"a{character}") for character in BAD_CHARACTERS),
        *(("X", value) for value in ["\u20ac", "\u2028", "\ud800", "\u0100"]),
        ("X", "a\r\nY: b"),
        ("X: 1\r\nY", ""),
    ],
)
def test_any_other_field_is_refused(field: tuple[str, str]) -> None:
    with pytest.raises(ValueError, match="field"):
        validate("200 OK", [TEXT, field])


@pytest.mark.parametrize("field", [(b"X", "1"), ("X", b"1"), ("X", 1), ("X", None), ["X", 1]])
def test_names_and_values_are_text(field: tuple[str, str]) -> None:
    with pytest.raises(TypeError, match="of a field must be a str"):
        prepare("200 OK", [TEXT, field])


class Safe(str):
    """As Django's ``mark_safe`` and ``Markup``."""

    __slots__ = ()


class Liar(str):
    """One whose methods all say something else than it holds."""

    __slots__ = ()

    def lie(self, *_: object) -> Any:
        return "200 lie\r\nX-Evil: 1"

    __str__ = __format__ = __getitem__ = __add__ = lower = upper = strip = startswith = lie

    def encode(self, *_: object) -> bytes:
        return b"lie"


class Alone(str):
    """One that equals nothing and has no hash."""

    __slots__ = ()
    __hash__ = None  # type: ignore[assignment]

    def __eq__(self, _: object) -> bool:
        return False


class Word(StrEnum):
    STATUS = "200 OK"
    NAME = "Content-Type"
    VALUE = "text/plain"
    LENGTH = "Content-Length"
    SIZE = "5"


class Choice(str, Enum):  # noqa: UP042 - as Django's TextChoices; its format is "Choice.STATUS"
    STATUS = "200 OK"
    NAME = "Content-Type"
    VALUE = "text/plain"
    LENGTH = "Content-Length"
    SIZE = "5"


TEXTS = ["200 OK", "Content-Type", "text/plain", "Content-Length", "5"]


@pytest.mark.parametrize("plain_first", [True, False])
@pytest.mark.parametrize("kind", [Safe, Liar, Alone, Word, Choice])
def test_a_subclass_of_str_counts_as_the_text_that_it_holds(
    kind: Any, plain_first: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(response, "_heads", {})

    def answer(status: str, *texts: str) -> tuple[object, ...]:
        made = prepare(status, [(texts[0], texts[1]), (texts[2], texts[3])])
        return made.code, made.length, made.data

    expected = (200, 5, b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 5\r\nServer: zibai\r\n")
    if plain_first:
        assert answer(*TEXTS) == expected
    assert answer(*map(kind, TEXTS)) == expected
    assert answer(*TEXTS) == expected
    assert answer(*map(kind, TEXTS)) == expected
    for (status, fields), made in response._heads.items():
        assert {type(text) for text in (status, *sum(fields, ()))} == {str}, "a key has no methods of its own"
        assert made.data == expected[2]


@pytest.mark.parametrize("kind", [Safe, Liar, Alone])
def test_a_subclass_of_str_is_checked_as_all_text_is(kind: Any) -> None:
    for status, name, value in [("200 O\nK", "X", "1"), ("200 OK", "X:", "1"), ("200 OK", "X", "1\r\nY: 2")]:
        with pytest.raises(ValueError, match=r"malformed|forbidden"):
            prepare(kind(status), [(kind(name), kind(value))])
    assert interim(kind("103 Early Hints"), [(kind("Link"), kind("a")), (kind("TE"), kind("b"))]) == (
        b"HTTP/1.1 103 Early Hints\r\nLink: a\r\n\r\n",
        ["TE"],
    )
    assert prepare("200 OK", [(kind("Connection"), kind("close"))]).close


# --- The head -------------------------------------------------------------------------------------


def test_a_whole_head() -> None:
    head = framing(request(), "200 OK", TEXT, ("X", "\xe9"), size=5).head
    assert head == (
        b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nX: \xe9\r\nServer: zibai\r\nContent-Length: 5\r\n"
        b"Date: Thu, 01 Jan 1970 00:00:00 GMT\r\n\r\n"
    )


@pytest.mark.parametrize("name", ["Date", "date", "DATE", "Server", "SERVER"])
def test_an_own_date_or_server_wins(name: str) -> None:
    answer = framing(request(), "200 OK", (name, "own"))
    assert named(answer, name.encode()) == [name.encode() + b": own"]
    assert len(named(answer, b"Date") + named(answer, b"Server")) == 2


def test_fields_may_be_repeated_and_keep_their_order() -> None:
    fields = [("Set-Cookie", "a"), ("X", "1"), ("Set-Cookie", "b")]
    assert lines(framing(request(), "200 OK", *fields))[1:4] == [b"Set-Cookie: a", b"X: 1", b"Set-Cookie: b"]


@pytest.mark.parametrize(
    "field",
    [
        *(("Connection", "keep-alive"), ("connection", "upgrade"), ("Keep-Alive", "5"), ("TE", "a"), ("Trailer", "a")),
        *(
            ("Transfer-Encoding", "chunked"),
            ("TRANSFER-ENCODING", "gzip"),
            ("Upgrade", "x"),
            ("Proxy-Authenticate", "x"),
        ),
        *(("Proxy-Connection", "x"), ("Proxy-Authorization", "x")),
    ],
)
def test_the_fields_of_one_hop_are_removed(field: tuple[str, str]) -> None:
    answer = framing(request(), "200 OK", field, size=0)
    assert ResponseHead("200 OK", [field]).removed == [field[0]]
    assert named(answer, field[0].encode()) == []
    assert answer.keep_alive


@pytest.mark.parametrize("value", ["close", "Close", "x, close"])
def test_an_application_may_close_the_connection(value: str) -> None:
    answer = framing(request(), "200 OK", ("Connection", value), size=0)
    assert ResponseHead("200 OK", [("Connection", value)]).removed == []
    assert not answer.keep_alive
    assert named(answer, b"Connection") == [b"Connection: close"]


# --- Framing (R23) --------------------------------------------------------------------------------


def test_a_known_size_is_declared() -> None:
    answer = framing(request(), size=5)
    assert (answer.length, answer.chunked, answer.bodyless, answer.keep_alive) == (5, False, False, True)
    assert named(answer, b"Content-Length") == [b"Content-Length: 5"]
    assert named(answer, b"Transfer-Encoding") == named(answer, b"Connection") == []


def test_an_unknown_size_is_chunked() -> None:
    answer = framing(request())
    assert (answer.length, answer.chunked, answer.bodyless, answer.keep_alive) == (None, True, False, True)
    assert named(answer, b"Transfer-Encoding") == [b"Transfer-Encoding: chunked"]
    assert named(answer, b"Content-Length") == named(answer, b"Connection") == []


def test_the_length_of_the_application_wins() -> None:
    answer = framing(request(), "200 OK", ("content-length", "007"), size=5)
    assert (answer.length, answer.chunked) == (7, False)
    assert named(answer, b"Content-Length") == [b"content-length: 007"]


def test_a_length_said_twice_goes_out_once() -> None:
    answer = framing(request(), "200 OK", ("Content-Length", "7"), ("content-length", "7"))
    assert answer.length == 7
    assert named(answer, b"Content-Length") == [b"Content-Length: 7"]


@pytest.mark.parametrize(
    "values",
    [*([value] for value in ["", "+1", "-1", "1_0", " 1", "1 ", "a", "1, 1", "٣", "9" * 20]), ["1", "2"], ["1", ""]],
)
def test_any_other_length_is_refused(values: Sequence[str]) -> None:
    for status in ("200 OK", "204 No Content", "304 Not Modified"):
        with pytest.raises(ValueError, match="Content-Length"):
            framing(request(), status, *(("Content-Length", value) for value in values))


def test_http10_ends_unless_it_was_asked_to_stay() -> None:
    answer = framing(request(version="1.0"), size=5)
    assert (answer.keep_alive, answer.chunked, answer.length) == (False, False, 5)
    assert named(answer, b"Connection") == [b"Connection: close"]


def test_http10_stays_if_it_was_asked_to_and_told_so() -> None:
    answer = framing(request("GET", "1.0", (b"connection", b"keep-alive")), size=5)
    assert (answer.keep_alive, answer.chunked, answer.length) == (True, False, 5)
    assert named(answer, b"Connection") == [b"Connection: keep-alive"]


def test_http10_ends_where_the_end_marks_the_end_of_the_body() -> None:
    answer = framing(request("GET", "1.0", (b"connection", b"keep-alive")))
    assert (answer.keep_alive, answer.chunked, answer.length) == (False, False, None)
    assert named(answer, b"Connection") == [b"Connection: close"]
    assert named(answer, b"Transfer-Encoding") == named(answer, b"Content-Length") == []


def test_the_server_may_end_it() -> None:
    answer = framing(request(), size=5, keep_alive=False)
    assert not answer.keep_alive
    assert named(answer, b"Connection") == [b"Connection: close"]


@pytest.mark.parametrize("size", [None, 5])
@pytest.mark.parametrize("version", ["1.1", "1.0"])
@pytest.mark.parametrize(
    ("method", "status"),
    [("HEAD", "200 OK"), ("GET", "204 No Content"), ("GET", "304 Not Modified"), ("HEAD", "204 x"), ("GET", "204")],
)
def test_there_is_no_body_for_head_204_and_304(method: str, status: str, version: str, size: int | None) -> None:
    asked = request(method, version, (b"connection", b"keep-alive"))
    answer = framing(asked, status, size=size)
    assert (answer.bodyless, answer.chunked, answer.length, answer.keep_alive) == (True, False, None, True)
    assert named(answer, b"Transfer-Encoding") == named(answer, b"Content-Length") == []


@pytest.mark.parametrize(("method", "status"), [("HEAD", "200 OK"), ("GET", "304 Not Modified")])
def test_the_length_of_the_body_that_would_be_goes_out_without_it(method: str, status: str) -> None:
    answer = framing(request(method), status, ("Content-Length", "5"))
    assert answer.bodyless
    assert named(answer, b"Content-Length") == [b"Content-Length: 5"]


@pytest.mark.parametrize("value", ["0", "5"])
def test_no_length_goes_out_with_204(value: str) -> None:
    assert named(framing(request(), "204 No Content", ("Content-Length", value)), b"Content-Length") == []


@pytest.mark.parametrize("version", ["1.0", "1.1"])
@pytest.mark.parametrize("size", [None, 0, 5])
@pytest.mark.parametrize("fields", [(), (("Content-Length", "5"),), (("Content-Length", "0"), ("Content-Length", "0"))])
@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_205_says_that_it_is_empty(
    method: str, fields: tuple[tuple[str, str], ...], size: int | None, version: str
) -> None:
    answer = framing(request(method, version, (b"connection", b"keep-alive")), "205 Reset Content", *fields, size=size)
    assert (answer.bodyless, answer.chunked, answer.length, answer.keep_alive) == (True, False, 0, True)
    assert named(answer, b"Content-Length") == [b"Content-Length: 0"]
    assert named(answer, b"Transfer-Encoding") == []


@pytest.mark.parametrize("status", ["200", "204", "404", "599"])
def test_a_space_follows_a_status_without_a_reason(status: str) -> None:
    assert lines(framing(request(), status))[0] == f"HTTP/1.1 {status} ".encode()
    assert prepare(status, []).data.startswith(f"HTTP/1.1 {status} \r\n".encode())
    assert prepare(status + " ", []).data.startswith(f"HTTP/1.1 {status} \r\n".encode())
    assert interim("103", [])[0] == b"HTTP/1.1 103 \r\n\r\n"


# --- Interim answers, and our own -----------------------------------------------------------------


def test_an_interim_answer_has_no_framing() -> None:
    fields = [("Link", "</a>"), ("Content-Length", "5"), ("Transfer-Encoding", "chunked"), ("Connection", "close")]
    data, removed = interim("103 Early Hints", fields)
    assert data == b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n"
    assert removed == ["Transfer-Encoding", "Connection"]


@pytest.mark.parametrize("status", ["200 OK", "101 Switching Protocols", "101", "10 x", "103 Early\r\nHints", ""])
def test_what_is_not_interim_is_refused(status: str) -> None:
    with pytest.raises(ValueError, match="status"):
        interim(status, [])


def test_fields_of_an_interim_answer_are_checked() -> None:
    with pytest.raises(ValueError, match="field"):
        interim("103 Early Hints", [("X", "a\r\n\r\nHTTP/1.1 200 OK")])


def test_our_own_answer_is_whole_and_the_last() -> None:
    answer = plain(HTTPStatus.BAD_REQUEST, END)
    head, _, body = answer.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 400 Bad Request\r\n")
    assert b"\r\nConnection: close\r\n" in head
    assert b"\r\nServer: zibai\r\nDate: " + DATE in head
    assert f"\r\nContent-Length: {len(body)}\r\n".encode() in head
    assert body == b"400 Bad Request\n"


# --- What is remembered ---------------------------------------------------------------------------


@pytest.fixture(autouse=True)
def _forgetful(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(response, "_heads", {})
    monkeypatch.setattr(response, "_once", set())
    monkeypatch.setattr(response, "_names", {})
    monkeypatch.setattr(response, "_statuses", {})


def test_a_head_that_comes_for_the_second_time_is_kept_and_another_is_another() -> None:
    prepare("200 OK", [TEXT])
    assert response._heads == {}
    first = prepare("200 OK", [TEXT])
    assert prepare("200 OK", [TEXT]) is first
    others = [("201 Created", [TEXT]), ("200 OK", []), ("200 OK", [TEXT, TEXT]), ("200 OK", [("Content-Type", "a/b")])]
    for status, fields in others:
        assert prepare(status, fields).data == ResponseHead(status, fields).data != first.data


def test_what_cannot_be_sent_is_not_remembered() -> None:
    for _ in range(2):
        with pytest.raises(ValueError, match="forbidden character"):
            prepare("200 OK", [("X", "a\r\nb")])
    assert response._heads == {}


def test_fields_that_can_be_read_only_once_are_checked_too() -> None:
    with pytest.raises(ValueError, match="forbidden character"):
        ResponseHead("200 OK", iter([("X", "a\r\nY: b")]))


def test_what_changes_in_the_hands_of_the_application_is_another_answer() -> None:
    fields = [TEXT]
    first = prepare("200 OK", fields)
    fields.append(("X-More", "1"))
    assert b"X-More" not in first.data
    assert b"X-More" in prepare("200 OK", fields).data


@pytest.mark.parametrize("status", [203.0, "203"])
def test_a_status_that_is_no_int_is_refused_also_where_its_head_is_kept(status: Any) -> None:
    """203.0 equals 203: it was an error or a response, by what had been sent before."""
    for _ in range(3):
        prepare_raw(203, [(b"kept", b"yes")])
        with pytest.raises(TypeError, match="must be an int"):
            prepare_raw(status, [(b"kept", b"yes")])


def test_pairs_that_are_lists_are_taken_and_remembered_as_tuples() -> None:
    fields: list[Any] = [["Content-Type", "text/plain"]]
    assert prepare("200 OK", fields).data == prepare("200 OK", [TEXT]).data
    assert len(response._heads) == 1


@pytest.mark.parametrize("name", ["Set-Cookie", "set-cookie", "SET-COOKIE"])
def test_cookies_are_not_kept(name: str) -> None:
    for _ in range(3):
        assert b"id=secret" in prepare("200 OK", [TEXT, (name, "id=secret")]).data
    assert response._heads == {}


def test_what_is_remembered_is_bounded() -> None:
    for number in range(3 * response._MAX_HEADS):
        for _ in range(2):
            prepare(f"200 {number}", [(f"X-{number}", "1")])
        memories = (response._heads, response._once, response._names, response._statuses)
        assert max(map(len, memories)) <= response._MAX_HEADS


def test_heads_that_never_come_again_leave_those_that_do() -> None:
    for number in range(3 * response._MAX_HEADS):
        kept = prepare("200 OK", [TEXT])
        prepare("200 OK", [TEXT, ("ETag", str(number))])
        assert number < 2 or prepare("200 OK", [TEXT]) is kept
    assert len(response._heads) == 1


def facts(head: ResponseHead) -> dict[str, object]:
    return {name: getattr(head, name) for name in ResponseHead.__slots__}


NAMES = ["Content-Type", "ETag", "content-length", "Content-Length", "Set-Cookie", "Connection", "Upgrade", "Server"]
TEXTS_OF_FIELDS = st.one_of(
    st.sampled_from(
        ["text/plain", "5", "close", "a\tb", "\xe9", "\r\nX: 1", "\x00", "\u2028", "a\nb", "", "\x7f", "\u20ac"]
    ),
    st.text(st.characters(max_codepoint=300), max_size=5),
)
FIELDS = st.lists(
    st.tuples(st.sampled_from([*NAMES, "Date", "a b", "X:", ""]) | st.text(max_size=3), TEXTS_OF_FIELDS), max_size=4
)


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.sampled_from(["200 OK", "205 Reset Content", "304 Not Modified", "404 \xe9", "20", "200 a\nb"]), FIELDS)
def test_what_is_remembered_equals_what_is_new_and_is_checked_like_it(
    status: str, fields: list[tuple[str, str]]
) -> None:
    made = []
    for _ in range(3):
        try:
            made.append(facts(prepare(status, fields)))
        except ValueError:
            made.append({})
    response._names.clear()
    response._statuses.clear()
    try:
        new = facts(ResponseHead(status, fields))
    except ValueError:
        new = {}
    assert made == [new] * 3
    try:
        validate(status, fields)
    except ValueError:
        assert new == {}


@pytest.mark.parametrize("moves", [[0.25, 0.7, 0.3, 5.0], [0.0, -3600.0, 10.0]], ids=["on", "set back"])
def test_the_date_is_that_of_its_second(monkeypatch: pytest.MonkeyPatch, moves: list[float]) -> None:
    now = steady = 1_000_000_000.5
    monkeypatch.setattr(clock_module, "day", (0.0, b""))
    monkeypatch.setattr(clock_module, "clock", lambda: steady)
    for move in moves:
        now += move
        steady += move if move > 0 else 1.0  # a clock that is set back is noticed within a second
        monkeypatch.setattr(clock_module, "time", SimpleNamespace(time=lambda: now, gmtime=time.gmtime))  # noqa: B023 -- called in this round
        assert head_end() == f"Date: {formatdate(int(now), usegmt=True)}\r\n\r\n".encode()


def test_a_date_is_written_as_the_standard_library_does() -> None:
    for second in range(0, 40 * 366 * 86400, 86400 * 5 + 3671):  # every weekday, month and hour
        assert http_date(second) == formatdate(second, usegmt=True)
