"""What a TLS client can make the server hold or do by itself: keys that it asks for, records of one byte, an end."""

from __future__ import annotations

import socket
import time
from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
from test_tls import TLSRig
from tlsclient import Records, logging_secrets

from zibai.config.options import Options
from zibai.engine.load import TURN
from zibai.engine.states import BODY, CHOKED, HANDSHAKE
from zibai.engine.table import RESOLUTION
from zibai.net.poller import READ, WRITE
from zibai.tls.records import RECORDS
from zibai.tls.sslsocket import OWN_RESPONSES

from rig import ANSWER, GET, received
from support import DEADLINE, Client, Server, get, wait_for

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from test_tls import Peer

    from credentials import Credentials

LATE = RESOLUTION + 0.01
POST = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1000\r\n\r\n"
UPDATES = 40_000  # 1 MiB of them; without a bound they are all taken


@pytest.fixture
def rig(monkeypatch: pytest.MonkeyPatch, credentials: Credentials) -> Iterator[TLSRig]:
    with TLSRig(monkeypatch, Options("", certfile=credentials.server), socket_timeout=30, slots=100) as rig:
        yield rig


class Flooder:
    """A client that asks for new keys and takes none, with small buffers between it and the server."""

    def __init__(self, rig: TLSRig, credentials: Credentials, folder: Path) -> None:
        keylog = folder / f"keys-{len(rig.connections)}"
        self.peer: Peer
        self.peer, self.connection = rig.peer(logging_secrets(credentials.context(), keylog))
        self.server: Any = self.connection.sock
        self.records = Records(keylog, self.peer.tls.cipher()[0])  # type: ignore[index]
        self.server.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        self.rest = b""  # what the server has not read yet
        self.sent = 0
        self.held = 0  # the most that has waited for us

    def push(self) -> bool:
        """Send as much as goes; whether the server reads no more of it."""
        if not self.rest:
            assert self.sent < UPDATES, "the server answers them all"
            self.rest = b"".join(self.records.key_update() for _ in range(100))
            self.sent += 100
        with suppress(BlockingIOError):
            self.rest = self.rest[self.peer.sock.send(self.rest) :]
        self.held = max(self.held, len(self.server._rest))
        return self.connection.pause == CHOKED

    def take(self) -> None:
        with suppress(BlockingIOError):
            self.peer.sock.recv(65536)
        if self.rest:
            with suppress(BlockingIOError):
                self.rest = self.rest[self.peer.sock.send(self.rest) :]


@pytest.mark.parametrize("begun", [b"", GET[:10], POST + bytes(500)], ids=["idle", "in a head", "in a body"])
def test_a_client_that_takes_no_keys_is_not_read_from_and_closed_in_time(
    rig: TLSRig, credentials: Credentials, tmp_path: Path, begun: bytes
) -> None:
    rig.service.limits = replace(rig.service.limits, header_timeout=75, min_body_rate=0)
    client = Flooder(rig, credentials, tmp_path)
    connection = client.connection
    if begun:
        client.peer.sock.sendall(client.records.data(begun))
        rig.until(lambda: connection.state is BODY or connection.arrival.begun)
    rig.until(client.push)
    assert client.held < OWN_RESPONSES + RECORDS * 40
    assert rig.watched(connection) == WRITE
    held = len(client.server._rest)
    rig.turn(9)
    rig.turn(20)
    assert len(client.server._rest) == held
    assert connection in rig.connections
    rig.turn(1 + LATE)
    assert connection not in rig.connections


def test_a_client_that_takes_them_late_is_served(rig: TLSRig, credentials: Credentials, tmp_path: Path) -> None:
    client = Flooder(rig, credentials, tmp_path)
    rig.until(client.push)
    deadline = client.connection._deadline_before  # type: ignore[attr-defined]
    client.rest += client.records.data(GET)
    rig.until(lambda: (client.take(), rig.run(), rig.served)[2])
    assert client.connection in rig.connections
    assert client.connection.pause == 0
    assert deadline == 1010


def test_one_that_asks_for_keys_before_its_request_is_read_whole(
    rig: TLSRig, credentials: Credentials, tmp_path: Path
) -> None:
    client = Flooder(rig, credentials, tmp_path)
    updates = [client.records.key_update() for _ in range(RECORDS * 2)]
    client.peer.sock.sendall(b"".join(updates) + client.records.data(GET) + client.records.data(GET))
    rig.until(lambda: (client.take(), rig.run(), len(rig.served) == 2)[2])


