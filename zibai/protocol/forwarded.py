"""What proxies say of the client: ``Forwarded`` (RFC 7239) and ``X-Forwarded-For``, ``-Proto``, ``-Host``, ``-Port``,
``-Prefix``. Pure functions from the fields of a head to what an environ shall say instead of what the connection says.

It is called only for a head that came from a trusted peer, and reads only the fields that such a peer is believed. But
a proxy adds to what it was sent, and the beginning of the chain is the client's to make up. So the chain is walked from
its end, the right: a trusted hop is believed in what it says of the hop before it, and the first address that is not
trusted is the client. What stands left of it is not looked at, and cannot spoil the rest by being malformed.

A list that is as long as the chain, of schemes for one, belongs to it hop by hop; a shorter one was set, and not added
to, by a proxy of ours. So from the right its entry is the one of the last trusted hop, or its first.

What cannot be read is as good as not said, and a complaint says why. But where the address of the client cannot be
read, it is unknown, and not that of the proxy: an application may trust that one more than any other.

Where ``Forwarded`` and ``X-Forwarded-*`` contradict each other, a proxy has passed one of them on as the client wrote
it, and nothing says which. To choose one would let clients forge their address, to choose none would let them hide it,
so such a request is refused. The values of fields that a complaint shows are escaped.
"""

import re
from collections.abc import Iterator, Mapping
from typing import Final, NamedTuple
from urllib.parse import unquote_to_bytes

from ..config.addresses import Address, Trust, read_address
from .http1.request import HOST

MAX_HOPS: Final = 64
"""Proxies that are walked over; nobody has so many."""

_SCHEMES: Final = {"http": "http", "https": "https", "ws": "http", "wss": "https"}

# One end of a hop (RFC 7239 6): an address or a name that hides one, and a port, which may be hidden as well.
_NODE = re.compile(
    r"(?:(?P<hidden>(?i:unknown)|_[A-Za-z0-9._-]+)|(?P<v4>[0-9.]{7,15})"
    r"|\[(?P<v6>[0-9A-Fa-f:.]{2,45}(?:%[0-9A-Za-z._~-]{1,32})?)\])"
    r"(?::(?:(?P<port>[0-9]{1,5})|_[A-Za-z0-9._-]+))?"
)
_WORD = r"[!#$%&'*+.^_`|~0-9A-Za-z-]++"
_QUOTED = r'"(?:[\t \x21\x23-\x5b\x5d-\x7e\x80-\xff]|\\[\t \x21-\x7e\x80-\xff])*+"'
_PAIR = rf"{_WORD}=(?:{_WORD}|{_QUOTED})"
_PAIRS = re.compile(rf"({_WORD})=({_WORD}|{_QUOTED})").findall
# The last element of a list, which may be empty, and what is before its comma. Greedy, so it begins at the last comma
# from which an element can begin: what a client has left open in its own part cannot take in what a proxy has added.
_LAST = re.compile(rf"(?s:(.*),)?[ \t]*({_PAIR}(?:[ \t]*;[ \t]*{_PAIR})*+)?[ \t]*").fullmatch
# The path of a URL, of segments that are not empty (RFC 3986 3.3); a comma is one between two values.
_PREFIX = re.compile(r"((?:/[A-Za-z0-9._~!$&'()*+;=:@%-]++)*+)/?")
_PORT = re.compile(r"[0-9]{1,5}")


class Told(NamedTuple):
    """What a head says of its client, where the scheme was ``scheme`` before. ``environ`` replaces keys; a client whose
    port is not told has no REMOTE_PORT.

    ``prefix`` is the path that was taken off before the request came here, "" if none was. ``contradiction`` says what
    fields contradict each other, "" if none do; then nothing else counts.
    """

    scheme: str
    environ: dict[str, str]
    prefix: str
    complaints: tuple[str, ...]
    contradiction: str


class Facts(NamedTuple):
    """What one kind of fields says; None is not said. ``address`` is "" for a client that is hidden on purpose."""

    address: str | None = None
    port: str | None = None
    scheme: str | None = None
    host: str | None = None
    server_port: str | None = None
    prefix: str | None = None


_WORDS: Final = {"address": "client", "scheme": "scheme", "host": "host", "server_port": "port", "prefix": "prefix"}


class _Malformed(ValueError):
    pass


