"""The parent's decisions, with a fake clock and processes that only write down what they are told."""

from __future__ import annotations

import logging
from itertools import count
from typing import TYPE_CHECKING

import pytest

from zibai.supervise.child import Ending
from zibai.supervise.generations import DRAINS
from zibai.supervise.record import KILL_AFTER, LAST_WORDS, Worker
from zibai.supervise.roster import Roster
from zibai.supervise.watch import BETWEEN_SAMPLES
from zibai.system.usage import Usage

if TYPE_CHECKING:
    from zibai.supervise.events import Event


@pytest.fixture(autouse=True)
def _heard(monkeypatch: pytest.MonkeyPatch) -> None:
    """The log reaches caplog, also after a test that has configured logging."""
    monkeypatch.setattr(logging.getLogger("zibai"), "propagate", True)


GRACEFUL = 10.0
BOOT = 60.0
SILENCE = 30.0


class FakeProcess:
    def __init__(self, pid: int) -> None:
        self.pid = pid
        self.told: list[str] = []
        self.replacement: FakeProcess | None = None
        self.beaten: float | None = None
        self.busy = False
        self.used = Usage()
        self.samples = 0

    def usage(self) -> Usage:
        self.samples += 1
        return self.used

    def beat(self) -> float | None:
        return self.beaten

    def uses_processor(self) -> bool:
        return self.busy

    def announce_drain(self) -> None:
        self.told.append("announce_drain")

    def drain(self, replacement: FakeProcess | None = None) -> None:
        self.told.append("drain")
        self.replacement = replacement

    def quit(self) -> None:
        self.told.append("quit")

    def kill(self) -> None:
        self.told.append("kill")


class World:
    """A roster and what surrounds it."""

    def __init__(self, wanted: int, drain_delay: float = 0.0) -> None:
        self.now = 1000.0
        self.started: list[FakeProcess] = []
        self.room = True
        self.events: list[Event] = []
        self._pids = count(1)
        self.roster = Roster(
            self._spawn,
            wanted,
            lambda: self.now,
            graceful_timeout=GRACEFUL,
            boot_timeout=BOOT,
            worker_timeout=SILENCE,
            drain_delay=lambda: drain_delay,
            tell=self.events.append,
        )

    def _spawn(self) -> FakeProcess:
        if not self.room:
            raise OSError(11, "Resource temporarily unavailable")
        self.started.append(FakeProcess(next(self._pids)))
        return self.started[-1]

    def tick(self) -> float | None:
        return self.roster.tick()

    def worker(self, pid: int) -> Worker:
        return self.roster.find(self.started[pid - 1])

    def ready(self, *pids: int) -> None:
        for pid in pids:
            self.roster.on_ready(self.worker(pid))
        self.tick()

    def gone(self, *pids: int, reason: str = "ended with exit code 0", story: str = "") -> None:
        for pid in pids:
            self.roster.on_gone(self.worker(pid), Ending(reason, reason.endswith("code 0"), story))
        self.tick()

    @property
    def story(self) -> list[str]:
        """What is told of restarts."""
        return [event.text for event in self.events]

    @property
    def samples(self) -> int:
        return sum(process.samples for process in self.started)

    @property
    def pids(self) -> list[int]:
        return [worker.process.pid for worker in self.roster.workers]

    def told(self, pid: int) -> list[str]:
        return self.started[pid - 1].told


def up(wanted: int, drain_delay: float = 0.0) -> World:
    """A world whose first workers are ready."""
    world = World(wanted, drain_delay)
    world.tick()
    world.ready(*range(1, wanted + 1))
    return world


def test_as_many_as_wanted_are_started_once() -> None:
    world = World(3)
    world.tick()
    world.tick()
    assert world.pids == [1, 2, 3]
    world.ready(1, 2, 3)
    assert world.tick() is None, "nothing is to be done, so there is no time to come back at"


def test_one_that_dies_is_replaced_at_once_and_the_others_are_left_alone() -> None:
    world = up(3)
    world.gone(2, reason="was killed by SIGKILL")
    assert world.pids == [1, 3, 4]
    assert world.told(1) == world.told(3) == []


