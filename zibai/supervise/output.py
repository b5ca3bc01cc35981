"""The output of workers, line by line in the log of their parent.

A worker's descriptors 1 and 2 become the end of a pipe. So the pipe gets the output of Python, of C code and of child
processes. One pipe for both keeps the order. The parent reads each pipe in a separate thread, and another thread logs.
So neither the parent's main thread nor a worker waits for a log that is blocked.

A full pipe blocks the worker, so it must be drained whatever happens:

- The log is slow: the readers wait for it, and in the end the worker does too. Nothing is lost.
- The log is blocked for ``LOG_TIMEOUT``: lines are dropped, and their number is logged when the log goes on.
- The parent is gone: writing fails. The worker's control thread notices it and restores descriptors 1 and 2.
- The parent is stopped (SIGSTOP): a worker blocks when the pipe is full, until the parent is continued. A thread of the
  worker could not drain the pipe: it would need the GIL, which the blocked thread may hold.

A worker's own log takes no detour: its handlers keep the original standard error (:meth:`Outlet.uncaptured`).

Printed text is not trusted. Bytes that are not UTF-8 and characters that control a terminal are escaped, and a long
line is cut into pieces, so that nothing printed can look like a line of the log.
"""

import codecs
import logging
import os
import re
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from multiprocessing import reduction
from typing import Any, Final

from ..logger import logger, output_logger
from ..system.standard import make_sure_of, text

if sys.platform == "win32":
    from .sharing import copied_handle

LINE_LENGTH: Final = 8192
"""Characters of a piece of a line."""

LOG_BUFFER: Final = 4 * 1024 * 1024
"""Characters that may wait for the log."""

LOG_TIMEOUT: Final = 1.0
"""Seconds that the log has to take a line while others wait, and that the server's end waits for the last lines."""

# C0 except the tab, DEL, C1, characters that end a line in some viewers, and those that turn the writing direction.
_UNSAFE = re.compile("[\x00-\x08\x0a-\x1f\x7f-\x9f\u2028\u2029\u200e\u200f\u202a-\u202e\u2066-\u2069]")


def _escape(text: str) -> str:
    return _UNSAFE.sub(lambda match: match[0].encode("unicode_escape").decode(), text)


# ------------------------------------------------------------------------------------------------ a worker's side


class Outlet:
    """The end of the pipe that a worker writes to; a spawned worker gets it as an argument.

    The parent owns it until the worker is started. Then the worker's main thread owns it, and its control thread calls
    ``restore`` when the parent is gone.
    """

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._before: list[int] = []

    def __reduce__(self) -> Any:
        if sys.platform == "win32":
            import msvcrt

            write = 0x40000000 | 0x00100000  # GENERIC_WRITE, SYNCHRONIZE
            return _from_handle, (copied_handle(msvcrt.get_osfhandle(self._fd), write),)
        return _from_descriptor, (reduction.DupFd(self._fd),)

    def fileno(self) -> int:
        """The descriptor."""
        return self._fd

    def close(self) -> None:
        """Close it in the parent, after it was passed on, or when that has failed."""
        if self._fd >= 0:
            os.close(self._fd)
        self._fd = -1

    def redirect(self) -> None:
        """Send what this process and its children print to the parent from now on."""
        self._flush()
        for fd in (1, 2):
            make_sure_of(fd)
        self._before = [os.dup(1), os.dup(2)]
        for fd in (1, 2):
            os.dup2(self._fd, fd)
        self.close()
        sys.stdout, sys.stderr = text(1), text(2)

    @contextmanager
    def uncaptured(self) -> Iterator[None]:
        """Within the block ``sys.stderr`` is the original one, for log handlers, which keep it."""
        captured = sys.stdout, sys.stderr
        sys.stdout, sys.stderr = map(text, self._before)
        try:
            yield
        finally:
            sys.stdout, sys.stderr = captured

    def restore(self) -> None:
        """Print to the original descriptors again, since the parent is gone."""
        for fd, before in zip((1, 2), self._before, strict=False):
            os.dup2(before, fd)

    def _flush(self) -> None:
        for stream in (sys.stdout, sys.stderr):
            with suppress(AttributeError, OSError, ValueError):  # there is none, or it is closed
                stream.flush()


def _from_descriptor(descriptor: Any) -> Outlet:
    return Outlet(descriptor.detach())


def _from_handle(handle: Any) -> Outlet:
    if sys.platform == "win32":
        import msvcrt

        return Outlet(msvcrt.open_osfhandle(handle.detach(), os.O_WRONLY))
    raise AssertionError("handles are of Windows")


# ---------------------------------------------------------------------------------------------- the parent's side

_readers: set[int] = set()
"""The parent's ends of all pipes. If another process has a copy, a worker cannot notice that the parent is gone."""


