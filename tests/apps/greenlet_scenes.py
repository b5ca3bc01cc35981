"""Scenes for `test_greenlets`: each is a function, run in a process of its own that gevent has patched.

``python greenlet_scenes.py NAME``; what fails raises.
"""

from zibai.engine.backends.greenlets import patch

patch()

import contextlib  # noqa: E402
import gc  # noqa: E402
import itertools  # noqa: E402
import socket  # noqa: E402
import sys  # noqa: E402
import threading  # noqa: E402
from types import SimpleNamespace  # noqa: E402

import gevent  # noqa: E402
from gevent.event import Event  # noqa: E402

from zibai import create_bind_socket, serve  # noqa: E402
from zibai.engine.backends import greenlets as backend  # noqa: E402

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
            while left_behind(backend._Runner):
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


def quick_requests_share_one_greenlet():
    seen = []
    with Stage() as stage:
        stage.routes["/who"] = lambda: seen.append(gevent.getcurrent())
        with stage.client() as client:
            client.ask("/who", 20)
            for _ in range(20):
                assert client.read() == b"ok"
        assert len(set(map(id, seen))) == 1
        seen.clear()


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

    def kill():
        gevent.getcurrent().kill(block=False)

    def throw_later():
        gevent.get_hub().loop.timer(0.05).start(gevent.getcurrent().throw, RuntimeError("of another request"))

    def long():
        gevent.sleep(0.15)  # app

    with Stage() as stage, stage.client() as client:
        stage.routes.update({"/kill": kill, "/later": throw_later, "/long": long})
        for path in ("/kill", "/later"):
            client.ask(path)
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
