"""The lingering close: the last response is out, and the client gets the time to read it before the socket is closed.

The client may still send something, by mistake or because it does not know of the end. Closing a socket with unread
input makes the kernel send RST, and the client loses the response that it has not read yet (RFC 9112 9.6). So the
server reads these bytes and throws them away. Everything here is the loop owner's.
"""

from math import inf
from typing import Final

from ..net.kernel import unsent
from .context import Client
from .pollable import name_of

LINGER_TIME: Final = 2.0
"""Seconds of a lingering close, and of reading a body that an application has left unread."""


class Lingering:
    """The lingering close of one connection; ``timed_out`` says that it has been idle for too long."""

    __slots__ = ("_timed_out", "_unsent")

    def __init__(self, *, timed_out: bool) -> None:
        self._timed_out = timed_out
        self._unsent = inf

    def __repr__(self) -> str:
        return f"<Lingering{', for it was idle' if self._timed_out else ''}>"

    def goes_on(self, client: Client) -> bool:
        """Whether the client gets more time, because it still takes a large response that the kernel holds."""
        before, self._unsent = self._unsent, unsent(client.sock)
        # The FIN counts as one byte.
        return not client.service.draining and 1 < self._unsent < before

    def hear(self, client: Client) -> None:
        """Bytes have come. After the end of an idle connection they are a request that the client must send again."""
        if self._timed_out:
            self._timed_out = False
            client.service.hint(
                "a request of %s was lost: it came on a connection that was being closed for being idle. If that is "
                "your proxy, it keeps idle connections for longer than %g s: raise --keep-alive-timeout above its time",
                name_of(client.peer),
                client.service.limits.keep_alive_timeout,
            )
