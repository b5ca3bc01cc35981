"""What a slow client may take: its time, its rate, and the memory of all of them. The clock is the test's."""

from __future__ import annotations

import os
import sys
import threading
from typing import TYPE_CHECKING, Any

import pytest

from zibai.engine import pace as pace_module
from zibai.engine.outgoing import File, Outgoing
from zibai.engine.states import FLUSH
from zibai.engine.table import RESOLUTION

from rig import GET, Rig
from serving import serving
from support import DEADLINE, Client, wait_for

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from pathlib import Path

    from zibai.engine.connection import Connection

posix = pytest.mark.skipif(sys.platform == "win32", reason="unix sockets, whose buffers are small")
LATE = RESOLUTION + 0.01  # what a deadline may be late


def answering(size: int) -> Any:
    return lambda stream: stream.send(bytes(size))


# --- the rate of a response -------------------------------------------------------------------------


@pytest.fixture
def reading(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[tuple[Rig, Connection, Callable[[int], None]]]:
    """A client that has asked for more than it takes, with 100,000 bytes a second to keep, and how it takes some."""
    with Rig(
        monkeypatch, unix=tmp_path / "s", app=answering(9_000_000), socket_timeout=30, min_send_rate=100_000
    ) as rig:
        monkeypatch.setattr(pace_module, "unsent", lambda sock: 0)  # so that what is pushed counts as taken
        client, connection = rig.connect()
        client.send(GET)
        rig.until(rig.run)
        assert connection.state is FLUSH

        def take(size: int) -> None:
            left = len(connection.out)
            while left - len(connection.out) < size:
                client.recv(65536)
                rig.turn()

        yield rig, connection, take


@posix
def test_a_client_has_ten_seconds_and_then_a_rate_to_keep(
    reading: tuple[Rig, Connection, Callable[[int], None]],
) -> None:
    rig, connection, take = reading
    rig.turn(9)
    take(1_500_000)  # enough for 15 s
    rig.turn(5)
    assert connection.state is FLUSH
    take(1_000_000)  # and for 10 s more
    rig.turn(10)
    assert connection.state is FLUSH
    rig.turn(6)
    assert rig.connections == []


@posix
def test_a_client_that_pauses_has_the_time_without_progress(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with Rig(monkeypatch, unix=tmp_path / "s", app=answering(900_000), socket_timeout=30, min_send_rate=500) as rig:
        client, connection = rig.connect()
        client.send(GET)
        rig.until(rig.run)
        rig.turn(29)
        assert connection.state is FLUSH
        rig.turn(1 + LATE)
        assert rig.connections == []


@posix
def test_what_the_kernel_passes_on_without_taking_more_is_progress(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with Rig(monkeypatch, unix=tmp_path / "s", app=answering(900_000), socket_timeout=30, min_send_rate=100) as rig:
        waiting = 100_000
        monkeypatch.setattr(pace_module, "unsent", lambda sock: waiting)
        client, connection = rig.connect()
        client.send(GET)
        rig.until(rig.run)
        for _ in range(3):
            rig.turn(29)
            waiting -= 20_000
            rig.turn(1 + LATE)
            assert connection.state is FLUSH
        rig.turn(30 + LATE)
        assert rig.connections == []


# --- memory ------------------------------------------------------------------------------------------


@posix
def test_all_memory_is_given_back_however_it_ends(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with Rig(monkeypatch, unix=tmp_path / "s", app=answering(900_000), socket_timeout=30) as rig:
        budget = rig.service.unsent
        clients = [rig.connect()[0] for _ in range(4)]
        for number, client in enumerate(clients):
            client.send(GET)
            rig.until(rig.run)
            rig.until(lambda number=number: budget.memory > number * 500_000)
        taken = 0
        while taken < 900_000:
            taken += len(clients[0].recv(65536))
            rig.turn()
        rig.until(lambda: budget.memory < 2_700_000)
        clients[1].close()
        rig.until(lambda: len(rig.connections) == 3)
        assert budget.memory < 1_800_000
        rig.turn(30 + LATE)
        rig.until(lambda: budget.memory == 0)


@pytest.mark.parametrize("limit", [0, 100_000_000])
def test_beyond_the_budget_a_response_keeps_its_runner(limit: int) -> None:
    content = bytes(12_000_000)

    def app(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        start_response("200 OK", [("Content-Type", "text/plain")])
        return [content if environ["PATH_INFO"] == "/large" else b"small"]

    with serving(app, max_workers=1, max_unsent_memory=limit) as server:
        with Client(server.port) as first, Client(server.port) as second:
            first.send(b"GET /large HTTP/1.1\r\nHost: a\r\n\r\n")
            assert first.file.read(1) == b"H"
            second.send(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
            answered = threading.Event()
            reader = threading.Thread(target=lambda: (second.read(), answered.set()))
            reader.start()
            assert answered.wait(DEADLINE if limit else 0.5) is bool(limit)
            assert first.file.read(len(content))
            assert answered.wait(DEADLINE)
            reader.join()


def test_the_log_tells_what_was_sent_when_it_was_sent() -> None:
    content = bytes(12_000_000)
    given = threading.Event()

    def app(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", str(len(content)))])
        yield content
        given.set()

    with serving(app, valid=False) as server:
        with Client(server.port) as client:
            client.send(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
            assert client.file.read(1) == b"H"
            assert given.wait(DEADLINE)
            assert not server.exchanges
        wait_for(lambda: server.exchanges)
        [record] = server.logged("zibai.access")
        assert 0 < record.__dict__["response_length"] < len(content)


# --- the queue ---------------------------------------------------------------------------------------


class Taking:
    """A socket that takes so many bytes at a time."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.taken = b""

    def send(self, data: memoryview) -> int:
        self.taken += bytes(data[: self.size])
        return min(self.size, len(data))


@pytest.mark.parametrize("size", [1, 1000, 70_000, 10_000_000])
def test_the_queue_sends_all_in_order(size: int, tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"f" * 3000)
    pieces = [b"a", b"bb", b"c" * 5000, b"d", b"e" * 2048, b"g" * (300_000 if size > 1 else 3000)]
    queue: Any = Outgoing(bytearray(b"first"))
    for piece in pieces:
        queue += piece
    with path.open("rb") as file:
        queue.add_file(File(os.dup(file.fileno()), 1000, 2000, by_kernel=False))
    queue += b"last"
    expected = b"first" + b"".join(pieces) + b"f" * 2000 + b"last"
    assert (len(queue), queue.memory) == (len(expected), len(expected) - 2000)
    sock: Any = Taking(size)
    while queue:
        before = len(queue)
        assert queue.send_to(sock) == before - len(queue) > 0
    assert sock.taken == expected
    assert queue.memory == 0
