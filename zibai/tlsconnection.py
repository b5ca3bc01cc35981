"""One client over TLS: a connection with a handshake before it and an orderly end behind it.

Between the two it is a connection like any other, over a :class:`~zibai.tlssocket.TLSSocket`. In ``HANDSHAKE`` and in
``LINGER`` it is TLS itself that talks; then ``out`` has bytes for the wire, and the connection sends them as they are.

The handshake is a state of the server loop with the deadline of a head, so whoever stalls in it holds nobody. OpenSSL
is asked only when the first byte has come. Who speaks plain HTTP gets an answer in plain HTTP.
"""

import ssl
from http import HTTPStatus
from socket import SHUT_WR

from .connection import LINGER_TIME, Connection
from .errors import Refused
from .http1.response import plain
from .logger import debug_logger, safely
from .service import CLOSED, HANDSHAKE, HEAD, LINGER, RECEIVE, Service
from .sockets import Endpoint, Socket
from .tls import Certificates, facts
from .tlssocket import TLSSocket

NOT_PLAIN = "this port speaks TLS; use https"


class TLSConnection(Connection):
    """See the module. The loop's side; a runner does not know the difference."""

    __slots__ = ("_certificates",)

    sock: TLSSocket
    first = HANDSHAKE

    def __init__(
        self,
        certificates: Certificates,
        service: Service,
        sock: Socket,
        peer: object,
        endpoint: Endpoint,
        now: float,
    ) -> None:
        super().__init__(TLSSocket(sock), peer, endpoint._replace(plain=False), service, now)
        self._certificates = certificates
        self.state = self.first

    @property
    def idle(self) -> bool:
        """A handshake is no more worth waiting for than a head of which nothing has come."""
        return self.state is HANDSHAKE or super().idle

    def secured(self) -> dict[str, str]:
        return facts(self.sock.secured) if self.sock.secured is not None else {}

    def readable(self, now: float) -> None:
        if self.state is not HANDSHAKE and self.state is not LINGER:
            super().readable(now)
            return
        try:
            data = self.sock.receive_raw(RECEIVE)
        except (BlockingIOError, InterruptedError):
            return
        except OSError:
            data = b""
        if not data:
            self.state = CLOSED
        elif self.state is HANDSHAKE:
            self._shake(data, now)

    def receive_raw(self, size: int, flags: int = 0) -> bytes:
        return self.sock.receive_raw(size, flags)

    def _shake(self, data: bytes, now: float) -> None:
        """Take the handshake a step further."""
        sock = self.sock
        if sock.secured is None:
            if data[:1].isalpha():  # the first byte of a handshake is 22
                self.service.answered[4] += 1
                response = plain(HTTPStatus.BAD_REQUEST, NOT_PLAIN)
                safely(self.service.refused, self, Refused(HTTPStatus.BAD_REQUEST, NOT_PLAIN), response)
                self._fail(NOT_PLAIN, response, now)
                return
            sock.begin(self._certificates.context(now))
        try:
            sock.shake(data)
        except ssl.SSLError as error:
            self._fail((error.reason or str(error)).replace("_", " ").lower(), sock.said(), now)
            return
        self.out += sock.said()
        self.writable(now)

    def _fail(self, reason: str, answer: bytes, now: float) -> None:
        self.service.report(debug_logger.debug, "no TLS with %s: %s", self.peer, reason)
        self.out += answer
        self.state = LINGER
        self.deadline = now + LINGER_TIME
        self.writable(now)

    def writable(self, now: float) -> None:
        if self.state is not HANDSHAKE and self.state is not LINGER:
            super().writable(now)
            return
        try:
            while self.out:
                del self.out[: self.sock.send_raw(self.out)]
            if self.state is LINGER:
                self.sock.shutdown(SHUT_WR)
            elif self.sock.is_shaken:
                self._begin(now)
        except (BlockingIOError, InterruptedError):
            pass  # the rest goes when the client has taken some
        except OSError:
            self.out.clear()
            self.state = CLOSED

    def _begin(self, now: float) -> None:
        """The handshake is done, and the client has all of it: now it is a connection like any other."""
        self.state = HEAD
        self.deadline = now + self.service.header_timeout
        if self.sock.has_bytes:
            super().readable(now)

    def _linger(self, now: float) -> None:
        """Say goodbye first. It is seldom that the kernel has no room for it now."""
        self.out += self.sock.say_goodbye()
        if self.out:
            self.state = LINGER
            self.deadline = now + LINGER_TIME
        else:
            super()._linger(now)

    def close(self) -> None:
        if not (self.out or self.broken):  # else the answer is not whole, and must not look like it
            self.sock.say_goodbye()
        super().close()
