"""Sockets of clients that asked for ``Connection: close``, and whose small response is completely on its way.

To close such a socket at once would lose responses. If the client sends anything after its request (even one empty line
too many), the kernel resets the connection, and the client's system may drop the part of the response that the client
has not read yet (RFC 9112 9.6). Reading until the client closes costs a third of a whole short connection. So these
sockets are shut down for sending, which the client sees at once, and are closed a little later. Nothing is read.

Everything here is the loop owner's.
"""

import sys
from collections import deque
from math import inf
from typing import Final

from ..net.listener import Socket
from ..protocol.http1 import Request

PARTING_TIME: Final = 2.0
"""Seconds that a socket waits here, or less if more than ``PARTING_SOCKETS`` wait."""

PARTING_SOCKETS: Final = 256
"""Sockets that wait here at most, and never more than an eighth of the descriptors of the process."""

SMALL_RESPONSE: Final = 16 * 1024
"""Bytes of a body that TCP sends at once, with the head, before it waits for the client."""

RESOLUTION: Final = 0.1


def may_part(request: Request | None, sent: int) -> bool:
    """Whether the connection of ``request`` may end in this way, after a response of ``sent`` bytes."""
    return request is not None and not request.keep_alive and sent <= SMALL_RESPONSE


class Parting:
    """The sockets, oldest first. ``due`` is when :meth:`look` has something to close, ``inf`` while there is none."""

    def __init__(self) -> None:
        self.due = inf
        self._waiting: deque[tuple[float, Socket]] = deque()
        self._most = min(PARTING_SOCKETS, _descriptor_limit() // 8)

    def add(self, sock: Socket, now: float) -> None:
        """Close this socket later; it is shut down for sending and no poller watches it."""
        waiting = self._waiting
        if not waiting:
            self.due = now + PARTING_TIME + RESOLUTION
        waiting.append((now + PARTING_TIME, sock))
        if len(waiting) > self._most:
            waiting.popleft()[1].close()

    def look(self, now: float) -> None:
        """Close what has waited long enough."""
        waiting = self._waiting
        while waiting and waiting[0][0] <= now:
            waiting.popleft()[1].close()
        self.due = waiting[0][0] + RESOLUTION if waiting else inf

    def close(self) -> None:
        """Close all of them now."""
        while self._waiting:
            self._waiting.popleft()[1].close()
        self.due = inf


def _descriptor_limit() -> int:
    if sys.platform == "win32":
        return 8 * PARTING_SOCKETS
    import resource

    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return 8 * PARTING_SOCKETS if soft == resource.RLIM_INFINITY else soft
