"""The state of one server loop: a row of the scoreboard, with a slot for each of its threads or greenlets.

A row holds the parent's facts about the worker, the loop's heartbeat, its counters, and its slots
(:mod:`zibai.telemetry.slot`). Most workers have one loop, and so one row (:mod:`zibai.telemetry.rows`).

Nothing is locked, since each byte has one writer: the parent writes the first fields of a row, the owner of the server
loop writes heartbeat, gauges and counters, and each thread or greenlet writes its slot. A reader may come in the middle
of a write, and the time limits of the parent depend on these values. So each number lies at a multiple of eight bytes
and is replaced in one step; ``Struct.pack_into`` would first fill its place with zeros. Slots are written in another
way, since they are written for every request.
"""

import time
from contextlib import suppress
from struct import Struct
from typing import Any, Final, NamedTuple, Self

from ..clock import clock
from .counts import REFUSALS, Counted, refusal_place
from .slot import NUMBERS, SLOT_SIZE, Finished, Records, Running, Slot, read_counts, read_records, settled

COUNTERS: Final = ("requests", "1xx", "2xx", "3xx", "4xx", "5xx", "bytes")
GAUGES: Final = ("open", "idle", "head", "body", "queue", "busy", "send", "websockets")
"""Connections: all (open), and those that wait for a request (idle), a head, a body, or a thread or greenlet (queue);
those that have one (busy), those whose client must take the response (send), and WebSockets."""

_ROW: Final = Struct("=16sqI4xd")  # written by the parent: state, pid, generation, start of the worker
_BEAT: Final = Struct("=dd")  # last heartbeat, CPU time of the worker then
_BEAT_END: Final = _ROW.size + _BEAT.size
_TALLY: Final = len(COUNTERS) + len(GAUGES)
_REFUSALS: Final = len(REFUSALS)  # after the tally; written by the owner of the server loop, too
_RUNNERS: Final = _TALLY + _REFUSALS  # the place of the number that :meth:`Row.offer` writes
_UNLISTED: Final = _RUNNERS + 1  # the place of the number that :meth:`Row.leave_out` writes
_FULL: Final = _UNLISTED + 1  # the place of the mark that :meth:`Row.mark_full` writes
_SEEN: Final = _FULL + 1  # the place of the time that ``Row.seen`` is
_OPEN: Final = len(COUNTERS) + GAUGES.index("open")
_SLOTS_AT: Final = _BEAT_END + 8 * (_SEEN + 1)


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
    unlisted: int  # how many requests of tasks run beside those in ``running``


