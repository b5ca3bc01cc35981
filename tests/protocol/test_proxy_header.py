"""The PROXY protocol: its bytes, and connections that begin with it."""

from __future__ import annotations

import socket
import struct
import sys
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from zibai import create_bind_socket
from zibai.config.addresses import Trust
from zibai.engine.states import HEAD, PROXY
from zibai.protocol.proxy_header import SIGNATURE, Header, Malformed, parse

from rig import ANSWER, GET, Rig, ended, read
from serving import serving
from support import Client

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

posix = pytest.mark.skipif(sys.platform == "win32", reason="there are no unix sockets")


def v2(command: int, family: int, block: bytes, length: int | None = None) -> bytes:
    return SIGNATURE + struct.pack("!BBH", command, family, len(block) if length is None else length) + block


def ends(family: int, source: str, sport: int, destination: str, dport: int) -> bytes:
    return b"".join(socket.inet_pton(family, each) for each in (source, destination)) + struct.pack("!HH", sport, dport)


V4 = ends(socket.AF_INET, "1.2.3.4", 567, "5.6.7.8", 80)
V6 = ends(socket.AF_INET6, "2001:db8::1", 567, "2001:db8::2", 443)
SPOKEN: list[tuple[bytes, Any, Any]] = [
    (b"PROXY TCP4 1.2.3.4 5.6.7.8 567 80\r\n", ("1.2.3.4", 567), ("5.6.7.8", 80)),
    (
        b"PROXY TCP4 255.255.255.255 255.255.255.255 65535 65535\r\n",
        ("255.255.255.255", 65535),
        ("255.255.255.255", 65535),
    ),
    (b"PROXY TCP6 2001:DB8::1 2001:db8:0:0:0:0:0:2 567 443\r\n", ("2001:db8::1", 567), ("2001:db8::2", 443)),
    (b"PROXY TCP6 ::ffff:1.2.3.4 ::1 0 1\r\n", ("1.2.3.4", 0), ("::1", 1)),
    (b"PROXY UNKNOWN\r\n", None, None),
    (b"PROXY UNKNOWN " + b"f" * 91 + b"\r\n", None, None),
    (b"PROXY UNKNOWN ffff:f...f:ffff ffff:f...f:ffff 65535 65535\r\n", None, None),
    (v2(0x21, 0x11, V4), ("1.2.3.4", 567), ("5.6.7.8", 80)),
    (v2(0x21, 0x12, V4), ("1.2.3.4", 567), ("5.6.7.8", 80)),
    (v2(0x21, 0x21, V6), ("2001:db8::1", 567), ("2001:db8::2", 443)),
    (v2(0x21, 0x11, V4 + b"\x03\x00\x04abcd\x20\x00\x00"), ("1.2.3.4", 567), ("5.6.7.8", 80)),
    (v2(0x21, 0x11, V4 + bytes(65535 - len(V4))), ("1.2.3.4", 567), ("5.6.7.8", 80)),
    (v2(0x21, 0x31, bytes(216)), "", ""),
    (v2(0x21, 0x00, b""), None, None),
    (v2(0x21, 0x00, b"whatever"), None, None),
    (v2(0x20, 0x00, b""), None, None),
    (v2(0x20, 0x11, V4), None, None),
    (v2(0x20, 0x11, b""), None, None),
]
MALFORMED = [
    b"GET / HTTP/1.1\r\n",
    b"POST / HTTP/1.1\r\n",
    b"\x16\x03\x01",  # TLS
    b"proxy TCP4",
    b"PROXYTCP4",
    b"PROXY\r\n",
    b"PROXY \r\n",
    b"PROXY TCP4 1.2.3.4 5.6.7.8 567 80\n",
    b"PROXY TCP4 1.2.3.4 5.6.7.8 567\r\n",
    b"PROXY TCP4 1.2.3.4 5.6.7.8 567 80 \r\n",
    b"PROXY TCP4  1.2.3.4 5.6.7.8 567 80\r\n",
    b"PROXY TCP4 1.2.3.4 5.6.7.8 567 65536\r\n",
    b"PROXY TCP4 1.2.3.4 5.6.7.8 0567 80\r\n",
    b"PROXY TCP4 1.2.3.4 5.6.7.8 +567 80\r\n",
    b"PROXY TCP4 1.2.3.456 5.6.7.8 567 80\r\n",
    b"PROXY TCP4 ::1 ::1 567 80\r\n",
    b"PROXY TCP6 1.2.3.4 5.6.7.8 567 80\r\n",
    b"PROXY TCP6 fe80::1%eth0 ::1 567 80\r\n",
    b"PROXY TCP5 1.2.3.4 5.6.7.8 567 80\r\n",
    b"PROXY UDP4 1.2.3.4 5.6.7.8 567 80\r\n",
    b"PROXY UNKNOWN\x1b[31m\r\n",
    b"PROXY UNKNOWN" + b" " * 100,
    b"\r\n\r\nGET",
    b"\r\n\r\n\0\r\nQUIX\n",
    v2(0x11, 0x11, V4),
    v2(0x22, 0x11, V4),
    v2(0x2F, 0x11, V4),
    v2(0x21, 0x41, V4),
    v2(0x21, 0x13, V4),
    v2(0x21, 0x11, V4[:-1]),
    v2(0x21, 0x21, V4),
    v2(0x21, 0x31, bytes(215)),
]


