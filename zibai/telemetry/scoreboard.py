"""What each worker is doing, in memory that can also be read when the worker hangs, is stopped or dead.

The memory is one file, mapped by the parent and by each worker (by its descriptor, or on Windows by its path), so
nothing has to be asked of anybody to read it. It is a head, written once by the parent, and a *row* for each worker:
what the parent thinks of it, its beat, its counters, and a *slot* for each thread or greenlet that runs
requests. A slot keeps a few records in turn: the request it runs, and those it has finished before.

Nothing is locked, since each byte has one writer: the head and the first fields of a row the parent, the beat, gauges
and counters of a row whoever owns the server loop, a slot its runner. A reader may catch a write halfway, so what it
gets is advice for humans and for clocks. A path is kept without its query, which may hold secrets.

Times are of :data:`clock`, seconds since the system came up: the same clock in all processes, which no one sets.
"""

import json
import mmap
import os
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import suppress
from itertools import cycle
from multiprocessing import reduction
from struct import Struct
from typing import Any, Final, NamedTuple, Self
from weakref import WeakSet

from ..clock import clock

MAGIC: Final = b"zibai 1\n"

FREE, CALLED, READING, SENDING = range(4)
PHASES: Final = ("free", "app", "body", "send")
"""What a runner is at: the application, or waiting in its stead for a body to come or for an answer to be taken."""

COUNTERS: Final = ("requests", "1xx", "2xx", "3xx", "4xx", "5xx", "bytes")
GAUGES: Final = ("open", "idle", "head", "body", "queue", "busy", "send")
"""Connections: all, and those that wait for a request, a head, a body, a runner; have one; or are being answered."""

TEXT: Final = 112
"""Bytes that are kept of method and path."""

_HEAD: Final = Struct("=8sqdHI1000s")  # MAGIC, the parent's pid, when it started, rows, slots, facts for people
_ROW: Final = Struct("=16sqId")  # state of the worker, pid, generation, when it was started; the parent's
_BEAT: Final = Struct("=dd")  # when it last beat, its CPU time then
_TALLY: Final = len(COUNTERS) + len(GAUGES)
_RECORD: Final = Struct(f"=BHdd{TEXT}s")  # phase, status, when it began and ended, "METHOD /path"
_END: Final = Struct("=BHdd")
_RECORDS: Final = 4
_begin, _end = _RECORD.pack_into, _END.pack_into
_SLOT: Final = _RECORD.size * _RECORDS
_SLOTS_AT: Final = _ROW.size + _BEAT.size + 8 * _TALLY


class Running(NamedTuple):
    """A request that a runner is at. ``since`` is when its application was called."""

    slot: int
    what: str
    phase: str
    since: float


class Finished(NamedTuple):
    """A request that was answered; status 499 is a client that left before its answer began."""

    what: str
    status: int
    began: float
    ended: float


class Report(NamedTuple):
    """One row, read. ``state`` is empty for one without a worker; ``beat`` is 0 until it serves."""

    state: str
    pid: int
    generation: int
    started: float
    beat: float
    cpu: float
    counters: dict[str, int]
    running: list[Running]  # the longest first
    finished: list[Finished]  # the latest first


class Slot:
    """What one runner is at. The runner's, and the reader's; ``begin`` and ``end`` are paid by every request."""

    __slots__ = ("_at", "_next", "_view", "number")

    def __init__(self, view: memoryview, number: int) -> None:
        self.number = number
        self._view = view
        self._at = number * _SLOT
        places = [self._at + place * _RECORD.size for place in range(_RECORDS)]
        self._next = cycle(places[1:] + places[:1]).__next__

    def move(self, view: memoryview) -> None:
        """Write to other memory from now on."""
        self._view = view

    def begin(self, what: bytes, now: float) -> None:
        """The application is called for ``what``, ``b"GET /path"``."""
        self._at = at = self._next()
        _begin(self._view, at, CALLED, 0, now, 0.0, what)

    def phase(self, phase: int) -> None:
        """It waits, or goes on."""
        self._view[self._at] = phase

    def end(self, status: int, began: float, now: float) -> None:
        """It is answered, as far as the runner is concerned."""
        _end(self._view, self._at, FREE, status, began, now)


