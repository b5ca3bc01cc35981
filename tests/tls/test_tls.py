"""TLS without a server process: the socket, the connection in a loop that the test turns, contexts, renewals, words."""

from __future__ import annotations

import gc
import os
import select
import shutil
import socket
import ssl
import subprocess
import sys
import threading
import time
from contextlib import contextmanager, suppress
from dataclasses import replace
from itertools import permutations
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from zibai import serve
from zibai.config.options import Options
from zibai.engine.context import RECEIVE
from zibai.engine.states import HANDSHAKE
from zibai.engine.stream import Stream
from zibai.engine.table import IDLE_GRACE
from zibai.errors import UsageError
from zibai.gateway.redirect import Redirect
from zibai.net.bind import create_bind_socket
from zibai.net.listener import Socket
from zibai.net.poller import READ, WRITE
from zibai.server.serve import Server
from zibai.server.ties import Hooks, Ties
from zibai.tls.certificates import Certificates, distinguished_name, make_context
from zibai.tls.handshake import NOT_PLAIN, Handshake
from zibai.tls.https import check
from zibai.tls.sslsocket import ENCRYPTED_AT_ONCE, TLSSocket

from rig import ANSWER, GET, Rig, ended
from serving import serving
from support import DEADLINE, Client, get, wait_for

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from zibai.engine.connection import Connection

    from credentials import Credentials


class Peer:
    """A client whose every step is the test's. ``sock`` does not block."""

    def __init__(self, sock: socket.socket, context: ssl.SSLContext) -> None:
        self.sock = sock
        sock.setblocking(False)
        self.incoming, self.outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.tls = context.wrap_bio(self.incoming, self.outgoing, server_hostname="localhost")
        self.plain = b""
        self.done = False  # the handshake
        self.ended = ""  # how: "close_notify", "cut", or the name of an alert

    def encrypt(self, data: bytes) -> bytes:
        """What would go over the wire."""
        self.tls.write(data)
        return self.outgoing.read()

    def send(self, data: bytes) -> None:
        self.sock.sendall(self.encrypt(data))

    def goodbye(self) -> bytes:
        """A close_notify, as it would go over the wire."""
        with suppress(ssl.SSLError):
            self.tls.unwrap()
        return self.outgoing.read()

    def shake(self) -> bytes:
        """What the client says next in the handshake."""
        with suppress(BlockingIOError):
            self.incoming.write(self.sock.recv(65536))
        with suppress(ssl.SSLWantReadError):
            self.tls.do_handshake()
            self.done = True
        return self.outgoing.read()

    def step(self) -> None:
        """Take what has come, as far as it goes, and answer."""
        with suppress(BlockingIOError):
            try:
                while data := self.sock.recv(65536):
                    self.incoming.write(data)
            except ConnectionResetError:
                pass
            self.ended = self.ended or "cut"
        try:
            if not self.done:
                self.tls.do_handshake()
                self.done = True
            while data := self.tls.read(65536):
                self.plain += data
            self.ended = "close_notify"
        except ssl.SSLWantReadError:
            pass
        except ssl.SSLError as error:
            self.ended = error.reason
        if self.outgoing.pending:
            with suppress(OSError):
                self.sock.sendall(self.outgoing.read())


@pytest.fixture
def options(credentials: Credentials) -> Options:
    return Options("", certfile=credentials.server)


# --- the socket -------------------------------------------------------------------------------------


@pytest.fixture
def pair(credentials: Credentials, options: Options) -> Iterator[tuple[TLSSocket, Peer]]:
    """Server and client, after the handshake; a small buffer on the way to the client."""
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    server = TLSSocket(Socket(ours.family, ours.type, ours.proto, ours.detach()))
    server.start_handshake(make_context(options))
    peer = Peer(theirs, credentials.context())
    while not (server.is_shaken and peer.done):
        peer.step()
        with suppress(BlockingIOError):
            server.shake(server.receive_raw(65536))
        server.send_raw(server.said())
    peer.step()  # the tickets
    server.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
    yield server, peer
    server.close()
    theirs.close()


def readable(sock: TLSSocket) -> bool:
    """Whether a poller would say so."""
    return bool(select.select([sock], [], [], 0)[0])


def test_a_read_gives_all_that_is_there(pair: tuple[TLSSocket, Peer]) -> None:
    server, peer = pair
    peer.sock.sendall(b"".join(peer.encrypt(b"%d," % number) for number in range(100)))
    assert server.recv(RECEIVE) == b"".join(b"%d," % number for number in range(100))
    assert not readable(server)
    with pytest.raises(BlockingIOError):
        server.recv(RECEIVE)


def test_a_read_gives_no_more_than_asked_for_and_forgets_nothing(pair: tuple[TLSSocket, Peer]) -> None:
    server, peer = pair
    sent = os.urandom(1 << 20)
    wire = memoryview(peer.encrypt(sent))
    got = b""
    while len(got) < len(sent):
        with suppress(BlockingIOError):
            wire = wire[peer.sock.send(wire) :]
        while readable(server):
            with suppress(BlockingIOError):
                piece = server.recv(RECEIVE)
                assert 0 < len(piece) <= RECEIVE
                got += piece
        assert len(sent) - len(got) <= len(wire) + 16_384, "what has come whole is here"
    assert got == sent


