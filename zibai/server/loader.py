"""The loader of ``--preload``: a process that imports the application and forks a worker for each order of its parent.

It is spawned, and starts like a worker: while the application loads it can be ended in the same ways, and it gives up
after the boot timeout. Then all objects are frozen, since the garbage collector would write to each object that it
visits, and every such write copies a page of the shared memory. From then on the loader only waits for orders. It has
no thread of zibai, runs no hub, and holds signals back, since the parent decides how long it lives.

A forked worker is a copy of the loader's memory, so it closes the pipes that are not its own: the loader's, and those
of siblings that are not forked yet. State that must differ between processes is renewed by Python itself (``random``,
the locks of ``logging`` and ``threading``) or here (``multiprocessing``, numpy, gevent's hub). At the end both do the
steps of an exiting interpreter, except for freeing its memory: that would copy the shared pages, in all workers at
once.
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
from collections.abc import Callable
from contextlib import suppress
from multiprocessing import util
from types import ModuleType
from typing import Any, NoReturn

from ..config.options import Options
from ..errors import LoadError, ZibaiError
from ..logger import logger
from ..supervise.control import FOR_PARENT, GRACEFUL_SIGNALS, QUICK_SIGNALS, REOPEN
from ..supervise.loader import Fact
from ..supervise.pipe import Parent
from ..system import home, lastword, terminal, title
from ..system.forks import close_in_children, forking_a_worker
from ..system.lastword import LAST_WORD
from ..system.signals import Signals
from ..telemetry import logfile
from ..telemetry import setup as logs
from ..telemetry.scoreboard import Scoreboard
from . import application, worker
from .control import Control
from .orders import Orders, Task


def run_loader(
    parent: Parent,
    options: Options,
    sockets: list[socket.socket],
    board: Scoreboard | None,
    stdin: terminal.Stdin | None = None,
) -> None:
    """The main function of a loader process; ends it."""
    parent.set_up_process(stdin=stdin)
    orders = Orders(parent)
    _call_in_forks(orders.close)
    close_in_children(*sockets)
    _finish(lambda: _load_and_fork(orders, options, sockets, board))


def _load_and_fork(orders: Orders, options: Options, sockets: list[socket.socket], board: Scoreboard | None) -> None:
    try:
        with orders.uncaptured():
            logs.configure_as(options)
        title.show("loader", options.app)
        hub = worker.prepare(options)
        names = (*GRACEFUL_SIGNALS, *QUICK_SIGNALS, *FOR_PARENT, REOPEN)
        with Signals(names, interrupting=hub is None) as signals:
            preloaded = _load(orders, options, signals, hub)
            logger.info("application loaded; workers are forked from here")
            gc.collect()
            gc.freeze()
            Forker(orders, options, sockets, board, preloaded).serve()
    except ZibaiError as error:
        orders.catch_up()
        orders.failed(error if isinstance(error, LoadError) else LoadError(str(error)))
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        pass  # asked to end before it had loaded


def _load(orders: Orders, options: Options, signals: Signals, hub: ModuleType | None) -> worker.Preloaded:
    control = Control(orders, threading.Event(), hub, boot_timeout=options.boot_timeout)
    try:
        with control.listening(signals):
            directory = home.real()
            try:
                site = application.load(options)
            except LoadError as error:
                site = application.fail(options, error, interrupted=control.was_interrupted())
    finally:
        control.join()
        signals.hold_back()
    # gevent's threads are greenlets, which a fork copies like all memory.
    threads = [thread.name for thread in threading.enumerate() if thread is not threading.main_thread()]
    if threads and hub is None:
        logger.warning(
            "the application started threads while it was imported, and no worker has them: %s; "
            "start them in the before_serve hook",
            ", ".join(threads),
        )
    return worker.Preloaded(site, hub, directory)


class Forker:
    """Carries out orders, one after the other. Only the main thread calls it."""

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
        self._children: dict[int, int] = {}  # pids by the serials of orders, until the parent asks how they ended

    def serve(self) -> None:
        """Carry out orders until the parent is gone or closes the pipe; then wait for all workers."""
        while (task := self._orders.next()) is not None:
            match task.order.verb:
                case "fork":
                    self._fork(task)
                case "status":
                    self._orders.say(Fact("ended", task.order.serial, self._reap(task.order.serial)))
                case "stop_listening":
                    # The end of the server has begun, and code that hangs here must not delay it.
                    lastword.arm(self._options.graceful_exit_timeout + LAST_WORD)
                    self._stop_listening()
                case "reopen":
                    logfile.reopen()
                # "cancel" comes too late here: the worker has been forked, and its own pipe tells it.
        self._stop_listening()
        for pid in self._children.values():
            with suppress(ChildProcessError):
                os.waitpid(pid, 0)

    def _stop_listening(self) -> None:
        for sock in self._sockets:
            sock.close()

    def _fork(self, task: Task) -> None:
        if len(task.fds) < 2:
            task.close()  # this process has no free descriptor; the parent sees that the pipes close
            return
        util._flush_std_streams()  # type: ignore[attr-defined]  # or both processes would print what is in the buffers
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
        """In the worker. Its second descriptor stays open until the process ends, and no other process has it."""
        parent = task.parent()
        parent.since += self._orders.stopped
        _call_in_forks(task.close)
        _begin_process()
        worker.run_child(
            parent, self._options, self._sockets, self._board, task.order.number, preloaded=self._preloaded
        )

    def _reap(self, serial: int) -> int | None:
        """The exit code of a worker that is gone; 0 for one that was never forked."""
        pid = self._children.pop(serial, None)
        if pid is None:
            return 0
        if sys.platform == "win32":
            return None
        try:
            ended, status = os.waitpid(pid, os.WNOHANG)
            if not ended:
                # It lives, but has closed all its descriptors, also its pipe to the parent. It would never end.
                os.kill(pid, signal.SIGKILL)
                _, status = os.waitpid(pid, 0)
            return os.waitstatus_to_exitcode(status)
        except (ProcessLookupError, ChildProcessError):
            return None  # the application reaps child processes, or ignores SIGCHLD


def _fork(hub: ModuleType | None) -> int:
    """Fork without Python's warning about threads: :func:`_load` has logged their names already."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        if sys.platform == "win32":
            raise OSError("no fork")
        with forking_a_worker():
            return os.fork() if hub is None else int(hub.fork())


