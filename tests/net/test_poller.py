"""A selector as a poller, where the system has only select()."""

from __future__ import annotations

import selectors
import socket
import time
from typing import Any

import pytest

from zibai.net import poller
from zibai.net.poller import READ, Polled


class WindowsSelector(selectors.SelectSelector):
    """Refuses to wait for nothing, as Windows does (error 10022)."""

    def select(self, timeout: float | None = None) -> Any:
        if not self.get_map():
            raise OSError(22, "an invalid argument was supplied")
        return super().select(timeout)


@pytest.mark.parametrize(
    ("timeout", "slept"),
    [(None, poller.EMPTY_WAIT), (0.5, 0.5), (0, 0.0), (-1.0, 0.0)],
    ids=["none", "some", "no", "past"],
)
def test_nothing_to_wait_for_is_waited_for(
    monkeypatch: pytest.MonkeyPatch, timeout: float | None, slept: float
) -> None:
    sleeps: list[float] = []
    monkeypatch.setattr(time, "sleep", sleeps.append)
    polled = Polled(WindowsSelector())
    assert polled.poll(timeout) == []
    assert sleeps == [slept]
    polled.close()


def test_what_is_registered_is_waited_for_as_ever() -> None:
    polled = Polled(WindowsSelector())
    ours, theirs = socket.socketpair()
    with ours, theirs:
        polled.register(ours.fileno(), READ)
        assert polled.poll(0) == []
        theirs.send(b"x")
        assert polled.poll(20) == [(ours.fileno(), READ)]
        polled.unregister(ours.fileno())
        assert polled.poll(0) == []
    polled.close()
