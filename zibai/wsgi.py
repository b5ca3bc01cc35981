"""The gateway: calls a WSGI application (PEP 3333) for the requests that are there.

:class:`Gateway` belongs to a server and holds what all its exchanges share; it is called by a runner with a
connection whose request and body are there, and makes the environ of it. What becomes of the answer is the
:class:`~zibai.exchange.Exchange`'s.
"""

import io
import logging
import sys
from collections.abc import Callable, Iterable
from urllib.parse import unquote_to_bytes

from . import forwarded
from .connection import Connection
from .errors import Gone
from .exchange import Complaints, Environ, Exchange, FileWrapper
from .http1 import response
from .http1.request import Request
from .logger import access_logger, debug_logger

Application = Callable[[Environ, Callable[..., Callable[[bytes], object]]], Iterable[bytes]]


class Gateway:
    """Calls ``application`` for the connections of one server; any number of runners at once.

    ``script_name`` is the path prefix the application is mounted at, "" or "/prefix". Its state is not changed
    after the start, but for the set of things that are logged only once, and for whether the access log is on: that
    is looked at by the first runner of a second, or by two of them, who find the same.
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
        self._logs = True  # whether the access log wants records; looked at once a second
        self._looked: object = None
        self.script_name = script_name
        self._default_port = "443" if url_scheme == "https" else "80"
        self._complaints = Complaints()
        self._base: Environ = {
            "SCRIPT_NAME": script_name,
            "SERVER_SOFTWARE": "zibai",
            "GATEWAY_INTERFACE": "CGI/1.1",
            "wsgi.version": (1, 0),
            "wsgi.url_scheme": url_scheme,
            "wsgi.errors": sys.stderr,
            "wsgi.multithread": multithread,
            "wsgi.multiprocess": multiprocess,
            "wsgi.run_once": False,
            "wsgi.input_terminated": True,
            "wsgi.file_wrapper": FileWrapper,
            # So that there is a place for them when an exchange fills them in.
            **dict.fromkeys(("SERVER_NAME", "SERVER_PORT", "REMOTE_ADDR", "wsgi.input")),
            **dict.fromkeys(("wsgi.early_hints", "wsgix.informational")),
        }

    def serve(self, connection: Connection) -> None:
        """Answer the request of a connection; a runner's."""
        exchange = Exchange()
        exchange._complaints, exchange._connection = self._complaints, connection
        environ = self.environ(connection)
        environ["wsgi.early_hints"] = exchange.early_hints
        environ["wsgix.informational"] = exchange.informational
        try:
            iterable = self.application(environ, exchange.start_response)
            if type(iterable) is list:  # which has nothing to close
                if not exchange.send_at_once(connection, iterable):
                    exchange.send_all(iterable)
            else:
                try:
                    exchange.send_all(iterable)
                finally:
                    if hasattr(iterable, "close"):
                        iterable.close()
        except Gone as error:
            exchange.end_early(error, environ)
        except BaseException as error:  # SystemExit as well: an application does not end a worker
            exchange.fail(error)
        connection.sent = exchange.sent
        answer = exchange.answer
        if answer is not None:
            connection.status = answer.code
        if response.day is not self._looked:
            # To ask the logger each time would cost 3 % of all that a plain request needs.
            self._looked, self._logs = response.day, access_logger.isEnabledFor(logging.INFO)
        if self._logs or connection.status >= 500 or exchange._error is not None:
            exchange.log(connection, environ)
        # What an application keeps, write() for one, must not reach into the next exchange of the connection.
        del exchange._connection

    def environ(self, connection: Connection) -> Environ:
        """The environ of the request at hand: native strings of latin-1 (PEP 3333)."""
        request = connection.request
        assert request is not None
        # The fast lane remembers requests, and what was made of one is copied for the next: a dict that has all keys
        # already is copied in a tenth of the time that it takes to make one.
        environ = (request.template or self._make_template(request)).copy()
        environ["wsgi.input"] = connection.body
        environ.update(connection.facts or self._learn_facts(connection))
        if request.forwards:
            self._hear(connection, request, environ)
        if request.length is None:
            # The server has decoded it, so the field says nothing of what the application reads (PEP 3333).
            environ.pop("HTTP_TRANSFER_ENCODING", None)
            if not connection.service.stream_body:
                # The body lies here whole, so its length is a fact that frameworks can use.
                environ["CONTENT_LENGTH"] = str(connection.body.seek(0, io.SEEK_END))
                connection.body.seek(0)
        return environ

    def _make_template(self, request: Request) -> Environ:
        """The environ of a request, but for what its connection and its exchange add."""
        template = self._base.copy()
        template["REQUEST_METHOD"] = request.method
        template["PATH_INFO"] = _cut(_decode(request.path), self.script_name)
        template["QUERY_STRING"] = request.query
        template["REQUEST_URI"] = template["RAW_URI"] = request.target
        template["SERVER_PROTOCOL"] = request.version
        template.update(request.block.environ)
        request.template = template
        return template

    def _hear(self, connection: Connection, request: Request, environ: Environ) -> None:
        """Put in what the forwarding fields of a request say of its client, if a trusted peer says it."""
        service, block = connection.service, request.block
        if connection.trusted is None:
            connection.trusted = service.trust.holds(connection.peer)
        if not connection.trusted:
            service.hint(
                "X-Forwarded-For or a field of its kind came from %s, which is not trusted, and is not believed. If it "
                "is your proxy: %s",
                environ["REMOTE_ADDR"] or "a unix socket",
                service.trust.flag_with(connection.peer),
            )
            return
        told: forwarded.Told | None = block.told
        scheme = environ["wsgi.url_scheme"]
        if told is None or told.scheme != scheme:
            told = block.told = forwarded.read(block.environ, service.trust, scheme)
        for complaint in told.complaints:
            debug_logger.debug("from %s: %s", connection.peer, complaint)
            service.hint(
                "what a trusted proxy says of its clients cannot all be used (said once; zibai.debug has each): %s",
                complaint,
            )
        if "REMOTE_ADDR" in told.environ:
            environ.pop("REMOTE_PORT", None)
        environ.update(told.environ)
        if told.prefix and told.prefix != self.script_name:
            # What proxies took off comes before what we are mounted at; as there, it may have been left in the path.
            environ["SCRIPT_NAME"] = told.prefix + self.script_name
            environ["PATH_INFO"] = _cut(_cut(_decode(request.path), told.prefix), self.script_name)

    def _learn_facts(self, connection: Connection) -> dict[str, str]:
        """What stays the same for all requests of a connection."""
        endpoint, peer = connection.endpoint, connection.peer
        facts = {"SERVER_NAME": endpoint.host or "localhost", "SERVER_PORT": endpoint.port or self._default_port}
        if isinstance(peer, tuple):
            facts["REMOTE_ADDR"] = peer[0]
            facts["REMOTE_PORT"] = str(peer[1])
        else:
            facts["REMOTE_ADDR"] = ""  # a unix socket has no address to tell
        facts |= connection.secured()
        connection.facts = facts
        return facts


def _decode(path: str) -> str:
    return unquote_to_bytes(path).decode("latin-1") if "%" in path else path


def _cut(path: str, prefix: str) -> str:
    """``path`` without ``prefix``; a proxy in front may have taken it off already, then it is left as it is."""
    if prefix and path.startswith(prefix):
        rest = path[len(prefix) :]
        return rest if rest[:1] in ("", "/") else path
    return path
