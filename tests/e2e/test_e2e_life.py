"""From the command line to the exit code: how the server starts, ends and is told to."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
from collections import Counter
from typing import TYPE_CHECKING

import pytest

from zibai.system.machine import name_process
from zibai.system.patching import has_gil

from support import APPS, DEADLINE, GRACEFUL, KILL, ROOT, Client, Gate, Server, environment, get, run, wait_for

if TYPE_CHECKING:
    from pathlib import Path

posix = pytest.mark.skipif(sys.platform == "win32", reason="signals between processes are POSIX")
PROCESSES = pytest.mark.parametrize("processes", [(), ("-p", "2")], ids=["single", "workers"])
HOOKS = ["before_serve", "before_graceful_exit", "before_died"]
HOOK_FLAGS = [part for hook in HOOKS for part in (f"--{hook.replace('_', '-')}", f"plain:{hook}")]


# --- the end ----------------------------------------------------------------------------------------


@pytest.mark.daily("threads-SIGTERM-single", "greenlets-SIGINT-workers")
@PROCESSES
@pytest.mark.parametrize("name", ["SIGTERM", "SIGINT", "SIGQUIT"])
@posix
def test_a_signal_ends_it_with_0_and_without_a_traceback(
    backend: tuple[str, ...], processes: tuple[str, ...], name: str
) -> None:
    with Server("plain:app", *processes, *backend) as server, Client(server.port) as client:
        assert client.get("/hello").status == 200
        server.signal(getattr(signal, name))
        assert server.wait() == 0
    assert "Traceback" not in "\n".join(server.log)


@pytest.mark.daily("threads-worker", "greenlets-single")
@pytest.mark.parametrize("processes", [(), ("-p", "1")], ids=["single", "worker"])
def test_a_graceful_end_finishes_what_is_in_flight(backend: tuple[str, ...], processes: tuple[str, ...]) -> None:
    with Server("plain:app", *processes, *backend) as server:
        with Gate() as gate, Client(server.port) as idle, Client(server.port) as client:
            assert idle.get("/hello").headers["Connection"] != "close"
            client.send(f"GET /gated?{gate.port} HTTP/1.1\r\nHost: test\r\n\r\n".encode())
            request = gate.arrival()
            server.signal(GRACEFUL)
            assert idle.rest() == b""  # so the end has begun
            request.close()
            answer = client.read()
            assert (answer.status, answer.body, answer.headers["Connection"]) == (200, b"passed", "close")
            assert client.rest() == b""
        assert server.wait() == 0


@pytest.mark.daily("threads-single", "greenlets-workers")
@PROCESSES
@pytest.mark.skipif("wine_shims" not in sys.modules, reason="Windows closes consoles, and tests can do so under Wine")
def test_the_end_of_a_console_is_graceful(backend: tuple[str, ...], processes: tuple[str, ...]) -> None:
    """Windows ends a process as soon as its handler returns."""
    with Server("plain:app", *processes, *backend) as server:
        with Gate() as gate, Client(server.port) as idle, Client(server.port) as client:
            assert idle.get("/hello").status == 200
            client.send(f"GET /gated?{gate.port} HTTP/1.1\r\nHost: test\r\n\r\n".encode())
            request = gate.arrival()
            server.children()
            sys.modules["wine_shims"].close_console(server.pid)
            assert idle.rest() == b""
            request.close()
            answer = client.read()
            assert (answer.status, answer.body, answer.headers["Connection"]) == (200, b"passed", "close")
        assert server.wait() == 0


STARTING = """
import os, socket, sys
from zibai.server import listeners

listen = listeners.listen


def slow(sock, backlog):
    listen(sock, backlog)
    socket.create_connection(("127.0.0.1", int(os.environ["GATE"]))).recv(1)


if __name__ == "__main__":
    from zibai.cli import main

    listeners.listen = slow
    sys.exit(main())
