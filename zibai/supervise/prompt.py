"""The prompt ``zibai>>``, which reads commands while the server serves.

The prompt has the main thread, since Ctrl-C interrupts only that one. The parent's loop runs in another thread. When
the loop ends by itself, or by a signal, it interrupts the prompt. When the prompt ends, it asks the loop to end.

Workers with an application that was typed are forked from the loop's thread. A fork copies the memory of the main
thread in the middle of its work, with the locks that it holds. So the fork waits until the main thread reads a line:
the main thread holds the lock ``_busy`` at all other times.
"""

import code
import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from typing import Any

from ..errors import UsageError
from ..system import terminal
from ..system.signals import Signals, interrupting
from ..telemetry.scoreboard import Scoreboard
from .handle import Handle
from .mainloop import MainLoop
from .output import Collector

BUSY_FOR = 0.5
"""Seconds that a fork waits for a statement at the prompt; then it is tried again later."""

_BANNER = "supervisor, workers, workers(n), reload(), stop(); Ctrl-D ends, too"


class Prompt(code.InteractiveConsole):
    """Runs the statements that are typed. Only the main thread calls it, except for ``waiting``."""

    def __init__(self) -> None:
        if not (sys.stdin and sys.stdin.isatty() and sys.stdout.isatty()):
            raise UsageError("--interactive needs a terminal to type at")
        super().__init__()
        self._how = "drain"
        self._busy = threading.Lock()
        self._lock = threading.Lock()
        self._leaving = False  # under the lock: the prompt must not be interrupted any more
        self._over = False  # the loop has ended
        self._error: BaseException | None = None

    def run(self, loop: MainLoop, signals: Signals | None, board: Scoreboard | None) -> None:
        """Run the loop until the loop or the prompt ends."""
        self._supervisor = supervisor = Handle(loop, board)
        self.locals = {
            "__name__": "__console__",
            "supervisor": supervisor,
            "workers": supervisor.workers,
            "reload": supervisor.reload,
            **dict.fromkeys(("stop", "exit", "quit"), self._stop),
        }
        self._interrupt = interrupting()
        thread = threading.Thread(target=self._turn, args=(loop, signals), name="zibai-supervisor", daemon=True)
        with terminal.kept():
            with self._busy:
                thread.start()
                with suppress(SystemExit, KeyboardInterrupt), _completion(self.locals):
                    self.interact(_BANNER, "")
                    with self._lock:
                        self._leaving = True
            while thread.is_alive():
                try:
                    supervisor.stop(self._how)
                    thread.join()
                except KeyboardInterrupt:
                    self._how = "quit"
        if self._error is not None:
            raise self._error

    def raw_input(self, prompt: str = "") -> str:
        """A line; EOFError when there is no more."""
        try:
            if self._over:
                raise EOFError
            try:
                self._busy.release()
                return input("zibai>> " if not self.buffer else "     .. ")
            finally:
                self._take_over()
        except (KeyboardInterrupt, SystemError) as error:
            # Where another signal comes together with SIGINT, CPython's input() runs the other handler while the
            # KeyboardInterrupt is set already, which the handler's first call turns into a SystemError.
            if isinstance(error, SystemError) and not isinstance(error.__cause__, KeyboardInterrupt):
                raise
            if self._over:
                raise EOFError from None
            raise KeyboardInterrupt from None

    def _take_over(self) -> None:
        """Let no fork begin from now on. Ctrl-C waits for a fork that goes on."""
        while True:
            try:
                self._busy.acquire()
                return
            except KeyboardInterrupt:
                continue

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """The loop may fork within the block: the prompt reads a line, or has ended. Raises OSError if it does not."""
        if not self._busy.acquire(timeout=BUSY_FOR):
            raise OSError("a statement runs at the prompt, and cannot be forked in the middle")
        try:
            yield
        finally:
            self._busy.release()

    def _stop(self, how: str = "drain") -> None:
        """End the server, and the prompt: ``"drain"`` lets requests finish, ``"quit"`` does not."""
        self._how = how
        raise SystemExit

    def _turn(self, loop: MainLoop, signals: Signals | None) -> None:
        try:
            loop.run(signals)
        except BaseException as error:
            self._error = error  # raised in the main thread
        with self._lock:
            self._over = True
            if not self._leaving:
                self._interrupt()


@contextmanager
def forking(prompt: Prompt | None, collector: Collector | None) -> Iterator[None]:
    """Around the fork of a worker: no thread of zibai holds a lock, which would stay locked in the worker for ever."""
    with ExitStack() as stack:
        if prompt is not None:
            stack.enter_context(prompt.waiting())
        if collector is not None:
            stack.enter_context(collector.quiet())
        yield


@contextmanager
def _completion(names: dict[str, Any]) -> Iterator[None]:
    """Complete these names with the Tab key, on systems with readline."""
    if sys.platform == "win32":
        yield
        return
    try:
        import readline
        import rlcompleter
    except ImportError:
        yield
        return
    before = readline.get_completer()
    readline.set_completer(rlcompleter.Completer(names).complete)
    readline.parse_and_bind("tab: complete")
    try:
        yield
    finally:
        readline.set_completer(before)
