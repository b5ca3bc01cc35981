"""``zibai.Supervisor``: functions in real processes, and a person at a prompt."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

import zibai
from zibai.errors import LoadError, UsageError
from zibai.supervise.supervisor import Supervisor

from person import CTRL_C, Person
from support import APPS, DEADLINE, alive, child_processes, environment, wait_for

sys.path.insert(0, str(APPS))
import jobs

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

posix = pytest.mark.skipif(sys.platform == "win32", reason="POSIX")
QUICKLY = {"graceful_timeout": 0.2}


class Notes:
    """The lines of a file, as ("begin", pid)."""

    def __init__(self, path: Path) -> None:
        self.path = str(path)

    def __call__(self, text: str = "") -> list[int]:
        """Who has noted that."""
        lines = Path(self.path).read_text().splitlines() if Path(self.path).exists() else []
        return [int(line.rpartition(" ")[2]) for line in lines if line.rpartition(" ")[0].startswith(text)]

    def wait(self, text: str, number: int = 1) -> list[int]:
        found: list[int] = wait_for(lambda: len(found := self(text)) >= number and found)
        return found


@pytest.fixture
def notes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Notes:
    monkeypatch.setenv("NOTES", str(tmp_path / "notes"))
    return Notes(tmp_path / "notes")


@pytest.fixture(autouse=True)
def _nothing_is_left(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """No thread, descriptor, process or signal handler stays behind."""
    monkeypatch.setattr(logging.getLogger("zibai"), "propagate", True)

    def processes() -> list[int]:
        return [pid for pid, command in child_processes(os.getpid()) if "resource_tracker" not in command]

    def state() -> tuple[object, ...]:
        fds = len(os.listdir("/proc/self/fd")) if sys.platform == "linux" else 0
        return fds, threading.active_count(), processes(), signal.getsignal(signal.SIGTERM)

    # The helper of multiprocessing has a descriptor, and lives on.
    from multiprocessing import resource_tracker

    if sys.platform != "win32":
        resource_tracker.ensure_running()
        wait_for(lambda: not processes())  # until its exec, it has the command of this process
    before = state()
    yield
    wait_for(lambda: state() == before)


def pids(supervisor: Supervisor, state: str = "ready") -> list[int]:
    return [pid for pid, its in supervisor.workers if its == state]


def test_a_function_sees_no_thread_but_its_own(notes: Notes) -> None:
    with Supervisor(jobs.count_threads, (notes.path,), 1):
        assert notes.wait("1 threads")


def test_a_function_runs_in_workers_until_the_end(notes: Notes) -> None:
    with Supervisor(jobs.wait, (notes.path,), 2) as supervisor:
        assert len(pids(supervisor)) == 2
        assert sorted(notes.wait("begin", 2)) == sorted(pids(supervisor))
        assert os.getpid() not in pids(supervisor)
        assert repr(supervisor) == f"<supervisor {os.getpid()}, 2 workers>"
        assert f"{pids(supervisor)[0]}    ready" in repr(supervisor.workers)
        assert "5xx" not in repr(supervisor.workers), "a function answers no requests"
    assert sorted(notes("end")) == sorted(notes("begin"))
    assert list(supervisor.workers) == []
    assert repr(supervisor.workers) == "no workers"


def test_it_may_be_started_again_and_stopped_twice(notes: Notes) -> None:
    supervisor = Supervisor(jobs.wait, (notes.path,), 1)
    for number in (1, 2):
        supervisor.start()
        notes.wait("begin", number)
        with pytest.raises(RuntimeError, match="runs already"):
            supervisor.start()
        supervisor.stop()
        supervisor.stop()
        assert len(notes("end")) == number


def test_one_that_dies_is_replaced(notes: Notes) -> None:
    with Supervisor(jobs.wait, (notes.path,), 2) as supervisor:
        one, two = notes.wait("begin", 2)
        os.kill(one, signal.SIGTERM if sys.platform == "win32" else signal.SIGKILL)
        new = notes.wait("begin", 3)[2]
        wait_for(lambda: sorted(pids(supervisor)) == sorted([two, new]))


def test_a_reload_replaces_all_and_workers_may_be_added(notes: Notes) -> None:
    with Supervisor(jobs.wait, (notes.path,), 1) as supervisor:
        supervisor.workers(2)
        old = notes.wait("begin", 2)
        wait_for(lambda: len(pids(supervisor)) == 2)
        supervisor.reload()
        assert sorted(notes.wait("end", 2)) == sorted(old)
        # A worker counts as ready when its function is called, which may be a moment before that notes anything.
        assert len(notes.wait("begin", 4)) == 4
        supervisor.workers(1)
        notes.wait("end", 3)
        with pytest.raises(ValueError, match="at least one"):
            supervisor.workers(0)


def test_ready_is_when_the_function_says_so(notes: Notes) -> None:
    supervisor = Supervisor(jobs.slow_to_boot, (notes.path,), 1, says_ready=True)
    starter = threading.Thread(target=supervisor.start)
    starter.start()
    notes.wait("begin")
    assert starter.is_alive(), "start() waits for it"
    assert [state for _, state in supervisor.workers] == ["starting"]
    Path(notes.path + ".go").touch()
    starter.join(DEADLINE)
    (old,) = pids(supervisor)
    Path(notes.path + ".go").unlink()
    supervisor.reload()
    notes.wait("begin", 2)
    assert pids(supervisor) == [old], "it stays until the new one is ready"
    Path(notes.path + ".go").touch()
    wait_for(lambda: pids(supervisor) not in ([old], []))
    supervisor.stop()


def test_a_worker_that_is_not_ready_has_nothing_to_finish(notes: Notes) -> None:
    supervisor = Supervisor(jobs.slow_to_boot, (notes.path,), 2, says_ready=True, graceful_timeout=3600)
    failures: list[BaseException] = []

    def start() -> None:
        try:
            supervisor.start()
        except BaseException as error:
            failures.append(error)

    starter = threading.Thread(target=start)
    starter.start()
    notes.wait("begin", 2)
    supervisor.stop()
    starter.join(DEADLINE)
    assert not starter.is_alive()
    assert not failures


@pytest.mark.skipif(sys.platform == "win32", reason="there is no SIGCHLD")
def test_a_program_that_ignores_sigchld(notes: Notes) -> None:
    old = signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    try:
        with Supervisor(jobs.wait, (notes.path,), 1) as supervisor:
            (victim,) = pids(supervisor)
            os.kill(victim, signal.SIGKILL)
            wait_for(lambda: pids(supervisor) not in ([], [victim]))
    finally:
        signal.signal(signal.SIGCHLD, old)


@pytest.mark.parametrize(
    ("target", "words", "timeout"),
    [(jobs.fail, "jobs.fail failed: ValueError: it is no good", 20), (jobs.deaf, "not ready in 3 s", 3)],
)
def test_one_that_never_gets_ready_is_an_error_with_its_stack(
    notes: Notes, target: Callable[[str], None], words: str, timeout: float
) -> None:
    supervisor = Supervisor(target, (notes.path,), 1, says_ready=True, boot_timeout=timeout)
    for go in (supervisor.start, supervisor.run):
        with pytest.raises(LoadError, match=words) as caught:
            go()
        assert "jobs.py" in "".join(caught.value.__notes__)
        assert str(Path(zibai.__file__).parent) not in "".join(caught.value.__notes__), "the frames are theirs"


def test_one_that_returns_is_started_again_but_not_in_a_storm(notes: Notes, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    began = time.monotonic()
    with Supervisor(jobs.short, (notes.path,), 1):
        notes.wait("begin", 2)
    assert time.monotonic() - began > 1, "the second one came after a pause"
    assert len(notes("begin")) == 2
    assert "ended with exit code 0; starting another in 1 s" in caplog.text
    assert {record.levelname for record in caplog.records} == {"INFO"}


def test_what_a_function_raises_is_told_by_the_parent(notes: Notes, caplog: pytest.LogCaptureFixture) -> None:
    with Supervisor(jobs.fail, (notes.path,), 1):
        wait_for(lambda: "starting another in 1 s" in caplog.text)
    assert "jobs.fail failed: ValueError: it is no good\nTraceback" in caplog.text
    assert f"worker {notes('begin')[0]} ended with exit code 1; starting another in 1 s" in caplog.text


@pytest.mark.slow
def test_sys_exit_in_a_function_is_an_end_like_others(notes: Notes, caplog: pytest.LogCaptureFixture) -> None:
    with Supervisor(jobs.leave, (notes.path,), 1):
        wait_for(lambda: "ended with exit code 5; starting another" in caplog.text)
    assert "Traceback" not in caplog.text


@pytest.mark.parametrize("target", [jobs.deaf, jobs.converting])
@pytest.mark.parametrize("how", ["drain", "quit"])
def test_a_function_that_knows_no_event_is_interrupted(
    notes: Notes, how: str, target: Callable[[str], None], caplog: pytest.LogCaptureFixture
) -> None:
    supervisor = Supervisor(target, (notes.path,), 1, graceful_timeout=0.2 if how == "drain" else 60).start()
    notes.wait("begin")
    supervisor.stop(how)
    assert notes("finally") == notes("begin")
    assert "it is no good" not in caplog.text


@pytest.mark.slow
def test_a_function_that_knows_nothing_at_all_is_ended(notes: Notes, caplog: pytest.LogCaptureFixture) -> None:
    supervisor = Supervisor(jobs.numb, (notes.path,), 1, **QUICKLY).start()
    notes.wait("begin")
    supervisor.stop()
    assert notes("no") == notes("begin"), "it was asked"
    assert "killed" not in caplog.text, "its own process has ended it"


def test_before_stop_is_called_beside_the_function_and_on_end_here(notes: Notes) -> None:
    ended = []
    job = Supervisor(jobs.wait, (notes.path,), 2, before_stop=jobs.stop, on_end=lambda: ended.append(os.getpid()))
    with job:
        notes.wait("begin", 2)
    assert sorted(notes("before stop")) == sorted(notes("end")) == sorted(notes("begin"))
    assert ended == [os.getpid()]


@posix
def test_one_that_has_beaten_has_to_go_on_and_others_need_not(notes: Notes, caplog: pytest.LogCaptureFixture) -> None:
    with Supervisor(jobs.beat_once, (notes.path,), 1, worker_timeout=0.3):
        first, _ = notes.wait("begin", 2)[:2]
        assert f"worker {first} killed: no heartbeat" in caplog.text
    other = Notes(Path(notes.path + "2"))
    with Supervisor(jobs.wait, (other.path,), 1, worker_timeout=0.1):
        other.wait("begin")
        assert not any(other("end"))
        time.sleep(0.5)  # nothing tells that nothing happens
        assert len(other("begin")) == 1


@posix
@pytest.mark.daily("memory")
@pytest.mark.parametrize(
    ("limits", "words"),
    [
        ({"memory_limit": 60 * 2**20}, "MiB of memory, and may have 60.0 MiB"),
        ({"descriptor_limit": 100}, "descriptors"),
    ],
    ids=["memory", "descriptors"],
)
def test_one_that_takes_too_much_is_replaced(
    notes: Notes, limits: dict[str, int], words: str, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("zibai.supervise.watch.BETWEEN_SAMPLES", 0.2)
    with Supervisor(jobs.eat, (notes.path,), 2, **limits) as supervisor:
        first = notes.wait("begin", 3)[0]
        assert notes.wait("end") == [first]
        wait_for(lambda: len(pids(supervisor)) == 2)
        (line,) = [record.getMessage() for record in caplog.records if "replacing worker" in record.getMessage()]
        assert line.startswith(f"replacing worker {first}: it has ")
        assert words in line


def test_what_cannot_be_sent_to_a_worker() -> None:
    with pytest.raises(UsageError, match="put it into a module"):
        Supervisor(lambda: None).start()
    with pytest.raises(UsageError, match="at least one process"):
        Supervisor(jobs.wait, ("",), 0)


def test_no_worker_no_worker() -> None:
    with pytest.raises(RuntimeError, match="no worker"):
        zibai.current_worker()


def test_a_system_that_does_not_tell_what_a_process_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("zibai.supervise.supervisor.usage", lambda pid: zibai.system.usage.Usage())
    with pytest.raises(UsageError, match="this system does not tell"):
        Supervisor(jobs.wait, ("",), memory_limit=1).start()


# ------------------------------------------------------------------------------------------ in programs


def run_jobs(name: str, notes: Notes) -> subprocess.Popen[str]:
    command = [sys.executable, "jobs.py", name, notes.path]
    process = subprocess.Popen(command, cwd=APPS, env=environment(), stdout=subprocess.PIPE, text=True)
    notes.wait("begin", 2)
    return process


@posix
@pytest.mark.daily("SIGTERM")
@pytest.mark.parametrize("name", ["SIGTERM", "SIGINT"])
def test_run_heeds_signals_and_returns(notes: Notes, name: str) -> None:
    process = run_jobs("wait", notes)
    process.send_signal(getattr(signal, name))
    assert process.communicate(timeout=DEADLINE)[0] == "over\n"
    assert process.returncode == 0
    assert sorted(notes("end")) == (sorted(notes("begin")) if name == "SIGTERM" else [])


@posix
def test_workers_end_with_their_parent(notes: Notes) -> None:
    process = run_jobs("wait", notes)
    process.kill()
    process.communicate(timeout=DEADLINE)
    notes.wait("end", 2)
    wait_for(lambda: not any(map(alive, notes("begin"))))


def test_a_program_that_ends_without_stop_ends_its_workers(notes: Notes) -> None:
    code = f"import jobs, zibai\nif __name__ == '__main__': zibai.Supervisor(jobs.wait, ({notes.path!r},), 2).start()"
    script = Path(notes.path).parent / "script.py"
    script.write_text(code)
    env = environment({"PYTHONPATH": os.pathsep.join([str(APPS), environment()["PYTHONPATH"]])})
    subprocess.run([sys.executable, script], env=env, timeout=DEADLINE, check=True)
    assert len(notes("end")) == len(notes("begin"))


def test_it_loads_nothing_of_the_server() -> None:
    code = "import sys, zibai; zibai.Supervisor; print([m for m in sys.modules if m.startswith(('h11', 'zibai.'))])"
    done = subprocess.run([sys.executable, "-c", code], env=environment(), capture_output=True, text=True, check=True)
    assert "zibai.supervise.roster" in done.stdout
    for name in (
        "h11",
        "zibai.server.serve",
        "zibai.protocol.http1",
        "zibai.net.bind",
        "zibai.server.probes",
        "zibai.cli.arguments",
    ):
        assert name not in done.stdout


GEVENT = """
import gevent.monkey
gevent.monkey.patch_all()
import os, gevent, zibai

