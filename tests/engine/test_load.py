"""What clients can make a server do in one turn, and hold, all together: counted, and not timed."""

from __future__ import annotations

import io
import logging
import os
import tempfile
import threading
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from zibai.config.addresses import Trust
from zibai.engine import body as body_module
from zibai.engine import load as load_module
from zibai.engine.capacity import FULL_PAUSE, IDLE_BEFORE_CLOSE, SLOW
from zibai.engine.context import IN_MEMORY, RECEIVE
from zibai.engine.deferred import AGAIN
from zibai.engine.load import TURN, Load, spool
from zibai.engine.outgoing import File
from zibai.engine.states import BODY, DISCARD, LINGER, STARVED
from zibai.engine.table import RESOLUTION
from zibai.errors import Refused
from zibai.protocol.http1 import FastLane, reference
from zibai.protocol.http1.codec import Codec
from zibai.protocol.http1.reference import LINES, ODD
from zibai.tls.records import RECORDS, Records

from rig import ANSWER, GET, Rig, ended, read, received
from support import Client, Server

if TYPE_CHECKING:
    import socket
    import ssl

    from zibai.engine.connection import Connection
    from zibai.engine.stream import Stream

    from credentials import Credentials

LATE = RESOLUTION + 0.01
CHUNKED = b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
ONE_BYTE = b"1\r\na\r\n"


def post(size: int) -> bytes:
    return b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n" % size


# --- chunks: cut, or read by h11 ------------------------------------------------------------------

chunk = st.one_of(
    st.integers(1, 20).map(lambda size: b"%x\r\n%b\r\n" % (size, b"x" * size)),
    st.integers(1, 300).map(lambda size: b"%05X\r\n%b\r\n" % (size, b"y" * size)),
    st.sampled_from([
        b"1;a=b\r\nx\r\n", b"1 \r\nx\r\n", b"1\r\nxx\r\n", b"1\r\nx\n", b"1\nx\r\n", b"\r\n", b"0x1\r\nx\r\n",
        b"+1\r\nx\r\n",
        b"0\r\n\r\n", b"0\r\nA: b\r\n\r\n", b"00000000\r\n", b"000000001\r\nx\r\n", b"1\r\nx", b"2\r\n\r\n\r\n",
        b"f" * 16 + b"\r\nx\r\n", ONE_BYTE * 300, b"1;" + b"a" * 3000 + b"\r\nx\r\n", b"5\r\nabcde\r\n" * 200,
    ]),
)  # fmt: skip


def decoded(raw: bytes, cuts: list[int], lane: FastLane | None) -> tuple[bytes, int | None, bytes]:
    """The data of a body, with what status it was refused, and what was left."""
    codec = Codec(65536, lane)
    codec.feed(CHUNKED)
    assert codec.next_request() is not None
    data, pieces = b"", []
    for size in cuts:
        pieces.append(raw[:size])
        raw = raw[size:]
    try:
        for piece in [*pieces, raw]:
            codec.feed(piece)
            while (got := codec.next_body()) is not None or codec.paused:
                assert codec.spent < LINES + ODD * 130
                if got == b"":
                    return data, None, bytes(codec._buffer) + codec._piece[codec._at :]
                data += got or b""
    except Refused as refused:
        return data, int(refused.status), b""
    return data, 0, b""


@settings(max_examples=400, deadline=None, database=None)
@given(raw=st.lists(chunk, max_size=30).map(b"".join), cuts=st.lists(st.integers(1, 500), max_size=5))
def test_chunks_that_are_cut_mean_what_h11_says(raw: bytes, cuts: list[int]) -> None:
    expected = decoded(raw, [], None)
    assert decoded(raw, [], FastLane()) == expected
    data, status, left = decoded(raw, cuts, FastLane())
    assert (data, status) == expected[:2]
    if status is None:
        assert expected[2].startswith(left) or expected[2].endswith(left)


