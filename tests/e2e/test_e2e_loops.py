"""Several server loops in a process: no request is lost or mixed up, and the process is one to everybody else."""

from __future__ import annotations

import json
import signal
import socket
import sys
from contextlib import ExitStack
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

import pytest

from zibai.system.patching import has_gil
from zibai.telemetry.scoreboard import Scoreboard

from support import Client, Gate, Server, run, wait_for

if TYPE_CHECKING:
    from pathlib import Path

LOOPS = ("--loops", "2", "--no-gevent")
WAYS = pytest.mark.parametrize("way", [(), ("-p", "2")], ids=["single", "workers"])
PRELOAD = pytest.param(("-p", "2", "--preload"), marks=pytest.mark.skipif(sys.platform == "win32", reason="fork"))
POSIX = pytest.mark.skipif(sys.platform == "win32", reason="POSIX signals, descriptors and unix sockets")


def on_all(stack: ExitStack, server: Server, control: Path, loops: int) -> list[Client]:
    """Connections that have had a response, at least two in each of so many loops."""

    def board() -> Scoreboard | None:
        try:
            return Scoreboard.open(str(control))
        except (OSError, ValueError):
            return None  # it is being made

    opened = wait_for(board)
    stack.callback(opened.release)
    rows = wait_for(lambda: len(found := [row for row in opened.rows() if row.runners]) == loops and found)
    clients: list[Client] = []

    def spread() -> bool:
        clients.append(stack.enter_context(Client(server.port)))
        assert clients[-1].get("/hello").status == 200
        return all(row.connections >= 2 for row in rows)

    wait_for(spread)
    return clients


@POSIX
def test_idle_connections_of_all_loops_outlive_their_worker(tmp_path: Path) -> None:
    flags = ("-p", "1", "--control", str(tmp_path / "control"), *LOOPS)
    with Server("numbered:app", *flags) as server, ExitStack() as stack:
        idle = on_all(stack, server, tmp_path / "control", 2)
        before = {client.get("/a").body.split()[0] for client in idle}
        server.signal(signal.SIGHUP)
        server.wait_for_log("restart done")
        after = [client.get("/b") for client in idle]
        assert {each.headers["Connection"] for each in after} == {None}
        assert not before & {each.body.split()[0] for each in after}


@pytest.mark.daily("single", "preload")
@pytest.mark.parametrize("way", [(), ("-p", "2"), PRELOAD], ids=["single", "workers", "preload"])
def test_requests_in_all_loops_finish_at_the_end(way: tuple[str, ...], tmp_path: Path) -> None:
    """Each loop has one thread, so both have requests that run, and requests that wait for them."""
    flags = ("-w", "2", "--control", str(tmp_path / "control"), *LOOPS, *way)
    with Server("plain:app", *flags) as server, Gate() as gate, ExitStack() as stack:
        clients = on_all(stack, server, tmp_path / "control", 4 if way else 2)
        for client in clients:
            client.send(f"GET /gated?{gate.port} HTTP/1.1\r\nHost: a\r\n\r\n".encode())
        requests = [gate.arrival(), gate.arrival()]
        server.signal(signal.CTRL_BREAK_EVENT if sys.platform == "win32" else signal.SIGTERM)
        server.wait_for_log("graceful shutdown begun")
        for request in requests:
            request.close()
        for _ in range(len(clients) - 2):
            gate.arrival().close()
        for client in clients:
            response = client.read()
            assert response.status == 200
            assert way or response.headers["Connection"] == "close"
            assert client.rest() == b""
        assert server.wait() == 0
    assert not [line for line in server.log if " ERROR " in line or "Traceback" in line]


@pytest.mark.daily("workers")
@POSIX
@WAYS
def test_a_quick_exit_ends_all_loops(way: tuple[str, ...]) -> None:
    with Server("plain:app", "-w", "2", *LOOPS, *way) as server, Gate() as gate, ExitStack() as stack:
        clients = [stack.enter_context(Client(server.port)) for _ in range(2)]
        for client in clients:
            client.send(f"GET /gated?{gate.port} HTTP/1.1\r\nHost: a\r\n\r\n".encode())
        gate.arrival()
        server.signal(signal.SIGINT)
        assert server.wait() == 0
    assert "1 request is cut" in "\n".join(server.log) or "2 requests are cut" in "\n".join(server.log)