def test_records_of_one_byte_take_turns(rig: TLSRig, credentials: Credentials, tmp_path: Path) -> None:
    clients = [Flooder(rig, credentials, tmp_path) for _ in range(6)]
    other, _ = rig.peer(credentials.context())
    for client in clients:
        client.peer.sock.setblocking(True)
        client.peer.sock.sendall(client.records.data(POST) + client.records.single_bytes(bytes(999)))
    other.send(GET)
    turns, most, served = 0, 0, 0
    while any(received(client.connection) < 999 for client in clients):
        before = sum(received(client.connection) for client in clients)
        rig.turn()
        rig.run()
        most = max(most, sum(received(client.connection) for client in clients) - before)
        turns += 1
        served = served or bool(rig.served) * turns
    assert RECORDS / 2 < most <= TURN / 8 + RECORDS + 6 * 4
    assert turns >= 999 * 6 / most
    assert served <= 3
    rig.answered(other)


def test_a_handshake_in_pieces_takes_turns(rig: TLSRig, credentials: Credentials) -> None:
    peer, connection = rig.peer(credentials.context(), shaken=False)
    hello = peer.shake()
    body = hello[5:]
    peer.sock.sendall(b"".join(b"\x16\x03\x01\x00\x01" + body[at : at + 1] for at in range(len(body))))
    assert len(body) > 2 * RECORDS
    rig.turn()
    assert connection.state is HANDSHAKE
    assert rig.loop.timeout() == 0
    rig.until(lambda: (peer.step(), peer.done)[1])
    peer.send(GET)
    rig.answered(peer)


def test_handshakes_take_turns(rig: TLSRig, credentials: Credentials) -> None:
    peers = [rig.peer(credentials.context(), shaken=False) for _ in range(20)]
    for peer, connection in peers:
        peer.sock.sendall(peer.shake())
        rig.arrived(connection)
    rig.turn()
    begun = sum(connection.sock.secured is not None for _, connection in peers)  # type: ignore[attr-defined]
    assert 1 <= begun <= 5
    rig.until(lambda: all((peer.step(), peer.done)[1] for peer, _ in peers))


@pytest.mark.parametrize("request_", [GET, GET + GET, POST + bytes(10)], ids=["one", "two", "cut"])
def test_the_loop_learns_of_an_end_behind_data(rig: TLSRig, credentials: Credentials, request_: bytes) -> None:
    peer, connection = rig.peer(credentials.context())
    peer.sock.sendall(peer.encrypt(request_) + peer.goodbye())
    rig.until(lambda: (rig.run(), connection not in rig.connections)[1])
    peer.step()
    assert peer.plain == request_.count(GET) * ANSWER


def test_a_connection_with_an_end_behind_data_watches_nothing_new(rig: TLSRig, credentials: Credentials) -> None:
    """What is known already is not waited for, and the connection is not read from while its application runs."""
    peer, connection = rig.peer(credentials.context())
    peer.sock.sendall(peer.encrypt(GET) + peer.goodbye())
    assert rig.take().connection is connection
    rig.turn()
    assert rig.watched(connection) == READ  # until an event comes
    assert rig.loop.timeout() != 0
    peer.sock.close()
    rig.until(lambda: rig.watched(connection) == 0)
    assert rig.loop.timeout() != 0


# --- end to end -----------------------------------------------------------------------------------


def flooding(server: Server, credentials: Credentials, folder: Path, before: bytes) -> None:
    """Ask for new keys, and take none, until the server ends it, in time."""
    keylog = folder / "keys"
    with Client(server.port, tls=logging_secrets(credentials.context(), keylog)) as client:
        plain = socket.socket(fileno=client.socket.detach())  # below TLS
        client.socket = plain  # type: ignore[assignment]
        plain.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        records = Records(keylog, "TLS_AES_256_GCM_SHA384")
        plain.sendall(records.data(before))
        plain.setblocking(False)
        sent, rest = 0, b""

        def closed() -> bool:
            nonlocal sent, rest
            rest = rest or b"".join(records.key_update() for _ in range(200))
            try:
                taken = plain.send(rest)
            except BlockingIOError:
                return False
            except OSError:
                return True
            rest = rest[taken:]
            sent += taken
            assert sent < 40 * 2**20, "all of it is read"
            return False

        begin = time.monotonic()
        wait_for(closed, 3 * DEADLINE)
        assert time.monotonic() - begin < 2 * DEADLINE


@pytest.mark.slow
@pytest.mark.parametrize("streamed", [(), ("--stream-request-body",)], ids=["whole", "streamed"])
def test_a_flood_of_key_updates_ends(
    backend: tuple[str, ...], streamed: tuple[str, ...], credentials: Credentials, tmp_path: Path
) -> None:
    flags = ("--certfile", credentials.server, "--socket-timeout", "2", *backend, *streamed)
    tls = credentials.context()
    with Server("plain:app", *flags) as server:
        before = b"POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 100000\r\n\r\n" + bytes(5000)
        flooding(server, credentials, tmp_path, before)
        assert get(server.port, tls=tls).status == 200