def test_two_that_die_in_the_same_tick_leave_the_healthy_third_alone() -> None:
    world = up(3)
    for pid in (1, 3):
        world.roster.on_gone(world.worker(pid), Ending("was killed by SIGSEGV"))
    world.tick()
    assert world.pids == [2, 4, 5]
    assert world.told(2) == []


def test_why_a_worker_died_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    up(1).gone(1, reason="was killed by SIGSEGV")
    assert "worker 1 was killed by SIGSEGV" in caplog.text


def test_if_the_first_start_fails_the_server_ends() -> None:
    world = World(3)
    world.tick()
    world.roster.on_failed(world.worker(2))
    world.gone(2, reason="ended with exit code 3")
    assert [world.told(pid) for pid in (1, 3)] == [["quit"], ["quit"]]
    assert not world.roster.finished
    world.gone(1, 3)
    assert world.roster.finished
    assert world.roster.failure
    assert len(world.started) == 3, "no storm"


def test_one_that_is_never_ready_is_killed() -> None:
    world = World(1)
    assert world.tick() == BOOT + LAST_WORDS
    world.now += BOOT + LAST_WORDS
    world.tick()
    assert world.told(1) == ["kill"]
    world.tick()
    assert world.told(1) == ["kill"], "once"


def test_later_ones_that_die_before_they_are_ready_back_off() -> None:
    world = up(1)
    world.gone(1)
    pauses = []
    for _ in range(8):
        world.gone(world.pids[0], reason="ended with exit code 1")
        pause = world.tick()
        assert pause is not None
        assert world.pids == []
        world.now += pause - 0.01
        world.tick()
        assert world.pids == []
        world.now += 0.01
        world.tick()
        assert len(world.pids) == 1
        pauses.append(round(pause, 3))
    assert pauses == [1, 2, 4, 8, 16, 30, 30, 30]
    world.ready(world.pids[0])
    world.gone(world.pids[0])
    assert len(world.pids) == 1, "one that was ready is replaced at once"
    world.gone(world.pids[0])
    assert world.tick() == 1, "and the pauses begin anew"


def test_a_restart_replaces_one_after_the_other_and_the_new_is_ready_before_the_old_drains() -> None:
    world = up(2)
    world.roster.restart()
    world.tick()
    assert world.pids == [1, 2, 3]
    assert world.told(1) == world.told(2) == []
    world.ready(3)
    assert world.told(1) == ["drain"]
    assert world.told(2) == []
    assert world.pids == [1, 2, 3, 4], "the next starts while the first drains"
    world.gone(1)
    world.ready(4)
    assert world.told(2) == ["drain"]
    assert [process.replacement and process.replacement.pid for process in world.started[:2]] == [3, 4]
    world.gone(2)
    assert world.pids == [3, 4]
    assert world.tick() is None


def test_a_restart_whose_code_does_not_come_up_changes_nothing() -> None:
    world = up(2)
    world.roster.restart()
    world.tick()
    world.roster.on_failed(world.worker(3))
    world.gone(3, reason="ended with exit code 3")
    world.now += 3600
    world.tick()
    assert world.pids == [1, 2], "and it is not tried again by itself"
    assert world.told(1) == world.told(2) == []
    world.roster.restart()
    world.tick()
    assert world.pids == [1, 2, 4], "the next restart tries at once"
    world.ready(4)
    assert world.told(1) == ["drain"]


BEGUN = "restart begun: new workers replace 2 workers"
FAILED = "ended with exit code 3"


def test_a_restart_that_fails_beside_old_workers_is_aborted() -> None:
    world = up(2)
    world.roster.restart()
    world.tick()
    world.gone(3, reason=FAILED)
    assert world.story == [BEGUN, "restart aborted: the new code does not start; the old workers keep serving"]
    world.gone(1)
    world.now += 1
    world.tick()
    world.gone(4, reason=FAILED)
    assert len(world.story) == 2, "it is told once"


