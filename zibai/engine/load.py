"""The work and memory that all clients of one server together may cost it.

A limit for each connection bounds little when there are ten thousand of them. So two things are counted in sum, and
every connection asks here first:

 - the *budget* of one turn of the server loop: what reading the framing of bodies, records and WebSockets may cost in
   it. What is left goes on in the next turn, so other connections wait for a few milliseconds, whatever clients send.
   The events of a turn are bounded, too;
 - the bytes of request bodies. Beyond a bound of memory, even small bodies go to temporary files. Beyond a bound of
   these files, the server reads no more of the bodies until there is room.

Everything here is the loop owner's. The services of one server share one of these.
"""

import io
import os
import shutil
import tempfile
from math import inf
from typing import BinaryIO, Final, cast

TURN: Final = 2048
"""The budget of a turn, in plain framing lines of a chunked body: about a microsecond each, so about 2 ms."""

MAX_EVENTS: Final = 32
"""Events of one turn. If a turn took the events of all clients, one whose next request comes just after its beginning
would wait for two turns: the next turn would begin with the others again."""

DISK_RESERVE: Final = 256 * 1024**2
"""Bytes that are left free in the file system of temporary files; a tenth of it where that is less."""

_LOOK_EVERY: Final = 4 * 1024**2
"""Bytes that may go to files until the file system is asked again how much is free."""

_BUFFER: Final = 8 * 1024
"""Bytes of the buffer of one file. The default of newer Pythons is 128 KiB, which is larger than most bodies."""


class Load:
    """``max_memory`` and ``max_disk`` are the bounds of all bodies, in bytes. ``descriptors`` is how many connections
    and files there may be together.
    """

    __slots__ = (
        "_allowed", "_looked_at", "budget", "connections", "descriptors", "disk", "files", "freed", "max_disk",
        "max_memory", "memory",
    )  # fmt: skip

    def __init__(self, max_memory: float = inf, max_disk: float = inf, descriptors: float = inf) -> None:
        self.max_memory, self.max_disk = max_memory, max_disk
        self.descriptors = descriptors
        self.connections = 0
        self.freed = False  # whether there may be room since the last look
        self.budget = TURN
        self.memory = 0  # bytes of bodies in memory
        self.disk = 0  # and in files
        self.files = 0  # how many
        self._looked_at = -_LOOK_EVERY  # the value of `disk` when the file system was last asked
        self._allowed = True  # its reply

    def has_room(self, *, new: bool) -> bool:
        """Whether a body may grow in its file, or in a ``new`` file."""
        if self.disk >= self.max_disk or (new and self.connections + self.files >= self.descriptors):
            return False
        if not self._allowed or abs(self.disk - self._looked_at) >= _LOOK_EVERY:
            self._looked_at = self.disk
            self._allowed = _has_space()
        return self._allowed


def _has_space() -> bool:
    """Whether the file system of temporary files has more free space than must be left."""
    try:
        total, _, free = shutil.disk_usage(tempfile.gettempdir())
    except OSError:
        return True  # the write will raise the error
    return free > min(DISK_RESERVE, total // 10)


def spool() -> BinaryIO:
    """A temporary file for a body; it has no name, and is gone when it is closed."""
    file = tempfile.TemporaryFile(buffering=_BUFFER)  # noqa: SIM115 -- closed by its owner
    if isinstance(file, io.BufferedRandom):
        return cast("BinaryIO", file)
    # On Windows it is a wrapper, which is iterable and yet no iterator. The system removes a file with its last handle.
    with file:
        return open(os.dup(file.fileno()), "w+b", buffering=_BUFFER)
