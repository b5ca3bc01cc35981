"""The ASGI gateway: it makes the scope of a request and calls the application with it (ASGI 3, HTTP spec 2.5).

A :class:`Gateway` belongs to a server and holds what all its requests share. A
:class:`~zibai.gateway.asgi_http.HttpExchange` is one request and its response.
"""

import logging
from collections.abc import Callable
from functools import partial
from http import HTTPStatus
from typing import Any
from urllib.parse import unquote_to_bytes

from ..clock import clock
from ..engine.connection import Connection
from ..engine.message_limits import Counts
from ..engine.task_stream import TaskStream
from ..logger import access_logger, error_logger
from ..protocol.http1.request import Request, learn_name, names
from ..telemetry.records import Told, log_exchange, log_websocket
from . import wsgi
from .asgi_http import HttpExchange
from .asgi_response import Responding
from .lifespan import Application, Lifespan

_MAX_LINES = 1024
"""Lines of heads whose name and value a gateway keeps."""

_MAX_LINE = 256
"""Bytes of a line that is kept."""


class Gateway(wsgi.Gateway):
    """Calls ``application`` for the requests of one server. Everything is for the thread of the event loop."""

    def __init__(self, application: Application, lifespan: Lifespan, **rest: Any) -> None:
        super().__init__(application, **rest)  # type: ignore[arg-type]
        self.callable = application
        self.upgrade: Upgrade = _ignore_upgrade  # of a request for WebSocket
        self.lifespan = lifespan
        self.complaints = self._complaints
        self._scheme = self.base["wsgi.url_scheme"]
        self._lines: dict[bytes, tuple[bytes, bytes] | None] = {}
        self.base = {}

    def make(self, stream: TaskStream, tasks: Any) -> Responding:
        """The exchange of a request."""
        if stream.connection.request.upgrades:  # type: ignore[union-attr]
            return self.upgrade(stream, tasks, self)
        return HttpExchange(stream, tasks, self)

    def scope(self, exchange: Responding) -> dict[str, Any]:
        """The scope of a request. Each part that can be changed is its own. Raises :class:`Refused`."""
        stream, connection, request = exchange.stream, exchange.connection, exchange.request
        facts = stream.facts
        if not facts:
            facts = stream.facts = self._learn_facts(connection)
            stream.tls = connection.describe_tls(facts)
        headers = self._headers(request)
        if request.target[:1] not in "/*":
            # RFC 9112 3.2.2: the host of an absolute target counts, and not the field.
            headers = _with_host(headers, request.environ["HTTP_HOST"])
        prefix, scheme = self.script_name, facts.get("wsgi.url_scheme", self._scheme)
        if request.forwards:
            told: dict[str, Any] = {**facts, "wsgi.url_scheme": scheme, "SCRIPT_NAME": prefix, "PATH_INFO": ""}
            host = told["HTTP_HOST"] = request.environ.get("HTTP_HOST", "")
            self._proxies.use(connection, stream.is_trusted(), request, told)
            exchange.facts = facts = told
            scheme, prefix = told["wsgi.url_scheme"], told["SCRIPT_NAME"]
            if told["HTTP_HOST"] != host:
                headers = _with_host(headers, told["HTTP_HOST"])
        path = request.path or request.target  # the latter is *
        path = unquote_to_bytes(path).decode("utf-8", "replace") if "%" in path else path
        if prefix and path != "*" and not (path == prefix or path.startswith(prefix + "/")):
            path = prefix + path
        client = (facts["REMOTE_ADDR"], int(facts.get("REMOTE_PORT", 0))) if facts["REMOTE_ADDR"] else None
        endpoint = connection.endpoint
        server = (endpoint.host, int(stream.facts["SERVER_PORT"])) if endpoint.host else (_path_of(connection), None)
        return {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": "2.5"},
            "http_version": "1.1" if request.is_http11 else "1.0",
            "method": request.method,
            "scheme": scheme,
            "path": path,
            "raw_path": (request.path or request.target).encode("latin-1"),
            "query_string": request.query.encode("latin-1"),
            "root_path": prefix,
            "headers": headers,
            "client": client,
            "server": server,
            "state": self.lifespan.state.copy(),
            "extensions": {
                "http.response.early_hint": {},
                "http.response.pathsend": {},
                "http.response.zerocopysend": {},
                "zibai.queue_time": {"seconds": stream.queued},
                **({"http.response.trailers": {}} if self.takes_trailers(request) else {}),
                **({} if stream.tls is None else {"tls": _copy(stream.tls)}),
            },
        }

    def takes_trailers(self, request: Request) -> bool:
        """Whether the client has asked for trailers (RFC 9110 10.1.4)."""
        return "trailers" in request.environ.get("HTTP_TE", "").lower()

    def _headers(self, request: Request) -> list[tuple[bytes, bytes]]:
        """The fields of a head, as they came, with their names in lower case.

        Names that no application may see in an environ are left out here, too.
        """
        lines = self._lines
        found = []
        for line in request.raw.split(b"\r\n")[1:-2]:
            try:
                pair = lines[line]
            except KeyError:
                pair = _read_line(line)
                if len(line) <= _MAX_LINE:
                    if len(lines) >= _MAX_LINES:
                        lines.clear()
                    lines[line] = pair
            if pair is not None:
                found.append(pair)
        return found

    def log(self, exchange: Responding, error: BaseException | None) -> None:
        """Log a request whose response is over; ``error`` is what the application raised instead of a response."""
        stream, head, reply = exchange.stream, exchange.head, exchange.reply
        stream.status = 499 if head is None or not exchange.on_wire else head.code
        failed = error is not None or stream.status >= HTTPStatus.INTERNAL_SERVER_ERROR
        logger, level = (error_logger, logging.ERROR) if failed else (access_logger, logging.INFO)
        stream.sent = exchange.sent or (0 if reply is None else reply.given)
        if not logger.isEnabledFor(level):
            return
        data = b"" if head is None else head.data
        log = partial(self._log, stream, exchange.request, exchange.facts, logger, level, error, data, clock())
        if stream.out and error is None and stream.status >= 200:
            # The loop sends the rest. Only then it is known how much of it went, and when.
            stream.when_sent(log)
        else:
            log()

    def _log(
        self,
        stream: TaskStream,
        request: Request,
        facts: dict[str, str] | None,
        logger: logging.Logger,
        level: int,
        error: BaseException | None,
        head: bytes,
        ended: float,
    ) -> None:
        environ = _environ(stream, request, facts)
        now, sent = clock(), max(0, stream.sent - stream.sender.lost)

        def tell() -> Told:
            return Told(head, stream.phases(ended, now))

        log_exchange(logger, level, environ, stream.status, now - stream.started, sent, error, tell)

    def log_close(self, exchange: Responding, end: tuple[int, str], counts: Counts) -> None:
        """Log the end of a WebSocket."""
        if access_logger.isEnabledFor(logging.INFO):
            environ = _environ(exchange.stream, exchange.request, exchange.facts)
            log_websocket(environ, *end, clock() - exchange.stream.started, counts)


