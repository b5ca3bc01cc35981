"""The thread that listens for the ways to end, with a parent and signals that say what the test wants."""

from __future__ import annotations

import threading
from math import inf
from typing import Any

import pytest

from zibai.worker import Control

from support import DEADLINE


class Script:
    """Signals and parent in one: each wake-up brings the next pair of a verb and the names of signals, then the end."""

    pipe = socket = "the only source"
    since = inf

    def __init__(self, *wakes: tuple[str, list[str]]) -> None:
        self._wakes = list(wakes)
        self._verb = ""
        self.told: list[object] = []

    def wait(self, sources: list[Any], timeout: float | None = None) -> list[Any]:
        if not self._wakes:
            raise OSError("closed: it is over")
        return sources

    def read(self) -> list[str]:
        self._verb, names = self._wakes.pop(0)
        return names

    def receive(self) -> tuple[str, Any]:
        return self._verb, "a channel" if self._verb == "adopt" else None

    def adopt_from(self, channel: object) -> None:
        self.told.append(channel)


@pytest.mark.parametrize("name", ["SIGTERM", "SIGQUIT"])
def test_a_signal_is_heard_that_comes_together_with_a_channel(name: str) -> None:
    script = Script(("adopt", [name]))
    end = threading.Event()
    control: Any = Control(script, end, None, 60)  # type: ignore[arg-type]
    control._signals, control._wait, control._loop = script, script.wait, script
    control._listen()
    assert script.told == ["a channel"]
    assert end.wait(DEADLINE)


def test_a_channel_alone_ends_nothing() -> None:
    script = Script(("adopt", []), ("adopt", []))
    end = threading.Event()
    control: Any = Control(script, end, None, 60)  # type: ignore[arg-type]
    control._signals, control._wait, control._loop = script, script.wait, script
    control._listen()
    assert script.told == ["a channel"] * 2
    assert not end.is_set()


@pytest.mark.parametrize("has_parent", [True, False])
def test_a_quick_exit_has_its_time_in_a_worker_whatever_signals_come_and_a_single_process_may_be_told_twice(
    monkeypatch: pytest.MonkeyPatch, has_parent: bool
) -> None:
    """What interrupts the main thread of a worker is a signal, too, and must not be taken for one more wish."""
    ended: list[int] = []
    monkeypatch.setattr("os._exit", ended.append)
    script = Script(("", ["SIGINT"]))
    control: Any = Control(script if has_parent else None, threading.Event(), None, 60)  # type: ignore[arg-type]
    control._signals, control._wait = script, script.wait
    control._insist()
    assert ended == ([] if has_parent else [0])
