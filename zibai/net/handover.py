"""Open connections, handed from one process to another: descriptors in messages of a unix socket.

A worker that is replaced has kept-alive connections that wait for a next request. Closing them would cost a client
that is just sending one an error; so the replacement gets them, and their clients notice nothing. What the kernel has
received and nobody has read yet travels with the descriptor. What was read already and still counts, who the client is
by the PROXY protocol, goes beside it as a note.

POSIX only (``SCM_RIGHTS``); on Windows a worker that drains gives its idle connections a grace instead.
"""

import array
import socket
import sys
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from functools import partial

from .listener import Socket
from .poller import READ, Poller

BATCH = 100
"""Descriptors of one message; Linux takes 253, macOS 512."""

NOTE = 1024
"""Bytes of a message. Far from what a socket would take in two parts: a part of a note is none."""


def give(channel: Socket, fds: Sequence[int], notes: Mapping[int, bytes] | None = None) -> int:
    """Send descriptors, without waiting; return how many went. They stay open here and are to be closed.

    ``notes`` has what goes beside some of them, each in a message of its own.
    """
    given = 0
    notes = notes or {}
    if sys.platform != "win32":
        try:
            while given < len(fds):
                end = given + 1
                if fds[given] not in notes:
                    while end < min(len(fds), given + BATCH) and fds[end] not in notes:
                        end += 1
                data = b"\0" + notes.get(fds[given], b"")
                rights = array.array("i", fds[given:end])
                channel.sendmsg([data], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, rights)], socket.MSG_DONTWAIT)
                given = end
        except OSError:
            pass  # no room at the moment, or the other side is gone: the rest stays where it is
    return given


def take(channel: Socket) -> list[tuple[Socket, bytes]] | None:
    """What has arrived, non-blocking sockets with their notes; None when the other side has closed the channel."""
    if sys.platform == "win32":
        return None
    size = array.array("i").itemsize
    try:
        data, ancillary, _, _ = channel.recvmsg(NOTE, socket.CMSG_SPACE(BATCH * size), socket.MSG_DONTWAIT)
    except BlockingIOError:
        return []
    except OSError:
        return None
    fds = array.array("i")
    for level, kind, payload in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            fds.frombytes(payload[: len(payload) - len(payload) % size])
    if not data:
        return None
    sockets = [Socket(fileno=fd) for fd in fds]
    for sock in sockets:
        sock.setblocking(False)
    return [(sock, data[1:]) for sock in sockets]


class Adoption:
    """The channels through which a worker takes over the connections of others; ``adopt`` is called with each and its
    note.

    ``add`` may be called by any thread; everything else is the loop owner's.
    """

    def __init__(
        self, poller: Poller, others: dict[int, Callable[[], object]], adopt: Callable[[Socket, bytes], None]
    ) -> None:
        """``others`` is where the loop looks what to call for a descriptor."""
        self._poller = poller
        self._others = others
        self._adopt = adopt
        self.coming: deque[Socket] = deque()  # channels that are not watched yet
        self._open: list[Socket] = []  # those that are

    def add(self, channel: Socket) -> None:
        """Take over what comes through ``channel``, from the next turn on."""
        self.coming.append(channel)

    def watch(self) -> None:
        """Let the poller look at the channels that were added."""
        while self.coming:
            channel = self.coming.popleft()
            self._open.append(channel)
            self._others[channel.fileno()] = partial(self._take, channel)
            self._poller.register(channel.fileno(), READ)

    def _take(self, channel: Socket) -> bool:
        """Take what has come through a channel; returns whether there may be more."""
        sockets = take(channel)
        if sockets is None:
            del self._others[channel.fileno()]
            self._poller.unregister(channel.fileno())
            self._open.remove(channel)
            channel.close()
            return False
        for sock, note in sockets:
            self._adopt(sock, note)
        return bool(sockets)

    def take_all(self) -> None:
        """Take what is on its way: it would be lost with the channels."""
        for channel in list(self._open):
            while self._take(channel):
                pass

    def close(self) -> None:
        for channel in (*self.coming, *self._open):
            channel.close()
