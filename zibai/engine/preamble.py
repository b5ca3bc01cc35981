"""Stages before a connection, which wait in the loop by themselves; and the first of them, the PROXY header.

A :class:`Stage` has a descriptor, a state and a deadline, as a connection has, and the loop's
:class:`~zibai.engine.table.Table` calls the same steps of it. When it is done, it makes the next stage or the
connection, with the socket, the peer and the endpoint that it has learned, and the table replaces it. So a client of a
server with ``--proxy-protocol`` and TLS is a :class:`ProxyHeader`, then a handshake, then a connection.

Everything here is the loop owner's.
"""

import json
import re
import socket
from collections.abc import Callable
from functools import partial
from typing import Any, ClassVar, Final

from ..net.listener import Endpoint, Socket
from ..protocol.proxy_header import SIGNATURE, Malformed, parse
from .context import Service
from .pollable import Pollable, name_of, tidy
from .states import CLOSED, PASSED, PROXY

PEEK: Final = 4096
"""Bytes that are read at once for a PROXY header. A header usually has 28 bytes, and may have 64 KiB."""

Next = Callable[[Socket, object, Endpoint, float], Any]
"""Makes the next stage or the connection, from a socket, its peer, its endpoint and the time by the loop's clock."""


def first_stage(service: Service, then: Next) -> Next:
    """Return the maker of the first stage of a listener: of a PROXY header if the service wants one, else ``then``."""
    return partial(ProxyHeader, service, then) if service.limits.proxy_protocol else then


class Stage(Pollable):
    """A client before its first request. ``then`` makes what follows; see :meth:`done`."""

    __slots__ = ("follower", "out", "then")

    request: ClassVar[None] = None  # none has come

    out: bytearray

    def __init__(
        self, service: Service, then: Next, state: str, sock: Socket, peer: object, endpoint: Endpoint, now: float
    ) -> None:
        super().__init__(sock, peer, endpoint, service, state, now)
        self.then = then
        self.out = bytearray()  # what waits to be sent
        self.follower: Any = None

    @property
    def idle(self) -> bool:
        return True

    def done(self, now: float) -> Any:
        """Make the next stage or the connection, which the table puts in the place of this stage."""
        self.follower = follower = self.then(self.sock, self.peer, self.endpoint, now)
        self.state = PASSED
        return follower


class ProxyHeader(Stage):
    """With ``--proxy-protocol`` the header of a trusted peer comes first, with the address of its client.

    It is read below TLS, under the deadline of a head.
    """

    __slots__ = ("header",)

    def __init__(
        self, service: Service, then: Next, sock: Socket, peer: object, endpoint: Endpoint, now: float
    ) -> None:
        super().__init__(service, then, PROXY, sock, peer, endpoint, now)
        self.header = b""  # the part that has come
        if not service.trust.includes(self.peer):
            service.hint(
                "--proxy-protocol on takes trusted peers only; a connection of %s was closed. If it is your proxy: %s",
                name_of(self.peer),
                service.trust.flag_with(self.peer),
            )
            self.state = CLOSED

    @property
    def idle(self) -> bool:
        return self.state is PROXY and not self.header

    def readable(self, now: float) -> None:
        """Take the bytes of the header and not one more: the next bytes may be for TLS, which reads for itself."""
        try:
            data = self.receive_raw(PEEK, socket.MSG_PEEK)
        except (BlockingIOError, InterruptedError):
            return
        except OSError:
            data = b""
        try:
            header = parse(self.header + data) if data else None
        except Malformed as error:
            self.service.hint(
                "--proxy-protocol is on, but a connection of %s began with %s and was closed; have your proxy send it "
                "(send-proxy-v2 of haproxy, proxy_protocol on of nginx), or set --proxy-protocol off",
                name_of(self.peer),
                error,
            )
            data = b""
        if not data:
            self.state = CLOSED
            return
        # While the header is not complete, take all bytes: what stayed in the socket would wake the loop at once.
        size = len(data) if header is None else header.size - len(self.header)
        self.header += self.receive_raw(size)
        if header is None:
            return
        if header.source is not None:
            host, port = header.destination if isinstance(header.destination, tuple) else ("", "")
            self.peer = tidy(header.source)
            self.endpoint = self.endpoint._replace(host=host, port=str(port))
        self.done(now).deadline = self.deadline


def write_note(peer: object, endpoint: Endpoint) -> bytes:
    """Pack what the PROXY header has said about a connection, for the worker that takes it over."""
    return json.dumps([peer, endpoint.host, endpoint.port]).encode()


def read_note(note: bytes, endpoint: Endpoint) -> tuple[object, Endpoint]:
    """Unpack the peer and the endpoint of a connection of another worker."""
    peer, host, port = json.loads(note)
    return tidy(tuple(peer) if isinstance(peer, list) else peer), endpoint._replace(host=host, port=port)


_REFUSED: Final = (
    "a connection of %s began with a PROXY header and was refused; if that is your proxy: --proxy-protocol on",
    "a connection of %s began with TLS and was refused by a plain listener; write http:// there, or set --certfile",
    "a connection of %s began with HTTP/2 and was refused; have your proxy speak HTTP/1.1 to this server",
    "a connection of %s spoke uWSGI's protocol and was refused; in nginx, write proxy_pass http://... for uwsgi_pass",
    "a connection of %s spoke FastCGI and was refused; in nginx, write proxy_pass http://... for fastcgi_pass",
    "a connection of %s spoke SCGI and was refused; in nginx, write proxy_pass http://... for scgi_pass",
)
_SPOKEN: Final = re.compile(
    rb"(?s:(PROXY |" + re.escape(SIGNATURE) + rb")|(\x16\x03)|(PRI \* HTTP/2)|"
    rb"(\0.{,4096}?REQUEST_METHOD)|(\x01\x01\0.\0)|([0-9]+:CONTENT_LENGTH\0))"
)
"""The beginnings of other protocols, one group each, in the order of their hints."""


def hint_at_protocol(service: Service, peer: object, data: bytes) -> None:
    """Log a hint if a client was refused that began with ``data``, which belongs to another protocol."""
    if (found := _SPOKEN.match(data)) and found.lastindex:
        service.hint(_REFUSED[found.lastindex - 1], name_of(peer))
