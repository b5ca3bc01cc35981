"""Constant load from clients that take every loss personally.

New connections, kept-alive ones and posts with a body, each in a loop of its own, each on threads of this process.
A client that was told ``Connection: close`` comes back on a new connection; anything else that is not the right answer
counts as lost, and is kept with its reason.
"""

from __future__ import annotations

import threading
import time
from math import inf
from typing import TYPE_CHECKING, Self

from support import DEADLINE, Client, wait_for

if TYPE_CHECKING:
    import ssl

BODY = bytes(range(256)) * 64  # 16 KiB
PAUSE = 0.004


class Clients:
    """Threads that send requests while the ``with`` block runs. ``answered`` is how many had the right response, and
    ``wrong`` says what else there was.

    Each client waits for ``pause`` seconds before it sends again. Without it, they take the processors for as long as
    a test waits for the starts of workers. 6 clients still send about 1,000 requests a second.
    """

    def __init__(self, clients: int, pause: float) -> None:
        self._stop = threading.Event()
        self._pause = pause
        self._threads = [threading.Thread(target=self._run, args=[number]) for number in range(clients)]
        self._lock = threading.Lock()
        self.answered = 0
        self.wrong: list[str] = []

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(DEADLINE)

    def wait_for(self, answered: int, timeout: float = 120) -> None:
        """Until so many more requests were answered."""
        goal = self.answered + answered
        wait_for(lambda: self.answered >= goal or self.wrong, timeout=timeout)

    def _run(self, number: int) -> None:
        while not self._stop.wait(self._pause):
            try:
                self._ask(number)
            except Exception as error:
                with self._lock:
                    self.wrong.append(f"client {number}: {type(error).__name__}: {error}")

    def _ask(self, number: int) -> None:
        """The requests of a client on one connection, or until the end."""
        raise NotImplementedError


class Load(Clients):
    """``clients`` threads that send requests to ``port``."""

    def __init__(self, port: int, clients: int = 6, tls: ssl.SSLContext | None = None, pause: float = PAUSE) -> None:
        super().__init__(clients, pause)
        self._port = port
        self._tls = tls
        self.longest = 0.0  # seconds
        self.bodies: set[bytes] = set()  # the different answers to GET

    def _ask(self, number: int) -> None:
        (self._keep_alive, self._fresh, self._post)[number % 3]()

    def _count(self, began: float, body: bytes) -> None:
        with self._lock:
            self.answered += 1
            self.longest = max(self.longest, time.perf_counter() - began)
            self.bodies.add(body)

    def _get(self, client: Client, began: float) -> bool:
        response = client.get("/version")
        assert response.status == 200, response.status
        self._count(began, response.body)
        return response.headers["Connection"] == "close"

    def _keep_alive(self) -> None:
        with Client(self._port, tls=self._tls) as client:
            while not self._stop.wait(self._pause):
                if self._get(client, time.perf_counter()):
                    return

    def _fresh(self) -> None:
        began = time.perf_counter()
        with Client(self._port, tls=self._tls) as client:
            self._get(client, began)

    def _post(self) -> None:
        head = f"POST /echo HTTP/1.1\r\nHost: test\r\nContent-Length: {len(BODY)}\r\n\r\n".encode()
        with Client(self._port, tls=self._tls) as client:
            while not self._stop.wait(self._pause):
                began = time.perf_counter()
                client.send(head + BODY)
                response = client.read()
                assert (response.status, response.body) == (200, BODY), response.status
                self._count(began, b"")
                if response.headers["Connection"] == "close":
                    return


class Numbered(Clients):
    """Each request has a number, and the clients look whether the response is to that request.

    ``cut`` has the connections that ended without a response, or got none in ``patience`` seconds: for each the seconds
    for which it had been idle when the request was sent, 0 for a new one.
    """

    def __init__(self, port: int, clients: int = 6, patience: float = DEADLINE, pause: float = PAUSE) -> None:
        super().__init__(clients, pause)
        self._port = port
        self._patience = patience
        self._number = 0
        self._asked = [0.0] * clients  # when each has sent its last request,
        self._answered = [inf] * clients  # and when its connection has had the last response
        self.cut: list[float] = []
        self.pids: set[int] = set()

    def _ask(self, number: int) -> None:
        self._answered[number] = inf
        try:
            (self._keep_alive, self._fresh, self._pipelined)[number % 3](number)
        except (ConnectionError, EOFError, TimeoutError):
            with self._lock:
                self.cut.append(max(0.0, self._asked[number] - self._answered[number]))

    def _next(self, client: int) -> tuple[str, bytes, bytes]:
        """The target, the body and the bytes of a request that is like no other one."""
        with self._lock:
            self._number += 1
            number = self._number
        self._asked[client] = time.perf_counter()
        target, body = f"/{client}/{number}", b"%d;" % number * (number % 400)
        head = f"POST {target} HTTP/1.1\r\nHost: a\r\nContent-Length: {len(body)}\r\n\r\n"
        return target, body, head.encode() + body

    def _read(self, number: int, client: Client, target: str, body: bytes) -> bool:
        response = client.read()
        self._answered[number] = time.perf_counter()
        pid, path, echo = response.body.split(b" ", 2)
        with self._lock:
            if (response.status, path.decode(), echo) == (200, target, body):
                self.answered += 1
                self.pids.add(int(pid))
            else:
                self.wrong.append(f"{target} got {response.status} {path!r}")
        return response.headers["Connection"] == "close"

    def _keep_alive(self, number: int) -> None:
        with Client(self._port, self._patience) as client:
            while not self._stop.wait(self._pause):
                target, body, data = self._next(number)
                client.send(data)
                if self._read(number, client, target, body):
                    return

    def _fresh(self, number: int) -> None:
        with Client(self._port, self._patience) as client:
            target, body, data = self._next(number)
            client.send(data)
            self._read(number, client, target, body)

    def _pipelined(self, number: int) -> None:
        """Three at once. What comes behind a response with close is not answered, and is sent again by a client."""
        with Client(self._port, self._patience) as client:
            while not self._stop.wait(self._pause):
                requests = [self._next(number) for _ in range(3)]
                client.send(b"".join(data for _, _, data in requests))
                for target, body, _ in requests:
                    if self._read(number, client, target, body):
                        return
