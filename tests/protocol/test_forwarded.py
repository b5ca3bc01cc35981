"""Whom to believe, and what a believed one says of the client."""

from __future__ import annotations

import re
import time
from ipaddress import ip_address
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from zibai.config.addresses import FIELDS, Trust, check_trusted, plain_host
from zibai.errors import UsageError
from zibai.protocol import forwarded
from zibai.protocol.forwarded import MAX_HOPS, read
from zibai.protocol.forwarded_plain import read_plain

if TYPE_CHECKING:
    from collections.abc import Callable

# --- Trust ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("values", "peer", "held"),
    [
        (["127.0.0.1,::1,unix"], ("127.0.0.1", 1), True),
        (["127.0.0.1,::1,unix"], ("127.0.0.2", 1), False),
        (["127.0.0.1,::1,unix"], ("::1", 1, 0, 0), True),
        (["127.0.0.1,::1,unix"], "", True),
        (["127.0.0.1"], "", False),
        (["127.0.0.1"], "/path", False),
        (["10.0.0.0/8"], ("10.255.0.1", 1), True),
        (["10.0.0.0/8"], ("11.0.0.1", 1), False),
        (["10.0.0.0/8"], ("::ffff:10.0.0.1", 1, 0, 0), True),
        (["::ffff:10.0.0.0/104"], ("10.0.0.1", 1), True),
        (["::ffff:10.0.0.1"], ("10.0.0.1", 1), True),
        (["::/0"], ("10.0.0.1", 1), False),
        (["fe80::/10"], ("fe80::1%eth0", 1, 0, 2), True),
        (["2001:db8::/32", " 10.0.0.1 , unix "], ("10.0.0.1", 1), True),
        (["*"], ("1.2.3.4", 1), True),
        (["*"], "", True),
        ([""], ("127.0.0.1", 1), False),
        (["none"], "", False),
        (["unix"], ("127.0.0.1", 1), False),
    ],
)
def test_whom_it_holds(values: list[str], peer: Any, held: bool) -> None:
    for value in values:
        check_trusted(value)
    assert Trust(values).includes(peer) is held


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        ("localhost", "'localhost' is no peer; write an address"),
        ("10.0.0.0/33", "is no peer"),
        ("10.0.0.1/8", "has bits behind its mask; write 10.0.0.0/8"),
        ("127.0.0.1,example:app", "'example:app' is no peer"),
        ("fe80::1%eth0", "is no peer"),
        ("10.0.0", "is no peer"),
    ],
)
def test_what_is_no_peer(value: str, reason: str) -> None:
    with pytest.raises(UsageError, match=re.escape(reason)):
        check_trusted(value)


def test_everybody_and_nobody() -> None:
    assert not Trust(["none"])
    assert Trust(["unix"])
    assert [Trust([word]).whole_internet for word in ("*", "0.0.0.0/0", "::/0", "10.0.0.0/8", "unix")] == [
        True, True, True, False, False
    ]  # fmt: skip


def test_the_flag_that_would_add_a_peer() -> None:
    assert Trust(["127.0.0.1,unix"]).flag_with(("::ffff:10.0.0.1", 1)) == "--trusted-proxies 127.0.0.1,unix,10.0.0.1"
    assert Trust([]).flag_with("") == "--trusted-proxies unix"


# --- What fields say ------------------------------------------------------------------------------

ALL = Trust(["10.0.0.0/8,2001:db8::/32"], ",".join(FIELDS))


def said(scheme: str = "http", /, *, trust: Trust = ALL, **fields: str) -> tuple[dict[str, str], list[str]]:
    """What the fields change, and what was complained of; no change is made by fields that contradict each other."""
    told = read({"HTTP_" + name.upper(): value for name, value in fields.items()}, trust, scheme)
    if told.contradiction:
        return {}, [*told.complaints, told.contradiction]
    changes = told.environ | ({"SCRIPT_NAME": told.prefix} if told.prefix else {})
    return changes, list(told.complaints)


def addr(address: str, port: str | None = None) -> dict[str, str]:
    return {"REMOTE_ADDR": address} | ({} if port is None else {"REMOTE_PORT": port})


