"""A loader, the process that imports once and forks workers, as its parent sees it; and the words between the two."""

import socket
from collections.abc import Callable, Sequence
from contextlib import closing, suppress
from multiprocessing.connection import wait
from typing import Any, NamedTuple, Protocol

from . import messages as pipes
from .child import Child
from .messages import as_socket
from .output import Outlet


class Order(NamedTuple):
    """From the parent to a loader. ``serial`` names the worker that it is about.

    - ``fork``: fork a worker. Two descriptors come along: the worker's end of its pipe, and the far end of the pipe
      whose closing tells that the worker is gone; and perhaps a third one, for what the worker prints.
    - ``cancel``: a ``fork`` that has not been carried out is not wanted any more
    - ``status``: how has a worker that is gone ended?
    - ``stop_listening``: close the listeners
    - ``reopen``: reopen the log files
    """

    verb: str
    serial: int = 0
    number: int | None = None  # of the worker's row
    since: float = 0.0


class Fact(NamedTuple):
    """From a loader to the parent.

    - ``forked``, with the process id
    - ``ended``, with the exit code, or None where that is not known
    """

    verb: str
    serial: int
    value: int | None


class Noting(Protocol):
    """What notes the facts about one worker; see :class:`zibai.supervise.forked.Fork`."""

    def note(self, fact: Fact) -> None: ...


class Loader(Child):
    """A loader process. ``forks`` are its workers, forked or only ordered, by the serials of their orders."""

    def __init__(
        self, target: Callable[..., None], args: tuple[Any, ...], serial: int, outlet: Outlet | None = None
    ) -> None:
        super().__init__(target, args, outlet=outlet)
        self.serial = serial
        self.forks: dict[int, Noting] = {}
        self.proven = False  # a worker of it was ready
        self.leaving = False  # it has been told to end
        self.end_noticed = False

    def lives(self) -> bool:
        """Whether its process runs."""
        return not wait([self.sentinel], 0)

    @property
    def exitcode(self) -> int | None:
        """The exit code of a loader that is gone."""
        self._process.join()
        code: int | None = self._process.exitcode
        return code

    def order(self, order: Order, fds: Sequence[int] = ()) -> None:
        """Send an order, without waiting for the loader. OSError if it is gone, or has stopped reading."""
        try:
            pipes.send(self.pipe, order, fds)
        except pipes.HalfSent:
            self.kill()  # it would wait for the descriptors for ever
            raise

    def hear(self, timeout: float = 0.0) -> bool:
        """Note the facts that it has sent. Returns False without any; ``speaks`` tells afterwards whether it lives."""
        said = False
        try:
            if not self.pipe.poll(timeout):
                return False
            for fact in self._inbox.receive():
                said = True
                if (fork := self.forks.get(fact.serial)) is not None:
                    fork.note(fact)
        except (EOFError, OSError):
            self.speaks = False
        return said

    def leave(self) -> None:
        """Tell it to end when its workers have ended. It may send facts until then."""
        if not self.leaving:
            self.leaving = True
            with closing(as_socket(self.pipe)) as sock, suppress(OSError):
                sock.shutdown(socket.SHUT_WR)
