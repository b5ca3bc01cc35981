"""The short cut for the forwarding fields that nearly every proxy sends: X-Forwarded-For, and X-Forwarded-Proto.

It reads them in a fifth of the time that :mod:`~zibai.protocol.forwarded` takes, and declines every other spelling. A
property test holds the two against each other. A new client costs the gateway 7 µs instead of 16.
"""

import re
from collections.abc import Mapping
from typing import Final

from ..config.addresses import Trust, read_address
from .forwarded import Facts, ForwardedInfo, to_environ

# An address of IPv4 in the only form that ipaddress prints, so that it need not be converted.
_OCTET = "(?:25[0-5]|2[0-4][0-9]|1[0-9]{2}|[1-9]?[0-9])"
_IPV4 = rf"{_OCTET}\.{_OCTET}\.{_OCTET}\.{_OCTET}"
is_address = re.compile(_IPV4).fullmatch
_PLAIN = re.compile(rf"({_IPV4})(?:, ?({_IPV4}))?").fullmatch

_ALONE: Final = {"http": Facts(scheme="http"), "https": Facts(scheme="https")}
"""The facts of the two usual values of X-Forwarded-Proto."""


def read_plain(fields: Mapping[str, str], trust: Trust, scheme: str) -> ForwardedInfo | None:
    """The same as :func:`~zibai.protocol.forwarded.read` for the usual form; None for any other.

    The usual form is one address in X-Forwarded-For, or two of IPv4, and perhaps ``http`` or ``https`` in
    X-Forwarded-Proto. An address of IPv4 must have the form in which it is passed on, so that it need not be converted.
    """
    chain = said = None
    for name in trust.variables:
        value = fields.get(name)
        if value is None:
            continue
        if name == "HTTP_X_FORWARDED_FOR":
            chain = value
        elif name == "HTTP_X_FORWARDED_PROTO" and (said := _ALONE.get(value)) is not None:
            pass
        else:
            return None
    if chain is None:
        return None
    match = _PLAIN(chain)
    if match is not None:
        address, proxy = match.groups()
        if proxy is not None and not _believes(trust, proxy):
            address = proxy
    elif ":" in chain and (found := read_address(chain)) is not None:
        address = str(found)
    else:
        return None
    environ = {} if said is None else to_environ(said, fields.get("HTTP_HOST"), scheme)
    environ["REMOTE_ADDR"] = address
    return ForwardedInfo(scheme, environ, "", (), "")


def _believes(trust: Trust, text: str) -> bool:
    address = read_address(text)
    return address is not None and trust.believes(address)
