"""Raw requests, and what each of them is: the one table that every lane and every way to cut is held against.

A case is what a client sends, and what the server makes of it: the requests that are read, and then either a refusal,
or bytes that are left over because the next request is not complete. `test_codec` runs it through every lane, whole,
cut at every byte, and between other requests. The rule of RULES.md that a case stands for is in its name.
"""

from __future__ import annotations

from typing import NamedTuple


class Seen(NamedTuple):
    """One request as an application may see it."""

    method: str = "GET"
    target: str = "/"
    fields: tuple[bytes, ...] = (b"host: a",)
    body: bytes = b""
    version: str = "HTTP/1.1"
    keep_alive: bool = True


class Case(NamedTuple):
    name: str
    raw: bytes
    requests: tuple[Seen, ...] = ()
    status: int | None = None  # the refusal that ends it
    left: bytes = b""  # what waits for more


def head(line: str | bytes, *fields: str | bytes) -> bytes:
    """A whole head; text is sent as UTF-8."""
    lines = [part.encode() if isinstance(part, str) else part for part in (line, *fields)]
    return b"\r\n".join([*lines, b"", b""])


def get(*fields: str | bytes) -> bytes:
    return head("GET / HTTP/1.1", "Host: a", *fields)


def post(*fields: str | bytes) -> bytes:
    return head("POST / HTTP/1.1", "Host: a", *fields)


def chunked(body: bytes) -> bytes:
    return post("Transfer-Encoding: chunked") + body


GOOD = head("GET /good HTTP/1.1", "Host: good")
SEEN_GOOD = Seen(target="/good", fields=(b"host: good",))
CHUNKED = Seen("POST", fields=(b"host: a", b"transfer-encoding: chunked"))
EVIL = head("GET /evil HTTP/1.1", "Host: evil")


def _posted(length: str, body: bytes) -> Seen:
    return Seen("POST", fields=(b"host: a", b"content-length: " + length.encode()), body=body)


