"""A worker that dies or hangs is replaced and explains itself, and its sibling never stops."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from contextlib import ExitStack
from shutil import which
from typing import TYPE_CHECKING, Any, Self

import pytest
from test_e2e_restart import deploy, ready, restart, site

from zibai.system.machine import name_process
from zibai.telemetry.board_view import describe
from zibai.telemetry.scoreboard import Scoreboard

from support import DEADLINE, ROOT, Client, Gate, Server, alive, environment, get, run, wait_for

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

__all__ = ["site"]

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="signals between processes are POSIX")

WORKER_TIMEOUT = "2"  # seconds, in which a worker that does well beats on a busy machine, too
GREENLETS = pytest.mark.parametrize("backend", [()], ids=["greenlets"])


class Workers:
    """Two workers, and a kept-alive connection to each."""

    def __init__(self, server: Server) -> None:
        wait_for(lambda: len(ready(server)) == 2)
        self._clients: list[Client] = []
        self.of: dict[int, Client] = {}
        wait_for(lambda: self._connect(server) or len(self.of) == 2)

    def _connect(self, server: Server) -> None:
        self._clients.append(client := Client(server.port))
        self.of.setdefault(int(client.get("/pid").body), client)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for client in self._clients:
            client.close()


@pytest.fixture
def duo(backend: tuple[str, ...]) -> Iterator[tuple[Server, Workers]]:
    with (
        Server("mortal:app", "-p", "2", "--worker-timeout", WORKER_TIMEOUT, "--no-access-log", *backend) as server,
        Workers(server) as workers,
    ):
        yield server, workers


DEATHS = {
    "/exit": "ended with exit code 7",
    "/segfault": "was killed by SIGSEGV",
    "/stop": "was killed by SIGKILL",
    "/loop": "was killed by SIGKILL",
}


@pytest.mark.daily("threads-/segfault", "threads-/stop", "greenlets-/loop")
@pytest.mark.parametrize("path", DEATHS)
def test_a_worker_dies_and_its_sibling_never_stops(duo: tuple[Server, Workers], path: str) -> None:
    if path == "/loop" and not getattr(sys, "_is_gil_enabled", lambda: True)():
        pytest.skip("it holds nothing that others need")
    server, workers = duo
    (victim, doomed), (sibling, client) = workers.of.items()
    doomed.send(f"GET {path}?secret=1 HTTP/1.1\r\nHost: a\r\n\r\n".encode())
    longest = 0.0

    def replaced() -> bool:
        """Meanwhile the sibling serves, what is connected and what comes."""
        nonlocal longest
        began = time.monotonic()
        assert client.get("/pid").body == b"%d" % sibling
        longest = max(longest, time.monotonic() - began)
        return len(ready(server)) == 3 and victim not in server.children()

    wait_for(replaced)
    assert longest < float(WORKER_TIMEOUT), "it would have stopped for so long with one that hangs"
    story = "\n".join(server.log)
    assert f"worker {victim} {DEATHS[path]}; starting another" in story
    assert f"it was serving GET {path} for" in story
    assert "it answered GET /pid with 200" in story
    assert "secret" not in story, "a query may hold secrets"
    assert len(ready(server)) == 3, "the sibling is left alone"


@pytest.mark.daily("threads")
def test_a_killed_worker_says_what_it_was_serving(duo: tuple[Server, Workers], tmp_path: Path) -> None:
    server, workers = duo
    (victim, doomed), (sibling, client) = workers.of.items()
    doomed.send(f"GET /hang?{tmp_path}/here HTTP/1.1\r\nHost: a\r\n\r\n".encode())
    wait_for((tmp_path / "here").exists)
    os.kill(victim, signal.SIGKILL)
    server.wait_for_log("was killed by SIGKILL; starting another")
    server.wait_for_log("it was serving GET /hang for")
    wait_for(lambda: len(ready(server)) == 3)
    assert client.get("/pid").body == b"%d" % sibling


@pytest.mark.daily("greenlets")
def test_one_that_computes_is_not_judged_by_the_clock_alone(backend: tuple[str, ...]) -> None:
    with Server("mortal:app", "-p", "1", "--worker-timeout", "3", *backend) as server:
        pid = get(server.port, "/pid").body
        # Longer than that by the clock, and by more than a second shorter than twice that, with the beats in between.
        assert get(server.port, "/burn?3.5").body == pid


# --- requests that hang -----------------------------------------------------------------------------


@pytest.mark.daily("greenlets-worker")
@pytest.mark.parametrize("processes", [(), ("-p", "1")], ids=["single", "worker"])
def test_a_slow_request_is_logged_once_with_its_stack(
    backend: tuple[str, ...], processes: tuple[str, ...], tmp_path: Path
) -> None:
    with Server("mortal:app", "--slow-request", "0.2", *processes, *backend) as server, Client(server.port) as client:
        client.send(f"GET /hang?{tmp_path}/here HTTP/1.1\r\nHost: a\r\n\r\n".encode())
        server.wait_for_log("a request has run for")
        line = server.wait_for_log("  # app")
        assert "GET /hang," in server.wait_for_log("a request has run for")
        # While it runs; a second look, which another request brings about, does not say it again.
        for _ in range(3):
            assert get(server.port, "/pid").status == 200
        wait_for(lambda: run("ps").returncode == 0)
        (tmp_path / "here.go").touch()
        assert client.read().status == 200
        assert server.stop() == 0
        assert server.log.count(line) == 1


@pytest.mark.daily("threads")
def test_a_request_that_is_over_its_time_costs_its_worker_and_nobody_else(
    backend: tuple[str, ...], tmp_path: Path
) -> None:
    board = str(tmp_path / "board")
    flags = ("--request-timeout", "0.5", "--graceful-exit-timeout", "6", "--no-access-log", "--control", board)

    def idle_connections() -> dict[int, int]:
        # Not by the command: the time for a graceful exit runs meanwhile.
        seen = Scoreboard.open(board)
        try:
            return {each["pid"]: each["idle"] for each in describe(seen)["workers"]}
        finally:
            seen.release()

    with (
        Server("mortal:app", *flags, *backend) as server,
        Client(server.port) as stuck,
        Client(server.port) as other,
        Client(server.port) as idle,
    ):
        old = idle.get("/pid").body
        stuck.send(f"GET /hang?{tmp_path}/stuck HTTP/1.1\r\nHost: a\r\n\r\n".encode())
        wait_for((tmp_path / "stuck").exists)
        server.wait_for_log("--request-timeout is over; running for")
        # Begun after the dump, so it is not over its time itself when the worker drains.
        other.send(f"GET /hang?{tmp_path}/other HTTP/1.1\r\nHost: a\r\n\r\n".encode())
        wait_for((tmp_path / "other").exists)
        server.wait_for_log("  # app")
        server.wait_for_log(f"replacing worker {old.decode()}: a request")
        # Until then it is the old one's: it does not drain before its replacement is ready.
        wait_for(lambda: any(idle for pid, idle in idle_connections().items() if pid != int(old)))
        (tmp_path / "other.go").touch()
        assert other.read().body == old
        assert idle.get("/pid").body != old, "it was handed over"
        wait_for(lambda: not alive(int(old)))
        assert stuck.rest() == b""


@GREENLETS
def test_a_blocked_hub_is_told_of_with_the_guilty_stack(backend: tuple[str, ...]) -> None:
    pytest.importorskip("gevent")
    with Server("mortal:app", *backend) as server:
        assert get(server.port, "/burn?0.5").status == 200
        assert get(server.port, "/burn?0.5").status == 200
        server.wait_for_log("an application has blocked gevent's hub for 0.1 s")
        server.wait_for_log("  # burns")
        assert server.stop() == 0
        assert sum("has blocked" in line for line in server.log) == 1, "one in ten seconds is enough"


@GREENLETS
def test_a_child_that_the_application_forks_does_not_serve(backend: tuple[str, ...], tmp_path: Path) -> None:
    """It has the hub of its parent, with all that the hub watches: the connections, and who may connect."""
    pytest.importorskip("gevent")
    with Server("mortal:app", *backend) as server, Client(server.port) as kept:
        pid = get(server.port, "/pid").body
        assert kept.get(f"/fork?{tmp_path}/child").body == pid
        wait_for((tmp_path / "child").exists)
        for _ in range(100):
            assert kept.get("/pid").body == get(server.port, "/pid").body == pid
        (tmp_path / "child.go").touch()
        wait_for((tmp_path / "child.gone").exists)
        assert kept.get("/pid").body == get(server.port, "/pid").body == pid
        assert server.stop() == 0
        assert "Traceback" not in "\n".join(server.log)


# --- starting ---------------------------------------------------------------------------------------


@pytest.mark.daily("threads")
def test_an_application_that_does_not_come_up_says_where_it_stands(backend: tuple[str, ...], site: Path) -> None:
    deploy(site, "endless")
    done = run("versioned:app", "-l", "127.0.0.1:0", "-p", "2", "--boot-timeout", "6", *backend, cwd=site)
    assert done.returncode == 3
    told = done.stderr.count("not ready in 6 s")
    assert told in (1, 2), "the first ends all, unless the time of both has passed by then"
    assert done.stderr.count("time.sleep(1000)  # app") == told


def test_a_greenlet_that_blocks_the_import_is_shown(tmp_path: Path) -> None:
    """As with loguru's ``enqueue``: the main thread only waits for it, and its stack tells nothing."""
    pytest.importorskip("gevent")
    source = "import os, threading\nthreading.Thread(target=os.read, args=(os.pipe()[0], 1)).start()\n"
    (tmp_path / "blocked.py").write_text(source, encoding="ascii")
    done = run("blocked:app", "-l", "127.0.0.1:0", "-p", "1", "--boot-timeout", "3", cwd=tmp_path)
    assert done.returncode == 3
    assert "in run\n    self._target(" in done.stderr
    assert "zibai: error: not ready in 3 s; another greenlet blocks gevent's hub; with --no-gevent it is" in done.stderr


