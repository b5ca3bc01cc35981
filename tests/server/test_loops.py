"""Several server loops in one process: each serves, and to everybody else they are one."""

from __future__ import annotations

import os
import socket
import sys
import threading
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from importlib.util import find_spec
from math import inf
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

from zibai import Options, create_bind_socket, serve
from zibai.config.options import runners, usual_loops
from zibai.engine.admission import Admission
from zibai.errors import UsageError
from zibai.net.listener import Socket
from zibai.server import peek
from zibai.server.loops import Backends, Loops, divided, share
from zibai.server.serve import Server
from zibai.server.ties import Hooks, Ties
from zibai.server.together import Together
from zibai.telemetry.row import Row
from zibai.telemetry.slot import Running

from support import DEADLINE, Client, get, wait_for

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from zibai.engine.loop import Loop

    from credentials import Credentials


@pytest.fixture(autouse=True)
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """No connection is closed for another that waits: a full loop might do that before its sibling accepts."""
    monkeypatch.setattr("zibai.engine.capacity.CROWDED", -1.0)


@dataclass
class Several:
    """A server that runs in a thread, with its rows and its loops."""

    port: int
    rows: list[Row]
    end: threading.Event = field(default_factory=threading.Event)
    loops: list[Loop] = field(default_factory=list)
    raised: list[BaseException] = field(default_factory=list)
    over: threading.Event = field(default_factory=threading.Event)

    def connections(self) -> list[int]:
        return [row.connections for row in self.rows]


@contextmanager
def several(
    app: Any, loops: int = 2, *, hooks: Hooks | None = None, more: Sequence[socket.socket] = (), **options: Any
) -> Iterator[Several]:
    """``loops`` on a free port. What does not concern loops is in ``ties``: it is called with the server."""
    known = {name: options.pop(name) for name in list(options) if name in Ties.__dataclass_fields__}
    settings = Options("a:b", loops=loops, **options)
    settings.validate()
    sock = create_bind_socket("127.0.0.1:0")
    rows = [Row.private(runners(settings, "wsgi", loops) + 1) for _ in range(loops)]
    for row in rows:
        row.assign("ready", 1, 0, 1.0)
    server = Several(sock.getsockname()[1], rows)
    started = threading.Event()

    def on_start(them: Loops) -> None:
        server.loops.extend(them.each)
        started.set()

    ties = Ties(rows=rows, on_start=on_start, **known)
    made = Server(app, [sock, *more], settings, end=server.end, backend="threads", hooks=hooks or Hooks(), ties=ties)

    def run() -> None:
        try:
            made.run()
        except BaseException as error:
            server.raised.append(error)
        finally:
            started.set()
            server.over.set()

    threading.Thread(target=run, daemon=True).start()
    try:
        assert started.wait(DEADLINE)
        yield server
    finally:
        server.end.set()
        assert server.over.wait(DEADLINE)
        sock.close()


class Crowd:
    """An application whose requests wait for each other: ``most`` is how many ran at the same time."""

    def __init__(self) -> None:
        self.most = self.runs = self.begun = 0
        self.open = threading.Event()
        self._lock = threading.Lock()

    def __call__(self, environ: dict[str, Any], start_response: Callable[..., object]) -> list[bytes]:
        with self._lock:
            self.begun += 1
            self.runs += 1
            self.most = max(self.most, self.runs)
        assert self.open.wait(DEADLINE)
        with self._lock:
            self.runs -= 1
        start_response("200 OK", [("Content-Length", "2")])
        return [b"ok"]


def ok(environ: dict[str, Any], start_response: Callable[..., object]) -> list[bytes]:
    start_response("200 OK", [("Content-Length", "2")])
    return [b"ok"]


GET = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"


def clients(stack: ExitStack, server: Several, number: int) -> list[Client]:
    return [stack.enter_context(Client(server.port)) for _ in range(number)]


def on_each(stack: ExitStack, server: Several, number: int) -> list[Client]:
    """So many connections, on all loops: ``max_connections`` is as many."""
    found = clients(stack, server, number)
    for client in found:
        assert client.get().status == 200
    share = number // len(server.rows)
    wait_for(lambda: server.connections() == [share] * len(server.rows))
    return found