PLAIN = [
    Case("the smallest request", get(), (Seen(),)),
    Case("two requests in one packet", get() + GOOD, (Seen(), SEEN_GOOD)),
    Case("a body of a declared length", post("Content-Length: 3") + b"abc", (_posted("3", b"abc"),)),
    Case("a body, then a request", post("Content-Length: 3") + b"abc" + GOOD, (_posted("3", b"abc"), SEEN_GOOD)),
    Case("a body that looks like a request", post(f"Content-Length: {len(EVIL)}") + EVIL,
         (_posted(str(len(EVIL)), EVIL),)),
    Case("an empty body", post("Content-Length: 0"), (_posted("0", b""),)),
    Case("a body of a GET", get("Content-Length: 2") + b"ab",
         (Seen(fields=(b"host: a", b"content-length: 2"), body=b"ab"),)),
    Case("a chunked body", chunked(b"3\r\nabc\r\nA;x=y\r\n0123456789\r\n0\r\n\r\n"),
         (CHUNKED._replace(body=b"abc0123456789"),)),
    Case("a chunked body, then a request", chunked(b"1\r\na\r\n0\r\n\r\n") + GOOD,
         (CHUNKED._replace(body=b"a"), SEEN_GOOD)),
    Case("an empty chunked body", chunked(b"0\r\n\r\n"), (CHUNKED,)),
    Case("chunk sizes of both cases, with zeros before", chunked(b"0a\r\n0123456789\r\n000F\r\n" + b"x" * 15 +
         b"\r\n000\r\n\r\n"), (CHUNKED._replace(body=b"0123456789" + b"x" * 15),)),
    Case("line ends within the data of a chunk", chunked(b"7\r\n\r\n0\r\n\r\n\r\n0\r\n\r\n"),
         (CHUNKED._replace(body=b"\r\n0\r\n\r\n"),)),
    Case("Chunked in capitals", post("Transfer-Encoding: Chunked") + b"0\r\n\r\n",
         (CHUNKED._replace(fields=(b"host: a", b"transfer-encoding: chunked")),)),
    Case("a field without a value", get("X:"), (Seen(fields=(b"host: a", b"x: ")),)),
    Case("white space around a value", get("X: \t a b \t "), (Seen(fields=(b"host: a", b"x: a b")),)),
    Case("no white space before a value", get("X:a"), (Seen(fields=(b"host: a", b"x: a")),)),
    Case("repeated fields", get("X: 1", "X: 2"), (Seen(fields=(b"host: a", b"x: 1", b"x: 2")),)),
    Case("every character of a token", head("G!#$%&'*+-.^`|~9 / HTTP/1.1", "Host: a", "!#$%&'*+-.^`|~9: 1"),
         (Seen("G!#$%&'*+-.^`|~9", fields=(b"host: a", b"!#$%&'*+-.^`|~9: 1")),)),
    Case("a method of 32 characters", head("M" * 32 + " / HTTP/1.1", "Host: a"), (Seen("M" * 32),)),
    Case("Connection: close", get("Connection: close"),
         (Seen(fields=(b"host: a", b"connection: close"), keep_alive=False),)),
    Case("Connection: close among others", get("Connection: te , Close"),
         (Seen(fields=(b"host: a", b"connection: te , Close"), keep_alive=False),)),
    Case("Connection: close in a field of its own", get("Connection: keep-alive", "Connection: close"),
         (Seen(fields=(b"host: a", b"connection: keep-alive", b"connection: close"), keep_alive=False),)),
    Case("HTTP/1.0 has no Host and ends", head("GET / HTTP/1.0"),
         (Seen(fields=(), version="HTTP/1.0", keep_alive=False),)),
    Case("HTTP/1.0 with keep-alive stays", head("GET / HTTP/1.0", "Connection: Keep-Alive"),
         (Seen(fields=(b"connection: Keep-Alive",), version="HTTP/1.0"),)),
    Case("HTTP/1.0 with both ends", head("GET / HTTP/1.0", "Connection: keep-alive", "Connection: close"),
         (Seen(fields=(b"connection: keep-alive", b"connection: close"), version="HTTP/1.0", keep_alive=False),)),
    Case("HTTP/1.0 with both ends, the other way round", head("GET / HTTP/1.0", "Connection: close",
         "Connection: keep-alive"),
         (Seen(fields=(b"connection: close", b"connection: keep-alive"), version="HTTP/1.0", keep_alive=False),)),
    Case("R12: a later HTTP/1", head("GET / HTTP/1.2", "Host: a"), (Seen(version="HTTP/1.2"),)),
    Case("an empty line before a request", b"\r\n" + get(), (Seen(),)),
    Case("empty lines before and between requests", b"\r\n\r\n" + get() + b"\r\n\r\n" + GOOD, (Seen(), SEEN_GOOD)),
    Case("R17: Upgrade is no upgrade", get("Upgrade: x", "Connection: upgrade", "Content-Length: 3") + b"abc" + GOOD,
         (Seen(fields=(b"host: a", b"upgrade: x", b"connection: upgrade", b"content-length: 3"), body=b"abc"),
          SEEN_GOOD)),
    Case("R17: nor with a chunked body", post("Upgrade: h2c", "Transfer-Encoding: chunked") + b"1\r\na\r\n0\r\n\r\n" +
         GOOD, (Seen("POST", fields=(b"host: a", b"upgrade: h2c", b"transfer-encoding: chunked"), body=b"a"),
                SEEN_GOOD)),
    Case("R18: a name with an underscore is dropped",
         get("Content_Length: 9", "X_Forwarded_For: evil", "_: 1", "X-Y: 1"),
         (Seen(fields=(b"host: a", b"x-y: 1")),)),
    Case("R18: beside the real one", post("Content-Length: 1", "Content_Length: 9") + b"a", (_posted("1", b"a"),)),
    Case("R18: it is no Host", head("GET / HTTP/1.0", "Ho_st: a"),
         (Seen(fields=(), version="HTTP/1.0", keep_alive=False),)),
    Case("Proxy is dropped", get("Proxy: http://evil/"), (Seen(),)),
    Case("R21: 127 times one name", get(*["X: 1"] * 127), (Seen(fields=(b"host: a", *[b"x: 1"] * 127)),)),
    Case("Expect: 100-continue said twice", get("Expect: 100-continue", "Expect: 100-continue"),
         (Seen(fields=(b"host: a", b"expect: 100-continue", b"expect: 100-continue")),)),
    Case("Expect: 100-continue in any case", post("Expect: 100-Continue", "Content-Length: 1") + b"a",
         (Seen("POST", fields=(b"host: a", b"expect: 100-Continue", b"content-length: 1"), body=b"a"),)),
]  # fmt: skip

