"""What the connections of one server share: the states they go through, their limits, and those they ask."""

from collections.abc import Callable, Mapping
from contextvars import Context
from dataclasses import dataclass, field
from math import inf
from typing import Any, Final, Protocol

from ..config.addresses import Trust
from ..errors import Refused
from ..logger import logger
from ..net.listener import Socket
from ..protocol.http1 import MAX_TARGET, FastLane, Request
from ..telemetry.scoreboard import Row
from .load import Load
from .outgoing import Budget

RECEIVE: Final = 64 * 1024
"""Bytes of one read; what bounds a complete head that arrives in one piece."""

IN_MEMORY: Final = 512 * 1024
"""Bytes of a body that are kept in memory; a larger one goes to a temporary file."""


class Waits(Protocol):
    """How a runner of a backend waits. Both return False when ``timeout`` seconds went by without it."""

    def wait_readable(self, sock: Socket, timeout: float) -> bool: ...
    def wait_writable(self, sock: Socket, timeout: float) -> bool: ...


@dataclass(slots=True, kw_only=True)
class Service:
    """What the connections of one ``serve()`` share.

    ``draining`` is set once, when the end begins, and read by anyone. ``application`` is called by a runner with the
    connection, in a context (of contextvars) that ``new_context`` makes for each request. ``lend`` tells the loop, from
    any thread, that a runner's connection has something to send.
    ``report`` runs a logging call where logging may block, which is not everywhere the loop runs. ``row`` is where the
    server says what it does. ``lane`` None leaves every head to h11; the environ of each request begins with ``base``,
    the gateway's, in either case. Timeouts are seconds, sizes bytes, ``min_body_rate`` and ``min_send_rate`` bytes a
    second; they and ``max_body`` may be 0, which is no limit. ``unsent`` counts the memory of responses that wait for
    slow clients. ``trust`` are the peers that may say who the client is; with ``proxy_protocol`` each connection has to
    begin with that. The loop's owner counts answers by the first digit of their status in ``answered``, interim ones
    besides the final ones, and the bytes of their bodies in ``sent``. ``load`` counts what all clients of the server,
    also of its other services, make it hold.
    """

    application: Callable[[Any], None]  # of a Connection, as ``lend``
    waits: Waits
    report: Callable[..., None]
    row: Row
    # Told of a connection whose request the application never sees, why, and what the response is.
    refused: Callable[[Any, Refused, bytes], object] = lambda connection, refusal, response: None
    new_context: Callable[[], Context] = Context
    lend: Callable[[Any], None] = field(init=False)
    lane: FastLane | None = field(default_factory=FastLane)
    base: Mapping[str, Any] = field(default_factory=dict)
    known: Callable[[bytes], Request | None] = field(init=False)  # whole heads that were seen before
    whole_body: int = field(init=False)  # bytes of a body that may be taken together with its head
    header_timeout: float = 10.0
    keep_alive_timeout: float = 75.0
    keep_alive_requests: int = 0  # on one connection; 0 is no limit
    socket_timeout: float = 30.0
    max_head: int = 64 * 1024
    max_target: int = MAX_TARGET
    max_body: int = 1024**3
    stream_body: bool = False
    trust: Trust = field(default_factory=Trust)
    proxy_protocol: bool = False
    min_body_rate: float = 500.0
    min_send_rate: float = 500.0
    unsent: Budget = field(default_factory=Budget)
    queue_timeout: float = inf
    max_connections: float = inf
    load: Load = field(default_factory=Load)
    draining: bool = False
    answered: list[int] = field(default_factory=lambda: [0] * 10)
    sent: int = 0
    _hinted: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        self.whole_body = 0 if self.stream_body else min(self.max_body or RECEIVE, IN_MEMORY)
        # What is read at once may be more than a head may have, and then the lane alone must not take it.
        remembered = {} if self.lane is None or self.max_head < RECEIVE else self.lane.known
        self.known = remembered.get

    def hint(self, message: str, *args: object) -> None:
        """Say, once, how the server or what is before it is set up wrong; loop or runner. Two may both be the first."""
        if message not in self._hinted:
            self._hinted.add(message)
            self.report(logger.warning, message, *args)
