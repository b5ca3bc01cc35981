"""zibai profile: real servers sample themselves, on threads, greenlets and tasks."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from contextlib import closing
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree as ET

import pytest
from test_e2e_restart import ready

from zibai.server.endpoint import connect
from zibai.system.machine import name_process

from support import ZIBAI, Client, Server, environment, get, run, wait_for

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

posix = pytest.mark.skipif(sys.platform == "win32", reason="signals between processes are POSIX")

APP = """
import asyncio, time
from pathlib import Path

def wait(path):
    Path(path).touch()
    while not Path(path + ".go").exists():
        nap()

def nap():
    time.sleep(0.01)

def app(environ, start_response):
    wait(environ["QUERY_STRING"])
    start_response("200 OK", [])
    return [b"ok"]

async def wait_as_task(path):
    Path(path).touch()
    while not Path(path + ".go").exists():
        await nap_as_task()

async def nap_as_task():
    await asyncio.sleep(0.01)

async def tasks(scope, receive, send):
    if scope["type"] == "http":
        await wait_as_task(scope["query_string"].decode())
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"ok"})
"""

WAYS = {
    "threads": ("naps:app", "--no-gevent"),
    "greenlets": ("naps:app",),
    "tasks": ("naps:tasks", "--interface", "asgi", "--lifespan", "off"),
}


@pytest.fixture
def control(tmp_path: Path) -> tuple[str, str]:
    return ("--control", str(tmp_path / "board"))


@pytest.fixture(params=WAYS)
def server(request: pytest.FixtureRequest, tmp_path: Path, control: tuple[str, str]) -> Iterator[Server]:
    if request.param == "greenlets":
        pytest.importorskip("gevent")
    (tmp_path / "naps.py").write_text(APP, encoding="ascii")
    app, *flags = WAYS[request.param]
    with Server(app, "-p", "2", *control, *flags, cwd=tmp_path) as server:
        wait_for(lambda: len(ready(server)) == 2)
        yield server


def names(profile: dict[str, Any], stack: list[int]) -> list[str]:
    return [profile["frames"][number][0] for number in stack]


@pytest.mark.daily("tasks")
def test_a_request_is_in_the_profile(server: Server, control: tuple[str, str], tmp_path: Path) -> None:
    idle = run("profile", "0.5", *control, "--output", str(tmp_path / "idle"), "--json")
    assert idle.returncode == 0, idle.stderr
    for line in map(json.loads, idle.stdout.splitlines()):
        if "profile" in line:
            profile = line["profile"]
            assert profile["looks"] > 10
            assert profile["busy"] == 0, profile
            assert profile["idle"] > 10
            assert not [stack for stack in profile["stacks"] if stack[2] in ("request", "other")], profile

    with Client(server.port) as client:
        client.send(f"GET /?{tmp_path}/here HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n".encode())
        wait_for((tmp_path / "here").exists)
        done = run("profile", "1", *control, "--output", str(tmp_path / "out"))
        assert done.returncode == 0, done.stderr
        first, *rest = done.stdout.splitlines()
        assert first == "sampling 2 workers for 1 s"
        shares = sorted(int(line.partition("was running in ")[2].partition("%")[0]) for line in rest[:2])
        assert shares[0] == 0
        assert shares[1] > 90
        (tmp_path / "here.go").touch()
        assert client.read().status == 200

    saved = json.loads((tmp_path / "out.speedscope.json").read_text(encoding="utf-8"))
    frames = saved["shared"]["frames"]
    stacks = [
        ([frames[number]["name"] for number in stack], weight)
        for each in saved["profiles"]
        for stack, weight in zip(each["samples"], each["weights"], strict=True)
    ]
    naps = [weight for stack, weight in stacks if any(name.startswith("nap") for name in stack)]
    assert 0.5 < sum(naps) < 2.5
    picture = ET.parse(tmp_path / "out.svg")
    titles = [each.text or "" for each in picture.iter("{http://www.w3.org/2000/svg}title")]
    assert any(title.startswith("nap") and "naps.py:" in title for title in titles), titles


@pytest.mark.daily("greenlets")
def test_one_worker_and_one_file(server: Server, control: tuple[str, str], tmp_path: Path) -> None:
    pid = server.children()[0]
    done = run("profile", "0.2", *control, "--pid", str(pid), "--output", str(tmp_path / "only.svg"))
    assert done.stdout.splitlines()[0] == "sampling 1 worker for 0.2 s"
    assert (tmp_path / "only.svg").exists()
    assert not list(tmp_path.glob("*.json"))
    wrong = run("profile", "0.2", *control, "--pid", "1", "--output", str(tmp_path / "none"))
    assert (wrong.returncode, wrong.stderr) == (1, "zibai profile: error: process 1 is no worker of this server\n")
    wrong = run("profile", "0.2", *control, "--output", str(tmp_path / "missing" / "none"))
    assert wrong.returncode == 1
    assert wrong.stderr.startswith("zibai profile: error: --output: cannot write to ")


def samples(control: tuple[str, str]) -> list[bool]:
    """Whether a thread samples, of each worker."""
    dumped = run("dump", *control).stdout
    return ["sampling.py" in worker for worker in dumped.split("--- worker ")[1:]]


@pytest.mark.parametrize("how", ["ctrl-c", "killed"])
@pytest.mark.daily("tasks-killed", "threads-ctrl-c")
def test_an_aborted_command_ends_the_sampling(
    server: Server, control: tuple[str, str], tmp_path: Path, how: str
) -> None:
    command = [*ZIBAI, "profile", "500", *control, "--output", str(tmp_path / "out")]
    pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, env=environment(), **pipes) as aborted:
        assert aborted.stdout is not None
        assert aborted.stderr is not None
        assert aborted.stdout.readline() == "sampling 2 workers for 500 s\n"
        wait_for(lambda: samples(control) == [True, True])
        second = run("profile", "1", *control, "--output", str(tmp_path / "second"))
        assert (second.returncode, second.stderr) == (
            1,
            "zibai profile: error: another profile of this server is being taken; try again when it has ended\n",
        )
        aborted.send_signal(signal.SIGINT if how == "ctrl-c" else signal.SIGKILL)
        said = aborted.stderr.read()
    if how == "ctrl-c":
        assert aborted.returncode == 130
        assert said == "zibai profile: aborted; nothing is written, and the workers stop sampling\n"
    wait_for(lambda: samples(control) == [False, False])
    assert not list(tmp_path.glob("out*"))

    def follows() -> Any:
        done = run("profile", "0.1", *control, "--json", "--output", str(tmp_path / "next"))
        return None if done.returncode else [json.loads(line) for line in done.stdout.splitlines()]

    # At once, so that what the workers have found for the aborted command may come in the middle of this.
    profiles = [line["profile"] for line in wait_for(follows) if "profile" in line]
    assert [each["seconds"] < 5 and each["looks"] < 100 for each in profiles] == [True, True]


@posix
def test_a_worker_that_ends_or_is_stopped(control: tuple[str, str], tmp_path: Path) -> None:
    with Server("mortal:app", "-p", "2", "--no-gevent", *control) as server:
        wait_for(lambda: len(ready(server)) == 2)
        killed, stopped = server.children()
        command = [*ZIBAI, "profile", "1", *control, "--output", str(tmp_path / "out")]
        pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        with subprocess.Popen(command, env=environment(), **pipes) as profile:
            assert profile.stdout is not None
            assert profile.stderr is not None
            profile.stdout.readline()
            os.kill(killed, signal.SIGKILL)
            os.kill(stopped, signal.SIGSTOP)
            said, wrong = profile.stdout.read(), profile.stderr.read()
        assert profile.returncode == 1
        assert f"worker {killed}: no samples, since the worker has ended" in said
        assert f"worker {stopped}: no samples, since it does not respond" in said
        assert wrong == "zibai profile: error: no worker has sent samples, so nothing is written\n"
        os.kill(stopped, signal.SIGCONT)
        wait_for(lambda: len(ready(server)) >= 2)
        assert get(server.port, "/pid").status == 200


def test_a_single_process_has_no_profile(control: tuple[str, str]) -> None:
    with Server("mortal:app", *control, "--no-gevent") as server:
        assert get(server.port, "/pid").status == 200
        done = run("profile", "1", *control)
        assert done.returncode == 1
        assert done.stderr.endswith("start it with --processes 1\n")


def test_a_client_may_send_anything(control: tuple[str, str], tmp_path: Path) -> None:
    with Server("mortal:app", "-p", "1", "--no-gevent", *control) as server:
        wait_for(lambda: len(ready(server)) == 1)
        pipe, sock = rf"\\.\pipe\zibai-{server.pid}", tmp_path / f"zibai-{name_process(server.pid)}.sock"
        address = pipe if sys.platform == "win32" else str(sock)
        for seconds in (None, 0, -1, 601, "1", True, [1], 1e400):
            with closing(connect(address)) as channel:
                channel.send({"command": "profile", "seconds": seconds})
                assert json.loads(channel.receive(20))["error"] == "a profile lasts more than 0 and at most 600 seconds"


@pytest.mark.daily("threads")
def test_a_reader_that_leaves(server: Server, control: tuple[str, str], tmp_path: Path) -> None:
    """As ``head`` does. It is no error of the server, and no traceback."""
    for more in ([], ["--json"]):
        command = [*ZIBAI, "profile", "0.5", *control, *more, "--output", str(tmp_path / "out")]
        with subprocess.Popen(command, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE) as child:
            assert child.stdout is not None
            assert child.stderr is not None
            child.stdout.readline()
            child.stdout.close()
            assert child.stderr.read() == b""
        assert child.returncode == 0


@pytest.mark.parametrize(
    "words", [("profile",), ("profile", "soon"), ("profile", "-1"), ("profile", "1", "a:b", "c:d")]
)
def test_wrong_usage(words: tuple[str, ...]) -> None:
    done = run(*words)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
