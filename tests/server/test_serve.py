"""``serve()``: what it takes, and what it does when the server itself is broken."""

from __future__ import annotations

import asyncio
import socket
import subprocess
import sys
import threading
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import pytest

import zibai
from zibai import Options, create_bind_socket, serve
from zibai.config.options import declared
from zibai.engine.admission import Admission
from zibai.errors import UsageError
from zibai.server.serve import Server
from zibai.server.ties import Hooks, Ties

from support import DEADLINE, environment, get, wait_for

if TYPE_CHECKING:
    from collections.abc import Callable

    from zibai.engine.loop import Loop
    from zibai.server.loops import Loops


def test_a_server_loop_that_fails_ends_serve_with_its_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rather than to be a server that is there and hears nothing."""
    raised: list[BaseException] = []
    died = threading.Event()

    def broken(self: Admission, full: bool, now: float) -> None:
        raise ZeroDivisionError("a bug")

    def run() -> None:
        try:
            serve(app=lambda *_: [], bind_socket=create_bind_socket("127.0.0.1:0"), before_died_hook=died.set)
        except ZeroDivisionError as error:
            raised.append(error)

    monkeypatch.setattr(Admission, "watch", broken)
    server = threading.Thread(target=run)
    server.start()
    server.join(DEADLINE)
    assert not server.is_alive()
    assert [str(error) for error in raised] == ["a bug"]
    assert died.is_set()


async def asgi(scope: Any, receive: Any, send: Any) -> None:
    raise AssertionError


@pytest.mark.parametrize("app", [asgi, lambda *_: []], ids=["asgi", "wsgi"])
@pytest.mark.parametrize("fails", ["hook", "certificate"])
def test_a_start_that_fails_leaves_no_socket_and_no_thread(app: Any, fails: str) -> None:
    """Clients would wait for a socket that listens."""
    before = set(threading.enumerate())
    options: Any = {"before_serve_hook": lambda: 1 / 0} if fails == "hook" else {"certfile": "nowhere.pem"}
    with create_bind_socket("127.0.0.1:0") as sock:
        with pytest.raises((ZeroDivisionError, UsageError)):
            serve(app=app, bind_socket=sock, **options)
        assert sock.fileno() < 0
    for left in set(threading.enumerate()) - before:
        left.join(DEADLINE)
        assert not left.is_alive()


def test_in_an_event_loop_that_runs_an_asgi_application_is_awaited() -> None:
    """As at the prompt of a notebook, where one always runs."""

    async def main() -> None:
        with create_bind_socket("127.0.0.1:0") as sock, pytest.raises(UsageError, match=r"await zibai\.aserve"):
            serve(app=asgi, bind_socket=sock)

    asyncio.run(main())
    program = """
import asyncio, zibai
from zibai.errors import UsageError
async def app(scope, receive, send): ...
async def main():
    try:
        zibai.run(app, listen="127.0.0.1:0", no_gevent=True)
    except UsageError as error:
        print(error)
asyncio.run(main())
"""  # a process of its own, since run() configures the log
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, env=environment(), capture_output=True, text=True, timeout=DEADLINE, check=True)
    assert "await zibai.aserve" in done.stdout


@pytest.mark.parametrize("processes", [0, 1])
def test_the_command_needs_the_main_thread(processes: int) -> None:
    """Before it has changed anything: gevent would patch, and no signal could be handled."""
    program = f"""
import sys, threading, zibai
from zibai.errors import ZibaiError

def serve():
    for call in (zibai.main, lambda options: zibai.run(print)):
        try:
            call(zibai.Options(app="plain:app", listen=["127.0.0.1:0"], processes={processes}))
        except SystemExit as error:
            print(error.code)
        except ZibaiError as error:
            print(error)

if __name__ == "__main__":
    thread = threading.Thread(target=serve)
    thread.start()
    thread.join()
    assert "gevent.monkey" not in sys.modules
