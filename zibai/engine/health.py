"""How a worker watches itself: its heartbeat, the states of its connections, and which request hangs, and where.

The server loop looks when it turns, at most once a second and only after something happened. For the parent, which
expects its beats, it also looks every few seconds if nothing happened. So a beat says that the loop turns, and not only
that the process exists. A request that runs too long harms no other request, and its worker is healthy:

 - after ``slow_request`` it is logged, once, while it runs, with the stack of its thread, greenlet or task;
 - after ``request_timeout`` a task is cancelled, and only its own client notices. A thread or greenlet cannot be ended,
   and some tasks do not end within ``END_LIMIT`` seconds. For these all stacks are logged and ``on_hung`` is called,
   once. Then the parent replaces the worker: the other requests may finish, and what is left at the end is cut.

These limits do not count for event streams, which are not expected to end.

Time in which the process was stopped (``SIGSTOP``, a paused container, a closed laptop) does not count for a request.
The loop cannot tell it from an application that blocks gevent's hub. So another thread measures it while requests run,
and calls :meth:`Health.excuse`. A look that comes late leaves that thread a moment to do so.
"""

from collections import deque
from collections.abc import Callable, Iterable
from math import inf
from typing import Any, Final

from ..clock import clock
from ..logger import logger
from ..system.stacks import format_stack
from ..telemetry.scoreboard import Running
from .backends import Backend
from .connection import Connection
from .context import Service
from .states import APP, BODY, DISCARD, HANDSHAKE, HEAD, PROXY, READY, TASK

SOON: Final = 1.0
"""Seconds from an event to the look that follows it."""

PAUSED_FROM: Final = 1.0
"""Seconds that a look may be late, on a busy machine, before it is a sign that the process was stopped."""

END_LIMIT: Final = 5.0
"""Seconds that a request has to end after the backend has cancelled it."""

THREAD_MOMENT: Final = 0.5
"""Seconds that another thread has, after a late look, to say for how long the process was stopped."""


class Health:
    """Writes the row of ``service``. Everything but ``excuse`` is the loop owner's; times are seconds, ``inf`` is
    never.

    ``beat_every`` is the longest time between two beats. ``due`` is when to look next, by the loop's clock.
    ``busy`` is whether requests ran at the last look; any thread may read it. ``upgraded`` is how many connections are
    WebSockets, which the loop of tasks counts.
    """

    def __init__(
        self,
        service: Service,
        backend: Backend,
        *,
        slow_request: float = inf,
        request_timeout: float = inf,
        beat_every: float = inf,
        on_hung: Callable[[], object] = lambda: None,
        on_beat: Callable[[], object] = lambda: None,
    ) -> None:
        self.due = -inf
        self.busy = False
        self.upgraded = 0
        self._service = service
        self._row = service.row
        self._backend = backend
        self._slow_request = slow_request
        self._request_timeout = request_timeout
        self._beat_every = beat_every
        self._on_hung: Callable[[], object] | None = on_hung
        self._on_beat = on_beat
        self._told: set[Key] = set()  # the slow requests that were logged
        self._expelled: set[Key] = set()  # those whose time was over, and that the backend ends
        self._pauses: deque[tuple[float, float]] = deque()  # when the process went on, and how long it was stopped
        self._leaves_a_moment = False

    def look(self, now: float, connections: Iterable[Connection]) -> None:
        """``now`` is by the loop's clock."""
        service, others = self._service, self._service.others
        gauges = _gauges(connections, self.upgraded)
        self._row.beat([sum(others[2:]), *others[1:6], service.sent, *gauges])
        self.due = now + min(self._beat_every, self._look_at_requests(now - self.due))
        self._on_beat()

    def excuse(self, seconds: float) -> None:
        """The process was stopped for so long until now, which does not count for the requests that run. Any thread."""
        self._pauses.append((clock(), seconds))

    def _look_at_requests(self, late: float) -> float:
        """Log the requests that run too long; return the seconds until the next one may have to be logged."""
        running = [each for each in self._backend.running() if not each.is_endless]
        was_busy, self.busy = self.busy, bool(running)
        keys = {_key(each) for each in running}
        self._told &= keys
        self._expelled &= keys
        if not running:
            self._pauses.clear()
            return inf
        if late > PAUSED_FROM and not was_busy:
            self.excuse(late)  # no other thread has watched yet
        elif late > PAUSED_FROM and not self._leaves_a_moment:
            self._leaves_a_moment = True
            return THREAD_MOMENT
        self._leaves_a_moment = False
        return self._judge(running)

    def _age(self, request: Running, at: float) -> float:
        """The seconds that a request has run, without those in which the process was stopped."""
        stopped = sum(seconds for until, seconds in list(self._pauses) if until > request.since)
        return max(0.0, at - request.since - stopped)

    def _judge(self, running: list[Running]) -> float:
        at, wait = clock(), inf
        ages = [(each, self._age(each, at)) for each in running]
        stuck = False
        for each, age in ages:
            if _key(each) not in self._told:
                if age < self._slow_request:
                    wait = min(wait, self._slow_request - age)
                else:
                    self._told.add(_key(each))
                    self._tell("a request has run for %.1f s: %s, %s%s", age, each)
            if self._on_hung is not None:
                left = self._time_left(each, age)
                wait, stuck = min(wait, max(0.0, left)), stuck or left <= 0
        if stuck and self._on_hung is not None:
            for each, age in ages:
                self._tell("--request-timeout is over; running for %.1f s: %s, %s%s", age, each)
            self._on_hung()
            self._on_hung = None
        return wait

    def _time_left(self, request: Running, age: float) -> float:
        """The seconds until a request counts as stuck. If its time is over, the backend may cancel it first."""
        left = self._request_timeout - age
        if left <= 0 and _key(request) not in self._expelled and self._backend.expel(request.slot):
            self._expelled.add(_key(request))
            self._tell("--request-timeout is over; cancelled after %.1f s: %s, %s%s", age, request)
        return left + END_LIMIT if _key(request) in self._expelled else left

    def _tell(self, message: str, age: float, request: Running) -> None:
        name, frame = self._backend.where(request.slot)
        phase = "" if request.phase == "app" else f" ({request.phase})"
        self._backend.report(logger.warning, message, age, request.what + phase, name, "\n" + format_stack(frame))


Key = tuple[Any, float]
"""The identity of a request: it differs from that of the next request in the same slot."""


def _key(request: Running) -> Key:
    return request.slot, request.since


def _gauges(connections: Iterable[Connection], upgraded: int) -> list[int]:
    """The numbers of connections by state; see :data:`zibai.telemetry.scoreboard.GAUGES`.

    Of the connections in TASK, ``upgraded`` are WebSockets.
    """
    total = idle = head = body = queue = busy = send = 0
    for connection in connections:
        total += 1
        state = connection.state
        if state is HEAD or state is PROXY:
            if connection.idle:
                idle += 1
            else:
                head += 1
        elif state is APP or state is TASK:
            busy += 1
        elif state is READY:
            queue += 1
        elif state is HANDSHAKE:
            head += 1
        elif state is BODY or state is DISCARD:
            body += 1
        else:
            send += 1
    return [total, idle, head, body, queue, max(0, busy - upgraded), send, upgraded]
