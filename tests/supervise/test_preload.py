"""Which loader a worker comes from, and what becomes of orders, with loaders that are no processes."""

from __future__ import annotations

import logging
import os
import signal
import socket
import subprocess
import sys
from contextlib import closing
from multiprocessing import Pipe
from multiprocessing.connection import Connection, wait
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

from zibai.config.options import Options
from zibai.errors import LoadError, UsageError
from zibai.logger import logger
from zibai.server import loader as loader_module
from zibai.server.loader import Forker, _begin_process
from zibai.server.orders import Orders
from zibai.supervise import preload
from zibai.supervise.child import Ending
from zibai.supervise.forked import Fork
from zibai.supervise.loader import Fact, Order
from zibai.supervise.messages import as_socket
from zibai.supervise.pipe import Message, Parent
from zibai.supervise.preload import Preload

if TYPE_CHECKING:
    from collections.abc import Iterator

posix = pytest.mark.skipif(sys.platform == "win32", reason="it forks")


def test_a_system_that_cannot_fork_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "fork", raising=False)
    Options("example:app").validate()
    with pytest.raises(UsageError, match=r"^--preload needs fork, which this system does not have; leave it out$"):
        Options("example:app", preload=True).validate()


# --- which loader -----------------------------------------------------------------------------------


class FakeLoader:
    """One that does what the test says."""

    made: list[FakeLoader] = []  # noqa: RUF012
    no_room = False

    def __init__(self, target: object, args: object, serial: int, outlet: object = None) -> None:
        self.serial = serial
        self.pid = self.known_pid = 1000 + serial
        self.forks: dict[int, Any] = {}
        self.speaks = True
        self.proven = self.leaving = self.end_noticed = self.closed = False
        self.orders: list[str] = []

    def start(self) -> None:
        if self.no_room:
            raise BlockingIOError(11, "Resource temporarily unavailable")
        self.made.append(self)

    def hear(self, timeout: float = 0.0) -> bool:
        return False

    def lives(self) -> bool:
        return self.speaks

    def order(self, order: Order) -> None:
        self.orders.append(order.verb)

    def leave(self) -> None:
        self.leaving = True

    def ending(self) -> Ending:
        return Ending("was killed by SIGKILL")

    def close(self) -> None:
        self.closed = True


class Forked(SimpleNamespace):
    def __init__(self, loader: FakeLoader, *_: object) -> None:
        super().__init__(loader=loader)
        loader.forks[len(loader.forks)] = self


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> list[FakeLoader]:
    """The loaders, in the order in which they were started."""
    made: list[FakeLoader] = []
    monkeypatch.setattr(FakeLoader, "made", made)
    monkeypatch.setattr(preload, "Loader", FakeLoader)
    monkeypatch.setattr(preload, "Forked", Forked)
    return made


def ask(source: Preload, generation: int) -> int:
    """The serial of the loader that gives out the worker."""
    forked: Any = source.child(generation, print, ())
    return int(forked.loader.serial)


def test_each_generation_has_one_loader(made: list[FakeLoader]) -> None:
    source = Preload(print, ())
    assert [ask(source, 0), ask(source, 0)] == [0, 0], "also while it loads"
    made[0].proven = True
    assert [ask(source, 0), ask(source, 1), ask(source, 1)] == [0, 1, 1]
    assert source.pids == {1000, 1001}


def test_an_old_loader_stays_until_a_new_one_is_proven_and_its_own_workers_are_gone(made: list[FakeLoader]) -> None:
    source = Preload(print, ())
    ask(source, 0)
    made[0].proven = True
    ask(source, 1)
    made[0].forks.clear()
    source.look()
    assert not made[0].leaving, "the new one might fail yet"
    made[1].proven = True
    source.look()
    assert made[0].leaving
    assert not made[1].leaving
    made[0].speaks = False
    source.look()
    assert made[0].closed
    assert source.pids == {1001}
    made[1].forks.clear()
    source.look()
    assert not made[1].leaving, "the last that is proven waits for the next order"


def test_after_one_that_fails_workers_come_from_the_one_before(made: list[FakeLoader]) -> None:
    source = Preload(print, ())
    ask(source, 0)
    made[0].proven = True
    ask(source, 1)
    made[1].forks.clear()
    assert ask(source, 1) == 0
    assert made[1].leaving
    assert ask(source, 2) == 2, "a new restart is a new try"


