"""The tests of TLS run with the table of states checked at every change."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from zibai.engine.pollable import Pollable
from zibai.engine.states import Checked

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(autouse=True)
def states(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    faults: list[str] = []
    monkeypatch.setattr(Pollable, "state", Checked(Pollable.state, faults.append))
    yield
    assert not faults
