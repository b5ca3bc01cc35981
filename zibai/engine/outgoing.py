"""The rest of a response on its way to a slow client: bytes that exist, and files. Nothing here waits.

Most connections keep unsent bytes in a plain ``bytearray``. An :class:`Outgoing` takes its place when the rest is large
or a file: large pieces stay the objects that the application has given, and a file stays a descriptor and a position.
So the server loop can send a response of any size without a thread or greenlet, and without a copy of it.
"""

import os
import sys
from collections import deque
from math import inf
from threading import Lock
from typing import Final, Self

from ..net.listener import Socket

COPIED_BELOW: Final = 2048
"""Smaller pieces, in bytes, are copied behind the piece before, since an object for each would take more memory."""

JOINED_AT_ONCE: Final = 64 * 1024
"""Bytes of small pieces that one system call sends together, and of a file that are read at once."""

SENT_AT_ONCE: Final = 256 * 1024
"""Bytes that one step sends, so that a fast client does not keep the server loop from the other clients."""


class FileFault(Exception):
    """A file cannot be read, or it ends too early: the fault is on the server's side, and not the client's."""


class Budget:
    """How many bytes wait in memory for slow clients, over all connections of a server. Any thread may call it.

    Beyond the ``limit`` nothing fails: later responses keep their runners, so no runner begins another response.
    """

    def __init__(self, limit: float = inf) -> None:
        self.limit = limit
        self.memory = 0
        self.files = 0  # open for slow clients
        self._lock = Lock()

    def change(self, difference: int, files: int = 0) -> None:
        with self._lock:
            self.memory += difference
            self.files += files

    @property
    def exceeded(self) -> bool:
        return self.memory > self.limit


class File:
    """``left`` bytes of an open file from ``offset``. The server has its own descriptor beside the application's.

    ``by_kernel`` says whether to try ``os.sendfile``, which needs a plain socket.
    """

    __slots__ = ("by_kernel", "fd", "left", "offset")

    def __init__(self, fd: int, offset: int, left: int, by_kernel: bool) -> None:
        self.fd, self.offset, self.left, self.by_kernel = fd, offset, left, by_kernel

    def send_to(self, sock: Socket) -> int:
        """Send a step by the kernel; 0 when the kernel cannot, and the file must be read instead."""
        if sys.platform == "win32" or not self.by_kernel:
            return 0
        try:
            sent = os.sendfile(sock.fileno(), self.fd, self.offset, min(self.left, SENT_AT_ONCE))
        except (BlockingIOError, InterruptedError, ConnectionError):
            raise
        except OSError:
            sent = 0
        if not sent:
            # The file, its file system or the socket cannot do it: reading and sending will tell which, and why.
            self.by_kernel = False
        self._advance(sent)
        return sent

    def read(self) -> bytes:
        """The next bytes, at least one."""
        try:
            data = read_at(self.fd, min(self.left, JOINED_AT_ONCE), self.offset)
        except OSError as error:
            raise FileFault(f"a file cannot be read: {error}") from error
        if not data:
            raise FileFault(f"a file has become shorter: {self.left} bytes of it are missing")
        self._advance(len(data))
        return data

    def _advance(self, size: int) -> None:
        self.offset += size
        self.left -= size

    def close(self) -> None:
        fd, self.fd = self.fd, -1
        if fd >= 0:
            try:
                os.close(fd)
            except OSError:
                pass  # NFS reports failed writes here, and the server has written nothing


def read_at(fd: int, size: int, offset: int) -> bytes:
    """Read from ``offset``, and leave the position of the descriptor as it is."""
    if sys.platform != "win32":
        return os.pread(fd, size, offset)
    position = os.lseek(fd, 0, os.SEEK_CUR)
    try:
        os.lseek(fd, offset, os.SEEK_SET)
        return os.read(fd, size)
    finally:
        os.lseek(fd, position, os.SEEK_SET)


class Outgoing:
    """A queue of bytes and files. Its length is the bytes that are left. Used under the lock of the sender."""

    __slots__ = ("_in_files", "_items", "_size", "files")

    def __init__(self, first: bytearray) -> None:
        self._items: deque[bytearray | memoryview | File] = deque([first] if first else ())
        self._size = len(first)
        self._in_files = 0
        self.files = 0  # how many files are in it, and open

    def __len__(self) -> int:
        return self._size

    @property
    def memory(self) -> int:
        """The bytes in memory, without those in files."""
        return self._size - self._in_files

    def __iadd__(self, data: bytes | memoryview) -> Self:
        if data:
            last = self._items[-1] if self._items else None
            if len(data) >= COPIED_BELOW:
                self._items.append(memoryview(data))
            elif type(last) is bytearray:
                last += data
            else:
                self._items.append(bytearray(data))
            self._size += len(data)
        return self

    def add_file(self, file: File) -> None:
        """Take the file; it is closed when it has been sent, and by ``clear``."""
        self._items.append(file)
        self.files += 1
        self._size += file.left
        self._in_files += file.left

    def send_to(self, sock: Socket) -> int:
        """Send a step from the front. OSError is the socket's, :class:`FileFault` the file's.

        After a socket over TLS has taken a part of some bytes, the next call must begin with the rest of them. So a
        step begins with the rest of the step before, and joining pieces does not change these bytes.
        """
        front = self._items[0]
        if isinstance(front, File):
            left = front.left
            sent = front.send_to(sock)
            data = b"" if sent else front.read()
            self._in_files -= left - front.left
            if not front.left:
                self._items.popleft().close()  # type: ignore[union-attr]
                self.files -= 1
            if sent:
                self._size -= sent
                return sent
            front = memoryview(data)
            self._items.appendleft(front)
        elif len(front) < JOINED_AT_ONCE and len(self._items) > 1:
            front = self._join()
        with memoryview(front)[:SENT_AT_ONCE] as piece:  # released at once: a bytearray with a view on it cannot change
            sent = sock.send(piece)
        self._size -= sent
        if sent == len(front):
            self._items.popleft()
        elif type(front) is bytearray:
            del front[:sent]
        else:
            self._items[0] = front[sent:]
        return sent

    def _join(self) -> bytearray | memoryview:
        """Join small pieces at the front; return the new first piece."""
        items, pieces, size = self._items, [], 0
        while items and not isinstance(item := items[0], File) and size + len(item) <= JOINED_AT_ONCE:
            pieces.append(item)
            size += len(item)
            items.popleft()
        joined = pieces[0] if len(pieces) == 1 else bytearray().join(pieces)
        items.appendleft(joined)
        return joined

    def clear(self) -> None:
        """Drop everything, and close the files."""
        for item in self._items:
            if isinstance(item, File):
                item.close()
        self._items.clear()
        self._size = self._in_files = self.files = 0
