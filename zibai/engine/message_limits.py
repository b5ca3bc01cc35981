"""The limits of a WebSocket, its counters and its times."""

from dataclasses import dataclass
from math import inf
from typing import Final, Self

from ..config.options import Options

LONG_READ: Final = 256 * 1024
"""Bytes of a long message that one further read takes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MessageLimits:
    """The limits of one WebSocket. Times are seconds, sizes bytes; ``ping_interval`` and ``compress_from`` of 0, and a
    ``ping_timeout`` of inf, mean never. None has a default here: :meth:`from_options` takes them from the options.
    """

    max_size: int
    max_queue: int
    """Messages that are read ahead."""
    ping_interval: float
    ping_timeout: float
    close_timeout: float
    compress_from: int

    @classmethod
    def from_options(cls, options: Options) -> Self:
        """The limits that valid options set."""
        return cls(
            max_size=options.ws_max_size,
            max_queue=options.ws_max_queue,
            ping_interval=options.ws_ping_interval,
            ping_timeout=options.ws_ping_timeout or inf,
            close_timeout=options.ws_close_timeout,
            compress_from=options.ws_compress_from,
        )


class Counts:
    """The traffic of one WebSocket: messages that the application has received and sent, and bytes with frames."""

    __slots__ = ("began", "bytes_in", "bytes_out", "messages_in", "messages_out")

    def __init__(self, now: float) -> None:
        self.began = now
        self.messages_in = self.messages_out = self.bytes_in = self.bytes_out = 0


class Times:
    """When something was or will be, by the loop's clock."""

    __slots__ = ("closes", "heard", "pinged")

    def __init__(self, now: float) -> None:
        self.heard = now  # when the last bytes have come
        self.pinged = False  # whether a ping went out since then
        self.closes = inf  # by when the client must send its close frame, once the server has sent its own
