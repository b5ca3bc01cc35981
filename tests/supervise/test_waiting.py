"""Waiting for more things than the system takes in one call."""

from __future__ import annotations

import socket
import subprocess
import sys
import threading
from contextlib import ExitStack
from multiprocessing import Pipe, Process, get_context
from typing import TYPE_CHECKING, Any

import pytest

from zibai.supervise import waiting
from zibai.supervise.waiting import wait, wait_in_batches

from support import DEADLINE, environment, wait_for

if TYPE_CHECKING:
    from collections.abc import Iterator

COUNT = 130  # more than twice what Windows takes


@pytest.fixture
def pipes() -> Iterator[list[tuple[Any, Any]]]:
    with ExitStack() as stack:
        pairs = [Pipe() for _ in range(COUNT)]
        for pair in pairs:
            for end in pair:
                stack.enter_context(end)
        yield pairs


def ends(pipes: list[tuple[Any, Any]]) -> list[Any]:
    return [near for near, _ in pipes]


def threads() -> int:
    return sum(thread.name.startswith("zibai-waits") for thread in threading.enumerate())


def test_what_is_ready_is_found_in_every_batch(pipes: list[tuple[Any, Any]]) -> None:
    for number in (0, 61, 62, 129):
        pipes[number][1].send("something")
    # A batch that begins late may be ended before it has looked.
    found: set[int] = set()
    near = ends(pipes)

    def all_found() -> bool:
        found.update(near.index(each) for each in wait_in_batches(near, DEADLINE))
        return found == {0, 61, 62, 129}

    wait_for(all_found)
    assert threads() == 0


@pytest.mark.parametrize("number", [0, 64, 129], ids=["the first batch", "the second", "the last"])
def test_one_that_becomes_ready_ends_the_wait_of_all(pipes: list[tuple[Any, Any]], number: int) -> None:
    timer = threading.Timer(0.05, lambda: pipes[number][1].send("something"))
    timer.start()
    try:
        assert wait_in_batches(ends(pipes), DEADLINE) == [pipes[number][0]]
    finally:
        timer.join()
    assert pipes[number][0].recv() == "something", "waiting takes nothing away"
    assert threads() == 0


def test_a_wait_without_a_limit_ends_too(pipes: list[tuple[Any, Any]]) -> None:
    timer = threading.Timer(0.05, pipes[77][1].close)
    timer.start()
    try:
        assert wait_in_batches(ends(pipes), None) == [pipes[77][0]], "the other end is closed"
    finally:
        timer.join()


@pytest.mark.parametrize("timeout", [0, 0.01])
def test_nothing_is_ready_in_time(pipes: list[tuple[Any, Any]], timeout: float) -> None:
    assert wait_in_batches(ends(pipes), timeout) == []
    assert threads() == 0


def test_an_error_of_one_batch_ends_the_others_and_is_raised(pipes: list[tuple[Any, Any]]) -> None:
    pipes[100][0].close()
    with pytest.raises((OSError, ValueError)):
        wait_in_batches(ends(pipes), DEADLINE)
    assert threads() == 0


def test_processes_and_sockets_stand_among_the_sources(pipes: list[tuple[Any, Any]]) -> None:
    one, other = socket.socketpair()
    process: Process = get_context("spawn").Process(target=print)  # type: ignore[assignment]
    process.start()
    with one, other:
        sources = [one, *ends(pipes), process.sentinel]
        assert wait(sources, DEADLINE) == [process.sentinel]
        process.join()
        other.send(b"\0")
        assert wait(sources, DEADLINE)
        assert wait([one, *ends(pipes)], DEADLINE) == [one]
    process.close()


def test_few_need_no_thread(pipes: list[tuple[Any, Any]], monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: object) -> Any:
        raise AssertionError("no batches")

    monkeypatch.setattr(waiting, "wait_in_batches", refuse)
    pipes[3][1].send("something")
    assert wait(ends(pipes)[: waiting.MAX_OBJECTS], 1) == [pipes[3][0]]


def test_in_a_program_that_gevent_has_patched_other_greenlets_run_meanwhile() -> None:
    pytest.importorskip("gevent")
    script = """
from gevent import monkey
monkey.patch_all()
import gevent, multiprocessing, threading
from zibai.supervise import waiting
near, far = multiprocessing.Pipe()
others = [multiprocessing.Pipe() for _ in range(70)]
for sources in ([near], [*(each for each, _ in others), near]):
    threading.Timer(0.1, far.send, ["something"]).start()
    with gevent.Timeout(20):
        assert waiting.wait(sources, 30) == [near]
    assert near.recv() == "something"
    assert waiting.wait(sources, 0.01) == []
"""
    done = subprocess.run(
        [sys.executable, "-c", script],
        env=environment(),
        capture_output=True,
        text=True,
        timeout=2 * DEADLINE,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
