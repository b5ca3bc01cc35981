"""Listeners that somebody else has opened: server_starter, systemd, this test. And those of any kind side by side."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import sys
import tempfile
import threading
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from load import Load
from support import APPS, DEADLINE, ROOT, ZIBAI, Client, Gate, Server, get, run, wait_for

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="descriptors are inherited on POSIX")


def needs(program: str) -> pytest.MarkDecorator:
    """CI installs it."""
    missing = shutil.which(program) is None and not os.environ.get("CI")
    return pytest.mark.skipif(missing, reason=f"{program} is not installed")


@pytest.fixture
def folder() -> Iterator[Path]:
    """A directory with a short name: pytest's own is too long for a socket on macOS."""
    with tempfile.TemporaryDirectory(prefix="z") as name:
        yield Path(name)


@pytest.fixture
def given(folder: Path) -> Iterator[socket.socket]:
    """A listener of this test's."""
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(str(folder / "given"))
        sock.listen(100)
        yield sock


# --- server_starter ---------------------------------------------------------------------------------


@needs("start_server")
@pytest.mark.daily("threads")
def test_a_hot_deploy_by_server_starter_loses_nothing(backend: tuple[str, ...], folder: Path) -> None:
    shutil.copy(APPS / "versioned.py", folder)
    (folder / "version.txt").write_text("1")
    flags = ("--port=127.0.0.1:0", f"--path={folder / 's'}", "--interval=1", "--")
    command = ["start_server", *flags, *ZIBAI, "versioned:app", "-p", "2", "--no-access-log", *backend]
    with Server(None, listen=None, cwd=folder, command=command) as server:
        with Load(server.port) as load:
            load.wait_for(300)
            (folder / "version.txt").write_text("2")
            before = len(server.log)
            server.signal(signal.SIGHUP)
            gone = server.wait_for_log("old worker ", after=before)
            load.wait_for(300)
        assert load.wrong == []
        assert load.bodies >= {b"1", b"2"}
        assert "status:0" in gone
        assert get(folder / "s", "/version").body == b"2"
        assert f"listening on unix:{folder / 's'}" in "\n".join(server.log)
        server.stop()
    assert "Traceback" not in "\n".join(server.log)


@pytest.mark.daily("single")
@pytest.mark.parametrize("flags", [("--no-gevent",), ("-p", "1")], ids=["single", "worker"])
def test_what_waits_to_be_accepted_is_left_to_the_successor(flags: tuple[str, ...], given: socket.socket) -> None:
    """But for what a free thread or greenlet could serve at once, and for what was accepted before."""
    where = given.getsockname()
    env = {"SERVER_STARTER_PORT": f"{where}={given.fileno()}", "SERVER_STARTER_GENERATION": "1"}
    flags = ("-w", "2", "--max-connections", "3", *flags)
    with Server("plain:app", *flags, listen=None, env=env, pass_fds=[given.fileno()]) as server, Gate() as gate:
        with Client(where) as idle, Client(where) as busy, Client(where) as other:
            assert idle.get("/hello").status == 200
            requests = []
            for client in (busy, other):
                client.send(f"GET /gated?{gate.port} HTTP/1.1\r\nHost: test\r\n\r\n".encode())
                requests.append(gate.arrival())
            waiting = [Client(where) for _ in range(5)]  # a server with free places accepts on, since it is alone
            server.signal(signal.SIGTERM)
            assert idle.rest() == b"", "so the end has begun"
            for client, request in zip((busy, other), requests, strict=True):
                request.close()
                assert client.read().headers["Connection"] == "close"
        assert server.wait() == 0
        given.settimeout(DEADLINE)
        for client in waiting:
            accepted, _ = given.accept()  # this test is the successor
            accepted.close()
            client.close()
    assert Path(where).exists(), "the file is its giver's"


# --- systemd ----------------------------------------------------------------------------------------


def first_answer(path: str) -> bytes:
    """Nothing while nobody listens; a socket has its name a moment before it listens."""
    try:
        return get(path, "/hello").body
    except (FileNotFoundError, ConnectionRefusedError):
        return b""


@pytest.mark.daily("worker")
@needs("systemd-socket-activate")
@pytest.mark.parametrize("processes", [(), ("-p", "1")], ids=["single", "worker"])
def test_socket_activation(folder: Path, processes: tuple[str, ...]) -> None:
    paths = [str(folder / name) for name in ("web", "admin")]
    listens = [part for path in paths for part in ("-l", path)]
    environment = ["-E", f"PYTHONPATH={ROOT}", "--fdname=web:admin"]
    command = ["systemd-socket-activate", *listens, *environment, *ZIBAI, "plain:app", "--no-gevent", *processes]
    answers = []

    def activate() -> None:
        answers.append(wait_for(lambda: first_answer(paths[1])))

    client = threading.Thread(target=activate)
    client.start()
    with Server(None, listen=None, command=command) as server:
        client.join()
        assert answers == [b"Hello World!"], "the request that made systemd start the server"
        assert [get(path, "/hello").status for path in paths] == [200, 200]
        for pid in (server.pid, *server.children()):
            assert "LISTEN_" not in environment_of(pid) or pid == server.pid, "nobody takes them again"
        assert server.stop() == 0
    assert all(Path(path).exists() for path in paths), "systemd's files"


