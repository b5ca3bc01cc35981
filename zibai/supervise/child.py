"""A worker as its parent sees it: one process, from its start to its end."""

import multiprocessing
import signal
import socket
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any, Literal, NamedTuple, TypeVar

from ..clock import clock
from ..logger import logger
from ..system import machine, terminal
from ..system.usage import Usage, usage
from ..telemetry.scoreboard import Rows, black_box
from . import messages as pipes
from . import starting
from .output import Collector, Outlet
from .pipe import Message, Parent
from .sentinel import Sentinel, watch_child
from .sharing import Parcel

Method = Literal["spawn", "fork"]


START_LIMIT = 3.0
"""Seconds that a forked worker has to show that it does not hang in a lock; it takes a millisecond."""


class Ending(NamedTuple):
    """How a worker ended, in words; whether that was in order; and, in further lines, what it was doing.

    ``cause`` is the name of its counter (:data:`zibai.telemetry.totals.EVENTS`).
    """

    reason: str
    clean: bool = False
    story: str = ""
    cause: str = "signal"


class Child:
    """The parent's end of one worker process. Only the parent's main thread calls its methods.

    ``row`` is the worker's part of the scoreboard; it is read after a worker has died. ``outlet``, if there is one, is
    passed to the worker. ``make`` makes the process, or an object that behaves like one. ``shares_listeners`` tells,
    when the worker drains, whether another server accepts from the same listeners.
    """

    def __init__(
        self,
        target: Callable[..., None],
        args: tuple[Any, ...],
        row: Rows | None = None,
        *,
        method: Method = "spawn",
        outlet: Outlet | None = None,
        make: Callable[..., Any] | None = None,
    ) -> None:
        self.row = row
        self._outlet = outlet
        self._spawned = method == "spawn"
        context: Any = multiprocessing.get_context(method)
        self._oom_kills: int | None = None  # the kernel's count when it started
        self._killed = False  # by this process
        self._pid: int = 0
        self._sentinel: Sentinel | None = None
        self.pipe, self._far = context.Pipe()
        self._inbox = pipes.Inbox(self.pipe)
        self.speaks = True  # until its end of the pipe is closed
        self.shares_listeners: Callable[[], bool] = lambda: False
        args = (Parent(self._far, clock(), outlet, hears_ctrl_c=terminal.hears_ctrl_c()), *args)
        if not self._spawned:
            starting.close_in_forks(self.pipe)
            target, args = starting.run_forked, (target, *args)
        elif make is None:
            target, args = starting.run, (target, *args)
        if self._spawned and sys.platform == "win32":
            target, args = Parcel(target, args), ()
        # Not daemonic: a worker may want children of its own.
        self._process = (make or context.Process)(target=target, args=args, name="zibai worker")

    def start(self) -> None:
        """Start it. OSError when the system has no room for another process, or the new process hangs at once."""
        self._oom_kills = machine.oom_kills()
        try:
            with starting.signals_held_back(self._spawned):
                self._process.start()
            self._pid = self._process.pid or 0
            self._sentinel = self._watch()
        except BaseException:
            self.pipe.close()
            raise
        finally:
            self._far.close()  # only the worker has it from now on, so its death closes it
            if self._outlet is not None:
                self._outlet.close()
        if not self._spawned:
            self._await_start()

    def _await_start(self) -> None:
        if self.pipe.poll(START_LIMIT):
            with suppress(EOFError, OSError):  # it has died, which its sentinel reports
                self.pipe.recv()
            return
        self._process.kill()
        self._process.join()
        self.close()
        raise OSError("the forked worker hangs, since another thread held a lock at the fork")

    @property
    def pid(self) -> int:
        """The process id; valid after ``close()`` as well, since other threads may still show it."""
        return self._pid or int(self._process.pid or 0)

    @property
    def known_pid(self) -> int:
        """The same for any thread, perhaps a moment late."""
        return self._pid

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.known_pid}>"

    def _watch(self) -> Sentinel | None:
        return watch_child(self._pid)

    @property
    def sentinel(self) -> int:
        """A descriptor or handle that becomes ready when the process is gone."""
        return int(self._process.sentinel) if self._sentinel is None else self._sentinel.fd

    def beat(self) -> float | None:
        """The time of its last heartbeat; None without one."""
        return (self.row and self.row.pulse()[0]) or None

    def uses_processor(self) -> bool:
        """Whether it has used the processor since its last heartbeat, or the system does not tell."""
        used = machine.cpu_time(self.pid)
        if used is None or self.row is None:
            return True
        beat, then = self.row.pulse()
        return used - then > (clock() - beat) / 20

    def usage(self) -> Usage:
        """Memory and descriptors of the process."""
        return usage(self.pid)

    def ending(self) -> Ending:
        """How it ended. Call this only when its sentinel is ready."""
        self._process.join()
        code = self._process.exitcode
        story = black_box(self.row.read()) if self.row is not None else ""
        if code is None:
            # The loader, which would know, is gone, or this process ignores SIGCHLD. It counts as an orderly end.
            return Ending("ended in an unknown way", True, story, "stopped")
        if sys.platform == "win32":
            reason, clean = machine.windows_exit(code)
            return Ending(reason, clean, story, "killed" if self._killed else "stopped" if clean else "exit")
        if code >= 0:
            return Ending(f"ended with exit code {code}", not code, story, "exit" if code else "stopped")
        try:
            reason = f"was killed by {signal.Signals(-code).name}"
        except ValueError:
            reason = f"was killed by signal {-code}"
        before, after = self._oom_kills, machine.oom_kills()
        counted = before is not None and after is not None and after > before
        if counted and reason.endswith("SIGKILL") and not self._killed:
            reason += " because memory ran out (the kernel has counted an out-of-memory kill)"
            return Ending(reason, False, story, "memory")
        return Ending(reason, False, story, "killed" if self._killed else "signal")

    def receive(self) -> Iterator[Message]:
        """The messages of the worker that are there; does not wait."""
        try:
            for message in self._inbox.receive():
                yield Message(*message)
        except (EOFError, OSError):
            self.speaks = False  # it is about to end, which its sentinel will report

    def announce_drain(self) -> None:
        """Tell it to go on serving, with ``Connection: close`` in each response."""
        self._send("announce_drain")

    def drain(self, replacement: "Child | None" = None) -> None:
        """Tell it to finish its requests, then end.

        ``replacement`` takes over the idle connections, where sockets can be passed between processes. The two workers
        get the ends of a channel for that. The connections do not pass through the parent, which a worker that does not
        read could block.
        """
        if replacement is None or sys.platform == "win32":
            # A replacement accepts from the same listeners, where no socket can be passed to it.
            shared = replacement is not None or self.shares_listeners()
            self._send_or_kill("drain_shared" if shared else "drain")
            return
        giving, taking = socket.socketpair()
        with giving, taking:
            replacement._send("adopt", taking)
            self._send_or_kill("drain", giving)

    def quit(self) -> None:
        """Tell it to end now."""
        self._send_or_kill("quit")

    def reopen(self) -> None:
        """Tell it to reopen the log files."""
        self._send("reopen")

    def dump(self) -> bool:
        """Ask for all stacks; they come as a message. Returns False if the worker does not read."""
        return self._send("dump")

    def profile(self, begins: bool) -> bool:
        """Start or stop the sampling of stacks; the result comes in messages. False if the worker does not read."""
        return self._send("profile" if begins else "profile_end")

    def kill(self) -> None:
        """End a worker that does not listen any more."""
        self._killed = True
        self._process.kill()

    def _send_or_kill(self, verb: str, channel: socket.socket | None = None) -> None:
        if not self._send(verb, channel):
            logger.error("worker %d killed: it does not read the messages of the parent", self.pid)
            self.kill()

    def _send(self, verb: str, channel: socket.socket | None = None) -> bool:
        """Send without waiting for the worker. Returns False if the pipe is full, since the worker does not read."""
        fds = [] if channel is None else [channel.fileno()]
        try:
            pipes.send(self.pipe, Message(verb, "with a channel" if channel else ""), fds)
        except pipes.HalfSent:
            self.kill()  # it would wait for the descriptor for ever, and read nothing more
        except BlockingIOError:
            return False
        except OSError:
            pass  # it is gone already, or will be before it can act on the message
        return True

    def close(self) -> None:
        """Release the resources of a worker whose process has ended."""
        self.pipe.close()
        if self._sentinel is not None:
            self._sentinel.close()
        with suppress(ValueError):  # multiprocessing does not know that it has ended, where SIGCHLD is ignored
            self._process.close()


AnyChild = TypeVar("AnyChild", bound=Child)


def start_captured(make: Callable[[Outlet | None], AnyChild], collector: Collector | None) -> AnyChild:
    """Make a process and start it. ``collector``, if there is one, takes what the process prints."""
    reader, outlet = (-1, None) if collector is None else collector.open()
    try:
        child = make(outlet)
        child.start()
    except BaseException:
        if collector is not None and outlet is not None:
            collector.discard(reader, outlet)
        raise
    if collector is not None:
        collector.attach(reader, lambda: child.known_pid)
    return child
