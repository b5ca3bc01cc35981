"""The end of a worker that runs tasks: in each phase of a request, by SIGKILL under load, with a blocked event loop."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from contextlib import ExitStack
from typing import TYPE_CHECKING

import pytest

from load import Load
from support import GRACEFUL, KILL, Client, Gate, Server, get, listens, wait_for
from wsclient import Peer

if TYPE_CHECKING:
    from collections.abc import Iterator

WORKERS = pytest.mark.parametrize("workers", [1, 2], ids=["single", "workers"])
has_sigkill = pytest.mark.skipif(sys.platform == "win32", reason="a process ends with another story there")
LIMIT = 4.5 + 4  # the limit of the end, and what a loaded machine may add
HEAD = "POST /echo HTTP/1.1\r\nHost: test\r\nContent-Length: 6\r\n"
PHASES = ("waits", "streams", "background")


@pytest.fixture
def gate() -> Iterator[Gate]:
    with Gate() as gate:
        yield gate


def processes(workers: int) -> tuple[str, ...]:
    return () if workers == 1 else ("-p", str(workers))


def ready(server: Server) -> int:
    return sum("worker ready" in line for line in server.log)


def ask(client: Client, target: str) -> None:
    client.send(f"GET {target} HTTP/1.1\r\nHost: test\r\n\r\n".encode())


def last(server: Server, line: str) -> int:
    return len(server.log) - 1 - server.log[::-1].index(line)


def faults(server: Server) -> list[str]:
    return [line for line in server.log if "ERROR" in line or "Traceback" in line]


@pytest.mark.daily("asyncio-single", "asyncio-workers")
@WORKERS
@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
def test_a_graceful_end_finishes_a_request_in_each_phase(gate: Gate, workers: int, loop: str) -> None:
    """Half a head, half a body, an application that waits, half a response, a background task; then the lifespan."""
    if loop == "uvloop":
        pytest.importorskip("uvloop")
    with (
        Server("phases_asgi:app", "--interface", "asgi", "--loop", loop, *processes(workers)) as server,
        ExitStack() as stack,
    ):
        wait_for(lambda: ready(server) == workers)
        head, body, waits, streams, background = [stack.enter_context(Client(server.port)) for _ in range(5)]
        for client in (head, body, waits, streams, background):
            assert client.get("/version").status == 200  # a worker has it, and no backlog
        head.send(HEAD[:30].encode())
        body.send(f"{HEAD}\r\nabc".encode())
        held = []
        for client, phase in zip((waits, streams, background), PHASES, strict=True):
            ask(client, f"/{phase}?{gate.port}")
            held.append(gate.arrival())
        assert background.read().body == b"responded"
        assert streams.file.readline() == b"HTTP/1.1 200 OK\r\n"
        while streams.file.readline() != b"begun\n":
            pass

        server.signal(GRACEFUL)
        wait_for(lambda: not listens(server.port))
        head.send(f"{HEAD[30:]}\r\nabcdef".encode())
        response = head.read()
        assert (response.body, response.headers["Connection"]) == (b"abcdef", "close")
        body.send(b"def")
        response = body.read()
        assert (response.body, response.headers["Connection"]) == (b"abcdef", "close")
        *held, last_held = held
        for each in held:
            each.close()
        response = waits.read()
        assert (response.body, response.headers["Connection"]) == (b"waited", "close")
        assert streams.file.read() == b"\r\n6\r\nended\n\r\n0\r\n\r\n"
        stack.close()
        with pytest.raises(subprocess.TimeoutExpired):  # the background task alone keeps it
            server.wait(0.5)
        last_held.close()
        assert server.wait() == 0
    assert not faults(server)
    assert server.log.index("the background task ends") < last(server, "the lifespan ends")
    assert server.log.count("the lifespan ends") == workers


@pytest.mark.daily("single")
@WORKERS
def test_a_graceful_end_has_its_time_limit_in_each_phase(gate: Gate, workers: int) -> None:
    """Nobody goes on: neither the clients that have sent one half, nor the application. Each ``finally`` runs.

    granian kills background tasks and WebSockets without it.
    """
    flags = ("--interface", "asgi", "--graceful-exit-timeout", "0.5", *processes(workers))
    with Server("phases_asgi:app", *flags) as server, ExitStack() as stack:
        wait_for(lambda: ready(server) == workers)
        clients = [stack.enter_context(Client(server.port)) for _ in range(5)]
        for client in clients:
            assert client.get("/version").status == 200
        clients[0].send(HEAD[:30].encode())
        clients[1].send(f"{HEAD}\r\nabc".encode())
        for client, phase in zip(clients[2:], PHASES, strict=True):
            ask(client, f"/{phase}?{gate.port}")
            gate.arrival()
        clients.append(stack.enter_context(Peer(server.port, f"/deaf?{gate.port}")).client)
        gate.arrival()
        began = time.monotonic()
        server.signal(GRACEFUL)
        assert server.wait() == 0
        assert time.monotonic() - began < LIMIT
    assert not faults(server)
    for path in ("/echo", "/waits", "/streams", "/background", "/deaf"):
        assert server.log.index(f"finally {path}") < last(server, "the lifespan ends")
    assert "cancelled /waits" in server.log


@has_sigkill
def test_a_worker_that_is_killed_under_load_costs_its_own_requests_and_no_other(gate: Gate) -> None:
    """Each client of the load has one request on its way, so that is the most that it loses, and the next is served."""
    flags = ("-p", "2", "--interface", "asgi", "--no-access-log")
    with Server("phases_asgi:app", *flags) as server:
        wait_for(lambda: ready(server) == 2)
        with Client(server.port) as doomed, Load(server.port) as load:
            load.wait_for(100)
            victim = int(doomed.get("/pid").body)
            (sibling,) = {*server.children()} - {victim}
            ask(doomed, f"/waits?{gate.port}")
            gate.arrival()
            os.kill(victim, KILL)
            with pytest.raises((ConnectionError, EOFError)):
                doomed.read()
            server.wait_for_log(f"worker {victim} was killed by SIGKILL; starting another")
            assert "it was serving GET /waits for" in server.wait_for_log("GET /waits")
            served = load.answered
            wait_for(lambda: ready(server) == 3 and load.answered > served + 200)
            assert sibling in server.children()
            assert victim not in server.children()
        assert len(load.wrong) <= 6, load.wrong
        assert all("ConnectionReset" in each or "EOFError" in each for each in load.wrong), load.wrong
        assert server.stop() == 0


def test_a_blocked_event_loop_holds_up_its_own_worker_alone() -> None:
    """The other one serves, the blocked one is named and not killed, and ends when its application lets it."""
    with Server("phases_asgi:app", "-p", "2", "--interface", "asgi", "--no-access-log") as server:
        wait_for(lambda: ready(server) == 2)
        with Client(server.port) as blocked:
            pid = blocked.get("/pid").body
            ask(blocked, "/blocks?1.5")
            server.wait_for_log("an application has blocked the event loop for 0.1 s in GET /blocks")
            served = {get(server.port, "/pid").body for _ in range(5)}
            server.signal(GRACEFUL)
            response = blocked.read()
            assert (response.status, response.body) == (200, pid)
        assert pid not in served
        assert server.wait() == 0
    assert "time.sleep(float(query))" in "\n".join(server.log)
    assert not faults(server)


@has_sigkill
def test_an_event_loop_that_is_blocked_for_too_long_costs_its_worker() -> None:
    with Server("phases_asgi:app", "-p", "1", "--interface", "asgi", "--worker-timeout", "1") as server:
        with Client(server.port) as blocked:
            pid = int(blocked.get("/pid").body)
            ask(blocked, "/blocks?600")
            server.wait_for_log(f"worker {pid} was killed by SIGKILL; starting another")
            server.wait_for_log("it was serving GET /blocks for")
            with pytest.raises((ConnectionError, EOFError)):
                blocked.read()
        assert get(server.port, "/version").body == b"1"
        assert server.stop() == 0
