"""One HTTP request of a task: its life, from the first step to the end of the response, and its body.

What comes while the task waits, of the body or of the next request, goes to the codec, up to ``HIGH`` bytes.

Everything here is for the thread of the event loop, which also turns the server loop, but never at the same time.
"""

import asyncio
import time
from http import HTTPStatus
from math import inf
from typing import TYPE_CHECKING

from ..errors import Gone, Refused
from ..protocol.http1.response import CONTINUE
from ..telemetry.slot import READING, Slot
from .async_stream import AsyncStream, wake
from .context import RECEIVE
from .states import HELD, TASK

if TYPE_CHECKING:
    from ..protocol.http1 import Request
    from .backends.tasks import Tasks
    from .task_stream import TaskStream


class AsyncRequest(AsyncStream):
    """The exchange of a gateway is one of these."""

    slot: Slot | None = None
    timed_out = False  # whether its time was over, and its task was cancelled
    stepping = True  # whether the first step runs
    suspended = False  # whether the loop has been told that a task has the connection
    upgraded = False  # whether the connection speaks another protocol, and its exchange holds no slot any more
    _body_waited = 0.0  # seconds that a task has waited for the body
    _waits_since = inf
    _more: "list[asyncio.Future[None]] | tuple[()]" = ()  # of those that wait for bytes

    refusal: Refused | None = None  # why the body cannot be read
    continued = True  # whether 100 Continue went out, or is no longer allowed

    def __init__(self, stream: "TaskStream", tasks: "Tasks") -> None:
        super().__init__(stream, tasks)
        self.request: Request = self.connection.request  # type: ignore[assignment]

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
        self.wake_all()

    def end_step(self) -> None:
        """The first step has ended, and the response is not complete."""

    # What the gateway asks.

    @property
    def phase(self) -> str:
        """What the request waits for, one of :data:`zibai.telemetry.slot.PHASES`."""
        return "send" if self._drained else "body" if self._more else "app"

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

    def release(self) -> None:
        """The response is over: the connection goes back to the loop, whatever the application still does."""
        if not self.released:
            self.released = True
            if self._gone or self._more:
                self.wake_all()
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
            self.due = now + max(0.0, connection.intake.patience(self._body_waited))
            connection.deadline = min(self.due, self._send_due())
            if connection.state is TASK:
                self._tasks.loop.settle(connection)
        self._read_on()
        self._more = self._more or []
        try:
            await self._wait(self._more)
        finally:
            if not self._more and self._waits_since < inf:
                waited = time.monotonic() - self._waits_since
                self._body_waited += waited
                self.stream.note_wait(READING, waited)
                self._waits_since = self.due = inf
                if not self.released:
                    connection.deadline = self._send_due()

    # What the loop tells.

    def feed(self, data: bytes) -> None:
        """Keep what has come, of the body or of the next request, until the task or the next turn uses it."""
        connection = self.connection
        connection.codec.feed(data)
        connection.alone = False
        if connection.codec.size >= RECEIVE:
            connection.pause = HELD
            self.look_soon()
        wake(self._more)

    @property
    def ends_with_client(self) -> bool:
        return not self.in_body

    def wake_all(self) -> None:
        wake(self._more)
        super().wake_all()

    def expire(self, now: float) -> None:
        if self._more and now >= self.due:
            self.refusal = Refused(HTTPStatus.REQUEST_TIMEOUT, "it comes too slowly, or not")
            self.sender.closing = True
            self.due = inf
            wake(self._more)
            self.connection.deadline = self._send_due()
        else:
            super().expire(now)