def _call_in_forks(function: Callable[[], None]) -> None:
    """Call it in each process that is forked from now on, here or in a forked process."""
    if sys.platform != "win32":
        os.register_at_fork(after_in_child=function)


def _begin_process() -> None:
    """Do the steps of ``multiprocessing`` in a process that it forks itself, and seed numpy's random numbers."""
    multiprocessing.process._children.clear()  # type: ignore[attr-defined]
    util._finalizer_registry.clear()  # type: ignore[attr-defined]
    util._run_after_forkers()  # type: ignore[attr-defined]
    numpy: Any = sys.modules.get("numpy")
    if hasattr(numpy, "random"):
        numpy.random.seed()


def _finish(work: Callable[[], None]) -> NoReturn:
    """Do the work and end the process, even if threads or exit handlers of the application hang."""
    code = 1
    try:
        try:
            work()
            code = 0
        except SystemExit as error:
            code = error.code if isinstance(error.code, int) else 1
        except BaseException:
            lastword.exit_code = 1
            _arm()  # the log may be a full pipe that is never read
            sys.excepthook(*sys.exc_info())
        lastword.exit_code = code
        _arm()
        threading._shutdown()  # type: ignore[attr-defined]  # waits for threads that are not daemons
        atexit._run_exitfuncs()
        util._flush_std_streams()  # type: ignore[attr-defined]
    finally:
        os._exit(code)


def _arm() -> None:
    """Set the last moment, unless the process has been asked to end and has one already."""
    if not lastword.is_armed():
        lastword.arm(LAST_WORD)
