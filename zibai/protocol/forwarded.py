"""The forwarding fields of proxies: ``Forwarded`` (RFC 7239) and ``X-Forwarded-For``, ``-Proto``, ``-Host``,
``-Port``, ``-Prefix``. Pure functions from the fields of a head to the variables of the environ that they replace.

:func:`read` is called only for a head from a trusted peer, and reads only the fields that are believed. A proxy adds to
the fields that it has received, and the client can forge the beginning of such a chain. So the chain is read from its
end, the right: a trusted hop is believed about the hop before it, and the first untrusted address is the client's.
Everything left of it may be forged and is ignored, even if it is malformed.

A list that is as long as the chain, for example of schemes, has an entry for each hop. A shorter list was set, and not
appended to, by a trusted proxy. So, seen from the right, the entry of the last trusted hop counts; in a shorter list,
the first entry.

A value that cannot be read is ignored, and a complaint says why. But if the address of the client cannot be read, it is
unknown, and the proxy's address does not take its place: an application may trust that address more than any other.

If ``Forwarded`` and ``X-Forwarded-*`` contradict each other, a proxy has passed one of them on as the client sent it,
and it is unknown which. If the server chose one, clients could forge their address; if it chose none, they could hide
it. So such a request is refused. Complaints show the values of fields escaped.
"""

import re
from collections.abc import Iterator, Mapping
from typing import Final, NamedTuple

from ..config.addresses import Trust
from .forwarded_values import READERS, Malformed, read_node, show, split_host

MAX_HOPS: Final = 64
"""The largest number of proxies in a chain."""

_WORD = r"[!#$%&'*+.^_`|~0-9A-Za-z-]++"
_QUOTED = r'"(?:[\t \x21\x23-\x5b\x5d-\x7e\x80-\xff]|\\[\t \x21-\x7e\x80-\xff])*+"'
_PAIR = rf"{_WORD}=(?:{_WORD}|{_QUOTED})"
_PAIRS = re.compile(rf"({_WORD})=({_WORD}|{_QUOTED})").findall
# The content of a quoted string, without its escaping backslashes. For 58 KB re.sub() takes 30 ms, and this 7 ms.
_UNESCAPED = re.compile(r"\\?([^\\]+|(?<=\\)\\)").findall
# The last element of a list, which may be empty, and everything before its comma. Greedy, so it begins at the last
# comma from which an element can begin: a quote that a client has left open cannot swallow what a proxy has appended.
_LAST = re.compile(rf"(?s:(.*),)?[ \t]*({_PAIR}(?:[ \t]*;[ \t]*{_PAIR})*+)?[ \t]*").fullmatch


class ForwardedInfo(NamedTuple):
    """The facts that a head states about its client.

    ``environ`` replaces keys of the environ; a client without a known port has no REMOTE_PORT. ``prefix`` is the path
    that a proxy has removed, or "". ``contradiction`` names the fields that contradict each other, or is ""; if they
    do, the rest does not count.
    """

    scheme: str
    environ: dict[str, str]
    prefix: str
    complaints: tuple[str, ...]
    contradiction: str


class Facts(NamedTuple):
    """The facts of one kind of fields; None is unknown. ``address`` is "" for a client that is hidden on purpose."""

    address: str | None = None
    port: str | None = None
    scheme: str | None = None
    host: str | None = None
    server_port: str | None = None
    prefix: str | None = None


_WORDS: Final = {"address": "client", "scheme": "scheme", "host": "host", "server_port": "port", "prefix": "prefix"}


class _Notes:
    """Faults that are noticed while fields are read. ``lost``: a field that should name the client cannot be read."""

    def __init__(self) -> None:
        self.complaints: list[str] = []
        self.contradiction = ""
        self.lost = False


def read(fields: Mapping[str, str], trust: Trust, scheme: str) -> ForwardedInfo:
    """Read the fields (CGI variables) of a head from a trusted peer. ``scheme`` counts if they do not state one."""
    notes = _Notes()
    facts = _read_x_forwarded(fields, trust, notes)
    if "HTTP_FORWARDED" in fields and "HTTP_FORWARDED" in trust.variables:
        facts = _merge(_read_forwarded(fields["HTTP_FORWARDED"], trust, notes), facts, notes)
    if facts.address is None and notes.lost:
        facts = facts._replace(address="")
    environ = to_environ(facts, fields.get("HTTP_HOST"), scheme)
    return ForwardedInfo(scheme, environ, facts.prefix or "", tuple(notes.complaints), notes.contradiction)


def _merge(one: Facts, other: Facts, notes: _Notes) -> Facts:
    """The facts of both, with a contradiction noted."""
    merged: dict[str, str | None] = {}
    for name, first, second in zip(Facts._fields, one, other, strict=True):
        merged[name] = second if first is None else first
        if name != "port" and None not in (first, second) and first != second:
            notes.contradiction = f"Forwarded and X-Forwarded-* contradict each other about the {_WORDS[name]}"
    if None not in (one.address, other.address) and one.port != other.port:
        merged["port"] = None  # the client may have appended a port to a true address
    return Facts(**merged)