class Row:
    """One worker. ``beat`` and ``running`` are the server loop's owner's, the rest the parent's or a reader's."""

    def __init__(self, memory: Any, slots: int) -> None:
        self._use(memory)
        self.slots = [Slot(self._rest, number) for number in range(slots)]

    def _use(self, memory: Any) -> None:
        self._view = view = memoryview(memory)
        self._rest = view[_SLOTS_AT:]
        self._tally = view[_ROW.size + _BEAT.size : _SLOTS_AT].cast("Q")

    def detach(self) -> None:
        """Go on in memory of its own, with what it has, so that the file can be closed.

        A request that is cut at the end of a server still writes to its slot.
        """
        before = self._tally, self._rest, self._view
        self._use(bytearray(self._view))
        for slot in self.slots:
            slot.move(self._rest)
        for view in before:
            with suppress(BufferError):  # a thread is writing at this very moment: possible without the GIL
                view.release()

    @classmethod
    def private(cls, slots: int) -> Self:
        """A row that nobody else sees."""
        return cls(bytearray(size_of(slots)), slots)

    def assign(self, state: str, pid: int, generation: int, started: float) -> None:
        """What the parent thinks of the worker."""
        _ROW.pack_into(self._view, 0, state.encode(), pid, max(0, generation), started)

    def clear(self) -> None:
        """Forget the worker."""
        self._view[:] = bytes(len(self._view))

    def beat(self, tally: list[int]) -> None:
        """The loop turns; ``tally`` are its ``COUNTERS`` and ``GAUGES``."""
        for place, value in enumerate(tally):
            self._tally[place] = value
        _BEAT.pack_into(self._view, _ROW.size, clock(), time.process_time())

    def running(self) -> list[Running]:
        """The requests that runners are at, the longest first."""
        running, _ = self._read_slots(bytes(self._rest))
        return running

    def read(self) -> Report:
        """All of it, by whoever wants to know."""
        state, pid, generation, started = _ROW.unpack_from(self._view)
        beat, cpu = _BEAT.unpack_from(self._view, _ROW.size)
        counters = dict(zip(COUNTERS + GAUGES, self._tally, strict=True))
        running, finished = self._read_slots(bytes(self._rest))
        state = state.rstrip(b"\0").decode("ascii", "replace")
        return Report(state, pid, generation, started, beat, cpu, counters, running, finished)

    def _read_slots(self, data: bytes) -> tuple[list[Running], list[Finished]]:
        running, finished = [], []
        for place in range(len(self.slots) * _RECORDS):
            phase, status, began, ended, raw = _RECORD.unpack_from(data, place * _RECORD.size)
            what = raw.rstrip(b"\0").decode("ascii", "backslashreplace")
            if 0 < phase < len(PHASES):
                running.append(Running(place // _RECORDS, what, PHASES[phase], began))
            elif ended:
                finished.append(Finished(what, status, began, ended))
        running.sort(key=lambda each: each.since)
        finished.sort(key=lambda each: -each.ended)
        return running, finished


def black_box(report: Report) -> str:
    """What a worker was at, in lines for the log that tells of its end; empty when it served nothing."""
    now = clock()
    lines = [f"it was serving {each.what} for {now - each.since:.1f} s ({each.phase})" for each in report.running]
    lines += [
        f"{now - each.ended:.1f} s ago it answered {each.what} with {each.status} after {each.ended - each.began:.3f} s"
        for each in report.finished[:LAST]
    ]
    return "".join(f"\n  {line}" for line in lines)


LAST: Final = 8
"""How many finished requests a black box tells of."""


ASIDE: Final = ".old"
"""What is added to the path of a scoreboard when a successor takes its place."""


def size_of(slots: int) -> int:
    """Bytes of a row."""
    return _SLOTS_AT + slots * _SLOT


class Scoreboard:
    """The file: ``facts`` for people, as ``{"app": "example:app"}``, and the rows.

    It goes to a spawned worker as an argument, and is mapped there.
    """

    def __init__(self, file: int, path: str) -> None:
        # Absolute, since the application may change the directory; empty for memory without a name.
        self._file, self._path = file, path and os.path.abspath(path)
        self._given: WeakSet[Row] = WeakSet()
        size = os.fstat(file).st_size
        if size < _HEAD.size:
            raise ValueError(f"{path} is no scoreboard")
        self._map = mmap.mmap(file, 0)
        magic, self.pid, self.started, self._rows, self._slots, facts = _HEAD.unpack_from(self._map)
        # One that is being made, or was cut short, has a head and not all rows.
        if magic != MAGIC or size < _HEAD.size + self._rows * size_of(self._slots):
            raise ValueError(f"{path} is no scoreboard of this version")
        self.facts: dict[str, Any] = json.loads(facts.rstrip(b"\0") or b"{}")

    @classmethod
    def create(cls, path: str, rows: int, slots: int, facts: dict[str, Any]) -> "Scoreboard":
        """Make the file, for the eyes of this user only; OSError when it cannot be."""
        file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0), 0o600)
        try:
            _fill(file, rows, slots, facts)
            return cls(file, path)
        except BaseException:
            os.close(file)
            os.unlink(path)
            raise

    @classmethod
    def anonymous(cls, rows: int, slots: int, facts: dict[str, Any]) -> "Scoreboard | None":
        """One in memory that has no name, which only this process and its workers can see; None where there is none."""
        file = _nameless_file()
        if file is None:
            return None
        try:
            _fill(file, rows, slots, facts)
            return cls(file, "")
        except BaseException as error:
            os.close(file)
            if isinstance(error, OSError):
                return None  # no room
            raise

    @classmethod
    def open(cls, path: str) -> "Scoreboard":
        """Map that of a running server; OSError or ValueError when there is none."""
        # It may be a pipe, a device or a link that somebody has put there.
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
        # By its descriptor, since somebody who tidies up the directory may have unlinked it.
        return _inherit, (reduction.DupFd(self._file), self._path)

    def row(self, number: int) -> Row:
        size = size_of(self._slots)
        start = _HEAD.size + number * size
        row = Row(memoryview(self._map)[start : start + size], self._slots)
        self._given.add(row)
        return row

    def rows(self) -> Iterator[Row]:
        return map(self.row, range(self._rows))

    def give(self, owner: tuple[int, int]) -> None:
        """Let the file belong to another user and group."""
        if sys.platform != "win32":
            os.fchown(self._file, *owner)

    def release(self) -> None:
        """Close the file, in this process. Its rows go on in memory of their own."""
        for row in list(self._given):
            row.detach()
        # The memory is closed, too: on Windows nobody can remove a file that a process has mapped.
        with suppress(BufferError):  # see Row.detach
            self._map.close()
        os.close(self._file)

    def close(self) -> None:
        """Close the file, and remove it if this process has made it. Other processes keep what they have mapped."""
        path = self.where()
        self.release()
        if path is not None and self.pid == os.getpid():
            try:
                os.unlink(path)
            except OSError:
                pass  # somebody tidied up, or (on Windows) a worker that is being killed still has it open

    def where(self) -> str | None:
        """Where the file is: a successor may have moved it aside. None when somebody has removed it."""
        if sys.platform == "win32":
            return self._path  # nobody can move or remove a file that is open there
        for path in (self._path, self._path + ASIDE):
            try:
                if os.path.samestat(os.fstat(self._file), os.stat(path)):
                    return path
            except OSError:
                continue
        return None

    def move_back(self) -> None:
        """To its own place, since the successor that had it is gone; OSError when that cannot be."""
        path = self.where()
        if path is not None and path != self._path:
            os.replace(path, self._path)


def _nameless_file() -> int | None:
    """A descriptor of memory, for :meth:`Scoreboard.anonymous`."""
    try:
        if sys.platform == "linux":
            return os.memfd_create("zibai")
        if sys.platform == "win32":
            return None
        with tempfile.TemporaryFile() as file:
            return os.dup(file.fileno())
    except OSError:
        return None


def _fill(file: int, rows: int, slots: int, facts: dict[str, Any]) -> None:
    """Write the head and empty rows to a new file."""
    text = json.dumps(facts).encode()
    with os.fdopen(file, "wb", closefd=False) as stream:
        stream.write(_HEAD.pack(MAGIC, os.getpid(), clock(), rows, slots, text if len(text) <= 1000 else b""))
        # Written, and not a hole: who writes to a mapped hole while the disk is full is killed by SIGBUS.
        for _ in range(rows):
            stream.write(bytes(size_of(slots)))


def _inherit(descriptor: Any, path: str) -> Scoreboard:
    return Scoreboard(descriptor.detach(), path)