@pytest.mark.parametrize("eager", [False, True])
def test_a_restart_that_fails_without_any_other_worker_is_aborted_and_the_start_is_tried_again(eager: bool) -> None:
    world = up(2)
    world.roster._generations.eager = eager
    world.roster.restart()
    if not eager:
        world.gone(1, 2, reason="was killed by SIGKILL")
    world.tick()
    assert len(world.started) == 4
    world.gone(3, reason=FAILED)
    world.gone(4, reason=FAILED)
    aborted = [event for event in world.events if event.kind == "aborted"]
    assert [event.text for event in aborted] == [
        "restart aborted: the new code does not start, and no worker is ready; the next start is in 1 s"
    ]
    world.now += 1
    world.tick()
    world.ready(5, 6)
    assert world.roster.is_up
    assert world.events[-1] == aborted[0], "a restart that was aborted is not done later"


def test_a_restart_to_a_page_that_shows_a_failure_is_aborted_and_the_page_serves() -> None:
    world = up(2)
    world.roster._generations.eager = True
    for failed in (4, 0):
        world.roster.restart()
        world.tick()
        old, new = world.pids[:2], world.pids[2:]
        if failed:
            world.roster.on_failed(world.worker(failed))
        world.ready(*new)
        world.gone(*old)
        assert world.pids == new
        kind, text, *_ = world.events[-1]
        assert (kind, text) == (
            ("aborted", "restart aborted: the new code does not start; each request gets the traceback")
            if failed
            else ("done", "restart done after 0.0 s: all workers run the new code")
        )


def test_a_restart_that_fails_beside_new_workers_or_those_to_replace_is_aborted() -> None:
    for other in ("new", "to replace"):
        world = up(2)
        if other == "to replace":
            world.roster.on_max_requests(world.worker(1))
        world.roster.restart()
        world.tick()
        if other == "new":
            world.ready(3)
            world.gone(1)
        world.gone(2, reason="was killed by SIGKILL")
        last = world.pids[-1]
        world.gone(last, reason=FAILED)
        assert world.story[-1] == (
            "restart aborted: a worker with the new code does not start; the other workers keep serving"
        )


def test_a_worker_of_an_older_generation_that_fails_does_not_abort_a_restart() -> None:
    world = up(2)
    world.gone(1)
    world.roster.restart()
    world.gone(3, reason=FAILED)
    assert world.story == [BEGUN]
    world.now += 1
    world.tick()
    world.ready(4)
    world.gone(2)
    world.ready(5)
    assert world.story[-1] == "restart done after 1.0 s: all workers run the new code"


def test_a_restart_during_a_restart_starts_over_with_the_newest_code() -> None:
    world = up(2)
    world.roster.restart()
    world.tick()
    world.ready(3)
    world.roster.restart()
    world.tick()
    assert world.pids == [1, 2, 3, 4]
    assert world.told(4) == ["drain"], "its code is old; it may serve already, and its message be on the way"
    world.gone(1, 4)
    assert world.pids == [2, 3, 5]
    world.ready(5)
    world.ready(6)
    assert world.told(2) == world.told(3) == ["drain"]
    world.gone(2, 3)
    assert world.pids == [5, 6]


def settle(world: World) -> None:
    """Let everything happen that happens by itself: workers that start are ready, those that drain end."""
    world.tick()
    while any(worker.state != "ready" for worker in world.roster.workers):
        for worker in list(world.roster.workers):
            if worker.state == "draining":
                world.gone(worker.process.pid)
        world.ready(*(worker.process.pid for worker in world.roster.workers if worker.state == "starting"))


@pytest.mark.parametrize("eager", [False, True])
def test_a_storm_of_restarts_at_once_is_three_restarts(eager: bool) -> None:
    """The first, which the second cuts short, and one for all others; each return has the generation to wait for."""
    world = up(2)
    world.roster._generations.eager = eager
    returned = []
    for _ in range(100):
        returned.append(world.roster.restart())
        world.tick()
    assert returned == [1, 2, *[3] * 98]
    at_once = 2 if eager else 1  # with --watchfiles all are replaced together
    assert len([worker for worker in world.roster.workers if not worker.was_ready]) <= 2 * at_once
    settle(world)
    assert [worker.generation for worker in world.roster.workers] == [3, 3]
    assert [event.kind for event in world.events if event.kind != "replaced"] == [
        *("begun", "begun", "waits", "done", "begun", "done")
    ]
    assert world.tick() is None


