"""The cases of the Autobahn test suite, driven by ``kosoku``; those of groups 12 and 13 it cannot run."""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import Any

import pytest

from support import Server

kosoku = pytest.importorskip("kosoku")

ECHO = """
async def app(scope, receive, send):
    assert scope["type"] == "websocket"
    await receive()
    await send({"type": "websocket.accept"})
    while (event := await receive())["type"] == "websocket.receive":
        await send({**event, "type": "websocket.send"})
"""


def run(tmp_path: Any, include: list[str] | None, exclude: list[str] | None) -> list[Any]:
    (tmp_path / "echo.py").write_text(ECHO)
    with Server("echo:app", "--interface", "asgi", "--no-access-log", cwd=tmp_path) as server:
        results = asyncio.run(kosoku.run_fuzzingclient(f"127.0.0.1:{server.port}", include, exclude))
    assert "Traceback" not in "\n".join(server.log)
    return list(results)


def verdicts(results: list[Any]) -> Counter[str]:
    """How often each verdict was given, over the messages and over the end."""
    words = [(str(each.behavior), str(each.behavior_close)) for each in results]
    return Counter(word.rpartition(".")[2] for pair in words for word in pair)


@pytest.mark.timeout(120)
def test_frames_pings_fragments_text_and_closing(tmp_path: Any) -> None:
    """What is not strict: replies to messages that stand before an error in one segment are lost to the error."""
    results = run(tmp_path, None, ["9.*", "12.*", "13.*"])
    assert len(results) > 240
    assert set(verdicts(results)) <= {"OK", "NON_STRICT", "INFORMATIONAL"}, verdicts(results)
    (close_between_fragments,) = [each for each in results if each.case_id == "7.1.5"]
    assert set(verdicts([close_between_fragments])) == {"OK"}


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_large_messages(tmp_path: Any) -> None:
    assert set(verdicts(run(tmp_path, ["9.*"], None))) == {"OK"}
