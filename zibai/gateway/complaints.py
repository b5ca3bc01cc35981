"""Faults that an application makes at each request, logged once."""

from ..logger import error_logger
from ..protocol.http1.request import Request


class Complaints:
    """The faults of one application that a gateway has logged: the next request with the same fault logs nothing.

    ``request`` is the request with the fault. Any runner may call it. Two runners that find a new fault at the same
    time may both log it.
    """

    def __init__(self) -> None:
        self._said: set[str] = set()

    def __repr__(self) -> str:
        return f"<Complaints: {sorted(self._said)}>"

    def surplus(self, request: Request | None) -> None:
        """The application gives more bytes than its Content-Length promises."""
        self._say_once("more than Content-Length is given; the rest is dropped", request)

    def late(self, kind: str, request: Request | None) -> None:
        """The application goes on after the end of its response."""
        self._say_once(f"{kind} came after the end of the response; it is ignored", request)

    def endless(self, request: Request | None) -> None:
        """The application receives for ever."""
        self._say_once("the application receives again and again after it has heard of the end; let it end", request)

    def removed(self, name: str, request: Request | None) -> None:
        """The application gives a field of one hop (RFC 9110 7.6.1)."""
        self._say_once(f"the field {name} is the server's to send; it is removed", request)

    def subprotocol(self, name: object, request: Request | None) -> None:
        """The application accepts a WebSocket with a subprotocol that the client does not know (RFC 6455 4.2.2)."""
        self._say_once(f"the client has not offered the subprotocol {name!r}; it is left out", request)

    def _say_once(self, message: str, request: Request | None) -> None:
        if message not in self._said:
            self._said.add(message)
            path = "" if request is None else request.path
            error_logger.warning("%s (said once, at %s)", message, ascii(path))
