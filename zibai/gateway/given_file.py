"""Files that an ASGI application lets the server send: ``http.response.pathsend`` and ``.zerocopysend``."""

import os
import stat
import tempfile
from typing import Any

from ..engine.outgoing import File, read_at
from .filewrapper import BLOCK

Message = dict[str, Any]


def open_path(path: str | os.PathLike[str], by_kernel: bool) -> File:
    """Open a file for ``http.response.pathsend``. Raises ``OSError``, for the application."""
    # Opening a FIFO would wait for its other side, and block the event loop.
    flags = sum(getattr(os, name, 0) for name in ("O_BINARY", "O_CLOEXEC", "O_NONBLOCK"))
    fd = os.open(path, os.O_RDONLY | flags)
    try:
        info = os.fstat(fd)
        if not stat.S_ISREG(info.st_mode):
            raise OSError(f"{path!r} is no regular file")
        if _says_its_size(fd, info.st_size):
            return File(fd, 0, info.st_size, by_kernel)
        copy = _copy(fd, 0, by_kernel)
    except BaseException:
        os.close(fd)
        raise
    os.close(fd)
    return copy


def _says_its_size(fd: int, size: int) -> bool:
    """Whether a file is as large as it says. Those of /proc say that they are empty, and those of /sys say too much."""
    return size > 0 and bool(read_at(fd, 1, size - 1))


def _copy(fd: int, start: int, by_kernel: bool) -> File:
    """What reading the rest of a file gives, as a file of its own, whose size is true."""
    piece = read_at(fd, BLOCK, start)
    if not piece:  # most likely it is empty, and then no directory for temporary files is needed
        return File(os.dup(fd), start, 0, by_kernel)
    with tempfile.TemporaryFile() as copy:
        size = 0
        while piece:
            size += copy.write(piece)
            piece = read_at(fd, BLOCK, start + size)
        copy.flush()
        return File(os.dup(copy.fileno()), 0, size, by_kernel)


def duplicate(message: Message, by_kernel: bool) -> File:
    """The file of ``http.response.zerocopysend``: ``count`` bytes from ``offset``, or from its position.

    In the second case its position moves behind these bytes, as with ``os.sendfile``.
    """
    source, offset, count = message["file"], message.get("offset"), message.get("count")
    number = source if isinstance(source, int) else source.fileno()
    start = offset
    if start is None:
        start = os.lseek(number, 0, os.SEEK_CUR) if isinstance(source, int) else source.tell()
    if start < 0 or (count is not None and count < 0):
        raise ValueError("offset and count must not be negative")
    whole = os.fstat(number).st_size
    if _says_its_size(number, whole):
        file = File(os.dup(number), start, max(0, whole - start), by_kernel)
    else:
        file = _copy(number, start, by_kernel)
    file.left = size = file.left if count is None else min(file.left, count)
    try:
        if offset is None and isinstance(source, int):
            os.lseek(number, start + size, os.SEEK_SET)
        elif offset is None:
            source.seek(start + size)
    except BaseException:
        file.close()
        raise
    return file
