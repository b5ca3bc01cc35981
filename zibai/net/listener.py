"""A listening socket for the acceptor, and the endpoints of the connections that it accepts."""

import _socket
import socket
from collections.abc import Callable
from typing import NamedTuple

from ..config.addresses import plain_host

# The C type that both the standard library's and gevent's sockets wrap; see Listener.
Socket = _socket.socket


def is_tcp(sock: socket.socket) -> bool:
    """Whether it is a TCP socket, and not a unix socket."""
    return sock.family != getattr(socket, "AF_UNIX", None)


class Endpoint(NamedTuple):
    """The server's end of a connection, for the environ: host and port are empty for a unix socket.

    ``plain``: the descriptor carries the bytes of HTTP themselves, without TLS. So the kernel can send a file, and
    another worker can take the connection over.
    """

    host: str
    port: str
    plain: bool = True


_Accepted = Callable[[Socket, object, Endpoint, float], object]


class Listener:
    """A listening socket as the server loop uses it: non-blocking, and of a type that gevent does not patch.

    gevent's sockets make watchers in their constructor, and check at each call whether they may block. The loop needs
    neither, so it uses the C type that both gevent's and the standard library's sockets wrap, with a descriptor of its
    own. The original socket is kept, so that its name can still be asked for.
    """

    def __init__(self, origin: socket.socket, *, closes_origin: bool = True) -> None:
        self._origin = origin
        self._closes_origin = closes_origin
        # Not origin.dup(), which sets the blocking mode that Python remembers for the origin. The mode is a flag of the
        # open socket, which all workers share: for a moment accept() would block, and with it whole server loops.
        self._socket = duplicate(origin)
        self._socket.setblocking(False)
        self.fd = self._socket.fileno()
        self.is_tcp = is_tcp(origin)
        # called with its connections instead of the acceptor's callback; set before the loop turns
        self.accepted: _Accepted | None = None
        self._endpoint = None if self._is_wildcard() else endpoint_of(self._socket)

    def _is_wildcard(self) -> bool:
        return self.is_tcp and self._socket.getsockname()[0] in ("0.0.0.0", "::")

    def accept(self) -> tuple[Socket, object]:
        """One connection, non-blocking, and the address of its peer; raises the OSError of accept(2)."""
        fd, peer = self._socket._accept()  # type: ignore[attr-defined]
        sock = Socket(self._socket.family, self._socket.type, self._socket.proto, fd)
        sock.setblocking(False)
        return sock, peer

    def endpoint_of(self, sock: Socket) -> Endpoint:
        """The server's end of a connection of this listener. Raises OSError if it has ended already."""
        return self._endpoint or endpoint_of(sock)

    @property
    def socket(self) -> Socket:
        """The socket itself, for the kernel to be asked about it."""
        return self._socket

    def close(self) -> None:
        """Close both sockets, unless the origin is kept: the kernel accepts connections while one of them is open."""
        if self.fd >= 0:
            self.fd = -1
            self._socket.close()
            if self._closes_origin:
                self._origin.close()


def duplicate(sock: Socket) -> Socket:
    """Another descriptor of the same open socket, of the type that gevent does not patch. Raises OSError."""
    return Socket(sock.family, sock.type, sock.proto, _socket.dup(sock.fileno()))


def endpoint_of(sock: Socket) -> Endpoint:
    """The server's end of a connection, by its own name. Raises OSError if it has ended already."""
    name = sock.getsockname()
    return Endpoint(plain_host(name[0]), str(name[1])) if isinstance(name, tuple) else Endpoint("", "")
