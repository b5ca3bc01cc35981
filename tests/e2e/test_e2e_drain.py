"""The end as a load balancer sees it: ``--drain``, and ``/livez`` and ``/readyz`` at ``--health-listen``."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import time
from contextlib import ExitStack
from typing import TYPE_CHECKING

import pytest

from zibai.server.probes import CLIENT_TIME

from support import APPS, KILL, ROOT, Client, Gate, Server, alive, get, raw, run, wait_for

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="signals between processes are POSIX")

PROCESSES = pytest.mark.parametrize("processes", [(), ("-p", "2")], ids=["single", "workers"])
LONG = ("--drain", "3600")
HEALTH = ("--health-listen", "127.0.0.1:0")


def says_close(port: int) -> bool:
    """Whether a request that would keep its connection is told that it is closed."""
    with Client(port) as client:
        answer = client.get("/hello")
        assert answer.status == 200
        return answer.headers["Connection"] == "close" and client.rest() == b""


def come_up(server: Server, processes: tuple[str, ...]) -> None:
    """Until the parent knows that it is up, and all workers serve; a worker answers before the parent has heard of it.

    Until then there is no lame duck.
    """
    if processes:
        wait_for(lambda: ask(server, "/readyz") == (200, "ok"))
    wait_for(lambda: sum("worker ready" in line for line in server.log) == int((*processes, "-p", "1")[1]))


def with_health(processes: tuple[str, ...]) -> tuple[str, ...]:
    """The parent, if there is one, is asked whether it is up; without these flags there might be none."""
    return (*processes, *HEALTH) if processes else ()


def beside(client: Client, server: Server, stack: ExitStack) -> Client:
    """Another kept connection to the worker that has this one."""
    pid = client.get("/pid").body

    def find() -> Client | None:
        found = stack.enter_context(Client(server.port))
        return found if found.get("/pid").body == pid else None

    found = wait_for(find)
    assert isinstance(found, Client)
    return found


def hear_close(client: Client) -> bool:
    """Whether the worker that has this kept connection says close; it may hear of the end later than another one."""
    answer = client.get("/hello")
    assert answer.status == 200
    return answer.headers["Connection"] == "close"


def health(server: Server) -> int:
    """The port of --health-listen."""
    found = re.search(r":(\d+)$", server.wait_for_log("health checks on "))
    assert found
    return int(found[1])


def ask(server: Server, what: str) -> tuple[int, str]:
    answer = get(health(server), what)
    return answer.status, answer.body.decode().strip()


# --- the lame duck ----------------------------------------------------------------------------------


@pytest.mark.daily("greenlets-single", "threads-workers")
@PROCESSES
def test_it_serves_on_and_says_close_until_a_second_signal(
    backend: tuple[str, ...], processes: tuple[str, ...]
) -> None:
    with Server("plain:app", *LONG, *with_health(processes), *backend) as server, Gate() as gate:
        come_up(server, processes)
        with ExitStack() as stack:
            busy, other = (stack.enter_context(Client(server.port)) for _ in range(2))
            idle = beside(busy, server, stack)
            assert idle.get("/hello").headers["Connection"] != "close"
            assert other.get("/hello").headers["Connection"] != "close"
            busy.send(f"GET /gated?{gate.port} HTTP/1.1\r\nHost: test\r\n\r\n".encode())
            request = gate.arrival()
            server.signal(signal.SIGTERM)
            wait_for(lambda: all(says_close(server.port) for _ in range(20)))  # so it is said by every worker
            wait_for(lambda: hear_close(idle))
            assert idle.rest() == b""
            request.close()
            answer = busy.read()
            assert (answer.status, answer.headers["Connection"]) == (200, "close")
            server.signal(signal.SIGTERM)
            assert other.rest() == b"", "an idle one is left alone until the graceful exit"
        assert server.wait() == 0
    assert [line for line in server.log if "ERROR" in line or "Traceback" in line] == []


@pytest.mark.daily("single")
@PROCESSES
def test_the_graceful_exit_begins_when_the_time_is_over(processes: tuple[str, ...]) -> None:
    with Server("plain:app", "--drain", "3", *with_health(processes), "--no-gevent") as server:
        come_up(server, processes)
        began = time.monotonic()
        server.signal(signal.SIGTERM)
        wait_for(lambda: says_close(server.port))
        assert server.wait() == 0
        assert time.monotonic() - began >= 3


@pytest.mark.daily("greenlets-workers")
@PROCESSES
def test_a_quick_exit_waits_for_nothing(backend: tuple[str, ...], processes: tuple[str, ...]) -> None:
    flags = (*LONG, *with_health(processes), *backend)
    with Server("plain:app", *flags) as server, Gate() as gate, Client(server.port) as busy:
        come_up(server, processes)
        busy.send(f"GET /gated?{gate.port} HTTP/1.1\r\nHost: test\r\n\r\n".encode())
        gate.arrival()
        server.signal(signal.SIGTERM)
        wait_for(lambda: says_close(server.port))
        server.signal(signal.SIGINT)
        assert server.wait() == 0


@pytest.mark.daily("threads")
def test_a_signal_to_the_whole_group_is_one_wish(backend: tuple[str, ...]) -> None:
    """systemd sends it to all processes of a unit, unless KillMode says otherwise."""
    with Server("plain:app", "-p", "2", *LONG, *HEALTH, *backend) as server:
        come_up(server, ("-p", "2"))
        workers = set(server.children())
        os.killpg(server.pid, signal.SIGTERM)
        wait_for(lambda: ask(server, "/readyz") == (503, "draining"))
        wait_for(lambda: says_close(server.port))
        assert set(server.children()) == workers
        os.killpg(server.pid, signal.SIGTERM)
        assert server.wait() == 0
    assert not any("ERROR" in line for line in server.log)


@pytest.mark.slow
def test_a_worker_that_is_started_meanwhile_says_close_too() -> None:
    with Server("plain:app", "-p", "1", *LONG, *HEALTH, "--no-gevent") as server:
        come_up(server, ("-p", "1"))
        first = int(get(server.port, "/pid").body)
        server.signal(signal.SIGTERM)
        wait_for(lambda: says_close(server.port))
        os.kill(first, signal.SIGKILL)
        server.wait_for_log("starting another")
        assert says_close(server.port), "it waits for the new one"
        assert int(get(server.port, "/pid").body) != first
        server.signal(signal.SIGTERM)
        assert server.wait() == 0


def test_a_server_that_has_never_been_up_has_nobody_to_tell(tmp_path: Path) -> None:
    with Gate() as gate, slow_server(tmp_path, gate, *LONG) as server:
        request = gate.arrival()
        server.signal(signal.SIGTERM)
        request.close()
        assert server.wait() == 0


# --- /livez and /readyz -----------------------------------------------------------------------------


def slow_server(folder: Path, gate: Gate, *flags: str) -> Server:
    """One whose application comes to the gate while it is imported."""
    folder.joinpath("slow.py").write_text(
        f"import socket\nsocket.create_connection(('127.0.0.1', {gate.port})).recv(1)\nfrom plain import app\n"
    )
    return Server("slow:app", "-p", "1", "--no-gevent", *flags, cwd=folder, env={"PYTHONPATH": f"{ROOT}:{APPS}"})


@pytest.mark.daily("threads")
def test_they_are_answered_while_everything_is_busy(backend: tuple[str, ...]) -> None:
    """Also without -p: then there is a parent and one worker."""
    with Server("plain:app", "-w", "1", *HEALTH, *backend) as server, Gate() as gate:
        wait_for(lambda: ask(server, "/readyz") == (200, "ok"))
        with Client(server.port) as busy, Client(server.port) as queued:
            busy.send(f"GET /gated?{gate.port} HTTP/1.1\r\nHost: test\r\n\r\n".encode())
            request = gate.arrival()
            queued.send(b"GET /hello HTTP/1.1\r\nHost: test\r\n\r\n")
            assert ask(server, "/livez") == (200, "ok")
            assert ask(server, "/readyz") == (200, "ok")
            request.close()
            assert (busy.read().status, queued.read().status) == (200, 200)


def test_readiness_comes_with_the_first_worker_and_goes_with_the_wish_to_end(tmp_path: Path) -> None:
    with Gate() as gate, slow_server(tmp_path, gate, *LONG, *HEALTH) as server:
        request = gate.arrival()
        assert ask(server, "/readyz") == (503, "starting")
        assert ask(server, "/livez") == (200, "ok")
        request.close()
        wait_for(lambda: ask(server, "/readyz") == (200, "ok"))
        server.signal(signal.SIGTERM)
        wait_for(lambda: ask(server, "/readyz") == (503, "draining"))
        assert ask(server, "/livez") == (200, "ok")
        wait_for(lambda: says_close(server.port))  # the worker hears of it after the parent
        server.signal(signal.SIGTERM)
        assert server.wait() == 0


@pytest.mark.slow
def test_without_drain_readiness_fails_while_the_graceful_exit_lasts() -> None:
    with Server("plain:app", "-p", "1", *HEALTH, "--no-gevent") as server, Gate() as gate, Client(server.port) as busy:
        busy.send(f"GET /gated?{gate.port} HTTP/1.1\r\nHost: test\r\n\r\n".encode())
        request = gate.arrival()
        server.signal(signal.SIGTERM)
        wait_for(lambda: ask(server, "/readyz") == (503, "draining"))
        request.close()
        assert busy.read().status == 200
        busy.close()
        assert server.wait() == 0


def test_without_a_worker_it_is_alive_and_not_ready(tmp_path: Path) -> None:
    tmp_path.joinpath("mayfly.py").write_text("from plain import app\n")
    env = {"PYTHONPATH": f"{ROOT}:{APPS}"}
    with Server("mayfly:app", "-p", "1", "--no-gevent", *HEALTH, cwd=tmp_path, env=env) as server:
        worker = int(get(server.port, "/pid").body)
        wait_for(lambda: ask(server, "/readyz")[0] == 200)  # it serves before its parent knows that it does
        tmp_path.joinpath("mayfly.py").write_text("raise RuntimeError('of tomorrow')\n")
        os.kill(worker, signal.SIGKILL)
        wait_for(lambda: ask(server, "/readyz") == (503, "down"))
        assert ask(server, "/livez") == (200, "ok")
        tmp_path.joinpath("mayfly.py").write_text("from plain import app\n")
        wait_for(lambda: ask(server, "/readyz") == (200, "ok"))


def test_what_else_is_asked() -> None:
    with Server("plain:app", "-p", "1", *HEALTH, "--no-gevent") as server:
        port = health(server)
        found = [get(port, path).status for path in ("/nothing", "/livez/", "//livez", "/livez?verbose")]
        assert found == [404, 404, 404, 200]
        wait_for(lambda: ask(server, "/readyz") == (200, "ok"))
        answer = raw(port, b"HEAD /readyz HTTP/1.1\r\nHost: a\r\n\r\n")
        assert answer.startswith(b"HTTP/1.1 200 OK\r\n")
        assert b"\r\nContent-Length: 3\r\n" in answer
        assert answer.endswith(b"\r\n\r\n")
        assert raw(port, b"GET /readyz HTTP/1.0\r\n\r\n").endswith(b"\r\n\r\nok\n"), "as balancers ask, without a Host"
        post = raw(port, b"POST /livez HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\n123456789")
        assert post.startswith(b"HTTP/1.1 405 ")
        assert b"\r\nAllow: GET, HEAD\r\n" in post
        for bad, status in [
            (b"nonsense\r\n\r\n", 400),
            (b"GET /livez HTTP/1.1\r\n\r\n", 400),
            (b"GET /livez HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", 400),
            (b"GET /livez HTTP/1.1\r\nHost: a\r\nX: " + b"x" * 20000, 431),
            (b"GET /" + b"x" * 20000, 414),
        ]:
            assert raw(port, bad).startswith(b"HTTP/1.1 %d " % status), bad[:60]
        assert ask(server, "/livez") == (200, "ok")
    assert not any("GET /" in line for line in server.log), "probes come all the time and are not logged"


def test_clients_that_stall_keep_nobody_out() -> None:
    with Server("plain:app", "-p", "1", *HEALTH, "--no-gevent") as server, ExitStack() as stack:
        port = health(server)
        wait_for(lambda: ask(server, "/readyz") == (200, "ok"))
        stopped = subprocess.Popen(
            [sys.executable, "-c", STALL, str(port)], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
        )
        stack.callback(stopped.wait)
        stack.callback(stopped.kill)
        assert stopped.stdout is not None
        stack.enter_context(stopped.stdout)
        assert stopped.stdout.readline() == b"connected\n"
        os.kill(stopped.pid, signal.SIGSTOP)
        began = time.monotonic()
        for number in range(100):
            client = stack.enter_context(Client(port))
            client.send([b"", b"GET /livez HTTP/1.1\r\nHost:", b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"][number % 3])
        assert ask(server, "/livez") == (200, "ok")
        assert ask(server, "/readyz") == (200, "ok")
        assert get(server.port, "/hello").status == 200
        assert time.monotonic() - began < CLIENT_TIME, "nobody had to go for want of time"


STALL = """
import socket, sys, time
clients = [socket.create_connection(("127.0.0.1", int(sys.argv[1]))) for _ in range(20)]
for client in clients[:10]:
    client.sendall(b"GET /readyz HTTP/1.1\\r\\nHost: a\\r\\n\\r\\n")
