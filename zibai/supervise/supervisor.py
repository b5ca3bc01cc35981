"""``zibai.Supervisor``: any Python function, kept running in worker processes. It knows nothing of HTTP and sockets.

It is the parent's main loop for programs and for people at a prompt. ``run`` runs the loop in the calling thread;
``start`` runs it in a thread of its own, and only ``start`` itself and ``stop`` may wait for that thread.

Workers are spawned, so the function must be importable. A function that was typed at a prompt is not, and is forked
where that is possible: not on Windows, and not from a process with threads, whose locks the new process would inherit.
"""

import atexit
import os
import pickle
import sys
import threading
from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack, nullcontext
from functools import partial
from itertools import count
from math import inf
from typing import Any, Self

from ..errors import LoadError, UsageError
from ..logger import logger
from ..system import standard, terminal
from ..system.machine import name_process
from ..system.signals import hear_of_children
from ..system.usage import NO_LIMITS, Usage, usage
from ..telemetry import board_file
from ..telemetry.scoreboard import Scoreboard
from ..version import __version__
from . import mainloop
from . import worker as supervised
from .child import Method
from .crew import Crew
from .handle import Handle
from .mainloop import MainLoop
from .output import Collector
from .prompt import Prompt, forking
from .record import SETTLED
from .worker import Job

_numbers = count(1)


class Supervisor(Handle):
    """Keeps ``target(*args)`` running in ``processes`` worker processes; a context manager.

    :param target: a function at the top of a module. On POSIX also one that was typed at a prompt: then its workers
        are forked. It runs in the main thread of each worker and should end when ``current_worker().end`` is set. When
        it returns or raises, another worker is started: at once if it has run for a second, or else after a pause.
    :param args: its arguments, which are sent to each worker.
    :param processes: how many workers there are.
    :param before_stop: a function called in each worker, in a thread beside the target, when it is to end gracefully;
        the event is set when it returns.
    :param on_end: a function called in this process when the end of all begins.
    :param says_ready: the target calls ``current_worker().ready()`` when it does its work; without it, a worker is
        ready as soon as the target is called. A restart waits for that before it ends an old worker.
    :param memory_limit: bytes of resident memory that a worker may have; one that has more in two samples is replaced.
    :param descriptor_limit: the same for open descriptors.
    :param capture_output: log what workers print, line by line, to the logger ``zibai.output``.
    :param boot_timeout: seconds until a worker is ready.
    :param worker_timeout: seconds between two calls of ``current_worker().beat()``, of a target that makes them.
    :param graceful_timeout: seconds from the event until the target is interrupted.
    """

    def __init__(
        self,
        target: Callable[..., object],
        args: tuple[Any, ...] = (),
        processes: int = 4,
        *,
        before_stop: Callable[[], object] | None = None,
        on_end: Callable[[], object] | None = None,
        says_ready: bool = False,
        memory_limit: int | None = None,
        descriptor_limit: int | None = None,
        capture_output: bool = False,
        boot_timeout: float = 60.0,
        worker_timeout: float = 30.0,
        graceful_timeout: float = 10.0,
    ) -> None:
        super().__init__()
        if processes < 1:
            raise UsageError("a supervisor needs at least one process")
        self._job = Job(target, tuple(args), before_stop, says_ready, False, boot_timeout or inf, graceful_timeout)
        self._processes = processes
        self._on_end = on_end
        self._limits = Usage(memory_limit, descriptor_limit)
        self._capture_output = capture_output
        self._worker_timeout = worker_timeout or inf
        self._resources = ExitStack()
        self._thread: threading.Thread | None = None
        self._runs_in = 0  # the thread that runs the loop
        self._is_settled = threading.Event()  # all workers are ready, or all have ended
        self._is_over = threading.Event()
        self._is_over.set()
        self._error: BaseException | None = None

    def run(self, interactive: bool = False) -> None:
        """Keep the workers running until the end is asked for.

        In the main thread the signals do what they do with the server: Ctrl-C ends the workers, and this returns.
        ``interactive`` gives a prompt meanwhile, ``zibai>>``; then Ctrl-C is for the prompt. Raises LoadError when no
        worker has ever come up.
        """
        prompt = Prompt() if interactive else None
        method = _method(self._job)
        if method == "fork" and threading.active_count() > 1:
            raise UsageError(f"{self._job.name} cannot be forked, since this process has threads; {_ADVICE}")
        self._begin(method, detached=interactive, prompt=prompt)
        with terminal.kept():
            self._run(prompt)

    def start(self) -> Self:
        """Keep the workers running in a thread; return when all are ready. Raises what ``run`` does."""
        if _method(self._job) == "fork":
            raise UsageError(f"{self._job.name} cannot be forked beside another thread; {_ADVICE}, or call run()")
        hear_of_children()
        self._begin("spawn", detached=True)
        self._thread = threading.Thread(target=self._run_in_thread, name="zibai-supervisor", daemon=True)
        atexit.register(self.stop)  # otherwise the end of the program would wait for its workers for ever
        self._thread.start()
        try:
            self._is_settled.wait()
        except BaseException:
            self.stop("quit")
            raise
        if self._error is not None:
            self.stop()
            raise self._error
        return self

    def stop(self, how: str = "drain") -> None:
        """End all workers and wait for them: ``"drain"`` lets them finish, ``"quit"`` does not. Any thread."""
        super().stop(how)
        if threading.get_ident() != self._runs_in:
            self._is_over.wait()
        thread = self._thread
        if thread is not None and thread is not threading.current_thread():
            thread.join()
            atexit.unregister(self.stop)
            self._thread = None

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _begin(self, method: Method, detached: bool, prompt: Prompt | None = None) -> None:
        """Prepare what the workers need."""
        if not self._is_over.is_set():
            raise RuntimeError("this supervisor runs already")
        if self._limits != NO_LIMITS and usage(os.getpid()) == NO_LIMITS:
            raise UsageError("memory_limit, descriptor_limit: this system does not tell what a process takes")
        standard.make_sure()  # workers inherit these descriptors
        self._is_over.clear()
        self._is_settled.clear()
        self._error = None
        self.board = self._resources.enter_context(_scoreboard(self._job, self._processes))
        collector = Collector() if self._capture_output else None
        crew = Crew(
            supervised.main,
            (self._job._replace(detached=detached),),
            self.board,
            method=method,
            starting=nullcontext if method == "spawn" else partial(forking, prompt, collector),
            collector=collector,
        )
        self.loop = MainLoop(
            crew,
            self._processes,
            on_up=self._is_settled.set,
            on_end=_once(self._on_end),
            graceful_timeout=self._job.graceful_timeout,
            boot_timeout=self._job.boot_timeout,
            worker_timeout=self._worker_timeout,
            settle=SETTLED,
            limits=self._limits,
        )

    def _run(self, prompt: Prompt | None = None) -> None:
        assert self.loop is not None
        self._runs_in = threading.get_ident()
        is_main = threading.current_thread() is threading.main_thread()
        try:
            with mainloop.signals(exits=False, prompt=prompt is not None) if is_main else nullcontext() as signals:
                if prompt is None:
                    self.loop.run(signals)
                else:
                    prompt.run(self.loop, signals, self.board)
        except LoadError as error:
            if error.trace:
                error.add_note(error.trace)
            raise
        finally:
            self.loop, self.board, self._runs_in = None, None, 0
            self._resources.close()
            self._is_over.set()

    def _run_in_thread(self) -> None:
        try:
            self._run()
        except BaseException as error:
            if self._is_settled.is_set():
                raise  # start() has returned already
            self._error = error
        finally:
            self._is_settled.set()


