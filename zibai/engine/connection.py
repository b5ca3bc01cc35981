"""One client, from its first byte to its last: the loop's side.

A connection has one owner at a time. It is the *server loop* while the connection waits: for a head, a body, the client
to take a response, or a lingering close. It is a *runner* (a thread or greenlet) while the application runs. The loop's
side (``readable``, ``writable``, ``expire``, ``finish``, ``refuse``) never blocks. It moves ``state`` and ``deadline``,
and the loop watches the socket accordingly. The runner's side, which may block, is :mod:`zibai.engine.stream`. Both
share what the runner has lent to the loop to be sent: :mod:`zibai.engine.sending`.
"""

import io
import socket
from contextlib import suppress
from http import HTTPStatus
from math import ceil, inf
from typing import Final

from ..clock import head_end
from ..errors import Refused
from ..logger import debug_logger, error_logger, safely
from ..net.kernel import unsent
from ..net.listener import Endpoint, Socket
from ..protocol.http1 import Request
from ..protocol.http1.response import CONTINUE, plain
from .body import Receiver
from .context import RECEIVE, Service
from .parting import SMALL
from .preamble import hint_at_proxy_header, name_of, tidy, write_note
from .states import APP, BODY, CLOSED, DISCARD, FLUSH, HEAD, LINGER, PARTED, READY, STARVED
from .stream import BodyReader

LINGER_TIME: Final = 2.0
"""Seconds of a lingering close. Closing a socket with unread input makes the kernel send RST, and the client
loses the response it has not read yet (RFC 9112 9.6)."""

DISCARD_BYTES: Final = 256 * 1024
"""Bytes of an unread body that are worth reading to keep the connection."""

USUAL_HEAD: Final = 8 * 1024
"""Bytes of an incomplete head that are kept, however much all clients together hold."""


