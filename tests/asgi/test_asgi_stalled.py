"""Hundreds of clients that stall, before a server that runs tasks: an honest one is served at once."""

from __future__ import annotations

import json
import socket
import sys
import time
from itertools import chain

import pytest
from stalling import connect, ends

from zibai.system.machine import raise_descriptor_limit

from support import Client, Server, get, run, wait_for

MANY = 100  # of each kind
LIMIT = 8  # seconds that each of them has, and in which all of them have to be there, on a busy machine, too
GET = b"GET %b HTTP/1.1\r\nHost: test\r\n\r\n"
KINDS = {
    "idle": GET % b"/version",
    "head": GET[:20],
    "body": b"POST /echo HTTP/1.1\r\nHost: test\r\nContent-Length: 1000\r\n\r\nsome",
    "chunk": b"POST /echo HTTP/1.1\r\nHost: test\r\nTransfer-Encoding: chunked\r\n\r\n10\r\nsome",
    "deaf": GET % b"/big",
}


def open_connections(server: Server) -> int:
    worker = json.loads(run("ps", "--json", f":{server.port}").stdout)["workers"][0]
    return int(worker["open"])


@pytest.mark.daily("asyncio")
@pytest.mark.skipif(sys.platform == "win32", reason="select() has its limit at 500 connections")
@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
def test_five_hundred_stalled_clients(loop: str) -> None:
    if loop == "uvloop":
        pytest.importorskip("uvloop")
    raise_descriptor_limit()
    limits = [f"--{name}-timeout={LIMIT}" for name in ("header", "keep-alive", "socket")]
    with Server("phases_asgi:app", "--interface", "asgi", "--loop", loop, "--no-access-log", *limits) as server:
        assert get(server.port, "/version").body == b"1"
        clients = {kind: [connect(server.port, 4096 * (kind == "deaf")) for _ in range(MANY)] for kind in KINDS}
        try:
            for kind, data in KINDS.items():
                for client in clients[kind]:
                    client.sendall(data)
            for client in clients["idle"]:
                assert client.recv(4096).endswith(b"\r\n\r\n1")
            for client in clients["deaf"]:
                assert client.recv(12, socket.MSG_WAITALL) == b"HTTP/1.1 200"
            longest = 0.0
            for number in range(20):
                asked = time.monotonic()
                with Client(server.port) as honest:
                    body = b"%d" % number * 1000
                    head = f"POST /echo HTTP/1.1\r\nHost: test\r\nContent-Length: {len(body)}\r\n\r\n"
                    honest.send(head.encode() + body)
                    assert honest.read().body == body
                longest = max(longest, time.monotonic() - asked)
            assert longest < LIMIT, "no stalled client had to go first"

            assert set(ends(clients["idle"])) == {b""}
            late = clients["head"] + clients["body"] + clients["chunk"]
            assert {data[:12] for data in ends(late)} == {b"HTTP/1.1 408"}
            # These clients read nothing more, so the server gives up.
            wait_for(lambda: server.log.count("finally /big") == MANY)
            wait_for(lambda: open_connections(server) == 0)
        finally:
            for client in chain.from_iterable(clients.values()):
                client.close()
        assert get(server.port, "/version").body == b"1"
        assert server.stop() == 0
    assert not [line for line in server.log if "ERROR" in line or "Traceback" in line]
