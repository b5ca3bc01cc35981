"""What restarts and killed workers lose under load, on every system: they are asked for by commands, not by signals."""

from __future__ import annotations

import os
import signal
import sys
from contextlib import ExitStack, suppress
from typing import TYPE_CHECKING

import pytest

from zibai.system.patching import has_gil

from load import PAUSE, Numbered
from support import Client, Server, run, wait_for

if TYPE_CHECKING:
    from pathlib import Path

CLIENTS = 6
PATIENCE = 20.0  # seconds that a client waits for a response
GRACE = 1.0  # seconds for which an idle connection is served after a restart where it cannot move; see docs/windows.md

WAYS = {
    "threads": ("numbered:app", "--no-gevent"),
    "greenlets": ("numbered:app",),
    "loops": ("numbered:app", "--loops", "2", "--no-gevent"),
    "tasks": ("numbered:asgi_app",),
}


@pytest.fixture(params=WAYS)
def way(request: pytest.FixtureRequest) -> tuple[str, ...]:
    if request.param == "greenlets" and not has_gil():
        pytest.skip("gevent is not used here")
    return WAYS[request.param]


def ready(server: Server) -> int:
    return sum("worker ready" in line for line in server.log)


def restart(server: Server, control: tuple[str, str]) -> None:
    """All new workers serve, and all old ones have ended."""
    old = set(server.children())
    done = run("reload", "--wait", *control, timeout=120)
    assert (done.returncode, done.stderr) == (0, "")
    wait_for(lambda: len(now := set(server.children())) == len(old) and not now & old)


def die(server: Server) -> int:
    """A worker dies with all that it has. Returns its process id.

    On Windows it ends itself. One that another process ends would be the same there, but not under Wine 8: a connection
    for which it waits at that moment may stay open, held by nobody.
    """
    with Client(server.port) as client:
        victim = int(client.get("/0").body.split()[0])
        if sys.platform == "win32":
            client.send(b"GET /die HTTP/1.1\r\nHost: a\r\n\r\n")
            with suppress(ConnectionError):
                client.rest()
        else:
            os.kill(victim, signal.SIGKILL)
    return victim


@pytest.mark.daily("loops-daily", "greenlets-daily")
@pytest.mark.timeout(300)
@pytest.mark.parametrize(
    ("restarts", "requests", "pause"),
    [pytest.param(1, 1_000, PAUSE, id="daily", marks=pytest.mark.windows), pytest.param(5, 20_000, 0, id="full")],
)
def test_restarts_lose_nothing_and_a_killed_worker_only_what_it_had(
    way: tuple[str, ...], restarts: int, requests: int, pause: float, tmp_path: Path
) -> None:
    control = ("--control", str(tmp_path / "board"))
    share = requests // (restarts + 2) + 1
    with Server(*way, "-p", "2", "--no-access-log", *control) as server:
        wait_for(lambda: ready(server) == 2)
        with Numbered(server.port, CLIENTS, PATIENCE, pause) as load:
            load.wait_for(share, timeout=240)
            for _ in range(restarts):
                restart(server, control)
                load.wait_for(share, timeout=240)
            cut = list(load.cut)
            victim = die(server)
            wait_for(lambda: victim not in (now := server.children()) and len(now) == 2)
            load.wait_for(share, timeout=240)
            wait_for(lambda: ready(server) == 2 * (restarts + 1) + 1)
        assert server.stop() == 0
    assert load.wrong == []
    assert [idle for idle in cut if sys.platform != "win32" or idle <= GRACE] == [], "a connection that was in use"
    assert len(load.cut) - len(cut) <= CLIENTS, "one for each client"
    assert load.answered >= requests
    assert len(load.pids) >= 2 * (restarts + 1)
    assert not [line for line in server.log if "Traceback" in line]


@pytest.mark.skipif(sys.platform != "win32", reason="elsewhere it moves to the new worker")
def test_an_idle_connection_is_closed_by_a_restart(way: tuple[str, ...], tmp_path: Path) -> None:
    """And not reset, so that a client sees the end before it sends again."""
    control = ("--control", str(tmp_path / "board"))
    with Server(*way, "-p", "1", *control) as server:
        wait_for(lambda: ready(server) == 1)
        with Client(server.port) as client, Client(server.port) as silent:
            assert client.get("/1").status == 200
            restart(server, control)
            assert client.rest() == silent.rest() == b""
        assert server.stop() == 0


@pytest.mark.daily("threads", "tasks")
@pytest.mark.parametrize("count", [400, 620])
def test_many_connections_get_their_own_responses(way: tuple[str, ...], count: int) -> None:
    """Windows' ``select()`` takes 512 sockets. With more connections than that, the longest idle ones make room."""
    with Server(*way, "--no-access-log") as server, ExitStack() as stack:
        clients = [stack.enter_context(Client(server.port)) for _ in range(count)] if count <= 500 else []
        for turn in range(3 if clients else 0):
            for number, client in enumerate(clients):
                client.send(f"GET /{turn}/{number} HTTP/1.1\r\nHost: a\r\n\r\n".encode())
            for number, client in enumerate(clients):
                assert client.read().body.split()[1] == f"/{turn}/{number}".encode()
        for number in range(len(clients), count):
            client = stack.enter_context(Client(server.port))
            assert client.get(f"/{number}").body.split()[1] == f"/{number}".encode()
        assert server.stop() == 0
    assert not [line for line in server.log if "Traceback" in line]
