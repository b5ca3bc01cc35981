"""No client can hold the server, nor leave anything behind in it: hundreds that stall, thousands that come and go."""

from __future__ import annotations

import json
import re
import socket
import struct
import sys
import threading
import time
from importlib.util import find_spec
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from stalling import connect, ends

from zibai.system.machine import raise_descriptor_limit

from support import DEADLINE, Client, Server, get, wait_for

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable

    from credentials import Credentials

linux = pytest.mark.skipif(sys.platform != "linux", reason="what a process has is read from /proc")

GET = b"GET / HTTP/1.1\r\nHost: test\r\n\r\n"
HELLO = b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(50)  # the beginning of one
RESET = struct.pack("ii", 1, 0)
SLEPT = re.compile(r"^voluntary_ctxt_switches:\s*(\d+)", re.MULTILINE)
SLOTS = 4
MANY = 200


def descriptors(server: Server) -> int:
    return len(list(Path(f"/proc/{server.pid}/fd").iterdir()))


def tasks(server: Server) -> list[Path]:
    return list(Path(f"/proc/{server.pid}/task").iterdir())


def waits(server: Server) -> int:
    """How often all threads have gone to sleep. Time would not do: on a busy machine, a wake-up costs more of it."""
    found = [SLEPT.search((task / "status").read_text()) for task in tasks(server)]
    return sum(int(each[1]) for each in found if each is not None)


def counts(server: Server, tls: ssl.SSLContext | None = None) -> dict[str, int]:
    found: dict[str, int] = json.loads(get(server.port, "/counts", tls=tls).body)
    return found


@pytest.mark.daily("threads-plain")
@pytest.mark.parametrize("secured", [False, True], ids=["plain", "tls"])
@linux
def test_eight_hundred_stalled_clients(backend: tuple[str, ...], secured: bool, credentials: Credentials) -> None:
    """Over TLS, half of them in the handshake."""
    raise_descriptor_limit()
    limit = 8  # seconds, in which all of them have to be there, on a busy machine, too
    flags = [f"--{name}-timeout={limit}" for name in ("header", "keep-alive", "socket")]
    tls = credentials.context() if secured else None
    if secured:
        flags += ["--certfile", credentials.server]
    many = MANY // 2 if secured else MANY
    with Server("engine:app", "-w", str(SLOTS), "--no-access-log", *flags, *backend) as server:
        assert get(server.port, tls=tls).body == b"hello"
        base = settled(lambda: descriptors(server))
        begin = time.monotonic()
        kinds = {
            "idle": GET,
            "head": GET[:20],
            "body": b"POST / HTTP/1.1\r\nHost: test\r\nContent-Length: 1000\r\n\r\nsome",
            "deaf": GET.replace(b"/", b"/big", 1),
        }
        clients = {kind: [connect(server.port, 4096 * (kind == "deaf"), tls) for _ in range(many)] for kind in kinds}
        if secured:
            kinds |= {"silent": b"", "hello": HELLO}
            clients |= {kind: [connect(server.port) for _ in range(MANY)] for kind in ("silent", "hello")}
        count = sum(map(len, clients.values()))
        assert count == 4 * MANY
        try:
            for kind, data in kinds.items():
                for client in clients[kind]:
                    client.sendall(data)
            for client in clients["idle"]:
                assert client.recv(4096).endswith(b"hello")
            wait_for(lambda: descriptors(server) >= base + count)
            for _ in range(10):
                asked = time.monotonic()
                assert get(server.port, tls=tls).body == b"hello"
                assert time.monotonic() - asked < limit, "nobody had to go first"
            assert descriptors(server) >= base + count, "the stalled ones have gone before: too slow"

            for kind in ("idle", "silent", "hello"):
                assert set(ends(clients.get(kind, ()))) <= {b""}
            for kind in ("head", "body"):
                assert {data[:12] for data in ends(clients[kind])} == {b"HTTP/1.1 408"}
            wait_for(lambda: descriptors(server) <= base)
            assert limit <= time.monotonic() - begin < 5 * limit
            assert len(tasks(server)) <= SLOTS + 4
        finally:
            for client in chain.from_iterable(clients.values()):
                client.close()
        assert counts(server, tls)["connections"] == 1


