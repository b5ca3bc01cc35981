"""The fast lane for applications that take their fields as bytes, as ASGI's do.

It accepts the heads that :class:`~zibai.protocol.http1.fast.FastLane` accepts, and asks the same policy. What differs
is what it makes of a head: a list of names in lower case and values, and no environ, of which such an application sees
nothing. An environ first, and then a list of the same head read again, would cost an eighth of a varied request more.
"""

from typing import Any

from .fast import FastLane, decided
from .request import Request


class BytesRequest(Request):
    """A request with ``fields``: names in lower case and values, as they came; no name comes twice. Its environ is made
    when somebody asks for it, which only the access log, proxies and rare fields do.
    """

    __slots__ = ("_environ", "fields", "keys", "takes_trailers")

    _environ: dict[str, Any] | None
    keys: tuple[str, ...]  # of the environ
    fields: list[tuple[bytes, bytes]]
    takes_trailers: bool

    @property
    def environ(self) -> dict[str, Any]:
        environ = self._environ
        if environ is None:
            values = [value.decode("ascii") for _, value in self.fields]
            environ = dict(zip(self.keys, values, strict=True))
            self._environ = environ  # whole: another thread may ask, too
        return environ

    @environ.setter
    def environ(self, environ: dict[str, Any] | None) -> None:
        self._environ = environ  # None by its lane


class BytesLane(FastLane):
    """A fast lane that makes :class:`BytesRequest`."""

    __slots__ = ()

    kind = bytes
    kept = frozenset({b"keep-alive", b"Keep-Alive"})

    def _read_by_shape(self, head: bytes) -> Request | None:
        found = self._shapes.find(head)
        if found is None:
            return None
        shape, (method, raw_target, *values) = found
        host, target = values[shape.host].decode("ascii"), raw_target.decode("ascii")
        if "#" in target or len(target) > self._max_target or not (host in self._hosts or self._learn_host(host)):
            return None
        path, _, query = target.partition("?")
        request = BytesRequest(method.decode("ascii"), target, path, query, "HTTP/1.1", None)  # type: ignore[arg-type]
        request.keys = shape.keys
        request.fields = [*zip(shape.lower, values)]  # noqa: B905 -- see the other lane
        request.takes_trailers = shape.te >= 0 and b"trailers" in values[shape.te].lower()
        if shape.framed and not self._frame(request, shape, values):
            return decided(request)
        request.forwards = shape.forwards
        return request
