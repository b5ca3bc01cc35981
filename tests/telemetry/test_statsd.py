"""The counters for statsd: what is sent, of what, and that nothing waits for it."""

from __future__ import annotations

import re
import socket
import sys
from collections import Counter
from contextlib import closing
from typing import TYPE_CHECKING, Any

import pytest

from zibai.config.options import Options
from zibai.errors import UsageError
from zibai.telemetry.board_view import describe
from zibai.telemetry.scoreboard import Scoreboard
from zibai.telemetry.statsd import PACKET, Statsd, connect, metrics, packets

from support import DEADLINE, Client, Server, get, wait_for

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

LINE = re.compile(r"([a-z0-9_.]+):([0-9.e+-]+)\|(c|g|ms)(?:\|@([0-9.e-]+))?")


class Sums:
    """What a statsd server makes of the datagrams that arrive."""

    def __init__(self, sock: socket.socket) -> None:
        self.socket = sock
        self.socket.settimeout(0.01)
        self.counters: Counter[str] = Counter()
        self.gauges: dict[str, float] = {}
        self.samples: dict[str, list[tuple[float, float]]] = {}

    def receive(self) -> Sums:
        while True:
            try:
                data = self.socket.recv(65536)
            except TimeoutError:
                return self
            assert len(data) <= PACKET
            for line in data.decode().split("\n"):
                found = LINE.fullmatch(line)
                assert found, line
                name, value, kind, rate = found.groups()
                if kind == "c":
                    self.counters[name] += int(value)
                elif kind == "g":
                    self.gauges[name] = float(value)
                else:
                    self.samples.setdefault(name, []).append((float(value), 1 / float(rate or 1)))

    def number(self, name: str) -> int:
        """How many samples there are, with their rates."""
        return round(sum(number for _, number in self.samples.get(name, ())))


@pytest.fixture
def udp() -> Iterator[Sums]:
    with closing(socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) as sock:
        sock.bind(("127.0.0.1", 0))
        yield Sums(sock)


def address(sums: Sums) -> str:
    return f"127.0.0.1:{sums.socket.getsockname()[1]}"


def test_what_has_changed(tmp_path: Path) -> None:
    with closing(Scoreboard.create(str(tmp_path / "board"), 2, 3, {})) as board:
        row = board.row(0)
        row.assign("ready", 1, 0, 0.0)

        def serve(number: int, seconds: float) -> None:
            for _ in range(number):
                row.slots[0].begin(b"GET /", 1.0)
                row.slots[0].end(200, 1.0, 1.0 + seconds)

        before: dict[str, Any] = {}

        def changes() -> list[str]:
            nonlocal before
            server = describe(board)
            made = [line for line in metrics(before, server, {"a": 2, "b": 1}) if "|g" not in line]
            before = server["totals"]
            return made

        assert changes() == []
        serve(4, 0.003)
        serve(1, 100.0)
        row.beat([1, 0, 0, 0, 0, 1, 10, 1, 0, 0, 0, 0, 1, 0])
        assert changes() == [
            "gunicorn.requests:6|c",
            "gunicorn.request.status.2xx:5|c",
            "gunicorn.request.status.5xx:1|c",
            "gunicorn.request.duration:3.75|ms|@0.25",
            "gunicorn.request.duration:60000|ms",
            "zibai.request.queue:0.5|ms|@0.2",
        ]
        assert changes() == []
        row.slots[0].waited(0.2)
        serve(1, 0.003)
        assert changes() == [
            *("gunicorn.requests:1|c", "gunicorn.request.status.2xx:1|c"),
            *("gunicorn.request.duration:3.75|ms", "zibai.request.queue:175|ms"),
        ]
        gauges = {line for line in metrics(before, describe(board), {"a": 2, "b": 1}) if "|g" in line}
        assert gauges == {
            *("gunicorn.workers:1|g", "gunicorn.backlog:3|g"),
            *("zibai.requests.running:1|g", "zibai.requests.waiting:0|g"),
        }


