"""Scrapes of a real server: the counters are the load that was sent, whatever becomes of the workers."""

from __future__ import annotations

import os
import re
import signal
import sys
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import pytest
from test_e2e_restart import ready

from support import Client, Server, get, is_stopped, run, wait_for

if TYPE_CHECKING:
    from pathlib import Path

parser = pytest.importorskip("prometheus_client.parser")


def scrape(server: Server) -> dict[str, float]:
    port = int(re.search(r":(\d+)$", server.wait_for_log("health checks on"))[1])  # type: ignore[index]
    response = get(port, "/metrics")
    assert response.status == 200, response.body
    assert response.headers["Content-Type"].startswith("text/plain; version=")
    assert response.headers["Cache-Control"] == "no-store"
    found: dict[str, float] = {}
    for family in parser.text_string_to_metric_families(response.body.decode()):
        for sample in family.samples:
            labels = ",".join(f"{name}={value}" for name, value in sorted(sample.labels.items()))
            found[f"{sample.name}{{{labels}}}"] = sample.value
    return found


class Load:
    """Requests, and what the counters must say about them."""

    def __init__(self, server: Server) -> None:
        self.server = server
        self.sent = {"read": 0, "write": 0}
        self.before: dict[str, float] = {}

    def send(self) -> None:
        with Client(self.server.port) as client:
            for _ in range(20):
                assert client.get("/pid").status == 200
            client.send(b"POST /pid HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\n\r\nx")
            assert client.read().status == 200
        self.sent["read"] += 20
        self.sent["write"] += 1

    def check(self) -> dict[str, float]:
        """A request is counted just after its client has its response, and no later."""
        number = sum(self.sent.values())
        wait_for(lambda: scrape(self.server).get("zibai_request_duration_seconds_count{}", 0) >= number)
        found = scrape(self.server)
        for method, number in self.sent.items():
            assert found[f"zibai_requests_total{{method={method},status=2xx}}"] == number
        assert found["zibai_request_duration_seconds_count{}"] == sum(self.sent.values())
        assert found["zibai_request_duration_seconds_bucket{le=+Inf}"] == sum(self.sent.values())
        for name, value in self.before.items():
            if re.search(r"_(total|count|sum|bucket)\{", name) and "worker=" not in name:
                assert found[name] >= value, name
        self.before = found
        return found


@pytest.mark.skipif(sys.platform == "win32", reason="signals between processes are POSIX")
@pytest.mark.daily("threads")
def test_counters_are_the_load_across_a_restart_and_a_killed_worker(backend: tuple[str, ...]) -> None:
    with Server("mortal:app", "-p", "2", "--health-listen", "127.0.0.1:0", "--no-access-log", *backend) as server:
        wait_for(lambda: len(ready(server)) == 2)
        load = Load(server)
        load.send()
        load.check()
        server.signal(signal.SIGHUP)
        load.send()
        server.wait_for_log("restart done")
        found = load.check()
        assert found["zibai_restarts_total{outcome=done}"] == 1
        wait_for(lambda: scrape(server)["zibai_worker_ends_total{cause=stopped}"] == 2)
        load.send()
        victim = int(get(server.port, "/pid").body)
        load.sent["read"] += 1
        load.check()  # it is counted
        os.kill(victim, signal.SIGKILL)
        wait_for(lambda: scrape(server)["zibai_worker_ends_total{cause=signal}"] == 1)
        load.check()
        wait_for(lambda: scrape(server)["zibai_workers{state=ready}"] == 2)
        load.send()
        found = load.check()
        assert found["zibai_worker_starts_total{}"] == 5
        assert found["zibai_workers_wanted{}"] == 2
        assert found["zibai_slots{state=free}"] == 20
        assert get(server.port, "/" + "x" * 70000).status == 414
        wait_for(lambda: scrape(server).get("zibai_refusals_total{status=414}") == 1)


