"""Tasks: requests run as coroutines of an asyncio event loop, which also turns the server loop.

The event loop watches one descriptor for the server loop: the descriptor of its poller. All connections stay with the
server loop, so everything that it does for threads and greenlets it does here, too. A turn begins at most
``TURN_LIMIT`` requests, or as many as ``TURN_TIME`` seconds allow, and then the event loop does its other work.

The first step of a coroutine runs at once (:mod:`.eager`). Most responses are complete after it, and then the
connection has never left the server loop. Otherwise the request is *suspended* until its response is complete
(:mod:`.task_requests`). If the coroutine works on after that, as a background task, this is not a request any more.

There are two kinds of :class:`Tasks`. The server runs the event loop (:mod:`.own_loop`), or the program that the server
is a part of (:mod:`.guest_loop`). Other threads may call only :meth:`Tasks.wake`. The event loop of Windows can watch
no poller, so a thread waits in the poller there (:mod:`.threadpoller`).
"""

import asyncio
import sys
from collections.abc import Callable
from contextvars import Context
from threading import get_ident
from types import FrameType
from typing import Any, Final

from ...clock import clock
from ...logger import safely
from ...net.listener import Socket
from ...net.poller import make_poller
from ...system.forks import close_in_children, end_child
from ...system.stacks import Stack
from ...telemetry.row import Row
from ...telemetry.slot import SHORTEST, Running
from ..async_request import AsyncRequest
from ..connection import Connection
from ..stream import Stream
from ..task_stream import TaskStream
from . import TaskTurns
from .blocked import Watch
from .eager import Starter, make_starter
from .task_ends import cancel_once
from .task_requests import Requests
from .threadpoller import ThreadPoller
from .turning import Turning

TURN_LIMIT: Final = 64
"""Requests that one turn begins."""

TURN_TIME: Final = 0.005
"""Seconds that one turn lasts, if there is more to do."""


class Readiness:
    """A task never blocks in a wait."""

    def wait_readable(self, sock: Socket, timeout: float) -> bool:
        raise AssertionError("a task must not block")

    wait_writable = wait_readable


