"""What one worker is doing: a row of the scoreboard, with a slot for each of its threads or greenlets.

A row holds what the parent knows about the worker, its heartbeat, its counters, and its slots. A slot keeps a few
records in turn: the request that the thread or greenlet runs, and those that it has finished before. It also counts
(:mod:`zibai.telemetry.counts`).

Nothing is locked, since each byte has one writer: the parent writes the first fields of a row, the owner of the server
loop writes heartbeat, gauges and counters, and each thread or greenlet writes its slot. A reader may see a write
halfway, so its result is for people and for time limits. A path is kept without its query, which may hold secrets.
"""

import time
from bisect import bisect_left
from contextlib import suppress
from itertools import cycle
from struct import Struct
from typing import Any, Final, NamedTuple, Self

from ..clock import clock
from .counts import BOUNDS, PLACES, REFUSALS, SIZE, Counted, refusal_place

FREE, CALLED, READING, SENDING = range(4)
PHASES: Final = ("free", "app", "body", "send")
"""What a thread or greenlet does: nothing, run the application, wait for a request body, or wait until the client takes
the response."""

COUNTERS: Final = ("requests", "1xx", "2xx", "3xx", "4xx", "5xx", "bytes")
GAUGES: Final = ("open", "idle", "head", "body", "queue", "busy", "send")
"""Connections: all, and those that wait for a request, a head, a body, or a thread or greenlet (queue); those that have
one (busy), and those whose client has to take the response (send)."""

TEXT: Final = 112
"""Bytes that are kept of method and path."""

_ROW: Final = Struct("=16sqId")  # written by the parent: state, pid, generation, start of the worker
_BEAT: Final = Struct("=dd")  # last heartbeat, CPU time of the worker then
_TALLY: Final = len(COUNTERS) + len(GAUGES)
_REFUSALS: Final = len(REFUSALS)  # after the tally; written by the owner of the server loop, too
_RUNNERS: Final = _TALLY + _REFUSALS  # the place of the number that :meth:`Row.offer` writes
_RECORD: Final = Struct(f"=BHddd{TEXT}s")
"""Phase, status, when it began and ended, the sum of all durations of the slot until then, "METHOD /path"."""

_END: Final = Struct("=BHddd")
_SUM: Final = Struct("=d")
_SUM_AT: Final = _END.size - _SUM.size
_RECORDS: Final = 4
_begin, _end = _RECORD.pack_into, _END.pack_into
_SLOT: Final = _RECORD.size * _RECORDS
_SLOTS_AT: Final = _ROW.size + _BEAT.size + 8 * (_RUNNERS + 1)
_NUMBERS: Final = Struct(f"={SIZE}Q")  # what a slot has counted; after the records of all slots


class Running(NamedTuple):
    """A request that a thread or greenlet runs. ``since`` is the time of the call of the application."""

    slot: int
    what: str
    phase: str
    since: float


class Finished(NamedTuple):
    """A request with its response; status 499 is a client that left before the response began."""

    what: str
    status: int
    began: float
    ended: float


class Report(NamedTuple):
    """One row, read. ``state`` is empty for a row without a worker; ``beat`` is 0 until the worker serves."""

    state: str
    pid: int
    generation: int
    started: float
    beat: float
    cpu: float
    counters: dict[str, int]
    running: list[Running]  # the longest first
    finished: list[Finished]  # the latest first
    counted: Counted  # by all slots
    refusals: list[int]  # in the order of REFUSALS
    runners: int  # how many requests the worker runs at the same time; 0 until it serves


