"""Which new clients are let in: when the listeners are watched, and how many clients are accepted at once.

Three objects decide, and the :class:`~zibai.net.acceptor.Acceptor` accepts. :class:`~zibai.engine.capacity.Capacity`
knows how many connections there may be, :class:`~zibai.engine.spread.Spread` how many to take before siblings get some,
and :class:`~zibai.engine.overload.Overload` whether to accept while no runner is free.

Nothing is accepted before :meth:`Admission.start_accepting`. A request may end the process, and before that a worker
must have told its parent that it is ready: a worker that dies earlier counts as one whose application does not start.

Everything here is the loop owner's, but for :meth:`Admission.start_accepting`.
"""

import time
from collections.abc import Callable
from math import inf
from typing import Final

from ..net.acceptor import Acceptor
from ..net.handover import Adoption
from ..net.kernel import seconds_since_data
from ..net.listener import Endpoint, Listener, Socket, endpoint_of
from ..net.poller import READ
from .backends import Backend
from .capacity import Capacity
from .connection import Connection
from .context import Service
from .overload import Overload
from .pollable import Pollable
from .preamble import first_stage, read_note
from .queueing import Queue
from .spread import LEAVE, Spread
from .states import PASSED, READY
from .table import Table

AFTER_FULL: Final = 5.0
"""Seconds after the last time when no runner was free. Until then, an accepted client may have waited in the backlog
and have left, so it is checked first."""


class Admission:
    """``adoption`` has the channels of connections that other workers hand over. ``others`` are the functions that the
    loop calls for descriptors of other kinds. ``queue`` has the requests of those that were let in.
    """

    def __init__(
        self,
        service: Service,
        backend: Backend,
        listeners: list[Listener],
        table: Table,
        slots: int,
        others: dict[int, Callable[[], object]],
    ) -> None:
        self._service = service
        self._table = table
        self._backend = backend
        self._first = first_stage(service, self._connect)  # makes what a client begins with
        self.adoption = Adoption(backend.poller, others, self._adopt)
        self.acceptor = Acceptor(listeners, backend.poller, backend.report, self.accepted)
        self.capacity = Capacity(service, backend.report, getattr(backend.poller, "limit", inf))
        self.spread = Spread(service.row, service.siblings, slots)
        self.overload = Overload(service.row, service.siblings, self.acceptor.is_anyone_waiting)
        self._is_begun = False
        self.queue = Queue(service, table.ready, backend.runners, self.acceptor.waiting)

    def __repr__(self) -> str:
        return f"<Admission: {len(self._table.connections)} of {self.capacity.places} connections>"

    def start_accepting(self) -> None:
        """Accept from now on. Any thread; until then new clients wait in the backlog."""
        self._is_begun = True
        self._backend.wake()

    @property
    def again(self) -> float:
        """When to look again, by the loop's clock."""
        return min(self.acceptor.again, self.capacity.again, self.overload.again)

    def watch(self, full: bool, now: float) -> None:
        """Accept while a runner is free. While all are busy (``full``), leave new clients to siblings, if there are
        any."""
        overload, table = self.overload, self._table
        if full is not overload.full:
            overload.note(full, now)
        is_open = self.capacity.is_open(now, len(table.connections))
        if full or not is_open:
            overload.full_at = now
        wanted = is_open and self._is_begun and not table.draining
        self.acceptor.watch(wanted and (not full or overload.accepts(now)), now)

    def accept(self, fds: list[int], runnable: Callable[[], float], now: float) -> None:
        """Accept from those of ``fds`` that are listeners.

        It accepts no more than could run, since siblings may have free slots, too. It accepts at least one: otherwise
        clients that always have a next request there would keep all others out. ``runnable`` is asked before each
        client, because the client before may have taken a slot.
        """
        table, capacity = self._table, self.capacity
        if not self.acceptor.concerns(fds):
            return
        connections = len(table.connections)
        if connections >= capacity.places:
            capacity.make_room(table, now)
        room = self.spread.room(connections, waited=now - self.acceptor.since < LEAVE)
        if not room:
            self.acceptor.pause(now + LEAVE)
            return
        self.acceptor.accept(fds, now, lambda: min(max(1, runnable()), room, capacity.places - len(table.connections)))
        if self.acceptor.again != inf:
            table.parting.close()  # descriptors are used up

    def accepted(self, sock: Socket, peer: object, endpoint: Endpoint, now: float) -> None:
        """A connection was accepted."""
        self.admit(self._first(sock, peer, endpoint, now), now)

    def admit(self, connection: Pollable, now: float) -> None:
        """Take a client that has just been accepted: its connection, or the first stage before it."""
        self.spread.accepted += 1
        table = self._table
        if now - self.overload.full_at >= AFTER_FULL:
            table.add(connection, now)
        elif table.has_given_up(connection):
            connection.close()
        else:
            table.add(connection, now)
            self._read_at_once(connection, now)

    def _read_at_once(self, connection: Pollable, now: float) -> None:
        """Read from a new client while the kernel knows since when its request is there."""
        table = self._table
        while table.connections.get(connection.fd) is connection:  # else it was closed already
            table.react(connection, READ, now)
            if connection.state is not PASSED:
                break
            connection = connection.follower
        if connection.state is READY:
            self.queue.backdate(now - seconds_since_data(connection.sock))
        self.overload.accepted(connection)

    def _connect(self, sock: Socket, peer: object, endpoint: Endpoint, now: float) -> Connection:
        return Connection(sock, peer, endpoint, self._service, now)

    def _adopt(self, sock: Socket, note: bytes) -> None:
        """Take over a connection of another worker."""
        now = time.monotonic()
        try:
            peer, endpoint = sock.getpeername(), endpoint_of(sock)
        except OSError:
            sock.close()  # its client has left on the way
            return
        if self._service.limits.proxy_protocol and not note:
            self.accepted(sock, peer, endpoint, now)  # it has sent nothing
            return
        if note:
            peer, endpoint = read_note(note, endpoint)
        connection = self._connect(sock, peer, endpoint, now)
        connection.stream = self._backend.make_stream(connection)  # it has had responses, though not from here
        self._table.adopt(connection, now)