@pytest.mark.daily("threads")
def test_a_deploy_that_does_not_come_up_changes_nothing(backend: tuple[str, ...], site: Path) -> None:
    with Server("versioned:app", "-p", "1", "--boot-timeout", "6", *backend, cwd=site) as server:
        assert get(server.port, "/version").body == b"1"
        deploy(site, "endless")
        server.signal(signal.SIGHUP)
        server.wait_for_log("cannot serve: not ready in 6 s")
        server.wait_for_log("restart aborted")
        assert get(server.port, "/version").body == b"1"
        restart(server, site, "mended")
        assert get(server.port, "/version").body == b"mended"


# --- the end ----------------------------------------------------------------------------------------


@pytest.mark.daily("threads-worker")
@pytest.mark.parametrize("processes", [(), ("-p", "1")], ids=["single", "worker"])
def test_a_graceful_end_answers_what_runs_and_what_is_queued(
    backend: tuple[str, ...], processes: tuple[str, ...]
) -> None:
    with (
        Gate() as gate,
        Server("plain:app", "-w", "2", *processes, *backend) as server,
        ExitStack() as stack,
    ):
        clients = [stack.enter_context(Client(server.port)) for _ in range(12)]
        idle = stack.enter_context(Client(server.port))
        assert idle.get("/hello").status == 200
        for client in clients:
            client.send(f"GET /gated?{gate.port} HTTP/1.1\r\nHost: a\r\n\r\n".encode())
        running = [gate.arrival(), gate.arrival()]
        server.signal(signal.SIGTERM)
        assert idle.rest() == b""  # so the end has begun
        for _ in range(10):
            running.pop(0).close()
            running.append(gate.arrival())
        for request in running:
            request.close()
        for client in clients:
            answer = client.read()
            assert (answer.status, answer.body, answer.headers["Connection"]) == (200, b"passed", "close")
        assert server.wait() == 0