def environment_of(pid: int) -> str:
    """What a process was started with."""
    return Path(f"/proc/{pid}/environ").read_text() if sys.platform == "linux" else ""


@needs("systemd-socket-activate")
def test_by_name_some_of_what_systemd_gives(folder: Path) -> None:
    paths = [str(folder / name) for name in ("web", "other")]
    listens = [part for path in paths for part in ("-l", path)]
    environment = ["-E", f"PYTHONPATH={ROOT}", "--fdname=web:other"]
    zibai = [*ZIBAI, "plain:app", "--listen", "fd:web", f"unix:{folder / 'ours'}"]
    client = threading.Thread(target=wait_for, args=[lambda: first_answer(paths[0])])
    client.start()
    with Server(None, listen=None, command=["systemd-socket-activate", *listens, *environment, *zibai]) as server:
        client.join()
        assert get(folder / "ours", "/hello").status == 200
        warning = server.wait_for_log("which --listen does not name")
        assert "descriptor 4 (other)" in warning
    assert not (folder / "ours").exists()


# --- fd:N -------------------------------------------------------------------------------------------


@pytest.mark.daily("workers")
@pytest.mark.parametrize("processes", [(), ("-p", "2")], ids=["single", "workers"])
def test_a_descriptor(given: socket.socket, processes: tuple[str, ...]) -> None:
    where = given.getsockname()
    flags = ("--no-gevent", *processes)
    with Server("plain:app", *flags, listen=f"fd:{given.fileno()}", pass_fds=[given.fileno()]) as server:
        assert server.address == f"unix:{where}"
        assert get(where, "/hello").status == 200
        assert server.stop() == 0
    assert Path(where).exists()
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(where)  # it has not been shut down


@pytest.mark.parametrize(
    ("listen", "env", "code", "complaint"),
    [
        (
            "fd:77",
            {},
            1,
            "--listen fd:77: descriptor 77 is not open; the program that starts zibai must open it and pass it on",
        ),
        ("fd:0", {}, 1, "--listen fd:0: descriptor 0 is no socket; pass a listening one"),
        ("fd:web", {}, 2, "--listen: fd:web is not given; the environment gives no listener"),
        (None, {"SERVER_STARTER_PORT": "80=78"}, 1, "SERVER_STARTER_PORT: descriptor 78 is not open; "),
        (None, {"SERVER_STARTER_PORT": "80"}, 2, "environment variable SERVER_STARTER_PORT: '80' is not ADDRESS="),
        (None, {"ZIBAI_UPGRADE": "1"}, 2, "environment variable ZIBAI_UPGRADE is for zibai itself; remove it"),
    ],
)
def test_a_wrong_descriptor_is_one_line(listen: str | None, env: dict[str, str], code: int, complaint: str) -> None:
    done = run("plain:app", *(["--listen", listen] if listen else []), env=env)
    assert done.returncode == code
    assert len(done.stderr.splitlines()) == 1, done.stderr
    assert done.stderr.startswith(f"zibai: error: {complaint}")


# --- of any kind, side by side ----------------------------------------------------------------------


def test_tcp_and_unix_side_by_side(folder: Path) -> None:
    """A stale file is replaced, one in use is left alone, ours go in the end."""
    ours, other = folder / "ours", folder / "other"
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(ours))
        dead.listen()
    listen = ("--listen", "127.0.0.1:0", f"unix:{ours}", "127.0.0.1:0", f"unix:{other}")
    with Server("plain:app", "-p", "2", "--no-gevent", *listen, listen=None) as server:
        server.wait_for_log(f"listening on unix:{other}")
        ports = [int(line.rpartition(":")[2]) for line in server.log if "listening on http" in line]
        assert [get(where, "/hello").status for where in (*ports, ours, other)] == [200] * 4
        done = run("plain:app", "--listen", f"unix:{other}")
        assert (done.returncode, done.stderr.splitlines()) == (
            1,
            [f"zibai: error: unix:{other} is in use; stop what listens there, or choose another address"],
        )
        assert get(other, "/hello").status == 200
        assert server.stop() == 0
    assert list(folder.iterdir()) == []
