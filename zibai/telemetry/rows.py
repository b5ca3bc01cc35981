"""The rows of one worker, read as one: a worker with several server loops has a row for each of them.

A row has one writer for each byte (:mod:`zibai.telemetry.row`), and the owners of two server loops are two threads. So
each loop writes a row of its own, and readers get the sum. The processor time belongs to the process: it is in each
row, and is not added up. The heartbeat is that of the loop that has been silent for the longest time. So if one loop of
a worker hangs, the worker counts as one that hangs.

Any process may read; the parent calls ``assign`` and ``clear``.
"""

from collections.abc import Sequence
from itertools import zip_longest
from operator import attrgetter

from .row import Report, Row


class Rows:
    """``each`` has a row for each server loop that the worker may have, at least one."""

    def __init__(self, each: Sequence[Row]) -> None:
        self.each = each

    def __repr__(self) -> str:
        return f"<Rows: {len(self.each)}>"

    @property
    def is_used(self) -> bool:
        """Whether there is a worker."""
        return self.each[0].is_used

    def assign(self, state: str, pid: int, generation: int, started: float) -> None:
        """Write what the parent knows about the worker.

        A worker may have fewer loops than rows: an ASGI application has one. A row without a loop must not look to
        other workers like one that is ready.
        """
        for place, row in enumerate(self.each):
            if place and state == "ready" and not row.runners:
                row.assign("", 0, 0, 0.0)
            else:
                row.assign(state, pid, generation, started)

    def clear(self) -> None:
        """Clear the rows: the worker is gone."""
        for row in self.each:
            row.clear()

    def pulse(self) -> tuple[float, float]:
        """See :meth:`Row.pulse`: of the loop that has been silent for the longest time."""
        return min((pulse for pulse in (row.pulse() for row in self.each) if pulse[0]), default=(0.0, 0.0))

    def read(self) -> Report:
        """All rows as one report."""
        reports = [row.read() for row in self.each]
        return reports[0] if len(reports) == 1 else _sum(reports)


def _sum(reports: list[Report]) -> Report:
    """The report of a process, from the reports of its loops."""
    first, beats = reports[0], [report.beat for report in reports if report.beat]
    counted = first.counted
    for report in reports[1:]:
        counted = counted.plus(report.counted)
    return first._replace(
        beat=min(beats, default=0.0),
        cpu=max(report.cpu for report in reports),
        counters={name: sum(report.counters[name] for report in reports) for name in first.counters},
        running=sorted((each for report in reports for each in report.running), key=attrgetter("since")),
        finished=sorted((each for report in reports for each in report.finished), key=lambda each: -each.ended),
        counted=counted,
        refusals=[sum(same) for same in zip_longest(*(report.refusals for report in reports), fillvalue=0)],
        runners=sum(report.runners for report in reports),
        unlisted=sum(report.unlisted for report in reports),
    )
