"""The control channel: a local endpoint to which ``zibai reload``, ``stop``, ``workers`` and ``dump`` speak.

It is a unix socket of mode 0600 beside the scoreboard, or a named pipe on Windows. Requests and responses are lines of
JSON, so nothing that a client sends is executed. The kernel tells which user the peer is: only the user of the server
and root are served.

One thread waits for clients and sleeps until one comes. Each client has a thread of its own, so a client that stops in
the middle of anything delays no other. It has ``CLIENT_TIME`` seconds for its request and for taking each line, and
there are at most ``MAX_CLIENTS`` clients. None of these threads touches the workers: a command goes to the main loop,
through its queue.

All threads are threads of the system, also where gevent patches later. If a thread dies, or the process, its client
reads the end of the connection.
"""

import _socket
import json
import os
import socket
import struct
import sys
from collections.abc import Callable, Generator, Iterator
from contextlib import closing, suppress
from glob import escape, glob
from multiprocessing import connection
from typing import Any, Final, Self

from ..clock import clock
from ..errors import ZibaiError
from ..logger import logger
from ..net.unix_socket import bind_unix, clear_the_way, unlink_unix_socket
from ..system.forks import close_in_children
from ..system.lastword import start_thread
from ..system.machine import name_process
from ..system.patching import original
from ..telemetry.board_file import default_path

CLIENT_TIME: Final = 10.0
"""Seconds that a client has to send its request, and to take one line."""

MAX_CLIENTS: Final = 16
"""Clients at the same time."""

REQUEST_SIZE: Final = 64 * 1024
"""Bytes of a request."""

Request = dict[str, Any]
Handler = Callable[[Request], Iterator[dict[str, Any]]]


def address_for(control: str | None) -> str:
    """The address of this process's endpoint, for the facts of the scoreboard; empty if there is no place for it."""
    if sys.platform == "win32":
        return rf"\\.\pipe\zibai-{os.getpid()}"
    try:
        board = os.path.abspath(control) if control else default_path(name_process(os.getpid()))
    except OSError:
        return ""
    return os.path.join(os.path.dirname(board), f"zibai-{name_process(os.getpid())}.sock")


class Endpoint:
    """Serves ``handle`` at ``address``; a context manager of the main thread. If that is impossible, it logs why.

    ``handle`` gets a request and yields the lines of the response. It is called in the thread of its client.
    """

    def __init__(self, address: str, handle: Handler) -> None:
        self._address = address
        self._handle = handle
        self._listener: Any = None
        self._over = False  # set by the main thread, read by the thread that accepts
        self._clients = 0  # clients that were accepted; for the accepting thread only
        self._left: list[None] = []  # one entry for each client that has left; list.append is one step

    def __enter__(self) -> Self:
        try:
            if not self._address:
                raise OSError("there is no directory for it; name a place by --control")
            self._listener = _listen(self._address)
        except (OSError, ZibaiError) as error:
            logger.warning("no control channel, so zibai reload and zibai stop do not work: %s", error)
            return self
        if sys.platform != "win32":
            close_in_children(self._listener)
        start_thread(self._run)
        return self

    def __exit__(self, *_: object) -> None:
        if self._listener is None:
            return
        self._over = True
        _wake(self._address)
        if sys.platform != "win32":
            unlink_unix_socket(self._listener)

    def _run(self) -> None:
        """Accept clients until the end."""
        while not self._over:
            try:
                channel = _accept(self._listener)
            except (OSError, EOFError):
                if self._over:
                    break
                _pause()  # descriptors are used up, or a client has left at once
                continue
            if self._over:
                channel.close()
                break
            while self._left:
                self._left.pop()
                self._clients -= 1
            if self._clients >= MAX_CLIENTS or not channel.is_ours():
                channel.close()
                continue
            try:
                original("_thread", "start_new_thread")(self._serve, (channel,))
                self._clients += 1
            except RuntimeError:
                channel.close()  # the system has no room for a thread
        self._listener.close()

    def _serve(self, channel: "Channel") -> None:
        """One client, one request. Never raises."""
        try:
            # The response is closed first, also for a client that has left: a command may have more to do.
            with closing(channel), closing(self._respond(channel)) as lines:
                for line in lines:
                    channel.send(line)
        except (OSError, EOFError):
            pass  # it has left, or it was too slow
        except Exception:
            with suppress(Exception):
                logger.exception("the control channel: closing a client")
        finally:
            self._left.append(None)

    def _respond(self, channel: "Channel") -> Generator[dict[str, Any], None, None]:
        try:
            request = json.loads(channel.receive(CLIENT_TIME))
            if not isinstance(request, dict):
                raise TypeError
        except (ValueError, TypeError, RecursionError):
            yield {"error": "a request is one JSON object in one line"}
            return
        yield from self._handle(request)