def test_what_has_waited_counts_for_the_size_of_a_read(pair: tuple[TLSSocket, Peer]) -> None:
    server, peer = pair
    wire = b"".join(peer.encrypt(bytes(13_000)) for _ in range(6))
    first = len(wire) // 6 - 1
    peer.sock.sendall(wire[:first])
    with pytest.raises(BlockingIOError):
        server.recv(RECEIVE)
    peer.sock.sendall(wire[first:])
    assert len(server.recv(RECEIVE)) <= RECEIVE


def test_part_of_a_record_is_nothing_yet(pair: tuple[TLSSocket, Peer]) -> None:
    server, peer = pair
    wire = peer.encrypt(b"hello")
    for index in range(len(wire) - 1):
        peer.sock.sendall(wire[index : index + 1])
        with pytest.raises(BlockingIOError):
            server.recv(RECEIVE)
    peer.sock.sendall(wire[-1:])
    assert server.recv(RECEIVE) == b"hello"


def test_what_counts_as_sent_has_gone(pair: tuple[TLSSocket, Peer]) -> None:
    server, peer = pair
    out = bytearray(os.urandom(1 << 20))
    sent = bytes(out)
    blocked = 0
    while out:
        try:
            del out[: server.send(out)]
        except BlockingIOError:
            blocked += 1
            before = len(peer.plain)
            peer.step()
            assert len(peer.plain) >= before
    assert blocked > 10
    # Nobody does anything for it any more.
    peer.step()
    assert peer.plain == sent


def test_the_last_byte_counts_when_the_last_of_its_record_has_gone(
    pair: tuple[TLSSocket, Peer], monkeypatch: pytest.MonkeyPatch
) -> None:
    server, peer = pair
    push = TLSSocket._push

    def most(self: TLSSocket) -> int:
        whole, self._rest = self._rest, self._rest[:-1]
        taken = push(self)
        self._rest = whole[-1:]
        return taken

    with monkeypatch.context() as patch:
        patch.setattr(TLSSocket, "_push", most)
        assert server.send(b"hello") == 4
    assert server.send(b"o, and more") == 1
    peer.step()
    assert peer.plain == b"hello"


def test_a_slow_client_is_seen_to_take_something(pair: tuple[TLSSocket, Peer]) -> None:
    server, peer = pair
    view = memoryview(bytes(ENCRYPTED_AT_ONCE))
    progress = []
    while view:
        with suppress(BlockingIOError):
            progress.append(server.send(view))
            view = view[progress[-1] :]
            continue
        peer.sock.recv(2048)
    assert len(progress) > 3
    assert max(progress) < ENCRYPTED_AT_ONCE / 2


def test_an_end_behind_data_is_found_without_another_byte(pair: tuple[TLSSocket, Peer]) -> None:
    server, peer = pair
    peer.sock.sendall(peer.encrypt(b"the last") + peer.goodbye())
    assert server.recv(RECEIVE) == b"the last"
    assert not readable(server)  # nor would a poller of Windows say so after a shutdown
    assert server.has_bytes
    assert server.recv(RECEIVE) == b""
    server.send(b"an answer")
    peer.step()
    assert peer.plain == b"an answer"


def test_a_broken_record_is_the_end(pair: tuple[TLSSocket, Peer]) -> None:
    server, peer = pair
    wire = bytearray(peer.encrypt(b"hello"))
    wire[-1] ^= 1
    peer.sock.sendall(wire)
    assert server.recv(RECEIVE) == b""
    peer.step()
    assert peer.ended == "SSLV3_ALERT_BAD_RECORD_MAC"


def test_a_goodbye_is_said_once_and_in_order(pair: tuple[TLSSocket, Peer]) -> None:
    server, peer = pair
    server.send(b"bye")
    assert server.say_goodbye() == b""
    peer.step()
    assert (peer.plain, peer.ended) == (b"bye", "close_notify")
    server.say_goodbye()
    with pytest.raises(BlockingIOError):
        peer.sock.recv(1)


def test_no_goodbye_in_the_middle(pair: tuple[TLSSocket, Peer]) -> None:
    server, peer = pair
    with suppress(BlockingIOError):
        while True:
            server.send(bytes(ENCRYPTED_AT_ONCE))
    assert server.say_goodbye() == b""
    peer.step()
    assert not peer.ended


