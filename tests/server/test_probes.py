"""The parent's answers about itself: what counts as alive, and what a client may cost. The clock is the test's."""

from __future__ import annotations

import socket
import threading
from types import SimpleNamespace
from typing import TYPE_CHECKING

import pytest

from zibai.errors import MissingExtra
from zibai.logger import logger
from zibai.protocol.http1 import Codec
from zibai.server import probes
from zibai.server.probes import CLIENT_BYTES, CLIENT_TIME, MAX_CLIENTS, Probes
from zibai.supervise import pulse as pulse_module
from zibai.supervise.pulse import STALL, Pulse
from zibai.supervise.record import DRAINING, READY

from support import Client, get, raw, wait_for

if TYPE_CHECKING:
    from collections.abc import Iterator


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(probes, "clock", clock)
    monkeypatch.setattr(pulse_module, "clock", clock)
    return clock


@pytest.fixture
def probe(clock: Clock) -> Iterator[Probes]:
    """One that tells of a pulse that is ready."""
    pulse = Pulse()
    pulse.finds("ready")
    pulse.waits(None)
    with socket.create_server(("127.0.0.1", 0), backlog=1024) as listener:
        with Probes([listener], pulse) as probe:
            yield probe


@pytest.fixture
def port(probe: Probes) -> int:
    return int(probe._sockets[0].getsockname()[1])


def is_half_asked(probe: Probes) -> bool:
    """Whether the half of a request was read. Who is put out before that is reset, since something of his is unread."""
    return any(client.left < CLIENT_BYTES and not client.has_response for client in list(probe._clients.values()))


def test_a_main_loop_that_does_not_come_round_is_not_alive(clock: Clock) -> None:
    pulse = Pulse()
    assert pulse.live == "ok"
    clock.now += STALL
    assert pulse.live == "stalled", "it has never waited"
    pulse.finds("ready")
    pulse.waits(None)
    clock.now += 1e6
    assert pulse.live == "ok", "nothing has to be done"
    pulse.wakes()
    clock.now += STALL
    assert pulse.live == "stalled"
    pulse.waits(10.0)
    clock.now += 10.0 + STALL - 0.1
    assert pulse.live == "ok"
    clock.now += 0.1
    assert pulse.live == "stalled", "it is late"


@pytest.mark.parametrize("condition", ["starting", "draining", "down"])
def test_the_reason_is_one_word(condition: str) -> None:
    pulse = Pulse()
    assert pulse.ready == "starting"
    pulse.finds(condition)
    pulse.waits(None)
    assert pulse.ready == condition
    pulse.finds("ready")
    pulse.waits(None)
    assert pulse.ready == "ok"


def test_where_there_are_too_many_the_first_one_goes(probe: Probes, port: int) -> None:
    clients = [Client(port) for _ in range(MAX_CLIENTS)]
    clients[0].send(b"GET /livez HTTP/1.1\r\nHost:")
    wait_for(lambda: is_half_asked(probe))
    assert get(port, "/livez").status == 200
    assert clients[0].rest() == b""
    clients[1].send(b"GET /readyz HTTP/1.1\r\nHost: a\r\n\r\n")
    assert clients[1].read().body == b"ok\n"
    for client in clients:
        client.close()


def test_each_has_its_time(probe: Probes, port: int, clock: Clock) -> None:
    with Client(port) as silent, Client(port) as slow, Client(port) as answered:
        slow.send(b"GET /livez HTTP/1.1\r\n")
        wait_for(lambda: is_half_asked(probe))
        answered.send(b"GET /livez HTTP/1.1\r\nHost: a\r\n\r\n")
        assert answered.read().status == 200
        clock.now += CLIENT_TIME
        assert get(port, "/livez").status == 200  # a turn, by this clock
        assert silent.rest() == b""
        assert slow.rest() == b""


def test_each_has_its_bytes(port: int) -> None:
    """Also one that goes on after its answer."""
    with Client(port) as client:
        client.send(b"GET /livez HTTP/1.1\r\nHost: a\r\n\r\n")
        assert client.read().status == 200

        def is_cut() -> bool:
            try:
                client.send(b"x" * CLIENT_BYTES)
            except ConnectionError:
                return True
            return False

        wait_for(is_cut)
    assert get(port, "/livez").status == 200


