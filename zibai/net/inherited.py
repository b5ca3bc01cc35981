"""Listeners that another program has opened: descriptors, and the environment variables that announce them.

A program that starts servers may open their sockets and keep them, so that servers can be replaced behind them.
server_starter announces them in ``SERVER_STARTER_PORT``, systemd in ``LISTEN_FDS``, any other program by ``--listen
fd:N``.

The variables are for this process only. They are removed, and processes that it starts do not inherit the descriptors:
there, the same numbers would mean something else, and a listener held by another program would never be closed. A
listener belongs to the program that has passed it on: it is closed here, but never shut down (which would affect all
processes), and its file is not removed.
"""

import errno
import os
import socket
import stat
import sys
from collections.abc import MutableMapping
from typing import NamedTuple

from ..errors import BindError, UsageError
from ..logger import logger

FIRST_DESCRIPTOR = 3
"""The first descriptor of systemd; sd_listen_fds(3)."""

_SYSTEMD = ("LISTEN_FDS", "LISTEN_PID", "LISTEN_PIDFDID", "LISTEN_FDNAMES")


class Given(NamedTuple):
    """One descriptor: the variable that announces it, its name there, and whether the other program keeps it open for
    later servers."""

    fd: int
    teller: str
    name: str = ""
    kept: bool = False


def from_environment(environ: MutableMapping[str, str]) -> list[Given]:
    """The descriptors that the environment announces; its variables are removed from ``environ``."""
    if sys.platform == "win32":
        return []
    return [*_from_server_starter(environ), *_from_systemd(environ)]


def _from_server_starter(environ: MutableMapping[str, str]) -> list[Given]:
    """``127.0.0.1:8000=3;8001=4;/run/site.sock=5``."""
    variable = "SERVER_STARTER_PORT"
    text = environ.pop(variable, "")
    pairs = [each.rpartition("=") for each in text.split(";") if each]
    if not all(equals and fd.isascii() and fd.isdigit() for _, equals, fd in pairs):
        raise UsageError(
            f"environment variable {variable}: {text!r} is not ADDRESS=DESCRIPTOR;..., start_server's form"
        )
    return [Given(int(fd), variable, name, kept=True) for name, _, fd in pairs]


def _from_systemd(environ: MutableMapping[str, str]) -> list[Given]:
    count, pid, _, names = (environ.pop(variable, "") for variable in _SYSTEMD)
    if not count:
        return []
    if not (count.isascii() and count.isdigit()):
        raise UsageError(f"environment variable LISTEN_FDS: {count!r} is no number of descriptors")
    if pid != str(os.getpid()):
        # It is for an ancestor of this process, such as a shell that was put between systemd and the server.
        logger.warning(
            "LISTEN_FDS is for process %s and this is %d, so it is ignored; let systemd start zibai itself, without a "
            "shell or another command between them",
            pid or "unknown",
            os.getpid(),
        )
        return []
    fds = range(FIRST_DESCRIPTOR, FIRST_DESCRIPTOR + int(count))
    called = names.split(":") if names else []
    called += [""] * (len(fds) - len(called))
    return [Given(fd, "LISTEN_FDS", name, kept=True) for fd, name in zip(fds, called, strict=False)]


def adopt(fd: int, teller: str) -> socket.socket:
    """A socket that owns this descriptor from now on. Raises BindError, with advice, if it is no listener."""
    if sys.platform == "win32":
        raise UsageError(f"{teller}: descriptors are not inherited on this system; listen on HOST:PORT")
    try:
        os.set_inheritable(fd, False)
        is_socket = stat.S_ISSOCK(os.fstat(fd).st_mode)
    except (OSError, OverflowError):
        raise _refusal(fd, teller, "is not open; the program that starts zibai must open it and pass it on") from None
    if not is_socket:
        raise _refusal(fd, teller, "is no socket; pass a listening one")
    sock = socket.socket(fileno=fd)
    problem = _problem(sock)
    if problem:
        sock.detach()  # the descriptor belongs to the other program
        raise _refusal(fd, teller, problem)
    return sock


def _refusal(fd: int, teller: str, problem: str) -> BindError:
    return BindError(f"{teller}: descriptor {fd} {problem}")


def _problem(sock: socket.socket) -> str:
    """Why a socket cannot be listened on; empty if it can, also if it is bound and does not listen yet."""
    if sock.type != socket.SOCK_STREAM:
        return "is no stream socket; pass a listening TCP or unix socket (systemd: ListenStream=)"
    if sock.family not in (socket.AF_INET, socket.AF_INET6, getattr(socket, "AF_UNIX", None)):
        return f"is of the address family {int(sock.family)}; pass a listening TCP or unix socket"
    try:
        sock.getpeername()
    except OSError as error:
        if error.errno not in (errno.ENOTCONN, errno.EINVAL):  # macOS has the second for one that was shut down
            return f"cannot be used: {error.strerror}"
    else:
        return "is a connection; pass a listening socket (systemd: Accept=no; inetd: wait)"
    address = sock.getsockname()
    if not (address[1] if isinstance(address, tuple) else address):
        return "is bound to no address; bind it before it is passed"
    return ""
