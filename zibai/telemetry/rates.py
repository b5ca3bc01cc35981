"""Rates, from the difference between two descriptions of one server; and sums over its workers.

``zibai top`` and the live page show the results of these functions, so they cannot contradict each other.
"""

from collections.abc import Sequence
from typing import Any, Final

from .counts import BOUNDS

PERCENTILES: Final = {"p50": 0.5, "p95": 0.95, "p99": 0.99}


def compare(before: dict[str, Any], after: dict[str, Any]) -> dict[str, float | None]:
    """The rates between two results of :func:`~zibai.telemetry.board_view.describe`.

    ``seconds`` have passed. ``rate`` and ``errors`` are requests and responses with 5xx a second; percentiles are
    seconds, None if no request has ended.
    """
    seconds = max(after["up"] - before["up"], 0.001)
    then, now = before["totals"]["served"], after["totals"]["served"]
    # Numbers may fall for a microsecond, while the row of an ended worker moves into the totals.
    buckets = [max(0, b - a) for a, b in zip(then["buckets"], now["buckets"], strict=True)]
    errors = max(0, _errors(now) - _errors(then))
    rates: dict[str, float | None] = {
        "seconds": round(seconds, 3),
        "rate": round(sum(buckets) / seconds, 2),
        "errors": round(errors / seconds, 2),
    }
    return rates | {name: percentile(buckets, share) for name, share in PERCENTILES.items()}


def _errors(served: dict[str, Any]) -> int:
    return sum(by.get("5xx", 0) for by in served["by"].values())


def percentile(buckets: Sequence[int], share: float) -> float | None:
    """The duration that this share of the requests did not exceed, in seconds; None without requests.

    A histogram tells only the bucket, so the durations are assumed to be evenly distributed within each. A duration
    beyond the last bound counts as that bound.
    """
    wanted = share * sum(buckets)
    if not wanted:
        return None
    below = 0
    for place, number in enumerate(buckets[: len(BOUNDS)]):
        if number and below + number >= wanted:
            lower = BOUNDS[place - 1] if place else 0.0
            return round(lower + (BOUNDS[place] - lower) * (wanted - below) / number, 6)
        below += number
    return BOUNDS[-1]


def sums(server: dict[str, Any]) -> dict[str, int]:
    """The sums over all workers: ``busy`` of ``slots``, requests in the ``queue``, and open ``connections``."""
    workers = server["workers"]
    return {
        "busy": sum(max(len(each["running"]), each["busy"]) for each in workers),  # tasks may be more than slots
        "slots": sum(each["runners"] for each in workers),
        "queue": sum(each["queue"] for each in workers),
        "connections": sum(each["open"] for each in workers),
    }


def processor(before: dict[str, Any], after: dict[str, Any]) -> dict[int, float]:
    """The share of one processor that each worker has used between two descriptions, by process id."""
    seconds = max(after["up"] - before["up"], 0.001)
    then = {each["pid"]: each["cpu"] for each in before["workers"]}
    return {
        each["pid"]: max(0.0, each["cpu"] - then[each["pid"]]) / seconds
        for each in after["workers"]
        if each["pid"] in then
    }
