"""A log file that several processes write, that is rotated by its size, and that other programs may move away.

A record is one ``write`` to a file that is open for appending, so the records of several processes stay whole, one
behind the other. With ``maxBytes``, every process may find the file full and rename it. Then no process may write to a
file that is about to be removed, or rename the new file as well. So each process holds a lock on the file itself while
it checks whether the path still names the file, and writes. That lock is shared, since writers do not disturb each
other.

To rotate, a process needs exclusive locks on the file and on the directory, and does not wait for them: if a process is
stopped in the middle of a record, the file grows and the other processes keep writing. A record does not wait long for
its lock either: any user who may read the file can lock it, and some file systems have no locks. Then the record is
written without the lock.

On Windows an open file cannot be renamed, and two processes that append overwrite each other's records. So there the
file is opened for each record, under a lock on a file beside it.

:func:`reopen` is for programs such as logrotate, which move files away and then send a signal: handlers of the
FileHandler family, also those of the user's own configuration, open what their paths name now. Any thread may call it,
but no signal handler and no callback of gevent's hub, because it waits for the locks of the handlers.
"""

import errno
import logging
import os
import re
import stat
import sys
import threading
import time
from contextlib import suppress
from logging.handlers import QueueListener, RotatingFileHandler
from typing import Any, Final
from weakref import WeakSet

from .format import AtOnce
from .losses import Losses
from .openfile import is_named, let_outputs_follow, lock, open_at_once, turn_beside, unlock

LONGEST_ROTATION: Final = 0.2
"""Seconds that a record waits for another process that rotates the file; then it is written without the lock, and the
records of the next ``IMPATIENCE`` seconds do not wait."""

_APPENDED: Final = re.compile(r"(?:\.(?:[0-9][\w.-]*|lock))?")
"""What comes after the name of a log in those of its backups (``.1``, ``.2.gz``, ``.2026-11-30``) and of its lock."""

IMPATIENCE: Final = 10.0


class LogFile(AtOnce, RotatingFileHandler):
    """Writes to ``filename``, which other processes write as well; with 0 ``maxBytes`` it is not rotated."""

    stream: Any  # a raw file: a buffer would be written when it is full, and not when the record ends

    def __init__(self, filename: str, maxBytes: int = 0, backupCount: int = 1) -> None:  # noqa: N803 -- as logging's
        self._opened_by = 0
        self._impatient_until = 0.0
        self.was: os.stat_result | None = None  # the file that was open when the handler was closed
        self._losses = Losses(os.path.abspath(filename))
        super().__init__(filename, "a", maxBytes, backupCount, "utf-8", delay=True)
        self.delay = sys.platform == "win32"
        try:
            self.stream = None if self.delay else self._open()
        except OSError as error:
            if error.errno != errno.ENXIO:  # else its reader may come later
                raise

    def _open(self) -> Any:
        file = open(self.baseFilename, "ab", buffering=0, opener=open_at_once)  # noqa: SIM115 -- it is kept
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            self.maxBytes = 0  # it is a terminal or a pipe
        self._opened_by = os.getpid()
        if self.was is not None:
            let_outputs_follow(self.was, file)
            self.was = None
        return file

    def close(self) -> None:
        """Close the file; the next record opens it again, since a dictConfig closes handlers that stay in use."""
        with suppress(OSError, ValueError):  # the application may have closed all descriptors
            self.was = os.fstat(self.stream.fileno()) if self.stream is not None else self.was
        super().close()

    def write_line(self, line: str) -> None:
        data = line.encode("utf-8", "backslashreplace")
        if sys.platform == "win32":
            self._write_by_itself(data)
        elif self.maxBytes > 0:
            self._write_in_turn(data)
        else:
            self._write(data)

    def _write(self, data: bytes) -> None:
        if self.stream is None:  # closed at the end of a program that still logs
            self.stream = self._open()
        losses = self._losses
        if losses.number:
            data = losses.beginning + data
        size = len(data)
        try:
            while data:
                data = data[self.stream.write(data) :]  # all of it, unless the disk is full
        except OSError:
            if len(data) < size:
                losses.beginning = b"\n"
            raise
        if losses.number:
            losses.end()

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 - the name is logging's
        """Count a record that the file could not take; ``logging`` reports any other error."""
        error = sys.exc_info()[1]
        if isinstance(error, OSError):
            self._losses.add(error)
        else:
            super().handleError(record)

    def _write_in_turn(self, data: bytes) -> None:
        for _ in range(100):  # not for ever, if another program moves the file away as fast as it is opened
            if not self._catch_up():
                break
            file = self.stream.fileno()
            if self._is_full(file, len(data)) and self._lock(file, exclusive=True) and self._rotate():
                continue
            if not self._lock(file):
                break
            try:
                # It may have been renamed while this process waited for the lock.
                if is_named(self.baseFilename, file):
                    self._write(data)
                    return
            finally:
                unlock(file)
        self._write(data)  # there is no new file, or no lock; better in the old file than nowhere

    def _lock(self, file: int, *, exclusive: bool = False) -> bool:
        """Lock the open file: exclusively if that is possible at once, or shared, which may take a moment."""
        now = time.monotonic()
        until = now if exclusive or now < self._impatient_until else now + LONGEST_ROTATION
        try:
            while not lock(file, exclusive=exclusive):
                if time.monotonic() >= until:
                    if not exclusive and until > now:
                        self._impatient_until = until + IMPATIENCE
                    return False
                time.sleep(0.001)
        except OSError as error:
            self._stop_rotating(file, error)
            return False
        return True

    def _stop_rotating(self, file: int, error: OSError) -> None:
        self.maxBytes = 0
        with suppress(OSError):
            os.write(file, f"zibai: this file is not rotated any more: {error}\n".encode())

    def _is_full(self, file: int, more: int) -> bool:
        size = os.fstat(file).st_size
        return self.maxBytes > 0 and size > 0 and size + more > self.maxBytes

    def _catch_up(self) -> bool:
        """Open the file that the path names now, unless it is open; False if that fails."""
        # A forked process needs an open file of its own: the lock belongs to the open file, which both processes share.
        if self.stream is None or self._opened_by != os.getpid() or not is_named(self.baseFilename, self.stream):
            try:
                _open_anew(self)
            except OSError:
                return False
        return True

    def _rotate(self) -> bool:
        """Rotate, with the exclusive lock held, and release it. False if another process rotates at this moment."""
        old = self.stream
        try:
            # Another process may rotate at the same time: the new file can be full before all backups are renamed.
            directory = os.open(os.path.dirname(self.baseFilename), os.O_RDONLY)
            try:
                if not lock(directory, exclusive=True):
                    return False
                if is_named(self.baseFilename, old):
                    self.stream = None  # otherwise doRollover() closes it first, and the lock is gone
                    self.doRollover()
                    let_outputs_follow(os.fstat(old.fileno()), self.stream)
            finally:
                os.close(directory)
        except FileNotFoundError:
            pass  # another program has just moved it
        except OSError as error:
            self._stop_rotating(old.fileno(), error)
        finally:
            if self.stream is None:
                self.stream = old
            unlock(old)
            if self.stream is not old:
                old.close()
        return True

    def _write_by_itself(self, data: bytes) -> None:
        with turn_beside(self.baseFilename) as is_ours:
            try:
                if is_ours and self.maxBytes > 0:
                    self.stream = self._open()
                    if self._is_full(self.stream.fileno(), len(data)):
                        with suppress(OSError):  # while another program reads the file it cannot be renamed, and grows
                            self.doRollover()  # which closes it first
                self._write(data)
            finally:
                if self.stream is not None:
                    self.stream.close()
                self.stream = None


