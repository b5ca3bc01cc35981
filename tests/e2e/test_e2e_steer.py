"""zibai reload, stop, workers, dump and reopen: real commands for real servers, whatever state these are in."""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
from contextlib import closing
from typing import TYPE_CHECKING

import pytest
from test_e2e_restart import deploy, ready, site

from zibai.cli.find import find_all
from zibai.cli.steer import steer
from zibai.errors import ZibaiError
from zibai.server.endpoint import connect
from zibai.system.machine import name_process

from support import DEADLINE, ZIBAI, Client, Server, environment, get, run, wait_for

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["site"]

posix = pytest.mark.skipif(sys.platform == "win32", reason="signals between processes are POSIX")


def hang(client: Client, tmp_path: Path, name: str = "here") -> None:
    """A request that runs until the file ``name.go`` is there."""
    client.send(f"GET /hang?{tmp_path}/{name} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n".encode())
    wait_for((tmp_path / name).exists)


@pytest.fixture
def control(tmp_path: Path) -> tuple[str, str]:
    return ("--control", str(tmp_path / "board"))


@pytest.mark.daily("threads")
def test_reload_waits_until_all_run_the_new_code(
    backend: tuple[str, ...], site: Path, control: tuple[str, str]
) -> None:
    with Server("versioned:app", "-p", "2", *control, *backend, cwd=site) as server:
        wait_for(lambda: len(ready(server)) == 2)
        old = server.children()
        deploy(site, "2")
        done = run("reload", "--wait", *control)
        assert (done.returncode, done.stderr) == (0, "")
        lines = done.stdout.splitlines()
        assert lines[0] == "restart begun (zibai reload): new workers replace 2 workers"
        assert {line.split()[1] for line in lines[1:-1]} == {str(pid) for pid in old}
        assert lines[-1].startswith("restart done after ")
        assert get(server.port, "/version").body == b"2"
        assert any("restart begun (zibai reload)" in line for line in server.log)

        deploy(site, "broken")
        done = run("reload", "--wait", "--json", *control)
        assert done.returncode == 3
        last = json.loads(done.stdout.splitlines()[-1])
        assert last["aborted"]
        assert "Traceback" in last["trace"]
        assert "Traceback" in done.stderr
        assert done.stderr.splitlines()[-1].startswith("zibai reload: error: restart aborted")
        assert get(server.port, "/version").body == b"2"

        deploy(site, "3")
        assert run("reload", *control).returncode == 0, "without waiting"
        server.wait_for_log("restart done", after=len(server.log) - 1)


@posix
def test_reload_ends_when_the_code_does_not_start_and_no_worker_is_left(site: Path, control: tuple[str, str]) -> None:
    with Server("versioned:app", "-p", "1", "--no-gevent", *control, cwd=site) as server:
        wait_for(lambda: len(ready(server)) == 1)
        deploy(site, "broken")
        os.kill(server.children()[0], signal.SIGKILL)
        server.wait_for_log("cannot serve")
        done = run("reload", "--wait", *control)
        assert done.returncode == 3
        assert "error: restart aborted: the new code does not start, and no worker is ready" in done.stderr
        deploy(site, "2")
        wait_for(lambda: len(ready(server)) == 1)


@pytest.mark.daily("threads")
def test_reload_ends_when_the_server_ends(backend: tuple[str, ...], site: Path, control: tuple[str, str]) -> None:
    with Server("versioned:app", "-p", "1", *control, *backend, cwd=site) as server:
        wait_for(lambda: len(ready(server)) == 1)
        deploy(site, "endless")
        command = [*ZIBAI, "reload", "--wait", *control]
        with subprocess.Popen(command, env=environment(), stderr=subprocess.PIPE, text=True) as waiting:
            server.wait_for_log("restart begun")
            assert server.stop() == 0
            assert waiting.stderr is not None
            assert "zibai reload: error: " in waiting.stderr.read()
        assert waiting.returncode == 1


@pytest.mark.daily("threads")
def test_the_number_of_workers(backend: tuple[str, ...], control: tuple[str, str]) -> None:
    with Server("mortal:app", "-p", "1", *control, *backend) as server:
        wait_for(lambda: len(ready(server)) == 1)
        assert run("workers", "3", *control).stdout.splitlines()[0] == "workers wanted: 3"
        wait_for(lambda: len(ready(server)) == 3)
        told = json.loads(run("workers", "--json", *control).stdout)
        assert told["wanted"] == 3
        assert {each["pid"] for each in told["workers"]} == set(server.children())
        assert run("workers", "1", *control).returncode == 0
        wait_for(lambda: len(server.children()) == 1)
        for wrong in ("0", "1001"):
            done = run("workers", wrong, *control)
            assert (done.returncode, done.stderr) == (
                1,
                "zibai workers: error: the number of workers is from 1 to 1000\n",
            )