@pytest.mark.parametrize("lane", [None, FastLane()], ids=["h11", "cut"])
def test_size_lines_that_outweigh_the_data_are_refused(lane: FastLane | None) -> None:
    data, status, _ = decoded(ONE_BYTE * 40_000, [], lane)
    assert status == 400
    assert 10_000 < len(data) < 20_000
    # What has as much data as framing is no attack.
    assert decoded(b"5\r\nabcde\r\n" * 40_000 + b"0\r\n\r\n", [], lane)[:2] == (b"abcde" * 40_000, None)


@pytest.mark.parametrize("lane", [None, FastLane()], ids=["h11", "cut"])
def test_trailers_are_as_many_as_fields_may_be(lane: FastLane | None) -> None:
    for count, status in ((128, None), (129, 431)):
        assert decoded(b"0\r\n" + b"a:\r\n" * count + b"\r\n", [], lane) == (b"", status, b"")


def test_no_call_of_the_codec_takes_long() -> None:
    for raw in (ONE_BYTE * 10_000, b"1;a\r\na\r\n" * 5_000):
        for lane in (None, FastLane()):
            codec = Codec(65536, lane)
            codec.feed(CHUNKED)
            codec.next_request()
            codec.feed(raw)
            piece = codec.next_body()
            assert piece is not None
            assert len(piece) <= LINES
            assert codec.spent <= LINES + ODD
            assert codec.paused


def test_many_fields_are_refused_before_h11_reads_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reference, "parse", lambda head: pytest.fail("h11 was asked"))
    codec = Codec(65536)
    codec.feed(b"GET / HTTP/1.1\r\nHost: a\r\n" + b"A:\r\n" * 15_000 + b"\r\n")
    with pytest.raises(Refused) as refused:
        codec.next_request()
    assert refused.value.status == 431


# --- the budget of a turn -------------------------------------------------------------------------