class _Notes:
    """What is noticed on the way. ``lost``: a field that should name the client cannot be read."""

    def __init__(self) -> None:
        self.complaints: list[str] = []
        self.contradiction = ""
        self.lost = False


def read(fields: Mapping[str, str], trust: Trust, scheme: str) -> Told:
    """What the fields (CGI variables) of a head from a trusted peer say; ``scheme`` is it without them."""
    notes = _Notes()
    facts = _read_x_forwarded(fields, trust, notes)
    if "HTTP_FORWARDED" in fields and "HTTP_FORWARDED" in trust.variables:
        facts = _merge(_read_forwarded(fields["HTTP_FORWARDED"], trust, notes), facts, notes)
    if facts.address is None and notes.lost:
        facts = facts._replace(address="")
    environ = to_environ(facts, fields.get("HTTP_HOST"), scheme)
    return Told(scheme, environ, facts.prefix or "", tuple(notes.complaints), notes.contradiction)


def _merge(one: Facts, other: Facts, notes: _Notes) -> Facts:
    """What both say together."""
    merged: dict[str, str | None] = {}
    for name, first, second in zip(Facts._fields, one, other, strict=True):
        merged[name] = second if first is None else first
        if name != "port" and None not in (first, second) and first != second:
            notes.contradiction = f"Forwarded and X-Forwarded-* contradict each other about the {_WORDS[name]}"
    if None not in (one.address, other.address) and one.port != other.port:
        merged["port"] = None  # the client may have added it to an address that is right
    return Facts(**merged)


def to_environ(facts: Facts, host: str | None, scheme: str) -> dict[str, str]:
    """What ``facts`` change in the environ of a request that was sent to ``host`` by ``scheme``."""
    environ = {}
    if facts.address is not None:
        environ["REMOTE_ADDR"] = facts.address
        if facts.port is not None:
            environ["REMOTE_PORT"] = facts.port
    if facts.scheme is None and facts.host is None and facts.server_port is None:
        return environ
    # Something is said of the place where the client has sent its request to, which is not where it came in here.
    environ["wsgi.url_scheme"] = scheme = facts.scheme or scheme
    default = "443" if scheme == "https" else "80"
    host = facts.host or host
    name, port = _split_host(host or "")
    port = facts.server_port or port or default
    environ["SERVER_PORT"] = port
    if name:
        environ["SERVER_NAME"] = name
        environ["HTTP_HOST"] = name if port == default else f"{name}:{port}"
        if facts.server_port is None and host:
            environ["HTTP_HOST"] = host  # as it was sent
    return environ


def _split_host(host: str) -> tuple[str, str]:
    name, colon, port = host.rpartition(":")
    return (name, port) if colon and not host.endswith("]") else (host, "")


# --- X-Forwarded-* --------------------------------------------------------------------------------


def _read_x_forwarded(fields: Mapping[str, str], trust: Trust, notes: _Notes) -> Facts:
    address, port, hops = None, None, 1
    chain = fields.get("HTTP_X_FORWARDED_FOR")
    if chain is not None and "for" in trust.fields:
        try:
            address, port, hops = _walk(chain, trust)
        except _Malformed as error:
            notes.lost = True
            notes.complaints.append(f"X-Forwarded-For is malformed: {_show(error)}")

    def pick(name: str) -> str | None:
        value = fields.get("HTTP_X_FORWARDED_" + name.upper())
        if value is None or name.lower() not in trust.fields:
            return None
        values = [each for each in (part.strip(" \t") for part in value.split(",")) if each]
        try:
            return _READERS[name.lower()](values[-min(hops, len(values))] if values else "")
        except _Malformed as error:
            notes.complaints.append(f"X-Forwarded-{name} is malformed: {_show(error)}")
            return None

    scheme, host, server_port, prefix = pick("Proto"), pick("Host"), pick("Port"), pick("Prefix")
    own_port = _split_host(host)[1] if host else ""
    if server_port and own_port and server_port != own_port:
        notes.contradiction = "X-Forwarded-Host and X-Forwarded-Port contradict each other about the port"
    return Facts(address, port, scheme, host, server_port, prefix)


