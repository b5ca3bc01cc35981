"""One client, from its first byte to its last: the loop's side.

A connection has one owner at a time. The *server loop* owns it while it waits: for a head, for a body, for the client
to take a response, or in a lingering close. A *runner* (a thread or greenlet) owns it while the application runs, and
uses it by a :class:`~zibai.engine.stream.Stream`. A stream may block and nothing here does, so this module does not
import it. Both sides use the :class:`~zibai.engine.sending.Sender`. Only the loop sets ``watched``, ``deadline`` and
``pause``. A task may set the last two as well, because it runs in the loop's thread.

Two parts have modules of their own: how a request comes in (:mod:`.receiving`), and what happens when a deadline has
passed (:mod:`.expiry`).
"""

import io
import socket
from contextlib import suppress
from math import inf
from typing import Any

from ..clock import head_end
from ..errors import Refused
from ..logger import safely
from ..net.listener import Endpoint, Socket
from ..net.poller import READ
from ..protocol.http1 import Codec, Request
from ..protocol.http1.response import plain
from .body import Intake, log_refusal
from .context import RECEIVE, Service
from .expiry import expire
from .lingering import LINGER_TIME, Lingering
from .parting import may_part
from .pollable import IN_ONE_PIECE, Pollable
from .preamble import hint_at_protocol, write_note
from .receiving import advance
from .sending import Sender
from .states import APP, BODY, CLOSED, DISCARD, FLUSH, HEAD, LINGER, PARTED, READY, TASK


