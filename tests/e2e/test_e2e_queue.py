"""Saturation: more clients than runners. What they wait is seen, logged, counted and limited, wherever they wait."""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import pytest

from zibai.engine.overload import BACKLOG_STAYS

from support import Client, Server, get, is_stopped, run, wait_for

if TYPE_CHECKING:
    from pathlib import Path

APP = """
import asyncio, time
WORK = 0.4
def app(environ, start_response):
    time.sleep(WORK)
    start_response("200 OK", [])
    return [repr(environ["zibai.queue_time"]).encode()]
async def tasks(scope, receive, send):
    if scope["type"] == "lifespan":
        raise ValueError
    await asyncio.sleep(WORK)
    text = repr(scope["extensions"]["zibai.queue_time"]["seconds"])
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": text.encode()})
"""

WORK, TIMEOUT, CLIENTS = 0.4, 1.0, 16
SLACK = 0.8  # of a busy machine
KINDS = {
    "threads": ("slow:app", "--no-gevent"),
    "greenlets": ("slow:app",),
    "tasks": ("slow:tasks", "--interface", "asgi"),
    "two workers": ("slow:app", "--no-gevent", "-p", "2"),
    "two workers of tasks": ("slow:tasks", "--interface", "asgi", "-p", "2"),
}


def ask_all(server: Server, clients: int) -> list[tuple[int, float, str]]:
    """Status, seconds, and body of a request of each client, all at the same time."""
    found: list[tuple[int, float, str]] = []

    def ask() -> None:
        began = time.monotonic()
        response = get(server.port)
        found.append((response.status, time.monotonic() - began, response.body.decode()))

    threads = [threading.Thread(target=ask) for _ in range(clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return found


@pytest.mark.daily("threads", "tasks")
@pytest.mark.parametrize("kind", [*KINDS])
def test_the_wait_of_every_client_is_known_and_limited(tmp_path: Path, kind: str) -> None:
    workers = 2 if "workers" in kind else 1
    if workers == 2 and sys.platform != "linux":
        pytest.skip("only Linux tells how long a connection has waited in the backlog")
    if kind == "greenlets":
        pytest.importorskip("gevent")
    (tmp_path / "slow.py").write_text(APP)
    app, *flags = KINDS[kind]
    flags += ["-w", "2", "--queue-timeout", str(TIMEOUT), "--access-log-format", "json"]
    with Server(app, *flags, cwd=tmp_path) as server:
        wait_for(lambda: sum("worker ready" in line for line in server.log) == workers)
        found = ask_all(server, CLIENTS)
        wait_for(lambda: sum('"status"' in line for line in server.log) == CLIENTS)
        shown = json.loads(run("ps", "--json").stdout.splitlines()[0]) if sys.platform == "linux" else {}
    served = [(waited, float(body)) for status, waited, body in found if status == 200]
    refused = [waited for status, waited, _ in found if status == 503]
    assert len(served) + len(refused) == CLIENTS
    assert len(served) >= 4 * workers
    for waited, told in served:
        assert told < TIMEOUT + SLACK
        assert -0.05 < waited - WORK - told < SLACK
    assert refused
    for waited in refused:
        assert TIMEOUT - 0.05 < waited < TIMEOUT + SLACK
    logged = [json.loads(line) for line in server.log]
    waits = sorted(each["queue_ms"] for each in logged if each.get("status") == 200)
    assert waits == pytest.approx([told * 1000 for _, told in sorted(served, key=lambda pair: pair[1])], abs=1)
    assert all(each["queue_ms"] >= TIMEOUT * 1000 - 1 for each in logged if each.get("status") == 503)
    warnings: list[Any] = [each["message"] for each in logged if each["level"] == "WARNING"]
    assert any("--max-workers may be too small" in text for text in warnings)
    if shown and shown["pid"] == server.pid:
        queue = shown["totals"]["served"]["queue"]
        assert sum(queue["buckets"]) == len(served)
        assert queue["seconds"] == pytest.approx(sum(waits) / 1000, abs=0.1)


def test_where_the_time_goes(tmp_path: Path) -> None:
    """The phases of a request that comes slowly and is taken slowly."""
    (tmp_path / "big.py").write_text(
        "import time\n"
        "def app(environ, start_response):\n"
        "    environ['wsgi.input'].read()\n"
        "    time.sleep(0.2)\n"
        "    start_response('200 OK', [])\n"
        "    return [b'x' * 20_000_000]\n"
    )
    pause, slack = 0.6, 0.3  # the server may see late that a piece has come, on a busy machine
    with Server("big:app", "--no-gevent", "--access-log-format", "json", cwd=tmp_path) as server:
        with Client(server.port) as client:
            for piece in (b"POST / HTTP/1.1\r\nHost: a\r\n", b"Content-Length: 2\r\n\r\na", b"b"):
                client.send(piece)
                time.sleep(pause)  # the client is slow: that is what is measured
            time.sleep(0.2 + pause)
            assert len(client.read().body) == 20_000_000
        line = server.wait_for_log('"status": 200')
    phases = {name: value / 1000 for name, value in json.loads(line).items() if name.endswith("_ms")}
    assert pause - slack < phases["head_ms"] < pause + SLACK
    assert pause - slack < phases["body_ms"] < pause + SLACK
    assert 0.2 <= phases["application_ms"] < 0.2 + SLACK
    assert pause - slack < phases["send_ms"] < pause + 2 * SLACK
    assert phases["duration_ms"] == pytest.approx(phases["application_ms"] + phases["send_ms"], abs=0.05)


HELD = """
import os, time
from pathlib import Path
here = Path(__file__).parent
def wait_for(name):
    until = time.monotonic() + 60
    while not (here / name).exists() and time.monotonic() < until:
        time.sleep(0.01)
if (here / "slow_import").exists():
    wait_for("go")
def app(environ, start_response):
    if environ["PATH_INFO"] == "/held":
        (here / f"held.{os.getpid()}").touch()
        wait_for("go")
    start_response("200 OK", [])
    return [b"ok"]
"""


@pytest.mark.daily("starts", "last")
@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells how long a connection has waited in the backlog")
@pytest.mark.parametrize("kind", ["the replacement starts", "the first is stopped", "the last is stopped"])
def test_the_limit_holds_whatever_the_siblings_do(tmp_path: Path, kind: str) -> None:
    """Nobody waits for one that imports for long, or that is stopped."""
    (tmp_path / "held.py").write_text(HELD)
    workers = 1 if "replacement" in kind else 2
    flags = ["-p", str(workers), "-w", "1", "--no-gevent", "--queue-timeout", str(TIMEOUT)]
    with Server("held:app", *flags, cwd=tmp_path) as server, ThreadPoolExecutor() as clients:
        wait_for(lambda: sum("worker ready" in line for line in server.log) == workers)
        pids = server.children()
        if "stopped" in kind:
            stopped = pids.pop(0 if "first" in kind else -1)
            os.kill(stopped, signal.SIGSTOP)
            wait_for(lambda: is_stopped(stopped))
        held = []
        for number in range(len(pids)):  # one after the other, so that each gets a worker
            held.append(clients.submit(get, server.port, "/held"))
            wait_for(lambda number=number: len(list(tmp_path.glob("held.[0-9]*"))) > number)
        if workers == 1:
            (tmp_path / "slow_import").touch()
            os.kill(server.pid, signal.SIGHUP)
            wait_for(lambda: len(server.children()) == 2)
        # The second time, each worker has looked at its siblings.
        for status, waited, _ in [*ask_all(server, 2), *ask_all(server, 2)]:
            assert status == 503
            assert TIMEOUT - 0.05 < waited < TIMEOUT + BACKLOG_STAYS + SLACK
        (tmp_path / "go").touch()
        if "stopped" in kind:
            os.kill(stopped, signal.SIGCONT)
        assert [each.result().status for each in held] == [200] * len(held)