@pytest.mark.parametrize(
    ("chain", "expected"),
    [
        ("1.2.3.4", addr("1.2.3.4")),
        ("1.2.3.4:567", addr("1.2.3.4", "567")),
        ("2001:dead::1", addr("2001:dead::1")),
        ("[2001:dead::1]:80", addr("2001:dead::1", "80")),
        ("[2001:dead:0::1]", addr("2001:dead::1")),
        ("::ffff:1.2.3.4", addr("1.2.3.4")),
        ("[::FFFF:102:304]:5", addr("1.2.3.4", "5")),
        ("fe80::1%eth0", addr("fe80::1")),
        ("[fe80::1%25eth0]:5", addr("fe80::1", "5")),
        ("6.6.6.6, 1.2.3.4", addr("1.2.3.4")),
        ("6.6.6.6, 1.2.3.4, 10.0.0.1", addr("1.2.3.4")),
        ("6.6.6.6,1.2.3.4,10.0.0.1:5 ,\t2001:db8::5", addr("1.2.3.4")),
        ("6.6.6.6, 1.2.3.4, ::ffff:10.0.0.1", addr("1.2.3.4")),
        ("10.0.0.2, 10.0.0.1", addr("10.0.0.2")),
        ("10.0.0.1", addr("10.0.0.1")),
        ("10.0.0.1, 1.2.3.4", addr("1.2.3.4")),
        ("<script>, 1.2.3.4", addr("1.2.3.4")),
        ("1.2.3.4,, ,", addr("1.2.3.4")),
        ("unknown", addr("")),
        ("1.2.3.4, unknown, 10.0.0.1", addr("")),
        ("_hidden:_port", addr("")),
    ],
)
def test_x_forwarded_for(chain: str, expected: dict[str, str]) -> None:
    assert said(x_forwarded_for=chain) == (expected, [])


@pytest.mark.parametrize(
    "chain",
    [
        "", ",", "localhost", "1.2.3", "1.2.3.4.5", "1.2.3.256", "01.2.3.4", "1.2.3.4:65536", "1.2.3.4:", "1.2.3.4:x",
        "[1.2.3.4]", "[::1", "::1]", ":::1", "[fe80::1%]", "fe80::1%a b", "1.2.3.4%eth0", "1.2.3.4 5.6.7.8", "1.2.3.4;",
        '"1.2.3.4"', "\xb2.2.3.4", "1.2.3.4\x00", "\x1b[31m", "1.2.3.4, junk", "1.2.3.4, junk, 10.0.0.1", "99999999",
    ],
)  # fmt: skip
def test_x_forwarded_for_that_is_malformed_leaves_the_client_unknown(chain: str) -> None:
    changes, complaints = said(x_forwarded_for=chain)
    assert changes == addr(""), "and it is not taken for the proxy"
    assert len(complaints) == 1
    assert complaints[0].startswith("X-Forwarded-For is malformed: ")
    assert complaints[0].isascii()
    assert complaints[0].isprintable()


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("for=1.2.3.4", addr("1.2.3.4")),
        ('For="1.2.3.4:567"', addr("1.2.3.4", "567")),
        ('for="[2001:dead::1]"', addr("2001:dead::1")),
        ('for="[2001:dead::1]:4711"', addr("2001:dead::1", "4711")),
        ("for=1.2.3.4;by=_x, for=10.0.0.1", addr("1.2.3.4")),
        ('for=6.6.6.6,for=1.2.3.4 , for="[2001:db8::1]"', addr("1.2.3.4")),
        ("for=1.2.3.4; by=unknown ;ext=\"a, for=6.6.6.6\"", addr("1.2.3.4")),
        (r'for="\1.2.3.4";ext="\"a\\"', addr("1.2.3.4")),
        ("for=unknown", addr("")),
        ("for=_secret", addr("")),
        ('for="_secret:_port", for=10.0.0.1', addr("")),
        ("by=10.0.0.1", {}),
        # What a client has left open, in the part that it makes up, does not take in what was added behind it.
        ('for="junk, for=1.2.3.4', addr("1.2.3.4")),
        ('for="junk, for="[2001:dead::1]"', addr("2001:dead::1")),
        (r'for="junk\, for="[2001:dead::1]"', addr("2001:dead::1")),
        (";;=, for=1.2.3.4", addr("1.2.3.4")),
        ("for=1.2.3.4, , ", addr("1.2.3.4")),
    ],
)  # fmt: skip
def test_forwarded(value: str, expected: dict[str, str]) -> None:
    assert said(forwarded=value) == (expected, [])


