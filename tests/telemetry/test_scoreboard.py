"""Rows and slots as they are written and read, in memory of this process and in a file that others map."""

from __future__ import annotations

import copy
import errno
import multiprocessing
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from zibai.cli.find import Found
from zibai.cli.ps import ps
from zibai.clock import clock
from zibai.telemetry import board_file as control
from zibai.telemetry import row as row_module
from zibai.telemetry import scoreboard
from zibai.telemetry.board_view import describe, table
from zibai.telemetry.counts import REFUSALS, Counted
from zibai.telemetry.row import _BEAT, _ROW, COUNTERS, FINISHED_SHOWN, GAUGES, Row, black_box, size_of
from zibai.telemetry.scoreboard import ASIDE, OtherVersion, Scoreboard
from zibai.telemetry.slot import (
    CALLED,
    FREE,
    READING,
    SENDING,
    SLOT_SIZE,
    TEXT,
    Finished,
    Running,
    read_records,
    settled,
)

from support import ROOT

if TYPE_CHECKING:
    from collections.abc import Iterator

NOTHING = dict.fromkeys(COUNTERS + GAUGES, 0)


@pytest.fixture
def board(tmp_path: Path) -> Iterator[Scoreboard]:
    board = Scoreboard.create(str(tmp_path / "board"), 3, 2, {"app": "example:app"})
    yield board
    if not board._map.closed:
        board.close()


def serve(row: Row, slot: int, what: bytes, began: float, ended: float, status: int = 200) -> None:
    row.slots[slot].begin(what, began)
    row.slots[slot].end(status, began, ended)


# --- a row ------------------------------------------------------------------------------------------


def test_an_empty_row_says_nothing() -> None:
    assert Row.private(2).read() == ("", 0, 0, 0.0, 0.0, 0.0, NOTHING, [], [], Counted(), [0] * len(REFUSALS), 0, 0)


def test_what_the_parent_thinks_of_a_worker() -> None:
    row = Row.private(1)
    row.assign("draining", 2**31, 7, 12.5)
    report = row.read()
    assert (report.state, report.pid, report.generation, report.started) == ("draining", 2**31, 7, 12.5)
    row.assign("ready", 3, -1, 0.5)
    report = row.read()
    assert (report.state, report.pid, report.generation, report.started) == ("ready", 3, 0, 0.5)


def test_a_beat_says_when_and_what_the_connections_are_at(monkeypatch: pytest.MonkeyPatch) -> None:
    row = Row.private(1)
    monkeypatch.setattr(row_module, "clock", lambda: 50.0)
    monkeypatch.setattr(row_module.time, "process_time", lambda: 1.25)
    row.beat([0] * 7 + [7, 1, 2, 3, 4, 5, 6])
    report = row.read()
    assert (report.beat, report.cpu) == (50.0, 1.25)
    assert report.counters == NOTHING | {"open": 7, "idle": 1, "head": 2, "body": 3, "queue": 4, "busy": 5, "send": 6}
    row.beat([0] * 14)
    assert row.read().counters == NOTHING


def test_a_beat_says_what_was_answered() -> None:
    row = Row.private(1)
    row.beat([8, 2, 3, 1, 2, 1, 6005 + 2**40] + [0] * 7)
    expected = {"requests": 8, "1xx": 2, "2xx": 3, "3xx": 1, "4xx": 2, "5xx": 1, "bytes": 6005 + 2**40}
    assert row.read().counters == NOTHING | expected


def test_a_response_counts_as_soon_as_its_request_ends() -> None:
    """A worker that is killed between two heartbeats has lost no response, and none counts twice."""
    row = Row.private(2)
    row.beat([2, 1, 0, 0, 1, 1, 70] + [0] * 8)  # the server's own: two refusals, and an interim response
    for what, status in ((b"GET", 200), (b"GET", 204), (b"POST", 201), (b"PUT", 302), (b"OPTIONS", 404), (b"GET", 799)):
        slot = row.slots[status % 2]
        slot.begin(what, 1.0)
        slot.end(status, 1.0, 1.0 if status == 204 else 3.0)
    expected = {"requests": 8, "1xx": 1, "2xx": 3, "3xx": 1, "4xx": 2, "5xx": 1, "bytes": 70}
    assert row.read().counters == NOTHING | expected


