"""The side of a connection that a task of an event loop has: what a runner does with a stream, but it never blocks.

While its task waits, a connection is in the state TASK and the loop reads on: what comes of a body, or of the next
request, goes to the codec, up to ``HIGH`` bytes. So the end of the client is seen at once, which a runner sees only
when it asks.

Everything here is for the thread of the event loop, which also turns the server loop, but never at the same time.
"""

import asyncio
import time
from collections.abc import Callable
from http import HTTPStatus
from math import inf
from typing import TYPE_CHECKING, Final

from ..errors import Gone, Refused
from ..net.kernel import ENDED, RESET, look_for_client
from ..protocol.http1.response import CONTINUE
from ..telemetry.scoreboard import Slot
from .outgoing import File
from .states import HELD, LATER, TASK
from .stream import LOOK

if TYPE_CHECKING:
    from ..protocol.http1 import Request
    from .backends.tasks import Tasks
    from .task_stream import TaskStream

HIGH: Final = 64 * 1024
"""Bytes that may wait in either direction before a task has to wait."""

LOW: Final = 16 * 1024
"""Bytes that may still wait when the task goes on."""


class AsyncStream:
    """What a task does with a connection, for one request. The exchange of a gateway is one of these."""

    # The class has the values that a request begins with: to set them all for each request would cost 4 % of it.
    slot: Slot | None = None
    ending = False  # whether the server ends, and the application has been told
    ended = False  # whether the client has ended its side
    released = False  # whether the response is over, so that the connection is not ours any more
    stepping = True  # whether the first step runs
    suspended = False  # whether the loop has been told that a task has the connection
    _body_waited = 0.0  # seconds that a task has waited for the body
    _waits_since = inf
    _due = inf  # when the next bytes of the body have to be there
    _looking = False  # whether a look at the client is due
    # Futures of those that wait: for bytes, until little is left to be sent, and for the end.
    _more: "list[asyncio.Future[None]] | tuple[()]" = ()
    _drained: "list[asyncio.Future[None]] | tuple[()]" = ()
    _gone: "list[asyncio.Future[None]] | tuple[()]" = ()

    refusal: Refused | None = None  # why the body cannot be read
    continued = True  # whether 100 Continue went out, or is no longer allowed

    def __init__(self, stream: "TaskStream", tasks: "Tasks") -> None:
        self.stream = stream
        self.connection, self.sender = stream.connection, stream.sender
        self.request: Request = self.connection.request  # type: ignore[assignment]
        self._tasks = tasks

    def __repr__(self) -> str:
        return f"<AsyncStream of {self.connection!r}>"

    async def run(self) -> None:
        """Call the application. Raises nothing but KeyboardInterrupt."""
        raise NotImplementedError

    @property
    def is_endless(self) -> bool:
        """Whether the response is one that does not end by itself (an event stream)."""
        return False

    def tell_end(self) -> None:
        """The server ends: from now on the application hears that its client has left."""
        self.ending = True
        self._wake_all()

    def end_step(self) -> None:
        """The first step has ended, and the response is not complete."""

    # What the gateway asks.

    @property
    def broken(self) -> bool:
        """Whether nothing can be sent any more."""
        return self.sender.broken

    @property
    def waiting(self) -> int:
        """Bytes that the client has not taken yet."""
        return len(self.sender.out)

    @property
    def in_body(self) -> bool:
        """Whether more of the body is to come."""
        return self.connection.codec.in_body

    @property
    def closing(self) -> bool:
        """Whether the connection ends after this response."""
        return self.sender.closing or self.stream.service.draining

    def end_after_this(self) -> None:
        """Let the connection end after this response."""
        self.sender.closing = True

    def forbid_continue(self) -> None:
        """The final response begins: no 100 Continue from now on, so that the connection ends (RFC 9110 10.1.1)."""
        if not self.continued:
            self.continued = self.sender.closing = True

    def call_soon(self, callback: Callable[[], object]) -> None:
        """Call back when the step at hand has ended."""
        self._tasks.event_loop.call_soon(callback)

    # Sending.

    def push(self, data: bytes) -> None:
        """Send, or lend to the loop what the client does not take at once. Raises :class:`Gone`."""
        self.stream.send(data)

    def push_file(self, file: File) -> None:
        """Send a file behind all else. The file is ours from now on. Raises :class:`Gone`."""
        self.stream.send_file(file)

    async def drain(self) -> None:
        """Wait until little is left to be sent. Raises :class:`Gone`."""
        sender = self.sender
        while len(sender.out) > LOW and not (sender.broken or self.ending):
            self._drained = self._drained or []
            await self._wait(self._drained)
        if sender.broken:
            raise Gone("the client has left, or takes nothing")

    def cut(self) -> None:
        """End the connection so that the client sees that its response is not whole."""
        self.sender.cut()

    def release(self) -> None:
        """The response is over: the connection goes back to the loop, whatever the application still does."""
        if not self.released:
            self.released = True
            if self._gone or self._more:
                self._wake_all()
            if self.suspended:
                self._tasks.release(self)

    # Receiving.

    async def read(self, limit: int) -> bytes:
        """What has come of the body, at most about ``limit`` bytes; waits for the first. Empty at the end of the body.

        Raises :class:`Gone` when it does not come whole; :attr:`refusal` may say why.
        """
        codec, intake = self.connection.codec, self.connection.intake
        assert intake is not None
        if not self.continued:
            self.continued = True
            self.stream.interims += 1
            self.push(CONTINUE)
        pieces: list[bytes] = []
        size = 0
        while True:
            if self.released:
                raise Gone("the response is over")  # the bytes on the connection are another request's
            if self.refusal is not None:
                raise Gone(f"the request body cannot be read: {self.refusal}")
            try:
                piece = codec.next_body()
                if piece:
                    intake.count(len(piece))
            except Refused as refusal:
                raise self._stop_reading(refusal) from None
            if piece:
                pieces.append(piece)
                size += len(piece)
            if piece == b"" or not codec.in_body or size >= limit or (piece is None and pieces):
                break
            if piece is None:
                if codec.paused:
                    await asyncio.sleep(0)
                else:
                    await self._wait_for_bytes()
        self._read_on()
        return b"".join(pieces)

    def _read_on(self) -> None:
        """What had come is used."""
        connection = self.connection
        if connection.pause is HELD and connection.state is TASK and not self.ended:
            connection.pause = LATER  # TLS may have bytes that no poller knows of
            self._tasks.loop.settle(connection)

    def _stop_reading(self, refusal: Refused) -> Gone:
        self.sender.closing = True
        self.refusal = refusal
        return Gone(f"the request body cannot be read: {refusal}")

    async def _wait_for_bytes(self) -> None:
        connection = self.connection
        if self.ending:
            raise Gone("the server ends")
        if self.sender.broken:
            raise Gone("the client has left")
        if self.ended:
            raise self._stop_reading(Refused(HTTPStatus.BAD_REQUEST, "it ends too early"))
        now = time.monotonic()
        if not self._more:
            assert connection.intake is not None
            self._waits_since = now
            self._due = now + max(0.0, connection.intake.patience(self._body_waited))
            connection.deadline = min(self._due, self._send_due())
            if connection.state is TASK:
                self._tasks.loop.settle(connection)
        self._read_on()
        self._more = self._more or []
        try:
            await self._wait(self._more)
        finally:
            if not self._more and self._waits_since < inf:
                self._body_waited += time.monotonic() - self._waits_since
                self._waits_since = self._due = inf
                if not self.released:
                    connection.deadline = self._send_due()

    async def gone(self) -> None:
        """Wait until the client has left, or the response is over."""
        while not (self.ended or self.ending or self.sender.broken or self.released):
            self._gone = self._gone or []
            await self._wait(self._gone)

    async def _wait(self, waiters: "list[asyncio.Future[None]]") -> None:
        future = self._tasks.event_loop.create_future()
        waiters.append(future)
        try:
            await future
        finally:
            if future in waiters:
                waiters.remove(future)

    # What the loop tells.

    def fed(self) -> None:
        """Bytes have come."""
        _wake(self._more)
        if self.connection.pause is HELD:
            self._look_soon()

    def _look_soon(self) -> None:
        """As long as nothing is read from the client, no event tells of its end."""
        if not self._looking:
            self._looking = True
            self._tasks.event_loop.call_later(LOOK, self._look)

    def _look(self) -> None:
        self._looking = False
        connection = self.connection
        if self.released or self.ended or connection.pause is not HELD:
            return
        found = look_for_client(connection.sock)
        if found == RESET:
            self.sender.closing = self.sender.broken = True
            self.sender.forget()
        if found == RESET or (found == ENDED and not self.in_body):
            self.has_ended()
        else:
            self._look_soon()

    def _send_due(self) -> float:
        """When the client has to have taken something of what waits for it."""
        pace = self.sender.pace
        return inf if pace is None else pace.deadline

    def has_ended(self) -> None:
        """The client has ended its side, or the connection is broken."""
        self.ended = True
        self._wake_all()

    def _wake_all(self) -> None:
        for waiters in (self._more, self._gone, self._drained):
            _wake(waiters)

    def written(self) -> None:
        """The client has taken something, or the connection is broken."""
        if self.sender.broken:
            self.has_ended()
            return
        self.connection.deadline = min(self.connection.deadline, self._due)
        if self._drained and len(self.sender.out) <= LOW:
            _wake(self._drained)

    def expire(self, now: float) -> None:
        """The deadline has passed: of the body, for which a task waits, or of the response."""
        connection = self.connection
        if self._more and now >= self._due:
            self.refusal = Refused(HTTPStatus.REQUEST_TIMEOUT, "it comes too slowly, or not")
            self.sender.closing = True
            self._due = inf
            _wake(self._more)
            connection.deadline = self._send_due()
        elif self.sender.out and self.sender.is_expired(now):
            connection.deadline = inf
            connection.abort()
            self.has_ended()
        else:
            connection.deadline = min(self._send_due(), self._due)


def _wake(waiters: "list[asyncio.Future[None]] | tuple[()]") -> None:
    for future in waiters:
        if not future.done():
            future.set_result(None)
