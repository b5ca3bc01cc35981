"""Clients that are slow, deaf or gone: what of a response they cost, and what becomes of the others.

The responses are those of `apps/downloads.py`. `test_loop` and `test_connection` have the same in small.
"""

from __future__ import annotations

import json
import re
import signal
import socket
import struct
import sys
import threading
import time
from contextlib import ExitStack, contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from support import DEADLINE, GRACEFUL, Client, Server, get, read_response, wait_for

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable, Iterator

    from credentials import Credentials

SIZE = 12 * 1024 * 1024
CONTENT = bytes(range(256)) * (SIZE // 256)
SLOTS = 10
RESET = struct.pack("hh" if sys.platform == "win32" else "ii", 1, 0)
linux = pytest.mark.skipif(sys.platform != "linux", reason="what a process uses is read from /proc")
both = pytest.mark.parametrize("secured", [False, True], ids=["plain", "tls"])

# Ways to give a response that no runner has to wait for.
OURS = ["/file", "/list", "/pieces", "/one", "/length", "/write"]
HAS_FLASK = find_spec("flask") is not None
WAYS = [*OURS, "/flask"] if HAS_FLASK else OURS
FLASK = pytest.param("/flask", marks=pytest.mark.skipif(not HAS_FLASK, reason="needs Flask"))


class Serving:
    """A server of `apps/downloads.py`, and its clients."""

    def __init__(self, stack: ExitStack, credentials: Credentials | None, flags: tuple[str, ...], size: int) -> None:
        self.tls: ssl.SSLContext | None = None
        if credentials is not None:
            self.tls = credentials.context()
            flags += ("--certfile", credentials.server)
        self.server = stack.enter_context(Server("downloads:app", *flags, env={"SIZE": str(size)}))
        self._stack = stack

    def get(self, target: str = "/") -> bytes:
        return get(self.server.port, target, tls=self.tls).body

    def log(self) -> list[list[Any]]:
        found: list[list[Any]] = json.loads(self.get("/log"))
        return found

    def ask(self, target: str, method: str = "GET", receive_buffer: int = 0) -> socket.socket:
        """A client that has asked."""
        sock = socket.socket()
        self._stack.callback(sock.close)
        sock.settimeout(DEADLINE)
        if receive_buffer:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        sock.connect(("127.0.0.1", self.server.port))
        if self.tls is not None:
            sock = self.tls.wrap_socket(sock, server_hostname="localhost", suppress_ragged_eofs=False)
            self._stack.callback(sock.close)
        sock.sendall(f"{method} {target} HTTP/1.1\r\nHost: a\r\n\r\n".encode())
        return sock


@contextmanager
def serving(*flags: str, credentials: Credentials | None = None, size: int = SIZE) -> Iterator[Serving]:
    with ExitStack() as stack:
        yield Serving(stack, credentials, flags, size)


def refuses(port: int) -> bool:
    """Whether nobody listens any more."""
    try:
        socket.create_connection(("127.0.0.1", port)).close()
    except OSError:
        return True
    return False


def read_to_the_cut(sock: socket.socket, pause: float = 0) -> None:
    """Read all that comes; it has to end by an error."""
    with pytest.raises(OSError):  # noqa: PT011, PT012 -- a reset, in one of its forms
        while sock.recv(4096 if pause else 1 << 20):
            time.sleep(pause)


def leave(sock: socket.socket) -> None:
    """Leave with a reset."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
    sock.close()


# --- what needs no runner ---------------------------------------------------------------------------


@pytest.mark.daily("threads-plain")
@both
def test_a_response_that_is_there_holds_no_runner(
    backend: tuple[str, ...], secured: bool, credentials: Credentials
) -> None:
    with serving("-w", str(SLOTS), *backend, credentials=credentials if secured else None) as here:
        for way in WAYS:
            clients = [here.ask(way) for _ in range(SLOTS)]
            assert all(client.recv(1) == b"H" for client in clients)
            assert here.get() == b"hello", way  # which nobody would answer while they wait
            with clients[0].makefile("rb") as file:
                assert file.read(len("TTP/1.1 200 OK\r\n")) == b"TTP/1.1 200 OK\r\n"
            for client in clients[1:]:
                leave(client)
        assert here.get("/file") == CONTENT


@pytest.mark.daily("plain-/file", "tls-/file", "plain-/pieces", "tls-/length")
@pytest.mark.parametrize("way", [*OURS, FLASK])
@both
def test_a_slow_client_gets_all_of_it(way: str, secured: bool, credentials: Credentials) -> None:
    """And the connection is kept."""
    with serving("-w", "2", "--no-gevent", credentials=credentials if secured else None, size=3_000_064) as here:
        content = bytes(range(256)) * (3_000_064 // 256)
        client = here.ask(way, receive_buffer=16 * 1024)
        assert here.get() == b"hello"
        with client.makefile("rb") as file:
            for _ in range(2):
                assert read_response(file).body == content
                client.sendall(b"GET " + way.encode() + b" HTTP/1.1\r\nHost: a\r\n\r\n")
            assert read_response(file).body == content


@pytest.mark.daily("greenlets-tls")
@both
def test_heads_of_an_endless_stream_hold_no_runner(
    backend: tuple[str, ...], secured: bool, credentials: Credentials
) -> None:
    with serving("-w", "2", *backend, credentials=credentials if secured else None, size=256) as here:
        for target in ("/endless", "/silent", "/half"):
            for _ in range(3):
                client = here.ask(target, "HEAD")
                assert client.recv(15) == b"HTTP/1.1 200 OK"
        assert here.get() == b"hello"
        closed = [
            [name, steps] for name, steps in here.log() if name in ("/endless", "/silent", "/half") and steps >= 0
        ]
        assert closed == [[name, 0] for name in ("/endless", "/silent", "/half") for _ in range(3)]


@pytest.mark.daily("threads")
def test_behind_the_last_promised_byte_there_is_one_step(backend: tuple[str, ...]) -> None:
    with serving("-w", "1", *backend, size=256) as here, Client(here.server.port) as client:
        for _ in range(2):
            assert client.get("/half").body == b"hello"
        assert [each for each in here.log() if each[0] == "/half"] == [["/half", 2]] * 2
        here.server.wait_for_log("more than Content-Length is given")


@pytest.mark.daily("threads")
@linux
def test_waiting_responses_use_no_cpu(backend: tuple[str, ...]) -> None:
    def cpu() -> float:
        tasks = Path(f"/proc/{here.server.pid}/task").iterdir()
        return sum(int((task / "schedstat").read_text().split()[0]) for task in tasks) / 1e6

    with serving("-w", "2", *backend) as here:
        clients = [here.ask(way) for way in WAYS for _ in range(2)]
        assert all(client.recv(1) == b"H" for client in clients)
        assert here.get() == b"hello"
        seen = [-1.0] * 50  # for half a second: a server that waits for a processor seems to rest
        wait_for(lambda: (seen.append(cpu()), max(seen[-50:]) - min(seen[-50:]) < 1)[1])
        before = cpu()
        threading.Event().wait(2)  # the window that is measured, not a fact that is waited for
        assert cpu() - before < 20


# --- the end ----------------------------------------------------------------------------------------


@pytest.mark.daily("threads-0-plain", "greenlets-2-tls")
@both
@pytest.mark.parametrize("processes", ["0", "2"])
def test_a_graceful_exit_finishes_what_clients_take(
    backend: tuple[str, ...], processes: str, secured: bool, credentials: Credentials
) -> None:
    flags = ("-p", processes, "-w", "2", "--graceful-exit-timeout", "15", *backend)
    with serving(*flags, credentials=credentials if secured else None) as here:
        clients = [here.ask(way) for way in ("/file", "/list", "/length")]
        assert all(client.recv(1, socket.MSG_PEEK if not secured else 0) == b"H" for client in clients)
        here.server.signal(GRACEFUL)
        wait_for(lambda: refuses(here.server.port))
        for client in clients:
            with client.makefile("rb") as file:
                if secured:
                    file.readline()
                    while file.readline() != b"\r\n":
                        pass
                    body = file.read(SIZE)
                else:
                    body = read_response(file).body
                assert body == CONTENT
        assert here.server.wait() == 0
    lines = [line for line in here.server.log if re.search(rf'"GET /\w+ HTTP/1.1" 200 {SIZE} ', line)]
    assert len(lines) == 3, here.server.log


@pytest.mark.daily("threads-plain", "greenlets-tls")
@both
def test_a_graceful_exit_cuts_what_clients_do_not_take(
    backend: tuple[str, ...], secured: bool, credentials: Credentials
) -> None:
    flags = ("-w", "2", "--graceful-exit-timeout", "0.5", *backend)
    with serving(*flags, credentials=credentials if secured else None) as here:
        clients = [here.ask(way, receive_buffer=16 * 1024) for way in ("/file", "/list")]
        assert all(client.recv(1) == b"H" for client in clients)
        assert here.server.stop() == 0
        for client in clients:
            read_to_the_cut(client)
    sizes = [
        int(found[1]) for line in here.server.log if (found := re.search(r'/(?:file|list) HTTP/1.1" 200 (\d+)', line))
    ]
    assert len(sizes) == 2
    assert all(0 < size < SIZE for size in sizes), "what is logged is what was sent"


@pytest.mark.daily("greenlets")
def test_a_graceful_exit_shows_that_a_response_without_a_length_is_cut(backend: tuple[str, ...]) -> None:
    """In HTTP/1.0 its end is the end of the connection, which has to be a reset: the application has more to give."""
    with (
        serving("-w", "2", "--graceful-exit-timeout", "0.5", *backend) as here,
        socket.create_connection(("127.0.0.1", here.server.port), DEADLINE) as client,
    ):
        client.sendall(b"GET /more HTTP/1.0\r\n\r\n")
        assert client.recv(1) == b"H"
        here.server.signal(GRACEFUL)
        read_to_the_cut(client)


@pytest.mark.daily("threads")
def test_a_restart_finishes_what_clients_take(backend: tuple[str, ...]) -> None:
    if sys.platform == "win32":
        pytest.skip("no signal restarts there")
    with serving("-p", "1", "-w", "2", *backend) as here:
        clients = [here.ask(way) for way in ("/file", "/list")]
        assert all(client.recv(1, socket.MSG_PEEK) == b"H" for client in clients)
        [old] = here.server.children()
        here.server.signal(signal.SIGHUP)
        wait_for(lambda: any(pid != old for pid in here.server.children()))
        assert here.get() == b"hello"
        for client in clients:
            with client.makefile("rb") as file:
                assert read_response(file).body == CONTENT
            client.close()
        wait_for(lambda: old not in here.server.children())


# --- clients that have left -------------------------------------------------------------------------


@pytest.mark.daily("greenlets-reset-tls")
@both
@pytest.mark.parametrize("end", [leave, socket.socket.close], ids=["reset", "closed"])
def test_an_application_that_gives_nothing_hears_of_the_end(
    backend: tuple[str, ...], secured: bool, credentials: Credentials, end: Callable[[socket.socket], None]
) -> None:
    with serving("-w", "4", *backend, credentials=credentials if secured else None, size=256) as here:
        for target in ("/silent", "/mute"):  # one iterates, one calls write()
            clients = [here.ask(target) for _ in range(3)]
            wait_for(lambda target=target: here.log().count([target, -1]) == 3)
            for client in clients:
                end(client)
            wait_for(lambda target=target: [name for name, steps in here.log() if steps >= 0].count(target) == 3)


@pytest.mark.daily("threads-closed-plain")
@both
@pytest.mark.parametrize("end", [leave, socket.socket.close], ids=["reset", "closed"])
def test_an_application_can_ask_whether_its_client_is_there(
    backend: tuple[str, ...], secured: bool, credentials: Credentials, end: Callable[[socket.socket], None]
) -> None:
    with serving("-w", "2", *backend, credentials=credentials if secured else None, size=256) as here:
        client = here.ask("/ask")
        wait_for(lambda: ["/ask", False] in here.log())
        assert ["/ask", True] not in here.log()
        end(client)
        wait_for(lambda: ["/ask", True] in here.log())


@pytest.mark.daily("threads-new-plain-reset", "greenlets-kept-tls-closed")
@pytest.mark.parametrize("end", [leave, socket.socket.close], ids=["reset", "closed"])
@pytest.mark.parametrize("kind", ["new-plain", "kept-plain", "kept-tls"])
def test_a_request_whose_client_has_left_is_not_run(
    backend: tuple[str, ...], kind: str, credentials: Credentials, end: Callable[[socket.socket], None]
) -> None:
    """Whether its connection waits in the backlog or its request in the queue. (A handshake would wait, too.)"""
    secured = kind == "kept-tls"
    with serving("-w", "1", *backend, credentials=credentials if secured else None, size=256) as here:

        def begin(target: str) -> socket.socket:
            if kind == "new-plain":
                return here.ask(target)
            client = kept.pop()
            client.sendall(f"GET {target} HTTP/1.1\r\nHost: a\r\n\r\n".encode())
            return client

        kept = [here.ask("/") for _ in range(5)]
        for client in kept:
            with client.makefile("rb") as file:
                assert read_response(file).body == b"hello"
        first = begin("/wait/3")
        time.sleep(0.5)  # nothing tells from outside that it runs
        leaving = [begin("/gone") for _ in range(3)]
        staying = begin("/stays")
        if not secured:
            staying.shutdown(socket.SHUT_WR)  # a half-closed client gets its response
        time.sleep(0.5)  # nor that these wait
        for client in leaving:
            end(client)
        for client, body in ((first, b"waited"), (staying, b"hello")):
            with client.makefile("rb") as file:
                assert read_response(file).body == body
        ran = [name for name, _ in here.log()]
        assert "/gone" not in ran
        assert "/stays" in ran


@pytest.mark.daily("greenlets")
def test_a_half_closed_client_gets_what_comes_late(backend: tuple[str, ...]) -> None:
    with serving("-w", "1", *backend, size=256) as here:
        client = here.ask("/wait/1")
        client.shutdown(socket.SHUT_WR)
        with client.makefile("rb") as file:
            assert read_response(file).body == b"waited"


# --- the rate ---------------------------------------------------------------------------------------


@pytest.mark.daily("greenlets-/generator-tls")  # each takes more than ten seconds
@both
@pytest.mark.parametrize("way", ["/file", "/list", "/generator"])
def test_a_client_has_a_rate_to_keep(
    backend: tuple[str, ...], secured: bool, credentials: Credentials, way: str
) -> None:
    """What is taken in ten seconds and more is far less than what has to be."""
    flags = ("-w", "2", "--min-send-rate", "10000000", *backend)
    with serving(*flags, credentials=credentials if secured else None) as here:
        client = here.ask(way, receive_buffer=16 * 1024)
        began = time.monotonic()
        read_to_the_cut(client, 0.02)
        assert 9 < time.monotonic() - began < 2 * DEADLINE