def test_two_threads_may_send_and_receive(pair: tuple[TLSSocket, Peer]) -> None:
    """As a runner that reads a body while the loop sends in its stead."""
    server, peer = pair
    size = 1 << 20
    got: list[bytes] = []

    def receive() -> None:
        left = size
        while left:
            select.select([server], [], [], 1)
            with suppress(BlockingIOError):
                got.append(server.recv(RECEIVE))
                left -= len(got[-1])

    receiver = threading.Thread(target=receive, daemon=True)
    receiver.start()

    def send() -> None:
        view = memoryview(bytes(size))
        while view:
            select.select([], [server], [], 1)
            with suppress(BlockingIOError):
                view = view[server.send(view) :]

    sender = threading.Thread(target=send, daemon=True)
    sender.start()
    wire = memoryview(b"")
    written = 0
    while sender.is_alive() or receiver.is_alive():
        if not wire and written < size:
            wire = memoryview(peer.encrypt(b"\1" * ENCRYPTED_AT_ONCE))
            written += ENCRYPTED_AT_ONCE
        with suppress(BlockingIOError):
            wire = wire[peer.sock.send(wire) :]
        peer.step()
    peer.step()
    assert peer.plain == bytes(size)
    assert b"".join(got) == b"\1" * size


# --- the connection ---------------------------------------------------------------------------------


class TLSRig(Rig):
    """A rig whose listener speaks TLS."""

    def __init__(self, patch: pytest.MonkeyPatch, options: Options, **rest: Any) -> None:
        super().__init__(patch, **rest)
        certificates = Certificates(options, self.backend.report)
        certificates.load()

        def opened(sock: Socket, peer: object, endpoint: Any, now: float) -> None:
            self.loop._table.add(Handshake(certificates, self.service, sock, peer, endpoint, now), now)

        self.listener.accepted = opened

    def peer(self, context: ssl.SSLContext, *, shaken: bool = True) -> tuple[Peer, Connection]:
        client, connection = self.connect()
        peer = Peer(client, context)
        if shaken:
            self.until(lambda: (peer.step(), peer.done and connection.state is not HANDSHAKE)[1])
            connection = self.current(connection)
        return peer, connection

    def answered(self, peer: Peer, count: int = 1) -> None:
        self.until(lambda: (self.run(), peer.step(), len(peer.plain) >= count * len(ANSWER))[2])
        assert peer.plain == count * ANSWER
        peer.plain = b""

    def ended(self, peer: Peer) -> str:
        self.until(lambda: (self.run(), peer.step(), peer.ended)[2])
        return peer.ended


@pytest.fixture
def tls_rig(monkeypatch: pytest.MonkeyPatch, options: Options) -> Iterator[TLSRig]:
    with TLSRig(monkeypatch, options) as rig:
        yield rig


def test_requests_one_after_the_other(tls_rig: TLSRig, credentials: Credentials) -> None:
    peer, connection = tls_rig.peer(credentials.context())
    for _ in range(3):
        peer.send(GET)
        tls_rig.answered(peer)
    facts = connection.secured()
    assert facts.pop("SSL_CIPHER").startswith("TLS_")
    assert facts == {
        "HTTPS": "on", "wsgi.url_scheme": "https", "SSL_PROTOCOL": "TLSv1.3", "SSL_CLIENT_VERIFY": "NONE"
    }  # fmt: skip


def test_requests_in_records_of_one_piece(tls_rig: TLSRig, credentials: Credentials) -> None:
    peer, _ = tls_rig.peer(credentials.context())
    peer.sock.sendall(peer.encrypt(GET) + peer.encrypt(GET) + peer.encrypt(GET[:5]) + peer.encrypt(GET[5:]))
    tls_rig.answered(peer, 3)


def test_a_request_in_one_piece_with_the_end_of_the_handshake(tls_rig: TLSRig, credentials: Credentials) -> None:
    peer, connection = tls_rig.peer(credentials.context(), shaken=False)
    wire = b""
    while not peer.done:
        peer.sock.sendall(wire)
        tls_rig.turn()
        wire = peer.shake()
    assert connection.state is HANDSHAKE
    peer.sock.sendall(wire + peer.encrypt(GET))
    tls_rig.answered(peer)


def test_nothing_of_a_handshake_that_is_done_stays(tls_rig: TLSRig, credentials: Credentials) -> None:
    gc.collect()
    gc.disable()
    try:
        peer, _ = tls_rig.peer(credentials.context())
        peer.send(GET)
        tls_rig.answered(peer)
        assert not [each for each in gc.get_objects() if type(each) is Handshake]
    finally:
        gc.enable()


def test_who_stalls_in_the_handshake_has_the_time_of_a_head(tls_rig: TLSRig, credentials: Credentials) -> None:
    silent, _ = tls_rig.peer(credentials.context(), shaken=False)
    half, _ = tls_rig.peer(credentials.context(), shaken=False)
    half.sock.sendall(half.shake()[:100])
    tls_rig.turn(after=9)
    half.sock.sendall(b"\0" * 10)  # a byte now and then buys no time
    assert [each.state for each in tls_rig.connections] == [HANDSHAKE, HANDSHAKE]
    good, _ = tls_rig.peer(credentials.context())
    good.send(GET)
    tls_rig.answered(good)
    tls_rig.turn(after=1.2)
    assert len(tls_rig.connections) == 1
    silent.sock.settimeout(DEADLINE)
    assert ended(silent.sock) == b""
    assert tls_rig.ended(half) == "cut"