class Row:
    """One server loop. Its owner calls ``offer``, ``leave_out``, ``beat``, ``refuse`` and ``mark_full``,
    and sets ``connections`` and ``seen``; any thread calls ``running``, the parent or a reader the rest.
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
        counts_at = _SLOTS_AT + self._number * SLOT_SIZE
        self._rest = view[_SLOTS_AT:counts_at]
        self._counts = view[counts_at:]
        self._tally = view[_BEAT_END:_SLOTS_AT].cast("Q")

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
        self._view[: _ROW.size] = _ROW.pack(state.encode(), pid, max(0, generation), started)

    def clear(self) -> None:
        """Clear the row: its worker is gone."""
        self._view[:] = bytes(len(self._view))

    def beat(self, tally: list[int]) -> None:
        """Write a heartbeat of the server loop; ``tally`` has its ``COUNTERS`` and ``GAUGES``.

        The counters are without the responses that slots count: :meth:`read` adds those.
        """
        for place, value in enumerate(tally):
            self._tally[place] = value
        self._view[_ROW.size : _BEAT_END] = _BEAT.pack(clock(), time.process_time())

    def refuse(self, status: int) -> None:
        """Count a request that the application never sees."""
        self._tally[_TALLY + refusal_place(status)] += 1

    def offer(self, runners: int) -> None:
        """Write how many requests the worker runs at the same time: tasks may be more than slots."""
        self._tally[_RUNNERS] = runners

    def leave_out(self, requests: int) -> None:
        """Write how many requests run and have no slot."""
        self._tally[_UNLISTED] = requests

    def mark_full(self, full: bool) -> None:
        """Note that at this moment no thread, greenlet or task is free, or that one is free again."""
        self._tally[_FULL] = int(clock() * 1_000_000) << 1 | full

    def is_full(self, said: float, was: float) -> bool:
        """Whether the worker is full, by a mark of the time ``said`` or later, or was full at ``was`` or later; both by
        the clock."""
        mark = self._tally[_FULL]
        return mark >> 1 >= (said if mark & 1 else was) * 1_000_000

    @property
    def connections(self) -> int:
        """How many connections the worker has. It is written as each one begins and ends, beside the heartbeat."""
        return self._tally[_OPEN]

    @connections.setter
    def connections(self, number: int) -> None:
        self._tally[_OPEN] = number

    @property
    def seen(self) -> float:
        """When the loop last saw that new clients wait, by the clock. In the future while it leaves them to others."""
        return self._tally[_SEEN] / 1_000_000

    @seen.setter
    def seen(self, at: float) -> None:
        self._tally[_SEEN] = int(at * 1_000_000)

    @property
    def runners(self) -> int:
        """How many requests the loop runs at the same time; 0 until it is made."""
        return self._tally[_RUNNERS]

    @property
    def state(self) -> str:
        """The state that the parent has written; empty for a row without a worker."""
        return bytes(self._view[:16]).rstrip(b"\0").decode("ascii", "replace")

    def running(self) -> list[Running]:
        """The requests that run and have a slot, the longest first."""
        return self._records().running

    def _records(self) -> Records:
        return read_records(settled(lambda: bytes(self._rest)), self._number)

    @property
    def is_used(self) -> bool:
        """Whether the row has a worker."""
        return bool(self._view[0])

    def pulse(self) -> tuple[float, float]:
        """The time of the last heartbeat, 0 before the first, and the worker's processor time then, in seconds."""
        beat, cpu = _BEAT.unpack_from(self._view, _ROW.size)
        return beat, cpu

    def read(self) -> Report:
        """Read all of it; any process may."""
        state, pid, generation, started = _ROW.unpack_from(self._view)
        beat, cpu = _BEAT.unpack_from(self._view, _ROW.size)
        tally = self._tally.tolist()
        records = self._records()
        counted = read_counts(bytes(self._counts), records)
        responses = counted.responses()
        counters = dict(zip(COUNTERS + GAUGES, tally, strict=False))
        for name, number in zip(COUNTERS, [sum(responses[2:]), *responses[1:6]], strict=False):
            counters[name] += number
        return Report(
            state.rstrip(b"\0").decode("ascii", "replace"),
            pid,
            generation,
            started,
            beat,
            cpu,
            counters,
            records.running,
            records.finished,
            counted=counted,
            refusals=tally[_TALLY:_RUNNERS],
            runners=tally[_RUNNERS],
            unlisted=tally[_UNLISTED],
        )


def black_box(report: Report) -> str:
    """The last requests of a worker, in lines for the log message about its end; empty if there were none."""
    now = clock()
    lines = [f"it was serving {each.what} for {now - each.since:.1f} s ({each.phase})" for each in report.running]
    lines += [f"it was serving {others(report.unlisted)}"] if report.unlisted else []
    lines += [
        f"{now - each.ended:.1f} s ago it answered {each.what} with {each.status} after {each.ended - each.began:.3f} s"
        for each in report.finished[:FINISHED_SHOWN]
    ]
    return "".join(f"\n  {line}" for line in lines)


def others(number: int) -> str:
    """Text for the requests that are not in a list, because it has only those that have run longest."""
    return f"{number} more request{'' if number == 1 else 's'}, for less time"


FINISHED_SHOWN: Final = 8
"""The number of finished requests in a black box."""


def size_of(slots: int) -> int:
    """Bytes of a row with so many slots."""
    return _SLOTS_AT + slots * (SLOT_SIZE + NUMBERS.size)
