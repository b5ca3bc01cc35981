"""One client over TLS: a connection with a handshake before it and an orderly end behind it.

Between the two it is a connection like any other, over a :class:`~zibai.tls.sslsocket.TLSSocket`. In ``HANDSHAKE`` and
in ``LINGER`` it is TLS itself that talks; then ``out`` has bytes for the wire, and the connection sends them as they
are.

The handshake is a state of the server loop with the deadline of a head, so whoever stalls in it holds nobody. OpenSSL
is asked only when the first byte has come. Who speaks plain HTTP gets an answer in plain HTTP.
"""

import ssl
from contextlib import suppress
from http import HTTPStatus
from socket import SHUT_WR
from typing import Final

from ..clock import head_end
from ..engine.connection import LINGER_TIME, Connection
from ..engine.context import RECEIVE, Service
from ..engine.states import BODY, CHOKED, CLOSED, DISCARD, HANDSHAKE, HEAD, LATER, LINGER
from ..errors import Refused
from ..logger import debug_logger, safely
from ..net.listener import Endpoint, Socket
from ..protocol.http1.response import plain
from ..telemetry.scoreboard import READING
from .certificates import Certificates, facts
from .sslsocket import TLSSocket

NOT_PLAIN = "this port speaks TLS; use https"

_USUAL: Final = 4
"""Records of one read that cost nothing of a turn's budget, since that is what everybody sends."""

_HANDSHAKE: Final = 512
"""What a step of a handshake costs: the one with the signature takes half a millisecond and more."""

_READS: Final = frozenset((HEAD, BODY, DISCARD))
"""The states in which a client may choke."""

_RECORD: Final = 8
"""What each further one costs, in the measure of :data:`zibai.engine.load.TURN`: as much as one that asks for new
keys."""


class TLSConnection(Connection):
    """See the module. The loop's side; a runner does not know the difference."""

    __slots__ = ("_certificates", "_deadline_before")

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
        self._deadline_before = 0.0  # what the deadline was before the client choked
        self.state = self.first

    @property
    def idle(self) -> bool:
        """A handshake is no more worth waiting for than a head of which nothing has come."""
        return self.state is HANDSHAKE or super().idle

    def secured(self) -> dict[str, str]:
        return facts(self.sock.secured) if self.sock.secured is not None else {}

    def readable(self, now: float) -> None:
        if self.service.load.budget <= 0 and self.state is not LINGER:
            self.pause = LATER
            return
        if self.state is not HANDSHAKE and self.state is not LINGER:
            super().readable(now)
            self._look_at_socket(now)
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

    def _look_at_socket(self, now: float) -> None:
        """What the last read has cost, and whether there is something that the poller does not know of."""
        sock = self.sock
        if sock.records.taken > _USUAL:
            self.service.load.budget -= (sock.records.taken - _USUAL) * _RECORD
            sock.records.taken = 0
        if sock.choked and self.state in _READS:
            if self.pause is not CHOKED:
                self._deadline_before = self.deadline
                self.deadline = min(self.deadline, now + self.service.socket_timeout)
            self.pause = CHOKED
        elif sock.choked or sock.has_bytes:
            self.alone = False
            self.pause = self.pause or LATER

    def resume(self, now: float) -> None:
        if self.state is HANDSHAKE or self.state is LINGER:
            self.pause = 0
            if self.sock.has_bytes and self.state is HANDSHAKE:
                self._shake(b"", now)
            else:
                self.readable(now)
            return
        super().resume(now)
        if self.state is HEAD and not self.pause:
            self.readable(now)

    def _breathe(self, now: float) -> None:
        """The client takes something again."""
        try:
            self.sock.push_answers()
        except (BlockingIOError, InterruptedError):
            return
        except OSError:
            self.state = CLOSED
            return
        if not self.sock.choked:
            self.pause = LATER
            self.deadline = self._deadline_before

    def expire(self, now: float) -> None:
        if self.pause is CHOKED and self.state in _READS:
            self.service.report(debug_logger.debug, "%s does not take what TLS answers", self.peer)
            self.state = CLOSED
        else:
            super().expire(now)

    def receive_raw(self, size: int, flags: int = 0) -> bytes:
        return self.sock.receive_raw(size, flags)

    def _shake(self, data: bytes, now: float) -> None:
        """Take the handshake a step further."""
        sock = self.sock
        self.service.load.budget -= _HANDSHAKE
        if sock.secured is None:
            if data[:1].isalpha():  # the first byte of a handshake is 22
                self.service.answered[4] += 1
                response = plain(HTTPStatus.BAD_REQUEST, head_end(), NOT_PLAIN)
                safely(self.service.refused, self, Refused(HTTPStatus.BAD_REQUEST, NOT_PLAIN), response)
                self._fail(NOT_PLAIN, response, now)
                return
            sock.begin(self._certificates.context(now))
        try:
            sock.shake(data)
        except ssl.SSLError as error:
            self._fail((error.reason or str(error)).replace("_", " ").lower(), sock.said(), now)
            return
        if sock.has_bytes and not sock.is_shaken:
            self.pause = LATER
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
            if self.pause is CHOKED and self.state in _READS:
                self._breathe(now)
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
            self.readable(now)

    def _linger(self, now: float) -> None:
        """Say goodbye first. It is seldom that the kernel has no room for it now."""
        self.out += self.sock.say_goodbye()
        if self.out:
            self.state = LINGER
            self.deadline = now + LINGER_TIME
        else:
            super()._linger(now)

    # The runner's side.

    def _await_bytes(self, timeout: float) -> bool:
        if self.sock.choked:
            if not self._wait(self.service.waits.wait_writable, READING, timeout):
                return False
            with suppress(OSError):  # to receive will say what is wrong
                self.sock.push_answers()
            return True
        if self.sock.has_bytes:
            # They are here, and yet no plain text. There may be more of that kind, so others run in between.
            self.service.waits.wait_readable(self.sock, 0)
            return True
        return super()._await_bytes(timeout)

    # The loop's side again.

    def close(self) -> None:
        if not (self.out or self.broken):  # else the answer is not whole, and must not look like it
            self.sock.say_goodbye()
        super().close()
