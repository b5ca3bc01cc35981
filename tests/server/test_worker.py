"""The thread that listens for the ways to end, with a parent and signals that say what the test wants."""

from __future__ import annotations

import threading
from math import inf
from typing import Any

import pytest

from zibai.server.control import Control

from support import DEADLINE


class Script:
    """Signals and parent in one: each wake-up brings the next pair of a verb and the names of signals, then the end."""

    pipe = socket = "the only source"
    since = inf
    outlet = None
    busy = False

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

    def reassert(self) -> None:
        """The application has taken no signal."""

    def receive(self) -> tuple[str, Any]:
        return self._verb, "a channel" if self._verb == "adopt" else None

    def adopt_from(self, channel: object) -> None:
        self.told.append(channel)


@pytest.mark.parametrize("name", ["SIGTERM", "SIGQUIT"])
def test_a_signal_is_heard_that_comes_together_with_a_channel(name: str) -> None:
    script = Script(("adopt", [name]))
    end = threading.Event()
    control: Any = Control(script, end, None, boot_timeout=60)  # type: ignore[arg-type]
    control._signals, control._wait, control._loops, control._serves = script, script.wait, script, True
    control._listen()
    assert script.told == ["a channel"]
    assert end.wait(DEADLINE)


def test_a_channel_alone_ends_nothing() -> None:
    script = Script(("adopt", []), ("adopt", []))
    end = threading.Event()
    control: Any = Control(script, end, None, boot_timeout=60)  # type: ignore[arg-type]
    control._signals, control._wait, control._loops = script, script.wait, script
    control._listen()
    assert script.told == ["a channel"] * 2
    assert not end.is_set()


@pytest.mark.parametrize(("has_parent", "may_end"), [(True, True), (False, True), (False, False)])
def test_a_quick_exit_has_its_time_in_a_worker_whatever_signals_come_and_a_single_process_may_be_told_twice(
    monkeypatch: pytest.MonkeyPatch, has_parent: bool, may_end: bool
) -> None:
    """What interrupts the main thread of a worker is a signal, too, and must not be taken for one more wish.

    The process of a prompt is never ended.
    """
    ended: list[int] = []
    monkeypatch.setattr("os._exit", ended.append)
    script = Script(("", ["SIGINT"]))
    parent: Any = script if has_parent else None
    control: Any = Control(parent, threading.Event(), None, boot_timeout=60, may_exit=may_end)
    control._signals, control._wait = script, script.wait
    control._insist(echo=False)
    assert ended == ([0] if may_end and not has_parent else [])


@pytest.mark.parametrize("again", [[], ["SIGINT"], ["SIGTERM"]])
def test_a_single_process_does_not_take_its_own_interrupt_for_a_second_wish(
    monkeypatch: pytest.MonkeyPatch, again: list[str]
) -> None:
    """It would end at once, and leave its files behind."""
    ended: list[int] = []
    monkeypatch.setattr("os._exit", ended.append)
    script = Script(("", ["SIGINT"]), ("", again))
    control: Any = Control(None, threading.Event(), None, boot_timeout=60)
    control._signals, control._wait, control._interrupt = script, script.wait, lambda: None
    control._quit(by_sigint=False)
    assert ended == ([0] if again else [])


class FakeLoops:
    """The part of the server loops that is told."""

    def __init__(self) -> None:
        self.draining = False
        self.busy = False

    def say_close(self) -> None:
        self.draining = True


def draining_soon(monkeypatch: pytest.MonkeyPatch, *wakes: tuple[str, list[str]], until: float = 0.0) -> Any:
    """A control with 20 s before the end, whose clock stands at ``until`` when all wakes are over; it has listened."""
    script = Script(*wakes)
    times = [0.0] * len(wakes)
    for module in ("zibai.supervise.control", "zibai.server.control"):
        monkeypatch.setattr(f"{module}.clock", lambda: until if not script._wakes else times[0])
    control: Any = Control(script, threading.Event(), None, boot_timeout=60, drain_delay=20)  # type: ignore[arg-type]
    control._signals, control._wait = script, script.wait
    loop: Any = FakeLoops()
    control.attach(loop)
    control._listen()
    return control


