"""Objects that an application has had in its hands, errors that leave a runner, and what one request sees of others."""

from __future__ import annotations

import ctypes
import gc
import sys
import threading
import time
from contextlib import suppress
from itertools import count
from math import inf
from typing import TYPE_CHECKING, Any

import pytest

from zibai.engine import states
from zibai.engine.backends import threads
from zibai.engine.connection import Connection
from zibai.engine.loop import Loop
from zibai.engine.stream import Stream
from zibai.engine.table import Table

from serving import serving
from support import DEADLINE, Client, Server, get, wait_for

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from credentials import Credentials

STREAM = ("--stream-request-body",)


@pytest.fixture(scope="module", params=[(), STREAM], ids=["whole", "streamed"])
def server(request: pytest.FixtureRequest, backend: tuple[str, ...]) -> Iterator[Server]:
    flags = ("-w", "2", "--before-serve", "hands:before_serve", *request.param, *backend)
    with Server("hands:app", *flags) as server:
        yield server


def post(target: str, size: int, *, apart: bool = False, fields: str = "") -> bytes | tuple[bytes, bytes]:
    head = f"POST {target} HTTP/1.1\r\nHost: a\r\n{fields}Content-Length: {size}\r\n\r\n".encode()
    return (head, b"x" * size) if apart else head + b"x" * size


# --- the body of a request (R6, W6) ---------------------------------------------------------------


@pytest.mark.parametrize("size", [0, 10, 200_000, 600_000])
@pytest.mark.parametrize("way", ["view", "detach", "close", "attributes", "environ"])
def test_whatever_an_application_does_to_its_body_costs_no_slot_and_no_connection(
    server: Server, way: str, size: int
) -> None:
    with Client(server.port) as client:
        for _ in range(4):  # more often than there are slots
            client.send(post(f"/{way}", size))  # type: ignore[arg-type]
            answer = client.read()
            assert (answer.status, answer.body) == (200, f"/{way}".encode())
            if size > 256 * 1024:
                break  # streamed, it was left unread, and the server does not read that much only to keep a client
    with Client(server.port) as client:
        assert client.get("/").body == b"/"
        client.send(post("/kept", 6, fields="X: not for those before\r\n"))  # type: ignore[arg-type]
        body = client.read().body
        # What was sent with a request may be kept; nothing of this one, or of its body, is seen.
        assert set(body) <= set(b"x" * bool(size) + b"ValueErrorUnsupportedOperation"), body
        assert len(body) <= max(size * 4, 200)
        assert client.get("/").body == b"/"


# --- errors that leave a runner (N1) --------------------------------------------------------------


@pytest.mark.parametrize("when", ["before", "after", "late"])
def test_a_runner_that_is_left_by_an_error_gives_its_slot_back(server: Server, when: str) -> None:
    before = len(server.log)
    for _ in range(6):  # three times as many as there are slots
        with Client(server.port) as client:
            client.send(b"POST /dies/%b HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc" % when.encode())
            try:
                client.rest()
            except ConnectionResetError:
                pass  # it was closed, and that is what counts
        with Client(server.port) as client:
            assert client.get("/").body == b"/"
    server.wait_for_log("an error came out of a server", after=before)


