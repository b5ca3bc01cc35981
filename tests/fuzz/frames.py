"""A fuzzer of WebSockets: random frames go over real connections to a server, one after the other.

What the application receives and how it ends must be what the reference lane makes of the same bytes, one at a time.
What the server sends must be frames of a server: pongs in the order of the pings, and a close frame at the end. Nothing
may be logged as an error, and the next client is served.
"""

from __future__ import annotations

import queue
import struct
import time
import zlib
from random import Random
from typing import TYPE_CHECKING, Any

from zibai.protocol.websocket.codec import Codec
from zibai.protocol.websocket.deflate import Agreed

from .run import Result
from .subject import Broken
from serving import serving
from support import DEADLINE
from wsclient import BINARY, CLOSE, CONT, FIN, PING, PONG, RSV1, TEXT, Peer, accept, close, frame

if TYPE_CHECKING:
    from collections.abc import Callable

OFFER = "permessage-deflate; client_max_window_bits"
MAX_SIZE = 3000
QUEUE = 4


def make(random: Random) -> bytes:
    """Some frames, of which most are good, with a few bytes changed now and then."""
    data = b"".join(_frame(random) for _ in range(random.randrange(1, 20)))
    if random.random() < 0.2:
        changed = bytearray(data)
        for _ in range(random.randrange(1, 4)):
            changed[random.randrange(len(changed))] = random.randrange(256)
        data = bytes(changed)
    return data[: random.randrange(len(data)) + 1] if random.random() < 0.1 else data


def _frame(random: Random) -> bytes:
    size = random.choice([0, 1, 2, 7, 125, 126, 127, 700, 2999, 3000, 3001])
    data = random.randbytes(size) if random.random() < 0.3 else ("aé€😀" * size).encode()[:size]
    match random.randrange(20):
        case 0 | 1:
            return frame(random.choice([PING, PONG]), data[:125])
        case 2 | 3 | 4:
            return frame(random.choice([CONT, TEXT, BINARY]), data, random.choice([0, FIN]))
        case 5 | 6:
            made = zlib.compressobj(wbits=-12)
            packed = (made.compress(data) + made.flush(zlib.Z_SYNC_FLUSH))[:-4]
            return frame(random.choice([TEXT, BINARY]), packed, random.choice([FIN, FIN, 0]) | RSV1)
        case 7:
            return frame(random.randrange(16), data[:130], random.randrange(16) << 4, random.choice([None, b"mask"]))
        case 8:
            return close(random.choice([None, 1000, 1001, 1005, 999, 4000]), random.choice(["", "bye", "é" * 62]))
        case 9:
            return frame(CLOSE, random.randbytes(random.randrange(4)))
        case 10:
            return frame(
                random.choice([TEXT, PING, BINARY]), data[:10], size=random.choice([3001, 126, 1 << 17, 1 << 63])
            )
    text = ("é€" * size).encode()[: size // 5 * 5]
    return frame(TEXT, text) if random.random() < 0.6 else frame(BINARY, data)


def expect(data: bytes, deflates: bool) -> tuple[list[Any], bytes, tuple[int, str] | None]:
    """What the reference lane makes of the bytes: messages, replies, and code and reason of the end."""
    codec = Codec(MAX_SIZE, QUEUE, Agreed.from_offers(OFFER) if deflates else None, 256, fast=False)
    for place in range(len(data)):
        codec.feed(data[place : place + 1])
    return list(codec.messages), b"".join(codec.replies), codec.close


class Application:
    """Receives what comes, in haste or at leisure, and says how it went."""

    def __init__(self) -> None:
        self.ends: queue.Queue[tuple[list[Any], tuple[int, str]]] = queue.Queue()

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        assert scope["type"] == "websocket", "no lifespan"
        echoes = scope["query_string"] == b"echo"
        await accept(receive, send)
        found: list[Any] = []
        while (event := await receive())["type"] == "websocket.receive":
            found.append(event.get("text", event.get("bytes")))
            if echoes:
                try:
                    await send({**event, "type": "websocket.send"})
                except OSError:
                    pass
        self.ends.put((found, (event["code"], event["reason"])))


def check(port: int, app: Application, data: bytes, random: Random) -> int:
    """Raises :class:`Broken`; returns the code of the end."""
    deflates, echoes = random.random() < 0.5, random.random() < 0.5
    messages, replies, end = expect(data, deflates)
    fields = [f"Sec-WebSocket-Extensions: {OFFER}"] if deflates else []
    cut = random.randrange(len(data) + 1)
    with Peer(port, "/?echo" if echoes else "/", *fields, behind=data[:cut]) as peer:
        peer.client.socket.settimeout(DEADLINE)  # also where a test has made it short
        try:
            while cut < len(data):
                size = random.choice([1, 3, 100, 5000])
                peer.send(data[cut : cut + size])
                cut += size
            if end is None:
                peer.client.socket.shutdown(1)
        except ConnectionError:
            pass  # it has seen enough
        sent = _read(peer)
    found = app.ends.get(timeout=DEADLINE)
    if found != (messages, end or (1006, "")):
        raise Broken(f"the application had {found}, and not {(messages, end)}")
    control = [each for each in sent if each[0] in (FIN | PONG, FIN | CLOSE)]
    if sent is not None and _control(replies) != control and end is not None:
        raise Broken(f"the server has sent {control}, and not {_control(replies)}")
    return found[1][0]


def _read(peer: Peer) -> list[tuple[int, bytes]]:
    found = []
    try:
        while True:
            found.append(tuple(peer.read()))
    except (ConnectionError, struct.error):
        return found


def _control(data: bytes) -> list[tuple[int, bytes]]:
    found = []
    while data:
        size = data[1]
        found.append((data[0], data[2 : 2 + size]))
        data = data[2 + size :]
    return found


def fuzz_frames(
    seed: int,
    *,
    seconds: float,
    first: int = 0,
    count: int | None = None,
    say: Callable[[str], object] = lambda _: None,
) -> Result:
    """Input after input, for so long or so many; ends at the first failure."""
    result = Result(number=first)
    app = Application()
    began = time.monotonic()
    with serving(app, valid=False, ws_max_size=MAX_SIZE, ws_max_queue=QUEUE) as server:
        while (result.inputs < count) if count is not None else (time.monotonic() < began + seconds):
            random = Random(f"{seed}-{result.number}")
            result.data, result.subject = make(random), "frames"
            try:
                result.answers[check(server.port, app, result.data, random)] += 1
            except BaseException as error:
                result.failure = error
                break
            result.inputs += 1
            result.bytes += len(result.data)
            result.number += 1
            if result.inputs % 10_000 == 0:
                say(f"{result.inputs} inputs")
    wrong = [record.getMessage() for record in server.records if record.levelname in ("ERROR", "CRITICAL")]
    if wrong and result.failure is None:
        result.failure = Broken(f"logged: {wrong[:3]}")
    result.seconds = time.monotonic() - began
    return result
