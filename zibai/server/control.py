"""How a process that serves HTTP is told to stop, by its parent or by signals.

A graceful shutdown sets the event that the server waits for. While the application is imported no request is in
flight, so a graceful shutdown is a quick exit then.

``drain`` from the parent may come with a channel to the replacement, which takes over the idle connections.
``drain_shared`` says that another server accepts from the same listeners. ``adopt`` brings the channel from which this
worker takes over connections.

With ``--drain`` the first signal for a graceful shutdown only announces it: the process serves on, with
``Connection: close`` in each response, and :class:`Control` counts the time. In a worker the parent decides: from its
``announce_drain`` to its ``drain`` signals mean nothing, since systemd, which sends them to the whole group, has told
the parent too.

This thread writes no log line, since the log may be a full pipe that is never read. It also sets the last moment
(:mod:`zibai.system.lastword`): nothing that hangs, before or after the end of the server, keeps the process for more
than ``LAST_WORD`` seconds beyond the time limit.
"""

import sys
import threading
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from math import inf
from types import ModuleType
from typing import TYPE_CHECKING, Any, ClassVar, Final

from ..clock import clock
from ..engine.loop import Loop
from ..errors import LoadError
from ..logger import logger
from ..net.handover import pass_on
from ..supervise import control
from ..supervise.control import GRACEFUL, QUICK, REOPEN, UPGRADE
from ..supervise.pauses import STEP
from ..supervise.pipe import Parent
from ..system import lastword
from ..system.terminal import has_terminal
from ..telemetry import logfile
from . import sampling
from .dump import describe_self

if TYPE_CHECKING:
    from ..engine.backends import Backend

HANGUP: Final = "SIGHUP"
"""A restart, for a parent. A single process says that it cannot, or ends when it means that its terminal is closed."""


