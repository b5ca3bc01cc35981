"""From addresses to listeners.

Binding and listening are two steps, because of what may happen between them (a unix socket gets its permissions
before anybody can connect) and because the second can fail as well: SO_REUSEADDR, which a restart needs while
connections of the last run are in TIME_WAIT, lets two sockets be bound to one port as long as neither listens. So an
address is ours only when :func:`listen` has returned. SO_REUSEPORT, which would share it for good, is never set.

A unix socket is also a file. One that a dead server left is replaced, and how to tell is to connect: nobody
answers. Anything else at that path stays. At the end the file goes if it is still the one that we made; where several
servers have the same listener, who closes it last finds that nobody answers, and removes the file.
"""

import _socket
import errno
import os
import socket
import stat
import sys
from collections.abc import Callable
from contextlib import suppress
from math import inf
from typing import Final, NamedTuple
from weakref import WeakKeyDictionary

from .config.addresses import Inherited, parse_address
from .errors import BindError, UsageError
from .inherited import adopt
from .logger import logger
from .privileges import find_group
from .trust import plain_host, read_address

# The C type that both the standard library's and gevent's sockets wrap; see Listener.
Socket = _socket.socket


class SocketFile(NamedTuple):
    """The file of a unix socket, and the process that is to remove it."""

    path: str
    device: int
    inode: int
    owner: int


# Keyed by the very object that was bound: a copy in a spawned worker is not in here, and one in a forked worker is
# known by the owner's process id, so only the process that made a file removes it.
_socket_files: WeakKeyDictionary[socket.socket, SocketFile] = WeakKeyDictionary()


def create_bind_socket(
    value: str, *, unix_socket_perms: int = 0o600, unix_socket_group: str | None = None, dualstack_ipv6: bool = False
) -> socket.socket:
    """A socket bound to ``value`` (``HOST:PORT``, ``[IPV6]:PORT``, ``:PORT``, ``unix:PATH``) that does not listen yet.

    The file of a unix socket gets these permissions and, if one is named, this group.
    ``fd:N`` is one that somebody else has opened, and that may listen already. UsageError if ``value`` is no address,
    BindError if it cannot be had.
    """
    address = parse_address(value)
    if isinstance(address, Inherited):
        if not address.name.isdigit():
            raise UsageError(f"{value}: systemd has given no listener of this name")
        return adopt(int(address.name), value)
    if isinstance(address, str):
        return _bind_unix(address, unix_socket_perms, unix_socket_group)
    host, port = address
    if not dualstack_ipv6 or host not in ("", "::"):
        return _bind_tcp(value, host or "0.0.0.0", port, dualstack_ipv6)
    try:
        return _bind_tcp(value, "::", port, dualstack_ipv6)
    except BindError as error:
        if not _lacks_ipv6(error.__cause__):
            raise
    logger.warning("%s: this system has no IPv6, so the server listens on 0.0.0.0, for IPv4 clients only", value)
    return _bind_tcp(value, "0.0.0.0", port, False)


def _lacks_ipv6(error: BaseException | None) -> bool:
    """Whether the system has no IPv6, or has it switched off: then even the address of all interfaces is not there."""
    if isinstance(error, socket.gaierror):
        return True
    return isinstance(error, OSError) and error.errno in (errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL)


def listen(sock: socket.socket, backlog: int) -> None:
    """Make a bound socket a listener. BindError if another one got the port after both were bound."""
    try:
        sock.listen(backlog)
    except OSError as error:
        raise _bind_error(_name(sock), error) from error


def is_tcp(sock: socket.socket) -> bool:
    return sock.family != getattr(socket, "AF_UNIX", None)


def describe(sock: socket.socket, scheme: str = "http") -> str:
    """Where clients find it: ``http://127.0.0.1:8000``, ``http://[::1]:8000``, ``unix:/run/zibai.sock``."""
    name = _name(sock)
    return name if name.startswith("unix:") else f"{scheme}://{name}"


def is_public(sock: socket.socket) -> bool:
    """Whether it is bound to every address, or to one that the internet knows."""
    if sock.family not in (socket.AF_INET, socket.AF_INET6):
        return False
    address = read_address(sock.getsockname()[0])
    return address is not None and (address.is_unspecified or not address.is_private)


def _name(sock: socket.socket) -> str:
    address = sock.getsockname()
    if sock.family not in (socket.AF_INET, socket.AF_INET6):
        name = os.fsdecode(address)
        return f"unix:@{name[1:]}" if name.startswith("\0") else f"unix:{name}"  # an abstract one has no file
    host, port = address[:2]
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _bind_tcp(value: str, host: str, port: int, dualstack_ipv6: bool) -> socket.socket:
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except (socket.gaierror, UnicodeError) as error:
        raise BindError(f"cannot listen on {value}: unknown host {host!r}") from error
    # A name with both kinds of address, as localhost, gets IPv4: everybody who was told it reaches 127.0.0.1.
    found.sort(key=lambda info: info[0] != socket.AF_INET)
    for position, (family, kind, protocol, _, address) in enumerate(found):
        try:
            return _bound(socket.socket(family, kind, protocol), address, dualstack_ipv6)
        except OSError as error:
            # A system without IPv6 can still resolve to it; then the next address may do.
            elsewhere = error.errno in (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT) and position + 1 < len(found)
            if not elsewhere:
                raise _bind_error(value, error) from error
    raise BindError(f"cannot listen on {value}: {host!r} has no address")