def to_environ(facts: Facts, host: str | None, scheme: str) -> dict[str, str]:
    """The items that ``facts`` change in the environ of a request that was sent to ``host`` by ``scheme``."""
    environ = {}
    if facts.address is not None:
        environ["REMOTE_ADDR"] = facts.address
        if facts.port is not None:
            environ["REMOTE_PORT"] = facts.port
    if facts.scheme is None and facts.host is None and facts.server_port is None:
        return environ
    # The fields describe the address to which the client has sent its request, and not that of the listener here.
    environ["wsgi.url_scheme"] = scheme = facts.scheme or scheme
    default = "443" if scheme == "https" else "80"
    host = facts.host or host
    name, port = split_host(host or "")
    port = facts.server_port or port or default
    environ["SERVER_PORT"] = port
    if name:
        environ["SERVER_NAME"] = name
        environ["HTTP_HOST"] = name if port == default else f"{name}:{port}"
        if facts.server_port is None and host:
            environ["HTTP_HOST"] = host  # as it was sent
    return environ


# --- X-Forwarded-* --------------------------------------------------------------------------------


def _read_x_forwarded(fields: Mapping[str, str], trust: Trust, notes: _Notes) -> Facts:
    address, port, hops = None, None, 1
    chain = fields.get("HTTP_X_FORWARDED_FOR")
    if chain is not None and "for" in trust.fields:
        try:
            address, port, hops = _walk(chain, trust)
        except Malformed as error:
            notes.lost = True
            notes.complaints.append(f"X-Forwarded-For is malformed: {show(error)}")

    def pick(name: str) -> str | None:
        value = fields.get("HTTP_X_FORWARDED_" + name.upper())
        if value is None or name.lower() not in trust.fields:
            return None
        values = [each for each in (part.strip(" \t") for part in value.split(",")) if each]
        try:
            return READERS[name.lower()](values[-min(hops, len(values))] if values else "")
        except Malformed as error:
            notes.complaints.append(f"X-Forwarded-{name} is malformed: {show(error)}")
            return None

    scheme, host, server_port, prefix = pick("Proto"), pick("Host"), pick("Port"), pick("Prefix")
    own_port = split_host(host)[1] if host else ""
    if server_port and own_port and server_port != own_port:
        notes.contradiction = "X-Forwarded-Host and X-Forwarded-Port contradict each other about the port"
    return Facts(address, port, scheme, host, server_port, prefix)


def _walk(chain: str, trust: Trust) -> tuple[str | None, str | None, int]:
    """The client's address and port, and its place in the chain, in hops from the right."""
    parts = [part for part in (part.strip(" \t") for part in chain.rsplit(",", MAX_HOPS)) if part]
    if not parts:
        raise Malformed("it is empty")
    hops = 0
    for part in reversed(parts):
        hops += 1
        address, port = read_node(part, bare=True)
        if address is None or not trust.believes(address):
            break
    else:
        if len(parts) > MAX_HOPS:
            raise Malformed(f"over {MAX_HOPS} trusted hops")
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
            found, port = read_node(node, bare=False)
            address = "" if found is None else str(found)
            if found is None or not trust.believes(found):
                break
        if not elements:
            raise Malformed("it is empty")
    except Malformed as error:
        notes.lost = "for" in trust.fields
        notes.complaints.append(f"Forwarded is malformed: {show(error)}")
        return Facts()
    if "for" not in trust.fields:
        address = port = None
    said = {}
    for name in {"proto", "host"} & trust.fields:
        text = next((element[name] for element in elements if name in element), None)
        try:
            said[name] = None if text is None else READERS[name](text)
        except Malformed as error:
            notes.complaints.append(f"Forwarded is malformed: {show(error)}")
    return Facts(address, port, said.get("proto"), said.get("host"))


def _elements(value: str) -> Iterator[dict[str, str]]:
    """The elements of the list from the right, each with its parameters by name."""
    rest: str | None = value
    for _ in range(MAX_HOPS):
        match = _LAST(rest or "")
        if match is None:
            raise Malformed((rest or "")[-80:])
        rest, element = match.groups()
        if element:
            pairs = [(name.lower(), _unquote(text)) for name, text in _PAIRS(element)]
            if len(dict(pairs)) < len(pairs):
                raise Malformed(f"a parameter twice in {element[:80]}")
            yield dict(pairs)
        if rest is None:
            return
    raise Malformed(f"over {MAX_HOPS} hops")


def _unquote(text: str) -> str:
    return "".join(_UNESCAPED(text[1:-1])) if text.startswith('"') else text