@pytest.mark.daily("threads")
def test_nothing_outlives_a_parent_that_is_killed(backend: tuple[str, ...]) -> None:
    with Server("mortal:app", "-p", "2", *backend) as server, Workers(server) as workers:
        family = [*workers.of, *server.children()]
        os.kill(server.pid, signal.SIGKILL)
        server.wait()
        wait_for(lambda: not any(map(alive, family)))


# --- as process 1 -----------------------------------------------------------------------------------

NAMESPACE = ("unshare", "--pid", "--fork", "--mount-proc", "--kill-child")


def can_be_process_1() -> bool:
    return which("unshare") is not None and not subprocess.run([*NAMESPACE, "true"], check=False).returncode


@pytest.mark.daily("threads")
@pytest.mark.skipif(sys.platform != "linux", reason="containers are Linux")
def test_process_1_reaps_strangers_and_keeps_its_workers(backend: tuple[str, ...]) -> None:
    if not can_be_process_1():
        pytest.skip("needs the right to make a PID namespace")
    command = (*NAMESPACE, sys.executable, "-m", "zibai")
    with Server("mortal:app", "-p", "1", *backend, command=command) as server:
        server.wait_for_log("zibai")
        assert any(", process 1" in line for line in server.log)
        orphan = int(get(server.port, "/orphan").body)

        def gone() -> bool:
            return get(server.port, f"/exists?{orphan}").body == b"gone"

        wait_for(gone)
        get_and_die(server.port)
        wait_for(lambda: len(ready(server)) == 2)
        server.wait_for_log("ended with exit code 7; starting another")
        assert get(server.port, "/pid").status == 200
        # unshare passes no signal on, so the end comes from within.
        get(server.port, "/end")
        assert server.wait() == 0


