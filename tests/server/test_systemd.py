"""What systemd is told, with a socket that plays systemd: by the parts, and by real servers."""

from __future__ import annotations

import os
import signal
import socket
import sys
import tempfile
import time
from contextlib import contextmanager
from math import inf
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

from zibai.errors import UsageError
from zibai.server import systemd as notify
from zibai.server.systemd import Notifier, Reporter, SingleReporter
from zibai.telemetry.scoreboard import Row, Rows

from support import DEADLINE, KILL, Server, alive, get, wait_for

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="no systemd there")


class Systemd:
    """The socket that a service talks to."""

    def __init__(self, address: str) -> None:
        self.address = address
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind("\0" + address[1:] if address.startswith("@") else address)
        self._socket.settimeout(DEADLINE)

    def hear(self) -> list[str]:
        """The lines of the next datagram."""
        return self._socket.recv(4096).decode().splitlines()

    def hear_all(self) -> list[list[str]]:
        """What has come, without waiting."""
        heard = []
        self._socket.setblocking(False)
        try:
            while True:
                heard.append(self.hear())
        except BlockingIOError:
            return heard
        finally:
            self._socket.settimeout(DEADLINE)

    def wait_for(self, line: str) -> list[str]:
        """The datagram that begins with it; the others before are let go."""
        until = time.monotonic() + DEADLINE
        while not (heard := self.hear())[0].startswith(line):
            assert time.monotonic() < until, f"{line} does not come, but {heard}"
        return heard

    def close(self) -> None:
        self._socket.close()


@contextmanager
def playing(address: str) -> Iterator[Systemd]:
    systemd = Systemd(address)
    try:
        yield systemd
    finally:
        systemd.close()


@pytest.fixture
def systemd() -> Iterator[Systemd]:
    with tempfile.TemporaryDirectory(prefix="z") as folder, playing(f"{folder}/notify") as systemd:
        yield systemd