class Lines:
    """Counts the framing that is read, in each turn."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.spent = 0
        decode = reference.ChunkedBody.decode

        def counting(body: reference.ChunkedBody, buffer: bytearray) -> bytes | None:
            try:
                return decode(body, buffer)
            finally:
                self.spent += body.spent

        monkeypatch.setattr(reference.ChunkedBody, "decode", counting)

    def turn(self, rig: Rig) -> int:
        self.spent = 0
        rig.turn()
        return self.spent


@pytest.mark.daily("1-h11", "4-h11", "4-cut", "40-cut")
@pytest.mark.parametrize("lane", [None, FastLane()], ids=["h11", "cut"])
@pytest.mark.parametrize("clients", [1, 4, 40])
def test_one_byte_chunks_take_turns(monkeypatch: pytest.MonkeyPatch, clients: int, lane: FastLane | None) -> None:
    lines = Lines(monkeypatch)
    with Rig(monkeypatch, slots=100, lane=lane) as rig:
        connections = []
        for _ in range(clients):
            client, connection = rig.connect()
            client.sendall(CHUNKED + ONE_BYTE * 5_000)
            connections.append(connection)
        other, _ = rig.connect()
        other.sendall(GET)
        rig.arrived(max(rig.connections, key=lambda each: each.fd))
        turns = most = 0
        while any(received(each) < 5_000 for each in connections):
            spent = lines.turn(rig)
            most = max(most, spent)
            assert spent <= TURN + LINES
            assert rig.loop.timeout() == 0 or not rig.loop._table.deferred._soon
            rig.run()
            turns += 1
            assert rig.served or turns <= 2
        assert read(other) == ANSWER
        assert most >= LINES


def test_those_who_wait_take_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    with Rig(monkeypatch, slots=100) as rig:
        connections = []
        for _ in range(20):
            client, connection = rig.connect()
            client.sendall(CHUNKED + ONE_BYTE * 10_000)
            connections.append(connection)
        rig.until(lambda: all(received(each) for each in connections))
        before = [received(each) for each in connections]
        for _ in range(12):
            rig.turn()
            got = [received(each) - had for each, had in zip(connections, before, strict=True)]
            assert max(got) - min(got) <= 2 * LINES
        assert min(got) > LINES


def test_an_ordinary_upload_goes_on_beside_many_that_use_up_each_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    with Rig(monkeypatch, slots=100) as rig:
        for _ in range(30):
            client, _ = rig.connect()
            client.sendall(CHUNKED + ONE_BYTE * 9_000)
        rig.until(lambda: rig.loop._table.deferred._soon)
        other, connection = rig.connect()
        other.sendall(CHUNKED)
        rig.until(lambda: connection.state is BODY)
        other.sendall(b"3\r\nabc\r\n0\r\n\r\n")
        for _ in range(12):
            rig.turn()
        rig.run()
        assert read(other) == ANSWER
        assert rig.loop._table.deferred._soon


def test_the_rest_of_a_body_takes_turns_too(monkeypatch: pytest.MonkeyPatch) -> None:
    lines = Lines(monkeypatch)
    with Rig(monkeypatch, stream_body=True) as rig:
        client, connection = rig.connect()
        client.sendall(CHUNKED + ONE_BYTE * 5_000 + b"0\r\n\r\n" + GET)
        rig.until(rig.run)
        assert read(client) == ANSWER
        assert connection.state is DISCARD
        turns = 0
        while connection.state is DISCARD:
            assert lines.turn(rig) <= TURN
            turns += 1
        assert turns > 5
        rig.until(rig.run)
        assert read(client) == ANSWER


def test_a_paused_connection_that_goes_is_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    with Rig(monkeypatch, socket_timeout=5) as rig:
        client, connection = rig.connect()
        client.sendall(CHUNKED + ONE_BYTE * 5_000)
        rig.until(lambda: rig.loop._table.deferred._soon)
        client.close()
        rig.until(lambda: connection not in rig.connections)
        assert not rig.loop._table.deferred._soon
        assert rig.loop.timeout() != 0


def test_a_runner_that_never_has_to_wait_lets_others_run(monkeypatch: pytest.MonkeyPatch) -> None:
    bodies: list[int] = []

    def app(stream: Stream) -> None:
        bodies.append(len(stream.body.read()))
        stream.send(ANSWER)

    with Rig(monkeypatch, stream_body=True, app=app) as rig:
        rests = []
        real = rig.backend.readiness.wait_readable

        def wait_readable(sock: Any, timeout: float) -> bool:
            rests.append(timeout)
            return real(sock, timeout)

        monkeypatch.setattr(rig.backend.readiness, "wait_readable", wait_readable, raising=False)
        client, _ = rig.connect()
        client.sendall(CHUNKED + b"5\r\nabcde\r\n" * 5_000 + b"0\r\n\r\n")
        rig.until(rig.run)
        assert bodies == [25_000]
        assert rests.count(0) >= 2


# --- bodies in memory -----------------------------------------------------------------------------


def test_four_hundred_unfinished_bodies_stay_within_the_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    bound, size = 2 * 1024**2, 500 * 1024
    with Rig(monkeypatch, slots=500, load=Load(max_memory=bound)) as rig:
        load = rig.service.load
        connections = []
        for _ in range(400):
            client, connection = rig.connect()
            client.setblocking(False)
            connections.append((client, connection))
        left = {client: memoryview(post(size) + bytes(size - 1)) for client, _ in connections}
        most = 0

        def push() -> bool:
            for client, rest in left.items():
                try:
                    left[client] = rest[client.send(rest) :]
                except BlockingIOError:
                    pass
            return not any(left.values())

        def measured() -> bool:
            nonlocal most
            held = sum(
                len(each.intake.file.getbuffer())
                for _, each in connections
                if each.intake is not None and isinstance(each.intake.file, io.BytesIO) and each.intake.memory
            )
            assert held == load.memory
            most = max(most, held)
            return push() and all(received(each) == size - 1 for _, each in connections)

        rig.until(measured)
        assert bound / 2 < most <= bound
        assert load.files == sum(not isinstance(each.intake.file, io.BytesIO) for _, each in connections)
        assert load.disk + load.memory == 400 * (size - 1)
        for client, _ in connections[:200]:
            client.setblocking(True)
            client.sendall(b"x")
        rig.until(lambda: (rig.run(), len(rig.served) == 200)[1])
        for client, _ in connections[200:]:
            client.close()
        rig.until(lambda: len(rig.connections) == 200)
        assert (load.memory, load.disk, load.files) == (0, 0, 0)


@pytest.mark.parametrize("size", [10, 1000, 60_000])
def test_a_body_that_comes_with_its_head_counts(monkeypatch: pytest.MonkeyPatch, size: int) -> None:
    seen: list[Any] = []

    def app(stream: Stream) -> None:
        seen.append((type(stream.body) is io.BytesIO, stream.body.read()))
        stream.send(ANSWER)

    with Rig(monkeypatch, slots=1, app=app, load=Load(max_memory=2 * size + RECEIVE)) as rig:
        load = rig.service.load
        clients = [rig.connect()[0] for _ in range(10)]
        for client in clients:
            client.sendall(post(size) + b"x" * size)
            rig.turn()
        rig.until(lambda: len(rig.loop._ready) == 10)
        assert load.memory <= load.max_memory + RECEIVE
        if size == 60_000:
            assert load.files > 0
        for client in clients:
            rig.until(lambda: (rig.run(), True)[1])
            assert read(client) == ANSWER
        assert {body for _, body in seen} == {b"x" * size}
        assert (load.memory, load.disk, load.files) == (0, 0, 0)


def test_incomplete_heads_stay_within_the_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    bound = 1024**2
    with Rig(monkeypatch, slots=500, load=Load(max_memory=bound)) as rig:
        load = rig.service.load
        clients = [rig.connect() for _ in range(60)]
        for client, connection in clients:
            client.sendall(b"GET / HTTP/1.1\r\nHost: a\r\nX: " + b"a" * 50_000)
            rig.until(lambda connection=connection: connection.arrival.begun or connection.state is LINGER)
            assert load.memory <= bound + RECEIVE
        late = [client for client, connection in clients if connection.state is LINGER]
        assert 30 < len(late) < 45
        for client in late:
            assert read(client, 12) == b"HTTP/1.1 503"
        other, _ = rig.connect()
        other.sendall(GET[:-2])
        rig.turn()
        other.sendall(GET[-2:])
        rig.until(rig.run)
        assert read(other) == ANSWER
        for client, _ in clients[:20]:
            client.sendall(b"\r\n\r\n")
            rig.until(rig.run)
            assert read(client) == ANSWER
        assert load.memory == 0


def test_what_waits_behind_a_request_counts_while_it_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    with Rig(monkeypatch, slots=1) as rig:
        load = rig.service.load
        client, connection = rig.connect()
        client.sendall(post(5) + b"abcde" + GET * 10)
        rig.until(lambda: rig.loop._ready)
        assert load.memory == 5 + 10 * len(GET)
        rig.until(lambda: (rig.run(), len(rig.served) == 11)[1])
        assert read(client, 11 * len(ANSWER)) == 11 * ANSWER
        assert load.memory == 0
        assert connection.memory == 0


def test_memory_comes_back_from_requests_that_no_application_sees(monkeypatch: pytest.MonkeyPatch) -> None:
    with Rig(monkeypatch, slots=1, queue_timeout=5, socket_timeout=3) as rig:
        load = rig.service.load
        busy, late, still, broken = [rig.connect()[0] for _ in range(4)]
        busy.send(GET)
        rig.take()
        late.sendall(post(10) + bytes(10))  # waits for a runner
        still.sendall(post(1000) + bytes(500))  # stands still
        broken.sendall(CHUNKED + b"5\r\nabcde\r\n5\r\nabcdeXX")
        rig.until(lambda: load.memory in {510, 515} and rig.service.others[4])
        rig.turn(3 + LATE)
        rig.turn(3 + LATE)
        assert load.memory == 0
        for client, status in ((late, b"503"), (still, b"408"), (broken, b"400")):
            assert read(client, 12) == b"HTTP/1.1 " + status


# --- bodies in files ------------------------------------------------------------------------------


@pytest.fixture
def spools(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Every file that is made for a body."""
    files: list[Any] = []
    real = spool

    def made() -> Any:
        files.append(real())
        return files[-1]

    monkeypatch.setattr(body_module, "spool", made)
    return files


