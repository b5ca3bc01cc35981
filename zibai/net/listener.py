"""A listening socket as the acceptor sees it, and the endpoints of what it accepts."""

import _socket
import socket
from collections.abc import Callable
from typing import NamedTuple

from ..config.addresses import plain_host

# The C type that both the standard library's and gevent's sockets wrap; see Listener.
Socket = _socket.socket


def is_tcp(sock: socket.socket) -> bool:
    return sock.family != getattr(socket, "AF_UNIX", None)


class Endpoint(NamedTuple):
    """Where a connection came in, as an application is told: host and port are empty for a unix socket.

    ``plain``: its descriptor carries the very bytes of HTTP, so that the kernel may be told to send a file, and nothing
    else is to be known of it, so that another worker may be given it.
    """

    host: str
    port: str
    plain: bool = True


_Opened = Callable[[Socket, object, Endpoint, float], object]


class Listener:
    """A listening socket as the server loop uses it: non-blocking, and of the kind that nobody patches.

    gevent's sockets make watchers in their constructor and look whether they may block at each call; the loop
    needs neither, so it works with the C type that both they and the standard library's wrap. It has a descriptor
    of its own; the object that it was made from is kept, so that whoever gave it can still ask for its name.
    """

    def __init__(self, origin: socket.socket, *, closes_origin: bool = True) -> None:
        self._origin = origin
        self._closes_origin = closes_origin
        # Not origin.dup(), which makes the copy as blocking as it believes the origin to be. That is a flag of the open
        # socket itself, which all workers share: for a moment accept() would block, and with it whole server loops.
        self._socket = Socket(origin.family, origin.type, origin.proto, _socket.dup(origin.fileno()))
        self._socket.setblocking(False)
        self.fd = self._socket.fileno()
        self.is_tcp = is_tcp(origin)
        self.opened: _Opened | None = None  # who gets its connections instead of the acceptor's; before the loop turns
        self._endpoint = None if self._is_wildcard() else endpoint_of(self._socket)

    def _is_wildcard(self) -> bool:
        return self.is_tcp and self._socket.getsockname()[0] in ("0.0.0.0", "::")

    def accept(self) -> tuple[Socket, object]:
        """One connection, non-blocking, and the address of its peer; raises what accept(2) does."""
        fd, peer = self._socket._accept()  # type: ignore[attr-defined]
        sock = Socket(self._socket.family, self._socket.type, self._socket.proto, fd)
        sock.setblocking(False)
        return sock, peer

    def endpoint_of(self, sock: Socket) -> Endpoint:
        """Where a connection of this listener came in. OSError if it is gone already."""
        return self._endpoint or endpoint_of(sock)

    def close(self) -> None:
        """Stop listening: ours and mostly the origin, since the kernel goes on accepting while one of them is open."""
        if self.fd >= 0:
            self.fd = -1
            self._socket.close()
            if self._closes_origin:
                self._origin.close()


def endpoint_of(sock: Socket) -> Endpoint:
    """Where a connection came in, as its own name says. OSError if it is gone already."""
    name = sock.getsockname()
    return Endpoint(plain_host(name[0]), str(name[1])) if isinstance(name, tuple) else Endpoint("", "")
