"""A server loop that the test itself turns, over real sockets: nothing happens but by `Rig.turn` and `Rig.run`.

The clock of the loop stands still until the test moves it. The application is a function that takes the stream.
"""

from __future__ import annotations

import select
import socket
import struct
import sys
from dataclasses import replace
from math import inf
from types import FrameType, SimpleNamespace
from typing import TYPE_CHECKING, Any, Self

from zibai.clock import clock
from zibai.config.options import Options
from zibai.engine import admission, sending
from zibai.engine import loop as loop_module
from zibai.engine.backends.threads import Readiness
from zibai.engine.connection import Connection
from zibai.engine.context import Limits, Service
from zibai.engine.health import Health
from zibai.engine.load import Load
from zibai.engine.loop import Loop
from zibai.engine.stream import Stream
from zibai.net.listener import Listener
from zibai.net.poller import Poller, make_poller
from zibai.telemetry.scoreboard import Row, Running

from support import DEADLINE, wait_for

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    import pytest


ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
GET = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"


class Recorder:
    """A poller that tells what it is asked for."""

    def __init__(self, poller: Poller) -> None:
        self._poller = poller
        self.limit = getattr(poller, "limit", inf)
        self.asked: dict[int, int] = {}
        self.poll, self.close = poller.poll, poller.close

    def register(self, fd: int, events: int) -> None:
        self._poller.register(fd, events)
        assert fd not in self.asked
        self.asked[fd] = events

    def modify(self, fd: int, events: int) -> None:
        self._poller.modify(fd, events)
        self.asked[fd] = events

    def unregister(self, fd: int) -> None:
        del self.asked[fd]  # first: the system forgets a closed descriptor by itself, and raises here
        self._poller.unregister(fd)


class Backend:
    """Does nothing by itself; counts how often it was woken."""

    runners = "threads"

    def __init__(self, poller: Poller) -> None:
        self.readiness = Readiness()
        self.make_stream = Stream
        self.poller = Recorder(poller)
        self.woken = 0
        self.running: Callable[[], list[Running]]
        self.expelled: list[Any] = []
        self.can_expel = False

    def expel(self, slot: Any) -> bool:
        self.expelled += [slot] * self.can_expel
        return self.can_expel

    def wake(self) -> None:
        self.woken += 1

    def report(self, log: Callable[..., None], *args: Any) -> None:
        log(*args)

    def where(self, slot: int) -> tuple[str, FrameType | None]:
        return f"runner {slot}", sys._getframe()


def make_service(**fields: Any) -> Service:
    """A service with the limits of the options, but that requests wait for ever and that no proxy is trusted."""
    options = Options("", queue_timeout=0, trusted_proxies=["none"])
    limits = {name: fields.pop(name) for name in Limits.__dataclass_fields__.keys() & fields.keys()}
    fields["limits"] = replace(Limits.from_options(options), **limits)
    return Service.from_options(options, **{"load": Load(options.max_bodies_memory), **fields})


HEALTH = {"slow_request", "request_timeout", "beat_every", "on_hung"}


