"""One HTTP request of a task, from the first step to the end of the response, and its body.

Bytes that come while the task waits, of the body or of the next request, go to the codec, up to ``HIGH`` bytes.

Everything here runs in the thread of the event loop; :mod:`.async_stream` says when.
"""

import asyncio
import time
from http import HTTPStatus
from math import inf
from typing import TYPE_CHECKING, Final

from ..errors import Gone, Refused
from ..protocol.http1.response import CONTINUE
from ..telemetry.slot import READING, Slot
from .async_stream import AsyncStream, wake
from .context import RECEIVE
from .states import STOPPED, TASK

if TYPE_CHECKING:
    from ..protocol.http1 import Request


class Suspended:
    """What a request has whose coroutine has not ended in its first step: its ``task``, until the coroutine ends.

    ``slot`` is its slot of the scoreboard, if it has one. ``timed_out`` says that its time is over, and that its task
    was cancelled. ``flush_is_due`` says that ``end_step`` will be called at the end of the step at hand.
    """

    __slots__ = ("flush_is_due", "slot", "task", "timed_out")

    def __init__(self, task: "asyncio.Task[None]") -> None:
        self.task = task
        self.slot: Slot | None = None
        self.timed_out = self.flush_is_due = False

    def __repr__(self) -> str:
        return f"<Suspended: {self.task!r}, {self.slot}{', timed out' if self.timed_out else ''}>"


class Body:
    """How far a task is with the body of its request.

    ``over``: the application has read all of it. ``refusal``: why it cannot be read. ``continued``: 100 Continue went
    out, or is no longer allowed. ``waited``: the seconds that the task has waited for it so far. ``since``: when the
    wait that goes on began. ``due``: when the next bytes must have come. The last two are ``inf`` while no task waits.
    """

    __slots__ = ("continued", "due", "over", "refusal", "since", "waited")

    def __init__(self, *, continued: bool, over: bool = False) -> None:
        self.continued = continued
        self.over = over
        self.refusal: Refused | None = None
        self.waited = 0.0
        self.since = self.due = inf

    def __repr__(self) -> str:
        return f"<Body: {'over' if self.over else self.refusal or 'not over'}>"


NO_BODY: Final = Body(continued=True, over=True)
"""The body of a request that has none. All such requests share it, and nothing changes it."""


