"""The server loop: it holds every connection that waits.

A connection that waits (for bytes, for its client, for time or for a free runner) costs no thread and no greenlet: it
lies in the loop's :class:`~zibai.engine.table.Table`. A backend turns the loop. One turn asks the poller, lets each
connection with an event take its step, accepts clients, and closes connections that are over. A connection with a
complete request is queued for ``take``.

Everything belongs to the loop's owner (see ``backends``). Any thread may call ``give_back`` and ``lend``, which put a
connection into the :class:`~zibai.engine.inbox.Inbox`, and ``adopt_from``, ``hand_over_to``, ``drain`` and ``quit``,
which tell the owner what to do next (see :class:`~zibai.engine.shutdown.Shutdown`).
"""

import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from math import inf
from typing import Any

from ..net.kernel import HALF_CLOSE
from ..net.listener import Listener, Socket
from ..net.poller import READ
from .admission import Admission
from .backends import Backend, RunnersSide
from .connection import Connection
from .context import Service
from .health import SOON, Health
from .inbox import Inbox
from .load import MAX_EVENTS, TURN
from .shutdown import Shutdown
from .states import APP, HEAD, READY, TASK
from .table import IDLE_GRACE, Table


class Loop:
    """The connections of one server. ``slots`` is how many requests may run at once. After ``max_requests`` requests,
    if that is given, ``on_max_requests`` is called, which may reset ``requests_left``. ``failure`` is the error that
    has ended the loop.
    """

    def __init__(
        self,
        service: Service,
        backend: Backend,
        listeners: list[Listener],
        health: Health,
        slots: int,
        max_requests: int | None = None,
        on_max_requests: Callable[[], object] | None = None,
    ) -> None:
        self.service = service
        self.poller = backend.poller
        self.finished = False
        self.failure: Exception | None = None
        self.on_failure: Callable[[], object] = lambda: None
        self._backend = backend
        self.health = health
        self._slots = slots
        service.row.offer(slots)
        self._running = 0  # connections that were given away, but not those that run inline, and no WebSockets
        self._ready: deque[tuple[Connection, float]] = deque()  # each with the time since when it waits
        self._quota = 0  # how many of them may run before the next turn
        self._table = Table(self.poller, service.load, service.row, backend.report, self._ready)
        self._others: dict[int, Callable[[], object]] = {}  # callbacks of other descriptors in the poller
        self.admission = Admission(service, backend, listeners, self._table, slots, self._others)
        self._queue = self.admission.queue
        self._inbox = Inbox(backend.wake)
        self.shutdown = Shutdown(self._table, self.admission, lambda: self._slots - self._running - len(self._ready))
        self._now = 0.0  # the time of the last turn
        self.requests_left = max_requests or 0  # 0 is no limit
        self._on_max_requests = on_max_requests

    def __repr__(self) -> str:
        phase = "finished" if self.finished else "draining" if self._table.draining else "serving"
        return f"<Loop {phase}: {self._table!r}, {self._running} of {self._slots} runners busy>"

    def give_back(self, stream: RunnersSide, since: float | None = None) -> None:
        self._inbox.put(stream.connection, stream.since if since is None else since)

    def lend(self, connection: Connection) -> None:
        self._inbox.put(connection, None)

    def adopt_from(self, channel: Socket) -> None:
        """Take over the connections that come through ``channel``."""
        self.admission.adoption.add(channel)
        self._backend.wake()

    def hand_over_to(self, channel: Socket) -> None:
        """Give idle connections away through ``channel`` instead of closing them; before ``drain``."""
        self.shutdown.replacement = channel

    def drain(self, timeout: float = IDLE_GRACE) -> None:
        """Begin the graceful shutdown: take nothing new, finish all requests. It may take ``timeout`` seconds."""
        self.service.draining = True  # at once: a response that is made now says close
        self.shutdown.timeout, self.shutdown.graceful = timeout, True
        self._backend.wake()

    def quit(self) -> None:
        """Close everything and finish the loop now."""
        self.shutdown.quick = True
        self._slots = 0  # no request begins any more
        self._backend.wake()

    def close_in_child(self) -> None:
        """In a child that the application has forked: close everything, and turn no more.

        Nothing is unregistered or shut down: the poller's object and the connections are the parent's, too.
        """
        self.finished = True
        self.admission.acceptor.close_listeners()
        self.shutdown.close()
        self._table.close_in_child()

    # What a backend drives.

    def watch(self, fd: int, callback: Callable[[], object]) -> None:
        """See :class:`zibai.engine.backends.Turns`."""
        self._others[fd] = callback
        self.poller.register(fd, READ)

    def turn(self, block: bool) -> None:
        """See :class:`zibai.engine.backends.Turns`."""
        try:
            self._turn(block)
        except Exception as error:
            # A bug of the server, and not of one connection. A server whose loop does not turn looks alive and serves
            # nothing. So the loop ends, and serve() raises.
            self.failure = error
            with suppress(Exception):  # only the first error is reported
                self._finish_loop()
            self.on_failure()

    def _turn(self, block: bool) -> None:
        table, inbox = self._table, self._inbox
        if self.shutdown.quick or (table.draining and not table.connections):
            self._finish_loop()
            return
        self._now = now = time.monotonic()
        # Before the poller is asked: otherwise an old event could meet a connection in a later state.
        self.service.load.budget = TURN
        if table.deferred.busy:
            table.resume(now)
        if inbox.items:
            self._empty_inbox(now)
        self.admission.watch(self._running >= self._slots, now)
        waited = len(self._ready)
        inbox.asleep = True
        if self.admission.adoption.coming:
            self.admission.adoption.watch()
        most = MAX_EVENTS if now < table.next_sweep else -1  # bytes that are there come before their deadlines
        events = self.poller.poll(self.timeout() if block else 0, most)
        inbox.asleep = False
        self._now = now = time.monotonic()
        find, ready, rest = table.connections.get, self._ready, []
        for fd, mask in events:
            connection = find(fd)
            if connection is None:
                rest.append(fd)
            # Short cut: most events are requests, and react() would do the same for them. Its call costs 0.2 us,
            # 1 % of a plain request. test_shortcuts.py holds both ways against each other.
            elif mask == READ and connection.state is HEAD:
                try:
                    connection.readable(now)
                    if connection.state is READY:  # type: ignore[comparison-overlap]
                        ready.append((connection, now))
                    else:
                        table.settle(connection, now)
                except Exception as error:
                    table.fault(connection, error)
            else:
                table.react(connection, mask, now)
        if rest:
            self._react_to_others(rest, waited, now)
        self._end_turn(now, len(events), most)
        self._quota = len(ready)
        inbox.asleep = not block  # a backend that does not block in the poller waits elsewhere, and must be woken

    def _end_turn(self, now: float, events: int, most: int) -> None:
        """All ``events`` are handled, of ``most`` that the turn would take: do what is due."""
        table, health, ready = self._table, self.health, self._ready
        if self._inbox.items:
            # In most cases this turn was woken by a runner that has given a connection back. Its slot is free at once.
            self._empty_inbox(now)
        if self.shutdown.graceful and not table.draining:
            self.shutdown.begin(now)
        if now >= table.next_sweep and events != most:
            table.sweep(now)
            if table.draining:
                self.shutdown.hand_over(now)
        if now >= table.parting.due:
            table.parting.look(now)
        if now >= health.due:
            health.look(now, table.connections.values())
        elif events and health.due > now + SOON:
            health.due = now + SOON
        if ready and now - ready[0][1] >= self._queue.patience:
            self._queue.look(now, table, self._slots, self._running >= self._slots)

    def timeout(self) -> float | None:
        """Seconds until something is due; 0 when a turn need not wait, None when nothing is due ever."""
        table, admission = self._table, self.admission
        ending = self.shutdown.quick or (self.shutdown.graceful and not (table.draining and table.connections))
        if ending or self._inbox.items or admission.adoption.coming:
            return 0
        due = min(table.next_sweep, self.health.due, admission.again, table.parting.due)
        if table.deferred.busy:
            due = min(due, (now := time.monotonic()) + table.deferred.wait(now))
        if self._ready:
            if self._running < self._slots:
                return 0
            due = min(due, self._queue.due())
        return None if due == inf else max(0.0, due - time.monotonic())

    def take(self) -> Any:
        """See :class:`zibai.engine.backends.Turns`."""
        while self._quota and self._running < self._slots:
            self._quota -= 1
            connection, since = self._ready.popleft()
            if self._now - since > HALF_CLOSE and self._table.has_given_up(connection):
                self._table.drop(connection)
                continue
            if self._now < self.admission.capacity.until:
                connection.sender.closing = True
            stream = connection.stream
            if stream is None:
                stream = connection.stream = self._backend.make_stream(connection)
            stream.since = since
            connection.state = APP
            return stream
        return None

    def give_away(self, stream: RunnersSide) -> None:
        """See :class:`zibai.engine.backends.Turns`."""
        self._running += 1

    def mend(self) -> None:
        self._table.mend()

    def finish(self, stream: RunnersSide) -> None:
        """See :class:`zibai.engine.backends.Turns`."""
        service, table, connection = self.service, self._table, stream.connection
        service.sent += stream.sent
        if stream.interims:
            service.others[1] += stream.interims
            stream.interims = 0
        if self.requests_left:
            self._use_up()
        # Short cut: the same as the last line, where nothing is left to be sent, read or watched, which is usual. The
        # calls of that line cost 1 us, 6 % of a plain request. test_shortcuts.py holds both ways against each other.
        sender = connection.sender
        if connection.shortcut and connection.watched == READ and not (sender.closing or sender.out or table.draining):
            if connection.memory:
                connection.free_memory()
            connection.request = None
            connection.state = HEAD
            connection.deadline = deadline = self._now + service.limits.keep_alive_timeout
            if deadline < table.next_sweep:  # noqa: PLR1730 -- a call of min() takes three times as long
                table.next_sweep = deadline
            return
        table.step(connection, connection.finish, self._now)

    def _use_up(self) -> None:
        """One request fewer of ``max_requests``."""
        self.requests_left -= 1
        if not self.requests_left and self._on_max_requests is not None:
            self._on_max_requests()

    def _empty_inbox(self, now: float) -> None:
        """Take what runners have handed over: for good, or to have something sent."""
        items = self._inbox.items
        while items:
            connection, since = items[0]  # removed last, so that an error raised from outside does not lose it
            if since is None:
                if connection.state is APP or connection.state is TASK:
                    self._table.settle_lent(connection, now)
            elif connection.state is APP and connection.stream.since == since:
                self._running -= 1
                self.finish(connection.stream)
            items.popleft()

    def _react_to_others(self, fds: list[int], waited: int, now: float) -> None:
        """Handle events of other descriptors than connections. ``waited`` requests were ready before this turn."""
        for fd in fds:
            if fd in self._others:
                self._others[fd]()
        # Accepting comes last, when the slots that this turn has filled are known. Older requests do not count.
        self.admission.accept(fds, lambda: self._slots - self._running - (len(self._ready) - waited), now)

    def _finish_loop(self) -> None:
        self.finished = True
        self._inbox.close()  # first: if the poller has failed, the next lines may raise
        self.service.draining = self._table.draining = True
        self.admission.acceptor.close()
        self.shutdown.close()
        self._table.close()
