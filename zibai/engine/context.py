"""The limits that the connections of one server share, and the objects that they call."""

from collections.abc import Callable, Iterable, Mapping
from contextvars import Context
from dataclasses import dataclass, field
from math import inf
from types import MappingProxyType
from typing import Any, Final, Protocol, Self

from ..config.addresses import Trust
from ..config.options import Options
from ..errors import Refused
from ..logger import logger
from ..net.listener import Endpoint, Socket
from ..protocol.http1 import FastLane, Request
from ..system.machine import descriptors_for_clients
from ..telemetry.scoreboard import Row
from .load import Load
from .outgoing import Budget

RECEIVE: Final = 64 * 1024
"""Bytes of one read; what bounds a complete head that arrives in one piece."""

IN_MEMORY: Final = 512 * 1024
"""Bytes of a body that are kept in memory; a larger one goes to a temporary file."""


class Readiness(Protocol):
    """How a runner of a backend waits for one socket. Both return False after ``timeout`` seconds."""

    def wait_readable(self, sock: Socket, timeout: float) -> bool: ...
    def wait_writable(self, sock: Socket, timeout: float) -> bool: ...


class Client(Protocol):
    """A connection or a stage before one, as far as refusals and logs need it."""

    @property
    def sock(self) -> Socket: ...
    @property
    def peer(self) -> object: ...
    @property
    def endpoint(self) -> Endpoint: ...
    @property
    def request(self) -> Request | None: ...
    @property
    def service(self) -> "Service": ...
    def secured(self) -> dict[str, str]:
        """The items that TLS adds to the environ of each of its requests."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """The limits of one client. Timeouts are seconds, sizes bytes, rates bytes a second.

    None has a default here: :meth:`from_options` takes them from the options. ``max_body`` and the two rates may be 0,
    which is no limit.
    """

    header_timeout: float
    keep_alive_timeout: float
    socket_timeout: float
    queue_timeout: float
    keep_alive_requests: int
    """Requests on one connection; 0 is no limit."""
    max_connections: float
    max_head: int
    max_target: int
    max_body: int
    min_body_rate: float
    min_send_rate: float
    stream_body: bool
    proxy_protocol: bool
    """Whether each connection has to begin with a PROXY header."""

    @property
    def whole_body(self) -> int:
        """Bytes of a body that may be taken together with its head."""
        return min(self.max_body or RECEIVE, IN_MEMORY)

    @classmethod
    def from_options(cls, options: Options) -> Self:
        """The limits that valid options set."""
        return cls(
            header_timeout=options.header_timeout,
            keep_alive_timeout=options.keep_alive_timeout,
            socket_timeout=options.socket_timeout,
            queue_timeout=options.queue_timeout or inf,
            keep_alive_requests=1 if options.disable_keep_alive else options.max_keep_alive_requests,
            max_connections=options.max_connections or inf,
            max_head=options.max_header_size,
            max_target=options.max_target_size,
            max_body=options.max_body_size,
            min_body_rate=options.min_body_rate,
            min_send_rate=options.min_send_rate,
            stream_body=options.stream_request_body,
            proxy_protocol=options.proxy_protocol == "on",
        )


@dataclass(slots=True, kw_only=True, repr=False)
class Service:
    """The limits that the connections of one ``serve()`` share, and the objects that they call."""

    application: Callable[[Any], None]
    """Called by a runner with its stream, in a context (of contextvars) that ``new_context`` makes."""
    readiness: Readiness
    """How the runners of the backend wait."""
    report: Callable[..., None]
    """Runs a logging call in a place where it may block."""
    row: Row
    """The server's row of the scoreboard."""
    siblings: Callable[[], Iterable[tuple[bool, Row]]] = lambda: ()
    """The rows of the other workers, each with whether it comes before ours."""
    refused: Callable[[Client, Refused, bytes], object] = lambda client, refusal, response: None
    """Called by the loop with a client whose request the application never sees, the reason and the response."""
    new_context: Callable[[], Context] = Context
    lend: Callable[[Any], None] = field(init=False)
    """Tells the loop, from any thread, that the connection of a runner has something to send."""
    lane: FastLane | None
    """None leaves every head to h11."""
    base: Mapping[str, Any]
    """What the environ of each request begins with; the gateway's."""
    known: Callable[[bytes], Request | None] = field(init=False)
    """Finds the request of a whole head that was seen before."""
    whole_body: int = field(init=False)
    """The limit of the same name; 0 where bodies are streamed."""
    limits: Limits
    trust: Trust
    """The peers that may say who the client is."""
    unsent: Budget
    """Counts the memory of responses that wait for slow clients."""
    load: Load
    """Counts what all clients of the server, also of its other services, make it hold."""
    draining: bool = False
    """Set once, when the graceful shutdown begins; any thread reads it."""
    others: list[int] = field(default_factory=lambda: [0] * 10)
    """Responses that no slot of the scoreboard counts, by the first digit of their status: those of the server itself,
    and interim ones. The loop counts."""
    sent: int = 0
    """Bytes of the bodies of responses; the loop counts."""
    _hinted: set[str] = field(default_factory=set)

    @classmethod
    def from_options(cls, options: Options, *, base: Mapping[str, Any] = MappingProxyType({}), **others: Any) -> Self:
        """What valid options say. ``others`` are all the other fields, or values that count instead."""
        said = {
            "lane": FastLane(options.max_target_size, base) if options.http == "auto" else None,
            "limits": Limits.from_options(options),
            "trust": Trust(options.trusted_proxies, options.forwarded_fields),
            "unsent": Budget(options.max_unsent_memory),
            "load": Load(
                options.max_bodies_memory,
                options.max_bodies_disk or inf,
                inf if options.max_connections else descriptors_for_clients(),
            ),
        }
        return cls(base=base, **{**said, **others})

    def __post_init__(self) -> None:
        limits = self.limits
        self.whole_body = 0 if limits.stream_body else limits.whole_body
        # One read may exceed max_head. The cache would then accept a head over the limit, so it is switched off.
        remembered = {} if self.lane is None or limits.max_head < RECEIVE else self.lane.known
        self.known = remembered.get

    def __repr__(self) -> str:
        return f"<Service{' draining' if self.draining else ''}: {self.limits}>"

    def hint(self, message: str, *args: object) -> None:
        """Log, once, that the server or the proxy before it is configured wrongly. The loop and runners may call it;
        two calls at the same moment may both log.
        """
        if message not in self._hinted:
            self._hinted.add(message)
            self.report(logger.warning, message, *args)
