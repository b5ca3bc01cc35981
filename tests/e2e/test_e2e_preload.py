"""``--preload``: one import for all workers, which otherwise live, are replaced and end like any others."""

from __future__ import annotations

import os
import shutil
import signal
import sys
import threading
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Self

import pytest

from load import Load
from support import APPS, Client, Gate, Server, alive, get, run, wait_for

if TYPE_CHECKING:
    from collections.abc import Callable

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="it forks")
linux = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")

NAPPING = "time.sleep(1000)  # app"


@pytest.fixture
def site(tmp_path: Path) -> Path:
    """A directory with the applications, one of them at version 1."""
    for name in ("preloaded.py", "versioned.py"):
        shutil.copy(APPS / name, tmp_path)
    deploy(tmp_path, "1")
    return tmp_path


def deploy(site: Path, version: str) -> None:
    (site / "version.txt").write_text(version, encoding="ascii")


def noted(site: Path, name: str) -> list[int]:
    file = site / name
    return [int(line) for line in file.read_text().splitlines()] if file.exists() else []


class Preloading(Server):
    """A server with ``--preload``, from when its workers are ready on; all its processes have to be gone in the end."""

    def __init__(self, app: str, *flags: str, cwd: Path, ready: int = 2) -> None:
        super().__init__(app, "--preload", *flags, cwd=cwd)
        self._ready = ready

    def __enter__(self) -> Self:
        super().__enter__()
        try:
            wait_for(lambda: len(self.ready()) >= self._ready or self.has_ended)
        except BaseException as error:
            self._end(error)
            raise
        return self

    def ready(self) -> list[str]:
        return [line for line in self.log if "worker ready" in line]

    def loaders(self) -> list[int]:
        return self.children()

    def workers(self) -> list[int]:
        """Those that have been ready and live."""
        found = [int(line.partition("[")[2].partition("]")[0]) for line in self.ready()]
        self._workers.update(found)
        return [pid for pid in found if alive(pid)]

    def loads(self) -> int:
        return sum("application loaded" in line for line in self.log)

    def signal(self, number: int) -> None:
        self.workers()
        super().signal(number)

    def restart(self, site: Path, version: str) -> None:
        """Deploy, SIGHUP, and wait until everything of before is gone."""
        old, workers = set(self.loaders()), self.workers()
        deploy(site, version)
        self.signal(signal.SIGHUP)
        wait_for(lambda: not old & set(self.loaders()) and len(self.workers()) == len(workers))


def links_of(pid: int) -> list[str]:
    """What a process has open."""
    links = []
    for link in Path(f"/proc/{pid}/fd").iterdir():
        with suppress(FileNotFoundError):  # closed since
            links.append(os.readlink(link))
    return links


