"""Who is at the other end of a connection: what the socket says of it, or a proxy before us that speaks first.

With ``--proxy-protocol`` a header of a trusted peer comes before anything else, and says who its client is. It is read
below TLS, by the loop, under the deadline of a head.
"""

import json
import socket
from typing import Final

from ..config.addresses import plain_host
from ..net.listener import Endpoint, Socket
from ..protocol.proxy_header import SIGNATURE, Malformed, parse
from .context import Service
from .states import CLOSED, HEAD, PROXY
from .stream import Stream

PEEK: Final = 4096
"""Bytes that are looked at for a PROXY header; it mostly has 28, and may have 64 KiB."""


class Peered(Stream):
    """A connection that knows its ``peer``, as the socket gives it or as the PROXY protocol does. The loop's side."""

    __slots__ = ("_header", "endpoint", "note", "peer")

    first = HEAD  # the state that it begins with, but for the PROXY protocol

    def __init__(self, sock: Socket, peer: object, endpoint: Endpoint, service: Service) -> None:
        super().__init__(sock, service)
        self.peer, self.endpoint = _tidy(peer), endpoint
        self.note = b""  # what the PROXY protocol has said, for whoever takes the connection over
        self._header = b""  # the part of a PROXY header that has come

    def expect_proxy_header(self) -> None:
        """Before anything else, whatever comes next: the header of the PROXY protocol, from a trusted peer."""
        self.state = PROXY
        if not self.service.trust.holds(self.peer):
            self.service.hint(
                "--proxy-protocol on takes trusted peers only; one from %s was closed. If that is your proxy: %s",
                self._peer_name,
                self.service.trust.flag_with(self.peer),
            )
            self.state = CLOSED

    def read_proxy_header(self) -> None:
        """The socket has bytes, its end or an error, in the state PROXY.

        The bytes of the header are taken and not one more: what follows may be for TLS, which reads for itself.
        """
        try:
            data = self.receive_raw(PEEK, socket.MSG_PEEK)
        except (BlockingIOError, InterruptedError):
            return
        except OSError:
            data = b""
        try:
            header = parse(self._header + data) if data else None
        except Malformed as error:
            self.service.hint(
                "--proxy-protocol is on, but a connection of %s began with %s and was closed; have your proxy send it "
                "(send-proxy-v2 of haproxy, proxy_protocol on of nginx), or set --proxy-protocol off",
                self._peer_name,
                error,
            )
            data = b""
        if not data:
            self.state = CLOSED
            return
        # While it is not complete all of it belongs to the header, which grows; else it would wake us again at once.
        size = len(data) if header is None else header.size - len(self._header)
        self._header += self.receive_raw(size)
        if header is None:
            return
        self._header = b""
        if header.source is not None:
            host, port = header.destination if isinstance(header.destination, tuple) else ("", "")
            self.peer = _tidy(header.source)
            self.endpoint = self.endpoint._replace(host=host, port=str(port))
        self.note = json.dumps([self.peer, self.endpoint.host, self.endpoint.port]).encode()
        self.state = self.first

    def receive_raw(self, size: int, flags: int = 0) -> bytes:
        """From the socket itself, below TLS."""
        return self.sock.recv(size, flags)

    def recall(self, note: bytes) -> None:
        """What was known of this connection in the process that it comes from."""
        peer, host, port = json.loads(note)
        self.peer = _tidy(tuple(peer) if isinstance(peer, list) else peer)
        self.endpoint = self.endpoint._replace(host=host, port=port)
        self.note = note

    @property
    def _peer_name(self) -> str:
        return self.peer[0] if isinstance(self.peer, tuple) else "a unix socket"

    def _hint_at_proxy_header(self, data: bytes) -> None:
        """Somebody began with ``data``, and was refused."""
        if data.startswith((b"PROXY ", SIGNATURE)):
            self.service.hint(
                "a connection of %s began with a PROXY header and was refused; if that is your proxy: "
                "--proxy-protocol on",
                self._peer_name,
            )


def _tidy(peer: object) -> object:
    """A peer as the rest of the server has it: the address of a TCP client in one form, the name of a unix socket fit
    for a log. It may have been bound to any name, and one that ends a line would forge the next."""
    if isinstance(peer, tuple):
        return (plain_host(peer[0]), *peer[1:]) if ":" in peer[0] else peer
    return ascii(peer) if isinstance(peer, bytes) or (isinstance(peer, str) and not peer.isprintable()) else peer
