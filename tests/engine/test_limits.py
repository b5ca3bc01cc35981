"""Limits that a client meets: the rate of bodies, the wait for a runner, the number of connections and of descriptors.

Those of heads are in `test_codec`, and deadlines that are older in `test_loop` and `test_wsgi`.
"""

from __future__ import annotations

import logging
import re
import sys
import threading
import time
from math import inf
from typing import TYPE_CHECKING, Any

import pytest

from zibai.clock import clock
from zibai.engine import pace as pace_module
from zibai.engine.capacity import CROWDED, FULL_PAUSE, IDLE_BEFORE_CLOSE
from zibai.engine.states import BODY, LINGER
from zibai.engine.table import RESOLUTION

from credentials import Credentials
from rig import ANSWER, GET, Rig, ended, read, received
from serving import serving
from support import DEADLINE, ZIBAI, Client, Gate, Server, get

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from pathlib import Path

posix = pytest.mark.skipif(sys.platform == "win32", reason="ulimit is a shell's of POSIX")
LATE = RESOLUTION + 0.01  # what a deadline may be late
POST = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 100000\r\n\r\n"
CHUNKED = b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"


# --- the rate of a body -----------------------------------------------------------------------------


def test_a_body_has_ten_seconds_and_then_a_rate_to_keep(monkeypatch: pytest.MonkeyPatch) -> None:
    with Rig(monkeypatch, socket_timeout=30, min_body_rate=500) as rig:
        client, connection = rig.connect()
        client.send(POST)
        rig.until(lambda: connection.state is BODY)
        rig.turn(9)
        client.send(bytes(10_000))  # enough for 20 s
        rig.until(lambda: received(connection) == 10_000)
        rig.turn(10.9)
        assert connection.state is BODY
        client.send(bytes(500))  # and for 1 s more
        rig.until(lambda: received(connection) == 10_500)
        rig.turn(1)
        assert connection.state is BODY
        rig.turn(0.1 + LATE)
        assert connection.state is LINGER
        assert read(client, 12) == b"HTTP/1.1 408"
        assert rig.served == []


def test_bytes_that_are_no_data_do_not_count_for_the_rate(monkeypatch: pytest.MonkeyPatch) -> None:
    with Rig(monkeypatch, socket_timeout=30, min_body_rate=500) as rig:
        client, connection = rig.connect()
        client.send(CHUNKED)
        rig.until(lambda: connection.state is BODY)
        for number in range(1, 11):
            client.send(b"1;%b\r\nx\r\n" % (b"a" * 1000))
            rig.until(lambda number=number: received(connection) == number)
            rig.turn(0.9)
        rig.turn(1 + LATE)
        assert read(client, 12) == b"HTTP/1.1 408"


def test_a_fast_body_still_has_the_time_without_progress(monkeypatch: pytest.MonkeyPatch) -> None:
    with Rig(monkeypatch, socket_timeout=30, min_body_rate=500) as rig:
        client, connection = rig.connect()
        client.send(POST + bytes(50_000))  # enough for 100 s
        rig.until(lambda: received(connection) == 50_000)
        rig.turn(29)
        assert connection.state is BODY
        rig.turn(1 + LATE)
        assert read(client, 12) == b"HTTP/1.1 408"


