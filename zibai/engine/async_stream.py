"""The side of a connection that a task of an event loop uses: like a stream for a runner, but nothing in it blocks.

While its task waits, a connection is in the state TASK and the loop reads on, so the server notices at once when the
client leaves. (A runner notices it only when it asks.) An :class:`AsyncStream` has the part that all protocols share:
sending, and the end of the client. Its two kinds, :class:`~zibai.engine.async_request.AsyncRequest` and
:class:`~zibai.engine.message_stream.MessageStream`, receive.

Everything here runs in the thread of the event loop, which also turns the server loop. Methods that a task calls run
between two turns. Methods that the loop calls (``written``, ``expire`` and the like) run within a turn, and never
within a step of the task: so they may have the connection settled, but must not conclude it.
"""

import time
from asyncio import sleep
from collections.abc import Callable
from math import inf
from typing import TYPE_CHECKING, Any, Final

from ..errors import Gone
from ..net.kernel import ENDED, RESET, look_for_client
from ..telemetry.scoreboard import SENDING
from .outgoing import File
from .states import LATER, STOPPED, TASK
from .stream import CLIENT_CHECK_INTERVAL

if TYPE_CHECKING:
    import asyncio

    from .backends.tasks import Tasks
    from .task_stream import TaskStream

HIGH: Final = 64 * 1024
"""Bytes that may wait in either direction before a task has to wait."""

LOW: Final = 16 * 1024
"""Bytes that may still wait when the task goes on."""


MESSAGES: Final = 256
"""Messages of a WebSocket that an application may send without waiting for anything. Then the event loop turns, for the
others: a client that takes all at once never makes the application wait."""


class Waiters:
    """The futures of tasks that wait for something of one client; made when the first task waits.

    Tasks wait until ``bytes`` have come, until there is ``room`` because little is left to be sent, or for the ``end``.
    ``listener`` is the task of the application that waits for the end. ``looking`` says that a look at the client is
    due.
    """

    __slots__ = ("bytes", "end", "listener", "looking", "room")

    def __init__(self) -> None:
        self.bytes: list[asyncio.Future[None]] = []
        self.room: list[asyncio.Future[None]] = []
        self.end: list[asyncio.Future[None]] = []
        self.listener: asyncio.Task[Any] | None = None
        self.looking = False

    def __repr__(self) -> str:
        return f"<Waiters: {len(self.bytes)} for bytes, {len(self.room)} for room, {len(self.end)} for the end>"

    def wake_all(self) -> None:
        """Wake everything that waits, to look what has become of it."""
        for waiters in (self.bytes, self.end, self.room):
            wake(waiters)