"""


@pytest.mark.daily("threads-single", "greenlets-workers")
@pytest.mark.skipif(sys.platform != "win32", reason="Ctrl-Break; test_e2e_early_signals.py has the signals of POSIX")
@PROCESSES
def test_ctrl_break_while_a_server_starts(backend: tuple[str, ...], processes: tuple[str, ...], tmp_path: Path) -> None:
    """It waits until the server can end, and leaves no file behind."""
    (tmp_path / "starting.py").write_text(STARTING, encoding="ascii")
    flags = ["--listen", "127.0.0.1:0", "--pid-file", "pid", "--control", "board", *processes, *backend]
    with Gate() as gate:
        env = {"GATE": str(gate.port), "PYTHONPATH": os.pathsep.join([str(ROOT), str(APPS)])}
        process = subprocess.Popen(
            [sys.executable, "starting.py", "plain:app", *flags], cwd=tmp_path, env=environment(env),
            stdin=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, creationflags=0x200,
        )  # fmt: skip
        with process:
            request = gate.arrival()
            process.send_signal(GRACEFUL)
            request.close()
            _, errors = process.communicate(timeout=DEADLINE)
    assert process.returncode == 0, errors
    assert [file.name for file in tmp_path.iterdir() if file.is_file()] == ["starting.py"]


@pytest.mark.daily("threads-workers", "greenlets-single")
@PROCESSES
def test_while_the_end_waits_a_new_connection_is_refused(backend: tuple[str, ...], processes: tuple[str, ...]) -> None:
    """And not taken by the kernel, to be reset when all is over."""

    def is_refused() -> bool:
        try:
            socket.create_connection(("127.0.0.1", port)).close()
        except ConnectionRefusedError:
            return True
        except ConnectionResetError:
            pass  # it was closed between the two halves of the handshake
        return False

    with Server("plain:app", *processes, *backend, "--graceful-exit-timeout", "3600") as server:
        port = server.port
        with Gate() as gate, Client(port) as client:
            client.send(f"GET /gated?{gate.port} HTTP/1.1\r\nHost: test\r\n\r\n".encode())
            request = gate.arrival()
            server.signal(GRACEFUL)
            wait_for(is_refused)
            request.close()
            assert client.read().status == 200
        assert server.wait() == 0


@pytest.mark.daily("greenlets")
def test_hooks_run_in_every_worker(backend: tuple[str, ...]) -> None:
    with Server("plain:app", "-p", "2", *backend, *HOOK_FLAGS) as server:
        # A worker that is told to end between the hook and its first client has nothing to end gracefully.
        wait_for(lambda: len(hooks(server)) == 2 and sum("worker ready" in line for line in server.log) == 2)
        assert server.stop() == 0
    assert set(hooks(server)[:2]) == {"before_serve"}
    assert hooks(server)[-1] == "before_died"
    assert Counter(hooks(server)) == dict.fromkeys(HOOKS, 2)


def hooks(server: Server) -> list[str]:
    return [found[1] for line in list(server.log) if (found := re.search(r"hook: (\w+)", line))]


@pytest.mark.daily("threads-single", "greenlets-workers")
@PROCESSES
@posix
def test_a_quick_end_does_not_wait(backend: tuple[str, ...], processes: tuple[str, ...]) -> None:
    with Server("plain:app", *processes, *backend, "--graceful-exit-timeout", "3600") as server:
        with Gate() as gate, Client(server.port) as client:
            client.send(f"GET /gated?{gate.port} HTTP/1.1\r\nHost: test\r\n\r\n".encode())
            gate.arrival()
            server.signal(signal.SIGINT)
            assert server.wait() == 0
    assert "Traceback" not in "\n".join(server.log)


@pytest.mark.daily("threads-single", "greenlets-workers")
@PROCESSES
def test_a_graceful_end_has_its_time_limit(backend: tuple[str, ...], processes: tuple[str, ...]) -> None:
    with Server("plain:app", *processes, *backend, "--graceful-exit-timeout", "1") as server:
        with Gate() as gate, Client(server.port) as client:
            client.send(f"GET /gated?{gate.port} HTTP/1.1\r\nHost: test\r\n\r\n".encode())
            gate.arrival()
            server.signal(GRACEFUL)
            assert server.wait(timeout=10) == 0


@pytest.mark.daily("threads")
@posix
def test_a_graceful_end_does_not_wait_for_an_idle_connection(backend: tuple[str, ...]) -> None:
    with Server("plain:app", *backend, "--graceful-exit-timeout", "3600") as server, Client(server.port) as client:
        assert client.get("/hello").status == 200
        server.signal(signal.SIGTERM)
        assert client.rest() == b""
        assert server.wait() == 0


# --- workers ----------------------------------------------------------------------------------------


@pytest.mark.daily("greenlets")
def test_a_worker_that_dies_is_replaced(backend: tuple[str, ...]) -> None:
    with Server("plain:app", "-p", "2", *backend) as server:
        # One that dies before it has said that it is ready would end the server: the first start has failed.
        wait_for(lambda: sum("worker ready" in line for line in server.log) == 2)
        victim = int(get(server.port, "/pid").body)
        os.kill(victim, KILL)
        wait_for(lambda: victim not in (now := server.children()) and len(now) == 2)
        assert get(server.port, "/hello").status == 200


POISON = """
import os, time
import setproctitle

