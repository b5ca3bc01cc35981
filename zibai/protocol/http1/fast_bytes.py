"""The fast lane for applications that take their fields as bytes, as ASGI's do.

It accepts the heads that :class:`~zibai.protocol.http1.fast.FastLane` accepts, and asks the same policy. What differs
is what it makes of a head: a list of names in lower case and values, and no environ, of which such an application sees
nothing. An environ first, and then a list of the same head read again, would cost an eighth of a varied request more.
"""

from typing import Any, Final

from .fast import METHODS, TOKEN, FastLane, decided, frame
from .request import (
    DROPPED,
    FORWARDS,
    FRAMES,
    HOST_FIELD,
    LONG_NAME,
    MAX_FIELDS,
    MAX_NAMES,
    MAX_TARGET,
    Request,
    learn_name,
    names,
)

_VISIBLE: Final = bytes(range(0x20, 0x7F))
_ENDS: Final = b"\r\n" * (MAX_FIELDS + 3)


class BytesRequest(Request):
    """A request with ``fields``: names in lower case and values, as they came; no name comes twice. Its environ is made
    when somebody asks for it, which only the access log, proxies and rare fields do.
    """

    __slots__ = ("_environ", "fields", "takes_trailers")

    _environ: dict[str, Any] | None
    fields: list[tuple[bytes, bytes]]
    takes_trailers: bool

    @property
    def environ(self) -> dict[str, Any]:
        environ = self._environ
        if environ is None:
            environ = {}
            for name, value in self.fields:
                text = name.decode("ascii")
                key, _ = names.get(text) or learn_name(text)
                environ[key] = value.decode("ascii")
            self._environ = environ  # whole: another thread may ask, too
        return environ

    @environ.setter
    def environ(self, environ: dict[str, Any] | None) -> None:
        self._environ = environ  # None by its lane


class BytesLane(FastLane):
    """A fast lane that makes :class:`BytesRequest`. Its memory of names is its own, and any thread may use it as the
    rest of the lane: each step is one operation of a dict.
    """

    __slots__ = ("_names",)

    def __init__(self, max_target: int = MAX_TARGET) -> None:
        super().__init__(max_target)
        self._names: dict[bytes, tuple[bytes, int]] = {}  # in lower case, and the meaning, by the name as it came

    def _read_lines(self, head: bytes) -> Request | None:
        """By lines, as in the other lane. One function as well, and for the same reason."""
        lines = head.split(b"\r\n")
        method, _, rest = lines[0].decode("latin-1").partition(" ")
        target, _, version = rest.partition(" ")
        if (
            version != "HTTP/1.1"
            or target[:1] != "/"
            or "#" in target
            or method not in METHODS
            or len(target) > self._max_target
            or len(lines) > MAX_FIELDS + 3
            or lines[-1]
            or lines[-2]
            # Nothing but visible ASCII, in lines that end in CRLF.
            or head.translate(None, _VISIBLE) != _ENDS[: 2 * len(lines) - 2]
            # Values that begin or end with a space.
            or b" \r\n" in head
            or b":  " in head
        ):
            return None
        del lines[0], lines[-2:]
        fields, find, meanings = [], self._names.get, 0
        for line in lines:
            spelled, colon, value = line.partition(b": ")
            if not colon:
                return None
            name, meaning = find(spelled) or self._learn(spelled)
            meanings |= meaning
            fields.append((name, value))
        values = dict(fields)
        if meanings & DROPPED or not meanings & HOST_FIELD or len(values) != len(fields):
            return None  # also two fields of one name, on which the policy decides
        host = values[b"host"].decode("ascii")
        if host not in self._hosts and not self._learn_host(host):
            return None
        path, _, query = target.partition("?")
        request = BytesRequest(method, target, path, query, version, None)  # type: ignore[arg-type]  # see its environ
        request.fields = fields
        request.takes_trailers = b"te" in values and b"trailers" in values[b"te"].lower()
        if meanings >= FRAMES:
            length, connection = values.get(b"content-length", b"0"), values.get(b"connection", b"keep-alive")
            if not frame(request, meanings, length.decode("ascii"), connection.decode("ascii")):
                return decided(request)
        request.forwards = meanings & FORWARDS != 0
        return request

    def _learn(self, spelled: bytes) -> tuple[bytes, int]:
        """The name in lower case and the meaning; a name that is no token is not remembered."""
        text = spelled.decode("ascii")
        if not TOKEN(text):
            return b"", DROPPED
        _, meaning = names.get(text) or learn_name(text)
        found = spelled.lower(), meaning
        if len(spelled) <= LONG_NAME:
            if len(self._names) >= MAX_NAMES:
                self._names.clear()
            self._names[spelled] = found
        return found
