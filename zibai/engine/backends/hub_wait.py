"""How a greenlet waits for the socket of its client: by gevent's hub, with a limit of time."""

from collections.abc import Callable

from gevent.socket import wait_read, wait_write

from ...net.listener import Socket

SHORTEST = 0.001
"""Seconds of the shortest timer: libuv counts in milliseconds, and warns of a shorter one on standard error."""


class Readiness:
    """A greenlet waits for one socket by the hub."""

    def wait_readable(self, sock: Socket, timeout: float) -> bool:
        return _wait(wait_read, sock, timeout)

    def wait_writable(self, sock: Socket, timeout: float) -> bool:
        return _wait(wait_write, sock, timeout)


class _Late(Exception):
    """Not gevent's Timeout, which an application may use itself around a read."""


def _wait(wait: Callable[..., None], sock: Socket, timeout: float) -> bool:
    try:
        wait(sock.fileno(), timeout=timeout and max(timeout, SHORTEST), timeout_exc=_Late)
    except _Late:
        return False
    return True
