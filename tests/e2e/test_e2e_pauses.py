"""What is stopped: all of a server, its parent alone, one worker. And what dies at once, again and again."""

from __future__ import annotations

import os
import signal
import sys
import time
from typing import TYPE_CHECKING

import pytest

from support import APPS, Client, Gate, Server, alive, child_processes, get, wait_for

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="SIGSTOP")

TIMEOUT = 3.0
MODES = pytest.mark.parametrize("mode", [("-p", "2"), ("-p", "2", "--preload")], ids=["workers", "preload"])


def ready(server: Server) -> list[int]:
    """The workers that have been ready."""
    pids = [int(line.partition("[")[2].partition("]")[0]) for line in server.log if "worker ready" in line]
    server._workers.update(pids)
    return pids


def stop_for(seconds: float, pids: Iterable[int]) -> None:
    pids = list(pids)
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    time.sleep(seconds)  # app: the pause itself
    for pid in pids:
        os.kill(pid, signal.SIGCONT)


@pytest.mark.slow
@MODES
@pytest.mark.parametrize("who", ["all", "all, the parent goes on first", "parent"])
def test_a_pause_kills_nobody(backend: tuple[str, ...], mode: tuple[str, ...], who: str) -> None:
    with Server("plain:app", *mode, *backend, "--worker-timeout", f"{TIMEOUT:g}") as server:
        wait_for(lambda: len(ready(server)) == 2)
        workers = ready(server)
        others = [pid for pid, _ in child_processes(server.pid)]
        pids = {"parent": [server.pid], "all": [*others, *workers, server.pid]}.get(who, [server.pid, *workers])
        for _ in range(3):
            stop_for(TIMEOUT + 2, pids)
            assert get(server.port, "/hello").status == 200
        time.sleep(TIMEOUT + 1)  # app: it would be killed now
        assert ready(server) == workers
        assert all(map(alive, workers))
        assert server.stop() == 0
    assert "stood still" not in "\n".join(server.log)


def test_a_worker_that_alone_is_stopped_is_killed_after_a_pause_too() -> None:
    with Server("plain:app", "-p", "2", "--no-gevent", "--worker-timeout", "1") as server:
        wait_for(lambda: len(ready(server)) == 2)
        victim, other = ready(server)
        os.kill(victim, signal.SIGSTOP)
        stop_for(3, [other, server.pid])  # longer than the parent waits, by more than it may be late
        server.wait_for_log(f"worker {victim} killed: no heartbeat")
        wait_for(lambda: len(ready(server)) == 3)
        assert alive(other)
        assert server.stop() == 0


@pytest.mark.slow
@pytest.mark.parametrize("mode", [("-p", "1"), ("-p", "1", "--preload")], ids=["worker", "preload"])
def test_a_pause_does_not_count_against_the_start(mode: tuple[str, ...], tmp_path: Path) -> None:
    (tmp_path / "slow.py").write_text(
        "import os, time\nopen('loading', 'w').write(str(os.getpid()))\ntime.sleep(2)  # app\nfrom plain import app\n"
    )
    env = {"PYTHONPATH": os.pathsep.join([str(APPS), str(tmp_path)])}
    with Server("slow:app", *mode, "--no-gevent", "--boot-timeout", "6", cwd=tmp_path, env=env) as server:
        pid = int(wait_for(lambda: (tmp_path / "loading").exists() and (tmp_path / "loading").read_text()))
        stop_for(9, [pid, server.pid])
        server.wait_for_log("worker ready")
        assert get(server.port, "/hello").status == 200


@pytest.mark.daily("threads")
def test_a_pause_is_no_time_of_a_request(backend: tuple[str, ...]) -> None:
    flags = ("-p", "1", "--request-timeout", "3", "--slow-request", "2.5", "--graceful-exit-timeout", "1")
    with Gate() as gate, Server("plain:app", *flags, *backend) as server, Client(server.port) as client:
        client.send(f"GET /gated?{gate.port} HTTP/1.1\r\nHost: a\r\n\r\n".encode())
        request = gate.arrival()
        server.wait_for_log("worker ready")  # or it comes later, and is counted
        stop_for(5, [server.pid, *server.children()])
        seen = len(server.log)
        time.sleep(0.7)  # app: it would be replaced now
        assert not [line for line in server.log if "has run for" in line or "--request-timeout is over" in line]
        assert len(server.log) == seen
        request.close()
        assert client.read().status == 200


DYING = """
import os, threading

def app(environ, start_response):
    start_response("200 OK", [])
    return [b""]

def before_serve():
    if not os.path.exists("kind"):
        threading.Timer(0.2, os._exit, [7]).start()
"""


@pytest.mark.daily("workers")
@MODES
def test_a_worker_that_dies_right_after_it_was_ready_is_started_with_pauses_that_grow(
    mode: tuple[str, ...], tmp_path: Path
) -> None:
    (tmp_path / "dying.py").write_text(DYING)
    with Server("dying:app", *mode, "--no-gevent", "--before-serve", "dying:before_serve", cwd=tmp_path) as server:
        server.wait_for_log("starting another in 1 s")
        server.wait_for_log("starting another in 2 s")
        (tmp_path / "kind").touch()
        before = len(ready(server))
        assert before <= 6
        wait_for(lambda: len(ready(server)) >= before + 2)
        assert get(server.port).status == 200
        assert server.stop() == 0


@pytest.mark.daily("preload")
@MODES
def test_a_hundred_restarts_in_a_row(mode: tuple[str, ...]) -> None:
    with Server("plain:app", *mode, "--no-gevent") as server:
        wait_for(lambda: len(ready(server)) == 2)
        most = 0
        for _ in range(100):
            os.kill(server.pid, signal.SIGHUP)
            most = max(most, len(server.children()))
            time.sleep(0.01)
        assert most <= 6
        wait_for(lambda: len(ready(server)) >= 4 and len(server.children()) == (1 if "--preload" in mode else 2))
        assert get(server.port, "/hello").status == 200
        assert server.stop() == 0
