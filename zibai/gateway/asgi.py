"""The ASGI gateway: it makes the scope of a request and calls the application with it (ASGI 3, HTTP spec 2.5).

A :class:`Gateway` belongs to a server and holds what all its requests share. A
:class:`~zibai.gateway.asgi_http.HttpExchange` is one request and its response.
"""

import logging
from collections.abc import Callable
from functools import partial
from typing import Any
from urllib.parse import unquote_to_bytes

from .. import clock as clocks
from ..clock import clock
from ..engine.connection import Connection
from ..engine.message_limits import Counts
from ..engine.task_stream import TaskStream
from ..logger import access_logger, error_logger
from ..protocol.http1.request import Request, with_host
from ..telemetry.records import ResponseDetails, log_exchange, log_websocket
from . import wsgi
from .asgi_http import HttpExchange
from .asgi_response import Responding
from .lifespan import Application, Lifespan


class Gateway(wsgi.Gateway):
    """Calls ``application`` for the requests of one server. Everything is for the thread of the event loop."""

    def __init__(self, application: Application, lifespan: Lifespan, **rest: Any) -> None:
        super().__init__(application, **rest)  # type: ignore[arg-type]
        self.callable = application
        self.upgrade: Upgrade = _ignore_upgrade  # of a request for WebSocket
        self.lifespan = lifespan
        self.complaints = self._complaints
        self._scheme = self.base["wsgi.url_scheme"]
        self.base = {}

    def make(self, stream: TaskStream, tasks: Any) -> Responding:
        """The exchange of a request."""
        if stream.connection.request.upgrades:  # type: ignore[union-attr]
            return self.upgrade(stream, tasks, self)
        return HttpExchange(stream, tasks, self)

    def scope(self, exchange: Responding) -> dict[str, Any]:
        """The scope of a request. It shares no mutable part with other scopes. Raises :class:`Refused`."""
        stream, request = exchange.stream, exchange.request
        if stream.shared is None:
            self._learn(stream)
        client, server, tls = stream.shared
        headers = request.fields.copy()
        prefix, scheme = self.script_name, stream.facts.get("wsgi.url_scheme", self._scheme)
        if request.forwards:
            told: dict[str, Any] = {**stream.facts, "wsgi.url_scheme": scheme, "SCRIPT_NAME": prefix, "PATH_INFO": ""}
            host = told["HTTP_HOST"] = request.environ.get("HTTP_HOST", "")
            self._proxies.use(exchange.connection, stream.is_trusted(), request, told)
            exchange.facts = told
            scheme, prefix, client = told["wsgi.url_scheme"], told["SCRIPT_NAME"], _client(told)
            if told["HTTP_HOST"] != host:
                headers = with_host(headers, told["HTTP_HOST"])
        path = request.path or request.target  # the latter is *
        raw_path = path.encode()  # which is ASCII, and so is the query
        path = unquote_to_bytes(path).decode("utf-8", "replace") if "%" in path else path
        if prefix and path != "*" and not (path == prefix or path.startswith(prefix + "/")):
            path = prefix + path
        extensions: dict[str, Any] = {
            "http.response.early_hint": {},
            "http.response.pathsend": {},
            "http.response.zerocopysend": {},
            "zibai.queue_time": {"seconds": stream.queued},
        }
        if request.takes_trailers:
            extensions["http.response.trailers"] = {}
        if tls is not None:
            extensions["tls"] = _copy(tls)
        return {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": "2.5"},
            "http_version": "1.0" if request.version == "HTTP/1.0" else "1.1",
            "method": request.method,
            "scheme": scheme,
            "path": path,
            "raw_path": raw_path,
            "query_string": request.query.encode(),
            "root_path": prefix,
            "headers": headers,
            "client": client,
            "server": server,
            "state": self.lifespan.state.copy(),
            "extensions": extensions,
        }

    def _learn(self, stream: TaskStream) -> None:
        """Collect the facts that all requests of a connection share: its two ends, and TLS."""
        connection = stream.connection
        facts = stream.facts = self._learn_facts(connection)
        host = connection.endpoint.host
        server = (host, int(facts["SERVER_PORT"])) if host else (_path_of(connection), None)
        stream.shared = _client(facts), server, connection.describe_tls(facts)

    def log(self, exchange: Responding, error: BaseException | None) -> None:
        """Log a request whose response is over; ``error`` is what the application raised instead of a response."""
        stream, head, reply = exchange.stream, exchange.head, exchange.reply
        stream.status = status = 499 if head is None or not exchange.on_wire else head.code
        stream.sent = exchange.sent or (0 if reply is None else reply.given)
        failed = error is not None or status >= 500
        if clocks.day is not self._level_read:
            self._read_log_level()
        if not (self._logs or failed):
            return
        logger, level = (error_logger, logging.ERROR) if failed else (access_logger, logging.INFO)
        if not logger.isEnabledFor(level):
            return
        data = b"" if head is None else head.data
        log = partial(self._log, stream, exchange.request, exchange.facts, logger, level, error, data, clock())
        if stream.out and error is None and status >= 200:
            # The loop sends the rest. Its size and time are known only after that.
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

        def tell() -> ResponseDetails:
            return ResponseDetails(head, stream.phases(ended, now))

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
    """The same, and log what is missing."""
    stream.service.hint(
        "a client asks for WebSocket, and gets the response to an ordinary request: pip install "
        "'zibai-server[websocket]', or say --ws off"
    )
    return HttpExchange(stream, tasks, gateway)


def _environ(stream: TaskStream, request: Request, facts: dict[str, str] | None) -> dict[str, Any]:
    """The items that the format of the access log may name."""
    environ = request.environ.copy() if request.remembered else request.environ
    environ.update(facts or stream.facts)
    environ["REQUEST_METHOD"], environ["SERVER_PROTOCOL"] = request.method, request.version
    environ["REQUEST_URI"], environ["QUERY_STRING"] = request.target, request.query
    environ["PATH_INFO"] = unquote_to_bytes(request.path).decode("latin-1")
    return environ


def _copy(tls: dict[str, Any]) -> dict[str, Any]:
    return {**tls, "client_cert_chain": tls["client_cert_chain"].copy()}


def _client(facts: dict[str, str]) -> tuple[str, int] | None:
    return (facts["REMOTE_ADDR"], int(facts.get("REMOTE_PORT", 0))) if facts["REMOTE_ADDR"] else None


def _path_of(connection: Connection) -> str:
    """The path of the unix socket on which a client has connected."""
    try:
        name = connection.sock.getsockname()
    except OSError:
        return ""
    return name if isinstance(name, str) else ""
