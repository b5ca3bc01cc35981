"""Thousands of idle keep-alive connections: what each costs, and how much slower the others become.

Each connection has had one answer, as that of a browser. They come from several loopback addresses, so that ports do
not run short, and the limit of open files is raised as far as it goes. In the end the connections must
still be open: a server that closes idle clients has not kept them.
"""

import selectors
import socket
import sys
import time
from contextlib import ExitStack

from . import load
from .apps import HELLO
from .process import Broken, Running
from .results import Idle
from .servers import Server
from .workloads import BY_KEY

REQUEST = b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"
AT_ONCE = 100  # connections that wait for their answer together
SPARE = 400  # descriptors for all other things, in the server and here
PATIENCE = 20.0  # seconds without any answer
OPENING = 20.0  # seconds to open the connections in; waitress, which tells poll of each again and again, needs minutes


def raise_limit(wanted: int) -> int:
    """How many connections a process can have open here, at most ``wanted``; the servers inherit the limit."""
    if sys.platform == "win32":
        return 0
    import resource

    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return wanted if hard == resource.RLIM_INFINITY else max(0, min(wanted, hard - SPARE))


def measure(server: Server, connections: int, threads: int, seconds: int, number: int) -> Idle:
    """Speed of hello without and with so many idle connections, in the same process."""
    result = Idle(server.name, number, connections)
    hello = BY_KEY["asgi-hello" if server.interface == "asgi" else "hello"]
    try:
        with Running(server, hello, threads) as running, ExitStack() as stack:
            load.warm_up(hello, running.port)
            running.check()
            before = load.measure(hello, running.port, seconds)
            memory = running.memory()
            clients = connect(running, connections, stack)
            if len(clients) < connections:
                result.errors.append(f"only {len(clients)} connections within {OPENING:g} s")
            result.each = (running.memory() - memory) / len(clients)
            during = load.measure(hello, running.port, seconds)
            running.check_alive()
            result.before, result.during = before.rate, during.rate
            result.errors += before.errors + during.errors
            if closed := sum(map(is_closed, clients)):
                result.errors.append(f"{closed} of {len(clients)} idle connections were closed")
    except (Broken, OSError) as error:
        result.errors.append(str(error))
    return result


def connect(running: Running, number: int, stack: ExitStack) -> list[socket.socket]:
    """So many connections, or what can be had in time, each of which has had its answer."""
    clients: list[socket.socket] = []
    deadline = time.monotonic() + OPENING
    with selectors.DefaultSelector() as selector:
        while len(clients) < number and (not clients or time.monotonic() < deadline):
            group = [_open(running.port, index) for index in range(min(AT_ONCE, number - len(clients)))]
            for client in group:
                stack.callback(client.close)
                client.sendall(REQUEST)
                selector.register(client, selectors.EVENT_READ, bytearray())
            _read_answers(selector)
            clients += group
    return clients


def _open(port: int, index: int) -> socket.socket:
    return socket.create_connection(("127.0.0.1", port), PATIENCE, source_address=(f"127.0.0.{2 + index % 8}", 0))


def _read_answers(selector: selectors.BaseSelector) -> None:
    last = time.monotonic()
    while selector.get_map():
        ready = selector.select(1)
        if not ready and time.monotonic() - last > PATIENCE:
            raise Broken(f"{len(selector.get_map())} connections got no answer within {PATIENCE:g} s")
        for key, _ in ready:
            last = time.monotonic()
            client, so_far = key.fileobj, key.data
            assert isinstance(client, socket.socket)
            so_far += (data := client.recv(65536))
            if not data or so_far.endswith(HELLO):
                selector.unregister(client)


def is_closed(client: socket.socket) -> bool:
    client.setblocking(False)
    try:
        return not client.recv(1)
    except BlockingIOError:
        return False
    except OSError:
        return True