LENGTHS = [
    *(
        Case(f"R1: Content-Length {value!r}", post(b"Content-Length: " + value) + b"0", status=400)
        for value in [
            b"+1", b"-1", b"-0", b"0_1", b"1 2", b"0x1", b"", "٣".encode(), b"\xb2", b"1.0", b"1e0", b"1;", b"1,",
            b",1", b"1,2", b"1, 2", b"\xa01", b"1\xa0", b"\x851", b"a", b"9" * 20, b"9" * 5000,
        ]
    ),
    Case("R1: two lengths", post("Content-Length: 1", "Content-Length: 2") + b"ab", status=400),
    Case("R1: two lengths that only int() calls equal", post("Content-Length: 1", "Content-Length: 01") + b"a",
         status=400),
    Case("R1: one length said twice", post("Content-Length: 1", "Content-Length: 1") + b"a", (_posted("1", b"a"),)),
    Case("R1: one length said twice in one field", post("Content-Length: 1, 1") + b"a", (_posted("1", b"a"),)),
    Case("R1: zeros before", post("Content-Length: " + "1".zfill(19)) + b"a", (_posted("1".zfill(19), b"a"),)),
]  # fmt: skip

CODINGS = [
    *(
        Case(f"R2: Transfer-Encoding {value!r}", post("Transfer-Encoding: " + value) + b"0\r\n\r\n", status=501)
        for value in [
            "identity", "gzip", "gzip, chunked", "chunked, identity", "chunked, chunked", "xchunked", "chunkedx", "",
            "chunked;q=1", "chunked,", ",chunked", "\u00a0chunked", '"chunked"', "chunked\u0085",
        ]
    ),
    *(
        Case(f"R2: two fields {values}", post(*(f"Transfer-Encoding: {value}" for value in values)) + b"0\r\n\r\n",
             status=501)
        for values in [("chunked", "chunked"), ("gzip", "chunked"), ("chunked", "identity")]
    ),
    *(
        Case(f"R2, R7: Transfer-Encoding {value!r}", post(b"Transfer-Encoding: " + value) + b"0\r\n\r\n", status=400)
        for value in [b"\x0bchunked", b"\x1fchunked", b"chunked\x00", b"\x0cchunked", b"\r\n chunked", b"chu\rnked"]
    ),
    Case("R2: no falling back to the length", post("Content-Length: 1", "Transfer-Encoding: gzip") + b"a", status=501),
    Case("R3: both", post("Content-Length: 5", "Transfer-Encoding: chunked") + b"0\r\n\r\n" + EVIL, status=400),
    Case("R3: both the other way round", post("Transfer-Encoding: chunked", "Content-Length: 5") + b"0\r\n\r\n",
         status=400),
    Case("R3: a coding in HTTP/1.0", head("POST / HTTP/1.0", "Host: a", "Transfer-Encoding: chunked") + b"0\r\n\r\n",
         status=400),
]  # fmt: skip

