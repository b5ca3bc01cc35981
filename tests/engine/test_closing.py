"""How connections end: in stages, for clients that send more than they should, and beside forked children."""

from __future__ import annotations

import errno
import os
import signal
import socket
import ssl
from typing import TYPE_CHECKING, Any

import pytest

from rig import ANSWER, GET, Rig, ended
from serving import serving
from support import DEADLINE, Client, Gate, Server, alive, wait_for

if TYPE_CHECKING:
    from collections.abc import Callable

    from zibai.engine.stream import Stream

    from credentials import Credentials

# --- one line end too many (W5) -------------------------------------------------------------------

REQUESTS = {
    "post": b"POST /sized?%d HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok",
    "get": b"GET /sized?%d HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n",
    "http10": b"GET /sized?%d HTTP/1.0\r\n\r\n",
    "unsized": b"GET /unsized?%d HTTP/1.0\r\n\r\n",
    "chunked": b"GET /unsized?%d HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n",
}
TOO_MUCH = {"line end": b"\r\n", "request": b"GET /next HTTP/1.1\r\nHost: a\r\n\r\n", "kilobytes": b"x" * 100_000}


def sized(environ: dict[str, Any], start_response: Callable[..., Any]) -> list[bytes]:
    size = int(environ["QUERY_STRING"])
    length = [("Content-Length", str(size))] if environ["PATH_INFO"] == "/sized" else []
    start_response("200 OK", [("Content-Type", "text/plain"), *length])
    return [b"y" * size] if length else [b"y" * (size - 1), b"y"]


@pytest.mark.parametrize("tls", [False, True], ids=["plain", "tls"])
@pytest.mark.parametrize("size", [5, 300_000, 3_000_000])
def test_a_client_that_sends_too_much_gets_all_of_its_response(tls: bool, size: int, credentials: Credentials) -> None:
    options = {"certfile": credentials.server} if tls else {}
    context = credentials.context() if tls else None
    if context is not None:
        context.options |= getattr(ssl, "OP_IGNORE_UNEXPECTED_EOF", 0)
    with serving(sized, valid=False, **options) as server:
        for request in REQUESTS.values():
            for more in TOO_MUCH.values():
                with Client(server.port, tls=context) as client:
                    client.send(request % size)
                    head = b""
                    while b"\r\n\r\n" not in head:
                        head += client.socket.recv(1)
                    try:
                        client.send(more)  # the response is under way; a small one has arrived
                    except OSError:
                        assert len(more) > 1000
                        continue  # nobody reads what is sent without end
                    assert client.rest().count(b"y") == size
    assert [(name, status) for name, status in server.exchanges if status != 200] == []


def test_what_comes_while_the_response_is_made_does_not_cost_it(backend: tuple[str, ...]) -> None:
    with Server("plain:app", *backend) as server, Gate() as gate:
        for end in (b"HTTP/1.0\r\n", b"HTTP/1.1\r\nHost: a\r\nConnection: close\r\n"):
            for more in TOO_MUCH.values():
                with Client(server.port) as client:
                    client.send(b"GET /gated?%d %b\r\n" % (gate.port, end))
                    running = gate.arrival()
                    client.send(more)
                    running.close()
                    assert client.rest().startswith(b"HTTP/1.1 200 OK")


def last(stream: Stream, data: bytes = ANSWER) -> None:
    """The application of a rig: its response says close."""
    stream.sender.closing = True
    stream.send(data)
    stream.sent = len(data)


def test_a_small_response_is_closed_in_stages(monkeypatch: pytest.MonkeyPatch) -> None:
    with Rig(monkeypatch, app=last) as rig:
        client, connection = rig.connect()
        client.send(b"GET / HTTP/1.0\r\n\r\n")
        rig.until(rig.run)
        rig.turn()
        assert ended(client).endswith(b"ok")  # the end is seen at once
        assert rig.connections == []
        client.send(b"\r\n")
        client.send(b"\r\n")  # it would fail after a reset
        sock = connection.sock
        assert sock.fileno() >= 0
        assert rig.loop.timeout() is not None
        rig.turn(2.2)
        assert sock.fileno() < 0
        assert rig.loop._table.parting.due == float("inf")