class Connection(Pollable):
    """One client. ``body`` comes with the request: None, a file of all of it, or the :class:`Intake` to read it by.
    ``memory`` is how many bytes are counted for the connection, beside those of its intake.
    """

    __slots__ = ("arrival", "body", "codec", "intake", "lingering", "memory", "request", "sender", "shortcut", "stream")

    def __init__(self, sock: Socket, peer: object, endpoint: Endpoint, service: Service, now: float) -> None:
        Pollable.__init__(self, sock, peer, endpoint, service, HEAD, now)  # super() costs 1 % of a short connection
        limits = service.limits
        self.codec = Codec(limits.max_head, service.lane, limits.max_target, service.base)
        self.sender = Sender(sock, service)
        self.stream: Any = None  # the side of its runners; made for the first request
        self.request: Request | None = None
        self.body: Any = None
        self.intake: Intake | None = None  # while a body is read
        self.memory, self.shortcut = 0, False  # shortcut: the request came in one read and left nothing to do
        self.arrival = IN_ONE_PIECE  # of the request
        self.lingering: Lingering | None = None  # while it ends

    @property
    def idle(self) -> bool:
        return self.state is HEAD and not self.arrival.begun

    @property
    def served(self) -> bool:
        return self.stream is not None

    @property
    def silent(self) -> bool:
        return self.shortcut or self.stream is None  # a body that comes with its head needs no 100 Continue

    @property
    def out(self) -> Any:
        return self.sender.out

    @property
    def note(self) -> bytes:
        return write_note(self.peer, self.endpoint) if self.service.limits.proxy_protocol else b""

    def next_bytes(self) -> int:
        """The event for which a runner that has received nothing must wait: READ or WRITE, or 0 when bytes are
        there."""
        return READ

    def readable(self, now: float) -> None:
        """The socket has bytes, its end or an error; read once."""
        try:
            data: bytes | None = self.sock.recv(RECEIVE)
        except (BlockingIOError, InterruptedError):
            return
        except OSError:
            data = None
        if not data:
            if self.state is TASK:
                self.stream.end(reset=data is None)
            else:  # before a whole request, or after the last one, so no client waits for a response
                self.state = CLOSED
        elif self.state is HEAD:
            # The codec is empty after a request that came in one read, so it need not be asked.
            known = self.service.known  # Python 3.11 searches for a slot that is called at once
            request = known(data) if self.shortcut else None
            if request is not None and request.length == 0:
                # The request before has left all other attributes as this one needs them.
                self.request = request
                self.state = READY
                self.deadline = inf
                return
            load = self.service.load
            whole = self.codec.receive(data, self.service.whole_body if load.memory < load.max_memory else 0)
            if whole is None:
                advance(self, now)
                if self.sender.closing:
                    hint_at_protocol(self.service, self.peer, data)
                return
            request, body = whole
            if body:
                self.body = io.BytesIO(body)
                self.count_memory(len(body))
            self.request = request
            self.arrival = IN_ONE_PIECE
            self.shortcut = True
            self.state = READY
            self.deadline = inf
        elif self.state is TASK:
            self.stream.feed(data)
        elif self.state is not LINGER:
            self.codec.feed(data)
            advance(self, now)
        elif self.lingering is not None:
            self.lingering.hear(self)

    def resume(self, now: float) -> None:
        """A pause is over: go on without a byte more from the client, and then read."""
        self.pause = 0
        advance(self, now)
        if not self.pause and (self.state is BODY or self.state is DISCARD or self.state is TASK):
            self.readable(now)  # now, for with many others there may be no budget for it later

    def count_memory(self, size: int) -> None:
        """Count so many bytes more, or fewer, for this connection and in the sum of all."""
        self.memory += size
        self.service.load.memory += size

    def refuse(self, refusal: Refused, now: float) -> None:
        """Refuse a request that no application sees: send the response once, and let the connection end."""
        log_refusal(self.service, self.peer, refusal)
        response = plain(refusal.status, head_end(), retry_after=refusal.retry_after)
        if self.state is BODY and self.intake is not None:
            refusal.phase, refusal.waited = "body", self.intake.waited(now)
        safely(self.service.refused, self, refusal, response)
        self._drop_body()  # and not when the client has taken the response
        self.request = None
        self.sender.closing = True
        self.service.others[refusal.status // 100] += 1
        self.sender.out += response
        self.state = FLUSH
        self.deadline = self.sender.start_clock(now)
        self.writable(now)

    def writable(self, now: float) -> None:
        """The socket takes bytes: send what waits, in any state that has some."""
        sender = self.sender
        with sender.lock:
            sender.push(now)
            goes_on = bool(sender.out) or self.state is APP or self.state is TASK
            if goes_on:
                self.await_client()
        if goes_on:
            if self.state is TASK:
                self.stream.written()  # without the lock: it may send
            return
        if self.state is FLUSH:
            self._flushed(now)
        elif sender.broken:
            self.state = CLOSED

    def await_client(self) -> None:
        """Set the deadline for unsent bytes, which a runner has lent or the loop could not send at once."""
        pace = self.sender.pace  # once: without the lock, a runner may change it any time
        if self.state is TASK:
            self.deadline = min(self.stream.due, inf if pace is None else pace.deadline)
        elif pace is not None or self.state is APP:
            self.deadline = inf if pace is None else pace.deadline

    def finish(self, now: float) -> None:
        """The runner is done. Send the rest, then read the next request or close."""
        self.free_memory()
        sender = self.sender
        if sender.out and not sender.broken:
            # No runner touches it now, so no lock is needed.
            self.state = FLUSH
            self.deadline = sender.start_clock(now)
        else:
            self._flushed(now)

    def free_memory(self) -> None:
        """Uncount the memory of a request that is over, or will not run."""
        load = self.service.load
        load.memory -= self.memory
        self.memory = 0
        if self.intake is not None:
            self.intake.free_memory()
        load.freed = True

    def _flushed(self, now: float) -> None:
        """Nothing is left to be sent of the last response."""
        sender = self.sender
        sender.lent = False
        sender.tell_sent(self.request)
        if sender.broken:
            self.state = CLOSED
        elif sender.closing:
            self.linger(now)
        else:
            self._response_sent(now)

    def _response_sent(self, now: float) -> None:
        """The whole response is out and the connection is to be kept."""
        if self.codec.in_body:
            assert self.intake is not None
            self.intake.hint_if_unread(self.request)
            self.state = DISCARD
            self.deadline = now + LINGER_TIME
            advance(self, now)
        else:
            self.recycle(now)

    def recycle(self, now: float) -> None:
        self.request = self.intake = None
        self.arrival = IN_ONE_PIECE
        self.state = HEAD
        self.deadline = now + self.service.limits.keep_alive_timeout
        if self.codec.has_bytes:
            advance(self, now)

    def linger(self, now: float, *, timed_out: bool = False) -> None:
        """The last response is out: shut down for sending, and close the connection later. See :mod:`.lingering`."""
        try:
            self.sock.shutdown(socket.SHUT_WR)
        except OSError:
            self.state = CLOSED
            return
        stream = self.stream
        left = self.codec.in_body or self.codec.has_bytes or self.service.draining
        if stream is not None and self.endpoint.plain and not left and may_part(self.request, stream.sent):
            self.state = PARTED
            self.stream = None  # see release()
            return
        self.state = LINGER
        self.deadline = now + LINGER_TIME
        self.lingering = Lingering(timed_out=timed_out)

    def expire(self, now: float) -> None:
        """The deadline has passed in the state it was set for."""
        expire(self, now)

    def cut_now(self) -> None:
        """Cut the connection under a runner; the socket stays open until the loop closes it."""
        # In HTTP/1.0 the end of the connection may mark the end of the body, so an orderly end would hide the cut.
        self.sender.cut_now(orderly=self.request is None or self.request.is_http11)

    def close(self) -> None:
        """End the connection and release everything. Only the loop calls this, when no runner has the connection."""
        if self.state is FLUSH and self.sender.out:
            self.sender.cut()
        if self.sender.broken:
            self.release()  # it may have to be reset, and a shutdown would look like an orderly end
        else:
            super().close()

    def release(self) -> None:
        self.sender.discard_unsent()
        self.sender.tell_sent(self.request)
        self._drop_body()
        self.stream = None  # it refers to us, and a cycle would keep both until a collection
        super().release()

    def _drop_body(self) -> None:
        """Release a body that no application uses, and free its memory."""
        body, self.body = self.body or self.intake, None
        if body is not None:
            with suppress(OSError):  # the disk is full, and a file writes its buffer now; nothing reads it any more
                body.close()
        self.free_memory()
