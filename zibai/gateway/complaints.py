"""What an application does wrong at each request, logged once."""

from ..engine.stream import Stream
from ..logger import error_logger


class Complaints:
    """The faults of one application that a gateway has logged: the next request with the same fault logs nothing.

    Any runner may call it. Two runners that meet a new fault at the same time may both log it.
    """

    def __init__(self) -> None:
        self._said: set[str] = set()

    def __repr__(self) -> str:
        return f"<Complaints: {sorted(self._said)}>"

    def surplus(self, stream: Stream) -> None:
        """The application gives more bytes than its Content-Length promises."""
        self._say_once("more than Content-Length is given; the rest is dropped", stream)

    def late(self, kind: str, stream: Stream) -> None:
        """The application goes on after the end of its response."""
        self._say_once(f"{kind} came after the end of the response; it is ignored", stream)

    def removed(self, name: str, stream: Stream) -> None:
        """The application gives a field of one hop (RFC 9110 7.6.1)."""
        self._say_once(f"the field {name} is the server's to send; it is removed", stream)

    def _say_once(self, message: str, stream: Stream) -> None:
        if message not in self._said:
            self._said.add(message)
            path = stream.request.path if stream.request is not None else ""
            error_logger.warning("%s (said once, at %s)", message, ascii(path))
