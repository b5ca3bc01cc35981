"""What a new worker is given while it starts, and what is left of it when it dies before it takes it."""

from __future__ import annotations

import os
import socket
import threading
from multiprocessing import connection
from typing import TYPE_CHECKING, Any

import pytest

from zibai.net.bind import create_bind_socket, listen
from zibai.net.listener import Listener
from zibai.supervise.child import Child
from zibai.supervise.output import Outlet
from zibai.supervise.pipe import Message, Parent
from zibai.supervise.sharing import Parcel

from support import DEADLINE

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def sock() -> Iterator[socket.socket]:
    with create_bind_socket("127.0.0.1:0") as sock:
        listen(sock, 10)
        yield sock


def take(parent: Parent, shared: dict[str, Any]) -> None:
    """A worker that accepts one connection, and says so."""
    listener = Listener(shared["sockets"][0])
    parent.ready()
    while True:
        try:
            client, _ = listener.accept()
        except BlockingIOError:
            continue
        client.sendall(b"here")
        client.close()
        parent.receive()
        return


def wait(parent: Parent, *args: object) -> None:
    parent.receive()


def accepts_nothing(listener: Listener) -> bool:
    """Whether accept() returns at once although nobody connects."""
    found: list[type[BaseException]] = []

    def accept() -> None:
        try:
            listener.accept()
        except OSError as error:
            found.append(type(error))

    thread = threading.Thread(target=accept, daemon=True)
    thread.start()
    thread.join(5)
    return found == [BlockingIOError]


def test_the_start_of_a_worker_does_not_block_those_that_share_its_listener(sock: socket.socket) -> None:
    """One flag of the socket is everybody's: an accept() that blocks takes a whole server loop out of service."""
    listener = Listener(sock)
    assert accepts_nothing(listener)
    child = Child(take, ({"sockets": [sock]},))
    child.start()
    try:
        assert accepts_nothing(listener), "while the worker boots"
        assert child.pipe.poll(DEADLINE)
        assert list(child.receive()) == [Message("ready")]
        assert accepts_nothing(listener), "once it has the listener"
        with socket.create_connection(sock.getsockname(), DEADLINE) as client:
            assert client.recv(10) == b"here"
    finally:
        child.kill()
        child.ending()
        child.close()
    assert accepts_nothing(listener), "after its end"
    listener.close()


def test_a_worker_that_dies_before_it_runs_leaves_no_listener_open() -> None:
    """Clients would go on to be accepted, by nobody."""
    sock = create_bind_socket("127.0.0.1:0")
    listen(sock, 10)
    address = sock.getsockname()
    child = Child(wait, (sock,))
    child.start()
    child.kill()
    child.ending()
    sock.close()
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(address, DEADLINE)
    child.close()


def test_a_worker_that_dies_before_it_runs_leaves_no_pipe_open() -> None:
    reader, writer = os.pipe()
    child = Child(wait, (), outlet=Outlet(writer))
    child.start()
    child.kill()
    child.ending()
    assert connection.wait([child.pipe], DEADLINE), "the end of its pipe"
    assert list(child.receive()) == []
    assert not child.speaks
    ended = threading.Thread(target=lambda: os.read(reader, 1), daemon=True)
    ended.start()
    ended.join(5)
    assert not ended.is_alive(), "what it would have printed has come to its end"
    os.close(reader)
    child.close()


def test_a_parcel_is_its_function(sock: socket.socket) -> None:
    taken: list[Any] = []
    Parcel(lambda *args: taken.append(args), (1, sock))()
    assert taken == [(1, sock)]


def test_workers_that_start_together_get_what_is_theirs(sock: socket.socket) -> None:
    children = [Child(take, ({"sockets": [sock]},)) for _ in range(3)]
    for child in children:
        child.start()
    for child in children:
        assert child.pipe.poll(DEADLINE)
        assert list(child.receive()) == [Message("ready")]
    for _ in children:
        with socket.create_connection(sock.getsockname(), DEADLINE) as client:
            assert client.recv(10) == b"here"
    for child in children:
        child.drain()
        assert child.ending().clean
        child.close()