def reading(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
    body = environ["wsgi.input"].read(-1)
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [b"%d" % len(body)]


@pytest.mark.parametrize(("rate", "status"), [(1e9, 408), (100, 200), (0, 200)])
def test_a_streamed_body_has_a_rate_to_keep(monkeypatch: pytest.MonkeyPatch, rate: float, status: int) -> None:
    monkeypatch.setattr(pace_module, "RATE_AFTER", 0.1)
    go = threading.Event()

    def app(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        first = environ["wsgi.input"].read(1000)
        assert len(first) == 1000
        go.set()
        return reading(environ, start_response)

    with serving(app, stream_request_body=True, min_body_rate=rate) as server, Client(server.port) as client:
        client.send(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1001\r\n\r\n" + bytes(1000))
        assert go.wait(DEADLINE)
        if status == 200:
            threading.Event().wait(0.2)  # longer than a body without a rate to show for has
            client.send(b"x")
        answer = client.read()
        assert answer.status == status
        if status == 408:
            assert client.rest() == b""


def test_what_an_application_takes_between_two_reads_is_not_the_clients_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pace_module, "RATE_AFTER", 0.3)
    pause = threading.Event()

    def app(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        for _ in range(5):
            environ["wsgi.input"].read(1)
            pause.wait(0.1)
        return reading(environ, start_response)

    with serving(app, stream_request_body=True, min_body_rate=1e9) as server, Client(server.port) as client:
        client.send(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\n" + bytes(10))
        assert client.read().body == b"5"


# --- the wait for a runner --------------------------------------------------------------------------


def test_a_request_that_waited_too_long_for_a_runner_is_answered_by_503(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, "zibai.debug")
    with Rig(monkeypatch, slots=1, queue_timeout=5.5) as rig:
        clients = [rig.connect() for _ in range(3)]
        for client, _ in clients[:2]:
            client.send(GET)
        rig.until(lambda: len(rig.loop._ready) == 2)
        busy = rig.take().connection
        rig.turn(4)
        clients[2][0].send(GET + GET)
        rig.until(lambda: len(rig.loop._ready) == 2)
        rig.turn(1.4)
        assert rig.loop.timeout() == pytest.approx(0.1)
        rig.turn(0.1)
        late, connection = clients[1]
        answer = ended(late)
        assert answer.startswith(b"HTTP/1.1 503 Service Unavailable\r\n")
        assert b"\r\nRetry-After: 6\r\n" in answer
        assert b"\r\nConnection: close\r\n" in answer
        assert connection.state is LINGER
        assert len(rig.loop._ready) == 1
        assert rig.service.others[5] == 1
        assert "no runner for 5.5 s" in caplog.text

        busy.stream.exchange(rig.row.slots[0], clock())  # the next one is in time
        rig.loop.give_back(busy.stream)
        rig.until(rig.run)
        assert read(clients[2][0]) == ANSWER
        assert rig.served == ["/", "/"]
    warnings = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert warnings[0].startswith("all 1 threads are busy and 1 request waits, the first for 4.0 s; --max-workers")
    assert len(warnings) == 1


def test_late_requests_are_in_the_warning_and_a_late_client_delays_none(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with Rig(monkeypatch, slots=1, queue_timeout=0.5) as rig, caplog.at_level(logging.WARNING, "zibai"):
        for _ in range(4):
            client, _ = rig.connect()
            client.send(GET)
        rig.until(lambda: len(rig.loop._ready) == 4)
        rig.take()
        rig.turn(0.6)
        assert not rig.loop._ready
        [record] = caplog.records
        assert record.getMessage() == (
            "all 1 threads are busy and 3 requests wait, the first for 0.6 s, of which 3 got a 503 "
            "(--queue-timeout); --max-workers may be too small"
        )
        assert rig.loop.timeout() != 0


def test_the_body_of_a_request_that_waited_too_long_is_let_go(monkeypatch: pytest.MonkeyPatch) -> None:
    with Rig(monkeypatch, slots=1, queue_timeout=5) as rig:
        first, _ = rig.connect()
        client, connection = rig.connect()
        first.send(GET)
        rig.until(lambda: rig.loop._ready)
        rig.take()
        client.send(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc")
        rig.until(lambda: rig.loop._ready)
        body = connection.body
        rig.turn(5)
        assert read(client, 12) == b"HTTP/1.1 503"
        client.close()
        rig.until(lambda: connection not in rig.connections)
        assert body.closed


@pytest.mark.daily("threads")
def test_queue_timeout_end_to_end(backend: tuple[str, ...]) -> None:
    with Server("plain:app", "-w", "1", "--queue-timeout", "1", *backend) as server, Gate() as gate:
        with Client(server.port) as busy, Client(server.port) as waiting:
            busy.send(f"GET /gated?{gate.port} HTTP/1.1\r\nHost: a\r\n\r\n".encode())
            running = gate.arrival()
            waiting.send(GET)
            answer = waiting.read()
            assert (answer.status, answer.headers["Retry-After"]) == (503, "1")
            assert waiting.rest() == b""
            running.close()
            assert busy.read().body == b"passed"
        assert get(server.port).status == 200
        line = server.wait_for_log('HTTP/1.1" 503')
        found = re.search(r'ERROR 127\.0\.0\.1 "GET / HTTP/1\.1" 503 24 (\d+)\.\dms$', line)
        assert found, line
        assert 1000 <= int(found[1]) < 1000 * DEADLINE, "how long it has waited"


# --- the number of connections ----------------------------------------------------------------------


def test_what_is_too_much_waits_until_a_connection_ends(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with Rig(monkeypatch, max_connections=2) as rig, caplog.at_level(logging.WARNING, "zibai"):
        first, _ = rig.connect()
        rig.connect()
        assert rig.accepting
        third = rig.client()
        third.send(GET)
        rig.until(lambda: not rig.accepting)  # it waits
        assert rig.loop.timeout() == pytest.approx(FULL_PAUSE)
        rig.turn(FULL_PAUSE)
        rig.turn()
        assert len(rig.connections) == 2  # nobody has had an answer, so nobody is closed
        rig.turn()
        assert not rig.accepting
        [record] = caplog.records
        assert record.getMessage() == (
            "2 connections are open, as many as --max-connections allows, and more want in; the longest idle are "
            "closed for them, then those whose requests have been incomplete for the longest time"
        )
        first.close()
        rig.until(rig.run)
        assert read(third) == ANSWER
        assert len(rig.connections) == 2


def test_the_longest_idle_connection_makes_room(monkeypatch: pytest.MonkeyPatch) -> None:
    with Rig(monkeypatch, max_connections=3) as rig:
        clients = [rig.connect()[0] for _ in range(3)]
        for client in clients[:2]:
            client.send(GET)
            rig.until(rig.run)
            assert read(client) == ANSWER
            rig.turn(IDLE_BEFORE_CLOSE)
        clients[2].send(GET[:5])
        clients[0].send(GET)  # it was the longest; now it has something in the air, and that may not be lost
        extra = rig.client()
        extra.send(GET)
        rig.until(lambda: not rig.accepting)
        rig.until(rig.run)
        assert read(clients[0]) == ANSWER
        rig.turn(FULL_PAUSE)
        rig.until(lambda: len(rig.served) == 4 or (rig.run(), False)[1])
        assert read(extra) == ANSWER
        assert ended(clients[1]) == b""


def test_a_request_that_arrives_at_the_last_moment_is_not_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    with Rig(monkeypatch, max_connections=1) as rig:
        client, connection = rig.connect()
        client.send(GET)
        rig.until(rig.run)
        assert read(client) == ANSWER
        rig.now += IDLE_BEFORE_CLOSE
        rig.client()
        rig.until(lambda: not rig.accepting)
        concerns = rig.loop.admission.acceptor.concerns

        def at_last(fds: list[int]) -> bool:  # after the poller was asked, before the choice
            client.send(GET)
            rig.arrived(connection)
            return concerns(fds)

        monkeypatch.setattr(rig.loop.admission.acceptor, "concerns", at_last)
        rig.turn(FULL_PAUSE)
        rig.turn()
        assert rig.connections == [connection]
        rig.until(rig.run)
        assert read(client) == ANSWER


def test_nobody_who_was_just_answered_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    with Rig(monkeypatch, max_connections=1) as rig:
        client, connection = rig.connect()
        client.send(GET)
        rig.until(rig.run)
        extra = rig.client()
        rig.until(lambda: not rig.accepting)
        rig.turn(FULL_PAUSE)
        rig.turn()
        assert rig.connections == [connection]
        rig.now += IDLE_BEFORE_CLOSE
        rig.until(lambda: connection not in rig.connections)
        assert ended(client) == ANSWER
        extra.send(GET)
        rig.until(rig.run)
        assert read(extra) == ANSWER


@pytest.mark.parametrize("keep_alive_requests", [0, 100])
def test_answers_say_close_while_somebody_waits(monkeypatch: pytest.MonkeyPatch, keep_alive_requests: int) -> None:
    closing: list[bool] = []

    def app(stream: Any) -> None:
        closing.append(stream.sender.closing)
        stream.send(ANSWER)

    with Rig(monkeypatch, max_connections=1, app=app, keep_alive_requests=keep_alive_requests) as rig:
        client, _ = rig.connect()
        second = rig.client()
        rig.until(lambda: not rig.accepting)
        rig.turn(FULL_PAUSE)
        rig.turn()
        client.send(GET)
        rig.until(rig.run)
        assert ended(client) == ANSWER
        client.close()
        second.send(GET)
        rig.until(rig.run)
        rig.turn(CROWDED + 1)
        second.close()
        third, _ = rig.connect()
        third.send(GET)
        rig.until(rig.run)
        assert closing == [True, True, False]


def test_a_full_server_does_not_turn_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever it waits for: a runner, a client, the end of a pause."""
    with Rig(monkeypatch, max_connections=2, slots=1) as rig:
        clients = [rig.connect()[0] for _ in range(2)]
        rig.client()
        rig.until(lambda: not rig.accepting)
        clients[0].send(GET)
        busy = rig.take().connection  # no slot is free from here on
        rig.turn(FULL_PAUSE * 2)
        assert rig.loop.timeout() != 0
        busy.stream.exchange(rig.row.slots[0], clock())
        rig.loop.give_back(busy.stream)
        rig.turn()
        for client in clients:
            client.close()
        rig.until(lambda: rig.accepting)
        rig.turn(1)
        assert rig.loop.timeout() != 0


def test_draining_takes_what_waits_though_it_is_too_much(monkeypatch: pytest.MonkeyPatch) -> None:
    with Rig(monkeypatch, max_connections=1) as rig:
        rig.connect()
        waiting = [rig.client() for _ in range(3)]
        for client in waiting:
            client.send(GET)
        rig.queued(3)
        rig.loop.drain()
        rig.until(lambda: rig.run() and len(rig.served) == 3)
        for client in waiting:
            assert read(client) == ANSWER


@pytest.mark.daily("greenlets")
def test_more_clients_than_connections_lose_nothing(backend: tuple[str, ...]) -> None:
    """All of them keep their connections and ask again and again; three always wait."""
    most, each = 5, 60
    failures: list[str] = []
    closes: list[int] = []

    def work(number: int) -> None:
        done = closed = 0
        while done < each:
            with Client(server.port) as client:
                asked = inf
                while done < each:
                    before, asked = asked, time.monotonic()
                    try:
                        answer = client.get(f"/path/{number}-{done}")
                    except (OSError, EOFError) as error:
                        if time.monotonic() - before > IDLE_BEFORE_CLOSE:
                            break  # so slow that it counts as idle, as it may after its first answer
                        failures.append(f"{number}: {error!r}")
                        return
                    if answer.body != f"/path/{number}-{done}".encode():
                        failures.append(f"{number}: {answer}")
                        return
                    done += 1
                    if answer.headers["Connection"] == "close":
                        closed += 1
                        break
        closes.append(closed)

    with Server("plain:app", "--max-connections", str(most), "--no-access-log", *backend) as server:
        workers = [threading.Thread(target=work, args=[number]) for number in range(most + 3)]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join(2 * DEADLINE)
        assert not failures
        assert len(closes) == most + 3
        # All are idle now, or gone; who comes later gets in by and by.
        idle = [Client(server.port) for _ in range(most)]
        try:
            for client in idle:
                assert client.get().status == 200
            assert get(server.port).status == 200
            server.wait_for_log("as --max-connections allows, and more want in")
        finally:
            for client in idle:
                client.close()


@pytest.mark.daily("greenlets")
def test_an_idle_connection_makes_room_over_tls_too(backend: tuple[str, ...], tmp_path: Path) -> None:
    credentials = Credentials(tmp_path)
    tls = credentials.context()
    with Server("plain:app", "--max-connections", "1", "--certfile", credentials.server, *backend) as server:
        with Client(server.port, tls=tls) as idle:
            assert idle.get().status == 200
            assert get(server.port, tls=tls).status == 200
            assert idle.rest() == b""
        assert get(server.port, tls=tls).status == 200


# --- the number of descriptors ----------------------------------------------------------------------


@pytest.mark.daily("threads")
@posix
def test_a_process_out_of_descriptors_serves_on(backend: tuple[str, ...]) -> None:
    limited = ("sh", "-c", 'ulimit -n 48 && exec "$0" "$@"', *ZIBAI)
    with Server("plain:app", *backend, command=limited) as server:
        clients = []
        try:
            kept = Client(server.port)
            clients.append(kept)
            assert kept.get().status == 200
            clients += [Client(server.port) for _ in range(100)]
            server.wait_for_log("accepting pauses: ")
            for _ in range(5):
                assert kept.get().status == 200
            for client in clients[1:60]:
                client.close()
            for client in clients[60:]:  # those who had to wait
                assert client.get().status == 200
                client.close()
            assert get(server.port).status == 200
            assert len([line for line in server.log if "accepting pauses" in line]) == 1
        finally:
            for client in clients:
                client.close()


def test_a_refusal_that_cannot_be_logged_is_answered_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("of the log")

    with Rig(monkeypatch, refused=fail) as rig:
        client, _ = rig.connect()
        client.send(b"GET / HTTP/1.1\r\n\r\n")
        rig.until(lambda: not any(connection.state == "head" for connection in rig.connections))
        assert read(client, 12) == b"HTTP/1.1 400"


HUNGRY = """
import os

def app(environ, start_response):
    files = [open(os.devnull) for _ in range(28)]
    for file in files:
        file.close()
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [b"opened"]
"""


@pytest.mark.daily("threads-plain-silent", "threads-TLS-byte")
@pytest.mark.parametrize("says", ["nothing", "a byte"], ids=["silent", "byte"])
@pytest.mark.parametrize("secured", [False, True], ids=["plain", "TLS"])
@posix
def test_silent_clients_leave_the_application_its_descriptors(
    backend: tuple[str, ...], secured: bool, says: str, tmp_path: Path, credentials: Credentials
) -> None:
    (tmp_path / "hungry.py").write_text(HUNGRY, encoding="utf-8")
    limited = ("sh", "-c", 'ulimit -n 256 && exec "$0" "$@"', *ZIBAI)
    tls = credentials.context() if secured else None
    flags = ("--certfile", credentials.server) if secured else ()
    with Server("hungry:app", *flags, *backend, cwd=tmp_path, command=limited) as server:
        silent = []
        try:
            silent += [Client(server.port) for _ in range(300)]
            if says == "a byte":
                for client in silent:
                    client.send(b"\x16" if secured else b"G")
            begin = time.monotonic()
            for _ in range(3):
                assert get(server.port, tls=tls).body == b"opened"
            assert time.monotonic() - begin < 9  # who says nothing has 10 seconds otherwise
            server.wait_for_log("as many as the limit of descriptors (ulimit -n) allows, and more want in")
        finally:
            for client in silent:
                client.close()
        assert not [line for line in server.log if "accepting pauses" in line]