@pytest.mark.skipif(sys.implementation.name != "cpython", reason="raises in other threads as only CPython can")
@pytest.mark.skipif(
    sys.version_info[:2] == (3, 14),
    reason="an error that comes as `with` takes a lock leaves it locked there",
)
@pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning")  # of a socket that is made when the error comes
def test_threads_into_which_an_error_is_raised_serve_on() -> None:
    """A program may do that to all of its threads, for a timeout of its own, say; also while they wait."""

    def app(environ: dict[str, Any], start_response: Callable[..., Any]) -> list[bytes]:
        start_response("200 OK", [("Content-Type", "text/plain")])
        return [b"ok"]

    def answered() -> bool:
        with suppress(ConnectionResetError, EOFError):
            return get(server.port).body == b"ok"
        return False

    with serving(app, max_workers=2) as server:
        for _ in range(5):
            # One that is hit before it has said that it runs would make the server wait for that for ever.
            runners = [each for each in threading.enumerate() if each.name.startswith("zibai-") and each.is_alive()]
            for runner in runners:
                ctypes.pythonapi.PyThreadState_SetAsyncExc(
                    ctypes.c_ulong(runner.ident or 0), ctypes.py_object(SystemExit)
                )
            for _ in range(3):
                with suppress(OSError, EOFError):  # whoever is hit may lose its connection
                    get(server.port)
            wait_for(answered)  # the runner that is hit last may have been asleep until now
            assert all(runner.is_alive() for runner in runners)
    assert [record for record in server.logged("zibai") if "an error came out of" in record.getMessage()]
    server.records.clear()  # they refer to what was under way
    gc.collect()


