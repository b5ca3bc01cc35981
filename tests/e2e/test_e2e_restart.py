"""A restart loses no request, and a broken deploy changes nothing."""

from __future__ import annotations

import re
import shutil
import signal
import sys
from typing import TYPE_CHECKING

import pytest

from load import PAUSE, Load
from support import APPS, Client, Server, get, run, wait_for

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="SIGHUP")


@pytest.fixture
def site(tmp_path: Path) -> Path:
    """A directory with the application, at version 1."""
    shutil.copy(APPS / "versioned.py", tmp_path)
    deploy(tmp_path, "1")
    return tmp_path


def deploy(site: Path, version: str) -> None:
    (site / "version.txt").write_text(version, encoding="ascii")


def restart(server: Server, site: Path, version: str) -> None:
    """Deploy, SIGHUP, and wait until every old worker is gone."""
    old = set(server.children())
    deploy(site, version)
    server.signal(signal.SIGHUP)
    wait_for(lambda: len(now := set(server.children())) == len(old) and not now & old)


@pytest.mark.daily("threads-daily-2", "greenlets-daily-1")
@pytest.mark.parametrize("processes", ["1", "2"])
@pytest.mark.parametrize(
    ("restarts", "requests", "pause"),
    [(2, 1_000, PAUSE), pytest.param(5, 20_000, 0, marks=pytest.mark.slow)],
    ids=["daily", "full"],
)
def test_restarts_under_load_lose_nothing(
    backend: tuple[str, ...], site: Path, processes: str, restarts: int, requests: int, pause: float
) -> None:
    share = requests // (restarts + 1) + 1
    with (
        Server("versioned:app", "--no-access-log", "-p", processes, *backend, cwd=site) as server,
        Load(server.port, pause=pause) as load,
    ):
        load.wait_for(share)
        for version in range(restarts):
            restart(server, site, f"new {version}")
            load.wait_for(share)
    assert load.wrong == []
    assert load.answered >= requests
    assert {b"1", *(b"new %d" % version for version in range(restarts))} <= load.bodies


SLOW = """
import os, time
version = {version!r}
open(f"trying-{{os.getpid()}}", "w").close()
time.sleep(0.5)  # the import of a large application


def app(environ, start_response):
    start_response("200 OK", [("Content-Length", str(len(version)))])
    return [version.encode()]
"""


@pytest.mark.daily("reload-1")
@pytest.mark.parametrize("processes", ["1", "2"])
@pytest.mark.parametrize("how", ["SIGHUP", "command", "reload"])
def test_restarts_that_come_faster_than_a_start_takes_come_to_their_end(
    tmp_path: Path, how: str, processes: str
) -> None:
    """Each time a worker begins to import, the next restart is asked for; then all is quiet."""
    if how == "reload":
        pytest.importorskip("watchfiles")
    (tmp_path / "slow.py").write_text(SLOW.format(version="0"))
    flags = ("-p", processes, "--no-gevent", "--no-access-log", *(["--reload"] if how == "reload" else []))

    def tries() -> int:
        return len(list(tmp_path.glob("trying-*")))

    # Or a file that was saved within a second of the last time, with the same size, would be taken for the same.
    env = {"PYTHONDONTWRITEBYTECODE": "1"}
    with Server("slow:app", *flags, cwd=tmp_path, env=env) as server:
        assert get(server.port).body == b"0"
        wait_for(lambda: tries() == int(processes))
        for version in range(1, 10):
            before = tries()
            (tmp_path / "slow.py").write_text(SLOW.format(version=str(version)))
            if how == "SIGHUP":
                server.signal(signal.SIGHUP)
            elif how == "command":
                assert run("reload", f":{server.port}").returncode == 0
            wait_for(lambda before=before: tries() > before)
        assert any("restart done" in line for line in server.log), "while more are asked for"
        if how == "command":
            assert run("reload", "--wait", f":{server.port}").returncode == 0
        wait_for(lambda: {get(server.port).body for _ in range(8)} == {b"9"})
        wait_for(lambda: "restart done" in [line for line in server.log if "INFO restart" in line][-1])
        assert server.stop() == 0
    assert "Traceback" not in "\n".join(server.log)


@pytest.mark.daily("threads")
def test_an_import_of_two_seconds_makes_nobody_wait(backend: tuple[str, ...], site: Path) -> None:
    with Server("versioned:app", "--no-access-log", "-p", "1", *backend, cwd=site) as server:
        get(server.port, "/version")  # who comes now does not wait for the server to start
        with Load(server.port, clients=3) as load:
            load.wait_for(200)
            restart(server, site, "slow 2")
            load.wait_for(200)
    assert load.wrong == []
    assert b"slow 2" in load.bodies
    assert load.longest < 2, "less than an import; how much less is measured with nothing else on the machine"


@pytest.mark.daily("greenlets")
def test_an_idle_connection_outlives_its_worker(backend: tuple[str, ...], site: Path) -> None:
    with (
        Server("versioned:app", "-p", "1", *backend, cwd=site) as server,
        Client(server.port) as client,
        Client(server.port) as silent,
    ):
        old = client.get("/pid").body
        for version in ("2", "3"):
            restart(server, site, version)
            response = client.get("/version")
            assert (response.body, response.headers["Connection"]) == (version.encode(), None)
        assert client.get("/pid").body != old
        assert silent.get("/version").body == b"3", "also one that had not sent a byte"
        assert server.stop() == 0


@pytest.mark.daily("threads-broken")
@pytest.mark.parametrize("broken", ["broken", "unfit"])
def test_a_broken_deploy_changes_nothing(backend: tuple[str, ...], site: Path, broken: str) -> None:
    flags = ("-p", "2", "--before-serve", "versioned:before_serve")
    with Server("versioned:app", "--no-access-log", *flags, *backend, cwd=site) as server:
        with Load(server.port, clients=3) as load:
            load.wait_for(100)
            wait_for(lambda: len(ready(server)) == 2)
            old = set(server.children())
            deploy(site, broken)
            server.signal(signal.SIGHUP)
            server.wait_for_log("restart aborted")
            assert any("RuntimeError: this deploy" in line for line in server.log)
            assert set(server.children()) == old
            load.wait_for(100)
            restart(server, site, "mended")
            load.wait_for(100)
        assert load.wrong == []
        assert get(server.port, "/version").body == b"mended"


@pytest.mark.daily("threads")
def test_recycling_by_number_of_requests_loses_nothing(backend: tuple[str, ...], site: Path) -> None:
    with (
        Server("versioned:app", "--no-access-log", "--max-request-pre-process", "500", *backend, cwd=site) as server,
        Load(server.port) as load,
    ):
        wait_for(lambda: len(ready(server)) >= 4 or load.wrong)
        load.wait_for(100)
    assert load.wrong == []


def ready(server: Server) -> set[str]:
    """The pids of all workers that were ever ready."""
    return {found[1] for line in server.log if (found := re.search(r"\[(\d+)\] INFO worker ready", line))}
