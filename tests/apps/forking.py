"""An application that forks: a child that lives until the test lets it go, or one that comes back to the server."""

from __future__ import annotations

import _socket
import multiprocessing
import os
import socket
import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

TEXT = [("Content-Type", "text/plain")]


def live(port: int) -> None:
    """What a child does: it is there until the other end of a connection is closed.

    It closes what is not TCP: by pipes the test and the parent learn of the end of a process.
    """
    os.dup2(os.open(os.devnull, os.O_RDWR), 2)
    for fd in range(3, 256):
        try:
            kind = socket.socket(fileno=os.dup(fd)).family
        except OSError:
            kind = None
        if kind != socket.AF_INET:
            try:
                os.close(fd)
            except OSError:
                pass
    sock = _socket.socket()  # which gevent does not patch: its hub has nothing left to wait with
    sock.connect(("127.0.0.1", port))
    sock.recv(1)


def fork(port: int) -> None:
    if os.fork() == 0:
        try:
            live(port)
        finally:
            os._exit(0)


if "FORK_AT_IMPORT" in os.environ:
    fork(int(os.environ["FORK_AT_IMPORT"]))


def cut() -> Iterator[bytes]:
    yield b"a" * 10
    raise RuntimeError("on purpose")


def app(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
    path, query = environ["PATH_INFO"], environ["QUERY_STRING"]
    if path == "/wait":
        with socket.create_connection(("127.0.0.1", int(query))) as sock:
            sock.recv(1)
    elif path == "/process":
        process = multiprocessing.get_context("fork").Process(target=live, args=[int(query)])
        process.start()
    elif path == "/returns":
        os.fork()
    elif path == "/exits":
        if os.fork() == 0:
            sys.exit()
    elif path != "/":
        fork(int(query))
    start_response("200 OK", TEXT)
    return cut() if path == "/cut" else [b"by ", str(os.getpid()).encode()]