class Connection(Receiver):
    """One client. Everything here is the loop owner's."""

    __slots__ = (
        "_begun", "_discarded", "_timed_out", "_unsent", "alone", "endpoint", "facts", "peer", "trusted", "watched",
    )  # fmt: skip

    def __init__(self, sock: Socket, peer: object, endpoint: Endpoint, service: Service, now: float) -> None:
        super().__init__(sock, service)
        self.peer, self.endpoint = tidy(peer), endpoint
        self.deadline = now + service.header_timeout
        self.watched = 0  # what the loop has asked its poller for; the loop's alone
        self.facts: dict[str, str] = {}  # the gateway's, of this connection
        self.trusted: bool | None = None  # the gateway's, too: whether the peer may say who the client is
        self.alone = False  # whether the whole of a request has come in one piece, and nothing else
        self._discarded = 0
        self._begun = False  # whether a head has begun, so that its deadline runs
        self._timed_out = False  # whether it is closed for having been idle too long

    def __repr__(self) -> str:
        return f"<{type(self).__name__} of {self.peer}: {self.state}>"

    @property
    def idle(self) -> bool:
        """Whether it waits for a request of which not a byte has come."""
        return self.state is HEAD and not self._begun

    @property
    def note(self) -> bytes:
        """What a worker that takes the connection over has to know of it."""
        return write_note(self.peer, self.endpoint) if self.service.proxy_protocol else b""

    def secured(self) -> dict[str, str]:
        """What TLS adds to the environ of each of its requests."""
        return {}

    def begin(self, now: float) -> None:
        """It has just taken its place in the loop's table."""

    def readable(self, now: float) -> None:
        """The socket has bytes, its end or an error; read once."""
        try:
            data = self.sock.recv(RECEIVE)
        except (BlockingIOError, InterruptedError):
            return
        except OSError:
            data = b""
        if not data:
            # The end before a whole request, or after the last one: no client is left that waits for a response.
            self.state = CLOSED
        elif self.state is HEAD:
            # What came before was all of it, so nothing waits in the codec, which need not be asked then.
            request = self.service.known(data) if self.alone else None
            if request is not None and request.length == 0:
                # All else is as the request before has left it.
                self.request = request
                self.state = READY
                self.deadline = inf
                return
            load = self.service.load
            whole = self.codec.receive(data, self.service.whole_body if load.memory < load.max_memory else 0)
            if whole is None:
                self._advance(now)
                if self.closing:
                    hint_at_proxy_header(self.service, self.peer, data)
                return
            request, body = whole
            if body:
                self.body = io.BytesIO(body)
                self._hold(len(body))
            else:
                self.body = None
            self.request = request
            self._begun = False
            self._continued = self.alone = True
            self.state = READY
            self.deadline = inf
        elif self.state is not LINGER:
            self.codec.feed(data)
            self._advance(now)
        elif self._timed_out:
            self._timed_out = False
            self.service.hint(
                "a request of %s was lost: it came on a connection that was being closed for being idle. If that is "
                "your proxy, it keeps idle connections for longer than %g s: raise --keep-alive-timeout above its time",
                name_of(self.peer),
                self.service.keep_alive_timeout,
            )

    def resume(self, now: float) -> None:
        """A pause is over: go on without a byte more from the client, and then read."""
        self.pause = 0
        self._advance(now)
        if not self.pause and (self.state is BODY or self.state is DISCARD):
            # Now, since a connection that is there comes first: with many others there may be no budget for it later.
            self.readable(now)

    def _advance(self, now: float) -> None:
        """Go as far as the bytes at hand allow."""
        try:
            if self.state is DISCARD:
                self._discard(now)
            if self.state is HEAD:
                self._take(self.codec.next_request(), now)
            elif self.state is BODY:
                self._read_body(now)
        except Refused as refusal:
            self.refuse(refusal, now)

    def _take(self, request: Request | None, now: float) -> None:
        """A head is complete, or is not yet."""
        self.request = request
        self.alone = False
        self._hold(-self.body_held)
        if request is None:
            self._hold(self.codec.size)
            load = self.service.load
            if self.body_held > USUAL_HEAD and load.memory > load.max_memory:
                wait = ceil(self.service.header_timeout)
                raise Refused(HTTPStatus.SERVICE_UNAVAILABLE, "no memory for so large a head", wait)
            if self.codec.has_bytes and not self._begun:
                # The whole head has this long, from its first byte; not each byte.
                self._begun = True
                self.deadline = now + self.service.header_timeout
            return
        self._begun = False
        self._received = 0
        self._continued = not (request.expects_continue and request.has_body)
        limit = self.service.max_body
        if limit and request.length is not None and request.length > limit:
            raise Refused(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, f"a body of {request.length} bytes")
        if not request.has_body:
            self.body = None
        elif self.service.stream_body:
            self._body_waited = 0.0
            self._reader = BodyReader(self)
            self.body = io.BufferedReader(self._reader, RECEIVE)
        else:
            self.body = io.BytesIO()
            self.state = BODY
            self._body_since = now
            self._starved_since = 0.0
            self.deadline = now + self._patience(0.0)
            if not self._continued:
                self._continued = True
                if not self.codec.has_bytes:  # else it comes without waiting for us
                    self.interims += 1
                    self.out += CONTINUE
                    self.writable(now)
            if self.state is BODY:
                self._read_body(now)
            return
        self._make_ready()

    def _discard(self, now: float) -> None:
        """Read what an application left of its body, within bounds, so that the connection can be kept."""
        try:
            while piece := self._next_piece():
                self._discarded += len(piece)
        except Refused as refusal:
            # The request has its response already. The client would take a second one for that of its next request.
            self._log_refusal(refusal)
            self._linger(now)
            return
        if piece is not None:
            self._recycle(now)
        elif self._discarded > DISCARD_BYTES:
            self._linger(now)

    def refuse(self, refusal: Refused, now: float) -> None:
        """Send the response to a request that no application sees, once, and let the connection end."""
        self._log_refusal(refusal)
        response = plain(refusal.status, head_end(), retry_after=refusal.retry_after)
        if self.state is BODY:
            refusal.waited = now - self._body_since
        safely(self.service.refused, self, refusal, response)
        self.drop_body()  # and not when the client has taken the response
        self.request = None
        self.closing = True
        self.service.answered[refusal.status // 100] += 1
        self.out += response
        self.state = FLUSH
        self.start_clock(now)
        self.writable(now)

    def _log_refusal(self, refusal: Refused) -> None:
        self.service.report(debug_logger.debug, "refused %s: %d, %s", self.peer, refusal.status, ascii(str(refusal)))

    def writable(self, now: float) -> None:
        """The socket takes bytes: send what waits, in any state that has some."""
        with self.lock:
            self._push(now)
            if self.out or self.state is APP:
                return
        if self.state is FLUSH:
            self._flushed(now)
        elif self.broken:
            self.state = CLOSED

    def finish(self, now: float) -> None:
        """The runner is done. Send the rest, then read the next request or close."""
        self.give_back()
        if self.out and not self.broken:
            # No runner touches it now, so no lock is needed.
            self.state = FLUSH
            self.start_clock(now)
        else:
            self._flushed(now)

    def _flushed(self, now: float) -> None:
        """Nothing is left to be sent of the last response."""
        self.lent = False
        self._tell_sent()
        if self.broken:
            self.state = CLOSED
        elif self.closing:
            self._linger(now)
        else:
            self._answered(now)

    def _tell_sent(self) -> None:
        """The last response is out, or what is left of it is lost: log what is to be logged of that."""
        fault, on_sent = self.fault, self.on_sent
        self.fault = self.on_sent = None
        try:
            if fault is not None:
                path = self.request.path if self.request is not None else ""
                self.service.report(error_logger.error, "the response to %s is cut: %s", ascii(path), fault)
            if on_sent is not None:
                on_sent(self)
        except Exception:
            # A log that cannot be written must not end the loop.
            with suppress(Exception):
                error_logger.exception("an exchange cannot be logged")

    def _answered(self, now: float) -> None:
        """The whole response is out and the connection is to be kept."""
        if self.codec.in_body:
            if not self._received and self.request is not None and self.request.length is None:
                self.service.hint(
                    "the application has read nothing of a chunked request body. With --stream-request-body such a "
                    "body has no CONTENT_LENGTH; frameworks that go by it, as Django, Falcon and Bottle do, take it "
                    "for empty: leave the flag out for them"
                )
            self.state = DISCARD
            self._discarded = 0
            self.deadline = now + LINGER_TIME
            self._advance(now)
        else:
            self._recycle(now)

    def _recycle(self, now: float) -> None:
        self.request = None
        self.state = HEAD
        self.deadline = now + self.service.keep_alive_timeout
        if self.codec.has_bytes:
            self._advance(now)

    def _linger(self, now: float) -> None:
        """The last response is out: say so, and give the client the time to read it before the socket is closed.

        The client may still send something, by mistake or because it does not know of the end. If the socket were
        closed then, the client would lose what it has not read yet.
        """
        try:
            self.sock.shutdown(socket.SHUT_WR)
        except OSError:
            self.state = CLOSED
            return
        request = self.request
        if (
            request is not None
            and not request.keep_alive
            and self.sent <= SMALL
            and self.endpoint.plain
            and not (self.codec.in_body or self.codec.has_bytes or self.service.draining)
        ):
            self.state = PARTED
            return
        self.state = LINGER
        self.deadline = now + LINGER_TIME
        self._unsent = inf

    def _linger_on(self, now: float) -> bool:
        """Whether a client still takes a large response that the kernel has; then it gets more time."""
        before, self._unsent = self._unsent, unsent(self.sock)
        if self.service.draining or not 1 < self._unsent < before:  # the end itself counts as one byte
            return False
        self.deadline = now + LINGER_TIME
        return True

    def expire(self, now: float) -> None:
        """The deadline has passed in the state it was set for."""
        if self.pause is STARVED and self.state is BODY:
            wait = ceil(self.service.socket_timeout)
            self.refuse(Refused(HTTPStatus.SERVICE_UNAVAILABLE, "no room for its body", wait), now)
        elif (self.state is HEAD and self._begun) or self.state is BODY:
            refusal = Refused(HTTPStatus.REQUEST_TIMEOUT, f"{self.state} not complete in time")
            refusal.waited = self.service.header_timeout
            self.refuse(refusal, now)
        elif self.state is DISCARD:
            self._linger(now)
        elif self.state is HEAD:
            self._end_idle(now)
        elif self.state is APP:
            with self.lock:
                if not self.out or not self.is_too_slow(now):
                    return
            # What was lent stands still; the runner learns of it at its next send.
            self.deadline = inf
            self.abort()
        elif self.state is FLUSH:
            if self.is_too_slow(now):
                self.service.report(debug_logger.debug, "%s does not take its response, or too slowly", self.peer)
                self.cut()
                self.state = CLOSED
        elif self.state is not LINGER or not self._linger_on(now):
            self.state = CLOSED

    def _end_idle(self, now: float) -> None:
        """It has waited long enough for a request. One that came this very moment is served.

        What comes after our end is lost. But the loop stays to see it: a client that sends it does not know of the end
        yet, so its time for idle connections is longer than ours, and nothing else shows that.
        """
        self.readable(now)
        if self.state is not HEAD or self._begun:
            return
        if self.started and not self.service.draining:
            self.request = None
            self._linger(now)
            self._timed_out = True
        else:
            self.state = CLOSED

    def close(self) -> None:
        """End the connection and release everything.

        Only the loop calls this, once the runner has given the connection back. The shutdown ends the connection for
        the client even if a child process, forked by C code, has a copy of the socket.
        """
        if self.state is FLUSH and self.out:
            self.cut()
        if not self.broken:  # else it may have to be reset, and a shutdown would look like an orderly end
            try:
                self.sock.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass  # the client was faster
        self.release()

    def release(self) -> None:
        """Release everything, and leave the connection to another process that has the socket, too."""
        self.forget()
        self.state = CLOSED
        self._tell_sent()
        self.drop_body()
        self.sock.close()
