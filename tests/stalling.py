"""Clients that stall: plain sockets, of which there may be hundreds."""

from __future__ import annotations

import selectors
import socket
import ssl
import time
from typing import TYPE_CHECKING

from support import DEADLINE

if TYPE_CHECKING:
    from collections.abc import Iterable


def connect(port: int, receive_buffer: int = 0, tls: ssl.SSLContext | None = None) -> socket.socket:
    """A client that reads only what it is told to; with a small buffer, it soon takes nothing more."""
    sock = socket.socket()
    sock.settimeout(DEADLINE)
    if receive_buffer:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
    sock.connect(("127.0.0.1", port))
    return sock if tls is None else tls.wrap_socket(sock, server_hostname="localhost")


def ends(socks: Iterable[socket.socket]) -> list[bytes]:
    """What each has been sent until its end, however it ended."""
    found: dict[socket.socket, bytes] = dict.fromkeys(socks, b"")
    deadline = time.monotonic() + DEADLINE
    with selectors.DefaultSelector() as selector:
        for sock in found:
            sock.setblocking(False)
            selector.register(sock, selectors.EVENT_READ)
        while selector.get_map():
            assert time.monotonic() < deadline, f"{len(selector.get_map())} of {len(found)} are still there"
            for key, _ in selector.select(1):
                sock = key.fileobj
                assert isinstance(sock, socket.socket)
                try:
                    data = sock.recv(1 << 16)
                except ssl.SSLWantReadError:
                    continue
                except (ConnectionResetError, ssl.SSLEOFError):
                    data = b""
                found[sock] += data
                if not data:
                    selector.unregister(sock)
    return list(found.values())
