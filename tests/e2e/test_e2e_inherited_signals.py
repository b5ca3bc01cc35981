"""Signals: what the starter of a server has made of them, and those that reach the whole group."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from support import APPS, ROOT, ZIBAI, Server, end_what_is_left, environment, get, wait_for

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="POSIX")

MODES = pytest.mark.parametrize("mode", [("-p", "2"), ("-p", "2", "--preload")], ids=["workers", "preload"])
IGNORING = ("sh", "-c", "trap '' CHLD; exec \"$@\"", "sh", *ZIBAI)


def ready(server: Server) -> list[int]:
    """The workers that have been ready, in order."""
    return [int(line.partition("[")[2].partition("]")[0]) for line in server.log if "worker ready" in line]


@pytest.mark.daily("preload")
@MODES
def test_a_starter_that_ignores_sigchld(mode: tuple[str, ...]) -> None:
    with Server("plain:app", *mode, "--no-gevent", command=IGNORING) as server:
        wait_for(lambda: len(ready(server)) == 2)
        victim = ready(server)[0]
        os.kill(victim, signal.SIGKILL)
        server.wait_for_log(f"worker {victim} was killed by SIGKILL; starting another")
        wait_for(lambda: len(ready(server)) == 3)
        server.signal(signal.SIGHUP)
        wait_for(lambda: len(ready(server)) == 5)
        assert get(server.port, "/hello").status == 200
        assert server.stop() == 0
    assert "Traceback" not in "\n".join(server.log)


@pytest.mark.daily("workers")
@MODES
def test_a_starter_that_ignores_sigchld_and_a_broken_application(mode: tuple[str, ...], tmp_path: Path) -> None:
    (tmp_path / "broken.py").write_text("app = 1 / 0\n")
    with pytest.raises(TimeoutError, match="the log ended"):
        with Server("broken:app", *mode, "--no-gevent", command=IGNORING, cwd=tmp_path) as server:
            server.wait_for_log("never")
    text = "\n".join(server.log)
    assert server.wait() == 3
    assert "ZeroDivisionError" in text
    assert text.count("Traceback (most recent call last)") == 1


def test_a_starter_that_ignores_sigchld_and_a_daemon(tmp_path: Path) -> None:
    log, pid = tmp_path / "log", tmp_path / "pid"
    flags = ["plain:app", "-l", "127.0.0.1:0", "--daemon", "--log-file", str(log), "--pid-file", str(pid), "-p", "1"]
    env = environment({"PYTHONPATH": os.pathsep.join([str(ROOT), str(APPS)])})
    try:
        done = subprocess.run([*IGNORING, *flags], cwd=tmp_path, env=env, capture_output=True, text=True, check=False)
        assert (done.returncode, done.stderr) == (0, "")
        os.kill(int(pid.read_text()), signal.SIGTERM)
        wait_for(lambda: not pid.exists())
    finally:
        end_what_is_left(tmp_path)


@pytest.mark.daily("SIGHUP-preload", "SIGUSR1-workers")
@MODES
@pytest.mark.parametrize("name", ["SIGHUP", "SIGUSR1"])
def test_a_signal_to_the_whole_group_ends_no_helper(mode: tuple[str, ...], name: str) -> None:
    """``systemctl kill``, or a hung-up terminal. multiprocessing would warn at the next start of a worker."""
    with Server("plain:app", *mode, "--no-gevent", env={"PYTHONWARNINGS": "error"}) as server:
        wait_for(lambda: len(ready(server)) == 2)
        os.killpg(server.pid, getattr(signal, name))
        count = 4 if name == "SIGHUP" else 2
        wait_for(lambda: len(ready(server)) == count)
        server.signal(signal.SIGHUP)
        wait_for(lambda: len(ready(server)) == count + 2)
        assert get(server.port, "/hello").status == 200
        assert server.stop() == 0
    text = "\n".join(server.log)
    assert "resource_tracker" not in text
    assert "Traceback" not in text


@pytest.mark.daily("ours", "default-single")
@pytest.mark.skipif(sys.platform != "linux", reason="the system says which signals a process handles")
@pytest.mark.parametrize("mode", [(), ("-p", "1")], ids=["single", "worker"])
@pytest.mark.parametrize("kind", ["ours", "default", "ignored", "own"])
def test_a_view_that_resets_a_signal_does_not_keep_it(kind: str, mode: tuple[str, ...]) -> None:
    """With gevent it runs in the main thread. A worker hears SIGTERM when systemd sends it to the whole group."""
    pytest.importorskip("gevent")
    with Server("signalling:app", *mode) as server:
        server.wait_for_log("worker ready")
        [pid] = ready(server)
        for _ in range(2):  # and a handler that is there already is not wrapped again
            assert get(server.port, f"/{kind}").status == 200
        wait_for(lambda: handles(pid, signal.SIGTERM))
        os.kill(pid, signal.SIGTERM)
        if mode:
            server.wait_for_log(f"worker {pid} ended with exit code 0")
            wait_for(lambda: len(ready(server)) == 2)
            assert server.stop() == 0
        else:
            assert server.wait() == 0


def handles(pid: int, number: int) -> bool:
    """Whether the process has a handler for a signal."""
    with open(f"/proc/{pid}/status", encoding="ascii") as file:
        caught = next(line for line in file if line.startswith("SigCgt:"))
    return bool(int(caught.split()[1], 16) >> number - 1 & 1)
