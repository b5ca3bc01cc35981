"""``--health-listen``: the parent serves probes, metrics and the live page, also when every worker is busy.

``/livez`` tells whether the server must be restarted from outside. The response is 503 only when the parent's main loop
hangs, since the parent itself replaces workers that hang or die. ``/readyz`` tells whether new requests should be sent
here. The response is 503 while no worker is ready, and from the moment that the end is asked for. The body is the
reason, in one word. ``/metrics`` is for Prometheus (:mod:`zibai.telemetry.metrics`), ``/`` and ``/status.json`` are the
live page (:mod:`zibai.server.live`).

A thread of its own (:class:`Probes`) responds, so that clients cost the main loop nothing. It does not ask the main
loop, but reads what the loop has written down (:class:`Pulse`), so it can also tell that the loop hangs. The same codec
as elsewhere reads the heads. A client can do no harm: each has ``CLIENT_TIME`` and ``CLIENT_BYTES``. When there are too
many, the oldest is closed, so a hundred silent clients do not keep out a client that sends a request.

During an upgrade two servers have the same listener. Then only the serving one responds: the new server from the moment
that it is up, the old one until its end is asked for.
"""

import socket
import threading
from collections.abc import Callable
from http import HTTPStatus
from math import inf
from types import TracebackType
from typing import Final, Self

from ..clock import clock, head_end
from ..errors import MissingExtra, Refused
from ..logger import debug_logger, logger
from ..net.acceptor import Acceptor
from ..net.listener import Endpoint, Listener, Socket
from ..net.poller import READ, WRITE, make_poller
from ..protocol.http1 import Codec, Request
from ..supervise.pulse import Pulse
from ..supervise.record import DRAINING
from ..supervise.roster import Roster
from ..telemetry.metrics import Metrics
from .live import PATHS, Live

CLIENT_TIME: Final = 5.0
"""Seconds that a client has to send its request, to get the response and to close."""

HEAD_LIMIT: Final = 8 * 1024
CLIENT_BYTES: Final = 64 * 1024
"""Bytes of a head, and of everything that one client may send."""

LAST_REQUESTS_TIME: Final = 0.5
"""Seconds in which connected clients can still send a request at the end; more would delay the main loop."""

MAX_CLIENTS: Final = 64
"""Clients at the same time."""


class _Client:
    """One connection. It gets one response; then the server waits for the client to close."""

    def __init__(self, sock: Socket, deadline: float) -> None:
        self.sock = sock
        self.deadline = deadline
        self.codec = Codec(HEAD_LIMIT)
        self.left = CLIENT_BYTES
        self.has_response = False
        self.rest = b""  # of the response