@pytest.mark.parametrize(
    "value",
    [
        "", ",", "1.2.3.4", "for", "for=", "for =1.2.3.4", "for= 1.2.3.4", "for=2001:dead::1", 'for="2001:dead::1"',
        "for=[2001:dead::1]", 'for="1.2.3.4', "for=1.2.3.4;for=5.6.7.8", "for=1.2.3.4;FOR=1.2.3.4", "for=1.2.3.4,junk",
        "for=localhost", 'for="1.2.3.4:99999"', 'for="\x00"', "for=1.2.3.4;", "for=1.2.3.4 for=5.6.7.8", 'for=""',
        "for=1.2.3.4, for=junk, for=10.0.0.1",
    ],
)  # fmt: skip
def test_forwarded_that_is_malformed_leaves_the_client_unknown(value: str) -> None:
    changes, complaints = said(forwarded=value)
    assert changes == addr(""), "and it is not taken for the proxy"
    assert len(complaints) == 1
    assert complaints[0].startswith("Forwarded is malformed: ")
    assert complaints[0].isascii()
    assert complaints[0].isprintable()


def site(scheme: str, host: str, name: str, port: str) -> dict[str, str]:
    return {"wsgi.url_scheme": scheme, "HTTP_HOST": host, "SERVER_NAME": name, "SERVER_PORT": port}


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"proto": "https"}, site("https", "inner:81", "inner", "81")),
        ({"proto": "HTTPS", "host": "a.test"}, site("https", "a.test", "a.test", "443")),
        ({"proto": "wss", "host": "a.test"}, site("https", "a.test", "a.test", "443")),
        ({"host": "a.test"}, site("http", "a.test", "a.test", "80")),
        ({"host": "a.test:8080"}, site("http", "a.test:8080", "a.test", "8080")),
        ({"host": "a.test:"}, site("http", "a.test", "a.test", "80")),
        ({"host": "[2001:db8::1]:8080"}, site("http", "[2001:db8::1]:8080", "[2001:db8::1]", "8080")),
        ({"host": "[2001:db8::1]"}, site("http", "[2001:db8::1]", "[2001:db8::1]", "80")),
        ({"proto": "https", "port": "443"}, site("https", "inner", "inner", "443")),
        ({"proto": "https", "port": "8443", "host": "a.test"}, site("https", "a.test:8443", "a.test", "8443")),
        ({"port": "8443", "host": "a.test:8443"}, site("http", "a.test:8443", "a.test", "8443")),
        ({"proto": "https, http"}, site("http", "inner:81", "inner", "81")),
        (
            {"for": "1.2.3.4, 10.0.0.1", "proto": "https, http"},
            addr("1.2.3.4") | site("https", "inner:81", "inner", "81"),
        ),
        ({"for": "1.2.3.4, 10.0.0.1", "proto": "https"}, addr("1.2.3.4") | site("https", "inner:81", "inner", "81")),
        (
            {"for": "6.6.6.6, 1.2.3.4", "proto": "http, https"},
            addr("1.2.3.4") | site("https", "inner:81", "inner", "81"),
        ),
        (
            {"for": "1.2.3.4, 10.0.0.1", "host": "evil, a.test, b"},
            addr("1.2.3.4") | site("http", "a.test", "a.test", "80"),
        ),
        ({"prefix": "/shop/"}, {"SCRIPT_NAME": "/shop"}),
        ({"prefix": "/a/b-c%20d"}, {"SCRIPT_NAME": "/a/b-c d"}),
        ({"prefix": "/caf%C3%A9"}, {"SCRIPT_NAME": "/cafÃ©"}),
        ({"prefix": "/"}, {}),
        ({"prefix": ""}, {}),
    ],
)
def test_the_place(fields: dict[str, str], expected: dict[str, str]) -> None:
    named = {f"x_forwarded_{name}": value for name, value in fields.items()}
    assert said("http", host="inner:81", **named) == (expected, [])


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(("Proto", value) for value in ("", "ftp", "http s", "https;", "\x00", "http\xa0")),
        *(("Host", value) for value in ("", "a/b", "a b", "user@a", "a:0", "a:65536", "a:b", "[::1", "a\x1b", "é")),
        *(("Port", value) for value in ("", "0", "65536", "-1", "+1", "0x1", "1 2", "\xb2", "999999")),
        *(
            ("Prefix", value)
            for value in ("a", "//a", "/a//b", "/a?b", "/a#b", "/a b", "/a%0ab", "/a%00", "/..", "/a/../b", "/%2e%2e/b")
        ),
        *(("Prefix", value) for value in ("/a/%2e", "/a%2f%2fb", "http://a/", "/a\x1b", "/é", "/a//", "/a\\b")),
    ],
)
def test_a_place_that_is_malformed_is_not_said(name: str, value: str) -> None:
    changes, complaints = said(x_forwarded_for="1.2.3.4", **{f"x_forwarded_{name.lower()}": value})
    assert changes == addr("1.2.3.4"), "and the rest of what is said counts"
    assert len(complaints) == 1
    assert complaints[0].startswith(f"X-Forwarded-{name} is malformed: ")


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("for=1.2.3.4;proto=https;host=a.test", ("1.2.3.4", "https", "a.test")),
        ('for=1.2.3.4;proto=https;host="a.test:8443"', ("1.2.3.4", "https", "a.test:8443")),
        ("for=1.2.3.4, for=10.0.0.1;proto=https;host=a.test", ("1.2.3.4", "https", "a.test")),
        ("for=1.2.3.4;proto=https, for=10.0.0.1;proto=http;host=inner", ("1.2.3.4", "https", "inner")),
        ("for=6.6.6.6;proto=https;host=evil, for=1.2.3.4;proto=http", ("1.2.3.4", "http", None)),
        ("proto=https;host=a.test", (None, "https", "a.test")),
        ("proto=https, for=10.0.0.1", ("10.0.0.1", "https", None)),
    ],
)
def test_the_place_of_forwarded(value: str, expected: tuple[str | None, ...]) -> None:
    changes, complaints = said(forwarded=value)
    assert not complaints
    assert tuple(changes.get(key) for key in ("REMOTE_ADDR", "wsgi.url_scheme", "HTTP_HOST")) == expected


