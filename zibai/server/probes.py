"""``--health-listen``: ``/livez`` and ``/readyz``, answered by the parent, also when every worker is busy.

They are two questions. ``/livez`` asks whether somebody outside has to start the server anew: 503 only when the
parent's main loop does not come round, since a worker that hangs or dies is the parent's matter. ``/readyz`` asks
whether new requests should be sent here: 503 while no worker has come up, when there is none, and from the moment that
the end is asked for. The body is the reason, in one word.

A thread of its own answers (:class:`Probes`), so that nobody who connects costs the main loop a step; and it asks the
main loop nothing, but reads what that has written down (:class:`Pulse`), so that it can also tell when it hangs. The
heads are read by the same codec as all others. A client can do no harm: each has ``TIME`` and ``BYTES``, and if there
are too many, the one that came first goes, so a hundred that say nothing do not keep out the one that asks.

Two masters may have the same listener, when one succeeds the other. Then the one that serves answers: the new one not
before it has come up, the old one not after its end was asked for.
"""

import socket
import threading
from collections.abc import Callable
from http import HTTPStatus
from math import inf
from types import TracebackType
from typing import Final, Self

from ..clock import clock, head_end
from ..errors import Refused
from ..logger import debug_logger, logger
from ..net.acceptor import Acceptor
from ..net.listener import Endpoint, Listener, Socket
from ..net.poller import READ, make_poller
from ..protocol.http1 import Codec, Request
from ..supervise.pulse import Pulse
from ..supervise.record import DRAINING
from ..supervise.roster import Roster

TIME: Final = 5.0
"""Seconds for a client to ask, to get its answer and to close."""

HEAD: Final = 8 * 1024
BYTES: Final = 64 * 1024
"""Bytes of a head, and all that are taken from one client."""

LAST: Final = 0.5
"""Seconds in which who is connected when we stop can still ask; more would hold up the main loop."""

MOST: Final = 64
"""Clients at the same time."""


class _Client:
    """One connection. Every answer is its last; after it, we wait for the other side to close."""

    def __init__(self, sock: Socket, deadline: float) -> None:
        self.sock = sock
        self.deadline = deadline
        self.codec = Codec(HEAD)
        self.left = BYTES
        self.answered = False


