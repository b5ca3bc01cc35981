"""What several tests of ASGI look at."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from zibai.engine.loop import Loop

if TYPE_CHECKING:
    from zibai.engine.load import Load


@pytest.fixture
def loads(monkeypatch: pytest.MonkeyPatch) -> list[Load]:
    """The load of the server, once it has turned its loop."""
    found: list[Load] = []
    end = Loop._end_turn

    def watch(loop: Loop, now: float, events: int, most: int) -> None:
        found[:] = [loop.service.load]
        end(loop, now, events, most)

    monkeypatch.setattr(Loop, "_end_turn", watch)
    return found
