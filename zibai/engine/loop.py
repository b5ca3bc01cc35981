"""The server loop: it holds every connection that waits.

Connections that wait, for bytes, for their client, for time or for a free runner, cost no thread and no greenlet: they
lie in :class:`Loop`. A backend turns the loop; one turn asks the poller, lets each connection
whose socket did something take its step, accepts, and closes what is over. A connection whose request is there is
queued for ``take``.

Deadlines are swept, not queued: each connection carries its own, and the loop remembers only that none comes before
``_next_sweep``. A request that comes and goes in time costs an attribute, and a sweep over ten thousand
connections a millisecond, at most once in ``RESOLUTION``.

Everything belongs to the loop's owner (see ``backends``), but what is handed over: ``give_back``, ``lend``, ``drain``
and ``quit`` may be called by any thread. They append to a deque or set a flag, and wake the owner if it sleeps. The
owner says that it sleeps before it looks a last time at what was handed over, so that no wake-up is lost.
"""

import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from http import HTTPStatus
from math import ceil, inf
from typing import Final

from ..errors import Refused
from ..logger import debug_logger, logger
from ..net.acceptor import Acceptor
from ..net.handover import Adoption, give
from ..net.kernel import AT_ONCE, has_given_up
from ..net.listener import Endpoint, Listener, Socket, endpoint_of
from ..net.poller import READ, WRITE
from .backends import Backend
from .capacity import Crowd
from .connection import Connection
from .context import Service
from .deferred import Deferred
from .health import SOON, Health
from .load import TURN
from .parting import Parting
from .states import APP, BODY, CLOSED, DISCARD, FLUSH, HANDSHAKE, HEAD, LATER, LINGER, PARTED, PROXY, READY

RESOLUTION: Final = 0.1
"""Seconds that a deadline may be late, so that sweeps do not come in a row."""

GRACE: Final = 1.0
"""Seconds that an idle connection stays open when the server ends: a request in the air is answered, with close."""

BACKLOG: Final = 5.0
"""Seconds after a time without a free runner in which clients may come that have waited in the backlog and left."""

BUSY_WARNING: Final = 1.0
"""Seconds that requests wait for a runner before a warning says so; then at most one a minute."""

# What the poller is asked for in each state; WRITE is added while something waits to be sent.
WATCH: Final = {
    PROXY: READ,
    HANDSHAKE: READ,
    HEAD: READ,
    BODY: READ,
    DISCARD: READ,
    LINGER: READ,
    FLUSH: 0,
    READY: 0,
    APP: 0,
    PARTED: 0,
    CLOSED: 0,
}


