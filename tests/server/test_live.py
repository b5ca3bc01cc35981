"""The live page: who may look, what it keeps, and what browsers are told."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from http import HTTPStatus
from math import inf
from typing import Any

import pytest

from zibai.server import live as module
from zibai.server.live import CHART_SPAN, SAMPLE_INTERVAL, SHOWN_REQUESTS, Live
from zibai.telemetry.counts import BOUNDS


class Looks:
    """A server that has served ``per_look`` requests more at each look, a second later."""

    def __init__(self, running: int = 0) -> None:
        self.count = 0
        self.running = running

    def __call__(self) -> dict[str, Any]:
        self.count += 1
        served = {"buckets": [10 * self.count] + [0] * len(BOUNDS), "by": {}, "seconds": 1.0}
        request = {"method": "GET", "path": "/", "phase": "app"}
        worker = {
            **dict.fromkeys(("requests", "busy", "queue", "open"), 1),
            "pid": 7, "state": "ready", "up": 1.0, "memory": 5, "cpu": 0.5 * self.count, "runners": 4,
            "running": [{**request, "seconds": float(n)} for n in range(self.running)],
            "finished": [{**request, "status": 200}] * 100,
        }  # fmt: skip
        return {
            "pid": 1, "version": "1", "app": "a:b", "listen": [], "endpoint": "/run/secret.sock",
            "up": 5.0 * self.count, "totals": {"served": served}, "workers": [worker],
        }  # fmt: skip


def page(**who: bool) -> Live:
    return Live(Looks(), **{"public": False, "allowed": False, **who})


@pytest.mark.parametrize(
    "host", ["127.0.0.1:8001", "10.0.0.7", "[::1]:8001", "localhost", "LOCALHOST:80", "a.localhost"]
)
def test_who_names_the_address_may_look(host: str) -> None:
    assert page().respond("/", host).status == HTTPStatus.OK
    assert page().respond("/status.json", host).status == HTTPStatus.OK


@pytest.mark.parametrize("host", ["evil.example", "127.0.0.1.evil.example", "localhost.evil.example:8001", "", "[x]"])
def test_another_name_may_be_a_page_of_another_site(host: str) -> None:
    for path in ("/", "/status.json"):
        response = page().respond(path, host)
        assert response.status == HTTPStatus.FORBIDDEN
        assert b"--health-public" in response.body
        assert page(allowed=True).respond(path, host).status == HTTPStatus.OK


def test_a_public_address_has_no_page_without_the_flag() -> None:
    closed = page(public=True)
    assert closed.due == inf, "nothing is kept for nobody"
    for path in ("/", "/status.json"):
        response = closed.respond(path, "127.0.0.1")
        assert response.status == HTTPStatus.FORBIDDEN
        assert b"add --health-public" in response.body
        assert page(public=True, allowed=True).respond(path, "shop.example").status == HTTPStatus.OK


def test_the_history_is_bounded_and_true(monkeypatch: pytest.MonkeyPatch) -> None:
    live = page()
    for number in range(1000):
        live.sample(number * SAMPLE_INTERVAL)
        assert live.due == (number + 1) * SAMPLE_INTERVAL
    monkeypatch.setattr(module, "clock", lambda: 999 * SAMPLE_INTERVAL)
    status = live.status()
    history = status["history"]
    assert len(history["ago"]) == CHART_SPAN / SAMPLE_INTERVAL + 1
    assert (history["ago"][0], history["ago"][-1]) == (CHART_SPAN, 0.0)
    assert set(history["rate"]) == {2.0}
    assert status["now"]["rate"] == 2.0
    assert status["server"]["workers"][0]["share"] == 0.1
    assert {len(values) for values in history.values()} == {len(history["ago"])}


def test_a_look_that_fails_is_left_out() -> None:
    def fail() -> dict[str, Any]:
        raise ValueError("a row is being written")

    live = Live(fail, public=False, allowed=False)
    live.sample(1.0)
    assert live.due == 1.0 + SAMPLE_INTERVAL


def test_what_is_told_is_bounded() -> None:
    live = Live(Looks(running=SHOWN_REQUESTS + 50), public=False, allowed=False)
    status = json.loads(live.respond("/status.json", "localhost").body)
    assert len(status["running"]) == SHOWN_REQUESTS
    assert status["more"] == 50
    assert status["running"][0]["seconds"] == SHOWN_REQUESTS + 49, "the longest first"
    assert "finished" not in json.dumps(status)
    assert "secret" not in json.dumps(status)


def test_the_page_is_alone_and_its_policy_is_strict() -> None:
    response = page().respond("/", "localhost")
    html = response.body.decode("utf-8")
    assert not re.search(r"""https?://(?!www\.w3\.org/2000/svg)|src=|@import|url\(""", html)
    assert "innerHTML" not in html
    assert "style=" not in html
    fields = dict(line.split(": ", 1) for line in response.fields.decode().splitlines())
    policy = dict(each.split(" ", 1) for each in fields["Content-Security-Policy"].split("; "))
    assert policy["default-src"] == "'none'"
    assert policy["connect-src"] == "'self'"
    assert policy["frame-ancestors"] == "'none'"
    for element in ("script", "style"):
        (content,) = re.findall(rf"<{element}>(.*?)</{element}>", html, re.DOTALL)
        digest = base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()
        assert policy[f"{element}-src"] == f"'sha256-{digest}'"
    assert "unsafe" not in fields["Content-Security-Policy"]
    assert fields["X-Content-Type-Options"] == "nosniff"
