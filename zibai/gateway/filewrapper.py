"""``wsgi.file_wrapper``: a file as an iterable, and which files need no reading in Python.

By PEP 3333 the response has the bytes that ``read()`` returns. The kernel may send a file only if its bytes are the
same. So the type of the file must be exactly a plain one: a subclass, or a buffer over another stream, may decode,
decrypt, count or shorten.
"""

import io
import os
import stat
from typing import Any, BinaryIO, Final

from ..engine.outgoing import File, read_at

BLOCK: Final = 64 * 1024
"""Bytes of one read from a file that the kernel cannot send."""

_BUFFERED: Final = (io.BufferedReader, io.BufferedRandom)
_OF_FILES: Final = ("close", "seekable", "seek", "tell")
_READS: Final = {"fileno", "peek", "read", "read1", "readall", "readinto", "readinto1", "seek", "tell"}


class FileWrapper:
    """``wsgi.file_wrapper``. It has the methods of its file: frameworks that send a range of it look for ``seek``."""

    def __init__(self, file: BinaryIO, block_size: int = BLOCK) -> None:
        self.file = file
        self.block_size = block_size
        for name in _OF_FILES:
            if hasattr(file, name):
                setattr(self, name, getattr(file, name))

    def __iter__(self) -> "FileWrapper":
        return self

    def __next__(self) -> bytes:
        if block := self.file.read(self.block_size):
            return block
        raise StopIteration


def open_plain(file: Any, by_kernel: bool) -> File | None:
    """The rest of a plain file, with a descriptor of its own; None where ``file`` must be read.

    The position of ``file`` stays as it is, so that it can still be read afterwards.
    """
    try:
        if not _is_plain(file):
            return None
        if type(file) is io.BufferedRandom:
            file.flush()  # written bytes in the buffer belong to the file, too
        fd, offset = file.fileno(), file.tell()
        info = os.fstat(fd)
        size = info.st_size - offset
        # Files of /proc say that they are empty, and those of /sys that they are larger than they are.
        if not stat.S_ISREG(info.st_mode) or size <= 0 or not read_at(fd, 1, info.st_size - 1):
            return None
        return File(os.dup(fd), offset, size, by_kernel and hasattr(os, "sendfile"))
    except (OSError, ValueError):
        return None  # closed, detached, without a position, or for writing only: reading it will raise the error


def _is_plain(file: Any) -> bool:
    if type(file) in _BUFFERED:
        return _READS.isdisjoint(vars(file)) and type(file.raw) is io.FileIO and _READS.isdisjoint(vars(file.raw))
    return type(file) is io.FileIO and _READS.isdisjoint(vars(file))
