"""The work of one thread, greenlet or task: a slot of a worker's row.

A slot keeps a few records in turn: the running request, and the last finished ones. It also counts
(:mod:`zibai.telemetry.counts`), so that no number is lost when a worker is killed.

Nothing is locked, since the thread or greenlet of the slot is its only writer. So a reader may come in the middle of a
write: a reader in another process always, and one in the same process on a Python without GIL. Time limits depend on
the records: a request whose begin is not written yet would seem to run since the system came up. So a reader copies
each record twice and believes only equal copies (:func:`settled`). A path is kept without its query, which may hold
secrets.
"""

from bisect import bisect_left
from collections.abc import Callable
from itertools import cycle
from struct import Struct
from typing import Any, Final, NamedTuple

from .counts import BOUNDS, PLACES, SIZE, Counted, count_wait

FREE, CALLED, READING, SENDING = range(4)
PHASES: Final = ("free", "app", "body", "send")
"""The phases of a thread or greenlet: it has nothing to do, runs the application, waits for a request body, or waits
until the client takes the response."""

TEXT: Final = 112
"""The most bytes of method and path in a record."""

_RECORD: Final = Struct(f"@{TEXT}sd BxH 4xd dQ")
"""The request: "METHOD /path", and when the application was called. Then phase and status. Then when it ended, and two
counters of the slot at that time: the sum of all durations, and the usual requests."""

_BEGIN: Final = Struct(f"@{TEXT}sd BxH")
_END: Final = Struct("@BxH 4xd dQ")
"""The begin and the end of a request write a part each; phase and status are in both. Before the end of a request, the
rest belongs to an earlier one."""

_PHASE_AT: Final = _RECORD.size - _END.size
_SUM: Final = Struct("@d")
_SUM_AT: Final = _END.size - 16  # from the phase on
_ENDED_AT: Final = _RECORD.size - 24  # the time of the end
_RECORDS: Final = 4
_begin, _end = _BEGIN.pack_into, _END.pack_into
SLOT_SIZE: Final = _RECORD.size * _RECORDS
NUMBERS: Final = Struct(f"={SIZE}Q")  # the counters of a slot; they come after the records of all slots


class Running(NamedTuple):
    """A request that runs. ``since`` is the time of the call of the application.

    ``slot`` is the number of the slot, or another key of the backend for the request. ``is_endless`` is whether the
    response is a stream that does not end by itself.
    """

    slot: Any
    what: str
    phase: str
    since: float
    is_endless: bool = False


class Finished(NamedTuple):
    """A request with its response; status 499 is a client that left before the response began."""

    what: str
    status: int
    began: float
    ended: float


class Records(NamedTuple):
    """The records of all slots of a row, read."""

    running: list[Running]  # the longest first
    finished: list[Finished]  # the latest first
    usual: int  # how many requests were counted in the records
    seconds: float  # the sum of all durations