def upload(rig: Rig, size: int, sent: int) -> tuple[socket.socket, Connection]:
    """A client that sends so much of its body, as far as it is read."""
    client, connection = rig.connect()
    client.setblocking(False)
    rest = memoryview(post(size) + bytes(sent))

    def push() -> bool:
        nonlocal rest
        try:
            rest = rest[client.send(rest) :]
        except BlockingIOError:
            pass
        return not rest and (received(connection) == sent or bool(connection.pause))

    rig.until(push)
    client.setblocking(True)
    return client, connection


def test_over_the_bound_of_the_disk_a_body_waits_until_there_is_room(
    monkeypatch: pytest.MonkeyPatch, spools: list[Any]
) -> None:
    with Rig(monkeypatch, load=Load(max_disk=3 * IN_MEMORY), socket_timeout=30) as rig:
        load = rig.service.load
        client, connection = upload(rig, 2 * IN_MEMORY, 2 * IN_MEMORY)
        assert rig.take().connection is connection
        second, waiting = upload(rig, 2 * IN_MEMORY, IN_MEMORY + 100_000)
        assert waiting.pause == STARVED
        assert rig.watched(waiting) == 0
        assert load.disk <= 3 * IN_MEMORY + RECEIVE
        before = received(waiting)
        rig.turn()
        assert 0 < rig.loop.timeout() <= AGAIN  # type: ignore[operator]
        rig.turn(20)  # which is not the client's fault
        assert received(waiting) == before
        connection.stream.exchange(rig.row.slots[0], 0)
        rig.loop.give_back(connection.stream)
        rig.until(lambda: waiting.pause == 0 and received(waiting) == IN_MEMORY + 100_000)
        assert read(client) == ANSWER
        second.sendall(bytes(IN_MEMORY - 100_000))
        rig.until(rig.run)
        assert read(second) == ANSWER
        assert all(file.closed for file in spools)
        assert (load.memory, load.disk, load.files) == (0, 0, 0)


