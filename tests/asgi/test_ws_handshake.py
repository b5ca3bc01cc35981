"""The handshake of WebSocket: what is refused, what the application decides, and what comes behind the head."""

from __future__ import annotations

import asyncio
import threading
from contextlib import suppress
from typing import Any

import pytest
from harness import asgi, errors, half_close, reset, respond, tracebacks

from zibai.protocol.http1 import Codec
from zibai.protocol.websocket import handshake as rules

from support import DEADLINE, Client, read_response
from wsclient import ACCEPT, FIN, PONG, TEXT, Hearing, Peer, accept, close, echo, frame, handshake, messages, text


def test_a_handshake_is_accepted() -> None:
    with asgi(echo) as server, Peer(server.port) as peer:
        headers = {name.lower(): value for name, value in peer.response.headers.items()}
        assert (peer.response.status, peer.response.reason) == (101, "Switching Protocols")
        assert headers == {
            "upgrade": "websocket",
            "connection": "Upgrade",
            "sec-websocket-accept": ACCEPT,
            "server": "zibai",
        }
        peer.send(text("hello"))
        assert peer.read() == (FIN | TEXT, b"hello")


@pytest.mark.parametrize(
    ("options", "status"),
    [
        ({"version": "8"}, 426),
        ({"version": "12"}, 426),
        ({"version": None}, 426),
        ({"version": "13, 8"}, 426),
        ({"key": None}, 400),
        ({"key": ""}, 400),
        ({"key": "dGhlIHNhbXBsZSBub25jZQ"}, 400),
        ({"key": "c2hvcnQ="}, 400),
        ({"key": "dGhlIHNhbXBsZSBub25jZX=="}, 400),
        ({"key": "dGhlIHNhbXBsZSBub25jZXh4"}, 400),
        ({"method": "POST"}, 400),
        ({"upgrade": "h2c, WebSocket", "connection": "keep-alive, upgrade"}, 101),
    ],
    ids=str,
)
def test_what_makes_a_handshake(options: dict[str, Any], status: int) -> None:
    """Trap 56: any key was good for others."""
    with asgi(echo) as server, Peer(server.port, **options) as peer:
        assert peer.response.status == status
        if status == 426:
            assert peer.response.headers["Sec-WebSocket-Version"] == "13"
            assert peer.response.headers["Upgrade"] == "websocket"
        if status != 101:
            assert peer.at_end()


@pytest.mark.parametrize("fields", [("Sec-WebSocket-Key: x3JJHMbDL1EzLkh9GBhXDw==",), ("Content-Length: 3",)])
def test_two_keys_and_a_body_are_refused(fields: tuple[str, ...]) -> None:
    with asgi(echo) as server, Peer(server.port, "/", *fields) as peer:
        assert peer.response.status == 400


@pytest.mark.parametrize(
    "options",
    [{"protocol": "1.0"}, {"connection": "keep-alive"}, {"upgrade": "h2c"}, {"upgrade": "websocket2"}],
    ids=str,
)
def test_what_asks_for_no_upgrade_is_an_ordinary_request(options: dict[str, Any]) -> None:
    """RFC 9110 7.8."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await respond(send, scope["type"].encode())

    with asgi(app) as server, Peer(server.port, **options) as peer:
        assert (peer.response.status, peer.response.body) == (200, b"http")


def test_it_can_be_switched_off() -> None:
    """Trap 59: hypercorn#307."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await respond(send, scope["type"].encode())

    with asgi(app, ws="off") as server, Peer(server.port) as peer:
        assert (peer.response.status, peer.response.body) == (200, b"http")


def test_the_scope() -> None:
    scopes: list[dict[str, Any]] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        scopes.append(scope)
        await accept(receive, send)

    fields = ("Sec-WebSocket-Protocol: a, b", "Origin: http://elsewhere", "sec-websocket-protocol: c")
    with asgi(app, url_prefix="/shop") as server, Peer(server.port, "/ch%C3%A4t?room=1", *fields) as peer:
        assert peer.response.status == 101
    (scope,) = scopes
    assert scope["type"] == "websocket"
    assert scope["asgi"] == {"version": "3.0", "spec_version": "2.5"}
    assert (scope["http_version"], scope["scheme"]) == ("1.1", "ws")
    assert (scope["path"], scope["raw_path"], scope["root_path"]) == ("/shop/chät", b"/ch%C3%A4t", "/shop")
    assert (scope["query_string"], scope["state"]) == (b"room=1", {})
    assert scope["subprotocols"] == ["a", "b", "c"], "trap 54: those of two lines"
    assert (b"origin", b"http://elsewhere") in scope["headers"]
    assert scope["extensions"] == {"websocket.http.response": {}}
    assert "method" not in scope


def test_the_scheme_is_that_of_the_proxy() -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await accept(receive, send)
        await send({"type": "websocket.send", "text": scope["scheme"]})

    with asgi(app) as server:
        for told in ("https", "wss"):
            with Peer(server.port, "/", f"X-Forwarded-Proto: {told}") as peer:
                assert peer.texts(1) == ["wss"]