@pytest.mark.parametrize(("data", "source", "destination"), SPOKEN)
def test_headers(data: bytes, source: Any, destination: Any) -> None:
    assert parse(data) == parse(data + b"GET /") == Header(len(data), source, destination)
    for size in {*range(min(len(data), 300)), len(data) - 1}:
        assert parse(data[:size]) is None, size


@pytest.mark.parametrize("data", MALFORMED)
def test_what_is_malformed_is_found_in_whatever_pieces(data: bytes) -> None:
    with pytest.raises(Malformed):
        parse(data)
    for size in range(len(data)):
        try:
            assert parse(data[:size]) is None
        except Malformed:
            break


@settings(max_examples=300, deadline=None, database=None)
@given(
    data=st.binary(max_size=300)
    | st.binary(max_size=120).map(b"PROXY ".__add__)
    | st.binary(max_size=260).map(SIGNATURE.__add__)
)
def test_whatever_comes_is_a_header_or_none(data: bytes) -> None:
    sizes = []
    for size in range(len(data) + 1):
        try:
            header = parse(data[:size])
        except Malformed:
            break
        if header is not None:
            assert header.size <= size
            sizes.append(header.size)
    assert len(set(sizes)) <= 1, "more bytes do not change a header"


# --- Connections ----------------------------------------------------------------------------------


def rig(patch: pytest.MonkeyPatch, **limits: Any) -> Rig:
    return Rig(patch, **{"proxy_protocol": True, "trust": Trust(["127.0.0.1,unix"]), **limits})


@pytest.mark.parametrize(("data", "source", "destination"), SPOKEN)
def test_a_connection_takes_its_header_and_not_a_byte_more(
    monkeypatch: pytest.MonkeyPatch, data: bytes, source: Any, destination: Any
) -> None:
    with rig(monkeypatch) as served:
        client, connection = served.connect()
        peer, endpoint = connection.peer, connection.endpoint
        assert connection.state is PROXY
        client.sendall(data + GET)
        served.until(lambda: connection.state is not PROXY)
        connection = served.current(connection)
        assert connection.state is HEAD
        served.until(served.run)
        assert read(client) == ANSWER
        assert connection.peer == (peer if source is None else source)
        told = (endpoint.host, endpoint.port) if source is None else (*destination,) if destination else ("", "")
        assert (connection.endpoint.host, connection.endpoint.port) == tuple(map(str, told))
        client.sendall(GET)
        served.until(served.run)
        assert read(client) == ANSWER, "there is one header for all requests"


