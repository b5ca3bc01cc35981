"""``--preload``, the parent's side: loaders, and workers that are forked.

The parent never imports the application, preloaded or not. It spawns a *loader* (:mod:`zibai.server.loader`), which
imports it once and forks a worker each time it is asked; so the workers share that memory, and new code is a new
loader. A forked worker (:class:`Forked`) speaks through a pipe of its own and obeys the rules of any other; the
supervisor does not know that there are loaders.

A worker that is forked is no child of the parent. Where the system can tell of the end of any process
(:mod:`zibai.supervise.sentinel`), the parent asks the system. Else it hears of the end from another pipe, whose far end
nobody holds but the worker. The loader, whose child the worker is, tells how it ended. If the loader is dead, its
workers serve on, the next worker that is needed comes from a fresh one, and how the orphans end is not known.

A loader is *proven* when a worker of it was ready. Workers come from the latest one, proven or yet to be; if that one
fails, from the one before, which stays until another one is proven and its own workers are gone. So after a broken
deploy even a worker that dies is replaced by one with the code of before.

Everything here is the parent's main thread's.
"""

import os
import signal
import socket
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, suppress
from functools import partial
from itertools import count
from multiprocessing.connection import wait
from typing import Any, Final, NamedTuple, Self

from ..clock import clock
from ..logger import logger
from ..telemetry.scoreboard import Row
from . import messages as pipes
from .child import Child
from .messages import as_socket
from .output import Collector, Outlet
from .pipe import Message
from .sentinel import Sentinel, watch

PATIENCE: Final = 4.0
"""Seconds that a loader has to end before it is killed."""

ANSWER: Final = 1.0
"""Seconds that a loader has to say how a worker ended; it does nothing else that takes time."""


class Order(NamedTuple):
    """Down the pipe of a loader. ``serial`` is what it is about, a worker.

    ``fork`` brings two descriptors: the worker's end of its pipe, and that of the pipe which says by closing that it is
    gone; and perhaps a third one, for what it prints. ``cancel`` takes back an order that has not been carried out,
    ``status`` asks how a worker that is gone has ended, ``deafen`` has the loader close its listeners, ``reopen`` its
    log files.
    """

    verb: str
    serial: int = 0
    number: int | None = None  # of the worker's row
    since: float = 0.0


class Fact(NamedTuple):
    """Up: ``forked``, with the process id, or ``ended``, with the exit code or None where that is not known."""

    verb: str
    serial: int
    value: int | None


class Loader(Child):
    """A loader process. ``forks`` are its workers, and what is to become one, by the serial of their orders."""

    def __init__(
        self, target: Callable[..., None], args: tuple[Any, ...], serial: int, outlet: Outlet | None = None
    ) -> None:
        super().__init__(target, args, outlet=outlet)
        self.serial = serial
        self.forks: dict[int, Fork] = {}
        self.proven = False
        self.leaving = False  # it has been told to end
        self.mourned = False  # its end has been noticed

    def lives(self) -> bool:
        """Whether its process runs."""
        return not wait([self.sentinel], 0)

    @property
    def exitcode(self) -> int | None:
        """Of one that is gone."""
        self._process.join()
        code: int | None = self._process.exitcode
        return code

    def order(self, order: Order, fds: Sequence[int] = ()) -> None:
        """Send an order, without waiting for the loader. OSError if it is gone, or has stopped reading."""
        try:
            pipes.send(self.pipe, order, fds)
        except pipes.HalfSent:
            self.kill()  # it would wait for them for ever
            raise

    def hear(self, timeout: float = 0.0) -> bool:
        """Take down what it says; False when it has said nothing. ``speaks`` says afterwards whether it is there."""
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
        """Tell it to end, once its workers have; it is heard until it is gone."""
        if not self.leaving:
            self.leaving = True
            with closing(as_socket(self.pipe)) as sock, suppress(OSError):
                sock.shutdown(socket.SHUT_WR)


