"""``python -m benchmarks.websocket``: what a message costs a server in processor time, and a connection in memory.

One process each, with uvloop where the server can have it, and an application that sends back what it receives. The
clients are sockets of this process that know the bytes beforehand: they send frames that were made before, and only
count what comes back, so that the server is what works. Processor time is that of the server, divided by the messages
it has echoed, so other load on the machine changes the figures little. The servers take turns, as in the benchmark of
requests (:mod:`benchmarks`): a ratio is taken within a round, and the median of the rounds is what counts.
"""

import argparse
import os
import re
import selectors
import socket
import statistics
import struct
import sys
import time
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Final

from . import idle
from .process import Broken, Running
from .servers import BY_NAME, Server, missing
from .workloads import Workload

ECHO: Final = Workload("websocket", "WebSocket", "benchmarks.asgiapps:echo", interface="asgi")

UVICORN, LEGACY, GRANIAN = "uvicorn", "uvicorn legacy", "granian"
WITH_UVICORN: Final = (
    "-m uvicorn {app} --interface asgi3 --http httptools --loop uvloop --ws WS --host 127.0.0.1 --port {port} "
    "--no-access-log --log-level warning"
)
SERVERS: Final = (
    BY_NAME["zibai tasks uvloop"],
    BY_NAME["zibai tasks"],
    Server(UVICORN, WITH_UVICORN.replace("WS", "websockets-sansio"), "uvicorn", "uvicorn", interface="asgi"),
    Server(LEGACY, WITH_UVICORN.replace("WS", "websockets"), "uvicorn", "uvicorn", interface="asgi"),
    Server(
        GRANIAN,
        "-m granian {app} --interface asgi --loop uvloop --ws --host 127.0.0.1 --port {port} --http 1",
        "granian",
        "granian",
        interface="asgi",
    ),
)

HANDSHAKE: Final = (
    "GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
    "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n{more}\r\n"
)
DEFLATE: Final = "Sec-WebSocket-Extensions: permessage-deflate\r\n"
MASK: Final = b"\x37\xfa\x21\x3d"
TEXT: Final = 0x81
BINARY: Final = 0x82
PACKED: Final = 0xC1  # text, compressed
PATIENCE: Final = 20.0  # seconds without any reply


@dataclass(frozen=True)
class Load:
    """What each of ``clients`` sends at once, ``messages`` of ``size`` bytes, and sends again when all are back.

    ``figures`` are how many times as much another server may need at least, by its name.
    """

    key: str
    title: str
    size: int
    messages: int
    clients: int
    figures: dict[str, float]
    first: int = TEXT

    @property
    def sent(self) -> bytes:
        return frame(b"x" * self.size, self.first) * self.messages

    @property
    def received(self) -> int:
        """The size of the reply: the same without masks."""
        return len(self.sent) - len(MASK) * self.messages


LOADS: Final = (
    Load("small", "echo of 64 bytes", 64, 1, 32, {UVICORN: 1.25, GRANIAN: 2.0}),
    Load("burst", "20 messages a segment", 64, 20, 32, {UVICORN: 3.0}),
    Load("large", "echo of 1 MiB", 1 << 20, 1, 4, {UVICORN: 1.1}, BINARY),
    Load("long", "echo of 1 MiB of text", 1 << 20, 1, 4, {UVICORN: 1.1}),
)