class Rig:
    """A listener on ``unix`` or a free port, a loop with ``slots``, and clients. ``app`` says ``ok`` by default."""

    def __init__(
        self,
        patch: pytest.MonkeyPatch,
        *,
        slots: int = 4,
        app: Callable[[Stream], None] | None = None,
        unix: Path | None = None,
        poller: Poller | None = None,
        max_requests: int | None = None,
        **limits: Any,
    ) -> None:
        self.now = 1000.0
        for module in (loop_module, admission, sending):
            patch.setattr(module, "time", SimpleNamespace(monotonic=lambda: self.now))
        self.served: list[str] = []
        self.worn = 0
        self._app = app or (lambda stream: stream.send(ANSWER))
        if unix is None:
            origin = socket.create_server(("127.0.0.1", 0), backlog=512)
        else:
            origin = socket.socket(socket.AF_UNIX)
            origin.bind(str(unix))
            origin.listen(512)
        self.address = origin.getsockname()
        self.listener = Listener(origin)
        self.backend = Backend(poller or make_poller())
        self.row = Row.private(slots + 1)
        self.backend.running = self.row.running
        health_limits = {name: limits.pop(name) for name in HEALTH & limits.keys()}
        if not health_limits:
            patch.setattr(loop_module, "SOON", inf)  # no look at itself wakes a loop that is not asked to
        self.service = make_service(
            application=self._serve,
            readiness=self.backend.readiness,
            report=self.backend.report,
            row=self.row,
            **limits,
        )
        self.health = Health(self.service, self.backend, **health_limits)  # type: ignore[arg-type]
        self.loop = Loop(
            self.service,
            self.backend,  # type: ignore[arg-type]
            [self.listener],
            self.health,
            slots,
            max_requests,
            self._wear,
        )
        self.service.lend = self.loop.lend
        self.loop.admission.start_accepting()
        self._clients: list[socket.socket] = []
        self._taken: list[Stream] = []

    def __enter__(self) -> Self:
        self.turn()
        return self

    def __exit__(self, *_: object) -> None:
        if not self.loop.finished:
            self.loop.quit()
            self.turn()
        for stream in self._taken:
            if stream.sock.fileno() >= 0:
                self.loop.give_back(stream)
        for client in self._clients:
            client.close()
        self.backend.poller.close()

    def _serve(self, stream: Stream) -> None:
        assert stream.request is not None
        self.served.append(stream.request.target)
        self._app(stream)

    def _wear(self) -> None:
        self.worn += 1

    @property
    def connections(self) -> list[Connection]:
        return list(self.loop._table.connections.values())

    def current(self, connection: Connection) -> Connection:
        """What has taken the place of a stage before a connection."""
        return self.loop._table.connections[connection.fd]

    @property
    def accepting(self) -> bool:
        return self.listener.fd in self.backend.poller.asked

    def watched(self, connection: Connection) -> int:
        """What the poller is really asked for."""
        return self.backend.poller.asked.get(connection.fd, 0)

    def client(self) -> socket.socket:
        """One that has connected and was not accepted yet."""
        client = socket.socket(self.listener._socket.family)
        client.settimeout(DEADLINE)
        client.connect(self.address)
        self._clients.append(client)
        return client

    def queued(self, count: int) -> None:
        """Wait until so many clients are in the backlog: by TCP, one may have connected a moment before that."""
        sock = self.listener._socket
        if sys.platform == "linux" and sock.family != socket.AF_UNIX:  # nobody tells elsewhere
            # Of a listener, tcpi_unacked is that number.
            info = struct.Struct("=24xI")
            wait_for(lambda: info.unpack(sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, info.size)) >= (count,))

    def connect(self) -> tuple[socket.socket, Connection]:
        """A client and its connection."""
        before = set(self.connections)
        client = self.client()
        self.until(lambda: set(self.connections) - before)
        return client, (set(self.connections) - before).pop()

    def turn(self, after: float = 0) -> None:
        """Let time go by, then one turn, as of a backend that does not wait in it."""
        self.now += after
        self.loop.turn(block=False)
        self.check_load()

    def check_load(self) -> None:
        """What all connections count for is what each of them holds, at any time: else a bound would close in."""
        load = self.service.load
        open_ = {*self.connections, *(each.connection for each in self._taken if each.sock.fileno() >= 0)}
        connections = [each for each in open_ if isinstance(each, Connection)]  # the stages before one hold nothing
        if not self.loop.finished:
            assert load.connections == len(self.connections)
        intakes = [each.intake for each in connections if each.intake is not None]
        assert load.memory == sum(each.memory for each in connections) + sum(each.memory for each in intakes)
        assert load.disk == sum(each.spooled for each in intakes)
        assert load.files == sum(bool(each.spooled) for each in intakes)
        assert self.service.unsent.files == sum(each.sender._files for each in connections)
        assert self.service.unsent.memory == sum(each.sender._memory for each in connections)

    def run(self) -> int:
        """Run what is ready, inline."""
        count = 0
        while (stream := self.loop.take()) is not None:
            stream.exchange(self.row.slots[0], clock())
            self.loop.finish(stream)
            count += 1
        return count

    def until(self, fact: Callable[[], object]) -> None:
        """Turn, with time standing still, until something is true: bytes may take a moment between two sockets."""
        wait_for(lambda: fact() or (self.turn(), fact())[1])

    def arrived(self, connection: Connection) -> None:
        """Wait until something has come that was not read; without a turn."""
        assert select.select([connection.sock], [], [], DEADLINE)[0]

    def take(self) -> Stream:
        """The next one to run, given away: its runner is the test."""
        taken: list[Stream | None] = []
        self.until(lambda: taken.append(self.loop.take()) or taken[-1])
        stream = taken[-1]
        assert stream is not None
        self.loop.give_away(stream)
        self._taken.append(stream)
        return stream


def received(connection: Connection) -> int:
    """Bytes of a body that have come."""
    return 0 if connection.intake is None else connection.intake.received


def read(client: socket.socket, size: int = len(ANSWER)) -> bytes:
    """Exactly ``size`` bytes, or all until the end."""
    data = b""
    while len(data) < size and (piece := client.recv(size - len(data))):
        data += piece
    return data


def ended(client: socket.socket) -> bytes:
    """What still comes until the end, however it ends."""
    data = b""
    try:
        while piece := client.recv(65536):
            data += piece
    except ConnectionResetError:
        data += b"<reset>"
    return data
