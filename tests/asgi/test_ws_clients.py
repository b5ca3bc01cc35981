"""Real clients and frameworks over WebSocket. Each test skips where its package is not installed."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
from harness import errors, request, respond

from chromium import browser, needs_browser
from serving import serving
from support import DEADLINE, Client, wait_for
from wsclient import echo

__all__ = ["browser"]

PAGE = b"""<!doctype html><title>chat</title><script>
const said = [];
function connect(number) {
  const socket = new WebSocket(`ws://${location.host}/chat`, ["chat"]);
  socket.binaryType = "arraybuffer";
  const messages = ["hello", "x".repeat(5000), new Uint8Array([1, 2, 255])];
  socket.onopen = () => messages.forEach((message) => socket.send(message));
  let count = 0;
  socket.onmessage = (event) => {
    said.push(typeof event.data === "string" ? event.data.length : new Uint8Array(event.data).join());
    if (++count === 3) socket.close(4000 + number, "enough");
  };
  socket.onclose = (event) => {
    said.push(`${event.code} ${event.wasClean} ${socket.protocol} ${socket.extensions}`);
    if (number < 2) connect(number + 1); else document.title = JSON.stringify(said);
  };
}
connect(1);
</script>"""


async def app(scope: Any, receive: Any, send: Any) -> None:
    """Echoes, with the first subprotocol that the client offers; its page chats with it."""
    assert scope["type"] != "lifespan"
    if scope["type"] == "http":
        await respond(send, PAGE, 200, (b"content-type", b"text/html"))
        return

    async def accepting(message: Any) -> None:
        if message["type"] == "websocket.accept" and scope["subprotocols"]:
            message["subprotocol"] = scope["subprotocols"][0]
        await send(message)

    await echo(scope, receive, accepting)


SAMPLES = ["", "hello", "é" * 70_000, b"", b"\xff" * 300, bytes(1_000_000)]


@pytest.mark.parametrize("compression", ["deflate", None])
def test_websockets(compression: str | None) -> None:
    client = pytest.importorskip("websockets.sync.client")
    with serving(app, valid=False) as server:
        options: Any = {"compression": compression, "max_size": None, "subprotocols": ["a", "b"]}
        with client.connect(f"ws://127.0.0.1:{server.port}/", **options) as socket:
            assert socket.subprotocol == "a"
            for sample in SAMPLES:
                socket.send(sample)
                assert socket.recv(DEADLINE) == sample
            socket.send(["a", "b", "c"])
            assert socket.recv(DEADLINE) == "abc"
            assert socket.ping().wait(DEADLINE)
        assert socket.close_code == 1000
    assert not errors(server)


def test_wsproto() -> None:
    wsproto = pytest.importorskip("wsproto")
    import socket

    from wsproto.events import AcceptConnection, CloseConnection, Message, Request
    from wsproto.extensions import PerMessageDeflate

    with serving(app, valid=False) as server:
        with socket.create_connection(("127.0.0.1", server.port), DEADLINE) as sock:
            client = wsproto.WSConnection(wsproto.ConnectionType.CLIENT)

            def event() -> Any:
                while (found := next(client.events(), None)) is None:
                    client.receive_data(sock.recv(65536) or None)
                return found

            sock.sendall(client.send(Request(host="a", target="/", extensions=[PerMessageDeflate()])))
            accepted = event()
            assert isinstance(accepted, AcceptConnection)
            assert accepted.extensions
            for sample in SAMPLES:
                sock.sendall(client.send(Message(sample)))
                whole = type(sample)()
                while not (found := event()).message_finished:
                    whole += found.data
                assert whole + found.data == sample
            sock.sendall(client.send(CloseConnection(1001, "bye")))
            closed = event()
            assert (closed.code, closed.reason) == (1001, "bye")
    assert not errors(server)


def test_aiohttp() -> None:
    aiohttp = pytest.importorskip("aiohttp")

    async def main(port: int) -> None:
        async with aiohttp.ClientSession() as session:
            async with session.ws_connect(f"http://127.0.0.1:{port}/", compress=15, max_msg_size=0) as socket:
                for sample in SAMPLES:
                    await (socket.send_str if isinstance(sample, str) else socket.send_bytes)(sample)
                    assert (await socket.receive(DEADLINE)).data == sample
                await socket.close(code=4001)
                assert socket.close_code == 4001

    with serving(app, valid=False) as server:
        asyncio.run(main(server.port))
    assert not errors(server)


def test_starlette() -> None:
    pytest.importorskip("starlette")
    client = pytest.importorskip("websockets.sync.client")
    from starlette.applications import Starlette
    from starlette.responses import JSONResponse
    from starlette.routing import WebSocketRoute
    from starlette.websockets import WebSocket, WebSocketDisconnect
    from websockets.exceptions import InvalidStatus

    ends: list[tuple[int, str | None]] = []

    async def chat(socket: WebSocket) -> None:
        await socket.accept(headers=[(b"x-room", b"1")])
        try:
            async for text in socket.iter_text():
                await socket.send_json({"you": text})
            await socket.receive()
        except (WebSocketDisconnect, RuntimeError) as error:
            ends.append((getattr(error, "code", 0), str(error)))

    async def deny(socket: WebSocket) -> None:
        await socket.send_denial_response(JSONResponse({"why": "no"}, 401))

    async def refuse(socket: WebSocket) -> None:
        await socket.close(4001)

    routes = [WebSocketRoute("/chat", chat), WebSocketRoute("/deny", deny), WebSocketRoute("/refuse", refuse)]
    with serving(Starlette(routes=routes), valid=False) as server:  # type: ignore[arg-type]
        with client.connect(f"ws://127.0.0.1:{server.port}/chat") as socket:
            assert socket.response.headers["x-room"] == "1"
            socket.send("hi")
            assert json.loads(socket.recv(DEADLINE)) == {"you": "hi"}
        for path, status in (("deny", 401), ("refuse", 403), ("nowhere", 403)):
            with pytest.raises(InvalidStatus) as raised:
                client.connect(f"ws://127.0.0.1:{server.port}/{path}")
            assert raised.value.response.status_code == status
        wait_for(lambda: ends)
    assert not errors(server)


def test_fastapi() -> None:
    fastapi = pytest.importorskip("fastapi")
    client = pytest.importorskip("websockets.sync.client")
    from websockets.exceptions import ConnectionClosedError

    api = fastapi.FastAPI()

    async def chat(socket: Any, room: int, token: str = "") -> None:
        await socket.accept()
        await socket.send_text(f"{room} {token}")
        if token != "secret":
            raise fastapi.WebSocketException(1008, "no")
        async for data in socket.iter_bytes():
            await socket.send_bytes(data)

    chat.__annotations__["socket"] = fastapi.WebSocket
    chat.__annotations__.update(room=int, token=str)
    api.websocket("/room/{room}")(chat)
    with serving(api, valid=False) as server:
        with client.connect(f"ws://127.0.0.1:{server.port}/room/7?token=secret") as socket:
            assert socket.recv(DEADLINE) == "7 secret"
            socket.send(b"\0")
            assert socket.recv(DEADLINE) == b"\0"
        with client.connect(f"ws://127.0.0.1:{server.port}/room/8") as socket:
            assert socket.recv(DEADLINE) == "8 "
            with pytest.raises(ConnectionClosedError, match=r"1008 .* no"):
                socket.recv(DEADLINE)
    assert not errors(server)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_strawberry() -> None:
    """Subscriptions of GraphQL: one that ends, one that the client ends, and one that ends with its client."""
    strawberry = pytest.importorskip("strawberry")
    pytest.importorskip("strawberry.asgi")
    client = pytest.importorskip("websockets.sync.client")
    from collections.abc import AsyncGenerator

    ended: list[int] = []

    async def hello() -> str:
        return "world"

    async def count(target: int) -> AsyncGenerator[int, None]:
        try:
            for number in range(target):
                yield number
                await asyncio.sleep(0.001)
        finally:
            ended.append(target)

    hello.__annotations__["return"] = str
    count.__annotations__.update({"target": int, "return": AsyncGenerator[int, None]})
    query = strawberry.type(type("Query", (), {"hello": strawberry.field(hello)}))
    subscription = strawberry.type(type("Subscription", (), {"count": strawberry.subscription(count)}))
    schema = strawberry.Schema(query=query, subscription=subscription)

    def subscribe(socket: Any, name: str, target: int) -> None:
        asked = {"query": f"subscription {{ count(target: {target}) }}"}
        socket.send(json.dumps({"id": name, "type": "subscribe", "payload": asked}))

    with serving(strawberry.asgi.GraphQL(schema), valid=False) as server:
        with Client(server.port) as plain:
            body = b'{"query": "{ hello }"}'
            plain.send(request("/", "Content-Type: application/json", f"Content-Length: {len(body)}", method="POST"))
            plain.send(body)
            assert json.loads(plain.read().body) == {"data": {"hello": "world"}}
        uri = f"ws://127.0.0.1:{server.port}/"
        with client.connect(uri, subprotocols=["graphql-transport-ws"]) as socket:
            assert socket.subprotocol == "graphql-transport-ws"
            socket.send(json.dumps({"type": "connection_init"}))
            assert json.loads(socket.recv(DEADLINE))["type"] == "connection_ack"
            subscribe(socket, "a", 3)
            found = [json.loads(socket.recv(DEADLINE)) for _ in range(4)]
            assert [each["payload"]["data"]["count"] for each in found[:3]] == [0, 1, 2]
            assert found[3] == {"id": "a", "type": "complete"}
            subscribe(socket, "b", 1_000_000)
            assert json.loads(socket.recv(DEADLINE))["id"] == "b"
            socket.send(json.dumps({"id": "b", "type": "complete"}))
            wait_for(lambda: ended == [3, 1_000_000])
            subscribe(socket, "c", 2_000_000)
            while json.loads(socket.recv(DEADLINE))["id"] != "c":
                pass
        wait_for(lambda: ended == [3, 1_000_000, 2_000_000])
    assert not errors(server)


@needs_browser
def test_a_browser(browser: Any) -> None:
    with serving(app, valid=False) as server:
        browser.get(f"http://127.0.0.1:{server.port}/")
        wait_for(lambda: browser.title.startswith("["))
        said = json.loads(browser.title)
        browser.get("about:blank")  # the last connection of a browser stays open else
    deflate = "permessage-deflate; server_max_window_bits=12; client_max_window_bits=12"
    assert said == [
        *(5, 5000, "1,2,255", f"4001 true chat {deflate}"),
        *(5, 5000, "1,2,255", f"4002 true chat {deflate}"),
    ]
    assert not errors(server)
