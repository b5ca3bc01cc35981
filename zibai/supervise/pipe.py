"""The pipe between parent and worker, and the signals that reach either.

The parent's view of a worker (:class:`Child`) and the worker's view of its parent (:class:`Parent`) share no code but
the vocabulary of the pipe, so that a reader always knows on which side he is. Down the pipe go the two ways to end,
``drain`` (``cede``, where another server has the same listeners) and ``quit``, and ``lame``, which comes before the
first; and ``adopt`` and ``reopen``. Up go ``ready``, ``failed``, ``worn``, ``stuck`` and ``beats``. The pipe also
carries death, both ways: its other end is closed by the system, whatever happened to the process that held it.

Workers are spawned on every system, so they inherit nothing by accident: listeners are handed over by
``multiprocessing`` on POSIX and by :mod:`zibai.supervise.sharing` on Windows. Only what cannot be sent, such as a
function that was typed at a prompt, is forked: then a worker has to let go of what it has inherited (:func:`_forked`),
and says ``born`` first of all. A fork copies the locks that other threads hold at that moment, and nobody will ever let
go of the copies: the prompt's thread holds that of the C library's locale while readline begins and ends a line, and
the worker would wait for it at its first OSError, for the text of that.
"""

import _socket
import socket
import sys
from _thread import allocate_lock
from collections.abc import Callable
from contextlib import closing, suppress
from functools import partial
from multiprocessing.connection import Connection
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from ..clock import clock
from ..errors import LoadError
from ..system import terminal
from ..system.signals import hear_of_children
from .messages import as_socket
from .output import Outlet
from .sentinel import close_for_programs

if TYPE_CHECKING and sys.platform == "win32":
    from multiprocessing.connection import PipeConnection
else:
    PipeConnection = Connection

# The C type: the control thread of a worker makes some, where gevent's would make a hub for that thread.
Socket = _socket.socket


class Message(NamedTuple):
    """What goes through the pipe: a verb, and for ``failed`` what to tell the user."""

    verb: str
    text: str = ""
    trace: str = ""


STEP: Final = 2.0
"""Seconds to wait at most before looking at the clock, with a deadline to keep."""

LATE: Final = 1.0
"""Seconds that a process may run late on a busy machine before it counts as stopped for that time."""


def wait_in_step(wait: Callable[..., list[Any]], sources: list[Any], timeout: float | None) -> tuple[list[Any], float]:
    """One step of a wait for ``timeout`` seconds: what is ready, and for how long this process was stopped meanwhile.

    A container may be paused, a laptop closed, a process stopped. Then the clock goes on, and nobody is to blame.
    Nothing tells when a pause began, so all of the step is taken for it.
    """
    if timeout is None:
        return wait(sources, None), 0.0
    step = min(timeout, STEP)
    before = clock()
    ready = wait(sources, step)
    taken = clock() - before
    return ready, taken if taken > step + LATE else 0.0


class Parent:
    """The worker's end. ``receive`` is the control thread's; what is said, any thread may say.

    ``since`` is when the worker was started, by the scoreboard's clock; ``outlet`` where what it prints goes, if that
    is captured. ``hears_ctrl_c`` says whether the parent does.
    """

    def __init__(
        self,
        pipe: "Connection[Message, Message] | PipeConnection[Message, Message]",
        since: float,
        outlet: Outlet | None = None,
        *,
        hears_ctrl_c: bool = True,
    ) -> None:
        self.pipe = pipe
        self.since = since
        self.outlet = outlet
        self._hears_ctrl_c = hears_ctrl_c
        self._lock = allocate_lock()  # one message after the other

    def __reduce__(self) -> Any:
        return partial(_arrive, hears_ctrl_c=self._hears_ctrl_c), (self.pipe, self.since, self.outlet)

    def hear_ctrl_c(self) -> None:
        """Hear Ctrl-C from now on, as the parent does; on Windows a worker starts without."""
        if self._hears_ctrl_c:
            terminal.hear_ctrl_c()

    def born(self) -> None:
        """Say that this worker, a fork, runs."""
        self._send(Message("born"))

    def ready(self) -> None:
        """Say that this worker serves."""
        self._send(Message("ready"))

    def worn(self) -> None:
        """Say that this worker has served as many requests as it may, and wants to be replaced."""
        self._send(Message("worn"))

    def beats(self) -> None:
        """Say that this worker has beaten for the first time, which a supervised function need not do."""
        self._send(Message("beats"))

    def stuck(self) -> None:
        """Say that a request has run for longer than it may, and that this worker wants to be replaced."""
        self._send(Message("stuck"))

    def failed(self, error: LoadError) -> None:
        """Say why this worker cannot serve. The parent tells the user, once for all workers."""
        self._send(Message("failed", str(error), error.trace))

    def _send(self, message: Message) -> None:
        with self._lock, suppress(OSError):  # the parent is gone; the control thread learns it, too, and ends us
            self.pipe.send(message)

    def receive(self) -> tuple[str, Socket | None]:
        """The verb that has arrived, one of those above.

        With it, a channel to another worker if one comes along. The verb is "gone" when the parent is.
        """
        try:
            message = Message(*self.pipe.recv())
            if not message.text or sys.platform == "win32":
                return message.verb, None
            with closing(as_socket(self.pipe)) as sock:
                fds = socket.recv_fds(sock, 1, 1)[1]
            return message.verb, Socket(fileno=fds[0])
        except (EOFError, OSError):
            return "gone", None


def _arrive(
    pipe: "Connection[Message, Message] | PipeConnection[Message, Message]",
    since: float,
    outlet: Outlet | None,
    hears_ctrl_c: bool = True,
) -> Parent:
    """Called first of all in a spawned worker or loader, before anything of the application is imported."""
    close_for_programs()
    hear_of_children()
    return Parent(pipe, since, outlet, hears_ctrl_c=hears_ctrl_c)