# The main thread is slow when it says that the worker is ready, as on a busy machine.
setproctitle.setproctitle = lambda title: time.sleep(0.2)
while not os.path.exists("sent"):
    time.sleep(0.01)  # the application is imported when the request waits


def app(environ, start_response):
    if environ["PATH_INFO"] == "/poison":
        os._exit(70)
    start_response("200 OK", [("Content-Length", "2")])
    return [b"ok"]
"""


@pytest.mark.daily("threads-preload", "greenlets-plain")
@pytest.mark.parametrize("flags", [(), ("--preload",), ("--loops", "2")], ids=["plain", "preload", "loops"])
def test_a_request_that_ends_the_first_worker_does_not_end_the_server(
    backend: tuple[str, ...], flags: tuple[str, ...], tmp_path: Path
) -> None:
    """The worker has said that it is ready before it accepts, so this is no failed start."""
    pytest.importorskip("setproctitle")
    if "--loops" in flags and "--no-gevent" not in backend:
        pytest.skip("several loops run threads")
    (tmp_path / "poison.py").write_text(POISON, encoding="ascii")
    with Server("poison:app", "-p", "1", *flags, *backend, cwd=tmp_path) as server, Client(server.port) as client:
        client.send(b"GET /poison HTTP/1.1\r\nHost: a\r\n\r\n")
        (tmp_path / "sent").touch()
        server.wait_for_log("ended with exit code 70; starting another")
        assert get(server.port).body == b"ok"
        assert server.stop() == 0


OLD_LINUX = """
import os, signal
for module, name in (os, "pidfd_open"), (os, "memfd_create"), (signal, "pidfd_send_signal"):
    if hasattr(module, name):
        delattr(module, name)
