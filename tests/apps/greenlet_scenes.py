"""Scenes for `test_greenlets`: each is a function, run in a process of its own that gevent has patched.

``python greenlet_scenes.py NAME``; what fails raises.
"""

from zibai.engine.backends.greenlets import patch

patch()

import contextlib  # noqa: E402
import gc  # noqa: E402
import itertools  # noqa: E402
import logging  # noqa: E402
import os  # noqa: E402
import socket  # noqa: E402
import subprocess  # noqa: E402
import sys  # noqa: E402
import threading  # noqa: E402
from types import SimpleNamespace  # noqa: E402

import gevent  # noqa: E402
from gevent.event import AsyncResult, Event  # noqa: E402

from zibai import create_bind_socket, serve  # noqa: E402
from zibai.engine.backends import greenlets as backend  # noqa: E402
from zibai.engine.backends.greenlet_runners import Runner  # noqa: E402
from zibai.engine.stream import Stream  # noqa: E402

DEADLINE = 20
OK = b"HTTP/1.1 200 OK\r\n"


class Stage:
    """A server in a greenlet, whose routes are functions of the scene."""

    def __init__(self, slots=4, **options):
        self.routes = {}
        self.slots, self.options = slots, options
        self.end = threading.Event()

    def __enter__(self):
        sock = create_bind_socket("127.0.0.1:0")
        self.port = sock.getsockname()[1]
        ready = Event()
        self.server = gevent.spawn(
            serve,
            app=self.app,
            bind_socket=sock,
            max_workers=self.slots,
            graceful_exit=self.end,
            backend="greenlets",
            before_serve_hook=ready.set,
            **self.options,
        )
        assert ready.wait(DEADLINE)
        return self

    def __exit__(self, kind, *_):
        if kind is None:
            self.stop()

    def stop(self):
        self.end.set()
        self.server.get(timeout=DEADLINE)
        with gevent.Timeout(DEADLINE):
            while left_behind(Runner):
                gevent.sleep(0.01)

    def app(self, environ, start_response):
        start_response("200 OK", [])
        route = self.routes.get(environ["PATH_INFO"], bytes)
        answer = route() or b"ok"
        return [answer] if isinstance(answer, bytes) else answer

    @contextlib.contextmanager
    def client(self):
        with socket.create_connection(("127.0.0.1", self.port), DEADLINE) as sock, sock.makefile("rb") as file:
            yield SimpleNamespace(
                ask=lambda path, count=1: sock.sendall(b"GET %b HTTP/1.1\r\nHost: a\r\n\r\n" % path.encode() * count),
                read=lambda: read(file),
                sock=sock,
            )

    def get(self, path):
        with self.client() as client:
            client.ask(path)
            return client.read()


def left_behind(kind):
    gc.collect()
    return [each for each in gc.get_objects() if isinstance(each, kind) and not each.dead]


def read(file):
    status, length = file.readline(), 0
    while (line := file.readline()) not in (b"\r\n", b""):
        name, _, value = line.partition(b":")
        length = int(value) if name == b"Content-Length" else length
    assert status == OK, status
    return file.read(length)


class Block:
    """A route that blocks until it is let go."""

    def __init__(self):
        self.entered, self.leave = Event(), Event()

    def __call__(self):
        self.entered.set()
        assert self.leave.wait(DEADLINE)
        return b"left"


class Counted(threading.local):
    """Counts the requests of a greenlet, and does not refer to it."""

    number = 0

    def __call__(self):
        self.number += 1
        return b"%d" % self.number


def quick_requests_share_one_greenlet():
    with Stage() as stage, stage.client() as client:
        stage.routes["/who"] = Counted()
        client.ask("/who", 20)
        assert [int(client.read()) for _ in range(20)] == [*range(1, 21)]


def requests_that_block_share_one_greenlet():
    """Whatever they wait for, and whatever they leave to other greenlets."""
    counted, event, lock = Counted(), Event(), threading.Lock()
    waits = [
        lambda: gevent.sleep(0.001),
        lambda: gevent.spawn(gevent.sleep, 0.001).join(),
        lambda: gevent.with_timeout(DEADLINE, gevent.sleep, 0.001),
        lambda: event.wait(0.001),
        lambda: (gevent.spawn_later(0.001, event.set), event.wait(), event.clear()),
        lambda: gevent.spawn_later(0.2, gevent.sleep),  # app: it runs on after its request
        lambda: (gevent.spawn_later(0.001, lock.release), lock.acquire(), lock.acquire(), lock.release()),
        lambda: threading.Thread(target=gevent.sleep, args=(0.001,)).start(),
        lambda: socket.getaddrinfo("localhost", 80),
        lambda: (threading.current_thread().name, logging.getLogger("app").error("app"), gevent.sleep(0.001)),
        lambda: subprocess.run(["true"], check=False) if os.name == "posix" else gevent.sleep(0.001),
        lambda: gevent.get_hub().threadpool.apply(len, ("app",)),
    ]

    def block():
        waits[counted.number % len(waits)]()
        return counted()

    with Stage() as stage, stage.client() as client:
        stage.routes["/block"] = block
        for number in range(1, 3 * len(waits) + 1):
            client.ask("/block")
            assert int(client.read()) == number


