"""Puts the facts about a client that proxies have sent into the environ of its request.

Both gateways have a :class:`Proxies`. It keeps its results, within bounds: clients come again, and their proxies send
the same facts.
"""

from http import HTTPStatus
from typing import Final
from urllib.parse import unquote_to_bytes

from ..config.addresses import Trust
from ..engine.context import Client
from ..errors import Refused
from ..logger import debug_logger
from ..protocol import forwarded
from ..protocol.forwarded_plain import is_address, read_plain
from ..protocol.http1.fast import MAX_REQUESTS
from ..protocol.http1.request import Request
from .interface import Environ

_MAX_FORWARDED: Final = 1024
"""The most results that a gateway keeps. A client needs one, unless its proxies change."""

_MAX_KEY: Final = 512
"""The most characters of fields whose result is kept: a client must not fill the memory with long ones."""


class Proxies:
    """Reads the forwarding fields of requests to an application that is mounted at ``script_name``.

    Any runner may fill its caches without a lock: each step is one operation of a dict, and two runners that fill the
    same key at once store equal values.
    """

    def __init__(self, script_name: str) -> None:
        self._script_name = script_name
        self._by_request: dict[Request, forwarded.ForwardedInfo] = {}
        self._by_fields: dict[tuple[str | None, ...], forwarded.ForwardedInfo] = {}
        self._beside_address: dict[tuple[str | None, ...], Environ] = {}

    def use(self, client: Client, trusted: bool, request: Request, environ: Environ) -> None:
        """If the peer is trusted, put the facts of the forwarding fields into the environ.

        Raises :class:`Refused` where they contradict each other. Fields that are not believed stay ordinary fields.
        """
        service = client.service
        if not trusted:
            if not request.environ.keys().isdisjoint(service.trust.variables):
                service.hint(
                    "X-Forwarded-For or a field of its kind came from %s, which is not trusted, and is not believed. "
                    "If it is your proxy: %s",
                    environ["REMOTE_ADDR"] or "a unix socket",
                    service.trust.flag_with(client.peer),
                )
            return
        if not request.remembered and self._use_address(request.environ, service.trust, environ):
            return
        told, scheme = self._by_request.get(request), environ["wsgi.url_scheme"]
        if told is None or told.scheme != scheme:
            told = self._read(request, service.trust, scheme)
        for complaint in told.complaints:
            debug_logger.debug("from %s: %s", client.peer, complaint)
            service.hint(
                "what a trusted proxy says of its clients cannot all be used (said once; zibai.debug has each): %s",
                complaint,
            )
        if told.contradiction:
            environ["REMOTE_ADDR"] = ""
            environ.pop("REMOTE_PORT", None)
            service.hint(
                "%s, so the request was answered by 400 (said once; zibai.debug has each). One of the two is passed on "
                "as a client has sent it: have your proxy remove the one that it does not set itself",
                told.contradiction,
            )
            raise Refused(HTTPStatus.BAD_REQUEST, told.contradiction)
        if "REMOTE_ADDR" in told.environ:
            environ.pop("REMOTE_PORT", None)
        environ.update(told.environ)
        if told.prefix and told.prefix != self._script_name:
            # A prefix that proxies have removed comes before the prefix of the application. Either may still be in the
            # path.
            environ["SCRIPT_NAME"] = told.prefix + self._script_name
            environ["PATH_INFO"] = without_prefix(without_prefix(decoded(request.path), told.prefix), self._script_name)

    def _use_address(self, fields: Environ, trust: Trust, environ: Environ) -> bool:
        """The short cut for a client that has not come before, where X-Forwarded-For is a plain address.

        The other fields are the same for each client, and the plain way has read them once. Such a request costs an
        eighth less than with the plain way alone. A test holds both against each other.
        """
        address = fields.get("HTTP_X_FORWARDED_FOR")
        if address is None or not is_address(address):
            return False
        others = self._beside_address.get(_others(fields, trust, environ["wsgi.url_scheme"]))
        if others is None:
            return False
        environ.update(others)
        environ["REMOTE_ADDR"] = address
        environ.pop("REMOTE_PORT", None)
        return True

    def _read(self, request: Request, trust: Trust, scheme: str) -> forwarded.ForwardedInfo:
        """The facts that the forwarding fields of a request state.

        The same client sends other requests, so the result is kept by everything that it depends on. Finding it costs a
        third of reading the usual form and a twentieth of reading any other. For remembered requests the result is also
        kept by the request, which costs even less.
        """
        fields = request.environ
        key = (scheme, fields.get("HTTP_HOST"), *map(fields.get, trust.variables))
        told = self._by_fields.get(key)
        if told is None:
            plain = read_plain(fields, trust, scheme)
            told = plain or forwarded.read(fields, trust, scheme)
            if len("".join(filter(None, key))) <= _MAX_KEY:
                if len(self._by_fields) >= _MAX_FORWARDED:
                    self._by_fields.clear()
                    self._beside_address.clear()
                self._by_fields[key] = told
                if plain is not None:
                    others = {name: value for name, value in plain.environ.items() if name != "REMOTE_ADDR"}
                    self._beside_address[_others(fields, trust, scheme)] = others
        if request.remembered:
            if len(self._by_request) >= MAX_REQUESTS:
                self._by_request.clear()
            self._by_request[request] = told
        return told


def _others(fields: Environ, trust: Trust, scheme: str) -> tuple[str | None, ...]:
    """All that the result depends on beside X-Forwarded-For."""
    find = fields.get
    return (scheme, find("HTTP_HOST"), *map(find, trust.beside_address))


def decoded(path: str) -> str:
    """The bytes that a path stands for, as latin-1 (PEP 3333)."""
    return unquote_to_bytes(path).decode("latin-1") if "%" in path else path


def without_prefix(path: str, prefix: str) -> str:
    """``path`` without ``prefix``, or as it is if a proxy in front has removed the prefix already."""
    if prefix and path.startswith(prefix):
        rest = path[len(prefix) :]
        return rest if rest[:1] in ("", "/") else path
    return path
