"""A WebSocket client of raw bytes, for what no real client sends, and for what it does not show."""

from __future__ import annotations

import struct
import threading
from typing import Any, NamedTuple, Self

from support import Client, Response, read_response

KEY = "dGhlIHNhbXBsZSBub25jZQ=="
ACCEPT = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="  # RFC 6455 1.3

CONT, TEXT, BINARY, CLOSE, PING, PONG = 0, 1, 2, 8, 9, 10
FIN, RSV1, RSV2 = 0x80, 0x40, 0x20
MASK = b"\x37\xfa\x21\x3d"


class Frame(NamedTuple):
    first: int
    data: bytes


def handshake(
    target: str = "/",
    *fields: str,
    key: str | None = KEY,
    version: str | None = "13",
    method: str = "GET",
    protocol: str = "1.1",
    upgrade: str = "websocket",
    connection: str = "Upgrade",
) -> bytes:
    lines = [f"{method} {target} HTTP/{protocol}", "Host: test", f"Upgrade: {upgrade}", f"Connection: {connection}"]
    if key is not None:
        lines.append(f"Sec-WebSocket-Key: {key}")
    if version is not None:
        lines.append(f"Sec-WebSocket-Version: {version}")
    return "\r\n".join([*lines, *fields, "", ""]).encode("latin-1")


def frame(
    opcode: int, data: bytes = b"", first: int = FIN, mask: bytes | None = MASK, size: int | None = None
) -> bytes:
    """A frame of a client. ``size`` is what it claims, if that is not true."""
    size = len(data) if size is None else size
    bit = 0 if mask is None else 0x80
    if size < 126:
        head = bytes((first | opcode, bit | size))
    elif size < 65536:
        head = struct.pack("!BBH", first | opcode, bit | 126, size)
    else:
        head = struct.pack("!BBQ", first | opcode, bit | 127, size)
    if mask is None:
        return head + data
    return head + mask + bytes(byte ^ mask[place % 4] for place, byte in enumerate(data))


def text(message: str) -> bytes:
    return frame(TEXT, message.encode())


def close(code: int | None = None, reason: str = "") -> bytes:
    return frame(CLOSE, b"" if code is None else struct.pack("!H", code) + reason.encode())


class Peer:
    """A WebSocket, or what has become of its handshake (``response``)."""

    def __init__(
        self, port: int, target: str = "/", *fields: str, behind: bytes = b"", tls: Any = None, **options: Any
    ) -> None:
        self.client = Client(port, tls=tls)
        self.client.send(handshake(target, *fields, **options) + behind)
        self.response: Response = read_response(self.client.file)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.client.close()

    def send(self, *data: bytes) -> None:
        self.client.send(b"".join(data))

    def read(self) -> Frame:
        """The next frame. Raises ``ConnectionError`` at the end."""
        file = self.client.file
        head = file.read(2)
        if len(head) < 2:
            raise ConnectionError("the server has ended the connection")
        first, size = head
        assert size < 128, "a server masks nothing"
        if size == 126:
            (size,) = struct.unpack("!H", file.read(2))
        elif size == 127:
            (size,) = struct.unpack("!Q", file.read(8))
        return Frame(first, file.read(size))

    def texts(self, count: int) -> list[str]:
        return [self.read().data.decode() for _ in range(count)]

    def read_close(self) -> tuple[int, str]:
        """Code and reason of the close frame, which is the next one."""
        found = self.read()
        assert found.first == FIN | CLOSE, found
        return (struct.unpack("!H", found.data[:2])[0], found.data[2:].decode()) if found.data else (1005, "")

    def at_end(self) -> bool:
        """Whether the server ends the connection, and nothing more comes."""
        return self.client.rest() == b""


async def accept(receive: Any, send: Any, **message: Any) -> None:
    assert (await receive()) == {"type": "websocket.connect"}
    await send({"type": "websocket.accept", **message})


async def messages(receive: Any, into: list[Any]) -> None:
    """Receive until the end."""
    while (event := await receive())["type"] == "websocket.receive":
        into.append(event.get("text", event.get("bytes")))
    into.append((event["code"], event["reason"]))


async def echo(scope: Any, receive: Any, send: Any) -> None:
    await accept(receive, send)
    while (event := await receive())["type"] == "websocket.receive":
        await send({**event, "type": "websocket.send"})


class Hearing:
    """An application that hears one WebSocket to its end; ``messages`` says what is ``heard``."""

    def __init__(self) -> None:
        self.heard: list[Any] = []
        self.done = threading.Event()

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        await accept(receive, send)
        await messages(receive, self.heard)
        self.done.set()
