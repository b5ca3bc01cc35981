"""A log file that several processes write, that is rotated by its size, and that others may move away.

A record is one ``write`` to a file that is open for appending, so the records of several processes come whole, one
behind the other. With ``maxBytes`` any of them may find the file full and rename it, and nobody may write to what is
about to be removed, nor rename the new file as well. So each holds a lock on the file itself while it looks whether
the path still names it, and writes: a shared one, since writers do not disturb each other. Who rotates has to have it
alone, and the directory too, and does not wait for that: where a process is stopped in the middle of a record the
file grows, and nobody stands still. Nor does a record wait for long: any user who may read the file can lock it, and
some file systems have no locks. Then it is written all the same. On Windows a file that is open cannot be renamed, and
two that append overwrite each other, so there it is opened for each record, under a lock on a file beside it.

:func:`reopen` is for who moves files away and says so, as logrotate does: handlers of the FileHandler family, those of
the user's own configuration too, go on in what their paths name now. Any thread may call it, but no handler of a signal
and no callback of gevent's hub, because it waits for the locks of the handlers.
"""

import logging
import os
import stat
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from logging.handlers import MemoryHandler, QueueHandler, QueueListener, RotatingFileHandler
from typing import Any, Final
from weakref import WeakSet

from ..errors import UsageError
from .format import AtOnce

if sys.platform == "win32":
    import msvcrt
else:
    import fcntl

LONGEST_TURN = 1.0
"""Seconds that a record waits on Windows for one that is being written; then it is written all the same."""

LONGEST_ROTATION: Final = 0.2
"""Seconds that a record waits elsewhere for another process that has the file for itself; then it is written all the
same, and the next ones do not wait for ``IMPATIENCE`` seconds."""

IMPATIENCE: Final = 10.0