class Probes:
    """Answers on ``sockets``, which listen already, from what ``pulse`` says.

    A context manager and an :class:`~zibai.supervise.mainloop.Observer`. Its public methods are the main thread's, and
    begin and end the thread that answers, whose is the rest. ``sockets`` stay the caller's to close. ``is_shared``
    says whether another master may have them, too.
    """

    def __init__(
        self, sockets: list[socket.socket], pulse: Pulse, is_shared: Callable[[], bool] = lambda: False
    ) -> None:
        self._sockets = sockets
        self._pulse = pulse
        self._is_shared = is_shared
        self._clients: dict[int, _Client] = {}  # the one that came first comes first
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
        """Answer no more. Again is no matter."""
        self._stop.close()  # which its other end is woken by
        if self._thread.ident is not None:
            self._thread.join(TIME)  # it blocks nowhere, unless a log does, and that must not hold the end
        self._stopped.close()

    def sources(self) -> list[int]:
        return []

    def on_signal(self, name: str) -> None:
        pass

    def look(self, roster: Roster) -> None:
        """After each turn of the parent, and before anybody else is told of it, who may send others to ask.

        Of two masters the one that ends falls silent before it would say that it drains, and the one that comes knows
        that it serves before it speaks.
        """
        draining, company = roster.condition == DRAINING, self._is_shared()
        if draining and company:
            self.stop()
            return
        self._pulse.finds(roster.condition)
        if not draining and self._thread.ident is None and (roster.was_up or not company):
            self._thread.start()

    def _run(self) -> None:
        self._poller = make_poller()
        listeners = [Listener(sock, closes_origin=False) for sock in self._sockets]
        acceptor = Acceptor(listeners, self._poller, lambda log, *args: log(*args), self._open)
        self._poller.register(self._stopped.fileno(), READ)
        try:
            while self._turn(acceptor):
                pass
            self._answer_the_last(acceptor)
        except Exception:
            logger.exception("--health-listen does not answer any more")
        finally:
            for client in self._clients.values():
                client.sock.close()
            acceptor.close()
            self._poller.close()

    def _turn(self, acceptor: Acceptor) -> bool:
        """Whether there is to be another one."""
        now = clock()
        for client in list(self._clients.values()):
            if client.deadline > now:
                break  # all have the same time, so those behind it have more left
            self._close(client)
        acceptor.watch(True, now)
        due = min(acceptor.again, *(client.deadline for client in self._clients.values()), inf)
        fds = [fd for fd, _ in self._poller.poll(None if due == inf else max(0.0, due - clock()))]
        if self._stopped.fileno() in fds:
            return False
        for fd in fds:
            if fd in self._clients:
                self._step(self._clients[fd])
        acceptor.accept(fds, clock(), lambda: MOST)
        return True

    def _answer_the_last(self, acceptor: Acceptor) -> None:
        """Who was accepted here is answered by nobody else, and its question may be on the way."""
        acceptor.watch(False, clock())
        self._poller.unregister(self._stopped.fileno())
        until = clock() + LAST
        while not all(client.answered for client in self._clients.values()) and clock() < until:
            fds = [fd for fd, _ in self._poller.poll(LAST)]
            if not fds:
                return
            for fd in fds:
                self._step(self._clients[fd])

    def _open(self, sock: Socket, peer: object, endpoint: Endpoint, now: float) -> None:
        if len(self._clients) == MOST:
            self._close(next(iter(self._clients.values())))
        client = self._clients[sock.fileno()] = _Client(sock, now + TIME)
        self._poller.register(sock.fileno(), READ)
        self._step(client)  # now, so that nobody is put out who has asked already

    def _close(self, client: _Client) -> None:
        fd = client.sock.fileno()
        self._poller.unregister(fd)
        del self._clients[fd]
        client.sock.close()

    def _step(self, client: _Client) -> None:
        """Its socket did something."""
        try:
            data = client.sock.recv(client.left)
            client.left -= len(data)
            if not data or not client.left:
                self._close(client)
            elif not client.answered:
                self._read(client, data)
        except BlockingIOError:
            pass  # the poller was wrong, which it may be
        except OSError as error:
            debug_logger.debug("--health-listen: a client has left: %s", error)
            self._close(client)
        except Exception:
            logger.exception("--health-listen: closing a client")  # a bug of ours; it costs this client
            self._close(client)

    def _read(self, client: _Client, data: bytes) -> None:
        client.codec.feed(data)
        try:
            request = client.codec.next_request()
        except Refused as error:
            self._answer(client, _answer(error.status, str(error)))
            return
        if request is not None:
            self._answer(client, self._answer_to(request))

    def _answer_to(self, request: Request) -> bytes:
        bodyless = request.method == "HEAD"
        words = {"/livez": self._pulse.live, "/readyz": self._pulse.ready}
        if request.path not in words:
            return _answer(HTTPStatus.NOT_FOUND, "there are /livez and /readyz", bodyless)
        if request.method not in ("GET", "HEAD"):
            return _answer(HTTPStatus.METHOD_NOT_ALLOWED, "GET or HEAD", fields=b"Allow: GET, HEAD\r\n")
        word = words[request.path]
        return _answer(HTTPStatus.OK if word == "ok" else HTTPStatus.SERVICE_UNAVAILABLE, word, bodyless)

    def _answer(self, client: _Client, answer: bytes) -> None:
        """Send it, whole: a socket that has sent nothing yet has room for it. Then wait for the end of the other side.

        Closing at once would reset the connection where the client still sends, and could cost it the answer.
        """
        client.sock.send(answer)
        client.sock.shutdown(socket.SHUT_WR)
        client.answered = True


def _answer(status: HTTPStatus, text: str, bodyless: bool = False, fields: bytes = b"") -> bytes:
    body = text.encode("latin-1", "replace") + b"\n"
    head = b"HTTP/1.1 %d %b\r\nContent-Type: text/plain\r\nContent-Length: %d\r\n%bCache-Control: no-store\r\n" % (
        status, status.phrase.encode(), len(body), fields,
    )  # fmt: skip
    return head + b"Connection: close\r\n" + head_end() + (b"" if bodyless else body)
