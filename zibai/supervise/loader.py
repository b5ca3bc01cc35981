"""A loader, as its parent sees it, and the messages between the two. It imports once and forks workers."""

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
    """From the parent to a loader. ``serial`` identifies the worker.

    - ``fork``: fork a worker. Two descriptors come along: the worker's end of its pipe, and the far end of the pipe
      that closes when the worker is gone. There may be a third one, for the worker's output.
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
    """An object that notes the facts about one worker; see :class:`zibai.supervise.forked.Fork`."""

    def note(self, fact: Fact) -> None: ...


class Loader(Child):
    """A loader process. ``forks`` are its workers, forked or only ordered, by the serials of their orders."""

    def __init__(
        self, target: Callable[..., None], args: tuple[Any, ...], serial: int, outlet: Outlet | None = None
    ) -> None:
        super().__init__(target, args, outlet=outlet)
        self.serial = serial
        self.forks: dict[int, Noting] = {}
        self.proven = False  # whether a worker of it was ready
        self.leaving = False  # whether it has been told to end
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
        """Note the facts that it has sent; False if there are none. After that, ``speaks`` tells whether it lives."""
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
