"""The metrics: their names, their sums, and the dashboard and the alerts that use them."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from zibai.telemetry.board_view import describe
from zibai.telemetry.counts import BOUNDS
from zibai.telemetry.metrics import Metrics
from zibai.telemetry.row import COUNTERS, GAUGES, Row
from zibai.telemetry.scoreboard import Scoreboard

from support import ROOT

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

parser = pytest.importorskip("prometheus_client.parser")

MONITORING = ROOT / "docs" / "monitoring"


@pytest.fixture
def board(tmp_path: Path) -> Iterator[Scoreboard]:
    board = Scoreboard.create(str(tmp_path / "board"), 4, 3, {"app": "a:b", "listen": ["http://a"], "slots": 2})
    yield board
    board.close()


def serve(board: Scoreboard, row: Any, what: bytes = b"GET /", status: int = 200, duration: float = 0.003) -> None:
    row.slots[1].begin(what, 10.0)
    row.slots[1].end(status, 10.0, 10.0 + duration)


def families(board: Scoreboard) -> dict[str, Any]:
    text = Metrics(lambda: (describe(board), {"http://a": 3})).render().decode()
    return {family.name: family for family in parser.text_string_to_metric_families(text)}


def value(found: dict[str, Any], sample: str, **labels: str) -> float:
    (only,) = [
        each.value
        for family in found.values()
        for each in family.samples
        if each.name == sample and each.labels == labels
    ]
    return float(only)


def test_the_sum_of_what_is_counted(board: Scoreboard) -> None:
    first, second = board.row(0), board.row(1)
    for row in first, second:
        row.assign("ready", 1, 0, 1.0)
        row.offer(2)
        serve(board, row)
        serve(board, row, b"POST /", 503, 7.0)
    serve(board, second, b"PROPFIND /", 799)
    serve(board, second, b"OPTIONS *", 204, 0.0)
    second.refuse(408)
    second.refuse(499)
    second.beat([6, 0, 3, 0, 0, 2, 77, *[1] * len(GAUGES)])
    found = families(board)
    assert value(found, "zibai_requests_total", method="read", status="2xx") == 2
    assert value(found, "zibai_requests_total", method="write", status="5xx") == 2
    assert value(found, "zibai_requests_total", method="write", status="other") == 1
    assert value(found, "zibai_requests_total", method="other", status="2xx") == 1
    assert value(found, "zibai_request_duration_seconds_count") == 6
    assert value(found, "zibai_request_duration_seconds_sum") == pytest.approx(14.009)
    assert value(found, "zibai_request_duration_seconds_bucket", le="0.0025") == 1
    assert value(found, "zibai_request_duration_seconds_bucket", le="0.005") == 4
    assert value(found, "zibai_request_duration_seconds_bucket", le="10.0") == 6
    assert value(found, "zibai_refusals_total", status="408") == 1
    assert value(found, "zibai_refusals_total", status="other") == 1
    assert value(found, "zibai_response_body_bytes_total") == 77
    assert value(found, "zibai_slots", state="busy") == 1
    assert value(found, "zibai_slots", state="free") == 3
    assert value(found, "zibai_backlog_connections", listener="http://a") == 3


@pytest.mark.parametrize(
    ("what", "status", "duration"), [(b"GET /", 200, 0.0), (b"POST /", 503, 7.0), (b"TRACE /", 799, 99.0)]
)
def test_a_request_without_a_slot_counts_as_one_with_a_slot(what: bytes, status: int, duration: float) -> None:
    expected, row = Row.private(2), Row.private(2)
    expected.slots[1].begin(what, 5.0)
    expected.slots[1].end(status, 5.0, 5.0 + duration)
    row.slots[0].begin(b"GET /other", 1.0)  # another request runs in the slot that counts
    row.slots[0].count(what, status, 5.0, 5.0 + duration)
    assert row.read().counted == expected.read().counted
    assert [each.what for each in row.read().running] == ["GET /other"]
    assert not row.read().finished
    row.slots[0].end(200, 1.0, 2.0)
    expected.slots[0].begin(b"GET /other", 1.0)
    expected.slots[0].end(200, 1.0, 2.0)
    assert row.read().counted == expected.read().counted


REQUESTS = st.tuples(
    st.sampled_from([b"GET /", b"HEAD /", b"POST /", b"TRACE /"]),
    st.sampled_from([101, 200, 204, 299, 302, 404, 500, 799]),
    st.sampled_from([0.0, *BOUNDS[:2], 0.0010001, 99.0]),
    st.integers(0, 1),
)


@settings(deadline=None)
@given(st.lists(REQUESTS))
def test_the_usual_request_is_counted_as_all_others(requests: list[tuple[bytes, int, float, int]]) -> None:
    """The short cut of ``end`` against ``count``, which has none."""
    quick, plain = Row.private(2), Row.private(2)
    for what, status, duration, slot in requests:
        quick.slots[slot].begin(what, 5.0)
        quick.slots[slot].end(status, 5.0, 5.0 + duration)
        plain.slots[slot].begin(what, 5.0)
        plain.slots[slot].count(what, status, 5.0, 5.0 + duration)
    found, expected = quick.read().counted, plain.read().counted
    assert found.numbers == expected.numbers
    assert found.seconds == pytest.approx(expected.seconds)


@pytest.mark.parametrize("bound", BOUNDS)
def test_a_bound_belongs_to_its_bucket(board: Scoreboard, bound: float) -> None:
    row = board.row(0)
    row.assign("ready", 1, 0, 1.0)
    row.slots[0].begin(b"GET /", 0.0)
    row.slots[0].end(200, 0.0, bound)
    assert value(families(board), "zibai_request_duration_seconds_bucket", le=str(bound)) == 1
    row.slots[0].end(200, 0.0, bound * 1.0001)
    assert value(families(board), "zibai_request_duration_seconds_bucket", le=str(bound)) == 1
    assert value(families(board), "zibai_request_duration_seconds_bucket", le="+Inf") == 2


def test_a_worker_that_ends_takes_nothing_away(board: Scoreboard) -> None:
    """All samples of counters are the same before and after, in both places where the numbers can be."""
    row = board.row(2)
    row.assign("ready", 1, 0, 1.0)
    for _ in range(9):  # more than a slot has records
        serve(board, row)
    row.refuse(503)
    row.beat([5, 1, 2, 3, 4, 5, 6, *[1] * len(GAUGES)])

    def counters() -> dict[str, float]:
        return {
            f"{each.name}{each.labels}": each.value
            for family in families(board).values()
            if family.type in ("counter", "histogram")
            for each in family.samples
            if "worker" not in each.labels
        }

    before = counters()
    cpu = before.pop("zibai_cpu_seconds_total{}")
    with board.totals.retiring(row.read()):
        row.clear()
    after = counters()
    assert after.pop("zibai_cpu_seconds_total{}") == pytest.approx(cpu)
    assert after == pytest.approx(before)
    assert sum(board.row(2).read().counters[name] for name in COUNTERS) == 0
    again = board.row(2)
    again.assign("ready", 1, 0, 1.0)
    serve(board, again)
    assert counters()["zibai_request_duration_seconds_count{}"] == 10


def test_the_totals_survive_the_file(board: Scoreboard) -> None:
    board.totals.count("worker_starts")
    board.release()
    board.totals.count("worker_starts")
    assert board.totals.read()[0]["worker_starts"] == 2
    board.release = lambda: None  # type: ignore[method-assign] -- the fixture closes it


def test_the_names_follow_the_conventions(board: Scoreboard) -> None:
    """What promtool's lint asks for, and what the naming page of Prometheus says."""
    board.row(0).assign("ready", 1, 0, 1.0)
    serve(board, board.row(0))
    for name, family in families(board).items():
        assert re.fullmatch(r"zibai(_[a-z]+)+", name)
        assert family.documentation.endswith(".")
        words = name.split("_")
        assert not {"milliseconds", "minutes", "kilobytes", "megabytes", "count", "sum", "bucket", "total"} & set(words)
        assert family.type not in words
        if family.type == "counter":
            assert all(sample.name == f"{name}_total" for sample in family.samples)
        if family.type == "histogram":
            assert name.endswith(("_seconds", "_bytes"))
        for sample in family.samples:
            assert all(re.fullmatch(r"[a-z]+", label) for label in sample.labels)
            assert not {"pid", "path"} & set(sample.labels), "its values would have no bound"


