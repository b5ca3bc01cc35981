"""The server loop, turned by hand with a clock that stands still: states, deadlines, accepting, the end."""

from __future__ import annotations

import errno
import gc
import logging
import os
import selectors
import socket
import sys
from typing import TYPE_CHECKING, Any

import pytest

from zibai import serve
from zibai.clock import clock
from zibai.engine import sending as sending_module
from zibai.engine.connection import Connection
from zibai.engine.load import MAX_EVENTS
from zibai.engine.queueing import BUSY_WARNING
from zibai.engine.states import APP, BODY, CLOSED, DISCARD, FLUSH, HEAD, LINGER, READY
from zibai.engine.table import IDLE_GRACE, RESOLUTION
from zibai.errors import Gone
from zibai.net.poller import SELECT_LIMIT, WRITE, Polled
from zibai.telemetry.row import Row

from rig import ANSWER, GET, Rig, ended, read, received

if TYPE_CHECKING:
    from pathlib import Path

    from zibai.engine.stream import Stream

posix = pytest.mark.skipif(sys.platform == "win32", reason="the buffers of unix sockets have a size that is known")
POST = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 100\r\n\r\n"
LATE = RESOLUTION + 0.01  # what a deadline may be late


def closing(stream: Stream) -> None:
    stream.sender.closing = True
    stream.send(ANSWER)


def answering(size: int) -> Any:
    return lambda stream: stream.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % size + bytes(size))


def fill(connection: Connection) -> None:
    """Send until the client's side is full."""
    try:
        while True:
            connection.sock.send(bytes(4096))
    except BlockingIOError:
        pass


# --- deadlines --------------------------------------------------------------------------------------


def test_an_idle_loop_has_nothing_to_wait_for(monkeypatch: pytest.MonkeyPatch) -> None:
    with Rig(monkeypatch) as rig:
        assert rig.loop.timeout() is None


def test_a_client_that_says_nothing_is_closed_silently(monkeypatch: pytest.MonkeyPatch) -> None:
    with Rig(monkeypatch, header_timeout=10) as rig:
        client, connection = rig.connect()
        rig.turn(9.9)
        assert connection.state is HEAD
        rig.turn(LATE)
        assert rig.connections == []
        assert client.recv(1) == b""


def test_the_whole_head_has_its_time_from_its_first_byte(monkeypatch: pytest.MonkeyPatch) -> None:
    with Rig(monkeypatch, header_timeout=10) as rig:
        client, connection = rig.connect()
        rig.turn(9)
        for part in (b"G", b"E", b"T"):  # a byte now and then buys nothing
            client.send(part)
            rig.until(lambda part=part: connection.codec._buffer.endswith(part))
            rig.turn(3.3)
        assert connection.state is HEAD
        rig.turn(LATE)
        assert connection.state is LINGER
        assert read(client, 12) == b"HTTP/1.1 408"


def test_a_body_has_its_time_from_its_last_piece(monkeypatch: pytest.MonkeyPatch) -> None:
    with Rig(monkeypatch, socket_timeout=30, min_body_rate=0) as rig:
        client, connection = rig.connect()
        client.send(POST)
        rig.until(lambda: connection.state is BODY)
        for number in range(1, 4):
            rig.turn(29)
            client.send(b"x")
            rig.until(lambda number=number: received(connection) == number)
        rig.turn(30 + LATE)
        assert connection.state is LINGER
        assert read(client, 12) == b"HTTP/1.1 408"
        assert rig.served == []


def test_a_kept_connection_is_closed_silently_in_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    with Rig(monkeypatch, keep_alive_timeout=75) as rig:
        client, connection = rig.connect()
        client.send(GET)
        rig.until(rig.run)
        assert read(client) == ANSWER
        rig.turn(74.9)
        assert connection.state is HEAD
        rig.turn(LATE)
        assert client.recv(1) == b""
        client.close()
        rig.until(lambda: rig.connections == [])


