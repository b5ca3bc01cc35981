"""The pipe between parent and worker, signals as bytes, and connections that change hands."""

from __future__ import annotations

import errno
import multiprocessing
import os
import pickle
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from contextlib import closing
from multiprocessing import spawn
from multiprocessing.connection import wait
from types import SimpleNamespace
from typing import Any

import pytest

from zibai.errors import LoadError
from zibai.net.handover import MAX_DESCRIPTORS, NOTE, give, take
from zibai.net.listener import Socket
from zibai.supervise import child as child_module
from zibai.supervise import messages as pipes
from zibai.supervise import output
from zibai.supervise.child import Child
from zibai.supervise.control import Control
from zibai.supervise.pipe import Message, Parent
from zibai.supervise.sentinel import reap_orphans
from zibai.system import machine, terminal
from zibai.system.holdback import _ctrl_break_held_back
from zibai.system.signals import Signals
from zibai.telemetry.scoreboard import Row

from support import alive, wait_for

posix = pytest.mark.skipif(sys.platform == "win32", reason="POSIX")
windows = pytest.mark.skipif(sys.platform != "win32", reason="Windows")
# Without pidfd_open(), a thread waits for each child.
forks_beside_threads = pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")


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
        case "ctrl-c":
            parent._send(Message("at first", str(terminal.hears_ctrl_c())))
            parent.hear_ctrl_c()
            parent._send(Message("then", str(terminal.hears_ctrl_c())))
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


@windows
@pytest.mark.parametrize("hears", [True, False], ids=["a parent that hears it", "a parent that does not"])
def test_a_worker_hears_ctrl_c_only_once_it_can_deal_with_it(hears: bool) -> None:
    """Before that it would end with a traceback. And where the parent ignores it (``start /b``), so does the worker."""
    before = terminal.hears_ctrl_c()
    try:
        terminal.hear_ctrl_c() if hears else terminal.leave()
        child = started("ctrl-c")
        assert terminal.hears_ctrl_c() is hears, "the start of a worker changes nothing in the parent"
        assert wait([child.sentinel], 20)
        assert messages(child) == [Message("at first", "False"), Message("then", str(hears))]
        child.close()
    finally:
        terminal.hear_ctrl_c() if before else terminal.leave()


@pytest.mark.parametrize(
    ("code", "words", "clean"),
    [
        (0, "ended with exit code 0", True),
        (1, "ended with exit code 1", False),
        (15, "ended with exit code 15", False),
        (-signal.SIGTERM, "was killed", False),
        (0xC000013A, "was ended by Ctrl-C or Ctrl-Break", True),
        (0xC0000005, "ended with exit code 0xC0000005 (access violation)", False),
        (0xC0000135, "ended with exit code 0xC0000135 (an NTSTATUS)", False),
    ],
)
def test_how_a_worker_ended_on_windows_is_said_in_words(code: int, words: str, clean: bool) -> None:
    assert machine.windows_exit(code) == (words, clean)


@windows
def test_a_worker_that_is_killed_on_windows_was_not_killed_by_a_signal() -> None:
    child = started("obey")
    child.kill()
    assert ended(child) == "was killed"


