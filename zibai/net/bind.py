"""From addresses to listeners.

Binding and listening are two steps, because of what may happen between them (a unix socket gets its permissions
before anybody can connect) and because the second can fail as well: SO_REUSEADDR, which a restart needs while
connections of the last run are in TIME_WAIT, lets two sockets be bound to one port as long as neither listens. So an
address is ours only when :func:`listen` has returned. SO_REUSEPORT, which would share it for good, is never set.

A unix socket is also a file. One that a dead server left is replaced, and how to tell is to connect: nobody
answers. Anything else at that path stays. At the end the file goes if it is still the one that we made; where several
servers have the same listener, who closes it last finds that nobody answers, and removes the file.
"""

import errno
import os
import socket
import stat
import sys
from contextlib import suppress
from typing import NamedTuple
from weakref import WeakKeyDictionary

from ..config.addresses import Inherited, parse_address, read_address
from ..errors import BindError, UsageError
from ..logger import logger
from ..system.privileges import find_group
from .inherited import adopt


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