def test_a_request_of_http_1_0_may_have_no_host() -> None:
    assert said(x_forwarded_proto="https") == ({"wsgi.url_scheme": "https", "SERVER_PORT": "443"}, [])


@pytest.mark.parametrize(
    ("fields", "expected", "about"),
    [
        ({"forwarded": "for=1.2.3.4", "x_forwarded_for": "1.2.3.4"}, addr("1.2.3.4"), []),
        ({"forwarded": "for=1.2.3.4", "x_forwarded_for": "1.2.3.4, 10.0.0.1"}, addr("1.2.3.4"), []),
        ({"forwarded": 'for="1.2.3.4:5"', "x_forwarded_for": "1.2.3.4:5"}, addr("1.2.3.4", "5"), []),
        ({"forwarded": 'for="1.2.3.4:5"', "x_forwarded_for": "1.2.3.4"}, addr("1.2.3.4"), []),
        ({"forwarded": 'for="1.2.3.4:5"', "x_forwarded_for": "1.2.3.4:6"}, addr("1.2.3.4"), []),
        ({"forwarded": "for=1.2.3.4", "x_forwarded_for": "5.6.7.8"}, {}, ["client"]),
        ({"forwarded": 'for="1.2.3.4:5"', "x_forwarded_for": "5.6.7.8"}, {}, ["client"]),
        ({"forwarded": "for=1.2.3.4;proto=http", "x_forwarded_proto": "https"}, {}, ["scheme"]),
        ({"forwarded": "for=1.2.3.4;host=a", "x_forwarded_host": "b"}, {}, ["host"]),
        ({"forwarded": "for=unknown", "x_forwarded_for": "5.6.7.8"}, {}, ["client"]),
        ({"forwarded": "for=unknown", "x_forwarded_for": "_hidden"}, addr(""), []),
        ({"forwarded": "junk", "x_forwarded_for": "5.6.7.8"}, addr("5.6.7.8"), ["malformed"]),
        ({"forwarded": "for=1.2.3.4", "x_forwarded_for": "junk"}, addr("1.2.3.4"), ["malformed"]),
        (
            {"forwarded": "for=junk;proto=https", "x_forwarded_proto": "http"},
            addr("") | {"wsgi.url_scheme": "http", "SERVER_PORT": "80"},
            ["malformed"],
        ),
        ({"x_forwarded_host": "a:1", "x_forwarded_port": "2"}, {}, ["X-Forwarded-Host and X-Forwarded-Port"]),
    ],
)
def test_contradictions(fields: dict[str, str], expected: dict[str, str], about: list[str]) -> None:
    changes, complaints = said(**fields)
    assert changes == expected
    assert len(complaints) == len(about)
    for word, complaint in zip(about, complaints, strict=True):
        assert word in complaint


