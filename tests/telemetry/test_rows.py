"""The rows of one worker with several server loops, read as one."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from zibai.telemetry.board_view import describe
from zibai.telemetry.row import COUNTERS, GAUGES, Row
from zibai.telemetry.rows import Rows
from zibai.telemetry.scoreboard import Scoreboard

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture
def now(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The clock and the processor's time, as the rows have them."""
    times = [100.0, 1.0]
    monkeypatch.setattr("zibai.telemetry.row.clock", lambda: times[0])
    monkeypatch.setattr("zibai.telemetry.row.time.process_time", lambda: times[1])
    return times


@pytest.fixture
def board(tmp_path: Path) -> Iterator[Scoreboard]:
    board = Scoreboard.create(str(tmp_path / "board"), 3, 2, {}, loops=2)
    yield board
    board.close()


def made(slots: int = 2) -> Rows:
    rows = Rows([Row.private(slots), Row.private(slots)])
    for row in rows.each:
        row.offer(slots)
    rows.assign("ready", 7, 3, 50.0)
    return rows


def test_the_heartbeat_is_that_of_the_loop_that_has_been_silent_for_longest(now: list[float]) -> None:
    """With the processor's time of the process at that moment: the parent asks whether it has been used since."""
    rows = made()
    assert rows.pulse() == (0.0, 0.0)
    rows.each[0].beat([])
    assert rows.pulse() == (100.0, 1.0), "the other loop has had none: there may be no other"
    now[:] = [130.0, 9.0]
    rows.each[1].beat([])
    assert rows.pulse() == (100.0, 1.0)
    now[:] = [140.0, 9.5]
    rows.each[0].beat([])
    assert rows.pulse() == (130.0, 9.0)
    report = rows.read()
    assert (report.beat, report.cpu) == (130.0, 9.5), "the processor's time is of the process, and is not added up"


def test_a_report_is_the_sum(now: list[float]) -> None:
    rows = made()
    first, second = rows.each
    first.beat([3, 0, 2, 0, 1, 0, 30, *range(8)])
    second.beat([4, 0, 4, 0, 0, 0, 12, *[1] * 8])
    first.refuse(400)
    second.refuse(400)
    first.slots[0].begin(b"GET /first", 10.0)
    second.slots[0].begin(b"GET /second", 5.0)
    second.slots[1].begin(b"GET /done", 1.0)
    second.slots[1].end(200, 1.0, 2.0)
    first.leave_out(2)
    report = rows.read()
    assert (report.state, report.pid, report.generation, report.started) == ("ready", 7, 3, 50.0)
    assert [report.counters[name] for name in COUNTERS] == [8, 0, 7, 0, 1, 0, 42], "with the request of the slot"
    assert [report.counters[name] for name in GAUGES] == [1, 2, 3, 4, 5, 6, 7, 8]
    assert [each.what for each in report.running] == ["GET /second", "GET /first"]
    assert [each.what for each in report.finished] == ["GET /done"]
    assert sum(report.refusals) == 2
    assert (report.runners, report.unlisted) == (4, 2)
    alone = [row.read().counted for row in rows.each]
    assert list(report.counted.numbers) == list(alone[0].plus(alone[1]).numbers)
    assert report.counted.seconds == sum(each.seconds for each in alone)


def test_rows_without_a_loop_do_not_look_ready() -> None:
    """An ASGI application has one loop; other workers would leave clients to what is not there."""
    rows = Rows([Row.private(1), Row.private(1)])
    rows.assign("starting", 7, 0, 1.0)
    assert [row.state for row in rows.each] == ["starting", "starting"]
    rows.each[0].offer(5)
    rows.assign("ready", 7, 0, 1.0)
    assert [row.state for row in rows.each] == ["ready", ""]
    rows.assign("draining", 7, 0, 1.0)
    assert rows.is_used
    rows.clear()
    assert not rows.is_used
    assert [row.state for row in rows.each] == ["", ""]


def test_each_worker_has_as_many_rows_as_loops(board: Scoreboard, tmp_path: Path) -> None:
    for number, worker in enumerate(board.workers()):
        for loop, row in enumerate(worker.each):
            row.offer(10 * number + loop)
    other = Scoreboard.open(str(tmp_path / "board"))
    assert [row.read().runners for row in other.rows()] == [0, 1, 10, 11, 20, 21]
    assert [[row.read().runners for row in worker.each] for worker in other.workers()] == [[0, 1], [10, 11], [20, 21]]
    assert [(first, row.read().runners) for first, row in other.others(1)] == [
        (True, 0),
        (True, 1),
        (False, 20),
        (False, 21),
    ]
    other.release()


def test_what_is_shown_is_workers_and_not_loops(board: Scoreboard) -> None:
    worker = board.worker(1)
    for row in worker.each:
        row.offer(2)
        row.beat([5, 0, 5, 0, 0, 0, 9, 3, *[0] * 7])
    worker.assign("ready", 7, 0, 1.0)
    shown = describe(board, measured=False)
    assert [(each["row"], each["pid"], each["requests"], each["open"]) for each in shown["workers"]] == [(1, 7, 10, 6)]
    assert shown["totals"]["requests"] == 10
    with board.totals.retiring(worker.read()):
        worker.clear()
    after = describe(board, measured=False)
    assert (after["workers"], after["totals"]["requests"]) == ([], 10)
    assert after["totals"]["cpu"] == shown["totals"]["cpu"]