def test_a_body_that_finds_no_room_in_time_is_503(monkeypatch: pytest.MonkeyPatch, spools: list[Any]) -> None:
    with Rig(monkeypatch, load=Load(max_disk=IN_MEMORY), socket_timeout=7.5, min_body_rate=0) as rig:
        load = rig.service.load
        full, holding = upload(rig, 10 * IN_MEMORY, 3 * IN_MEMORY)
        assert holding.pause == STARVED
        disk = load.disk
        client, waiting = upload(rig, IN_MEMORY, IN_MEMORY - 1)
        assert waiting.pause == STARVED
        rig.turn(5)
        rig.turn(2.5 + LATE)
        for each in (full, client):
            answer = each.recv(1000)
            assert answer.startswith(b"HTTP/1.1 503 ")
            assert b"\r\nRetry-After: 8\r\n" in answer
        # The file went at once, and not when the client has taken its answer.
        assert disk > 0
        assert holding.state is LINGER
        assert (load.memory, load.disk, load.files) == (0, 0, 0)
        assert all(file.closed for file in spools)
        assert rig.service.others[5] == 2


def test_a_body_that_is_whole_needs_no_room(monkeypatch: pytest.MonkeyPatch) -> None:
    with Rig(monkeypatch, load=Load(max_memory=0, max_disk=1)) as rig:
        client, _ = rig.connect()
        client.sendall(post(3) + b"abc")  # goes to the disk, which is full then
        rig.until(rig.run)
        assert read(client) == ANSWER


def test_the_last_of_the_file_system_is_left_to_others(monkeypatch: pytest.MonkeyPatch) -> None:
    free = 1000 * 1024**2
    monkeypatch.setattr(load_module.shutil, "disk_usage", lambda path: (10 * 1024**3, 0, free))
    load = Load()
    assert load.has_room(new=True)
    free = 256 * 1024**2
    load.disk += 1024**2
    assert load.has_room(new=False)  # not asked again so soon
    load.disk += 4 * 1024**2
    assert not load.has_room(new=False)
    free += 1
    assert load.has_room(new=False)


