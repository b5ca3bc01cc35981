"""A client's socket in a loop's table, with a state and a deadline.

A :class:`Pollable` is a connection, or a stage before one (see :mod:`.preamble`). The loop's
:class:`~zibai.engine.table.Table` watches its socket as its state says, and calls its steps: ``begin``, ``readable``,
``writable``, ``resume`` and ``expire``. None of them blocks. Each may change ``state`` and ``deadline``, and the table
looks at both after it. The steps, ``state``, ``deadline``, ``pause`` and ``watched`` belong to the loop's owner. The
runner of its request reads the constant ones: ``sock``, ``peer``, ``endpoint`` and ``service``.
"""

import socket
from collections.abc import Mapping
from typing import Any, Final, NamedTuple

from ..config.addresses import plain_host
from ..net.listener import Endpoint, Socket
from .context import Service
from .states import CLOSED


class Arrival(NamedTuple):
    """How a request comes. ``begun``: a part of its head has come, so its deadline runs. ``head`` and ``body``: the
    seconds from the first piece to the last."""

    begun: bool
    head: float
    body: float


IN_ONE_PIECE: Final = Arrival(False, 0.0, 0.0)
BEGUN: Final = Arrival(True, 0.0, 0.0)


class Pollable:
    """One client. ``pause`` says why the loop does not read from it although its state would have it so."""

    __slots__ = ("deadline", "endpoint", "fd", "pause", "peer", "service", "sock", "state", "watched")

    def __init__(
        self, sock: Socket, peer: object, endpoint: Endpoint, service: Service, state: str, now: float
    ) -> None:
        self.sock = sock
        self.fd = sock.fileno()
        self.peer = tidy(peer)
        self.endpoint = endpoint
        self.service = service
        self.state = state
        self.deadline = now + service.limits.header_timeout
        self.pause = 0
        self.watched = 0  # what the poller watches; the table's

    def __repr__(self) -> str:
        return f"<{type(self).__name__} of {self.peer}: {self.state}>"

    @property
    def out(self) -> Any:
        """What waits to be sent."""
        raise NotImplementedError

    @property
    def idle(self) -> bool:
        """Whether it may be closed for another client: it waits for a request of which no byte has come."""
        raise NotImplementedError

    @property
    def served(self) -> bool:
        """Whether it has had a response of an application."""
        return False

    @property
    def silent(self) -> bool:
        """Whether nothing was sent to it since its request came, not even a 100 Continue.

        Only then the kernel's times say whether the client has sent its request and its end together.
        """
        return True

    @property
    def note(self) -> bytes:
        """What a worker that takes it over must know about it."""
        return b""

    def secured(self) -> dict[str, str]:
        """What TLS adds to the environ of each of its requests."""
        return {}

    def describe_tls(self, secured: Mapping[str, str]) -> dict[str, Any] | None:
        """The description of TLS for ASGI applications, made from ``secured``; None without TLS."""
        return None

    def receive_raw(self, size: int, flags: int = 0) -> bytes:
        """Receive from the kernel, below TLS."""
        return self.sock.recv(size, flags)

    def begin(self, now: float) -> None:
        """It has just taken its place in the table."""

    def readable(self, now: float) -> None:
        """The socket has bytes, its end or an error."""
        raise NotImplementedError

    def writable(self, now: float) -> None:
        """The socket takes bytes."""

    def resume(self, now: float) -> None:
        """A pause is over."""
        self.pause = 0

    def expire(self, now: float) -> None:
        """The deadline has passed."""
        self.state = CLOSED

    def close(self) -> None:
        """End the connection, even if a child process that C code has forked has a copy of the socket."""
        try:
            self.sock.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass  # the client was faster
        self.release()

    def release(self) -> None:
        """Release everything. The connection goes on if another process has the socket, too."""
        self.state = CLOSED
        self.sock.close()


def name_of(peer: object) -> str:
    """A peer in a log line: without its port, which differs from connection to connection."""
    return peer[0] if isinstance(peer, tuple) else "a unix socket"


def tidy(peer: object) -> object:
    """A peer in one form: the address of a TCP client, or the name of a unix socket, made safe for a log. A client may
    bind its socket to any name, and a name with a line break would forge a log line."""
    if isinstance(peer, tuple):
        return (plain_host(peer[0]), *peer[1:]) if ":" in peer[0] else peer
    return ascii(peer) if isinstance(peer, bytes) or (isinstance(peer, str) and not peer.isprintable()) else peer
