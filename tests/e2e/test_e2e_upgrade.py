"""SIGUSR2: a new parent on the same listeners, beside the old one, until somebody ends one of them."""

from __future__ import annotations

import os
import re
import shutil
import signal
import sys
import tempfile
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from load import Load
from support import APPS, KILL, Server, alive, get, run, wait_for

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="SIGUSR2")


@pytest.fixture
def site() -> Iterator[Path]:
    """A directory with the application, at version 1, and a short name for the sake of unix sockets."""
    with tempfile.TemporaryDirectory(prefix="z") as name:
        shutil.copy(APPS / "versioned.py", name)
        deploy(Path(name), "1")
        yield Path(name)


def deploy(site: Path, version: str) -> None:
    (site / "version.txt").write_text(version, encoding="ascii")


@contextmanager
def upgraded(server: Server) -> Iterator[int]:
    """The process id of a new parent that serves; it is gone at the end."""
    before = len(server.log)
    server.signal(signal.SIGUSR2)
    line = server.wait_for_log("the new server serves", after=before)
    pid = int(re.findall(r"process (\d+)", line)[0])
    try:
        yield pid
        if alive(pid):
            os.kill(pid, signal.SIGTERM)
        wait_for(lambda: not alive(pid))
    finally:
        if alive(pid):
            os.kill(pid, KILL)


@pytest.mark.daily("greenlets-2")
@pytest.mark.parametrize("processes", ["1", "2"])
def test_an_upgrade_under_load_loses_nothing(backend: tuple[str, ...], site: Path, processes: str) -> None:
    flags = ("-p", processes, "--no-access-log", *backend)
    with Server("versioned:app", *flags, cwd=site) as server, ExitStack() as stack:
        with Load(server.port) as load:
            load.wait_for(200)
            deploy(site, "2")
            stack.enter_context(upgraded(server))
            load.wait_for(200)
            wait_for(lambda: load.bodies >= {b"1", b"2"} or load.wrong)  # both serve
            server.signal(signal.SIGTERM)
            wait_for(lambda: server.has_ended)
            load.wait_for(100)  # so nobody has an answer of the old one yet that is not counted
            load.bodies.clear()
            load.wait_for(200)
        assert load.wrong == []
        assert load.bodies <= {b"2", b""}
    assert "Traceback" not in "\n".join(server.log)


def test_the_last_one_removes_the_files(site: Path) -> None:
    """Those of a unix socket, of the process id, and for ``zibai ps``."""
    path, board, number = site / "s", site / "board", site / "pid"
    flags = ("-p", "1", "--no-gevent", "--listen", f"unix:{path}", "127.0.0.1:0", "--control", str(board))
    # A relative directory is another one for who starts there.
    flags += ("--chdir", site.name, "--pid-file", str(number))
    with Server("versioned:app", *flags, listen=None, cwd=site.parent) as server:
        wait_for(lambda: "ready" in run("ps", "--control", str(board)).stdout)
        with upgraded(server) as new:
            assert number.read_text() == f"{new}\n"
            assert f"process {new}\n" in run("ps", "--control", str(board)).stdout
            assert f"process {server.pid}\n" in run("ps", "--control", f"{board}.old").stdout
            server.signal(signal.SIGUSR2)
            server.wait_for_log("upgrade refused: process")
            os.kill(new, signal.SIGUSR2)
            server.wait_for_log("the last upgrade is not finished")
        server.wait_for_log("has ended (exit code 0); this server keeps serving")
        assert get(path, "/version").body == b"1"
        assert number.read_text() == f"{server.pid}\n"
        wait_for(lambda: f"process {server.pid}\n" in run("ps", "--control", str(board)).stdout)
        assert not Path(f"{board}.old").exists()

        with upgraded(server) as new:
            server.signal(signal.SIGTERM)
            wait_for(lambda: server.has_ended)
            assert get(path, "/version").body == b"1"
            assert number.read_text() == f"{new}\n"
            assert f"process {new}\n" in run("ps", "--control", str(board)).stdout
        assert {each.name for each in site.iterdir()} <= {"versioned.py", "version.txt", "__pycache__"}


def test_who_is_killed_leaves_the_file_to_the_other(site: Path) -> None:
    path = site / "s"
    with Server("versioned:app", "-p", "1", "--no-gevent", listen=f"unix:{path}", cwd=site) as server:
        server.wait_for_log("worker ready")
        (worker,) = server.children()
        with upgraded(server):
            server.signal(signal.SIGKILL)
            wait_for(lambda: server.has_ended and not alive(worker))
            assert get(path, "/version").body == b"1"
        assert not path.exists()


def test_both_end_at_once(site: Path) -> None:
    path = site / "s"
    with Server("versioned:app", "-p", "1", "--no-gevent", listen=f"unix:{path}", cwd=site) as server:
        with upgraded(server) as new:
            os.kill(new, signal.SIGTERM)
            server.signal(signal.SIGTERM)
            wait_for(lambda: server.has_ended and not alive(new))
        assert not path.exists()


def test_both_are_asked_at_the_same_time_to_end(site: Path) -> None:
    """A service manager ends all processes of a service at once. No file stays, whichever of them ends first."""
    for _ in range(3):
        files = ("--pid-file", str(site / "pid"), "--control", str(site / "board"))
        with Server("versioned:app", "-p", "1", "--no-gevent", *files, listen=f"unix:{site}/s", cwd=site) as server:
            with upgraded(server) as new:
                os.killpg(server.pid, signal.SIGTERM)
                wait_for(lambda: server.has_ended and not alive(new))
            wait_for(lambda: not any((site / name).exists() for name in ("s", "pid", "board", "board.old")))


def test_a_new_parent_that_does_not_come_up_changes_nothing(site: Path) -> None:
    with Server("versioned:app", "-p", "1", "--no-gevent", cwd=site) as server:
        server.wait_for_log("worker ready")
        deploy(site, "broken")
        server.signal(signal.SIGUSR2)
        server.wait_for_log("the new server has not come up (exit code 3); this server keeps serving")
        assert get(server.port, "/version").body == b"1"
        deploy(site, "2")
        with upgraded(server):
            pass
        assert server.stop() == 0


@pytest.mark.daily("threads")
def test_a_single_process_says_what_it_needs(backend: tuple[str, ...]) -> None:
    with Server("plain:app", *backend) as server:
        server.wait_for_log("worker ready")
        server.signal(signal.SIGUSR2)
        assert "--processes 1" in server.wait_for_log("upgrade refused")
        assert get(server.port, "/hello").status == 200
        assert server.stop() == 0
