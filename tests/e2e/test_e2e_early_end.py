"""The end, asked for while the application is imported; and the order in which a worker ends."""

from __future__ import annotations

import os
import signal
import sys
import time
from typing import TYPE_CHECKING

import pytest

from support import Server, alive, get, wait_for

if TYPE_CHECKING:
    from pathlib import Path

posix = pytest.mark.skipif(sys.platform == "win32", reason="signals between processes are POSIX")

MODES = pytest.mark.parametrize(
    "mode", [(), ("-p", "2"), ("-p", "2", "--preload")], ids=["single", "workers", "preload"]
)

HANGING = {
    "sleep": "import time\ntime.sleep(1000)  # app",
    "lock": "import threading\nthreading.Lock().acquire() and threading.Event().wait()  # app",
    "retry": """
import time
while True:
    try:
        time.sleep(1000)  # app
    except BaseException:
        pass""",
    "convert": """
import time
try:
    time.sleep(1000)  # app
except BaseException:
    raise ValueError("as pydantic does, in C") from None""",
}


@pytest.fixture
def hanging(tmp_path: Path, request: pytest.FixtureRequest) -> Path:
    """A directory with an application that is never imported to its end; it notes the processes that try."""
    (tmp_path / "hanging.py").write_text(
        "import os\nopen(f'trying-{os.getpid()}', 'w').close()\n" + HANGING[request.param] + "\napp = print\n"
    )
    return tmp_path


def tries(site: Path) -> list[int]:
    return [int(file.name.partition("-")[2]) for file in site.glob("trying-*")]


@posix
@MODES
@pytest.mark.daily(
    *("threads-sleep-SIGTERM-single", "greenlets-sleep-SIGQUIT-workers", "threads-sleep-SIGTERM-preload"),
    *("threads-retry-SIGTERM-single", "threads-convert-SIGINT-single", "greenlets-convert-SIGTERM-single"),
)
@pytest.mark.parametrize("name", ["SIGTERM", "SIGQUIT", "SIGINT"])
@pytest.mark.parametrize("hanging", HANGING, indirect=True)
def test_a_server_that_is_still_importing_ends_at_once(
    backend: tuple[str, ...], mode: tuple[str, ...], hanging: Path, name: str
) -> None:
    with Server("hanging:app", *mode, *backend, "--graceful-exit-timeout", "3600", cwd=hanging) as server:
        wait_for(lambda: len(tries(hanging)) == (2 if mode == ("-p", "2") else 1))
        begin = time.monotonic()
        server.signal(getattr(signal, name))
        assert server.wait() == 0
        assert time.monotonic() - begin < 10, "3 s for what does not hear, and a busy machine"
    assert not any(map(alive, tries(hanging)))
    assert "Traceback" not in "\n".join(server.log)


CONVERTING = """
import os, time

def app(environ, start_response):
    start_response("200 OK", [("Content-Length", "2")])
    return [b"ok"]

if os.path.exists("slow"):
    open(f"trying-{os.getpid()}", "w").close()
    try:
        time.sleep(1000)
    except BaseException:
        raise ValueError("as pydantic does, in C") from None
"""


@posix
@pytest.mark.parametrize("mode", [(), ("--preload",), ("--reload",)], ids=["workers", "preload", "reload"])
def test_an_import_that_a_restart_interrupts_has_not_failed(tmp_path: Path, mode: tuple[str, ...]) -> None:
    """Its KeyboardInterrupt has become another exception, which is not reported and does not abort the restart."""
    if mode == ("--reload",):
        pytest.importorskip("watchfiles")
    (tmp_path / "converting.py").write_text(CONVERTING)
    with Server("converting:app", "-p", "1", "--no-gevent", *mode, cwd=tmp_path) as server:
        get(server.port)
        (tmp_path / "slow").touch()
        server.signal(signal.SIGHUP)
        wait_for(lambda: tries(tmp_path))
        (tmp_path / "slow").unlink()
        server.signal(signal.SIGHUP)
        wait_for(lambda: any("restart done" in line for line in server.log))
        assert get(server.port).body == b"ok"
        assert server.stop() == 0
    assert "as pydantic does" not in "\n".join(server.log)


@posix
@pytest.mark.parametrize("hanging", ["retry"], indirect=True)
def test_a_second_signal_ends_a_single_process_that_catches_everything(hanging: Path) -> None:
    with Server("hanging:app", "--no-gevent", cwd=hanging) as server:
        wait_for(lambda: tries(hanging))
        server.signal(signal.SIGTERM)
        begin = time.monotonic()
        while not server.has_ended:
            server.signal(signal.SIGTERM)
            time.sleep(0.05)
        assert server.wait() == 0
        assert time.monotonic() - begin < 2.5


POOL = """
import atexit, os, time
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor

processes, threads = ProcessPoolExecutor(1), ThreadPoolExecutor(1)
atexit.register(lambda: open("exited", "a").write("exited\\n"))


def slowly():
    time.sleep(0.5)  # app
    open("finished", "a").write("finished\\n")


def app(environ, start_response):
    assert processes.submit(os.getpid).result() != os.getpid()
    threads.submit(slowly)
    start_response("200 OK", [("Content-Length", "2")])
    return [b"ok"]
"""


@pytest.mark.daily("greenlets-worker")
@pytest.mark.parametrize("mode", [(), ("-p", "1"), ("-p", "1", "--preload")], ids=["single", "worker", "preload"])
@posix
def test_a_worker_with_a_process_pool_ends_in_order(
    backend: tuple[str, ...], mode: tuple[str, ...], tmp_path: Path
) -> None:
    """Threads first, and then what they have started; then the handlers of ``atexit``."""
    (tmp_path / "pools.py").write_text(POOL)
    with Server("pools:app", *mode, *backend, "--graceful-exit-timeout", "3600", cwd=tmp_path) as server:
        assert get(server.port).body == b"ok"
        assert server.stop() == 0
    assert (tmp_path / "finished").read_text() == "finished\n"
    processes = 2 if "--preload" in mode else 1  # the loader has imported it, too
    assert (tmp_path / "exited").read_text() == "exited\n" * processes
    assert "killed" not in "\n".join(server.log)


@posix
def test_a_worker_with_a_process_pool_is_replaced_in_order(tmp_path: Path) -> None:
    (tmp_path / "pools.py").write_text(POOL)
    with Server("pools:app", "-p", "1", "--no-gevent", "--graceful-exit-timeout", "3600", cwd=tmp_path) as server:
        assert get(server.port).body == b"ok"
        (old,) = server.children()
        os.kill(server.pid, signal.SIGHUP)
        wait_for(lambda: not alive(old))
        assert (tmp_path / "exited").read_text() == "exited\n"
        assert get(server.port).body == b"ok"
