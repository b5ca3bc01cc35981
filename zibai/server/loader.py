"""The loader of ``--preload``: a process that imports the application and forks a worker each time its parent asks.

It is spawned, and begins like a worker: while the application loads it can be ended in the same ways, and gives up
after the boot timeout. Then everything that is there is taken out of sight of the garbage collector, which would write
to each object that it looks at, and the loader does nothing but wait for orders. It has no thread of ours, turns no
hub, and holds signals back, since it is there for as long as its parent wants it.

A forked worker is the loader's memory as it was, so it lets go of what is not its own: the loader's pipe, and those of
siblings that are yet to be forked. What must differ between processes is made new by Python itself (``random``, the
locks of ``logging`` and ``threading``) or here (``multiprocessing``, numpy, gevent's hub). In the end both do what an
interpreter does that exits, up to taking its memory apart: that would copy what is shared, in all workers at once.
"""

import atexit
import gc
import multiprocessing.process
import os
import signal
import socket
import sys
import threading
import warnings
from collections import deque
from collections.abc import Callable
from contextlib import closing, nullcontext, suppress
from multiprocessing import util
from multiprocessing.connection import Connection
from os import close as close_fd  # gevent's leaves it to a hub that does not turn here
from types import ModuleType
from typing import Any, NamedTuple, NoReturn, cast

from ..config.options import Options
from ..errors import LoadError, ZibaiError
from ..logger import logger
from ..supervise.messages import as_socket
from ..supervise.output import Outlet
from ..supervise.pipe import Parent
from ..supervise.preload import Fact, Order
from ..system import lastword, terminal, title
from ..system.forks import forget_in_children, forking_a_worker
from ..system.lastword import LAST_WORD
from ..system.signals import Signals
from ..telemetry import logfile
from ..telemetry import setup as logs
from ..telemetry.scoreboard import Scoreboard
from . import worker


def run_loader(
    parent: Parent,
    options: Options,
    sockets: list[socket.socket],
    board: Scoreboard | None,
    stdin: terminal.Stdin | None = None,
) -> None:
    """The main function of a loader process; ends it."""
    if stdin is not None:
        stdin.restore()
    if parent.outlet is not None:
        parent.outlet.redirect()
    orders = Orders(parent)
    _call_in_forks(orders.close)
    forget_in_children(*sockets)
    _finish(lambda: _load_and_fork(orders, options, sockets, board))


def _load_and_fork(orders: "Orders", options: Options, sockets: list[socket.socket], board: Scoreboard | None) -> None:
    try:
        with nullcontext() if orders.outlet is None else orders.outlet.uncaptured():
            logs.configure_as(options)
        title.show("loader", options.app)
        hub = worker.prepare(options)
        names = (*worker.GRACEFUL, *worker.QUICK, *worker.IGNORED, worker.REOPEN)
        with Signals(names, interrupting=hub is None) as signals:
            preloaded = _load(orders, options, signals, hub)
            logger.info("application loaded; workers are forked from here")
            gc.collect()
            gc.freeze()
            Nursery(orders, options, sockets, board, preloaded).serve()
    except ZibaiError as error:
        orders.catch_up()
        orders.failed(error if isinstance(error, LoadError) else LoadError(str(error)))
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        pass  # asked to end before it had loaded


def _load(orders: "Orders", options: Options, signals: Signals, hub: ModuleType | None) -> worker.Preloaded:
    control = worker.Control(orders, threading.Event(), hub, options.boot_timeout)
    try:
        with control.listening(signals):
            directory = worker.directory()
            site = worker.load(options)
    finally:
        control.join()
        signals.hold_back()
    # gevent's threads are greenlets, which are memory like everything else.
    threads = [thread.name for thread in threading.enumerate() if thread is not threading.main_thread()]
    if threads and hub is None:
        logger.warning(
            "the application started threads while it was imported, and no worker has them: %s; "
            "start them in the before_serve hook",
            ", ".join(threads),
        )
    return worker.Preloaded(site, hub, directory)


class Task(NamedTuple):
    """An order and the descriptors that came with it, as long as they are nobody else's."""

    order: Order
    fds: list[int]

    def parent(self) -> Parent:
        """What the worker is given, which takes all descriptors but the second."""
        outlet = Outlet(self.fds.pop(2)) if len(self.fds) > 2 else None
        return Parent(Connection(self.fds.pop(0)), self.order.since, outlet)

    def close(self) -> None:
        while self.fds:
            close_fd(self.fds.pop())


class Orders(Parent):
    """The loader's end of its pipe: a parent that gives orders.

    The control thread receives while the application loads, and the main thread when that thread has ended.
    """

    def __init__(self, parent: Parent) -> None:
        super().__init__(parent.pipe, parent.since, parent.outlet)
        self._begun = parent.since
        self._tasks: deque[Task] = deque()

    @property
    def stopped(self) -> float:
        """Seconds of the start in which this process was stopped, which do not count against its workers either."""
        return self.since - self._begun

    def receive(self) -> tuple[str, None]:
        """For the control thread: "quit" when no worker that was ordered is wanted any more."""
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
        """For the main thread: waits for what is to be done; None when the parent is gone, or wants nothing more."""
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
        """For the main thread: take what has already been ordered."""
        with suppress(EOFError, OSError):
            while self.pipe.poll():
                self._tasks.append(self._read())

    def failed(self, error: LoadError) -> None:
        """Say it to the parent in the stead of each worker that was to be forked."""
        for task in self._tasks:
            if task.fds:
                task.parent().failed(error)

    def say(self, fact: Fact) -> None:
        with suppress(OSError):  # the parent is gone; next() says so
            self.pipe.send(cast("Any", fact))

    def close(self) -> None:
        """In a process that is forked here, by us or by the application: these are the loader's and the siblings'."""
        self.pipe.close()
        while self._tasks:
            self._tasks.pop().close()


