"""The side of a connection that a task of an event loop has: what a runner does with a stream, but it never blocks.

While its task waits, a connection is in the state TASK and the loop reads on, so the end of the client is seen at once,
which a runner sees only when it asks. An :class:`AsyncStream` is what all protocols have in common: sending, and the
end of the client. What comes from the client is for its two kinds, :class:`~zibai.engine.async_request.AsyncRequest`
and :class:`~zibai.engine.message_stream.MessageStream`.

Everything here is for the thread of the event loop, which also turns the server loop, but never at the same time.
"""

import time
from collections.abc import Callable
from math import inf
from typing import TYPE_CHECKING, Final

from ..errors import Gone
from ..net.kernel import ENDED, RESET, look_for_client
from ..telemetry.scoreboard import SENDING
from .outgoing import File
from .states import HELD, LATER, TASK
from .stream import LOOK

if TYPE_CHECKING:
    import asyncio

    from .backends.tasks import Tasks
    from .task_stream import TaskStream

HIGH: Final = 64 * 1024
"""Bytes that may wait in either direction before a task has to wait."""

LOW: Final = 16 * 1024
"""Bytes that may still wait when the task goes on."""


class AsyncStream:
    """What a task does with a connection, and what the loop tells it."""

    # The class has the values that each begins with: to set them all for each request would cost 4 % of it.
    ending = False  # whether the server ends, and the application has been told
    ended = False  # whether the client has ended its side
    released = False  # whether all is over, so that the connection is not ours any more
    due = inf  # when the loop has to call :meth:`expire`, whatever waits to be sent
    _looking = False  # whether a look at the client is due
    # Futures of those that wait: until little is left to be sent, and for the end.
    _drained: "list[asyncio.Future[None]] | tuple[()]" = ()
    _gone: "list[asyncio.Future[None]] | tuple[()]" = ()

    def __init__(self, stream: "TaskStream", tasks: "Tasks") -> None:
        self.stream = stream
        self.connection, self.sender = stream.connection, stream.sender
        self._tasks = tasks

    def __repr__(self) -> str:
        return f"<{type(self).__name__} of {self.connection!r}>"

    # What the gateway asks.

    @property
    def broken(self) -> bool:
        """Whether nothing can be sent any more."""
        return self.sender.broken

    @property
    def waiting(self) -> int:
        """Bytes that the client has not taken yet."""
        return len(self.sender.out)

    def call_soon(self, callback: Callable[[], object]) -> None:
        """Call back when the step at hand has ended."""
        self._tasks.event_loop.call_soon(callback)

    def push(self, data: bytes) -> None:
        """Send, or lend to the loop what the client does not take at once. Raises :class:`Gone`."""
        self.stream.send(data)

    def push_file(self, file: File) -> None:
        """Send a file behind all else. The file is ours from now on. Raises :class:`Gone`."""
        self.stream.send_file(file)

    async def drain(self) -> None:
        """Wait until little is left to be sent. Raises :class:`Gone`."""
        sender, began = self.sender, time.monotonic()
        while len(sender.out) > LOW and not (sender.broken or self.ending):
            self._drained = self._drained or []
            await self._wait(self._drained)
        self.stream.note_wait(SENDING, time.monotonic() - began)
        if sender.broken:
            raise Gone("the client has left, or takes nothing")

    def cut(self) -> None:
        """End the connection so that the client sees that what was sent is not whole."""
        self.sender.cut()

    async def gone(self) -> None:
        """Wait until the client has left, or all is over."""
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

    def _read_on(self) -> None:
        """What had come is used."""
        connection = self.connection
        if connection.pause is HELD and not self.ended:
            connection.pause = LATER  # TLS may have bytes that no poller knows of
            if connection.state is TASK:  # else the loop looks at it when the first step has ended
                self._tasks.loop.settle(connection)

    # What the loop tells.

    def feed(self, data: bytes) -> None:
        """Bytes have come."""
        raise NotImplementedError

    def go_on(self) -> None:
        """The pause LATER is over: use what had come, before more is read."""

    def has_ended(self) -> None:
        """The client has ended its side, or the connection is broken."""
        self.ended = True
        self.wake_all()

    def wake_all(self) -> None:
        """Wake everything that waits, to look what has become of it."""
        wake(self._gone)
        wake(self._drained)

    def written(self) -> None:
        """The client has taken something, or the connection is broken."""
        if self.sender.broken:
            self.has_ended()
        elif self._drained and len(self.sender.out) <= LOW:
            wake(self._drained)

    def expire(self, now: float) -> None:
        """The deadline has passed, which is :attr:`due` or that of what waits to be sent."""
        connection = self.connection
        if self.sender.out and self.sender.is_expired(now):
            connection.deadline = inf
            connection.abort()
            self.has_ended()
        else:
            connection.deadline = min(self._send_due(), self.due)

    def _send_due(self) -> float:
        """When the client has to have taken something of what waits for it."""
        pace = self.sender.pace
        return inf if pace is None else pace.deadline

    def look_soon(self) -> None:
        """Nothing is read from the client meanwhile, so no event tells of its end."""
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
        if found == RESET or (found == ENDED and self.ends_with_client):
            self.has_ended()
        else:
            self.look_soon()

    @property
    def ends_with_client(self) -> bool:
        """Whether nothing is lost when the end of the client counts before all that it has sent is read."""
        return False


def wake(waiters: "list[asyncio.Future[None]] | tuple[()]") -> None:
    """Wake all of them."""
    for future in waiters:
        if not future.done():
            future.set_result(None)