def test_the_file_of_a_refused_body_goes_before_the_client_does(
    monkeypatch: pytest.MonkeyPatch, spools: list[Any]
) -> None:
    with Rig(monkeypatch, socket_timeout=5, min_body_rate=0) as rig:
        client, connection = upload(rig, 4 * IN_MEMORY, 2 * IN_MEMORY)
        [file] = spools
        rig.turn(5 + LATE)
        assert read(client, 12) == b"HTTP/1.1 408"
        assert connection.state is LINGER
        assert file.closed


def test_a_full_disk_lets_go_of_the_file(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[Full] = []

    class Full(io.BytesIO):
        def __init__(self) -> None:
            made.append(self)

        def write(self, data: Any) -> int:
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(body_module, "spool", Full)
    with Rig(monkeypatch) as rig:
        client, connection = rig.connect()
        client.sendall(CHUNKED + b"90000\r\n" + bytes(0x90000))
        rig.until(lambda: connection.state is LINGER)
        assert read(client, 12) == b"HTTP/1.1 507"
        assert [file.closed for file in made] == [True]
        load = rig.service.load
        assert (load.memory, load.disk, load.files) == (0, 0, 0)


@pytest.mark.parametrize("wrapped", [False, True], ids=["plain", "as on Windows"])
def test_a_spooled_body_is_an_iterator(monkeypatch: pytest.MonkeyPatch, wrapped: bool) -> None:
    if wrapped:
        monkeypatch.setattr(tempfile, "TemporaryFile", tempfile.NamedTemporaryFile)
    file = spool()
    with file:
        file.write(b"a\nb\n")
        file.seek(0)
        assert next(file) == b"a\n"
        assert file.readline() == b"b\n"
        assert not os.get_inheritable(file.fileno())


# --- descriptors ----------------------------------------------------------------------------------


def test_files_of_bodies_and_connections_share_the_descriptors(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    load = Load(max_memory=0, descriptors=6)
    with Rig(monkeypatch, slots=20, load=load, min_body_rate=0) as rig, caplog.at_level(logging.WARNING, "zibai"):
        uploads = [upload(rig, 1000, 500) for _ in range(3)]
        assert (load.connections, load.files) == (3, 3)
        extra = rig.client()
        extra.send(GET)
        rig.until(lambda: not rig.accepting)
        rig.turn(FULL_PAUSE)
        rig.turn()
        assert "3 connections are open, as many as the limit of descriptors (ulimit -n) allows" in caplog.text
        uploads[0][0].sendall(bytes(500))
        rig.until(lambda: (rig.run(), len(rig.served) == 1)[1])
        rig.until(lambda: (rig.run(), len(rig.served) == 2)[1] or rig.turn(FULL_PAUSE))
        assert read(extra) == ANSWER


def test_files_that_slow_clients_are_sent_share_the_descriptors(monkeypatch: pytest.MonkeyPatch) -> None:
    """With a limit of 256 a hundred downloads took all of them, and then nobody was accepted and no file opened."""
    size = 64 * 1024 * 1024
    with tempfile.TemporaryFile() as sparse:
        sparse.truncate(size)

        def app(stream: Stream) -> None:
            if len(rig.served) <= 3:
                stream.send_file(File(os.dup(sparse.fileno()), 0, size, True))
            else:
                stream.send(ANSWER)

        with Rig(monkeypatch, slots=20, load=Load(descriptors=6), app=app) as rig:
            slow = [rig.connect()[0] for _ in range(3)]
            for client in slow:
                client.send(GET)
            rig.until(lambda: (rig.run(), rig.service.unsent.files == 3)[1])
            extra = rig.client()
            extra.send(GET)
            rig.until(lambda: not rig.accepting)
            slow[0].close()
            rig.until(lambda: (rig.run(), len(rig.served) == 4)[1] or rig.turn(FULL_PAUSE))
            assert read(extra) == ANSWER
            assert rig.service.unsent.files == 2


def test_connections_that_ended_leave_room_for_files(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also those that only wait for the client's end; with a limit of 256, two hundred of these stopped all uploads."""

    def app(stream: Stream) -> None:
        stream.sender.closing = True
        stream.send(ANSWER)

    with Rig(monkeypatch, load=Load(descriptors=4), app=app) as rig:
        for last in (b"GET / HTTP/1.0\r\n\r\n", GET.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n")) * 3:
            client, _ = rig.connect()
            client.send(last)
            rig.until(rig.run)
            rig.turn()
            assert b" 200 OK" in ended(client)
        assert not rig.connections
        assert rig.service.load.connections == 0
        assert rig.service.load.has_room(new=True)


def test_without_a_descriptor_for_its_file_a_body_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    load = Load(max_memory=0, descriptors=3)
    with Rig(monkeypatch, slots=20, load=load) as rig:
        first, _ = rig.connect()
        client, connection = rig.connect()
        upload_, _ = rig.connect()
        client.sendall(post(1000) + bytes(500))
        rig.until(lambda: connection.pause == STARVED)
        rig.turn()
        assert rig.loop.timeout() != 0
        upload_.close()
        first.close()
        rig.until(lambda: received(connection) == 500)
        client.sendall(bytes(500))
        rig.until(rig.run)
        assert read(client) == ANSWER
    assert load.connections == 0


@pytest.mark.parametrize(("limit", "left"), [(256, 32), (1000, 100), (40, None), (-1, None)])
def test_a_tenth_of_the_descriptors_is_the_applications(
    monkeypatch: pytest.MonkeyPatch, limit: int, left: int | None
) -> None:
    resource = pytest.importorskip("resource")
    from zibai.system.machine import descriptors_for_clients

    if limit == -1:
        limit = resource.RLIM_INFINITY
    monkeypatch.setattr(resource, "getrlimit", lambda kind: (limit, limit))
    most = descriptors_for_clients()
    if left is None:
        assert most == float("inf")
    else:
        assert 1 <= most <= limit - left - 3


# --- silent connections ---------------------------------------------------------------------------


def test_those_who_say_nothing_make_room(monkeypatch: pytest.MonkeyPatch) -> None:
    with Rig(monkeypatch, max_connections=20, header_timeout=30, slots=50) as rig:
        silent = [rig.connect() for _ in range(20)]
        begun, begun_connection = silent[7]
        begun.send(GET[:5])
        rig.until(lambda: begun_connection.arrival.begun)
        client = rig.client()
        client.send(GET)
        rig.until(lambda: not rig.accepting)
        for _ in range(5):  # nobody is put out in the first second
            rig.turn(FULL_PAUSE)
        assert len(rig.connections) == 20
        rig.now += IDLE_BEFORE_CLOSE
        rig.until(lambda: (rig.run(), rig.served)[1] or rig.turn(FULL_PAUSE))
        assert read(client) == ANSWER
        assert rig.now < 1005
        assert begun_connection in rig.connections
        assert ended(silent[0][0]) == b""


@pytest.mark.parametrize("kind", ["first", "kept", "PROXY"])
def test_the_oldest_incomplete_head_makes_room(monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    more: dict[str, Any] = {"proxy_protocol": True, "trust": Trust(["127.0.0.1"])} if kind == "PROXY" else {}
    beginning = b"PROXY TCP4 192.0.2.1" if kind == "PROXY" else GET[:5]
    with Rig(monkeypatch, max_connections=3, slots=50, **more) as rig:
        slow = [rig.connect() for _ in range(3)]
        for client, connection in slow:
            if kind == "kept":
                client.send(GET)
                rig.until(rig.run)
                assert read(client) == ANSWER
            client.send(beginning)
            rig.until(lambda connection=connection: not connection.idle)
            rig.turn(0.5)
        slow[0][0].send(beginning[:1])  # of no use: more bytes make no head younger
        extra = rig.client()
        extra.send((beginning + b" 192.0.2.2 5000 80\r\n" if kind == "PROXY" else b"") + GET)
        rig.until(lambda: not rig.accepting)
        while rig.now < 1000 + SLOW - FULL_PAUSE:
            rig.turn(FULL_PAUSE)
            assert {connection for _, connection in slow} <= set(rig.connections)
        served = len(rig.served)
        rig.until(lambda: (rig.run(), len(rig.served) > served)[1] or rig.turn(FULL_PAUSE))
        assert read(extra) == ANSWER
        assert rig.now < 1000 + SLOW + 5 * FULL_PAUSE
        assert ended(slow[0][0]) == b""
        assert [connection in rig.connections for _, connection in slow] == [False, True, True]


def test_an_incomplete_head_stays_while_an_idle_connection_can_make_room(monkeypatch: pytest.MonkeyPatch) -> None:
    with Rig(monkeypatch, max_connections=2, slots=50) as rig:
        slow, slow_connection = rig.connect()
        slow.send(GET[:5])
        rig.until(lambda: not slow_connection.idle)
        rig.turn(SLOW)
        idle, _ = rig.connect()
        rig.turn(IDLE_BEFORE_CLOSE)
        rig.client().send(GET)
        rig.until(lambda: not rig.accepting)
        rig.until(lambda: (rig.run(), rig.served)[1] or rig.turn(FULL_PAUSE))
        assert ended(idle) == b""
        assert slow_connection in rig.connections


def test_one_that_has_something_in_the_air_is_not_put_out(monkeypatch: pytest.MonkeyPatch) -> None:
    with Rig(monkeypatch, max_connections=1, header_timeout=30) as rig:
        client, connection = rig.connect()
        rig.client()
        rig.until(lambda: not rig.accepting)
        rig.turn(FULL_PAUSE)
        rig.now += IDLE_BEFORE_CLOSE
        client.send(GET)
        rig.arrived(connection)
        rig.until(lambda: (rig.run(), rig.served)[1] or rig.turn(FULL_PAUSE))
        assert read(client) == ANSWER


# --- records of TLS, and what it answers ----------------------------------------------------------


@settings(max_examples=300, deadline=None, database=None)
@given(
    sizes=st.lists(st.integers(0, 300), max_size=RECORDS * 3),
    cuts=st.lists(st.integers(1, 2000), max_size=10),
)
def test_records_go_a_few_at_a_time_and_in_order(sizes: list[int], cuts: list[int]) -> None:
    bodies = [bytes([number % 256]) * size for number, size in enumerate(sizes)]
    wire = b"".join(b"\x17\x03\x03%b%b" % (len(body).to_bytes(2, "big"), body) for body in bodies)
    records, given_, rest = Records(), b"", wire
    for size in [*cuts, len(wire)]:
        piece, rest = rest[:size], rest[size:]
        given_ += records.take(piece)
        assert records.taken <= RECORDS
        while records.more:
            given_ += records.take(b"")
            assert records.taken <= RECORDS
    assert given_ == wire


def test_records_of_one_byte_go_in_portions() -> None:
    record = b"\x17\x03\x03\x00\x01x"
    records = Records()
    assert records.take(record * 1000) == record * RECORDS
    assert records.more
    portions = 1
    while records.more:
        records.take(b"")
        portions += 1
    assert portions == -(-1000 // RECORDS)


# --- end to end -----------------------------------------------------------------------------------


def chunks_for_ever(port: int, tls: ssl.SSLContext | None, end: threading.Event) -> None:
    """Send chunks of one byte, as many as go, on one connection after the other."""
    while not end.is_set():
        with Client(port, tls=tls) as client, suppress(OSError):
            client.send(CHUNKED)
            while not end.is_set():
                client.send(ONE_BYTE * 5_000)


@pytest.mark.slow
@pytest.mark.parametrize("secured", [False, True], ids=["plain", "TLS"])
def test_others_are_answered_beside_clients_that_send_tiny_chunks(
    backend: tuple[str, ...], secured: bool, credentials: Credentials
) -> None:
    flags = ("--certfile", credentials.server) if secured else ()
    tls = credentials.context() if secured else None
    end = threading.Event()
    with Server("plain:app", "--no-access-log", *flags, *backend) as server:
        clients = [threading.Thread(target=chunks_for_ever, args=[server.port, tls, end]) for _ in range(4)]
        for client in clients:
            client.start()
        try:
            times = []
            with Client(server.port, tls=tls) as other:
                for _ in range(100):
                    begin = time.monotonic()
                    assert other.get().status == 200
                    times.append(time.monotonic() - begin)
        finally:
            end.set()
            for client in clients:
                client.join()
    assert sorted(times)[95] < 0.3  # far more than it takes, and less than half of what it took with four of them