def a_greenlet_that_rests_keeps_no_connection():
    def block():
        gevent.sleep(0.001)

    with Stage() as stage:
        stage.routes["/block"] = block
        assert stage.get("/block") == b"ok"
        with gevent.Timeout(DEADLINE):
            while any(isinstance(each, Stream) for each in gc.get_objects()):
                gevent.sleep(0.01)


def there_are_no_more_greenlets_than_slots():
    def block():
        gevent.sleep(0.001)

    def client(stage):
        with stage.client() as client:
            for _ in range(30):
                client.ask("/block")
                assert client.read() == b"ok"

    with Stage(slots=5) as stage:
        stage.routes["/block"] = block
        for job in [gevent.spawn(client, stage) for _ in range(20)]:
            job.get(timeout=DEADLINE)
        assert len(left_behind(Runner)) <= 5 + 1


def who_joins_a_request_waits_no_longer_than_it_runs():
    greenlets = []

    def block():
        greenlets.append(gevent.getcurrent())
        gevent.sleep(0.001)

    with Stage() as stage:
        stage.routes["/block"] = block
        assert stage.get("/block") == b"ok"
        with gevent.Timeout(DEADLINE):
            greenlets.pop().join()
        assert stage.get("/block") == b"ok"
        greenlets.pop().kill(timeout=DEADLINE)
        greenlets.clear()
        assert stage.get("/") == b"ok"


def who_blocks_gives_way_and_is_served_again():
    with Stage() as stage, stage.client() as slow:
        for _ in range(3):
            stage.routes["/slow"] = block = Block()
            slow.ask("/slow")
            assert block.entered.wait(DEADLINE)
            slow.ask("/quick")  # nobody may read that meanwhile
            assert stage.get("/other") == b"ok"
            block.leave.set()
            assert (slow.read(), slow.read()) == (b"left", b"ok")


def new_clients_come_in_when_a_slot_is_free_again():
    """The client that was served stays and says nothing, so nothing else makes the loop turn."""
    with Stage(slots=1) as stage, stage.client() as first, stage.client() as second:
        stage.routes["/slow"] = block = Block()
        first.ask("/slow")
        assert block.entered.wait(DEADLINE)
        second.ask("/")
        gevent.idle()
        block.leave.set()
        assert first.read() == b"left"
        assert second.read() == b"ok"
        assert stage.get("/") == b"ok"


def new_clients_come_in_behind_pipelined_requests():
    with Stage(slots=1) as stage, stage.client() as greedy:
        greedy.ask("/", 3)
        for _ in range(3):
            assert greedy.read() == b"ok"
        assert stage.get("/") == b"ok"


def all_slots_are_busy_and_the_loop_still_attends_to_clients():
    with Stage(slots=1) as stage, stage.client() as busy, stage.client() as idle:
        stage.routes["/slow"] = block = Block()
        idle.ask("/")
        assert idle.read() == b"ok"
        busy.ask("/slow")
        assert block.entered.wait(DEADLINE)
        idle.sock.sendall(b"nonsense\r\n\r\n")
        assert idle.sock.recv(12) == b"HTTP/1.1 400"
        block.leave.set()
        assert busy.read() == b"left"


def a_forgotten_timeout_does_not_hit_the_next_request():
    """Whether its request blocked or not."""

    def forget():
        gevent.Timeout(0.05).start()

    def forget_and_block():
        gevent.Timeout(0.05).start()
        gevent.sleep(0)  # which comes back before any timer, however slow the machine is

    def forget_one_that_has_passed():
        gevent.Timeout(0).start()

    def long():
        gevent.sleep(0.15)  # app

    with Stage() as stage, stage.client() as client:
        stage.routes.update(
            {"/forget": forget, "/block": forget_and_block, "/passed": forget_one_that_has_passed, "/long": long}
        )
        for path in ("/forget", "/block", "/passed"):
            client.ask(path)
            client.ask("/long")
            assert (client.read(), client.read()) == (b"ok", b"ok")


def an_application_times_itself_out():
    def late():
        try:
            with gevent.Timeout(0.01):
                gevent.sleep(DEADLINE)
        except gevent.Timeout:
            return b"late"

    with Stage() as stage:
        stage.routes["/late"] = late
        assert stage.get("/late") == b"late"