@pytest.mark.daily("single")
@POSIX
@WAYS
def test_the_drain_is_announced_by_all_loops(way: tuple[str, ...], tmp_path: Path) -> None:
    flags = ("--drain", "60", "--control", str(tmp_path / "control"), *LOOPS, *way)
    with Server("plain:app", *flags) as server, ExitStack() as stack:
        clients = on_all(stack, server, tmp_path / "control", 4 if way else 2)
        for client in clients:
            assert client.get("/hello").headers["Connection"] is None
        server.signal(signal.SIGTERM)
        if way:
            server.wait_for_log("graceful shutdown in 60 s")
        for client in clients:
            wait_for(lambda: client.get("/hello").headers["Connection"] == "close")  # noqa: B023
            assert client.rest() == b""
        server.signal(signal.SIGTERM)
        assert server.wait() == 0


@pytest.mark.daily("workers")
@WAYS
def test_what_is_shown_is_the_sum_of_the_loops(way: tuple[str, ...], tmp_path: Path) -> None:
    control = tmp_path / "control"
    flags = ("--control", str(control), "-w", "5", *LOOPS, *way)
    with Server("plain:app", *flags) as server, ExitStack() as stack:
        clients = on_all(stack, server, control, 4 if way else 2)

        def shown() -> Any:
            return json.loads(run("ps", "--json", "--control", str(control)).stdout)

        def sums(server: Any) -> list[int]:
            return [sum(each[name] for each in server["workers"]) for name in ("requests", "open")]

        wait_for(lambda: sums(shown()) == [len(clients)] * 2)
        seen = shown()
        assert seen["totals"]["requests"] == len(clients)
        assert seen["slots"] == 5
        assert [each["runners"] for each in seen["workers"]] == [5] * (2 if way else 1)
        board = Scoreboard.open(str(control))
        try:
            loops = [[row.read().counters["requests"] for row in worker.each] for worker in board.workers()]
        finally:
            board.release()
        assert [min(each) >= 2 for each in loops if any(each)] == [True] * (2 if way else 1), "one row for each loop"
        assert server.stop() == 0


@pytest.mark.daily("single")
@POSIX
@WAYS
def test_a_listener_that_is_given(way: tuple[str, ...], tmp_path: Path) -> None:
    """All loops accept from it, and it stays open for the caller."""
    with socket.socket(socket.AF_UNIX) as given:
        given.bind(str(tmp_path / "sock"))
        given.listen()
        flags = ("--max-connections", "4", *LOOPS, *way)
        with Server("plain:app", *flags, listen=f"fd:{given.fileno()}", pass_fds=[given.fileno()]) as server:
            with ExitStack() as stack:
                clients = [stack.enter_context(Client(tmp_path / "sock")) for _ in range(8 if way else 4)]
                for client in clients:
                    client.send(b"GET /hello HTTP/1.1\r\nHost: a\r\n\r\n")
                assert {client.read().status for client in clients} == {200}
            assert server.stop() == 0
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(str(tmp_path / "sock"))


def test_what_the_log_says_at_the_start() -> None:
    with Server("plain:app", *LOOPS) as server:
        server.wait_for_log("20 threads in 2 loops, one process")
        server.wait_for_log("worker ready: threads")
        assert any("so the loops take turns" in line for line in server.log) == has_gil()
        assert server.stop() == 0


def test_0_is_one_loop_with_a_gil() -> None:
    if not has_gil():
        pytest.skip("this Python has none")
    with Server("plain:app", "--loops", "0", "--no-gevent") as server:
        server.wait_for_log("--loops 0: one server loop in each process, since this Python has a GIL")
        server.wait_for_log("10 threads, one process")
        server.wait_for_log("worker ready")  # before that, Ctrl-Break ends a process on Windows at once
        assert server.stop() == 0


@pytest.mark.daily("-1]")
@pytest.mark.parametrize("processes", ["0", "1"])
@pytest.mark.parametrize(
    ("app", "flags", "complaint"),
    [
        ("plain:app", ("--loops", "3", "-w", "2"), "--loops 3 needs a --max-workers of at least 3"),
        ("wire_asgi:app", ("--loops", "2"), "--loops 2: an ASGI application has one event loop"),
        ("plain:app", ("--loops", "2"), "--loops 2: gevent runs all greenlets in one thread"),
    ],
    ids=["max-workers", "asgi", "gevent"],
)
def test_what_cannot_be_is_refused_in_one_line(
    app: str, flags: tuple[str, ...], complaint: str, processes: str
) -> None:
    if "gevent" in complaint and (find_spec("gevent") is None or not has_gil()):
        pytest.skip("gevent is not used here")
    done = run(app, "-p", processes, "--listen", "127.0.0.1:0", *flags)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert complaint in done.stderr
