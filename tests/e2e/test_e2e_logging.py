"""A log that fails costs no response and no process, whatever the user or the system does to it; by the command."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pytest

from support import (
    DEADLINE,
    GRACEFUL,
    KILL,
    ZIBAI,
    Client,
    Server,
    child_processes,
    environment,
    get,
    open_files,
    run,
    wait_for,
)

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

posix = pytest.mark.skipif(sys.platform == "win32", reason="POSIX only")
PROCESSES = pytest.mark.parametrize("processes", [(), ("-p", "2")], ids=["single", "workers"])

APP = """
import logging, os, stat, sys, time
def app(environ, start_response):
    print("printed", file=sys.stderr, flush=True)
    environ["wsgi.errors"].write("an error\\n")
    os.write(2, b"raw\\n")
    kinds = [stat.S_ISSOCK(os.fstat(fd).st_mode) for fd in (0, 1, 2)]
    if environ["PATH_INFO"] == "/fail":
        raise RuntimeError("of the application")
    start_response("200 OK", [("X-Sockets", str(sum(kinds)))])
    return [b"x" * 1_000_000]
def no_stderr():
    sys.stderr.close()
    def app(environ, start_response):
        if environ["PATH_INFO"] == "/fail":
            raise RuntimeError("of the application")
        start_response("200 OK", [])
        return [b"x" * 1_000_000]
    return app
def gone():
    sys.stderr = sys.__stderr__ = sys.stdout = None
    return lambda environ, start_response: start_response("200 OK", []) and [b"ok"]
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "noisy.py").write_text(APP)
    return tmp_path


@contextmanager
def closed(folder: Path, which: str, *flags: str) -> Iterator[Path]:
    """A server that is started without some of its standard descriptors: its unix socket."""
    path = folder / "s"
    command = ["sh", "-c", f'exec "$@" {which}', "sh", *ZIBAI, "noisy:app", "--listen", f"unix:{path}", *flags]
    process = subprocess.Popen(command, cwd=folder, env=environment(), start_new_session=True)
    try:
        wait_for(lambda: process.poll() is not None or listens(path))
        yield path
        process.send_signal(GRACEFUL)
        assert process.wait(DEADLINE) == 0
    finally:
        if process.poll() is None:
            os.killpg(process.pid, KILL)
            process.wait(DEADLINE)


def listens(path: Path) -> bool:
    try:
        Client(path).close()
    except (FileNotFoundError, ConnectionRefusedError):
        return False
    return True


@posix
@pytest.mark.daily("threads--stderr", "threads--p 2-all", "greenlets--p 2-stderr", "threads--p 1 --capture-output-all")
@pytest.mark.parametrize("which", ["2>&-", "<&- >&- 2>&-"], ids=["stderr", "all three"])
@pytest.mark.parametrize("flags", ["", "-p 2", "-p 1 --capture-output"])
def test_descriptors_that_are_closed(folder: Path, backend: tuple[str, ...], which: str, flags: str) -> None:
    with closed(folder, which, *flags.split(), *backend) as path:
        with Client(path) as client:
            for _ in range(5):
                response = client.get()
                assert (response.status, len(response.body)) == (200, 1_000_000)
                assert response.headers["X-Sockets"] == "0"
            assert client.get("/fail").status == 500
            assert client.get().status == 200


@pytest.mark.daily("threads-no_stderr", "greenlets-no_stderr-single", "threads-gone-single")
@PROCESSES
@pytest.mark.parametrize("app", ["no_stderr", "gone"])
def test_an_application_that_closes_its_stderr(
    folder: Path, backend: tuple[str, ...], processes: tuple[str, ...], app: str
) -> None:
    with Server(f"noisy:{app}", "--call", *processes, *backend, cwd=folder) as server:
        with Client(server.port) as client:
            for _ in range(5):
                assert client.get().status == 200
            if app == "no_stderr":
                assert client.get("/fail").status == 500
        # The descriptor is open still, so the log goes on.
        server.wait_for_log('"GET / HTTP/1.1" 200')
        if app == "no_stderr":
            server.wait_for_log("RuntimeError: of the application")


