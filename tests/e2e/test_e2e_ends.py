"""A server that was told to end does end, whatever hangs in it, and with the exit code that the documentation names.

The limit is ``--graceful-exit-timeout`` and four seconds; what these tests allow beyond it is for a slow machine.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from support import APPS, DEADLINE, ZIBAI, Client, Server, alive, child_processes, environment, get, run, wait_for

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="signals and pipes of POSIX")

SOON = ("--graceful-exit-timeout", "0.5")
LIMIT = 4.5 + 4  # of a loaded machine
PROCESSES = pytest.mark.parametrize(
    "processes", [(), ("-p", "2"), ("-p", "2", "--preload")], ids=["single", "workers", "preload"]
)


def ready(server: Server, count: int = 1) -> None:
    wait_for(lambda: sum("worker ready" in line for line in server.log) >= count)


def timed(server: Server) -> float:
    """Seconds until the server ends, which it has to do with exit code 0. Processes of the application may go on."""
    began = time.monotonic()
    assert server._process.wait(DEADLINE) == 0
    return time.monotonic() - began


HOOKS = {
    "before_graceful_exit": ("--before-graceful-exit", "hanging:hook"),
    "before_died": ("--before-died", "hanging:hook"),
    "late thread": ("--before-died", "hanging:hook"),
}


@pytest.mark.daily("threads-thread-single", "greenlets-atexit-single", "threads-before_died-workers")
@PROCESSES
@pytest.mark.parametrize("hang", ["thread", "pool", "atexit", "process", *HOOKS])
def test_it_ends_in_time_whatever_hangs(backend: tuple[str, ...], processes: tuple[str, ...], hang: str) -> None:
    flags = (*SOON, *processes, *backend, *HOOKS.get(hang, ()))
    with Server("hanging:app", *flags, env={"HANG": hang}) as server:
        ready(server)
        assert get(server.port).status == 200
        server.signal(signal.SIGTERM)
        assert timed(server) < LIMIT


@pytest.mark.daily("greenlets-SIGTERM", "threads-SIGINT")
@pytest.mark.parametrize("name", ["SIGTERM", "SIGINT", "SIGQUIT"])
def test_a_second_signal_ends_a_single_process_that_hangs_in_its_end(backend: tuple[str, ...], name: str) -> None:
    flags = ("--graceful-exit-timeout", "3600", "--before-died", "plain:before_died", *backend)
    with Server("hanging:app", *flags, env={"HANG": "thread"}) as server:
        ready(server)
        server.signal(signal.SIGTERM)
        server.wait_for_log("hook: before_died")
        # The hook runs before the process has come to the end of its interpreter, and the first may be too early.
        wait_for(lambda: (server.signal(getattr(signal, name)), server.has_ended)[1], 5)
        assert server.wait() == 0
        assert "poller:" in server.log, "it says what has kept it"


@pytest.mark.daily("greenlets")
def test_a_thread_that_a_request_has_started_keeps_nobody(backend: tuple[str, ...]) -> None:
    with Server("hanging:app", *SOON, *backend) as server:
        assert get(server.port, "/keep").status == 200
        server.signal(signal.SIGTERM)
        assert timed(server) < LIMIT


@pytest.mark.daily("single")
@PROCESSES
def test_an_application_that_fails_and_leaves_a_thread(processes: tuple[str, ...]) -> None:
    done = run("hanging:app", "-l", "127.0.0.1:0", "--no-gevent", *processes, env={"HANG": "failure"})
    assert done.returncode == 3
    assert "this application cannot be loaded" in done.stderr


def test_loaders_that_nobody_needs_end_with_their_threads(tmp_path: Path) -> None:
    """And do not go on with code that has been replaced."""
    flags = ("-p", "1", "--preload", "--no-gevent", *SOON)
    with Server("hanging:app", *flags, env={"HANG": "thread"}) as server:
        ready(server)
        for count in (2, 3, 4):
            server.signal(signal.SIGHUP)
            ready(server, count)
        wait_for(lambda: len(server.children()) == 1, LIMIT)
        server.signal(signal.SIGTERM)
        assert timed(server) < LIMIT


@pytest.mark.daily("threads")
def test_a_worker_that_is_stopped_ends_as_well(backend: tuple[str, ...]) -> None:
    with Server("hanging:app", "-p", "1", *SOON, *backend) as server:
        ready(server)
        (worker,) = server.children()
        os.kill(worker, signal.SIGSTOP)
        server.signal(signal.SIGTERM)
        assert timed(server) < LIMIT


# --- applications that handle signals ---------------------------------------------------------------


@pytest.mark.daily("threads-another", "greenlets-default", "greenlets-kept")
@pytest.mark.parametrize("takes", ["another", "ours", "default", "ignored", "no descriptor", "kept", "own"])
def test_it_hears_signals_after_the_application_has_handled_some(backend: tuple[str, ...], takes: str) -> None:
    with Server("signalling:app", *backend, env={"TAKES": takes}) as server:
        ready(server)
        assert get(server.port).status == 200
        server.signal(signal.SIGTERM)
        assert server.wait() == 0
    log = "\n".join(server.log)
    assert "Traceback" not in log
    assert "ends now" not in log, "it has ended in order"
    assert ("the application has heard it" in log) == (takes == "own")


@pytest.mark.daily("threads-another", "greenlets-ours", "threads-own")
@pytest.mark.parametrize("takes", ["another", "ours", "own"])
def test_so_does_ctrl_c(backend: tuple[str, ...], takes: str) -> None:
    with Server("signalling:app", *backend, env={"TAKES": takes}) as server:
        ready(server)
        server.signal(signal.SIGINT)
        assert server.wait() == 0
    assert "ends now" not in "\n".join(server.log)


@pytest.mark.daily("threads-single", "greenlets-workers")
@pytest.mark.parametrize("processes", [(), ("-p", "1")], ids=["single", "workers"])
def test_an_application_that_exits_at_sigterm_cuts_no_request(
    backend: tuple[str, ...], processes: tuple[str, ...]
) -> None:
    """systemd sends the signal to the whole group."""
    with (
        Server("signalling:slow", *processes, *backend, env={"TAKES": "exits"}) as server,
        Client(server.port) as client,
    ):
        ready(server)
        client.send(b"GET /?0.5 HTTP/1.1\r\nHost: x\r\n\r\n")
        server.wait_for_log("entered")
        os.killpg(server.pid, signal.SIGTERM)
        assert client.read().body == b"ok"
        assert server.wait() == 0
    assert any("graceful shutdown begun" in line for line in server.log)


# --- a log that nobody reads ------------------------------------------------------------------------


class Silenced:
    """A server whose standard error is a pipe that is never read."""

    def __init__(self, path: Path, *flags: str, room: bool) -> None:
        self.path = path
        reader, writer = os.pipe()
        if not room:
            os.set_blocking(writer, False)
            with suppress(BlockingIOError):
                while True:
                    os.write(writer, b"x" * 512)
            os.set_blocking(writer, True)
        elif sys.platform == "linux":
            import fcntl

            fcntl.fcntl(writer, fcntl.F_SETPIPE_SZ, 4096)  # full after some 40 requests
        self._reader = reader
        self.process = subprocess.Popen(
            [*ZIBAI, "plain:app", "-l", f"unix:{path}", *SOON, *flags],
            cwd=APPS,
            env=environment(),
            stdin=subprocess.DEVNULL,
            stderr=writer,
            start_new_session=True,
        )
        os.close(writer)

    def fill(self) -> None:
        """Send requests until the server does not answer any more, since it cannot log."""
        wait_for(self.path.exists)
        silent = 0
        while silent < 3:
            silent = 0 if self.answers() else silent + 1

    def answers(self) -> bool:
        with socket.socket(socket.AF_UNIX) as client:
            client.settimeout(1)
            try:
                client.connect(str(self.path))
                client.send(b"GET /hello HTTP/1.0\r\n\r\n")
                return bool(client.recv(1000))
            except OSError:
                return False

    def children(self) -> set[int]:
        return {pid for pid, _ in child_processes(self.process.pid)}

    def close(self) -> None:
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait(DEADLINE)
        os.close(self._reader)


def hears(pid: int, number: int) -> bool:
    """Whether a process handles a signal or holds it back. Only Linux tells."""
    if sys.platform != "linux":
        return True
    fields = dict(line.split(":\t", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
    return bool((int(fields["SigBlk"], 16) | int(fields["SigCgt"], 16)) >> (number - 1) & 1)


@contextmanager
def silenced(path: Path, *flags: str, room: bool) -> Iterator[Any]:
    server = Silenced(path, *flags, room=room)
    try:
        yield server
    finally:
        server.close()


@pytest.mark.daily("greenlets-SIGTERM-workers")
@PROCESSES
@pytest.mark.parametrize("name", ["SIGTERM", "SIGINT"])
@pytest.mark.skipif(sys.platform != "linux", reason="makes a pipe small")
def test_a_log_that_nobody_reads_does_not_hold_up_the_end(
    backend: tuple[str, ...], processes: tuple[str, ...], name: str, tmp_path: Path
) -> None:
    with silenced(tmp_path / "s", *processes, *backend, room=True) as server:
        server.fill()
        children = server.children()
        server.process.send_signal(getattr(signal, name))
        assert server.process.wait(LIMIT) == 0
        wait_for(lambda: not any(map(alive, children)))


@pytest.mark.daily("threads-single")
@PROCESSES
def test_nor_does_one_that_is_full_from_the_start(
    backend: tuple[str, ...], processes: tuple[str, ...], tmp_path: Path
) -> None:
    with silenced(tmp_path / "s", *processes, *backend, room=False) as server:
        wait_for((tmp_path / "s").exists)
        wait_for(lambda: hears(server.process.pid, signal.SIGTERM))  # the next thing that it does is to log
        server.process.send_signal(signal.SIGTERM)
        assert server.process.wait(LIMIT) == 0
