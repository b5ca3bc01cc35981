"""In the background, as another user, in another directory, with a pid file, and log files that are moved away."""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import stat
import sys
import tempfile
import threading
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from subprocess import PIPE, Popen
from subprocess import run as run_command
from typing import TYPE_CHECKING

import pytest

from load import Load
from support import (
    APPS,
    DEADLINE,
    KILL,
    ROOT,
    ZIBAI,
    Gate,
    Server,
    alive,
    child_processes,
    end_what_is_left,
    environment,
    get,
    run,
    wait_for,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    from credentials import Credentials

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="POSIX only; the errors on Windows are further below")
PROCESSES = pytest.mark.parametrize("processes", [(), ("-p", "2")], ids=["single", "workers"])

APP = """
import os
print("imported", flush=True)
def app(environ, start_response):
    os.system("echo of a child")
    start_response("200 OK", [])
    return [os.getcwd().encode()]
def echo(environ, start_response):
    start_response("200 OK", [])
    return [environ["wsgi.input"].read()]
def broken():
    raise ValueError("broken on purpose")
def dies():
    os._exit(7)
def waits():
    import socket
    socket.create_connection(("127.0.0.1", int(os.environ["GATE"]))).recv(1)
def kills():
    import signal
    os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    """With an application that exists nowhere else. What a test has started in it does not outlive the test."""
    (tmp_path / "background.py").write_text(APP)
    yield tmp_path
    end_what_is_left(tmp_path)


@contextmanager
def daemon(folder: Path, *flags: str, app: str = "background:app") -> Iterator[int]:
    """Its process id, once the command has come back; it has to be gone in the end, and its workers with it."""
    file = folder / "zibai.pid"
    done = run(app, "--daemon", "--pid-file", str(file), "--listen", "127.0.0.1:0", *flags, cwd=folder, env=WITH_APPS)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    pid = int(file.read_text())
    workers = [child for child, _ in child_processes(pid)]
    try:
        yield pid
        os.kill(pid, signal.SIGTERM)
        wait_for(lambda: not any(map(alive, [pid, *workers])))
    finally:
        if alive(pid):
            os.kill(pid, KILL)


WITH_APPS = {"PYTHONPATH": os.pathsep.join([str(ROOT), str(APPS)])}


def port(log: Path) -> int:
    return int(re.findall(r"listening on http://127\.0\.0\.1:(\d+)", log.read_text())[-1])


# --- in the background --------------------------------------------------------------------------------


@pytest.mark.daily("workers")
@PROCESSES
def test_the_command_comes_back_when_the_server_is_up(folder: Path, processes: tuple[str, ...]) -> None:
    log = folder / "zibai.log"
    with daemon(folder, "--log-file", "zibai.log", *processes) as pid:
        # The command comes back when the parent has heard it, and a worker logs it after it has told its parent.
        wait_for(lambda: log.read_text().count("worker ready") == max(1, len(processes)))
        assert get(port(log)).body == os.fsencode(folder)
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split() if sys.platform == "linux" else None
        if fields is not None:
            parent, _, session, terminal = map(int, fields[1:5])
            assert (parent != os.getpid(), session != pid, terminal) == (True, True, 0)
    text = log.read_text()
    assert "imported" in text
    assert "of a child" in text
    assert '"GET / HTTP/1.1" 200' in text
    assert not (folder / "zibai.pid").exists()


def test_without_a_log_file_it_is_silent(folder: Path) -> None:
    with daemon(folder, "-p", "1"):
        pass
    assert sorted(file.name for file in folder.iterdir() if file.is_file()) == ["background.py"]


@pytest.mark.daily("workers")
@PROCESSES
def test_a_start_that_fails_ends_as_it_does_in_the_foreground(folder: Path, processes: tuple[str, ...]) -> None:
    flags = ["background:app", "--before-serve", "background:broken", "--listen", "127.0.0.1:0", *processes]
    before = run(*flags, cwd=folder)
    done = run(*flags, "--daemon", "--pid-file", "zibai.pid", "--log-file", "zibai.log", cwd=folder)
    error = "zibai: error: the hook before_serve failed: ValueError: broken on purpose\n"
    assert before.stderr.endswith(error)
    assert done.stderr.endswith(error)
    assert done.stderr.startswith("Traceback")
    assert done.stderr.count("Traceback") == 1
    assert (done.returncode, done.stdout) == (before.returncode, "")
    assert "broken on purpose" in (folder / "zibai.log").read_text()
    assert not (folder / "zibai.pid").exists()


def test_an_address_that_is_taken(folder: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        done = run("background:app", "--daemon", "--listen", address, cwd=folder)
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert done.stderr.startswith(f"zibai: error: {address} is in use")


@pytest.mark.parametrize("hook", ["dies", "kills"])
def test_one_that_dies_before_it_is_up(folder: Path, hook: str) -> None:
    done = run("background:app", "--daemon", "--before-serve", f"background:{hook}", "-l", "127.0.0.1:0", cwd=folder)
    assert done.returncode == 1
    assert done.stderr == "zibai: error: the server has ended before it was up; see its log\n"


def test_ctrl_c_while_the_command_waits_ends_the_server(folder: Path) -> None:
    with Gate() as gate:
        flags = ["--daemon", "--pid-file", "zibai.pid", "--before-serve", "background:waits", "-l", "127.0.0.1:0"]
        launcher = Popen(
            [*ZIBAI, "background:app", *flags], cwd=folder, env=environment({"GATE": str(gate.port)}),
            stderr=PIPE, text=True,
        )  # fmt: skip
        with launcher:
            gate.arrival()
            launcher.send_signal(signal.SIGINT)
            _, errors = launcher.communicate(timeout=DEADLINE)
    assert (launcher.returncode, errors) == (1, "zibai: error: the server has ended before it was up; see its log\n")
    assert not (folder / "zibai.pid").exists()


def test_workers_of_a_daemon_that_was_killed_end(folder: Path) -> None:
    done = run("background:app", "-p", "2", "--daemon", "--pid-file", "zibai.pid", "-l", "127.0.0.1:0", cwd=folder)
    assert done.returncode == 0
    pid = int((folder / "zibai.pid").read_text())
    workers = [child for child, _ in child_processes(pid)]
    os.kill(pid, KILL)
    wait_for(lambda: not any(map(alive, workers)))
    # What it left is no hindrance.
    with daemon(folder, "-p", "1"):
        pass


# --- the pid file -------------------------------------------------------------------------------------


@pytest.mark.daily("single")
@PROCESSES
def test_the_pid_file_of_a_server_that_runs_is_refused(folder: Path, processes: tuple[str, ...]) -> None:
    flags = ["--pid-file", str(folder / "zibai.pid"), *processes]
    with Server("plain:app", *flags) as server:
        server.wait_for_log("worker ready")
        assert (folder / "zibai.pid").read_text() == f"{server.pid}\n"
        done = run("plain:app", *flags, "--listen", f"127.0.0.1:{server.port}")
        assert (done.returncode, done.stderr.count("\n")) == (1, 1)
        assert f"belongs to process {server.pid}, which is running" in done.stderr
        assert get(server.port, "/hello").status == 200
    assert not (folder / "zibai.pid").exists()


def test_who_reads_the_pid_file_may_send_a_signal_at_once(folder: Path) -> None:
    """A single process does not listen to signals before gevent is there; they wait."""
    file = folder / "zibai.pid"
    with Server("plain:app", "--pid-file", str(file)) as server:
        os.kill(int(wait_for(lambda: file.exists() and file.read_text())), signal.SIGUSR1)
        os.kill(server.pid, signal.SIGTERM)
        assert server.wait() == 0
    assert not file.exists()


@pytest.mark.parametrize("ends", ["old", "new"])
def test_an_upgrade_takes_the_pid_file_or_gives_it_back(folder: Path, ends: str) -> None:
    """Whoever serves on has it, in the background, in the same directory and with the same log."""
    file, log = folder / "zibai.pid", folder / "zibai.log"
    flags = [
        "--chdir",
        folder.name,
        "--pid-file",
        "zibai.pid",
        "--log-file",
        "zibai.log",
        "-p",
        "1",
        "-l",
        "127.0.0.1:0",
    ]
    done = run("background:app", "--daemon", *flags, cwd=folder.parent)
    assert (done.returncode, done.stderr) == (0, "")
    old = int(file.read_text())
    where = port(log)
    os.kill(old, signal.SIGUSR2)
    new = wait_for(lambda: (pid := int(file.read_text())) != old and pid)
    try:
        wait_for(lambda: f"the new server serves, process {new}" in log.read_text())
        goes, stays = (old, new) if ends == "old" else (new, old)
        os.kill(goes, signal.SIGTERM)
        wait_for(lambda: not alive(goes))
        assert file.read_text() == f"{stays}\n"
        assert get(where).body == os.fsencode(folder)
        os.kill(stays, signal.SIGTERM)
        wait_for(lambda: not alive(stays))
        assert not file.exists()
    finally:
        for pid in filter(alive, [old, new]):
            os.kill(pid, KILL)


# --- another directory --------------------------------------------------------------------------------


@pytest.mark.daily("single")
@PROCESSES
def test_chdir_comes_before_everything(folder: Path, processes: tuple[str, ...]) -> None:
    flags = ["--chdir", str(folder), "--log-file", "here.log", "--pid-file", "here.pid", "--control", "here.board"]
    done = run("background:app", "--daemon", "-l", "127.0.0.1:0", "unix:here.sock", *flags, *processes)
    assert (done.returncode, done.stderr) == (0, "")
    pid = int((folder / "here.pid").read_text())
    assert stat.S_ISSOCK((folder / "here.sock").stat().st_mode)
    assert get(port(folder / "here.log")).body == os.fsencode(folder)
    assert get(folder / "here.sock").body == os.fsencode(folder)
    os.kill(pid, signal.SIGTERM)
    wait_for(lambda: not alive(pid))
    left = {path.name for path in folder.iterdir()} - {"__pycache__"}
    assert left == {"background.py", "here.log"}


def test_a_directory_that_is_not_there() -> None:
    done = run("plain:app", "--chdir", "/no/such/place")
    assert (done.returncode, done.stderr) == (
        2, "zibai: error: --chdir: cannot change to '/no/such/place': No such file or directory\n",
    )  # fmt: skip


# --- log files that are moved away --------------------------------------------------------------------

OWN = """
[handlers.access]
class = "logging.FileHandler"
filename = "access.log"
"""


@pytest.mark.daily("threads-log-file-workers", "greenlets-own-single")
@PROCESSES
@pytest.mark.parametrize("own", [False, True], ids=["log-file", "own"])
def test_no_line_is_lost_when_the_log_is_moved_under_load(
    backend: tuple[str, ...], processes: tuple[str, ...], own: bool, folder: Path
) -> None:
    (folder / "own.toml").write_text(OWN)
    flags = ["--log-file", "zibai.log", *(["--logging-config-filepath", "own.toml"] if own else [])]
    path = folder / ("access.log" if own else "zibai.log")
    with daemon(folder, *flags, *processes, *backend, app="background:echo") as pid:
        with Load(port(folder / "zibai.log"), 3) as load:
            for number in range(5):
                load.wait_for(40)
                path.rename(folder / f"moved.{number}")
                os.kill(pid, signal.SIGUSR1)
                # A process that has not heard of it writes to the moved one, which is not lost; but all have to hear.
                wait_for(lambda: path.exists() and not has_open(pid, "moved."))
            load.wait_for(40)
        assert load.wrong == []
    found = "".join(file.read_text() for file in [path, *folder.glob("moved.*")])
    assert len(re.findall(r'HTTP/1\.1" 200', found)) == load.answered
    assert 'HTTP/1.1" 200' in path.read_text()


def has_open(pid: int, name: str) -> bool:
    """Whether a server, or one of its workers, has a file with such a name open; where the system tells."""
    for process in [pid, *(child for child, _ in child_processes(pid))]:
        for link in Path(f"/proc/{process}/fd").glob("*"):
            try:
                if link.readlink().name.startswith(name):
                    return True
            except OSError:
                continue  # closed since
    return False


@pytest.mark.daily("greenlets")
def test_a_worker_hears_it_itself(backend: tuple[str, ...], folder: Path) -> None:
    log = folder / "zibai.log"
    with daemon(folder, "--log-file", "zibai.log", "-p", "1", *backend) as pid:
        worker = next(child for child, command in child_processes(pid) if "resource_tracker" not in command)
        where = port(log)
        log.rename(folder / "moved")
        os.kill(worker, signal.SIGUSR1)
        wait_for(log.exists)
        assert get(where, "/hello").status == 200
        wait_for(lambda: "GET /hello" in log.read_text())


@pytest.mark.daily("threads")
def test_rotation_by_the_workers_under_load(backend: tuple[str, ...], folder: Path) -> None:
    flags = ["--log-file", "zibai.log", "--log-max-bytes", "4000", "--log-backups", "1000"]
    with daemon(folder, *flags, "-p", "2", *backend, app="background:echo"):
        with Load(port(folder / "zibai.log"), 3) as load:
            load.wait_for(200)
        assert load.wrong == []
    found = [file.read_text() for file in folder.glob("zibai.log*")]
    assert len(found) > 4
    assert len(re.findall(r'HTTP/1\.1" 200', "".join(found))) == load.answered


def test_a_log_file_that_cannot_be_written(folder: Path) -> None:
    done = run("plain:app", "--daemon", "--log-file", str(folder / "no" / "log"))
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert done.stderr.startswith("zibai: error: --log-file: ")


# --- another user -------------------------------------------------------------------------------------

root = pytest.mark.skipif(sys.platform == "win32" or os.geteuid() != 0, reason="only root can become somebody else")


@pytest.fixture
def public() -> Iterator[Path]:
    """A directory that everybody may enter, with an application; those of pytest are root's."""
    path = Path(tempfile.mkdtemp())
    path.chmod(0o755)
    (path / "background.py").write_text(APP)
    yield path
    end_what_is_left(path)
    shutil.rmtree(path)


