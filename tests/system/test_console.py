"""The ends that Windows announces, as far as every system can run them; the rest is in the tests of the command."""

from __future__ import annotations

import threading

import pytest

from zibai.system import console


@pytest.mark.parametrize("event", [0, 1])
def test_ctrl_c_and_ctrl_break_are_left_to_the_c_runtime(event: int) -> None:
    asked: list[bool] = []
    assert console.handler(lambda: asked.append(True))(event) is False
    assert not asked


@pytest.mark.parametrize("event", sorted(console.ENDS))
def test_an_end_is_asked_for_and_the_handler_does_not_return(event: int) -> None:
    """Windows ends the process as soon as it returns."""
    asked = threading.Event()
    thread = threading.Thread(target=console.handler(asked.set), args=[event], daemon=True)
    thread.start()
    assert asked.wait(20)
    thread.join(0.1)
    assert thread.is_alive()