_ADVICE = "put it into a module that can be imported"


def _method(job: Job) -> Method:
    """How its workers are made."""
    functions = [job.target] if job.before_stop is None else [job.target, job.before_stop]
    if all(map(_is_importable, functions)):
        return "spawn"
    if sys.platform == "win32":
        raise UsageError(f"{job.name} cannot be found by a new process; {_ADVICE}")
    return "fork"


def _is_importable(function: Callable[..., object]) -> bool:
    """Whether a new process can find it: not a lambda, nothing nested, nothing that was typed at a prompt."""
    try:
        pickle.dumps(function)
    except Exception:
        return False
    if getattr(function, "__module__", "") != "__main__":
        return True
    typed = getattr(getattr(function, "__code__", None), "co_filename", "").startswith("<")
    return not typed and hasattr(sys.modules["__main__"], "__file__")


def _once(hook: Callable[[], object] | None) -> Callable[[], None]:
    left = [] if hook is None else [hook]

    def call() -> None:
        while left:
            try:
                left.pop()()
            except Exception:
                logger.exception("on_end failed")

    return call


def _scoreboard(job: Job, processes: int) -> AbstractContextManager[Scoreboard | None]:
    """A scoreboard in its own file, so that ``zibai ps`` shows the workers."""
    facts = {"version": __version__, "app": job.name, "listen": [], "processes": processes}
    # A restart has workers of both generations, so there are twice as many rows; 30 more are for workers(n).
    return board_file.open_board(None, f"{name_process(os.getpid())}-{next(_numbers)}", 2 * processes + 30, 0, facts)
