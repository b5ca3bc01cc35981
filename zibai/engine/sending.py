"""The bytes on their way out to one client, and their lock: the only thing that the two sides of a connection share.

Bytes that a client does not take at once are lent to the loop. The loop sends them while the application goes on, and
after the application is done: PEP 3333 forbids delaying a block, and a slow client must not hold a thread for it. From
then on the loop and the runner both send, whichever finds the socket writable. The bytes stay in one queue, so their
order cannot change. A runner that has lent nothing takes no lock.
"""

import socket
import struct
import sys
import time
from _thread import allocate_lock
from typing import TYPE_CHECKING, Any, Final

from ..errors import Gone
from ..logger import error_logger
from ..net.listener import Socket
from ..protocol.http1 import Request
from .context import Service
from .outgoing import COPIED_BELOW, SENT_AT_ONCE, File, FileFault, Outgoing
from .pace import Pace

if TYPE_CHECKING:
    from collections.abc import Callable

TAIL: Final = 1024 * 1024
"""Bytes of a response that may wait here while its application makes more."""


class Sender:
    """The unsent bytes of one client, which the loop and a runner share.

    While a runner has the connection, ``out``, ``lent``, ``pace``, ``lost``, ``fault`` and their counters are changed
    only under ``lock``, and neither side waits while it holds the lock. Either side may read them without the lock; the
    value may be old. Only the runner adds to ``out``. So when the runner sees that ``out`` is empty, it stays empty,
    and the runner sends itself. While no runner has the connection, everything belongs to the loop, without a lock (a
    task runs in the loop's thread). ``closing`` and ``broken`` only become true, and either side may set them.

    A side that fails leaves nothing behind: the lock is released with the block that has taken it, and bytes that a
    runner has lent stay with the loop, which closes the connection at their deadline if the runner is lost.
    """

    __slots__ = (
        "_files", "_memory", "broken", "closing", "fault", "lent", "lock", "lost", "on_sent", "out", "pace", "service",
        "sock",
    )  # fmt: skip

    def __init__(self, sock: Socket, service: Service) -> None:
        self.sock, self.service = sock, service
        self.out: Any = bytearray()  # what waits to be sent; an Outgoing when that is large
        self.lock = allocate_lock()
        self.closing = False  # no further request after this response
        self.broken = False  # nothing can be sent any more; then it is closing, too
        self.lent = False  # whether the loop knows that something waits
        self.lost = 0  # bytes of a response that could not be sent
        self.pace: Pace | None = None  # how long the client may take, while something waits
        self.fault: FileFault | None = None  # why the rest of a response could not be read
        self.on_sent: Callable[[], object] | None = None  # called by the loop when the response is out, or lost
        self._memory = self._files = 0  # bytes of memory, and open files, that are counted in the service's budget

    def __repr__(self) -> str:
        end = ", broken" if self.broken else ", then the end" if self.closing else ""
        return f"<Sender: {len(self.out)} bytes wait{end}>"

    # For a runner.

    def lend(self, data: bytes | memoryview) -> bool:
        """Append ``data`` to the unsent bytes; return whether the loop must be told. Raises :class:`Gone`."""
        with self.lock:
            if self.broken:
                self.lost += len(data)
                raise Gone("the client has left")
            if type(self.out) is bytearray and len(data) >= COPIED_BELOW:
                self.out = Outgoing(self.out)
            self.out += data
            return self._note_lent()

    def lend_file(self, file: File) -> bool:
        """The same with a file, which belongs to the server from now on. Gives the kernel at once what it takes."""
        with self.lock:
            if self.broken:
                self.lost += file.left
                file.close()
                raise Gone("the client has left")
            if type(self.out) is bytearray:
                self.out = Outgoing(self.out)
            self.out.add_file(file)
            now = time.monotonic()
            if not self.lent:
                self.start_clock(now)
            # Send at once what the kernel is likely to take, but no more: a fast client must not hold the runner.
            for _ in range(TAIL // SENT_AT_ONCE):
                if not (self.out and self.push(now)):
                    break
            return bool(self.out) and self._note_lent()

    def _note_lent(self) -> bool:
        new, self.lent = not self.lent, True
        if new:
            self.start_clock(time.monotonic())
        self._account()
        return new

    def lose(self, size: int) -> None:
        """The connection is broken: count ``size`` bytes that the runner could not send."""
        with self.lock:
            self.closing = self.broken = True
            self.lost += size

    def push_now(self) -> None:
        """Send what the kernel takes now."""
        with self.lock:
            self.push(time.monotonic())

    def give_up_if_slow(self) -> bool:
        """Whether the client has taken too little. If so, nothing more is sent to it."""
        with self.lock:
            slow = self.is_too_slow(time.monotonic())
            if slow:
                self.closing = self.broken = True
            return slow

    @property
    def over_budget(self) -> bool:
        """Whether all responses together exceed their memory, and this one is large."""
        return self.service.unsent.exceeded and self._memory > TAIL

    # For both.

    def is_expired(self, now: float) -> bool:
        """The deadline of the loop has passed: whether the client has taken too little of its unsent bytes."""
        with self.lock:
            return self.is_too_slow(now)

    def cut(self) -> None:
        """Let the connection end by a reset, so that the client notices that its response is incomplete."""
        with self.lock:
            self._cut()

    def cut_now(self, *, orderly: bool) -> None:
        """Send nothing more, and drop all unsent bytes. Unless ``orderly``, closing the socket then resets the
        connection. A runner that waits for a body is woken.
        """
        with self.lock:
            self.closing = self.broken = True
            self.discard_unsent()
            if not orderly:
                self._cut()
        try:
            self.sock.shutdown(socket.SHUT_RDWR if orderly else socket.SHUT_RD)
        except OSError:
            pass  # the client was faster

    # The rest is for the holder of the lock, or for the loop when there is no runner.

    def _cut(self) -> None:
        self.closing = self.broken = True
        self.discard_unsent()
        try:
            # With RST, since the end of the connection may mark the end of the body.
            self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
        except OSError:
            pass  # there is no connection left to reset

    def discard_unsent(self) -> None:
        """Drop everything that waits to be sent; the client gets nothing more."""
        self.lost += len(self.out)
        self.out.clear()
        self._account()

    def _account(self) -> None:
        out = self.out
        memory, files = (len(out), 0) if type(out) is bytearray else (out.memory, out.files)
        if memory != self._memory or files != self._files:
            self.service.unsent.change(memory - self._memory, files - self._files)
            self._memory, self._files = memory, files

    def push(self, now: float) -> int:
        """Send from the front of ``out``; return the number of bytes. When it is empty, nothing is lent any more."""
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
            self.closing = self.broken = True
            self.discard_unsent()
        if not out:
            if type(out) is not bytearray:
                self.out = bytearray()
            self.lent = False
            self.pace = None
        elif sent and self.pace is not None:
            self.pace.gave(sent, now)
        self._account()
        return sent

    def start_clock(self, now: float) -> float:
        """Unsent bytes wait for the client from now on; return the time by which it must take some."""
        limits = self.service.limits
        self.pace = Pace(self.sock, limits.socket_timeout, limits.min_send_rate, now)
        return self.pace.deadline

    def is_too_slow(self, now: float) -> bool:
        """Whether something waits, and the client has not taken enough of it in time."""
        return bool(self.out) and self.pace is not None and self.pace.is_too_slow(now)

    def tell_sent(self, request: Request | None) -> None:
        """The response to ``request`` is out, or the rest of it is lost: log its end. Never raises: a log that cannot
        be written must not end the loop.
        """
        fault, on_sent = self.fault, self.on_sent
        self.fault = self.on_sent = None
        try:
            if fault is not None:
                path = ascii("" if request is None else request.path)
                self.service.report(error_logger.error, "the response to %s is cut: %s", path, fault)
            if on_sent is not None:
                on_sent()
        except Exception:
            try:
                error_logger.exception("an exchange cannot be logged")
            except Exception:  # noqa: S110
                pass


_RESET = struct.pack("hh" if sys.platform == "win32" else "ii", 1, 0)
