"""The runner's side of a connection, which may block.

A runner (a thread or a greenlet) owns a connection from the beginning of :meth:`Stream.exchange` to its end, and uses
it by a :class:`Stream`. Meanwhile the gateway sends the response and reads a streamed body. All waiting is done by
``Service.readiness``, as the backend does it, and never with a lock held.

``send`` never waits. Before a runner sends a further piece of a response, it waits by ``drain``. That bounds the memory
of a response. In no other way can a slow client keep a runner.
"""

import io
import time
from collections.abc import Callable
from http import HTTPStatus
from math import inf
from typing import Any, Final

from ..clock import AHEAD, clock
from ..errors import Gone, Refused
from ..logger import error_logger, safely
from ..net.kernel import ENDED, RESET, look_for_client
from ..net.listener import Socket
from ..protocol.http1 import Request
from ..telemetry.scoreboard import CALLED, READING, SENDING, Slot
from ..telemetry.slot import SHORTEST
from .body import Intake
from .connection import Connection
from .context import RECEIVE
from .outgoing import File
from .reading import BodyReader

CLIENT_CHECK_INTERVAL: Final = 1.0
"""Seconds between two checks whether a client has left, or has taken bytes, where no event tells."""


class Stream:
    """The side of a connection that a runner and its gateway use, from its first request to its last.

    Everything here is the runner's while it has the connection, and the loop's otherwise; only ``sender`` is shared.
    ``has_left`` may be asked by any thread. The connection refers to its stream, and drops it when it is closed.
    """

    __slots__ = (
        "_ended", "_left", "_reader", "_slot", "_trusted", "_waits", "body", "connection", "facts", "interims",
        "queued", "sender", "sent", "service", "since", "sock", "started", "status",
    )  # fmt: skip

    def __init__(self, connection: Connection) -> None:
        self.connection = connection
        self.sock, self.sender, self.service = connection.sock, connection.sender, connection.service
        self.facts: dict[str, str] = {}  # the gateway's facts about this connection
        self._trusted: bool | None = None  # whether the peer may name the client; None until it was asked
        self.body: Any = None  # a BinaryIO, of the request at hand; None for a request without a body
        self.interims = 0  # interim responses before the response
        self.since = 0.0  # since when the request waited for a runner, by the loop's clock; the loop sets it
        self.queued = 0.0  # seconds that it has waited
        self.started = 0.0  # when the runner began, by the package's clock
        self.status = 0  # of the last response; 499 is nginx's word for a client that left before it began
        self.sent = 0  # bytes of its body; the gateway sets it for each
        self._waits = (0.0, 0.0, 0.0)  # the start of a request, and its waits: for its body, and to send
        self._ended = inf  # when the client was first seen to have ended its side
        self._slot: Slot = self.service.row.slots[0]  # the runner's, while there is one
        self._left = self.service.limits.keep_alive_requests  # how many exchanges may follow; 0 is no limit
        self._reader: BodyReader | None = None  # what reads a streamed body from the client

    def __repr__(self) -> str:
        return f"<Stream of {self.connection!r}: {self.status}, {self.sent} bytes sent>"

    @property
    def request(self) -> Request | None:
        """The request at hand."""
        return self.connection.request

    def is_trusted(self) -> bool:
        """Whether the peer may name the client (a trusted proxy)."""
        trusted = self._trusted
        if trusted is None:
            trusted = self._trusted = self.service.trust.includes(self.connection.peer)
        return trusted

    @property
    def out(self) -> Any:
        """What waits to be sent."""
        return self.sender.out

    @property
    def refusal(self) -> Refused | None:
        """The fault of a bad streamed body."""
        return None if self._reader is None else self._reader.refusal

    # The exchange.

    def exchange(self, slot: Slot, now: float) -> None:
        """Run the application for the request at hand. Never raises; leaves the connection to be finished.

        ``now`` is by :func:`zibai.clock.clock`.
        """
        connection, service = self.connection, self.service
        self.started = now
        self.status = 499
        self._slot = slot
        self.queued = queued = now - self.since - AHEAD
        if queued > SHORTEST:
            slot.waited(queued)
        elif queued < 0.0:
            self.queued = 0.0  # Windows has a coarse clock
        slot.begin(connection.request.summary, now)  # type: ignore[union-attr]
        if self._left:
            self._left -= 1
            if not self._left:
                self.sender.closing = True
        body = connection.body
        if body is not None:
            connection.body = None
            self.body = body if type(body) is not Intake else self._open(body, connection)
        try:
            # Bound first: Python 3.11 searches for a slot that is called at once, which costs 0.3 %.
            new_context = service.new_context
            new_context().run(service.application, self)
        except BaseException:
            # The gateway catches errors of applications, so this is a bug of the server; the runner must live on.
            safely(error_logger.exception, "the gateway failed")
            self._fail()
        if self.body is not None:
            self.release_body()
        slot.end(self.status, now, clock())

    def give_up(self, slot: Slot) -> None:
        """End an exchange that was left by an error, as if ``exchange`` had returned. Never raises.

        Such an error can come from outside: a program may raise one in any of its threads
        (``PyThreadState_SetAsyncExc``), and it may hit the server's own code.
        """
        self._fail()
        if self.body is not None:
            self.release_body()
        slot.end(self.status, self.started, clock())

    def _fail(self) -> None:
        self.status, self.sent = HTTPStatus.INTERNAL_SERVER_ERROR, 0
        self.sender.cut()

    def when_sent(self, call: Callable[[], object]) -> None:
        """Let the loop call ``call`` when the whole response is out, or lost."""
        self.connection.shortcut = False  # so that the loop looks at what is left to do
        self.sender.on_sent = call

    def _open(self, intake: Intake, connection: Connection) -> io.BufferedReader:
        """A file of a streamed body."""
        expected = connection.request is not None and connection.request.expects_continue
        self._reader = BodyReader(self, intake, continued=not expected)
        return io.BufferedReader(self._reader, RECEIVE)

    def release_body(self) -> None:
        """End the body of a request whose application has returned. Never raises.

        A runner calls this, and not the loop: the application has used the body, so closing it may raise any error and
        may block.
        """
        body, self.body = self.body, None
        reader, self._reader = self._reader, None
        try:
            if reader is not None:
                BodyReader.let_go(reader)
            # Not body.close(), which an application may have replaced.
            type(body).close(body)
        except BaseException:  # noqa: S110
            # The application keeps a view of it, or has detached its raw side, or the disk is full and a file writes
            # its buffer now. The response is out, and nothing reads the body any more.
            pass

    def forbid_continue(self) -> None:
        """The final response begins: no 100 Continue from now on.

        A client that still waits for one may or may not send its body then, so the connection ends (RFC 9110 10.1.1).
        """
        reader = self._reader
        if reader is not None and not reader.continued:
            reader.continued = self.sender.closing = True

    # Sending.

    def send(self, data: bytes | memoryview) -> None:
        """Send, or lend what the client does not take at once. Never waits. Raises :class:`Gone`."""
        sender = self.sender
        if sender.out:
            self._lend(data)
            return
        # Only the runner adds to `out`, so it stays empty and no lock is needed.
        view = data
        while view:
            if sender.broken:
                sender.lose(len(view))
                raise Gone("the client has left")
            try:
                sent = self.sock.send(view)
                if sent == len(view):
                    return
                view = memoryview(view)[sent:]
            except (BlockingIOError, InterruptedError):
                self._lend(view)
                return
            except OSError as error:
                sender.lose(len(view))
                raise Gone(f"the client has left: {error}") from None

    def send_nothing(self) -> None:
        """The application has given a piece of which nothing is sent. The system lets other threads run meanwhile."""

    def _lend(self, data: bytes | memoryview) -> None:
        if self.sender.lend(data):
            self.service.lend(self.connection)

    def send_file(self, file: File) -> None:
        """Send a file behind all else. Never waits. The file is the server's from now on. Raises Gone and FileFault."""
        sender = self.sender
        if sender.lend_file(file):
            self.service.lend(self.connection)
        if sender.fault is not None:
            fault, sender.fault = sender.fault, None
            raise fault
        self._check()

    def cut(self) -> None:
        """End the exchange so that the client sees that its response is not whole."""
        self.sender.cut()

    def drain(self, size: int = 0) -> None:
        """Wait until no more than ``size`` bytes wait to be sent. Raises :class:`Gone`."""
        sender, timeout = self.sender, self.service.limits.socket_timeout
        while len(sender.out) > size:
            self._check()
            # In short waits, since the loop may cut the connection meanwhile.
            if (
                not self.wait(self.service.readiness.wait_writable, SENDING, min(CLIENT_CHECK_INTERVAL, timeout))
                and sender.give_up_if_slow()
            ):
                raise Gone(f"the client took nothing for {timeout:g} s, or too little")
            sender.push_now()
        self._check()

    def _check(self) -> None:
        if self.sender.broken:
            raise Gone("the client has left")

    def await_memory(self) -> None:
        """The application is done. Keep its runner while responses to slow clients take too much memory in total."""
        while self.sender.over_budget and not self.sender.broken:
            self.wait(self.service.readiness.wait_writable, SENDING, CLIENT_CHECK_INTERVAL)
            self.sender.push_now()

    def has_left(self, patience: float = 0.0) -> bool:
        """Whether the client has reset the connection, or ended its side at least ``patience`` seconds ago."""
        found = RESET if self.sender.broken else look_for_client(self.sock)
        if found == ENDED:
            now = time.monotonic()
            self._ended = min(self._ended, now)
            return now - self._ended >= patience
        return found == RESET

    def wait(self, wait: Callable[[Socket, float], bool], phase: int, timeout: float) -> bool:
        """Wait for the client as the backend does. Meanwhile the scoreboard shows this ``phase``."""
        self._slot.phase(phase)
        began = clock()
        try:
            return wait(self.sock, timeout)
        finally:
            self._slot.phase(CALLED)
            self.note_wait(phase, clock() - began)

    def note_wait(self, phase: int, seconds: float) -> None:
        """The request at hand has waited for its client."""
        started, reading, sending = self._waits if self._waits[0] == self.started else (self.started, 0.0, 0.0)
        if phase == READING:
            reading += seconds
        else:
            sending += seconds
        self._waits = started, reading, sending

    def phases(self, ended: float, now: float) -> dict[str, float]:
        """The seconds that the request at hand spent in each phase. Its application has ``ended``, and all is sent now.

        ``queue``: waiting for a runner. ``head`` and ``body``: waiting for the rest of these. ``send``: waiting for the
        client to take the response. ``application``: the rest.
        """
        started, reading, sending = self._waits
        if started != self.started:
            reading = sending = 0.0
        _, head, body = self.connection.arrival
        running = ended - self.started - reading - sending
        return {
            "queue": self.queued,
            "head": head,
            "body": body + reading,
            "application": max(0.0, running),
            "send": sending + now - ended,
        }