def test_datagrams_have_a_size() -> None:
    lines = [f"name{number}:1|c" for number in range(1000)]
    found = list(packets(lines))
    assert max(map(len, found)) <= PACKET
    assert len(found) < 20
    assert b"\n".join(found).decode().split("\n") == lines


@pytest.mark.parametrize("text", ["fd:3", "host", "localhost", "host:0", "unix:", "1:2:3", "host:99999"])
def test_where_nothing_can_be_sent(text: str) -> None:
    with pytest.raises(UsageError, match=r"^--statsd: .* is no address"):
        Options("a:b", statsd=text).validate()


def test_a_name_that_stands_for_both_versions_of_ip(monkeypatch: pytest.MonkeyPatch) -> None:
    """localhost is ::1 first on many systems, and statsd listens on IPv4."""
    found = [(family, socket.SOCK_DGRAM, 17, "", (host, 9)) for family, host in BOTH]
    monkeypatch.setattr("_socket.getaddrinfo", lambda *_: found)
    with closing(connect("localhost:9")) as sender:
        assert sender.family == socket.AF_INET


BOTH = [(socket.AF_INET6, "::1"), (socket.AF_INET, "127.0.0.1")]


def test_ipv6() -> None:
    with closing(socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)) as sock:
        try:
            sock.bind(("::1", 0))
        except OSError:
            pytest.skip("this system has no IPv6")
        sock.settimeout(DEADLINE)
        with closing(connect(f"[::1]:{sock.getsockname()[1]}")) as sender:
            sender.send(b"x")
        assert sock.recv(10) == b"x"


def test_a_failure_is_said_once(caplog: pytest.LogCaptureFixture) -> None:
    calls = []

    def look() -> Any:
        calls.append(1)
        raise ValueError("broken")

    statsd = Statsd("127.0.0.1:9", "", look)
    statsd._send()
    statsd._send()
    assert len(calls) == 2
    assert [record.getMessage() for record in caplog.records] == [
        "--statsd: nothing can be sent to 127.0.0.1:9 (said once): broken"
    ]


@pytest.mark.parametrize("flags", [(), ("-p", "2")], ids=["single", "parent"])
def test_a_server_sends_what_it_has_served(udp: Sums, flags: tuple[str, ...]) -> None:
    with Server("plain:app", "--statsd", address(udp), "--statsd-prefix", "shop.web", *flags) as server:
        with Client(server.port) as client:
            for _ in range(20):
                assert client.get("/").status == 200
        assert get(server.port, "/", "Bad\x01: x").status == 400
        # Responses are counted at the next heartbeat.
        wait_for(lambda: udp.receive().counters["shop.web.gunicorn.requests"] == 21)
        wait_for(lambda: udp.receive().gauges.get("shop.web.gunicorn.workers") == (2 if flags else 1))
    udp.receive()
    assert udp.counters["shop.web.gunicorn.request.status.2xx"] == 20
    assert udp.counters["shop.web.gunicorn.request.status.4xx"] == 1
    assert udp.number("shop.web.gunicorn.request.duration") == 20
    assert udp.number("shop.web.zibai.request.queue") == 20
    if flags and sys.platform == "linux":
        assert "shop.web.gunicorn.backlog" in udp.gauges


@pytest.mark.skipif(sys.platform == "win32", reason="there are no unix sockets for datagrams")
def test_a_unix_socket_that_comes_later(tmp_path: Path) -> None:
    """And nobody waits for it."""
    path = tmp_path / "statsd"
    with Server("plain:app", "--statsd", f"unix:{path}") as server:
        assert get(server.port).status == 200
        server.wait_for_log("--statsd: nothing can be sent to")
        with closing(socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)) as sock:
            sock.bind(str(path))
            sums = Sums(sock)
            assert get(server.port).status == 200
            wait_for(lambda: sums.receive().number("gunicorn.request.duration") >= 1)
    assert len([line for line in server.log if "--statsd" in line]) == 1
