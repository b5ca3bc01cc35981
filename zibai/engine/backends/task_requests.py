"""The requests that tasks run at this moment, and their slots of the scoreboard.

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
    """The suspended requests, the oldest first, each with its task. ``idle`` is the slot for the next first step.

    A slot is known to others by its number, and the request of a task by its exchange.
    """

    def __init__(self, event_loop: asyncio.AbstractEventLoop, row: Row) -> None:
        self.idle: Slot = row.slots[0]
        self._free = row.slots[:0:-1]
        self._event_loop = event_loop
        self.thread = get_ident()  # of the event loop
        self._row = row
        self._tasks: dict[AsyncRequest, asyncio.Task[None]] = {}
        self._without: dict[AsyncRequest, None] = {}  # those that have no slot, the oldest first

    def __repr__(self) -> str:
        return f"<{len(self._tasks)} requests of tasks, {len(self._without)} without a slot>"

    def add(self, exchange: AsyncRequest, task: "asyncio.Task[None]") -> None:
        """The first step of a request is over, and its response is not complete."""
        self._tasks[exchange] = task
        if self._free:
            exchange.suspended, self.idle = Suspended(self.idle), self._free.pop()
        else:
            exchange.suspended = Suspended(None)
            self.idle.phase(FREE)
            self._without[exchange] = None
            self._row.leave_out(len(self._without))

    def remove(self, exchange: AsyncRequest) -> None:
        """The response of a request is complete, or a connection that was upgraded is over."""
        del self._tasks[exchange]
        if not exchange.upgraded:
            self.vacate(exchange)

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
        for exchange in [*self._tasks]:
            if exchange.is_endless:
                exchange.tell_end()
        self._event_loop.call_later(seconds * 0.75, self._tell_all)

    def _tell_all(self) -> None:
        for exchange in [*self._tasks]:
            exchange.tell_end()

    def running(self) -> list[Running]:
        """All of them, the longest first. A WebSocket is one that does not end by itself."""
        return [
            Running(each, _text(each), each.phase, each.stream.started, each.is_endless or each.upgraded)
            for each in self._tasks.copy()
        ]

    def where(self, exchange: Any) -> tuple[str, Stack]:
        """The name of the task of a request and its stack, the outermost frame first."""
        task = self._tasks.get(exchange)
        return "a task", None if task is None else self._stack_of(task)

    def waiting(self) -> list[list[FrameType]]:
        """The stacks of the requests whose task does not execute at this moment. Any thread."""
        tasks = self._tasks.copy().values()
        return [frames_of_task(task) for task in tasks if not getattr(task.get_coro(), "cr_running", False)]

    def others(self) -> list[tuple[str, Stack]]:
        """All other tasks of the event loop: tasks of the application, and those that work on after their response."""
        ours = {*self._tasks.copy().values()}
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
        task = self._tasks.get(exchange)
        if task is not None and not task.cancelling():
            exchange.suspended.timed_out = True
            task.cancel()
        return True


def _text(exchange: AsyncRequest) -> str:
    return exchange.request.summary[:TEXT].decode("ascii", "backslashreplace")
