"""ASGI by the command: which interface, restarts, broken deploys, the end."""

from __future__ import annotations

import json
import shutil
import signal
import sys
from importlib.util import find_spec
from typing import TYPE_CHECKING

import pytest

from load import Load
from support import APPS, Client, Server, get, run, wait_for

if TYPE_CHECKING:
    from pathlib import Path

has_hup = pytest.mark.skipif(sys.platform == "win32", reason="SIGHUP")


@pytest.fixture
def site(tmp_path: Path) -> Path:
    """A directory with the application, at version 1."""
    shutil.copy(APPS / "versioned_asgi.py", tmp_path)
    deploy(tmp_path, "1")
    return tmp_path


def deploy(site: Path, version: str) -> None:
    (site / "version.txt").write_text(version, encoding="ascii")


@pytest.mark.daily("-p 1")
@pytest.mark.parametrize("flags", ["-p 0", "-p 1", "-p 1 --preload"])
def test_the_interface_is_found_out_although_gevent_may_be_installed(site: Path, flags: str) -> None:
    if "--preload" in flags and sys.platform == "win32":
        pytest.skip("Windows cannot fork")
    with Server("versioned_asgi:app", *flags.split(), cwd=site) as server:
        server.wait_for_log("1,000 tasks")
        server.wait_for_log("worker ready: tasks")
        assert get(server.port).body == b"1"
        assert server.stop() == 0
    assert "Traceback" not in "\n".join(server.log)


def test_gevent_that_has_patched_already_is_told_with_what_to_type(tmp_path: Path) -> None:
    if find_spec("gevent") is None:
        pytest.skip("gevent is not installed")
    shutil.copy(APPS / "versioned_asgi.py", tmp_path)
    deploy(tmp_path, "1")
    (tmp_path / "elsewhere.py").write_text("from versioned_asgi import app\n", encoding="ascii")
    done = run("elsewhere:app", "--listen", "127.0.0.1:0", cwd=tmp_path)
    assert done.returncode == 3
    assert "is an ASGI application, and gevent, which is installed, has patched this process" in done.stderr
    assert "--interface asgi" in done.stderr
    with Server("elsewhere:app", "--interface", "asgi", cwd=tmp_path) as server:
        assert get(server.port).body == b"1"


@pytest.mark.parametrize("flags", [(), ("-p", "1", "--preload")], ids=["single", "preload"])
def test_tasks_that_are_made_at_the_import_are_named(site: Path, flags: tuple[str, ...]) -> None:
    """uvicorn imports the application in its event loop, so what comes from there may make some."""
    if sys.platform == "win32" and flags:
        pytest.skip("--preload is for POSIX")
    source = """\
import asyncio
from versioned_asgi import app
async def poll():
    await asyncio.sleep(60)
loop = asyncio.new_event_loop()
asyncio.set_event_loop(loop)
loop.run_until_complete(asyncio.sleep(0))
"""
    (site / "clean.py").write_text(source)
    (site / "early.py").write_text(f"{source}task = loop.create_task(poll())\n")
    line = "tasks that the application has made while it was imported never run, since their event loop does not: poll;"
    with Server("early:app", *flags, "--interface", "asgi", cwd=site) as server:
        server.wait_for_log(line)
        assert get(server.port).body == b"1"
    with Server("clean:app", *flags, "--interface", "asgi", cwd=site) as server:
        server.wait_for_log("worker ready")
    assert not [text for text in server.log if "never run" in text]


CONFIGURATION = {
    "none": "",
    "of another logger": "logging.basicConfig(); logging.getLogger('asyncio').propagate = False",
    "of the root": "logging.basicConfig(format='kept: %(message)s')",
}


@pytest.mark.parametrize("kind", CONFIGURATION)
def test_errors_of_tasks_that_nobody_awaits_are_records(tmp_path: Path, kind: str) -> None:
    (tmp_path / "forgets.py").write_text(f"""\
import asyncio
import gc
import logging
{CONFIGURATION[kind]}
async def fails():
    raise KeyError("forgotten")
async def app(scope, receive, send):
    asyncio.create_task(fails())
    await asyncio.sleep(0)
    gc.collect()
    await send({{"type": "http.response.start", "status": 200}})
    await send({{"type": "http.response.body", "body": b"fine"}})
""")
    flags = ("--interface", "asgi", "--lifespan", "off", "--access-log-format", "json")
    with Server("forgets:app", *flags, cwd=tmp_path) as server:
        assert get(server.port).body == b"fine"
        line = server.wait_for_log("Task exception was never retrieved")
        assert server.stop() == 0
    if kind != "of the root":
        record = json.loads(line)
        assert (record["logger"], record["level"]) == ("asyncio", "ERROR")
        assert record["traceback"].endswith("KeyError: 'forgotten'\n")
        assert all(json.loads(line) for line in server.log)
    else:
        assert line == "kept: Task exception was never retrieved"
        assert "".join(server.log).count("KeyError: 'forgotten'") == 1


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
def test_signals_are_heard_whatever_the_event_loop(site: Path, loop: str) -> None:
    if loop == "uvloop" and find_spec("uvloop") is None:
        pytest.skip("uvloop is not installed")
    with Server("versioned_asgi:app", "--loop", loop, "--interface", "asgi", cwd=site) as server:
        assert get(server.port).body == b"1"
        assert server.stop() == 0


@has_hup
def test_restarts_under_load_lose_nothing(site: Path) -> None:
    flags = ("--no-access-log", "-p", "2", "--interface", "asgi")
    with Server("versioned_asgi:app", *flags, cwd=site) as server, Load(server.port) as load:
        load.wait_for(200)
        for version in range(2):
            old = set(server.children())
            deploy(site, f"new {version}")
            server.signal(signal.SIGHUP)
            wait_for(lambda old=old: len(now := set(server.children())) == 2 and not now & old)
            load.wait_for(200)
    assert load.wrong == []
    assert {b"1", b"new 0", b"new 1"} <= load.bodies


@has_hup
@pytest.mark.parametrize(
    ("version", "why"), [("broken", "this version does not start"), ("refused", "there is no database")]
)
def test_a_version_that_does_not_start_changes_nothing(site: Path, version: str, why: str) -> None:
    with Server("versioned_asgi:app", "-p", "1", "--interface", "asgi", cwd=site) as server:
        with Client(server.port) as kept:
            assert kept.get().body == b"1"
            deploy(site, version)
            server.signal(signal.SIGHUP)
            server.wait_for_log("restart aborted")
            server.wait_for_log(why)
            assert kept.get().body == b"1"
        deploy(site, "mended")
        server.signal(signal.SIGHUP)
        wait_for(lambda: get(server.port).body == b"mended")


@pytest.mark.parametrize("processes", ["0", "1"])
def test_an_application_that_refuses_to_start_ends_the_server(site: Path, processes: str) -> None:
    deploy(site, "refused")
    done = run("versioned_asgi:app", "--listen", "127.0.0.1:0", "-p", processes, "--interface", "asgi", cwd=site)
    assert done.returncode == 3
    assert "there is no database" in done.stderr