def test_a_row_that_is_cleared_is_as_new() -> None:
    row = Row.private(2)
    row.assign("ready", 1, 1, 1.0)
    row.beat([1] * 14)
    serve(row, 0, b"GET /", 1.0, 2.0)
    row.slots[1].begin(b"GET /", 3.0)
    row.clear()
    assert row.read() == Row.private(2).read()


def test_the_parts_of_a_row_do_not_touch_each_other() -> None:
    row = Row.private(2)
    for slot in row.slots:
        slot.begin(b"\xff" * 500, -1.0)
    row.beat([2**64 - 1] * len(NOTHING))
    row.assign("x" * 16, 2**63 - 1, 2**32 - 1, -1.0)
    report = row.read()
    assert report.counters == dict.fromkeys(COUNTERS + GAUGES, 2**64 - 1)
    assert (report.state, report.pid, report.generation, report.started) == ("x" * 16, 2**63 - 1, 2**32 - 1, -1.0)
    assert len(report.running) == 2


# --- slots ------------------------------------------------------------------------------------------


def test_a_request_runs_and_is_finished() -> None:
    row = Row.private(2)
    slot = row.slots[1]
    slot.begin(b"GET /path", 10.0)
    assert row.running() == row.read().running == [Running(1, "GET /path", "app", 10.0)]
    assert row.read().finished == []
    for phase, word in ((READING, "body"), (SENDING, "send"), (CALLED, "app")):
        slot.phase(phase)
        assert row.running() == [Running(1, "GET /path", word, 10.0)]
    slot.end(404, 10.0, 10.5)
    assert row.running() == row.read().running == []
    assert row.read().finished == [Finished("GET /path", 404, 10.0, 10.5)]


def test_a_request_that_is_not_shown_leaves_no_record() -> None:
    """Its place has the end of an earlier request."""
    row = Row.private(1)
    for number in range(4):
        serve(row, 0, b"GET /%d" % number, number, number + 0.5)
    row.slots[0].begin(b"GET /hidden", 5.0)
    row.slots[0].phase(FREE)
    assert row.running() == []
    assert [each.what for each in row.read().finished] == ["GET /3", "GET /2", "GET /1"]


def test_the_longest_runs_first_and_the_latest_finished_comes_first() -> None:
    row = Row.private(3)
    for slot, since in enumerate((5.0, 3.0, 4.0)):
        row.slots[slot].begin(b"GET /%d" % slot, since)
    assert [each.what for each in row.running()] == ["GET /1", "GET /2", "GET /0"]
    for slot, ended in enumerate((8.0, 7.0, 9.0)):
        row.slots[slot].end(200, 1.0, ended)
    assert [each.what for each in row.read().finished] == ["GET /2", "GET /0", "GET /1"]


def test_a_slot_remembers_its_last_requests_and_no_other_slot_overwrites_them() -> None:
    row = Row.private(3)
    row.slots[1].begin(b"GET /long", 1.0)
    for number in range(100):
        for slot in (0, 2):
            serve(row, slot, b"GET /%d/%d" % (slot, number), number, number + 0.5)
    report = row.read()
    assert report.running == [Running(1, "GET /long", "app", 1.0)]
    assert [each.what for each in report.finished] == [
        f"GET /{slot}/{number}" for number in (99, 98, 97, 96) for slot in (0, 2)
    ]
    row.slots[0].begin(b"GET /next", 200.0)
    finished = [each.what for each in row.read().finished if each.what.startswith("GET /0/")]
    assert finished == ["GET /0/99", "GET /0/98", "GET /0/97"], "the new one has taken the place of the oldest"
    assert [each.what for each in row.running()] == ["GET /long", "GET /next"]


