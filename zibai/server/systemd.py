"""Notifications of systemd, sd_notify(3): the server is ready, reloads, stops; its status; the watchdog's heartbeat.

The protocol is one datagram to the unix socket that ``NOTIFY_SOCKET`` names. The server never waits for systemd: a
datagram that it does not take at once is dropped.

Facts are compared with the last notification, so no caller must find the right moment. :class:`Reporter` looks at a
roster, and :class:`SingleReporter` is called by a single process. Without ``NOTIFY_SOCKET`` there is neither, and no
process wakes up for it. The variables are removed, since only this process may speak for the service.
"""

import _socket
import os
import sys
import time
from collections.abc import Callable, Iterable, MutableMapping
from math import inf
from typing import TYPE_CHECKING, Any, Final, Self

from ..clock import clock
from ..errors import UsageError
from ..logger import logger
from ..supervise.record import READY, TO_REPLACE
from ..telemetry.scoreboard import Report, Rows

if TYPE_CHECKING:
    from ..supervise.roster import Roster

STATUS_EVERY: Final = 10.0
"""Seconds between two looks at the text of STATUS, which is sent when it has changed."""

SOCKET: Final = "NOTIFY_SOCKET"
WATCHDOG: Final = "WATCHDOG_USEC"


class Notifier:
    """Notifies systemd. ``beat_every`` is the interval of the watchdog's heartbeats in seconds, or ``inf``.

    ``environment`` are the removed variables, for a new server in an upgrade. After ``pass_service_to`` the new server
    notifies systemd, until ``take_back``. ``predecessor`` returns the process that gets the service back when this one
    ends, or 0.
    """

    def __init__(self, address: str, beat_every: float = inf, environment: dict[str, str] | None = None) -> None:
        self.beat_every = beat_every
        self.environment = environment or {}
        self.predecessor: Callable[[], int] = lambda: 0
        self._address = "\0" + address[1:] if address.startswith("@") else address
        self._speaks = True

    @classmethod
    def from_environment(cls, environ: MutableMapping[str, str]) -> Self | None:
        """None without ``NOTIFY_SOCKET``. The variables are removed from ``environ``."""
        taken = {name: environ.pop(name) for name in (SOCKET, WATCHDOG) if name in environ}
        pid = environ.pop("WATCHDOG_PID", "")
        address = taken.get(SOCKET, "")
        if not address or sys.platform == "win32":
            return None
        if address[0] not in "/@":
            logger.warning("NOTIFY_SOCKET=%s is not a unix socket; systemd is not notified", address)
            return None
        text = taken.get(WATCHDOG, "0")
        if not (text.isascii() and text.isdigit()):
            raise UsageError(f"environment variable {WATCHDOG}: {text!r} is not a number of microseconds")
        asked = int(text) > 0 and pid in ("", str(os.getpid()))
        if not asked:
            taken.pop(WATCHDOG, None)
        # Half of it, as sd_watchdog_enabled(3) recommends.
        return cls(address, int(text) / 2_000_000 if asked else inf, taken)

    def send(self, *lines: str) -> None:
        """Send it, unless another process notifies systemd."""
        if self._speaks:
            self._send("\n".join(lines))

    def ready(self, *lines: str) -> None:
        """Say that the service is up. systemd ends a service that is not ready in time."""
        error = self._send("\n".join([*lines, "READY=1"])) if self._speaks else None
        if error is not None:
            logger.warning("cannot tell systemd that the server is ready: %s", error)

    def stopping(self) -> None:
        """Say that this process ends, and the service with it, unless the old server gets the service back."""
        pid = self.predecessor()
        if pid:
            self.pass_service_to(pid)
        else:
            self.send("STOPPING=1")

    def pass_service_to(self, pid: int) -> None:
        """Make process ``pid`` the service. systemd accepts this only from the service (``NotifyAccess=main``)."""
        self.send(f"MAINPID={pid}")
        self._speaks = False

    def take_back(self) -> None:
        """Make this process the service again: the other one has ended, or is ending."""
        self._speaks = True
        self.ready(f"MAINPID={os.getpid()}")

    def _send(self, text: str) -> OSError | None:
        if sys.platform == "win32":
            return None
        # The C type, since gevent's class needs a hub. Made each time, so a restart of systemd does not matter.
        sock = _socket.socket(_socket.AF_UNIX, _socket.SOCK_DGRAM)
        try:
            sock.setblocking(False)
            sock.sendto(text.encode(), self._address)
        except OSError as error:
            return error  # only ready() reports it: a server does not depend on systemd
        finally:
            sock.close()
        return None