class Slot:
    """What one thread or greenlet runs. It alone writes; ``begin`` and ``end`` are paid by every request.

    The numbers are kept twice: reading them from the shared memory would cost as much as writing. All of the counting
    costs 2 % of a varied request. Shared memory is used without a local name: :meth:`move` may release it while this
    thread waits for the GIL, which it does after a call and not between the steps of an assignment.
    """

    __slots__ = ("_at", "_counts", "_first", "_next", "_numbers", "_seconds", "_view", "number")

    def __init__(self, view: memoryview, counts: memoryview, number: int) -> None:
        self.number = number
        self._view = view
        self._at = number * _SLOT
        self._first = PLACES[0]  # of the method of the request that runs
        self._numbers = [0] * SIZE
        self._seconds = 0.0
        places = [self._at + place * _RECORD.size for place in range(_RECORDS)]
        self._next = cycle(places[1:] + places[:1]).__next__
        self._take(counts)

    def _take(self, counts: memoryview) -> None:
        self._counts = counts[self.number * _NUMBERS.size : (self.number + 1) * _NUMBERS.size].cast("Q")

    def move(self, view: memoryview, counts: memoryview) -> None:
        """Write to other memory from now on."""
        self._view = view
        before = self._counts
        self._take(counts)
        before.release()

    def begin(self, what: bytes, now: float) -> None:
        """Note that the application is called for ``what``, such as ``b"GET /path"``."""
        step = self._next  # bound first: Python 3.11 searches for a slot that is called at once
        self._at = at = step()
        self._first = _first_of[what[0]]
        _begin(self._view, at, CALLED, 0, now, 0.0, 0.0, what)

    def phase(self, phase: int) -> None:
        """Note that the request waits, or runs again."""
        self._view[self._at] = phase

    def end(self, status: int, began: float, now: float) -> None:
        """Note that the thread or greenlet is done with the request, and count it."""
        duration = now - began
        self._seconds = seconds = self._seconds + duration
        _end(self._view, self._at, FREE, status, began, now, seconds)
        numbers = self._numbers
        # Short cut: the first bucket is the usual one where speed matters, and the call costs half a percent.
        place = 0 if duration <= SHORTEST else _bucket(BOUNDS, duration)
        numbers[place] = number = numbers[place] + 1
        self._counts[place] = number
        place = self._first + status // 100
        numbers[place] = number = numbers[place] + 1
        self._counts[place] = number

    def count(self, what: bytes, status: int, began: float, now: float) -> None:
        """Count a request that had no slot while it ran, as :meth:`end` does; it leaves no record."""
        duration = now - began
        self._seconds = seconds = self._seconds + duration
        _SUM.pack_into(self._view, self._at + _SUM_AT, seconds)
        numbers = self._numbers
        for place in (_bucket(BOUNDS, duration), _first_of[what[0]] + status // 100):
            numbers[place] = number = numbers[place] + 1
            self._counts[place] = number


SHORTEST: Final = BOUNDS[0]
_first_of: Final = PLACES
_bucket: Final = bisect_left


class Row:
    """One worker. The owner of the server loop calls ``offer``, ``beat``, ``refuse`` and ``running``, the parent or a
    reader the rest.
    """

    def __init__(self, memory: Any, slots: int) -> None:
        self._number = slots
        self._made: dict[str, list[Slot]] = {}
        self._use(memory)

    @property
    def slots(self) -> list[Slot]:
        """The slots, for the worker, whose row must be empty when it first asks for them. Any thread.

        There is only one object for each: it has a copy of the numbers.
        """
        return self._made.get("slots") or self._made.setdefault(
            "slots", [Slot(self._rest, self._counts, number) for number in range(self._number)]
        )

    def _use(self, memory: Any) -> None:
        self._view = view = memoryview(memory)
        counts_at = _SLOTS_AT + self._number * _SLOT
        self._rest = view[_SLOTS_AT:counts_at]
        self._counts = view[counts_at:]
        self._tally = view[_ROW.size + _BEAT.size : _SLOTS_AT].cast("Q")

    def detach(self) -> None:
        """Continue in private memory, with the same contents, so that the file can be closed.

        A request that is cut at the end of a server still writes to its slot.
        """
        before = self._tally, self._rest, self._counts, self._view
        self._use(bytearray(self._view))
        for slot in self._made.get("slots", ()):
            slot.move(self._rest, self._counts)
        for view in before:
            with suppress(BufferError):  # a thread writes at this moment, which is possible without the GIL
                view.release()

    @classmethod
    def private(cls, slots: int) -> Self:
        """A row that no other process sees."""
        return cls(bytearray(size_of(slots)), slots)

    def assign(self, state: str, pid: int, generation: int, started: float) -> None:
        """Write what the parent knows about the worker."""
        _ROW.pack_into(self._view, 0, state.encode(), pid, max(0, generation), started)

    def clear(self) -> None:
        """Forget the worker."""
        self._view[:] = bytes(len(self._view))

    def beat(self, tally: list[int]) -> None:
        """Write a heartbeat of the server loop; ``tally`` has its ``COUNTERS`` and ``GAUGES``."""
        for place, value in enumerate(tally):
            self._tally[place] = value
        _BEAT.pack_into(self._view, _ROW.size, clock(), time.process_time())

    def refuse(self, status: int) -> None:
        """Count a request that the application never sees."""
        self._tally[_TALLY + refusal_place(status)] += 1

    def offer(self, runners: int) -> None:
        """Write how many requests the worker runs at the same time: tasks may be more than slots."""
        self._tally[_RUNNERS] = runners

    def running(self) -> list[Running]:
        """The requests that run and have a slot, the longest first."""
        return self._read_slots(bytes(self._rest))[0]

    @property
    def is_used(self) -> bool:
        """Whether the row has a worker."""
        return bool(self._view[0])

    def read(self) -> Report:
        """Read all of it; any process may."""
        state, pid, generation, started = _ROW.unpack_from(self._view)
        beat, cpu = _BEAT.unpack_from(self._view, _ROW.size)
        tally = self._tally.tolist()
        counters = dict(zip(COUNTERS + GAUGES, tally, strict=False))
        running, finished, seconds = self._read_slots(bytes(self._rest))
        state = state.rstrip(b"\0").decode("ascii", "replace")
        counted, refusals = Counted(self._read_counts(bytes(self._counts)), seconds), tally[_TALLY:_RUNNERS]
        return Report(
            state, pid, generation, started, beat, cpu, counters, running, finished, counted, refusals, tally[_RUNNERS]
        )

    def _read_counts(self, data: bytes) -> tuple[int, ...]:
        """The sum of what the slots have counted."""
        slots = [each for each in _NUMBERS.iter_unpack(data) if any(each)]  # most have never run
        return tuple(map(sum, zip(*slots, strict=True))) or (0,) * SIZE

    def _read_slots(self, data: bytes) -> tuple[list[Running], list[Finished], float]:
        """What runs, what has ended, and the sum of all durations."""
        running, finished = [], []
        seconds = [0.0] * self._number
        for place in range(self._number * _RECORDS):
            phase, status, began, ended, total, raw = _RECORD.unpack_from(data, place * _RECORD.size)
            what = raw.rstrip(b"\0").decode("ascii", "backslashreplace")
            slot = place // _RECORDS
            seconds[slot] = max(seconds[slot], total)  # the latest record has the most
            if 0 < phase < len(PHASES):
                running.append(Running(slot, what, PHASES[phase], began))
            elif ended:
                finished.append(Finished(what, status, began, ended))
        running.sort(key=lambda each: each.since)
        finished.sort(key=lambda each: -each.ended)
        return running, finished, sum(seconds)


def black_box(report: Report) -> str:
    """The last requests of a worker, in lines for the log message about its end; empty if there were none."""
    now = clock()
    lines = [f"it was serving {each.what} for {now - each.since:.1f} s ({each.phase})" for each in report.running]
    lines += [
        f"{now - each.ended:.1f} s ago it answered {each.what} with {each.status} after {each.ended - each.began:.3f} s"
        for each in report.finished[:LAST]
    ]
    return "".join(f"\n  {line}" for line in lines)


LAST: Final = 8
"""The number of finished requests in a black box."""


def size_of(slots: int) -> int:
    """Bytes of a row with so many slots."""
    return _SLOTS_AT + slots * (_SLOT + _NUMBERS.size)