def test_each_loop_has_a_part_of_the_limits_and_all_serve() -> None:
    """Seven requests at once need all loops, and an eighth has to wait."""
    crowd = Crowd()
    with several(crowd, max_workers=7, max_connections=12) as server, ExitStack() as stack:
        waiting = clients(stack, server, 12)
        for client in waiting:
            client.send(GET)
        wait_for(lambda: crowd.runs == 7)
        crowd.open.set()
        assert {client.read().status for client in waiting} == {200}
        assert sorted(row.read().runners for row in server.rows) == [3, 4]
    assert (crowd.most, crowd.begun) == (7, 12)


def test_the_connections_of_all_loops_together_have_a_limit() -> None:
    crowd = Crowd()
    with several(crowd, max_connections=6) as server, ExitStack() as stack:
        waiting = clients(stack, server, 9)
        for client in waiting:
            client.send(GET)
        wait_for(lambda: crowd.runs == 6)
        assert server.connections() == [3, 3]
        crowd.open.set()
        for client in waiting:
            assert client.read().status == 200
            client.close()  # its place is the next one's
    assert crowd.most == 6


def test_the_loops_are_one_server_to_the_application() -> None:
    """Hooks are called once; the environ says that there are threads, though each loop has one."""
    called: list[str] = []
    told: list[bool] = []

    def app(environ: dict[str, Any], start_response: Callable[..., object]) -> list[bytes]:
        told.append(environ["wsgi.multithread"])
        return ok(environ, start_response)

    hooks = Hooks(*(lambda name=name: called.append(name) for name in ("before", "ending", "died")))
    with several(app, max_workers=2, max_connections=2, hooks=hooks) as server, ExitStack() as stack:
        on_each(stack, server, 2)
        assert called == ["before"]
    assert called == ["before", "ending", "died"]
    assert told == [True, True]


def test_the_maximum_of_requests_is_of_all_loops_together() -> None:
    reached: list[str] = []
    with (
        several(ok, max_connections=4, max_requests=10, on_max_requests=lambda: reached.append("once")) as server,
        ExitStack() as stack,
    ):
        connected = on_each(stack, server, 4)
        for client in (*connected, connected[0]):
            assert client.get().status == 200
        wait_for(lambda: sum(row.read().counters["requests"] for row in server.rows) == 9)
        assert reached == []
        connected[3].get()
        wait_for(lambda: reached)
        for client in connected:
            assert client.get().status == 200
        wait_for(lambda: sum(row.read().counters["requests"] for row in server.rows) == 14)
        assert reached == ["once"]


def test_serve_ends_after_the_maximum_of_requests() -> None:
    sock = create_bind_socket("127.0.0.1:0")
    port = sock.getsockname()[1]
    ready = threading.Event()
    server = threading.Thread(
        target=lambda: serve(app=ok, bind_socket=sock, loops=2, max_requests=3, before_serve_hook=ready.set)
    )
    server.start()
    assert ready.wait(DEADLINE)
    for _ in range(3):
        assert get(port).status == 200
    server.join(DEADLINE)
    assert not server.is_alive()


def test_requests_in_all_loops_finish_before_the_end() -> None:
    crowd = Crowd()
    with several(crowd, max_workers=4, max_connections=4) as server, ExitStack() as stack:
        waiting = clients(stack, server, 4)
        for client in waiting:
            client.send(GET)
        wait_for(lambda: crowd.runs == 4)
        server.end.set()
        wait_for(lambda: all(loop.service.draining for loop in server.loops))
        crowd.open.set()
        responses = [client.read() for client in waiting]
        assert {(each.status, each.headers["Connection"]) for each in responses} == {(200, "close")}
        assert server.over.wait(DEADLINE)
        with pytest.raises(OSError):  # noqa: PT011 -- refused, or reset where it is noticed later
            get(server.port)
    assert server.raised == []


def test_the_failure_of_one_loop_ends_the_server_with_its_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """A server of which every other client hangs would look alive."""
    watch = Admission.watch
    victim: list[Admission] = []

    def broken(self: Admission, full: bool, now: float) -> None:
        if self in victim:
            raise ZeroDivisionError("a bug")
        watch(self, full, now)

    monkeypatch.setattr(Admission, "watch", broken)
    with several(ok, max_connections=4) as server, ExitStack() as stack:
        connected = on_each(stack, server, 4)
        victim.append(server.loops[1].admission)
        server.loops[1]._backend.wake()
        assert server.over.wait(DEADLINE)
        for client in connected:
            client.socket.settimeout(DEADLINE)
            assert client.rest() == b""
    assert [str(error) for error in server.raised] == ["a bug"]