@windows
def test_a_worker_that_dies_before_it_reads_what_it_begins_with_does_not_block_its_parent(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As it does of a Ctrl-Break while it starts. What it gets is more than the usual pipe takes."""
    monkeypatch.setattr(spawn, "_python_exe", rf"{os.environ['SYSTEMROOT']}\System32\hostname.exe")
    child = Child(worker, ("x" * 100_000,))
    thread = threading.Thread(target=child.start, daemon=True)
    thread.start()
    thread.join(20)
    assert not thread.is_alive()
    assert ended(child).startswith("ended with exit code")


@posix
def test_how_a_worker_died_is_said_in_words() -> None:
    child = started("die")
    assert ended(child) == "was killed by SIGKILL"


def test_telling_one_that_is_gone_is_no_error() -> None:
    child = started("fail")
    assert wait([child.sentinel], 20)
    wait_for(lambda: not list(child.receive()) and not child.speaks)  # its descriptors are closed in any order
    child.drain()
    child.quit()
    assert ended(child) == "ended with exit code 3"


@posix
def test_a_worker_that_reads_nothing_holds_nobody_up_and_is_killed_when_it_has_to_end() -> None:
    """It is stopped, so its pipe gets full."""
    child, replacement = started("obey"), started("obey")
    for each in (child, replacement):
        assert messages(each) == [Message("ready")]
    os.kill(replacement.pid, signal.SIGSTOP)
    os.kill(child.pid, signal.SIGSTOP)
    for _ in range(3000):
        child.reopen()
        replacement.reopen()
    replacement.announce_drain()
    child.drain(replacement)
    replacement.quit()
    assert [ended(child), ended(replacement)] == ["was killed by SIGKILL"] * 2


@pytest.mark.parametrize(
    ("replaced", "shares", "verb"),
    [(False, False, "drain"), (False, True, "drain_shared"), (True, False, "drain_shared")],
)
def test_where_no_socket_can_be_passed_a_replacement_is_another_server(
    monkeypatch: pytest.MonkeyPatch, replaced: bool, shares: bool, verb: str
) -> None:
    """On Windows, so that a WebSocket is told of a restart there, too."""
    told: list[str] = []
    child = Child.__new__(Child)
    monkeypatch.setattr(sys, "platform", "win32")
    monkeypatch.setattr(child, "shares_listeners", lambda: shares, raising=False)
    monkeypatch.setattr(child, "_send_or_kill", told.append)
    child.drain(Child.__new__(Child) if replaced else None)
    assert told == [verb]


@posix
def test_half_a_message_is_waited_for_by_nobody() -> None:
    """A worker can be stopped in the middle of a message, and a traceback is longer than what is sent at once."""
    near, far = multiprocessing.Pipe()
    whole = pickle.dumps(Message("failed", "x", "y" * 100_000))
    data = struct.pack("!i", len(whole)) + whole
    with near, far:
        inbox = pipes.Inbox(near)
        for start in range(0, len(data), 30_000):
            assert list(inbox.receive()) == []
            os.write(far.fileno(), data[start : start + 30_000])
        far.send(Message("max_requests"))
        assert list(inbox.receive()) == [Message("failed", "x", "y" * 100_000), Message("max_requests")]
        far.send(Message("ready"))
        far.close()
        messages = inbox.receive()
        assert next(messages) == Message("ready")
        with pytest.raises(EOFError):
            next(messages)


@pytest.mark.skipif(sys.platform != "linux", reason="other systems have other means")
@pytest.mark.parametrize(
    "error",
    [errno.ENOSYS, errno.EPERM, 0],
    ids=["an old kernel", "a container that forbids it", "a Python that was built on an old Linux"],
)
def test_a_death_is_heard_without_pidfd_open(monkeypatch: pytest.MonkeyPatch, error: int) -> None:
    def refuse(pid: int) -> int:
        raise OSError(error, "no")

    monkeypatch.setattr(os, "pidfd_open", refuse, raising=False)
    if not error:
        monkeypatch.delattr(os, "pidfd_open")
    one, other = started("obey"), started("obey")
    assert not wait([one.sentinel, other.sentinel], 0)
    os.kill(other.pid, signal.SIGKILL)
    assert wait([one.sentinel, other.sentinel], 20) == [other.sentinel]
    assert ended(other) == "was killed by SIGKILL"
    one.quit()
    assert ended(one) == "ended with exit code 5"


@posix
@forks_beside_threads
def test_where_nobody_can_tell_how_a_child_ended() -> None:
    """SIGCHLD is ignored, and this cannot be changed from a thread of a program that is not ours."""
    old = signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    try:
        child = started("fail")
        assert messages(child) == [Message("failed", "it cannot be", "Traceback\n")]
        assert ended(child) == "ended in an unknown way"
    finally:
        signal.signal(signal.SIGCHLD, old)


@posix
def test_a_worker_learns_that_its_parent_is_gone() -> None:
    child = started("obey")
    assert messages(child) == [Message("ready")]
    child.pipe.close()
    assert wait([child.sentinel], 20)
    assert child.ending().reason == "ended with exit code 7"


@posix
def test_two_workers_get_the_ends_of_a_channel() -> None:
    old, replacement = started("obey"), started("obey")
    assert messages(old) == messages(replacement) == [Message("ready")]
    # They close them; what is looked at here is that the pipe carries verbs again after it has carried a descriptor.
    old.drain(replacement)
    old.quit()
    replacement.drain()
    assert ended(old) == "ended with exit code 5"
    assert ended(replacement) == "ended with exit code 0"


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
        signals.wake()  # too late, which is no matter
        assert heard == []
        os.kill(os.getpid(), signal.SIGUSR1)
        wait_for(lambda: heard == [signal.SIGUSR1])
    finally:
        signal.signal(signal.SIGUSR1, old)


def test_a_ctrl_break_before_signals_are_handled_waits_for_them(monkeypatch: pytest.MonkeyPatch) -> None:
    number = signal.SIGBREAK if sys.platform == "win32" else signal.SIGUSR1
    monkeypatch.setattr(signal, "SIGBREAK", number, raising=False)
    with _ctrl_break_held_back():
        signal.raise_signal(number)
        with Signals([number.name]) as signals:
            assert wait([signals.socket], 20)
            assert signals.read() == [number.name]
            with _ctrl_break_held_back():  # it is handled already
                signal.raise_signal(number)
                assert signals.read() == [number.name]
    assert signal.getsignal(number) is signal.SIG_DFL


def test_a_ctrl_break_that_nothing_handles_ends_the_process() -> None:
    script = (
        "import signal, sys",
        "if sys.platform != 'win32': signal.SIGBREAK = signal.SIGUSR1",
        "from zibai.system.holdback import _ctrl_break_held_back",
        "with _ctrl_break_held_back():",
        "    signal.raise_signal(signal.SIGBREAK)",
        "    print('not yet', flush=True)",
        "print('too late')",
    )
    done = subprocess.run([sys.executable, "-c", "\n".join(script)], capture_output=True, text=True, check=False)
    assert done.stdout.split() == ["not", "yet"], done
    assert done.returncode != 0


@posix
def test_interrupting_signals_raise_in_the_main_thread_as_well() -> None:
    with Signals(["SIGINT"], interrupting=True) as signals:
        with pytest.raises(KeyboardInterrupt):  # noqa: PT012 -- it comes when it comes
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(20)  # app: the main thread waits for something
        assert signals.read() == ["SIGINT"]


@posix
@pytest.mark.parametrize("fd", ["none", "another", "ours"])
def test_a_signal_is_heard_once_whoever_has_the_descriptor(fd: str) -> None:
    """asyncio leaves none, and while it runs it needs its own."""
    ours, theirs = socket.socketpair()
    with ours, theirs, Signals(["SIGUSR1"]) as signals:
        ours.setblocking(False)
        if fd != "ours":
            signal.set_wakeup_fd(-1 if fd == "none" else ours.fileno())
        for _ in range(2):
            os.kill(os.getpid(), signal.SIGUSR1)
            assert wait([signals.socket], 20)
            assert signals.read() == ["SIGUSR1"]
        left = signal.set_wakeup_fd(-1)
        assert (left == ours.fileno()) == (fd == "another")
        assert left != -1


@posix
def test_handlers_that_were_taken_and_given_back_are_ours_again() -> None:
    heard: list[int] = []
    with Signals(["SIGUSR1", "SIGUSR2", "SIGTERM"]) as signals:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        signal.signal(signal.SIGUSR1, signal.SIG_IGN)
        signal.signal(signal.SIGUSR2, lambda number, _: heard.append(number))
        signal.set_wakeup_fd(-1)
        signals.reassert()
        for name in ("SIGTERM", "SIGUSR1", "SIGUSR2"):
            os.kill(os.getpid(), getattr(signal, name))
            assert wait([signals.socket], 20)
            assert signals.read() == [name]
        wait_for(lambda: heard == [signal.SIGUSR2])


@posix
@pytest.mark.parametrize("error", [SystemExit(0), KeyboardInterrupt(), ValueError("of the application")])
def test_what_the_application_raises_at_a_signal_for_the_end_ends_nothing(
    error: BaseException, capsys: pytest.CaptureFixture[str]
) -> None:
    def raises(number: int, frame: object) -> None:
        raise error

    with Signals(["SIGTERM", "SIGUSR1"]) as signals:
        signal.signal(signal.SIGTERM, raises)
        signal.signal(signal.SIGUSR1, raises)
        signals.reassert()
        signal.raise_signal(signal.SIGTERM)
        assert signals.read() == ["SIGTERM"]
        with pytest.raises(type(error)):
            signal.raise_signal(signal.SIGUSR1)
        assert signals.read() == ["SIGUSR1"]
    assert ("ValueError: of the application" in capsys.readouterr().err) == isinstance(error, ValueError)


@posix
@pytest.mark.parametrize("descriptor", ["ours", "of an event loop"])
@pytest.mark.parametrize("handler", ["ours", "of the application"])
def test_interrupting_signals_raise_last_and_are_heard(handler: str, descriptor: str) -> None:
    """A task that catches KeyboardInterrupt and goes on must not keep the process alive, also with uvloop."""
    called: list[int] = []
    theirs = socket.socketpair()
    with theirs[0], theirs[1], Signals(["SIGINT"], interrupting=True) as signals:
        if handler != "ours":
            signal.signal(signal.SIGINT, lambda number, _: called.append(number))
        if descriptor != "ours":
            theirs[0].setblocking(False)
            signal.set_wakeup_fd(theirs[0].fileno())
        signals.reassert()
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
        assert signals.read() == ["SIGINT"]
    assert called == ([] if handler == "ours" else [signal.SIGINT])


@posix
def test_the_main_thread_knows_of_a_signal_before_and_after_the_other_thread_has_read_it() -> None:
    """Else a KeyboardInterrupt that pydantic has made another exception of would be reported as a failed import."""
    control = Control(None, threading.Event(), None, boot_timeout=60, graceful_timeout=60)
    with Signals(["SIGINT", "SIGTERM"]) as control._signals:
        signal.raise_signal(signal.SIGTERM)
        assert not control.was_interrupted()
        signal.raise_signal(signal.SIGINT)
        assert control.was_interrupted()
        assert control._signals.read() == ["SIGTERM", "SIGINT"]
        assert control.was_interrupted()
        assert control._signals.read() == []


@posix
@forks_beside_threads
def test_a_signal_to_a_process_that_the_application_has_forked_is_none_to_us() -> None:
    """``terminate()`` of a child of ``multiprocessing`` has to end that child, and nobody else."""
    ours, theirs = socket.socketpair()
    with ours, theirs, Signals(["SIGTERM"]) as signals:
        pid = os.fork()
        if pid == 0:
            try:
                theirs.send(b"here")
                time.sleep(20)  # app
            finally:
                os._exit(0)
        assert ours.recv(4) == b"here"
        os.kill(pid, signal.SIGTERM)
        assert os.waitpid(pid, 0)[1] == signal.SIGTERM
        assert signals.read() == []


# --- how a worker is, and how it ended --------------------------------------------------------------


class FakeProcess:
    """A process that has ended, or is said to run."""

    def __init__(self, exitcode: int | None = None) -> None:
        self.pid = 42
        self.exitcode = exitcode
        self.joined = False

    def join(self) -> None:
        self.joined = True

    def kill(self) -> None:
        self.exitcode = -9


@pytest.fixture
def kills(monkeypatch: pytest.MonkeyPatch) -> list[int | None]:
    """What the system tells about memory: the last one is now."""
    told: list[int | None] = [None]
    monkeypatch.setattr(machine, "oom_kills", lambda: told[-1])
    return told


def child(exitcode: int | None = None, row: Row | None = None) -> Child:
    child = Child(worker, ("die",), row)
    child._oom_kills = machine.oom_kills()  # as when it starts
    child._far.close()
    child.pipe.close()
    child._process = FakeProcess(exitcode)  # type: ignore[assignment]
    return child


def test_a_worker_without_a_beat_has_none(monkeypatch: pytest.MonkeyPatch) -> None:
    row = Row.private(1)
    assert child().beat() is None
    assert child(row=row).beat() is None, "it has a row, and is not up yet"
    monkeypatch.setattr("zibai.telemetry.row.clock", lambda: 77.5)
    row.beat([0] * 14)
    assert child(row=row).beat() == 77.5


@pytest.mark.parametrize(
    ("used", "expected"),
    [(5.0, False), (5.4, False), (5.6, True), (15.0, True), (None, True)],
    ids=["idle", "hardly", "a twentieth", "all the time", "unknown"],
)
def test_one_that_works_has_used_the_processor_since_its_beat(
    monkeypatch: pytest.MonkeyPatch, used: float | None, expected: bool
) -> None:
    row = Row.private(1)
    monkeypatch.setattr("zibai.telemetry.row.clock", lambda: 100.0)
    monkeypatch.setattr(time, "process_time", lambda: 5.0)
    row.beat([0] * 14)
    asked: list[int] = []
    monkeypatch.setattr(machine, "cpu_time", lambda pid: (asked.append(pid), used)[1])
    monkeypatch.setattr(child_module, "clock", lambda: 110.0)
    assert child(row=row).uses_processor() is expected
    assert child().uses_processor(), "nothing is known of one without a row"
    assert asked == [42, 42]


@pytest.mark.parametrize(
    ("code", "words", "clean"),
    [
        (0, "ended with exit code 0", True),
        (3, "ended with exit code 3", False),
        (None, "ended in an unknown way", True),
        (-11, "was killed by SIGSEGV", False),
        (-9, "was killed by SIGKILL", False),
        (-200, "was killed by signal 200", False),
    ],
)
@posix
def test_an_ending_in_words(kills: list[int | None], code: int | None, words: str, clean: bool) -> None:
    one = child(code)
    ending = one.ending()
    assert (ending.reason, ending.clean, ending.story) == (words, clean, "")
    assert one._process.joined, "or it would be a zombie"  # type: ignore[attr-defined]


def test_an_ending_tells_what_the_worker_was_at() -> None:
    row = Row.private(1)
    row.slots[0].begin(b"GET /fatal", 0.0)
    assert "it was serving GET /fatal" in child(-11, row).ending().story


OUT_OF_MEMORY = "was killed by SIGKILL because memory ran out (the kernel has counted an out-of-memory kill)"


@pytest.mark.parametrize(
    ("before", "after", "code", "words"),
    [
        (0, 1, -9, OUT_OF_MEMORY),
        (7, 9, -9, OUT_OF_MEMORY),
        (7, 7, -9, "was killed by SIGKILL"),
        (None, 1, -9, "was killed by SIGKILL"),
        (1, None, -9, "was killed by SIGKILL"),
        (0, 1, -11, "was killed by SIGSEGV"),
        (0, 1, 1, "ended with exit code 1"),
    ],
)
@posix
def test_memory_that_ran_out_is_only_told_where_the_kernel_has_counted(
    kills: list[int | None], before: int | None, after: int | None, code: int, words: str
) -> None:
    kills.append(before)
    one = child(code)
    kills.append(after)
    assert one.ending().reason == words


@posix
def test_one_that_we_have_killed_did_not_run_out_of_memory(kills: list[int | None]) -> None:
    kills.append(0)
    one = child()
    kills.append(1)  # somebody else, of the same group
    one.kill()
    assert one.ending().reason == "was killed by SIGKILL"


# --- the children of process 1 ----------------------------------------------------------------------


class Dead:
    """The system's list of children that have ended, in its order."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, pids: list[int], *, others: bool = True) -> None:
        self.pids = pids
        self._others = others  # whether there are children that live
        for name, number in (("P_ALL", 0), ("WEXITED", 4), ("WNOHANG", 1), ("WNOWAIT", 0x1000000)):
            monkeypatch.setattr(os, name, number, raising=False)
        monkeypatch.setattr(os, "waitid", self.waitid, raising=False)
        monkeypatch.setattr(os, "waitpid", self.waitpid)
        monkeypatch.setattr(sys, "platform", "linux")

    def waitid(self, kind: int, number: int, options: int) -> Any:
        assert (kind, number, options) == (0, 0, 4 | 1 | 0x1000000), "it looks, takes nothing and does not wait"
        if not self.pids and not self._others:
            raise ChildProcessError
        return SimpleNamespace(si_pid=self.pids[0]) if self.pids else None

    def waitpid(self, pid: int, options: int) -> tuple[int, int]:
        assert options == 1
        self.pids.remove(pid)
        return pid, 0


@pytest.mark.parametrize("others", [True, False])
@pytest.mark.parametrize(
    ("dead", "left"),
    [([], []), ([5], []), ([5, 6, 7], []), ([1], [1]), ([5, 1, 6], [1, 6]), ([1, 5], [1, 5])],
)
def test_strangers_are_let_go_of_and_workers_are_left(
    monkeypatch: pytest.MonkeyPatch, dead: list[int], left: list[int], others: bool
) -> None:
    world = Dead(monkeypatch, dead.copy(), others=others)
    reap_orphans({1, 2})
    assert world.pids == left


def test_a_stranger_that_somebody_else_lets_go_of_is_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def waitpid(pid: int, options: int) -> tuple[int, int]:
        raise ChildProcessError

    world = Dead(monkeypatch, [5])
    monkeypatch.setattr(os, "waitpid", waitpid)
    reap_orphans(set())
    assert world.pids == [5]


@pytest.mark.parametrize("system", ["darwin", "win32"])
def test_where_there_are_no_containers_nobody_is_asked(monkeypatch: pytest.MonkeyPatch, system: str) -> None:
    world = Dead(monkeypatch, [5])
    monkeypatch.setattr(sys, "platform", system)
    reap_orphans(set())
    assert world.pids == [5]


# --- connections that change hands ------------------------------------------------------------------


def pair() -> tuple[Any, Any]:
    return tuple(Socket(fileno=end.detach()) for end in socket.socketpair())  # type: ignore[return-value]


@posix
@pytest.mark.parametrize("count", [1, MAX_DESCRIPTORS, 2 * MAX_DESCRIPTORS + 7])
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
        assert [sock.recv(10) for sock, _ in taken] == [b"%d" % number for number in range(count)]
        assert not any(sock.getblocking() or note for sock, note in taken)
        for sock in [*(sock for sock, _ in taken), *clients]:
            sock.close()


@posix
def test_notes_stay_beside_their_connections() -> None:
    giving, taking = pair()
    pairs = [socket.socketpair() for _ in range(7)]
    for number, (client, _) in enumerate(pairs):
        client.sendall(b"%d" % number)
    fds = [server.fileno() for _, server in pairs]
    notes = {fds[2]: b"two", fds[3]: b"x" * (NOTE - 1), fds[6]: b"six"}
    assert give(giving, fds, notes) == 7
    taken: list[Any] = []
    while sockets := take(taking):
        taken += sockets
    assert [(sock.recv(10), note) for sock, note in taken] == [
        (b"%d" % number, notes.get(fd, b"")) for number, fd in enumerate(fds)
    ]
    for sock in [giving, taking, *(sock for sock, _ in taken), *(end for both in pairs for end in both)]:
        sock.close()


@posix
def test_a_full_channel_and_a_closed_one_give_nothing_away() -> None:
    giving, taking = pair()
    giving.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1)  # as small as the system allows
    one, other = socket.socketpair()
    with one, other:
        fds = [one.fileno()] * MAX_DESCRIPTORS
        total = 0
        while given := give(giving, fds):
            total += given
        taken: list[Any] = []
        while sockets := take(taking):
            taken += sockets
        assert len(taken) == total > 0
        for sock, _ in taken:
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


