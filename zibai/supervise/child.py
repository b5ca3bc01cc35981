"""A worker as its parent sees it: one process, from its start to its end."""

import errno
import multiprocessing
import os
import signal
import socket
import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection
from typing import TYPE_CHECKING, Any, Literal, NamedTuple
from weakref import WeakSet

from ..clock import clock
from ..logger import logger
from ..system import machine, terminal
from ..system.signals import hold_signals_back, signals_held_back
from ..system.usage import Usage, usage
from ..telemetry.scoreboard import Row, black_box
from . import messages as pipes
from . import output
from .output import Outlet
from .sentinel import Sentinel, watch_child
from .sharing import Parcel

if TYPE_CHECKING and sys.platform == "win32":
    from multiprocessing.connection import PipeConnection
else:
    PipeConnection = Connection
from .pipe import Message, Parent

Method = Literal["spawn", "fork"]


BIRTH = 3.0
"""Seconds that a forked worker has to show that it hangs in no lock; it takes a millisecond."""


class Ending(NamedTuple):
    """How a worker ended, in words; whether that was in order; and what it was at, in more lines."""

    reason: str
    clean: bool = False
    story: str = ""


class Child:
    """The parent's end: one worker process. Every method is the parent's main thread's.

    ``row`` is the worker's in the scoreboard, which is read when it cannot speak any more. ``outlet``, if there is one,
    goes to the worker. ``make`` makes the process, or what is like one. ``cedes`` says, when it is to drain, whether
    another server accepts from the same listeners.
    """

    def __init__(
        self,
        target: Callable[..., None],
        args: tuple[Any, ...],
        row: Row | None = None,
        *,
        method: Method = "spawn",
        outlet: Outlet | None = None,
        make: Callable[..., Any] | None = None,
    ) -> None:
        self.row = row
        self._outlet = outlet
        self._spawned = method == "spawn"
        context: Any = multiprocessing.get_context(method)
        self._oom_kills: int | None = None  # that the kernel had counted when it started
        self._killed = False  # by us
        self._pid: int = 0
        self._sentinel: Sentinel | None = None
        self.pipe, self._far = context.Pipe()
        self._inbox = pipes.Inbox(self.pipe)
        self.speaks = True  # until its end of the pipe is closed
        self.cedes: Callable[[], bool] = lambda: False
        args = (Parent(self._far, clock(), outlet, hears_ctrl_c=terminal.hears_ctrl_c()), *args)
        if not self._spawned:
            _relatives.add(self)
            target, args = _forked, (target, *args)
        elif make is None:
            target, args = _in_order, (target, *args)
        if self._spawned and sys.platform == "win32":
            target, args = Parcel(target, args), ()
        # Not daemonic: a worker may want children of its own.
        self._process = (make or context.Process)(target=target, args=args, name="zibai worker")

    def start(self) -> None:
        """Start it; OSError when the system has no room for another process, or it hangs from the start."""
        self._oom_kills = machine.oom_kills()
        try:
            with _signals_held_back(self._spawned):
                self._process.start()
            self._pid = self._process.pid or 0
            self._sentinel = self._watch()
        except BaseException:
            self.pipe.close()
            raise
        finally:
            self._far.close()  # the worker's alone from now on, so that its death closes it
            if self._outlet is not None:
                self._outlet.close()
        if not self._spawned:
            self._await_birth()

    def _await_birth(self) -> None:
        if self.pipe.poll(BIRTH):
            with suppress(EOFError, OSError):  # it has died instead, which its sentinel tells
                self.pipe.recv()
            return
        self._process.kill()
        self._process.join()
        self.close()
        raise OSError("it was forked while another thread held a lock, and hangs in that")

    @property
    def pid(self) -> int:
        """Also when it is closed, for who looks on from another thread."""
        return self._pid or int(self._process.pid or 0)

    @property
    def known_pid(self) -> int:
        """The same for any thread, perhaps a moment late."""
        return self._pid

    def _watch(self) -> Sentinel | None:
        return watch_child(self._pid)

    @property
    def sentinel(self) -> int:
        """What :func:`multiprocessing.connection.wait` finds ready when the process is gone."""
        return int(self._process.sentinel) if self._sentinel is None else self._sentinel.fd

    def beat(self) -> float | None:
        """When it last said that its loop turns; None when that is not known."""
        return (self.row and self.row.read().beat) or None

    def burns(self) -> bool:
        """Whether it has used the processor since its last beat, or the system does not tell."""
        used = machine.cpu_time(self.pid)
        if used is None or self.row is None:
            return True
        report = self.row.read()
        return used - report.cpu > (clock() - report.beat) / 20

    def usage(self) -> Usage:
        """What it takes of the machine."""
        return usage(self.pid)

    def ending(self) -> Ending:
        """How it ended; once its sentinel is ready."""
        self._process.join()
        code = self._process.exitcode
        story = black_box(self.row.read()) if self.row is not None else ""
        if code is None:
            # The process that could tell is gone, or this process ignores SIGCHLD. Taken for an orderly end.
            return Ending("ended, and nobody knows how", True, story)
        if sys.platform == "win32":
            reason, clean = machine.windows_exit(code)
            return Ending(reason, clean, story)
        if code >= 0:
            return Ending(f"ended with exit code {code}", not code, story)
        try:
            reason = f"was killed by {signal.Signals(-code).name}"
        except ValueError:
            reason = f"was killed by signal {-code}"
        before, after = self._oom_kills, machine.oom_kills()
        counted = before is not None and after is not None and after > before
        if counted and reason.endswith("SIGKILL") and not self._killed:
            reason += " because memory ran out (the kernel has counted an out-of-memory kill)"
        return Ending(reason, False, story)

    def receive(self) -> Iterator[Message]:
        """What the worker has said; ends at once when it has said nothing."""
        try:
            for message in self._inbox.receive():
                yield Message(*message)
        except (EOFError, OSError):
            self.speaks = False  # it is about to go; its sentinel says when

    def lame(self) -> None:
        """Serve on, but say close in each answer."""
        self._send("lame")

    def drain(self, heir: "Child | None" = None) -> None:
        """Finish what is in flight, then end. ``heir`` gets the idle connections, where sockets can be handed over.

        The two workers get the ends of a channel for that, so that nothing of it passes through the parent, which
        could be blocked by a worker that does not read.
        """
        if heir is None or sys.platform == "win32":
            self._must_hear("cede" if self.cedes() else "drain")
            return
        giving, taking = socket.socketpair()
        with giving, taking:
            heir._send("adopt", taking)
            self._must_hear("drain", giving)

    def quit(self) -> None:
        """End now."""
        self._must_hear("quit")

    def reopen(self) -> None:
        """Reopen the log files."""
        self._send("reopen")

    def kill(self) -> None:
        """For one that does not listen any more."""
        self._killed = True
        self._process.kill()

    def _must_hear(self, verb: str, channel: socket.socket | None = None) -> None:
        if not self._send(verb, channel):
            logger.error("worker %d reads nothing of what the parent tells it, and is killed", self.pid)
            self.kill()

    def _send(self, verb: str, channel: socket.socket | None = None) -> bool:
        """Tell the worker, without waiting for it. Returns False if its pipe is full, since it reads nothing."""
        fds = [] if channel is None else [channel.fileno()]
        try:
            pipes.send(self.pipe, Message(verb, "with a channel" if channel else ""), fds)
        except pipes.HalfSent:
            self.kill()  # it would wait for the descriptor for ever, and hear nothing more
        except BlockingIOError:
            return False
        except OSError:
            pass  # it is gone already, or will be before it could make use of it
        return True

    def close(self) -> None:
        """Forget a worker whose process has ended."""
        self.pipe.close()
        if self._sentinel is not None:
            self._sentinel.close()
        with suppress(ValueError):  # multiprocessing does not know that it has ended, where SIGCHLD is ignored
            self._process.close()


