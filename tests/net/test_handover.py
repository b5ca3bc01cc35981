"""Connections that are handed over in a chain, when a process in the middle of it ends before it serves them."""

from __future__ import annotations

import socket
import sys
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest

from zibai.net.handover import Adoption, give, pass_on, take
from zibai.net.listener import Socket
from zibai.net.poller import make_poller

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="Windows cannot send descriptors")


class Ends:
    """Pairs of sockets, all of which are closed in the end."""

    def __init__(self, stack: ExitStack) -> None:
        self._stack = stack

    def channel(self) -> tuple[Socket, Socket]:
        """The giving and the taking end."""
        giving, taking = (Socket(fileno=sock.detach()) for sock in socket.socketpair())
        self._stack.callback(giving.close)
        self._stack.callback(taking.close)
        return giving, taking

    def client(self) -> tuple[socket.socket, socket.socket]:
        """A client and the server's side of its connection."""
        pair = socket.socketpair()
        for sock in pair:
            self._stack.enter_context(sock)
        return pair


@contextmanager
def sockets() -> Iterator[Ends]:
    with ExitStack() as stack:
        yield Ends(stack)


def hand_over(channel: Socket, connection: socket.socket, note: bytes = b"") -> int:
    """Give a connection as a worker does: what was given is closed here."""
    given = give(channel, [connection.fileno()], {connection.fileno(): note} if note else None)
    if given:
        connection.close()
    return given


def is_open(client: socket.socket) -> bool:
    client.setblocking(False)
    with suppress(BlockingIOError):
        return bool(client.recv(1))
    return True


@contextmanager
def adoption() -> Iterator[tuple[Adoption, list[tuple[Any, bytes]]]]:
    poller = make_poller()
    adopted: list[tuple[Any, bytes]] = []
    adoption = Adoption(poller, {}, lambda sock, note: adopted.append((sock, note)))
    try:
        yield adoption, adopted
    finally:
        adoption.close()
        for sock, _ in adopted:
            sock.close()
        poller.close()


@pytest.mark.parametrize("watched", [False, True])
def test_who_takes_no_more_has_received_what_was_given_and_what_comes_later_stays_where_it_is(watched: bool) -> None:
    with sockets() as ends, adoption() as (taker, adopted):
        giving, taking = ends.channel()
        taker.add(taking)
        if watched:
            taker.watch()
        clients = []
        for note in (b"", b"a note", b""):
            client, connection = ends.client()
            clients.append(client)
            assert hand_over(giving, connection, note) == 1
        taker.end()
        assert [note for _, note in adopted] == [b"", b"a note", b""]
        late, connection = ends.client()
        assert hand_over(giving, connection) == 0
        taker.close()
        assert all(is_open(client) for client in (*clients, late))


def test_the_end_of_adopting_is_no_error_where_the_giver_has_gone() -> None:
    with sockets() as ends, adoption() as (taker, adopted):
        giving, taking = ends.channel()
        taker.add(taking)
        _, connection = ends.client()
        hand_over(giving, connection)
        giving.close()
        taker.end()
        taker.end()
        assert len(adopted) == 1


def test_a_process_that_will_not_serve_passes_on_what_it_was_given() -> None:
    with sockets() as ends:
        giving, taking = ends.channel()
        onwards, replacement = ends.channel()
        clients = []
        for note in (b"", b"the client's address"):
            client, connection = ends.client()
            clients.append(client)
            hand_over(giving, connection, note)
        pass_on(taking, onwards)
        late, connection = ends.client()
        assert hand_over(giving, connection) == 0
        arrived = [sock for batch in iter(partial(take, replacement), []) for sock in batch or ()]
        assert [note for _, note in arrived] == [b"", b"the client's address"]
        for client, (sock, _) in zip(clients, arrived, strict=True):
            client.sendall(b"?")
            assert sock.recv(1) == b"?"
            sock.close()
        assert is_open(late)
