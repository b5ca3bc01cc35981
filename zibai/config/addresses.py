"""Addresses, and the peers that are believed."""

import re
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from typing import Final

from ..errors import UsageError


@dataclass(frozen=True)
class Inherited:
    """A listener that was opened by the starting program: its descriptor, or its name in systemd."""

    name: str


def parse_address(value: str) -> tuple[str, int] | str | Inherited:
    """An address to listen on: host and port (an empty host is every interface), the path of a unix socket, a
    descriptor.

    Raises UsageError.
    """
    found = _address(value)
    if found is None:
        near = _meant(value)
        hint = f"; did you mean {near}?" if near else ""
        raise UsageError(f"{value!r} is no address; write HOST:PORT, [IPV6]:PORT, :PORT, unix:PATH or fd:N{hint}")
    return found


def _meant(value: str) -> str:
    """The address that was probably meant by a URL, a path, a port, a host or IPv6 without brackets; else empty."""
    plain = value.rpartition("://")[2].rstrip("/")
    if plain.startswith(("/", "./")):
        tries = [f"unix:{plain}"]
    elif (host := plain.partition("/")[0]) != plain:
        tries = [host, f"{host}:8000"]
    elif read_address(plain) is not None and ":" in plain:
        tries = [f"[{plain}]:8000"]
    else:
        is_host = "." in plain or plain == "localhost"
        tries = [plain, f"127.0.0.1:{plain}", f"{plain}:8000" if is_host else ""]
    return next((each for each in tries if each != value and _address(each) is not None), "")


def _address(value: str) -> tuple[str, int] | str | Inherited | None:
    """None if it is no address."""
    if "\0" in value:
        return None
    if re.fullmatch(r"fd:([0-9]{1,9}|[^:\s0-9][^:\s]*)", value):
        return Inherited(value.removeprefix("fd:"))
    if value.startswith("unix:") and value != "unix:":
        return value.removeprefix("unix:")
    match = re.fullmatch(r"(?:\[([^\[\]\s]+)\]|([^:\[\]\s]*)):([0-9]{1,5})", value)
    if match and int(match[3]) <= 65535:
        return match[1] or match[2], int(match[3])
    return None


def check_datagrams(value: str) -> None:
    """Raise UsageError unless datagrams can be sent to ``value``: HOST:PORT, or unix:PATH, which Windows lacks."""
    try:
        where = parse_address(value)
    except UsageError:
        where = ("", 0)
    if isinstance(where, Inherited) or (isinstance(where, tuple) and not where[1]):
        raise UsageError(f"{value!r} is no address to send to; write HOST:PORT or unix:PATH")
    if isinstance(where, str) and sys.platform == "win32":
        raise UsageError("Windows has no unix sockets for datagrams; write HOST:PORT")


def check_names(prefix: str) -> None:
    """Raise UsageError unless names in statsd may begin with this: the other characters end a name, or a line."""
    if re.search(r"[^!-~]|[:|@#]", prefix):
        raise UsageError(f"{prefix!r} cannot begin a name in statsd; write letters, digits and dots, as in shop.web")


FIELDS: Final = ("for", "proto", "host", "port", "prefix")
"""The forwarding fields, by their names in ``X-Forwarded-*``; ``Forwarded`` has the first three as well."""


BELIEVED: Final = "for,proto"
"""The fields that a trusted peer is believed by default."""


Address = IPv4Address | IPv6Address


Network = IPv4Network | IPv6Network


# Stricter than ipaddress, which accepts any text as the zone of fe80::1%eth0.
_ADDRESS = re.compile(r"[0-9A-Fa-f:.]{2,45}")


_ZONED = re.compile(r"([0-9A-Fa-f:.]*:[0-9A-Fa-f:.]*)%[0-9A-Za-z._~-]{1,32}")


def read_address(text: str) -> Address | None:
    """``text`` as an address, without its zone; None if it is no address. IPv4 within IPv6 becomes IPv4."""
    if "%" in text:
        zoned = _ZONED.fullmatch(text)
        text = "" if zoned is None else zoned[1]
    return _parse(text) if _ADDRESS.fullmatch(text) else None


