"""What workers print: lines, a log that is stuck, and real workers."""

from __future__ import annotations

import logging
import os
import re
import subprocess
import sys
import threading
from typing import TYPE_CHECKING

import pytest

from zibai.logger import logger, output_logger
from zibai.supervise import output
from zibai.supervise.output import LINE_LENGTH, Collector, Lines

from support import DEADLINE, Server, alive, environment, get, wait_for

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

posix = pytest.mark.skipif(sys.platform == "win32", reason="POSIX")


@pytest.mark.parametrize(
    ("data", "lines"),
    [
        (b"one\ntwo\r\n\nthree", ["one", "two", "", "three"]),
        ("ü€\n".encode(), ["ü€"]),
        (b"\xff\xc3\n\xe2\x82", [r"\xff\xc3", r"\xe2\x82"]),
        (b"\x1b[31mred\x07\n1%\r2%\n", [r"\x1b[31mred\x07", r"1%\r2%"]),
        ("a\tb\\ \u2028c\u202ed\x85\n".encode(), ["a\tb\\ \\u2028c\\u202ed\\x85"]),
        (b"x" * (2 * LINE_LENGTH + 5) + b"\ny", ["x" * LINE_LENGTH, "x" * LINE_LENGTH, "xxxxx", "y"]),
        (b"x" * LINE_LENGTH + b"\n", ["x" * LINE_LENGTH]),
        (b"", []),
    ],
    ids=["ends", "utf-8", "bytes", "controls", "unicode", "long", "exactly", "nothing"],
)
def test_lines_however_they_are_cut(data: bytes, lines: list[str]) -> None:
    for step in (1, 2, 3, 1000, len(data) + 1):
        cutter = Lines()
        found = [line for start in range(0, len(data), step) for line in cutter.feed(data[start : start + step])]
        found += cutter.feed(b"")
        assert found == lines, step


def test_a_line_without_an_end_does_not_wait_for_it() -> None:
    cutter = Lines()
    assert cutter.feed(b"x" * (LINE_LENGTH + 1)) == ["x" * LINE_LENGTH]
    assert cutter.feed(b"") == ["x"]


class Log(logging.Handler):
    """A log that takes lines while it is open."""

    def __init__(self) -> None:
        super().__init__()
        self.records: list[logging.LogRecord] = []
        self.open = threading.Event()
        self.entered = threading.Event()

    def emit(self, record: logging.LogRecord) -> None:
        self.entered.set()
        self.open.wait(20)
        self.records.append(record)

    @property
    def lines(self) -> list[str]:
        return [record.getMessage() for record in self.records]


@pytest.fixture
def log(monkeypatch: pytest.MonkeyPatch) -> Iterator[Log]:
    handler = Log()
    monkeypatch.setattr(output_logger, "propagate", False)
    monkeypatch.setattr(output_logger, "level", logging.INFO)
    monkeypatch.setattr(output_logger, "handlers", [handler])
    output_logger._cache.clear()  # type: ignore[attr-defined]
    yield handler
    handler.open.set()


