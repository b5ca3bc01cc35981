"""Every command, for a server under load one of whose workers is hung, stopped or still starting."""

from __future__ import annotations

import json
import os
import re
import signal
import sys
import threading
from typing import TYPE_CHECKING, Self

import pytest
from test_e2e_restart import ready

from support import Client, Server, alive, get, is_stopped, run, wait_for

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="its stacks and states are read from /proc")

APP = """
import ctypes, os, time
from pathlib import Path

here = Path(__file__).parent
mutex = ctypes.create_string_buffer(256)
until = time.monotonic() + 60
while (here / "slow").exists() and time.monotonic() < until:
    (here / f"importing.{os.getpid()}").touch()
    time.sleep(0.01)

def hold_the_gil():
    for _ in range(2):  # the second call waits in C for ever
        ctypes.PyDLL(None).pthread_mutex_lock(mutex)

def answer(path):
    if path == "/loop":
        (here / "looping").touch()
        hold_the_gil()
    return str(os.getpid()).encode()

def app(environ, start_response):
    body = answer(environ["PATH_INFO"])
    start_response("200 OK", [])
    return [body]

async def tasks(scope, receive, send):
    if scope["type"] == "http":
        body = answer(scope["path"])
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": body})
"""

WAYS = {
    "threads": ("states:app", "--interface", "wsgi", "--no-gevent"),
    "greenlets": ("states:app", "--interface", "wsgi"),
    "tasks": ("states:tasks", "--interface", "asgi", "--lifespan", "off"),
}
WHERE = {"hung": "in hold_the_gil", "stopped": "it is stopped, or waits for a device", "starting": "states.py"}
LIMITS = ("--worker-timeout", "60", "--graceful-exit-timeout", "1", "--boot-timeout", "60")


class Load:
    """Up to 100 requests a second, one after the other, each on a connection of its own. None may be lost."""

    def __init__(self, server: Server) -> None:
        self.server = server
        self.served = 0
        self.wrong: list[object] = []
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> Self:
        self._thread.start()
        wait_for(lambda: self.served)
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._over.wait(0.01):
            try:
                status = get(self.server.port).status
            except (OSError, EOFError, ValueError, AssertionError) as error:
                self.wrong.append(error)
            else:
                self.served += 1
                if status != 200:
                    self.wrong.append(status)


def odd_worker(state: str, server: Server, client: Client, tmp_path: Path) -> int:
    """Bring one worker into the state; the other serves on."""
    if state == "starting":
        (tmp_path / "slow").touch()
        victim = server.children()[0]
        os.kill(victim, signal.SIGKILL)
        wait_for(lambda: [*tmp_path.glob("importing.*")])
        wait_for(lambda: len(server.children()) == 2)
        return next(int(path.suffix[1:]) for path in tmp_path.glob("importing.*") if alive(int(path.suffix[1:])))
    pid = int(client.get("/pid").body)
    if state == "hung":
        client.send(b"GET /loop HTTP/1.1\r\nHost: a\r\n\r\n")
        wait_for((tmp_path / "looping").exists)
    else:
        os.kill(pid, signal.SIGSTOP)
        wait_for(lambda: is_stopped(pid))
    return pid


@pytest.mark.daily("tasks-starting")
@pytest.mark.parametrize("state", ["hung", "stopped", "starting"])
@pytest.mark.parametrize("way", [*WAYS])
def test_every_command_answers_and_costs_no_request(way: str, state: str, tmp_path: Path) -> None:
    if way == "greenlets":
        pytest.importorskip("gevent")
    if state == "hung" and not getattr(sys, "_is_gil_enabled", lambda: True)():
        pytest.skip("it holds nothing that others need")
    (tmp_path / "states.py").write_text(APP, encoding="ascii")
    control = ("--control", str(tmp_path / "board"))
    app, *flags = WAYS[way]
    flags += ["-p", "2", "--health-listen", "127.0.0.1:0", "--no-access-log", *control, *LIMITS]
    with Server(app, *flags, cwd=tmp_path) as server, Client(server.port) as client:
        wait_for(lambda: len(ready(server)) == 2)
        odd = odd_worker(state, server, client, tmp_path)
        health = int(re.search(r":(\d+)$", server.wait_for_log("health checks on"))[1])  # type: ignore[index]
        with Load(server) as load:
            shown = run("ps", *control)
            assert shown.returncode == 0
            assert ("GET /loop" in shown.stdout) == (state == "hung")
            assert re.search(rf"\b{odd} +starting", shown.stdout) or state != "starting"
            told = json.loads(run("workers", "--json", *control).stdout)
            assert odd in {each["pid"] for each in told["workers"]}
            assert get(health, "/metrics").status in {200, 501}
            assert get(health, "/readyz").status == 200
            _, _, dumped = run("dump", *control).stdout.partition(f"--- worker {odd}\n")
            assert WHERE[state] in dumped.partition("--- worker")[0]
            profiled = run("profile", "0.2", "--output", str(tmp_path / "profile"), *control)
            assert profiled.returncode == 0
            silent = f"worker {odd}: no samples, since it does not respond\n"
            assert (silent in profiled.stdout) == (state != "starting")
            assert run("workers", "3", *control).returncode == 0
            (tmp_path / "slow").unlink(missing_ok=True)
            wait_for(lambda: len(ready(server)) == 3 + (state == "starting"))
            done = run("reload", "--wait", *control)
            assert done.returncode == 0
            assert f"worker {odd} is replaced by " in done.stdout
            assert not alive(odd)
        assert not load.wrong
        assert run("stop", "--wait", *control).returncode == 0
        assert server.wait() == 0