@pytest.mark.daily("threads")
@pytest.mark.skipif(sys.platform != "linux", reason="containers are Linux")
def test_servers_of_containers_that_share_a_directory(backend: tuple[str, ...], tmp_path: Path) -> None:
    """Each is process 1, and the process ids of one mean nothing to the others. Each keeps its files, and commands."""
    if not can_be_process_1():
        pytest.skip("needs the right to make a PID namespace")
    place = {"XDG_RUNTIME_DIR": str(tmp_path)}
    command = (*NAMESPACE, sys.executable, "-m", "zibai")
    with (
        Server("mortal:app", "-p", "0", *backend, env=place) as outside,
        Server("mortal:app", "-p", "0", *backend, command=command, env=place) as first,
        Server("mortal:app", "-p", "0", *backend, command=command, env=place) as second,
    ):

        def seen() -> dict[str, Any]:
            lines = run("ps", "--json", env=place).stdout.splitlines()
            return {each["listen"][0].rpartition(":")[2]: each for each in map(json.loads, lines)}

        assert get(first.port, "/").status == 200
        assert seen().keys() == {str(server.port) for server in (outside, first, second)}
        assert {each["pid"] for each in seen().values()} == {1, outside.pid}
        memory = {port: each["workers"][0]["memory"] for port, each in seen().items()}
        assert memory[str(first.port)] is None, "that of another process"
        assert memory[str(outside.port)] > 2**20
        assert not any("control channel" in line for line in [*first.log, *second.log])
        done = run("stop", f":{second.port}", "--wait", env=place)
        assert (done.returncode, done.stderr) == (0, "")
        assert second.wait() == 0
        os.kill(first.pid, signal.SIGKILL)
        first.wait()
        wait_for(lambda: seen().keys() == {str(outside.port)})
        with Server("mortal:app", "-p", "0", *backend, env=place):
            assert len(list(tmp_path.glob("*.board"))) == 2, "nothing is left of a server that was killed"
        assert run("ps", f":{outside.port}", env=place).returncode == 0


def get_and_die(port: int) -> None:
    with pytest.raises((EOFError, ConnectionError)):
        get(port, "/exit")


# --- zibai ps ---------------------------------------------------------------------------------------


