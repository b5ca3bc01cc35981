"""Files that an ASGI application lets the server send: ``http.response.pathsend`` and ``.zerocopysend``."""

import os
import stat
from typing import Any

from ..engine.outgoing import File

Message = dict[str, Any]


def open_path(path: str | os.PathLike[str], by_kernel: bool) -> File:
    """Open a file for ``http.response.pathsend``. Raises ``OSError``, for the application."""
    # Opening a FIFO would wait for its other side, and block the event loop.
    flags = sum(getattr(os, name, 0) for name in ("O_BINARY", "O_CLOEXEC", "O_NONBLOCK"))
    fd = os.open(path, os.O_RDONLY | flags)
    info = os.fstat(fd)
    if not stat.S_ISREG(info.st_mode):
        os.close(fd)
        raise OSError(f"{path!r} is no regular file")
    return File(fd, 0, info.st_size, by_kernel)


def duplicate(message: Message, by_kernel: bool) -> File:
    """The file of ``http.response.zerocopysend``: ``count`` bytes from ``offset``, or from its position.

    In the second case its position moves behind these bytes, as with ``os.sendfile``.
    """
    source, offset, count = message["file"], message.get("offset"), message.get("count")
    number = source if isinstance(source, int) else source.fileno()
    start = offset
    if start is None:
        start = os.lseek(number, 0, os.SEEK_CUR) if isinstance(source, int) else source.tell()
    size = max(0, os.fstat(number).st_size - start)
    size = size if count is None else min(size, count)
    if start < 0 or size < 0:
        raise ValueError("offset and count must not be negative")
    if offset is None and isinstance(source, int):
        os.lseek(number, start + size, os.SEEK_SET)
    elif offset is None:
        source.seek(start + size)
    return File(os.dup(number), start, size, by_kernel)