print("connected", flush=True)
time.sleep(3600)
"""


def test_of_two_parents_the_one_that_serves_answers(tmp_path: Path) -> None:
    """SIGUSR2 with a new one that needs its time; the end of the old one, which needs no time before it."""
    with Gate() as gate, slow_server(tmp_path, gate, *LONG, *HEALTH) as server, ExitStack() as stack:
        gate.arrival().close()
        wait_for(lambda: ask(server, "/readyz") == (200, "ok"))
        server.signal(signal.SIGUSR2)
        request = gate.arrival()
        assert all(ask(server, "/readyz") == (200, "ok") for _ in range(20)), "not by the new one"
        request.close()
        line = server.wait_for_log("the new server serves")
        new = int(re.findall(r"process (\d+)", line)[0])
        stack.callback(lambda: alive(new) and os.kill(new, KILL))
        server.signal(signal.SIGTERM)
        while not server.has_ended:
            assert ask(server, "/readyz") == (200, "ok")
        assert all(ask(server, "/readyz") == (200, "ok") for _ in range(20))
        os.kill(new, signal.SIGTERM)
        wait_for(lambda: ask(server, "/readyz") == (503, "draining"))
        os.kill(new, signal.SIGTERM)
        wait_for(lambda: not alive(new))


def test_a_listener_that_is_inherited_is_left_to_the_successor() -> None:
    with socket.create_server(("127.0.0.1", 0)) as given, Gate() as gate:
        flags = ("-p", "1", "--no-gevent", "--health-listen", f"fd:{given.fileno()}")
        env = {"SERVER_STARTER_PORT": f"health={given.fileno()}"}
        with Server("plain:app", *LONG, *flags, env=env, pass_fds=[given.fileno()]) as server:
            wait_for(lambda: ask(server, "/readyz") == (200, "ok"))
            with Client(server.port) as busy:
                busy.send(f"GET /gated?{gate.port} HTTP/1.1\r\nHost: test\r\n\r\n".encode())
                request = gate.arrival()
                server.signal(signal.SIGTERM)
                wait_for(lambda: says_close(server.port))
                given.settimeout(0.2)
                wait_for(lambda: is_left(given))
                request.close()
                assert busy.read().status == 200
            server.signal(signal.SIGTERM)
            assert server.wait() == 0


def is_left(given: socket.socket) -> bool:
    """Whether the next connection is for the successor, who is this test."""
    with socket.create_connection(given.getsockname()):
        try:
            given.accept()[0].close()
        except TimeoutError:
            return False
        return True


def test_a_unix_socket(tmp_path: Path) -> None:
    path = tmp_path / "health.sock"
    with Server("plain:app", "-p", "1", "--health-listen", f"unix:{path}", "--no-gevent") as server:
        server.wait_for_log("health checks on unix:")
        wait_for(lambda: get(path, "/readyz").body == b"ok\n")
        assert server.stop() == 0
    assert not path.exists()


def test_an_address_that_cannot_be_had_is_one_line() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        done = run("plain:app", "--listen", "127.0.0.1:0", "--health-listen", address)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1] == (
        f"zibai: error: {address} is in use; stop what listens there, or choose another address"
    )
    assert "worker" not in done.stderr, "before any is started"
    done = run("plain:app", "--health-listen", "nowhere")
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert "--health-listen" in done.stderr