def known(board: Scoreboard) -> set[str]:
    board.row(0).assign("ready", 1, 0, 1.0)
    board.row(0).refuse(400)
    board.row(0).beat([0] * (len(COUNTERS) + len(GAUGES)))
    serve(board, board.row(0))
    return {sample.name for family in families(board).values() for sample in family.samples}


def used(expression: str) -> set[str]:
    return set(re.findall(r"\bzibai_[a-z_]+", expression))


def test_the_dashboard_shows_what_there_is(board: Scoreboard) -> None:
    dashboard = json.loads((MONITORING / "grafana-dashboard.json").read_text(encoding="utf-8"))
    assert {each["name"] for each in dashboard["templating"]["list"]} == {"datasource", "job"}
    ids = [panel["id"] for panel in dashboard["panels"]]
    assert len(set(ids)) == len(ids)
    places = [(panel["gridPos"]["x"], panel["gridPos"]["y"]) for panel in dashboard["panels"]]
    assert len(set(places)) == len(places)
    for panel in dashboard["panels"]:
        assert panel["type"] == "timeseries"
        for target in panel["targets"]:
            expression = target["expr"]
            assert used(expression) <= known(board), expression
            assert expression.count("(") == expression.count(")")
            assert ("_total{" in expression or "_bucket{" in expression) == bool(re.search("rate|increase", expression))
            assert 'job="$job"' in expression