BAD = """
import logging
class Weird(BaseException): pass
ERRORS = {"exception": ZeroDivisionError, "base": Weird, "exit": SystemExit}
def fail(record):
    raise ERRORS[KIND]("of the log")
class Filter(logging.Filter):
    def filter(self, record): fail(record)
class Reads(logging.Filter):
    def filter(self, record): return record.NOT_THERE != "x"
class Handler(logging.StreamHandler):
    def emit(self, record): fail(record)
class Formats(logging.Formatter):
    def format(self, record): fail(record)
"""
PARTS = ["filter", "reads", "handler", "formatter"]


@pytest.mark.daily("threads-filter-exit", "reads-exception", "greenlets-handler-base", "threads-formatter-base")
@pytest.mark.parametrize("kind", ["exception", "base", "exit"])
@pytest.mark.parametrize("part", PARTS)
def test_a_part_of_the_log_that_raises(folder: Path, backend: tuple[str, ...], part: str, kind: str) -> None:
    """More often than there are runners."""
    (folder / "badlog.py").write_text(BAD.replace("KIND", repr(kind)))
    config: dict[str, Any] = {"loggers": {"zibai.debug": {"level": "DEBUG"}}}
    names = ("access", "error")
    handlers: dict[str, Any] = {name: {} for name in names}
    match part:
        case "filter" | "reads":
            config["filters"] = {"f": {"()": f"badlog.{part.title()}"}}
            handlers = {name: {"filters": ["f"]} for name in names}
        case "handler":
            handlers = {name: {"class": "badlog.Handler"} for name in names}
        case "formatter":
            config["formatters"] = {name: {"class": "badlog.Formats"} for name in names}
    (folder / "log.json").write_text(json.dumps({**config, "handlers": handlers}))
    flags = ("--logging-config-filepath", "log.json", "--max-workers", "2", "-p", "1", *backend)
    with Server("noisy:app", *flags, cwd=folder) as server:
        for _ in range(4):
            assert get(server.port, "/fail").status == 500
            assert len(get(server.port).body) == 1_000_000
        # What a formatter raises is told by logging itself, if it is an exception of the usual kind.
        server.wait_for_log("Logging error" if (part, kind) == ("formatter", "exception") else "a record is lost")
        assert get(server.port).status == 200


# --- one clock ------------------------------------------------------------------------------------------

CLOCK = """
import os, time
os.environ["TZ"] = "America/New_York"
time.tzset()
def app(environ, start_response):
    start_response("200 OK", [])
    return [time.strftime("%z").encode()]
"""


@posix
@pytest.mark.parametrize("preload", [(), ("--preload",)], ids=["spawned", "preload"])
def test_parent_and_workers_have_one_clock(folder: Path, preload: tuple[str, ...]) -> None:
    """Also where the application sets the time zone of its process, as Django does."""
    (folder / "clock.py").write_text(CLOCK)
    with Server("clock:app", "-p", "1", *preload, cwd=folder, env={"TZ": "Asia/Kolkata"}) as server:
        assert get(server.port).body in {b"-0500", b"-0400"}
        server.wait_for_log('"GET / HTTP/1.1" 200')
        server.stop()
    lines = [line for line in server.log if " INFO " in line]
    assert len(lines) > 3
    assert {line.split()[2] for line in lines} == {"+0530"}
    hours = {line.split()[1][:2] for line in lines}
    assert len(hours) <= 2  # the test may run across the hour


# --- the application's own configuration ----------------------------------------------------------------

CONFIGURES = """
import logging.config, logging, queue, logging.handlers
own = logging.FileHandler("own.log")
line = queue.SimpleQueue()
queued = logging.FileHandler("queued.log")
listener = logging.handlers.QueueListener(line, queued)
listener.start()
def configure(**more):
    logging.config.dictConfig({"version": 1, **more})
mine = logging.getLogger("mine")
mine.setLevel("INFO")
configure(disable_existing_loggers=False)
mine.handlers = [own, logging.handlers.QueueHandler(line)]
def app(environ, start_response):
    if environ["PATH_INFO"] == "/configure":
        configure()
    if environ["PATH_INFO"] == "/fail":
        raise RuntimeError("of the application")
    mine.disabled = False
    mine.info("of mine")
    start_response("200 OK", [])
    return [b"ok"]
configure()
"""
FILES = ["server.log", "own.log", "queued.log"]


def moved(folder: Path, path: str) -> str:
    return (folder / f"{path}.1").read_text()


