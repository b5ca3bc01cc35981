"""A worker that a loader forks, as its parent sees it.

It is not a child process of the parent. Where the system can watch any process (:mod:`zibai.supervise.sentinel`), it
reports the worker's end. Elsewhere a pipe closes, whose far end only the worker holds. The worker is a child process of
the loader, which reports how the worker ended. If the loader is dead, that is not known.
"""

import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from itertools import count
from typing import Any, Final

from ..clock import clock
from ..telemetry.scoreboard import Rows
from .child import Child
from .loader import Fact, Loader, Order
from .output import Outlet
from .pipe import Message
from .sentinel import Sentinel, watch

REPLY: Final = 1.0
"""Seconds that a loader has to say how a worker ended; a loader does nothing else that takes time."""


class Fork:
    """A worker that a loader forks. It takes the place of the process in :class:`Child`, which reads these attributes.

    The loader has all ``args`` but two, which are sent: the worker's end of the pipe, and the number of its row.
    """

    _serials = count(1)

    def __init__(self, loader: Loader, *, target: Callable[..., None], args: tuple[Any, ...], name: str) -> None:
        self._loader = loader
        self._parent, self._number = args[0], args[-1]
        self._serial = next(self._serials)
        self._pid: int | None = None
        self._sentinel: Sentinel | None = None
        self._has_ended = False  # as the loader has said
        self.exitcode: int | None = None

    def start(self) -> None:
        """Order the fork. OSError if the loader is gone, or has stopped reading."""
        self._gone, far = os.pipe()
        self._loader.forks[self._serial] = self
        try:
            order = Order("fork", self._serial, self._number, self._parent.since)
            outlet = self._parent.outlet
            self._loader.order(order, [self._parent.pipe.fileno(), far, *([] if outlet is None else [outlet.fileno()])])
        except BaseException:
            self.close()
            raise
        finally:
            os.close(far)

    def note(self, fact: Fact) -> None:
        """The loader has forked it, or says how it ended."""
        if fact.verb == "forked" and fact.value:
            self._pid = fact.value
            # No other process gets this number while the loader lives and does not reap the worker.
            self._sentinel = watch(fact.value)
            if self._sentinel is not None and not self._loader.lives():
                self._sentinel.close()
                self._sentinel = None
        else:
            self.exitcode = fact.value
            self._has_ended = True

    @property
    def sentinel(self) -> int:
        """Ready when the process is gone: the pipe that only the worker holds, or a better descriptor of the system."""
        return self._gone if self._sentinel is None else self._sentinel.fd

    @property
    def pid(self) -> int:
        """The process id; until it is forked, that of the loader."""
        while self._pid is None and self._loader.hear():
            pass
        return self._pid or self._loader.pid

    @property
    def known_pid(self) -> int:
        """The same for any thread: it does not receive from the loader."""
        return self._pid or self._loader.known_pid

    def join(self) -> None:
        """Ask how it ended; its sentinel is ready."""
        loader = self._loader
        with suppress(OSError):
            loader.order(Order("status", self._serial))
        until = clock() + REPLY
        while not self._has_ended and loader.hear(max(0.0, until - clock())):
            pass
        if self._has_ended or loader.speaks:
            return
        if self._pid is None:
            self.exitcode = loader.exitcode  # it was never forked
        elif sys.platform != "win32":
            # Process 1 has adopted it; this may be process 1.
            with suppress(ChildProcessError):
                pid, status = os.waitpid(self._pid, os.WNOHANG)
                self.exitcode = os.waitstatus_to_exitcode(status) if pid else None

    def cancel(self) -> None:
        """Take the order back. If the worker has been forked already, its own pipe tells it."""
        if self.pid == self._loader.pid:
            with suppress(OSError):
                self._loader.order(Order("cancel", self._serial))

    def kill(self) -> None:
        """Kill it, or the loader that does not fork it."""
        if self.pid == self._loader.pid:
            self._loader.kill()  # the loader hangs, at this worker or before
            return
        with suppress(ProcessLookupError):
            if sys.platform == "linux" and self._sentinel is not None:
                signal.pidfd_send_signal(self._sentinel.fd, signal.SIGKILL)
            elif sys.platform != "win32":
                # A zombie keeps its number until the loader has been asked for its end.
                os.kill(self.pid, signal.SIGKILL)

    def close(self) -> None:
        """Release its resources."""
        del self._loader.forks[self._serial]
        os.close(self._gone)
        if self._sentinel is not None:
            self._sentinel.close()


class Forked(Child):
    """A worker that is forked."""

    def __init__(
        self,
        loader: Loader,
        target: Callable[..., None],
        args: tuple[Any, ...],
        row: Rows | None = None,
        outlet: Outlet | None = None,
    ) -> None:
        super().__init__(target, args, row, outlet=outlet, make=partial(Fork, loader))
        self._loader = loader

    @property
    def pid(self) -> int:
        return int(self._process.pid)

    @property
    def known_pid(self) -> int:
        return int(self._process.known_pid)

    def _watch(self) -> Sentinel | None:
        return None  # the fork has its own

    @property
    def sentinel(self) -> int:
        return int(self._process.sentinel)

    def receive(self) -> Iterator[Message]:
        for message in super().receive():
            if message.verb == "ready":
                self._loader.proven = True
            yield message

    def drain(self, replacement: Child | None = None) -> None:
        super().drain(replacement)
        self._process.cancel()

    def quit(self) -> None:
        super().quit()
        self._process.cancel()
