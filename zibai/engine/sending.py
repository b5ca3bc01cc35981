"""The sending side of a connection: what the runner and the loop share.

What a client does not take at once is lent to the loop. The loop sends it while the application goes on, and after the
application is done: PEP 3333 wants no block delayed, and a slow client must not hold a thread for it. From then on
``out`` is touched under ``lock``, by the runner or the loop, as either finds the socket writable. The bytes stay in one
queue, so their order cannot change. A runner that has lent nothing takes no lock.

A client has to take something within ``socket_timeout``, and ``min_send_rate`` on average. The kernel takes bytes in
lumps, up to some MiB at a time, so at the deadline it is asked what the client has really taken meanwhile.
"""

import socket
import struct
import sys
import time
from _thread import allocate_lock
from math import inf
from typing import TYPE_CHECKING, Any, Final

from ..net.kernel import unsent
from ..net.listener import Socket
from .context import Service
from .outgoing import FileFault
from .states import APP, FLUSH, HEAD, TASK

if TYPE_CHECKING:
    from collections.abc import Callable

SENDING: Final = frozenset({FLUSH, APP, TASK})

TAIL: Final = 1024 * 1024
"""Bytes of a response that may wait here while its application makes more."""

RATE_AFTER: Final = 10.0
"""Seconds that a client may take for a part of a response at any rate; from then on the minimum rate counts."""

LOOK: Final = 1.0
"""Seconds between two looks at something that no event reports."""


class Sender:
    """The state, the socket and the bytes that wait for the client. Whatever changes ``out`` holds the ``lock``, except
    the loop when no runner has the connection.
    """

    __slots__ = (
        "_backlog", "_files", "_given", "_held", "_seen", "_since", "broken", "closing", "deadline", "fault", "fd",
        "lent", "lock", "lost", "on_sent", "out", "service", "sock", "state",
    )  # fmt: skip

    def __init__(self, sock: Socket, service: Service) -> None:
        self.sock, self.fd = sock, sock.fileno()
        self.service = service
        self.state: str = HEAD
        self.deadline = inf
        self.closing = False  # no further request after this response
        self.broken = False  # nothing can be sent any more
        self.out: Any = bytearray()  # what waits to be sent; an Outgoing when that is large
        self.lock = allocate_lock()
        self.lent = False
        self.lost = 0  # bytes of a response that could not be sent
        self.fault: FileFault | None = None  # why the rest of it could not be read
        self.on_sent: Callable[[Any], object] | None = None  # called by the loop when the response is out, or lost
        self._held = self._files = 0  # bytes of memory, and open files, that the budget of the service knows of
        # Since when something waits; the bytes that the kernel was given since then, and those that it had before; and
        # how many of both the client had taken at the last look.
        self._since = 0.0
        self._given = self._backlog = self._seen = 0

    def _note_lent(self) -> bool:
        """Something waits, under the lock; return whether the loop does not know yet."""
        new, self.lent = not self.lent, True
        if new:
            self.start_clock(time.monotonic())
        self._account()
        return new

    def receive_raw(self, size: int, flags: int = 0) -> bytes:
        """What the kernel has, below TLS."""
        return self.sock.recv(size, flags)

    def cut(self) -> None:
        """End the exchange so that the client sees that its response is not whole."""
        with self.lock:
            self._cut()

    def _cut(self) -> None:
        self.closing = self.broken = True
        self.forget()
        try:
            # With RST, since the end of the connection may be how the end of the body is marked.
            self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
        except OSError:
            pass  # there is no connection left to reset

    # What follows is for the holder of the lock, or for the loop when there is no runner.

    def forget(self) -> None:
        """Nothing of what waits can be sent any more."""
        self.lost += len(self.out)
        self.out.clear()
        self._account()

    def _account(self) -> None:
        out = self.out
        held, files = (len(out), 0) if type(out) is bytearray else (out.memory, out.files)
        if held != self._held or files != self._files:
            self.service.unsent.change(held - self._held, files - self._files)
            self._held, self._files = held, files

    def _push(self, now: float) -> int:
        """Send from the front of ``out``; return how much. When it is empty nothing is lent any more."""
        out = self.out
        sent = 0
        try:
            if type(out) is not bytearray:
                sent = out.send_to(self.sock) if out else 0
            elif out:
                sent = self.sock.send(out)
                del out[:sent]
        except (BlockingIOError, InterruptedError):
            return 0
        except FileFault as fault:
            self.fault = fault
            self._cut()
        except OSError:
            self.broken = True
            self.forget()
        if sent and self.state in SENDING:
            self._given += sent
            self._seen = self._taken()
            self.deadline = now + self._send_patience(now, self._given)
        if not out:
            if type(out) is not bytearray:
                self.out = bytearray()
            self.lent = False
            if self.state is APP or self.state is TASK:
                self.deadline = inf
        self._account()
        return sent

    # How long a client may take.

    def start_clock(self, now: float) -> None:
        """Something waits for the client from now on."""
        self._since = now
        self._given = self._seen = 0
        self._backlog = unsent(self.sock)
        self.deadline = now + self._send_patience(now, 0)

    def _taken(self) -> int:
        """Bytes that the client has taken since something waits."""
        return self._backlog + self._given - unsent(self.sock)

    def _send_patience(self, now: float, taken: int) -> float:
        """Seconds that the next byte may take: until the average would fall below the minimum, if no more was taken.

        A client that has taken nothing yet has paused, which is no rate; it has the whole ``socket_timeout``.
        """
        service = self.service
        if not service.min_send_rate or taken <= 0:
            return service.socket_timeout
        return min(service.socket_timeout, self._since + max(RATE_AFTER, taken / service.min_send_rate) - now)

    def is_too_slow(self, now: float) -> bool:
        """The deadline is over: whether the client has taken nothing, or too little. If not, there is a new one."""
        if now < self.deadline:
            return False  # it has moved while its holder waited for the lock
        taken = self._taken()
        patience = self._send_patience(now, taken)
        if taken <= self._seen or patience <= 0:
            return True
        self._seen = taken
        self.deadline = now + patience
        return False


_RESET = struct.pack("hh" if sys.platform == "win32" else "ii", 1, 0)