def test_the_process_has_a_heartbeat_when_each_loop_has_had_one() -> None:
    told: list[str] = []
    ties = Ties(on_beat=lambda: told.append("beat"), on_look=lambda: told.append("look"))
    together = Together(ties, 3, 0, lambda: None)
    for number in (0, 1, 0, 2, 2, 1, 0):
        together.beat(number)
    assert told == ["look", "look", "look", "beat", "look", "look", "look", "beat", "look"]


def test_a_loop_that_has_finished_owes_no_heartbeat() -> None:
    """Else a watchdog would end a process of which one loop drains longer than the others."""
    told: list[str] = []
    together = Together(Ties(on_beat=lambda: told.append("beat")), 3, 0, lambda: None)
    together.has_finished = lambda number: number != 1
    for _ in range(3):
        together.beat(1)
    assert told == ["beat"] * 3


def test_a_request_that_is_stuck_is_told_once_whatever_loop_it_is_in() -> None:
    told: list[str] = []
    together = Together(Ties(on_hung=lambda: told.append("stuck")), 2, 0, lambda: told.append("end"))
    together.hung()
    together.hung()
    assert told == ["stuck"]
    Together(Ties(), 2, 0, lambda: told.append("end")).hung()
    assert told == ["stuck", "end"], "a server alone ends"


def test_each_loop_counts_in_steps_when_the_maximum_is_high() -> None:
    told: list[int] = []
    together = Together(Ties(on_max_requests=lambda: told.append(asked)), 2, 100_000, lambda: None)
    loops: list[Any] = [SimpleNamespace(requests_left=0) for _ in range(2)]
    for asked in range(1, 1200):
        together.count(loops[asked % 2])
    assert [loop.requests_left for loop in loops] == [100, 100]
    assert told == [1000]


@pytest.mark.parametrize(("whole", "loops"), [(10, 4), (3, 3), (0, 2), (1, 2), (33, 5)])
def test_the_parts_make_the_whole(whole: int, loops: int) -> None:
    parts = [share(whole, number, loops) for number in range(loops)]
    assert sum(parts) == whole
    assert max(parts) - min(parts) <= 1


def test_what_is_divided_is_never_no_limit_for_one_of_them() -> None:
    options = Options("a:b", max_connections=5, max_bodies_disk=1, max_bodies_memory=0)
    parts = [divided(options, number, 2) for number in range(2)]
    assert [part.max_connections for part in parts] == [3, 2]
    assert [part.max_bodies_disk for part in parts] == [1, 1]
    assert [part.max_bodies_memory for part in parts] == [0, 0]
    assert [part.max_unsent_memory for part in parts] == [128 * 1024**2] * 2


@pytest.mark.parametrize(("limit", "parts"), [({}, [50, 50]), ({"max_connections": 6}, [inf, inf])])
def test_the_descriptors_of_the_process_are_divided(
    monkeypatch: pytest.MonkeyPatch, limit: dict[str, int], parts: list[float]
) -> None:
    monkeypatch.setattr("zibai.engine.context.descriptors_for_clients", lambda: 100)
    with several(ok, **limit) as server:
        assert [loop.service.load.descriptors for loop in server.loops] == parts


def test_a_loop_sees_the_other_loops_and_other_workers_as_its_siblings() -> None:
    stranger = Row.private(0)
    with several(ok, 2, siblings=lambda: [(True, stranger)]) as server:
        first, second = (list(loop.service.siblings()) for loop in server.loops)
        assert first == [(False, server.rows[1]), (True, stranger)]
        assert second == [(True, server.rows[0]), (True, stranger)]


@pytest.mark.skipif(sys.platform == "win32", reason="no connections are handed over there")
def test_every_loop_adopts_and_every_loop_hands_over() -> None:
    """From two loops to two others, through one channel, which ends when the last loop has ended."""
    with (
        several(ok, max_connections=8) as new,
        several(ok, max_connections=8) as old,
        ExitStack() as stack,
    ):
        connected = on_each(stack, old, 8)
        far, near = (Socket(fileno=each.detach()) for each in socket.socketpair())
        Loops(new.loops).adopt_from(near)
        wait_for(lambda: [len(loop.admission.adoption._open) for loop in new.loops] == [1, 1])
        them = Loops(old.loops)
        them.hand_over_to(far)
        them.hand_over_to(far)  # the control thread may have told it already
        old.end.set()
        assert old.over.wait(DEADLINE)
        wait_for(lambda: sum(new.connections()) == 8)
        for client in connected:
            response = client.get()
            assert (response.status, response.headers["Connection"]) == (200, None)
        wait_for(lambda: not any(loop.admission.adoption._open for loop in new.loops))