def sleeps(pid: int) -> bool:
    """Whether a process waits, and has nothing to do that it has not come to yet."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "S"


def answers(server: Server, target: str, count: int) -> dict[str, str]:
    """By the pid in it, until ``count`` workers have answered."""
    found: dict[str, str] = {}

    def ask() -> bool:
        pid, _, text = get(server.port, target).body.decode().partition(" ")
        found[pid] = text
        return len(found) == count

    # Several at a time, or one worker might take them all.
    def keep_asking() -> None:
        while not done.is_set() and not ask():
            pass
        done.set()

    done = threading.Event()
    threads = [threading.Thread(target=keep_asking) for _ in range(4)]
    for thread in threads:
        thread.start()
    try:
        assert done.wait(20), found
    finally:
        done.set()
        for thread in threads:
            thread.join()
    return found


# --- what is shared, and what is not ----------------------------------------------------------------


@pytest.mark.daily("greenlets")
def test_one_import_and_four_workers_each_with_its_own_luck(backend: tuple[str, ...], site: Path) -> None:
    flags = ("-p", "4", "--before-serve", "preloaded:before_serve")
    with Preloading("preloaded:app", *flags, *backend, cwd=site, ready=4) as server:
        workers = server.workers()
        assert noted(site, "imports") == server.loaders()
        assert sorted(noted(site, "serves")) == sorted(workers), "the hook is each worker's own"
        drawn = answers(server, "/random", 4)
        assert {int(pid) for pid in drawn} == set(workers)
        assert len(set(drawn.values())) == 4, "they would draw the same if they had the loader's state"
        assert server.stop() == 0


@pytest.mark.daily("greenlets")
@linux
def test_no_worker_has_a_descriptor_of_a_sibling_or_of_the_loader(backend: tuple[str, ...], site: Path) -> None:
    def descriptors(pid: int) -> set[str]:
        return {link for link in links_of(pid) if link.startswith(("pipe:", "socket:"))}

    with Preloading("preloaded:app", "-p", "3", *backend, cwd=site, ready=3) as server:
        (loader,) = server.loaders()
        wait_for(lambda: sleeps(loader))  # or it might have some of the worker yet that it has forked last
        before = descriptors(loader)
        os.kill(victim := server.workers()[0], signal.SIGKILL)
        wait_for(lambda: len(server.ready()) == 4)
        wait_for(lambda: victim not in (now := server.workers()) and len(now) == 3)
        wait_for(lambda: sleeps(loader))
        assert descriptors(loader) == before, "it keeps nothing of a worker"
        workers = [descriptors(pid) for pid in server.workers()]
        for number, one in enumerate(workers):
            for other in workers[:number]:
                assert one & other <= before, "what two have is the loader's: listeners, standard error, ..."
        own = before - set.union(*workers)
        # The pipe of orders; and since Python 3.14.9 that of multiprocessing's tracker, which forks let go of.
        assert len(own) == 1 or (sys.version_info >= (3, 14) and len(own) == 2)


@linux
@pytest.mark.slow
def test_an_application_of_100_mib_is_there_once(backend: tuple[str, ...], site: Path) -> None:
    (site / "heavy").touch()
    plain = Server("preloaded:app", "-p", "4", *backend, cwd=site)
    with plain:
        wait_for(lambda: sum("worker ready" in line for line in plain.log) == 4)
        without = pss([plain.pid, *plain.children()])
    with Preloading("preloaded:app", "-p", "4", *backend, cwd=site, ready=4) as server:
        answers(server, "/collect", 4)
        shared = pss([server.pid, *server.loaders(), *server.workers()])
    assert without > 440 * 1024, "the application holds 100 MiB"
    assert shared < 0.4 * without, f"{shared} of {without} KiB"


def pss(pids: list[int]) -> int:
    """Of these processes together, in KiB; pages that several have count once."""
    lines = [line for pid in pids for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()]
    return sum(int(line.split()[1]) for line in lines if line.startswith("Pss:"))


@pytest.mark.daily("greenlets")
def test_what_is_delicate_before_a_fork_works_after_it(backend: tuple[str, ...], site: Path) -> None:
    """A process started, a name looked up, a default timeout for sockets, a child of multiprocessing, exit handlers."""
    (site / "delicate").touch()
    with Preloading("preloaded:app", "-p", "2", *backend, cwd=site) as server, Client(server.port) as client:
        assert client.get("/spawn").body == b"7"
        server.signal(signal.SIGTTIN)  # which the loader takes although sockets have a timeout by default
        wait_for(lambda: len(server.ready()) == 3)
        processes = server.loaders() + server.workers()
        assert server.stop() == 0
    assert sorted(noted(site, "exits")) == sorted(processes)
    assert "Traceback" not in "\n".join(server.log)


def test_threads_that_the_application_has_started_are_named_once(site: Path) -> None:
    (site / "threaded").touch()
    with Preloading("preloaded:app", "-p", "2", "--no-gevent", cwd=site) as server:
        assert get(server.port, "/ticks").body == b"0"
        os.kill(server.workers()[0], signal.SIGKILL)
        wait_for(lambda: len(server.ready()) == 3)
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            os.kill(server.loaders()[0], number)  # a thread of the application takes it
        os.kill(server.workers()[0], signal.SIGKILL)
        wait_for(lambda: len(server.ready()) == 4)
        assert server.loads() == 1
    (warning,) = (line for line in server.log if "threads" in line and "WARNING" in line)
    assert "ticker" in warning
    assert "before_serve" in warning


def test_greenlets_that_the_application_has_started_run_in_each_worker(site: Path) -> None:
    pytest.importorskip("gevent")
    (site / "threaded").touch()
    with Preloading("preloaded:app", "-p", "2", cwd=site) as server:
        wait_for(lambda: int(get(server.port, "/ticks").body))
    assert "WARNING" not in "\n".join(server.log)


ENDING = """
import threading

end, ended = threading.Event(), threading.Event()


def wait():
    end.wait()
    ended.set()


