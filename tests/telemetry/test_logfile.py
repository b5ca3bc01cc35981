"""The log file: whole records of many processes, rotated by any of them, and files that are moved away under it."""

from __future__ import annotations

import errno
import logging
import logging.handlers
import os
import queue
import re
import socket
import stat
import subprocess
import sys
import threading
import time
from collections import Counter
from contextlib import contextmanager
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

from zibai import logger as logger_module
from zibai.errors import UsageError
from zibai.logger import logger
from zibai.telemetry import logfile, logpath, losses, openfile
from zibai.telemetry.console import ConsoleHandler
from zibai.telemetry.logfile import LogFile

from support import DEADLINE, environment

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

posix = pytest.mark.skipif(sys.platform == "win32", reason="an open file cannot be renamed there")

WRITER = """
import sys
from logging import LogRecord
from zibai.telemetry.logfile import LogFile
path, name, count, size, backups = sys.argv[1], sys.argv[2], *map(int, sys.argv[3:])
handler = LogFile(path, size, backups)
print("ready", flush=True)
sys.stdin.readline()
for number in range(count):
    handler.handle(LogRecord("x", 20, "", 0, f"{name} {number} " + "x" * (number % 90) + " end", (), None))
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "zibai.log"


@contextmanager
def opened(path: Path, *limits: int) -> Iterator[LogFile]:
    handler = LogFile(str(path), *limits)
    try:
        yield handler
    finally:
        handler.close()


def write(handler: logging.Handler, text: str) -> None:
    handler.handle(logging.LogRecord("x", logging.INFO, "", 0, text, (), None))


def lines(folder: Path) -> list[str]:
    return [line for file in folder.glob("zibai.log*") for line in file.read_text(encoding="utf-8").splitlines()]


@posix
@pytest.mark.parametrize("moves", [False, True], ids=["rotated", "rotated and moved"])
def test_no_record_of_many_processes_is_lost_or_torn(path: Path, moves: bool) -> None:
    processes, count, size = 4, 1500, 4000
    writers = [
        subprocess.Popen(
            [sys.executable, "-c", WRITER, str(path), str(name), str(count), str(size), "1000"],
            env=environment(), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )
        for name in range(processes)
    ]  # fmt: skip
    for writer in writers:
        assert writer.stdout
        assert writer.stdout.readline() == "ready\n"
    for writer in writers:  # at once
        assert writer.stdin
        writer.stdin.write("\n")
        writer.stdin.flush()
    moved = 0
    while moves and any(writer.poll() is None for writer in writers):
        try:
            path.rename(path.with_name(f"zibai.log-moved-{moved}"))
        except FileNotFoundError:
            continue
        moved += 1
    for writer in writers:
        writer.communicate(timeout=DEADLINE)
        assert writer.returncode == 0

    found = lines(path.parent)
    assert all(re.fullmatch(r"\d \d+ x* end", line) for line in found)
    assert Counter(line.split(" x")[0].removesuffix(" end").strip() for line in found) == Counter(
        f"{name} {number}" for name in range(processes) for number in range(count)
    )
    # Many are larger than they should be: who wants to rotate does not wait, and nobody here does anything but write.
    assert len(list(path.parent.iterdir())) > 3


def test_it_is_rotated_before_it_is_too_large(path: Path) -> None:
    with opened(path, 40, 2) as handler:
        for number in range(7):
            write(handler, f"record {number} ........")  # 18 bytes with its end
    texts = {file.name: re.findall(r"\d", file.read_text()) for file in path.parent.glob("zibai.log*")}
    texts.pop("zibai.log.lock", None)  # on Windows
    assert texts == {"zibai.log": ["6"], "zibai.log.1": ["4", "5"], "zibai.log.2": ["2", "3"]}


def test_a_record_that_is_too_large_by_itself(path: Path) -> None:
    with opened(path, 10, 2) as handler:
        write(handler, "x" * 100)
        write(handler, "y" * 100)
    assert path.read_text() == "y" * 100 + "\n"
    assert path.with_name("zibai.log.1").read_text() == "x" * 100 + "\n"


def test_without_a_size_it_grows(path: Path) -> None:
    with opened(path) as handler:
        for _ in range(1000):
            write(handler, "x" * 100)
    assert len(lines(path.parent)) == 1000


def test_text_that_is_none(path: Path) -> None:
    with opened(path) as handler:
        write(handler, "\udc80 ü\nsecond line")
    assert path.read_text(encoding="utf-8") == "\\udc80 ü\nsecond line\n"


@posix
def test_a_pipe_is_not_rotated(path: Path) -> None:
    os.mkfifo(path)
    reading = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    with opened(path, 10, 2) as handler:
        write(handler, "x" * 100)
        write(handler, "y" * 100)
        assert len(os.read(reading, 1000)) == 202
    os.close(reading)
    assert [file.name for file in path.parent.iterdir()] == ["zibai.log"]


@posix
def test_where_it_cannot_be_renamed_it_grows_and_says_so_once(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def denied(*_: object) -> None:
        raise PermissionError(13, "Permission denied")

    with opened(path, 30, 2) as handler:
        monkeypatch.setattr(os, "rename", denied)
        for number in range(5):
            write(handler, f"record {number} ........")
    found = path.read_text().splitlines()
    assert [line for line in found if line.startswith("record")] == [f"record {number} ........" for number in range(5)]
    assert [line for line in found if "not rotated any more" in line] == [
        "zibai: this file is not rotated any more: [Errno 13] Permission denied"
    ]


@posix
def test_one_that_stands_still_in_the_middle_of_a_record_holds_nobody(path: Path) -> None:
    """It is not rotated meanwhile, and that is all."""
    with opened(path, 30, 2) as handler, opened(path, 30, 2) as other:
        assert logfile.lock(other.stream)  # as while it writes
        for number in range(5):
            write(handler, f"record {number}")
        assert len(path.read_text().splitlines()) == 5
        logfile.unlock(other.stream)
        write(handler, "the last")
    assert path.read_text() == "the last\n"


@posix
def test_a_file_that_was_rotated_while_its_lock_was_waited_for_is_not_written(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It may be the next to be removed."""
    lock = logfile.lock

    def wait(file: Any, *, exclusive: bool = False) -> bool:
        if not exclusive and path.exists() and not path.with_name("zibai.log.1").exists():
            path.rename(path.with_name("zibai.log.1"))
        return lock(file, exclusive=exclusive)

    with opened(path, 1000, 2) as handler:
        monkeypatch.setattr(logfile, "lock", wait)
        write(handler, "record")
    assert (path.with_name("zibai.log.1").read_text(), path.read_text()) == ("", "record\n")


