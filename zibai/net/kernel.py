"""What the kernel knows about connections and listeners.

Of a connection: whether the client is still there, and how much the client has taken. Of a listener: whether
connections wait there, and how many. Each of these is one system call, takes nothing from the socket, and never waits.
"""

import select
import socket
import struct
import sys
from typing import Final

from ..system.patching import original
from .listener import Socket

if sys.platform == "linux":  # not when they are needed: then no descriptor may be left to load them with
    from fcntl import ioctl
    from termios import TIOCOUTQ

HERE: Final = 0
ENDED: Final = 1
"""The client sends nothing more. It has closed the connection, or only its own side: TCP says the same for both."""
RESET: Final = 2

HALF_CLOSE: Final = 0.2
"""Seconds between the last byte of a request and the end of the client's side, if both were sent together."""

_TIMES: Final = struct.Struct("=52xII")  # tcpi_last_data_recv and tcpi_last_ack_recv, milliseconds ago

_BACKLOG: Final = struct.Struct("=24xI")  # tcpi_unacked, which is the accept queue of a listening socket

_CLOSE: Final = 7  # states of a connection, in Linux's tcp_states.h
_CLOSE_WAIT: Final = 8
_LAST_ACK: Final = 9
_SO_NWRITE: Final = 0x1024  # macOS


def look_for_client(sock: Socket) -> int:
    """:data:`HERE`, :data:`ENDED` or :data:`RESET`."""
    if sys.platform == "linux" and sock.family != socket.AF_UNIX:
        try:
            # The state is the first byte. It shows an end even behind bytes that were not read yet.
            state = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)[0]
        except OSError:
            return RESET
        return RESET if state == _CLOSE else ENDED if state in (_CLOSE_WAIT, _LAST_ACK) else HERE
    try:
        # Of the class, since a socket over TLS would decrypt.
        return HERE if Socket.recv(sock, 1, socket.MSG_PEEK) else ENDED
    except (BlockingIOError, InterruptedError):
        return HERE
    except OSError:
        return RESET


def has_given_up(sock: Socket, silent: bool = True) -> bool:
    """Whether the client of a request that waits has left. ``silent``: nothing was sent to it since its request came.

    A client that closes its side right after its request, as ``nc -N`` does, still reads the response. A client that
    closes its side :data:`HALF_CLOSE` seconds or more after the last byte of its request has closed the connection.
    Only Linux tells the time between both, for TCP, as long as nothing was sent; otherwise only a reset counts.
    """
    found = look_for_client(sock)
    if found != ENDED or not silent or sys.platform != "linux" or sock.family == socket.AF_UNIX:
        return found == RESET
    try:
        # The end of the client's side acknowledges, too, so it sets the last of both times.
        since_data, since_end = _TIMES.unpack(sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _TIMES.size))
    except (OSError, struct.error):
        return False
    return bool(since_data - since_end >= HALF_CLOSE * 1000)


def seconds_since_data(sock: Socket) -> float:
    """Seconds since the client has last sent something, whether or not this process has received it.

    Linux tells this for TCP, in milliseconds. 0 if the system does not tell.
    """
    if sys.platform != "linux" or sock.family == socket.AF_UNIX:
        return 0.0
    try:
        since_data, _ = _TIMES.unpack(sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _TIMES.size))
    except (OSError, struct.error):
        return 0.0
    return float(since_data) / 1000


def unsent(sock: Socket) -> int:
    """The bytes written here that the client's system has not received yet; 0 if the system does not tell."""
    try:
        if sys.platform == "linux":
            count: int = struct.unpack("i", ioctl(sock.fileno(), TIOCOUTQ, bytes(4)))[0]
            return count
        if sys.platform == "darwin":
            return sock.getsockopt(socket.SOL_SOCKET, _SO_NWRITE)
    except OSError:
        pass  # a socket that has ended
    return 0


def is_anyone_at(listeners: list[Socket]) -> bool:
    """Whether a connection waits at one of these listeners until it is accepted."""
    if sys.platform == "win32":
        return bool(original("select", "select")(listeners, [], [], 0)[0])
    poll = original("select", "poll")()  # select() of POSIX takes no descriptor above 1023
    for each in listeners:
        poll.register(each, select.POLLIN)
    return bool(poll.poll(0))


def backlog_of(listener: Socket) -> int | None:
    """How many connections wait at a listener until they are accepted; None if the system does not tell."""
    if sys.platform != "linux" or listener.family == socket.AF_UNIX:
        return None
    try:
        (waiting,) = _BACKLOG.unpack(listener.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _BACKLOG.size))
    except (OSError, struct.error):
        return None  # it is closed
    return int(waiting)