@pytest.mark.daily("threads")
def test_ps_shows_what_a_server_does(backend: tuple[str, ...], tmp_path: Path) -> None:
    board = tmp_path / "board"
    flags = ("-p", "2", "--control", str(board))
    with Server("mortal:app", *flags, *backend) as server, Workers(server) as workers:
        assert board.stat().st_mode & 0o777 == 0o600
        (pid, client), (idle, _) = workers.of.items()
        client.send(f"GET /hang?{tmp_path}/here HTTP/1.1\r\nHost: a\r\n\r\n".encode())
        wait_for((tmp_path / "here").exists)
        # Counters may be a second old.
        wait_for(
            lambda: all(worker["requests"] for worker in json.loads(ps("--json", "--control", str(board)))["workers"])
        )
        os.kill(pid, signal.SIGSTOP)  # one that hangs can be looked at, too
        try:
            seen = json.loads(ps("--json", "--control", str(board)))
            text = ps("--control", str(board))
        finally:
            os.kill(pid, signal.SIGCONT)
        assert (seen["pid"], seen["app"], seen["processes"]) == (server.pid, "mortal:app", 2)
        both = {worker["pid"]: worker for worker in seen["workers"]}
        assert both.keys() == {pid, idle}
        assert {worker["state"] for worker in seen["workers"]} == {"ready"}
        (request,) = both[pid]["running"]
        assert (request["method"], request["path"], request["phase"]) == ("GET", "/hang", "app")
        assert (both[idle]["running"], both[idle]["busy"]) == ([], 0)
        assert both[pid]["finished"][0]["path"] == "/pid"
        assert both[pid]["2xx"] == both[pid]["requests"] >= 1
        assert "GET /hang" in text
        assert f"process {server.pid}" in text
        (tmp_path / "here.go").touch()
        assert server.stop() == 0
    assert not board.exists()
    gone = run("ps", "--control", str(board))
    assert (gone.returncode, gone.stderr.count("\n")) == (1, 1)


def ps(*args: str) -> str:
    done = run("ps", *args)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.daily("threads")
def test_ps_finds_servers_by_itself(backend: tuple[str, ...], tmp_path: Path) -> None:
    place = {"XDG_RUNTIME_DIR": str(tmp_path)}
    assert run("ps", env=place).returncode == 1
    with Server("mortal:app", *backend, env=place) as server:
        wait_for(lambda: len(ready(server)) == 1)
        (tmp_path / "zibai-1.board").write_bytes(b"of somebody else")
        (tmp_path / "zibai-2.board").symlink_to(tmp_path / f"zibai-{name_process(server.pid)}.board")
        done = run("ps", "--json", env=place)
        assert json.loads(done.stdout)["pid"] == server.pid
        # One that was killed leaves its file behind, and is passed over.
        os.kill(server.pid, signal.SIGKILL)
        server.wait()
    assert (tmp_path / f"zibai-{name_process(server.pid)}.board").exists()
    assert run("ps", env=place).returncode == 1
    with Server("mortal:app", *backend, env=place) as another:
        assert get(another.port, "/pid").status == 200
        left = {"zibai-1.board", "zibai-2.board", f"zibai-{another.pid}.board", f"zibai-{another.pid}.sock"}
        assert {file.name for file in tmp_path.iterdir()} == left


def test_the_file_of_a_server_that_is_gone_is_replaced_and_that_of_another_is_not(tmp_path: Path) -> None:
    board = tmp_path / "board"
    control = ("--control", str(board))
    with Server("mortal:app", *control) as killed:
        assert get(killed.port, "/pid").status == 200
        os.kill(killed.pid, signal.SIGKILL)
        killed.wait()
    with Server("mortal:app", *control) as first:
        assert get(first.port, "/pid").status == 200
        assert json.loads(ps("--json", *control))["pid"] == first.pid
        with Server("mortal:app", *control) as second:
            second.wait_for_log(f"belongs to process {first.pid}")
            assert get(second.port, "/pid").status == 200, "it serves without"
        assert json.loads(ps("--json", *control))["pid"] == first.pid
    board.write_text("my thesis", encoding="ascii")
    with Server("mortal:app", *control) as third:
        third.wait_for_log("is no scoreboard")
    assert board.read_text(encoding="ascii") == "my thesis"