def _pause() -> None:
    original("time", "sleep")(0.1)


if sys.platform == "win32":

    class Channel:
        """A connection over a named pipe, whose messages are whole lines."""

        def __init__(self, pipe: Any) -> None:
            self._pipe = pipe

        def is_ours(self) -> bool:
            """By default, only the user that has made a pipe, and administrators, may write to it."""
            return True

        def receive(self, timeout: float | None = None) -> bytes:
            """A line. Raises EOFError at the end, and OSError after so many seconds; None is no limit."""
            if not self._pipe.poll(timeout):
                raise TimeoutError
            data: bytes = self._pipe.recv_bytes(REQUEST_SIZE * 64)
            return data

        def send(self, line: dict[str, Any]) -> None:
            """A line."""
            self._pipe.send_bytes(json.dumps(line).encode() + b"\n")

        def close(self) -> None:
            """Close it."""
            self._pipe.close()

    def _listen(address: str) -> Any:
        return connection.Listener(address, "AF_PIPE")

    def _accept(listener: Any) -> Channel:
        return Channel(listener.accept())

    def connect(address: str) -> Channel:
        """The client's end; raises OSError."""
        return Channel(connection.Client(address, "AF_PIPE"))

    def _wake(address: str) -> None:
        """The thread that accepts ends with the process: a pipe that it does not accept would hold the end."""

else:
    # The C type: gevent's class would make a hub for each of these threads.
    _Socket = _socket.socket

    class Channel:
        """A connection over a unix socket."""

        def __init__(self, sock: _socket.socket) -> None:
            self._sock = sock
            self._data = b""

        def is_ours(self) -> bool:
            """Whether the peer is root or the user of this process, or the system does not tell."""
            return _peer(self._sock) in (None, 0, os.geteuid())

        def receive(self, timeout: float | None = None) -> bytes:
            """A line. Raises EOFError at the end, and OSError after so many seconds; None is no limit."""
            until = None if timeout is None else clock() + timeout
            while b"\n" not in self._data:
                if until is not None and (rest := until - clock()) <= 0:
                    raise TimeoutError
                self._sock.settimeout(None if until is None else rest)
                data = self._sock.recv(REQUEST_SIZE)
                if not data or len(self._data) > 64 * REQUEST_SIZE:
                    raise EOFError
                self._data += data
            line, _, self._data = self._data.partition(b"\n")
            return line

        def send(self, line: dict[str, Any]) -> None:
            """A line."""
            self._sock.settimeout(CLIENT_TIME)
            self._sock.sendall(json.dumps(line).encode() + b"\n")

        def close(self) -> None:
            """Close it."""
            self._sock.close()

    def _peer(sock: _socket.socket) -> int | None:
        """The user id of the peer; None if the system does not tell."""
        try:
            if sys.platform == "linux":
                credentials = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)
                return int(struct.unpack("=iii", credentials)[1])
            if sys.platform == "darwin":
                # LOCAL_PEERCRED of SOL_LOCAL: struct xucred, which begins with its version and the user id.
                return int(struct.unpack_from("=II", sock.getsockopt(0, 1, 76))[1])
        except (OSError, struct.error):
            pass  # the system has no such option, or tells less than it should: the peer is unknown
        return None

    def _listen(address: str) -> Any:
        for path in glob(os.path.join(escape(os.path.dirname(address)), "zibai-*.sock")):
            with suppress(OSError, ZibaiError):
                clear_the_way(path)  # a server that was killed has left it
        sock = bind_unix(address, 0o600, None)
        sock.listen(MAX_CLIENTS)
        return sock

    def _accept(listener: Any) -> Channel:
        return Channel(_Socket(fileno=listener._accept()[0]))

    def _wake(address: str) -> None:
        """Let the thread that accepts see that it is over."""
        with suppress(OSError), closing(_Socket(socket.AF_UNIX)) as sock:
            sock.setblocking(False)
            sock.connect(address)

    def connect(address: str) -> Channel:
        """The client's end; raises OSError."""
        sock = _Socket(socket.AF_UNIX)
        try:
            sock.settimeout(CLIENT_TIME)
            sock.connect(address)
        except BaseException:
            sock.close()
            raise
        return Channel(sock)