@posix
@pytest.mark.daily("threads-single", "greenlets-workers")
@pytest.mark.skipif(sys.platform != "linux", reason="asks /proc")
@PROCESSES
def test_sigusr1_reopens_what_a_dictconfig_has_forgotten(
    folder: Path, processes: tuple[str, ...], backend: tuple[str, ...]
) -> None:
    (folder / "configures.py").write_text(CONFIGURES)
    with quiet_server(folder, "configures:app", *processes, *backend) as (process, port):
        get(port)
        for name in FILES:
            wait_for(lambda name=name: (folder / name).read_text())
            (folder / name).rename(folder / f"{name}.1")
        process.send_signal(signal.SIGUSR1)
        everybody = [process.pid, *(pid for pid, _ in child_processes(process.pid))]
        wait_for(lambda: not any(path.endswith(".log.1") for pid in everybody for path in open_files(pid)))
        before = {name: moved(folder, name) for name in FILES}
        for _ in range(10):
            get(port)
        for name in FILES:
            wait_for(lambda name=name: (folder / name).read_text().count("\n") >= 10)
        assert {name: moved(folder, name) for name in FILES} == before


@contextmanager
def quiet_server(folder: Path, app: str, *flags: str) -> Iterator[tuple[subprocess.Popen[bytes], int]]:
    """One that logs to server.log: the process, and its port."""
    log = folder / "server.log"
    args = [*ZIBAI, app, "--listen", "127.0.0.1:0", "--log-file", str(log), *flags]
    process = subprocess.Popen(args, cwd=folder, env=environment(), start_new_session=True)
    try:
        wait_for(lambda: log.exists() and log.read_text().count("worker ready") >= (2 if "2" in flags else 1))
        yield process, int(re.findall(r"http://127\.0\.0\.1:(\d+)", log.read_text())[0])
        process.send_signal(GRACEFUL)
        assert process.wait(DEADLINE) == 0
    finally:
        if process.poll() is None:
            os.killpg(process.pid, KILL)
            process.wait(DEADLINE)


@pytest.mark.daily("workers")
@PROCESSES
def test_a_dictconfig_that_disables_our_loggers(folder: Path, processes: tuple[str, ...]) -> None:
    """When it is imported, and again later."""
    (folder / "configures.py").write_text(CONFIGURES)
    with Server("configures:app", *processes, cwd=folder) as server:
        for target in ("/first", "/configure", "/second"):
            get(server.port, target)
            server.wait_for_log(f'"GET {target} HTTP/1.1" 200')
        get(server.port, "/fail")
        server.wait_for_log("RuntimeError: of the application")


# --- fields ---------------------------------------------------------------------------------------------

JSON = """
import json, logging
class Json(logging.Formatter):
    def format(self, record):
        plain = logging.makeLogRecord({}).__dict__
        fields = {name: value for name, value in record.__dict__.items() if name not in plain}
        return json.dumps(fields | {"level": record.levelname, "message": record.getMessage()})
class NotHealth(logging.Filter):
    def filter(self, record):
        return record.PATH_INFO != "/health"
"""


@pytest.mark.daily("threads")
def test_a_formatter_and_a_filter_of_the_project(folder: Path, backend: tuple[str, ...]) -> None:
    """They can be named, and find the fields of the request."""
    (folder / "project").mkdir()
    (folder / "project" / "__init__.py").write_text(JSON)
    config = {
        "formatters": {"access": {"()": "project.Json"}},
        "filters": {"health": {"()": "project.NotHealth"}},
        "handlers": {"access": {"filters": ["health"]}},
    }
    (folder / "log.json").write_text(json.dumps(config))
    flags = ("--chdir", str(folder), "--logging-config-filepath", str(folder / "log.json"), "-p", "1", *backend)
    with Server("noisy:app", *flags) as server:
        get(server.port, "/health")
        get(server.port, "/a?b=c", 'User-Agent: a "b"', "Cookie: secret")
        line = server.wait_for_log('"message"')
    found = json.loads(line)
    assert {name: found[name] for name in ("REMOTE_ADDR", "REQUEST_METHOD", "REQUEST_URI", "PATH_INFO", "status")} == {
        "REMOTE_ADDR": "127.0.0.1",
        "REQUEST_METHOD": "GET",
        "REQUEST_URI": "/a?b=c",
        "PATH_INFO": "/a",
        "status": 200,
    }
    assert found["HTTP_USER_AGENT"] == r"a \x22b\x22"
    assert "secret" not in line
    assert not any("/health" in each for each in server.log)


