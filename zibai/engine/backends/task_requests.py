"""The tasks of requests, the requests that they run at this moment, and the slots of these in the scoreboard.

A worker may run a thousand tasks and has 64 slots of the scoreboard, or fewer. The requests that have run longest have
the slots: a request that ends gives its slot to the oldest request without one. The row says how many have none.

Everything here is for the thread of the event loop; any thread may call :meth:`Requests.running` and
:meth:`Requests.where`.
"""

import asyncio
import sys
from threading import get_ident
from types import FrameType
from typing import Any

from ...clock import clock
from ...system.stacks import Stack
from ...telemetry.row import Row
from ...telemetry.slot import FREE, TEXT, Running, Slot
from ..async_request import AsyncRequest, Suspended
from .task_stacks import frames_of_task


class Requests:
    """``all`` are the exchanges whose task has not ended, the oldest first. A request is *suspended* until its response
    is complete; a task that works on after that is in ``all``, and is no request any more.

    ``idle`` is the slot for the next first step. A slot is known to others by its number, and the request of a task by
    its exchange.
    """

    def __init__(self, event_loop: asyncio.AbstractEventLoop, row: Row) -> None:
        self.idle: Slot = row.slots[0]
        self._free = row.slots[:0:-1]
        self._event_loop = event_loop
        self.thread = get_ident()  # of the event loop
        self._row = row
        self.all: dict[AsyncRequest, None] = {}  # the only reference to a task that waits; the event loop keeps none
        self._without: dict[AsyncRequest, None] = {}  # those that have no slot, the oldest first

    def __repr__(self) -> str:
        return f"<{len(self.all)} requests of tasks, {len(self._without)} without a slot>"

    def tasks(self) -> "list[asyncio.Task[None]]":
        """All tasks that have not ended."""
        return [each.suspended.task for each in self.all.copy() if each.suspended is not None]

    def add(self, exchange: AsyncRequest, task: "asyncio.Task[None]") -> None:
        """The first step of a coroutine is over, and it has not ended."""
        exchange.suspended = Suspended(task)
        self.all[exchange] = None

    def remove(self, exchange: AsyncRequest) -> None:
        """The coroutine of an exchange ends."""
        exchange.suspended = None
        del self.all[exchange]

    def suspend(self, exchange: AsyncRequest) -> None:
        """The first step of a request is over, and its response is not complete."""
        if self._free:
            assert exchange.suspended is not None
            exchange.suspended.slot, self.idle = self.idle, self._free.pop()
        else:
            self.idle.phase(FREE)
            self._without[exchange] = None
            self._row.leave_out(len(self._without))

    def vacate(self, exchange: AsyncRequest) -> None:
        """A request is over: count it, and pass its slot on."""
        stream, suspended = exchange.stream, exchange.suspended
        assert suspended is not None
        slot = suspended.slot
        if slot is None:
            del self._without[exchange]
            self.idle.count(exchange.request.summary, stream.status, stream.started, clock())
        else:
            slot.end(stream.status, stream.started, clock())
            suspended.slot = None
            if not self._without:
                self._free.append(slot)
                return
            oldest = next(iter(self._without))
            del self._without[oldest]
            assert oldest.suspended is not None
            oldest.suspended.slot = slot
            slot.begin(oldest.request.summary, oldest.stream.started)
        self._row.leave_out(len(self._without))

    def tell_end(self, seconds: float) -> None:
        """The graceful shutdown has begun, and lasts so many seconds; at its end every task is cancelled.

        Event streams and WebSockets are told at once, since they would never end; their clients connect again. All
        others are told after three quarters of the time, because frameworks cancel a request whose client has left.
        """
        for exchange, _ in self._suspended():
            if exchange.is_endless:
                exchange.tell_end()
        self._event_loop.call_later(seconds * 0.75, self._tell_all)

    def _tell_all(self) -> None:
        for exchange, _ in self._suspended():
            exchange.tell_end()

    def _suspended(self) -> "list[tuple[AsyncRequest, asyncio.Task[None]]]":
        """The requests that are suspended, each with its task. Any thread."""
        return [(each, state.task) for each in self.all.copy() if (state := each.suspended) and not each.released]

    def running(self) -> list[Running]:
        """All of them, the longest first. A WebSocket is one that does not end by itself."""
        return [
            Running(each, _text(each), each.phase, each.stream.started, each.is_endless or each.upgraded)
            for each, _ in self._suspended()
        ]

    def where(self, exchange: Any) -> tuple[str, Stack]:
        """The name of the task of a request and its stack, the outermost frame first."""
        state = exchange.suspended
        return "a task", None if state is None or exchange.released else self._stack_of(state.task)

    def waiting(self) -> list[list[FrameType]]:
        """The stacks of the requests whose task does not execute at this moment. Any thread."""
        tasks = [task for _, task in self._suspended()]
        return [frames_of_task(task) for task in tasks if not getattr(task.get_coro(), "cr_running", False)]

    def others(self) -> list[tuple[str, Stack]]:
        """All other tasks of the event loop: tasks of the application, and those that work on after their response."""
        ours = {task for _, task in self._suspended()}
        return [
            (f"task {task.get_name()}", self._stack_of(task))
            for task in asyncio.all_tasks(self._event_loop)
            if task not in ours
        ]

    def _stack_of(self, task: "asyncio.Task[Any]") -> Stack:
        if task is asyncio.current_task(self._event_loop):
            return sys._current_frames().get(self.thread)
        return frames_of_task(task)

    def expel(self, exchange: Any) -> bool:
        """The time of a request is over: cancel its task. The gateway responds, if nothing of the response was sent."""
        state = exchange.suspended
        if state is not None and not exchange.released and not state.task.cancelling():
            state.timed_out = True
            state.task.cancel()
        return True


def _text(exchange: AsyncRequest) -> str:
    return exchange.request.summary[:TEXT].decode("ascii", "backslashreplace")