class LogFile(RotatingFileHandler, AtOnce):
    """Writes to ``filename``, which other processes write too; 0 ``maxBytes`` is no rotation."""

    stream: Any  # a raw file, since a buffer is written when it is full and not when the record ends

    def __init__(self, filename: str, maxBytes: int = 0, backupCount: int = 1) -> None:  # noqa: N803 -- as logging's
        self._opened_by = 0
        self._impatient_until = 0.0
        self.was: os.stat_result | None = None  # the file that was open when the handler was closed
        super().__init__(filename, "a", maxBytes, backupCount, "utf-8", delay=sys.platform == "win32")

    def _open(self) -> Any:
        file = open(self.baseFilename, "ab", buffering=0)  # noqa: SIM115 -- it is kept
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            self.maxBytes = 0  # a terminal, a pipe
        self._opened_by = os.getpid()
        if self.was is not None:
            _let_outputs_follow(self.was, file)
            self.was = None
        return file

    def close(self) -> None:
        """A dictConfig of the application does this too, and then the log goes on: the next record opens the file."""
        with suppress(OSError, ValueError):  # the application may have closed all descriptors
            self.was = os.fstat(self.stream.fileno()) if self.stream is not None else self.was
        super().close()

    def emit(self, record: logging.LogRecord) -> None:
        try:
            self.write_line(self.format(record) + self.terminator)
        except RecursionError:
            raise
        except Exception:
            self.handleError(record)

    def write_line(self, line: str) -> None:
        data = line.encode("utf-8", "backslashreplace")
        if sys.platform == "win32":
            self._write_by_itself(data)
        elif self.maxBytes > 0:
            self._write_in_turn(data)
        else:
            self._write(data)

    def _write(self, data: bytes) -> None:
        if self.stream is None:  # it was closed, at the end of a program that goes on to log
            self.stream = self._open()
        while data:
            data = data[self.stream.write(data) :]  # all of it, unless the disk is full

    def _write_in_turn(self, data: bytes) -> None:
        for _ in range(100):  # else somebody moves the file away as fast as it is opened
            if not self._catch_up():
                break
            file = self.stream.fileno()
            if self._is_full(file, len(data)) and self._lock(file, alone=True) and self._rotate():
                continue
            if not self._lock(file):
                break
            try:
                # It may have been renamed while this one waited for the lock.
                if _is_named(self.baseFilename, file):
                    self._write(data)
                    return
            finally:
                _unlock(file)
        self._write(data)  # there is no new file, or no lock; better in the old file than nowhere

    def _lock(self, file: int, *, alone: bool = False) -> bool:
        """Lock the open file: alone if that is possible at once, or with other writers, which may take a moment."""
        now = time.monotonic()
        until = now if alone or now < self._impatient_until else now + LONGEST_ROTATION
        try:
            while not _lock(file, alone=alone):
                if time.monotonic() >= until:
                    if not alone and until > now:
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
        """Have that file open which the path names; whether that could be done."""
        # In a forked process the lock would be the parent's as well: it belongs to the open file, which is shared.
        if self.stream is None or self._opened_by != os.getpid() or not _is_named(self.baseFilename, self.stream):
            try:
                _open_anew(self)
            except OSError:
                return False
        return True

    def _rotate(self) -> bool:
        """With the lock held alone, which ends here. Whether to look again; else it is not to be done now."""
        old = self.stream
        try:
            # Somebody may move the file while its backups are renamed, and the next one be full before that is done.
            directory = os.open(os.path.dirname(self.baseFilename), os.O_RDONLY)
            try:
                if not _lock(directory, alone=True):
                    return False
                if _is_named(self.baseFilename, old):
                    self.stream = None  # or it would be closed first of all, and the lock gone with it
                    self.doRollover()
                    _let_outputs_follow(os.fstat(old.fileno()), self.stream)
            finally:
                os.close(directory)
        except FileNotFoundError:
            pass  # it was moved in this moment
        except OSError as error:
            self._stop_rotating(old.fileno(), error)
        finally:
            if self.stream is None:
                self.stream = old
            _unlock(old)
            if self.stream is not old:
                old.close()
        return True

    def _write_by_itself(self, data: bytes) -> None:
        with _turn_beside(self.baseFilename) as alone:
            try:
                if alone and self.maxBytes > 0:
                    self.stream = self._open()
                    if self._is_full(self.stream.fileno(), len(data)):
                        with suppress(OSError):  # a reader does not let the file be renamed, so it grows
                            self.doRollover()  # which closes it first
                self._write(data)
            finally:
                if self.stream is not None:
                    self.stream.close()
                self.stream = None


def prepare(path: str, rotated: bool, owner: tuple[int, int] | None = None) -> None:
    """Make sure that this user can write the log file; UsageError, in one line, when not.

    With an ``owner`` this is root, which is going to be that user. Then a file that is missing is made and given to the
    owner, and one that is there is not touched: where the owner may write to the directory it may be a link, which
    root must not follow. Call it again as the owner.
    """
    flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT
    try:
        try:
            file = os.open(path, flags | os.O_EXCL, 0o666)
            if owner is not None and sys.platform != "win32":
                os.fchown(file, *owner)
        except FileExistsError:
            if owner is not None:
                return
            file = os.open(path, flags)
        regular = stat.S_ISREG(os.fstat(file).st_mode)
        os.close(file)
    except OSError as error:
        raise UsageError(f"--log-file: {path!r} cannot be written: {error.strerror}") from error
    if owner is None and rotated and regular and not _may_rename(path):
        raise UsageError(f"--log-max-bytes: no permission to rename {path!r}; put it into a directory of this user")


def _may_rename(path: str) -> bool:
    return os.access(os.path.dirname(os.path.abspath(path)), os.W_OK | os.X_OK)


# ------------------------------------------------------------------------------ files that are moved away

_known: WeakSet[logging.Handler] = WeakSet()
"""Handlers that are in no list of logging's any more, as soon as the application has configured its own."""


