"""No client can hold the server, an idle server does nothing, and what has come and gone leaves nothing behind."""

from __future__ import annotations

import os
import socket
import struct
import sys
import threading
import time
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from support import DEADLINE, Client, Server, get, wait_for

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

EACH = 200

STALLS: dict[str, Callable[[Client], object]] = {
    "idle": lambda client: client.get("/"),
    "half a head": lambda client: client.send(b"GET / HTTP/1.1\r\nHost: te"),
    "half a body": lambda client: client.send(
        b"POST /read HTTP/1.1\r\nHost: test\r\nContent-Length: 100\r\n\r\nhalf of it"
    ),
    "an answer in one piece, not read": lambda client: client.send(b"GET /big HTTP/1.1\r\nHost: test\r\n\r\n"),
    "an answer in pieces, not read": lambda client: client.send(b"GET /pieces HTTP/1.1\r\nHost: test\r\n\r\n"),
}


@pytest.fixture(autouse=True)
def many_descriptors() -> Iterator[None]:
    """This process has as many sockets as the server."""
    if sys.platform == "win32":
        yield
        return
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(8192, hard), hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@contextmanager
def stalled(port: int) -> Iterator[list[Client]]:
    """200 clients of each kind."""
    with ExitStack() as stack:
        clients = []
        for stall in STALLS.values():
            for _ in range(EACH):
                client = stack.enter_context(Client(port))
                client.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
                stall(client)
                clients.append(client)
        yield clients


def test_a_thousand_stalled_clients_hold_nobody_up_and_are_gone_after_their_limits(backend: tuple[str, ...]) -> None:
    limits = ("--header-timeout", "4", "--keep-alive-timeout", "4", "--socket-timeout", "4")
    with Server("engine:app", "-w", "4", "--no-access-log", *limits, *backend) as server:
        before = int(get(server.port, "/held").body.split()[0])
        with stalled(server.port):
            began = time.monotonic()
            assert get(server.port).status == 200
            assert time.monotonic() - began < 1, "the issue's own bound; it takes a few milliseconds"
            wait_for(lambda: held(server)[0] <= before)
        assert not any("Traceback" in line for line in server.log)


def test_an_idle_server_does_nothing(backend: tuple[str, ...]) -> None:
    if sys.platform != "linux":
        pytest.skip("reads /proc")
    with Server("engine:app", *backend) as server, ExitStack() as stack:
        for _ in range(100):
            stack.enter_context(Client(server.port)).get("/")
        settled(server)
        before = cpu_time(server.pid)
        over = threading.Event()
        assert not over.wait(10)
        assert cpu_time(server.pid) - before < 0.005


def settled(server: Server) -> None:
    """Wait until it sleeps: what the requests have left to be done is done."""
    last = [-1.0]

    def unchanged() -> bool:
        last[:] = [*last[-4:], cpu_time(server.pid)]
        return len(last) == 5 and len(set(last)) == 1

    wait_for(unchanged)


def cpu_time(pid: int) -> float:
    """Seconds of all threads, in nanoseconds' resolution."""
    return sum(int(path.read_text().split()[0]) for path in Path(f"/proc/{pid}/task").glob("*/schedstat")) / 1e9


def test_ten_thousand_requests_leave_nothing_behind(backend: tuple[str, ...]) -> None:
    with Server("engine:app", "-w", "4", "--no-access-log", *backend) as server:
        burst(server.port, 200)
        wait_for(lambda: held(server) == held(server))
        descriptors, _, greenlets = held(server)
        burst(server.port, 1250)
        wait_for(lambda: held(server)[0] <= descriptors)
        _, threads, greenlets_now = held(server)
        assert threads <= 4 + 1 + 1, "runners, which start when they are first needed, one to lead, and the main thread"
        assert greenlets_now <= greenlets + 4, "workers, which start when they are first needed"


def burst(port: int, each: int) -> None:
    """``8 * each`` requests by eight clients at once; half on kept connections, the others on one each.

    Every fourth of those is broken off by a reset, with and without its answer read.
    """

    def keep() -> None:
        with Client(port) as client:
            for _ in range(each):
                assert client.get("/").status == 200

    def renew() -> None:
        for number in range(each):
            with Client(port) as client:
                if number % 4 == 0:
                    client.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                    client.send(b"GET /big HTTP/1.1\r\nHost: test\r\n\r\n")
                    if number % 8 == 0:
                        client.read()
                else:
                    assert client.get("/").status == 200

    failures: list[BaseException] = []

    def run(client: Callable[[], None]) -> None:
        try:
            client()
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=run, args=[client]) for client in [keep, renew] * 4]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(3 * DEADLINE)
    if failures:
        raise failures[0]


def held(server: Server) -> tuple[int, ...]:
    """Descriptors, threads, greenlets."""
    return tuple(map(int, get(server.port, "/held").body.split()))


@pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="reads /proc")
def test_the_thread_that_listens_for_the_end_makes_no_hub_of_its_own() -> None:
    """gevent would make one for it, and abort the process when a descriptor in it is closed."""
    pytest.importorskip("gevent")
    with Server("engine:app") as server:
        get(server.port)
        links = [os.readlink(link) for link in Path(f"/proc/{server.pid}/fd").iterdir()]
        assert links.count("anon_inode:[eventpoll]") == 2, "the hub's and the loop's"