class Fork:
    """A worker that a loader forks; what is a process to :class:`Child`, which reads these attributes.

    Of ``args`` only the worker's end of the pipe and, last, the number of its row go to the loader; it has the others.
    """

    _serials = count(1)

    def __init__(self, loader: Loader, *, target: Callable[..., None], args: tuple[Any, ...], name: str) -> None:
        self._loader = loader
        self._parent, self._number = args[0], args[-1]
        self._serial = next(self._serials)
        self._pid: int | None = None
        self._sentinel: Sentinel | None = None
        self._has_ended = False  # the loader has said so
        self.exitcode: int | None = None

    def start(self) -> None:
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
        if fact.verb == "forked" and fact.value:
            self._pid = fact.value
            # The number stays the worker's for as long as its loader lives and does not wait for it.
            self._sentinel = watch(fact.value)
            if self._sentinel is not None and not self._loader.lives():
                self._sentinel.close()
                self._sentinel = None
        else:
            self.exitcode = fact.value
            self._has_ended = True

    @property
    def sentinel(self) -> int:
        """Until it is forked, and where the system has nothing better, the pipe that only the worker holds."""
        return self._gone if self._sentinel is None else self._sentinel.fd

    @property
    def pid(self) -> int:
        """Until it is forked, that of the loader."""
        while self._pid is None and self._loader.hear():
            pass
        return self._pid or self._loader.pid

    @property
    def known_pid(self) -> int:
        """Any thread's, since it does not listen to the loader."""
        return self._pid or self._loader.known_pid

    def join(self) -> None:
        """Its sentinel is ready: ask how it ended."""
        loader = self._loader
        with suppress(OSError):
            loader.order(Order("status", self._serial))
        until = clock() + ANSWER
        while not self._has_ended and loader.hear(max(0.0, until - clock())):
            pass
        if self._has_ended or loader.speaks:
            return
        if self._pid is None:
            self.exitcode = loader.exitcode  # the loader has taken it along
        elif sys.platform != "win32":
            # Process 1 has adopted it.
            with suppress(ChildProcessError):
                pid, status = os.waitpid(self._pid, os.WNOHANG)
                self.exitcode = os.waitstatus_to_exitcode(status) if pid else None

    def cancel(self) -> None:
        """It is not wanted any more. If it has been forked, its own pipe says so."""
        if self.pid == self._loader.pid:
            with suppress(OSError):
                self._loader.order(Order("cancel", self._serial))

    def kill(self) -> None:
        if self.pid == self._loader.pid:
            self._loader.kill()  # it is there that it hangs
            return
        with suppress(ProcessLookupError):
            if sys.platform == "linux" and self._sentinel is not None:
                signal.pidfd_send_signal(self._sentinel.fd, signal.SIGKILL)
            elif sys.platform != "win32":
                # A zombie keeps its number until the loader has been asked for its end.
                os.kill(self.pid, signal.SIGKILL)

    def close(self) -> None:
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
        row: Row | None = None,
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

    def drain(self, heir: Child | None = None) -> None:
        super().drain(heir)
        self._process.cancel()

    def quit(self) -> None:
        super().quit()
        self._process.cancel()


class Preload:
    """Gives out workers that are forked. ``target(parent, *args)`` is the main function of a loader.

    ``collector`` takes what loaders print. A context manager, which ends the loaders.
    """

    def __init__(self, target: Callable[..., None], args: tuple[Any, ...], collector: Collector | None = None) -> None:
        self._target = target
        self._collector = collector
        self._args = args
        self._serials = count()
        self._loaders: list[Loader] = []  # the oldest first
        self._current: Loader | None = None  # the latest that is proven, perhaps dead
        self._generation = -1
        self._is_deaf = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for loader in self._loaders:
            loader.leave()
        until = clock() + PATIENCE
        for loader in self._loaders:
            while loader.speaks and loader.hear(max(0.0, until - clock())):
                pass
            if loader.speaks:
                loader.kill()
            loader.ending()
            loader.close()

    @property
    def pids(self) -> set[int]:
        return {loader.pid for loader in self._loaders}

    @property
    def pipes(self) -> list[Any]:
        """What is ready when there is something to look at."""
        return [loader.pipe for loader in self._loaders if loader.speaks]

    def child(
        self,
        generation: int,
        target: Callable[..., None],
        args: tuple[Any, ...],
        row: Row | None = None,
        outlet: Outlet | None = None,
    ) -> Forked:
        """A worker, to be started. OSError when it needs a fresh loader and there is no room for one."""
        self.look()
        # An older one is not asked: what has proved since that its code is good is what is to be served.
        able = [
            loader
            for loader in self._loaders
            if loader.speaks and not loader.leaving and (self._current is None or loader.serial >= self._current.serial)
        ]
        if generation != self._generation or not able:
            loader = self._start()
            self._loaders.append(loader)
            self._generation = generation
            able = [loader]
        return Forked(able[-1], target, args, row, outlet)

    def _start(self) -> Loader:
        reader, outlet = (-1, None) if self._collector is None else self._collector.open()
        try:
            loader = Loader(self._target, self._args, next(self._serials), outlet)
            loader.start()
        except BaseException:
            if self._collector is not None and outlet is not None:
                self._collector.discard(reader, outlet)
            raise
        if self._collector is not None:
            self._collector.attach(reader, lambda: loader.known_pid)
        return loader

    def look(self) -> None:
        """Hear what loaders say, notice those that have ended, and end those that nobody needs."""
        for loader in list(self._loaders):
            while loader.hear():
                pass
            if loader.proven and (self._current is None or loader.serial > self._current.serial):
                self._current = loader
            if not loader.speaks:
                self._mourn(loader)
        for loader in self._loaders:
            if loader.speaks and not loader.forks and loader is not self._current:
                loader.leave()

    def _mourn(self, loader: Loader) -> None:
        """It is gone, but its workers may still ask for it."""
        if not loader.mourned:
            loader.mourned = True
            reason = loader.ending().reason
            if loader.proven and not loader.leaving:
                logger.error("the loader, process %d, %s; its workers serve on", loader.pid, reason)
        if not loader.forks:
            self._loaders.remove(loader)
            loader.close()

    def stop_listening(self) -> None:
        """No worker is started any more: loaders let go of the listeners. May be called more than once."""
        if not self._is_deaf:
            self._is_deaf = True
            self._order_all("deafen")

    def reopen(self) -> None:
        """Log files were moved away."""
        self._order_all("reopen")

    def _order_all(self, verb: str) -> None:
        for loader in self._loaders:
            with suppress(OSError):
                loader.order(Order(verb))