def remember_handlers() -> None:
    """All handlers of files that there are now are to be reopened, even when logging forgets them."""
    _known.update(each for each in _all_handlers() if isinstance(each, logging.FileHandler))


def reopen() -> None:
    """Let all handlers of files go on in what their paths name now; where it is the same file nothing happens."""
    for handler in _all_handlers():
        if isinstance(handler, logging.FileHandler):
            handler.acquire()
            try:
                if handler.stream is None:
                    if isinstance(handler, LogFile) and handler.was is not None:
                        _open_anew(handler)  # what is printed has to follow at once
                elif not _is_named(handler.baseFilename, handler.stream):
                    _open_anew(handler)
            except (OSError, ValueError) as error:
                logging.getLogger("zibai").error("%s cannot be reopened: %s", handler.baseFilename, error)
            finally:
                handler.release()


def _all_handlers() -> set[logging.Handler]:
    """Those in logging's list, and those that loggers, queues and their threads have.

    A dictConfig or a fileConfig empties the list, and handlers that were made before it may still be in use.
    """
    listed = [reference() for reference in list(getattr(logging, "_handlerList", []))]
    loggers = [logging.getLogger(), *logging.Logger.manager.loggerDict.values()]
    waiting: list[Any] = [*listed, *_known, *(each for logger in loggers for each in getattr(logger, "handlers", ()))]
    # A listener that was made by hand is known to nobody but its thread.
    waiting += [getattr(getattr(thread, "_target", None), "__self__", None) for thread in threading.enumerate()]
    found: set[logging.Handler] = set()
    while waiting:
        each = waiting.pop()
        if isinstance(each, QueueListener):
            waiting += each.handlers
        elif isinstance(each, logging.Handler) and each not in found:
            found.add(each)
            if isinstance(each, QueueHandler):
                waiting.append(getattr(each, "listener", None))  # since Python 3.12
            elif isinstance(each, MemoryHandler):
                waiting.append(each.target)
    return found


def _open_anew(handler: logging.FileHandler) -> None:
    new = handler._open()
    old, handler.stream = handler.stream, new
    if old is not None:
        _let_outputs_follow(os.fstat(old.fileno()), new)
        old.close()


def _let_outputs_follow(old: os.stat_result, new: Any) -> None:
    """What is printed goes with the log where it went with it before: a daemon has its outputs there."""
    for output in (1, 2):
        with suppress(OSError):  # it is closed
            if os.path.samestat(os.fstat(output), old):
                os.dup2(new.fileno(), output)


def _is_named(path: str, file: Any) -> bool:
    """Whether ``path`` is still the name of an open file, which may have been moved."""
    try:
        return os.path.samestat(os.stat(path), os.fstat(file if isinstance(file, int) else file.fileno()))
    except OSError:
        return False


def _lock(file: Any, *, alone: bool = False) -> bool:
    """Lock an open file, alone or with others, if that is possible at once. OSError where the system has no locks."""
    if sys.platform != "win32":
        try:
            fcntl.flock(file, (fcntl.LOCK_EX if alone else fcntl.LOCK_SH) | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
    return True


def _unlock(file: Any) -> None:
    if sys.platform != "win32":
        with suppress(OSError):
            fcntl.flock(file, fcntl.LOCK_UN)


@contextmanager
def _turn_beside(path: str) -> Iterator[bool]:
    """Be the only one, by a lock on a file beside ``path``; for Windows. Whether that is so."""
    with open(path + ".lock", "ab") as file:
        until = time.monotonic() + LONGEST_TURN
        while not (alone := _lock_byte(file.fileno())) and time.monotonic() < until:
            time.sleep(0.001)  # the system's own waiting looks once in a second
        yield alone  # closing the file ends the lock


def _lock_byte(file: int) -> bool:
    if sys.platform == "win32":
        try:
            os.lseek(file, 0, os.SEEK_SET)
            msvcrt.locking(file, msvcrt.LK_NBLCK, 1)
        except OSError:
            return False
        return True
    return _lock(file, alone=True)