def frame(data: bytes, first: int = TEXT) -> bytes:
    """A masked frame, as a client sends it."""
    size = len(data)
    if size < 126:
        head = bytes((first, 0x80 | size))
    elif size < 65536:
        head = struct.pack("!BBH", first, 0x80 | 126, size)
    else:
        head = struct.pack("!BBQ", first, 0x80 | 127, size)
    key = int.from_bytes((MASK * (size // 4 + 1))[:size], "big")
    return head + MASK + (int.from_bytes(data, "big") ^ key).to_bytes(size, "big")


def connect(port: int, more: str = "") -> socket.socket:
    """A WebSocket. Raises Broken if the server does not accept it."""
    client = socket.create_connection(("127.0.0.1", port), PATIENCE)
    client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    client.sendall(HANDSHAKE.format(more=more).encode("ascii"))
    head = b""
    while not head.endswith(b"\r\n\r\n"):
        if not (data := client.recv(4096)):
            raise Broken(f"no WebSocket: {head[:100]!r}")
        head += data
    if not re.match(rb"HTTP/1\.1 101 ", head):
        raise Broken(f"no WebSocket: {head[:100]!r}")
    return client


def echo(load: Load, clients: list[socket.socket], seconds: float) -> int:
    """Send and receive for so long; returns the number of messages that have come back."""
    sent, size, count = load.sent, load.received, 0
    buffer = memoryview(bytearray(1 << 20))
    until = time.monotonic() + seconds
    rest = dict.fromkeys(clients, b"")
    left = dict.fromkeys(clients, 0)
    with selectors.DefaultSelector() as selector:

        def begin(client: socket.socket) -> None:
            left[client] = size
            rest[client] = sent[client.send(sent) :]
            selector.modify(client, selectors.EVENT_READ | (selectors.EVENT_WRITE if rest[client] else 0))

        for each in clients:
            each.setblocking(False)
            selector.register(each, selectors.EVENT_READ)
            begin(each)
        while any(left.values()):
            ready = selector.select(PATIENCE)
            if not ready:
                raise Broken(f"no reply within {PATIENCE:g} s")
            for key, events in ready:
                client = key.fileobj
                assert isinstance(client, socket.socket)
                if events & selectors.EVENT_WRITE:
                    rest[client] = rest[client][client.send(rest[client]) :]
                    if not rest[client]:
                        selector.modify(client, selectors.EVENT_READ)
                if events & selectors.EVENT_READ:
                    if not (got := client.recv_into(buffer)):
                        raise Broken("a connection was closed")
                    left[client] -= got
                    if not left[client]:
                        count += load.messages
                        if time.monotonic() < until:
                            begin(client)
    if any(number < 0 for number in left.values()):
        raise Broken("more came back than was sent")
    return count


def measure(server: Server, load: Load, seconds: float) -> float:
    """Microseconds of processor time a message."""
    with Running(server, ECHO, 1) as running:
        clients = [connect(running.port) for _ in range(load.clients)]
        try:
            echo(load, clients, seconds / 4)  # warm
            before = running.cpu()
            messages = echo(load, clients, seconds)
            return (running.cpu() - before) / messages * 1e6
        finally:
            for client in clients:
                client.close()


def measure_memory(server: Server, number: int, more: str = "", first: bytes = b"") -> float:
    """KiB that each of ``number`` connections takes, after each has sent ``first`` and has got its reply."""
    with Running(server, ECHO, 1) as running:
        warm = [connect(running.port, more) for _ in range(20)]
        for client in warm:
            client.sendall(first)
            _ = first and client.recv(65536)
        before = running.memory()
        clients = [connect(running.port, more) for _ in range(number)]
        for client in clients:
            client.sendall(first)
            _ = first and client.recv(65536)
        try:
            return (running.memory() - before) / number / 1024
        finally:
            for client in warm + clients:
                client.close()


def packed(size: int) -> bytes:
    """A compressed message that has ``size`` bytes when it is inflated, with some variety in it."""
    text = " ".join(f'{{"id": {number}, "name": "user {number * 7919 % 1000}"}}' for number in range(size))[:size]
    deflate = zlib.compressobj(wbits=-12)
    data = deflate.compress(text.encode()) + deflate.flush(zlib.Z_SYNC_FLUSH)
    return frame(data[:-4], PACKED)


def parse(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.websocket", description=__doc__)
    parser.add_argument("--rounds", type=int, default=5, metavar="N", help="how often each is measured (5)")
    parser.add_argument("--seconds", type=float, default=2.0, metavar="N", help="how long each time (2)")
    parser.add_argument("--connections", type=int, default=1000, metavar="N", help="idle connections (1000)")
    names = [server.key for server in SERVERS]
    parser.add_argument("--only", nargs="+", default=names, choices=names, metavar="SERVER", help=", ".join(names))
    keys = [*(load.key for load in LOADS), "memory"]
    parser.add_argument("--loads", nargs="+", default=keys, choices=keys, metavar="LOAD", help=", ".join(keys))
    return parser.parse_args(arguments)


def table(title: str, unit: str, found: dict[str, list[float]], figures: dict[str, float]) -> str:
    """The medians; and how many times the value of the first server each other one has."""
    lines = [f"{title} ({unit}; median of {max(map(len, found.values()))})"]
    ours = next(iter(found.values()), [])
    for name, values in found.items():
        ratios = [other / own for own, other in zip(ours, values, strict=False)]
        ratio = f"{statistics.median(ratios):6.2f}" if ratios else ""
        wanted = f"  at least {figures[name]:g}" if name in figures else ""
        lines.append(f"  {name:20} {statistics.median(values):9.1f} {ratio}{wanted}")
    return "\n".join(lines)


def main(arguments: list[str]) -> int:
    args = parse(arguments)
    idle.raise_limit(args.connections + idle.SPARE)
    servers = []
    for server in SERVERS:
        if why := missing(server):
            print(f"not measured: {server.name}: {why}")
        elif server.key in args.only:
            servers.append(server)

    def rounds(title: str, unit: str, figures: dict[str, float], one: Callable[[Server], float]) -> None:
        found: dict[str, list[float]] = {server.name: [] for server in servers}
        for number in range(args.rounds):
            turn = number % len(servers)
            for server in servers[turn:] + servers[:turn]:
                for left in reversed(range(3)):  # another process may have got the port that was free
                    try:
                        found[server.name].append(one(server))
                        break
                    except (Broken, OSError) as error:
                        if not left:
                            print(f"{title}, {server.name}: {error}")
        print(table(title, unit, {name: values for name, values in found.items() if values}, figures), flush=True)

    for load in LOADS:
        if load.key in args.loads:
            title = f"{load.title}, {load.clients} clients"
            rounds(title, "us a message", load.figures, partial(measure, load=load, seconds=args.seconds))
    if "memory" in args.loads:
        number = args.connections
        wanted = {UVICORN: 2.0}
        rounds("an idle WebSocket", "KiB", wanted, lambda server: measure_memory(server, number))
        data = packed(1024)
        rounds("one that has used deflate", "KiB", {}, lambda server: measure_memory(server, number, DEFLATE, data))
    return 0


if __name__ == "__main__":
    os.environ.setdefault("PYTHONUNBUFFERED", "1")
    sys.exit(main(sys.argv[1:]))