HONEST = {
    "forwarded": "for=1.2.3.4;proto=https;host=a.test",
    "x_forwarded_for": "1.2.3.4",
    "x_forwarded_proto": "https",
    "x_forwarded_host": "a.test",
    "x_forwarded_port": "443",
    "x_forwarded_prefix": "/shop",
}
LIES = {
    "forwarded": ["for=6.6.6.6", "for=127.0.0.1", "for=10.0.0.1", "for=unknown", "proto=http", "host=evil", "junk"],
    "x_forwarded_for": ["6.6.6.6", "127.0.0.1", "10.0.0.1", "unknown", "junk"],
    "x_forwarded_proto": ["http", "junk"],
    "x_forwarded_host": ["evil"],
    "x_forwarded_port": ["666"],
    "x_forwarded_prefix": ["/evil"],
}
DEFAULT = Trust(["10.0.0.0/8"])
TRUTH = addr("1.2.3.4") | site("https", "inner", "inner", "443")
SETS = [
    ("x_forwarded_for", "x_forwarded_proto"),
    ("forwarded",),
    ("forwarded", "x_forwarded_for", "x_forwarded_proto"),
    tuple(HONEST),
]


@pytest.mark.parametrize(("lie", "value"), [(lie, value) for lie, values in LIES.items() for value in values])
@pytest.mark.parametrize("honest", SETS, ids="+".join)
def test_a_field_of_the_client_beside_those_of_a_proxy_is_never_believed(
    lie: str, value: str, honest: tuple[str, ...]
) -> None:
    """The proxy sets some fields and passes the others on; by default, such a request is right or is refused."""
    fields = {lie: value} | {name: HONEST[name] for name in honest if name != lie}
    if not {"x_forwarded_for", "forwarded"} & (fields.keys() - {lie}):
        return  # nobody but the client has said who it is
    told = read(
        {"HTTP_HOST": "inner"} | {"HTTP_" + name.upper(): text for name, text in fields.items()}, DEFAULT, "http"
    )
    assert told.prefix == ""
    if lie == "x_forwarded_proto" and "forwarded" not in honest:
        assert told.environ["REMOTE_ADDR"] == "1.2.3.4"  # nobody but the client has told the scheme
    else:
        assert told.contradiction or told.environ == TRUTH


@pytest.mark.parametrize("named", FIELDS)
def test_only_what_is_named_is_believed(named: str) -> None:
    changes, complaints = said(trust=Trust(["10.0.0.0/8"], named), host="inner:81", **HONEST)
    assert not complaints
    assert (
        changes
        == {
            "for": addr("1.2.3.4"),
            "proto": site("https", "inner:81", "inner", "81"),
            "host": site("http", "a.test", "a.test", "80"),
            "port": site("http", "inner:443", "inner", "443"),
            "prefix": {"SCRIPT_NAME": "/shop"},
        }[named]
    )


@pytest.mark.parametrize("name", [name for name in HONEST if name not in ("x_forwarded_for", "x_forwarded_proto")])
@pytest.mark.parametrize("value", ["junk, \x00", ""])
def test_what_is_not_believed_is_not_even_read(name: str, value: str) -> None:
    fields = {name: value, "x_forwarded_for": "1.2.3.4"}
    trust = Trust(["10.0.0.0/8"], "for" if name != "forwarded" else "port,prefix")
    assert said(trust=trust, **fields) == (addr("1.2.3.4") if name != "forwarded" else {}, [])