@posix
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
def test_a_forked_process_has_a_lock_of_its_own(path: Path) -> None:
    with opened(path, 1000, 2) as handler:
        write(handler, "parent")
        assert logfile.lock(handler.stream)
        child = os.fork()
        if not child:
            write(handler, "child")  # which locks and unlocks
            os._exit(0)
        os.waitpid(child, 0)
        with open(path) as other:
            assert not logfile.lock(other, exclusive=True)
        logfile.unlock(handler.stream)
    assert path.read_text() == "parent\nchild\n"


@posix
def test_where_no_new_file_can_be_had_the_old_one_is_used(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def denied() -> None:
        raise PermissionError(13, "Permission denied")

    with opened(path, 1000, 2) as handler:
        monkeypatch.setattr(handler, "_open", denied)
        path.rename(path.with_name("moved"))
        write(handler, "still there")
    assert path.with_name("moved").read_text() == "still there\n"


# --- Windows, played ----------------------------------------------------------------------------------


@pytest.fixture
def windows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logfile, "sys", SimpleNamespace(platform="win32"))
    if sys.platform != "win32":
        import fcntl

        def lock(file: int) -> bool:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return False
            return True

        monkeypatch.setattr(openfile, "_lock_byte", lock)


@pytest.mark.usefixtures("windows")
def test_on_windows_it_is_open_for_a_record_only(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(openfile, "LONGEST_TURN", DEADLINE)
    with opened(path, 30, 100) as one, opened(path, 30, 100) as other:
        assert not path.exists()
        handlers = [one, other] * 2

        def run(handler: LogFile) -> None:
            for number in range(50):
                write(handler, f"record {number}")
                handler.acquire()  # or the other thread that has it may be writing
                still_open = handler.stream is not None
                handler.release()
                assert not still_open

        threads = [threading.Thread(target=run, args=[handler]) for handler in handlers]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert one.stream is None
        assert other.stream is None
    assert Counter(lines(path.parent)) == {f"record {number}": 4 for number in range(50)}
    assert len(list(path.parent.iterdir())) > 40


@pytest.mark.usefixtures("windows")
def test_on_windows_it_is_rotated_before_it_is_too_large(path: Path) -> None:
    test_it_is_rotated_before_it_is_too_large(path)


@pytest.mark.usefixtures("windows")
def test_on_windows_a_file_that_somebody_reads_grows(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def denied(*_: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "rename", denied)
    with opened(path, 30, 2) as handler:
        for number in range(5):
            write(handler, f"record {number}")
    assert path.read_text().count("\n") == 5


@pytest.mark.usefixtures("windows")
def test_on_windows_a_record_does_not_wait_for_ever(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(openfile, "LONGEST_TURN", 0.01)
    monkeypatch.setattr(openfile, "_lock_byte", lambda file: False)
    with opened(path, 5, 2) as handler:
        write(handler, "first")
        write(handler, "second")
    assert path.read_text() == "first\nsecond\n"


# --- files that are moved away ------------------------------------------------------------------------


@posix
@pytest.mark.parametrize("limits", [(), (1000, 2)])
def test_reopening_goes_on_in_a_new_file(path: Path, limits: tuple[int, ...]) -> None:
    with opened(path, *limits) as handler:
        write(handler, "first")
        path.rename(path.with_name("moved"))
        if not limits:
            write(handler, "second")
        logfile.reopen()
        write(handler, "third")
    assert path.with_name("moved").read_text() == ("first\n" if limits else "first\nsecond\n")
    assert path.read_text() == "third\n"


@posix
@pytest.mark.parametrize("kind", ["", "Watched", "Rotating", "TimedRotating"])
def test_handlers_of_the_users_own_are_reopened(path: Path, kind: str) -> None:
    cls = getattr(logging.handlers, f"{kind}FileHandler", logging.FileHandler)
    handler = cls(path)
    try:
        before = handler.stream
        logfile.reopen()
        assert handler.stream is before, "it is the same file"
        write(handler, "first")
        path.rename(path.with_name("moved"))
        logfile.reopen()
        assert before.closed
        write(handler, "second")
        assert (path.with_name("moved").read_text(), path.read_text()) == ("first\n", "second\n")
    finally:
        handler.close()


def test_one_that_begins_anew_is_not_emptied(path: Path) -> None:
    handler = logging.FileHandler(path, "w")
    write(handler, "first")
    logfile.reopen()
    write(handler, "second")
    handler.close()
    assert path.read_text() == "first\nsecond\n"


def test_one_that_is_not_open_stays_so(path: Path) -> None:
    handler = logging.FileHandler(path, delay=True)
    logfile.reopen()
    assert not path.exists()
    handler.close()


@posix
def test_what_cannot_be_reopened_is_kept_and_told(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = path.parent / "folder"
    folder.mkdir()
    with opened(folder / "zibai.log") as handler:
        folder.rename(path.parent / "elsewhere")
        logfile.reopen()
        write(handler, "still there")
    assert (path.parent / "elsewhere" / "zibai.log").read_text() == "still there\n"
    assert "zibai.log cannot be reopened: [Errno 2] No such file or directory" in caplog.text


PRINTER = """
import os, sys
from logging import LogRecord
from zibai.telemetry import logfile
handler = logfile.LogFile(sys.argv[1], int(sys.argv[2]), 3)
say = lambda text: handler.handle(LogRecord("x", 20, "", 0, text, (), None))
say("logged 1")
os.write(1, b"printed 1\\n")
if handler.maxBytes == 0:
    os.rename(sys.argv[1], sys.argv[1] + ".1")
    logfile.reopen()
say("logged 2")
os.write(1, b"printed 2\\n")
os.system("echo of a child")
"""


@posix
@pytest.mark.parametrize("size", [0, 20])
def test_what_is_printed_goes_with_the_log(path: Path, size: int) -> None:
    with open(path, "ab") as file:
        subprocess.run([sys.executable, "-c", PRINTER, path, str(size)], stdout=file, env=environment(), check=True)
    assert path.with_name("zibai.log.1").read_text() == "logged 1\nprinted 1\n"
    assert path.read_text() == "logged 2\nprinted 2\nof a child\n"


# --- before it begins ---------------------------------------------------------------------------------


def test_preparing_makes_the_file_and_leaves_what_is_in_it(path: Path) -> None:
    logpath.prepare(str(path), True)
    assert path.read_text() == ""
    path.write_text("something\n")
    logpath.prepare(str(path), True)
    assert path.read_text() == "something\n"


def test_a_file_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"^--log-file: .* cannot be written: No such file or directory$"):
        logpath.prepare(str(tmp_path / "no" / "zibai.log"), False)
    with pytest.raises(UsageError, match=r"^--log-file: .* cannot be written: "):
        logpath.prepare(str(tmp_path), False)


@pytest.mark.skipif(sys.platform == "win32" or not hasattr(os, "geteuid") or os.geteuid() != 0, reason="needs root")
def test_only_a_file_that_was_made_changes_hands(path: Path) -> None:
    secret = path.with_name("secret")
    secret.write_text("of root")
    path.symlink_to(secret)
    logpath.prepare(str(path), False, (65534, 65534))
    assert secret.stat().st_uid == 0
    path.unlink()
    logpath.prepare(str(path), False, (65534, 65534))
    assert (path.stat().st_uid, path.stat().st_gid) == (65534, 65534)
    assert stat.S_ISREG(path.stat().st_mode)


def test_a_directory_in_which_nothing_can_be_renamed(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "access", lambda *_: False)
    logpath.prepare(str(path), False)
    with pytest.raises(UsageError, match="--log-max-bytes: no permission to rename"):
        logpath.prepare(str(path), True)


# --- files that are locked by others --------------------------------------------------------------------


@posix
def test_a_lock_of_another_user_holds_nobody(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A user who may only read the file can lock it, for ever."""
    import fcntl

    with opened(path, 60, 2) as handler:
        write(handler, "first")
        with open(path, "rb") as reader:
            fcntl.flock(reader, fcntl.LOCK_EX)
            began = time.monotonic()
            for number in range(50):
                write(handler, f"record {number}")
            # One record waits, and the others have learnt from it.
            assert time.monotonic() - began < 10 * logfile.LONGEST_ROTATION
            assert path.read_text().count("\n") == 51
        write(handler, "free again")
        assert handler.maxBytes == 60
    assert path.read_text() == "free again\n"


@posix
def test_a_lock_that_is_let_go_in_time_is_waited_for(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As that of a process which rotates the file."""
    real, tries = logfile.lock, []

    def lock(file: Any, *, exclusive: bool = False) -> bool:
        tries.append(exclusive)
        return len(tries) > 3 and real(file, exclusive=exclusive)

    with opened(path, 1000, 2) as handler:
        monkeypatch.setattr(logfile, "lock", lock)
        write(handler, "record")
    assert tries == [False] * 4
    assert path.read_text() == "record\n"


@posix
@pytest.mark.parametrize("number", [errno.ENOLCK, errno.EBADF, errno.EOPNOTSUPP, errno.EIO])
def test_where_there_are_no_locks_it_is_written_and_not_rotated(
    path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    import fcntl

    def refuse(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", refuse)
    with opened(path, 30, 2) as handler:
        for count in range(5):
            write(handler, f"record {count} ........")
    found = path.read_text().splitlines()
    assert [line for line in found if line.startswith("record")] == [f"record {count} ........" for count in range(5)]
    assert [line for line in found if not line.startswith("record")] == [
        f"zibai: this file is not rotated any more: [Errno {number}] {os.strerror(number)}"
    ]


@posix
def test_where_the_path_cannot_be_looked_at_the_old_file_is_used(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with opened(path, 1000, 2) as handler:
        write(handler, "first")
        with monkeypatch.context() as patch:
            patch.setattr(os, "stat", lambda *_, **__: (_ for _ in ()).throw(PermissionError(13, "Permission denied")))
            write(handler, "second")
    assert path.read_text() == "first\nsecond\n"


# --- handlers that logging has forgotten ----------------------------------------------------------------


def forget() -> None:
    """What dictConfig and fileConfig do with all handlers."""
    logging.shutdown(logging._handlerList[:])  # type: ignore[attr-defined]
    logging._handlers.clear()  # type: ignore[attr-defined]
    del logging._handlerList[:]  # type: ignore[attr-defined]


@pytest.fixture
def forgotten() -> Iterator[None]:
    """What this test lets logging forget, it remembers afterwards."""
    lists = logging._handlerList[:], dict(logging._handlers)  # type: ignore[attr-defined]
    yield
    logging._handlerList[:] = lists[0]  # type: ignore[attr-defined]
    logging._handlers.update(lists[1])  # type: ignore[attr-defined]


@posix
@pytest.mark.usefixtures("forgotten")
@pytest.mark.parametrize("where", ["logger", "queue", "memory", "wrapped", "listed", "remembered"])
def test_they_are_reopened(path: Path, where: str) -> None:
    handler = logging.FileHandler(path)
    other = logging.getLogger("test_logfile")
    listener = None
    match where:
        case "logger":
            other.addHandler(handler)
        case "queue":
            line: queue.SimpleQueue[Any] = queue.SimpleQueue()
            listener = logging.handlers.QueueListener(line, handler)
            listener.start()
        case "remembered":
            logfile.remember_handlers()
    try:
        forget()
        if where == "memory":
            other.addHandler(logging.handlers.MemoryHandler(1, target=handler))
        if where in {"wrapped", "listed"}:  # by a handler of the user
            outer: Any = logging.NullHandler()
            outer.inner = handler if where == "wrapped" else [handler]
            other.addHandler(outer)
        write(handler, "first")
        path.rename(path.with_name("moved"))
        logfile.reopen()
        write(handler, "second")
    finally:
        if listener is not None:
            listener.stop()
        other.handlers.clear()
        handler.close()
    assert (path.with_name("moved").read_text(), path.read_text()) == ("first\n", "second\n")


FORGETFUL = """
import logging.config, os, sys
from zibai.telemetry import logfile
handler = logfile.LogFile(sys.argv[1])
logging.getLogger("x").addHandler(handler)
logging.getLogger("x").error("logged 1")
logging.config.dictConfig({"version": 1, "disable_existing_loggers": False})
os.rename(sys.argv[1], sys.argv[1] + ".1")
logfile.reopen()
os.write(1, b"printed\\n")
logging.getLogger("x").error("logged 2")
"""


@posix
def test_what_is_printed_goes_with_a_log_that_was_closed(path: Path) -> None:
    with open(path, "ab") as file:
        subprocess.run([sys.executable, "-c", FORGETFUL, path], stdout=file, env=environment(), check=True)
    assert path.with_name("zibai.log.1").read_text() == "logged 1\n"
    assert path.read_text() == "printed\nlogged 2\n"


@posix
def test_root_leaves_a_file_of_another_user_alone(path: Path) -> None:
    """It may be a link, and is opened by its owner."""
    path.symlink_to(path.with_name("missing"))
    logpath.prepare(str(path), True, (os.geteuid(), os.getegid()))
    assert not path.exists()


@posix
def test_a_pipe_is_written_only_while_somebody_reads_it(path: Path) -> None:
    os.mkfifo(path)
    with pytest.raises(UsageError, match=r"^--access-log: .* cannot be written: it is a pipe that nobody reads, or a "):
        logpath.prepare(str(path), rotated=False, flag="--access-log")
    reader = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    logpath.prepare(str(path), rotated=False)
    with pytest.raises(BlockingIOError):  # and not the end, at which the reader would leave before the log begins
        os.read(reader, 100)
    with opened(path) as handler:
        log(handler, "one")
    assert os.read(reader, 100) == b"one\n"
    os.close(reader)


# --- records that are lost ----------------------------------------------------------------------------


class Disk:
    """A file on a disk with so much ``room``."""

    def __init__(self, file: Any) -> None:
        self.file, self.room = file, 10**6

    def write(self, data: bytes) -> int:
        if not self.room:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        self.room -= len(data := data[: self.room])
        return int(self.file.write(data))

    def __getattr__(self, name: str) -> Any:
        return getattr(self.file, name)


@posix
def test_records_that_a_full_disk_does_not_take(
    path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """One line on standard error each ten seconds, and one in the log when there is room again."""
    now = 100.0
    monkeypatch.setattr(losses, "time", SimpleNamespace(monotonic=lambda: now))
    with opened(path) as handler:
        handler.setFormatter(logging.Formatter("%(message)s"))
        monkeypatch.setattr(logger, "handlers", [handler])
        monkeypatch.setattr(logger, "propagate", False)
        disk = handler.stream = Disk(handler.stream)
        log(handler, "one")
        for room in (0, 2, 0, 1, 0):
            disk.room = room
            log(handler, "gone")
        line = f"zibai: {path} cannot be written: No space left on device;"
        assert capsys.readouterr().err == f"{line} 1 record is lost\n"
        now += losses.COMPLAINT_INTERVAL
        log(handler, "gone")
        assert capsys.readouterr().err == f"{line} 6 records are lost\n"
        disk.room = 10**6
        log(handler, "two")
        log(handler, "three")
        disk.room = 0
        log(handler, "gone")
        assert "; 1 record is lost\n" in capsys.readouterr().err, "a new one is told at once"
        disk.room = 10**6
        log(handler, "four")
    # The parts of "gone" end with their lines: none is the beginning of another record.
    what = f"{path} could not be written for a while (No space left on device), so"
    assert path.read_text() == (
        f"one\ngo\n\ntwo\n{what} 6 records are missing\nthree\nfour\n{what} 1 record is missing\n"
    )


@contextmanager
def alone(*handlers: logging.Handler) -> Iterator[None]:
    """The logger of the server has these handlers only."""
    before = logger.handlers, logger.propagate
    logger.handlers, logger.propagate = list(handlers), False
    try:
        yield
    finally:
        logger.handlers, logger.propagate = before


@posix
def test_a_pipe_without_a_reader_is_told_where_the_server_logs(
    path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    with opened(pipe) as access, opened(path) as server, alone(server):
        os.close(reader)
        for _ in range(3):
            log(access, "lost")
    assert path.read_text().splitlines() == [f"{pipe} cannot be written: Broken pipe; 1 record is lost"]
    assert not capsys.readouterr().err


@posix
@pytest.mark.parametrize("way", ["start", "close", "reopen"])
def test_nobody_waits_for_the_reader_of_a_pipe(path: Path, way: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Not even at the end, when handlers are closed and something is still logged."""
    os.mkfifo(path)
    reader = None if way == "start" else os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    with opened(path) as handler, alone(handler):
        if reader is not None:
            log(handler, "read")
            assert os.read(reader, 100) == b"read\n"
            os.close(reader)
        if way == "close":
            handler.close()
        elif way == "reopen":
            path.unlink()
            os.mkfifo(path)
            logfile.reopen()
        log(handler, "lost")
        assert "cannot be" in capsys.readouterr().err
        late = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
        if way == "reopen":
            logfile.reopen()
        log(handler, "read again")
        assert os.read(late, 100).startswith(b"read again\n")
        os.close(late)


def test_a_standard_error_that_fails_costs_a_line_now_and_then(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[str] = []
    disk = Disk(None)
    disk.room = 0
    handler = ConsoleHandler(disk)  # type: ignore[arg-type]
    monkeypatch.setattr(logger_module, "_silent_until", 0.0)
    monkeypatch.setattr(logger_module, "print_exception", lambda what, error: told.append(str(error)))
    with alone(handler):
        for _ in range(3):
            logger.error("lost")
    assert told == [f"[Errno {errno.ENOSPC}] {os.strerror(errno.ENOSPC)}"]


@posix
@pytest.mark.parametrize("room", range(6))
def test_half_a_record_spoils_no_other(path: Path, room: int) -> None:
    with opened(path) as handler, alone(handler):
        log(handler, "first")
        disk = handler.stream = Disk(handler.stream)
        disk.room = room
        log(handler, "lost")
        log(handler, "lost too")
        disk.room = 1000
        log(handler, "second")
        log(handler, "third")
    found = path.read_text().splitlines()
    assert [line for line in found if line in {"first", "second", "third"}] == ["first", "second", "third"]
    assert len(found) <= 5, "with the number of those that are missing"


@posix
def test_other_errors_of_a_log_file_are_reported_by_logging(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with opened(path) as handler:
        log(handler, "%d", "no number")
        assert "TypeError" in capsys.readouterr().err
        log(handler, "one")
    assert path.read_text() == "one\n"


def log(handler: LogFile, text: str, *args: object) -> None:
    handler.handle(logging.LogRecord("x", 20, "", 0, text, args, None))


@pytest.mark.skipif(sys.platform != "linux", reason="other systems make a copy of the descriptor")
@pytest.mark.parametrize(
    ("flag", "remedy"),
    [
        ("--access-log", "write --access-log - for standard output"),
        ("--log-file", "leave it out, since the log goes to standard error"),
    ],
)
def test_an_output_that_cannot_be_opened_by_its_path_needs_none(flag: str, remedy: str) -> None:
    """systemd's is a socket. Behind --user, one that root has opened is refused in the same way."""
    ours, theirs = socket.socketpair()
    with ours, theirs, pytest.raises(UsageError, match=f"cannot be written: .*; {remedy}$"):
        logpath.prepare(f"/dev/fd/{theirs.fileno()}", False, flag=flag)


@pytest.mark.parametrize(
    ("name", "is_log"),
    [
        ("zibai-2.0.log", True),
        ("zibai-2.0.log.1", True),
        ("zibai-2.0.log.2.gz", True),
        ("zibai-2.0.log.2026-11-30", True),
        ("zibai-2.0.log.lock", True),
        ("zibai-2.0.log.py", False),
        ("zibai-2.py", False),
        ("zibai-2", False),
        ("other.log", False),
        ("output", True),
    ],
)
def test_a_server_knows_the_files_of_its_log(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, is_log: bool
) -> None:
    (tmp_path / name).write_text("", encoding="ascii")
    (tmp_path / "output").write_text("", encoding="ascii")
    stat_of = os.fstat
    with opened(tmp_path / "zibai-2.0.log"), open(tmp_path / "output", "rb") as output:
        monkeypatch.setattr(os, "fstat", lambda file: stat_of(output.fileno() if file == 2 else file))
        assert logfile.is_log(os.path.realpath(tmp_path / name)) is is_log
