"""The backends (threads, greenlets and tasks) drive the loop and run the requests, behind one interface.

A backend drives the server loop (:class:`Turns`): it turns the loop, takes the connections whose requests are ready,
and runs them in a thread, greenlet or task, each by its stream. Nothing in this package knows HTTP. Code that two
backends would share belongs into the loop, the connection or the stream.

 - threads       a leader turns the loop and runs applications itself, until one blocks
 - baton         the state of a runner, and the times in which the leader passes the baton on at once
 - polling       how a thread waits for a socket, and how a poller is woken
 - greenlets     runners that are greenlets, started from gevent's hub
 - greenlet_runners  these greenlets, and which of them may run another request
 - hub_wait      how a greenlet waits for a socket
 - hubpoller     a poller of watchers, where the hub cannot watch the system's
 - blocked       tells when an application blocks the hub or the event loop
 - tasks         coroutines of an event loop, which also turns the server loop
 - own_loop      tasks in an event loop of the server's own
 - guest_loop    tasks in an event loop that runs already
 - turning       when the event loop turns the server loop, and what it does after the steps of tasks
 - task_ends     how tasks are ended
 - task_requests the requests that run as tasks, with their slots and stacks
 - task_stacks   where a task waits
 - eventloop     the event loops that tasks can run in
 - eager         the first step of a coroutine, at once
 - threadpoller  a poller in which a thread waits

The thread that drives the loop (or the hub) *owns* it; there is one owner at a time. Only the owner calls the methods
of :class:`Turns`, except ``give_back`` and the loop's ``lend``, which any thread may call. With threads, a deputy gives
away the connection that a blocked leader runs, under the backend's lock, and owns the loop from then on. A connection
runs *inline* while the loop waits for it. Before another thread or greenlet drives the loop, the owner *gives the
connection away*; the runner *gives it back* when it is done. It stays armed in the poller meanwhile. If an event comes
before its runner is done, the owner disarms it, and nothing else.
"""

from collections.abc import Awaitable, Callable
from types import FrameType
from typing import Any, Protocol

from ...net.poller import Poller
from ...system.stacks import Stack
from ...telemetry.row import Row
from ...telemetry.slot import Running
from ..connection import Connection
from ..context import Readiness


class RunnersSide(Protocol):
    """The part of a stream that the loop uses."""

    connection: Connection
    since: float
    """Since when the request waited for a runner, by the loop's clock. Tells the requests of a connection apart."""
    status: int
    """The status of the last response."""
    sent: int
    """Bytes of the body of the last response."""
    interims: int
    """Interim responses that the loop has not counted yet."""


class Turns(Protocol):
    """The server loop, as a backend sees it."""

    @property
    def finished(self) -> bool:
        """Whether all is over; nothing turns then."""

    def watch(self, fd: int, callback: Callable[[], object]) -> None:
        """Call back from a turn when ``fd`` has something to read; before the loop turns, or as its owner."""

    def turn(self, block: bool) -> None:
        """Handle all events. With ``block``, wait for them first, at most until the next deadline."""

    def timeout(self) -> float | None:
        """Seconds until something is due; 0 when a turn need not wait, None when nothing is due ever.

        A backend that does not block in the poller must ask before it waits: this is the last look into the inbox.
        """

    def take(self) -> Any:
        """The stream of the next connection to run, made by the backend's ``make_stream``. None when no slot is free or
        it is time for a turn.
        """

    def finish(self, stream: RunnersSide) -> None:
        """A connection that ran inline is done."""

    def mend(self) -> None:
        """Settle the connections that an error has left between two states. The error was raised in the owner from
        outside, and the owner still owns the loop.
        """

    def give_away(self, stream: RunnersSide) -> None:
        """A connection that was taken belongs to another runner from now on; it occupies a slot."""

    def give_back(self, stream: RunnersSide, since: float | None = None) -> None:
        """A connection that was given away is done. Any thread.

        A runner that does not know whether it has given a request back gives it back again, with the ``since`` of the
        request. The second call has no effect.
        """


class TaskTurns(Turns, Protocol):
    """The server loop, as tasks see it. They run in the thread that turns it, between two turns."""

    @property
    def is_replaced(self) -> bool:
        """Whether another process serves on after the drain."""

    def suspend(self, stream: RunnersSide) -> None:
        """A connection that was taken belongs to a task from now on; the loop reads on for it. It occupies a slot."""

    def conclude(self, stream: RunnersSide) -> None:
        """The response of a connection that was suspended is complete."""

    def upgrade(self, stream: RunnersSide) -> None:
        """A connection that was suspended speaks another protocol from now on; it occupies no slot any more."""

    def conclude_upgraded(self, stream: RunnersSide) -> None:
        """A connection that was upgraded is over: unsent bytes are sent, then it ends."""

    def settle(self, connection: Connection) -> None:
        """The task has changed the state, pause or deadline of its connection."""


class Blocking:
    """What threads and greenlets have in common: a runner finishes its request, whatever the server wants."""

    _row: Row

    def running(self) -> list[Running]:
        return self._row.running()

    def others(self) -> list[tuple[str, Stack]]:
        return []

    def expel(self, slot: Any) -> bool:
        return False

    def waiting(self) -> list[list[FrameType]]:
        return []

    def wait(self, end: Any) -> None:
        end.wait()

    def ending(self, timeout: float) -> None:
        pass

    def cancel(self) -> None:
        pass


class Backend(Protocol):
    """Runs the requests that the loop has ready, at most ``slots`` at once. Each runner has its own slot of ``row``.

    ``wait``, ``join`` and ``stop`` block. In an event loop that runs already they return an awaitable.
    """

    runners: str
    """The word for its runners in messages."""

    @property
    def readiness(self) -> Readiness: ...

    @property
    def poller(self) -> Poller: ...

    def make_stream(self, connection: Connection) -> RunnersSide:
        """Make the stream by which runners of this backend use a connection. The loop's owner, once for each."""

    def start(self, loop: Turns) -> None:
        """Begin to drive the loop."""

    def wake(self) -> None:
        """Make the loop turn soon: something was handed to it. Any thread."""

    def report(self, log: Callable[..., None], *args: Any) -> None:
        """Call a logging function where it may block. The loop's owner."""

    def wait(self, end: Any) -> Awaitable[None] | None:
        """Wait until the event ``end`` is set, in the thread that serves."""

    def ending(self, timeout: float) -> None:
        """The graceful shutdown has begun, and lasts ``timeout`` seconds."""

    def cancel(self) -> None:
        """The graceful shutdown is over: cancel what can be cancelled."""

    def join(self, timeout: float | None) -> Awaitable[bool] | bool:
        """Wait until the loop has finished; False when ``timeout`` seconds went by."""

    def running(self) -> list[Running]:
        """The requests that run, the longest first. Any thread."""

    def where(self, slot: Any) -> tuple[str, Stack]:
        """The name and the stack of the thread, greenlet or task that runs the request which :meth:`running` gives with
        this ``slot``. Any thread."""

    def others(self) -> list[tuple[str, Stack]]:
        """Names and stacks of the other tasks in the event loop. Any thread."""

    def expel(self, slot: Any) -> bool:
        """End a request whose time is over, soon. False where that is impossible. The loop's owner."""

    def waiting(self) -> list[list[FrameType]]:
        """The stacks of the requests that have no thread at this moment, the outermost frame first. Any thread."""

    def stop(self) -> Awaitable[None] | None:
        """The loop has finished: end every idle runner. The others are left alone."""