class _Due:
    """The watchdog and the status: when to send them next."""

    def __init__(self, notifier: Notifier) -> None:
        self._notifier = notifier
        self._beat_at = clock() if notifier.beat_every < inf else inf
        self._status_at = clock()
        self._status = ""

    def look(self, status: Callable[[], str]) -> float:
        """Send what is due; ``status()`` is the text. Returns the seconds until the next is due."""
        now = clock()
        if now >= self._beat_at:
            self._beat_at = now + self._notifier.beat_every
            self._notifier.send("WATCHDOG=1")
        if now >= self._status_at:
            self._status_at = now + STATUS_EVERY
            if (text := status()) != self._status:
                self._status = text
                self._notifier.send(f"STATUS={text}")
        return min(self._beat_at, self._status_at) - now


class Reporter:
    """Reports a roster and its workers. Only the parent's main thread calls it."""

    def __init__(self, notifier: Notifier, rows: Iterable[Rows] = ()) -> None:
        self._notifier = notifier
        self._rows = list(rows)
        self._due: _Due | None = None
        self._generation = 0
        self._is_busy = True  # starting, or reloading
        self._is_stopping = False
        self._counted: dict[int, int] = {}  # requests by the pid of the worker, at the last look
        self._before = 0  # requests of workers that are gone

    def on_signal(self, name: str) -> None:
        pass

    def sources(self) -> list[Any]:
        return []

    def look(self, roster: "Roster") -> float | None:
        """Send what has changed; return the seconds until the next look, None for never."""
        if roster.is_ending:
            if not self._is_stopping:
                self._is_stopping = True
                self._notifier.stopping()
        elif roster.was_up:
            if roster.generation != self._generation:
                self._generation = roster.generation
                self._is_busy = True
                self._notifier.send("RELOADING=1", f"MONOTONIC_USEC={time.monotonic_ns() // 1000}")
            if self._is_busy and (self._due is None or _is_settled(roster)):
                self._is_busy = False
                self._notifier.ready()
        if not roster.was_up:
            return None  # the watchdog begins when the service is ready
        self._due = self._due or _Due(self._notifier)
        return self._due.look(lambda: self._status(roster))

    def _status(self, roster: "Roster") -> str:
        reports = [row.read() for row in self._rows]
        counted = {report.pid: report.counters["requests"] for report in reports if report.state}
        self._before += sum(count for pid, count in self._counted.items() if pid not in counted)
        self._counted = counted
        ready = sum(worker.state == READY for worker in roster.workers)
        text = f"{ready} of {roster.wanted} workers ready"
        return f"{text}, {_requests(reports, self._before)}" if self._rows else text


def _is_settled(roster: "Roster") -> bool:
    """Whether the last restart is over: done or aborted."""
    active = [worker for worker in roster.workers if worker.is_active]
    return len(active) >= roster.wanted and all(
        worker.state == READY and worker.generation in (TO_REPLACE, roster.generation) for worker in active
    )


def _requests(reports: list[Report], before: int = 0) -> str:
    answered = before + sum(report.counters["requests"] for report in reports)
    return f"{answered} requests answered, {sum(len(report.running) for report in reports)} running"


class SingleReporter:
    """Reports a single process. The threads that run its server loops call ``beat``, one at a time. The main thread
    calls the rest, with ``started`` before the first ``beat``."""

    def __init__(self, notifier: Notifier, rows: Rows | None) -> None:
        self.beat_every = min(notifier.beat_every, STATUS_EVERY)
        self._notifier = notifier
        self._rows = rows
        self._due: _Due | None = None

    def started(self) -> None:
        self._notifier.ready()
        self._due = _Due(self._notifier)

    def stopping(self) -> None:
        self._notifier.stopping()

    def beat(self) -> None:
        if self._due is not None:
            self._due.look(lambda: "serving" if self._rows is None else _requests([self._rows.read()]))
