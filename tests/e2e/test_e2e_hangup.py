"""SIGHUP to a single process: it says why it does not restart, and ends when its terminal is closed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from support import APPS, DEADLINE, ZIBAI, Server, environment, get, wait_for

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="there is no SIGHUP")


@pytest.mark.daily("threads")
def test_a_restart_is_refused_with_the_reason(backend: tuple[str, ...]) -> None:
    with Server("plain:app", *backend) as server:
        assert get(server.port, "/hello").status == 200
        server.signal(signal.SIGHUP)
        assert "start this one with --processes 1" in server.wait_for_log("restart refused: a single process would")
        assert get(server.port, "/hello").status == 200
        assert server.stop() == 0


def test_nohup() -> None:
    command = ("sh", "-c", "trap '' HUP; exec \"$@\"", "sh", *ZIBAI)
    with Server("plain:app", "--no-gevent", command=command) as server:
        assert get(server.port, "/hello").status == 200
        server.signal(signal.SIGHUP)
        assert get(server.port, "/hello").status == 200
        assert server.stop() == 0
    assert not any("refused" in line for line in server.log)


CONTROLLED = """
import fcntl, os, sys, termios
fcntl.ioctl(0, termios.TIOCSCTTY, 0)
os.execv(sys.executable, [sys.executable, "-m", "zibai", *sys.argv[1:]])
"""


def test_a_terminal_that_is_closed_ends_it(tmp_path: Path) -> None:
    master, slave = os.openpty()
    with open(tmp_path / "log", "wb") as log:
        command = [sys.executable, "-c", CONTROLLED, "plain:app", "--listen", "127.0.0.1:0", "--no-gevent"]
        process = subprocess.Popen(
            command, cwd=APPS, env=environment(), stdin=slave, stdout=log, stderr=log, start_new_session=True
        )
    os.close(slave)
    try:
        wait_for(lambda: b"worker ready" in (tmp_path / "log").read_bytes())
        os.close(master)
        assert process.wait(DEADLINE) == 0
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()
    assert b"refused" not in (tmp_path / "log").read_bytes()