def test_what_the_application_puts_into_the_response() -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        headers = [(b"x-a", b"b"), [b"Set-Cookie", b"c=d"], (b"content-length", b"7"), (b"upgrade", b"x")]
        await accept(receive, send, subprotocol="chat", headers=headers)

    with asgi(app) as server, Peer(server.port, "/", "Sec-WebSocket-Protocol: chat") as peer:
        headers = peer.response.headers
        assert (headers["x-a"], headers["Set-Cookie"], headers["Sec-WebSocket-Protocol"]) == ("b", "c=d", "chat")
        assert headers["Content-Length"] is None
        assert headers.get_all("Upgrade") == ["websocket"]
    assert any("the field content-length is the server's" in record.getMessage() for record in server.records)


def test_a_subprotocol_that_was_not_offered_is_left_out() -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await accept(receive, send, subprotocol="other")

    with asgi(app) as server, Peer(server.port, "/", "Sec-WebSocket-Protocol: chat") as peer:
        assert peer.response.status == 101
        assert peer.response.headers["Sec-WebSocket-Protocol"] is None
    assert any("has not offered the subprotocol 'other'" in record.getMessage() for record in server.records)


@pytest.mark.parametrize(
    "headers",
    [[(b"x", b"a\r\nEvil: 1")], [(b"x", b"a\0")], [(b"x y", b"a")], [(b"", b"a")], [("x", "a")]],
    ids=["crlf", "nul", "space", "empty", "text"],
)
def test_a_field_that_cannot_be_sent_is_a_500(headers: Any) -> None:
    """Trap 55: granian sent CR LF, hypercorn died behind its 101."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await accept(receive, send, headers=headers)

    with asgi(app) as server, Peer(server.port) as peer:
        assert peer.response.status == 500
        assert peer.at_end()
    assert "Error" in "".join(errors(server))


def test_a_handshake_is_denied() -> None:
    """Trap 49: granian#798, #818: no 403."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await send({"type": "websocket.close", "code": 4000})
        assert (await receive()) == {"type": "websocket.disconnect", "code": 1006, "reason": ""}
        with pytest.raises(OSError, match="denied"):
            await send({"type": "websocket.accept"})

    with asgi(app) as server, Peer(server.port, behind=text("too early")) as peer:
        assert peer.response.status == 403
        assert peer.at_end()
    assert not errors(server)
    assert ("zibai.access", 403) in server.exchanges


@pytest.mark.parametrize("pieces", [[b"I am a teapot"], [b"I am ", b"a teapot"], []])
def test_a_denial_is_a_response(pieces: list[bytes]) -> None:
    """Trap 53: uvicorn#3040: fields came twice."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        headers = [(b"content-type", b"text/tea"), (b"content-length", str(len(b"".join(pieces))).encode())]
        await send({"type": "websocket.http.response.start", "status": 418, "headers": headers})
        for piece in pieces:
            await send({"type": "websocket.http.response.body", "body": piece, "more_body": True})
        await send({"type": "websocket.http.response.body"})

    with asgi(app) as server, Peer(server.port) as peer:
        assert (peer.response.status, peer.response.body) == (418, b"".join(pieces))
        names = [name.lower() for name in peer.response.headers]
        assert len(set(names)) == len(names)
        assert peer.at_end()


async def returns(scope: Any, receive: Any, send: Any) -> None:
    await receive()


async def raises(scope: Any, receive: Any, send: Any) -> None:
    raise KeyError("mine")


async def begins(scope: Any, receive: Any, send: Any) -> None:
    await send({"type": "websocket.http.response.start", "status": 200, "headers": []})
    raise KeyError("mine")


async def accepts_after_a_start(scope: Any, receive: Any, send: Any) -> None:
    await send({"type": "websocket.http.response.start", "status": 200, "headers": []})
    await send({"type": "websocket.accept"})


async def sends_first(scope: Any, receive: Any, send: Any) -> None:
    await send({"type": "websocket.send", "text": "x"})


async def unknown(scope: Any, receive: Any, send: Any) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": []})


@pytest.mark.parametrize("app", [returns, raises, begins, accepts_after_a_start, sends_first, unknown])
def test_a_handshake_that_comes_to_no_decision_is_a_500(app: Any) -> None:
    with asgi(app) as server, Peer(server.port) as peer:
        assert peer.response.status == 500
        assert peer.at_end()
    assert errors(server)


async def waits(scope: Any, receive: Any, send: Any) -> None:
    await asyncio.sleep(DEADLINE)


async def returns_when_cancelled(scope: Any, receive: Any, send: Any) -> None:
    with suppress(asyncio.CancelledError):
        await waits(scope, receive, send)


async def raises_when_cancelled(scope: Any, receive: Any, send: Any) -> None:
    try:
        await waits(scope, receive, send)
    except asyncio.CancelledError:
        raise TimeoutError("mine") from None


async def waits_in_a_denial(scope: Any, receive: Any, send: Any) -> None:
    await send({"type": "websocket.http.response.start", "status": 403, "headers": []})
    await waits(scope, receive, send)


async def decides_when_cancelled(scope: Any, receive: Any, send: Any) -> None:
    await returns_when_cancelled(scope, receive, send)
    await send({"type": "websocket.accept"})


@pytest.mark.parametrize(
    ("app", "status", "logs"),
    [
        (waits, 504, False),
        (returns_when_cancelled, 504, False),
        (raises_when_cancelled, 504, True),
        (waits_in_a_denial, 403, False),
        (decides_when_cancelled, 101, False),
    ],
)
def test_a_decision_that_takes_too_long(app: Any, status: int, logs: bool) -> None:
    with asgi(app, request_timeout=0.3) as server, Client(server.port) as client, Client(server.port) as left:
        client.send(handshake())
        left.send(handshake())
        half_close(left)  # this client does not wait for it
        assert client.file.readline().split()[1] == str(status).encode()
        with suppress(ConnectionError):
            left.rest()
    assert [record.getMessage() for record in server.records if "cancelled after" in record.getMessage()]
    assert bool(tracebacks(server)) == logs


def test_accept_may_come_before_receive() -> None:
    events: list[Any] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "websocket.accept"})
        events.append(await receive())
        await messages(receive, events)

    with asgi(app) as server, Peer(server.port) as peer:
        peer.send(text("x"), close(1000))
        assert peer.read_close() == (1000, "")
    assert events == [{"type": "websocket.connect"}, "x", (1000, "")]


@pytest.mark.parametrize("leave", [reset, half_close, Client.close], ids=["reset", "half-close", "close"])
def test_a_client_that_leaves_before_it_is_accepted(leave: Any) -> None:
    """Trap 50: granian#835, #836."""
    heard = threading.Event()
    seen: list[Any] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        seen.append(await receive())
        try:
            await send({"type": "websocket.accept"})
        except OSError as error:
            seen.append(type(error).__name__)
        heard.set()

    with asgi(app) as server:
        client = Client(server.port)
        client.send(handshake())
        leave(client)
        assert heard.wait(DEADLINE)
        client.close()
    assert seen == [{"type": "websocket.disconnect", "code": 1006, "reason": ""}, "Gone"]
    assert not errors(server)