@pytest.mark.parametrize("eager", [False, True])
@pytest.mark.parametrize("wanted", [1, 3])
def test_restarts_that_come_faster_than_a_start_takes_are_done_all_the_same(eager: bool, wanted: int) -> None:
    """Each second one, while an import takes two seconds and an end half of one."""
    world = up(wanted)
    world.roster._generations.eager = eager
    for step in range(4 * 60):
        world.now += 0.25
        if step % 4 == 0 and step < 4 * 40:
            world.roster.restart()
        world.tick()
        for worker in list(world.roster.workers):
            if worker.state == "starting" and world.now - worker.started >= 2:
                world.ready(worker.process.pid)
            elif worker.state == "draining" and world.now >= worker.deadline - KILL_AFTER - GRACEFUL + 0.5:
                world.gone(worker.process.pid)
    asked = 1000 + 40
    done = [event for event in world.events if event.kind == "done"]
    assert len(done) >= 40 // (5 * wanted), "restarts come to their end while more are asked for"
    assert len({worker.generation for worker in world.roster.workers}) == 1
    assert all(worker.started >= asked - 1 for worker in world.roster.workers), "the newest code serves"
    assert world.events[-1].kind == "done"


def test_a_restart_that_waits_begins_although_old_workers_go_on_draining() -> None:
    world = up(1)
    for _ in range(3):
        world.roster.restart()
    world.tick()
    world.ready(2)
    assert world.told(1) == ["drain"]
    assert world.tick() == DRAINS
    world.now += DRAINS
    world.tick()
    assert world.pids == [1, 2, 3]
    world.ready(3)
    assert world.told(2) == ["drain"]


def test_a_restart_that_waits_cuts_short_a_worker_that_seems_to_hang() -> None:
    """No worker has taken longer than a moment so far; the next worker gets twice the time of the one that was cut."""
    world = up(1)
    world.roster.restart()
    world.roster.restart()
    world.tick()
    assert world.roster.restart() == 3
    world.tick()
    assert world.told(2) == [], "the newest code may need a second"
    assert world.tick() == 1
    world.now += 1
    world.tick()
    assert world.told(2) == ["drain"]
    world.gone(2)
    world.roster.restart()
    world.gone(3)
    assert world.roster.restart() == 5
    assert world.tick() == 3


def test_a_restart_that_waits_begins_when_the_one_before_it_is_aborted() -> None:
    world = up(1)
    for _ in range(3):
        world.roster.restart()
    world.tick()
    world.gone(2, reason="ended with exit code 3")
    assert [event.kind for event in world.events] == ["begun", "begun", "waits", "aborted", "begun"]
    assert world.pids == [1, 3]


def test_no_restart_begins_once_the_end_is_announced() -> None:
    world = up(1, drain_delay=20)
    for _ in range(3):
        world.roster.restart()
    world.roster.end("drain")
    world.now += 5
    world.tick()
    assert [event.kind for event in world.events] == ["begun", "begun", "waits"]


def test_a_restart_during_the_first_start_leaves_the_workers_that_start_alone() -> None:
    world = World(2)
    world.tick()
    world.ready(1)
    world.roster.restart()
    world.tick()
    assert world.pids == [1, 2]
    assert world.told(2) == [], "if the newest code does not come up, this one is needed"
    world.ready(2)
    assert world.pids == [1, 2, 3]


def test_the_new_worker_of_a_restart_makes_up_for_an_old_one_that_dies() -> None:
    world = up(2)
    world.roster.restart()
    world.tick()
    world.gone(2, reason="was killed by SIGKILL")
    assert world.pids == [1, 3]
    world.ready(3)
    assert world.told(1) == []
    assert world.pids == [1, 3, 4]
    world.ready(4)
    assert world.told(1) == ["drain"]


