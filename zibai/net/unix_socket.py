"""Unix sockets, and their files.

A file that a dead server has left is replaced. To find out, the server connects: a connection that is refused means
that no process listens. Any other file at that path stays. At the end, the file is removed if it is still the one that
this process has made. If several servers share a listener, the last one to close it finds that no process listens, and
removes the file.
"""

import errno
import os
import socket
import stat
import sys
from contextlib import suppress
from typing import NamedTuple
from weakref import WeakKeyDictionary

from ..errors import BindError, UsageError
from ..system.privileges import find_group


class SocketFile(NamedTuple):
    """The file of a unix socket, and the process that must remove it."""

    path: str
    device: int
    inode: int
    owner: int


# Keyed by the socket object that was bound: a copy in a spawned worker is not a key, and in a forked worker the owner's
# process id differs, so only the process that made a file removes it.
_socket_files: WeakKeyDictionary[socket.socket, SocketFile] = WeakKeyDictionary()


def bind_unix(path: str, perms: int, group: str | None) -> socket.socket:
    """A socket bound to ``path``, whose file has these permissions and this group; raises UsageError or BindError."""
    if sys.platform == "win32":
        raise UsageError(f"unix:{path}: there are no unix sockets on this system; listen on HOST:PORT")
    gid = -1 if group is None else find_group(group, "--unix-socket-group")
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    bound = False
    try:
        clear_the_way(path)
        # By the umask, since a chmod would follow a link that another user puts there after the bind.
        # The umask belongs to the whole process, so it is changed for this one call only.
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
            raise bind_error(f"unix:{path}", error) from error
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


def clear_the_way(path: str) -> None:
    """Remove the socket that a dead server has left at ``path``; raises BindError for anything else there."""
    if sys.platform == "win32":
        return
    try:
        mode = os.lstat(path).st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(mode):
        raise BindError(f"cannot listen on unix:{path}: the path exists and is no socket; move it away")
    if _is_listening(path):
        raise bind_error(f"unix:{path}", OSError(errno.EADDRINUSE, os.strerror(errno.EADDRINUSE)))
    os.unlink(path)


def _is_listening(path: str) -> bool:
    """Whether a process listens on this unix socket."""
    if sys.platform == "win32":
        return False
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.setblocking(False)  # another server whose backlog is full must not block this one
        try:
            probe.connect(path)
        except ConnectionRefusedError:
            return False
        except BlockingIOError:
            pass  # a process listens, and its backlog is full
    return True


def socket_file(sock: socket.socket) -> SocketFile | None:
    """The file of a unix socket that this process must remove; None for any other socket."""
    made = _socket_files.get(sock)
    return made if made is not None and made.owner == os.getpid() else None


def take_socket_file(sock: socket.socket, path: str, device: int, inode: int) -> None:
    """Let this process remove a file that another process has made; see :func:`unlink_unix_socket`."""
    _socket_files[sock] = SocketFile(path, device, inode, os.getpid())


def unlink_unix_socket(sock: socket.socket, *, shared: bool = False) -> None:
    """Remove the file of a unix socket if it is this process that must remove it.

    Call it before ``sock`` is closed: an open socket keeps its inode from being reused, so the same inode is the same
    file. A file that another server has put in its place stays.

    The file of a socket that is ``shared`` with another server is removed only when no process listens on it. Then call
    this after ``sock`` is closed, also in the workers: the last server removes the file, in whatever order they end.
    """
    made = socket_file(sock)
    _socket_files.pop(sock, None)
    if made is None:
        return
    # The file is gone already. Or the directory belongs to root, which bound the socket; then the next start replaces
    # the file.
    with suppress(FileNotFoundError, PermissionError):
        status = os.lstat(made.path)
        if (status.st_dev, status.st_ino) == (made.device, made.inode) and not (shared and _is_listening(made.path)):
            os.unlink(made.path)


def give_unix_socket(sock: socket.socket, owner: tuple[int, int]) -> None:
    """Give the file of a unix socket that was made here to another user and group; -1 keeps the present one."""
    made = _socket_files.get(sock)
    if made is not None and sys.platform != "win32":
        os.chown(made.path, *owner, follow_symlinks=False)


def bind_error(name: str, error: OSError) -> BindError:
    """The error of a listener, with what to do about it; ``name`` is the address."""
    match error.errno:
        case errno.EADDRINUSE:
            return BindError(f"{name} is in use; stop what listens there, or choose another address")
        case errno.EACCES | errno.EPERM:
            return BindError(f"no permission to listen on {name}; choose another address")
        case errno.EADDRNOTAVAIL:
            return BindError(f"cannot listen on {name}: this machine has no such address")
        case None:  # raised by Python before it asks the system: "AF_UNIX path too long"
            return BindError(f"cannot listen on {name}: {error}")
        case _:
            return BindError(f"cannot listen on {name}: {error.strerror}")
