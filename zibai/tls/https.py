"""HTTPS on the listeners of a server: which of them speak TLS, and which one redirects clients to it.

TCP listeners speak TLS. A unix socket stays plain: its permissions control which users may connect, and its clients are
proxies of this machine that have done TLS already. ``--redirect-http`` is the last of the listeners; its only
application is :class:`Redirect`, behind a service of its own.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from socket import socket

from ..config.options import Options
from ..engine.connection import Connection
from ..engine.context import Service
from ..engine.loop import Loop
from ..engine.preamble import first_stage
from ..errors import UsageError
from ..gateway.redirect import Redirect
from ..gateway.wsgi import Gateway
from ..net.listener import Endpoint, Listener, Socket, is_tcp
from ..protocol.http1 import FastLane
from .certificates import Certificates, make_context
from .handshake import Handshake


def check(options: Options, sockets: Sequence[socket]) -> None:
    """Raise UsageError if TLS is impossible with these ``options`` and sockets."""
    make_context(options)
    _port(options, sockets)


def _port(options: Options, sockets: Sequence[socket]) -> int:
    """The first port that speaks TLS."""
    secured = sockets[:-1] if options.redirect_http else sockets
    port = next((sock.getsockname()[1] for sock in secured if is_tcp(sock)), None)
    if port is None:
        raise UsageError("--certfile: TLS is for TCP addresses, and --listen has none; a unix socket is always plain")
    return int(port)


class Https:
    """What makes a server speak TLS. ``load`` comes before the server loop, ``attach`` before it turns."""

    def __init__(self, options: Options, report: Callable[..., None], directory: str = "") -> None:
        self._options = options
        self._certificates = Certificates(options, report, directory)

    def load(self, sockets: Sequence[socket]) -> None:
        """Load the certificate. Raises UsageError for files and ciphers that cannot be used."""
        self._port = _port(self._options, sockets)
        self._certificates.load()

    def attach(self, loop: Loop, listeners: Sequence[Listener], multithread: bool, multiprocess: bool) -> None:
        """Set what each listener does with its clients: TLS, plain HTTP or the redirect."""

        handshake = first_stage(loop.service, partial(Handshake, self._certificates, loop.service))

        def secure(sock: Socket, peer: object, endpoint: Endpoint, now: float) -> None:
            loop.admission.admit(handshake(sock, peer, endpoint, now), now)

        for listener in listeners:
            if listener.is_tcp:
                listener.accepted = secure
        if self._options.redirect_http:
            gateway = Gateway(Redirect(self._port), multithread=multithread, multiprocess=multiprocess)
            listeners[-1].accepted = _redirect_to(_make_service(loop, gateway), loop)


def _redirect_to(service: Service, loop: Loop) -> Callable[[Socket, object, Endpoint, float], None]:
    """The function that the listener of ``--redirect-http`` calls with its clients."""

    def connect(sock: Socket, peer: object, endpoint: Endpoint, now: float) -> Connection:
        return Connection(sock, peer, endpoint, service, now)

    first = first_stage(service, connect)

    def redirect(sock: Socket, peer: object, endpoint: Endpoint, now: float) -> None:
        # Not plain: another worker would take it over for the application.
        loop.admission.admit(first(sock, peer, endpoint._replace(plain=False), now), now)

    return redirect


def _make_service(loop: Loop, gateway: Gateway) -> Service:
    """The service of ``--redirect-http``, beside the one of the application in the same loop.

    The two share the counters of the loop and the limits of heads. Any client can reach this one by plain HTTP, so the
    other must not see anything that it remembers: it has a gateway and a lane of its own. It responds as soon as the
    head is there, because no body can change the redirect. The rest of a body is thrown away for a moment, then the
    connection is closed. Nothing of a body is kept, so it has no limit here.
    """
    service = loop.service
    lane = None if service.lane is None else FastLane(service.limits.max_target, gateway.base)
    elsewhere = replace(
        service,
        application=gateway.serve,
        lane=lane,
        base=gateway.base,
        limits=replace(service.limits, stream_body=True, max_body=0),
        _hinted=set(),
    )
    elsewhere.lend = loop.lend
    return elsewhere