def test_the_alerts_are_about_what_there_is(board: Scoreboard) -> None:
    text = (MONITORING / "alerts.yml").read_text(encoding="utf-8")
    (group,) = yaml.safe_load(text)["groups"]
    page = (ROOT / "docs" / "observability.md").read_text(encoding="utf-8")
    for rule in group["rules"]:
        assert set(rule) <= {"alert", "expr", "for", "labels", "annotations"}
        assert used(rule["expr"])
        assert used(rule["expr"]) <= known(board), rule["alert"]
        assert rule["expr"].count("(") == rule["expr"].count(")")
        assert rule["labels"]["severity"] in ("page", "ticket")
        assert {"summary", "description"} == set(rule["annotations"])
        assert f"| `{rule['alert']}` |" in page


def test_the_page_lists_them_all(board: Scoreboard) -> None:
    page = (ROOT / "docs" / "observability.md").read_text(encoding="utf-8")
    listed = set(re.findall(r"^\| `(zibai_\w+)` \|", page, re.MULTILINE))
    there = {re.sub("_(bucket|sum|count)$", "", name) for name in known(board)}
    assert listed == there


def test_the_waits(board: Scoreboard) -> None:
    """Most are too short to be counted: the first bucket has all requests that the others have not."""
    row = board.row(0)
    row.assign("ready", 1, 0, 0.0)
    for wait in (0.002, 0.3, 100.0):
        row.slots[1].waited(wait)
        serve(board, row)
    for _ in range(7):
        serve(board, row)
    queue = describe(board)["totals"]["served"]["queue"]
    assert queue["buckets"] == [7, 1, *[0] * 6, 1, *[0] * 6, 1]
    assert queue["seconds"] == 100.302
    found = families(board)
    name = "zibai_request_queue_seconds"
    assert value(found, f"{name}_count") == 10
    assert value(found, f"{name}_sum") == 100.302
    assert [value(found, f"{name}_bucket", le=le) for le in ("0.001", "0.0025", "0.5", "+Inf")] == [7, 8, 9, 10]


def test_no_bucket_of_the_waits_falls_in_the_moment_before_the_end(board: Scoreboard) -> None:
    row = board.row(0)
    row.assign("ready", 1, 0, 0.0)
    serve(board, row)
    metrics = Metrics(lambda: (describe(board), {}))

    def first() -> float:
        found = parser.text_string_to_metric_families(metrics.render().decode())
        return value({each.name: each for each in found}, "zibai_request_queue_seconds_bucket", le="0.001")

    assert first() == 1
    row.slots[1].waited(1.0)
    assert first() == 1
    serve(board, row)
    assert first() == 1
