"""What an address is, and which peers are believed."""

import re
from dataclasses import dataclass

from ..errors import UsageError


@dataclass(frozen=True)
class Inherited:
    """A listener that whoever starts us has opened: its descriptor, or the name that systemd gives to it."""

    name: str


def parse_address(value: str) -> tuple[str, int] | str | Inherited:
    """What to listen on: host and port (an empty host is every interface), the path of a unix socket, a descriptor."""
    if "\0" not in value:
        if re.fullmatch(r"fd:([0-9]{1,9}|[^:\s0-9][^:\s]*)", value):
            return Inherited(value.removeprefix("fd:"))
        if value.startswith("unix:") and value != "unix:":
            return value.removeprefix("unix:")
        match = re.fullmatch(r"(?:\[([^\[\]]+)\]|([^:\[\]]*)):([0-9]{1,5})", value)
        if match and int(match[3]) <= 65535:
            return match[1] or match[2], int(match[3])
    raise UsageError(f"{value!r} is no address; write HOST:PORT, [IPV6]:PORT, :PORT, unix:PATH or fd:N")