class Tasks:
    """Drives the loop from ``event_loop``.

    ``make`` makes the exchange of a stream that has a request. Each request begins with a copy of ``context()``.
    """

    runners = "tasks"

    def __init__(
        self,
        event_loop: asyncio.AbstractEventLoop,
        row: Row,
        make: "Callable[[TaskStream, Tasks], AsyncRequest]",
        context: Callable[[], Context],
    ) -> None:
        self.readiness = Readiness()
        self.event_loop = event_loop
        self._make = make
        self._context_of = context
        # The event loop of Windows can watch no poller.
        self.poller: Any = ThreadPoller(self.wake) if sys.platform == "win32" else make_poller()
        self._requests = requests = Requests(event_loop, row)
        self._turning = Turning(event_loop, self._turn)
        self.after_step = self._turning.after_step
        self._watch = Watch("the event loop", self._ask, lambda: bool(requests.all))
        self._starter: Starter | None = None
        self._finished: asyncio.Future[None] | None = None
        self._stopped = False
        self.is_ending = False  # whether the shutdown has begun, graceful or not
        self.forked = False  # whether this is a child that the application has forked in the thread of the event loop

    # The interface of a backend.

    def make_stream(self, connection: Connection) -> Stream:
        make: Any = self._make
        return TaskStream(connection) if connection.service.application == make else Stream(connection)

    def start(self, loop: TaskTurns) -> None:
        self.loop: TaskTurns = loop
        close_in_children(self)
        self._turning.context = context = self._context_of()  # of the start
        self._starter = starter = make_starter(self.event_loop, context)
        self._start = starter.start
        self._finished = self.event_loop.create_future()
        if not isinstance(self.poller, ThreadPoller):
            self.event_loop.add_reader(self.poller.fileno(), self._turn_now)
        self._watch.start()
        self.wake()

    def _ask(self) -> None:
        """For a sign of life; any thread. Raises ``RuntimeError`` once the event loop is closed."""
        self.event_loop.call_soon_threadsafe(self._watch.live)

    def wake(self) -> None:
        if not self._stopped:
            self._turning.wake()

    def report(self, log: Callable[..., None], *args: Any) -> None:
        safely(log, *args)

    def ending(self, timeout: float) -> None:
        self.is_ending = True
        self._requests.tell_end(timeout)
        self.event_loop.call_later(timeout, self.cancel)

    def cancel(self) -> None:
        """Cancel the tasks that still run: requests, and background tasks that they have started."""
        self.is_ending = True
        cancel_once(self._requests.tasks())

    def running(self) -> list[Running]:
        return self._requests.running()

    def where(self, slot: Any) -> tuple[str, Stack]:
        return self._requests.where(slot)

    def waiting(self) -> list[list[FrameType]]:
        return self._requests.waiting()

    def others(self) -> list[tuple[str, Stack]]:
        return self._requests.others()

    def expel(self, slot: Any) -> bool:
        return self._requests.expel(slot)

    async def has_finished(self, seconds: float | None) -> bool:
        """Wait until the loop and every task have finished; False when so many seconds went by."""
        finished = self._finished
        if finished is None:
            return True
        until = None if seconds is None else self.event_loop.time() + seconds
        while not finished.done() or self._requests.all:
            waiting = {*self._requests.tasks()} if finished.done() else {finished, *self._requests.tasks()}
            left = None if until is None else until - self.event_loop.time()
            if left is not None and left <= 0:
                return False
            await asyncio.wait(waiting, timeout=left, return_when=asyncio.FIRST_COMPLETED)
        return True

    def let_go(self) -> bool:
        """The event loop turns the server loop no more. Returns whether it did so far."""
        if self._stopped:
            return False
        self._stopped = True
        self._watch.stop()
        if not isinstance(self.poller, ThreadPoller):
            self.event_loop.remove_reader(self.poller.fileno())
        self._turning.stop()
        return True

    def close_in_child(self) -> None:
        """In a child that the application has forked: its copy of this event loop would go on serving."""
        self.forked = get_ident() == self._requests.thread
        self._stopped = True
        self._watch.stop()
        self.poller.close()  # nothing is unregistered: the parent has the same epoll object

    # In the event loop.

    def _turn_now(self) -> None:
        if not self._turning.is_due:  # else the server loop would get two turns while all others get one
            self._turn()

    def _turn(self) -> None:
        """One turn of the server loop, and the first steps of its ready requests; never blocks."""
        loop, watch = self.loop, self._watch
        self._turning.is_due = False
        watch.turns += 1
        if watch.asleep:
            watch.ring()
        if loop.finished or self._stopped:
            return
        loop.turn(block=False)
        count, until = 0, 0.0
        while (stream := loop.take()) is not None:
            self._run(stream)
            count += 1
            begun = stream.started
            until = until or begun + TURN_TIME
            if count >= TURN_LIMIT or begun > until:
                self._turning.soon()
                return
        if loop.finished:
            assert self._finished is not None
            if not self._finished.done():
                self._finished.set_result(None)
        else:
            self._turning.within(loop.timeout())

    def _run(self, stream: Stream) -> None:
        """The first step of a request."""
        if not isinstance(stream, TaskStream):  # of a service that runs no tasks: it redirects to https
            stream.exchange(self._requests.idle, clock())
            self.loop.finish(stream)
            return
        now = clock()
        stream.begin(now)
        exchange = stream.running = self._make(stream, self)
        requests = self._requests
        slot = requests.idle
        if stream.queued > SHORTEST:
            slot.waited(stream.queued)
        slot.begin(exchange.request.summary, now)
        try:
            task = self._start(exchange.run())
        except BaseException:  # KeyboardInterrupt, which ends the server; the connection is cut
            stream.running = None
            self.loop.finish(stream)
            raise
        if self.forked:
            end_child()
        if task is not None:
            requests.add(exchange, task)
        if exchange.released:
            slot.end(stream.status, now, clock())
            stream.running = None
            self.loop.finish(stream)
            return
        assert task is not None, "the gateway has not completed a response"
        exchange.end_step()
        requests.suspend(exchange)
        self.loop.suspend(stream)
        if exchange.upgraded:
            self.upgrade(exchange)

    def end(self, exchange: AsyncRequest) -> None:
        """The coroutine of an exchange ends; in its first step it has no task, and need not call this.

        It calls this itself, because a callback of the task would cost 4 % of a request that waits.
        """
        suspended = exchange.suspended
        if suspended is not None:
            self._requests.remove(exchange)
            if isinstance(sys.exception(), KeyboardInterrupt):  # it ends the server, and asyncio need not report it
                suspended.task.add_done_callback(asyncio.Task.exception)

    def release(self, exchange: AsyncRequest) -> None:
        """The response of a suspended request is complete, or its connection is over."""
        if not exchange.upgraded:
            self._requests.vacate(exchange)
        stream = exchange.stream
        stream.running = None
        if exchange.upgraded:
            self.loop.conclude_upgraded(stream)
        else:
            self.loop.conclude(stream)
        self._turning.soon()

    def upgrade(self, exchange: AsyncRequest) -> None:
        """The connection of a request speaks another protocol from now on: the request is over, and holds no slot."""
        if exchange.suspended is not None:  # else it will be after its first step
            self._requests.vacate(exchange)
            self.loop.upgrade(exchange.stream)
