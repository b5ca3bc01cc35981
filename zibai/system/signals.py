"""Signals as bytes on a socket."""

import atexit
import os
import signal
import socket
import sys
from _thread import get_ident, interrupt_main
from collections.abc import Callable, Sequence
from contextlib import suppress
from multiprocessing.connection import Connection
from types import FrameType
from typing import TYPE_CHECKING, Any, Self

from . import console, holdback
from .lastword import ENDS

if TYPE_CHECKING and sys.platform == "win32":
    from multiprocessing.connection import PipeConnection
else:
    PipeConnection = Connection


def hear_of_children() -> None:
    """Let this process learn how its children end, even if it was started with SIGCHLD ignored.

    A process keeps an ignored signal through exec. The system then reaps children itself, and their exit codes
    are lost. Only the main thread can change that.
    """
    if sys.platform != "win32" and signal.getsignal(signal.SIGCHLD) is signal.SIG_IGN:
        with suppress(ValueError):  # another thread
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)


class Signals:
    """Turns signals into bytes on a socket, which one can wait for; a context manager of the main thread.

    Python runs a handler between two of its instructions, in the middle of anything, so a handler must do little. And
    on Windows a main thread that waits for a lock runs no handler. But the C part of the interpreter writes the number
    of the signal to a socket at once (``signal.set_wakeup_fd``). A process has only one such descriptor. An event loop
    of asyncio that handles signals takes it, and leaves none when it closes. So the handler checks whether the
    descriptor is still this object's, and otherwise writes the number itself.

    ``names`` that a system does not have are left out. With ``interrupting``, SIGINT raises KeyboardInterrupt in the
    main thread as well. ``heard`` is called by the handler, with the name of the signal; it must be quick and must not
    take a lock. With ``exits``, the process ends soon after. Then a late signal must not change how it ends: it calls
    ``late`` if it asks for the end, or else is ignored.
    """

    def __init__(
        self,
        names: Sequence[str],
        *,
        interrupting: bool = False,
        exits: bool = False,
        late: Callable[[], object] | None = None,
    ) -> None:
        self._numbers = [getattr(signal, name) for name in names if hasattr(signal, name)]
        self._interrupting = interrupting
        self._exits = exits
        self._late = late
        self.heard: Callable[[str], object] | None = None
        self._old: dict[int, Any] = {}
        self._read: set[int] = set()
        self.socket, self._writer = socket.socketpair()

    def __enter__(self) -> Self:
        self.socket.setblocking(False)
        self._writer.setblocking(False)
        self._old_fd = signal.set_wakeup_fd(self._writer.fileno(), warn_on_full_buffer=False)
        for number in self._numbers:
            # asyncio.run() cancels its task at SIGINT, but only where this is Python's handler.
            ours = signal.default_int_handler if self._raises(number) else self._on_signal
            self._old[number] = signal.signal(number, ours)
        if self._exits:
            # Handlers of atexit run in reverse order, so this one comes after those of the application.
            atexit.register(self._ignore, os.getpid())
            console.hold_the_end()
        if sys.platform != "win32":
            os.register_at_fork(after_in_child=self._restore_in_child)
        holdback.let_through()
        return self

    def _raises(self, number: int) -> bool:
        return self._interrupting and number == signal.SIGINT

    def _interrupt(self, number: int, frame: FrameType | None) -> None:
        """Raise KeyboardInterrupt, and let it be heard even if an event loop has the descriptor, as uvloop always does:
        a task may make nothing of the exception.
        """
        if sys.platform != "win32":  # on Windows, the thread that hears of SIGINT raises KeyboardInterrupt itself
            self._on_signal(number, frame)
        signal.default_int_handler(number, frame)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        if number not in self._old:
            return  # the block has ended, or the application has forked this process
        ours = self._writer.fileno()
        before = signal.set_wakeup_fd(ours, warn_on_full_buffer=False)
        if before != ours:
            with suppress(OSError):
                self._writer.send(bytes([number]))
            self._restore_fd(before)
        if self.heard is not None:
            self.heard(signal.Signals(number).name)

    def _restore_fd(self, fd: int) -> None:
        """Restore the wakeup descriptor, unless a running event loop has it: the handler here works without."""
        if fd != -1:
            with suppress(ValueError, OSError):  # it is closed
                signal.set_wakeup_fd(fd)

    def reassert(self) -> None:
        """Handle signals again whose handlers the application has set and reset. Only in the main thread.

        Call it before an event loop runs there, too. A handler that the application has set stays, and is called as
        well. May be called at any time.
        """
        if not self._old:
            return  # the block has ended
        for number in self._old:
            current = signal.getsignal(number)
            ours = self._interrupt if self._raises(number) else self._on_signal
            if current in (signal.SIG_DFL, signal.SIG_IGN, signal.default_int_handler, None):
                signal.signal(number, ours)
            elif current != ours and callable(current) and not isinstance(current, _Both):
                signal.signal(number, _Both(ours, current, raises=self._raises(number)))
        fd = self._writer.fileno()
        before = signal.set_wakeup_fd(fd, warn_on_full_buffer=False)
        if before != fd:
            self._restore_fd(before)

    def hold_back(self) -> None:
        """Ignore signals from now on, in every thread, but not in processes that are forked here.

        There, signals wait until the process has a :class:`Signals` of its own.
        """
        for number in self._old:
            signal.signal(number, _do_nothing)
        holdback.hold_signals_back()

    def _restore_in_child(self) -> None:
        """In a process that the application has forked: a signal to it has its default effect again."""
        if self._old:
            self._restore()

    def _restore(self, *, exiting: bool = False) -> None:
        for number, handler in self._old.items():
            # None stands for a handler that was not set by Python. It cannot be restored.
            after = signal.SIG_DFL if handler is None else handler
            signal.signal(number, self._last_handler(number) if exiting and number != _CHILD else after)
        signal.set_wakeup_fd(self._old_fd)
        self._old.clear()

    def _last_handler(self, number: int) -> Any:
        late = self._late
        if late is None or signal.Signals(number).name not in ENDS:
            return signal.SIG_IGN
        return lambda number, frame: late()

    def _ignore(self, pid: int) -> None:
        """Ignore signals while the interpreter ends, which would reset them to their default effect."""
        if os.getpid() == pid:
            for number in self._numbers:
                if number != _CHILD:
                    signal.signal(number, signal.SIG_IGN)

    def __exit__(self, *_: object) -> None:
        self._restore(exiting=self._exits)
        self.socket.close()
        self._writer.close()

    def wake(self) -> None:
        """Make the socket readable without a signal. Any thread."""
        # The socket is readable already, or closed: after a KeyboardInterrupt at the start of the block, the garbage
        # collector may close it before the object that calls this.
        with suppress(OSError):
            self._writer.send(b"\0")

    def read(self) -> list[str]:
        """The names of the signals since the last call."""
        try:
            found = self.socket.recv(4096, socket.MSG_PEEK)
        except BlockingIOError:
            return []
        self._read.update(found)  # before they are gone from the socket
        self.socket.recv(len(found))
        # The socket also gets other signals that Python handles: SIGINT, while a person at a prompt is asked.
        return [signal.Signals(number).name for number in found if number in self._numbers]

    def came(self, name: str) -> bool:
        """Whether this signal has come. The main thread may call it while another one calls ``read``."""
        number = getattr(signal, name)
        with suppress(BlockingIOError):
            if number in self.socket.recv(4096, socket.MSG_PEEK):
                return True
        return number in self._read