def _bound(sock: socket.socket, address: tuple[str | int, ...] | tuple[int, bytes], dualstack: bool) -> socket.socket:
    try:
        if sys.platform == "win32":
            # Over there SO_REUSEADDR takes a port away from whoever has it, and without this they could take ours.
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_EXCLUSIVEADDRUSE, 1)
        else:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if sock.family == socket.AF_INET6:
            # Said in both cases: the default is a setting of the system.
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0 if dualstack else 1)
        sock.bind(address)
    except OSError:
        sock.close()
        raise
    return sock


def _bind_unix(path: str, perms: int, group: str | None) -> socket.socket:
    if sys.platform == "win32":
        raise UsageError(f"unix:{path}: there are no unix sockets on this system; listen on HOST:PORT")
    gid = -1 if group is None else find_group(group, "--unix-socket-group")
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    bound = False
    try:
        _clear_the_way(path)
        # The permissions come with the file. A chmod would follow a link that another user puts there after the bind.
        # The umask belongs to the whole process, so it is another one for no longer than this call.
        umask = os.umask(0o777 & ~perms)
        try:
            sock.bind(path)
        finally:
            os.umask(umask)
        bound = True
        if group is not None:
            _give_to_group(path, gid, group)
        status = os.lstat(path)
        _socket_files[sock] = SocketFile(os.path.abspath(path), status.st_dev, status.st_ino, os.getpid())
    except BaseException as error:
        sock.close()
        if bound:
            with suppress(FileNotFoundError):
                os.unlink(path)
        if isinstance(error, OSError):
            raise _bind_error(f"unix:{path}", error) from error
        raise
    return sock


def _give_to_group(path: str, gid: int, group: str) -> None:
    if sys.platform == "win32":
        return
    try:
        os.chown(path, -1, gid, follow_symlinks=False)
    except PermissionError:
        raise BindError(
            f"no permission to give unix:{path} to the group {group}; start the server as a member of it, or as root"
        ) from None


def _clear_the_way(path: str) -> None:
    """Remove the socket that a dead server left at ``path``; BindError for anything else that is there."""
    if sys.platform == "win32":
        return
    try:
        mode = os.lstat(path).st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(mode):
        raise BindError(f"cannot listen on unix:{path}: there is something that is no socket; move it away")
    if _is_answered(path):
        raise _bind_error(f"unix:{path}", OSError(errno.EADDRINUSE, os.strerror(errno.EADDRINUSE)))
    os.unlink(path)


def _is_answered(path: str) -> bool:
    """Whether somebody listens on this unix socket."""
    if sys.platform == "win32":
        return False
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.setblocking(False)  # a server whose backlog is full must not hold us
        try:
            probe.connect(path)
        except ConnectionRefusedError:
            return False
        except BlockingIOError:
            pass  # somebody is there, only busy
    return True


def socket_file(sock: socket.socket) -> SocketFile | None:
    """The file of a unix socket, where it is this process that removes it."""
    made = _socket_files.get(sock)
    return made if made is not None and made.owner == os.getpid() else None


def take_socket_file(sock: socket.socket, path: str, device: int, inode: int) -> None:
    """Have this process remove the file, which another one has made; see :func:`unlink_unix_socket`."""
    _socket_files[sock] = SocketFile(path, device, inode, os.getpid())


def unlink_unix_socket(sock: socket.socket, *, shared: bool = False) -> None:
    """Remove the file of a unix socket that :func:`create_bind_socket` made in this process; else do nothing.

    Call it before ``sock`` is closed: an open socket keeps its inode from being used again, which is what makes
    "the same inode" mean "the same file". A file that a successor has put in its place stays.

    One that is ``shared`` with another server goes only when nobody listens any more; call it after ``sock`` is closed,
    also in the workers. Who was last then knows it, in whatever order the servers end, or die.
    """
    made = socket_file(sock)
    _socket_files.pop(sock, None)
    if made is None:
        return
    # Somebody was faster, which is all the same; or the directory is root's, who bound it. The next start replaces it.
    with suppress(FileNotFoundError, PermissionError):
        status = os.lstat(made.path)
        if (status.st_dev, status.st_ino) == (made.device, made.inode) and not (shared and _is_answered(made.path)):
            os.unlink(made.path)


