"""A scoreboard as plain values, and as a table for people."""

from collections.abc import Iterator
from typing import Any

from ..clock import clock
from .scoreboard import Report, Scoreboard


def describe(board: Scoreboard) -> dict[str, Any]:
    """The data of ``--json``: plain values, times as seconds until now."""
    now = clock()
    workers = [_worker(report, now) for report in (row.read() for row in board.rows()) if report.state]
    return {"pid": board.pid, **board.facts, "up": _past(now, board.started), "workers": workers}


def _worker(report: Report, now: float) -> dict[str, Any]:
    return {
        "pid": report.pid,
        "state": report.state,
        "generation": report.generation,
        "up": _past(now, report.started),
        "beat": _past(now, report.beat) if report.beat else None,
        "cpu": round(report.cpu, 3),
        **report.counters,
        "running": [
            {**_request(each.what), "phase": each.phase, "seconds": _past(now, each.since)} for each in report.running
        ],
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


_COLUMNS = ("pid", "state", "up", "beat", "cpu", "requests", "4xx", "5xx", "open", "idle", "busy", "queue")


def table(server: dict[str, Any]) -> Iterator[str]:
    """Lines for people: one for the server, one for each worker, and one for each request that runs."""
    name = f"zibai {server.get('version', '')}, {server.get('app', '')}"
    yield ", ".join([name, f"process {server['pid']}", f"up {_age(server['up'])}", *server.get("listen", [])])
    columns = _COLUMNS if server.get("listen") else _COLUMNS[:5]  # a supervised function has no requests
    yield "".join(f"{name:>9}" for name in ("worker", *columns[1:]))
    for worker in server["workers"]:
        yield "".join(f"{_cell(name, worker[name]):>9}" for name in columns)
        for each in worker["running"]:
            yield f"{'':>9}  {each['method']} {each['path']}  {_age(each['seconds'])}, {each['phase']}"


def _cell(name: str, value: Any) -> str:
    if name in ("up", "beat", "cpu"):
        return "-" if value is None else _age(value)
    return str(value)


def _age(seconds: float) -> str:
    """A duration in a unit that is easy to read: 4.2 s, 12.0 min, 3.5 h, 2.1 d."""
    if seconds < 100:
        return f"{seconds:.1f} s"
    for size, unit in ((60, "min"), (3600, "h"), (86400, "d")):
        if seconds < 100 * size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds / 86400:.0f} d"
