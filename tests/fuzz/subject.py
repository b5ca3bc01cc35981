"""A server in the hands of the fuzzer: one connection after the other, in one thread, with a clock that stands still.

Its application does what its request's target makes it do, right things and wrong ones, so that two servers that are
asked the same do the same.
"""

from __future__ import annotations

import errno
import logging
import socket
import sys
import time
import zlib
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from zibai.engine import admission
from zibai.engine.connection import Connection
from zibai.engine.context import IN_MEMORY, RECEIVE
from zibai.engine.sending import TAIL
from zibai.engine.states import BODY, HEAD
from zibai.gateway.wsgi import Gateway
from zibai.protocol.http1 import MAX_TARGET, FastLane
from zibai.telemetry.format import Formatter

from rig import Rig, received
from support import DEADLINE, prints

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from pathlib import Path

    import pytest

    from zibai.errors import Refused

TEXT = ("Content-Type", "text/plain")
VOLATILE = {"REMOTE_PORT", "SERVER_PORT", "SERVER_NAME"}
LOGGERS = ("zibai", "zibai.debug", "zibai.access", "zibai.error")
LARGE = 400_000  # bytes that no socket's buffer takes, so that the loop sends them


class Broken(Exception):
    """Something that must always be true is not."""


@dataclass
class Call:
    """What the application was called with; ``fails`` says that its answer may end too early.

    ``forged`` is a key that no field may make.
    """

    method: str
    environ: dict[str, str]
    body: bytes | None = None
    fails: bool = False
    forged: bool = False


@dataclass
class Trace:
    """What one input has led to."""

    calls: list[Call] = field(default_factory=list)
    answers: bytes = b""
    ended: bool = False


