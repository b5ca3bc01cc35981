"""The thread by which a process that serves HTTP hears its parent and signals.

A graceful shutdown sets the event that the server waits for. While the application is imported no request is in
flight, so a graceful shutdown is a quick exit then.

``drain`` from the parent may come with a channel to the replacement, which takes over the idle connections.
``drain_shared`` says that another server accepts from the same listeners. ``adopt`` brings the channel from which this
worker takes over connections.

With ``--drain`` the first signal for a graceful shutdown only announces it: the process goes on serving, with
``Connection: close`` in each response, and :class:`Control` counts the time. In a worker the parent decides: from its
``announce_drain`` to its ``drain`` signals mean nothing, since systemd sends them to the whole group, and so to the
parent, too.

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
from typing import Any, ClassVar, Final, NamedTuple

from ..clock import clock
from ..errors import LoadError
from ..logger import logger
from ..net.handover import pass_on
from ..supervise import control
from ..supervise.control import GRACEFUL_SIGNALS, QUICK_SIGNALS, REOPEN, UPGRADE
from ..supervise.pauses import LONGEST_STEP
from ..supervise.pipe import Parent
from ..system import lastword
from ..system.terminal import has_terminal
from ..telemetry import logfile
from . import sampling
from .dump import describe_self
from .loops import Engine, Loops

HANGUP: Final = "SIGHUP"
"""A restart, for a parent. A single process refuses it, or ends if the signal means that its terminal is closed."""


class Announced:
    """The graceful shutdown that is announced: with ``--drain``, ``delay`` seconds pass between this and its beginning.

    ``begun`` says that it was announced. ``at`` is when the shutdown begins, if this process counts the time; else inf.
    """

    __slots__ = ("at", "begun", "delay")

    def __init__(self, delay: float) -> None:
        self.delay = delay
        self.begun = False
        self.at = inf

    def __repr__(self) -> str:
        return f"<Announced: {f'begun, until {self.at:.1f}' if self.begun else 'not yet'}>"


class Successors:
    """The other workers that matter at a drain or a restart.

    ``channels`` bring connections of workers before this one, until there are loops. ``replacement`` is the channel to
    the worker that gets the connections of this one. ``share_listeners`` says that another server accepts, too.
    """

    __slots__ = ("channels", "replacement", "share_listeners")

    def __init__(self) -> None:
        self.channels: deque[Any] = deque()
        self.replacement: Any = None
        self.share_listeners = False

    def __repr__(self) -> str:
        return f"<Successors: {len(self.channels)} channels wait{', replaced' if self.replacement is not None else ''}>"

    def tell(self, loops: Loops) -> None:
        """Tell the loops, before they drain, which process takes over."""
        if self.replacement is not None:
            loops.hand_over_to(self.replacement)
        if self.share_listeners:
            loops.share_listeners(lambda: True)

    def adopt(self, loops: Loops | None) -> None:
        """Give the channels to the loops, once there are some."""
        while loops is not None and self.channels:
            with suppress(IndexError):  # the other thread has just taken it
                loops.adopt_from(self.channels.popleft())

    def pass_on(self, replacement: Any) -> None:
        """Give the replacement the connections that this process has been given and will not serve."""
        while self.channels:
            with suppress(IndexError):  # the other thread has just taken it
                pass_on(self.channels.popleft(), replacement)


class Calls(NamedTuple):
    """Calls that other threads make for this one, because they take the locks of log handlers."""

    refuse_upgrade: Callable[[], object]
    refuse_restart: Callable[[], object]
    reopen: Callable[[], object]


class Control(control.Control):
    """Obeys the parent and signals for the server loops; the other arguments are those of the base class.

    Messages may come before there are loops. Channels wait in ``_successors`` then. The thread that comes second, this
    one with a channel or the main thread with the loops, gives them to the loops. The same holds for ``_announced``.
    ``drain_delay`` is ``--drain``, in seconds.
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
        self._announced = Announced(drain_delay)
        self._has_terminal = has_terminal()
        self._serves = False  # whether clients have been let in
        self._loops: Loops | None = None
        self._successors = Successors()
        self._was_busy = False  # set by the owners of the loops, one at a time
        self.engine: Callable[[], Engine | None] = _none  # the backend or backends; set before there are loops
        # A handler may wait for ever in a write to a full pipe. With gevent its lock is gevent's, and a thread of the
        # system must not wait for that.
        outside = _in_own_thread if hub is None else hub.spawning_from_threads
        self._calls = Calls(*map(outside, (_refuse_upgrade, _refuse_restart, logfile.reopen)))
        if hub is None and sys.platform == "win32":
            self._interrupt = _interrupting_and_setting(self._interrupt, end)

    def prepare(self, loops: Loops) -> None:
        """Called by the main thread before the loops turn. A lifespan or hook may have handled signals until now."""
        self._signals.reassert()
        self._serves = True
        if self._announced.begun:
            loops.say_close()

    def attach(self, loops: Loops) -> None:
        """Called by the main thread when the loops run."""
        self._loops = loops
        self.prepare(loops)  # again: a message may have come in between
        self._successors.tell(loops)
        self._successors.adopt(loops)

    def note_look(self) -> None:
        """A loop has looked at its requests: while some run, this thread watches the clock. The owners of the loops
        call this, one at a time.

        With gevent and tasks the owner is the main thread, which also runs the application. A view may have reset a
        signal, as an asyncio event loop does at its end, and a task may have taken one.
        """
        if self._main.is_current():
            self._signals.reassert()
        busy = self._loops is not None and self._loops.busy
        if busy and not self._was_busy:
            self._signals.wake()
        self._was_busy = busy

    def _obey(self, verb: str, channel: Any, names: Sequence[str]) -> None:
        if verb == "adopt":
            self._successors.channels.append(channel)
            self._successors.adopt(self._loops)
            channel = None  # a replacement gives nothing back through it
        if self._parent is None and UPGRADE in names:
            self._calls.refuse_upgrade()
        if self._parent is None and HANGUP in names:
            if self._has_terminal and not has_terminal():
                names = [*names, GRACEFUL_SIGNALS[0]]  # the terminal is closed: no one there can stop this server
            else:
                self._calls.refuse_restart()
        if verb == "dump" and self._parent is not None:
            self._parent.dump(self._describe())
        if verb == "profile" and self._parent is not None:
            sampling.start(self._parent.profile)
        if verb in {"profile_end", "gone"}:
            sampling.stop()
        if verb == "reopen" or REOPEN in names:
            self._calls.reopen()
        if verb == "announce_drain":
            self._announce_drain(until=inf)
        interrupted = any(name in QUICK_SIGNALS for name in names)
        if verb == "quit" or interrupted or self._ends_early(verb, names):
            if channel is not None:
                self._successors.pass_on(channel)
            self._quit(by_sigint=interrupted and verb != "quit")
        elif verb in {"drain", "drain_shared", "gone"} or self._shall_drain(
            sum(name in GRACEFUL_SIGNALS for name in names)
        ):
            self._arm(self._graceful_timeout + lastword.LAST_WORD)
            self._successors.replacement = channel
            self._successors.share_listeners = verb == "drain_shared"
            if self._loops is not None:
                self._successors.tell(self._loops)
            self._set_end()

    def _ends_early(self, verb: str, names: Sequence[str]) -> bool:
        """Whether the end was asked for before anything was served, so that there is nothing to finish.

        After the parent has announced the drain, a worker leaves signals to the parent.
        """
        if self._serves:
            return False
        asked = verb in {"drain", "drain_shared", "gone"}
        return asked or (not self._announced.begun and any(name in GRACEFUL_SIGNALS for name in names))

    def _shall_drain(self, signals: int) -> bool:
        """Whether the graceful shutdown begins now: after so many signals for it, or after the announced time."""
        if self._loops is None:
            return signals > 0 and not self._announced.begun
        announced = self._announced
        if not announced.delay:
            return signals > 0
        if signals and not announced.begun:
            self._announce_drain(until=clock() + announced.delay)
            signals -= 1
        if announced.at == inf or not (signals or clock() >= announced.at):
            return False
        announced.at = inf
        return True

    def _announce_drain(self, until: float) -> None:
        self._announced.begun, self._announced.at = True, until
        if self._loops is not None:
            self._loops.say_close()

    def _is_starting(self) -> bool:
        return self._parent is not None and self._loops is None

    def _on_pause(self, seconds: float) -> None:
        super()._on_pause(seconds)
        if self._loops is not None:
            self._loops.excuse(seconds)

    def _time_left(self) -> float | None:
        left = super()._time_left()
        if self._loops is None or not self._loops.busy:
            return left
        return LONGEST_STEP if left is None else min(LONGEST_STEP, left)

    def _describe(self) -> str:
        hub = self._main.hub
        try:
            return describe_self(self.engine(), None if hub is None else hub.greenlets)
        except Exception as error:  # a stack that changes while it is looked at; the thread must live on
            return f"the stacks cannot be shown: {error!r}"

    def _due(self) -> float:
        return self._announced.at if self._announced.at < inf else super()._due()


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