"""
    done = subprocess.run(
        [sys.executable, "-c", program], env=environment(), capture_output=True, text=True, timeout=DEADLINE, check=True
    )
    assert done.stderr == (
        "zibai: error: main() must be called in the main thread; in other threads, write zibai.serve(app=...)\n"
    )
    assert done.stdout.split("\n")[:2] == [
        "2",
        "zibai.run() must be called in the main thread; in other threads, write zibai.serve(app=...)",
    ]


@pytest.mark.parametrize("name", ["listen", "subprocess", "no_such_thing"])
def test_serve_takes_no_option_that_it_could_not_heed(name: str) -> None:
    with create_bind_socket("127.0.0.1:0") as sock, pytest.raises(TypeError, match=name):
        serve(app=lambda *_: [], bind_socket=sock, **{name: None})


def test_serve_is_called_as_its_readme_has_always_shown() -> None:
    """To the letter, with None for the backlog; and None is the default of all other options as well."""
    called: list[str] = []
    exit_event = threading.Event()

    def app(environ: dict[str, Any], start_response: Callable[..., object]) -> list[bytes]:
        start_response("200 OK", [("Content-type", "text/plain; charset=utf-8"), ("Content-Length", "12")])
        exit_event.set()
        return [b"Hello World!"]

    your_socket = create_bind_socket("127.0.0.1:0")
    port = your_socket.getsockname()[1]
    bodies: list[bytes] = []
    client = threading.Thread(target=lambda: bodies.append(get(port).body))
    zibai.serve(
        app=app,
        bind_socket=your_socket,
        backlog=None,
        max_workers=10,
        graceful_exit=exit_event,
        before_serve_hook=client.start,
        before_graceful_exit_hook=lambda: called.append("before_graceful_exit"),
        before_died_hook=lambda: called.append("before_died"),
    )
    client.join(DEADLINE)
    assert bodies == [b"Hello World!"]
    assert called == ["before_graceful_exit", "before_died"]

    embedded = {each.name: None for each in declared() if each.embedded}
    serve(app=app, bind_socket=create_bind_socket("127.0.0.1:0"), graceful_exit=exit_event, **embedded)


@pytest.mark.parametrize(
    "options",
    [{"max_requests": 5, "max_header_size": 900}, {"max_request_pre_process": 5, "h11_max_incomplete_event_size": 900}],
)
def test_options_are_accepted_by_their_older_names_as_well(options: dict[str, int]) -> None:
    end = threading.Event()
    end.set()
    serve(app=lambda *_: [], bind_socket=create_bind_socket("127.0.0.1:0"), graceful_exit=end, **options)


def test_as_many_threads_as_are_asked_for_run_requests() -> None:
    """Each has a slot in the row of the server, also when no other process reads that row."""
    everyone = threading.Barrier(100)

    def app(environ: Any, start_response: Any) -> list[bytes]:
        everyone.wait(30)
        start_response("200 OK", [("Content-Length", "2")])
        return [b"ok"]

    with zibai.serving(app, max_workers=100) as url, ExitStack() as stack:
        address = ("127.0.0.1", int(url.rpartition(":")[2]))
        clients = [stack.enter_context(socket.create_connection(address, 30)) for _ in range(100)]
        for client in clients:
            client.sendall(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        assert {client.recv(15) for client in clients} == {b"HTTP/1.1 200 OK"}


def test_a_wrong_option_is_told_by_its_flag() -> None:
    with create_bind_socket("127.0.0.1:0") as sock, pytest.raises(UsageError, match="--max-workers must be at least 1"):
        serve(app=lambda *_: [], bind_socket=sock, max_workers=0)


def test_a_supervisor_has_its_say_before_the_first_client() -> None:
    """A worker that is started while the server is a lame duck must say close in its first answer."""
    before = set(threading.enumerate())
    runners: list[list[str]] = []

    def note(loop: Loop) -> None:
        runners.append([each.name for each in set(threading.enumerate()) - before if each.name.startswith("zibai-")])

    end = threading.Event()
    end.set()
    with create_bind_socket("127.0.0.1:0") as sock:
        ties = Ties(before_start=note, on_start=note)
        Server(
            lambda *_: [], [sock], Options("hello:app"), end=end, backend="threads", hooks=Hooks(), ties=ties
        ).run()  # fmt: skip
    assert runners == [[], ["zibai-1"]]


@pytest.mark.parametrize("loops", [1, 2])
def test_no_client_is_accepted_before_the_supervisor_knows_that_it_serves(
    loops: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first request may end the process. A worker that has not said that it is ready would be a failed start."""
    turns: list[Admission] = []
    served: list[str] = []
    watch = Admission.watch

    def watched(admission: Admission, *args: Any) -> None:
        watch(admission, *args)
        turns.append(admission)

    def app(environ: Any, start_response: Any) -> list[bytes]:
        served.append(environ["PATH_INFO"])
        start_response("200 OK", [("Content-Length", "2")])
        return [b"ok"]

    def on_start(them: Loops) -> None:
        client.connect(sock.getsockname())
        client.sendall(b"GET /first HTTP/1.1\r\nHost: a\r\n\r\n")
        for loop in them.each * 3:
            before = turns.count(loop.admission)
            loop._backend.wake()
            wait_for(lambda loop=loop, before=before: turns.count(loop.admission) > before)
            assert served == []
        end.set()  # what waits in the backlog is served before the end

    monkeypatch.setattr(Admission, "watch", watched)
    end = threading.Event()
    options = Options("hello:app", loops=loops)
    with create_bind_socket("127.0.0.1:0") as sock, socket.socket() as client:
        client.settimeout(DEADLINE)
        ties = Ties(on_start=on_start)
        Server(app, [sock], options, end=end, backend="threads", hooks=Hooks(), ties=ties).run()
        assert client.recv(15) == b"HTTP/1.1 200 OK"
    assert served == ["/first"]