@pytest.mark.parametrize("pause", [False, True])
def test_what_comes_behind_the_head_is_kept(pause: bool) -> None:
    """Trap 64: hypercorn#225; whether the application accepts at once or later."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        assert (await receive())["type"] == "websocket.connect"
        if pause:
            await gate()
        await echo(scope, connected(receive), send)

    def connected(receive: Any) -> Any:
        first = [True]

        async def again() -> Any:
            if first.pop():
                first.append(False)
                return {"type": "websocket.connect"}
            first.append(False)
            return await receive()

        return again

    async def gate() -> None:
        await asyncio.sleep(0.05)

    behind = b"".join(map(text, map(str, range(50)))) + frame(9, b"ping") + text("x")[:4]
    with asgi(app) as server, Peer(server.port, behind=behind) as peer:
        replies = [peer.read() for _ in range(51)]
        assert (FIN | PONG, b"ping") in replies
        assert [data.decode() for first, data in replies if first == FIN | TEXT] == [str(n) for n in range(50)]
        peer.send(text("x")[4:])
        assert peer.texts(1) == ["x"]


@pytest.mark.parametrize("behind", [close(1000), text("x") + close(1000), frame(3)], ids=["close", "text", "malformed"])
def test_all_is_over_within_the_first_step(behind: bytes) -> None:
    """What stands behind the head ends the WebSocket before the application has waited once."""
    app = Hearing()
    codes = []
    with asgi(app) as server:
        for _ in range(3):
            with Peer(server.port, behind=behind) as peer:
                codes.append(peer.read_close()[0])
                assert peer.at_end()
    assert [each[0] for each in app.heard if isinstance(each, tuple)] == codes
    assert not errors(server)


def test_a_handshake_behind_another_request() -> None:
    """Trap 23: uvicorn lost it."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "http":
            await respond(send)
        else:
            await echo(scope, receive, send)

    with asgi(app) as server, Client(server.port) as client:
        client.send(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n" + handshake() + text("x"))
        assert client.read().body == b"fine"
        assert read_response(client.file).status == 101
        assert client.file.read(3) == b"\x81\x01x"


@pytest.mark.parametrize("http", ["auto", "h11"])
def test_whatever_the_lane(http: str) -> None:
    with asgi(echo, http=http) as server, Peer(server.port) as peer:
        peer.send(text("x"))
        assert peer.texts(1) == ["x"]


def test_the_key_of_the_rfc() -> None:
    codec = Codec(65536)
    codec.feed(handshake())
    request = codec.next_request()
    assert request is not None
    assert request.upgrades
    rules.check(request)
    head, left_out = rules.accept(request, None, "", [(b"connection", b"close"), (b"x", b"y")])
    assert f"Sec-WebSocket-Accept: {ACCEPT}\r\n".encode() in head
    assert head.endswith(b"x: y\r\n\r\n")
    assert left_out == ["connection"]
