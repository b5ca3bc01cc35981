"""The sending side of a connection: the runner's, and what the loop does in its stead.

What a runner could not send at once, up to 1 MiB, is lent to the loop, which sends it while the application goes on:
PEP 3333 wants no block delayed, and a slow client must not hold a thread for it. From then on ``out`` is touched under
``lock``, by whoever finds the socket writable; the bytes stay in one buffer, so their order cannot change. A runner
that has lent nothing takes no lock.
"""

import os
import socket
import struct
import sys
import time
from _thread import allocate_lock
from collections.abc import Callable
from math import inf
from typing import Final

from .errors import Gone
from .scoreboard import CALLED, SENDING, Slot
from .service import APP, HEAD, Service
from .sockets import Socket

TAIL: Final = 1024 * 1024
"""Bytes of an answer that the loop finishes for a runner."""


class Sender:
    """What a :class:`~zibai.connection.Connection` is made upon. ``state`` and ``deadline`` are explained there.

    ``send``, ``drain``, ``send_file`` and ``cut`` are the runner's.
    """

    __slots__ = ("_slot", "broken", "closing", "deadline", "fd", "lent", "lock", "out", "service", "sock", "state")

    def __init__(self, sock: Socket, service: Service) -> None:
        self.sock, self.fd = sock, sock.fileno()
        self.service = service
        self.state: str = HEAD
        self.deadline = inf
        self.closing = False  # no further request after this answer
        self.broken = False  # nothing can be sent any more
        self.out = bytearray()
        self.lock = allocate_lock()
        self.lent = False
        self._slot: Slot = service.row.slots[0]  # the runner's, while there is one

    def send(self, data: bytes | memoryview) -> None:
        """Send, or lend what the client does not take at once; waits while that is over 1 MiB. Raises :class:`Gone`."""
        if self.out:
            self._send_behind(data)
            return
        # Only the runner adds to `out`, so it stays empty and no lock is needed.
        view = data
        while view:
            if self.broken:
                raise Gone("the client has left")
            try:
                sent = self.sock.send(view)
                if sent == len(view):
                    return
                view = memoryview(view)[sent:]
            except (BlockingIOError, InterruptedError):
                if len(view) <= TAIL:
                    self._lend(view)
                    return
                self._wait_writable()
            except OSError as error:
                self.broken = True
                raise Gone(f"the client has left: {error}") from None

    def _send_behind(self, data: bytes | memoryview) -> None:
        """Send behind what is still waiting."""
        self.drain(max(0, TAIL - len(data)))
        if len(data) > TAIL:
            self.send(data)
        else:
            self._lend(data)

    def _lend(self, data: bytes | memoryview) -> None:
        with self.lock:
            self.out += data
            new, self.lent = not self.lent, True
            self.deadline = time.monotonic() + self.service.socket_timeout
        if new:
            self.service.lend(self)

    def drain(self, size: int = 0) -> None:
        """Wait until no more than ``size`` bytes wait to be sent. Raises :class:`Gone`."""
        while len(self.out) > size:
            self._wait_writable()
            with self.lock:
                self._push(time.monotonic())
        if self.broken:
            raise Gone("the client has left")

    def send_file(self, file: int, offset: int, count: int) -> int:
        """Send ``count`` bytes of the file descriptor from ``offset`` by ``os.sendfile``; return how many it had."""
        if sys.platform == "win32":
            raise AssertionError("there is no sendfile on Windows")
        self.drain()
        done = 0
        while done < count:
            try:
                sent = os.sendfile(self.fd, file, offset + done, count - done)
            except (BlockingIOError, InterruptedError):
                if count - done <= TAIL:
                    rest = os.pread(file, count - done, offset + done)
                    self.send(rest)
                    return done + len(rest)
                self._wait_writable()
                continue
            except OSError as error:
                self.broken = True
                raise Gone(f"the client has left: {error}") from None
            if not sent:
                break
            done += sent
        return done

    def cut(self) -> None:
        """End the exchange so that the client sees that its answer is not whole."""
        self.closing = self.broken = True
        try:
            # With RST, since the end of the connection may be how the end of the body is marked.
            self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
        except OSError:
            pass  # there is no connection left to reset

    def _push(self, now: float) -> None:
        """Send from the front of ``out``, under the lock. When it is empty nothing is lent any more."""
        try:
            sent = self.sock.send(self.out) if self.out else 0
        except (BlockingIOError, InterruptedError):
            return
        except OSError:
            self.broken = True
            self.out.clear()
        else:
            del self.out[:sent]
            if sent:
                self.deadline = now + self.service.socket_timeout
        if not self.out:
            self.lent = False
            if self.state is APP:
                self.deadline = inf

    def _wait_writable(self) -> None:
        if self.broken or not self._wait(self.service.waits.wait_writable, SENDING, self.service.socket_timeout):
            self.broken = True
            raise Gone(f"the client took nothing for {self.service.socket_timeout:g} s")

    def _wait(self, wait: Callable[[Socket, float], bool], phase: int, timeout: float) -> bool:
        """Wait for the client as the backend does; the scoreboard tells that it is not the application that is slow."""
        self._slot.phase(phase)
        try:
            return wait(self.sock, timeout)
        finally:
            self._slot.phase(CALLED)


_RESET = struct.pack("hh" if sys.platform == "win32" else "ii", 1, 0)