@pytest.fixture
def python(public: Path) -> list[str]:
    """A command that the user nobody can run: this Python, or the system's with what it needs."""
    modules = [Path(find_spec(name).submodule_search_locations[0]) for name in ("zibai", "h11")]
    for module in modules:
        shutil.copytree(module, public / "lib" / module.name, ignore=shutil.ignore_patterns("__pycache__"))
    for candidate in (sys.executable, "/usr/bin/python3"):
        check = [candidate, "-c", "import sys, ctypes; sys.exit(sys.version_info < (3, 11))"]
        try:
            if run_command(check, user="nobody", group="nogroup", cwd="/", env={}, check=False).returncode == 0:
                return [candidate, "-m", "zibai"]
        except OSError:
            continue
    pytest.skip("there is no Python that the user nobody may run")


def ids(pid: int) -> list[list[int]]:
    """User ids, group ids and supplementary groups of a process."""
    fields = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
    return [sorted(set(map(int, fields[name].split()))) for name in ("Uid", "Gid", "Groups")]


@root
@pytest.mark.daily("user-workers", "number and group-single", "unknown numbers-single", "group-single")
@pytest.mark.skipif(sys.platform != "linux", reason="asks /proc")
@PROCESSES
@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        (["--user", "nobody"], [[65534], [65534], [65534]]),
        (["--user", "65534", "--group", "daemon"], [[65534], [1], [1]]),
        (["--user", "54321", "--group", "54322"], [[54321], [54322], [54322]]),
        (["--group", "daemon"], [[0], [1], [1]]),
    ],
    ids=["user", "number and group", "unknown numbers", "group"],
)
def test_it_serves_as_another_user(
    public: Path, python: list[str], processes: tuple[str, ...], flags: list[str], expected: list[list[int]]
) -> None:
    uid, gid = expected[0][0], expected[1][0]
    (public / "run").mkdir(mode=0o755)  # root's, as /run is
    files = ["--pid-file", "run/pid", "--control", "run/board", "--log-file", "run/log"]
    done = run_command(
        [*python, "background:app", "--daemon", "-l", "127.0.0.1:0", "unix:run/sock", *files, *flags, *processes],
        cwd=public, env={"PYTHONPATH": str(public / "lib"), "HOME": "/root"},
        capture_output=True, text=True, check=False, timeout=DEADLINE,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    pid = int((public / "run" / "pid").read_text())
    try:
        everybody = [pid, *(child for child, _ in child_processes(pid))]
        assert len(everybody) == (4 if processes else 1)  # with the helper of multiprocessing
        assert [ids(each) for each in everybody] == [expected] * len(everybody)
        for name in ("pid", "board", "log", "sock"):
            status = (public / "run" / name).stat()
            assert (name, status.st_uid, status.st_gid) == (name, uid, gid)
        assert get(public / "run" / "sock").status == 200
        # It can be written still, but not made anew in a directory of root's.
        os.kill(pid, signal.SIGUSR1)
        assert get(port(public / "run" / "log")).status == 200
    finally:
        os.kill(pid, signal.SIGTERM)
        wait_for(lambda: not alive(pid))
    assert (public / "run" / "log").read_text().count('" 200') == 2
    if uid:
        assert (public / "run" / "pid").read_text() == ""
    else:
        assert not (public / "run" / "pid").exists()


@root
@pytest.mark.skipif(sys.platform != "linux", reason="asks /proc")
def test_another_user_does_not_take_the_group_of_a_socket_along(public: Path, python: list[str]) -> None:
    (public / "run").mkdir()
    sockets = [public / "run" / name for name in "ab"]
    flags = ["--unix-socket-perms", "660", "--unix-socket-group", "54321"]
    for path, more, group in zip(sockets, ([], flags), (65534, 54321), strict=True):
        command = [*python, "background:app", "--user", "nobody", "--listen", f"unix:{path}", *more]
        env = {"PYTHONPATH": str(public / "lib")}
        with Server(None, listen=None, command=command, cwd=public, env=env) as server:
            assert get(path).status == 200
            found = path.stat()
            assert (found.st_uid, found.st_gid, found.st_mode & 0o777) == (65534, group, 0o660 if more else 0o600)
            assert server.stop() == 0


@root
@PROCESSES
@pytest.mark.parametrize("target", ["there", "missing"])
@pytest.mark.daily("there-workers", "missing-single")
def test_root_follows_no_link_in_the_place_of_the_log_file(
    public: Path, python: list[str], processes: tuple[str, ...], target: str
) -> None:
    """The directory is the user's, who has put a link there to a file of root's."""
    secret, folder = public / "secret", public / "theirs"
    if target == "there":
        secret.write_text("of root\n")
    folder.mkdir()
    os.chown(folder, 65534, 65534)
    (folder / "log").symlink_to(secret)
    done = run_command(
        [*python, "background:app", "-l", "127.0.0.1:0", "--user", "nobody", "--log-file", "theirs/log", *processes],
        cwd=public, env={"PYTHONPATH": str(public / "lib")},
        capture_output=True, text=True, check=False, timeout=DEADLINE,
    )  # fmt: skip
    assert done.returncode == 2
    assert done.stderr.endswith("zibai: error: --log-file: 'theirs/log' cannot be written: Permission denied\n")
    assert "listening on " in done.stderr, "what was held back is told"
    assert (secret.read_text() if secret.exists() else None) == ("of root\n" if target == "there" else None)


@root
@PROCESSES
@pytest.mark.daily("log-workers")
@pytest.mark.parametrize("what", ["log", "pid", "control"])
def test_root_makes_no_file_through_a_link_of_the_user(
    public: Path, python: list[str], processes: tuple[str, ...], what: str
) -> None:
    """In the place of a directory."""
    of_root, theirs = public / "of_root", public / "theirs"
    of_root.mkdir()
    (theirs / "true").mkdir(parents=True)
    for folder in (theirs, theirs / "true"):
        os.chown(folder, 65534, 65534)
    (theirs / "link").symlink_to(of_root)
    command = [*python, "background:app", "-l", "127.0.0.1:0", "--user", "nobody", *processes]
    flag = {"log": "--log-file", "pid": "--pid-file", "control": "--control"}[what]
    for folder in ("link", "true"):
        file = theirs / folder / "file"
        with Popen([*command, flag, str(file)], cwd=public, env={"PYTHONPATH": str(public / "lib")}, stderr=PIPE) as it:
            assert it.stderr is not None
            too_late = threading.Timer(DEADLINE, it.kill)
            too_late.start()
            try:
                if folder == "true":
                    wait_for(file.exists)
                    assert file.stat().st_uid == 65534
                elif what == "control":
                    assert any(b"no file for zibai ps: --control: Permission denied" in line for line in it.stderr)
                else:
                    assert it.wait(DEADLINE) in (1, 2)
            finally:
                too_late.cancel()
                it.terminate()
                it.communicate(timeout=DEADLINE)
    assert list(of_root.iterdir()) == []


@root
@PROCESSES
@pytest.mark.daily("workers")
def test_a_directory_that_the_user_may_not_enter(public: Path, python: list[str], processes: tuple[str, ...]) -> None:
    """As where root starts the server at home: an application that is elsewhere is served."""
    of_root = public / "of_root"
    of_root.mkdir(mode=0o700)
    (of_root / "mine.py").write_text(APP)
    flags = ["--user", "nobody", *processes]
    lib = {"PYTHONPATH": os.pathsep.join((str(public / "lib"), str(public)))}
    told = f"user nobody may not enter the directory {of_root}: nothing is imported from there"
    with Server("background:app", *flags, cwd=of_root, command=python, env=lib) as server:
        assert get(server.port).status == 200
        assert server.wait_for_log(told)
    done = run_command(
        [*python, "mine:app", "-l", "127.0.0.1:0", *flags], cwd=of_root, env=lib,
        capture_output=True, text=True, check=False, timeout=DEADLINE,
    )  # fmt: skip
    assert done.returncode == 3
    assert told in done.stderr
    assert "zibai: error: no module named 'mine'" in done.stderr


@pytest.mark.daily("single")
@root
@PROCESSES
def test_a_configuration_of_the_users_is_read_and_opened_by_the_user(
    public: Path, python: list[str], processes: tuple[str, ...]
) -> None:
    """Its classes are the user's code, so root does not import them."""
    theirs = public / "theirs"
    theirs.mkdir()
    os.chown(theirs, 65534, 65534)
    (public / "ids.py").write_text("import logging, os\nclass Handler(logging.FileHandler): pass\n"
                                   "open(f'theirs/imported-by-{os.geteuid()}', 'w').close()\n")  # fmt: skip
    config = '{"handlers": {"access": {"class": "ids.Handler", "filename": "theirs/log"}}}'
    (public / "log.json").write_text(config)
    flags = ["--user", "nobody", "--logging-config-filepath", "log.json", *processes]
    with Server(
        "background:app", *flags, cwd=public, command=python, env={"PYTHONPATH": str(public / "lib")}
    ) as server:
        assert get(server.port).status == 200
        wait_for(lambda: '"GET / HTTP/1.1" 200' in (theirs / "log").read_text())
    assert [path.name for path in theirs.glob("imported*")] == ["imported-by-65534"]
    assert (theirs / "log").stat().st_uid == 65534


@root
@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="asks /proc")
def test_an_upgrade_needs_no_root(public: Path, python: list[str]) -> None:
    """The same command again, by the user who serves: the port and the directory of the pid file are still root's."""
    (public / "run").mkdir(mode=0o755)
    pid_file, log = public / "run" / "pid", public / "run" / "log"
    flags = ["--user", "nobody", "--pid-file", "run/pid", "--log-file", "run/log", "-p", "1", "-l", "127.0.0.1:0"]
    done = run_command(
        [*python, "background:app", "--daemon", *flags],
        cwd=public, env={"PYTHONPATH": str(public / "lib")},
        capture_output=True, text=True, check=False, timeout=DEADLINE,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    old = int(pid_file.read_text())
    os.kill(old, signal.SIGUSR2)
    new = wait_for(lambda: (pid := int(pid_file.read_text() or old)) != old and pid)
    try:
        wait_for(lambda: f"the new server serves, process {new}" in log.read_text())
        os.kill(old, signal.SIGTERM)
        wait_for(lambda: not alive(old))
        assert ids(new) == [[65534], [65534], [65534]]
        assert get(port(log)).status == 200
        os.kill(new, signal.SIGTERM)
        wait_for(lambda: not alive(new))
        assert pid_file.read_text() == ""
    finally:
        for pid in filter(alive, [old, new]):
            os.kill(pid, KILL)


@root
@pytest.mark.parametrize(
    ("flags", "error"),
    [
        (["--user", "no-such-user"], "--user: there is no user 'no-such-user'"),
        (["--group", "no-such-group"], "--group: there is no group 'no-such-group'"),
        (["--user", "54321"], "--user: 54321 has no entry in the system's list of users; name its --group too"),
    ],
)
def test_nobody_who_could_be_meant(flags: list[str], error: str) -> None:
    done = run("plain:app", *flags)
    assert (done.returncode, done.stderr) == (2, f"zibai: error: {error}\n")


@root
def test_only_root_becomes_somebody_else(public: Path, python: list[str]) -> None:
    done = run_command(
        [*python, "background:app", "--user", "daemon"],
        cwd=public, env={"PYTHONPATH": str(public / "lib")}, user="nobody", group="nogroup", extra_groups=[],
        capture_output=True, text=True, check=False, timeout=DEADLINE,
    )  # fmt: skip
    error = "zibai: error: no permission to become user daemon; start the server as root\n"
    assert (done.returncode, done.stderr) == (1, error)


@pytest.mark.daily("[1]")
@root
@pytest.mark.parametrize("processes", ["0", "1"])
def test_a_certificate_that_only_root_may_read(
    public: Path, python: list[str], credentials: Credentials, processes: str
) -> None:
    shutil.copy(credentials.server, public / "site.pem")
    (public / "site.pem").chmod(0o600)
    done = run_command(
        [*python, "background:app", "-l", "127.0.0.1:0", "-p", processes, "--user", "nobody", "--certfile", "site.pem"],
        cwd=public, env={"PYTHONPATH": str(public / "lib")}, capture_output=True, text=True, check=False,
        timeout=DEADLINE,
    )  # fmt: skip
    assert (done.returncode, done.stderr.splitlines()[-1]) == (
        2,
        "zibai: error: --certfile: 'site.pem': Permission denied",
    )


# --- titles -------------------------------------------------------------------------------------------


@pytest.mark.skipif(sys.platform != "linux" or find_spec("setproctitle") is None, reason="needs setproctitle")
def test_titles() -> None:
    with Server("plain:app", "-p", "1") as server:
        server.wait_for_log("worker ready")

        def title(pid: int) -> str:
            return Path(f"/proc/{pid}/cmdline").read_text().rstrip("\0")

        assert title(server.pid) == "zibai: parent [plain:app]"
        worker = int(get(server.port, "/pid").body)
        assert title(worker) == "zibai: worker [plain:app]"
    with Server("plain:app") as server:
        server.wait_for_log("worker ready")
        assert title(server.pid) == "zibai: single [plain:app]"