@pytest.mark.parametrize(
    ("name", "host"),
    [
        ("127.0.0.1", "127.0.0.1"), ("::ffff:127.0.0.1", "127.0.0.1"), ("::1", "::1"), ("fe80::1%eth0", "fe80::1"),
        ("fe80::1%4", "fe80::1"), ("2001:db8:0::1", "2001:db8::1"), ("", ""), ("no:address", "no:address"),
    ],
)  # fmt: skip
def test_an_address_has_one_form(name: str, host: str) -> None:
    assert plain_host(name) == host


def test_a_chain_ends_somewhere() -> None:
    long = ", ".join(["10.0.0.1"] * (MAX_HOPS + 1))
    assert said(x_forwarded_for=long)[0] == addr("")
    assert said(x_forwarded_for="1.2.3.4, " + ", ".join(["10.0.0.1"] * (MAX_HOPS - 1))) == (addr("1.2.3.4"), [])
    assert said(forwarded=re.sub("10", "for=10", long))[0] == addr("")
    assert said(x_forwarded_for=long + ", 1.2.3.4") == (addr("1.2.3.4"), []), (
        "what is left of the client is not looked at"
    )


@pytest.mark.parametrize(
    "piece", [",", ", ", ",a", ',a="', 'a="\\', "for=10.0.0.1,", ";", "for=1;", "10.0.0.1,", '"', "_", ":"]
)
def test_long_values_are_read_in_a_moment(piece: str) -> None:
    value = piece * (60_000 // len(piece))
    said(forwarded=value, x_forwarded_for=value, x_forwarded_prefix="/" + value, x_forwarded_host=value)


# --- Whatever comes -------------------------------------------------------------------------------

texts = st.text(
    st.sampled_from('for=10.2,;"\\: []_x\t\x00\xe9unknowprthsp/%') | st.characters(max_codepoint=255), max_size=60
)
values = st.lists(
    st.sampled_from(
        [
            "1.2.3.4",
            "10.0.0.1",
            "for=1.2.3.4",
            'for="[2001:db8::1]"',
            "proto=https",
            "https",
            "host=a",
            ";",
            ", ",
            ":80",
        ]
    )
    | texts,
    max_size=6,
).map("".join)


@settings(max_examples=150, deadline=None, database=None)
@given(fields=st.dictionaries(st.sampled_from(["forwarded", "x_forwarded_for", "x_forwarded_proto", "x_forwarded_host",
                                               "x_forwarded_port", "x_forwarded_prefix"]), values))  # fmt: skip
@example(fields={"x_forwarded_for": "1" * 4000})
def test_whatever_comes_is_an_address_a_scheme_a_host_a_port_a_path_or_nothing(fields: dict[str, str]) -> None:
    changes, complaints = said(**fields)
    if changes.get("REMOTE_ADDR"):
        ip_address(changes["REMOTE_ADDR"])
    for port in ("REMOTE_PORT", "SERVER_PORT"):
        assert 0 <= int(changes.get(port, 0)) < 65536
    assert changes.get("wsgi.url_scheme", "http") in {"http", "https"}
    assert re.fullmatch(r"[!-~]*", changes.get("HTTP_HOST", ""))
    assert re.fullmatch(r"(/[^/\x00-\x1f\x7f]+)*", changes.get("SCRIPT_NAME", ""))
    assert all(complaint.isascii() and complaint.isprintable() for complaint in complaints)


@settings(max_examples=200, deadline=None, database=None)
@given(made_up=texts, kind=st.sampled_from(["forwarded", "x_forwarded_for"]), through=st.booleans())
def test_no_beginning_changes_what_proxies_have_added(made_up: str, kind: str, through: bool) -> None:
    form = "for={}" if kind == "forwarded" else "{}"
    added = [form.format("1.2.3.4")] + [form.format("10.0.0.1")] * through
    assert said(**{kind: ", ".join([made_up, *added])}) == (addr("1.2.3.4"), [])


# --- The short cut --------------------------------------------------------------------------------

NUMBERS = st.sampled_from(["0", "1", "10", "25", "99", "100", "199", "249", "255"])
ODD_NUMBERS = NUMBERS | st.sampled_from(["", "00", "01", "256", "260", "300", "1000", "\u0661", "a", "-1"])
ADDRESSES = st.one_of(
    st.lists(NUMBERS, min_size=4, max_size=4).map(".".join),
    st.lists(ODD_NUMBERS, min_size=3, max_size=5).map(".".join),
    st.ip_addresses().map(str),
    st.ip_addresses(v=6).map(lambda address: address.exploded.upper()),
    st.sampled_from(
        [
            "10.0.0.1",
            "10.2.3.4",
            "::ffff:1.2.3.4",
            "[2001:db8::1]",
            "fe80::1%eth0",
            "1.2.3.4:80",
            "1234567:1",
            "_a:b",
            "unknown",
            "1.2.3.4\n",
            " 1.2.3.4",
            "1.2.3.4 ",
            "::",
            ":",
            "1.2.3.4%a",
            "fe80::1%",
            "[::1]:80",
            "",
            "\xb2",
        ]
    ),
)
CHAINS = st.builds(str.join, st.sampled_from([",", ", ", ",  ", " , ", ",,", "\t"]), st.lists(ADDRESSES, max_size=3))


@settings(max_examples=1000, deadline=None)
@given(
    st.fixed_dictionaries(
        {},
        optional={
            "HTTP_HOST": st.sampled_from(["a", "a:81", "", "[::1]", "[::1]:80", "a:"]),
            "HTTP_X_FORWARDED_FOR": CHAINS,
            "HTTP_X_FORWARDED_PROTO": st.sampled_from(["http", "https", "HTTPS", "ws", "https, http", " https", ""]),
            "HTTP_X_FORWARDED_HOST": st.sampled_from(["b", ""]),
            "HTTP_FORWARDED": st.just("for=1.1.1.1"),
        },
    ),
    st.sampled_from(["for", "proto", "for,proto", "for,host", "for,proto,host,port,prefix"]),
    st.sampled_from(["", "10.0.0.0/8", "10.0.0.0/8,2000::/3", "*"]),
    st.sampled_from(["http", "https"]),
)
@example({"HTTP_X_FORWARDED_FOR": "1.2.3.4, 10.0.0.1"}, "for", "10.0.0.0/8", "http")
def test_the_short_cut_says_what_the_parser_says(
    fields: dict[str, str], believed: str, peers: str, scheme: str
) -> None:
    trust = Trust([peers], believed)
    told = read_plain(fields, trust, scheme)
    assert told is None or told == read(fields, trust, scheme)


@pytest.mark.parametrize("proto", [{}, {"HTTP_X_FORWARDED_PROTO": "http"}, {"HTTP_X_FORWARDED_PROTO": "https"}])
@pytest.mark.parametrize(
    ("chain", "client"),
    [
        ("1.2.3.4", "1.2.3.4"),
        ("10.0.0.1", "10.0.0.1"),
        ("1.2.3.4, 10.0.0.1", "1.2.3.4"),
        ("1.2.3.4,10.0.0.1", "1.2.3.4"),
        ("1.2.3.4, 5.6.7.8", "5.6.7.8"),
        ("2001:DB8:0::1", "2001:db8::1"),
    ],
)
def test_the_usual_form_takes_the_short_cut(chain: str, client: str, proto: dict[str, str]) -> None:
    told = read_plain({"HTTP_HOST": "a", "HTTP_X_FORWARDED_FOR": chain, **proto}, Trust(["10.0.0.0/8"]), "http")
    assert told is not None
    assert told.environ["REMOTE_ADDR"] == client
    assert told.environ.get("wsgi.url_scheme") == proto.get("HTTP_X_FORWARDED_PROTO")


@settings(deadline=None, database=None)
@given(st.lists(st.sampled_from(["\\\\", '\\"', "\\a", "\\\t", "a", "b;,= "])))
def test_a_quoted_string_is_its_text_without_the_escapes(pieces: list[str]) -> None:
    text = "".join(piece[1:] if piece[0] == "\\" else piece for piece in pieces)
    assert forwarded._unquote(f'"{"".join(pieces)}"') == text


def test_a_value_full_of_escapes_does_not_take_long() -> None:
    """Any client can send it through a proxy, and with gevent nothing else runs meanwhile."""
    value = '"' + '\\"' * 29_000 + '"'

    def best(unquote: Callable[[str], str]) -> float:
        times = []
        for _ in range(5):
            began = time.process_time()
            unquote(value)
            times.append(time.process_time() - began)
        return min(times)

    assert best(forwarded._unquote) < best(lambda text: re.sub(r"\\(.)", r"\1", text[1:-1])) / 1.5