"""


@pytest.mark.daily("greenlets-preload")
@pytest.mark.skipif(sys.platform != "linux", reason="functions of Linux")
@pytest.mark.parametrize("preload", [(), ("--preload",)], ids=["", "preload"])
def test_a_python_that_was_built_on_an_old_linux(
    backend: tuple[str, ...], preload: tuple[str, ...], tmp_path: Path
) -> None:
    """It lacks what the C library had not at that time, as the Pythons of manylinux do."""
    (tmp_path / "sitecustomize.py").write_text(OLD_LINUX, encoding="ascii")
    env = {"PYTHONPATH": os.pathsep.join([str(tmp_path), str(ROOT)])}
    flags = ("--control", str(tmp_path / "missing" / "board"))
    with Server("plain:app", "-p", "2", *preload, *flags, *backend, env=env) as server:
        server.wait_for_log("no file for zibai ps")
        wait_for(lambda: sum("worker ready" in line for line in server.log) == 2)
        victim = int(get(server.port, "/pid").body)
        os.kill(victim, KILL)
        wait_for(lambda: sum("worker ready" in line for line in server.log) == 3)
        assert get(server.port, "/hello").status == 200
        assert server.stop() == 0


@pytest.mark.daily("threads")
def test_a_worker_that_dies_holds_up_no_client(backend: tuple[str, ...]) -> None:
    """While another one starts, those that are left accept as before. On Windows that start blocked them all."""
    with Server("plain:app", "-p", "3", "--no-access-log", *backend) as server:
        wait_for(lambda: sum("worker ready" in line for line in server.log) == 3)
        with Client(server.port) as client:  # dies with its worker
            os.kill(int(client.get("/pid").body), KILL)
        starting = 0
        while sum("worker ready" in line for line in server.log) == 3:
            starting += 1
            with Client(server.port, 5) as client:
                assert client.get("/hello", "Connection: close").status == 200
        assert starting
        for _ in range(20):
            with Client(server.port, 5) as client:
                assert client.get("/hello", "Connection: close").status == 200


@pytest.mark.daily("threads")
def test_workers_end_with_their_parent(backend: tuple[str, ...]) -> None:
    """Nothing to assert: `Server` fails when a worker is left."""
    with Server("plain:app", "-p", "2", *backend) as server:
        wait_for(lambda: len(server.children()) == 2)
        get(server.port, "/hello")
        server.signal(KILL)
        server.wait()


@pytest.mark.slow
@pytest.mark.windows
@pytest.mark.timeout(300)
@pytest.mark.parametrize("flags", [(), ("--watchfiles", "*.py")], ids=["", "two generations"])
def test_more_workers_than_windows_waits_for_at_once(flags: tuple[str, ...], tmp_path: Path) -> None:
    """63 things, and each worker is two of them."""
    count = 17 if flags else 40
    (tmp_path / "plain.py").write_bytes((APPS / "plain.py").read_bytes())
    with Server("plain:app", "-p", str(count), "--no-gevent", "--no-access-log", *flags, cwd=tmp_path) as server:
        for generation in range(1, 3 if flags else 2):
            wait_for(lambda: sum("worker ready" in line for line in server.log) == generation * count, 120)  # noqa: B023
            (tmp_path / "plain.py").touch()
        assert get(server.port, "/hello").status == 200
        assert server.stop() == 0


@pytest.mark.daily("threads-worker", "greenlets-single")
@pytest.mark.parametrize("processes", [(), ("-p", "1")], ids=["single", "worker"])
def test_an_end_leaves_no_file_behind(backend: tuple[str, ...], processes: tuple[str, ...], tmp_path: Path) -> None:
    """Although a request still runs that has not finished in time, which has its place in the scoreboard."""
    folders = dict.fromkeys(("TMP", "TEMP", "TMPDIR", "XDG_RUNTIME_DIR"), str(tmp_path))
    with Server("plain:app", "--graceful-exit-timeout", "0.2", *processes, *backend, env=folders) as server:
        with Gate() as gate, Client(server.port) as client:
            client.send(f"GET /gated?{gate.port} HTTP/1.1\r\nHost: test\r\n\r\n".encode())
            gate.arrival()
            names = {path.name for path in tmp_path.iterdir()}
            assert names == {
                f"zibai-{name_process(server.pid)}.board",
                *([] if sys.platform == "win32" else [f"zibai-{name_process(server.pid)}.sock"]),
            }
            assert server.stop() == 0
        assert list(tmp_path.iterdir()) == []


@pytest.mark.daily("threads-single", "threads-worker")
@pytest.mark.parametrize("flags", [(), ("-p", "1"), ("-p", "1", "--preload")], ids=["single", "worker", "preloaded"])
def test_the_garbage_collector_passes_over_what_the_start_has_made(
    backend: tuple[str, ...], flags: tuple[str, ...], tmp_path: Path
) -> None:
    if "--preload" in flags and sys.platform != "linux":
        pytest.skip("--preload is for Linux")
    (tmp_path / "counting.py").write_text(
        "import gc\n"
        "ours = [[number] for number in range(10_000)]\n"
        "def app(environ, start_response):\n"
        "    start_response('200 OK', [])\n"
        "    looked_at = any(each is ours for each in gc.get_objects())\n"
        "    return [b'%d %d' % (gc.get_freeze_count() > 10_000, looked_at)]\n"
    )
    with Server("counting:app", *flags, *backend, cwd=tmp_path) as server:
        assert get(server.port).body == b"1 0"


@pytest.mark.daily("greenlets")
def test_the_parent_does_not_import_the_application(backend: tuple[str, ...], tmp_path: Path) -> None:
    (tmp_path / "told.py").write_text(
        "import os\n"
        "os.write(2, b'imported by %d\\n' % os.getpid())  # in one piece, since two write at once\n"
        "def app(environ, start_response):\n"
        "    start_response('200 OK', [])\n"
        "    return [b'']\n"
    )
    with Server("told:app", "-p", "2", *backend, cwd=tmp_path) as server:
        for _ in range(2):
            get(server.port)
        wait_for(lambda: sum("imported by" in line for line in server.log) == 2)
        assert f"imported by {server.pid}" not in server.log


# --- the beginning ----------------------------------------------------------------------------------


MISTAKES = {
    "no such module": ("nowhere:app", 3, "nowhere"),
    "no such attribute": ("plain:nothing", 3, "nothing"),
    "not callable": ("plain:not_callable", 3, "callable"),
    "no attribute given": ("plain:", 3, "plain"),
}


@PROCESSES
@pytest.mark.parametrize(("app", "code", "word"), MISTAKES.values(), ids=MISTAKES)
@pytest.mark.daily("no such module", "not callable-single")
def test_a_mistyped_application(app: str, code: int, word: str, processes: tuple[str, ...]) -> None:
    done = run(app, "-l", "127.0.0.1:0", *processes)
    assert done.returncode == code
    assert "Traceback" not in done.stderr
    complaints = [line for line in done.stderr.splitlines() if word in line and " INFO starting " not in line]
    assert len(complaints) == 1, done.stderr


@pytest.mark.daily("workers")
@PROCESSES
def test_an_application_that_fails_to_import_shows_its_own_traceback(
    tmp_path: Path, processes: tuple[str, ...]
) -> None:
    (tmp_path / "wrong.py").write_text("def load():\n    return 1 / 0\n\napp = load()\n")
    done = run("wrong:app", "-l", "127.0.0.1:0", *processes, cwd=tmp_path)
    assert done.returncode == 3
    assert "ZeroDivisionError" in done.stderr
    assert done.stderr.count("Traceback (most recent call last)") == 1
    assert re.findall(r'File "(.*)", line', done.stderr) == [str(tmp_path / "wrong.py")] * 2


@pytest.mark.daily("single")
@PROCESSES
def test_a_taken_port(processes: tuple[str, ...]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as holder:
        port = holder.getsockname()[1]
        done = run("plain:app", "-l", f"127.0.0.1:{port}", *processes)
    assert done.returncode == 1
    assert len(done.stderr.splitlines()) == 1, done.stderr
    assert f"127.0.0.1:{port}" in done.stderr


@pytest.mark.daily("threads")
def test_a_second_server_on_the_port_of_the_first(backend: tuple[str, ...]) -> None:
    with Server("plain:app", *backend) as server:
        done = run("plain:app", "-l", f"127.0.0.1:{server.port}", *backend)
        assert done.returncode == 1
        assert get(server.port, "/hello").status == 200


@posix
def test_a_regular_file_in_the_place_of_a_unix_socket_survives(tmp_path: Path) -> None:
    path = tmp_path / "precious"
    path.write_text("data")
    done = run("plain:app", "-l", f"unix:{path}")
    assert (done.returncode, path.read_text()) == (1, "data")
    assert len(done.stderr.splitlines()) == 1, done.stderr


@pytest.mark.parametrize("wrong", [("-w", "0"), ("-p", "-1"), ("--listen", "nonsense"), ("--nonsense",)])
def test_wrong_usage(wrong: tuple[str, ...]) -> None:
    done = run("plain:app", *wrong)
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    assert done.stderr.strip()


@pytest.mark.daily("greenlets")
def test_flags_first_and_a_factory(backend: tuple[str, ...]) -> None:
    with Server(None, "-l", "127.0.0.1:0", "--call", "plain:create_app", *backend, listen=None) as server:
        assert get(server.port, "/hello").body == b"Hello World!"


with_gil = pytest.mark.skipif(not has_gil(), reason="without a GIL gevent is neither missed nor imported")


@with_gil
def test_missing_gevent_is_one_line_of_information(tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text("import sys\nsys.modules['gevent'] = None\n")  # as if not installed
    with Server("plain:app", env={"PYTHONPATH": f"{tmp_path}{os.pathsep}{ROOT}"}) as server:
        assert get(server.port, "/hello").status == 200
    assert len([line for line in server.log if "gevent" in line]) == 1


@with_gil
def test_gevent_that_cannot_be_imported_is_a_warning_and_not_called_missing(tmp_path: Path) -> None:
    (tmp_path / "gevent").mkdir()
    (tmp_path / "gevent" / "__init__.py").write_text("raise ImportError('DLL load failed')\n")
    with Server("plain:app", env={"PYTHONPATH": f"{tmp_path}{os.pathsep}{ROOT}"}) as server:
        assert get(server.port, "/hello").status == 200
        line = server.wait_for_log("gevent")
    assert line.endswith("gevent is installed and cannot be imported: DLL load failed; requests run in threads")
    assert "WARNING" in line