def test_a_worker_with_its_maximum_of_requests_is_replaced_first_and_never_two_at_once() -> None:
    world = up(2)
    for pid in (1, 2):
        world.roster.on_max_requests(world.worker(pid))
    world.tick()
    assert world.pids == [1, 2, 3]
    world.ready(3)
    assert sum(world.told(pid) == ["drain"] for pid in (1, 2)) == 1
    world.ready(4)
    assert world.told(1) == world.told(2) == ["drain"]


def test_one_more_and_one_fewer_but_never_none() -> None:
    world = up(2)
    world.roster.change_wanted(+1)
    world.tick()
    assert world.pids == [1, 2, 3]
    world.ready(3)
    for _ in range(5):
        world.roster.change_wanted(-1)
    world.tick()
    assert world.roster.wanted == 1
    assert sum(world.told(pid) == ["drain"] for pid in (1, 2, 3)) == 2


def test_fewer_while_one_starts_does_not_leave_the_server_without_any() -> None:
    world = up(2)
    world.gone(1, 2, reason="was killed by SIGKILL")
    world.ready(3)
    world.roster.change_wanted(-1)
    world.tick()
    assert world.told(3) == []
    world.ready(4)
    assert [world.told(3), world.told(4)].count(["drain"]) == 1


def test_the_graceful_end_drains_all_and_kills_who_is_late() -> None:
    world = up(2)
    world.roster.end("drain")
    assert world.told(1) == world.told(2) == ["drain"]
    assert world.started[0].replacement is world.started[1].replacement is None, "there is nobody to inherit"
    assert world.tick() == GRACEFUL + KILL_AFTER
    world.gone(1)
    assert not world.roster.finished
    world.now += GRACEFUL + KILL_AFTER
    world.tick()
    assert world.told(2) == ["drain", "kill"]
    world.gone(2, reason="was killed by SIGKILL")
    assert world.roster.finished
    assert not world.roster.failure
    assert len(world.started) == 2


def test_the_quick_end_goes_over_the_graceful_one_and_not_the_other_way() -> None:
    world = up(1)
    world.roster.end("drain")
    world.roster.end("quit")
    world.roster.end("drain")
    assert world.told(1) == ["drain", "quit"]
    assert world.tick() == KILL_AFTER


def test_the_end_reaches_workers_that_are_starting() -> None:
    world = World(1)
    world.tick()
    world.roster.end("drain")
    assert world.told(1) == ["drain"]
    assert world.tick() == KILL_AFTER, "it has served nothing yet, so there is nothing to finish"
    world.ready(1)
    assert world.tick() == GRACEFUL + KILL_AFTER, "it was ready before it heard of the end"
    world.gone(1)
    assert world.roster.finished
    assert not world.roster.failure


def test_one_that_starts_when_the_end_comes_and_hangs_is_killed_soon() -> None:
    world = World(2)
    world.tick()
    world.ready(1)
    world.roster.end("drain")
    world.roster.end("drain")
    world.now += KILL_AFTER
    world.tick()
    assert (world.told(1), world.told(2)) == (["drain"], ["drain", "kill"])


def test_a_restart_after_the_end_has_begun_does_nothing() -> None:
    world = up(1)
    world.roster.end("drain")
    world.roster.restart()
    world.tick()
    assert world.pids == [1]


def test_a_system_without_room_for_a_process_is_asked_again() -> None:
    world = up(2)
    world.room = False
    world.gone(1, reason="was killed by SIGKILL")
    assert world.pids == [2]
    assert world.tick() == 1
    world.room = True
    world.now += 1
    world.tick()
    assert world.pids == [2, 3]


# --- health -----------------------------------------------------------------------------------------


def test_a_worker_that_beats_is_left_alone() -> None:
    world = World(1)
    world.tick()
    world.started[0].beaten = world.now
    world.ready(1)
    for _ in range(5):
        wait = world.tick()
        assert wait is not None
        world.now += wait
        world.started[0].beaten = world.now - 1
    assert world.tick() == SILENCE - 1
    assert world.told(1) == []