def test_a_request_is_found_in_its_loop() -> None:
    def backend(name: str, since: float) -> Any:
        running = [Running(3, f"GET /{name}", "app", since)]
        where = (f"thread {name}", None)
        return SimpleNamespace(
            running=lambda: running,
            where=lambda slot: where if slot == 3 else None,
            others=lambda: [(name, None)],
            waiting=lambda: [[name]],
        )

    both = Backends([backend("a", 2.0), backend("b", 1.0)])
    assert [(each.what, both.where(each.slot)[0]) for each in both.running()] == [
        ("GET /b", "thread b"),
        ("GET /a", "thread a"),
    ]
    assert both.others() == [("a", None), ("b", None)]
    assert both.waiting() == [["a"], ["b"]]


def test_threads_and_the_log_are_told_apart_by_their_loop() -> None:
    names: list[str] = []

    def app(environ: dict[str, Any], start_response: Callable[..., object]) -> list[bytes]:
        names.append(threading.current_thread().name)
        return ok(environ, start_response)

    with several(app, max_connections=2) as server, ExitStack() as stack:
        on_each(stack, server, 2)
        log: list[Any] = []
        server.loops[1].service.report(lambda *args: log.append(args), "%d threads", 5)
        assert log == [("loop 2: %d threads", 5)]
    assert {name.partition(" ")[2] for name in names} == {"of loop 1", "of loop 2"}


def test_all_loops_speak_tls_and_redirect(credentials: Credentials) -> None:
    with ExitStack() as stack:
        more = stack.enter_context(create_bind_socket("127.0.0.1:0"))
        tls: Any = {"certfile": credentials.server, "redirect_http": "127.0.0.1:0"}
        server = stack.enter_context(several(ok, more=[more], max_connections=8, **tls))
        secure = [stack.enter_context(Client(server.port, tls=credentials.context())) for _ in range(4)]
        assert {client.get().status for client in secure} == {200}
        plain = [stack.enter_context(Client(more.getsockname()[1])) for _ in range(4)]
        assert {client.get().status for client in plain} == {308}
        assert server.connections() == [4, 4]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="fork")
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
def test_a_child_of_the_application_keeps_no_connection_and_no_listener_of_any_loop() -> None:
    """Its clients would never see their end, and the kernel would accept for nobody."""
    children: list[int] = []
    read, write = os.pipe()

    def app(environ: dict[str, Any], start_response: Callable[..., object]) -> list[bytes]:
        if environ["PATH_INFO"] == "/fork":
            child = os.fork()
            if not child:
                os.read(read, 1)
                os._exit(0)
            children.append(child)
        return ok(environ, start_response)

    with several(app, max_connections=4) as server, ExitStack() as stack:
        connected = on_each(stack, server, 4)
        connected[0].get("/fork")
        server.end.set()
        assert server.over.wait(DEADLINE)
        for client in connected:
            assert client.rest() == b""
        with pytest.raises(ConnectionError):
            Client(server.port)
        os.write(write, b"!")
        assert os.waitpid(children[0], 0) == (children[0], 0)
    os.close(read)
    os.close(write)


# --- how many there are -----------------------------------------------------------------------------


async def asgi(scope: Any, receive: Any, send: Any) -> None: ...


def test_an_asgi_application_has_one_loop() -> None:
    with create_bind_socket("127.0.0.1:0") as sock, pytest.raises(UsageError, match="--loops 2: an ASGI application"):
        serve(app=asgi, bind_socket=sock, loops=2)


@pytest.mark.skipif(find_spec("gevent") is None, reason="gevent is not installed")
def test_greenlets_have_one_loop() -> None:
    with create_bind_socket("127.0.0.1:0") as sock, pytest.raises(UsageError, match="--loops 2: gevent runs all"):
        serve(app=ok, bind_socket=sock, loops=2, backend="greenlets")


@pytest.mark.parametrize(
    ("options", "flag"), [({"max_workers": 2}, "--max-workers"), ({"max_connections": 2}, "--max-connections")]
)
def test_each_loop_needs_one_of_what_is_divided(options: dict[str, int], flag: str) -> None:
    with pytest.raises(UsageError, match=f"--loops 3 needs a {flag} of at least 3"):
        Options("a:b", loops=3, **options).validate()
    Options("a:b", loops=2, **options).validate()