def a_kill_is_for_its_own_request():
    greenlets = []
    with Stage() as stage, stage.client() as client:
        stage.routes["/who"] = lambda: greenlets.append(gevent.getcurrent())
        client.ask("/who")
        client.read()
        greenlets[0].kill(block=False)
        for _ in range(2):
            client.ask("/")
            assert client.read() == b"ok"
        greenlets.clear()


def what_a_request_leaves_for_its_own_greenlet_does_not_hit_the_next_request():
    """Something else that is to be thrown or switched to later."""
    results = []

    def kill():
        gevent.getcurrent().kill(block=False)

    def throw_later():
        gevent.get_hub().loop.timer(0.05).start(gevent.getcurrent().throw, RuntimeError("of another request"))

    def watched():
        gevent.spawn_later(0.05, gevent.getcurrent().kill)

    def linked():
        results.append(AsyncResult())
        results[-1].rawlink(gevent.getcurrent().switch)
        gevent.spawn_later(0.05, results[-1].set)

    def blocking(route):
        def block():
            route()
            gevent.sleep(0)

        return block

    def long():
        gevent.sleep(0.15)  # app

    with Stage() as stage, stage.client() as client:
        stage.routes.update({"/long": long})
        for route in (kill, throw_later, watched, linked, blocking(throw_later), blocking(watched), blocking(linked)):
            stage.routes["/route"] = route
            client.ask("/route")
            client.ask("/long")
            assert (client.read(), client.read()) == (b"ok", b"ok")


def greenlet_exit_and_system_exit_end_nothing():
    def exit_():
        raise SystemExit(3)

    def greenlet_exit():
        raise gevent.GreenletExit

    with Stage() as stage:
        stage.routes.update({"/exit": exit_, "/greenlet": greenlet_exit})
        for path in ("/exit", "/greenlet"):
            with stage.client() as client:
                client.ask(path)
                assert client.sock.recv(12) == b"HTTP/1.1 500"
        assert stage.get("/") == b"ok"


def closing_the_iterable_may_block():
    block = Block()

    class Body:
        def __iter__(self):
            return iter([b"body"])

        def close(self):
            block()

    with Stage() as stage, stage.client() as client:
        stage.routes["/body"] = Body
        client.sock.sendall(b"GET /body HTTP/1.0\r\n\r\n")
        assert block.entered.wait(DEADLINE)
        assert stage.get("/") == b"ok"
        block.leave.set()
        assert client.sock.makefile("rb").read().endswith(b"body")


def the_end_with_requests_that_run():
    """What does not end in time is cut, and its greenlet is left to itself."""
    with Stage(graceful_exit_timeout=0.1) as stage, stage.client() as client:
        assert stage.get("/") == b"ok"  # so that a greenlet is idle, too
        stage.routes["/slow"] = block = Block()
        client.ask("/slow")
        assert block.entered.wait(DEADLINE)
        stage.end.set()
        stage.server.get(timeout=DEADLINE)
        assert client.sock.recv(1) == b""
        block.leave.set()


def quitting_twice():
    """serve() always quits at its end, also when the loop has finished by itself."""
    with Stage() as stage:
        assert stage.get("/") == b"ok"


def no_greenlet_is_left_behind():
    def blocks():
        gevent.sleep(0)

    with Stage() as stage:
        stage.routes["/block"] = blocks
        with stage.client() as client:
            for _ in range(300):
                client.ask("/block")
                client.read()
        with gevent.Timeout(DEADLINE):
            while len(left_behind(gevent.Greenlet)) > 2:
                gevent.sleep(0.01)


def many_clients():
    numbers = itertools.count()

    def sometimes():
        if next(numbers) % 17 == 0:
            gevent.sleep(0.003)

    def client(stage):
        with stage.client() as client:
            for _ in range(50):
                client.ask("/sometimes")
                assert client.read() == b"ok"

    with Stage() as stage:
        stage.routes["/sometimes"] = sometimes
        jobs = [gevent.spawn(client, stage) for _ in range(20)]
        for job in jobs:
            job.get(timeout=DEADLINE)


def the_selector_of_other_systems():
    """All of a server, with a watcher a socket as on Windows and macOS."""
    backend.sys = SimpleNamespace(platform="darwin")
    who_blocks_gives_way_and_is_served_again()
    new_clients_come_in_when_a_slot_is_free_again()
    all_slots_are_busy_and_the_loop_still_attends_to_clients()
    the_end_with_requests_that_run()
    many_clients()


if __name__ == "__main__":
    globals()[sys.argv[1]]()
    print("done")
