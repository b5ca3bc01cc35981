"""The limit for ASGI: a loop that calls the application and parses nothing.

``python -m benchmarks.bareasgi PORT APP WORKLOAD``.

It does what every server in Python has to do for an ASGI application, and nothing else: ``epoll``, ``recv``, a scope of
its own for each request, the call of the application, a head made of the given fields, ``send``. The scope is always
the same, no field is checked, a response has one piece, and there is no task and no event loop, so it is no server: an
application that waits fails. Level-triggered, with TCP_NODELAY, and like the others one process on one processor.
"""

import importlib
import select
import socket
import sys
from email.utils import formatdate
from typing import Any

from .asgiapps import App

FIELDS = [(b"host", b"127.0.0.1"), (b"user-agent", b"shop-client/4.2"), (b"accept", b"application/json")]
DATE = f"Date: {formatdate(usegmt=True)}\r\nServer: bare\r\n".encode()
END, END_OF_BODY = b"\r\n\r\n", b"]}"  # of a head, and of the body that the benchmark sends


class Exchange:
    """One request that came in one piece, and its response."""

    __slots__ = ("_body", "_closes", "_head", "_send")

    def __init__(self, data: bytes, client: socket.socket, closes: bool) -> None:
        self._body = data.partition(b"\r\n\r\n")[2]
        self._send = client.send
        self._closes = closes
        self._head = b""

    def scope(self) -> dict[str, Any]:
        return {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": "2.5"},
            "http_version": "1.1",
            "method": "GET",
            "scheme": "http",
            "path": "/",
            "raw_path": b"/",
            "query_string": b"",
            "root_path": "",
            "headers": FIELDS.copy(),
            "client": ("127.0.0.1", 1),
            "server": ("127.0.0.1", 80),
            "state": {},
            "extensions": {},
        }

    async def receive(self) -> dict[str, Any]:
        return {"type": "http.request", "body": self._body, "more_body": False}

    async def send(self, message: dict[str, Any]) -> None:
        if message["type"] == "http.response.start":
            fields = b"".join([b"%b: %b\r\n" % field for field in message["headers"]])
            close = b"Connection: close\r\n" if self._closes else b""
            self._head = b"HTTP/1.1 200 OK\r\n%b%b%b\r\n" % (fields, DATE, close)
        else:
            self._send(self._head + message["body"])

    def run(self, app: App) -> None:
        coroutine: Any = app(self.scope(), self.receive, self.send)
        try:
            coroutine.send(None)
        except StopIteration:
            return
        sys.exit("the application waits, and the bare loop has no event loop")


def serve(port: int, app: App, closes: bool) -> None:
    """Serve for ever. ``closes``: one request for each connection."""
    if sys.platform != "linux":
        sys.exit("the bare loop needs epoll, which is Linux'")
    listener = socket.create_server(("127.0.0.1", port), backlog=4096)
    listener.setblocking(False)
    poll = select.epoll()
    poll.register(listener, select.EPOLLIN)
    clients: dict[int, socket.socket] = {}
    begun: dict[int, bytes] = {}  # half a request of a client

    while True:
        for fd, _ in poll.poll():
            if fd not in clients:
                client, _ = listener.accept()
                client.setblocking(False)
                client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                clients[client.fileno()] = client
                poll.register(client, select.EPOLLIN)
                continue
            client = clients[fd]
            try:
                received = client.recv(65536)
                data = begun.pop(fd, b"") + received
                if received and not data.endswith(END_OF_BODY if data.startswith(b"POST ") else END):
                    begun[fd] = data
                    continue
                if received:
                    Exchange(data, client, closes).run(app)
                    if not closes:
                        continue
            except ConnectionError:
                pass
            del clients[fd]
            client.close()


if __name__ == "__main__":
    module, _, attribute = sys.argv[2].partition(":")
    serve(int(sys.argv[1]), getattr(importlib.import_module(module), attribute), sys.argv[3] == "asgi-new")