CHUNKS = [
    *(
        Case(f"R4: chunk size {size!r}", chunked(size + b"\r\nabcde\r\n0\r\n\r\n"), (CHUNKED,), 400)
        for size in [
            b"0x5", b"+5", b"-5", b"5_0", b" 5", b"5 ", b"", b"g", b"5,", b"5\x00", b"\xb2", "٣".encode(), b"0" * 17,
            b"f" * 17, b"f" * 16, b"8" + b"0" * 15, b"5 ;a", b"5\t;a",
        ]
    ),
    Case("R4: XX behind the data", chunked(b"3\r\nabcXX0\r\n\r\n"), (CHUNKED._replace(body=b"abc"),), 400),
    Case("R4: XX behind the data, at the end", chunked(b"3\r\nabcXX"), (CHUNKED._replace(body=b"abc"),), 400),
    Case("R4: more data than the chunk has", chunked(b"3\r\nabcd\r\n0\r\n\r\n"), (CHUNKED._replace(body=b"abc"),), 400),
    Case("R4: LF behind the size", chunked(b"3\nabc\r\n0\r\n\r\n"), (CHUNKED,), 400),
    Case("R4: LF behind the data", chunked(b"3\r\nabc\n0\r\n\r\n"), (CHUNKED._replace(body=b"abc"),), 400),
    Case("R4: CR alone behind the size", chunked(b"3\rabc\r\n0\r\n\r\n"), (CHUNKED,), 400),
    Case("R4: no size", chunked(b"\r\n\r\n"), (CHUNKED,), 400),
    Case("R4: a size line without an end", chunked(b"0" * 5000), (CHUNKED,), 400),
    Case("R5: CR in an extension", chunked(b"3;a\rb\r\nabc\r\n0\r\n\r\n"), (CHUNKED,), 400),
    Case("R5: LF in an extension", chunked(b"3;a\nb\r\nabc\r\n0\r\n\r\n"), (CHUNKED,), 400),
    Case("R5: a control character in an extension", chunked(b"3;a\x01\r\nabc\r\n0\r\n\r\n"), (CHUNKED,), 400),
    Case("R5: an extension of 4000 bytes", chunked(b"3;" + b"a" * 4000 + b"\r\nabc\r\n0\r\n\r\n"),
         (CHUNKED._replace(body=b"abc"),)),
    Case("R5: an extension of 5000 bytes", chunked(b"3;" + b"a" * 5000 + b"\r\nabc\r\n0\r\n\r\n"), (CHUNKED,), 400),
    Case("R5: extensions of 20000 bytes in total", chunked((b"1;" + b"a" * 2000 + b"\r\nx\r\n") * 10 + b"0\r\n\r\n"),
         (CHUNKED._replace(body=b"x" * 8),), 400),
    Case("R6: trailers are read and forgotten", chunked(b"1\r\na\r\n0\r\nX: 1\r\nHost: evil\r\nA:\r\n\r\n") + GOOD,
         (CHUNKED._replace(body=b"a"), SEEN_GOOD)),
    *(
        Case(f"R6: trailer {trailer!r}", chunked(b"1\r\na\r\n0\r\n" + trailer + b"\r\n\r\n" + EVIL),
             (CHUNKED._replace(body=b"a"),), 400)
        for trailer in [
            b"GET /x HTTP/1.1", b"X: 1\n\nGET /evil HTTP/1.1", b"X: 1\r\n folded", b"X : 1", b": 1", b"X: \x00",
            b" X: 1", b"X: a\rb", b"\n", b"Content-Length: x", b"X:" + b"a" * 5000,
        ]
    ),
    Case("R6: 6000 trailers", chunked(b"0\r\n" + b"a:\r\n" * 6000 + b"\r\n"), (CHUNKED,), 431),
]  # fmt: skip

FIELDS = [
    *(
        Case(f"R7: control character {value} in a value", get(b"X: a" + bytes([value]) + b"b"), status=400)
        for value in [*range(9), *range(10, 32), 127]
    ),
    *(
        Case(f"R7: {value!r} is not white space", get(b"X: " + value + b"a" + value),
             (Seen(fields=(b"host: a", b"x: " + value + b"a" + value)),))
        for value in [b"\x85", b"\xa0", b"\xff", "\u2003".encode(), "\u2028".encode()]
    ),
    *(
        Case(f"R8: field line {line!r}", get(line), status=400)
        for line in [
            b"X : a", b"X\t: a", b": a", b":", b"GET", b"GET /evil HTTP/1.1", b"X Y: a", b"X\xe9: a", b"(X): a",
            b"X: a\r\n folded", b"X: a\r\n\tfolded", b"X@: a", b'"X": a', b"X/Y: a", b"X\x00: a", b" X: a",
        ]
    ),
    Case("R8: a first line that is folded", head("GET / HTTP/1.1", " Host: a"), status=400),
    Case("R9: LF ends the request line", b"GET / HTTP/1.1\nHost: a\r\n\r\n", status=400),
    Case("R9: LF ends a field", b"GET / HTTP/1.1\r\nHost: a\nX: 1\r\n\r\n", status=400),
    Case("R9: LF ends the head", b"GET / HTTP/1.1\r\nHost: a\r\n\n", status=400),
    Case("R9: LF LF ends the head", b"GET / HTTP/1.1\r\nHost: a\n\n" + EVIL, status=400),
    Case("R9: LF before a request", b"\n" + get(), status=400),
    Case("R9: CR alone", b"GET / HTTP/1.1\rHost: a\r\n\r\n", status=400),
    Case("R9: CR CR LF", b"GET / HTTP/1.1\r\r\nHost: a\r\n\r\n", status=400),
    Case("R9: CR before a request", b"\r" + get(), status=400),
    Case("R26: 128 fields", get(*(f"X{number}: 1" for number in range(127))),
         (Seen(fields=(b"host: a", *(b"x%d: 1" % number for number in range(127)))),)),
    Case("R26: 129 fields", get(*["X: 1"] * 128), status=431),
    Case("R26: 1200 fields", get(*["X: 1"] * 1199), status=431),
    Case("an expectation that we do not know", post("Expect: 200-ok", "Content-Length: 1") + b"a", status=417),
]  # fmt: skip

