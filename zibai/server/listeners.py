"""The listeners of a server: where they come from, whether another server shares them, and how they are closed.

They are bound here, or given: by the environment, by ``--listen fd:N``, or by the old server in an upgrade. With a
listener that is not shared, its waiting connections would be lost, so this server serves them, and removes the file of
a unix socket at once. A shared listener is only closed: the other server takes the waiting connections.

The listener of ``--health-listen`` has the same origins, but is kept apart: workers do not get it, and it stays open
until the very end.
"""

import os
from collections.abc import Sequence
from socket import socket
from typing import Any, Self

from ..config.addresses import Inherited, parse_address
from ..config.options import LISTEN, Options
from ..errors import UsageError
from ..logger import logger
from ..net.bind import Found, bind, listen, look_up
from ..net.inherited import Given, adopt
from ..net.unix_socket import socket_file, take_socket_file, unlink_unix_socket

# A listener on its way to the new server: its descriptor; path, device and inode of a file that must be removed; and
# whether it is for ``--health-listen``.
Passed = tuple[int, Sequence[Any] | None, bool]


class Listeners:
    """The listeners of one server, open within the ``with`` block. Only the main thread calls it.

    ``given`` come from the environment. ``passed`` come from the old server in an upgrade, and then there are no
    others. With ``--redirect-http`` the last of ``sockets`` is for that; ``health`` are for ``--health-listen``.
    ``are_shared`` is set when this server has passed them on, or got them from an old one, which may live longer.
    """

    def __init__(self, options: Options, given: Sequence[Given], passed: Sequence[Passed] | None = None) -> None:
        self.sockets: list[socket] = []
        self.health: list[socket] = []
        self.are_shared = passed is not None
        self.are_kept = False  # whether the process that has given them keeps all of them open
        self.is_health_kept = False
        self._options = options
        self._given = given
        self._passed = passed
        self._found: dict[str, Found] = {}  # by address

    def look_up(self) -> None:
        """Look names up before the ``with`` block, so that the block waits for no name server. Raises as the block."""
        options = self._options
        if self._passed is None:
            for address in (options.health_listen, options.redirect_http, *(options.listen or [])):
                if address is not None:
                    self._found[address] = look_up(address)

    def __enter__(self) -> Self:
        try:
            if self._passed is not None:
                for each in self._passed:
                    self._take(*each)
            else:
                self._open()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._close(self.sockets + self.health)
        if self.are_shared:
            for sock in self.sockets + self.health:
                unlink_unix_socket(sock, shared=True)

    def stop(self) -> None:
        """Stop listening here, or the kernel keeps accepting connections that no process serves. Idempotent."""
        self._close(self.sockets)

    def _close(self, sockets: list[socket]) -> None:
        for sock in sockets:
            if not self.are_shared:
                unlink_unix_socket(sock)
            sock.close()

    def pass_on(self) -> list[Passed]:
        """Describe them for a new server, as plain data; it inherits the descriptors. They are shared from now on."""
        self.are_shared = True
        passed: list[Passed] = []
        for sock in self.sockets + self.health:
            file = socket_file(sock)
            passed.append((sock.fileno(), file and file[:3], sock in self.health))
        return passed

    def _add(self, sock: socket, sockets: list[socket]) -> None:
        sockets.append(sock)
        listen(sock, self._options.backlog)

    def _take(self, fd: int, file: Sequence[Any] | None, for_health: bool) -> None:
        sock = adopt(fd, "the listener of the old server")
        self._add(sock, self.health if for_health else self.sockets)
        if file is not None:
            take_socket_file(sock, *file)

    def _open(self) -> None:
        options, used = self._options, set[int]()
        if options.health_listen is not None:
            self._get("--health-listen", options.health_listen, used, self.health)
        health = set(used)
        if options.redirect_http is not None:
            self._get("--redirect-http", options.redirect_http, used, self.sockets)
            if len(self.sockets) > 1:
                raise UsageError(f"--redirect-http: {options.redirect_http} is more than one listener; take its fd:N")
        others = set(used)
        addresses = options.listen
        if addresses is None:
            # Several may have the same name, so each is called by its number.
            addresses = [f"fd:{each.fd}" for each in self._given if each.fd not in others] or [LISTEN]
        for address in addresses:
            self._get("--listen", address, used, self.sockets)
        if options.redirect_http is not None:
            self.sockets.append(self.sockets.pop(0))
        kept = {each.fd for each in self._given if each.kept}
        self.are_kept = len((used - health) & kept) == len(self.sockets)
        self.is_health_kept = bool(health & kept)
        for each in self._given:
            if each.fd not in used:
                self._leave(each)

    def _get(self, flag: str, address: str, used: set[int], sockets: list[socket]) -> None:
        """Add the listeners of one address; ``used`` are the descriptors that are taken."""
        parsed = parse_address(address)
        if isinstance(parsed, Inherited):
            for given in self._find(flag, address, parsed.name):
                if given.fd in used:
                    raise UsageError(f"{flag}: {address}: descriptor {given.fd} is there twice")
                used.add(given.fd)
                self._add(adopt(given.fd, given.teller), sockets)
        else:
            sock = bind(
                address,
                self._found.get(address, []),
                unix_socket_perms=self._options.unix_socket_perms,
                unix_socket_group=self._options.unix_socket_group,
                dualstack_ipv6=self._options.dualstack_ipv6,
            )
            self._add(sock, sockets)

    def _find(self, flag: str, address: str, name: str) -> list[Given]:
        if name.isdigit():
            fd = int(name)
            return [next((each for each in self._given if each.fd == fd), Given(fd, f"{flag} {address}"))]
        found = [each for each in self._given if each.name == name]
        if not found:
            names = ", ".join(f"fd:{each.fd} ({each.name})" for each in self._given)
            raise UsageError(f"{flag}: {address} is not given; the environment gives {names or 'no listener'}")
        return found

    def _leave(self, given: Given) -> None:
        """The application may use it, but clients that connect there would wait for ever."""
        logger.warning(
            "%s gives descriptor %d%s, which --listen does not name, so no connection is accepted there; add fd:%d, or "
            "leave --listen out to take all that is given",
            given.teller,
            given.fd,
            f" ({given.name})" if given.name else "",
            given.fd,
        )
        try:
            os.set_inheritable(given.fd, False)
        except OSError:
            pass  # it is not open
