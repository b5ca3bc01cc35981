"""How a worker is told to end, and what that must not do to it."""

from __future__ import annotations

import os
import signal
import sys
from contextlib import suppress
from pathlib import Path

import pytest

from support import Client, Gate, Server, get


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_the_thread_that_listens_makes_no_hub_of_its_own() -> None:
    """gevent would make one for it, and abort the process when a descriptor in it is closed."""
    pytest.importorskip("gevent")
    with Server("plain:app") as server:
        get(server.port)
        links = []
        for link in Path(f"/proc/{server.pid}/fd").iterdir():
            with suppress(FileNotFoundError):  # closed since
                links.append(os.readlink(link))
        assert links.count("anon_inode:[eventpoll]") == 2, "the hub's and the loop's"


@pytest.mark.daily("threads-worker", "greenlets-single")
@pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX")
@pytest.mark.parametrize("processes", [(), ("-p", "1")], ids=["single", "worker"])
def test_a_quick_end_goes_over_a_graceful_one(backend: tuple[str, ...], processes: tuple[str, ...]) -> None:
    with (
        Server("plain:app", "--graceful-exit-timeout", "3600", *processes, *backend) as server,
        Gate() as gate,
        Client(server.port) as client,
    ):
        client.send(f"GET /gated?{gate.port} HTTP/1.1\r\nHost: test\r\n\r\n".encode())
        gate.arrival()
        server.signal(signal.SIGTERM)
        server.signal(signal.SIGTERM)
        server.signal(signal.SIGINT)
        assert server.wait() == 0
        assert not any("Traceback" in line for line in server.log)


@pytest.mark.daily("greenlets")
@pytest.mark.skipif(sys.platform == "win32", reason="process groups of POSIX")
def test_ctrl_c_at_a_terminal_reaches_the_workers_too_and_is_quiet(backend: tuple[str, ...]) -> None:
    with Server("plain:app", "-p", "2", *backend) as server:
        get(server.port)
        server.children()
        os.killpg(server.pid, signal.SIGINT)
        assert server.wait() == 0
        assert not any("Traceback" in line or "ERROR" in line for line in server.log)


@pytest.mark.daily("threads")
@pytest.mark.skipif(sys.platform == "win32", reason="process groups of POSIX")
def test_ctrl_c_while_the_workers_start_is_quiet(backend: tuple[str, ...]) -> None:
    with Server("plain:app", "-p", "2", *backend) as server:
        os.killpg(server.pid, signal.SIGINT)
        assert server.wait() == 0
        assert not any("Traceback" in line or "ERROR" in line for line in server.log)


@pytest.mark.daily("threads-single", "greenlets-worker")
@pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX")
@pytest.mark.parametrize("processes", [(), ("-p", "1")], ids=["single", "worker"])
def test_signals_that_come_late_do_not_change_how_it_ends(backend: tuple[str, ...], processes: tuple[str, ...]) -> None:
    with Server("plain:app", *processes, *backend) as server:
        get(server.port)
        ended = False
        while not ended:  # as fast as they go, from the first to the last moment
            server.signal(signal.SIGTERM)
            ended = server.has_ended
        assert server.wait() == 0