class Slot:
    """The slot of one thread or greenlet, its only writer. Every request calls ``begin`` and ``end``.

    The numbers are kept twice: reading them from the shared memory would cost as much as writing. The usual request, a
    GET with a 2xx within a millisecond, is counted in its record, by the call that writes the record anyway: a short
    cut, which saves 2 % of a plain request. Shared memory is used without a local name: :meth:`move` may release it
    while this thread waits for the GIL, which happens after a call and not between the steps of an assignment.
    """

    __slots__ = ("_at", "_counts", "_first", "_next", "_numbers", "_seconds", "_usual", "_view", "number")

    def __init__(self, view: memoryview, counts: memoryview, number: int) -> None:
        self.number = number
        self._view = view
        self._at = number * SLOT_SIZE + _PHASE_AT  # the phase of the record that is used
        self._first = PLACES[0]  # of the method of the request that runs
        self._numbers = [0] * SIZE
        self._seconds = 0.0
        self._usual = 0
        places = [self._at + place * _RECORD.size for place in range(_RECORDS)]
        self._next = cycle(places[1:] + places[:1]).__next__
        self._take(counts)

    def _take(self, counts: memoryview) -> None:
        self._counts = counts[self.number * NUMBERS.size : (self.number + 1) * NUMBERS.size].cast("Q")

    def move(self, view: memoryview, counts: memoryview) -> None:
        """Write to other memory from now on. Without a GIL the thread may meet the memory that is released here."""
        self._view = view
        before = self._counts
        self._take(counts)
        before.release()

    def begin(self, what: bytes, now: float) -> None:
        """Note that the application is called for ``what``, such as ``b"GET /path"``."""
        step = self._next  # bound first: Python 3.11 searches for a slot that is called at once
        self._at = at = step()
        self._first = _first_of[what[0]]
        _begin(self._view, at - _PHASE_AT, what, now, CALLED, 0)

    def phase(self, phase: int) -> None:
        """Note that the request waits, or runs again."""
        self._view[self._at] = phase

    def end(self, status: int, began: float, now: float) -> None:
        """Note that the thread or greenlet is done with the request, and count it."""
        duration = now - began
        self._seconds = seconds = self._seconds + duration
        place, usual = self._first + status // 100, self._usual
        if duration <= SHORTEST and place == USUAL:
            self._usual = usual = usual + 1
        else:
            self._count(place, duration)
        _end(self._view, self._at, FREE, status, now, seconds, usual)

    def count(self, what: bytes, status: int, began: float, now: float) -> None:
        """Count a request that had no slot while it ran, as :meth:`end` does; it leaves no record."""
        duration = now - began
        self._seconds = seconds = self._seconds + duration
        _SUM.pack_into(self._view, self._at + _SUM_AT, seconds)
        self._count(_first_of[what[0]] + status // 100, duration)

    def waited(self, seconds: float) -> None:
        """Count a request that has waited for this slot for longer than :data:`SHORTEST`. Call it before the end."""
        for each in count_wait(self._numbers, seconds):
            self._counts[each] = self._numbers[each]

    def _count(self, place: int, duration: float) -> None:
        """Count a request by the ``place`` of its method and status, and by its duration."""
        numbers = self._numbers
        for each in (place, _bucket(BOUNDS, duration)):
            numbers[each] = number = numbers[each] + 1
            self._counts[each] = number


SHORTEST: Final = BOUNDS[0]
"""The longest duration of a usual request, in seconds."""

USUAL: Final = PLACES[ord("G")] + 2
"""The place of its method and status among the numbers: GET or HEAD, and 2xx."""

_first_of: Final = PLACES
_bucket: Final = bisect_left


TRIES: Final = 8
"""How often a record is copied until two copies are equal; a write takes less than a microsecond."""

_UNKNOWN: Final = bytes(8)


def settled(take: Callable[[], bytes]) -> bytes:
    """Copies of all records, each the same twice in a row. ``take`` copies them.

    A write sets the phase to 0 first, and to its new value last. So two equal copies cannot both come from the middle
    of a write. A record that changes all the time belongs to short requests: of these only the counters are used.
    """
    before, data = take(), take()
    if before == data:
        return data
    result, size = bytearray(data), _RECORD.size
    moving = [at for at in range(0, len(data), size) if before[at : at + size] != data[at : at + size]]
    for _ in range(TRIES):
        before, data = data, take()
        for at in moving:
            result[at : at + size] = data[at : at + size]
        moving = [at for at in moving if before[at : at + size] != data[at : at + size]]
        if not moving:
            break
    for at in moving:
        result[at + _PHASE_AT] = FREE
        result[at + _ENDED_AT : at + _ENDED_AT + 8] = _UNKNOWN
    return bytes(result)


def read_records(data: bytes, slots: int) -> Records:
    """Read the records of so many slots."""
    running, finished = [], []
    seconds, usual = [0.0] * slots, [0] * slots
    for place in range(slots * _RECORDS):
        raw, began, phase, status, ended, total, count = _RECORD.unpack_from(data, place * _RECORD.size)
        what = raw.rstrip(b"\0").decode("ascii", "backslashreplace")
        slot = place // _RECORDS
        # The latest record has the most.
        seconds[slot] = max(seconds[slot], total)
        usual[slot] = max(usual[slot], count)
        if 0 < phase < len(PHASES):
            running.append(Running(slot, what, PHASES[phase], began))
        elif ended and ended >= began:  # else it had no slot while it ran, and the end is an earlier request's
            finished.append(Finished(what, status, began, ended))
    running.sort(key=lambda each: each.since)
    finished.sort(key=lambda each: -each.ended)
    return Records(running, finished, sum(usual), sum(seconds))


def read_counts(data: bytes, records: Records) -> Counted:
    """The sum of the counters of the slots, in ``data`` and in their records."""
    slots = [each for each in NUMBERS.iter_unpack(data) if any(each)]  # most have never run
    numbers = [*map(sum, zip(*slots, strict=True))] or [0] * SIZE
    numbers[0] += records.usual
    numbers[USUAL] += records.usual
    return Counted(tuple(numbers), records.seconds)