@pytest.mark.daily("threads")
def test_a_server_that_can_have_no_file_says_so(backend: tuple[str, ...], tmp_path: Path) -> None:
    nowhere = str(tmp_path / "nowhere" / "board")
    with Server("mortal:app", "-p", "1", "--control", nowhere, *backend) as server:
        assert server.wait_for_log("no file for zibai ps").endswith(": --control: No such file or directory")
        assert get(server.port, "/pid").status == 200
        assert "WARNING" in server.wait_for_log("no file for zibai ps")


@pytest.mark.daily("threads")
def test_without_a_file_a_worker_that_stands_still_is_replaced_all_the_same(
    backend: tuple[str, ...], tmp_path: Path
) -> None:
    """Its beats are in memory without a name, so that nobody else can take them away."""
    flags = ("-p", "1", "--worker-timeout", "0.5", "--control", str(tmp_path / "nowhere" / "board"))
    with Server("mortal:app", *flags, *backend) as server, Client(server.port) as client:
        wait_for(lambda: len(ready(server)) == 1)
        victim = int(client.get("/pid").body)
        os.kill(victim, signal.SIGSTOP)
        server.wait_for_log(f"worker {victim} killed: no heartbeat")
        wait_for(lambda: len(ready(server)) == 2)
        assert int(get(server.port, "/pid").body) != victim


@pytest.fixture
def no_place(tmp_path: Path) -> dict[str, str]:
    """The environment of a system that is read-only everywhere."""
    lines = "import tempfile\ntempfile._candidate_tempdir_list = lambda: []\n"
    (tmp_path / "sitecustomize.py").write_text(lines, encoding="ascii")
    return {"PYTHONPATH": f"{tmp_path}{os.pathsep}{ROOT}", "XDG_RUNTIME_DIR": ""}


@pytest.mark.daily("worker")
@pytest.mark.parametrize("processes", [(), ("-p", "1")], ids=["single", "worker"])
def test_without_a_directory_for_temporary_files_it_serves_and_says_so_once(
    processes: tuple[str, ...], no_place: dict[str, str]
) -> None:
    with Server("plain:app", *processes, "--no-gevent", env=no_place) as server, Client(server.port) as client:
        assert client.get("/hello").status == 200
        # What does not fit into memory is refused.
        client.send(b"POST /hello HTTP/1.1\r\nHost: a\r\nContent-Length: 600000\r\n\r\n" + bytes(600_000))
        assert client.read().status == 507
        assert server.stop() == 0
    log = "\n".join(server.log)
    assert "Traceback" not in log
    assert log.count("no file for zibai ps: No usable temporary directory") == 1
    assert "a request body cannot be spooled" in log
    done = run("ps", env=no_place)
    assert (done.returncode, len(done.stderr.splitlines())) == (1, 1), done.stderr


def test_a_path_that_is_too_long_is_not_repeated() -> None:
    endless = "/tmp/" + "x" * 5000
    with Server("mortal:app", "--control", endless, "--no-gevent") as server:
        assert server.wait_for_log("no file for zibai ps").endswith(": --control: File name too long")
    done = run("ps", "--control", endless)
    assert (done.returncode, done.stderr) == (1, "zibai ps: error: --control: File name too long\n")


@pytest.mark.parametrize("flags", [(), ("--json",)], ids=["table", "json"])
def test_ps_is_quiet_when_its_reader_has_seen_enough(flags: tuple[str, ...], tmp_path: Path) -> None:
    """As in ``zibai ps | head``."""
    board = str(tmp_path / "board")
    with Server("mortal:app", "--control", board, "--no-gevent") as server:
        wait_for(lambda: len(ready(server)) == 1)
        reader, writer = os.pipe()
        os.close(reader)
        command = [sys.executable, "-m", "zibai", "ps", *flags, "--control", board]
        with open(writer, "wb") as stdout:
            done = subprocess.run(
                command, env=environment(), stdout=stdout, stderr=subprocess.PIPE, timeout=DEADLINE, check=False
            )
    assert (done.returncode, done.stderr) == (0, b"")