@pytest.mark.parametrize("data", [SPOKEN[0][0], SPOKEN[10][0]], ids=["v1", "v2"])
def test_a_header_may_come_byte_by_byte(monkeypatch: pytest.MonkeyPatch, data: bytes) -> None:
    with rig(monkeypatch) as served:
        client, connection = served.connect()
        for number in range(1, len(data)):
            client.sendall(data[number - 1 : number])
            served.until(lambda number=number: len(connection.header) == number)
            timeout = served.loop.timeout()
            assert timeout is None or timeout > 1, "an incomplete header does not keep the loop awake"
        client.sendall(data[-1:] + GET)
        served.until(served.run)
        assert read(client) == ANSWER
        assert served.current(connection).peer == ("1.2.3.4", 567)


@pytest.mark.parametrize("sent", [b"", b"PROXY TC"])
def test_a_header_has_its_time(monkeypatch: pytest.MonkeyPatch, sent: bytes) -> None:
    with rig(monkeypatch, header_timeout=10) as served:
        client, connection = served.connect()
        client.sendall(sent)
        served.until(lambda: len(connection.header) == len(sent))
        served.turn(9.8)
        assert served.connections
        served.turn(0.4)
        assert not served.connections
        assert ended(client) == b""


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]


@pytest.mark.parametrize("data", [GET, b"\x16\x03\x01\x00", MALFORMED[10]])
def test_without_a_header_there_is_no_connection_and_one_word_about_it(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, data: bytes
) -> None:
    with rig(monkeypatch) as served:
        for _ in range(3):
            client, _ = served.connect()
            client.sendall(data)
            served.until(lambda: not served.connections)
            assert ended(client) in (b"", b"<reset>")
        assert not served.served
    (said,) = warnings(caplog)
    assert "--proxy-protocol off" in said


