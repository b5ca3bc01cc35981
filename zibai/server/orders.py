"""The loader's end of the pipe to its parent: orders come in, facts go out.

:mod:`zibai.supervise.loader` has the messages and the other end.
"""

import os
import socket
import sys
from collections import deque
from contextlib import closing, suppress
from multiprocessing.connection import Connection
from os import close as close_fd  # gevent's leaves it to a hub that does not run here
from typing import Any, NamedTuple, cast

from ..errors import LoadError
from ..supervise.loader import Fact, Order
from ..supervise.messages import as_socket
from ..supervise.output import Outlet
from ..supervise.pipe import Parent


class Task(NamedTuple):
    """An order and the descriptors that came with it. ``close`` closes those that no worker has taken."""

    order: Order
    fds: list[int]

    def parent(self) -> Parent:
        """The worker's end of its pipe. It takes all descriptors but the second."""
        outlet = Outlet(self.fds.pop(2)) if len(self.fds) > 2 else None
        return Parent(Connection(self.fds.pop(0)), self.order.since, outlet)

    def close(self) -> None:
        """Close the descriptors that have not been taken."""
        while self.fds:
            close_fd(self.fds.pop())


class Orders(Parent):
    """The loader's end of its pipe, through which the parent sends orders.

    The control thread receives while the application loads, and the main thread when that thread has ended.
    """

    def __init__(self, parent: Parent) -> None:
        super().__init__(parent.pipe, parent.since, parent.outlet)
        self._started_at = parent.since
        self._tasks: deque[Task] = deque()

    @property
    def stopped(self) -> float:
        """Seconds for which this process was paused while it loaded. They do not count for its workers either."""
        return self.since - self._started_at

    def receive(self) -> tuple[str, None]:
        """For the control thread: "quit" when no ordered worker is wanted any more."""
        try:
            task = self._read()
        except (EOFError, OSError):
            return "quit", None
        if task.order.verb == "status":
            self.say(Fact("ended", task.order.serial, 0))  # it was cancelled
            return "", None
        if task.order.verb != "cancel":
            self._tasks.append(task)
            return "", None
        for cancelled in [each for each in self._tasks if each.order.serial == task.order.serial]:
            self._tasks.remove(cancelled)
            cancelled.close()
        return "" if self._tasks else "quit", None

    def next(self) -> Task | None:
        """For the main thread: wait for the next order; None when the parent is gone, or has no more orders."""
        if self._tasks:
            return self._tasks.popleft()
        try:
            return self._read()
        except (EOFError, OSError):
            return None

    def _read(self) -> Task:
        order = Order._make(cast("Any", self.pipe.recv()))
        fds: list[int] = []
        if order.verb == "fork" and sys.platform != "win32":
            with closing(as_socket(self.pipe)) as sock:
                fds = list(socket.recv_fds(sock, 1, 3)[1])
            for fd in fds:
                os.set_inheritable(fd, False)
        return Task(order, fds)

    def catch_up(self) -> None:
        """For the main thread: receive the orders that have already arrived."""
        with suppress(EOFError, OSError):
            while self.pipe.poll():
                self._tasks.append(self._read())

    def failed(self, error: LoadError) -> None:
        """Report the error to the parent in the place of each worker that was to be forked."""
        for task in self._tasks:
            if task.fds:
                task.parent().failed(error)

    def say(self, fact: Fact) -> None:
        """Tell the parent."""
        with suppress(OSError):  # the parent is gone, which next() notices
            self.pipe.send(cast("Any", fact))

    def close(self) -> None:
        """Close the pipes of the loader and of siblings, in a process that the loader or the application has forked."""
        self.pipe.close()
        while self._tasks:
            self._tasks.pop().close()