def test_there_is_room_for_all_loops_in_the_scoreboard() -> None:
    with pytest.raises(UsageError, match="--processes 64 with --loops 512 are more than 10000 server loops"):
        Options("a:b", processes=64, loops=512).validate()
    for processes, loops in ((1, 1024), (10, 1000), (5000, 2)):
        Options("a:b", processes=processes, loops=loops).validate()
        assert (2 * processes + 30) * loops < 2**16


def test_each_end_of_a_channel_is_made_before_a_loop_may_close_the_first() -> None:
    told: list[int] = []

    class Hasty:
        def adopt_from(self, channel: Any) -> None:
            told.append(channel.fileno())
            channel.close()

    near, far = (Socket(fileno=each.detach()) for each in socket.socketpair())
    hasty: Any = [Hasty() for _ in range(3)]
    Loops(hasty).adopt_from(near)
    assert len(set(told)) == 3
    assert far.recv(1) == b"", "no copy is left"
    far.close()


@pytest.mark.parametrize(
    ("gil", "cpus", "options", "loops"),
    [
        (True, 8, {"loops": 0}, 1),
        (True, 8, {"loops": 3}, 3),
        (True, 8, {}, 1),
        (False, 8, {}, 1),
        (False, 8, {"loops": 0}, 8),
        (False, 8, {"loops": 0, "processes": 2}, 4),
        (False, 2, {"loops": 0, "processes": 4}, 1),
        (False, 8, {"loops": 0, "max_workers": 3}, 3),
        (False, 8, {"loops": 0, "max_connections": 5}, 5),
        (False, 12, {"loops": 0}, 12),
    ],
)
def test_0_is_as_many_as_this_python_can_use(
    monkeypatch: pytest.MonkeyPatch, gil: bool, cpus: int, options: dict[str, int], loops: int
) -> None:
    monkeypatch.setattr("zibai.config.options.has_gil", lambda: gil)
    monkeypatch.setattr("zibai.config.options.available_cpus", lambda: cpus)
    assert usual_loops(Options("a:b", **options)) == loops


@pytest.mark.parametrize(("given", "number"), [({}, 30), ({"max_workers": 7}, 7)])
def test_a_loop_has_as_many_threads_as_a_worker_has_by_default(given: dict[str, int], number: int) -> None:
    assert runners(Options("a:b", **given), "wsgi", 3) == number


@pytest.mark.parametrize(
    ("interface", "gevent", "given", "expected"),
    [
        ("wsgi", False, 0, 4),
        ("wsgi", False, 2, 2),
        ("wsgi", True, 0, 1),
        ("wsgi", True, 2, "--loops 2: gevent"),
        ("asgi", False, 0, 1),
        ("asgi", False, 2, "--loops 2: an ASGI application"),
        ("asgi", False, 1, 1),
        ("", False, 0, 1),
        ("", False, 2, 2),
    ],
)
def test_before_the_import_it_is_told_what_there_cannot_be(
    monkeypatch: pytest.MonkeyPatch, interface: str, gevent: bool, given: int, expected: int | str
) -> None:
    """Empty: the source does not tell, and the worker will."""
    monkeypatch.setattr(peek, "likely_interface", lambda options: interface)
    monkeypatch.setattr(peek, "may_use_gevent", lambda options: gevent)
    monkeypatch.setattr(peek, "usual_loops", lambda options: options.loops or 4)
    options = Options("a:b", loops=given)
    if isinstance(expected, str):
        with pytest.raises(UsageError, match=expected):
            peek.loops(options)
    else:
        assert peek.loops(options) == expected


def test_a_worker_that_turns_out_to_be_asgi_has_one_loop_of_those_that_it_could_have() -> None:
    """``--loops 0`` asks for no number, and the scoreboard was made before the import."""
    rows = [Row.private(65) for _ in range(3)]
    end = threading.Event()
    end.set()
    with create_bind_socket("127.0.0.1:0") as sock:
        ties, options = Ties(rows=rows), Options("a:b", loops=0)
        Server(asgi, [sock], options, end=end, backend=None, hooks=Hooks(), ties=ties).run()
    assert [row.runners for row in rows] == [1000, 0, 0]
