"""The files of zibai profile: what speedscope's schema asks for, and a picture that nothing in a name can break."""

from __future__ import annotations

import re
from itertools import pairwise
from typing import Any
from xml.etree import ElementTree as ET

from zibai.cli import flame, speedscope

SVG = "{http://www.w3.org/2000/svg}"


def found(*stacks: tuple[list[str], int, str], looks: int = 100) -> dict[str, Any]:
    frames: list[list[Any]] = []
    numbers: dict[str, int] = {}
    told = []
    for names, times, kind in stacks:
        for name in names:
            if name not in numbers:
                numbers[name] = len(frames)
                frames.append([name, f"/srv/{name}.py", 7, "app"])
        told.append([[numbers[name] for name in names], times, kind])
    return {"seconds": 1.0, "looks": looks, "busy": 50, "idle": 3, "cpu": 0.01, "frames": frames, "stacks": told}


WORKERS = {
    11: found((["a", "b", "c"], 30, "request"), (["a", "b"], 10, "request"), (["d"], 5, "server")),
    12: found((["a", "c"], 20, "request"), (["z"], 1, "other"), ([], 2, "server")),
}


def check_schema(file: dict[str, Any]) -> None:
    """The rules of https://www.speedscope.app/file-format-schema.json, and those that its importer has."""
    assert file["$schema"] == "https://www.speedscope.app/file-format-schema.json"
    assert set(file) <= {"$schema", "shared", "profiles", "name", "activeProfileIndex", "exporter"}
    assert isinstance(file["name"], str)
    assert isinstance(file["exporter"], str)
    assert 0 <= file["activeProfileIndex"] < len(file["profiles"])
    for frame in file["shared"]["frames"]:
        assert set(frame) <= {"name", "file", "line", "col"}
        assert isinstance(frame["name"], str)
        assert isinstance(frame["file"], str)
        assert type(frame["line"]) is int
        assert frame["line"] >= 1
    for profile in file["profiles"]:
        assert set(profile) == {"type", "name", "unit", "startValue", "endValue", "samples", "weights"}
        assert profile["type"] == "sampled"
        assert profile["unit"] in ("none", "nanoseconds", "microseconds", "milliseconds", "seconds", "bytes")
        assert len(profile["samples"]) == len(profile["weights"])
        assert all(weight >= 0 for weight in profile["weights"])
        assert abs(profile["endValue"] - profile["startValue"] - sum(profile["weights"])) < 1e-9
        for sample in profile["samples"]:
            assert all(type(each) is int and 0 <= each < len(file["shared"]["frames"]) for each in sample)


def test_speedscope() -> None:
    file = speedscope.describe("shop:app", WORKERS, "1.0")
    check_schema(file)
    assert [each["name"] for each in file["profiles"]] == ["worker 11", "worker 12"]
    assert len(file["shared"]["frames"]) == 5, "a function of two workers is one frame"
    assert file["profiles"][0]["endValue"] == 0.45


def test_flame_graph() -> None:
    picture = ET.fromstring(flame.draw("shop:app", "1 s", WORKERS))
    width = float(picture.get("width") or 0)
    rows: dict[str, list[tuple[float, float, str]]] = {}
    for box in picture.iter(f"{SVG}g"):
        rect, title = box.find(f"{SVG}rect"), box.findtext(f"{SVG}title") or ""
        assert rect is not None
        x, wide = float(rect.get("x") or 0), float(rect.get("width") or 0)
        rows.setdefault(rect.get("y") or "", []).append((x, x + wide, title))
    for row in rows.values():
        row.sort()
        assert all(before[1] <= after[0] + 0.11 for before, after in pairwise(row)), "no overlap"
        assert row[-1][1] <= width
    titles = [title for row in rows.values() for *_, title in row]
    assert "all: 0.68 s, 100.0%" in titles
    assert "a (/srv/a.py:7): 0.60 s, 88.2%" in titles, "both workers together"
    assert "requests: 0.60 s, 88.2%" in titles


def test_no_name_breaks_the_picture() -> None:
    hostile = '</title><script>alert(1)</script>&"\x00\ud800\x1b[31m\u202e' + "x" * 500
    text = flame.draw(hostile, hostile, {1: found(([hostile, "<b>"], 1, hostile))})
    text.encode("utf-8")
    assert "<script" not in text
    picture = ET.fromstring(text)
    assert not list(picture.iter(f"{SVG}script"))
    for label in picture.iter(f"{SVG}text"):
        assert "\x1b" not in (label.text or "")
    assert not re.search(r"https?://(?!www\.w3\.org/2000/svg)", text), "it needs no other file"


def test_a_profile_of_nothing_is_a_picture() -> None:
    ET.fromstring(flame.draw("a", "b", {1: found(looks=0)}))
    check_schema(speedscope.describe("a", {1: found(looks=0)}, "1"))