def note(text):
    with open({path!r}, "a") as file:
        file.write(f"{{text}} {{os.getpid()}}\\n")

def job():
    others = gevent.spawn(zibai.current_worker().end.wait)
    note("begin")
    others.join()
    note("end")

def stop():
    gevent.sleep(0)
    note("before stop")

if __name__ == "__main__":
    with zibai.Supervisor(job, (), 1, before_stop=stop):
        while not os.path.exists({path!r}):
            gevent.sleep(0.01)
"""


IN_WORKERS = """
import os, time, zibai

if __name__ != "__main__":
    import green

def job():
    green.job()

if __name__ == "__main__":
    with zibai.Supervisor(job, (), 1):
        while not os.path.exists({path!r}):
            time.sleep(0.01)
"""


@pytest.mark.daily("in workers", "everywhere, on an old kernel")
@pytest.mark.parametrize("where", ["in workers", "everywhere", "everywhere, on an old kernel"])
def test_a_module_that_gevent_has_patched(notes: Notes, where: str, tmp_path: Path) -> None:
    pytest.importorskip("gevent")
    source = GEVENT.format(path=notes.path)
    if where.endswith("old kernel"):  # where a thread waits for each child
        source = "import os\nvars(os).pop('pidfd_open', None)\n" + source
    (tmp_path / "green.py").write_text(source)
    (tmp_path / "main.py").write_text(IN_WORKERS.format(path=notes.path))
    command = [sys.executable, "main.py" if where == "in workers" else "green.py"]
    done = subprocess.run(
        command, cwd=tmp_path, env=environment(), capture_output=True, text=True, timeout=DEADLINE, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert notes("begin") == notes("end")
    assert notes("begin") == notes("before stop") or where == "in workers"


# ------------------------------------------------------------------------------------------ at a prompt


JOB = """
import os, time
def job():
    os.write(1, b"job %d\\n" % os.getpid())
    while True: time.sleep(0.01)

