"""The log tells the story of a server: its start, its restarts, its end, and what the end has cut."""

from __future__ import annotations

import os
import signal
import sys
from typing import TYPE_CHECKING

import pytest
from test_e2e_restart import deploy, ready, site

from support import ROOT, Client, Server, get, wait_for

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["site"]

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="signals between processes are POSIX")

HAS_GIL = getattr(sys, "_is_gil_enabled", lambda: True)()
PYTHON = ".".join(map(str, sys.version_info[:3])) + ("" if HAS_GIL else " without GIL")


def texts(server: Server) -> list[str]:
    """The lines of the log without time, process and level."""
    return [line.partition("] ")[2].partition(" ")[2] or line for line in server.log]


def hang(client: Client, tmp_path: Path) -> None:
    client.send(f"GET /hang?{tmp_path}/here HTTP/1.1\r\nHost: a\r\n\r\n".encode())
    wait_for((tmp_path / "here").exists)


def test_a_module_of_both_kinds_gets_no_guess(tmp_path: Path) -> None:
    source = "async def api(scope, receive, send): ...\ndef app(environ, start_response): ...\n"
    (tmp_path / "both.py").write_text(source, encoding="ascii")
    with Server("both:app", "--no-gevent", cwd=tmp_path) as server:
        server.wait_for_log("worker ready: threads")
        assert any(text.startswith("starting both:app: one process; Python") for text in texts(server))


@pytest.mark.daily("worker")
@pytest.mark.skipif(HAS_GIL, reason="gevent changes nothing about the GIL there")
@pytest.mark.parametrize("processes", [(), ("-p", "1")], ids=["single", "worker"])
def test_without_a_gil_gevent_stays_away(tmp_path: Path, processes: tuple[str, ...]) -> None:
    (tmp_path / "gevent").mkdir()
    (tmp_path / "gevent" / "__init__.py").write_text("raise AssertionError('gevent was imported')\n", encoding="ascii")
    with Server("plain:app", *processes, env={"PYTHONPATH": os.pathsep.join([str(tmp_path), str(ROOT)])}) as server:
        server.wait_for_log("gevent is installed and not used, since it would turn the GIL on; requests run in threads")
        server.wait_for_log("worker ready: threads")
        assert any("of 10 threads" in text or ": 10 threads" in text for text in texts(server))


@pytest.mark.daily("threads")
def test_from_the_start_to_the_end(backend: tuple[str, ...], site: Path) -> None:
    with Server("versioned:app", "-p", "2", "-w", "3", *backend, cwd=site) as server:
        wait_for(lambda: len(ready(server)) == 2)
        runners = "threads" if backend else "greenlets"
        story = texts(server)
        assert (
            f"starting versioned:app: 2 workers of 3 {runners}; Python {PYTHON}; zibai stop or SIGTERM ends it" in story
        )
        old = sorted(server.children())
        deploy(site, "2")
        server.signal(signal.SIGHUP)
        server.wait_for_log("restart done after ")
        story = texts(server)
        assert "restart begun (SIGHUP): new workers replace 2 workers" in story
        replaced = [line.split() for line in story if " is replaced by " in line]
        assert sorted(int(words[1]) for words in replaced) == old
        assert {int(words[-1]) for words in replaced} <= set(server.children())
        assert get(server.port, "/version").body == b"2"
        deploy(site, "broken")
        server.signal(signal.SIGHUP)
        server.wait_for_log("restart aborted: ")
        assert server.stop() == 0
        assert texts(server)[-2:] == ["graceful shutdown begun (SIGTERM)", "all workers have ended"]


@pytest.mark.daily("threads-single")
@pytest.mark.parametrize("processes", [(), ("-p", "1")], ids=["single", "worker"])
def test_the_end_names_what_it_cuts(backend: tuple[str, ...], processes: tuple[str, ...], tmp_path: Path) -> None:
    flags = ("--graceful-exit-timeout", "0.5", *processes, *backend)
    with Server("mortal:app", *flags) as server, Client(server.port) as client:
        hang(client, tmp_path)
        assert server.stop() == 0
        story = texts(server)
        at = story.index("after 0.5 s of the graceful shutdown, and 1 request is cut:")
        assert story[at + 1].startswith("  GET /hang for ")
        assert story[at + 1].endswith(" s (app)")
        assert any(line.startswith("graceful shutdown begun") for line in story)


@pytest.mark.daily("greenlets-worker")
@pytest.mark.parametrize("processes", [(), ("-p", "1")], ids=["single", "worker"])
def test_a_quick_exit_names_what_it_cuts(backend: tuple[str, ...], processes: tuple[str, ...], tmp_path: Path) -> None:
    with Server("mortal:app", *processes, *backend) as server, Client(server.port) as client:
        hang(client, tmp_path)
        server.signal(signal.SIGINT)
        assert server.wait() == 0
        story = texts(server)
        assert story[story.index("the quick exit begins, and 1 request is cut:") + 1].startswith("  GET /hang for ")
        assert not any("Traceback" in line for line in story)


@pytest.mark.daily("threads")
def test_an_idle_end_cuts_nothing(backend: tuple[str, ...]) -> None:
    with Server("mortal:app", "-p", "1", *backend) as server:
        assert get(server.port, "/pid").status == 200
        assert server.stop() == 0
        assert not any(" cut:" in line for line in server.log)


@pytest.mark.daily("threads")
def test_a_reload_names_the_file(backend: tuple[str, ...], site: Path) -> None:
    pytest.importorskip("watchfiles")
    with Server("versioned:app", "--watchfiles", "*.py;*.txt", *backend, cwd=site) as server:
        wait_for(lambda: len(ready(server)) == 1)

        def told() -> bool:
            deploy(site, "2")  # until it is heard: nothing tells when it has begun to watch
            return any("restart begun (version.txt has changed)" in line for line in server.log)

        wait_for(told)