def test_an_error_in_a_thread_that_recovers_from_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """Twice, so that the second one meets the thread in what it does about the first."""
    exchange, recover, exchanges, recoveries = Stream.exchange, threads.Threads._recover, count(), count()

    def fail_at_first(stream: Any, *args: Any) -> None:
        if next(exchanges) == 0:
            raise SystemExit
        exchange(stream, *args)

    def fail_twice(*args: Any) -> None:
        if next(recoveries) < 2:
            raise SystemExit
        recover(*args)

    def app(environ: dict[str, Any], start_response: Callable[..., Any]) -> list[bytes]:
        start_response("200 OK", [("Content-Type", "text/plain")])
        return [b"ok"]

    monkeypatch.setattr(Stream, "exchange", fail_at_first)
    monkeypatch.setattr(threads.Threads, "_recover", fail_twice)
    with serving(app, max_workers=1) as server:
        with Client(server.port) as client:
            client.send(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
            with suppress(ConnectionResetError):  # it is closed, and that is what counts
                assert client.rest() == b""
        for _ in range(3):
            assert get(server.port).body == b"ok"
    assert next(recoveries) == 3
    assert [record for record in server.logged("zibai") if "an error came out of" in record.getMessage()]


def test_an_error_in_a_thread_that_gives_a_connection_back(monkeypatch: pytest.MonkeyPatch) -> None:
    """The connection is given back twice then, and the second time does not count."""
    wake, wakes, passes = threads.Threads.wake, count(), threading.Event()

    def fail_at_first(backend: Any) -> None:
        wake(backend)
        if threading.current_thread().name.startswith("zibai-") and next(wakes) == 0:
            raise SystemExit

    def app(environ: dict[str, Any], start_response: Callable[..., Any]) -> list[bytes]:
        start_response("200 OK", [("Content-Type", "text/plain")])
        if environ["PATH_INFO"] == "/long":
            passes.wait(DEADLINE)
        return [b"ok"]

    monkeypatch.setattr(threads.Threads, "wake", fail_at_first)
    with serving(app, max_workers=2) as server:
        with Client(server.port) as client:
            client.send(b"GET /long HTTP/1.1\r\nHost: a\r\n\r\n")
            assert get(server.port).body == b"ok"  # another thread leads
            passes.set()
        wait_for(lambda: [each for each in server.logged("zibai") if "an error came out of" in each.getMessage()])
        for _ in range(3):
            assert get(server.port).body == b"ok"


def test_an_error_between_the_poller_and_what_is_known_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    watch, failed = Table.watch, threading.Event()

    def fail_at_first(table: Table, connection: Any, events: int) -> None:
        watched = connection.watched
        watch(table, connection, events)
        if watched and not events and not failed.is_set():
            failed.set()
            connection.watched = watched
            raise SystemExit

    def app(environ: dict[str, Any], start_response: Callable[..., Any]) -> list[bytes]:
        start_response("200 OK", [("Content-Type", "text/plain")])
        return [b"ok"]

    monkeypatch.setattr(Table, "watch", fail_at_first)
    with serving(app, max_workers=2, keep_alive_timeout=1, graceful_exit_timeout=1) as server:
        with suppress(OSError, EOFError):
            get(server.port)  # the loop closes its connection, and is left by the error
        assert failed.wait(DEADLINE)
        with Client(server.port) as client:
            client.get("/")
            assert client.rest() == b""  # the deadlines of both have passed
        assert get(server.port).body == b"ok"


def test_an_error_in_a_thread_that_has_given_a_connection_back_spares_the_next_request(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The next request of the client runs already, in another thread."""
    give_back, calls, passes = Loop.give_back, count(), threading.Event()
    entered, recovered, go = threading.Event(), threading.Event(), threading.Event()

    def fail_at_first(loop: Loop, stream: Any, since: Any = None) -> None:
        give_back(loop, stream, since)
        if since is not None:
            recovered.set()
        elif next(calls) == 0:
            assert entered.wait(DEADLINE)
            raise SystemExit

    def app(environ: dict[str, Any], start_response: Callable[..., Any]) -> list[bytes]:
        start_response("200 OK", [("Content-Type", "text/plain")])
        if environ["PATH_INFO"] == "/first":
            passes.wait(DEADLINE)
        if environ["PATH_INFO"] == "/next":
            entered.set()
            go.wait(DEADLINE)
        return [b"ok"]

    monkeypatch.setattr(Loop, "give_back", fail_at_first)
    with serving(app, max_workers=2) as server:
        with Client(server.port) as client:
            client.send(b"GET /first HTTP/1.1\r\nHost: a\r\n\r\n")
            assert get(server.port).body == b"ok"  # another thread leads
            passes.set()
            assert client.read().body == b"ok"
            client.send(b"GET /next HTTP/1.1\r\nHost: a\r\n\r\n")
            assert recovered.wait(DEADLINE)
            assert get(server.port).body == b"ok"  # so the loop has looked at what was given back twice
            go.set()
            assert client.read().body == b"ok"
            assert client.get("/").body == b"ok"


@pytest.mark.parametrize("where", ["given away and not passed on", "taken out of the inbox"])
def test_an_error_while_a_request_changes_hands_costs_no_slot(monkeypatch: pytest.MonkeyPatch, where: str) -> None:
    """There is one slot. A server that thought it occupied would serve nothing any more."""
    pass_on, finish, failed = threads.Threads._pass_on, Loop.finish, threading.Event()

    def fail_once() -> None:
        if not failed.is_set():
            failed.set()
            raise SystemExit

    def passed_on(backend: Any) -> bool:
        if where == "given away and not passed on" and sys._getframe(1).f_code.co_name == "_run_passed":
            fail_once()
        return pass_on(backend)

    def finished(loop: Loop, stream: Any) -> None:
        if where == "taken out of the inbox" and sys._getframe(1).f_code.co_name == "_empty_inbox":
            fail_once()
        finish(loop, stream)

    def app(environ: dict[str, Any], start_response: Callable[..., Any]) -> list[bytes]:
        if environ["PATH_INFO"] == "/long":
            time.sleep(0.05)  # long enough for a deputy to take over, and for a spell
        start_response("200 OK", [("Content-Type", "text/plain")])
        return [b"ok"]

    monkeypatch.setattr(threads.Threads, "_pass_on", passed_on)
    monkeypatch.setattr(Loop, "finish", finished)
    with serving(app, max_workers=1, graceful_exit_timeout=3 * DEADLINE) as server, Client(server.port) as client:
        while not failed.is_set():
            with suppress(OSError, EOFError):
                get(server.port, "/long")
        for _ in range(3):
            assert get(server.port).body == b"ok"
        assert client.get("/").body == b"ok"


@pytest.mark.parametrize("state", [states.PARTED, states.CLOSED, states.READY])
def test_an_error_between_two_states_does_not_hold_up_the_end(monkeypatch: pytest.MonkeyPatch, state: str) -> None:
    """Nothing watches the connection then, and it has no deadline."""
    take_out, read, failed = Table._take_out, Connection.readable, threading.Event()

    def fail_at_first(connection: Any) -> None:
        if connection.state is state and not failed.is_set():
            failed.set()
            connection.deadline = inf
            raise SystemExit

    def taken_out(table: Table, connection: Any) -> None:
        fail_at_first(connection)
        take_out(table, connection)

    def readable(connection: Connection, now: float) -> None:
        read(connection, now)
        if state is states.READY:
            fail_at_first(connection)

    def app(environ: dict[str, Any], start_response: Callable[..., Any]) -> list[bytes]:
        start_response("200 OK", [("Content-Type", "text/plain")])
        return [b"ok"]

    monkeypatch.setattr(Table, "_take_out", taken_out)
    monkeypatch.setattr(Connection, "readable", readable)
    with serving(app, max_workers=2, graceful_exit_timeout=3 * DEADLINE) as server:
        with Client(server.port) as client:
            fields = ("Connection: close",) if state is states.PARTED else ()
            assert client.get("/", *fields).body == b"ok"
        assert failed.wait(DEADLINE)
        assert get(server.port).body == b"ok"


# --- what comes behind the end (R12) --------------------------------------------------------------


@pytest.mark.parametrize("framing", ["chunked", "length"])
def test_nothing_is_written_behind_the_end_of_a_response(server: Server, framing: str) -> None:
    before = len(server.log)
    with Client(server.port) as client:
        for _ in range(3):
            assert client.get(f"/late/{framing}").body == b"righ"
        client.send(f"HEAD /late/{framing} HTTP/1.1\r\nHost: a\r\n\r\n".encode())
        assert client.read("HEAD").body == b""
        assert client.get("/").body == b"/"
        # Nothing says where it ends but the end of the connection.
        client.send(f"GET /late/{framing} HTTP/1.0\r\n\r\n".encode())
        assert client.rest().partition(b"\r\n\r\n")[2] == b"righ"
    server.wait_for_log("the application called write() after the end of its response", after=before)


# --- contextvars ----------------------------------------------------------------------------------


def visit(client: Client, name: str, *, way: str = "GET") -> list[str]:
    if way == "GET":
        return client.get(f"/visit?{name}").body.decode().split()
    head, body = post(f"/visit?{name}", 100_000, apart=True, fields="Expect: 100-continue\r\n")
    client.send(head)  # type: ignore[arg-type]
    assert client.read().status == 100
    client.send(body)  # type: ignore[arg-type]
    return client.read().body.decode().split()


def test_each_request_has_a_context_of_its_own(server: Server) -> None:
    """From the call of the application to the close of its iterable, and with what the hook has set."""
    get(server.port, "/kept")
    found: dict[str, list[str]] = {}

    def talk(name: str) -> None:
        with Client(server.port) as client:
            for way in ("GET", "POST", "GET"):
                found[f"{name}-{way}"] = visit(client, f"{name}-{way}", way=way)

    threads = [threading.Thread(target=talk, args=[f"c{number}"]) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 12
    for name, (base, *others) in found.items():
        assert (base, others) == ("the", ["hook's", name])
    closed: list[str] = []

    def all_are_closed() -> bool:  # an iterable is closed after the client has got all of it
        closed.extend(get(server.port, "/kept").body.decode().split())
        return len(closed) >= 18

    wait_for(all_are_closed)
    assert sorted(closed) == sorted(f"c{number}-{way}" for number in range(6) for way in ("GET", "POST", "GET"))


def test_contexts_over_tls(backend: tuple[str, ...], credentials: Credentials) -> None:
    with Server("hands:app", "--certfile", credentials.server, *backend) as server:
        with Client(server.port, tls=credentials.context()) as client:
            assert [visit(client, name) for name in "ab"] == [["nobody", "a"], ["nobody", "b"]]