def test_those_that_part_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    with Rig(monkeypatch, app=last) as rig:
        rig.loop._table.parting._most = 3
        socks = []
        for _ in range(5):
            client, connection = rig.connect()
            socks.append(connection.sock)
            client.send(b"GET / HTTP/1.0\r\n\r\n")
            rig.until(rig.run)
            rig.turn()
        assert [sock.fileno() >= 0 for sock in socks] == [False, False, True, True, True]


@pytest.mark.skipif(not hasattr(socket, "MSG_DONTWAIT"), reason="only Linux tells what was not taken")
def test_a_slow_reader_of_a_large_last_response_gets_the_time_that_it_needs(monkeypatch: pytest.MonkeyPatch) -> None:
    body = b"y" * 2_000_000
    head = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body)
    with Rig(monkeypatch, app=lambda stream: last(stream, head + body)) as rig:
        client, connection = rig.connect()
        client.send(GET.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"))
        rig.until(rig.run)
        got = 0
        for _ in range(6):
            rig.until(lambda: connection.state == "linger" or client.recv(100_000, socket.MSG_PEEK))
            if connection.state == "linger":
                rig.turn(2.1)
            got += len(client.recv(200_000))
            client.send(b"\r\n")
            rig.turn()
        while piece := client.recv(100_000):
            got += len(piece)
            rig.turn()
        assert got == len(head + body)


# --- forked children (W3) -------------------------------------------------------------------------

forks = pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork")


def is_closed(port: int) -> bool:
    """Whether nobody listens. To bind the port would tell less: the system may have given it to a client of another
    program, which keeps it for as long as it likes."""
    with socket.socket() as sock:
        return sock.connect_ex(("127.0.0.1", port)) == errno.ECONNREFUSED


@pytest.mark.daily("threads")
@forks
def test_a_forked_child_keeps_no_client_and_no_port(backend: tuple[str, ...]) -> None:
    with Gate() as children, Gate() as gate:
        with Server("forking:app", *backend) as server:
            with Client(server.port) as other, Client(server.port) as idle, Client(server.port) as client:
                assert idle.get("/").status == 200
                other.send(b"GET /wait?%d HTTP/1.0\r\n\r\n" % gate.port)
                running = gate.arrival()
                client.send(f"GET /fork?{children.port} HTTP/1.0\r\n\r\n".encode())
                children.arrival()  # the child lives, and goes on
                assert b"by " in client.rest()
                running.close()
                assert b"by " in other.rest()  # its request was under way when the child was forked
                with Client(server.port) as last:
                    last.send(f"GET /cut?{children.port} HTTP/1.0\r\n\r\n".encode())
                    children.arrival()
                    with pytest.raises(ConnectionResetError):
                        last.rest()
                os.kill(server.pid, signal.SIGTERM)
                assert server.wait() == 0
                assert idle.rest() == b""
        wait_for(lambda: is_closed(server.port))


@pytest.mark.daily("greenlets")
@forks
def test_nor_does_a_child_that_is_forked_at_import(backend: tuple[str, ...]) -> None:
    with Gate() as children:
        env = {"FORK_AT_IMPORT": str(children.port)}
        with Server("forking:app", *backend, env=env) as server:
            children.arrival()
            with Client(server.port) as client:
                assert client.get("/").status == 200
            os.kill(server.pid, signal.SIGTERM)
            assert server.wait() == 0
        wait_for(lambda: is_closed(server.port))


@pytest.mark.daily("threads-worker", "greenlets-preload")
@forks
@pytest.mark.parametrize("flags", [("-p", "1"), ("-p", "1", "--preload")], ids=["worker", "preload"])
def test_a_forked_child_of_a_worker_keeps_no_client(backend: tuple[str, ...], flags: tuple[str, ...]) -> None:
    with Server("forking:app", *flags, *backend) as server, Gate() as children:
        for path in ("fork",) if not backend else ("fork", "process"):  # a Process under gevent forks a hub, too
            with Client(server.port) as client:
                client.send(f"GET /{path}?{children.port} HTTP/1.0\r\n\r\n".encode())
                children.arrival()
                assert b"by " in client.rest()


@forks
@pytest.mark.parametrize("path", ["/returns", "/exits"])
def test_a_child_that_returns_to_the_server_answers_nobody(backend: tuple[str, ...], path: str) -> None:
    with Server("forking:app", *backend) as server:
        with Client(server.port) as client:
            for _ in range(3):
                assert client.get(path).body == f"by {server.pid}".encode()
            assert client.get("/").body == f"by {server.pid}".encode()
            for _ in range(5):
                with Client(server.port) as other:
                    assert other.get("/").body == f"by {server.pid}".encode()
        wait_for(lambda: not any(map(alive, server.children())))  # they end by themselves


@forks
@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
@pytest.mark.parametrize("when", ["first", "later"])
@pytest.mark.parametrize("path", ["/returns", "/exits", "/awaits", "/task"])
@pytest.mark.daily("later-asyncio")
def test_a_child_of_a_task_that_returns_to_the_server_ends(path: str, when: str, loop: str) -> None:
    """It has the event loop: it took the wake-ups that the parent waited for, and went on with what others were at."""
    pytest.importorskip(loop)
    with Gate() as gate, Server("forking_asgi:asgi", "--loop", loop) as server:
        with Client(server.port) as other, Client(server.port) as client:
            other.send(f"GET /wait?{gate.port} HTTP/1.1\r\nHost: a\r\n\r\n".encode())
            running = gate.arrival()
            for _ in range(3):
                assert client.get(f"{path}?{when}").body == f"by {server.pid}".encode()
            wait_for(lambda: not any(map(alive, server.children())))
            running.close()
            assert other.read().body == f"by {server.pid}".encode()
            for _ in range(20):
                assert client.get("/thread").body == f"by {server.pid}".encode()
        assert not [line for line in server.log if "outside a request" in line]


@forks
@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
@pytest.mark.parametrize("path", ["/pool", "/pool-exits", "/pool-raises"])
@pytest.mark.daily("/pool-exits-asyncio", "/pool-uvloop")
def test_a_child_of_a_thread_of_the_event_loop_ends(path: str, loop: str) -> None:
    """In it, the thread of the pool waited for ever for something to do."""
    pytest.importorskip(loop)
    with Server("forking_asgi:asgi", "--loop", loop) as server, Client(server.port) as client:
        for _ in range(3):
            assert client.get(path).body == f"by {server.pid}".encode()
        wait_for(lambda: not any(map(alive, server.children())))
        assert client.get("/thread").body == f"by {server.pid}".encode()


# --- idle TLS connections at a restart (R11) ------------------------------------------------------


@pytest.mark.daily("threads")
@pytest.mark.skipif(not hasattr(signal, "SIGHUP"), reason="there is no SIGHUP")
def test_an_idle_tls_connection_outlives_a_restart_until_its_next_request(
    backend: tuple[str, ...], credentials: Credentials
) -> None:
    with Server("forking:app", "-p", "1", "--certfile", credentials.server, *backend) as server:
        context = credentials.context()
        with Client(server.port, tls=context) as client:
            first = client.get("/").body
            server.signal(signal.SIGHUP)

            def is_replaced() -> bool:
                with Client(server.port, tls=context) as other:
                    return other.get("/").body != first

            wait_for(is_replaced)
            client.socket.settimeout(2)
            with pytest.raises(TimeoutError):  # longer than the moment that an idle connection has at the end
                client.socket.recv(1)
            client.socket.settimeout(DEADLINE)
            client.send(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
            answer = b""
            while piece := client.socket.recv(10_000):
                answer += piece
            assert first.removeprefix(b"by ") in answer
            assert b"Connection: close" in answer


def test_at_the_end_an_idle_connection_gets_a_moment_and_at_a_restart_the_graceful_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for is_restart, times in ((False, 1), (True, 9)):
        with Rig(monkeypatch) as rig:
            _, connection = rig.connect()
            connection.endpoint = connection.endpoint._replace(plain=False)  # as over TLS
            near, far = socket.socketpair()
            with near, far:
                if is_restart:
                    rig.loop.hand_over_to(near)  # type: ignore[arg-type]
                rig.loop.drain(10)
                rig.turn()
                rig.turn(times - 0.2)
                assert rig.connections == [connection]
                rig.turn(0.4)
                assert rig.connections == []
