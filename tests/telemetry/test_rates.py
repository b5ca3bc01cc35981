"""The differences of two moments, and percentiles out of a histogram."""

from __future__ import annotations

from typing import Any

import pytest

from zibai.telemetry.counts import BOUNDS
from zibai.telemetry.rates import compare, percentile, processor, sums


def moment(up: float, *buckets: int, errors: int = 0, workers: list[dict[str, Any]] | None = None) -> dict[str, Any]:
    numbers = [*buckets, *[0] * (len(BOUNDS) + 1 - len(buckets))]
    by = {"read": {"2xx": sum(numbers) - errors, "5xx": errors}, "write": {"2xx": 3}}
    return {"up": up, "totals": {"served": {"buckets": numbers, "by": by}}, "workers": workers or []}


def test_rates() -> None:
    rates = compare(moment(10.0, 5, 2, errors=1), moment(12.0, 105, 2, errors=5))
    assert rates == {"seconds": 2.0, "rate": 50.0, "errors": 2.0, "p50": 0.0005, "p95": 0.00095, "p99": 0.00099}
    nothing = compare(moment(10.0, 5), moment(10.0, 5))
    assert nothing["rate"] == 0.0
    assert nothing["p50"] is None
    assert compare(moment(10.0, 9), moment(11.0, 5))["rate"] == 0.0, "a row that moves is no negative rate"


@pytest.mark.parametrize(
    ("buckets", "share", "expected"),
    [
        ([10], 0.5, 0.0005),
        ([0, 10], 0.5, 0.00175),
        ([5, 5], 0.5, 0.001),
        ([50, 0, 0, 50], 0.75, 0.0075),
        ([0] * len(BOUNDS) + [1], 0.5, 60.0),
        ([99] + [0] * (len(BOUNDS) - 1) + [1], 0.995, 60.0),
    ],
)
def test_percentiles(buckets: list[int], share: float, expected: float) -> None:
    numbers = [*buckets, *[0] * (len(BOUNDS) + 1 - len(buckets))]
    assert percentile(numbers, share) == pytest.approx(expected)


def test_sums_and_processors() -> None:
    one = {"pid": 1, "cpu": 1.0, "running": [{}, {}], "busy": 1, "runners": 4, "queue": 2, "open": 7}
    more = {"pid": 2, "cpu": 9.0, "running": [{}], "busy": 70, "runners": 100, "queue": 0, "open": 1}
    before, after = moment(1.0, workers=[one]), moment(3.0, workers=[{**one, "cpu": 2.0}, more])
    assert sums(after) == {"busy": 72, "slots": 104, "queue": 2, "connections": 8}
    assert processor(before, after) == {1: 0.5}, "a new worker has no share yet"