def test_a_worker_that_stands_still_is_killed_and_replaced(caplog: pytest.LogCaptureFixture) -> None:
    world = World(2)
    world.tick()
    for process in world.started:
        process.beaten = world.now
    world.ready(1, 2)
    world.now += SILENCE
    world.started[1].beaten = world.now
    world.tick()
    assert (world.told(1), world.told(2)) == (["kill"], [])
    assert "worker 1 killed: no heartbeat for 30 s" in caplog.text
    world.gone(1, reason="was killed by SIGKILL", story="\n  it was serving GET /stuck for 30.0 s (app)")
    assert world.pids == [2, 3]
    assert "worker 1 was killed by SIGKILL; starting another\n  it was serving GET /stuck" in caplog.text


def test_a_worker_that_uses_the_processor_gets_twice_the_time() -> None:
    world = World(1)
    world.tick()
    process = world.started[0]
    process.beaten, process.busy = world.now, True
    world.ready(1)
    world.now += SILENCE
    assert world.tick() == SILENCE
    assert world.told(1) == []
    world.now += SILENCE
    world.tick()
    assert world.told(1) == ["kill"]


PAUSE = 100 * SILENCE


def test_after_a_pause_of_everything_nobody_is_killed_who_goes_on() -> None:
    world = World(2)
    world.tick()
    for process in world.started:
        process.beaten = world.now
    world.ready(1, 2)
    world.now += 20 + PAUSE
    world.started[1].beaten = world.now  # it was faster than the parent
    world.roster.on_pause(PAUSE)
    assert world.tick() == 10
    world.now += 9.5
    world.tick()
    world.started[0].beaten = world.now
    world.now += 0.5
    world.tick()
    assert world.told(1) == world.told(2) == []
    world.now += SILENCE - 10
    world.tick()
    assert (world.told(1), world.told(2)) == ([], ["kill"]), "the pause is no excuse for later"