@pytest.mark.daily("threads-single")
@pytest.mark.parametrize("processes", [(), ("-p", "2")], ids=["single", "parent"])
def test_stop(backend: tuple[str, ...], processes: tuple[str, ...], control: tuple[str, str], tmp_path: Path) -> None:
    with Server("mortal:app", *processes, *control, *backend) as server, Client(server.port) as client:
        hang(client, tmp_path)
        command = [*ZIBAI, "stop", "--wait", *control]
        with subprocess.Popen(command, env=environment(), stdout=subprocess.PIPE, text=True) as waiting:
            assert waiting.stdout is not None
            assert waiting.stdout.readline().startswith(f"graceful shutdown of process {server.pid} (mortal:app, http")
            assert waiting.poll() is None
            (tmp_path / "here.go").touch()
            assert client.read().status == 200
        assert waiting.returncode == 0
        assert server.wait() == 0
        if processes:
            assert any("graceful shutdown begun (zibai stop)" in line for line in server.log)
    assert list(tmp_path.glob("*.sock")) == []
    gone = run("stop", *control)
    assert gone.returncode == 1


@pytest.mark.daily("greenlets-parent")
@pytest.mark.parametrize("processes", [(), ("-p", "2")], ids=["single", "parent"])
def test_stop_now(
    backend: tuple[str, ...], processes: tuple[str, ...], control: tuple[str, str], tmp_path: Path
) -> None:
    flags = ("--graceful-exit-timeout", "3600", *processes, *control, *backend)
    with Server("mortal:app", *flags) as server, Client(server.port) as client:
        hang(client, tmp_path)
        assert run("stop", *control).returncode == 0
        done = run("stop", "--now", "--wait", *control)
        assert done.returncode == 0, done.stderr
        assert server.wait() == 0
        assert not any("Traceback" in line for line in server.log)


@pytest.mark.daily("threads")
def test_a_single_process_is_only_stopped(backend: tuple[str, ...], control: tuple[str, str]) -> None:
    with Server("mortal:app", *control, *backend) as server:
        assert get(server.port, "/pid").status == 200
        for command in ("reload", "workers", "dump"):
            done = run(command, *control)
            assert done.returncode == 1
            assert done.stderr.endswith("which can only be stopped; start it with --processes 1\n")


@posix
@pytest.mark.daily("threads")
def test_dump_shows_each_request_with_its_stack(
    backend: tuple[str, ...], control: tuple[str, str], tmp_path: Path
) -> None:
    with Server("mortal:app", "-p", "2", *control, *backend) as server, Client(server.port) as client:
        wait_for(lambda: len(ready(server)) == 2)
        hang(client, tmp_path)
        done = run("dump", "--json", *control)
        assert done.returncode == 0, done.stderr
        *lines, last = map(json.loads, done.stdout.splitlines())
        assert last == {"ok": True}
        assert {line["pid"] for line in lines} == set(server.children())
        (text,) = [line["text"] for line in lines if "GET /hang for " in line["text"]]
        assert "# app" in text.split("\nthread ")[0]
        assert "thread MainThread" in text
        pid = str(lines[0]["pid"])
        assert run("dump", pid, *control).stdout.count("--- worker") == 1
        unknown = run("dump", "1", *control)
        assert (unknown.returncode, unknown.stderr) == (
            1,
            "zibai dump: error: process 1 is no worker of this server\n",
        )
        (tmp_path / "here.go").touch()
        assert client.read().status == 200


@pytest.mark.skipif(sys.platform != "linux", reason="its stacks are elsewhere, or cannot be seen")
@pytest.mark.daily("threads")
def test_dump_of_a_worker_that_cannot_speak(backend: tuple[str, ...], control: tuple[str, str]) -> None:
    if not getattr(sys, "_is_gil_enabled", lambda: True)():
        pytest.skip("it holds nothing that others need")
    with Server("mortal:app", "-p", "1", "--worker-timeout", "60", *control, *backend) as server:
        wait_for(lambda: len(ready(server)) == 1)  # or it would be killed before it has said so
        with Client(server.port) as client:
            pid = int(client.get("/pid").body)
            client.send(b"GET /loop HTTP/1.1\r\nHost: a\r\n\r\n")
            wait_for(lambda: "GET /loop" in run("ps", *control).stdout)
            for _ in range(2):
                done = run("dump", *control)
                assert done.returncode == 0
                assert done.stdout.count("in hold_the_gil") == 1, done.stdout
            os.kill(pid, signal.SIGSTOP)
            assert "it is stopped, or waits for a device" in run("dump", *control).stdout
            os.kill(pid, signal.SIGKILL)
        wait_for(lambda: len(ready(server)) == 2)
        assert "thread MainThread" in run("dump", *control).stdout


