"""How a thread waits for one socket, and how a thread that waits in a poller is woken."""

import select
import socket
import sys

from ...net.listener import Socket


class Readiness:
    """A thread waits for one socket. ``select.poll``, where it exists, takes descriptors of any number."""

    def wait_readable(self, sock: Socket, timeout: float) -> bool:
        return _wait(sock, False, timeout)

    def wait_writable(self, sock: Socket, timeout: float) -> bool:
        return _wait(sock, True, timeout)


def _wait(sock: Socket, writable: bool, timeout: float) -> bool:
    if sys.platform == "win32":  # there is no poll, and select takes sockets of any number
        lists = ([], [sock], [sock]) if writable else ([sock], [], [])
        return any(select.select(*lists, timeout))
    poll = select.poll()
    poll.register(sock, select.POLLOUT if writable else select.POLLIN)
    return bool(poll.poll(timeout * 1000))


class Bell:
    """Wakes a thread that waits in a poller, by a byte on a descriptor of the server. Any thread may ring."""

    __slots__ = ("_far", "_near")

    def __init__(self) -> None:
        self._near, self._far = socket.socketpair()
        self._near.setblocking(False)
        self._far.setblocking(False)

    def __repr__(self) -> str:
        return f"<Bell on descriptor {self.fileno()}>"

    def fileno(self) -> int:
        """The descriptor that the poller watches; -1 when it is closed."""
        return self._near.fileno()

    def ring(self) -> None:
        try:
            self._far.send(b"\0")
        except OSError:
            pass  # the buffer is full of bells already, or the server has ended

    def hear(self) -> None:
        """Read the bytes of all rings. The poller's thread."""
        try:
            self._near.recv(4096)
        except BlockingIOError:
            pass  # a turn before has heard it

    def close(self) -> None:
        self._near.close()
        self._far.close()