class Application:
    def __init__(self) -> None:
        self.calls: list[Call] = []

    def __call__(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        texts = {key: value for key, value in environ.items() if isinstance(value, str) and key not in VOLATILE}
        call = Call(environ["REQUEST_METHOD"], texts, forged="HTTP_PROXY" in texts)
        self.calls.append(call)
        self.environ, self.start, self.call = environ, start_response, call
        manner = zlib.crc32((call.method + environ["REQUEST_URI"]).encode()) % 20
        how: Callable[[], Iterable[bytes]] = getattr(self, f"manner_{manner}", self.plain)
        return how()

    def read(self, size: int = -1) -> bytes:
        try:
            self.call.body = self.environ["wsgi.input"].read(size)
        except ConnectionError:
            self.call.fails = True
            raise
        return self.call.body

    def ok(self, *fields: tuple[str, str], status: str = "200 OK") -> Any:
        return self.start(status, [TEXT, *fields])

    def plain(self) -> Iterable[bytes]:
        body = self.read()
        self.ok()
        return [b"%d bytes" % len(body)]

    def manner_1(self) -> Iterable[bytes]:  # leaves the body unread
        self.ok()
        return [b"unread"]

    def manner_2(self) -> Iterable[bytes]:  # reads a part
        self.read(3)
        self.ok()
        return [b"part"]

    def manner_3(self) -> Iterable[bytes]:
        raise RuntimeError("on purpose: \x1b[31m\n2026-01-01 forged")

    def manner_4(self) -> Iterator[bytes]:  # an unknown length; the head comes before the body is read
        self.ok()
        yield b"a"
        self.call.fails = True
        yield self.read()
        self.call.fails = False

    def manner_5(self) -> Iterator[bytes]:  # cut
        self.call.fails = True
        self.ok()
        yield b"some"
        raise RuntimeError("on purpose")

    def manner_6(self) -> Iterable[bytes]:
        write = self.ok()
        write(b"written")
        return [b"", b"and returned"]

    def manner_7(self) -> Iterable[bytes]:
        self.ok(status="204 No Content")
        return [b"too much"]

    def manner_8(self) -> Iterable[bytes]:
        self.ok(("Content-Length", "1000"), status="304 Not Modified")
        return [b"too much"]

    def manner_9(self) -> Iterable[bytes]:
        self.ok(("Content-Length", "3"))
        return [b"more than that"]

    def manner_10(self) -> Iterable[bytes]:
        self.call.fails = True
        self.ok(("Content-Length", "30"))
        return [b"less"]

    def manner_11(self) -> Iterable[bytes]:
        self.ok(("X", "a\r\nHTTP/1.1 200 OK"))
        return [b"split"]

    def manner_12(self) -> Iterable[bytes]:
        self.environ["wsgi.early_hints"]([("Link", "</a>")])
        return self.plain()

    def manner_13(self) -> Iterable[bytes]:
        self.ok(("Connection", "close"), ("Keep-Alive", "9"), ("Transfer-Encoding", "chunked"))
        return [b"hop by hop"]

    def manner_14(self) -> Iterable[bytes]:
        self.ok()
        return [bytes(LARGE)] if len(self.environ["REQUEST_URI"]) % 8 == 0 else []

    def manner_15(self) -> Iterable[bytes]:
        self.start("200 OK\r\nX: evil", [TEXT])
        return []


class Watched(Connection):
    """One that sees to it that nothing is refused that has had its answer: that would be the answer to the next."""

    __slots__ = ()

    def refuse(self, refusal: Refused, now: float) -> None:
        if self.state not in {HEAD, BODY}:
            raise Broken(f"refused in {self.state}")
        super().refuse(refusal, now)


class Subject:
    """A server with one lane and some limits. ``records`` are checked and counted, and not kept."""

    def __init__(self, patch: pytest.MonkeyPatch, path: Path, *, lane: bool, **limits: Any) -> None:
        self.stream = limits.get("stream_body", False)
        self.application = Application()
        target = limits.get("max_target", MAX_TARGET)
        self.lane = FastLane(target, sample=1) if lane else None  # so that it reads by shapes, too
        gateway = Gateway(self.application)
        unix = None if sys.platform == "win32" else path
        patch.setattr(admission, "Connection", Watched)
        self.rig = Rig(patch, app=gateway.serve, unix=unix, lane=self.lane, **limits)
        self.late: list[tuple[str, float]] = []  # states in which a client's end was not seen at once, and for how long
        self.most = 0  # bytes that lay in a connection
        self.rig.turn()

    def close(self) -> None:
        self.rig.__exit__()

    def send(self, data: bytes, cuts: list[int], *, half_close: bool) -> Trace:
        """Send ``data`` on a new connection, in pieces, and see what happens."""
        rig, trace = self.rig, Trace()
        self.application.calls = trace.calls
        client = rig.client()
        rig._clients.clear()  # it is ours to close
        with client:
            client.setblocking(False)
            if self.stream:  # who reads waits for the rest, and nobody else could send it
                client.setblocking(True)
                client.sendall(data)
                client.setblocking(False)
                half_close = True
            else:
                for size in [*cuts, len(data)]:
                    self.push(client, data[:size], trace)
                    data = data[size:]
            if half_close:
                self.shut(client)
            self.settle(client, trace)
        self.settle(None, trace)
        if rig.connections:
            self.wait_for_the_end(trace)
        rig.served.clear()
        return trace

    def wait_for_the_end(self, trace: Trace) -> None:
        """The client has left, but three turns did not show it: the kernel may be late, which is counted."""
        first, begin = self.rig.connections[0].state, time.monotonic()
        while self.rig.connections:
            self.step(None, trace)
            if time.monotonic() - begin > DEADLINE:
                raise Broken(f"a connection of a client that has left is still {self.rig.connections[0].state}")
        self.late.append((first, time.monotonic() - begin))

    def push(self, client: socket.socket, piece: bytes, trace: Trace) -> None:
        while piece:
            try:
                piece = piece[client.send(piece) :]
            except BlockingIOError:
                if trace.ended:
                    return  # the server takes no more, and its clock, which stands still, does not close the rest
            except OSError:
                return  # it has ended
            self.step(client, trace)

    def shut(self, client: socket.socket) -> None:
        try:
            client.shutdown(socket.SHUT_WR)
        except OSError as error:
            if error.errno != errno.ENOTCONN:
                raise

    def settle(self, client: socket.socket | None, trace: Trace) -> None:
        """Turn until nothing happens any more."""
        quiet = 0
        while quiet < 3:
            quiet = 0 if self.step(client, trace) else quiet + 1

    def step(self, client: socket.socket | None, trace: Trace) -> bool:
        """Whether something happened."""
        rig = self.rig
        before = [(each.state, len(each.out)) for each in rig.connections]
        rig.turn()
        ran = rig.run()
        if rig.loop.failure is not None:
            raise rig.loop.failure
        after = [(each.state, len(each.out)) for each in rig.connections]
        self.measure()
        return bool(ran or before != after or (client is not None and self.receive(client, trace)))

    def receive(self, client: socket.socket, trace: Trace) -> bool:
        if trace.ended:
            return False
        try:
            data = client.recv(1 << 20)
        except BlockingIOError:
            return False
        except OSError:
            data = b""
        trace.answers += data
        trace.ended = not data
        return True

    def measure(self) -> None:
        """Memory is bounded, whatever comes."""
        for each in self.rig.connections:
            codec = each.codec
            held = len(codec._buffer) + len(codec._piece)
            self.most = max(self.most, held + len(each.out))
            if held > self.rig.service.limits.max_head + 2 * RECEIVE or len(each.out) > TAIL + RECEIVE:
                raise Broken(f"{held} bytes wait to be read and {len(each.out)} to be sent")
            if received(each) > IN_MEMORY + RECEIVE and hasattr(each.intake.file, "getbuffer"):
                raise Broken(f"{received(each)} bytes of a body are in memory")


class Ears(logging.Handler):
    """Hears all that is logged: each record is one line, and none tells of a bug of ours."""

    def __init__(self) -> None:
        super().__init__()
        self.lines = 0
        self.problem: Broken | None = None  # nothing is raised into the server, which would deal with it
        self.setFormatter(Formatter("%(message)s %(REMOTE_ADDR)s %(REQUEST_URI)s %(HTTP_USER_AGENT)s %(HTTP_REFERER)s"))

    def emit(self, record: logging.LogRecord) -> None:
        self.lines += 1
        ours = record.name == "zibai" or "gateway failed" in record.getMessage()
        first, *rest = self.format(record).split("\n")
        if ours and record.levelno >= logging.ERROR:
            self.problem = Broken(f"logged: {self.format(record)}")
        elif not prints(first):
            self.problem = Broken(f"a log line is forged: {first!r}")
        elif any(not prints(line) or not line.startswith(" ") for line in rest):
            self.problem = Broken(f"a traceback is forged: {rest!r}")


@contextmanager
def listening() -> Iterator[Ears]:
    """All that the server logs goes to these ears, and nowhere else."""
    ears = Ears()
    loggers = [logging.getLogger(name) for name in LOGGERS]
    before = [(logger.level, logger.handlers, logger.propagate) for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.DEBUG)
        logger.handlers, logger.propagate = [ears], False
    try:
        yield ears
    finally:
        for logger, (level, handlers, propagate) in zip(loggers, before, strict=True):
            logger.setLevel(level)
            logger.handlers, logger.propagate = handlers, propagate
