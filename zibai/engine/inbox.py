"""Connections that runners hand to the server loop: those whose exchange is over, and those with something to send.

A runner is another thread, or a greenlet beside the loop, so it may not touch the loop's connections. It puts its own
into the inbox, and wakes the loop if that sleeps. The loop's owner says that it sleeps before it looks into the inbox a
last time, when it asks for the time to sleep (``Loop.timeout``). A runner first puts, and then looks whether the owner
sleeps. So no wake-up is lost, and there is no lock.

Any thread may call :meth:`Inbox.put`. Everything else is the loop owner's. Once the loop has ended, a runner that puts
a connection closes it itself.
"""

from collections import deque
from collections.abc import Callable

from .connection import Connection


class Inbox:
    """``items`` has the connections, oldest first, each with the ``since`` of the request whose exchange is over.

    ``since`` is None if the connection has something to send. ``wake`` makes the owner turn soon. The owner sets
    ``asleep`` while it waits or may begin to wait, and must be woken.
    """

    __slots__ = ("_closed", "_wake", "asleep", "items")

    def __init__(self, wake: Callable[[], object]) -> None:
        self.items: deque[tuple[Connection, float | None]] = deque()
        self.asleep = False
        self._wake = wake
        self._closed = False

    def __repr__(self) -> str:
        return f"<Inbox: {len(self.items)} connections{', closed' if self._closed else ''}>"

    def put(self, connection: Connection, since: float | None) -> None:
        """Hand over a connection: for good, or with None only to have something sent."""
        self.items.append((connection, since))
        if self.asleep:
            self._wake()
        if self._closed:
            self._close_connections()  # the owner has gone, and a runner that comes too late cleans up after itself

    def close(self) -> None:
        """The loop has ended: close what is handed over, now and from now on."""
        self.asleep, self._closed = False, True
        self._close_connections()

    def _close_connections(self) -> None:
        while self.items:
            try:
                connection, since = self.items.popleft()
            except IndexError:
                return  # another runner was faster
            if since is not None:
                connection.close()