class Loop:
    """The connections of one server. ``slots`` is how many may run at once; ``max_requests`` ends the counting.

    ``cedes`` says, when the end begins, whether another server accepts from all the listeners, too.
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
        self.cedes: Callable[[], bool] = lambda: False
        self._backend = backend
        self._health = health
        self._slots = slots
        self._running = 0  # connections that were given away
        self._connections: dict[int, Connection] = {}
        self._others: dict[int, Callable[[], object]] = {}  # what else the poller has, but for listeners
        self._ready: deque[tuple[Connection, float]] = deque()  # and since when it waits for a runner
        self._quota = 0  # how many of them may run before the next turn, so that a turn comes
        self._handed: deque[tuple[Connection, bool]] = deque()  # by runners; True when the exchange is over
        self._asleep = False
        self._drain = self._quit = False  # what was asked for
        self._draining = False
        self._graceful_timeout = GRACE
        self._idle_until = -inf  # while it drains, idle connections are kept until then if they cannot be handed over
        self._acceptor = Acceptor(listeners, self.poller, backend.report, self._opened)
        self._adoption = Adoption(self.poller, self._others, self._adopt)
        self._parting = Parting()
        self._heir: Socket | None = None  # who gets our idle connections when we drain
        self._next_sweep = inf
        self._load = service.load
        self._deferred = Deferred(service.load)
        self._crowd = Crowd(service, backend.report, getattr(self.poller, "limit", inf))
        self._queue_patience = min(BUSY_WARNING, service.queue_timeout)
        self._busy_warned = -inf
        self._now = 0.0  # of the turn that came last
        self._full_at = -inf  # when clients have waited in the backlog last
        self._requests_left = max_requests or -1
        self._on_max_requests = on_max_requests

    # Handed over, by any thread.

    def give_back(self, connection: Connection) -> None:
        self._hand((connection, True))

    def lend(self, connection: Connection) -> None:
        self._hand((connection, False))

    def _hand(self, item: tuple[Connection, bool]) -> None:
        self._handed.append(item)
        if self._asleep:
            self._backend.wake()
        if self.finished:
            # The owner has gone; runners that came too late clean up after themselves.
            self._close_handed()

    def adopt_from(self, channel: Socket) -> None:
        """Take over the connections that come through ``channel``."""
        self._adoption.add(channel)
        self._backend.wake()

    def hand_over_to(self, channel: Socket) -> None:
        """Give idle connections away through ``channel`` instead of closing them; before ``drain``."""
        self._heir = channel

    def drain(self, timeout: float = GRACE) -> None:
        """Take nothing new, finish what is there, then finish the loop; the caller waits ``timeout`` seconds for it."""
        self._graceful_timeout = timeout
        self.service.draining = True  # at once: an answer that is made now says close
        self._drain = True
        self._backend.wake()

    def quit(self) -> None:
        """Close everything and finish the loop now."""
        self._quit = True
        self._slots = 0  # nothing that is ready begins any more
        self._backend.wake()

    def forget(self) -> None:
        """In a child that the application has forked: close everything, and turn no more.

        Nothing is unregistered or shut down: the poller's object and the connections are the parent's, too.
        """
        self.finished = True
        self._acceptor.forget()
        self._adoption.close()
        self._parting.close()
        if self._heir is not None:
            self._heir.close()
        for connection in self._connections.values():
            connection.watched = 0
            connection.sock.close()

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
            # A bug of ours, and no connection to blame. A loop that nobody turns is a server that hears nothing and
            # looks alive, so it ends, and serve() raises.
            self.failure = error
            with suppress(Exception):  # whatever is broken, the first error is the one to be told
                self._finish_loop()
            self.on_failure()

    def _turn(self, block: bool) -> None:
        if self._quit or (self._draining and not self._connections):
            self._finish_loop()
            return
        self._now = now = time.monotonic()
        # Before the poller is asked: an event from before could meet a connection that has moved on meanwhile.
        self._load.budget = TURN
        if self._deferred.busy:
            for each in self._deferred.resumed(now):
                if WATCH[each.state]:  # else its deadline has been faster
                    self._step(each, each.resume, now)
        self._receive_handed(now)
        self._watch_listeners(now)
        waited = len(self._ready)
        self._asleep = True
        if self._adoption.coming:
            self._adoption.watch()
        timeout = self.timeout() if block else 0
        events = self.poller.poll(timeout)
        self._asleep = False
        self._now = now = time.monotonic()
        find, ready, rest = self._connections.get, self._ready, []
        for fd, mask in events:
            connection = find(fd)
            if connection is None:
                rest.append(fd)
            elif mask == READ and connection.state is HEAD:
                # What _react does, where it is that simple: most events are requests, and the call would cost as much.
                try:
                    connection.readable(now)
                    if connection.state is READY:  # type: ignore[comparison-overlap]
                        ready.append((connection, now))
                    else:
                        self._settle(connection, now)
                except Exception as error:
                    self._fault(connection, error)
            else:
                self._react(connection, mask, now)
        if rest:
            self._react_to_others(rest, waited, now)
        if self._handed:
            # What has woken the poller, mostly. All events are dealt with; and to wait for the next turn would cost
            # a runner's slot as long.
            self._receive_handed(now)
        if self._drain and not self._draining:
            self._begin_drain(now)
        if now >= self._next_sweep:
            self._sweep(now)
        if now >= self._parting.due:
            self._parting.look(now)
        health = self._health
        if now >= health.due:
            health.look(now, self._connections.values())
        elif events and health.due > now + SOON:
            health.due = now + SOON
        if ready and now - ready[0][1] >= self._queue_patience:
            self._look_at_queue(now)
        self._quota = len(ready)
        self._asleep = not block  # who does not block here waits elsewhere, and has to be woken, too

    def timeout(self) -> float | None:
        """Seconds until something is due; 0 when a turn need not wait, None when nothing is due ever."""
        ending = self._quit or (self._drain and not (self._draining and self._connections))
        if ending or self._handed or self._adoption.coming:
            return 0
        due = min(self._next_sweep, self._health.due, self._acceptor.again, self._crowd.again, self._parting.due)
        if self._deferred.busy:
            now = time.monotonic()
            due = min(due, now + self._deferred.wait(now))
        if self._ready:
            if self._running < self._slots:
                return 0
            since = self._ready[0][1]
            due = min(due, max(since + BUSY_WARNING, self._busy_warned + 60), since + self.service.queue_timeout)
        return None if due == inf else max(0.0, due - time.monotonic())

    def take(self) -> Connection | None:
        """See :class:`zibai.engine.backends.Turns`."""
        while self._quota and self._running < self._slots:
            self._quota -= 1
            connection, since = self._ready.popleft()
            if self._now - since > AT_ONCE and self._has_given_up(connection):
                self._drop(connection)
                continue
            if self._now < self._crowd.until:
                connection.closing = True
            connection.state = APP
            return connection
        return None

    def _has_given_up(self, connection: Connection) -> bool:
        """Whether the client has left while its request waited, here or in the backlog."""
        left = has_given_up(connection.sock, silent=connection.alone or not connection.started)
        if left:
            self._backend.report(debug_logger.debug, "%s has left while its request waited", connection.peer)
        return left

    def give_away(self, connection: Connection) -> None:
        """See :class:`zibai.engine.backends.Turns`."""
        self._watch(connection, 0)
        self._running += 1

    def finish(self, connection: Connection) -> None:
        """See :class:`zibai.engine.backends.Turns`."""
        service = self.service
        service.answered[connection.status // 100] += 1
        service.sent += connection.sent
        if connection.interims:
            service.answered[1] += connection.interims
            connection.interims = 0
        if self._requests_left > 0:
            self._requests_left -= 1
            if not self._requests_left and self._on_max_requests is not None:
                self._on_max_requests()
        if (
            connection.alone
            and connection.watched == READ
            and not (connection.closing or connection.broken or connection.out or self._draining)
        ):
            # What is left to do where nothing is: most exchanges end here, and the calls would cost as much again.
            if connection.body_held:
                connection.give_back()
            connection.request = None
            connection.state = HEAD
            connection.deadline = deadline = self._now + service.keep_alive_timeout
            if deadline < self._next_sweep:  # noqa: PLR1730 -- a call of min() takes three times as long
                self._next_sweep = deadline
            return
        now = self._now
        try:
            connection.finish(now)
            self._settle(connection, now)
        except Exception as error:
            self._fault(connection, error)

    # Steps of connections.

    def _receive_handed(self, now: float) -> None:
        """What runners have handed over: for good, or to have something sent."""
        while self._handed:
            connection, done = self._handed.popleft()
            if done:
                self._running -= 1
                self.finish(connection)
            elif connection.state is APP:
                self._settle(connection, now)

    def _react(self, connection: Connection, events: int, now: float) -> None:
        """Its socket did something. What is neither of the two events is an error, which both find."""
        if connection.state is READY:
            # More than its request has come, or its end, or the client takes the rest of a 100 Continue, which
            # can wait now. It stays armed until that happens, which is seldom.
            self._watch(connection, 0)
            return
        try:
            if events & ~READ:
                connection.writable(now)
            if connection.state is PROXY:
                connection.read_proxy_header()
            elif events & ~WRITE and WATCH[connection.state] and not connection.pause:
                if self._load.budget <= 0 and (connection.state is BODY or connection.state is DISCARD):
                    connection.pause = LATER
                else:
                    connection.readable(now)
            if connection.state is READY:
                self._ready.append((connection, now))
            else:
                self._settle(connection, now)
        except Exception as error:
            self._fault(connection, error)

    def _react_to_others(self, fds: list[int], waited: int, now: float) -> None:
        """What is no connection did something. ``waited`` is how many requests were ready before this turn.

        Accepting comes last, when it is known how many slots the others have filled.
        """
        for fd in fds:
            if fd in self._others:
                self._others[fd]()
        if len(self._connections) >= self._crowd.places and self._acceptor.concerns(fds):
            idle = self._crowd.choose(self._connections.values(), now)
            if idle is not None:
                self._drop(idle)
        self._acceptor.accept(fds, now, lambda: self._room(waited))
        if self._acceptor.again != inf:
            self._parting.close()  # descriptors are used up

    def _room(self, waited: int) -> float:
        """How many connections to accept now, with ``waited`` requests ready before this turn.

        No more than could run, since siblings may have free slots, too; but one at least, or clients that always have a
        next request there would keep all others out. So what has waited before does not count.
        """
        runnable = self._slots - self._running - (len(self._ready) - waited)
        return min(max(1, runnable), self._crowd.places - len(self._connections))

    def _step(self, connection: Connection, step: Callable[[float], None], now: float) -> None:
        try:
            step(now)
            self._settle(connection, now)
        except Exception as error:
            self._fault(connection, error)

    def _fault(self, connection: Connection, error: Exception) -> None:
        """A bug of ours, or the poller is out of memory; it costs this connection, not the server."""
        self._backend.report(partial(logger.error, exc_info=error), "closing %s", connection.peer)
        if connection.state is APP:
            self._watch(connection, 0)
            connection.abort()  # its runner gives it back
        else:
            self._drop(connection)

    def _settle(self, connection: Connection, now: float) -> None:
        """Watch a connection for what its state waits for; queue, or close, it."""
        state = connection.state
        if state is READY:
            self._ready.append((connection, now))
            return
        if state is PARTED:
            self._watch(connection, 0)
            del self._connections[connection.fd]
            self._load.connections -= 1
            self._parting.add(connection.sock, now)
            return
        if state is CLOSED:
            self._drop(connection)
            return
        if self._draining and connection.idle:
            connection.deadline = min(connection.deadline, max(now + GRACE, self._idle_until))
        wanted = WATCH[state]
        if connection.pause and wanted:
            wanted = self._deferred.put(connection)
        if connection.out:
            wanted |= WRITE
        if wanted != connection.watched:
            self._watch(connection, wanted)
        self._next_sweep = min(self._next_sweep, connection.deadline)

    def _drop(self, connection: Connection) -> None:
        self._watch(connection, 0)
        self._deferred.forget(connection)
        del self._connections[connection.fd]
        connection.close()
        self._load.connections -= 1
        self._load.freed = True

    def _watch(self, connection: Connection, events: int) -> None:
        watched = connection.watched
        if events == watched:
            return
        if not events:
            self.poller.unregister(connection.fd)
        elif watched:
            self.poller.modify(connection.fd, events)
        else:
            self.poller.register(connection.fd, events)
        connection.watched = events

    def _sweep(self, now: float) -> None:
        for connection in list(self._connections.values()):
            if connection.deadline <= now:
                self._step(connection, connection.expire, now)
        due = min((connection.deadline for connection in self._connections.values()), default=inf)
        self._next_sweep = max(due, now + RESOLUTION)
        if self._draining:
            self._hand_over(now)

    def _look_at_queue(self, now: float) -> None:
        """Requests have waited for a runner, longer than is good."""
        waiting, waited, timeout = len(self._ready), now - self._ready[0][1], self.service.queue_timeout
        late = 0
        while self._ready and now - self._ready[0][1] >= timeout:
            connection, since = self._ready.popleft()
            refusal = Refused(HTTPStatus.SERVICE_UNAVAILABLE, f"no runner for {timeout:g} s", ceil(timeout))
            refusal.waited = now - since
            self._step(connection, partial(connection.refuse, refusal), now)
            late += 1
        if (late or self._running >= self._slots) and now >= self._busy_warned + 60:
            self._busy_warned = now
            self._backend.report(
                logger.warning,
                "all %d workers are busy and %d requests have waited for %.1f s%s; --max-workers may be too small",
                self._slots,
                waiting,
                waited,
                f", of which {late} are answered by 503 (--queue-timeout)" if late else "",
            )

    # New connections.

    def _watch_listeners(self, now: float) -> None:
        """Accept only while a slot is free, and leave new connections to sibling processes otherwise."""
        crowd = self._crowd
        if crowd.again != inf and (now >= crowd.again or len(self._connections) < crowd.places):
            crowd.again = inf
        free = self._running < self._slots and crowd.again == inf
        if not free:
            self._full_at = now
        self._acceptor.watch(free and not self._draining, now)

    def _opened(self, sock: Socket, peer: object, endpoint: Endpoint, now: float) -> None:
        self.open(Connection(sock, peer, endpoint, self.service, now), now)

    def open(self, connection: Connection, now: float) -> None:
        """Take a connection that has just been accepted."""
        if now - self._full_at < BACKLOG and self._has_given_up(connection):
            connection.close()
            return
        if connection.service.proxy_protocol:
            connection.expect_proxy_header()
        self.add(connection, now)

    def add(self, connection: Connection, now: float) -> None:
        """A new connection; the owner's."""
        self._connections[connection.fd] = connection
        self._load.connections += 1
        self._step(connection, _no_step, now)

    # Handing connections from worker to worker.

    def _adopt(self, sock: Socket, note: bytes) -> None:
        now = time.monotonic()
        try:
            peer, endpoint = sock.getpeername(), endpoint_of(sock)
        except OSError:
            sock.close()  # its client has left on the way
            return
        if self.service.proxy_protocol and not note:
            self._opened(sock, peer, endpoint, now)  # it has not said a word
            return
        connection = Connection(sock, peer, endpoint, self.service, now)
        connection.deadline = now + self.service.keep_alive_timeout
        connection.status = HTTPStatus.OK  # it has had answers, though not from us
        if note:
            connection.recall(note)
        self.add(connection, now)

    def _hand_over(self, now: float) -> None:
        """Give the idle connections to the replacement; what does not go yet is tried again at the next sweep."""
        if self._heir is None:
            return
        idle = [each for each in self._connections.values() if each.idle and each.endpoint.plain]
        given = give(self._heir, [each.fd for each in idle], {each.fd: each.note for each in idle if each.note})
        for connection in idle[:given]:
            self._watch(connection, 0)
            del self._connections[connection.fd]
            self._load.connections -= 1
            connection.release()
        if given < len(idle):
            self._next_sweep = min(self._next_sweep, now + RESOLUTION)

    # The end.

    def _begin_drain(self, now: float) -> None:
        """Take nothing new. Idle connections go to the replacement, or get a moment for a last request.

        What has connected so far and waits is accepted, unless a replacement does: nobody may come after us. Where
        another server does, no more than can run at once, since that one could take the rest sooner.
        """
        self._adoption.take_all()
        self._draining = True
        if self._heir is not None:
            # A restart: nobody waits for the end of this process. An idle TLS connection cannot be handed over, and its
            # client knows nothing of the restart, so its next request is answered here, with close.
            self._idle_until = now + self._graceful_timeout - GRACE
        self._acceptor.finish(now, self._last_room)
        self._hand_over(now)
        for connection in list(self._connections.values()):
            if connection.idle:
                self._settle(connection, now)

    def _last_room(self) -> float:
        if self._heir is not None:
            return 0
        room = self._crowd.limit - len(self._connections)
        return min(room, self._slots - self._running - len(self._ready)) if self.cedes() else room

    def _finish_loop(self) -> None:
        self._asleep = False
        self.finished = True
        self.service.draining = self._draining = True
        self._acceptor.close()
        self._adoption.close()
        if self._heir is not None:
            self._heir.close()
        self._close_handed()
        self._parting.close()
        for connection in self._connections.values():
            self._watch(connection, 0)
            self._deferred.forget(connection)
            if connection.state is APP:
                connection.abort()  # its runner closes it
            else:
                connection.close()
        self._connections.clear()
        self._load.connections = 0

    def _close_handed(self) -> None:
        while self._handed:
            try:
                connection, done = self._handed.popleft()
            except IndexError:
                return  # another runner was faster
            if done:
                connection.close()


def _no_step(now: float) -> None:
    """A connection that only has to be settled."""