def attached(collector: Collector, pid: int = 42) -> int:
    """The writing end of a pipe."""
    reader, outlet = collector.open()
    collector.attach(reader, lambda: pid)
    return outlet._fd


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is lost because the machine is slow."""
    monkeypatch.setattr(output, "LOG_TIMEOUT", DEADLINE)


@pytest.mark.usefixtures("patient")
def test_lines_have_the_pid_of_their_worker_and_the_last_one_needs_no_end(log: Log) -> None:
    log.open.set()
    collector = Collector()
    for pid in (41, 42):
        fd = attached(collector, pid)
        os.write(fd, b"whole\nbroken off")
        os.close(fd)
    collector.close()
    assert sorted((record.process, record.getMessage()) for record in log.records) == [
        (41, "broken off"),
        (41, "whole"),
        (42, "broken off"),
        (42, "whole"),
    ]


def test_a_log_that_takes_nothing_blocks_no_worker_and_what_is_lost_is_counted(
    log: Log, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = Log()
    told.open.set()
    monkeypatch.setattr(logger, "handlers", [told])
    monkeypatch.setattr(logger, "propagate", False)
    monkeypatch.setattr(output, "LOG_TIMEOUT", 0.1)
    monkeypatch.setattr(output, "LOG_BUFFER", 1000)
    collector = Collector()
    fd = attached(collector)
    # Far more than the pipe and the queue hold. The lines are long, so that they are few: in the end each one is handed
    # from thread to thread, which takes milliseconds on a busy machine.
    for number in range(2000):
        os.write(fd, b"line %d %s\n" % (number, b"x" * 100))
    log.open.set()

    def lost() -> int:
        """More than one time, where the writer has to wait for the processor."""
        text = "\n".join(told.lines)
        return sum(int(count) for count in re.findall("([0-9]+) lines of the workers' output are lost", text))

    wait_for(lambda: len(log.records) + lost() == 2000)
    assert lost()
    os.write(fd, b"afterwards\n")
    os.close(fd)
    wait_for(lambda: log.lines[-1] == "afterwards")
    collector.close()
    assert len(log.lines) + lost() == 2001


@pytest.mark.usefixtures("patient")
def test_a_slow_log_loses_nothing(log: Log, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(output, "LOG_BUFFER", 100)
    log.open.set()
    collector = Collector()
    fd = attached(collector)
    os.write(fd, b"".join(b"line %d\n" % number for number in range(2000)))
    os.close(fd)
    collector.close()
    assert log.lines == [f"line {number}" for number in range(2000)]


def test_the_end_does_not_wait_for_a_child_that_lives_on(log: Log, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(output, "LOG_TIMEOUT", 0.1)
    log.open.set()
    collector = Collector()
    fd = attached(collector)
    os.write(fd, b"one\ntwo")
    wait_for(lambda: log.lines == ["one"])
    collector.close()
    os.close(fd)
    wait_for(lambda: not output._readers)


def test_a_worker_that_cannot_be_started_leaves_no_pipe() -> None:
    collector = Collector()
    reader, outlet = collector.open()
    fds = reader, outlet._fd
    collector.discard(reader, outlet)
    for fd in fds:
        with pytest.raises(OSError, match="ad file descriptor"):
            os.fstat(fd)


OUTLET = """
import os, sys
from zibai.supervise.output import Outlet
outlet = Outlet(int(sys.argv[1]))
print("before")
outlet.redirect()
print("\\u00fc from Python"); print("from stderr", file=sys.stderr); os.write(2, b"from C\\n")
os.system("echo from a child")
with outlet.uncaptured():
    kept = sys.stderr
