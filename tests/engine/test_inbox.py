"""What runners hand to the server loop, from any thread, and what becomes of it when the loop has ended."""

from __future__ import annotations

import threading
from typing import Any

import pytest

from zibai.engine.inbox import Inbox


class Connection:
    def __init__(self) -> None:
        self.closed = 0

    def close(self) -> None:
        self.closed += 1


def make(wakes: list[str]) -> Any:
    return Inbox(lambda: wakes.append("wake"))


def test_only_an_owner_that_sleeps_is_woken() -> None:
    wakes: list[str] = []
    inbox = make(wakes)
    first, second = Connection(), Connection()
    inbox.put(first, None)
    assert not wakes
    inbox.asleep = True
    inbox.put(second, 5.0)
    assert wakes == ["wake"]
    assert list(inbox.items) == [(first, None), (second, 5.0)]


@pytest.mark.parametrize("late", [False, True])
def test_after_the_end_a_connection_that_was_handed_over_for_good_is_closed(late: bool) -> None:
    wakes: list[str] = []
    inbox = make(wakes)
    inbox.asleep = True
    over, lent = Connection(), Connection()
    if late:
        inbox.close()
    inbox.put(over, 5.0)
    inbox.put(lent, None)
    if not late:
        inbox.close()
    assert (over.closed, lent.closed) == (1, 0)  # the table closes what was only lent, and its runner still has it
    assert not inbox.items
    assert len(wakes) == (0 if late else 2)


def test_what_comes_at_the_very_end_is_closed_once() -> None:
    """The owner closes while runners put: each connection is closed by one of them."""
    for _ in range(50):
        inbox = make([])
        connections = [[Connection() for _ in range(20)] for _ in range(4)]
        begin = threading.Barrier(5)

        def put(mine: list[Connection], inbox: Any = inbox, begin: threading.Barrier = begin) -> None:
            begin.wait()
            for each in mine:
                inbox.put(each, 5.0)

        threads = [threading.Thread(target=put, args=(mine,)) for mine in connections]
        for thread in threads:
            thread.start()
        begin.wait()
        inbox.close()
        for thread in threads:
            thread.join()
        assert [each.closed for mine in connections for each in mine] == [1] * 80