def test_a_new_request_does_not_inherit_what_was_in_its_place() -> None:
    row = Row.private(1)
    for number in range(4):
        serve(row, 0, b"GET /something/long", number, number + 0.5, status=500)
    row.slots[0].begin(b"GET /", 10.0)
    row.slots[0].phase(FREE)  # as a reader may see it that looks halfway
    assert [each.what for each in row.read().finished] == ["GET /something/long"] * 3


@pytest.mark.parametrize(
    ("what", "expected"),
    [
        (b"GET /" + b"x" * 500, "GET /" + "x" * (TEXT - 5)),
        (b"GET /" + b"x" * (TEXT - 5), "GET /" + "x" * (TEXT - 5)),
        ("GET /é".encode(), "GET /\\xc3\\xa9"),
        (b"GET /" + b"x" * (TEXT - 6) + "é".encode(), "GET /" + "x" * (TEXT - 6) + "\\xc3"),
        (b" ", " "),
    ],
    ids=["long", "just", "not ASCII", "cut in a character", "empty"],
)
def test_any_path_can_be_kept(what: bytes, expected: str) -> None:
    row = Row.private(2)
    row.slots[0].begin(what, 1.0)
    row.slots[1].begin(b"GET /other", 2.0)
    assert row.running() == [Running(0, expected, "app", 1.0), Running(1, "GET /other", "app", 2.0)]


def test_a_record_that_is_read_halfway_is_no_error() -> None:
    row = Row.private(1)
    row.slots[0].begin(b"GET /", 1.0)
    row.slots[0].phase(200)
    report = row.read()
    assert (report.running, report.finished) == ([], [])


def test_a_record_that_changes_while_it_is_read_is_read_again() -> None:
    """Its begin was not written yet at the first look, and its phase was: it seems to run since the system came up."""
    row = Row.private(2)
    row.slots[1].begin(b"GET /other", 2.0)
    row.slots[0].begin(b"GET /", 5000.0)
    whole = bytes(row._rest)
    torn = bytearray(whole)
    at = row.slots[0]._at - 8
    torn[at : at + 8] = bytes(8)
    assert read_records(bytes(torn), 2).running[0] == Running(0, "GET /", "app", 0.0), "as without a second look"
    for copies in ([torn, whole, whole], [whole, torn, whole, whole]):
        found = read_records(settled(iter(map(bytes, copies)).__next__), 2)
        assert found.running == [Running(1, "GET /other", "app", 2.0), Running(0, "GET /", "app", 5000.0)]


def test_a_record_that_never_stays_the_same_has_only_its_sums() -> None:
    row = Row.private(2)
    serve(row, 1, b"GET /done", 1.0, 2.0)
    serve(row, 0, b"GET /", 3.0, 4.0)
    row.slots[0].begin(b"GET /", 5.0)

    def copies() -> Iterator[bytes]:
        while True:
            row.slots[0].phase(READING)
            yield bytes(row._rest)
            row.slots[0].phase(CALLED)
            yield bytes(row._rest)

    found = read_records(settled(copies().__next__), 2)
    assert found.running == []
    assert [each.what for each in found.finished] == ["GET /", "GET /done"]
    assert found.seconds == 2.0


WRITING = """
import sys
from zibai.telemetry.scoreboard import Scoreboard

row = Scoreboard.open(sys.argv[1]).row(1)
row.assign("ready", 4711, 1, 2.0)
row.beat([])
print("writes", flush=True)
while True:
    row.assign("ready", 4711, 1, 2.0)
    row.beat([])
"""


@pytest.fixture
def written(board: Scoreboard, tmp_path: Path) -> Iterator[Row]:
    """A row that another process writes all the time."""
    command = [sys.executable, "-c", WRITING, str(tmp_path / "board")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, env={**os.environ, "PYTHONPATH": str(ROOT)}) as worker:
        try:
            assert worker.stdout is not None
            assert worker.stdout.readline().strip() == b"writes"
            yield board.row(1)
        finally:
            worker.kill()