class Nursery:
    """Carries out orders, one after the other; the main thread's."""

    def __init__(
        self,
        orders: Orders,
        options: Options,
        sockets: list[socket.socket],
        board: Scoreboard | None,
        preloaded: worker.Preloaded,
    ) -> None:
        self._orders = orders
        self._options = options
        self._sockets = sockets
        self._board = board
        self._preloaded = preloaded
        self._children: dict[int, int] = {}  # pids by the serials of orders, until somebody asks how they ended

    def serve(self) -> None:
        while (task := self._orders.next()) is not None:
            match task.order.verb:
                case "fork":
                    self._fork(task)
                case "status":
                    self._orders.say(Fact("ended", task.order.serial, self._reap(task.order.serial)))
                case "deafen":
                    # The end of the server has begun, and whatever hangs here must not make it longer.
                    lastword.arm(self._options.graceful_exit_timeout + LAST_WORD)
                    self._deafen()
                case "reopen":
                    logfile.reopen()
                # One that is cancelled has been forked, and hears the same from its own pipe.
        self._deafen()
        for pid in self._children.values():
            with suppress(ChildProcessError):
                os.waitpid(pid, 0)

    def _deafen(self) -> None:
        for sock in self._sockets:
            sock.close()

    def _fork(self, task: Task) -> None:
        if len(task.fds) < 2:
            task.close()  # there was no room for them here; the parent sees that nothing has come of it
            return
        util._flush_std_streams()  # type: ignore[attr-defined]  # or both would print what is in them
        try:
            pid = _fork(self._preloaded.hub)
        except OSError as error:
            task.parent().failed(LoadError(f"no worker can be forked: {error}"))
            task.close()
            return
        if pid == 0:
            _finish(lambda: self._work(task))
        task.close()
        self._children[task.order.serial] = pid
        self._orders.say(Fact("forked", task.order.serial, pid))

    def _work(self, task: Task) -> None:
        """In the worker. The second descriptor stays open until the process ends, and is its alone."""
        parent = task.parent()
        parent.since += self._orders.stopped
        _call_in_forks(task.close)
        _begin_process()
        worker.run_child(
            parent, self._options, self._sockets, self._board, task.order.number, preloaded=self._preloaded
        )

    def _reap(self, serial: int) -> int | None:
        """The exit code of a worker that is gone; 0 for one that never was."""
        pid = self._children.pop(serial, None)
        if pid is None:
            return 0
        if sys.platform == "win32":
            return None
        try:
            ended, status = os.waitpid(pid, os.WNOHANG)
            if not ended:
                # It has closed every descriptor it had, and so cut itself off. It would be waited for in vain.
                os.kill(pid, signal.SIGKILL)
                _, status = os.waitpid(pid, 0)
            return os.waitstatus_to_exitcode(status)
        except (ProcessLookupError, ChildProcessError):
            return None  # the application reaps, or has the system do it


def _fork(hub: ModuleType | None) -> int:
    """Fork; nobody needs to be warned of threads who has been told their names."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        if sys.platform == "win32":
            raise OSError("no fork")
        with forking_a_worker():
            return os.fork() if hub is None else int(hub.fork())


def _call_in_forks(function: Callable[[], None]) -> None:
    """In each process that is forked here from now on, and once more in those that are forked there."""
    if sys.platform != "win32":
        os.register_at_fork(after_in_child=function)


def _begin_process() -> None:
    """What ``multiprocessing`` does in a process that it forks itself; and numpy, whose state is not Python's."""
    multiprocessing.process._children.clear()  # type: ignore[attr-defined]
    util._finalizer_registry.clear()  # type: ignore[attr-defined]
    util._run_after_forkers()  # type: ignore[attr-defined]
    numpy: Any = sys.modules.get("numpy")
    if hasattr(numpy, "random"):
        numpy.random.seed()


def _finish(work: Callable[[], None]) -> NoReturn:
    """Do it, and end the process, also when threads or exit handlers of the application hang."""
    code = 1
    try:
        try:
            work()
            code = 0
        except SystemExit as error:
            code = error.code if isinstance(error.code, int) else 1
        except BaseException:
            lastword.exit_code = 1
            _arm()  # the log may be a pipe that nobody reads
            sys.excepthook(*sys.exc_info())
        lastword.exit_code = code
        _arm()
        threading._shutdown()  # type: ignore[attr-defined]  # waits for threads that are not daemons
        atexit._run_exitfuncs()
        util._flush_std_streams()  # type: ignore[attr-defined]
    finally:
        os._exit(code)


def _arm() -> None:
    """A worker that was asked to end has its last moment already."""
    if not lastword.is_armed():
        lastword.arm(LAST_WORD)
