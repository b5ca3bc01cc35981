"""The limit: a loop that answers a constant. ``python -m benchmarks.bareloop PORT WORKLOAD``.

It does what every server in Python has to do, and nothing else: ``epoll``, ``recv``, ``send``, and a look for the end
of the head. There is no application, no environ and no parsing; the answer is as long as this server's.
Level-triggered, with TCP_NODELAY, and like the others one process on one processor.
"""

import select
import socket
import sys
from email.utils import formatdate
from typing import TYPE_CHECKING

from .apps import HELLO, PAGE

if TYPE_CHECKING:
    from collections.abc import Callable

ANSWERS = {"page": ("text/html; charset=utf-8", PAGE)}


def answer(workload: str) -> bytes:
    """What a server would send, head and body."""
    kind, body = ANSWERS.get(workload, ("text/plain; charset=utf-8", HELLO))
    close = "Connection: close\r\n" if workload == "new" else ""
    head = (
        f"HTTP/1.1 200 OK\r\nContent-Type: {kind}\r\nContent-Length: {len(body)}\r\nServer: bare\r\n"
        f"Date: {formatdate(usegmt=True)}\r\n{close}\r\n"
    )
    return head.encode() + body


def serve(port: int, workload: str) -> None:
    if sys.platform != "linux":
        sys.exit("the bare loop needs epoll, which is Linux'")
    listener = socket.create_server(("127.0.0.1", port), backlog=4096)
    listener.setblocking(False)
    poll = select.epoll()
    poll.register(listener, select.EPOLLIN)
    answered, closes = answer(workload), workload == "new"
    clients: dict[int, tuple[socket.socket, Callable[[int], bytes], Callable[[bytes], int]]] = {}
    heads: dict[int, bytes] = {}  # of clients that have sent half a head

    while True:
        for fd, _ in poll.poll():
            if fd not in clients:
                client, _ = listener.accept()
                client.setblocking(False)
                client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                clients[client.fileno()] = client, client.recv, client.send
                poll.register(client, select.EPOLLIN)
                continue
            client, receive, send = clients[fd]
            try:
                data = receive(65536)
                if heads:
                    data = heads.pop(fd, b"") + data
                if b"\r\n\r\n" in data:
                    send(answered)
                    if not closes:
                        continue
                elif data:
                    heads[fd] = data
                    continue
            except ConnectionError:
                pass
            del clients[fd]
            client.close()


if __name__ == "__main__":
    serve(int(sys.argv[1]), sys.argv[2])
