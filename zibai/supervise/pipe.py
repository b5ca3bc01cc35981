"""The worker's end of the pipe to its parent, and the messages that go through it.

The parent's view of a worker (:class:`~zibai.supervise.child.Child`) and the worker's view of its parent
(:class:`Parent`) share no code but :class:`Message`, whose table of verbs holds for both ends. The pipe also tells
either process of the death of the other: the system closes its other end, however the process died.

Workers are spawned on every system, so they inherit nothing by accident: ``multiprocessing`` passes the listeners on
POSIX, and :mod:`zibai.supervise.sharing` does on Windows. Only a function that cannot be sent, for example one that was
typed at a prompt, is forked. The forked worker first closes the descriptors that it has inherited, and sends
``started``. A fork copies the locks that other threads hold at that moment, and no thread ever releases the copies. For
example, the prompt's thread holds the lock of the C library's locale while readline begins and ends a line. A worker
forked then would hang at its first OSError, whose text needs that lock.
"""

import json
import socket
import sys
from _thread import allocate_lock
from contextlib import AbstractContextManager, closing, nullcontext, suppress
from functools import partial
from multiprocessing.connection import Connection
from typing import TYPE_CHECKING, Any, NamedTuple

from ..errors import LoadError
from ..system import terminal
from ..system.signals import hear_of_children
from .messages import Socket, as_socket
from .output import Outlet
from .sentinel import close_for_programs

if TYPE_CHECKING and sys.platform == "win32":
    from multiprocessing.connection import PipeConnection
else:
    PipeConnection = Connection


class Message(NamedTuple):
    """One message: a verb, and for ``failed`` and ``shows`` the text for the user. ``text`` of ``imports`` is JSON.

    From the parent to the worker:

    - ``announce_drain``: send ``Connection: close`` in each response, since a graceful shutdown comes
    - ``drain``: begin the graceful shutdown; perhaps with a channel to the replacement
    - ``drain_shared``: the same, while another server accepts from the same listeners
    - ``quit``: exit at once
    - ``adopt``: take connections from the channel that comes along
    - ``reopen``: reopen the log files
    - ``dump``: send all stacks
    - ``profile``: start to sample the stacks
    - ``profile_end``: stop that, and send the profile

    From the worker to the parent:

    - ``started``: a forked worker runs
    - ``ready``, ``failed``: the worker serves, or cannot serve
    - ``imports``: before ``ready``, the folders from which the application imports; see ``zibai.server.watching``
    - ``shows``: before ``ready``, the worker serves only a page that shows why it fails
    - ``heartbeats``: a supervised function has sent its first heartbeat, and is watched from now on
    - ``max_requests``: the worker has served its maximum of requests, and asks for a replacement
    - ``dump``: all stacks, in ``text``
    - ``profile``: a piece of the profile; ``trace`` is empty with the last piece
    - ``hung``: a request has run for too long, and the worker asks for a replacement
    """

    verb: str
    text: str = ""
    trace: str = ""


class Parent:
    """The worker's end. Only the control thread calls ``receive``; any thread may send.

    ``since`` is when the worker was started, by :mod:`zibai.clock`. ``outlet`` takes the worker's output, if that is
    captured. ``hears_ctrl_c`` says whether the parent reacts to Ctrl-C.
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

    def set_up_process(self, *, detached: bool = False, stdin: terminal.Stdin | None = None) -> None:
        """The first step of a worker or loader: its terminal, standard input and standard output.

        ``detached``: the terminal's Ctrl-C does not reach it.
        """
        if detached:
            terminal.leave()
        if stdin is not None:
            stdin.restore()
        if self.outlet is not None:
            self.outlet.redirect()

    def uncaptured(self) -> AbstractContextManager[None]:
        """Around the configuration of logging, whose handlers must not write to the captured standard error."""
        return nullcontext() if self.outlet is None else self.outlet.uncaptured()

    def hear_ctrl_c(self) -> None:
        """React to Ctrl-C from now on, as the parent does. On Windows a worker starts with Ctrl-C ignored."""
        if self._hears_ctrl_c:
            terminal.hear_ctrl_c()

    def started(self) -> None:
        """Say that this forked worker runs."""
        self._send(Message("started"))

    def ready(self) -> None:
        """Say that this worker serves."""
        self._send(Message("ready"))

    def reached_max_requests(self) -> None:
        """Say that this worker has served its maximum of requests, and ask for a replacement."""
        self._send(Message("max_requests"))

    def sends_heartbeats(self) -> None:
        """Say that this worker has sent its first heartbeat, which a supervised function need not do."""
        self._send(Message("heartbeats"))

    def hung(self) -> None:
        """Say that a request has run for too long, and ask for a replacement."""
        self._send(Message("hung"))

    def dump(self, text: str) -> None:
        """Send all stacks of this process."""
        self._send(Message("dump", text))

    def profile(self, piece: str, more: str) -> None:
        """Send a piece of a profile; ``more`` is empty with the last one."""
        self._send(Message("profile", piece, more))

    def imports(self, folders: list[tuple[str, bool]], since: float) -> None:
        """Tell where the application has imported from, and since when."""
        self._send(Message("imports", json.dumps([folders, since])))

    def failed(self, error: LoadError) -> None:
        """Say why this worker cannot serve. The parent tells the user, once for all workers."""
        self._send(Message("failed", str(error), error.trace))

    def shows(self, error: LoadError) -> None:
        """Say that this worker serves only a page with this error, which it has logged."""
        self._send(Message("shows", str(error), error.trace))

    def _send(self, message: Message) -> None:
        with self._lock, suppress(OSError):  # the parent is gone; the control thread notices that and ends this process
            self.pipe.send(message)

    def receive(self) -> tuple[str, Socket | None]:
        """The verb that has arrived, and the channel to another worker if one comes along.

        The verb is "gone" when the parent is gone.
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
    """Called first in a spawned worker or loader, before anything of the application is imported."""
    close_for_programs()
    hear_of_children()
    return Parent(pipe, since, outlet, hears_ctrl_c=hears_ctrl_c)
