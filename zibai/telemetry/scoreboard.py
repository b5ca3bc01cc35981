"""The state of each worker, in memory that can be read even while the worker hangs, is stopped or dead.

The memory is one file, mapped by the parent and by each worker (by its descriptor, or on Windows by its path), so that
a reader needs no reply from any process. It is a head, which the parent writes once, the totals of the server
(:mod:`zibai.telemetry.totals`), and a :class:`Row` for each server loop: one, or as many as ``loops`` says, for each
worker. :class:`Rows` are those of one worker.

Times are by :data:`zibai.clock.clock`, seconds since the system came up: the same in all processes.
"""

import json
import mmap
import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from multiprocessing import reduction
from struct import Struct
from typing import Any, Final
from weakref import WeakSet

from ..clock import clock
from ..system.machine import pid_namespace
from .openfile import lock
from .row import GAUGES, Report, Row, black_box, size_of
from .rows import Rows
from .slot import CALLED, READING, SENDING, Running, Slot
from .totals import TOTALS_SIZE, Totals

__all__ = [
    "CALLED", "GAUGES", "READING", "SENDING", "Report", "Row", "Rows", "Running", "Scoreboard", "Slot", "black_box",
]  # fmt: skip

MAGIC: Final = b"zibai 4\n"

ASIDE: Final = ".old"
"""The suffix of the path of a scoreboard after another server has taken its place."""

HIDDEN: Final = ".rows"
"""The suffix of a file on Windows that no command looks for."""

_ROOM: Final = 2000
"""Bytes of the facts, as JSON."""

_HEAD: Final = Struct(f"=8sqQdHHI{_ROOM}s")
"""MAGIC, the parent's pid and PID namespace, when it started, rows, rows of each worker, slots, facts for people."""

_ROWS_AT: Final = _HEAD.size + TOTALS_SIZE


class OtherVersion(ValueError):
    """A scoreboard of another version of the server, process ``pid``: its head begins in the same way."""

    def __init__(self, path: str, pid: int) -> None:
        super().__init__(f"{path} is no scoreboard of this version")
        self.pid = pid


