"""The fuzzer finds nothing, and would find something: some inputs each day, and for a minute in `.ci/run`."""

from __future__ import annotations

from http import HTTPStatus
from random import Random
from typing import TYPE_CHECKING, Any

import pytest

from zibai.engine import receiving
from zibai.engine.connection import Connection
from zibai.errors import Refused
from zibai.protocol.http1 import fast, response

from fuzz.inputs import Inputs
from fuzz.run import fuzz

if TYPE_CHECKING:
    from collections.abc import Callable

SEED = 1


def test_nothing_is_found() -> None:
    result = fuzz(SEED, seconds=0, count=500)
    assert result.failure is None, f"python -m tests.fuzz --seed {SEED} --first {result.number} --count 1"
    assert result.inputs == 500
    assert {0, 200, 400, 500, 501} <= set(result.answers)


def test_nothing_is_found_in_frames() -> None:
    pytest.importorskip("websockets")
    from fuzz.frames import fuzz_frames

    result = fuzz_frames(SEED, seconds=0, count=120)
    assert result.failure is None, f"python -m tests.fuzz --frames --seed {SEED} --first {result.number} --count 1"
    assert result.inputs == 120


def blind(patch: pytest.MonkeyPatch) -> None:
    """The fast lane waits for whatever a head claims."""
    patch.setattr("zibai.protocol.websocket.codec.Codec._is_good", lambda self, first, size: True)


def unmasked(patch: pytest.MonkeyPatch) -> None:
    """The fast lane does not unmask."""
    patch.setattr("zibai.protocol.websocket.codec.apply_mask", lambda data, mask: bytes(data))


def deaf(patch: pytest.MonkeyPatch) -> None:
    """Reading does not go on where it has stopped."""
    patch.setattr("zibai.protocol.websocket.codec.Codec.taken", lambda self, message: False)


@pytest.mark.parametrize("fault", [blind, unmasked, deaf])
def test_a_fault_is_found_in_frames(
    fault: Callable[[pytest.MonkeyPatch], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("websockets")
    from fuzz import frames

    monkeypatch.setattr(frames, "DEADLINE", 1.0)
    fault(monkeypatch)
    assert frames.fuzz_frames(SEED, seconds=20).failure is not None


def test_inputs_come_again_with_their_seed() -> None:
    inputs = Inputs(2)
    assert [inputs.make(Random(f"3-{n}")) for n in range(20)] == [inputs.make(Random(f"3-{n}")) for n in range(20)]


def second_answer(patch: pytest.MonkeyPatch) -> None:
    """What is left of a body behind its answer is refused."""
    rest = Refused(HTTPStatus.BAD_REQUEST, "rest")
    patch.setattr(receiving, "_discard", lambda connection, now: connection.refuse(rest, now))


def no_rare(patch: pytest.MonkeyPatch) -> None:
    """The fast lane takes what it does not read."""
    patch.setattr(fast, "_RARE", frozenset())


def splitting(patch: pytest.MonkeyPatch) -> None:
    """What an application gives is not looked at."""
    patch.setattr(response, "validate", lambda status, fields: None)
    patch.setattr(response, "_heads", {})


def leak(patch: pytest.MonkeyPatch) -> None:
    """Connections of clients that have left stay."""
    patch.setattr("fuzz.subject.DEADLINE", 1.0)
    patch.setattr(Connection, "readable", leaking(Connection.readable))


def leaking(readable: Callable[..., Any]) -> Callable[..., None]:
    def method(self: Connection, now: float) -> None:
        before = self.state
        readable(self, now)
        if self.state == "closed":
            self.state = before

    return method


@pytest.mark.parametrize("fault", [second_answer, no_rare, splitting, leak])
def test_a_fault_is_found(fault: Callable[[pytest.MonkeyPatch], None], monkeypatch: pytest.MonkeyPatch) -> None:
    fault(monkeypatch)
    assert fuzz(SEED, seconds=20).failure is not None
