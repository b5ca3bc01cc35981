"""A poller for an event loop that cannot watch one (Windows): a thread waits in it, and asks for a turn.

The thread waits only between two turns. A turn takes what is ready by :meth:`ThreadPoller.poll`, which does not wait,
and lets the thread look again. Registering a descriptor while the thread waits rings a bell, since a ``select`` that
has begun does not see the new one.

The event loop's thread owns everything here, except ``_rests``, which says which thread may use the poller. The waiting
thread sets it when it has looked, and does not touch the poller after that. The next turn clears it and sends the
thread to look again. So each side changes it only while the other waits for the change. A turn for another reason (a
timer) finds it cleared, and does nothing.
"""

import socket
import threading
from collections.abc import Callable
from contextlib import suppress
from math import inf

from ...net.poller import READ, Poller, make_poller


class ThreadPoller:
    """``turn_soon`` asks the event loop for a turn; any thread may call it."""

    def __init__(self, turn_soon: Callable[[], None]) -> None:
        self._turn_soon = turn_soon
        self._poller: Poller = make_poller()
        self.limit: float = getattr(self._poller, "limit", inf)  # of connections, as that of any poller
        self._look = threading.Event()
        self._rests = True  # whether the thread waits to be sent
        self._closed = False
        self._wake_end, self._bell = socket.socketpair()
        self._wake_end.setblocking(False)
        self._bell.setblocking(False)
        self._poller.register(self._wake_end.fileno(), READ)
        self._thread = threading.Thread(target=self._watch, name="zibai-poller", daemon=True)
        self._thread.start()

    def register(self, fd: int, events: int) -> None:
        self._poller.register(fd, events)
        self._ring()

    def modify(self, fd: int, events: int) -> None:
        self._poller.modify(fd, events)
        self._ring()

    def unregister(self, fd: int) -> None:
        self._poller.unregister(fd)
        self._ring()  # a socket that is closed while select() waits for it is an error there

    def _ring(self) -> None:
        if not self._rests:
            with suppress(OSError):  # the buffer is full of rings
                self._bell.send(b"\0")

    def poll(self, timeout: float | None, most: int = -1) -> list[tuple[int, int]]:
        """What is ready now; ``timeout`` is 0."""
        bell = self._wake_end.fileno()
        found = [event for event in self._poller.poll(0) if event[0] != bell]
        with suppress(BlockingIOError):
            self._wake_end.recv(4096)
        if self._rests:
            self._rests = False
            self._look.set()
        return found

    def _watch(self) -> None:
        while True:
            self._look.wait()
            self._look.clear()
            if self._closed:
                return
            with suppress(OSError, ValueError):  # a socket was closed meanwhile: look again in the next turn
                self._poller.poll(None)
            self._rests = True
            self._turn_soon()

    def close(self) -> None:
        """End the thread, then close: to close a descriptor does not wake a thread that waits for it."""
        self._closed = True
        self._ring()
        self._look.set()
        self._thread.join()
        self._wake_end.close()
        self._bell.close()
        self._poller.close()