def test_who_is_not_trusted_may_not_say_anything(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with rig(monkeypatch, trust=Trust(["10.0.0.0/8"])) as served:
        for _ in range(2):
            client = served.client()
            client.sendall(SPOKEN[0][0] + GET)
            served.until(lambda client=client: ended_now(client))
        assert not served.served
    (said,) = warnings(caplog)
    assert said.endswith("--trusted-proxies 10.0.0.0/8,127.0.0.1")


def ended_now(client: socket.socket) -> bool:
    client.setblocking(False)
    try:
        return not client.recv(1)
    except BlockingIOError:
        return False
    except ConnectionResetError:
        return True


UWSGI = b"\0\x28\0\0\x0c\0QUERY_STRING\0\0\x0e\0REQUEST_METHOD\x03\0GET"
"""As nginx sends it: a byte of zero, the size in two bytes, another zero, and the variables with their sizes."""


@pytest.mark.parametrize(
    ("data", "remedy"),
    [
        pytest.param(SPOKEN[0][0] + GET, "--proxy-protocol on", id="PROXY v1"),
        pytest.param(SPOKEN[7][0] + GET, "--proxy-protocol on", id="PROXY v2"),
        pytest.param(b"\x16\x03\x01\x02\0\x01\0\x01\xfc\x03\x03" + bytes(40), "--certfile", id="TLS"),
        pytest.param(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", "speak HTTP/1.1 to this server", id="HTTP/2"),
        pytest.param(UWSGI, "for uwsgi_pass", id="uwsgi"),
        pytest.param(b"\x01\x01\0\x01\0\x08\0\0\0\x01" + bytes(6), "for fastcgi_pass", id="FastCGI"),
        pytest.param(b"70:CONTENT_LENGTH\x000\0SCGI\x001\0", "for scgi_pass", id="SCGI"),
    ],
)
def test_a_protocol_that_nobody_expects_is_explained(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, data: bytes, remedy: str
) -> None:
    with rig(monkeypatch, proxy_protocol=False) as served:
        for _ in range(2):
            client, _ = served.connect()
            client.sendall(data)
            served.until(lambda: any(connection.sender.closing for connection in served.connections))
            assert read(client, 12) in (b"HTTP/1.1 400", b"HTTP/1.1 505")
            client.close()
            served.until(lambda: not served.connections)
        assert not served.served
    (said,) = warnings(caplog)
    assert said.startswith("a connection of ")
    assert said.endswith(remedy)


@pytest.mark.parametrize("data", [b"\0" * 40, b"\x01\x02", b"70:x", b"PROXYING / HTTP/1.1\r\n\r\n", b"PRI /\r\n\r\n"])
def test_other_bytes_are_no_protocol(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, data: bytes
) -> None:
    with rig(monkeypatch, proxy_protocol=False) as served:
        client, _ = served.connect()
        client.sendall(data + b"\n\r\n")
        served.until(lambda: any(connection.sender.closing for connection in served.connections))
        assert read(client, 12) == b"HTTP/1.1 400"
    assert not warnings(caplog)


# --- From worker to worker ------------------------------------------------------------------------


def heirs(old: Rig, new: Rig) -> None:
    giving, taking = socket.socketpair()
    new.loop.adopt_from(as_raw(taking))
    old.loop.hand_over_to(as_raw(giving))


def as_raw(sock: socket.socket) -> Any:
    import _socket

    raw = _socket.socket(fileno=sock.detach())
    raw.setblocking(False)
    return raw


@posix
def test_who_the_client_is_goes_with_the_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    with rig(monkeypatch) as old, rig(monkeypatch) as new:
        served: list[tuple[socket.socket, Any, Any]] = []
        for data, source, destination in [SPOKEN[0], SPOKEN[2], SPOKEN[9], SPOKEN[12], SPOKEN[14]]:
            client, _ = old.connect()
            client.sendall(data + GET)
            old.until(old.run)
            assert read(client) == ANSWER
            near, far = client.getsockname(), client.getpeername()
            served.append((client, near if source is None else source, far if destination is None else destination))
        silent, _ = old.connect()
        heirs(old, new)
        old.loop.drain()
        old.until(lambda: old.loop.finished)
        new.until(lambda: len(new.connections) == 6)
        for client, source, destination in served:
            before = len(new.served)
            client.sendall(GET)
            new.until(lambda before=before: new.run() and len(new.served) > before)
            assert read(client) == ANSWER
            assert any(
                (c.peer, c.endpoint.host, c.endpoint.port) == (source, *map(str, destination or ("", "")))
                for c in new.connections
            ), source
        assert [connection.state for connection in new.connections].count(PROXY) == 1
        silent.sendall(SPOKEN[0][0] + GET)
        new.until(new.run)
        assert read(silent) == ANSWER, "one that had not sent a byte begins with its header there"


# --- As an application sees it --------------------------------------------------------------------


def telling(seen: list[dict[str, Any]]) -> Callable[..., list[bytes]]:
    def app(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        seen.append(environ)
        start_response("200 OK", [("Content-Type", "text/plain")])
        return [b"x"]

    return app


def ask(header: bytes, *fields: str, **options: Any) -> dict[str, Any]:
    seen: list[dict[str, Any]] = []
    with serving(telling(seen), valid=False, proxy_protocol="on", **options) as server, Client(server.port) as client:
        client.send(header)
        client.get("/", *fields)
    return seen[0]


def test_both_ends_are_what_the_header_says() -> None:
    environ = ask(SPOKEN[0][0])
    assert [environ[key] for key in ("REMOTE_ADDR", "REMOTE_PORT", "SERVER_NAME", "SERVER_PORT")] == [
        "1.2.3.4", "567", "5.6.7.8", "80",
    ]  # fmt: skip


@pytest.mark.parametrize(("trusted", "expected"), [("127.0.0.1", "1.2.3.4"), ("127.0.0.1,1.2.3.0/24", "9.9.9.9")])
def test_fields_are_believed_if_the_peer_that_the_header_names_is_trusted(trusted: str, expected: str) -> None:
    environ = ask(SPOKEN[0][0], "X-Forwarded-For: 9.9.9.9", trusted_proxies=[trusted])
    assert environ["REMOTE_ADDR"] == expected
    assert environ["HTTP_X_FORWARDED_FOR"] == "9.9.9.9"


@posix
def test_a_unix_socket_is_a_peer(tmp_path: Path) -> None:
    seen: list[dict[str, Any]] = []
    where = tmp_path / "s"
    listener = create_bind_socket(f"unix:{where}")
    with serving(telling(seen), valid=False, listener=listener, proxy_protocol="on") as _, Client(where) as client:
        client.send(SPOKEN[2][0])
        client.get()
    assert seen[0]["REMOTE_ADDR"] == "2001:db8::1"