# If SIGCHLD is ignored, the system reaps children itself, and multiprocessing does not find its own.
_CHILD: Any = getattr(signal, "SIGCHLD", None)


class _Both:
    """One handler of a signal that calls the one here and that of the application; last the one that ``raises``.

    Many applications call ``sys.exit()`` at SIGTERM. The server ends at such a signal by itself, and what the
    application raises must not cut the requests in flight.
    """

    def __init__(self, ours: Callable[..., object], theirs: Callable[..., object], *, raises: bool) -> None:
        self._ours, self._theirs, self._raises = ours, theirs, raises

    def __call__(self, number: int, frame: FrameType | None) -> None:
        if not self._raises:
            self._ours(number, frame)
        try:
            self._theirs(number, frame)
        except BaseException as error:
            if signal.Signals(number).name not in ENDS:
                raise
            if not isinstance(error, SystemExit | KeyboardInterrupt):
                sys.excepthook(type(error), error, error.__traceback__)
        if self._raises:
            self._ours(number, frame)


def interrupting() -> Callable[[], None]:
    """A function that raises KeyboardInterrupt in the main thread, which calls this one, from any other thread."""
    if sys.platform == "win32":
        return interrupt_main
    main = get_ident()
    return lambda: signal.pthread_kill(main, signal.SIGINT)


def _do_nothing(number: int, frame: FrameType | None) -> None:
    pass