class AsyncRequest(AsyncStream):
    """The exchange of a gateway is one of these, and sets all attributes at its beginning.

    None of them has a default in the class: from Python 3.12 on, an attribute that hides one is found in 17 ns and not
    in 3, and a plain request uses them forty times.
    """

    request: "Request"
    suspended: Suspended | None  # None in the first step
    body: Body | None  # None until the application asks for the body

    async def run(self) -> None:
        """Call the application. Raises nothing but KeyboardInterrupt. At its end, it calls ``Tasks.end``."""
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
        """What the request waits for, one of :data:`zibai.telemetry.slot.PHASES`. Any thread."""
        waiters = self._waiters
        if waiters is None:
            return "app"
        return "send" if waiters.room else "body" if waiters.bytes else "app"

    @property
    def upgraded(self) -> bool:
        """Whether the connection speaks another protocol, and its exchange holds no slot any more."""
        return False

    @property
    def timed_out(self) -> bool:
        """Whether the time of the request is over, and its task was cancelled."""
        return self.suspended is not None and self.suspended.timed_out

    @property
    def refusal(self) -> Refused | None:
        """Why the body cannot be read."""
        return None if self.body is None else self.body.refusal

    @property
    def in_body(self) -> bool:
        """Whether more of the body is to come."""
        return self.connection.codec.in_body

    @property
    def closing(self) -> bool:
        """Whether the connection ends after this response."""
        return self.stream.sender.closing or self.stream.service.draining

    def end_after_this(self) -> None:
        """Let the connection end after this response."""
        self.stream.sender.closing = True

    def forbid_continue(self) -> None:
        """The final response begins: no 100 Continue from now on, so that the connection ends (RFC 9110 10.1.1)."""
        if self.body is not None and not self.body.continued:
            self.body.continued = self.stream.sender.closing = True

    def release(self) -> None:
        """The response is over: the connection goes back to the loop, whatever the application still does."""
        if not self.released:
            self.released = True
            self.stream.body = None  # free it now: the application may go on for long in the background
            if self._waiters is not None:
                self.wake_all()
            if self.suspended is not None:  # else the end of the first step does it
                self._tasks.release(self)

    # Receiving.

    async def read(self, limit: int) -> bytes:
        """Read what has come of the body, at most about ``limit`` bytes; wait for the first. Empty at the end.

        Raises :class:`Gone` when the body does not come whole; :attr:`refusal` may say why.
        """
        codec, intake, body = self.connection.codec, self.connection.intake, self.body
        assert intake is not None
        assert body is not None
        if not body.continued:
            body.continued = True
            self.stream.interims += 1
            self.push(CONTINUE)
        pieces: list[bytes] = []
        size = 0
        while True:
            if self.released:
                raise Gone("the response is over")  # the bytes on the connection are another request's
            if body.refusal is not None:
                raise Gone(f"the request body cannot be read: {body.refusal}")
            try:
                piece = codec.next_body()
                if piece:
                    intake.count(len(piece))
            except Refused as refusal:
                raise self._stop_reading(body, refusal) from None
            if piece:
                pieces.append(piece)
                size += len(piece)
            if piece == b"" or not codec.in_body or size >= limit or (piece is None and pieces):
                break
            if piece is None:
                if codec.paused:
                    await asyncio.sleep(0)
                else:
                    await self._wait_for_bytes(body)
        self._read_on()
        return b"".join(pieces)

    def _stop_reading(self, body: Body, refusal: Refused) -> Gone:
        self.stream.sender.closing = True
        body.refusal = refusal
        return Gone(f"the request body cannot be read: {refusal}")

    async def _wait_for_bytes(self, body: Body) -> None:
        connection, waiters = self.connection, self._make_waiters()
        if self.ending:
            raise Gone("the server ends")
        if self.broken:
            raise Gone("the client has left")
        if self.ended:
            raise self._stop_reading(body, Refused(HTTPStatus.BAD_REQUEST, "it ends too early"))
        now = time.monotonic()
        if not waiters.bytes:
            assert connection.intake is not None
            body.since = now
            body.due = now + max(0.0, connection.intake.patience(body.waited))
            connection.deadline = min(body.due, self._send_due())
            if connection.state is TASK:
                self._tasks.loop.settle(connection)
        self._read_on()
        try:
            await self._wait(waiters.bytes)
        finally:
            if not waiters.bytes and body.since < inf:
                waited = time.monotonic() - body.since
                body.waited += waited
                self.stream.note_wait(READING, waited)
                body.since = body.due = inf
                if not self.released:
                    connection.deadline = self._send_due()

    # What the loop tells.

    @property
    def due(self) -> float:
        return inf if self.body is None else self.body.due

    def feed(self, data: bytes) -> None:
        """Keep what has come, of the body or of the next request, until the task or the next turn uses it."""
        connection = self.connection
        connection.codec.feed(data)
        connection.shortcut = False
        if connection.codec.size >= RECEIVE:
            connection.pause = STOPPED
            self.look_soon()
        if self._waiters is not None:
            wake(self._waiters.bytes)

    @property
    def ends_with_client(self) -> bool:
        return not self.in_body

    def expire(self, now: float) -> None:
        waiters, body = self._waiters, self.body
        if waiters is not None and waiters.bytes and body is not None and now >= body.due:
            body.refusal = Refused(HTTPStatus.REQUEST_TIMEOUT, "it comes too slowly, or not")
            self.end_after_this()
            body.due = inf
            wake(waiters.bytes)
            self.connection.deadline = self._send_due()
        else:
            super().expire(now)
