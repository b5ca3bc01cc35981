"""The pipe between parent and worker, signals as bytes, and connections that change hands."""

from __future__ import annotations

import os
import signal
import socket
import sys
import time
from contextlib import closing
from multiprocessing.connection import wait
from typing import Any

import pytest

from zibai.errors import LoadError
from zibai.handover import BATCH, give, take
from zibai.process import Child, Message, Parent, Signals
from zibai.sockets import Socket

from support import wait_for

posix = pytest.mark.skipif(sys.platform == "win32", reason="POSIX")


def worker(parent: Parent, how: str) -> None:
    """The main function of the workers of this file; spawned, so it is at the top of a module."""
    match how:
        case "obey":
            parent.ready()
            while True:
                verb, channel = parent.receive()
                if channel is not None:
                    channel.close()
                elif verb == "gone":
                    os._exit(7)
                else:
                    sys.exit({"drain": 0, "quit": 5}[verb])
        case "fail":
            parent.failed(LoadError("it cannot be", "Traceback\n"))
            sys.exit(3)
        case "die":
            os.kill(os.getpid(), signal.SIGKILL if sys.platform != "win32" else signal.SIGTERM)
        case "mask":
            with Signals(["SIGTERM"]) as signals:
                parent.ready()
                wait([signals.socket], 20)
                sys.exit(0 if signals.read() == ["SIGTERM"] else 1)


def started(how: str) -> Child:
    child = Child(worker, (how,))
    child.start()
    return child


def messages(child: Child) -> list[Message]:
    """What it says until it says nothing more."""
    assert wait([child.pipe], 20)
    return list(child.receive())


def ended(child: Child) -> str:
    assert wait([child.sentinel], 20)
    try:
        return child.ending().reason
    finally:
        child.close()


def test_ready_then_each_way_to_end() -> None:
    for verb, code in (("drain", 0), ("quit", 5)):
        child = started("obey")
        assert messages(child) == [Message("ready")]
        getattr(child, verb)()
        assert ended(child) == f"ended with exit code {code}"


def test_a_worker_says_why_it_cannot_serve() -> None:
    child = started("fail")
    assert messages(child) == [Message("failed", "it cannot be", "Traceback\n")]
    assert ended(child) == "ended with exit code 3"


@posix
def test_how_a_worker_died_is_said_in_words() -> None:
    child = started("die")
    assert ended(child) == "was killed by SIGKILL"


def test_telling_one_that_is_gone_is_no_error() -> None:
    child = started("fail")
    assert wait([child.sentinel], 20)
    list(child.receive())
    child.drain()
    child.quit()
    assert not child.speaks
    assert ended(child) == "ended with exit code 3"


@posix
def test_a_worker_learns_that_its_parent_is_gone() -> None:
    child = started("obey")
    assert messages(child) == [Message("ready")]
    child.pipe.close()
    assert wait([child.sentinel], 20)
    assert child.ending().reason == "ended with exit code 7"


@posix
def test_two_workers_get_the_ends_of_a_channel() -> None:
    old, heir = started("obey"), started("obey")
    assert messages(old) == messages(heir) == [Message("ready")]
    # They close them; what is looked at here is that the pipe carries verbs again after it has carried a descriptor.
    old.drain(heir)
    old.quit()
    heir.drain()
    assert ended(old) == "ended with exit code 5"
    assert ended(heir) == "ended with exit code 0"


@posix
def test_a_signal_that_comes_while_a_worker_is_spawned_does_not_kill_it() -> None:
    """It inherits a mask that holds the signal back until its handlers are there."""
    child = Child(worker, ("mask",))
    child.start()
    os.kill(child.pid, signal.SIGTERM)
    assert ended(child) == "ended with exit code 0"


@posix
def test_signals_are_bytes_and_the_handlers_of_before_come_back() -> None:
    heard: list[int] = []
    old = signal.signal(signal.SIGUSR1, lambda number, _: heard.append(number))
    try:
        with Signals(["SIGUSR1", "SIGBREAK", "SIGNOTHING"]) as signals:
            assert signals.read() == []
            os.kill(os.getpid(), signal.SIGUSR1)
            assert wait([signals.socket], 20)
            assert signals.read() == ["SIGUSR1"]
            signals.wake()
            assert wait([signals.socket], 20)
            assert signals.read() == []
        assert heard == []
        os.kill(os.getpid(), signal.SIGUSR1)
        wait_for(lambda: heard == [signal.SIGUSR1])
    finally:
        signal.signal(signal.SIGUSR1, old)


@posix
def test_interrupting_signals_raise_in_the_main_thread_as_well() -> None:
    with Signals(["SIGINT"], interrupting=True) as signals:
        with pytest.raises(KeyboardInterrupt):  # noqa: PT012 -- it comes when it comes
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(20)  # app: the main thread waits for something
        assert signals.read() == ["SIGINT"]


# --- connections that change hands ------------------------------------------------------------------


def pair() -> tuple[Any, Any]:
    return tuple(Socket(fileno=end.detach()) for end in socket.socketpair())  # type: ignore[return-value]


@posix
@pytest.mark.parametrize("count", [1, BATCH, 2 * BATCH + 7])
def test_connections_go_through_a_channel_with_what_is_unread(count: int) -> None:
    giving, taking = pair()
    clients = []
    with closing(giving), closing(taking):
        served = []
        for number in range(count):
            client, server = socket.socketpair()
            client.sendall(b"%d" % number)
            clients.append(client)
            served.append(server)
        assert give(giving, [server.fileno() for server in served]) == count
        for server in served:
            server.close()
        taken: list[Any] = []
        while sockets := take(taking):
            taken += sockets
        assert [sock.recv(10) for sock in taken] == [b"%d" % number for number in range(count)]
        assert not any(sock.getblocking() for sock in taken)
        for sock in [*taken, *clients]:
            sock.close()


@posix
def test_a_full_channel_and_a_closed_one_give_nothing_away() -> None:
    giving, taking = pair()
    giving.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1)  # as small as the system allows
    one, other = socket.socketpair()
    with one, other:
        fds = [one.fileno()] * BATCH
        total = 0
        while given := give(giving, fds):
            total += given
        taken: list[Any] = []
        while sockets := take(taking):
            taken += sockets
        assert len(taken) == total > 0
        for sock in taken:
            sock.close()
        taking.close()
        assert give(giving, fds) == 0
    giving.close()


@posix
def test_a_channel_tells_empty_from_ended() -> None:
    giving, taking = pair()
    assert take(taking) == []
    giving.close()
    assert take(taking) is None
    taking.close()