def plain_host(host: str) -> str:
    """The address of a socket in the one form that applications, logs and ``--trusted-proxies`` use.

    A dual-stack listener names its IPv4 clients ``::ffff:10.0.0.1``. A link-local address has a zone, which is valid
    only on this machine, and which RFC 3875 does not allow in variables.
    """
    if ":" not in host:
        return host
    address = read_address(host)
    return host if address is None else str(address)


@lru_cache(1024)  # the same clients and proxies come again; each entry has at most 45 characters
def _parse(text: str) -> Address | None:
    try:
        address = ip_address(text)
    except ValueError:
        return None
    return getattr(address, "ipv4_mapped", None) or address


class Trust:
    """The trusted peers, and the fields of theirs that are believed; immutable.

    From the values of ``--trusted-proxies`` and ``--forwarded-fields``; raises UsageError. ``variables`` are the CGI
    variables of these fields, ``beside_address`` those without X-Forwarded-For.
    """

    def __init__(self, values: Iterable[str] = (), fields: str = BELIEVED) -> None:
        self.words = [word for value in values for word in map(str.strip, value.split(",")) if word not in ("", "none")]
        self.every_peer = "*" in self.words
        self.unix = self.every_peer or "unix" in self.words
        self.fields = frozenset(_split_fields(fields))
        variables = [f"HTTP_X_FORWARDED_{name.upper()}" for name in FIELDS if name in self.fields]
        if not self.fields.isdisjoint(("for", "proto", "host")):
            variables.append("HTTP_FORWARDED")
        self.variables = tuple(variables)
        self.beside_address = tuple(name for name in variables if name != "HTTP_X_FORWARDED_FOR")
        self._networks = [_read_network(word) for word in self.words if word not in ("*", "unix")]

    def __bool__(self) -> bool:
        return bool(self.words)

    @property
    def whole_internet(self) -> bool:
        """Whether every address of IPv4 or IPv6 is trusted."""
        return self.every_peer or any(network.prefixlen == 0 for network in self._networks)

    def includes(self, peer: object) -> bool:
        """Whether a peer is trusted. ``peer`` is as a socket names it: a tuple that begins with its address, or a
        path."""
        if not isinstance(peer, tuple):
            return self.unix
        address = read_address(peer[0])
        return address is not None and self.believes(address)

    def believes(self, address: Address) -> bool:
        """Whether an address is trusted."""
        return self.every_peer or any(address in network for network in self._networks)

    def flag_with(self, peer: object) -> str:
        """The flag that trusts ``peer`` as well."""
        if isinstance(peer, tuple):
            address = read_address(peer[0])
            word = peer[0] if address is None else str(address)
        else:
            word = "unix"
        return "--trusted-proxies " + ",".join([*self.words, word])


def check_trusted(value: str) -> None:
    """Raise UsageError unless ``value`` may be one of ``--trusted-proxies``."""
    Trust([value])


def check_fields(value: str) -> None:
    """Raise UsageError unless ``value`` may be the value of ``--forwarded-fields``."""
    _split_fields(value)


def _split_fields(value: str) -> list[str]:
    names = [name.strip() for name in value.split(",")]
    for name in names:
        if name not in FIELDS:
            raise UsageError(f"{name!r} is no field; write one or more of {','.join(FIELDS)}")
    return names


def _read_network(word: str) -> Network:
    first = word.partition("/")[0]
    try:
        network = ip_network(word if _ADDRESS.fullmatch(first) else "", strict=False)
    except ValueError:
        raise UsageError(f"{word!r} is no peer; write an address, a network as 10.0.0.0/8, unix, * or none") from None
    if "/" in word and ip_address(first) != network.network_address:
        raise UsageError(f"{word!r} has bits behind its mask; write {network}")
    if isinstance(network, IPv6Network) and network.prefixlen >= 96:
        mapped = network.network_address.ipv4_mapped
        if mapped is not None:
            return IPv4Network((mapped, network.prefixlen - 96))
    return network