def test_after_the_handshake_the_head_has_its_own_time(tls_rig: TLSRig, credentials: Credentials) -> None:
    peer, _ = tls_rig.peer(credentials.context(), shaken=False)
    tls_rig.turn(after=9)
    tls_rig.until(lambda: (peer.step(), peer.done)[1])
    tls_rig.turn(after=9)
    peer.send(GET)
    tls_rig.answered(peer)


@pytest.mark.parametrize(
    "data", [GET, b"G", b"get", b"POST /x HTTP/1.1\r\nContent-Length: 100000\r\n\r\n" + bytes(90_000)]
)
def test_plain_http_is_told_so(tls_rig: TLSRig, data: bytes) -> None:
    client, _ = tls_rig.connect()
    client.sendall(data)
    received = b""
    client.setblocking(False)

    def read() -> bool:
        nonlocal received
        with suppress(BlockingIOError):
            while piece := client.recv(4096):
                received += piece
            return True
        return False

    tls_rig.until(read)
    assert received.startswith(b"HTTP/1.1 400 ")
    assert NOT_PLAIN.encode() in received
    assert tls_rig.service.others[4] == 1
    client.close()
    tls_rig.until(lambda: not tls_rig.connections)


def test_a_handshake_that_fails_is_explained_by_an_alert(tls_rig: TLSRig, credentials: Credentials) -> None:
    context = credentials.context()
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    context.set_ciphers("ECDHE+AES+SHA256:!AESGCM:@SECLEVEL=1")
    peer, _ = tls_rig.peer(context, shaken=False)
    peer.step()
    assert tls_rig.ended(peer) == "SSLV3_ALERT_HANDSHAKE_FAILURE"
    peer.sock.close()
    tls_rig.until(lambda: not tls_rig.connections)


@pytest.mark.parametrize(
    "garbage", [b"\x16\x03\x01\xff\xff" + bytes(100), bytes(100), b"\x80\x2e\x01\x03\x01", b"\xff" * 70_000]
)
def test_garbage_costs_its_connection(tls_rig: TLSRig, garbage: bytes) -> None:
    client, connection = tls_rig.connect()
    client.sendall(garbage)
    client.shutdown(socket.SHUT_WR)
    tls_rig.until(lambda: not tls_rig.connections)
    assert connection.sock.fileno() == -1


def test_a_handshake_waits_for_a_client_that_does_not_take_it(
    tls_rig: TLSRig, credentials: Credentials, monkeypatch: pytest.MonkeyPatch
) -> None:
    send_raw = TLSSocket.send_raw
    room = 0

    def slowly(self: TLSSocket, data: bytes) -> int:
        nonlocal room
        if not room:
            raise BlockingIOError
        taken = send_raw(self, bytes(data)[:room])
        room -= taken
        return taken

    monkeypatch.setattr(TLSSocket, "send_raw", slowly)
    peer, connection = tls_rig.peer(credentials.context(), shaken=False)
    peer.step()
    tls_rig.until(lambda: tls_rig.watched(connection) == READ | WRITE)

    def more() -> bool:
        nonlocal room
        room += 100
        tls_rig.turn()
        peer.step()
        return peer.done and connection.state is not HANDSHAKE

    wait_for(more)
    connection = tls_rig.current(connection)
    assert tls_rig.watched(connection) == READ
    peer.send(GET)
    tls_rig.answered(peer)


