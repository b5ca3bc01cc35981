"""A worker's look at itself, over a loop that the test turns and clocks that the test sets."""

from __future__ import annotations

import logging
import sys
from math import inf
from types import SimpleNamespace
from typing import TYPE_CHECKING

import pytest

from zibai.engine import health as health_module
from zibai.engine import stream as stream_module
from zibai.engine.health import END_LIMIT, SOON, THREAD_MOMENT
from zibai.engine.states import APP, BODY, CLOSED, DISCARD, FLUSH, HEAD, LINGER, READY
from zibai.logger import logger
from zibai.telemetry import row
from zibai.telemetry.scoreboard import GAUGES, SENDING

from rig import ANSWER, GET, Rig, read

if TYPE_CHECKING:
    import socket
    from collections.abc import Iterator

    from zibai.engine.connection import Connection
    from zibai.engine.stream import Stream


class Clock:
    """The scoreboard's, in every module that asks it; stands still until the test moves it."""

    def __init__(self) -> None:
        self.now = 500.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    for module in (row, health_module, stream_module):
        monkeypatch.setattr(module, "clock", clock)
    return clock


@pytest.fixture
def log(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> Iterator[pytest.LogCaptureFixture]:
    """The log reaches caplog, also after a test that has configured logging."""
    monkeypatch.setattr(logger, "propagate", True)
    caplog.set_level(logging.INFO)
    return caplog


def count_looks(monkeypatch: pytest.MonkeyPatch, rig: Rig) -> list[float]:
    """Grows with each look, by the time of the loop."""
    looks: list[float] = []
    look = rig.health.look
    monkeypatch.setattr(rig.health, "look", lambda now, *rest: (looks.append(now), look(now, *rest)))
    return looks


def forward(rig: Rig, clock: Clock, seconds: float) -> None:
    """Both clocks go on, and the loop turns when it has said that it wants to, and at the end."""
    end = rig.now + seconds
    turns = 0
    while (wait := rig.loop.timeout()) is not None and rig.now + wait < end:
        turns += 1
        assert turns < 10, "it turns in vain"
        clock.now += wait
        rig.turn(after=wait)
    clock.now += end - rig.now
    rig.turn(after=end - rig.now)


# --- when it looks ----------------------------------------------------------------------------------


def test_an_idle_server_that_nobody_listens_to_does_not_look(monkeypatch: pytest.MonkeyPatch) -> None:
    with Rig(monkeypatch, slow_request=30.0) as rig:
        looks = count_looks(monkeypatch, rig)
        assert (rig.health.due, rig.loop.timeout()) == (inf, None)
        rig.turn(after=1000)
        assert looks == []


def test_a_look_follows_what_happened_and_at_most_one_a_second(monkeypatch: pytest.MonkeyPatch) -> None:
    with Rig(monkeypatch, slow_request=30.0) as rig:
        looks = count_looks(monkeypatch, rig)
        client, _ = rig.connect()
        began = rig.now
        assert rig.loop.timeout() == SOON
        for _ in range(9):
            client.sendall(GET)
            rig.until(rig.run)
            rig.now += SOON / 10
        assert looks == [], "it is not put off by what happens meanwhile, nor brought forward"
        rig.turn(after=SOON / 10)
        assert looks == [pytest.approx(began + SOON)]
        assert rig.row.read().counters["open"] == 1
        assert rig.health.due == inf, "nothing has happened since"
        client.sendall(GET)
        rig.until(rig.run)
        assert rig.health.due == rig.now + SOON


def test_a_parent_gets_its_beats_even_if_nothing_happens(monkeypatch: pytest.MonkeyPatch, clock: Clock) -> None:
    with Rig(monkeypatch, beat_every=10.0) as rig:
        looks = count_looks(monkeypatch, rig)
        assert rig.row.read().beat == clock.now
        began = rig.now
        forward(rig, clock, 35.0)
        assert looks == [began + 10, began + 20, began + 30]
        assert rig.row.read().beat == clock.now - 5


def test_a_beat_is_not_put_off_by_what_happens(monkeypatch: pytest.MonkeyPatch, clock: Clock) -> None:
    with Rig(monkeypatch, beat_every=SOON / 2) as rig:
        looks = count_looks(monkeypatch, rig)
        client, _ = rig.connect()
        due = rig.health.due
        client.sendall(GET)
        rig.until(rig.run)
        assert rig.health.due == due
        forward(rig, clock, SOON / 2)
        assert looks == [due]


# --- requests ---------------------------------------------------------------------------------------


def begin(rig: Rig, clock: Clock, slot: int, what: bytes = b"GET /slow") -> None:
    """A runner has begun a request, and a look has seen it."""
    rig.row.slots[slot].begin(what, clock.now)
    look(rig)


def look(rig: Rig) -> None:
    rig.health.look(rig.now, rig.connections)


def test_a_slow_request_is_told_once_with_its_runner_and_its_stack(
    monkeypatch: pytest.MonkeyPatch, clock: Clock, log: pytest.LogCaptureFixture
) -> None:
    def here(slot: int) -> tuple[str, object]:
        return f"runner {slot}", sys._getframe()

    with Rig(monkeypatch, slow_request=30.0) as rig:
        monkeypatch.setattr(rig.backend, "where", here)
        begin(rig, clock, 2)
        assert rig.health.due == rig.now + 30
        forward(rig, clock, 29.9)
        look(rig)
        assert log.records == []
        forward(rig, clock, 0.2)
        (record,) = log.records
        first, *stack = record.getMessage().splitlines()
        assert first == "a request has run for 30.0 s: GET /slow, runner 2"
        assert any("in here" in line for line in stack)
        assert record.levelno == logging.WARNING
        forward(rig, clock, 1000)
        look(rig)
        assert len(log.records) == 1
        assert rig.health.due == inf
        rig.row.slots[2].end(200, clock.now, clock.now)
        clock.now += 1
        begin(rig, clock, 2, b"GET /next")
        forward(rig, clock, 31)
        assert [record.getMessage().splitlines()[0] for record in log.records[1:]] == [
            "a request has run for 30.0 s: GET /next, runner 2"
        ]


def test_one_that_waits_for_its_client_is_told_so(
    monkeypatch: pytest.MonkeyPatch, clock: Clock, log: pytest.LogCaptureFixture
) -> None:
    with Rig(monkeypatch, slow_request=30.0) as rig:
        begin(rig, clock, 0)
        rig.row.slots[0].phase(SENDING)
        forward(rig, clock, 31)
        assert "a request has run for 30.0 s: GET /slow (send), runner 0" in log.text


def test_one_that_is_answered_in_time_is_not_told(
    monkeypatch: pytest.MonkeyPatch, clock: Clock, log: pytest.LogCaptureFixture
) -> None:
    with Rig(monkeypatch, slow_request=30.0) as rig:
        begin(rig, clock, 0)
        forward(rig, clock, 29)
        rig.row.slots[0].end(200, clock.now - 29, clock.now)
        forward(rig, clock, 100)
        assert log.records == []
        assert rig.health.due == inf


def test_each_slow_request_has_its_own_time(
    monkeypatch: pytest.MonkeyPatch, clock: Clock, log: pytest.LogCaptureFixture
) -> None:
    with Rig(monkeypatch, slow_request=30.0) as rig:
        begin(rig, clock, 0, b"GET /a")
        forward(rig, clock, 10)
        begin(rig, clock, 1, b"GET /b")
        assert rig.health.due == rig.now + 20
        forward(rig, clock, 21)
        assert rig.health.due == rig.now + 9
        forward(rig, clock, 10)
        assert [record.getMessage().splitlines()[0] for record in log.records] == [
            "a request has run for 30.0 s: GET /a, runner 0",
            "a request has run for 30.0 s: GET /b, runner 1",
        ]


def test_the_next_beat_may_come_before_a_request_is_slow(monkeypatch: pytest.MonkeyPatch, clock: Clock) -> None:
    with Rig(monkeypatch, slow_request=30.0, beat_every=10.0) as rig:
        begin(rig, clock, 0)
        assert rig.health.due == rig.now + 10
        forward(rig, clock, 25)
        assert rig.health.due == rig.now + 5


def test_one_that_is_stuck_is_said_once_and_all_stacks_are_shown(
    monkeypatch: pytest.MonkeyPatch, clock: Clock, log: pytest.LogCaptureFixture
) -> None:
    stuck: list[float] = []
    with Rig(monkeypatch, request_timeout=60.0, on_hung=lambda: stuck.append(clock.now)) as rig:
        began = clock.now
        begin(rig, clock, 1, b"GET /stuck")
        assert rig.health.due == rig.now + 60
        forward(rig, clock, 50)
        begin(rig, clock, 0, b"GET /other")
        assert rig.health.due == rig.now + 10
        forward(rig, clock, 9.9)
        assert (stuck, log.records) == ([], [])
        forward(rig, clock, 0.2)
        assert stuck == [began + 60]
        assert [record.getMessage().splitlines()[0] for record in log.records] == [
            "--request-timeout is over; running for 60.0 s: GET /stuck, runner 1",
            "--request-timeout is over; running for 10.0 s: GET /other, runner 0",
        ]
        forward(rig, clock, 1000)
        assert len(stuck) == 1, "the worker is on its way out already"
        assert len(log.records) == 2
        assert rig.health.due == inf


def test_a_request_that_the_backend_ends_costs_its_worker_nothing(
    monkeypatch: pytest.MonkeyPatch, clock: Clock, log: pytest.LogCaptureFixture
) -> None:
    """Only if it does not end within ``END_LIMIT`` it is stuck."""
    stuck: list[float] = []
    with Rig(monkeypatch, request_timeout=60.0, on_hung=lambda: stuck.append(clock.now)) as rig:
        rig.backend.can_expel = True
        began = clock.now
        begin(rig, clock, 1, b"GET /ends")
        forward(rig, clock, 60)
        assert rig.backend.expelled == [1]
        assert rig.health.due == rig.now + END_LIMIT
        rig.row.slots[1].end(504, began, clock.now)
        forward(rig, clock, 1)
        began = clock.now
        begin(rig, clock, 1, b"GET /stays")  # in the same slot
        forward(rig, clock, 60)
        assert rig.backend.expelled == [1, 1]
        forward(rig, clock, END_LIMIT - 0.1)
        assert not stuck
        forward(rig, clock, 0.2)
        assert stuck == [began + 60 + END_LIMIT]
        assert rig.backend.expelled == [1, 1], "once each"
        assert [record.getMessage().splitlines()[0] for record in log.records] == [
            "--request-timeout is over; cancelled after 60.0 s: GET /ends, runner 1",
            "--request-timeout is over; cancelled after 60.0 s: GET /stays, runner 1",
            "--request-timeout is over; running for 65.0 s: GET /stays, runner 1",
        ]


def test_a_stream_without_an_end_is_never_late(monkeypatch: pytest.MonkeyPatch, clock: Clock) -> None:
    stuck: list[float] = []
    limits = {"slow_request": 10.0, "request_timeout": 60.0, "on_hung": lambda: stuck.append(clock.now)}
    with Rig(monkeypatch, **limits) as rig:
        rig.backend.running = lambda: [each._replace(is_endless=True) for each in rig.row.running()]
        begin(rig, clock, 0)
        forward(rig, clock, 1000)
        assert not stuck


def pause(rig: Rig, clock: Clock, seconds: float) -> None:
    """The process is stopped for so long, and its loop turns as soon as it goes on."""
    clock.now += seconds
    rig.turn(after=seconds)


def test_the_time_of_a_pause_is_no_time_of_a_request(
    monkeypatch: pytest.MonkeyPatch, clock: Clock, log: pytest.LogCaptureFixture
) -> None:
    stuck: list[float] = []
    limits = {"slow_request": 30.0, "request_timeout": 60.0, "on_hung": lambda: stuck.append(clock.now)}
    with Rig(monkeypatch, **limits) as rig:
        begin(rig, clock, 0)
        forward(rig, clock, 20)
        pause(rig, clock, 1000)
        assert not log.records
        rig.health.excuse(1000)  # by another thread, a moment later
        forward(rig, clock, THREAD_MOMENT)
        assert not log.records
        begin(rig, clock, 1)
        forward(rig, clock, 10)
        pause(rig, clock, 1)  # too short to be noticed
        assert [record.getMessage().splitlines()[0][:30] for record in log.records] == [
            "a request has run for 30.0 s: "
        ]
        forward(rig, clock, 27)
        assert not stuck
        forward(rig, clock, 2)
        assert len(stuck) == 1


def test_without_a_word_from_another_thread_a_late_look_judges_a_moment_later(
    monkeypatch: pytest.MonkeyPatch, clock: Clock
) -> None:
    """An application that blocks gevent's hub again and again is not excused."""
    stuck: list[float] = []
    with Rig(monkeypatch, request_timeout=60.0, on_hung=lambda: stuck.append(clock.now)) as rig:
        begin(rig, clock, 0)
        pause(rig, clock, 65)
        assert not stuck
        pause(rig, clock, THREAD_MOMENT + 5)
        assert len(stuck) == 1


def test_a_pause_before_the_first_look_at_a_request_is_excused(monkeypatch: pytest.MonkeyPatch, clock: Clock) -> None:
    stuck: list[float] = []
    with Rig(monkeypatch, request_timeout=60.0, on_hung=lambda: stuck.append(clock.now)) as rig:
        look(rig)
        rig.health.due = rig.now + SOON
        rig.row.slots[0].begin(b"GET /slow", clock.now)
        pause(rig, clock, 1000)
        forward(rig, clock, 55)
        assert not stuck
        forward(rig, clock, 6)
        assert len(stuck) == 1


def test_slow_and_stuck_are_two_things(
    monkeypatch: pytest.MonkeyPatch, clock: Clock, log: pytest.LogCaptureFixture
) -> None:
    stuck: list[float] = []
    limits = {"slow_request": 10.0, "request_timeout": 60.0, "on_hung": lambda: stuck.append(clock.now)}
    with Rig(monkeypatch, **limits) as rig:
        begin(rig, clock, 0)
        assert rig.health.due == rig.now + 10
        forward(rig, clock, 11)
        assert rig.health.due == rig.now + 49
        assert (len(log.records), stuck) == (1, [])
        forward(rig, clock, 50)
        assert (len(log.records), len(stuck)) == (2, 1)


# --- what the connections are at --------------------------------------------------------------------

STATES = {
    "idle": (HEAD, False),
    "head": (HEAD, True),
    "body": (BODY, False),
    "discard": (DISCARD, False),
    "queue": (READY, False),
    "busy": (APP, False),
    "flush": (FLUSH, False),
    "linger": (LINGER, False),
    "closed": (CLOSED, False),
}


@pytest.mark.parametrize("name", STATES)
def test_each_state_of_a_connection_is_counted_in_one_gauge(name: str) -> None:
    state, begun = STATES[name]
    connection = SimpleNamespace(state=state, idle=state is HEAD and not begun)
    gauge = {"discard": "body", "flush": "send", "linger": "send", "closed": "send"}.get(name, name)
    counted = dict(zip(GAUGES, health_module._gauges([connection, connection], 0), strict=True))  # type: ignore[list-item]
    assert counted == dict.fromkeys(GAUGES, 0) | {"open": 2, gauge: 2}


def test_real_connections_are_counted(monkeypatch: pytest.MonkeyPatch, clock: Clock) -> None:
    def gauges() -> dict[str, int]:
        look(rig)
        return {name: value for name, value in rig.row.read().counters.items() if name in GAUGES and value}

    def sent(client: socket.socket, connection: Connection, data: bytes, state: str) -> None:
        client.sendall(data)
        rig.until(lambda: connection.state is state and not connection.idle)

    with Rig(monkeypatch, slow_request=30.0) as rig:
        rig.connect()
        assert gauges() == {"open": 1, "idle": 1}
        sent(*rig.connect(), GET[:10], HEAD)
        assert gauges() == {"open": 2, "idle": 1, "head": 1}
        sent(*rig.connect(), b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\n123", BODY)
        assert gauges() == {"open": 3, "idle": 1, "head": 1, "body": 1}
        sent(*rig.connect(), GET, READY)
        assert gauges() == {"open": 4, "idle": 1, "head": 1, "body": 1, "queue": 1}
        rig.take()
        assert gauges() == {"open": 4, "idle": 1, "head": 1, "body": 1, "busy": 1}
        sent(*rig.connect(), b"nonsense\r\n\r\n", LINGER)
        assert gauges() == {"open": 5, "idle": 1, "head": 1, "body": 1, "busy": 1, "send": 1}


def test_answers_are_counted_by_their_status(monkeypatch: pytest.MonkeyPatch) -> None:
    statuses = iter([200, 204, 301, 404, 499, 500, 200, 999])

    def app(stream: Stream) -> None:
        stream.status, stream.sent = next(statuses), 1000
        stream.interims += stream.status == 204
        stream.send(ANSWER)

    with Rig(monkeypatch, app=app, beat_every=10.0) as rig:
        client, _ = rig.connect()
        for _ in range(8):
            client.sendall(GET)
            rig.until(rig.run)
            assert read(client) == ANSWER
        client.sendall(b"nonsense\r\n\r\n")
        rig.until(lambda: rig.connections[0].state is LINGER)
        rig.turn(after=10)
        counters = rig.row.read().counters
    expected = {"requests": 9, "1xx": 1, "2xx": 3, "3xx": 1, "4xx": 3, "5xx": 1, "bytes": 8000}
    assert {name: counters[name] for name in expected} == expected