Upgrade = Callable[[TaskStream, Any, Gateway], Responding]
"""Makes the exchange of a request for an upgrade to WebSocket."""


def _ignore_upgrade(stream: TaskStream, tasks: Any, gateway: Gateway) -> Responding:
    """RFC 9110 7.8: a server may ignore an upgrade."""
    return HttpExchange(stream, tasks, gateway)


def without_websockets(stream: TaskStream, tasks: Any, gateway: Gateway) -> Responding:
    """The same, and say what is missing."""
    stream.service.hint(
        "a client asks for WebSocket, and gets the response to an ordinary request: pip install "
        "'zibai-server[websocket]', or say --ws off"
    )
    return HttpExchange(stream, tasks, gateway)


def _environ(stream: TaskStream, request: Request, facts: dict[str, str] | None) -> dict[str, Any]:
    """What the access log may name."""
    environ = request.environ.copy() if request.remembered else request.environ
    environ.update(facts or stream.facts)
    environ["REQUEST_METHOD"], environ["SERVER_PROTOCOL"] = request.method, request.version
    environ["REQUEST_URI"], environ["QUERY_STRING"] = request.target, request.query
    environ["PATH_INFO"] = unquote_to_bytes(request.path).decode("latin-1")
    return environ


def _copy(tls: dict[str, Any]) -> dict[str, Any]:
    return {**tls, "client_cert_chain": tls["client_cert_chain"].copy()}


def _with_host(headers: list[tuple[bytes, bytes]], host: str) -> list[tuple[bytes, bytes]]:
    return [(b"host", host.encode("latin-1")), *(pair for pair in headers if pair[0] != b"host")]


def _path_of(connection: Connection) -> str:
    """Of the unix socket that a client came by."""
    try:
        name = connection.sock.getsockname()
    except OSError:
        return ""
    return name if isinstance(name, str) else ""


def _read_line(line: bytes) -> tuple[bytes, bytes] | None:
    name, _, value = line.partition(b":")
    text = name.decode("latin-1")
    key, _ = names.get(text) or learn_name(text)
    return (name.lower(), value.strip(b"\t ")) if key else None
