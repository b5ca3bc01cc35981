"""From addresses to listeners.

Binding and listening are two steps, for two reasons. A unix socket gets its permissions before any client can connect.
And listening can fail as well: SO_REUSEADDR, which a restart needs while connections of the last run are in TIME_WAIT,
lets two sockets be bound to one port as long as neither listens. So the server owns an address only when :func:`listen`
has returned. SO_REUSEPORT, which would share the address for good, is never set.

Names are looked up in a separate step, since a name server may be slow. Meanwhile signals have their usual effect.
During the bind they are held back, so that no signal leaves the file of a unix socket behind.
"""

import errno
import os
import socket
import sys
from contextlib import suppress
from typing import Any, Final

from ..config.addresses import Inherited, parse_address, read_address
from ..errors import BindError, UsageError
from ..logger import logger
from .inherited import adopt
from .listener import is_tcp
from .unix_socket import bind_error, bind_unix

Found = list[tuple[Any, ...]]
"""The result of ``getaddrinfo``."""


_ALL = ("", "::")


def look_up(value: str) -> Found:
    """The addresses of the host that ``value`` names; empty if there is nothing to look up.

    Raises UsageError if ``value`` is no address, and BindError if the host is unknown.
    """
    address = parse_address(value)
    if isinstance(address, (Inherited, str)) or address[0] in _ALL:
        return []
    return _look_up(value, *address)


def create_bind_socket(
    value: str, *, unix_socket_perms: int = 0o600, unix_socket_group: str | None = None, dualstack_ipv6: bool = False
) -> socket.socket:
    """A socket bound to ``value`` (``HOST:PORT``, ``[IPV6]:PORT``, ``:PORT``, ``unix:PATH``) that does not listen yet.

    The file of a unix socket gets these permissions and, if one is named, this group. ``fd:N`` is a socket that another
    program has opened, and that may listen already. Raises UsageError if ``value`` is no address, and BindError if the
    address cannot be used.
    """
    return bind(
        value,
        look_up(value),
        unix_socket_perms=unix_socket_perms,
        unix_socket_group=unix_socket_group,
        dualstack_ipv6=dualstack_ipv6,
    )


def bind(
    value: str, found: Found, *, unix_socket_perms: int, unix_socket_group: str | None, dualstack_ipv6: bool
) -> socket.socket:
    """As :func:`create_bind_socket`, to the addresses that :func:`look_up` has ``found`` for ``value``."""
    address = parse_address(value)
    if isinstance(address, Inherited):
        if not address.name.isdigit():
            raise UsageError(f"{value}: systemd has passed on no listener of this name")
        return adopt(int(address.name), value)
    if isinstance(address, str):
        return bind_unix(address, unix_socket_perms, unix_socket_group)
    host, port = address
    if not dualstack_ipv6 or host not in _ALL:
        return _bind_tcp(value, host, found or _look_up(value, host, port), dualstack_ipv6)
    try:
        return _bind_tcp(value, "::", _look_up(value, "::", port), dualstack_ipv6)
    except BindError as error:
        if not _lacks_ipv6(error.__cause__):
            raise
    logger.warning("%s: this system has no IPv6, so the server listens on 0.0.0.0, for IPv4 clients only", value)
    return _bind_tcp(value, "0.0.0.0", _look_up(value, "0.0.0.0", port), False)


def _lacks_ipv6(error: BaseException | None) -> bool:
    """Whether IPv6 is missing or switched off: then not even the address of all interfaces can be bound."""
    if isinstance(error, socket.gaierror):
        return True
    return isinstance(error, OSError) and error.errno in (errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL)


def listen(sock: socket.socket, backlog: int) -> None:
    """Make a bound socket a listener. Raises BindError if another process got the port after both had bound it."""
    if is_tcp(sock):
        _ask_silent_clients(sock)
    try:
        sock.listen(backlog)
    except OSError as error:
        raise bind_error(_name(sock), error) from error


_KEEPALIVE: Final = {"TCP_KEEPIDLE": 60, "TCP_KEEPALIVE": 60, "TCP_KEEPINTVL": 10, "TCP_KEEPCNT": 6}
"""Seconds of silence (on macOS under another name), seconds between two questions, and how many may have no answer."""


def _ask_silent_clients(sock: socket.socket) -> None:
    """Let the system ask clients that have been silent for a minute whether they are still there.

    A client whose network is gone sends no end. Nothing else would notice that while nothing is sent to it either, as
    in a long poll or an event stream that has nothing to tell. Connections inherit these options from their listener.
    A program that has passed on a listener with keepalive has chosen its times, as with KeepAliveTimeSec= of systemd.
    """
    with suppress(OSError):
        if sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE):
            return
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for name, value in _KEEPALIVE.items():
            if hasattr(socket, name):
                sock.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)


def describe(sock: socket.socket, scheme: str = "http") -> str:
    """The address for clients: ``http://127.0.0.1:8000``, ``http://[::1]:8000``, ``unix:/run/zibai.sock``."""
    name = _name(sock)
    return name if name.startswith("unix:") else f"{scheme}://{name}"


def is_public(sock: socket.socket) -> bool:
    """Whether the socket is bound to all addresses, or to a public one."""
    if sock.family not in (socket.AF_INET, socket.AF_INET6):
        return False
    address = read_address(sock.getsockname()[0])
    return address is not None and (address.is_unspecified or not address.is_private)


def _name(sock: socket.socket) -> str:
    address = sock.getsockname()
    if sock.family not in (socket.AF_INET, socket.AF_INET6):
        name = os.fsdecode(address)
        return f"unix:@{name[1:]}" if name.startswith("\0") else f"unix:{name}"  # an abstract socket, without a file
    host, port = address[:2]
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _look_up(value: str, host: str, port: int) -> Found:
    try:
        found = socket.getaddrinfo(host or "0.0.0.0", port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except (socket.gaierror, UnicodeError) as error:
        raise BindError(f"cannot listen on {value}: unknown host {host!r}") from error
    # A name with both kinds of address, such as localhost, gets IPv4: every client reaches 127.0.0.1.
    return sorted(found, key=lambda info: info[0] != socket.AF_INET)


def _bind_tcp(value: str, host: str, found: Found, dualstack_ipv6: bool) -> socket.socket:
    for position, (family, kind, protocol, _, address) in enumerate(found):
        try:
            return _bound(socket.socket(family, kind, protocol), address, dualstack_ipv6)
        except OSError as error:
            # A system without IPv6 can still resolve names to it; then the next address may work.
            elsewhere = error.errno in (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT) and position + 1 < len(found)
            if not elsewhere:
                raise bind_error(value, error) from error
    raise BindError(f"cannot listen on {value}: {host!r} has no address")


def _bound(sock: socket.socket, address: tuple[str | int, ...] | tuple[int, bytes], dualstack: bool) -> socket.socket:
    try:
        if sys.platform == "win32":
            # On Windows, SO_REUSEADDR can take a port away from another process. This option protects the port.
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_EXCLUSIVEADDRUSE, 1)
        else:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if sock.family == socket.AF_INET6:
            # Set in both cases, since the default is a setting of the system.
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0 if dualstack else 1)
        sock.bind(address)
    except OSError:
        sock.close()
        raise
    return sock
