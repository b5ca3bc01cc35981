"""Accepting: the listeners of a server loop, and when they are watched.

A listener is watched only while a new connection could be served. Otherwise other workers accept the connections, or
they wait in the backlog, where none is lost. If this process has no descriptor left, accepting pauses for a moment, and
open connections are served.

Only the owner of the loop uses this module.
"""

import errno
from collections.abc import Callable
from math import inf
from socket import IPPROTO_TCP, TCP_NODELAY
from typing import Final

from ..logger import debug_logger, logger
from .kernel import backlog_of, is_anyone_at
from .listener import Endpoint, Listener, Socket
from .poller import READ, Poller

EXHAUSTED_PAUSE: Final = 1.0
"""Seconds of a pause after the system had no descriptor left."""

# Errors of accept() that mean that this process or machine is out of a resource, or (the last three) that another
# process has shut the listener down. All other errors concern one client.
_EXHAUSTED: Final = frozenset(
    {errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM, errno.EINVAL, errno.EBADF, errno.ENOTSOCK}
)


class Acceptor:
    """Accepts from ``listeners`` and calls ``accepted`` with each connection, its peer, its endpoint and the time.

    A listener may have an ``accepted`` of its own.

    ``report`` is the method of a backend. ``again`` is the end of a pause, by the clock; ``inf`` without one.
    ``since`` is since when the listeners are watched, or no longer watched.
    """

    def __init__(
        self,
        listeners: list[Listener],
        poller: Poller,
        report: Callable[..., None],
        accepted: Callable[[Socket, object, Endpoint, float], None],
    ) -> None:
        self._listeners = listeners
        self._poller = poller
        self._report = report
        self._accepted = accepted
        self.again = inf
        self.since = -inf
        self._watching = False
        self._exhausted = False  # whether that has been logged

    def watch(self, wanted: bool, now: float) -> None:
        """Watch the listeners, or stop watching them."""
        if now >= self.again:
            self.again = inf
        wanted = wanted and self.again == inf
        if wanted == self._watching:
            return
        self._watching = wanted
        self.since = now
        for listener in self._listeners:
            if wanted:
                self._poller.register(listener.fd, READ)
            else:
                self._poller.unregister(listener.fd)

    def pause(self, until: float) -> None:
        """Leave new clients to other processes until the time ``until``."""
        self.again = until

    def concerns(self, fds: list[int]) -> bool:
        """Whether one of them is a listener, so that a client waits."""
        return any(listener.fd in fds for listener in self._listeners)

    def accept(self, fds: list[int], now: float, limit: Callable[[], float]) -> None:
        """Accept from those of ``fds`` that are listeners. From each, at most as many connections as ``limit``
        returns."""
        for listener in self._listeners:
            if listener.fd in fds and self._watching:
                self._accept(listener, now, limit())

    def _accept(self, listener: Listener, now: float, limit: float) -> None:
        while limit > 0:
            limit -= 1
            try:
                sock, peer = listener.accept()
            except (BlockingIOError, InterruptedError):
                self._exhausted = False  # not earlier, or each closed descriptor would lead to another log line
                return
            except OSError as error:
                if error.errno not in _EXHAUSTED:
                    continue  # a client that has left already (ECONNABORTED and similar, accept(2))
                self.again = now + EXHAUSTED_PAUSE
                if not self._exhausted:
                    self._exhausted = True
                    self._report(logger.error, "accepting pauses: %s; open connections are served", error)
                return
            self._open(listener, sock, peer, now)

    def _open(self, listener: Listener, sock: Socket, peer: object, now: float) -> None:
        try:
            if listener.is_tcp:
                # Responses are sent whole, so waiting for more data (Nagle) would only delay them.
                sock.setsockopt(IPPROTO_TCP, TCP_NODELAY, 1)
            endpoint = listener.endpoint_of(sock)
        except OSError as error:
            self._report(debug_logger.debug, "%s left at once: %s", peer, error)
            sock.close()
            return
        (listener.accepted or self._accepted)(sock, peer, endpoint, now)

    def waiting(self) -> int:
        """How many connections wait in the backlog, as far as the system tells."""
        return sum(backlog_of(listener.socket) or 0 for listener in self._listeners)

    def is_anyone_waiting(self) -> bool:
        """Whether a connection waits in the backlog at this moment."""
        return is_anyone_at([listener.socket for listener in self._listeners])

    def finish(self, now: float, limit: Callable[[], float]) -> None:
        """Accept a last time, as many as ``limit`` says, and stop listening."""
        self.watch(False, now)
        for listener in self._listeners:
            self._accept(listener, now, limit())
        self.close()

    def close(self) -> None:
        """Stop listening."""
        self.watch(False, 0)
        self.close_listeners()

    def close_listeners(self) -> None:
        """Close the listeners, and leave the poller as it is."""
        for listener in self._listeners:
            listener.close()