print("for the log", file=kept, flush=True)
outlet.restore()
print("after")
"""


@posix
@pytest.mark.parametrize("locale", ["C", "C.UTF-8"])
def test_descriptors_of_a_worker(locale: str) -> None:
    reader, writer = os.pipe()
    command = [sys.executable, "-X", "utf8=0", "-c", OUTLET, str(writer)]
    env = environment({"LC_ALL": locale, "PYTHONCOERCECLOCALE": "0"})
    done = subprocess.run(command, pass_fds=[writer], env=env, capture_output=True, check=True)
    os.close(writer)
    with open(reader, "rb") as pipe:
        assert pipe.read().decode().splitlines() == ["ü from Python", "from stderr", "from C", "from a child"]
    assert done.stdout == b"before\nafter\n"
    assert done.stderr == b"for the log\n"


@posix
def test_closed_descriptors() -> None:
    """As a daemon may have them."""
    reader, writer = os.pipe()
    code = "import os, sys; from zibai.supervise.output import Outlet; o = Outlet(int(sys.argv[1]))\n"
    code += "os.close(1); os.close(2)\n"
    code += "o.redirect(); print('here'); o.restore(); print('gone')"
    subprocess.run([sys.executable, "-c", code, str(writer)], pass_fds=[writer], env=environment(), check=True)
    os.close(writer)
    with open(reader, "rb") as pipe:
        assert pipe.read() == b"here\n"


# ------------------------------------------------------------------------------------- the command


@posix
@pytest.mark.daily("threads")
def test_what_an_application_prints_is_in_the_log_and_the_log_of_its_worker_only_once(
    backend: tuple[str, ...], tmp_path: Path
) -> None:
    (tmp_path / "loud.py").write_text(
        "import ctypes, logging, os, sys\n"
        "def app(environ, start_response):\n"
        "    print('from Python')\n"
        "    print('2026-11-21 00:00:00 [1] ERROR forged\\x1b[2J', file=sys.stderr)\n"
        "    ctypes.CDLL(None).puts(b'from C'); ctypes.CDLL(None).fflush(None)\n"
        "    os.system('echo from a child')\n"
        "    logging.getLogger('zibai').warning('by the log')\n"
        "    if environ['PATH_INFO'] == '/die':\n"
        "        os.write(1, b'last words'); os._exit(7)\n"
        "    start_response('200 OK', [])\n"
        "    return [b'Hello']\n"
    )
    with Server("loud:app", "--capture-output", *backend, cwd=tmp_path) as server:
        server.wait_for_log("worker ready")
        (worker,) = server.children()
        assert get(server.port).body == b"Hello"
        for text in ("from Python", "2026-11-21 00:00:00 [1] ERROR forged\\x1b[2J", "from C", "from a child"):
            assert server.wait_for_log(text).partition(" [")[2] == f"{worker}] | {text}"
        assert " | " not in server.wait_for_log(f"[{worker}] WARNING by the log"), "it does not pass through the pipe"
        assert sum("by the log" in line for line in server.log) == 1
        with pytest.raises(EOFError):
            get(server.port, "/die")
        assert server.wait_for_log("last words").endswith(f"[{worker}] | last words")
        server.wait_for_log(f"worker {worker} ended with exit code 7")


@posix
def test_a_worker_whose_parent_is_gone_can_print(tmp_path: Path) -> None:
    (tmp_path / "loud.py").write_text(
        "def hook():\n    for number in range(20000): print('x' * 100)\n    open('done', 'w').close()\n"
        "def app(environ, start_response): pass\n"
    )
    flags = ("--capture-output", "--no-gevent", "--before-graceful-exit", "loud:hook")
    with Server("loud:app", *flags, cwd=tmp_path) as server:
        server.wait_for_log("worker ready")
        (worker,) = server.children()
        os.kill(server.pid, 9)
        wait_for(lambda: not alive(worker))
        assert (tmp_path / "done").exists()


@posix
@pytest.mark.daily("memory")
@pytest.mark.parametrize(
    "flags", [("--max-worker-memory", "120M"), ("--max-worker-descriptors", "150")], ids=["memory", "fds"]
)
def test_a_worker_that_takes_too_much_is_replaced(tmp_path: Path, flags: tuple[str, ...]) -> None:
    (tmp_path / "greedy.py").write_text(
        "import os\nkept = []\n"
        "def app(environ, start_response):\n"
        "    if environ['PATH_INFO'] == '/eat': kept.append([b'x' * 2**27, [os.dup(1) for _ in range(150)]])\n"
        "    start_response('200 OK', [])\n"
        "    return [str(os.getpid()).encode()]\n"
    )
    with Server("greedy:app", "--no-gevent", *flags, cwd=tmp_path) as server:
        server.wait_for_log("worker ready")
        greedy = int(get(server.port, "/eat").body)
        line = server.wait_for_log(f"replacing worker {greedy}: it has ")
        assert ("MiB of memory, and may have 120.0 MiB" if "memory" in flags[0] else "descriptors, and may") in line
        wait_for(lambda: greedy not in server.children())
        assert int(get(server.port).body) != greedy
        assert sum("replacing worker" in line for line in server.log) == 1