# ------------------------------------------------------------------------------ files that are moved away

_known: WeakSet[logging.Handler] = WeakSet()
"""Handlers that may vanish from all lists of ``logging`` when the application configures its own."""


def remember_handlers() -> None:
    """Let :func:`reopen` reopen the present handlers of files even when ``logging`` no longer lists them."""
    _known.update(each for each in _all_handlers() if isinstance(each, logging.FileHandler))


def reopen() -> None:
    """Let all handlers of files open what their paths name now; nothing happens where that is the same file."""
    for handler in _all_handlers():
        if isinstance(handler, logging.FileHandler):
            handler.acquire()
            try:
                if handler.stream is None:
                    if isinstance(handler, LogFile) and handler.was is not None:
                        _open_anew(handler)  # the outputs of a daemon must follow at once
                elif not is_named(handler.baseFilename, handler.stream):
                    _open_anew(handler)
            except (OSError, ValueError) as error:
                logging.getLogger("zibai").error("%s cannot be reopened: %s", handler.baseFilename, error)
            finally:
                handler.release()


def is_log(path: str) -> bool:
    """Whether this server writes the file: that of a handler, a backup of one, or that of its standard outputs."""
    logs = {os.path.realpath(each.baseFilename) for each in _all_handlers() if isinstance(each, logging.FileHandler)}
    if any(path.startswith(log) and _APPENDED.fullmatch(path, len(log)) for log in logs):
        return True
    for output in (1, 2):
        with suppress(OSError):
            if os.path.samestat(os.stat(path), os.fstat(output)):
                return True
    return False


def _all_handlers() -> set[logging.Handler]:
    """The handlers in logging's list, and those of loggers, of queues and of their threads.

    A dictConfig or a fileConfig empties the list, and older handlers may still be in use.
    """
    listed = [reference() for reference in list(getattr(logging, "_handlerList", []))]
    loggers = [logging.getLogger(), *logging.Logger.manager.loggerDict.values()]
    waiting: list[Any] = [*listed, *_known, *(each for logger in loggers for each in getattr(logger, "handlers", ()))]
    # A QueueListener that was made by hand can be found only by its thread.
    waiting += [getattr(getattr(thread, "_target", None), "__self__", None) for thread in threading.enumerate()]
    found: set[logging.Handler] = set()
    while waiting:
        each = waiting.pop()
        if isinstance(each, QueueListener):
            waiting += each.handlers
        elif isinstance(each, logging.Handler) and each not in found:
            found.add(each)
            # A handler may write to others: the target of a MemoryHandler, the listener of a QueueHandler, or whatever
            # the handlers of the user call their own.
            for value in list(vars(each).values()):
                waiting += value if isinstance(value, list | tuple) else [value]
    return found


def _open_anew(handler: logging.FileHandler) -> None:
    new = handler._open()
    old, handler.stream = handler.stream, new
    if old is not None:
        let_outputs_follow(os.fstat(old.fileno()), new)
        old.close()
