"""The WSGI gateway: it makes the environ of a request and calls the application with it (PEP 3333).

A :class:`Gateway` belongs to a server and holds what all its exchanges share. A runner calls it with a stream whose
request and body are there. An :class:`~zibai.gateway.exchange.Exchange` sends the response.
"""

import io
import logging
import os
import sys
from contextlib import suppress
from functools import partial
from http import HTTPStatus
from typing import Final

from .. import clock as clocks
from ..engine.context import Client
from ..engine.stream import Stream
from ..errors import Gone, Refused
from ..logger import access_logger, error_logger
from ..protocol.http1.fast import MAX_REQUESTS
from ..protocol.http1.request import Request
from ..telemetry.records import ResponseDetails, log_exchange
from .complaints import Complaints
from .exchange import Exchange
from .exchange_log import log
from .filewrapper import FileWrapper
from .interface import Application, Environ
from .proxies import Proxies, decoded, without_prefix
from .shortcut import send_at_once

# Libraries that look for the raw socket in the environ would raise at each handshake.
_NO_WEBSOCKET: Final = (
    "a client asks for WebSocket, which no WSGI application can have here; it gets a 501. Serve WebSockets from an "
    "ASGI application: see the page WebSocket of the documentation"
)


class Gateway:
    """Calls ``application`` for the connections of one server; any number of runners at once.

    ``script_name`` is the path prefix the application is mounted at, "" or "/prefix". ``base`` is what each environ
    begins with; the codec puts the fields of a head into a copy of it, so that no second dict has to be made.

    Only its caches change after the start: complaints that were logged, environs of requests, and whether the access
    log is on. Any runner may fill them without a lock: each step is one operation of a dict or an attribute, and two
    runners that fill the same key at once store equal values. The caches belong to this gateway alone, because another
    gateway of the same server makes another environ of the same request (another prefix, another scheme).
    """

    def __init__(
        self,
        application: Application,
        *,
        url_scheme: str = "http",
        script_name: str = "",
        multithread: bool = True,
        multiprocess: bool = False,
    ) -> None:
        self.application = application
        self._logs = True  # whether the access log wants records
        self._level_read: object = None  # the second in which that was read, as in clock.day
        self.script_name = script_name
        self._default_port = "443" if url_scheme == "https" else "80"
        self._complaints = Complaints()
        self._templates: dict[Request, Environ] = {}
        self._proxies = Proxies(script_name)
        self.base: Environ = {
            "SCRIPT_NAME": script_name,
            "SERVER_SOFTWARE": "zibai",
            "GATEWAY_INTERFACE": "CGI/1.1",
            "wsgi.version": (1, 0),
            "wsgi.url_scheme": url_scheme,
            # A program without a console has no stderr, and an application may rely on wsgi.errors.
            "wsgi.errors": sys.stderr or open(os.devnull, "w", encoding="utf-8"),  # noqa: SIM115
            "wsgi.multithread": multithread,
            "wsgi.multiprocess": multiprocess,
            "wsgi.run_once": False,
            "wsgi.input_terminated": True,
            "wsgi.file_wrapper": FileWrapper,
            # Keys that every request sets: with them in the base, the copied dict never has to grow.
            **dict.fromkeys(
                ("REQUEST_METHOD", "PATH_INFO", "QUERY_STRING", "REQUEST_URI", "RAW_URI", "SERVER_PROTOCOL")
            ),
            **dict.fromkeys(("SERVER_NAME", "SERVER_PORT", "REMOTE_ADDR", "wsgi.input")),
            **dict.fromkeys(
                ("wsgi.early_hints", "wsgix.informational", "zibai.client_disconnected", "zibai.queue_time")
            ),
        }

    def serve(self, stream: Stream) -> None:
        """Call the application for the request of a stream, and send its response. A runner calls this."""
        exchange = Exchange()
        exchange._stream, exchange._complaints = stream, self._complaints
        exchange.head = exchange.reply = exchange.error = None
        exchange.sent, exchange._look_at = 0, 0.0
        request: Request = stream.connection.request  # type: ignore[assignment]
        environ, application = self.environ(stream, request), self.application
        environ["wsgi.early_hints"] = exchange.early_hints
        environ["wsgix.informational"] = exchange.informational
        environ["zibai.client_disconnected"] = exchange.client_disconnected
        environ["zibai.queue_time"] = stream.queued
        try:
            if request.upgrades and "HTTP_SEC_WEBSOCKET_KEY" in environ:
                stream.service.hint(_NO_WEBSOCKET)
                raise Refused(HTTPStatus.NOT_IMPLEMENTED, "a WebSocket handshake to a WSGI application")
            if request.forwards:
                self._proxies.use(stream.connection, stream.is_trusted(), request, environ)
            iterable = application(environ, exchange.start_response)
            if type(iterable) is list:  # which has nothing to close
                if len(iterable) != 1 or not send_at_once(exchange, stream, request, iterable[0]):
                    exchange.send_all(iterable)
            else:
                try:
                    exchange.send_all(iterable)
                finally:
                    if hasattr(iterable, "close"):
                        iterable.close()
        except Gone as error:
            exchange.end_early(error)
        except Refused as refusal:
            exchange.refuse(refusal)
        except BaseException as error:  # also SystemExit: an application must not end a worker
            exchange.fail(error)
        sender = stream.sender
        if sender.out:
            stream.await_memory()
        stream.sent = exchange.sent
        if (head := exchange.head) is not None:
            stream.status = head.code
        if clocks.day is not self._level_read:
            self._read_log_level()
        if self._logs or stream.status >= 500 or exchange.error is not None:
            if sender.out and exchange.error is None:
                # The loop sends the rest without this runner. Its size and time are known only after that.
                stream.when_sent(partial(log, exchange, stream, environ, clocks.clock()))
            else:
                log(exchange, stream, environ)
        # An application may keep write(), and must not write into the next response of the connection with it.
        exchange._stream = None  # type: ignore[assignment]

    def _read_log_level(self) -> None:
        """Find out, once a second, whether the access log wants records: for each request it would cost 3 %."""
        self._level_read, self._logs = clocks.day, access_logger.isEnabledFor(logging.INFO)

    def log_refusal(self, client: Client, refusal: Refused, data: bytes) -> None:
        """Log a request that the application never sees, as far as it is known. The server loop calls this.

        ``data`` is the response, with its head.
        """
        logger, level = access_logger, logging.INFO
        if refusal.status >= 500:
            # Some of these are a client's fault: an unknown transfer coding or version of HTTP.
            ours = refusal.status in (HTTPStatus.SERVICE_UNAVAILABLE, HTTPStatus.INSUFFICIENT_STORAGE)
            logger, level = error_logger, logging.ERROR if ours else logging.WARNING
        if not logger.isEnabledFor(level):
            return
        request, environ = client.request, {}
        if request is not None:
            environ = self._make_environ(request)
        environ.update(self._learn_facts(client))
        if request is not None and request.forwards:
            with suppress(Refused):  # it is refused already
                self._proxies.use(client, client.service.trust.includes(client.peer), request, environ)
        head, _, body = data.partition(b"\r\n\r\n")
        facts = (logger, level, environ, refusal.status, refusal.waited, len(body))
        # Where a log may block, the loop must not write it itself.
        phases = {refusal.phase: refusal.waited} if refusal.phase else {}
        client.service.report(log_exchange, *facts, None, lambda: ResponseDetails(head, phases))

    def environ(self, stream: Stream, request: Request) -> Environ:
        """The environ of the request of a stream: native strings of latin-1 (PEP 3333).

        The forwarding fields are ordinary fields in it; what proxies say in them comes later.
        """
        template = self._templates.get(request) if request.remembered else None
        environ = self._make_environ(request) if template is None else template.copy()
        # Each request has an input of its own: what an application sets on it is seen by no other request.
        environ["wsgi.input"] = body = stream.body or io.BytesIO()
        facts = stream.facts
        if not facts:
            facts = stream.facts = self._learn_facts(stream.connection)
        environ.update(facts)
        if request.length is None:
            # The server has decoded the body, so the field is wrong for the application (PEP 3333).
            environ.pop("HTTP_TRANSFER_ENCODING", None)
            if not stream.service.limits.stream_body:
                # The whole body is here, so its length is known, and frameworks can use it.
                environ["CONTENT_LENGTH"] = str(body.seek(0, io.SEEK_END))
                body.seek(0)
        return environ

    def _make_environ(self, request: Request) -> Environ:
        """The environ of a request, without the items of its connection and its exchange.

        The lane gives a remembered request to several exchanges, so its environ is made once, kept here, and copied
        each time. Any other request belongs to this exchange alone, and its own dict is filled.
        """
        environ = request.environ.copy() if request.remembered else request.environ
        environ["REQUEST_METHOD"] = request.method
        path, prefix = request.path, self.script_name
        environ["PATH_INFO"] = without_prefix(decoded(path), prefix) if prefix or "%" in path else path
        environ["QUERY_STRING"] = request.query
        environ["REQUEST_URI"] = environ["RAW_URI"] = request.target
        environ["SERVER_PROTOCOL"] = request.version
        if request.remembered:
            if len(self._templates) >= MAX_REQUESTS:
                self._templates.clear()
            self._templates[request] = environ.copy()
        return environ

    def _learn_facts(self, client: Client) -> dict[str, str]:
        """The items that all requests of a connection share."""
        endpoint, peer = client.endpoint, client.peer
        # RFC 3875 4.1.14: an address of IPv6 stands in brackets, so that a URL can be made of it.
        name = f"[{endpoint.host}]" if ":" in endpoint.host else endpoint.host or "localhost"
        facts = {"SERVER_NAME": name, "SERVER_PORT": endpoint.port or self._default_port}
        if isinstance(peer, tuple):
            facts["REMOTE_ADDR"] = peer[0]
            facts["REMOTE_PORT"] = str(peer[1])
        else:
            facts["REMOTE_ADDR"] = ""  # a unix socket has no address
        return facts | client.secured()
