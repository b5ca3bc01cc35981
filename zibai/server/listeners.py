"""The listeners of a server: where they come from, who else has them, and how they go.

They are bound here, or given: by the environment, by ``--listen fd:N``, or by the server that this one succeeds.
Who else accepts from a listener decides what its end means. One that is ours alone takes its last connections with
it, so they are served, and its file is removed at once. One that another server has as well is only closed, and what
waits there is the other's.

That of ``--health-listen`` goes the same ways, but beside them: no worker has it, and it is open until the very end.
"""

import os
from collections.abc import Sequence
from socket import socket
from typing import Any, Self

from ..config.addresses import Inherited, parse_address
from ..config.options import LISTEN, Options
from ..errors import UsageError
from ..logger import logger
from ..net.bind import create_bind_socket, listen
from ..net.inherited import Given, adopt
from ..net.unix_socket import socket_file, take_socket_file, unlink_unix_socket

# A listener in the hands of a successor: its descriptor; path, device and inode of a file that is to be removed; and
# whether it is for ``--health-listen``.
Handed = tuple[int, Sequence[Any] | None, bool]


class Listeners:
    """Those of one server, open within the ``with`` block. Everything is the main thread's.

    ``given`` is what the environment gives, ``handed`` what the server before this one hands over, which is then all.
    The last of ``sockets`` is that of ``--redirect-http``, where there is one; ``health`` are for ``--health-listen``.
    ``are_handed`` is set when another server has been given them, or has given them: from then on it may outlive this.
    """

    def __init__(self, options: Options, given: Sequence[Given], handed: Sequence[Handed] | None = None) -> None:
        self.sockets: list[socket] = []
        self.health: list[socket] = []
        self.are_handed = handed is not None
        self.are_kept = False  # all of them, by whoever has given them
        self.is_health_kept = False
        self._options = options
        self._given = given
        self._handed = handed

    def __enter__(self) -> Self:
        try:
            if self._handed is not None:
                for handed in self._handed:
                    self._take(*handed)
            else:
                self._open()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._close(self.sockets + self.health)
        if self.are_handed:
            for sock in self.sockets + self.health:
                unlink_unix_socket(sock, shared=True)

    def stop(self) -> None:
        """Listen no more in this process; the kernel would go on to accept what nobody takes. Again is no matter."""
        self._close(self.sockets)

    def _close(self, sockets: list[socket]) -> None:
        for sock in sockets:
            if not self.are_handed:
                unlink_unix_socket(sock)
            sock.close()

    def hand(self) -> list[Handed]:
        """What a successor needs, as plain data, besides the open descriptors. They are shared from now on."""
        self.are_handed = True
        handed: list[Handed] = []
        for sock in self.sockets + self.health:
            file = socket_file(sock)
            handed.append((sock.fileno(), file and file[:3], sock in self.health))
        return handed

    def _add(self, sock: socket, sockets: list[socket]) -> None:
        sockets.append(sock)
        listen(sock, self._options.backlog)

    def _take(self, fd: int, file: Sequence[Any] | None, for_health: bool) -> None:
        sock = adopt(fd, "the listener of the server before")
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
            # A name would do for several of them, so each is called by its number.
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
        """The listeners of one address; ``used`` are the descriptors that are taken."""
        parsed = parse_address(address)
        if isinstance(parsed, Inherited):
            for given in self._find(flag, address, parsed.name):
                if given.fd in used:
                    raise UsageError(f"{flag}: {address}: descriptor {given.fd} is there twice")
                used.add(given.fd)
                self._add(adopt(given.fd, given.teller), sockets)
        else:
            sock = create_bind_socket(
                address,
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
        """Of use to the application, perhaps; but clients would wait for ever."""
        logger.warning(
            "%s gives descriptor %d%s, which --listen does not name, so nobody accepts there; add fd:%d, or leave "
            "--listen out to take all that is given",
            given.teller,
            given.fd,
            f" ({given.name})" if given.name else "",
            given.fd,
        )
        try:
            os.set_inheritable(given.fd, False)
        except OSError:
            pass  # it is not even open
