"""The connections that wait in a loop: what the poller watches for each, and what happens after each of their steps.

A connection changes its own state and deadline, in *steps* that the loop calls. After each step the table *settles* the
connection: it asks the poller for the events of the new state, queues a request that is ready, or closes.

Deadlines are swept, not queued. Each connection carries its own, and the table remembers only that none comes before
``next_sweep``. So a request that comes and goes in time costs an attribute; a sweep over ten thousand connections
costs a millisecond, at most once in ``RESOLUTION``.

Everything here is the loop owner's.
"""

import time
from collections import deque
from collections.abc import Callable
from functools import partial
from math import inf
from typing import Any, Final

from ..logger import debug_logger, logger
from ..net.handover import give
from ..net.kernel import has_given_up
from ..net.listener import Socket
from ..net.poller import READ, WRITE, Poller
from ..telemetry.row import Row
from .connection import Connection
from .deferred import Deferred
from .load import Load
from .parting import Parting
from .pollable import Pollable
from .states import APP, BODY, CLOSED, DISCARD, LATER, PARTED, PASSED, READY, STOPPED, TASK, WATCH

RESOLUTION: Final = 0.1
"""Seconds that a deadline may be late, so that sweeps do not come in a row."""

IDLE_GRACE: Final = 1.0
"""Seconds that an idle connection stays open when the server ends. A request that is on its way gets a response with
``Connection: close``."""


_BUDGETED: Final = frozenset((BODY, DISCARD, TASK))
"""The states in which a read may take long, so nothing is read when the budget of the turn is used up."""