class AsyncStream:
    """What a task does with a connection, and what the loop tells it."""

    def __init__(self, stream: "TaskStream", tasks: "Tasks") -> None:
        self.stream = stream
        self.connection = stream.connection
        self._tasks = tasks
        self.ending = False  # whether the server ends, and the application has been told
        self.ended = False  # whether the client has ended its side
        self.released = False  # whether all is over, so that the connection is not ours any more
        self._waiters: Waiters | None = None

    def __repr__(self) -> str:
        return f"<{type(self).__name__} of {self.connection!r}>"

    # What the gateway asks.

    @property
    def broken(self) -> bool:
        """Whether nothing can be sent any more."""
        return self.stream.sender.broken

    @property
    def waiting(self) -> int:
        """Bytes that the client has not taken yet."""
        return len(self.stream.sender.out)

    def call_soon(self, callback: Callable[[], object]) -> None:
        """Call back when the step at hand has ended."""
        self._tasks.after_step(callback)

    def push(self, data: bytes) -> None:
        """Send. Lend to the loop what the client does not take at once. Raises :class:`Gone`."""
        self.stream.send(data)

    def push_file(self, file: File) -> None:
        """Send a file behind all else. The file is ours from now on. Raises :class:`Gone`."""
        self.stream.send_file(file)

    async def drain(self) -> None:
        """Wait until little is left to be sent, and let the event loop turn in any case. Raises :class:`Gone`."""
        if not self.stream.sender.out:
            await sleep(0)
        sender, began = self.stream.sender, time.monotonic()
        while len(sender.out) > LOW and not (sender.broken or self.ending):
            await self._wait(self._make_waiters().room)
        self.stream.note_wait(SENDING, time.monotonic() - began)
        if sender.broken:
            raise Gone("the client has left, or takes nothing")

    def cut(self) -> None:
        """End the connection so that the client sees that the response is incomplete."""
        self.stream.sender.cut()

    async def gone(self) -> None:
        """Wait until the client has left, or all is over."""
        while not (self.ended or self.ending or self.stream.sender.broken or self.released):
            await self._wait(self._make_waiters().end)

    def _make_waiters(self) -> Waiters:
        waiters = self._waiters
        if waiters is None:
            waiters = self._waiters = Waiters()
        return waiters

    async def _wait(self, waiters: "list[asyncio.Future[None]]") -> None:
        future = self._tasks.event_loop.create_future()
        waiters.append(future)
        try:
            await future
        finally:
            if future in waiters:
                waiters.remove(future)

    def _read_on(self) -> None:
        """The bytes at hand are used: read on."""
        connection = self.connection
        if connection.pause is STOPPED and not self.ended:
            connection.pause = LATER  # TLS may have bytes that no poller knows of
            if connection.state is TASK:  # else the loop looks at it when the first step has ended
                self._tasks.loop.settle(connection)

    # What the loop tells.

    @property
    def due(self) -> float:
        """When the loop must call :meth:`expire`; the deadline of unsent bytes may be earlier."""
        raise NotImplementedError

    def feed(self, data: bytes) -> None:
        """Bytes have come."""
        raise NotImplementedError

    def go_on(self) -> None:
        """The pause LATER is over: use the bytes at hand, before more are read."""

    def note_end(self) -> None:
        """The client has ended its side, or the connection is broken."""
        self.ended = True
        self.wake_all()

    def wake_all(self) -> None:
        """Wake everything that waits, to look what has become of it."""
        if self._waiters is not None:
            self._waiters.wake_all()

    def written(self) -> None:
        """The client has taken something, or the connection is broken."""
        sender, waiters = self.stream.sender, self._waiters
        if sender.broken:
            self.note_end()
        elif waiters is not None and waiters.room and len(sender.out) <= LOW:
            wake(waiters.room)

    def expire(self, now: float) -> None:
        """The deadline has passed: :attr:`due`, or that of unsent bytes."""
        connection, sender = self.connection, self.stream.sender
        if sender.out and sender.is_expired(now):
            connection.deadline = inf
            connection.cut_now()
            self.note_end()
        else:
            connection.deadline = min(self._send_due(), self.due)

    def _send_due(self) -> float:
        """By when the client must have taken some of what waits for it."""
        pace = self.stream.sender.pace
        return inf if pace is None else pace.deadline

    def look_soon(self) -> None:
        """Check a little later whether the client has left: while nothing is read from it, no event tells."""
        waiters = self._make_waiters()
        if not waiters.looking:
            waiters.looking = True
            self._tasks.event_loop.call_later(CLIENT_CHECK_INTERVAL, self._look)

    def _look(self) -> None:
        self._make_waiters().looking = False
        connection = self.connection
        if self.released or self.ended or connection.pause is not STOPPED:
            return
        found = look_for_client(connection.sock)
        if found == RESET:
            sender = self.stream.sender
            sender.closing = sender.broken = True
            sender.discard_unsent()
        if found == RESET or (found == ENDED and self.ends_with_client):
            self.note_end()
        else:
            self.look_soon()

    @property
    def ends_with_client(self) -> bool:
        """Whether the end of the client may count at once, although not all that it has sent is read."""
        return False


def wake(waiters: "list[asyncio.Future[None]]") -> bool:
    """Wake all of them. Returns whether there were any that had not been woken before."""
    found = False
    for future in waiters:
        if not future.done():
            future.set_result(None)
            found = True
    return found
