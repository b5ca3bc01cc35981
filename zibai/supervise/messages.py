"""The parent's side of a pipe to a worker: neither sending nor receiving ever waits for the worker.

A worker may be stopped, or hang, at any moment, even in the middle of a message. So a message is sent at once or not at
all, and received bytes are collected until a message is complete. The far end is a plain ``Connection``. On Windows
both ends are, since a pipe carries whole messages there and the parent sends three of them at most.
"""

import _socket
import os
import pickle
import socket
import struct
import sys
from collections.abc import Iterator, Sequence
from contextlib import closing
from typing import Any

# The C type: a worker's control thread makes sockets, and gevent's class would make a hub for that thread.
Socket = _socket.socket


class HalfSent(OSError):
    """The message has been sent, and its descriptors have not."""


def as_socket(pipe: Any) -> Any:
    """A socket for a pipe of ``multiprocessing``, which is one on POSIX. Sockets carry descriptors."""
    sock = Socket(fileno=os.dup(pipe.fileno()))
    # An application may have set a default timeout, and then the pipe would not block any more: the flag is shared.
    sock.setblocking(True)
    return sock


def send(pipe: Any, message: object, fds: Sequence[int] = ()) -> None:
    """Send a small message, then descriptors. BlockingIOError if the pipe is full, OSError if it is closed."""
    if sys.platform == "win32":
        pipe.send(message)
        return
    data = pickle.dumps(message)
    with closing(as_socket(pipe)) as sock:
        # The kernel takes a message of this size completely or not at all.
        sock.send(struct.pack("!i", len(data)) + data, socket.MSG_DONTWAIT)
        if fds:
            try:
                socket.send_fds(sock, [b"\0"], fds, socket.MSG_DONTWAIT)
            except OSError as error:
                raise HalfSent(*error.args) from error


class Inbox:
    """Receives through ``pipe``."""

    def __init__(self, pipe: Any) -> None:
        self._pipe = pipe
        self._rest = bytearray()

    def receive(self) -> Iterator[Any]:
        """The messages that have arrived. Raises EOFError or OSError after them if there will be no more."""
        if sys.platform == "win32":
            while self._pipe.poll():
                yield self._pipe.recv()
            return
        with closing(as_socket(self._pipe)) as sock:
            while True:
                yield from self._whole()
                try:
                    data = sock.recv(65536, socket.MSG_DONTWAIT)
                except BlockingIOError:
                    return
                if not data:
                    raise EOFError
                self._rest += data

    def _whole(self) -> Iterator[Any]:
        """The complete messages. Four bytes with the length come before each; none here reaches 2 GiB."""
        while len(self._rest) >= 4:
            end = 4 + struct.unpack_from("!i", self._rest)[0]
            if len(self._rest) < end:
                return
            message = pickle.loads(bytes(self._rest[4:end]))  # noqa: S301 -- from a worker
            del self._rest[:end]
            yield message