HOSTS = [
    *(
        Case(f"R10: Host {host}", head("GET / HTTP/1.1", f"Host: {host}"), (Seen(fields=(f"host: {host}".encode(),)),))
        for host in ["", "a", "a:80", "a:", "1.2.3.4:5", "[::1]", "[::1]:80", "a-b.c", "a_b", "a%20b", "%61", "XN--A"]
    ),
    Case(
        "R10: empty in HTTP/1.0",
        head("GET / HTTP/1.0", "Host:"),
        (Seen(version="HTTP/1.0", fields=(b"host: ",), keep_alive=False),),
    ),
    Case("R10: no Host", head("GET / HTTP/1.1", "X: a"), status=400),
    Case("R10: two, one empty", head("GET / HTTP/1.1", "Host:", "Host: a"), status=400),
    Case("R10: an absolute target without a host", head("GET http:///x HTTP/1.1", "Host:"), status=400),
    Case("R10: an absolute target, empty Host", head("GET http://a/x HTTP/1.1", "Host:"), (Seen(target="http://a/x"),)),
    Case("R10: two", head("GET / HTTP/1.1", "Host: a", "Host: b"), status=400),
    Case("R10: two that are equal", head("GET / HTTP/1.1", "Host: a", "Host: a"), status=400),
    Case("R10: two in HTTP/1.0", head("GET / HTTP/1.0", "Host: a", "Host: a"), status=400),
    *(
        Case(f"R10: Host {host!r}, {version}", head(f"GET / HTTP/{version}", f"Host: {host}"), status=400)
        for version in ["1.1", "1.0"]
        for host in [
            "a/b?x@y", "a b", "a@b", "a:b", "a:80:80", "[::1", "::1", "[g]", ":80", "a#", "a?", "a\\b", "\u00e9",
            "%", "a%2", "a%zz", "a\u00a0", "<a>", '"a"', "a:٣",
        ]
    ),
]  # fmt: skip

