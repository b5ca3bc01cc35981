"""One client over TLS, after the handshake: a connection with an orderly end.

It is a connection like any other, over a :class:`~zibai.tls.sslsocket.TLSSocket`. In ``LINGER`` only TLS itself sends;
then ``out`` has encrypted bytes, and they are sent as they are.
"""

from collections.abc import Mapping
from socket import SHUT_WR
from typing import Any, Final

from ..engine.connection import Connection
from ..engine.context import RECEIVE, Service
from ..engine.lingering import LINGER_TIME
from ..engine.states import BODY, CHOKED, CLOSED, DISCARD, HEAD, LATER, LINGER, STOPPED, TASK
from ..logger import debug_logger
from ..net.listener import Endpoint
from ..net.poller import READ, WRITE
from .certificates import extension, facts
from .sslsocket import TLSSocket

_USUAL: Final = 4
"""Records of one read that are free of a charge on the turn's budget, since all clients send as many."""

_RECORD: Final = 8
"""The cost of each further record, in the measure of :data:`zibai.engine.load.TURN`: that of a request for new
keys."""

_READS: Final = frozenset((HEAD, BODY, DISCARD))
"""The states in which a client that chokes has a deadline. In TASK there is none: the task has the connection."""


class TLSConnection(Connection):
    """See the module. The loop's side; a runner does not know the difference."""

    __slots__ = ("_deadline_before",)

    sock: TLSSocket

    def __init__(self, sock: TLSSocket, peer: object, endpoint: Endpoint, service: Service, now: float) -> None:
        super().__init__(sock, peer, endpoint, service, now)
        self._deadline_before = 0.0  # what the deadline was before the client choked

    def secured(self) -> dict[str, str]:
        return facts(self.sock.secured) if self.sock.secured is not None else {}

    def describe_tls(self, secured: Mapping[str, str]) -> dict[str, Any] | None:
        return extension(self.sock.secured, secured) if self.sock.secured is not None else None

    def begin(self, now: float) -> None:
        if self.sock.has_bytes:  # they came together with the end of the handshake
            self.readable(now)

    def readable(self, now: float) -> None:
        if self.service.load.budget <= 0 and self.state is not LINGER:
            self.pause = LATER
            return
        if self.state is not LINGER:
            super().readable(now)
            self._look_at_socket(now)
            return
        if self.sock.receive_or_end(RECEIVE) == b"":
            self.state = CLOSED

    def _look_at_socket(self, now: float) -> None:
        """Charge the last read on the budget, and check for bytes that the poller does not know about."""
        sock = self.sock
        if sock.records.taken > _USUAL:
            self.service.load.budget -= (sock.records.taken - _USUAL) * _RECORD
            sock.records.taken = 0
        if sock.choked and self.state in _READS:
            if self.pause is not CHOKED:
                self._deadline_before = self.deadline
                self.deadline = min(self.deadline, now + self.service.limits.socket_timeout)
            self.pause = CHOKED
        elif sock.choked and self.state is TASK and self.pause is not STOPPED:
            self.shortcut = False
            self.pause = CHOKED
        elif sock.choked or sock.has_bytes:
            self.shortcut = False
            self.pause = self.pause or LATER

    def resume(self, now: float) -> None:
        if self.state is LINGER:
            self.pause = 0
            self.readable(now)
            return
        super().resume(now)
        if self.state is HEAD and not self.pause:
            self.readable(now)

    def _breathe(self, now: float) -> None:
        """The client takes something again."""
        try:
            self.sock.push_own_responses()
        except (BlockingIOError, InterruptedError):
            return
        except OSError:
            if self.state is TASK:
                self.stream.end(reset=True)
            else:
                self.state = CLOSED
            return
        if not self.sock.choked:
            self.pause = LATER
            if self.state is not TASK:
                self.deadline = self._deadline_before

    def expire(self, now: float) -> None:
        if self.pause is CHOKED and self.state in _READS:
            self.service.report(debug_logger.debug, "%s does not take what TLS sends by itself", self.peer)
            self.state = CLOSED
        else:
            super().expire(now)

    def receive_raw(self, size: int, flags: int = 0) -> bytes:
        return self.sock.receive_raw(size, flags)

    def writable(self, now: float) -> None:
        if self.state is not LINGER:
            super().writable(now)
            if self.pause is CHOKED and (self.state in _READS or self.state is TASK):
                self._breathe(now)
            return
        try:
            while out := self.sender.out:
                del out[: self.sock.send_raw(out)]
            self.sock.shutdown(SHUT_WR)
        except (BlockingIOError, InterruptedError):
            pass  # the rest goes when the client has taken some
        except OSError:
            self.sender.out.clear()
            self.state = CLOSED

    def linger(self, now: float, *, timed_out: bool = False) -> None:
        """End TLS first, by its close_notify. The kernel nearly always has room for it."""
        self.sender.out += self.sock.say_goodbye()
        if self.sender.out:
            self.state = LINGER
            self.deadline = now + LINGER_TIME
        else:
            super().linger(now, timed_out=timed_out)

    def close(self) -> None:
        if not (self.sender.out or self.sender.broken):  # else the response is incomplete, and must not look complete
            self.sock.say_goodbye()
        super().close()

    def next_bytes(self) -> int:
        if self.sock.choked:
            return WRITE
        return 0 if self.sock.has_bytes else READ  # 0: bytes are here, and not yet decrypted