class Probes:
    """Responds on ``sockets``, which listen already: with the state of ``pulse``, with metrics and with ``live``.

    A context manager and an :class:`~zibai.supervise.mainloop.Observer`. The main thread calls the public methods,
    which start and stop the thread that responds; the rest belongs to that thread. The caller closes ``sockets``.
    ``is_shared`` tells whether another server may have them too.
    """

    def __init__(
        self,
        sockets: list[socket.socket],
        pulse: Pulse,
        is_shared: Callable[[], bool] = lambda: False,
        make_metrics: Callable[[], Metrics] | None = None,
        live: Live | None = None,
    ) -> None:
        self._sockets = sockets
        self._pulse = pulse
        self._make_metrics = make_metrics
        self._live = live
        self._metrics: Metrics | None = None  # made for the first scrape, since it costs memory
        self._is_shared = is_shared
        self._clients: dict[int, _Client] = {}  # the oldest first
        self._thread = threading.Thread(target=self._run, name="zibai-probes", daemon=True)
        self._stop, self._stopped = socket.socketpair()

    def __enter__(self) -> Self:
        if not self._is_shared():
            self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def stop(self) -> None:
        """Stop responding. Idempotent."""
        self._stop.close()  # wakes the thread at the other end
        if self._thread.ident is not None:
            self._thread.join(CLIENT_TIME)  # it never blocks, except in a log, and that must not delay the end
        self._stopped.close()

    def sources(self) -> list[int]:
        return []

    def on_signal(self, name: str) -> None:
        pass

    def look(self, roster: Roster) -> None:
        """Note the state of the roster after each turn of the main loop, before the other observers announce anything.

        Of two servers, the old one stops responding before it would report that it drains, and the new one is ready
        before it begins to respond.
        """
        draining, shared = roster.condition == DRAINING, self._is_shared()
        if draining and shared:
            self.stop()
            return
        self._pulse.finds(roster.condition)
        if not draining and self._thread.ident is None and (roster.was_up or not shared):
            self._thread.start()

    def _run(self) -> None:
        self._poller = make_poller()
        listeners = [Listener(sock, closes_origin=False) for sock in self._sockets]
        acceptor = Acceptor(listeners, self._poller, lambda log, *args: log(*args), self._open)
        self._poller.register(self._stopped.fileno(), READ)
        try:
            while self._turn(acceptor):
                pass
            self._finish(acceptor)
        except Exception:
            logger.exception("health checks stopped: --health-listen does not respond any more")
        finally:
            for client in self._clients.values():
                client.sock.close()
            acceptor.close()
            self._poller.close()

    def _turn(self, acceptor: Acceptor) -> bool:
        """One turn. Returns whether another one must follow."""
        now = clock()
        for client in list(self._clients.values()):
            if client.deadline > now:
                break  # all clients have the same time, so the next ones have more left
            self._close(client)
        acceptor.watch(True, now)
        if self._live is not None and self._live.due <= now:
            self._live.sample(now)
        look = inf if self._live is None else self._live.due
        due = min(acceptor.again, look, *(client.deadline for client in self._clients.values()))
        fds = [fd for fd, _ in self._poller.poll(None if due == inf else max(0.0, due - clock()))]
        if self._stopped.fileno() in fds:
            return False
        for fd in fds:
            if fd in self._clients:
                self._step(self._clients[fd])
        acceptor.accept(fds, clock(), lambda: MAX_CLIENTS)
        return True

    def _finish(self, acceptor: Acceptor) -> None:
        """Respond to the clients that are connected: no other process can, and their requests may be on the way."""
        acceptor.watch(False, clock())
        self._poller.unregister(self._stopped.fileno())
        until = clock() + LAST_REQUESTS_TIME
        while not all(each.has_response and not each.rest for each in self._clients.values()) and clock() < until:
            fds = [fd for fd, _ in self._poller.poll(LAST_REQUESTS_TIME)]
            if not fds:
                return
            for fd in fds:
                self._step(self._clients[fd])

    def _open(self, sock: Socket, peer: object, endpoint: Endpoint, now: float) -> None:
        if len(self._clients) == MAX_CLIENTS:
            self._close(next(iter(self._clients.values())))
        client = self._clients[sock.fileno()] = _Client(sock, now + CLIENT_TIME)
        self._poller.register(sock.fileno(), READ)
        self._step(client)  # read now: a client that has sent its request must not be evicted by the next one

    def _close(self, client: _Client) -> None:
        fd = client.sock.fileno()
        self._poller.unregister(fd)
        del self._clients[fd]
        client.sock.close()

    def _step(self, client: _Client) -> None:
        """Its socket is readable, or writable for the rest of its response."""
        try:
            if client.rest:
                self._send(client)
                return
            data = client.sock.recv(client.left)
            client.left -= len(data)
            if not data or not client.left:
                self._close(client)
            elif not client.has_response:
                self._read(client, data)
        except BlockingIOError:
            pass  # pollers may report an event that is none
        except OSError as error:
            debug_logger.debug("--health-listen: a client has left: %s", error)
            self._close(client)
        except Exception:
            logger.exception("--health-listen: closing a client")  # a bug, which costs only this client
            self._close(client)

    def _read(self, client: _Client, data: bytes) -> None:
        client.codec.feed(data)
        try:
            request = client.codec.next_request()
        except Refused as error:
            self._respond(client, _response(error.status, str(error)))
            return
        if request is not None:
            self._respond(client, self._response_to(request))

    def _response_to(self, request: Request) -> bytes:
        bodyless = request.method == "HEAD"
        words = {"/livez": self._pulse.live, "/readyz": self._pulse.ready}
        if request.path not in (*words, "/metrics", *PATHS):
            return _response(HTTPStatus.NOT_FOUND, "there are /livez, /readyz, /metrics and /", bodyless)
        if request.method not in ("GET", "HEAD"):
            return _response(HTTPStatus.METHOD_NOT_ALLOWED, "GET or HEAD", fields=b"Allow: GET, HEAD\r\n")
        if request.path == "/metrics":
            return self._scrape(bodyless)
        if request.path in PATHS:
            if self._live is None:
                return _response(HTTPStatus.NOT_FOUND, "this server has no scoreboard, and so no live page", bodyless)
            status, body, kind, fields = self._live.respond(request.path, request.environ.get("HTTP_HOST", ""))
            return _response(status, body, bodyless, fields, kind)
        word = words[request.path]
        return _response(HTTPStatus.OK if word == "ok" else HTTPStatus.SERVICE_UNAVAILABLE, word, bodyless)

    def _scrape(self, bodyless: bool) -> bytes:
        try:
            if self._metrics is None:
                if self._make_metrics is None:
                    raise MissingExtra("this server has no scoreboard, and so no metrics")
                self._metrics = self._make_metrics()
        except MissingExtra as error:
            return _response(HTTPStatus.NOT_FOUND, str(error), bodyless)
        body, kind = self._metrics.render(), self._metrics.content_type.encode("ascii")
        return _response(HTTPStatus.OK, body, bodyless, kind=kind)

    def _respond(self, client: _Client, response: bytes) -> None:
        """Send the response, then wait for the client to close.

        Closing at once would reset the connection if the client still sends, and the response could be lost.
        """
        client.has_response = True
        client.rest = response
        self._send(client)

    def _send(self, client: _Client) -> None:
        """Send what the client takes now. The empty buffer of the socket has room for all but long metrics."""
        watched = WRITE if len(client.rest) > (sent := _send_some(client.sock, client.rest)) else READ
        client.rest = client.rest[sent:]
        self._poller.modify(client.sock.fileno(), watched)
        if not client.rest:
            client.sock.shutdown(socket.SHUT_WR)


def _send_some(sock: Socket, data: bytes) -> int:
    """Send without waiting; returns how many bytes went out."""
    try:
        return sock.send(data)
    except BlockingIOError:
        return 0


def _response(
    status: HTTPStatus, text: str | bytes, bodyless: bool = False, fields: bytes = b"", kind: bytes = b"text/plain"
) -> bytes:
    body = text if isinstance(text, bytes) else text.encode("latin-1", "replace") + b"\n"
    head = b"HTTP/1.1 %d %b\r\nContent-Type: %b\r\nContent-Length: %d\r\n%bCache-Control: no-store\r\n" % (
        status, status.phrase.encode(), kind, len(body), fields,
    )  # fmt: skip
    return head + b"Connection: close\r\n" + head_end() + (b"" if bodyless else body)