def give_unix_socket(sock: socket.socket, owner: tuple[int, int]) -> None:
    """Let the file of a unix socket that was made here belong to another user and group; -1 keeps the one there is."""
    made = _socket_files.get(sock)
    if made is not None and sys.platform != "win32":
        os.chown(made.path, *owner, follow_symlinks=False)


def _bind_error(name: str, error: OSError) -> BindError:
    match error.errno:
        case errno.EADDRINUSE:
            return BindError(f"{name} is in use; stop what listens there, or choose another address")
        case errno.EACCES | errno.EPERM:
            return BindError(f"no permission to listen on {name}; choose another address")
        case errno.EADDRNOTAVAIL:
            return BindError(f"cannot listen on {name}: this machine has no such address")
        case None:  # what Python itself says before it asks the system: "AF_UNIX path too long"
            return BindError(f"cannot listen on {name}: {error}")
        case _:
            return BindError(f"cannot listen on {name}: {error.strerror}")


def raise_descriptor_limit() -> None:
    """Let this process open as many descriptors as it may: a connection is one, and 256 or 1024 are soon used up."""
    if sys.platform == "win32":
        return  # no such limit for sockets
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    # macOS reports an infinite hard limit and then refuses it as a soft one; 10240 is its OPEN_MAX, always allowed.
    for limit in (hard, 10240):
        if soft == resource.RLIM_INFINITY or (limit <= soft and limit != resource.RLIM_INFINITY):
            continue
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (limit, hard))
            return
        except (ValueError, OSError):
            continue


RESERVE: Final = 32
"""Descriptors that are left to the application at least; a tenth of all where that is more."""


def descriptors_for_clients() -> float:
    """How many descriptors of this process connections, and files with their bodies, may take.

    An application that cannot open a file fails, and so does every request then. A limit that is so low that it would
    not even do for the reserve is somebody's wish, and is used up.
    """
    if sys.platform == "win32":
        return inf
    import resource

    limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if limit == resource.RLIM_INFINITY or limit < 3 * RESERVE:
        return inf
    try:
        taken = len(os.listdir("/dev/fd"))
    except OSError:
        taken = RESERVE
    return max(1, limit - taken - max(RESERVE, limit // 10))


class Endpoint(NamedTuple):
    """Where a connection came in, as an application is told: host and port are empty for a unix socket.

    ``plain``: its descriptor carries the very bytes of HTTP, so that the kernel may be told to send a file, and nothing
    else is to be known of it, so that another worker may be given it.
    """

    host: str
    port: str
    plain: bool = True


_Opened = Callable[[Socket, object, Endpoint, float], object]


class Listener:
    """A listening socket as the server loop uses it: non-blocking, and of the kind that nobody patches.

    gevent's sockets make watchers in their constructor and look whether they may block at each call; the loop
    needs neither, so it works with the C type that both they and the standard library's wrap. It has a descriptor
    of its own; the object that it was made from is kept, so that whoever gave it can still ask for its name.
    """

    def __init__(self, origin: socket.socket, *, closes_origin: bool = True) -> None:
        self._origin = origin
        self._closes_origin = closes_origin
        # Not origin.dup(), which makes the copy as blocking as it believes the origin to be. That is a flag of the open
        # socket itself, which all workers share: for a moment accept() would block, and with it whole server loops.
        self._socket = Socket(origin.family, origin.type, origin.proto, _socket.dup(origin.fileno()))
        self._socket.setblocking(False)
        self.fd = self._socket.fileno()
        self.is_tcp = is_tcp(origin)
        self.opened: _Opened | None = None  # who gets its connections instead of the acceptor's; before the loop turns
        self._endpoint = None if self._is_wildcard() else endpoint_of(self._socket)

    def _is_wildcard(self) -> bool:
        return self.is_tcp and self._socket.getsockname()[0] in ("0.0.0.0", "::")

    def accept(self) -> tuple[Socket, object]:
        """One connection, non-blocking, and the address of its peer; raises what accept(2) does."""
        fd, peer = self._socket._accept()  # type: ignore[attr-defined]
        sock = Socket(self._socket.family, self._socket.type, self._socket.proto, fd)
        sock.setblocking(False)
        return sock, peer

    def endpoint_of(self, sock: Socket) -> Endpoint:
        """Where a connection of this listener came in. OSError if it is gone already."""
        return self._endpoint or endpoint_of(sock)

    def close(self) -> None:
        """Stop listening: ours and mostly the origin, since the kernel goes on accepting while one of them is open."""
        if self.fd >= 0:
            self.fd = -1
            self._socket.close()
            if self._closes_origin:
                self._origin.close()


def endpoint_of(sock: Socket) -> Endpoint:
    """Where a connection came in, as its own name says. OSError if it is gone already."""
    name = sock.getsockname()
    return Endpoint(plain_host(name[0]), str(name[1])) if isinstance(name, tuple) else Endpoint("", "")
