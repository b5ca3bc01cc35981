"""The TLS handshake: a stage that waits in the loop before there is a connection.

It has the deadline of a head, so a client that stalls in it holds nothing. OpenSSL is called only when the first byte
has come. A client that speaks plain HTTP gets a response in plain HTTP.

Only TLS itself sends here: ``out`` has bytes of the handshake, and they are sent as they are.
"""

import ssl
from functools import partial
from http import HTTPStatus
from socket import SHUT_WR
from typing import Final

from ..clock import head_end
from ..engine.context import RECEIVE, Service
from ..engine.lingering import LINGER_TIME
from ..engine.preamble import Stage
from ..engine.states import CLOSED, HANDSHAKE, LATER, LINGER
from ..errors import Refused
from ..logger import debug_logger, safely
from ..net.listener import Endpoint, Socket
from ..protocol.http1.response import plain
from .certificates import Certificates
from .connection import TLSConnection
from .sslsocket import TLSSocket

NOT_PLAIN = "this port speaks TLS; use https"

_HANDSHAKE: Final = 512
"""The cost of a step of a handshake, in the measure of :data:`zibai.engine.load.TURN`. The step with the signature
takes half a millisecond or more."""


def _connect(service: Service, sock: Socket, peer: object, endpoint: Endpoint, now: float) -> TLSConnection:
    # Not a method: a stage that refers to itself would stay, with its connection, until the next collection.
    assert isinstance(sock, TLSSocket)
    return TLSConnection(sock, peer, endpoint, service, now)


class Handshake(Stage):
    """See the module. A :class:`~zibai.tls.connection.TLSConnection` follows."""

    __slots__ = ("_certificates",)

    sock: TLSSocket

    def __init__(
        self,
        certificates: Certificates,
        service: Service,
        sock: Socket,
        peer: object,
        endpoint: Endpoint,
        now: float,
    ) -> None:
        then = partial(_connect, service)
        super().__init__(service, then, HANDSHAKE, TLSSocket(sock), peer, endpoint._replace(plain=False), now)
        self._certificates = certificates

    @property
    def idle(self) -> bool:
        """A handshake may be closed for another client, as a connection on which nothing has come."""
        return self.state is HANDSHAKE

    def readable(self, now: float) -> None:
        if self.service.load.budget <= 0 and self.state is not LINGER:
            self.pause = LATER
            return
        data = self.sock.receive_or_end(RECEIVE)
        if data == b"":
            self.state = CLOSED
        elif data is not None and self.state is HANDSHAKE:
            self._shake(data, now)

    def resume(self, now: float) -> None:
        self.pause = 0
        if self.sock.has_bytes and self.state is HANDSHAKE:
            self._shake(b"", now)
        else:
            self.readable(now)

    def receive_raw(self, size: int, flags: int = 0) -> bytes:
        return self.sock.receive_raw(size, flags)

    def _shake(self, data: bytes, now: float) -> None:
        """Take the handshake a step further."""
        sock = self.sock
        self.service.load.budget -= _HANDSHAKE
        if sock.secured is None:
            if data[:1].isalpha():  # the first byte of a handshake is 22
                self.service.others[4] += 1
                response = plain(HTTPStatus.BAD_REQUEST, head_end(), NOT_PLAIN)
                safely(self.service.refused, self, Refused(HTTPStatus.BAD_REQUEST, NOT_PLAIN), response)
                self._fail(NOT_PLAIN, response, now)
                return
            sock.start_handshake(self._certificates.context(now))
        try:
            sock.shake(data)
        except ssl.SSLError as error:
            self._fail((error.reason or str(error)).replace("_", " ").lower(), sock.said(), now)
            return
        if sock.has_bytes and not sock.is_shaken:
            self.pause = LATER
        self.out += sock.said()
        self.writable(now)

    def _fail(self, reason: str, response: bytes, now: float) -> None:
        self.service.report(debug_logger.debug, "no TLS with %s: %s", self.peer, reason)
        self.out += response
        self.state = LINGER
        self.deadline = now + LINGER_TIME
        self.writable(now)

    def writable(self, now: float) -> None:
        try:
            while self.out:
                del self.out[: self.sock.send_raw(self.out)]
            if self.state is LINGER:
                self.sock.shutdown(SHUT_WR)
            elif self.sock.is_shaken:
                self.done(now)
        except (BlockingIOError, InterruptedError):
            pass  # the rest goes when the client has taken some
        except OSError:
            self.out.clear()
            self.state = CLOSED