def _walk(chain: str, trust: Trust) -> tuple[str | None, str | None, int]:
    """The client's address and port, and how many hops from the right it stands."""
    parts = [part for part in (part.strip(" \t") for part in chain.rsplit(",", MAX_HOPS)) if part]
    if not parts:
        raise _Malformed("it is empty")
    hops = 0
    for part in reversed(parts):
        hops += 1
        address, port = _read_node(part, bare=True)
        if address is None or not trust.believes(address):
            break
    else:
        if len(parts) > MAX_HOPS:
            raise _Malformed(f"over {MAX_HOPS} trusted hops")
    return "" if address is None else str(address), port, hops


# --- Forwarded ------------------------------------------------------------------------------------


def _read_forwarded(value: str, trust: Trust, notes: _Notes) -> Facts:
    address, port = None, None
    elements: list[dict[str, str]] = []  # from the client on
    try:
        for element in _elements(value):
            elements.insert(0, element)
            node = element.get("for")
            if node is None:
                break  # this hop does not name the one before it
            found, port = _read_node(node, bare=False)
            address = "" if found is None else str(found)
            if found is None or not trust.believes(found):
                break
        if not elements:
            raise _Malformed("it is empty")
    except _Malformed as error:
        notes.lost = "for" in trust.fields
        notes.complaints.append(f"Forwarded is malformed: {_show(error)}")
        return Facts()
    if "for" not in trust.fields:
        address = port = None
    said = {}
    for name in {"proto", "host"} & trust.fields:
        text = next((element[name] for element in elements if name in element), None)
        try:
            said[name] = None if text is None else _READERS[name](text)
        except _Malformed as error:
            notes.complaints.append(f"Forwarded is malformed: {_show(error)}")
    return Facts(address, port, said.get("proto"), said.get("host"))


def _elements(value: str) -> Iterator[dict[str, str]]:
    """The elements of the list from the right, each with its parameters by name."""
    rest: str | None = value
    for _ in range(MAX_HOPS):
        match = _LAST(rest or "")
        if match is None:
            raise _Malformed((rest or "")[-80:])
        rest, element = match.groups()
        if element:
            pairs = [(name.lower(), _unquote(text)) for name, text in _PAIRS(element)]
            if len(dict(pairs)) < len(pairs):
                raise _Malformed(f"a parameter twice in {element[:80]}")
            yield dict(pairs)
        if rest is None:
            return
    raise _Malformed(f"over {MAX_HOPS} hops")


def _unquote(text: str) -> str:
    return re.sub(r"\\(.)", r"\1", text[1:-1]) if text.startswith('"') else text


# --- Values ---------------------------------------------------------------------------------------


def _read_node(text: str, *, bare: bool) -> tuple[Address | None, str | None]:
    """Address (None if it is hidden) and port of a hop; ``bare`` allows an address of IPv6 without brackets."""
    match = _NODE.fullmatch(text)
    if match is None:
        address = read_address(text) if bare else None
        if address is None:
            raise _Malformed(text)
        return address, None
    port = match["port"]
    if port is not None and int(port) > 65535:
        raise _Malformed(text)
    if match["hidden"]:
        return None, None
    address = read_address(match["v4"] or match["v6"])
    if address is None or (match["v6"] is not None and ":" not in text.partition("]")[0]):
        raise _Malformed(text)
    return address, port


def _read_scheme(text: str) -> str:
    if text.lower() not in _SCHEMES:
        raise _Malformed(text)
    return _SCHEMES[text.lower()]


def _read_host(text: str) -> str:
    if not HOST.fullmatch(text):
        raise _Malformed(text)
    name, port = _split_host(text)
    if port:
        _read_port(port)
    return text if port else name


def _read_port(text: str) -> str:
    if not _PORT.fullmatch(text) or not 0 < int(text) < 65536:
        raise _Malformed(text)
    return str(int(text))


def _read_prefix(text: str) -> str:
    match = _PREFIX.fullmatch(text)
    if match is None:
        raise _Malformed(text)
    path = unquote_to_bytes(match[1]).decode("latin-1")
    # As it will be read, not as it was written: no part of it may lead elsewhere or end a line.
    if re.search(r"[\x00-\x1f\x7f]|//|/\.{1,2}(?:/|$)", path):
        raise _Malformed(text)
    return path


_READERS = {"proto": _read_scheme, "host": _read_host, "port": _read_port, "prefix": _read_prefix}


def _show(error: _Malformed) -> str:
    text = str(error)
    return ascii(text if len(text) <= 100 else text[:100] + "...")