@pytest.fixture
def now(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The clock, to be set."""
    now = [1000.0]
    monkeypatch.setattr(notify, "clock", lambda: now[0])
    return now


# --- the environment --------------------------------------------------------------------------------


def test_nobody_asks() -> None:
    environ = {"WATCHDOG_USEC": "1000000", "WATCHDOG_PID": "1", "HOME": "/"}
    assert Notifier.from_environment(environ) is None
    assert environ == {"HOME": "/"}


@pytest.mark.parametrize(
    ("variables", "beat_every"),
    [
        ({}, inf),
        ({"WATCHDOG_USEC": "0"}, inf),
        ({"WATCHDOG_USEC": "3000000"}, 1.5),
        ({"WATCHDOG_USEC": "3000000", "WATCHDOG_PID": str(os.getpid())}, 1.5),
        ({"WATCHDOG_USEC": "3000000", "WATCHDOG_PID": "1"}, inf),
    ],
)
def test_the_variables_are_taken(variables: dict[str, str], beat_every: float) -> None:
    environ = {"NOTIFY_SOCKET": "/run/notify", **variables}
    notifier = Notifier.from_environment(environ)
    assert notifier is not None
    assert notifier.beat_every == beat_every
    assert environ == {}
    kept = {"WATCHDOG_USEC": "3000000"} if beat_every < inf else {}
    assert notifier.environment == {"NOTIFY_SOCKET": "/run/notify", **kept}, "for a successor, with another pid"


def test_variables_of_another_form(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(notify.logger, "propagate", True)
    assert Notifier.from_environment({"NOTIFY_SOCKET": "vsock:2:1234"}) is None
    assert "vsock:2:1234 is not a unix socket" in caplog.text
    with pytest.raises(
        UsageError, match=r"^environment variable WATCHDOG_USEC: 'soon' is not a number of microseconds$"
    ):
        Notifier.from_environment({"NOTIFY_SOCKET": "/run/notify", "WATCHDOG_USEC": "soon"})


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux has abstract sockets")
def test_an_abstract_socket() -> None:
    with playing(f"@zibai-test-{os.getpid()}") as systemd:
        Notifier(systemd.address).send("READY=1", "STATUS=up")
        assert systemd.hear() == ["READY=1", "STATUS=up"]


def test_nobody_there_and_nobody_who_listens(
    systemd: Systemd, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(notify.logger, "propagate", True)
    notifier = Notifier(systemd.address)
    for _ in range(10_000):
        notifier.send("STATUS=" + "x" * 1000)  # its queue is full long before
    systemd.close()
    notifier.send("WATCHDOG=1")
    assert caplog.text == ""
    notifier.ready()
    assert "cannot tell systemd that the server is ready" in caplog.text


# --- a roster -----------------------------------------------------------------------------------


def worker(state: str = "ready", generation: int = 0) -> Any:
    return SimpleNamespace(state=state, generation=generation, is_active=state != "draining")


def roster(*workers: Any, **facts: Any) -> Any:
    defaults = {"was_up": True, "is_ending": False, "generation": 0, "wanted": 2, "workers": list(workers)}
    return SimpleNamespace(**{**defaults, **facts})


def test_from_the_first_ready_worker_to_the_end(systemd: Systemd, now: list[float]) -> None:
    reporter = Reporter(Notifier(systemd.address))
    assert reporter.look(roster(worker("starting"), worker("starting"), was_up=False)) is None
    assert systemd.hear_all() == []
    up = roster(worker(), worker("starting"))
    assert reporter.look(up) == notify.STATUS_EVERY
    assert systemd.hear_all() == [["READY=1"], ["STATUS=1 of 2 workers ready"]]
    up.workers[1].state = "ready"
    now[0] += 4
    assert reporter.look(up) == notify.STATUS_EVERY - 4
    assert systemd.hear_all() == [], "not so often"
    now[0] += 6
    reporter.look(up)
    assert systemd.hear_all() == [["STATUS=2 of 2 workers ready"]]
    now[0] += 10
    reporter.look(up)
    assert systemd.hear_all() == [], "nothing new"
    up.is_ending = True
    reporter.look(up)
    reporter.look(up)
    assert systemd.hear_all() == [["STOPPING=1"]]


def test_a_restart(systemd: Systemd, now: list[float]) -> None:
    reporter = Reporter(Notifier(systemd.address))
    site = roster(worker(), worker())
    reporter.look(site)
    systemd.hear_all()
    before = time.monotonic_ns() // 1000
    site.generation = 1
    site.workers.append(worker("starting", 1))
    reporter.look(site)
    ((reloading, stamp),) = systemd.hear_all()
    assert reloading == "RELOADING=1"
    name, _, moment = stamp.partition("=")
    assert name == "MONOTONIC_USEC"
    assert before <= int(moment) <= time.monotonic_ns() // 1000
    for workers in (
        [worker(), worker("draining"), worker("ready", 1)],
        [worker(), worker("starting", 1), worker("ready", 1)],
        [worker("draining"), worker("starting", 1), worker("ready", 1)],
        [worker("ready", 1)],
    ):
        site.workers = workers
        reporter.look(site)
        assert systemd.hear_all() == []
    site.workers = [worker("draining"), worker("ready", -1), worker("ready", 1)]
    reporter.look(site)
    assert systemd.hear_all() == [["READY=1"]], (
        "a worker that reaches its maximum of requests meanwhile is another matter"
    )
    site.generation = 2
    reporter.look(site)
    assert systemd.hear()[0] == "RELOADING=1"


def test_the_watchdog(systemd: Systemd, now: list[float]) -> None:
    reporter = Reporter(Notifier(systemd.address, beat_every=1.5))
    up = roster(worker(), worker())
    assert reporter.look(up) == 1.5
    assert ["WATCHDOG=1"] in systemd.hear_all()
    now[0] += 1
    assert reporter.look(up) == 0.5
    assert systemd.hear_all() == []
    up.is_ending = True
    now[0] += 0.5
    reporter.look(up)
    assert systemd.hear_all() == [["STOPPING=1"], ["WATCHDOG=1"]], "also while it drains"


def test_requests_of_workers_that_are_gone_count(systemd: Systemd, now: list[float]) -> None:
    rows = [Row.private(2), Row.private(2)]
    reporter = Reporter(Notifier(systemd.address), rows)
    for number, row in enumerate(rows):
        row.assign("ready", 100 + number, 0, 1.0)
        row.beat([5 + number] + [0] * 13)
    rows[0].slots[0].begin(b"GET /", 1.0)
    site = roster(worker(), worker())
    reporter.look(site)
    assert systemd.hear_all()[-1] == ["STATUS=2 of 2 workers ready, 11 requests answered, 1 running"]
    rows[0].clear()
    rows[0].assign("ready", 102, 1, 1.0)
    rows[0].beat([1] + [0] * 13)
    now[0] += 10
    reporter.look(site)
    assert systemd.hear_all() == [["STATUS=2 of 2 workers ready, 12 requests answered, 0 running"]]


def test_another_process_is_the_service_now(systemd: Systemd, now: list[float]) -> None:
    notifier = Notifier(systemd.address, beat_every=1.0)
    reporter = Reporter(notifier)
    up = roster(worker(), worker())
    reporter.look(up)
    systemd.hear_all()
    notifier.pass_service_to(4711)
    assert systemd.hear() == ["MAINPID=4711"]
    now[0] += 10
    reporter.look(up)
    assert systemd.hear_all() == []
    notifier.take_back()
    assert systemd.hear() == [f"MAINPID={os.getpid()}", "READY=1"]
    notifier.predecessor = lambda: 4710
    up.is_ending = True
    reporter.look(up)
    assert systemd.hear_all() == [["MAINPID=4710"]], "the service does not stop with it, and nobody else beats"


def test_a_single_process(systemd: Systemd, now: list[float]) -> None:
    row = Row.private(1)
    reporter = SingleReporter(Notifier(systemd.address, beat_every=2.0), Rows([row]))
    assert reporter.beat_every == 2.0
    reporter.beat()
    assert systemd.hear_all() == [], "it does not serve yet"
    reporter.started()
    row.beat([3] + [0] * 13)
    reporter.beat()
    assert systemd.hear_all() == [["READY=1"], ["WATCHDOG=1"], ["STATUS=3 requests answered, 0 running"]]
    now[0] += 2
    reporter.beat()
    assert systemd.hear_all() == [["WATCHDOG=1"]]
    reporter.stopping()
    assert systemd.hear_all() == [["STOPPING=1"]]


# --- real servers -----------------------------------------------------------------------------------


@pytest.mark.daily("threads")
def test_a_service_with_workers(backend: tuple[str, ...], systemd: Systemd) -> None:
    env = {"NOTIFY_SOCKET": systemd.address, "WATCHDOG_USEC": "400000"}
    with Server("plain:app", "-p", "1", *backend, env=env) as server:
        assert systemd.hear() == ["READY=1"]
        assert get(server.port, "/hello").status == 200
        systemd.wait_for("WATCHDOG=1")
        systemd.wait_for("WATCHDOG=1")
        if sys.platform == "linux":
            (worker,) = server.children()
            variables = Path(f"/proc/{worker}/environ").read_bytes()
            assert b"NOTIFY_SOCKET" not in variables
            assert b"WATCHDOG" not in variables
        server.signal(signal.SIGHUP)
        assert systemd.wait_for("RELOADING=1")[1].startswith("MONOTONIC_USEC=")
        systemd.wait_for("READY=1")
        server.signal(signal.SIGTERM)
        systemd.wait_for("STOPPING=1")
        assert server.wait() == 0


@pytest.mark.parametrize("name", ["SIGTERM", "SIGINT"])
@pytest.mark.daily("greenlets-SIGINT")
def test_a_service_of_one_process(backend: tuple[str, ...], systemd: Systemd, name: str) -> None:
    with Server("plain:app", *backend, env={"NOTIFY_SOCKET": systemd.address, "WATCHDOG_USEC": "400000"}) as server:
        assert systemd.hear() == ["READY=1"]
        for _ in range(2):
            systemd.wait_for("WATCHDOG=1")
        server.signal(getattr(signal, name))
        systemd.wait_for("STOPPING=1")
        assert server.wait() == 0
    assert all(heard != ["STOPPING=1"] for heard in systemd.hear_all())


def test_an_upgrade_moves_the_service(systemd: Systemd) -> None:
    flags = ("-p", "1", "--no-gevent")
    with Server("plain:app", *flags, env={"NOTIFY_SOCKET": systemd.address}) as server:
        systemd.wait_for("READY=1")
        server.signal(signal.SIGUSR2)
        line = server.wait_for_log("the new server serves")
        (heard,) = systemd.wait_for("MAINPID=")
        new = int(heard.removeprefix("MAINPID="))
        assert f"process {new};" in line
        try:
            server.signal(signal.SIGTERM)
            wait_for(lambda: server.has_ended)
            assert get(server.port, "/hello").status == 200
            assert ["STOPPING=1"] not in systemd.hear_all()
            os.kill(new, signal.SIGTERM)
            systemd.wait_for("STOPPING=1")
            wait_for(lambda: not alive(new))
        finally:
            if alive(new):
                os.kill(new, KILL)