@posix
@forks_beside_threads
def test_forked_workers_hold_nothing_of_their_siblings() -> None:
    """Each would keep the other from learning that the parent is gone."""
    reader, writer = os.pipe()
    first = Child(forked, (reader,), method="fork")
    output._readers.add(reader)
    first.start()
    second = Child(forked, (first.pipe.fileno(),), method="fork")
    second.start()
    try:
        for child in (first, second):
            assert messages(child) == [Message("ready")], "the descriptor was closed"
            child.drain()
            assert ended(child) == "ended with exit code 0"
    finally:
        output._readers.discard(reader)
        os.close(reader)
        os.close(writer)


@posix
@forks_beside_threads
def test_a_forked_worker_that_hangs_in_a_lock_is_not_started(monkeypatch: pytest.MonkeyPatch) -> None:
    """The lock of the locale was held by a thread that is not in the fork: as good as a call that does not return."""
    with monkeypatch.context() as patch:
        patch.setattr(child_module, "START_LIMIT", 0.1)
        patch.setattr(os, "strerror", lambda _: time.sleep(1000))
        hanging = Child(forked, (-1,), method="fork")
        with pytest.raises(OSError, match="hangs"):
            hanging.start()
    assert hanging.known_pid
    assert not alive(hanging.known_pid)


def forked(parent: Parent, fd: int) -> None:
    try:
        os.fstat(fd)
    except OSError:
        parent.ready()
    parent.receive()


def test_signals_of_others_are_not_read() -> None:
    """SIGINT, at a prompt, has its own handler, and reaches the socket all the same."""
    with Signals(["SIGTERM"]) as signals:
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGTERM)
        assert wait([signals.socket], 20)
        assert signals.read() == ["SIGTERM"]
