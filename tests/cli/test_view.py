"""The lines of zibai top, for terminals of any size and whatever clients have sent."""

from __future__ import annotations

import sys
from types import SimpleNamespace
from typing import Any

import pytest

pytest.importorskip("rich")

from zibai.cli import keys
from zibai.cli.top import blocks
from zibai.cli.view import BARS, Screen, bars, duration
from zibai.telemetry.counts import BOUNDS
from zibai.telemetry.rates import compare

HOSTILE = "/\x1b[31m\x07\u202e" + "x" * 300


def server(workers: int = 2, running: int = 3, path: str = "/report") -> dict[str, Any]:
    served = {"buckets": [0] * (len(BOUNDS) + 1), "by": {}, "seconds": 0.0}
    requests = [{"method": "GET", "path": f"{path}{n}", "phase": "app", "seconds": 1.0 * n} for n in range(running)]
    states = dict.fromkeys(("open", "queue", "busy", "requests"), 0)
    return {
        "pid": 7, "version": "1.0", "app": "a:b", "listen": ["http://127.0.0.1:8000"], "up": 5000.0,
        "totals": {"served": served, "requests": 1, "restarts": {"begun": 0}, "ends": {"stopped": 1, "signal": 1}},
        "workers": [
            {"pid": 100 + n, "state": "ready", "up": 3.0, "memory": None, "runners": 4, **states,
             "running": requests if not n else []}
            for n in range(workers)
        ],
    }  # fmt: skip


def show(screen: Screen, described: dict[str, Any], width: int = 80, height: int = 24) -> list[str]:
    size = SimpleNamespace(width=width, height=height)
    lines = screen.lines(described, compare(described, described), {100: 0.5}, size)
    assert len(lines) == height
    assert all(line.cell_len <= width for line in lines)
    return [line.plain for line in lines]


@pytest.mark.parametrize(("width", "height"), [(80, 24), (200, 60), (30, 8), (20, 6)])
@pytest.mark.parametrize("path", ["/a", HOSTILE, "/\u4e2d" * 60])
def test_any_size(width: int, height: int, path: str) -> None:
    screen = Screen()
    described = server(40, 100, path)
    for key in ["", *[keys.PAGE_DOWN] * 20, *[keys.UP] * 3]:
        screen.press(key)
        shown = show(screen, described, width, height)
        assert not any(character in line for line in shown for character in "\x1b\x07\u202e")


def test_the_chosen_line_is_always_there() -> None:
    screen = Screen()
    described = server(30, 50)
    show(screen, described)
    for _ in range(100):
        screen.press(keys.DOWN)
        show(screen, described)
    assert screen.chosen is not None
    assert screen.chosen.what == "GET /report0", "by age: the youngest is last"
    assert any("/report0" in line for line in show(screen, described))
    screen.press("s")
    screen.press("s")
    assert any("/report0" in line for line in show(screen, described)), "wherever it is now"
    assert screen.chosen.what == "GET /report0"


def test_what_is_chosen_stays_while_time_passes() -> None:
    screen = Screen()
    described = server()
    show(screen, described)
    for _ in range(3):
        screen.press(keys.DOWN)
    show(screen, described)
    chosen = screen.chosen
    assert chosen is not None
    later = server()
    later["up"] += 2.0
    for each in later["workers"][0]["running"]:
        each["seconds"] += 2.001
    later["workers"][0]["running"].insert(0, {"method": "GET", "path": "/new", "phase": "app", "seconds": 90.0})
    show(screen, later)
    assert chosen.is_same(screen.chosen)
    show(screen, server(running=0))
    assert screen.chosen is not None
    assert not screen.chosen.what, "it has ended"
    show(screen, server(workers=0))
    assert screen.chosen is None
    assert screen.press(keys.ENTER) == ""


def test_a_text_is_scrolled_and_left() -> None:
    screen = Screen()
    described = server()
    show(screen, described)
    assert screen.press(keys.ENTER) == "stack"
    screen.show("worker 100", "\n".join(f"line {n}\x1b" for n in range(100)))
    assert "line 0?" in show(screen, described)
    for _ in range(50):
        screen.press(keys.PAGE_DOWN)
    assert "line 99?" in show(screen, described)
    assert screen.press("q") == ""
    assert screen.press("q") == "quit"


def test_small_things() -> None:
    assert bars([]) == ""
    assert bars([0.0, 0.0]) == BARS[1] * 2
    assert bars([0.0, 5.0, 10.0]) == "▁▅█"
    assert [duration(each) for each in (None, 0.00042, 0.0123, 2.5)] == ["-", "420 us", "12.3 ms", "2.50 s"]
    assert blocks("a:\n  x\n  y\nb:\n  z") == ["a:\n  x\n  y", "b:\n  z"]


@pytest.mark.skipif(sys.platform == "win32", reason="it tells keys by numbers")
@pytest.mark.parametrize(
    ("sent", "pressed"),
    [
        ("q", ["q"]),
        ("\x1b", [keys.ESCAPE]),
        ("\x1b[A\x1bOBk", [keys.UP, keys.DOWN, "k"]),
        ("\r\n", [keys.ENTER, keys.ENTER]),
        ("\x1b[5~\x1b[6~", [keys.PAGE_UP, keys.PAGE_DOWN]),
        ("\x1b[1;5Cq", ["q"]),
        ("\x1b[200~", []),
        ("\x1b[", []),
    ],
)
def test_keys(sent: str, pressed: list[str]) -> None:
    assert keys.split(sent) == pressed