class Scoreboard:
    """The file: ``facts`` for people, such as ``{"app": "example:app"}``, and the rows.

    It is passed to a spawned worker as an argument, and mapped there.
    """

    def __init__(self, file: int, path: str) -> None:
        # Absolute, since the application may change the directory; empty for memory without a name.
        self._file, self._path = file, path and os.path.abspath(path)
        self._given: WeakSet[Row] = WeakSet()
        size = os.fstat(file).st_size
        if size < _HEAD.size:
            raise ValueError(f"{path} is no scoreboard")
        self._map = mmap.mmap(file, 0)
        self._slots: int
        head = _HEAD.unpack_from(self._map)
        magic, self.pid, self.namespace, self.started, self._rows, self._loops, self._slots, facts = head
        if magic != MAGIC and magic.startswith(b"zibai "):
            raise OtherVersion(path, self.pid)
        # A file that is being made, or was cut short, has a head and not all rows.
        if magic != MAGIC or size < _ROWS_AT + self._rows * size_of(self._slots):
            raise ValueError(f"{path} is no scoreboard")
        self.totals = Totals(memoryview(self._map)[_HEAD.size : _ROWS_AT])
        self.facts: dict[str, Any] = json.loads(facts.rstrip(b"\0") or b"{}")

    @property
    def slots(self) -> int:
        """How many slots a row has."""
        return self._slots

    @classmethod
    def create(cls, path: str, workers: int, slots: int, facts: dict[str, Any], loops: int = 1) -> "Scoreboard":
        """Make the file, which only this user can read; raises OSError. It has ``loops`` rows for each worker.

        The file stays locked until the last process of the server has ended.
        """
        file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0), 0o600)
        try:
            with suppress(OSError):  # a file system without locks
                lock(file)
            _fill(file, workers, slots, facts, loops)
            return cls(file, path)
        except BaseException:
            os.close(file)
            os.unlink(path)
            raise

    @classmethod
    def anonymous(cls, workers: int, slots: int, facts: dict[str, Any], loops: int = 1) -> "Scoreboard | None":
        """A scoreboard that only this process and its workers can find; None if that is impossible.

        It has no file, or on Windows one that no command looks for.
        """
        made = _hidden_file()
        if made is None:
            return None
        file, path = made
        try:
            _fill(file, workers, slots, facts, loops)
            return cls(file, path)
        except BaseException as error:
            os.close(file)
            if path:
                os.unlink(path)
            if isinstance(error, OSError):
                return None  # no room
            raise

    @classmethod
    def open(cls, path: str) -> "Scoreboard":
        """Map the scoreboard of a running server; raises OSError or ValueError."""
        # Another user may have put a pipe, a device or a link there.
        flags = sum(getattr(os, name, 0) for name in ("O_BINARY", "O_NONBLOCK", "O_NOFOLLOW"))
        file = os.open(path, os.O_RDWR | flags)
        try:
            if sys.platform != "win32" and os.geteuid() not in (0, os.fstat(file).st_uid):
                raise ValueError(f"{path} belongs to another user")
            return cls(file, path)
        except BaseException:
            os.close(file)
            raise

    def __reduce__(self) -> Any:
        if sys.platform == "win32":
            return Scoreboard.open, (self._path,)
        # By its descriptor, since a program that tidies up the directory may have unlinked the file.
        return _inherit, (reduction.DupFd(self._file), self._path)

    def row(self, number: int) -> Row:
        """The row of this number, from 0."""
        size = size_of(self._slots)
        start = _ROWS_AT + number * size
        row = Row(memoryview(self._map)[start : start + size], self._slots)
        self._given.add(row)
        return row

    def rows(self) -> Iterator[Row]:
        """All rows."""
        return map(self.row, range(self._rows))

    def worker(self, number: int) -> Rows:
        """The rows of the worker of this number, from 0."""
        return Rows([self.row(number * self._loops + loop) for loop in range(self._loops)])

    def workers(self) -> Iterator[Rows]:
        """The rows of each worker that there may be."""
        return map(self.worker, range(self._rows // self._loops))

    def others(self, number: int) -> list[tuple[bool, Row]]:
        """All rows of the other workers, each with whether it comes before the rows of worker ``number``."""
        own = range(number * self._loops, (number + 1) * self._loops)
        return [(each < own.start, self.row(each)) for each in range(self._rows) if each not in own]

    def give(self, owner: tuple[int, int]) -> None:
        """Give the file to another user and group."""
        if sys.platform != "win32":
            os.fchown(self._file, *owner)

    def release(self) -> None:
        """Close the file, in this process. Its rows continue in private memory."""
        for row in list(self._given):
            row.detach()
        self.totals.detach()
        # The memory is closed as well: Windows removes no file that a process has mapped.
        with suppress(BufferError):  # see Row.detach
            self._map.close()
        os.close(self._file)

    def close(self) -> None:
        """Close the file, and remove it if this process has made it. Other processes keep their mapped memory."""
        path = self.where()
        self.release()
        if path is not None and self.pid == os.getpid():
            try:
                os.unlink(path)
            except OSError:
                pass  # already removed, or (on Windows) a worker that is being killed still has it open

    def where(self) -> str | None:
        """The path of the file, which another server may have moved aside. None if the file was removed."""
        if sys.platform == "win32":
            return self._path  # an open file cannot be moved or removed there
        for path in (self._path, self._path + ASIDE):
            try:
                if os.path.samestat(os.fstat(self._file), os.stat(path)):
                    return path
            except OSError:
                continue
        return None

    def move_back(self) -> None:
        """Move the file to its own path again, after the server that took its place is gone; raises OSError."""
        path = self.where()
        if path is not None and path != self._path:
            os.replace(path, self._path)


def _hidden_file() -> tuple[int, str] | None:
    """A descriptor of memory for :meth:`Scoreboard.anonymous`, and on Windows its path, by which workers open it."""
    try:
        if sys.platform == "win32":
            return tempfile.mkstemp(prefix="zibai-", suffix=HIDDEN)
        if sys.platform == "linux" and hasattr(os, "memfd_create"):  # missing if Python was built on an old Linux
            return os.memfd_create("zibai"), ""
        with tempfile.TemporaryFile() as file:
            return os.dup(file.fileno()), ""
    except OSError:
        return None


def _fill(file: int, workers: int, slots: int, facts: dict[str, Any], loops: int) -> None:
    """Write the head and empty rows to a new file."""
    rows = workers * loops
    with os.fdopen(file, "wb", closefd=False) as stream:
        stream.write(_HEAD.pack(MAGIC, os.getpid(), pid_namespace(), clock(), rows, loops, slots, _fit(facts)))
        # Written, and not a hole: a write to a mapped hole while the disk is full kills the process by SIGBUS.
        stream.write(bytes(TOTALS_SIZE))
        for _ in range(rows):
            stream.write(bytes(size_of(slots)))


def _fit(facts: dict[str, Any]) -> bytes:
    """The facts as JSON, short enough. If needed, the last addresses of ``listen`` are left out (``unlisted`` is their
    number), and then the end of ``app``. The facts by which commands reach the server stay.
    """
    facts = dict(facts)
    while len(text := json.dumps(facts).encode()) > _ROOM:
        if facts.get("listen"):
            facts["listen"] = facts["listen"][:-1]
            facts["unlisted"] = facts.get("unlisted", 0) + 1
        elif facts.get("app"):
            facts["app"] = facts["app"][: len(facts["app"]) // 2]
        else:
            return b""
    return text


def _inherit(descriptor: Any, path: str) -> Scoreboard:
    return Scoreboard(descriptor.detach(), path)