# --- an interpreter that cannot format an exception -----------------------------------------------------

BREAKS = """
import traceback
class Weird(BaseException): pass
def fail(*args, **kwargs):
    raise Weird("an import of the user's code, as Python 3.15 tries it")
traceback.TracebackException.__init__ = fail
def app(environ, start_response):
    raise RuntimeError("of the application")
def broken():
    raise RuntimeError("of the factory")
"""


@pytest.mark.daily("greenlets")
def test_an_exception_that_cannot_be_formatted_is_logged(folder: Path, backend: tuple[str, ...]) -> None:
    """More often than there are runners, and each time."""
    (folder / "breaks.py").write_text(BREAKS)
    with Server("breaks:app", "--max-workers", "2", *backend, cwd=folder) as server:
        for _ in range(5):
            assert get(server.port).status == 500
        wait_for(lambda: server.log.count("  RuntimeError: of the application") == 5)
        assert sum('ERROR 127.0.0.1 "GET / HTTP/1.1" 500' in line for line in server.log) == 5


def test_an_import_whose_exception_cannot_be_formatted(folder: Path) -> None:
    (folder / "breaks.py").write_text(BREAKS)
    done = run("breaks:broken", "--call", "--listen", "127.0.0.1:0", cwd=folder)
    assert done.returncode == 3
    assert done.stderr.endswith("error: calling 'breaks:broken' failed: RuntimeError: of the factory\n")
    assert "in broken" in done.stderr
    assert "zibai/importer.py" not in done.stderr


@pytest.mark.daily("threads")
@pytest.mark.skipif(sys.platform != "linux", reason="only Linux changes the limits of another process")
def test_a_full_disk_under_an_access_log_is_told_in_a_line(backend: tuple[str, ...], folder: Path) -> None:
    import resource

    def limit(size: int) -> None:
        resource.prlimit(server.pid, resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))

    path = folder / "access.log"
    (folder / "quiet.py").write_text(
        "def app(environ, start_response): return start_response('200 OK', []) and [b'ok']"
    )
    with Server("quiet:app", "-p", "0", "--access-log", str(path), *backend, cwd=folder) as server:
        assert get(server.port, "/before").status == 200
        wait_for(lambda: path.stat().st_size)
        limit(path.stat().st_size + 30)
        with Client(server.port) as client:
            for _ in range(50):
                assert client.get().status == 200
        server.wait_for_log(f" ERROR {path} cannot be written: File too large; 1 record is lost")
        limit(resource.RLIM_INFINITY)
        assert get(server.port, "/after").status == 200
        line = server.wait_for_log("access.log could not be written for a while (File too large), so ")
        assert not [each for each in server.log if "Traceback" in each or "Logging error" in each]
    missing = int(line.split()[-4])
    before, cut, *others, after = path.read_text(encoding="ascii").splitlines()
    assert '"GET /before HTTP/1.1" 200' in before
    assert len(cut) == 30
    # A record comes after its response, so the last one may have found room.
    assert missing + len(others) == 50
    assert all('"GET / HTTP/1.1" 200' in each for each in others)
    assert '"GET /after HTTP/1.1" 200' in after


@pytest.mark.daily("threads")
@posix
@pytest.mark.parametrize("processes", [0, 1])
def test_a_pipe_is_a_log(backend: tuple[str, ...], folder: Path, processes: int) -> None:
    """Its reader is there from the beginning to the end: it would leave when the last writer closes the pipe."""
    pipe = folder / "pipe"
    os.mkfifo(pipe)
    app = "def app(environ, start_response): return start_response('200 OK', []) and [b'ok']"
    (folder / "quiet.py").write_text(app, encoding="ascii")
    with subprocess.Popen(["cat", pipe], stdout=subprocess.PIPE, text=True) as reader:
        flags = ("-p", str(processes), "--access-log", str(pipe))
        with Server("quiet:app", *flags, *backend, cwd=folder) as server:
            assert get(server.port, "/read").status == 200
            assert server.stop() == 0
        out, _ = reader.communicate(timeout=DEADLINE)
    assert '"GET /read HTTP/1.1" 200' in out
    assert not [line for line in server.log if "cannot be written" in line]