"""


@posix
def test_at_a_prompt_ctrl_c_ends_it_and_gives_the_prompt_back() -> None:
    with Person("-i", "-q") as person:
        person.see(">>> ")
        person.type("import os, sys, threading, signal, termios, zibai")
        person.type("settings = termios.tcgetattr(0); handler = signal.getsignal(signal.SIGINT)")
        person.type("fds = len(os.listdir('/dev/fd'))")
        for line in JOB.replace("    while", "    os.system('stty -echo')\n    while").splitlines():
            person.type(line)
        for _ in range(2):
            person.type("zibai.Supervisor(job, processes=2).run(); print('re' + 'turned')")
            workers = {int(person.see(r"job (\d+)\s")) for _ in range(2)}
            assert workers == set(person.workers())
            person.press(CTRL_C)
            person.see("returned")
            assert not any(map(alive, workers))
        person.type("print('the same', termios.tcgetattr(0) == settings, signal.getsignal(signal.SIGINT) == handler)")
        person.see("the same True True")
        person.type("print('left', threading.active_count(), len(os.listdir('/dev/fd')) - fds)")
        person.see("left 1 0")
        assert "Traceback" not in person.screen
        assert person.leave() == 0


@posix
def test_a_module_s_function_at_a_prompt_beside_the_prompt(notes: Notes) -> None:
    with Person("-i", "-q") as person:
        person.see(">>> ")
        person.type(f"import jobs, zibai; s = zibai.Supervisor(jobs.wait, ({notes.path!r},), 2).start(); s")
        person.see(r"<supervisor \d+, 2 workers>")
        begun = sorted(notes.wait("begin", 2))
        person.see(">>> ")
        person.press("half a line")
        person.see("half a line")
        person.interrupt()
        person.type("print(sorted(pid for pid, _ in s.workers))")
        person.see(str(begun).replace("[", r"\[")), "Ctrl-C was for the prompt, and not for the workers"
        assert person.leave() == 0, "and who leaves without stop() does not wait for ever"
    assert sorted(notes("end")) == begun


@posix
def test_what_cannot_be_forked_at_a_prompt_says_what_to_do() -> None:
    with Person("-i", "-q") as person:
        person.see(">>> ")
        person.type("import threading, zibai; job = lambda: None")
        person.type("zibai.Supervisor(job).start()")
        person.see("cannot be forked beside another thread; put it into a module that can be imported, or call run")
        person.type("end = threading.Event(); threading.Thread(target=end.wait).start()")
        person.type("zibai.Supervisor(job).run()")
        person.see("cannot be forked, since this process has threads; put it into a module")
        person.type("end.set()")
        assert person.leave() == 0


@posix
def test_forked_workers_end_with_their_parent() -> None:
    with Person("-i", "-q") as person:
        person.see(">>> ")
        for line in ("import zibai", *JOB.splitlines()):
            person.type(line)
        person.type("zibai.Supervisor(job, processes=3, graceful_timeout=0.2).run()")
        workers = {int(person.see(r"job (\d+)\s")) for _ in range(3)}
        person.workers()
        person.process.kill()
        wait_for(lambda: not any(map(alive, workers)))


@posix
def test_a_prompt_while_a_function_runs() -> None:
    with Person("-i", "-q") as person:
        person.see(">>> ")
        for line in ("import zibai", *JOB.splitlines()):
            person.type(line)
        person.type("s = zibai.Supervisor(job, processes=1, graceful_timeout=0.2)")
        person.type("s.run(interactive=True); print('re' 'turned')")
        first = person.see(r"job (\d+)\s")
        person.type("workers")
        person.see(rf"{first} +(?:starting|ready) ")
        person.type("workers(2)")
        person.see(r"job (\d+)\s")
        person.interrupt()
        assert len(person.workers()) == 2
        person.type("stop()")
        person.see("returned")
        assert person.workers() == []
        assert person.leave() == 0
