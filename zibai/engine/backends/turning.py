"""When the event loop next turns the server loop, and what it does after the steps of tasks that are at hand.

A step of a task may leave something behind that must not wait: a connection is free for its next request, or a part of
a response is held. A callback of asyncio costs as much as a tenth of a request, so one does all this for all the steps
before it.

Everything here is for the thread of the event loop; any thread may call :meth:`Turning.wake`.
"""

import asyncio
from collections.abc import Callable
from contextlib import suppress
from contextvars import Context

from ...logger import error_logger, safely


class Turning:
    """Has ``turn`` called by the event loop, in ``context``: not in that of the request that asks for it.

    ``is_due`` says that a callback will call it, and becomes False when a turn begins; at worst two threads set it at
    once, and then one callback finds nothing to do.
    """

    def __init__(self, event_loop: asyncio.AbstractEventLoop, turn: Callable[[], object]) -> None:
        self.context = Context()
        self.is_due = False
        self._event_loop = event_loop
        self._turn = turn
        self._steps: list[Callable[[], object]] = []  # what to call after the steps at hand
        self._timer: asyncio.Handle | None = None
        self._timer_due = 0.0

    def __repr__(self) -> str:
        return f"<Turning: {'due' if self.is_due else 'not due'}, {len(self._steps)} calls after steps>"

    def soon(self) -> None:
        """Turn when the callbacks that are due now have run."""
        if not self.is_due:
            self.is_due = True
            if not self._steps:  # else the callback of these turns, too
                self._event_loop.call_soon(self._turn_if_due, context=self.context)

    def wake(self) -> None:
        """The same, and end the wait of the event loop. Any thread."""
        if not self.is_due:
            self.is_due = True
            with suppress(RuntimeError):  # the event loop is closed
                self._event_loop.call_soon_threadsafe(self._turn_if_due, context=self.context)

    def after_step(self, call: Callable[[], object]) -> None:
        """Call back when the step of a task, or the turn, that runs now has ended."""
        if not self._steps:
            self._event_loop.call_soon(self._end_steps, context=self.context)
        self._steps.append(call)

    def _end_steps(self) -> None:
        calls, self._steps = self._steps, []
        for call in calls:
            try:
                call()
            except Exception:  # a bug of the server, which must not harm the other connections
                safely(error_logger.exception, "the gateway failed")
        self._turn_if_due()

    def _turn_if_due(self) -> None:
        if self.is_due:  # else another callback has turned since
            self._turn()

    def within(self, timeout: float | None) -> None:
        """Turn in ``timeout`` seconds, if given. A timer that fires earlier may stay; it costs one idle turn."""
        if timeout is None:
            return
        if timeout <= 0:
            self.soon()
            return
        now = self._event_loop.time()
        if now < self._timer_due <= now + timeout:
            return
        if self._timer is not None:
            self._timer.cancel()
        # For a short time uvloop returns a handle without when().
        self._timer_due = now + timeout
        self._timer = self._event_loop.call_at(self._timer_due, self._turn_on_time, context=self.context)

    def _turn_on_time(self) -> None:
        """The timer has fired. Event loops round its time, so it may be early; then another timer is needed."""
        self._timer_due = 0.0
        self._turn()

    def stop(self) -> None:
        """Set no more timer: the event loop turns the server loop no more."""
        if self._timer is not None:
            self._timer.cancel()
