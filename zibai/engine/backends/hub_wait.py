"""How a greenlet waits for the socket of its client: by gevent's hub, with a limit of time. And how it lets others run
when it never has to wait."""

from collections.abc import Callable
from typing import Final

from gevent.socket import wait_read, wait_write

from ...clock import clock
from ...net.listener import Socket
from ..connection import Connection
from ..states import APP
from ..stream import Stream

TURN: Final = 0.005
"""Seconds for which a greenlet may send without a pause."""

SENDS: Final = 64
"""Sends between two looks at the clock, a power of two. They take less than a millisecond."""

SHORTEST = 0.001
"""Seconds of the shortest timer: libuv counts in milliseconds, and warns of a shorter one on standard error."""


class Readiness:
    """A greenlet waits for one socket by the hub."""

    def wait_readable(self, sock: Socket, timeout: float) -> bool:
        return _wait(wait_read, sock, timeout)

    def wait_writable(self, sock: Socket, timeout: float) -> bool:
        return _wait(wait_write, sock, timeout)


class _Late(Exception):
    """Not gevent's Timeout, which an application may use itself around a read."""


def _wait(wait: Callable[..., None], sock: Socket, timeout: float) -> bool:
    try:
        wait(sock.fileno(), timeout=timeout and max(timeout, SHORTEST), timeout_exc=_Late)
    except _Late:
        return False
    return True


class FairStream(Stream):
    """A stream whose greenlet lets others run now and then.

    A client that takes each piece of a long response at once never makes the greenlet wait, nor does an application
    that gives empty pieces: neither another greenlet nor the server loop would run until the response ends, and some
    responses have no end.
    """

    __slots__ = ("_paused", "_sends")

    def __init__(self, connection: Connection) -> None:
        super().__init__(connection)
        self._sends = 0
        self._paused = 0.0  # when the greenlet has let others run

    def send(self, data: bytes | memoryview) -> None:
        sender = self.sender
        if data and not (sender.out or sender.broken):
            # The same as Stream.send without the cost of a call. Stream.send sends the rest, and handles errors.
            try:
                sent = self.sock.send(data)
            except OSError:
                sent = 0
            if sent == len(data):
                self._sends = sends = self._sends + 1
                if not sends % SENDS:
                    self._let_others_run()
                return
            data = memoryview(data)[sent:]
        Stream.send(self, data)

    def send_nothing(self) -> None:
        self._sends += 1
        if not self._sends % SENDS:
            self._let_others_run()

    def _let_others_run(self) -> None:
        if self.connection.state is APP and clock() - self._paused > TURN:
            # Not gevent.sleep(0): the hub runs 50 such callbacks before it looks at any socket.
            _wait(wait_write, self.sock, SHORTEST)
            self._paused = clock()