def test_pauses_in_a_row_do_not_save_one_that_hangs() -> None:
    """The machine is so busy that the parent is late each time: a third of the time is its own."""
    world = World(1)
    world.tick()
    world.started[0].beaten = world.now
    world.ready(1)
    for _ in range(int(SILENCE) // 2):
        assert world.told(1) == []
        world.now += 3
        world.roster.on_pause(1)
        world.tick()
    assert world.told(1) == ["kill"]


def test_a_pause_is_added_to_the_time_to_start_and_to_the_time_to_end() -> None:
    world = World(2)
    world.tick()
    world.ready(1)
    world.now += PAUSE
    world.roster.on_pause(PAUSE)
    assert world.tick() == BOOT + LAST_WORDS
    world.ready(2)
    world.roster.end("drain")
    world.now += 1 + PAUSE
    world.roster.on_pause(PAUSE)
    assert world.tick() == GRACEFUL + KILL_AFTER - 1
    assert world.told(1) == world.told(2) == ["drain"]


def test_a_worker_without_a_scoreboard_is_not_judged() -> None:
    world = World(1)
    world.tick()
    world.ready(1)
    world.now += 100 * SILENCE
    assert world.tick() is None
    assert world.told(1) == []


def test_a_worker_with_a_hung_request_drains_when_its_replacement_is_there() -> None:
    world = World(2)
    world.tick()
    world.ready(1, 2)
    world.roster.on_hung(world.worker(1))
    world.tick()
    assert (world.pids, world.told(1)) == ([1, 2, 3], [])
    world.ready(3)
    assert (world.told(1), world.told(2)) == (["drain"], [])
    world.now += GRACEFUL + KILL_AFTER
    world.tick()
    assert world.told(1) == ["drain", "kill"]


def test_a_worker_that_dies_while_it_drains_is_told_of(caplog: pytest.LogCaptureFixture) -> None:
    world = World(1)
    world.tick()
    world.ready(1)
    world.roster.end("drain")
    world.gone(1, reason="was killed by SIGKILL", story="\n  it was serving GET /report for 3.0 s (app)")
    assert "worker 1 was killed by SIGKILL while it drained\n  it was serving GET /report" in caplog.text


def test_a_worker_that_was_not_ready_yet_did_not_drain(caplog: pytest.LogCaptureFixture) -> None:
    """A restart that comes sooner than a worker is ready, or an end during the start."""
    world = World(1)
    world.tick()
    world.roster.end("drain")
    world.gone(1, reason="was killed by SIGKILL")
    assert "worker 1 was killed by SIGKILL before it was ready" in caplog.text
    assert world.roster.finished


# --- the drain delay ----------------------------------------------------------------------------------


def test_before_a_graceful_end_the_workers_announce_it_until_the_time_is_over() -> None:
    world = up(2, drain_delay=20)
    assert world.roster.condition == "ready"
    world.roster.end("drain")
    assert world.tick() == 20
    assert world.told(1) == world.told(2) == ["announce_drain"]
    assert (world.roster.condition, world.roster.is_ending) == ("draining", False)
    world.now += 19.5
    assert world.tick() == 0.5
    assert not world.roster.is_ending
    world.now += 0.5
    world.tick()
    assert world.told(1) == world.told(2) == ["announce_drain", "drain"]
    assert (world.roster.condition, world.roster.is_ending) == ("draining", True)
    world.gone(1, 2)
    assert world.roster.finished
    assert not world.roster.failure


@pytest.mark.parametrize("how", ["drain", "quit"])
def test_a_second_wish_cuts_the_time_short(how: str) -> None:
    world = up(1, drain_delay=20)
    world.roster.end("drain")
    world.tick()
    world.roster.end(how)
    world.tick()
    assert world.told(1) == ["announce_drain", how]
    assert world.roster.is_ending


def test_a_quick_end_has_no_time_before_it() -> None:
    world = up(1, drain_delay=20)
    world.roster.end("quit")
    assert world.told(1) == ["quit"]


def test_a_server_that_has_never_been_up_announces_nothing() -> None:
    world = World(1, drain_delay=20)
    world.tick()
    assert world.roster.condition == "starting"
    world.roster.end("drain")
    assert world.told(1) == ["drain"]


def test_a_server_that_ends_soon_replaces_a_worker_by_one_that_announces_it_too_and_does_not_restart() -> None:
    world = up(2, drain_delay=20)
    world.roster.end("drain")
    world.roster.restart()
    world.gone(1, reason="was killed by SIGKILL")
    assert world.pids == [2, 3]
    world.ready(3)
    assert world.told(2) == world.told(3) == ["announce_drain"]


def test_a_server_that_ends_soon_wakes_for_both_deadlines() -> None:
    world = World(1, drain_delay=40)
    world.tick()
    world.started[0].beaten = world.now
    world.ready(1)
    world.roster.end("drain")
    assert world.tick() == SILENCE
    world.now = world.started[0].beaten = world.now + 25
    world.now += 5
    world.tick()
    assert world.tick() == 10


def test_without_a_ready_worker_a_server_that_was_up_is_down() -> None:
    world = up(1)
    world.gone(1, reason="was killed by SIGKILL")
    assert world.roster.condition == "down"
    world.ready(2)
    assert world.roster.condition == "ready"
    world.roster.end("quit")
    assert world.roster.condition == "draining"


# --- functions, which may end at any time and need not beat


def functions(wanted: int) -> World:
    world = World(wanted)
    world.roster._settle = 1.0
    world.tick()
    world.ready(*range(1, wanted + 1))
    return world


def test_one_that_ends_at_once_is_started_again_after_a_pause_that_doubles() -> None:
    world = functions(1)
    for pid, pause in enumerate([1, 2, 4, 8, 16, 30, 30], 1):
        world.now += 0.9
        world.gone(pid)
        assert world.pids == []
        assert world.tick() == pytest.approx(pause)
        world.now += pause
        world.tick()
        world.ready(pid + 1)
    world.now += 1.0
    world.gone(8)
    assert world.pids == [9], "it has run for a second"
    world.ready(9)
    world.now += 100
    world.gone(9)
    world.ready(10)
    world.gone(10)
    assert world.tick() == 1.0, "the pauses of long ago are forgotten"


def test_one_that_needs_long_to_start_has_run_only_since_it_is_ready() -> None:
    world = World(1)
    world.roster._settle = 1.0
    world.tick()
    world.now += 5.0
    world.ready(1)
    world.gone(1)
    assert world.pids == []
    assert world.tick() == 1.0


def test_those_that_end_together_make_one_pause() -> None:
    world = functions(3)
    world.gone(1, 2, 3)
    assert world.tick() == 1.0
    world.now += 1.0
    world.tick()
    assert world.pids == [4, 5, 6]


def test_an_end_in_order_is_no_error(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    world = functions(2)
    world.now += 5
    world.gone(1)
    world.gone(2, reason="ended with exit code 1")
    assert [(record.levelname, record.getMessage()) for record in caplog.records] == [
        ("INFO", "worker 1 ended with exit code 0; starting another"),
        ("ERROR", "worker 2 ended with exit code 1; starting another"),
    ]


def test_only_one_that_has_beaten_has_to_go_on() -> None:
    world = functions(2)
    assert world.tick() is None
    world.started[0].beaten = world.now
    world.roster.on_heartbeats(world.worker(1))
    assert world.tick() == SILENCE
    world.now += SILENCE
    world.tick()
    assert (world.told(1), world.told(2)) == (["kill"], [])


def test_a_first_beat_before_it_is_ready_changes_nothing() -> None:
    world = World(1)
    world.tick()
    world.roster.on_heartbeats(world.worker(1))
    assert world.tick() == BOOT + LAST_WORDS


# --- what workers take


def limited(wanted: int, **limits: int) -> World:
    world = up(wanted)
    world.roster._watch._limits = Usage(**limits)
    world.tick()
    return world


def sample(world: World) -> None:
    assert world.tick() is not None
    world.now += BETWEEN_SAMPLES
    world.tick()


def test_nobody_looks_without_a_limit() -> None:
    world = up(2)
    assert world.tick() is None
    assert world.samples == 0
    world = limited(2, memory=100)
    assert world.tick() == BETWEEN_SAMPLES
    assert world.samples == 2


@pytest.mark.parametrize("what", ["memory", "descriptors"])
def test_two_samples_in_a_row_and_then_a_replacement_first(what: str, caplog: pytest.LogCaptureFixture) -> None:
    world = limited(2, **{what: 100})
    for used in (101, 100, 101):  # a peak, and another one
        world.started[0].used = Usage(**{what: used})
        sample(world)
        assert world.pids == [1, 2]
    sample(world)
    assert world.pids == [1, 2, 3]
    assert world.told(1) == [], "it serves until the other one is ready"
    for _ in range(3):
        sample(world)
    assert len(caplog.records) == 1
    assert caplog.records[0].getMessage().startswith("replacing worker 1: it has ")
    world.ready(3)
    assert (world.told(1), world.told(2)) == (["drain"], [])


def test_one_at_a_time() -> None:
    world = limited(3, memory=100)
    for process in world.started:
        process.used = Usage(memory=200)
    sample(world)
    sample(world)
    assert world.pids == [1, 2, 3, 4]
    world.ready(4)
    assert world.pids == [1, 2, 3, 4, 5], "the next one, when the first replacement is ready"
    assert [world.told(pid) for pid in (1, 2, 3)] == [["drain"], [], []]


def test_who_starts_drains_or_is_to_be_replaced_is_not_looked_at() -> None:
    world = limited(1, memory=100)
    world.started[0].used = Usage(memory=200)
    sample(world)
    sample(world)
    before = world.samples
    world.now += BETWEEN_SAMPLES
    world.tick()
    assert world.samples == before
    world.roster.end("drain")
    world.now += BETWEEN_SAMPLES
    world.tick()
    assert world.samples == before


def test_a_system_that_does_not_tell_replaces_nobody() -> None:
    world = limited(1, memory=1, descriptors=1)
    sample(world)
    sample(world)
    assert world.pids == [1]


def test_a_number_of_workers() -> None:
    world = up(2)
    world.roster.change_wanted_to(4)
    world.tick()
    assert world.pids == [1, 2, 3, 4]
    assert not world.roster.is_up
    world.ready(3, 4)
    assert world.roster.is_up
