"""A WebSocket as its task uses it: messages, and the work of the loop while the task waits or works.

A connection becomes a WebSocket when its handshake is complete. It stays in the state TASK, so the loop reads on, but
it holds no slot, and its bytes go to the codec of WebSocket. Pings are answered even while the application is busy.

While the application does not take the messages of a client, the loop does not read from it until a quarter of them is
left. While a client does not take the pongs, the loop does not read from it either. A client that sends so many frames
that it takes long to read them has to let others go first: the rest is read in later turns of the server loop.
Meanwhile no client is expected to answer a ping.

The connection ends when both sides have sent a close frame, when the client breaks the protocol, or when it is lost.
The application is told of the end once, as soon as it is certain, and after the messages that came before it.

Everything here runs in the thread of the event loop; :mod:`.async_stream` says when.
"""

import time
from collections.abc import Callable
from math import inf
from typing import TYPE_CHECKING, Final

from ..errors import Gone
from ..protocol.websocket.frames import PING
from .async_stream import HIGH, LOW, AsyncStream, wake
from .context import RECEIVE
from .message_limits import LONG_READ, Counts, MessageLimits, Times
from .states import LATER, STOPPED, TASK

if TYPE_CHECKING:
    from ..protocol.websocket.codec import Codec
    from ..protocol.websocket.partial import Message
    from .backends.tasks import Tasks
    from .task_stream import TaskStream

TOGETHER: Final = 32 * 1024
"""Bytes of responses to messages of one read that go out together."""

_USUAL: Final = 64
"""The cost of reading that is free of a charge on the turn's budget, in the measure of :attr:`Codec.spent`."""

ABNORMAL_CLOSURE: Final = (1006, "")
"""Code and reason of a connection that has ended without a close frame (RFC 6455 7.1.5)."""