# While a worker has a copy of the parent's end of a sibling's pipe, the sibling does not learn that the parent is gone.
_relatives: WeakSet[Child] = WeakSet()


def _in_order(target: Callable[..., None], parent: "Parent", *args: Any) -> None:
    """Run ``target`` in a worker process, and wait for the application's threads before its child processes.

    ``multiprocessing`` itself waits for child processes first. Those of a ``ProcessPoolExecutor`` only end when a
    thread of the pool tells them to, and that thread only does so when the threads are shut down.
    """
    try:
        target(parent, *args)
    finally:
        threading._shutdown()  # type: ignore[attr-defined]


def _forked(target: Callable[..., None], parent: "Parent", *args: Any) -> None:
    """The beginning of a worker that was forked: hang now or never, and close what is the parent's alone."""
    os.strerror(errno.ENOENT)  # behind the lock of the locale
    parent.born()
    for child in _relatives:
        child.pipe.close()
    output.let_go()
    _in_order(target, parent, *args)


def reap_strangers(workers: set[int]) -> None:
    """Let go of the dead processes that are not workers; process 1 inherits the orphans of its whole container.

    A worker is left as it is: how it ended is asked where its sentinel is heard. Containers are Linux.
    """
    if sys.platform != "linux":
        return
    while True:
        try:
            dead = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
            if dead is None or dead.si_pid in workers:
                return  # others behind this worker are let go when it has been
            os.waitpid(dead.si_pid, os.WNOHANG)
        except ChildProcessError:
            return


@contextmanager
def _signals_held_back(spawning: bool = True) -> Iterator[None]:
    """Hold signals back while a worker is started.

    It inherits the mask, so a Ctrl-C at the terminal, which goes to the whole group, does not meet a worker whose
    handlers are not there yet and kill it with a traceback; :class:`Signals` lets them through. On Windows this can be
    had for Ctrl-C alone, and :meth:`Parent.hear_ctrl_c` lets it through.
    """
    with signals_held_back(), terminal.ctrl_c_held_back():
        if spawning:
            start_helper()
        yield


def start_helper() -> None:
    """Start the resource tracker of ``multiprocessing``, if it does not run, before the first spawn does.

    It inherits the mask, so that no signal to the whole group ends it: it ignores only two of them itself. If something
    else has ended it, ``multiprocessing`` would warn of lost resources, and a warning may be an error; there are none.
    """
    if sys.platform == "win32":
        return
    with signals_held_back():
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            resource_tracker.ensure_running()
        hold_signals_back()  # starting it has let two signals through again