def close_readers() -> None:
    """Close the parent's ends, in a process that was forked from the parent."""
    for fd in list(_readers):
        os.close(fd)
    _readers.clear()


class Lines:
    """Splits the bytes of one worker into lines that are safe in a log."""

    def __init__(self) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")("backslashreplace")
        self._rest = ""

    def feed(self, data: bytes) -> list[str]:
        """The lines that ``data`` completes. Empty ``data`` ends the last line."""
        *lines, self._rest = (self._rest + self._decoder.decode(data, not data)).split("\n")
        # The rest is bounded too, since a line may never end.
        keep = 0 if not data else (len(self._rest) - 1) % LINE_LENGTH + 1
        if len(self._rest) > keep:
            lines.append(self._rest[: len(self._rest) - keep])
            self._rest = self._rest[len(self._rest) - keep :]
        return [_escape(piece) for line in lines for piece in _pieces(line.removesuffix("\r"))]


def _pieces(line: str) -> list[str]:
    return [line[start : start + LINE_LENGTH] for start in range(0, len(line) or 1, LINE_LENGTH)]


class Collector:
    """The pipes of all workers, and the log. Only the parent's main thread calls ``open``, ``attach`` and ``close``.

    The lock of ``_news`` protects all fields. Readers put lines into ``_waiting``, the writer takes them out.
    """

    def __init__(self) -> None:
        self._news = threading.Condition()
        self._waiting: deque[tuple[int, str]] = deque()
        self._size = 0
        self._dropped = 0
        self._blocked = False
        self._over = False
        self._logging = threading.Lock()
        self._threads: list[threading.Thread] = []
        self._writer = threading.Thread(target=self._write, name="zibai-output", daemon=True)

    def open(self) -> tuple[int, Outlet]:
        """A pipe for one more worker: the end to ``attach`` after the start, and the end that the worker gets."""
        reader, writer = os.pipe()
        _readers.add(reader)
        return reader, Outlet(writer)

    def attach(self, reader: int, pid: Callable[[], int]) -> None:
        """Log the output until the worker and the last of its children are gone."""
        if self._writer.ident is None:
            self._writer.start()
        self._threads = [thread for thread in self._threads if thread.is_alive()]
        thread = threading.Thread(target=self._read, args=(reader, pid), name=f"zibai-output-of-{pid()}", daemon=True)
        self._threads.append(thread)
        thread.start()

    def discard(self, reader: int, outlet: Outlet) -> None:
        """Close a pipe whose worker could not be started."""
        outlet.close()
        _readers.discard(reader)
        os.close(reader)

    @contextmanager
    def quiet(self) -> Iterator[None]:
        """Around a fork: no thread here is logging, so the new process has no copy of a held lock."""
        with self._logging:
            yield

    def close(self) -> None:
        """Log the last lines, since all workers are gone. A blocked log, or a surviving child of a worker, gets
        ``LOG_TIMEOUT`` seconds."""
        for thread in self._threads:
            thread.join(LOG_TIMEOUT)
        with self._news:
            self._over = True
            self._news.notify_all()
        if self._writer.ident is not None:
            self._writer.join(LOG_TIMEOUT)

    def _read(self, reader: int, pid: Callable[[], int]) -> None:
        lines = Lines()
        data = b"-"
        while data:
            try:
                data = os.read(reader, 65536)
            except OSError:
                data = b""
            for line in lines.feed(data):
                self._put(pid(), line)
        _readers.discard(reader)
        os.close(reader)

    def _put(self, pid: int, line: str) -> None:
        with self._news:
            while self._size >= LOG_BUFFER and not self._blocked and not self._over:
                self._blocked = not self._news.wait(LOG_TIMEOUT)  # the writer notifies after each line that it takes
            if self._size >= LOG_BUFFER or self._over:
                self._dropped += 1
                return
            self._waiting.append((pid, line))
            self._size += len(line) + 1
            self._news.notify_all()

    def _write(self) -> None:
        over = False
        while not over:
            with self._news:
                self._news.wait_for(lambda: self._waiting or self._dropped or self._over)
                pid, line = self._waiting.popleft() if self._waiting else (0, None)
                self._size -= 0 if line is None else len(line) + 1
                over = line is None and self._over
                self._blocked = False
                dropped, self._dropped = self._dropped, 0
                self._news.notify_all()
            with self._logging:
                if dropped:
                    logger.error("%d lines of the workers' output are lost: the log did not take them", dropped)
                if line is not None:
                    _log(pid, line)


def _log(pid: int, line: str) -> None:
    if output_logger.isEnabledFor(logging.INFO):
        record = output_logger.makeRecord(output_logger.name, logging.INFO, __file__, 0, "%s", (line,), None)
        record.process = pid  # the worker that has printed it
        output_logger.handle(record)