TARGETS = [
    *(
        Case(f"R11: target {target}", head(f"GET {target} HTTP/1.1", "Host: a"), (Seen(target=target),))
        for target in ["/a/b?c=d&e", "//a", "/?", "/a%20b%", "/a:b@c", "/*", "/[x]|^`{}\"<>\\", "/../..", "/http://a/"]
    ),
    *(
        Case(f"R11: absolute target {target}", head(f"GET {target} HTTP/1.1", "Host: a"),
             (Seen(target=target, fields=(b"host: " + host,)),))
        for target, host in [
            ("http://b/c?d", b"b"), ("http://b", b"b"), ("HTTPS://b:1/", b"b:1"), ("http://b?c", b"b"),
            ("http://[::1]/", b"[::1]"),
        ]
    ),
    Case("R11: OPTIONS *", head("OPTIONS * HTTP/1.1", "Host: a"), (Seen("OPTIONS", "*"),)),
    *(
        Case(f"R11: {line!r}", head(line, "Host: a"), status=400)
        for line in [
            "GET foo HTTP/1.1", "GET * HTTP/1.1", "OPTIONS ** HTTP/1.1", "GET a:443 HTTP/1.1", "GET # HTTP/1.1",
            "GET /a#b HTTP/1.1", "GET ?a HTTP/1.1", "GET http:// HTTP/1.1", "GET http:///a HTTP/1.1",
            "GET http://a@b/ HTTP/1.1", "GET http://a b/ HTTP/1.1", "GET http://a/#b HTTP/1.1", "GET ftp://a/ HTTP/1.1",
            "GET http:/a HTTP/1.1", "GET javascript:x HTTP/1.1", "GET /\u00e9 HTTP/1.1", "GET /\x7f HTTP/1.1",
            "GET /\x00 HTTP/1.1", "GET  HTTP/1.1", "GET", "GET ", "GET / ", "GET  / HTTP/1.1", "GET / HTTP/1.1 ",
            "GET\t/\tHTTP/1.1", " GET / HTTP/1.1", "GET /a b HTTP/1.1", "G(T / HTTP/1.1", "G\u00c9T / HTTP/1.1",
            "/ HTTP/1.1", "GET http://a%/ HTTP/1.1",
        ]
    ),
    *(
        Case(f"R17: CONNECT {target}", head(f"CONNECT {target} HTTP/1.1", "Host: a") + EVIL, status=400)
        for target in ["a:443", "/", "*", "http://a/"]
    ),
    Case("R11: an absolute target does not excuse its Host", head("GET http://b/ HTTP/1.1", "Host: a/b"), status=400),
    Case("R11: nor a missing one", head("GET http://b/ HTTP/1.1"), status=400),
    Case("a method of 33 characters", head("M" * 33 + " / HTTP/1.1", "Host: a"), status=400),
]  # fmt: skip

VERSIONS = [
    *(
        Case(f"R12: {line}", head(line, "Host: a"), status=505)
        for line in ["GET / HTTP/2.0", "GET / HTTP/0.9", "GET / HTTP/3.0", "GET / HTTP/9.9", "PRI * HTTP/2.0"]
    ),
    Case("R12: the preface of HTTP/2", head("PRI * HTTP/2.0") + b"SM\r\n\r\n", status=505),
    *(
        Case(f"R12: {version}", head(f"GET / {version}", "Host: a"), status=400)
        for version in [
            "HTTP/1.1x", "HTTP/1.10", "HTTP/11", "HTTP/1", "HTTP/1.", "HTTP/.1", "http/1.1", "HTTP/1.\U0001d7d9",
            "HTTP/1,1", "HTTP/+1.1", "HTTPS/1.1", "", "HTTP/1.1\u0085",
        ]
    ),
    Case("R12: HTTP/0.9", b"GET /\r\n", status=400),
]  # fmt: skip

EARLY = [  # no head is complete here: what can never become a request is not waited for
    Case("a client that speaks TLS", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", status=400),
    Case("a client that speaks SSH", b"SSH-2.0-OpenSSH_9.6\r\n", status=400),
    Case("R26: a method without an end", b"A" * 100, status=400),
    Case("a method that is none", b"{", status=400),
    Case("a request line that is none", b"GET / FTP/1.1\r\nHost: a", status=400),
    Case("a control character", b"GET / HTTP/1.1\r\nHost: a\x00", status=400),
    Case("LF alone", b"GET / HTTP/1.1\n", status=400),
    Case("a line that is folded", b"GET / HTTP/1.1\r\nX: a\r\n ", status=400),
]

PARTS = [  # what is fine so far
    Case("nothing", b""),
    Case("an empty line", b"\r\n"),
    Case("half of an empty line", b"\r", left=b"\r"),
    Case("half of a method", b"GE", left=b"GE"),
    Case("half of a target", b"GET /a", left=b"GET /a"),
    Case("half of a version", b"GET / HTT", left=b"GET / HTT"),
    Case("half of a line end", b"GET / HTTP/1.1\r", left=b"GET / HTTP/1.1\r"),
    Case("a head without its end", get()[:-1], left=get()[:-1]),
    Case("a request, and half of another", get() + b"GET /", (Seen(),), left=b"GET /"),
]

TABLE = [*PLAIN, *LENGTHS, *CODINGS, *CHUNKS, *FIELDS, *HOSTS, *TARGETS, *VERSIONS, *EARLY, *PARTS]
