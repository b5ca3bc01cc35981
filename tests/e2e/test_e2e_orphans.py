"""Programs and processes that an application leaves behind: they must neither blind the parent nor keep the port."""

from __future__ import annotations

import errno
import os
import signal
import socket
import sys
from contextlib import suppress
from typing import TYPE_CHECKING

import pytest

from support import GRACEFUL, Server, alive, get, wait_for

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="POSIX")
linux = pytest.mark.skipif(sys.platform != "linux", reason="the C library's name, and /proc")

APP = """
import ctypes, os, subprocess, sys, time

LEFT = "echo $$ > {left}.new && mv {left}.new {left} && exec sleep 1000 >/dev/null 2>&1"  # app


def note(pid):
    with open("{left}.new", "w") as file:
        file.write(str(pid))
    os.rename("{left}.new", "{left}")


def stay(sleep=time.sleep):
    null = os.open(os.devnull, os.O_RDWR)
    os.dup2(null, 1)
    os.dup2(null, 2)  # the test reads the log to its end
    note(os.getpid())
    sleep(1000)  # app
    os._exit(0)


def fork():
    if os.fork() == 0:
        stay()


def fork_in_c():
    libc = ctypes.PyDLL(None)  # the fork holds the GIL
    if libc.fork() == 0:
        stay(libc.sleep)


def fork_by_multiprocessing():
    import multiprocessing
    multiprocessing.get_context("fork").Process(target=stay).start()


def close_all():
    note(os.getpid())  # before, since the parent kills a worker whose pipe has ended
    os.closerange(3, 1000)


WAYS = {{
    "system": lambda: os.system("sh -c '" + LEFT + "' &"),
    "system_in_c": lambda: ctypes.CDLL(None).system(("sh -c '" + LEFT + "' &").encode()),
    "spawn": lambda: os.spawnlp(os.P_NOWAIT, "sh", "sh", "-c", LEFT),
    "popen": lambda: subprocess.Popen(["sh", "-c", LEFT], close_fds=False),
    "fork": fork,
    "fork_in_c": fork_in_c,
    "fork_by_multiprocessing": fork_by_multiprocessing,
    "close_all": close_all,
}}


def app(environ, start_response):
    WAYS.get(environ["PATH_INFO"][1:], lambda: None)()
    start_response("200 OK", [("Content-Length", "5")])
    return [b"%05d" % (os.getpid() % 100000)]


if os.environ.get("AT_IMPORT"):
    WAYS[os.environ["AT_IMPORT"]]()
"""


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Path]:
    """A directory with an application that leaves something behind, which is ended afterwards."""
    (tmp_path / "leaving.py").write_text(APP.format(left=tmp_path / "left"))
    yield tmp_path
    with suppress(FileNotFoundError, ProcessLookupError):
        os.kill(int((tmp_path / "left").read_text()), signal.SIGKILL)


def left(note: Path) -> int:
    """The process that was left behind, which has noted its id."""
    return int(wait_for(lambda: note.exists() and note.read_text()))


def is_free(port: int) -> bool:
    """Whether nothing listens there. The kernel accepts connections as long as there is a copy of the listener."""
    with socket.socket() as sock:
        return sock.connect_ex(("127.0.0.1", port)) == errno.ECONNREFUSED


WAYS = ["system", "spawn", "popen", "fork", "fork_by_multiprocessing"]
IN_C = [pytest.param(way, marks=linux) for way in ("system_in_c", "fork_in_c")]
MODES = {"worker": ("-p", "1"), "preload": ("-p", "1", "--preload"), "captured": ("-p", "1", "--capture-output")}


class Leaving(Server):
    """What its application leaves behind is none of its workers."""

    def __init__(self, site: Path, *flags: str, env: dict[str, str] | None = None) -> None:
        super().__init__("leaving:app", *flags, "--graceful-exit-timeout", "2", cwd=site, env=env)
        self._left = site / "left"

    def children(self) -> list[int]:
        children = super().children()
        self._workers.discard(left(self._left))
        return children

    def end(self) -> int:
        """The exit code. The log may go on: multiprocessing's helper process has it as long as the orphan lives."""
        self.signal(GRACEFUL)
        return self._process.wait(10)


@pytest.mark.daily("threads-fork-worker", "greenlets-system-preload")
@pytest.mark.parametrize("mode", MODES.values(), ids=MODES)
@pytest.mark.parametrize("way", [*WAYS, *IN_C])
def test_what_is_left_behind_hides_no_death_and_no_end(
    backend: tuple[str, ...], site: Path, way: str, mode: tuple[str, ...]
) -> None:
    with Leaving(site, *mode, *backend) as server:
        assert get(server.port, f"/{way}").status == 200
        orphan = left(site / "left")
        victim = int(server.wait_for_log("worker ready").partition("[")[2].partition("]")[0])
        os.kill(victim, signal.SIGKILL)
        server.wait_for_log(f"worker {victim} was killed by SIGKILL; starting another")
        assert get(server.port, "/").status == 200
        assert server.end() == 0
        assert alive(orphan)
        if way != "fork_in_c":  # nothing tells Python of that one
            wait_for(lambda: is_free(server.port))


@pytest.mark.daily("system-worker")
@pytest.mark.parametrize("mode", [*MODES.values(), ()], ids=[*MODES, "single"])
@pytest.mark.parametrize("way", ["system", "fork"])
def test_what_is_left_behind_at_import_does_not_keep_the_port(site: Path, way: str, mode: tuple[str, ...]) -> None:
    with Leaving(site, *mode, "--no-gevent", env={"AT_IMPORT": way}) as server:
        assert get(server.port, "/").status == 200
        orphan = left(site / "left")
        assert server.end() == 0
        assert alive(orphan)
        wait_for(lambda: is_free(server.port))


@pytest.mark.daily("threads-fork")
@pytest.mark.parametrize("way", ["system", "fork"])
def test_a_single_process_leaves_no_port_to_what_it_started(backend: tuple[str, ...], site: Path, way: str) -> None:
    with Leaving(site, *backend) as server:
        assert get(server.port, f"/{way}").status == 200
        orphan = left(site / "left")
        assert server.end() == 0
        assert alive(orphan)
        wait_for(lambda: is_free(server.port))


@pytest.mark.daily("preload")
@linux
@pytest.mark.parametrize("mode", [MODES["worker"], MODES["preload"]], ids=["worker", "preload"])
def test_a_worker_that_closes_all_descriptors_does_not_hold_the_parent(site: Path, mode: tuple[str, ...]) -> None:
    """Its end of each pipe is gone, as if it had died."""
    with Leaving(site, *mode, "--no-gevent") as server:
        server.wait_for_log("worker ready")  # a request may be served sooner, and the parent would hear of no worker
        with suppress(ConnectionError, EOFError):
            get(server.port, "/close_all")
        left(site / "left")
        assert server.end() == 0


@pytest.mark.daily("worker")
@linux
@pytest.mark.parametrize("mode", [MODES["worker"], MODES["preload"]], ids=["worker", "preload"])
def test_no_descriptor_of_ours_goes_to_a_program(site: Path, mode: tuple[str, ...]) -> None:
    with Leaving(site, *mode, "--no-gevent") as server:
        assert get(server.port, "/system").status == 200
        folder = f"/proc/{left(site / 'left')}/fd"
        # Not at once: while a shell writes its id, it keeps its own output in a descriptor above 9.
        wait_for(lambda: {int(fd) for fd in os.listdir(folder)} == {0, 1, 2})