def sleeps(server: Server) -> bool:
    """Whether no thread wakes for a second."""
    before = waits(server)
    threading.Event().wait(1)
    return waits(server) == before


@linux
def test_an_idle_server_sleeps() -> None:
    """Both backends at once, since it takes five seconds."""
    others = [] if find_spec("gevent") else ["--no-gevent"]
    # The loop wakes once more at the deadline that new clients had, and that must not fall into the window.
    soon = ("--header-timeout", "1")
    with Server("engine:app", "--no-gevent", *soon) as first, Server("engine:app", *soon, *others) as second:
        clients: list[Client] = []
        try:
            for server in (first, second) * 100:
                clients.append(Client(server.port))
                assert clients[-1].get().status == 200  # before the next one comes: it has a second for that
            for server in (first, second):
                wait_for(lambda server=server: sleeps(server))  # after requests it looks at itself for a while
            used = {server: waits(server) for server in (first, second)}
            threading.Event().wait(5)  # the window that is measured, not a fact that is waited for
            for server, before in used.items():
                assert waits(server) - before < 20
        finally:
            for client in clients:
                client.__exit__()


def settled(value: Callable[[], float]) -> float:
    """The first value that stays for a moment."""
    seen: list[float] = [-1.0] * 5

    def stays() -> bool:
        seen.append(value())
        return len(set(seen[-5:])) == 1

    wait_for(stays)
    return seen[-1]


@pytest.mark.daily("greenlets")
@linux
def test_ten_thousand_requests_leave_nothing_behind(backend: tuple[str, ...]) -> None:
    with Server("engine:app", "-w", str(SLOTS), "--no-access-log", *backend) as server:
        counts(server)
        base = settled(lambda: descriptors(server))
        before = counts(server)
        workers, each = 8, 1250
        failures: list[BaseException] = []

        def work(number: int) -> None:
            try:
                left = each
                while left > 0:
                    left -= visit(server.port, number + left)
            except BaseException as error:
                failures.append(error)

        threads = [threading.Thread(target=work, args=[number]) for number in range(workers)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(2 * DEADLINE)
        assert not failures
        wait_for(lambda: descriptors(server) <= base)
        wait_for(lambda: counts(server)["connections"] == 1)
        after = counts(server)
        assert after["greenlets"] <= before["greenlets"] + 1
        assert after["threads"] <= SLOTS + 3
        assert len(tasks(server)) <= SLOTS + 4


def visit(port: int, number: int) -> int:
    """One connection, of one of some kinds; returns how many requests it has made."""
    with connect(port) as sock:
        match number % 5:
            case 0:  # comes, asks and is gone before the answer
                sock.sendall(GET)
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
                return 1
            case 1:  # asks once
                sock.sendall(GET.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"))
                count = 1
            case 2:  # pipelines, and leaves without a word
                sock.sendall(GET * 20)
                count = 20
            case 3:  # leaves in the middle of a body
                sock.sendall(b"POST / HTTP/1.1\r\nHost: test\r\nContent-Length: 1000\r\n\r\nsome")
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
                return 1
            case _:  # keeps its connection, and resets it in the end
                for _ in range(30):
                    sock.sendall(GET)
                    assert receive(sock, 1) == 1
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
                return 30
        assert receive(sock, count) == count
        return count


def receive(sock: socket.socket, count: int) -> int:
    """Answers that have come, at least ``count`` unless it ends before."""
    data = b""
    while data.count(b"hello") < count and (piece := sock.recv(65536)):
        data += piece
    return data.count(b"hello")
