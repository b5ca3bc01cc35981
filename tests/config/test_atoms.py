"""The language of --access-log-format: what it accepts, and what it says about a mistake."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from zibai.config.atoms import ATOMS, NAMED, WORDS, Atom, check_format, parse
from zibai.config.options import Options
from zibai.errors import UsageError


def test_a_format_is_taken_apart() -> None:
    assert parse("a %(h)s%%%({X-Id}i)s|%(s)-5s") == [
        *("a ", Atom("h"), "%", Atom("i", "X-Id"), "|", Atom("s", "", -5)),
    ]
    assert parse("common") == parse(NAMED["common"])


def test_every_atom_and_every_name_is_accepted() -> None:
    for word in WORDS:
        check_format(word)
    for letter in ATOMS:
        assert parse(f"%({letter})s") == [Atom(letter)]


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ("%(status)s", "did you mean %(s)s?"),
        ("%(P)s", "did you mean %(p)s?"),
        ("%(stattus)s", "did you mean %(s)s?"),
        ("%(addr)s", "did you mean %(h)s?"),
        ("%(HTTP_X_REQUEST_ID)s", "did you mean %({x-request-id}i)s?"),
        ("%({Foo}I)s", "did you mean %({Foo}i)s?"),
        ("%({a b}o)s", "did you mean %({a-b}o)s?"),
        ("%h %l", "%h is no atom; write %(h)s"),
        ("%(r)s %>s", "%>s is no atom; write %(s)s"),
        ("%(h)d", "an atom ends with )s"),
        ("%(h", "an atom ends with )s"),
        ("100%", "write it as in %(h)s"),
        ("%(h)9999999s", "a width is at most 999"),
        ("%(h)-1000s", "a width is at most 999"),
        ("%(x)s", "there are %(h)s %(l)s"),
        ("jsn", "did you mean json?"),
        ("plain text", "it is default, json"),
        ("", "has no atom"),
        ("%(h)s\n", "without line ends"),
        ("%(h)s\x1b", "without line ends"),
    ],
)
def test_a_mistake_is_told_with_what_was_meant(text: str, meant: str) -> None:
    with pytest.raises(UsageError) as caught:
        Options("a:b", access_log_format=text).validate()
    assert str(caught.value).startswith("--access-log-format: ")
    assert meant in str(caught.value)
    assert "\n" not in str(caught.value)


@settings(deadline=None)
@given(st.text(st.sampled_from("%()s{}ioehX>- \n5"), max_size=12))
def test_any_text_is_accepted_or_refused(text: str) -> None:
    try:
        parts = parse(text)
    except UsageError:
        return
    assert all(parts)


def test_the_two_flags_about_the_place_exclude_each_other() -> None:
    with pytest.raises(UsageError, match="exclude each other"):
        Options("a:b", no_access_log=True, access_log="-").validate()
    with pytest.raises(UsageError, match="--log-max-bytes needs"):
        Options("a:b", log_max_bytes=1000, access_log="-").validate()
    Options("a:b", log_max_bytes=1000, access_log="access.log").validate()