def test_a_request_that_comes_as_an_idle_connection_expires_is_served(monkeypatch: pytest.MonkeyPatch) -> None:
    with Rig(monkeypatch, keep_alive_timeout=75) as rig:
        client, connection = rig.connect()
        client.send(GET)
        rig.until(rig.run)
        assert read(client) == ANSWER
        client.send(GET)
        rig.arrived(connection)
        # As a sweep does that comes after the poller was asked.
        rig.loop._table.step(connection, connection.expire, rig.now + 75)
        rig.until(rig.run)
        assert read(client) == ANSWER


def test_a_request_that_comes_too_late_for_its_connection_is_explained(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("WARNING", "zibai")
    with Rig(monkeypatch, keep_alive_timeout=75) as rig:
        for _ in range(2):
            client, connection = rig.connect()
            client.send(GET)
            rig.until(rig.run)
            assert read(client) == ANSWER
            rig.turn(75 + LATE)
            assert connection.state is LINGER
            client.send(GET)
            rig.until(lambda connection=connection: not connection.lingering._timed_out)
        assert rig.served == ["/", "/"]
    hints = [record.getMessage() for record in caplog.records]
    assert len(hints) == 1, hints
    assert "longer than 75 s: raise --keep-alive-timeout" in hints[0]


def test_an_end_that_the_client_has_seen_needs_no_word(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("WARNING", "zibai")
    with Rig(monkeypatch, keep_alive_timeout=75) as rig:
        client, connection = rig.connect()
        client.send(GET)
        rig.until(rig.run)
        rig.turn(75 + LATE)
        assert connection.state is LINGER
        rig.turn(2 + LATE)
        assert rig.connections == []
    assert not caplog.records


@posix
def test_a_client_that_does_not_take_its_answer_has_its_time_from_its_last_byte(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with Rig(monkeypatch, unix=tmp_path / "s", app=answering(900_000), socket_timeout=30) as rig:
        client, connection = rig.connect()
        client.send(GET)
        rig.until(rig.run)
        assert connection.state is FLUSH
        rig.turn(29)
        left = len(connection.out)
        while len(connection.out) == left:
            client.recv(65536)
            rig.turn()
        rig.turn(29)
        assert connection.state is FLUSH
        rig.turn(1 + LATE)
        assert rig.connections == []
        assert len(ended(client)) < 900_000  # and it sees that it is cut


@posix
def test_a_client_that_takes_its_answer_late_gets_it_whole_and_is_kept(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with Rig(monkeypatch, unix=tmp_path / "s", app=answering(900_000)) as rig:
        client, connection = rig.connect()
        client.send(GET * 2)  # and the next answer behind it
        rig.until(rig.run)
        size = 0
        while size < 1_800_000:
            size += len(client.recv(65536))
            rig.turn()
            rig.run()
        rig.until(lambda: connection.state is HEAD)
        assert rig.served == ["/", "/"]


def test_a_lingering_close_has_its_time(monkeypatch: pytest.MonkeyPatch) -> None:
    with Rig(monkeypatch, app=closing) as rig:
        client, connection = rig.connect()
        client.send(GET)
        rig.until(rig.run)
        assert ended(client) == ANSWER  # our side is closed
        client.send(b"more")
        rig.turn(1.9)
        assert connection.state is LINGER
        rig.turn(LATE)
        assert rig.connections == []


def test_a_lingering_close_ends_with_the_client(monkeypatch: pytest.MonkeyPatch) -> None:
    with Rig(monkeypatch, app=closing) as rig:
        client, _ = rig.connect()
        client.send(GET)
        rig.until(rig.run)
        client.close()
        rig.until(lambda: not rig.connections)


def test_the_rest_of_a_body_that_nobody_read_has_its_time(monkeypatch: pytest.MonkeyPatch) -> None:
    with Rig(monkeypatch, stream_body=True) as rig:
        client, connection = rig.connect()
        client.send(POST + b"x" * 10)
        rig.until(rig.run)
        assert (connection.state, read(client)) == (DISCARD, ANSWER)
        rig.turn(2 + LATE)
        assert connection.state is LINGER
        rig.turn(2 + LATE)
        assert rig.connections == []


def test_the_rest_of_a_body_that_nobody_read_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    with Rig(monkeypatch, stream_body=True) as rig:
        client, connection = rig.connect()
        client.send(POST + b"x" * 10)
        rig.until(rig.run)
        client.send(b"x" * 90 + GET)
        rig.until(lambda: connection.state is READY)
        rig.run()
        assert read(client, 2 * len(ANSWER)) == 2 * ANSWER


def test_a_broken_body_of_an_answered_request_gets_no_second_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    with Rig(monkeypatch, stream_body=True) as rig:
        client, connection = rig.connect()
        client.send(b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n")
        rig.until(rig.run)
        assert connection.state is DISCARD
        client.send(b"nonsense\r\n")
        rig.until(lambda: connection.state is LINGER)
        assert ended(client) == ANSWER


def test_sweeps_do_not_come_in_a_row(monkeypatch: pytest.MonkeyPatch) -> None:
    with Rig(monkeypatch, header_timeout=10) as rig:
        rig.connect()
        rig.now += 0.01
        rig.connect()
        assert rig.loop.timeout() == pytest.approx(9.99)
        rig.turn(9.99)
        assert len(rig.connections) == 1
        assert rig.loop.timeout() == pytest.approx(RESOLUTION)
        rig.turn(RESOLUTION)
        assert rig.connections == []
        assert rig.loop.timeout() in (None, pytest.approx(RESOLUTION))


# --- who runs ---------------------------------------------------------------------------------------


def test_pipelined_requests_take_turns_with_those_of_others(monkeypatch: pytest.MonkeyPatch) -> None:
    with Rig(monkeypatch) as rig:
        greedy, _ = rig.connect()
        modest, _ = rig.connect()
        greedy.send(GET.replace(b"/", b"/greedy", 1) * 50)
        rig.until(lambda: rig.loop._ready)
        modest.send(GET.replace(b"/", b"/modest", 1))
        rig.until(lambda: rig.run() and "/modest" in rig.served)
        assert len(rig.served) < 10
        rig.until(lambda: rig.run() and len(rig.served) == 51)


def test_clients_that_always_have_a_request_there_do_not_keep_others_out(monkeypatch: pytest.MonkeyPatch) -> None:
    with Rig(monkeypatch, slots=1) as rig:
        greedy, _ = rig.connect()
        greedy.send(GET * 1000)
        rig.until(lambda: rig.loop._ready)
        rig.client()
        rig.until(lambda: rig.run() and len(rig.connections) == 2)
        assert len(rig.served) < 10


@pytest.mark.skipif(sys.platform != "linux", reason="only epoll keeps the order of events that a turn leaves")
def test_a_client_waits_for_each_of_the_others_once(monkeypatch: pytest.MonkeyPatch) -> None:
    with Rig(monkeypatch, slots=MAX_EVENTS * 2) as rig:
        clients = [rig.connect()[0] for _ in range(MAX_EVENTS + 8)]

        def send(number: int, turn: str) -> None:
            clients[number].send(GET.replace(b"/", f"/{number}-{turn}".encode(), 1))

        def run() -> list[int]:
            before = len(rig.served)
            for each in rig.connections:
                rig.arrived(each)
            rig.turn()
            rig.run()
            return [int(path[1:].partition("-")[0]) for path in rig.served[before:]]

        for number in range(len(clients)):
            send(number, "first")
        first = run()
        assert len(first) == MAX_EVENTS
        for number in first:
            send(number, "next")
        left = set(range(len(clients))) - set(first)
        second = run()
        assert set(second[: len(left)]) == left
        assert second[len(left) :] == first[: MAX_EVENTS - len(left)]


def test_bytes_that_are_there_come_before_their_deadlines(monkeypatch: pytest.MonkeyPatch) -> None:
    """As after a pause of the whole machine: more clients than one turn takes have sent the rest of a request."""
    with Rig(monkeypatch, slots=MAX_EVENTS * 3, header_timeout=5) as rig:
        clients = [rig.connect()[0] for _ in range(MAX_EVENTS * 2)]
        for client in clients:
            client.send(GET[:20])
        rig.until(lambda: all(each.arrival.begun for each in rig.connections))
        for client in clients:
            client.send(GET[20:])
        for each in rig.connections:
            rig.arrived(each)
        poller = rig.backend.poller
        poll = poller.poll

        def pause(timeout: float | None, most: int) -> list[tuple[int, int]]:
            rig.now += 6
            poller.poll = poll
            return poll(timeout, most)

        poller.poll = pause  # type: ignore[method-assign, assignment]
        rig.turn()
        rig.until(lambda: rig.run() and len(rig.served) == len(clients))
        for client in clients:
            assert read(client).startswith(ANSWER[:15])


def test_deadlines_are_looked_at_however_many_events_there_are(monkeypatch: pytest.MonkeyPatch) -> None:
    with Rig(monkeypatch, slots=MAX_EVENTS * 2, header_timeout=5) as rig:
        silent, connection = rig.connect()
        clients = [rig.connect() for _ in range(MAX_EVENTS)]
        for _ in range(2):
            for client, _each in clients:
                client.send(GET)
            for _client, each in clients:
                rig.arrived(each)
            rig.turn(after=5 + LATE)
            rig.run()
        assert connection not in rig.connections
        assert ended(silent) == b""


def test_accepting_stops_while_no_slot_is_free(monkeypatch: pytest.MonkeyPatch) -> None:
    """But a sibling has one."""
    sibling = Row.private(1)
    sibling.assign("ready", 1, 0, 0.0)
    sibling.connections, sibling.seen = 2, clock() + 60  # it leaves clients to us
    with Rig(monkeypatch, slots=2, siblings=lambda: [(False, sibling)]) as rig:
        running = []
        for _ in range(2):
            client, _ = rig.connect()
            client.send(GET)
            running.append(rig.take())
        client = rig.client()
        rig.turn()
        assert not rig.accepting
        assert rig.loop.timeout() != 0  # nor does it turn for that
        assert len(rig.connections) == 2

        running[0].exchange(rig.row.slots[0], clock())
        rig.loop.give_back(running[0])
        # One turn is enough: nothing says that another one comes.
        rig.turn()
        assert rig.accepting
        rig.until(lambda: len(rig.connections) == 3)


def test_no_more_is_accepted_than_could_run(monkeypatch: pytest.MonkeyPatch) -> None:
    """The others are for sibling processes with the same listener."""
    with Rig(monkeypatch, slots=2) as rig:
        client, _ = rig.connect()
        for _ in range(5):
            rig.client()
        client.send(GET)
        rig.until(lambda: rig.loop._ready)
        assert len(rig.connections) <= 2 + 1


def test_a_connection_that_is_ready_is_queued_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever its socket says meanwhile, and it is not asked again and again."""
    with Rig(monkeypatch, slots=1) as rig:
        first, _ = rig.connect()
        client, connection = rig.connect()
        first.send(GET)
        rig.take()
        client.send(GET)
        rig.until(lambda: connection.state is READY)
        client.send(GET)
        client.shutdown(socket.SHUT_WR)
        rig.until(lambda: not rig.watched(connection))
        assert [queued for queued, _ in rig.loop._ready] == [connection]


@posix
def test_a_request_is_queued_once_though_its_100_continue_is_still_on_its_way(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with Rig(monkeypatch, unix=tmp_path / "s", slots=1) as rig:
        client, connection = rig.connect()
        fill(connection)
        client.send(POST.replace(b"\r\n\r\n", b"\r\nExpect: 100-continue\r\n\r\n"))
        rig.until(lambda: connection.state is BODY)
        assert connection.out
        client.send(bytes(100))
        rig.until(lambda: connection.state is READY)
        client.recv(1 << 20)
        rig.turn()
        rig.turn()
        assert [queued for queued, _ in rig.loop._ready] == [connection]
        assert rig.run() == 1


@posix
def test_an_event_does_not_meet_a_connection_that_has_been_given_back(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Its runner has sent itself what it had lent, and the loop learns of both at once."""
    for app, requests in ((closing, 1), (answering(2), 2)):
        path = tmp_path / app.__qualname__.replace("<", "").replace(">", "")
        with Rig(monkeypatch, unix=path, app=app) as rig:
            client, connection = rig.connect()
            client.send(GET.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n") if requests == 1 else GET * 2)
            assert rig.take().connection is connection
            fill(connection)
            connection.stream.send(b"lent")
            rig.turn()
            assert rig.watched(connection) == WRITE
            client.recv(1 << 20)  # now the socket is writable
            connection.stream.drain()
            connection.stream.exchange(rig.row.slots[0], clock())
            rig.loop.give_back(connection.stream)
            rig.turn()
            assert [queued for queued, _ in rig.loop._ready] == [connection] * (requests - 1)
            assert len(rig.connections) == requests - 1


def test_a_descriptor_that_is_used_again_is_another_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    with Rig(monkeypatch) as rig:
        client, old = rig.connect()
        client.close()
        new = rig.client()
        rig.until(lambda: rig.connections and old not in rig.connections)
        assert old.state is CLOSED
        new.send(GET)
        rig.until(rig.run)
        assert read(new) == ANSWER


def test_a_half_closed_client_gets_its_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    with Rig(monkeypatch) as rig:
        client, _ = rig.connect()
        client.send(GET)
        client.shutdown(socket.SHUT_WR)
        rig.until(rig.run)
        rig.until(lambda: not rig.connections)
        assert ended(client) == ANSWER


def test_all_busy_is_said_once_a_minute(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    with Rig(monkeypatch, slots=1) as rig, caplog.at_level(logging.WARNING, "zibai"):
        first, _ = rig.connect()
        second, _ = rig.connect()
        first.send(GET)
        second.send(GET)
        rig.until(lambda: len(rig.loop._ready) == 2)
        rig.take()
        assert rig.loop.timeout() == pytest.approx(BUSY_WARNING)  # a turn comes for it, though nothing else happens
        rig.turn(BUSY_WARNING)
        rig.turn()
        rig.turn(1)
        assert [record.getMessage() for record in caplog.records] == [
            "all 1 threads are busy and 1 request waits, the first for 1.0 s; --max-workers may be too small"
        ]
        rig.turn(59.1)
        assert len(caplog.records) == 2


def test_all_busy_is_said_though_now_and_then_a_slot_is_free(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with Rig(monkeypatch, slots=1) as rig, caplog.at_level(logging.WARNING, "zibai"):
        for _ in range(5):
            client, _ = rig.connect()
            client.send(GET)
        rig.until(lambda: len(rig.loop._ready) == 5)
        for _ in range(3):  # each request takes half a second
            connection = rig.take().connection
            rig.turn(0.5)
            connection.stream.exchange(rig.row.slots[0], clock())
            rig.loop.give_back(connection.stream)
            rig.turn()
        rig.take()
        rig.turn()
        assert len(caplog.records) == 1


def test_the_limit_of_requests_is_told_once(monkeypatch: pytest.MonkeyPatch) -> None:
    with Rig(monkeypatch, max_requests=2) as rig:
        client, _ = rig.connect()
        client.send(GET * 4)
        rig.until(lambda: rig.run() and len(rig.served) == 1)
        assert rig.worn == 0
        rig.until(lambda: rig.run() and len(rig.served) == 4)
        assert rig.worn == 1


# --- lent -------------------------------------------------------------------------------------------


@posix
def test_the_loop_sends_what_a_runner_has_lent(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with Rig(monkeypatch, unix=tmp_path / "s") as rig:
        client, _ = rig.connect()
        client.send(GET)
        connection = rig.take().connection
        woken = rig.backend.woken
        for _ in range(2):  # and again, when nothing is left of the first
            connection.stream.send(bytes(900_000))
            assert rig.backend.woken > woken
            size = 0
            while size < 900_000:
                rig.turn()
                size += len(client.recv(65536))
            rig.until(lambda: not connection.out)
            rig.until(lambda: not rig.watched(connection))
            woken = rig.backend.woken
        assert connection.state is APP
        rig.turn(1000)
        assert not connection.sender.broken


@posix
def test_what_was_lent_and_is_not_taken_cuts_the_connection_and_the_runner_learns_of_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with Rig(monkeypatch, unix=tmp_path / "s", socket_timeout=30) as rig:
        rig.now = sending_module.time.monotonic()  # a deadline by a runner is of the real clock
        client, _ = rig.connect()
        client.send(GET)
        connection = rig.take().connection
        connection.stream.send(bytes(900_000))
        rig.turn()
        rig.now = sending_module.time.monotonic()  # which has not stood still meanwhile
        rig.turn(31)
        assert connection.sender.broken
        assert connection.fd == connection.sock.fileno()  # the runner has it still
        assert not rig.watched(connection)
        assert len(ended(client)) < 900_000
        with pytest.raises(Gone):
            connection.stream.send(b"more")
        rig.loop.give_back(connection.stream)
        rig.turn()
        assert rig.connections == []


# --- what goes wrong --------------------------------------------------------------------------------


def test_running_out_of_descriptors_pauses_accepting_and_is_logged_once(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with Rig(monkeypatch) as rig, caplog.at_level(logging.ERROR, "zibai"):
        accept = rig.listener.accept
        free = 0

        def exhausted() -> Any:
            nonlocal free
            if not free:
                raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
            free -= 1
            return accept()

        monkeypatch.setattr(rig.listener, "accept", exhausted)
        for _ in range(3):
            rig.client()
        rig.until(lambda: caplog.records)
        rig.turn()
        assert not rig.accepting
        assert rig.loop.timeout() == pytest.approx(1)
        for number in range(1, 4):  # one comes free each second
            free = 1
            rig.now += 1
            rig.until(lambda number=number: len(rig.connections) == number)
        assert len(caplog.records) == 1
        assert "accepting pauses: [Errno" in caplog.text

        free = 10
        rig.now += 1
        rig.connect()
        assert free < 9  # it asked for one more, and nobody was there: all is well again
        free = 0
        rig.client()
        rig.until(lambda: len(caplog.records) == 2)


@pytest.mark.parametrize("number", [errno.ECONNABORTED, errno.EPROTO, errno.EPERM])
def test_a_client_that_leaves_before_it_is_accepted_costs_nothing(monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    with Rig(monkeypatch) as rig:
        accept, failures = rig.listener.accept, [number]

        def aborted() -> Any:
            if failures:
                raise OSError(failures.pop(), "left")
            return accept()

        monkeypatch.setattr(rig.listener, "accept", aborted)
        rig.connect()
        assert not failures


@pytest.mark.parametrize("drain", [False, True])
def test_a_listener_that_somebody_has_shut_down_is_no_busy_loop(monkeypatch: pytest.MonkeyPatch, drain: bool) -> None:
    with Rig(monkeypatch) as rig:

        def broken() -> Any:
            raise OSError(errno.EINVAL, "Invalid argument")

        rig.client()
        rig.queued(1)
        monkeypatch.setattr(rig.listener, "accept", broken)
        if drain:
            rig.loop.drain()
        rig.turn()
        rig.turn()
        assert not rig.accepting
        assert rig.loop.finished is drain


def test_a_client_that_has_left_when_it_is_accepted(monkeypatch: pytest.MonkeyPatch) -> None:
    with Rig(monkeypatch) as rig:
        seen = []

        def gone(sock: object) -> Any:
            seen.append(sock)
            raise OSError(errno.ENOTCONN, "not connected")

        with monkeypatch.context() as patch:
            patch.setattr(rig.listener, "endpoint_of", gone)
            client = rig.client()
            rig.until(lambda: seen)
            assert ended(client) == b""
        rig.connect()
        assert len(rig.connections) == 1


def test_a_poller_that_cannot_watch_one_more_costs_that_connection(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with Rig(monkeypatch) as rig, caplog.at_level(logging.ERROR, "zibai"):

        def full(*_: object) -> Any:
            raise OSError(errno.ENOSPC, "No space left on device")

        with monkeypatch.context() as patch:
            patch.setattr(rig.backend.poller, "register", full)
            client = rig.client()
            rig.until(lambda: caplog.records)
        assert ended(client) in (b"", b"<reset>")
        assert rig.connections == []
        assert "No space left" in caplog.text  # with its traceback
        rig.connect()


@pytest.mark.parametrize("runs", [False, True])
def test_a_bug_costs_one_connection(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, runs: bool
) -> None:
    def bug(*_: object) -> None:
        raise ZeroDivisionError

    with Rig(monkeypatch) as rig:
        client, connection = rig.connect()
        client.send(GET)
        if runs:
            assert rig.take().connection is connection
            monkeypatch.setattr(Connection, "writable", bug)
            rig.loop._table.react(connection, WRITE, rig.now)
            assert connection.fd == connection.sock.fileno()  # its runner has it still
            assert connection.sender.broken
            rig.loop.give_back(connection.stream)
            rig.turn()
        else:
            monkeypatch.setattr(Connection, "readable", bug)
            rig.until(lambda: caplog.records)
        assert rig.connections == []
        assert "ZeroDivisionError" in caplog.text


def test_select_takes_only_so_many(monkeypatch: pytest.MonkeyPatch) -> None:
    """Windows: more would be an error of select itself, and end the loop."""
    with Rig(monkeypatch, poller=Polled(selectors.SelectSelector())) as rig:
        assert rig.loop.admission.capacity.most == SELECT_LIMIT
        rig.loop.admission.capacity.most = 2
        clients = [rig.client() for _ in range(3)]
        rig.until(lambda: len(rig.connections) == 2 and not rig.accepting)
        for client in clients:
            client.close()
        rig.until(lambda: not rig.connections and rig.accepting)


# --- the end ----------------------------------------------------------------------------------------


def test_draining_answers_what_is_there_and_gives_the_idle_a_moment(monkeypatch: pytest.MonkeyPatch) -> None:
    with Rig(monkeypatch, slots=2) as rig:
        idle, _ = rig.connect()
        asks, asking = rig.connect()
        busy, _ = rig.connect()
        busy.send(GET)
        running = rig.take().connection
        waiting = rig.client()  # in the backlog, and has sent already
        waiting.send(GET)
        rig.queued(1)

        rig.loop.drain()
        assert rig.service.draining  # at once, so that no answer says keep-alive any more
        rig.turn()
        assert rig.listener.fd == -1
        assert len(rig.connections) == 4
        asks.send(GET)
        rig.until(lambda: rig.run() and len(rig.served) == 2)
        assert read(asks) == read(waiting) == ANSWER
        assert asking.state is HEAD
        rig.turn(IDLE_GRACE + LATE)
        assert ended(idle) == b""
        rig.turn(IDLE_GRACE + LATE)
        assert rig.connections == [running]
        assert not rig.loop.finished

        running.stream.exchange(rig.row.slots[0], clock())
        rig.loop.give_back(running.stream)
        rig.turn()
        rig.turn(IDLE_GRACE + LATE)
        rig.turn()
        assert rig.loop.finished
        assert ended(busy) == ANSWER


@pytest.mark.parametrize(("shares_listeners", "taken"), [(False, 4), (True, 2)])
def test_draining_leaves_to_another_server_what_cannot_run_at_once(
    monkeypatch: pytest.MonkeyPatch, shares_listeners: bool, taken: int
) -> None:
    with Rig(monkeypatch, slots=2) as rig:
        rig.loop.shutdown.shares_listeners = lambda: shares_listeners
        busy, _ = rig.connect()
        busy.send(GET)
        rig.take()
        for _ in range(4):
            rig.client()  # in the backlog
        rig.queued(4)
        rig.loop.drain()
        rig.turn()
        assert rig.listener.fd == -1
        assert len(rig.connections) == 1 + taken, "one as in any turn, and one more in the end"


def test_draining_does_not_turn_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    with Rig(monkeypatch) as rig:
        client, _ = rig.connect()
        client.send(GET)
        connection = rig.take().connection
        rig.loop.drain()
        assert rig.loop.timeout() == 0
        rig.turn()
        assert rig.loop.timeout() != 0  # it waits for the runner, without turning
        connection.stream.exchange(rig.row.slots[0], clock())
        rig.loop.give_back(connection.stream)
        assert rig.loop.timeout() == 0


def test_quitting_closes_everything_and_cuts_what_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    with Rig(monkeypatch) as rig:
        idle, _ = rig.connect()
        client, _ = rig.connect()
        client.send(GET)
        running = rig.take().connection
        queued, _ = rig.connect()
        queued.send(GET)
        rig.until(lambda: rig.loop._ready)
        back, _ = rig.connect()
        back.send(GET)
        given_back = rig.take().connection if rig.loop._running < 4 else running

        rig.loop.give_back(given_back.stream)
        rig.loop.quit()
        rig.turn()
        assert rig.loop.finished
        assert rig.loop.take() is None
        for each in (idle, queued, back, client):
            assert ended(each) in (b"", b"<reset>")
        # Runners that come too late close what they have; nobody turns for them.
        rig.loop.lend(running)
        assert running.fd == running.sock.fileno()
        rig.loop.give_back(running.stream)
        assert running.sock.fileno() == -1
        assert rig.backend.poller.asked == {}


def test_hands_wake_who_sleeps(monkeypatch: pytest.MonkeyPatch) -> None:
    with Rig(monkeypatch) as rig:
        client, _ = rig.connect()
        client.send(GET)
        connection = rig.take().connection
        woken = rig.backend.woken
        connection.stream.exchange(rig.row.slots[0], clock())
        rig.loop.give_back(connection.stream)
        assert rig.backend.woken == woken + 1
        assert rig.loop.timeout() == 0


@pytest.mark.skipif(sys.platform != "linux", reason="what a process has is read from /proc")
def test_a_server_that_does_not_come_up_leaves_no_descriptor() -> None:
    def fail() -> None:
        raise ZeroDivisionError

    def descriptors() -> int:
        return len(os.listdir("/proc/self/fd"))

    gc.collect()  # what earlier tests have left is not to go meanwhile
    before = descriptors()
    listener = socket.create_server(("127.0.0.1", 0))
    with pytest.raises(ZeroDivisionError):
        serve(app=lambda *_: [], bind_socket=listener, backend="threads", before_serve_hook=fail)
    assert descriptors() == before, "the listener was the server's"


class CountingSocket:
    """A socket that counts what it is asked for; `sock` of a connection, in the place of the C type."""

    def __init__(self, sock: Any) -> None:
        self._sock = sock
        self.calls: list[str] = []

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._sock, name)

        def call(*args: Any) -> Any:
            self.calls.append(name)
            return method(*args)

        return call


WHOLE_POST = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\n\r\nbody"


@pytest.mark.parametrize("raw", [GET, WHOLE_POST], ids=["GET", "POST"])
def test_a_request_takes_one_receive_and_one_send(monkeypatch: pytest.MonkeyPatch, raw: bytes) -> None:
    with Rig(monkeypatch) as rig:
        client, connection = rig.connect()
        asked = dict(rig.backend.poller.asked)
        changes: list[str] = []
        connection.sock = counting = CountingSocket(connection.sock)  # type: ignore[assignment]
        with monkeypatch.context() as patch:
            for name in ("register", "modify", "unregister"):
                patch.setattr(rig.backend.poller, name, lambda *args, name=name: changes.append(name))
            for _ in range(3):
                client.sendall(raw)
                rig.until(rig.run)
                assert read(client) == ANSWER
        assert counting.calls == ["recv", "send"] * 3
        assert (changes, rig.backend.poller.asked) == ([], asked)
        connection.sock = counting._sock