def test_a_reader_sees_no_heartbeat_halfway(written: Row) -> None:
    """A worker with a heartbeat of 0 is one that sends none, and would not be watched any more."""
    view, start = written._view, clock()
    first = _BEAT.unpack_from(view, _ROW.size)[0]
    while clock() < start + 1.5:
        for _ in range(500):
            assert first <= _BEAT.unpack_from(view, _ROW.size)[0] < start + 60
            assert _ROW.unpack_from(view)[1:3] == (4711, 1)


def test_each_number_of_a_row_lies_at_a_multiple_of_its_size(board: Scoreboard) -> None:
    """So that the processor writes it in one step."""
    sizes = [scoreboard._ROWS_AT, _ROW.size, _BEAT.size, row_module._SLOTS_AT, SLOT_SIZE, size_of(1), size_of(2)]
    assert [size % 8 for size in sizes] == [0] * len(sizes)


# --- the black box ----------------------------------------------------------------------------------


def test_the_black_box_tells_what_runs_and_what_was_last(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(row_module, "clock", lambda: 20.0)
    row = Row.private(2)
    row.slots[0].begin(b"POST /upload", 7.5)
    row.slots[0].phase(READING)
    serve(row, 1, b"GET /", 17.0, 17.25)
    assert black_box(row.read()) == (
        "\n  it was serving POST /upload for 12.5 s (body)"
        "\n  2.8 s ago it answered GET / with 200 after 0.250 s"
    )  # fmt: skip


def test_the_black_box_is_empty_or_short() -> None:
    row = Row.private(5)
    assert black_box(row.read()) == ""
    for number in range(20):
        serve(row, number % 5, b"GET /%d" % number, number, number + 0.5)
    lines = black_box(row.read()).splitlines()
    assert len(lines) == 1 + FINISHED_SHOWN
    assert "GET /19 " in lines[1]
    assert "GET /12 " in lines[-1]


# --- the file ---------------------------------------------------------------------------------------


def test_the_file_is_for_this_user_only_and_goes_with_its_server(tmp_path: Path) -> None:
    path = tmp_path / "board"
    old = os.umask(0)
    try:
        board = Scoreboard.create(str(path), 2, 2, {})
    finally:
        os.umask(old)
    if sys.platform != "win32":
        assert path.stat().st_mode & 0o777 == 0o600
    assert board.pid == os.getpid()
    assert 0 < board.started <= clock()
    row = board.row(0)
    row.assign("ready", 1, 1, 1.0)
    board.close()
    assert not path.exists()
    assert row.read().state == "ready", "the row goes on in memory of its own"


def test_the_file_is_closed_although_a_request_still_runs(board: Scoreboard) -> None:
    """Its thread is left to itself at the end, and still says how it ended. Windows removes no file that is mapped."""
    row = board.row(1)
    slot = row.slots[1]
    row.beat([5] * len(NOTHING))
    slot.begin(b"GET /slow", 1.0)
    board.release()
    assert board._map.closed
    slot.phase(SENDING)
    assert row.running() == [Running(1, "GET /slow", "send", 1.0)]
    slot.end(200, 1.0, 2.0)
    row.slots[0].begin(b"GET /next", 3.0)
    row.beat([6] * len(NOTHING))
    report = row.read()
    assert report.finished == [Finished("GET /slow", 200, 1.0, 2.0)]
    assert [each.what for each in report.running] == ["GET /next"]
    assert {name: number for name, number in report.counters.items() if number != 6} == {"requests": 7, "2xx": 7}
    row.clear()
    assert row.read().finished == []


def test_an_existing_file_is_left_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "thesis"
    path.write_bytes(b"my thesis")
    with pytest.raises(FileExistsError):
        Scoreboard.create(str(path), 2, 2, {})
    assert path.read_bytes() == b"my thesis"


def test_a_file_that_cannot_be_filled_is_not_left_behind(tmp_path: Path) -> None:
    with pytest.raises(TypeError):
        Scoreboard.create(str(tmp_path / "board"), 2, 2, {"app": object()})
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("content", [b"", b"zibai 1\n", b"x" * 5000, b"zibai 0\n" + b"\0" * 5000])
def test_a_file_that_is_none_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "board"
    path.write_bytes(content)
    before = open_descriptors()
    with pytest.raises(ValueError, match="is no scoreboard"):
        Scoreboard.open(str(path))
    assert open_descriptors() == before
    assert path.read_bytes() == content
    with pytest.raises(FileNotFoundError):
        Scoreboard.open(str(tmp_path / "nothing"))


def test_a_file_that_is_not_whole_is_refused(board: Scoreboard, tmp_path: Path) -> None:
    whole = (tmp_path / "board").read_bytes()
    for missing in (1, 3 * size_of(2)):
        (tmp_path / "cut").write_bytes(whole[:-missing])
        with pytest.raises(ValueError, match="is no scoreboard"):
            Scoreboard.open(str(tmp_path / "cut"))


def open_descriptors() -> int:
    """How many there are, where the system tells."""
    return len(os.listdir("/proc/self/fd")) if sys.platform == "linux" else 0


def test_a_second_mapping_sees_every_row(board: Scoreboard, tmp_path: Path) -> None:
    for number, row in enumerate(board.rows()):
        row.assign("ready", number + 1, 0, 0.0)
        row.slots[-1].begin(b"GET /%d" % number, 1.0)
        row.beat([0] * 6 + [number] + [0] * 7)
    other = Scoreboard.open(str(tmp_path / "board"))
    assert (other.pid, other.started, other.facts) == (board.pid, board.started, {"app": "example:app"})
    reports = [row.read() for row in other.rows()]
    assert [(each.pid, each.running[0].slot, each.running[0].what, each.counters["bytes"]) for each in reports] == [
        (1, 1, "GET /0", 0),
        (2, 1, "GET /1", 1),
        (3, 1, "GET /2", 2),
    ]
    board.row(1).clear()
    assert [row.read().pid for row in other.rows()] == [1, 0, 3]
    other.release()
    assert (tmp_path / "board").exists(), "it is not his who only looks"


def test_only_the_server_removes_its_file(board: Scoreboard, tmp_path: Path) -> None:
    other = Scoreboard.open(str(tmp_path / "board"))
    other.pid += 1  # as if this were another process than the one that made it
    other.close()
    assert (tmp_path / "board").exists()


@pytest.mark.skipif(sys.platform == "win32", reason="nobody can remove an open file there")
def test_the_file_may_have_been_tidied_up(tmp_path: Path) -> None:
    board = Scoreboard.create(str(tmp_path / "board"), 1, 1, {})
    (tmp_path / "board").unlink()
    board.close()


def test_rows_fill_the_file_and_no_more(tmp_path: Path) -> None:
    for rows, slots in ((1, 1), (3, 11), (66, 101)):
        path = tmp_path / f"{rows}-{slots}"
        board = Scoreboard.create(str(path), rows, slots, {})
        assert len(list(board.rows())) == rows
        assert path.stat().st_size == scoreboard._ROWS_AT + rows * size_of(slots)
        assert len(board.row(rows - 1).slots) == slots
        board.row(rows - 1).slots[-1].begin(b"GET /last", 1.0)
        assert [each.what for each in board.row(rows - 1).running()] == ["GET /last"]
        board.close()


ENDPOINT = {"version": "1", "endpoint": "/run/zibai-1.sock", "slots": 10}


@pytest.mark.parametrize(
    ("long", "kept"),
    [
        ({"app": "x" * 1900}, {"app": "x" * 1900}),
        ({"app": "x" * 3000}, {"app": "x" * 1500}),
        ({"app": "\U0001f98a" * 300}, {"app": "\U0001f98a" * 150}),
        ({"app": "a:b", "listen": ["x" * 90] * 20}, {"app": "a:b", "listen": ["x" * 90] * 20}),
        ({"app": "a:b", "listen": ["x" * 90] * 26}, {"app": "a:b", "listen": ["x" * 90] * 20, "unlisted": 6}),
        ({"app": "x" * 3000, "listen": ["x"]}, {"app": "x" * 1500, "listen": [], "unlisted": 1}),
    ],
)
def test_facts_that_are_too_long_keep_what_commands_need(
    tmp_path: Path, long: dict[str, Any], kept: dict[str, Any]
) -> None:
    path = str(tmp_path / "board")
    given = copy.deepcopy(ENDPOINT | long)
    board = Scoreboard.create(path, 1, 1, given)
    other = Scoreboard.open(path)
    assert board.facts == other.facts == ENDPOINT | kept
    assert given == ENDPOINT | long, "they are the caller's"
    told = list(table(describe(other)))
    assert told[1].endswith(" more addresses") is ("unlisted" in kept)
    assert (" requests, " in told[2]) is ("listen" in kept)
    other.release()
    board.close()


@pytest.mark.parametrize(
    ("number", "said"),
    [(0, []), (1, ["and 1 more request, for less time"]), (7, ["and 7 more requests, for less time"])],
)
def test_requests_without_a_slot_are_told_of(tmp_path: Path, number: int, said: list[str]) -> None:
    board = Scoreboard.create(str(tmp_path / "board"), 1, 2, {"listen": ["http://here"]})
    row = board.row(0)
    row.assign("ready", os.getpid(), 0, 0.0)
    row.leave_out(number)
    told = describe(board)
    assert told["workers"][0]["unlisted"] == number
    assert [line.strip() for line in table(told) if " more " in line] == said
    board.close()


def test_facts_that_cannot_be_made_shorter_are_left_out(tmp_path: Path) -> None:
    board = Scoreboard.create(str(tmp_path / "board"), 1, 1, {"endpoint": "x" * 3000})
    assert board.facts == {}
    board.close()


# --- files that servers have left -------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the scoreboards of this user are."""
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    return tmp_path


def leave(path: str, pid: int) -> None:
    """The file of a server that was killed."""
    board = Scoreboard.create(path, 1, 1, {"app": "example:app", "listen": []})
    board.row(0).assign("ready", pid, 0, 0.0)
    board.release()
    content = bytearray(Path(path).read_bytes())
    content[8:16] = pid.to_bytes(8, sys.byteorder)
    Path(path).write_bytes(content)


@pytest.fixture
def dead() -> int:
    """The id of a process that is gone."""
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


def test_the_file_of_a_dead_server_is_removed(folder: Path, dead: int) -> None:
    leave(control.default_path(dead), dead)
    board = control.create(control.default_path(1), 1, 1, {})
    control.tidy()
    assert [path.name for path in folder.iterdir()] == ["zibai-1.board"]
    board.close()
    assert list(folder.iterdir()) == []


def test_a_new_server_takes_the_place_of_a_dead_one(folder: Path, dead: int) -> None:
    path = control.default_path("x")
    for pid in (dead, os.getpid()):
        leave(path, pid)
        board = control.create(path, 2, 1, {})
        assert board.pid == os.getpid()
        board.close()
        assert list(folder.iterdir()) == []


def of_another_version(path: Path, pid: int) -> None:
    leave(str(path), pid)
    path.write_bytes(b"zibai 2\n" + path.read_bytes()[8:3000])


@pytest.mark.skipif(sys.platform == "win32", reason="an open file cannot be removed there, which tells more than an id")
def test_the_file_of_a_server_of_another_version(folder: Path, dead: int) -> None:
    path = folder / "zibai-x.board"
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as other:
        of_another_version(path, other.pid)
        control.tidy()
        with pytest.raises(OSError, match=f"belongs to process {other.pid}$"):
            control.create(str(path), 1, 1, {})
        board = control.create(str(path), 1, 1, {}, predecessor=other.pid)
        assert Scoreboard.open(str(path)).pid == os.getpid()
        with pytest.raises(OtherVersion, match="is no scoreboard of this version"):
            Scoreboard.open(f"{path}{ASIDE}")
        board.close()
        other.communicate()
    of_another_version(path, dead)
    control.create(str(path), 1, 1, {}).close()
    of_another_version(path, dead)
    control.tidy()
    assert not path.exists()


@pytest.mark.skipif(sys.platform != "win32", reason="process ids return soon there, and open files cannot be removed")
def test_the_file_of_a_dead_server_whose_id_another_process_has(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = control.default_path("x")
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as other:
        leave(path, other.pid)
        assert ps([]) == 1, "no server is shown"
        assert "no server is found" in capsys.readouterr().err
        control.create(path, 1, 1, {}).close()
        leave(path, other.pid)
        control.tidy()
        assert list(folder.iterdir()) == []
        other.communicate(b"\n")


def test_a_server_that_ends_while_it_is_looked_at_is_told(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def gone(found: Found) -> None:
        raise FileNotFoundError(errno.ENOENT, "No such file", found.path)

    board = Scoreboard.create(control.default_path("x"), 1, 1, {"app": "example:app", "listen": []})
    monkeypatch.setattr(Found, "describe", gone)
    try:
        assert ps(["--json"]) == 1
    finally:
        board.close()
    shown = capsys.readouterr()
    assert shown.out == ""
    assert re.fullmatch(r"zibai ps: error: the state of process \d+ cannot be read any more: .*\n", shown.err)


def test_the_file_of_a_living_server_stays(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """That of another process, as far as this one can tell."""
    board = Scoreboard.create(control.default_path("x"), 1, 1, {"app": "example:app", "listen": []})
    try:
        control.tidy()
        assert ps([]) == 0
        assert "example:app" in capsys.readouterr().out
        assert [path.name for path in folder.iterdir()] == ["zibai-x.board"]
    finally:
        board.close()


# --- in a spawned worker ----------------------------------------------------------------------------


def work(board: Scoreboard, number: int) -> None:
    """What a worker writes; spawned, so it is at the top of a module."""
    row = board.row(number)
    row.slots[0].begin(b"GET /there", 1.0)
    row.beat([1] * 6 + [3] + [1] * 7)


def test_a_spawned_worker_writes_where_its_parent_reads(board: Scoreboard, tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    process = context.Process(target=work, args=(board, 1))
    before = clock()
    process.start()
    if sys.platform != "win32":
        (tmp_path / "board").unlink()  # it goes by its descriptor
    process.join(20)
    assert process.exitcode == 0
    reports = [row.read() for row in board.rows()]
    assert [each.counters["bytes"] for each in reports] == [0, 3, 0]
    assert reports[1].running == [Running(0, "GET /there", "app", 1.0)]
    assert before < reports[1].beat < clock(), "both processes have the same clock"


def test_one_without_a_place_is_shared_with_workers_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    board = Scoreboard.anonymous(3, 2, {})
    assert board is not None
    assert control.default_paths() == [], "no command finds it"
    process = multiprocessing.get_context("spawn").Process(target=work, args=(board, 1))
    process.start()
    process.join(20)
    assert process.exitcode == 0
    assert board.row(1).read().running == [Running(0, "GET /there", "app", 1.0)]
    control.tidy()
    assert len(list(tmp_path.iterdir())) == (1 if sys.platform == "win32" else 0), "its server runs"
    board.close()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(sys.platform != "win32", reason="memory has no file elsewhere")
def test_what_a_killed_server_without_a_place_has_left_is_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    board = Scoreboard.anonymous(3, 2, {})
    assert board is not None
    board.release()
    control.tidy()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(sys.platform != "linux", reason="what a file takes of the disk is told in other ways elsewhere")
def test_no_row_is_a_hole(tmp_path: Path) -> None:
    """A worker, or the parent, that writes to one while the disk is full would be killed by SIGBUS."""
    Scoreboard.create(str(tmp_path / "large"), 30, 100, {}).release()
    info = (tmp_path / "large").stat()
    assert info.st_blocks * 512 >= info.st_size > 1_000_000