def test_a_bug_costs_one_client(port: int, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setattr(logger, "propagate", True)

    def fail(codec: Codec) -> None:
        raise ZeroDivisionError

    with monkeypatch.context() as patch:
        patch.setattr(Codec, "next_request", fail)
        assert raw(port, b"GET /livez HTTP/1.1\r\nHost: a\r\n\r\n") == b""
    assert "ZeroDivisionError" in caplog.text
    assert get(port, "/livez").status == 200


def test_what_is_not_a_client_any_more_is_forgotten(port: int) -> None:
    for _ in range(3 * MAX_CLIENTS):
        with Client(port) as client:
            client.send(b"GET /livez HTTP/1.1\r\nHost: a\r\n\r\n")
    assert get(port, "/livez").status == 200


def test_it_ends_with_clients_there(clock: Clock) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        with Probes([listener], Pulse()) as probe:
            clients = [Client(listener.getsockname()[1]) for _ in range(3)]
            assert get(listener.getsockname()[1], "/readyz").body == b"starting\n"
        assert not probe._thread.is_alive()
        for client in clients:
            assert client.rest() == b""
            client.close()


@pytest.mark.parametrize("company", [False, True])
def test_of_two_parents_the_one_that_ends_says_nothing(clock: Clock, company: bool) -> None:
    """Else somebody could hear that it drains, though the other one serves."""
    pulse = Pulse()
    with Probes([], pulse, lambda: company) as probe:
        probe.look(SimpleNamespace(condition=READY, was_up=True))  # type: ignore[arg-type]
        assert pulse.ready == "ok"
        probe.look(SimpleNamespace(condition=DRAINING, was_up=True))  # type: ignore[arg-type]
        assert not company or not probe._thread.is_alive()
        assert pulse.ready == ("ok" if company else DRAINING)


def test_the_new_one_of_two_knows_that_it_serves_before_it_speaks(clock: Clock) -> None:
    pulse = Pulse()
    with Probes([], pulse, lambda: True) as probe:
        probe.look(SimpleNamespace(condition="starting", was_up=False))  # type: ignore[arg-type]
        assert probe._thread.ident is None
        probe._thread = threading.Thread(target=lambda: heard.append(pulse.ready))
        heard: list[str] = []
        probe.look(SimpleNamespace(condition=READY, was_up=True))  # type: ignore[arg-type]
        probe._thread.join()
        assert heard == ["ok"]


# --- metrics ----------------------------------------------------------------------------------------


class Long:
    """Metrics that no socket has room for."""

    content_type = "text/plain; version=0.0.4"
    text = b"# a comment\n" * 500_000

    def render(self) -> bytes:
        return self.text


def serving(make_metrics: object, listener: socket.socket) -> Probes:
    pulse = Pulse()
    pulse.finds("ready")
    pulse.waits(None)
    return Probes([listener], pulse, make_metrics=make_metrics)  # type: ignore[arg-type]


def test_metrics_may_be_longer_than_the_buffer_of_a_socket() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener, serving(Long, listener):
        port = listener.getsockname()[1]
        with Client(port) as slow, Client(port) as fast:
            slow.send(b"GET /metrics HTTP/1.1\r\nHost: a\r\n\r\n")
            assert fast.get("/metrics").body == Long.text, "one that does not read keeps no other out"
            assert slow.read().body == Long.text
            assert slow.rest() == b""
        with Client(port) as client:
            client.send(b"HEAD /metrics HTTP/1.1\r\nHost: a\r\n\r\n")
            response = client.read("HEAD")
            assert (response.status, response.headers["Content-Length"]) == (200, str(len(Long.text)))
        with Client(port) as gone:
            gone.send(b"GET /metrics HTTP/1.1\r\nHost: a\r\n\r\n")
        assert get(port, "/livez").status == 200


def test_without_the_extra_metrics_say_what_to_install() -> None:
    def missing() -> object:
        raise MissingExtra("/metrics needs prometheus_client; pip install 'zibai-server[metrics]'")

    for make, text in (
        (missing, b"pip install 'zibai-server[metrics]'\n"),
        (None, b"no scoreboard, and so no metrics\n"),
    ):
        with socket.create_server(("127.0.0.1", 0)) as listener, serving(make, listener):
            response = get(listener.getsockname()[1], "/metrics")
            assert response.status == 404
            assert response.body.endswith(text)
            assert response.body.count(b"\n") == 1


def test_metrics_that_fail_cost_one_client(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setattr(logger, "propagate", True)

    def fail() -> object:
        raise ZeroDivisionError

    with socket.create_server(("127.0.0.1", 0)) as listener, serving(fail, listener):
        port = listener.getsockname()[1]
        assert raw(port, b"GET /metrics HTTP/1.1\r\nHost: a\r\n\r\n") == b""
        assert get(port, "/readyz").status == 200
    assert "ZeroDivisionError" in caplog.text
