"""Files that an ASGI application lets the server send: ``http.response.pathsend`` and ``.zerocopysend``.

Only regular files can be sent. A FIFO or a device may never give anything, or never end. Most regular files say their
size. Those of /proc and /sys do not: they must be read, in pieces, since some of them never end.
"""

import os
import stat
from math import inf
from typing import Any, Final

from ..engine.outgoing import File, read_at
from .filewrapper import BLOCK

Message = dict[str, Any]

AT_ONCE: Final = 256 * 1024
"""Bytes of a file that does not say its size that are read in one step. A file that ends within them gets its
Content-Length."""


class Unsized:
    """An open file that does not say its size. At most ``left`` bytes of it are read. ``follows`` is an object, or a
    descriptor of the application, whose position moves behind what was read.
    """

    __slots__ = ("_fd", "_follows", "_left", "_offset")

    def __init__(self, fd: int, offset: int, left: float = inf, follows: Any = None) -> None:
        self._fd, self._offset, self._left, self._follows = fd, offset, left, follows

    def read(self) -> bytes:
        """The next bytes; empty at the end. Raises ``OSError``, for the application."""
        data = read_at(self._fd, int(min(self._left, BLOCK)), self._offset)
        self._offset += len(data)
        self._left -= len(data)
        return data

    def read_first(self) -> tuple[bytes, bool]:
        """The first bytes, and whether they are all. A file of /proc gives a page at a time."""
        pieces: list[bytes] = []
        size = 0
        while size < AT_ONCE:
            piece = self.read()
            if not piece:
                return b"".join(pieces), True
            pieces.append(piece)
            size += len(piece)
        return b"".join(pieces), False

    def close(self) -> None:
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)
            if self._follows is not None:
                _move(self._follows, self._offset)


def open_path(path: str | os.PathLike[str], by_kernel: bool) -> File | Unsized:
    """Open a file for ``http.response.pathsend``. Raises ``OSError``, for the application."""
    # Opening a FIFO would wait for its other side, and block the event loop.
    flags = sum(getattr(os, name, 0) for name in ("O_BINARY", "O_CLOEXEC", "O_NONBLOCK"))
    fd = os.open(path, os.O_RDONLY | flags)
    try:
        size = _size_of(fd, repr(path))
        return Unsized(fd, 0) if size is None else File(fd, 0, size, by_kernel)
    except BaseException:
        os.close(fd)
        raise


def duplicate(message: Message, by_kernel: bool) -> File | Unsized:
    """The file of ``http.response.zerocopysend``: ``count`` bytes from ``offset``, or from its position.

    In the second case its position moves behind these bytes, as with ``os.sendfile``.
    """
    source, offset, count = message["file"], message.get("offset"), message.get("count")
    number = source if isinstance(source, int) else source.fileno()
    whole = _size_of(number, repr(source))
    start = offset
    if start is None:
        start = os.lseek(number, 0, os.SEEK_CUR) if isinstance(source, int) else source.tell()
    if start < 0 or (count is not None and count < 0):
        raise ValueError("offset and count must not be negative")
    if whole is None:
        return Unsized(os.dup(number), start, inf if count is None else count, source if offset is None else None)
    left = max(0, whole - start)
    left = left if count is None else min(left, count)
    if offset is None:
        _move(source, start + left)
    return File(os.dup(number), start, left, by_kernel)


def _size_of(fd: int, name: str) -> int | None:
    """The size of a regular file; None if it does not say it. Files of /proc say that they are empty, and those of /sys
    that they are larger than they are. Raises ``OSError`` for anything else."""
    info = os.fstat(fd)
    if not stat.S_ISREG(info.st_mode):
        raise OSError(f"{name} is no regular file, so the server cannot send it")
    size = info.st_size
    return size if size > 0 and read_at(fd, 1, size - 1) else None


def _move(source: Any, position: int) -> None:
    if isinstance(source, int):
        os.lseek(source, position, os.SEEK_SET)
    else:
        source.seek(position)