class Control(control.Control):
    """Obeys the parent and signals for one server loop; the other arguments are those of the base class.

    Messages may come before there is a loop. Channels wait in ``_channels`` then. The thread that comes second, this
    one with a channel or the main thread with the loop, gives them to the loop. The same holds for
    ``_drain_announced``. ``drain_delay`` is ``--drain``, in seconds.
    """

    BOOT_EXIT_CODE: ClassVar[int] = LoadError.exit_code

    def __init__(
        self,
        parent: Parent | None,
        end: threading.Event,
        hub: ModuleType | None,
        *,
        boot_timeout: float,
        graceful_timeout: float = 0.0,
        drain_delay: float = 0.0,
        **rest: Any,
    ) -> None:
        super().__init__(parent, end, hub, boot_timeout=boot_timeout, graceful_timeout=graceful_timeout, **rest)
        self._drain_delay = drain_delay
        self._has_terminal = has_terminal()
        self._drain_announced = False
        self._drain_at = inf  # when the graceful shutdown begins, if this process counts the time
        self._is_booting = parent is not None
        self._serves = False  # whether clients have been let in
        self._loop: Loop | None = None
        self._replacement: Any = None  # the channel to it
        self._shares_listeners = False
        self._channels: deque[Any] = deque()
        self._was_busy = False  # the loop owner's
        self.engine: Callable[[], Backend | None] = _none  # what runs the requests; set before there is a loop
        self._greenlets = None if hub is None else hub.greenlets
        if hub is None:
            # Both take the locks of log handlers, and a handler may wait for ever in a write to a full pipe.
            self._refuse_upgrade: Callable[[], object] = _in_own_thread(_refuse_upgrade)
            self._refuse_restart: Callable[[], object] = _in_own_thread(_refuse_restart)
            self._reopen: Callable[[], object] = _in_own_thread(logfile.reopen)
            if sys.platform == "win32":
                self._interrupt = _interrupting_and_setting(self._interrupt, end)
        else:
            # The locks of handlers are gevent's, and a thread of the system must not wait for them.
            self._refuse_upgrade = hub.spawning_from_threads(_refuse_upgrade)
            self._refuse_restart = hub.spawning_from_threads(_refuse_restart)
            self._reopen = hub.spawning_from_threads(logfile.reopen)

    def prepare(self, loop: Loop) -> None:
        """Called by the main thread before the loop takes its first client."""
        self._serves = True
        if self._drain_announced:
            loop.service.draining = True

    def attach(self, loop: Loop) -> None:
        """Called by the main thread when the loop runs."""
        self._is_booting = False
        self._loop = loop
        self.prepare(loop)  # again: a message may have come in between
        self._tell_successors(loop)
        self._adopt()

    def note_beat(self) -> None:
        """The loop has looked at its requests: while some run, this thread looks at the clock. Called by the loop's
        owner.

        With gevent that is the main thread, which also runs the application: a view may have reset a signal, as an
        asyncio event loop does at its end.
        """
        if self._greenlet is not None:
            self._signals.reassert()
        busy = self._loop is not None and self._loop.health.busy
        if busy and not self._was_busy:
            self._signals.wake()
        self._was_busy = busy

    def _tell_successors(self, loop: Loop) -> None:
        """Tell the loop, before it drains, which process takes over."""
        if self._replacement is not None:
            loop.hand_over_to(self._replacement)
        if self._shares_listeners:
            loop.shutdown.cedes = lambda: True

    def _adopt(self) -> None:
        while self._loop is not None and self._channels:
            with suppress(IndexError):  # the other thread has just taken it
                self._loop.adopt_from(self._channels.popleft())

    def _pass_on(self, replacement: Any) -> None:
        """Give the replacement the connections that this process has been given and will not serve."""
        while self._channels:
            with suppress(IndexError):  # the other thread has just taken it
                pass_on(self._channels.popleft(), replacement)

    def _obey(self, verb: str, channel: Any, names: Sequence[str]) -> None:
        if verb == "adopt":
            self._channels.append(channel)
            self._adopt()
            channel = None  # a replacement gives nothing back through it
        if self._parent is None and UPGRADE in names:
            self._refuse_upgrade()
        if self._parent is None and HANGUP in names:
            if self._has_terminal and not has_terminal():
                names = [*names, GRACEFUL[0]]  # the terminal is closed, and no person there could stop this server
            else:
                self._refuse_restart()
        if verb == "dump" and self._parent is not None:
            self._parent.dump(self._describe())
        if verb == "profile" and self._parent is not None:
            sampling.begin(self._parent.profile)
        if verb in {"profile_end", "gone"}:
            sampling.end()
        if verb == "reopen" or REOPEN in names:
            self._reopen()
        if verb == "announce_drain":
            self._announce_drain(until=inf)
        interrupted = any(name in QUICK for name in names)
        if verb == "quit" or interrupted or self._ends_early(verb, names):
            if channel is not None:
                self._pass_on(channel)
            self._quit(by_sigint=interrupted and verb != "quit")
        elif verb in {"drain", "drain_shared", "gone"} or self._shall_drain(sum(name in GRACEFUL for name in names)):
            self._arm(self._graceful_timeout + lastword.LAST_WORD)
            self._replacement = channel
            self._shares_listeners = verb == "drain_shared"
            if self._loop is not None:
                self._tell_successors(self._loop)
            self._set_end()

    def _ends_early(self, verb: str, names: Sequence[str]) -> bool:
        """Whether the end is asked for before anything was served: then there is nothing to finish.

        After the parent has announced the drain, a worker leaves signals to the parent.
        """
        if self._serves:
            return False
        asked = verb in {"drain", "drain_shared", "gone"}
        return asked or (not self._drain_announced and any(name in GRACEFUL for name in names))

    def _shall_drain(self, signals: int) -> bool:
        """Whether the graceful shutdown begins now: after so many signals for it, or after the announced time."""
        if self._loop is None:
            return signals > 0 and not self._drain_announced
        if not self._drain_delay:
            return signals > 0
        if signals and not self._drain_announced:
            self._announce_drain(until=clock() + self._drain_delay)
            signals -= 1
        if self._drain_at == inf or not (signals or clock() >= self._drain_at):
            return False
        self._drain_at = inf
        return True

    def _announce_drain(self, until: float) -> None:
        self._drain_announced = True
        self._drain_at = until
        if self._loop is not None:
            self._loop.service.draining = True

    def _is_starting(self) -> bool:
        return self._is_booting

    def _on_pause(self, seconds: float) -> None:
        super()._on_pause(seconds)
        if self._loop is not None:
            self._loop.health.excuse(seconds)

    def _time_left(self) -> float | None:
        left = super()._time_left()
        if self._loop is None or not self._loop.health.busy:
            return left
        return STEP if left is None else min(STEP, left)

    def _describe(self) -> str:
        try:
            return describe_self(self.engine(), self._greenlets)
        except Exception as error:  # a stack that changes while it is looked at; the thread must live on
            return f"the stacks cannot be shown: {error!r}"

    def _due(self) -> float:
        return self._drain_at if self._drain_at < inf else super()._due()


def _none() -> None:
    return None


def _interrupting_and_setting(interrupt: Callable[[], object], end: threading.Event) -> Callable[[], None]:
    """On Windows nothing interrupts a thread that waits for a lock, so the event that it waits for is set as well."""

    def both() -> None:
        interrupt()
        end.set()

    return both


def _in_own_thread(function: Callable[[], None]) -> Callable[[], None]:
    """A function that runs ``function`` in a new thread, so that its caller never waits."""
    return lambda: lastword.start_thread(function)


def _refuse_upgrade() -> None:
    logger.error("upgrade refused: a single process cannot start a new server; start this one with --processes 1")


def _refuse_restart() -> None:
    logger.error(
        "restart refused: a single process would refuse requests meanwhile; start this one with --processes 1, which "
        "restarts its worker at SIGHUP"
    )