@pytest.mark.daily("threads")
def test_a_scrape_sees_what_runs_and_what_waits(backend: tuple[str, ...], tmp_path: Any) -> None:
    flags = ("-p", "1", "-w", "1", "--health-listen", "127.0.0.1:0")
    with Server("mortal:app", *flags, *backend) as server, Client(server.port) as first, Client(server.port) as second:
        for client in first, second:
            client.send(f"GET /hang?{tmp_path}/here HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n".encode())
        wait_for(lambda: scrape(server)["zibai_requests_running{phase=app}"] == 1)
        found = scrape(server)
        assert found["zibai_slots{state=busy}"] == 1
        assert found["zibai_slots{state=free}"] == 0
        wait_for(lambda: scrape(server)["zibai_connections{state=queue}"] == 1)  # as of a heartbeat
        (tmp_path / "here.go").touch()
        assert first.read().status == second.read().status == 200


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells how many connections wait to be accepted")
@pytest.mark.daily("threads")
def test_the_backlog_is_what_no_worker_has_accepted(backend: tuple[str, ...]) -> None:
    flags = ("-p", "1", "--worker-timeout", "0", "--health-listen", "127.0.0.1:0")
    with Server("mortal:app", *flags, *backend) as server, ExitStack() as stack:
        wait_for(lambda: len(ready(server)) == 1)
        pid = int(get(server.port, "/pid").body)

        def backlog() -> float:
            found = scrape(server)
            (name,) = [each for each in found if each.startswith("zibai_backlog") and f":{server.port}" in each]
            return found[name]

        assert backlog() == 0
        os.kill(pid, signal.SIGSTOP)
        stack.callback(os.kill, pid, signal.SIGCONT)
        wait_for(lambda: is_stopped(pid))
        clients = [stack.enter_context(Client(server.port)) for _ in range(3)]
        wait_for(lambda: backlog() == 3)
        os.kill(pid, signal.SIGCONT)
        assert [client.get("/pid").status for client in clients] == [200] * 3
        wait_for(lambda: backlog() == 0)


def test_a_server_of_many_listeners_is_scraped_and_steered(tmp_path: Any) -> None:
    """They have no room in the scoreboard."""
    listen = ["--listen", "127.0.0.1:0"] * 99
    control = ("--control", str(tmp_path / "board"))
    with Server("mortal:app", "-p", "1", *listen, "--health-listen", "127.0.0.1:0", *control, "--no-gevent") as server:
        wait_for(lambda: len(ready(server)) == 1)
        if sys.platform == "linux":
            assert sum(name.startswith("zibai_backlog_connections{") for name in scrape(server)) == 100
        assert " more addresses\n" in run("ps", *control).stdout
        assert run("stop", "--wait", *control).returncode == 0
        assert server.wait() == 0


WAITING = """
import asyncio

go = asyncio.Event()


async def app(scope, receive, send):
    assert scope["type"] == "http"
    if scope["path"] == "/go":
        go.set()
    await go.wait()
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"fine"})
"""


def test_more_tasks_than_slots_are_counted_by_their_responses(tmp_path: Path) -> None:
    """Their status and duration were counted when they began, as 499 after no time."""
    (tmp_path / "waiting.py").write_text(WAITING, encoding="ascii")
    flags = ("-p", "1", "--interface", "asgi", "--lifespan", "off", "--health-listen", "127.0.0.1:0")
    with Server("waiting:app", *flags, cwd=tmp_path) as server, ExitStack() as stack:
        clients = [stack.enter_context(Client(server.port)) for _ in range(30)]
        for client in clients:
            client.send(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        wait_for(lambda: scrape(server)["zibai_slots{state=busy}"] == 30)
        found = scrape(server)
        assert found["zibai_slots{state=free}"] == 970
        assert found["zibai_request_duration_seconds_count{}"] == 0
        assert get(server.port, "/go").status == 200
        assert [client.read().status for client in clients] == [200] * 30
        wait_for(lambda: scrape(server)["zibai_request_duration_seconds_count{}"] == 31)
        counted = {name: value for name, value in scrape(server).items() if name.startswith("zibai_requests_total")}
        assert counted == {"zibai_requests_total{method=read,status=2xx}": 31}
