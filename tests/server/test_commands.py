"""The commands of the control channel, with a main loop whose part the test plays."""

from __future__ import annotations

import json
from contextlib import closing
from typing import TYPE_CHECKING, Any

import pytest

from zibai.logger import logger
from zibai.server import commands as module
from zibai.server import single_commands
from zibai.server.commands import Commands
from zibai.supervise.crew import Crew
from zibai.supervise.mainloop import MainLoop

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from zibai.supervise.roster import Roster


@pytest.fixture
def loop(monkeypatch: pytest.MonkeyPatch) -> Iterator[MainLoop]:
    """A main loop that does at once what it is asked for, in the thread that asks."""
    monkeypatch.setattr(logger, "propagate", True)
    loop = MainLoop(Crew(print, ()), 1)
    monkeypatch.setattr(loop, "ask", lambda request: request(loop._roster))
    with closing(loop._asked):
        yield loop


@pytest.mark.parametrize(
    ("by", "said"),
    [
        ("zibai reload", " (zibai reload)"),
        ("x" * 200, f" ({'x' * 100})"),
        ("", ""),
        ("two\nlines", " (control channel)"),
        ("\ud800", " (control channel)"),
        (7, " (control channel)"),
        (json.loads("[" * 500 + "]" * 500), " (control channel)"),
    ],
    ids=["text", "long", "empty", "lines", "surrogate", "number", "nested"],
)
def test_what_the_log_says_of_the_client(
    loop: MainLoop, by: object, said: str, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level("INFO"):
        assert list(Commands(loop)({"command": "reload", "by": by})) == [{"ok": True, "generation": 1}]
        assert f"restart begun{said}: " in caplog.text
        list(Commands(loop)({"command": "stop", "by": by}))
        assert f"graceful shutdown begun{said}\n" in caplog.text


@pytest.mark.parametrize("command", [None, 7, ["reload"], {}, "fly", json.loads("[" * 900 + "]" * 900)])
def test_what_is_no_command(loop: MainLoop, command: object) -> None:
    (line,) = Commands(loop)({"command": command})
    assert line["error"].startswith("the commands are reload, stop, ")


@pytest.mark.parametrize("pid", ["1", 1.0, True, [1], json.loads("[" * 900 + "]" * 900)])
def test_what_is_no_pid(loop: MainLoop, pid: object) -> None:
    assert list(Commands(loop)({"command": "dump", "pid": pid})) == [{"error": "pid is the number of a process"}]


@pytest.mark.parametrize("now", [False, True])
def test_the_end_is_overseen_before_it_begins(loop: MainLoop, now: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """As with a signal. The overseer allows for --drain unless the main loop has announced the shutdown already."""
    did: list[object] = []

    def ask(request: Callable[[Roster], object]) -> None:
        did.append("asked")
        request(loop._roster)

    monkeypatch.setattr(loop, "ask", ask)
    lines = Commands(loop, lambda name: did.append((name, loop.is_ending)))({"command": "stop", "now": now})
    assert next(lines)["ok"]
    assert did == [], "the client hears first"
    assert list(lines) == []
    assert did == [(module.QUICK_SIGNAL if now else module.GRACEFUL_SIGNAL, False), "asked"]
    assert loop.is_ending


def test_a_client_that_leaves_has_asked_for_the_end_all_the_same(
    loop: MainLoop, monkeypatch: pytest.MonkeyPatch
) -> None:
    heard: list[Any] = []
    lines = Commands(loop, heard.append)({"command": "stop"})
    next(lines)
    lines.close()  # type: ignore[attr-defined]  # as the endpoint does when the line cannot be sent
    assert heard == [module.GRACEFUL_SIGNAL]
    assert loop.is_ending

    sent: list[int] = []
    monkeypatch.setattr(single_commands, "_send_signal", sent.append)
    lines = single_commands.serve_single({"command": "stop", "now": True})
    next(lines)
    assert sent == []
    lines.close()  # type: ignore[attr-defined]
    assert len(sent) == 1
