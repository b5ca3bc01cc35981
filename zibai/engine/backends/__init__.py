"""What drives the loop and runs the requests: the backends, threads, greenlets and tasks, behind one interface.

A backend drives the server loop (:class:`Turns`): it turns it, takes the connections whose requests are ready, and
runs them in a thread or greenlet, each by its stream. Nothing in this package knows HTTP, and what both backends would
share belongs into the loop, the connection or the stream.

 - threads       a leader turns the loop and runs applications itself, until one blocks
 - baton         what the leaders pass on to each other, and when they do so at once
 - polling       how a thread waits for a socket, and how a poller is woken
 - greenlets     runners that are greenlets, started from gevent's hub
 - hub_wait      how a greenlet waits for a socket
 - pending       what an exchange has left behind in the hub
 - hubpoller     a poller of watchers, where the hub cannot watch the system's
 - blocked       tells when an application blocks the hub or the event loop
 - tasks         coroutines of an event loop, which also turns the server loop
 - own_loop      tasks in an event loop of the server's own
 - guest_loop    tasks in an event loop that runs already
 - task_ends     how tasks are ended
 - task_requests the requests that run as tasks, with their slots and stacks
 - task_stacks   where a task waits
 - eventloop     the event loops that tasks can run in
 - eager         the first step of a coroutine, at once
 - threadpoller  a poller in which a thread waits

The thread that drives the loop *owns* it (one at a time), or the hub does. All of :class:`Turns` is the owner's, except
``give_back``, which any thread may call, as the loop's ``lend``. With threads, a deputy gives away what a blocked
leader runs, under the backend's lock, and owns the loop from then on. A connection runs *inline* while the loop waits
for it, still armed in the poller. As soon as another thread or greenlet is to drive the loop meanwhile, the owner
*gives it away*, which disarms it first; the runner then *gives it back* when it is done.
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
    """A connection as its runner has it, and all that the loop asks of it."""

    connection: Connection
    since: float
    """Since when the request waited for a runner, by the loop's clock. Tells the requests of a connection apart."""
    status: int
    """Of the last response."""
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
        """Wait, at most until the next deadline, or only look, and do what came up. Blocks only with ``block``."""

    def timeout(self) -> float | None:
        """Seconds until something is due; 0 when a turn need not wait, None when nothing is due ever.

        A backend that does not block in the poller has to ask before it waits: it is the last look into the inbox.
        """

    def take(self) -> Any:
        """The stream of the next connection to run, as ``make_stream`` of the backend has made it, while there is a
        free slot. None when it is time for a turn.
        """

    def finish(self, stream: RunnersSide) -> None:
        """A connection that ran inline is done."""

    def mend(self) -> None:
        """An error that was raised from outside has left the owner, which owns the loop still: settle what that left
        between two states.
        """

    def give_away(self, stream: RunnersSide) -> None:
        """A connection that was taken belongs to another runner from now on; it occupies a slot."""

    def give_back(self, stream: RunnersSide, since: float | None = None) -> None:
        """A connection that was given away is done. Any thread.

        A runner that does not know whether it has given a request back says it again, with the ``since`` that the
        request had. The second time does not count.
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
        """All is over on such a connection: what waits is sent, then it ends."""

    def settle(self, connection: Connection) -> None:
        """The task has changed what its connection waits for, or until when."""


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
    """Runs what the loop has ready, ``slots`` at once at the most. Each runner has a slot of ``row`` of its own.

    ``wait``, ``join`` and ``stop`` block. In an event loop that runs already they return what has to be awaited.
    """

    runners: str
    """What its runners are called, for people."""

    @property
    def readiness(self) -> Readiness: ...

    @property
    def poller(self) -> Poller: ...

    def make_stream(self, connection: Connection) -> RunnersSide:
        """How the runners of this backend have a connection. The loop's owner, once for each connection."""

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
        """The name of what runs the request that :meth:`running` gives with this ``slot``, and what it executes. Any
        thread."""

    def others(self) -> list[tuple[str, Stack]]:
        """What else the event loop runs: names and stacks of tasks. Any thread."""

    def expel(self, slot: Any) -> bool:
        """End a request whose time is over, soon. False where that is impossible. The loop's owner."""

    def waiting(self) -> list[list[FrameType]]:
        """The stacks of the requests that have no thread at this moment, the outermost frame first. Any thread."""

    def stop(self) -> Awaitable[None] | None:
        """The loop has finished: end every runner that is idle. Those that are not are left to themselves."""