def test_after_one_that_was_proven_and_died_nobody_gets_older_code(
    made: list[FakeLoader], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(logger, "propagate", True)
    caplog.set_level(logging.INFO)
    source = Preload(print, ())
    for generation in (0, 1):
        ask(source, generation)
        made[generation].proven = True
        source.look()
    made[1].speaks = False
    source.look()
    source.look()
    told = [record.getMessage() for record in dict.fromkeys(caplog.records)]  # pytest may have caught one twice
    assert told == ["the loader, process 1001, was killed by SIGKILL; its workers keep serving"]
    assert not made[1].closed, "its workers may still ask how it ended"
    assert ask(source, 1) == 2


def test_without_room_for_a_loader_the_next_try_makes_one(
    made: list[FakeLoader], monkeypatch: pytest.MonkeyPatch
) -> None:
    source = Preload(print, ())
    ask(source, 0)
    made[0].proven = True
    monkeypatch.setattr(FakeLoader, "no_room", True)
    with pytest.raises(OSError, match="unavailable"):
        source.child(1, print, ())
    monkeypatch.setattr(FakeLoader, "no_room", False)
    assert ask(source, 1) == 2, "and not from the old one, whose code is of yesterday"


def test_listeners_are_let_go_of_once(made: list[FakeLoader]) -> None:
    source = Preload(print, ())
    ask(source, 0)
    source.stop_listening()
    source.stop_listening()
    assert made[0].orders == ["stop_listening"]


# --- a worker, as the parent sees it ----------------------------------------------------------------


@pytest.fixture
def fork(made: list[FakeLoader]) -> Fork:
    loader: Any = FakeLoader(print, (), 0)
    loader.exitcode = -9
    loader.killed = False
    loader.kill = lambda: setattr(loader, "killed", True)
    return Fork(loader, target=print, args=(None, 7), name="")


def test_one_that_was_not_forked_is_where_its_loader_is(fork: Fork) -> None:
    assert fork.pid == 1000
    fork.kill()
    assert fork._loader.killed  # type: ignore[attr-defined]
    fork._loader.speaks = False
    fork.join()
    assert fork.exitcode == -9


def test_a_loader_that_does_not_answer_holds_nobody_up(fork: Fork) -> None:
    fork.note(Fact("forked", 1, 4242))
    fork.join()
    assert (fork.pid, fork.exitcode) == (4242, None)


@posix
def test_an_orphan_is_asked_for_by_process_1_alone(fork: Fork) -> None:
    fork._loader.speaks = False
    with subprocess.Popen([sys.executable, "-c", "import sys; sys.exit(5)"]) as child:
        os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
        fork.note(Fact("forked", 1, child.pid))
        fork.join()
        assert fork.exitcode == 5, "it is a child of ours"
        fork.exitcode = None
        fork.join()
        assert fork.exitcode is None, "it is not"
        child.returncode = 5
        fork.kill()  # of one that is gone: no error


# --- orders, as the loader carries them out ---------------------------------------------------------


@posix
class TestOrders:
    @pytest.fixture(autouse=True)
    def pipe(self) -> Iterator[None]:
        self.parent, far = Pipe()
        self.orders = Orders(Parent(far, 0.0))
        self.forker = Forker(self.orders, Options("x:y"), [], None, None)  # type: ignore[arg-type]
        yield
        self.parent.close()
        self.orders.close()

    def fork(self, serial: int) -> tuple[Any, Connection[Any, Any]]:
        """Order a worker; what the parent has of it."""
        pipe, far = Pipe()
        sentinel, end = os.pipe()
        self.parent.send(Order("fork", serial, 3, 1.5))
        with closing(as_socket(self.parent)) as sock:
            socket.send_fds(sock, [b"\0"], [far.fileno(), end])
        far.close()
        os.close(end)
        return pipe, Connection(sentinel, writable=False)

    def is_gone(self, sentinel: Connection[Any, Any]) -> bool:
        return bool(wait([sentinel], 0))

    def test_one_that_is_cancelled_is_let_go_of_and_without_any_other_nobody_needs_the_loader(self) -> None:
        one, other = self.fork(1), self.fork(2)
        for _ in range(2):
            assert self.orders.receive() == ("", None)
        self.parent.send(Order("cancel", 1))
        assert self.orders.receive() == ("", None)
        assert self.is_gone(one[1])
        self.parent.send(Order("status", 1))
        assert self.orders.receive() == ("", None)
        assert self.parent.recv() == Fact("ended", 1, 0), "answered while the application loads"
        assert not self.is_gone(other[1])
        self.parent.send(Order("cancel", 2))
        assert self.orders.receive() == ("quit", None)
        self.parent.close()
        assert self.orders.receive() == ("quit", None)

    def test_descriptors_are_not_passed_on_to_programs(self) -> None:
        self.fork(1)
        task = self.orders.next()
        assert task is not None
        assert [os.get_inheritable(fd) for fd in task.fds] == [False, False]
        task.close()

    def test_all_that_were_ordered_hear_that_the_application_cannot_be_loaded(self) -> None:
        one, other = self.fork(1), self.fork(2)
        assert self.orders.receive() == ("", None)
        self.orders.catch_up()
        self.orders.failed(LoadError("no", "Traceback"))
        assert [pipe.recv() for pipe, _ in (one, other)] == [Message("failed", "no", "Traceback")] * 2

    def test_a_system_without_room_for_a_process(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def full(greenlets: object) -> int:
            raise BlockingIOError(11, "Resource temporarily unavailable")

        monkeypatch.setattr(loader_module, "_fork", full)
        monkeypatch.setattr(Forker, "_stop_listening", lambda self: None)
        self.forker._preloaded = SimpleNamespace(hub=None)  # type: ignore[assignment]
        pipe, sentinel = self.fork(1)
        self.parent.send(Order("status", 1))
        with closing(as_socket(self.parent)) as sock:
            sock.shutdown(socket.SHUT_WR)
        self.forker.serve()
        assert "no worker can be forked: [Errno 11]" in pipe.recv().text
        assert self.is_gone(sentinel)
        assert self.parent.recv() == Fact("ended", 1, 0)

    def test_a_loader_without_room_for_descriptors(self, monkeypatch: pytest.MonkeyPatch) -> None:
        original = socket.recv_fds

        def cut(sock: Any, size: int, count: int) -> tuple[bytes, list[int], int, Any]:
            data, fds, flags, address = original(sock, size, count)
            os.close(fds.pop())
            return data, fds, flags, address

        monkeypatch.setattr(socket, "recv_fds", cut)
        pipe, sentinel = self.fork(1)
        task = self.orders.next()
        assert task is not None
        self.forker._fork(task)
        assert self.is_gone(sentinel)
        assert wait([pipe], 0)

    def test_an_application_that_reaps_takes_the_exit_code_with_it(self) -> None:
        with subprocess.Popen([sys.executable, "-c", ""]) as child:
            child.wait()
        self.forker._children[9] = child.pid
        assert self.forker._reap(9) is None
        assert self.forker._reap(9) == 0, "nothing is known of it"

    def test_a_worker_that_has_closed_everything_is_not_waited_for_in_vain(self) -> None:
        with subprocess.Popen([sys.executable, "-c", "import time; time.sleep(1000)"]) as child:  # app
            self.forker._children[9] = child.pid
            assert self.forker._reap(9) == -signal.SIGKILL
            child.returncode = 0

    def test_a_default_timeout_does_not_touch_the_pipe(self) -> None:
        socket.setdefaulttimeout(5)
        try:
            with closing(as_socket(self.parent)) as sock:
                assert sock.getblocking()
            assert os.get_blocking(self.parent.fileno())
        finally:
            socket.setdefaulttimeout(None)


def test_numpy_draws_anew_in_each_worker(monkeypatch: pytest.MonkeyPatch) -> None:
    seeds: list[None] = []
    numpy: Any = SimpleNamespace(random=SimpleNamespace(seed=lambda: seeds.append(None)))
    # What is multiprocessing's has to survive: this process is none that was forked.
    monkeypatch.setattr("multiprocessing.process._children", set())
    monkeypatch.setattr("multiprocessing.util._finalizer_registry", {})
    monkeypatch.setattr("multiprocessing.util._run_after_forkers", lambda: None)
    monkeypatch.setitem(sys.modules, "numpy", numpy)
    _begin_process()
    monkeypatch.delitem(sys.modules, "numpy")
    _begin_process()
    assert seeds == [None]