@posix
def test_no_request_ends_the_server_and_a_client_that_leaves_ends_it(control: tuple[str, str], tmp_path: Path) -> None:
    with Server("mortal:app", "-p", "1", "--no-gevent", *control) as server:
        wait_for(lambda: len(ready(server)) == 1)
        address = str(tmp_path / f"zibai-{name_process(server.pid)}.sock")
        # Python reads lists that are nested so deeply, and cannot print some of them at the depth of the main loop.
        for depth in range(960, 1000, 4):
            with closing(connect(address)) as channel:
                by = b"[" * depth + b"]" * depth
                channel._sock.sendall(b'{"command": "reload", "by": ' + by + b"}\n")
                assert channel.receive(DEADLINE).startswith(b"{")
        assert run("workers", *control).returncode == 0, "it lives"
        with closing(connect(address)) as channel:
            channel.send({"command": "stop"})
        assert server.wait() == 0
        assert not any("Traceback" in line for line in server.log)


def found(name: str | None, **named: str) -> list[int]:
    args = argparse.Namespace(**{"control": None, "pid_file": None, **named})
    try:
        return [each.pid for each in find_all(args, name)]
    except ZibaiError:
        return []


@pytest.mark.daily("threads")
def test_a_server_is_found_by_what_is_known_of_it(
    backend: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    pid_file = str(tmp_path / "pid")
    with Server("mortal:app", "-p", "1", "--pid-file", pid_file, *backend) as first:
        first.wait_for_log("worker ready")  # it is found from before that on, but not yet when it listens
        assert run("workers").returncode == 0, "it is the only one"
        with Server("plain:app", "-p", "1", *backend) as second:
            second.wait_for_log("worker ready")
            several = run("workers")
            assert several.returncode == 1
            assert several.stderr.count("\n  process ") == 2
            address = f"127.0.0.1:{first.port}"
            for name in (f":{first.port}", address, f"http://{address}", "mortal:app"):
                assert found(name) == [first.pid]
            assert found(None, pid_file=pid_file) == [first.pid]
            assert found("plain:app") == [second.pid]
            assert found("plain:app", pid_file=pid_file) == []
            assert sorted(found(None)) == sorted([first.pid, second.pid])
            for wrong in ("other:app", ":1", "app", f":{str(first.port)[1:]}"):
                assert found(wrong) == []
            (worker,) = json.loads(run("workers", "--json", f":{first.port}").stdout)["workers"]
            assert worker["pid"] in first.children()


@pytest.mark.parametrize("words", [("reload", "8000"), ("reload", "a:b", "c:d"), ("stop", "--wiat")])
def test_wrong_usage(words: tuple[str, ...]) -> None:
    with pytest.raises(SystemExit) as ended:
        steer(words)
    assert ended.value.code == 2


@posix
@pytest.mark.daily("threads")
def test_log_files_are_reopened(backend: tuple[str, ...], control: tuple[str, str], tmp_path: Path) -> None:
    log = tmp_path / "log"
    with Server("mortal:app", "-p", "1", *control, *backend) as server:
        wait_for(lambda: len(ready(server)) == 1)
    command = [*ZIBAI, "mortal:app", "-l", "127.0.0.1:0", "-p", "1", "--log-file", str(log), *control, *backend]
    from support import APPS

    with subprocess.Popen(command, env=environment(), cwd=APPS) as process:
        wait_for(lambda: log.exists() and "worker ready" in log.read_text())
        log.rename(tmp_path / "old")
        assert run("reopen", *control).returncode == 0
        wait_for(log.exists)
        assert run("stop", "--wait", *control).returncode == 0
        assert process.wait() == 0


@pytest.mark.daily("threads")
def test_a_server_without_a_control_channel_serves(backend: tuple[str, ...], tmp_path: Path) -> None:
    deep = tmp_path / ("x" * 90)
    deep.mkdir()
    control = ("--control", str(deep / "board"))
    with Server("mortal:app", "-p", "1", *control, *backend) as server:
        server.wait_for_log("no control channel")
        assert get(server.port, "/pid").status == 200
        done = run("reload", *control)
        assert done.returncode == 1
        assert "cannot be reached" in done.stderr
        assert sum("no control channel" in line for line in server.log) == 1