def test_a_goodbye_waits_for_a_client_that_does_not_take_it(
    tls_rig: TLSRig, credentials: Credentials, monkeypatch: pytest.MonkeyPatch
) -> None:
    say_goodbye = TLSSocket.say_goodbye

    def refused(self: TLSSocket) -> bytes:
        with monkeypatch.context() as patch:

            def full(self: TLSSocket) -> int:
                raise BlockingIOError

            patch.setattr(TLSSocket, "_push", full)
            return say_goodbye(self)

    monkeypatch.setattr(TLSSocket, "say_goodbye", refused)
    peer, _ = tls_rig.peer(credentials.context())
    peer.send(GET.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"))
    tls_rig._app = closing
    assert tls_rig.ended(peer) == "close_notify"
    assert peer.plain == ANSWER
    peer.sock.close()
    tls_rig.until(lambda: not tls_rig.connections)


def closing(stream: Stream) -> None:
    stream.sender.closing = True
    stream.send(ANSWER)


def test_the_end_is_announced(tls_rig: TLSRig, credentials: Credentials) -> None:
    """Of an idle connection, of one that asked for it, of one that has said goodbye itself."""
    idle, _ = tls_rig.peer(credentials.context())
    tls_rig.turn(after=76)
    assert tls_rig.ended(idle) == "close_notify"

    tls_rig._app = closing
    closed, _ = tls_rig.peer(credentials.context())
    closed.send(GET)
    assert tls_rig.ended(closed) == "close_notify"
    assert closed.plain == ANSWER


def test_a_client_that_only_listens_any_more_is_answered(tls_rig: TLSRig, credentials: Credentials) -> None:
    context = credentials.context()
    for requests in (1, 3):
        peer, _ = tls_rig.peer(context)
        peer.sock.sendall(peer.encrypt(GET * requests) + peer.goodbye())
        before = len(tls_rig.served)
        tls_rig.until(lambda: (tls_rig.run(), len(tls_rig.served) == before + requests)[1])  # noqa: B023
        tls_rig.until(lambda: (tls_rig.run(), not tls_rig.connections)[1])
        # Python's ssl reads nothing any more when it has said goodbye, so count what came.
        peer.sock.settimeout(DEADLINE)
        assert len(ended(peer.sock)) > requests * len(ANSWER)


def test_nothing_is_left_of_a_connection(tls_rig: TLSRig, credentials: Credentials) -> None:
    gc.collect()
    gc.disable()
    try:
        peer, connection = tls_rig.peer(credentials.context())
        peer.send(GET)
        tls_rig.answered(peer)
        kind, number = type(connection), id(connection)
        del connection
        peer.sock.close()
        tls_rig.until(lambda: not tls_rig.connections)
        assert number not in [id(each) for each in gc.get_objects() if type(each) in (kind, Stream)]
        assert not [each for each in gc.get_objects() if type(each) is Stream and each.service is tls_rig.service]
    finally:
        gc.enable()


def test_an_answer_that_is_cut_does_not_look_whole(tls_rig: TLSRig, credentials: Credentials) -> None:
    def cut(stream: Stream) -> None:
        stream.send(b"HTTP/1.1 200 OK\r\n\r\nhalf")
        stream.cut()

    tls_rig._app = cut
    peer, _ = tls_rig.peer(credentials.context())
    peer.send(GET)
    assert tls_rig.ended(peer) == "cut"


def test_a_handshake_is_not_waited_for_when_the_server_ends(tls_rig: TLSRig, credentials: Credentials) -> None:
    tls_rig.peer(credentials.context(), shaken=False)
    late, _ = tls_rig.peer(credentials.context(), shaken=False)
    tls_rig.loop.drain()
    tls_rig.turn()
    tls_rig.until(lambda: (late.step(), late.done)[1])
    late.send(GET)
    tls_rig.until(lambda: (tls_rig.run(), late.step(), late.plain)[2])
    tls_rig.turn(after=IDLE_GRACE + 0.2)
    tls_rig.until(lambda: tls_rig.loop.finished)


def test_a_large_answer_is_lent_and_arrives(tls_rig: TLSRig, credentials: Credentials) -> None:
    body = os.urandom(900_000)
    tls_rig._app = lambda stream: stream.send(body)
    peer, connection = tls_rig.peer(credentials.context())
    connection.sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
    peer.send(GET)
    tls_rig.until(tls_rig.run)
    assert connection.out
    assert tls_rig.watched(connection) & WRITE
    tls_rig.until(lambda: (peer.step(), len(peer.plain) == len(body))[1])
    assert peer.plain == body
    assert tls_rig.watched(connection) == READ


def test_it_is_not_handed_over(tls_rig: TLSRig, credentials: Credentials) -> None:
    peer, connection = tls_rig.peer(credentials.context())
    giving, taking = socket.socketpair()
    with taking:
        tls_rig.loop.hand_over_to(Socket(giving.family, giving.type, giving.proto, giving.detach()))
        tls_rig.loop.drain()
        tls_rig.turn()
        assert tls_rig.connections == [connection]
        peer.send(GET)
        tls_rig.answered(peer)


# --- contexts ---------------------------------------------------------------------------------------


def test_only_good_ciphers_are_offered(options: Options) -> None:
    context = make_context(options)
    assert context.minimum_version is ssl.TLSVersion.TLSv1_2
    assert context.options & ssl.OP_NO_COMPRESSION
    assert context.options & ssl.OP_NO_RENEGOTIATION
    for cipher in context.get_ciphers():
        assert cipher["aead"], cipher
        assert cipher["name"].startswith(("ECDHE-", "TLS_")), cipher


def test_ciphers_and_the_oldest_version_can_be_chosen(options: Options) -> None:
    chosen = make_context(replace(options, ciphers="ECDHE-ECDSA-AES128-GCM-SHA256", tls_min_version="1.3"))
    assert chosen.minimum_version is ssl.TLSVersion.TLSv1_3
    names = [cipher["name"] for cipher in chosen.get_ciphers()]
    assert [name for name in names if not name.startswith("TLS_")] == ["ECDHE-ECDSA-AES128-GCM-SHA256"]


@pytest.fixture
def files(tmp_path: Path, credentials: Credentials, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory with all that can be wrong; it is the current one."""
    monkeypatch.chdir(tmp_path)
    both = Path(credentials.server).read_bytes()
    begin = both.index(b"-----BEGIN CERTIFICATE")
    key, certificate = both[:begin], both[begin:]
    for name, data in {
        "both.pem": both,
        "cert.pem": certificate,
        "key.pem": key,
        "empty.pem": b"",
        "odd.pem": certificate[:100] + b"!!!\n" + certificate[100:],
    }.items():
        Path(name).write_bytes(data)
    shutil.copy(credentials.stranger, "stranger.pem")
    shutil.copy(credentials.authority, "authority.pem")
    Path("folder").mkdir()
    if openssl := shutil.which("openssl"):
        command = [openssl, "pkey", "-in", "key.pem", "-aes256", "-passout", "pass:secret", "-out", "encrypted.pem"]
        subprocess.run(command, check=True, capture_output=True)
    monkeypatch.setenv("RIGHT", "secret")
    monkeypatch.setenv("WRONG", "mistake")
    return tmp_path


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"certfile": "none.pem"}, "--certfile: 'none.pem': No such file or directory"),
        ({"certfile": "empty.pem"}, "--certfile: 'empty.pem' has no certificate in PEM form"),
        ({"certfile": "odd.pem", "keyfile": "key.pem"}, "--certfile: 'odd.pem' with the key 'key.pem': "),
        (
            {"certfile": "cert.pem"},
            "--certfile: 'cert.pem' has no private key in PEM form; name the file of the key with --keyfile",
        ),
        ({"certfile": "cert.pem", "keyfile": "none.pem"}, "--keyfile: 'none.pem': No such file or directory"),
        ({"certfile": "cert.pem", "keyfile": "cert.pem"}, "--keyfile: 'cert.pem' has no private key in PEM form"),
        (
            {"certfile": "cert.pem", "keyfile": "stranger.pem"},
            "--keyfile: 'stranger.pem' is not the key of the certificate 'cert.pem'",
        ),
        (
            {"certfile": "cert.pem", "keyfile": "key.pem", "keyfile_password_env": "NOWHERE"},
            "--keyfile-password-env: there is no environment variable 'NOWHERE'",
        ),
        (
            {"certfile": "cert.pem", "keyfile": "encrypted.pem"},
            "--keyfile: 'encrypted.pem' is encrypted; name the variable of its password: --keyfile-password-env",
        ),
        (
            {"certfile": "cert.pem", "keyfile": "encrypted.pem", "keyfile_password_env": "WRONG"},
            "--keyfile: 'encrypted.pem': wrong password in the environment variable 'WRONG'",
        ),
        (
            {"certfile": "both.pem", "ca_certs": "none.pem", "cert_reqs": "optional"},
            "--ca-certs: 'none.pem': No such file or directory",
        ),
        (
            {"certfile": "both.pem", "ca_certs": "empty.pem", "cert_reqs": "optional"},
            "--ca-certs: 'empty.pem': no certificate or crl found",
        ),
        ({"certfile": "both.pem", "ciphers": "NONE"}, "--ciphers: OpenSSL knows no cipher in 'NONE'"),
    ],
)
def test_what_cannot_be_used_is_said_in_a_line(files: Path, fields: dict[str, Any], message: str) -> None:
    if fields.get("keyfile") == "encrypted.pem" and not shutil.which("openssl"):
        pytest.skip("openssl is not installed")
    with pytest.raises(UsageError) as caught:
        make_context(Options("", **fields))
    assert str(caught.value).startswith(message)
    assert "\n" not in str(caught.value)


def test_a_folder_is_no_file(files: Path) -> None:
    with pytest.raises(UsageError, match="--certfile: 'folder': "):
        make_context(Options("", certfile="folder"))


def test_a_key_may_be_encrypted(files: Path) -> None:
    if not shutil.which("openssl"):
        pytest.skip("openssl is not installed")
    make_context(Options("", certfile="cert.pem", keyfile="encrypted.pem", keyfile_password_env="RIGHT"))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"keyfile": "k"}, "--keyfile needs --certfile"),
        ({"keyfile_password_env": "X"}, "--keyfile-password-env needs --certfile"),
        ({"ca_certs": "a", "cert_reqs": "required"}, "--ca-certs needs --certfile"),
        ({"cert_reqs": "required"}, "--cert-reqs needs --certfile"),
        ({"tls_min_version": "1.3"}, "--tls-min-version needs --certfile"),
        ({"ciphers": "x"}, "--ciphers needs --certfile"),
        ({"redirect_http": ":80"}, "--redirect-http needs --certfile"),
        ({"certfile": "c", "ca_certs": "a"}, "--ca-certs needs --cert-reqs optional or required"),
        ({"certfile": "c", "cert_reqs": "optional"}, "--cert-reqs optional needs --ca-certs"),
        ({"certfile": "c", "tls_dev": True}, "--tls-dev makes a certificate of its own; leave --certfile and"),
        ({"certfile": "c", "tls_min_version": "1.1"}, "--tls-min-version must be one of 1.2, 1.3, not '1.1'"),
        ({"certfile": "c", "redirect_http": "80"}, "--redirect-http: '80' is no address"),
    ],
)
def test_options_that_do_not_go_together(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError) as caught:
        Options("", **fields).validate()
    assert str(caught.value).startswith(message)


@pytest.mark.skipif(sys.platform == "win32", reason="unix sockets")
def test_unix_sockets_alone_have_no_tls(options: Options, tmp_path: Path) -> None:
    with create_bind_socket(f"unix:{tmp_path / 's'}") as unix, create_bind_socket("127.0.0.1:0") as tcp:
        check(options, [unix, tcp])
        with pytest.raises(UsageError, match="a unix socket is always plain"):
            check(options, [unix])
        with pytest.raises(UsageError, match="a unix socket is always plain"):
            check(replace(options, redirect_http="127.0.0.1:0"), [unix, tcp])


# --- renewals ---------------------------------------------------------------------------------------


class Renewals:
    """A certificate in ``path``, and what is reported of it."""

    def __init__(self, path: Path, credentials: Credentials) -> None:
        self.path, self._credentials = path, credentials
        self.replace()
        self.said: list[str] = []
        self.certificates = Certificates(Options("", certfile=str(path)), self._report)
        self.certificates.load()

    def _report(self, log: Callable[..., None], message: str, *args: object) -> None:
        self.said.append(f"{log.__name__}: {message % args}")

    def replace(self) -> None:
        """As those do it that renew certificates: another file in its place."""
        os.replace(self._credentials.issue("renewed"), self.path)


@pytest.fixture
def renewals(tmp_path: Path, credentials: Credentials) -> Renewals:
    return Renewals(tmp_path / "site.pem", credentials)


def test_a_changed_file_is_used_a_second_later_at_most(renewals: Renewals) -> None:
    context = renewals.certificates.context
    first = context(100)
    renewals.replace()
    assert context(100.9) is first, "looked for more than once a second"
    second = context(101)
    assert second is not first
    assert context(200) is second
    assert renewals.said == [f"info: certificate {renewals.path} has changed and is in use"]


def test_a_broken_file_keeps_the_old_and_says_so_once(renewals: Renewals) -> None:
    context = renewals.certificates.context
    first = context(100)
    renewals.path.write_text("-----BEGIN CERTIFICATE-----\nPRIVATE KEY-", encoding="ascii")
    for now in range(101, 105):
        assert context(now) is first
    (line,) = renewals.said
    assert line.startswith("error: the old certificate stays in use: --certfile: ")
    renewals.path.unlink()
    for now in range(105, 110):
        assert context(now) is first
    assert renewals.said[1:] == [
        f"error: the old certificate stays in use: --certfile: {str(renewals.path)!r}: No such file or directory"
    ]
    renewals.replace()
    assert context(111) is not first
    assert len(renewals.said) == 3


# --- words ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "text"),
    [
        (((("countryName", "DE"),), (("commonName", "Ann"),)), "CN=Ann,C=DE"),
        (((("organizationName", 'a,b+"c"\\<d>;'),),), 'O=a\\,b\\+\\"c\\"\\\\\\<d\\>\\;'),
        (((("commonName", "#x"),), (("commonName", " y "),), (("commonName", " "),)), "CN=\\ ,CN=\\ y\\ ,CN=\\#x"),
        (((("commonName", "a\r\nb\0"),),), "CN=a\\0D\\0Ab\\00"),
        (((("commonName", "a"), ("emailAddress", "b@c")),), "CN=a+emailAddress=b@c"),
        (((("commonName", "é"),),), "CN=Ã©"),
        ((), ""),
    ],
)
def test_distinguished_names(name: Any, text: str) -> None:
    assert distinguished_name(name) == text


@pytest.mark.parametrize(
    ("port", "host", "target", "location"),
    [
        (443, "a.example", "/x?y=1&z=%2F", "https://a.example/x?y=1&z=%2F"),
        (8443, "a.example:8000", "/", "https://a.example:8443/"),
        (443, "[::1]:80", "/", "https://[::1]/"),
        (8443, "[::1]", "/", "https://[::1]:8443/"),
        (443, "a.example", "//evil.example/x", "https://a.example//evil.example/x"),
        (443, "a.example", "http://b.example/x?y", "https://a.example/x?y"),
        (443, "a.example", "HTTP://b.example", "https://a.example/"),
        (443, "a.example", "http://b.example?x", "https://a.example/?x"),
        (443, "a.example", "*", "https://a.example/"),
        (443, None, "/x", "https://10.0.0.1/x"),
        (443, "", "/x", "https://10.0.0.1/x"),
        (443, "a.example", "/login?next=https://site/account", "https://a.example/login?next=https://site/account"),
        (443, "a.example", "/http://b.example/x", "https://a.example/http://b.example/x"),
        (443, "a.example", "http://b.example/?next=http://c/d", "https://a.example/?next=http://c/d"),
    ],
)
def test_where_it_redirects(port: int, host: str | None, target: str, location: str) -> None:
    environ = {"SERVER_NAME": "10.0.0.1", "REQUEST_URI": target} | ({} if host is None else {"HTTP_HOST": host})
    started: list[Any] = []
    Redirect(port)(environ, lambda *args: started.append(args))
    ((status, fields),) = started
    assert status == "308 Permanent Redirect"
    assert dict(fields)["Location"] == location


def test_a_redirect_to_an_ipv6_address_has_its_brackets() -> None:
    started: list[Any] = []
    Redirect(443)({"SERVER_NAME": "[::1]", "REQUEST_URI": "/"}, lambda *args: started.append(args))
    assert dict(started[0][1])["Location"] == "https://[::1]/"


def test_where_it_redirects_is_found_in_linear_time() -> None:
    """A second time for each letter, as for 60,000 of them, would take minutes."""
    for target in ("/" + "a" * 60_000, "/" + "a:" * 30_000, "/?" + "http:" * 12_000, "http://" + "a" * 60_000 + "?x"):
        environ = {"SERVER_NAME": "a", "HTTP_HOST": "b", "REQUEST_URI": target}
        before = time.process_time()
        Redirect(443)(environ, lambda *_: None)
        assert time.process_time() - before < 0.5


@contextmanager
def redirecting(
    app: Callable[..., Any], credentials: Credentials, more: list[socket.socket], **options: Any
) -> Iterator[list[int]]:
    """A server with TLS, other listeners and a redirect to TLS: the ports of the first and the last."""
    sockets = [create_bind_socket("127.0.0.1:0"), *more, create_bind_socket("127.0.0.1:0")]
    ports = [sockets[0].getsockname()[1], sockets[-1].getsockname()[1]]
    settings = Options("", certfile=credentials.server, redirect_http="127.0.0.1:0", **options)
    end, ready = threading.Event(), threading.Event()
    ties = Ties(on_start=lambda _: ready.set())
    server = Server(app, sockets, settings, end=end, backend="threads", hooks=Hooks(), ties=ties)
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        assert ready.wait(DEADLINE)
        yield ports
    finally:
        end.set()
        thread.join(DEADLINE)
        assert not thread.is_alive()


def telling(environ: dict[str, Any], start_response: Callable[..., object]) -> list[bytes]:
    start_response("200 OK", [("Content-Type", "text/plain")])
    keys = ("wsgi.url_scheme", "SCRIPT_NAME", "PATH_INFO", "HTTP_HOST")
    return [" ".join(environ[key] for key in keys).encode()]


@pytest.mark.skipif(sys.platform == "win32", reason="there are no unix sockets")
@pytest.mark.parametrize("order", list(permutations(range(3))))
def test_what_one_listener_is_sent_changes_nothing_for_another(
    credentials: Credentials, tmp_path: Path, order: tuple[int, ...]
) -> None:
    """The very same bytes to all of them, so that whatever is remembered of a head is found."""
    unix = create_bind_socket(f"unix:{tmp_path / 's'}")
    with redirecting(telling, credentials, [unix], url_prefix="/shop") as (secure, plain):
        places: list[tuple[Any, Any]] = [(secure, credentials.context()), (tmp_path / "s", None), (plain, None)]
        bodies = [
            b"https /shop /cart test",
            b"http /shop /cart test",
            f"This is https://test:{secure}/shop/cart\n".encode(),
        ]
        for number in order * 3:
            where, context = places[number]
            assert get(where, "/shop/cart", "X-Forwarded-For: 1.2.3.4", tls=context).body == bodies[number]


@pytest.mark.parametrize("fields", [["Content-Length: 1000000000000"], ["Transfer-Encoding: chunked"]])
@pytest.mark.parametrize("expect", [[], ["Expect: 100-continue"]])
def test_it_redirects_at_the_head_whatever_body_comes(
    credentials: Credentials, fields: list[str], expect: list[str]
) -> None:
    with redirecting(telling, credentials, []) as (secure, plain), Client(plain) as client:
        client.send("\r\n".join(["POST /a HTTP/1.1", "Host: shop", *fields, *expect, "", ""]).encode())
        answer = client.read()
        assert (answer.status, answer.headers["Location"]) == (308, f"https://shop:{secure}/a")
        assert answer.headers["Connection"] == "close"
        assert client.rest() == b""


# --- embedded ---------------------------------------------------------------------------------------


def test_serve_speaks_tls_and_sends_files(credentials: Credentials, tmp_path: Path) -> None:
    (path := tmp_path / "file").write_bytes(os.urandom(300_000))

    def app(environ: dict[str, Any], start_response: Callable[..., object]) -> Any:
        start_response("200 OK", [("Content-Type", "application/octet-stream")])
        return environ["wsgi.file_wrapper"](path.open("rb"))

    with serving(app, certfile=credentials.server, valid=False) as server:
        for _ in range(2):
            assert get(server.port, tls=credentials.context()).body == path.read_bytes()


def test_serve_refuses_what_cannot_be_used() -> None:
    with (
        create_bind_socket("127.0.0.1:0") as sock,
        pytest.raises(UsageError, match=r"^--certfile: 'nowhere.pem': No such"),
    ):
        serve(app=lambda *_: [], bind_socket=sock, certfile="nowhere.pem")
