"""Open connections, handed from one process to another: descriptors in messages of a unix socket.

A worker that is replaced has kept-alive connections that wait for a next request. If it closed them, a client that is
just sending one would see an error. So the replacement gets them, and the clients notice nothing. Bytes that the kernel
has received and the worker has not read travel with the descriptor. The client's address by the PROXY protocol, which
was read already, is sent beside it as a note.

POSIX only (``SCM_RIGHTS``); on Windows a worker that drains keeps its idle connections for a moment instead.
"""

import array
import socket
import sys
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import partial

from .listener import Socket
from .poller import READ, Poller

MAX_DESCRIPTORS = 100
"""Descriptors of one message; Linux takes 253, macOS 512."""

NOTE = 1024
"""Bytes of a message: few enough that a socket sends it whole, since a part of a note would be useless."""


def give(channel: Socket, fds: Sequence[int], notes: Mapping[int, bytes] | None = None) -> int:
    """Send descriptors, without waiting; return how many were sent. The caller has to close them.

    ``notes`` are sent beside some of the descriptors, each in a message of its own.
    """
    given = 0
    notes = notes or {}
    if sys.platform != "win32":
        try:
            while given < len(fds):
                end = given + 1
                if fds[given] not in notes:
                    while end < min(len(fds), given + MAX_DESCRIPTORS) and fds[end] not in notes:
                        end += 1
                data = b"\0" + notes.get(fds[given], b"")
                rights = array.array("i", fds[given:end])
                channel.sendmsg([data], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, rights)], socket.MSG_DONTWAIT)
                given = end
        except OSError:
            pass  # no room at the moment, or the other side has ended: the other descriptors stay here
    return given


def take(channel: Socket) -> list[tuple[Socket, bytes]] | None:
    """Non-blocking sockets that have arrived, with their notes; None if the other side has closed the channel."""
    if sys.platform == "win32":
        return None
    size = array.array("i").itemsize
    try:
        data, ancillary, _, _ = channel.recvmsg(NOTE, socket.CMSG_SPACE(MAX_DESCRIPTORS * size), socket.MSG_DONTWAIT)
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


def refuse_more(channel: Socket) -> None:
    """Let ``give`` fail at the other side from now on, so that it keeps its connections."""
    with suppress(OSError):  # the other side has closed the channel, or this one has
        channel.shutdown(socket.SHUT_RD)


def pass_on(channel: Socket, replacement: Socket) -> None:
    """Pass connections that have arrived too late on to the replacement; close the channel."""
    for _ in range(2):  # see Adoption.end
        while arrived := take(channel):
            for sock, note in arrived:
                give(replacement, [sock.fileno()], {sock.fileno(): note} if note else None)
                sock.close()
        refuse_more(channel)
    channel.close()


class Adoption:
    """The channels through which a worker receives the connections of other workers.

    ``adopt`` is called with each connection and its note. Any thread may call ``add``; everything else is for the owner
    of the loop.
    """

    def __init__(
        self, poller: Poller, others: dict[int, Callable[[], object]], adopt: Callable[[Socket, bytes], None]
    ) -> None:
        """``others``: the functions that the loop calls, by descriptor."""
        self._poller = poller
        self._others = others
        self._adopt = adopt
        self.coming: deque[Socket] = deque()  # channels that are not watched yet
        self._open: list[Socket] = []  # channels that are watched

    def add(self, channel: Socket) -> None:
        """Receive connections through ``channel``, from the next turn of the loop on."""
        self.coming.append(channel)

    def watch(self) -> None:
        """Let the poller look at the channels that were added."""
        while self.coming:
            channel = self.coming.popleft()
            self._open.append(channel)
            self._others[channel.fileno()] = partial(self._take, channel)
            self._poller.register(channel.fileno(), READ)

    def _take(self, channel: Socket) -> bool:
        """Receive from a channel; returns whether there may be more."""
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

    def end(self) -> None:
        """Receive the connections on their way, which would be lost with the channels, and none after that."""
        self.watch()
        for channel in list(self._open):
            for _ in range(2):  # macOS drops arrived messages at the shutdown, so they are received before, too
                while channel in self._open and self._take(channel):
                    pass
                refuse_more(channel)

    def close(self) -> None:
        for channel in (*self.coming, *self._open):
            channel.close()
