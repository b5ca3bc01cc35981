"""A scoreboard as plain values, and as a table.

:func:`describe` is the only way from rows to values: ``zibai ps``, ``/metrics`` and the control channel show its
result. So they cannot contradict each other.
"""

from collections.abc import Iterator
from itertools import zip_longest
from typing import Any

from ..clock import clock
from ..system import machine
from ..system.usage import Usage, usage
from .counts import REFUSALS, Counted
from .row import others
from .scoreboard import Report, Scoreboard
from .totals import SUMS


def describe(board: Scoreboard, *, measured: bool = True) -> dict[str, Any]:
    """The data of ``--json``: plain values, times as seconds until now, counters since the start of the server.

    ``workers`` are those that run. ``totals`` has the sums of all workers, also of those that have ended. With
    ``measured`` the system is asked for memory and descriptors of each worker, which takes milliseconds for many.
    """
    with board.totals.lock:  # no row moves into the totals meanwhile
        now = clock()
        reports = [(number, row.read()) for number, row in enumerate(board.workers()) if row.is_used]
        totals = board.totals.read()
    present = [(number, report) for number, report in reports if report.state]
    is_ours = not machine.is_foreign(board.namespace)
    return {
        "pid": board.pid,
        **board.facts,
        "up": _past(now, board.started),
        "totals": _totals([report for _, report in reports], *totals),
        "workers": [_worker(number, report, now, measured and is_ours) for number, report in present],
    }


def _totals(
    reports: list[Report], numbers: dict[str, int], refusals: list[int], counted: Counted, cpu: float
) -> dict[str, Any]:
    """The sums of all rows, and of the workers that have ended."""
    for report in reports:
        counted = counted.plus(report.counted)
        refusals = [sum(pair) for pair in zip_longest(refusals, report.refusals, fillvalue=0)]
        cpu += report.cpu
    sums = {name: numbers[name] + sum(report.counters[name] for report in reports) for name in SUMS}
    ends = {name.removeprefix("ended_"): number for name, number in numbers.items() if name.startswith("ended_")}
    restarts = {name.removeprefix("restarts_"): n for name, n in numbers.items() if name.startswith("restarts_")}
    return {
        **sums,
        "served": counted.describe(),
        "refusals": {str(status or "other"): n for status, n in zip(REFUSALS, refusals, strict=True) if n},
        "cpu": round(cpu, 3),
        "wanted": numbers["wanted"],
        "starts": numbers["worker_starts"],
        "ends": ends,
        "restarts": restarts,
    }


def _worker(number: int, report: Report, now: float, measured: bool) -> dict[str, Any]:
    used, cpu = (usage(report.pid), machine.cpu_time(report.pid)) if measured else (Usage(), None)
    return {
        "row": number,
        "pid": report.pid,
        "state": report.state,
        "generation": report.generation,
        "up": _past(now, report.started),
        "beat": _past(now, report.beat) if report.beat else None,
        "cpu": round(report.cpu if cpu is None else cpu, 3),
        "memory": used.memory,
        "descriptors": used.descriptors,
        "runners": report.runners,
        **report.counters,
        "running": [
            {**_request(each.what), "phase": each.phase, "seconds": _past(now, each.since)} for each in report.running
        ],
        "unlisted": report.unlisted,
        "finished": [
            {
                **_request(each.what),
                "status": each.status,
                "seconds": round(each.ended - each.began, 6),
                "ago": _past(now, each.ended),
            }
            for each in report.finished
        ],
    }


def _past(now: float, then: float) -> float:
    return round(max(0.0, now - then), 3)


def _request(what: str) -> dict[str, str]:
    method, _, path = what.partition(" ")
    return {"method": method, "path": path}


_COLUMNS = {"pid": 8, "state": 9, "up": 9, "beat": 7, "cpu": 8, "memory": 9}
_REQUESTS = {"requests": 10, "4xx": 6, "5xx": 5, "busy": 5, "queue": 4}
_TITLES = {"pid": "worker", "memory": "rss", "up": "age", "requests": "requests", "queue": "q"}


def table(server: dict[str, Any]) -> Iterator[str]:
    """Lines for people: the server, its totals, its workers, and each running request. A line has at most 80 columns,
    unless a single value is longer.
    """
    yield f"zibai {server.get('version', '')}, {server.get('app', '')}, process {server['pid']}"
    more = [f"{server['unlisted']} more addresses"] if "unlisted" in server else []
    yield "  " + ", ".join([f"up {age(server['up'])}", *server.get("listen", []), *more])
    serves = bool(server.get("listen") or more)  # a supervised function has no requests
    yield "  " + _summary(server["totals"], serves)
    columns = {**_COLUMNS, **(_REQUESTS if serves else {})}
    yield "".join(f"{_TITLES.get(name, name):>{width}}" for name, width in columns.items())
    for worker in server["workers"]:
        yield "".join(f"{_cell(name, worker[name]):>{width}}" for name, width in columns.items())
        if worker["websockets"]:
            yield f"{'':8}  {worker['websockets']} WebSocket{'' if worker['websockets'] == 1 else 's'}"
        for each in worker["running"]:
            yield _shorten(f"{'':8}  {each['method']} {each['path']}", f"  {age(each['seconds'])}, {each['phase']}")
        if worker["unlisted"]:
            yield f"{'':8}  and {others(worker['unlisted'])}"


def _summary(totals: dict[str, Any], serves: bool) -> str:
    """The totals in a line."""
    ends = {name: number for name, number in totals["ends"].items() if number and name != "stopped"}
    deaths = "".join(f", {number} by {name}" for name, number in ends.items())
    parts = []
    if serves:
        parts = [f"{totals['requests']} requests", f"{totals['4xx']} 4xx", f"{totals['5xx']} 5xx"]
    parts += [f"cpu {age(totals['cpu'])}", f"{totals['restarts']['begun']} restarts"]
    return ", ".join(parts) + (f"; workers that died: {sum(ends.values())} ({deaths[2:]})" if ends else "")


def _shorten(text: str, end: str, width: int = 80) -> str:
    """``text`` and ``end`` in one line; ``text`` is shortened if it does not fit."""
    room = width - len(end)
    return (text if len(text) <= room else text[: room - 3] + "...") + end


def _cell(name: str, value: Any) -> str:
    if value is None:
        return "-"
    if name in ("up", "beat", "cpu"):
        return age(value)
    return f"{value / 2**20:.1f} M" if name == "memory" else str(value)


def age(seconds: float) -> str:
    """A duration in a unit that is easy to read: 4.2 s, 12.0 m, 3.5 h, 2.1 d."""
    if seconds < 100:
        return f"{seconds:.1f} s"
    for size, unit in ((60, "m"), (3600, "h"), (86400, "d")):
        if seconds < 100 * size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds / 86400:.0f} d"