@pytest.mark.parametrize(
    ("wakes", "until", "draining", "ends"),
    [
        ([("", ["SIGTERM"])], 0, True, False),
        ([("", ["SIGTERM"]), ("", [])], 19.9, True, False),
        ([("", ["SIGTERM"]), ("", [])], 20, True, True),
        ([("", ["SIGTERM"]), ("", ["SIGQUIT"])], 0, True, True),
        ([("", ["SIGTERM", "SIGTERM"])], 0, True, True),
        ([("announce_drain", [])], 0, True, False),
        ([("announce_drain", []), ("", ["SIGTERM", "SIGTERM"]), ("", [])], 100, True, False),
        ([("", ["SIGTERM"]), ("announce_drain", []), ("", [])], 100, True, False),
        ([("announce_drain", ["SIGTERM"]), ("drain", [])], 0, True, True),
        ([("announce_drain", []), ("gone", [])], 0, True, True),
        ([("adopt", [])], 100, False, False),
    ],
)
def test_the_time_before_the_end_is_counted_here_unless_the_parent_does(
    monkeypatch: pytest.MonkeyPatch, wakes: list[tuple[str, list[str]]], until: float, draining: bool, ends: bool
) -> None:
    monkeypatch.setattr(FakeLoops, "adopt_from", lambda loops, channel: None, raising=False)
    control = draining_soon(monkeypatch, *wakes, until=until)
    assert (control._loops.draining, control._set_end.__self__.is_set()) == (draining, ends)


@pytest.mark.parametrize("moment", ["prepare", "attach"])
def test_a_loop_that_comes_later_is_told_that_the_drain_is_announced(moment: str) -> None:
    script = Script(("announce_drain", []))
    control: Any = Control(script, threading.Event(), None, boot_timeout=60, drain_delay=20)  # type: ignore[arg-type]
    control._signals, control._wait = script, script.wait
    control._listen()
    loop: Any = FakeLoops()
    getattr(control, moment)(loop)
    assert loop.draining


@pytest.mark.parametrize(
    "wake", [("", ["SIGTERM"]), ("", ["SIGQUIT"]), ("drain", []), ("drain_shared", []), ("gone", [])]
)
@pytest.mark.parametrize("serves", [False, True])
def test_before_it_serves_a_graceful_exit_is_quick(wake: tuple[str, list[str]], serves: bool) -> None:
    script = Script(wake)
    end = threading.Event()
    control: Any = Control(script, end, None, boot_timeout=60)  # type: ignore[arg-type]
    quick: list[str] = []
    control._signals, control._wait, control._interrupt = script, script.wait, lambda: quick.append("quick")
    if serves:
        control.prepare(FakeLoops())
    control._listen()
    assert (quick, end.is_set()) == ([], True) if serves else (["quick"], False)


def test_a_worker_that_ends_before_it_serves_passes_on_the_connections_it_was_given(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    passed: list[tuple[object, object]] = []
    monkeypatch.setattr("zibai.server.control.pass_on", lambda *channels: passed.append(channels))
    script = Script(("adopt", []), ("adopt", []), ("drain", []))
    monkeypatch.setattr(script, "receive", lambda: (script._verb, f"the channel of {script._verb}"))
    control: Any = Control(script, threading.Event(), None, boot_timeout=60)  # type: ignore[arg-type]
    control._signals, control._wait, control._interrupt = script, script.wait, lambda: None
    control._listen()
    assert passed == [("the channel of adopt", "the channel of drain")] * 2


def test_signals_in_the_time_before_the_end_are_left_to_the_parent_while_it_starts() -> None:
    script = Script(("announce_drain", []), ("", ["SIGTERM"]))
    control: Any = Control(script, threading.Event(), None, boot_timeout=60)  # type: ignore[arg-type]
    control._signals, control._wait, control._interrupt = script, script.wait, lambda: pytest.fail("it ends")
    control._listen()
    assert not control._set_end.__self__.is_set()


def test_time_in_which_it_was_stopped_does_not_count_against_its_start(monkeypatch: pytest.MonkeyPatch) -> None:
    """The clock goes on for an hour while the process is stopped."""
    script: Any = Script(("", []))
    script.since = 0.0
    now = [0.0]
    monkeypatch.setattr("zibai.supervise.pauses.clock", lambda: now[0])
    monkeypatch.setattr("zibai.supervise.control.clock", lambda: now[0])
    control: Any = Control(script, threading.Event(), None, boot_timeout=60)
    steps: list[float] = []

    def wait(sources: list[Any], timeout: float) -> list[Any]:
        if len(steps) == 3:
            raise OSError("it is over")
        steps.append(timeout)
        now[0] += 3600 if len(steps) == 2 else timeout
        return []

    script._wakes = [("", [])] * 3
    monkeypatch.setattr(control, "_give_up", lambda: pytest.fail("it gives up"))
    control._signals, control._wait = script, wait
    control._listen()
    assert control._time_left() == pytest.approx(60 - steps[0] - steps[2])