class MessageStream(AsyncStream):
    """``end`` is the code and the reason of the end, set when nothing more can be sent. ``on_over`` is called, once,
    when the connection must go back to the loop.
    """

    end: tuple[int, str] | None = None
    due = inf
    _pending: "list[bytes] | tuple[()]" = ()  # frames that go out when the step of the application ends
    _choked = False  # whether the client must take something before it is read from again

    def __init__(
        self,
        stream: "TaskStream",
        tasks: "Tasks",
        codec: "Codec",
        limits: MessageLimits,
        on_over: Callable[[], object],
    ) -> None:
        super().__init__(stream, tasks)
        self._codec = codec
        self._limits = limits
        self._on_over = on_over
        now = time.monotonic()
        self.counts = Counts(now)
        self._times = Times(now)

    def begin(self, rest: bytes) -> None:
        """The handshake is complete; ``rest`` has the bytes that came after it."""
        connection = self.connection
        connection.shortcut = False
        if connection.pause is STOPPED:
            connection.pause = LATER  # TLS may have bytes that no poller knows of
        self.feed(rest)
        self._set_due()

    # What the gateway asks.

    async def next(self) -> "Message | None":
        """The next message; waits for it. None at the end."""
        while (message := self.take()) is None and self.end is None:
            if self._pending:
                self.flush()
            await self._wait(self._make_waiters().bytes)
        return message

    def take(self) -> "Message | None":
        """The next message, if it is there."""
        codec = self._codec
        if not codec.messages:
            return None
        message = codec.messages.popleft()
        self.counts.messages_in += 1
        if codec.taken(message):
            # An application that always finds a message would never let the loop turn.
            if self.stream.service.load.budget > 0:
                codec.go_on()
            self._read_to_end()
        return message

    def send(self, message: "Message") -> None:
        """Send a message, or keep it until the step of the application ends. Raises Gone, and errors of ``encode``."""
        codec = self._codec
        if self.end is not None:
            raise Gone("the WebSocket is closed")
        pieces = codec.encode(message)
        self.counts.messages_out += 1
        if (codec.messages or self._pending) and len(pieces) == 1:
            self._queue(pieces[0])
            return
        if self._pending:
            self.flush()
        for piece in pieces:
            self._send(piece)
        if self.stream.sender.broken:
            raise Gone("the client has left")

    def close(self, code: int, reason: str = "") -> None:
        """Send a close frame, unless the end has begun already, and expect the client's."""
        if self.end is not None:
            return
        self.flush()
        codec = self._codec
        codec.end(code, reason)
        self.end = codec.close or (code, reason)
        self.ending = True
        self._times.closes = time.monotonic() + self._limits.close_timeout
        self._read_to_end()
        self.wake_all()
        if not self.released:
            self._set_due()

    def cut_now(self) -> None:
        """End the connection now, without a close frame."""
        if not self.released:
            self.cut()
            self.note_end()

    # Sending.

    def _queue(self, data: bytes) -> None:
        """Keep a frame: the application may respond to more messages in this step."""
        if not self._pending:
            self._pending = []
            self.call_soon(self.flush)
        self._pending.append(data)
        if len(self._pending) * len(data) >= TOGETHER:  # about
            self.flush()

    def flush(self) -> None:
        """Send what is held."""
        pending, self._pending = self._pending, ()
        if pending:
            self._send(pending[0] if len(pending) == 1 else b"".join(pending))

    def _send(self, data: bytes) -> None:
        """Send bytes. If the client has left, the WebSocket ends."""
        try:
            self.stream.send(data)
        except Gone:
            self.note_end()
        else:
            self.counts.bytes_out += len(data)

    # What the loop tells.

    def feed(self, data: bytes) -> None:
        if self.released:
            return
        codec, times = self._codec, self._times
        times.heard = time.monotonic()
        if times.pinged:  # the next ping is due sooner than the deadline of the last one
            times.pinged = False
            self.due = self._next_due()
            self.connection.deadline = min(self.due, self._send_due())
        self.counts.bytes_in += len(data)
        codec.feed(data)
        if len(data) >= RECEIVE and codec.long is not None and self.connection.endpoint.plain:
            self._read_long(codec.long.missing)
        awaited = codec.messages and self._waiters is not None and wake(self._waiters.bytes)
        memory = codec.buffered or self.connection.memory
        if codec.spent > _USUAL or codec.replies or codec.full or codec.over or memory:
            self._read_to_end(awaited=bool(awaited))

    def _read_long(self, missing: int) -> None:
        """Read once more, since much of a long message is missing: a turn for each 64 KiB costs a third of it."""
        try:
            data = self.connection.sock.recv(min(LONG_READ, missing))
        except OSError:
            return  # nothing is there, or the next turn finds the end
        self.counts.bytes_in += len(data)
        self._codec.feed(data)

    def go_on(self) -> None:
        codec = self._codec
        if codec.paused and not (self._choked or self.released):
            codec.go_on()
            if codec.messages and self._waiters is not None:
                wake(self._waiters.bytes)
        self._read_to_end()

    def _read_to_end(self, *, awaited: bool = False) -> None:
        """The codec has read as far as it could: send its frames, and decide whether to read on.

        ``awaited`` says that a task takes a message before the next turn. Then it is too early to stop reading because
        of unread messages: for each long message the poller would be told twice, which costs 2 % of an echo of 1 MiB.
        """
        if self.released:
            return  # the connection holds nothing any more, although messages may be there
        codec, connection, load = self._codec, self.connection, self.stream.service.load
        load.budget -= codec.spent
        codec.spent = 0
        buffered, queued = codec.buffered, codec.size if codec.full else 0
        if buffered + queued != connection.memory:
            connection.count_memory(buffered + queued - connection.memory)
            if (buffered > HIGH or queued > 2 * HIGH) and load.memory > load.max_memory:
                codec.shed()
                codec.fail(1013, "the server has no memory for so large a message now")
        if codec.replies:
            self.flush()
            replies = b"".join(codec.replies)
            codec.replies.clear()
            self._send(replies)
            self._choked = self.waiting > HIGH
        if codec.over:
            self._finish(codec.close or ABNORMAL_CLOSURE)
        elif (codec.full and not awaited) or self._choked:
            connection.pause = STOPPED
            self.look_soon()
        elif codec.paused:
            connection.pause = LATER
            if connection.state is TASK:  # else the loop looks at it when the first step has ended
                self._tasks.loop.settle(connection)
        else:
            self._read_on()

    def note_end(self) -> None:
        self.ended = True
        self._finish(ABNORMAL_CLOSURE)

    def _finish(self, end: tuple[int, str]) -> None:
        """Nothing more comes, and nothing more will be sent."""
        if self.released:
            return
        self.released = self.ending = True
        self.end = self.end or end
        self.due = inf
        self._pending = ()  # all frames were sent before
        self.stream.sender.closing = True
        self.wake_all()
        # Later: the loop may be at this very connection.
        self.call_soon(self._on_over)

    def written(self) -> None:
        super().written()
        if self._choked and self.waiting <= LOW and not self.released:
            self._choked = False
            self._read_to_end()

    def expire(self, now: float) -> None:
        if now >= self.due and not (self.stream.sender.out and self.stream.sender.is_expired(now)):
            self._act(now)
        super().expire(now)

    def _act(self, now: float) -> None:
        """A time limit has passed: that of the close handshake, or of the client's silence."""
        times, limits = self._times, self._limits
        if times.closes < inf:
            self.cut_now()
            return
        if self.connection.pause in (STOPPED, LATER):
            times.heard, times.pinged = now, False  # it may have sent something that was not read
        elif times.pinged and now >= times.heard + limits.ping_interval + limits.ping_timeout:
            self._codec.fail(1011, "no response to a ping")
            self._read_to_end()
            return
        elif not times.pinged and now >= times.heard + limits.ping_interval:
            times.pinged = True
            self._send(PING)
        self.due = self._next_due()

    def _next_due(self) -> float:
        times, limits = self._times, self._limits
        if times.closes < inf or self.released:
            return times.closes
        if not limits.ping_interval:
            return inf
        return times.heard + limits.ping_interval + (limits.ping_timeout if times.pinged else 0.0)

    def _set_due(self) -> None:
        connection = self.connection
        self.due = self._next_due()
        connection.deadline = min(self.due, self._send_due())
        if connection.state is TASK:
            self._tasks.loop.settle(connection)
