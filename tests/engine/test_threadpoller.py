"""The poller in which a thread waits, by itself: the thread ends with it, and misses nothing that is registered."""

from __future__ import annotations

import socket
import threading
from contextlib import contextmanager
from selectors import SelectSelector
from typing import TYPE_CHECKING

from zibai.engine.backends import threadpoller
from zibai.engine.backends.threadpoller import ThreadPoller
from zibai.net.poller import READ, SELECT_LIMIT, Polled

from support import DEADLINE

if TYPE_CHECKING:
    from collections.abc import Iterator

    import pytest


class Held(Polled):
    """As on Windows: only ``select()``. The thread says that it looks, and is held when it has looked, until ``go``."""

    def __init__(self) -> None:
        super().__init__(SelectSelector())
        self.looks, self.looked, self.go = threading.Event(), threading.Event(), threading.Event()

    def poll(self, timeout: float | None, most: int = -1) -> list[tuple[int, int]]:
        if timeout == 0:
            return super().poll(timeout)
        self.looks.set()
        found = super().poll(timeout)
        self.looked.set()
        assert self.go.wait(DEADLINE)
        return found


@contextmanager
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        yield ours, theirs


def test_the_thread_ends_with_it() -> None:
    """To close a descriptor does not wake a thread that waits for it. So the thread ends first."""
    for _ in range(200):
        turned = threading.Event()
        poller = ThreadPoller(turned.set)
        with pair() as (ours, theirs):
            poller.register(ours.fileno(), READ)
            theirs.send(b"a")
            poller.poll(0)
            assert turned.wait(DEADLINE)
            ours.recv(1)
            poller.poll(0)  # and is sent to look again
        poller.close()
        assert not [thread for thread in threading.enumerate() if thread.name == "zibai-poller"]


def test_a_turn_for_another_reason_loses_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """A timer's turn comes when the thread has looked, and not said so yet. What is registered next is watched."""
    held = Held()
    monkeypatch.setattr(threadpoller, "make_poller", lambda: held)
    turns = threading.Semaphore(0)
    poller = ThreadPoller(turns.release)
    with pair() as (first, its_peer), pair() as (second, other_peer):
        poller.register(first.fileno(), READ)
        poller.poll(0)
        its_peer.send(b"a")
        assert held.looked.wait(DEADLINE)
        assert poller.poll(0) == [(first.fileno(), READ)]  # the turn of the timer
        first.recv(1)
        held.looks.clear()
        held.go.set()
        assert turns.acquire(timeout=DEADLINE)
        held.looks.wait(0.2)  # a thread that looks although nobody has sent it would do so now
        poller.register(second.fileno(), READ)
        assert poller.poll(0) == []  # the turn that the thread has asked for
        other_peer.send(b"b")
        assert turns.acquire(timeout=DEADLINE)
        assert poller.poll(0) == [(second.fileno(), READ)]
        poller.unregister(second.fileno())
    poller.close()


def test_it_watches_no_more_connections_than_select_can(monkeypatch: pytest.MonkeyPatch) -> None:
    """One more than 512 is an error of ``select()`` on Windows, and ended the server."""
    monkeypatch.setattr(threadpoller, "make_poller", lambda: Polled(SelectSelector()))
    poller = ThreadPoller(lambda: None)
    assert poller.limit == SELECT_LIMIT
    poller.close()