threading.Thread(target=wait, name="waiter").start()


def app(environ, start_response):
    names = " ".join(thread.name for thread in threading.enumerate())
    if environ["PATH_INFO"] == "/end":
        end.set()
        ended.wait()
    start_response("200 OK", [("Content-Length", str(len(names)))])
    return [names.encode()]
"""


def test_a_thread_that_gevent_has_made_a_greenlet_is_known_in_each_worker(site: Path) -> None:
    """After a fork, ``threading`` knows the forking thread alone. Each other one ended with a KeyError."""
    pytest.importorskip("gevent")
    (site / "ending.py").write_text(ENDING, encoding="ascii")
    with Preloading("ending:app", "-p", "1", cwd=site, ready=1) as server:
        assert b"waiter" in get(server.port).body
        assert b"waiter" in get(server.port, "/end").body
        wait_for(lambda: b"waiter" not in get(server.port).body)
        assert server.stop() == 0
    assert "KeyError" not in "\n".join(server.log)


# --- restarts ---------------------------------------------------------------------------------------


@pytest.mark.daily("threads")
def test_restarts_under_load_lose_nothing(backend: tuple[str, ...], site: Path) -> None:
    with (
        Preloading("versioned:app", "--no-access-log", "-p", "2", *backend, cwd=site) as server,
        Load(server.port) as load,
    ):
        load.wait_for(200)
        for version in ("2", "3"):
            server.restart(site, version)
            load.wait_for(200)
        assert server.loads() == 3
    assert load.wrong == []
    assert {b"1", b"2", b"3"} <= load.bodies


@pytest.mark.slow
def test_recycling_loses_nothing_and_imports_nothing(backend: tuple[str, ...], site: Path) -> None:
    flags = ("--no-access-log", "--max-request-pre-process", "300")
    with Preloading("versioned:app", *flags, *backend, cwd=site, ready=1) as server, Load(server.port) as load:
        wait_for(lambda: len(server.ready()) >= 4 or load.wrong)
        load.wait_for(100)
        assert server.loads() == 1
    assert load.wrong == []


@pytest.mark.daily("threads-unfit")
@pytest.mark.parametrize("broken", ["broken", "unfit"])
def test_after_a_broken_deploy_even_a_new_worker_has_the_code_of_before(
    backend: tuple[str, ...], site: Path, broken: str
) -> None:
    flags = ("-p", "2", "--before-serve", "versioned:before_serve", "--no-access-log")
    with Preloading("versioned:app", *flags, *backend, cwd=site) as server:
        with Load(server.port, clients=3) as load:
            load.wait_for(100)
            old = server.workers()
            deploy(site, broken)
            server.signal(signal.SIGHUP)
            server.wait_for_log("restart aborted")
            assert any("RuntimeError: this deploy" in line for line in server.log)
            wait_for(lambda: len(server.loaders()) == 1)
            assert server.workers() == old
        assert load.wrong == []
        os.kill(old[0], signal.SIGKILL)
        wait_for(lambda: len(server.ready()) == 3)
        assert len(server.loaders()) == 1
        assert set(answers(server, "/version", 1)) == {"1"}
        server.restart(site, "mended")
        assert get(server.port, "/version").body == b"mended"


@pytest.mark.daily("greenlets")
def test_a_restart_goes_over_one_whose_code_is_still_being_imported(backend: tuple[str, ...], site: Path) -> None:
    with Preloading("versioned:app", "-p", "2", *backend, cwd=site) as server:
        deploy(site, "endless")
        server.signal(signal.SIGHUP)
        wait_for((site / "napping").exists)
        server.restart(site, "2")
        assert get(server.port, "/version").body == b"2"
        assert server.stop() == 0
    assert "ERROR" not in "\n".join(server.log)


@pytest.mark.daily("threads")
def test_each_save_answers(backend: tuple[str, ...], site: Path) -> None:
    flags = ("--watchfiles", "*.txt", "--no-access-log")
    with Preloading("versioned:app", *flags, *backend, cwd=site, ready=1) as server, Client(server.port) as kept:
        assert kept.get("/version").body == b"1"
        deploy(site, "2")
        wait_for(lambda: get(server.port, "/version").body == b"2")
        assert kept.get("/version").body == b"2", "a connection that was idle lives on"
        deploy(site, "endless")
        wait_for((site / "napping").exists)
        deploy(site, "broken")
        wait_for(lambda: b"RuntimeError: this deploy" in get(server.port, "/version").body)
        wait_for(lambda: len(server.loaders()) == 1)
        deploy(site, "mended")
        wait_for(lambda: get(server.port, "/version").body == b"mended")
        assert server.stop() == 0


# --- deaths -----------------------------------------------------------------------------------------


@pytest.mark.daily("threads")
def test_a_worker_that_dies_is_forked_again_and_its_end_explained(backend: tuple[str, ...], site: Path) -> None:
    with Preloading("preloaded:app", "-p", "2", *backend, cwd=site) as server:
        victim = int(get(server.port, "/pid").body)
        os.kill(victim, signal.SIGKILL)
        server.wait_for_log(f"worker {victim} was killed by SIGKILL; starting another")
        wait_for(lambda: len(server.ready()) == 3)
        assert victim not in server.workers()
        for pid in server.workers():  # the loader waits even when it has no worker left
            os.kill(pid, signal.SIGKILL)
        wait_for(lambda: len(server.ready()) == 5)
        assert len(noted(site, "imports")) == 1
        server.signal(signal.SIGTTOU)
        wait_for(lambda: len(server.workers()) == 1)
        assert get(server.port).status == 200


@pytest.mark.daily("greenlets")
def test_the_workers_of_a_loader_that_dies_serve_on_until_they_are_replaced(
    backend: tuple[str, ...], site: Path
) -> None:
    with Preloading("versioned:app", "--no-access-log", "-p", "2", *backend, cwd=site) as server:
        (loader,), orphans = server.loaders(), server.workers()
        with Load(server.port, clients=3) as load:
            os.kill(loader, signal.SIGKILL)
            server.wait_for_log(f"the loader, process {loader}, was killed by SIGKILL; its workers keep serving")
            load.wait_for(100)
            assert all(map(alive, orphans))
            deploy(site, "2")
            server.signal(signal.SIGHUP)
            wait_for(lambda: not any(map(alive, orphans)) and len(server.workers()) == 2)
            load.wait_for(100)
        assert load.wrong == []
        assert get(server.port, "/version").body == b"2"
        # One that dies with no loader there has another one made.
        (loader,), orphans = server.loaders(), server.workers()
        os.kill(loader, signal.SIGKILL)
        os.kill(orphans[0], signal.SIGKILL)
        server.wait_for_log(f"worker {orphans[0]} ended in an unknown way; starting another")
        wait_for(lambda: len(server.ready()) == 5)
        assert server.stop() == 0


@pytest.mark.daily("threads-serving", "greenlets-loading")
@pytest.mark.parametrize("when", ["serving", "loading"])
def test_nothing_is_left_when_the_parent_dies(backend: tuple[str, ...], site: Path, when: str) -> None:
    if when == "loading":
        (site / "endless").touch()
    with Preloading("preloaded:app", "-p", "2", *backend, cwd=site, ready=2 * (when == "serving")) as server:
        wait_for(lambda: noted(site, "imports"))
        processes = server.loaders() + server.workers()
        os.kill(server.pid, signal.SIGKILL)
        server.wait()
        wait_for(lambda: not any(map(alive, processes)))


@linux
def test_a_log_that_is_moved_away_is_let_go_of_by_all(site: Path) -> None:
    """Also by the loader, from which later workers have their files."""

    def has_open(pid: int, name: str) -> bool:
        return any(Path(link).name == name for link in links_of(pid))

    (site / "own.json").write_text(
        '{"handlers": {"own": {"class": "logging.FileHandler", "filename": "log"}},'
        ' "loggers": {"zibai.access": {"handlers": ["own"]}}}'
    )
    with Preloading(
        "preloaded:app", "--logging-config-filepath", "own.json", "--no-gevent", cwd=site, ready=1
    ) as server:
        processes = [server.pid, *server.loaders(), *server.workers()]
        (site / "log").rename(site / "moved")
        server.signal(signal.SIGUSR1)
        wait_for(lambda: not any(has_open(pid, "moved") for pid in processes))
        os.kill(server.workers()[0], signal.SIGKILL)
        wait_for(lambda: len(server.ready()) == 2)
        assert get(server.port).status == 200
        wait_for(lambda: "GET / " in (site / "log").read_text())


# --- the beginning and the end ----------------------------------------------------------------------


@pytest.mark.daily("threads")
def test_a_terminal_that_interrupts_all_of_them_sees_no_traceback(backend: tuple[str, ...], site: Path) -> None:
    with Preloading("preloaded:app", "-p", "2", *backend, cwd=site) as server:
        server.workers()
        os.killpg(server.pid, signal.SIGINT)
        assert server.wait() == 0
    assert not any(word in line for line in server.log for word in ("Traceback", "ERROR", "Interrupt"))


@pytest.mark.daily("greenlets-parent")
@pytest.mark.parametrize("whom", [os.kill, os.killpg], ids=["parent", "group"])
def test_a_quick_end_does_not_wait_for_the_application(
    backend: tuple[str, ...], site: Path, whom: Callable[[int, int], None]
) -> None:
    (site / "endless").touch()
    with Preloading("preloaded:app", "-p", "2", *backend, cwd=site, ready=0) as server:
        (loader,) = wait_for(lambda: noted(site, "imports"))
        whom(server.pid, signal.SIGINT)
        # A signal that comes just before the application begins to wait interrupts nothing; then it takes 3 s more.
        assert server.wait() == 0
        assert not alive(loader)
    assert not any(word in line for line in server.log for word in ("Traceback", "ERROR", "Interrupt"))


@pytest.mark.daily("greenlets")
def test_a_graceful_end_answers_what_is_in_flight_and_refuses_the_rest(backend: tuple[str, ...], site: Path) -> None:
    def is_refused() -> bool:
        try:
            Client(port).close()
        except ConnectionRefusedError:
            return True
        except ConnectionResetError:
            pass
        return False

    shutil.copy(APPS / "plain.py", site)
    with Preloading("plain:app", "-p", "2", *backend, cwd=site) as server, Gate() as gate:
        port = server.port
        with Client(port) as client:
            client.send(f"GET /gated?{gate.port} HTTP/1.1\r\nHost: test\r\n\r\n".encode())
            request = gate.arrival()
            server.signal(signal.SIGTERM)
            wait_for(is_refused)
            request.close()
            assert client.read().status == 200
        assert server.wait() == 0


@pytest.mark.daily("threads")
def test_an_application_that_cannot_be_imported(backend: tuple[str, ...], site: Path) -> None:
    deploy(site, "broken")
    done = run("versioned:app", "-l", "127.0.0.1:0", "--preload", "-p", "3", *backend, cwd=site)
    assert done.returncode == 3
    assert done.stderr.count("Traceback (most recent call last)") == 1
    assert done.stderr.count("RuntimeError: this deploy is broken") == 2, "in the traceback and in the last line"


@pytest.mark.daily("greenlets")
def test_an_import_that_does_not_end_is_shown_where_it_stands(backend: tuple[str, ...], site: Path) -> None:
    deploy(site, "endless")
    # On a busy machine it takes a second or two until anything of ours runs, which is all there is for last words.
    done = run("versioned:app", "-l", "127.0.0.1:0", "--preload", "-p", "2", "--boot-timeout", "6", *backend, cwd=site)
    assert done.returncode == 3
    assert "not ready in 6 s; the main thread is here:" in done.stderr
    assert done.stderr.count(NAPPING) == 1
    assert "killed" not in done.stderr


def test_an_import_that_ends_the_process(site: Path) -> None:
    (site / "deadly").touch()
    done = run("preloaded:app", "-l", "127.0.0.1:0", "--preload", "--no-gevent", cwd=site)
    assert done.returncode == 3
    assert "ended with exit code 7 before it was ready" in done.stderr


@pytest.mark.daily("threads")
def test_what_is_printed_is_captured_with_the_pid_of_who_printed(tmp_path: Path, backend: tuple[str, ...]) -> None:
    (tmp_path / "talks.py").write_text(
        "import os\n"
        "print('imported by', os.getpid(), flush=True)\n"
        "def app(environ, start_response):\n"
        "    os.system('echo asked of $PPID')\n"
        "    start_response('200 OK', [])\n"
        "    return [str(os.getpid()).encode()]\n"
    )
    with Server("talks:app", "--preload", "--capture-output", "-p", "1", *backend, cwd=tmp_path) as server:
        line = server.wait_for_log("imported by")
        loader = line.split()[-1]
        assert f"[{loader}] | " in line
        worker = get(server.port).body.decode()
        assert f"[{worker}] | " in server.wait_for_log(f"asked of {worker}")
        assert loader != worker
