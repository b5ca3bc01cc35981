"""The counters of the scoreboard for statsd, with gunicorn's names.

One thread of the parent, or of the single process, looks at the scoreboard once a second and sends what has changed, in
datagrams: workers and requests are not touched, and no thread of the server waits for statsd. If statsd does not run,
the numbers of that second are lost, as with every sender of statsd.

Of a duration only the bucket is known (:mod:`zibai.telemetry.counts`). All requests of one bucket are one sample: the
middle of the bucket, with the sample rate that multiplies it by their number.
"""

import _socket
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import pairwise
from typing import Any, Final, Self

from ..config.addresses import parse_address
from ..logger import logger
from ..system.lastword import start_thread
from ..system.patching import original
from .counts import BOUNDS

SEND_INTERVAL: Final = 1.0
"""Seconds between two looks."""

PACKET: Final = 1400
"""The most bytes of a datagram: it must fit into one frame of Ethernet."""

_MIDDLES: Final = [0.5 * BOUNDS[0], *(0.5 * (low + high) for low, high in pairwise(BOUNDS)), BOUNDS[-1]]

Look = Callable[[], tuple[dict[str, Any], Mapping[str, int]]]


class Statsd:
    """Sends the data of ``look`` to ``address`` (HOST:PORT or unix:PATH); a context manager of the main thread.

    ``look`` is that of :class:`zibai.telemetry.metrics.Metrics`; another thread calls it.
    """

    def __init__(self, address: str, prefix: str, look: Look) -> None:
        self._address = address
        self._prefix = prefix.rstrip(".") + "." if prefix else ""
        self._look = look
        self._socket: Any = None
        self._before: dict[str, Any] = {}
        self._over = original("_thread", "allocate_lock")()  # held until the end
        self._done = original("_thread", "allocate_lock")()  # held until the thread has sent the last numbers
        self._complained = False

    def __enter__(self) -> Self:
        self._over.acquire()
        self._done.acquire()
        start_thread(self._run)
        return self

    def __exit__(self, *_: object) -> None:
        self._over.release()
        self._done.acquire(timeout=SEND_INTERVAL)

    def _run(self) -> None:
        while not self._over.acquire(timeout=SEND_INTERVAL):
            self._send()
        self._send()
        self._done.release()

    def _send(self) -> None:
        try:
            server, backlog = self._look()
            lines = [self._prefix + line for line in metrics(self._before, server, backlog)]
            self._before = server["totals"]
            for packet in packets(lines):
                self._send_packet(packet)
        except Exception as error:  # the loss of one number is no reason to lose all others
            self._complain(error)

    def _send_packet(self, packet: bytes) -> None:
        try:
            if self._socket is None:
                self._socket = connect(self._address)
            self._socket.send(packet)
        except (BlockingIOError, ConnectionRefusedError):
            pass  # there is no room, or statsd does not run now
        except OSError as error:
            self._complain(error)
            if self._socket is not None:
                self._socket.close()
                self._socket = None  # the name may mean another machine now

    def _complain(self, error: Exception) -> None:
        if not self._complained:
            self._complained = True
            logger.warning("--statsd: nothing can be sent to %s (said once): %s", self._address, error)


def connect(address: str) -> Any:
    """A socket for datagrams to ``address`` that never blocks. Raises OSError."""
    where = parse_address(address)
    place: Any = where
    if isinstance(where, tuple):
        host, port = where
        found = _socket.getaddrinfo(host or "127.0.0.1", port, 0, _socket.SOCK_DGRAM)
        # A datagram does not tell whether a program listens, so only one address is tried. For localhost, which many
        # systems resolve to ::1 first, it is the one of IPv4, where statsd listens.
        family, _, _, _, place = min(found, key=lambda each: each[0] != _socket.AF_INET)
    elif sys.platform != "win32":
        family = _socket.AF_UNIX
    made = _socket.socket(family, _socket.SOCK_DGRAM)
    try:
        made.setblocking(False)
        made.connect(place)
    except OSError:
        made.close()
        raise
    return made


def metrics(before: Mapping[str, Any], server: Mapping[str, Any], backlog: Mapping[str, int]) -> Iterator[str]:
    """The changes since the totals ``before`` (empty at the start), and the present gauges, line by line."""
    totals = server["totals"]
    classes = {name: totals[name] - before.get(name, 0) for name in ("2xx", "3xx", "4xx", "5xx")}
    yield from _counter("gunicorn.requests", sum(classes.values()))
    for name, number in classes.items():
        yield from _counter(f"gunicorn.request.status.{name}", number)
    served, earlier = totals["served"], before.get("served", {})
    yield from _timer("gunicorn.request.duration", served["buckets"], earlier.get("buckets"))
    waits, earlier_waits = served["queue"]["buckets"], earlier.get("queue", {}).get("buckets")
    yield from _timer("zibai.request.queue", waits, earlier_waits)
    yield f"gunicorn.workers:{sum(worker['state'] == 'ready' for worker in server['workers'])}|g"
    yield f"zibai.requests.running:{sum(worker['busy'] for worker in server['workers'])}|g"
    yield f"zibai.requests.waiting:{sum(worker['queue'] for worker in server['workers'])}|g"
    if backlog:
        yield f"gunicorn.backlog:{sum(backlog.values())}|g"


def _counter(name: str, number: int) -> Iterator[str]:
    if number > 0:
        yield f"{name}:{number}|c"


def _timer(name: str, buckets: Iterable[int], before: Iterable[int] | None) -> Iterator[str]:
    """The requests of each bucket, in milliseconds."""
    numbers = list(buckets)
    for middle, number, earlier in zip(_MIDDLES, numbers, before or [0] * len(numbers), strict=True):
        count = number - earlier
        if count > 0:
            yield f"{name}:{middle * 1000:g}|ms" + (f"|@{1 / count:.6g}" if count > 1 else "")


def packets(lines: Iterable[str]) -> Iterator[bytes]:
    """The lines in as few datagrams as have room for them."""
    packet = b""
    for line in lines:
        data = line.encode("ascii", "replace")
        if packet and len(packet) + len(data) >= PACKET:
            yield packet
            packet = b""
        packet += b"\n" + data if packet else data
    if packet:
        yield packet