class Table:
    """``connections`` by descriptor. ``ready`` is the loop's queue of requests, each with the time since when it waits.

    ``draining`` is True from the beginning of the graceful shutdown. From then on an idle connection is kept for
    ``IDLE_GRACE``, or until ``idle_until`` (by the loop's clock) where that is later.
    """

    def __init__(
        self,
        poller: Poller,
        load: Load,
        row: Row,
        report: Callable[..., None],
        ready: deque[tuple[Connection, float]],
    ) -> None:
        self.connections: dict[int, Any] = {}  # a Connection each, or a Stage before it
        self.next_sweep = inf
        self.deferred = Deferred(load)
        self.parting = Parting()
        self.draining = False
        self.idle_until = -inf
        self._poller = poller
        self._load = load
        self._row = row
        self._report = report
        self.ready = ready

    def __repr__(self) -> str:
        return f"<{len(self.connections)} connections, {len(self.ready)} of them ready>"

    def add(self, connection: Pollable, now: float) -> None:
        """Take a new connection."""
        self.connections[connection.fd] = connection
        self._load.connections += 1
        self._row.connections = len(self.connections)
        self.step(connection, connection.begin, now)

    def adopt(self, connection: Connection, now: float) -> None:
        """Take a connection of another worker, which is idle."""
        connection.deadline = now + connection.service.limits.keep_alive_timeout
        self.add(connection, now)

    def has_given_up(self, connection: Pollable) -> bool:
        """Whether the client has left while its request waited, here or in the backlog."""
        left = has_given_up(connection.sock, silent=connection.silent)
        if left:
            self._report(debug_logger.debug, "%s has left while its request waited", connection.peer)
        return left

    def react(self, connection: Pollable, events: int, now: float) -> None:
        """The socket of a connection did something. Events beside READ and WRITE are errors, which both find."""
        if connection.state is READY:
            # A rare event: bytes beyond the request, the end of the client, or room for the rest of a 100 Continue.
            # All of them can wait. The connection was armed until now.
            self.watch(connection, 0)
            return
        try:
            if events & ~READ:
                connection.writable(now)
            if events & ~WRITE and WATCH[connection.state] and not connection.pause:
                if self._load.budget <= 0 and connection.state in _BUDGETED:
                    connection.pause = LATER
                else:
                    connection.readable(now)
            self.settle(connection, now)
        except Exception as error:
            self.fault(connection, error)

    def step(self, connection: Pollable, step: Callable[[float], None], now: float) -> None:
        """Let a connection take a step, and settle it."""
        try:
            step(now)
            self.settle(connection, now)
        except Exception as error:
            self.fault(connection, error)

    def resume(self, now: float) -> None:
        """Go on with the connections whose pause is over, as far as the turn has time for them."""
        for each in self.deferred.resumed(now):
            if WATCH[each.state]:  # else its deadline has passed before
                self.step(each, each.resume, now)

    def fault(self, connection: Pollable, error: Exception) -> None:
        """Close a connection after a bug of the server, or when the poller is out of memory. The server goes on."""
        self._report(partial(logger.error, exc_info=error), "closing %s", connection.peer)
        if connection.state is APP or connection.state is TASK:
            self.watch(connection, 0)
            connection.pause = STOPPED  # so that settle() does not watch a task's connection again
            _cut_now(connection)
        elif self.connections.get(connection.fd) is connection:  # else it was gone before the error
            self.drop(connection)

    def settle(self, connection: Pollable, now: float) -> None:
        """Watch a connection for what its state waits for; queue it, or close it."""
        state = connection.state
        if state is READY:
            self.ready.append((connection, now))  # type: ignore[arg-type]  # a stage is never READY
            return
        if state is PARTED:
            self.watch(connection, 0)
            self._take_out(connection)
            self.parting.add(connection.sock, now)
            return
        if state is CLOSED:
            self.drop(connection)
            return
        if state is PASSED:
            self._pass_on(connection, now)
            return
        if self.draining and connection.idle:
            connection.deadline = min(connection.deadline, max(now + IDLE_GRACE, self.idle_until))
        wanted = WATCH[state]
        if connection.pause and wanted:
            wanted = self.deferred.put(connection)
        if connection.out:
            wanted |= WRITE
        if wanted != connection.watched:
            self.watch(connection, wanted)
        self.next_sweep = min(self.next_sweep, connection.deadline)

    def mend(self) -> None:
        """An error raised from outside has left the loop's owner, perhaps between a step and :meth:`settle`.

        A connection that was not settled would stay here for ever: nothing watches it, and the end would wait for it.
        """
        now = time.monotonic()
        queued = {connection for connection, _ in self.ready}
        for connection in list(self.connections.values()):
            if not (connection.state is APP or connection.state is TASK or connection in queued):
                self.step(connection, _stay, now)

    def settle_lent(self, connection: Connection, now: float) -> None:
        """The runner of a connection has lent bytes: from now on its client has a deadline for them."""
        connection.await_client()
        self.settle(connection, now)

    def _pass_on(self, stage: Any, now: float) -> None:
        """A stage before a connection is done: the next stage or the connection replaces it."""
        self.deferred.discard(stage)
        follower = stage.follower
        follower.watched = stage.watched
        self.connections[stage.fd] = follower
        self.step(follower, follower.begin, now)

    def drop(self, connection: Pollable) -> None:
        """Close a connection."""
        self.watch(connection, 0)
        self.deferred.discard(connection)
        self._take_out(connection)
        connection.close()
        self._load.freed = True

    def _take_out(self, connection: Pollable) -> None:
        del self.connections[connection.fd]
        self._load.connections -= 1
        self._row.connections = len(self.connections)

    def watch(self, connection: Pollable, events: int) -> None:
        """Ask the poller for ``events`` of a connection, and for nothing else."""
        watched = connection.watched
        if events == watched:
            return
        if not events:
            try:
                self._poller.unregister(connection.fd)
            except (OSError, KeyError):
                pass  # it was unregistered before, and an error raised from outside then skipped the last line
        elif watched:
            self._poller.modify(connection.fd, events)
        else:
            self._poller.register(connection.fd, events)
        connection.watched = events

    def sweep(self, now: float) -> None:
        """Expire the connections whose deadline has passed."""
        for connection in list(self.connections.values()):
            if connection.deadline <= now:
                self.step(connection, connection.expire, now)
        due = min((connection.deadline for connection in self.connections.values()), default=inf)
        self.next_sweep = max(due, now + RESOLUTION)

    def settle_idle(self, now: float) -> None:
        """The graceful shutdown has begun: bring the deadlines of idle connections forward."""
        for connection in list(self.connections.values()):
            if connection.idle:
                self.settle(connection, now)

    def hand_over(self, channel: Socket, now: float) -> None:
        """Give the idle connections to the replacement. Those that do not go now are tried again at the next sweep."""
        idle = [each for each in self.connections.values() if each.idle and each.endpoint.plain]
        given = give(channel, [each.fd for each in idle], {each.fd: each.note for each in idle if each.note})
        for connection in idle[:given]:
            self.watch(connection, 0)
            self._take_out(connection)
            connection.release()
        if given < len(idle):
            self.next_sweep = min(self.next_sweep, now + RESOLUTION)

    def close(self) -> None:
        """Close every connection. A connection that a runner has is cut, and its runner gives it back."""
        self.parting.close()
        for connection in self.connections.values():
            self.watch(connection, 0)
            self.deferred.discard(connection)
            if connection.state is APP or connection.state is TASK:
                _cut_now(connection)
            else:
                connection.close()
        self.connections.clear()
        self._load.connections = self._row.connections = 0

    def close_in_child(self) -> None:
        """Close the sockets in a forked child. Nothing is unregistered or shut down, since the parent has them, too."""
        self.parting.close()
        for connection in self.connections.values():
            connection.watched = 0
            connection.sock.close()


def _stay(now: float) -> None:
    """The step of a connection that has had its step."""


def _cut_now(connection: Any) -> None:
    """Cut a connection that a runner or a task has, which gives it back."""
    connection.cut_now()
    if connection.state is TASK:
        connection.stream.note_end()
