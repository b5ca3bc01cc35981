"""The application of --redirect-http."""

import re
from collections.abc import Callable
from typing import Any

_PORT = re.compile(r":[0-9]*\Z")
# Scheme and host of a target in absolute form. Only at its beginning: a query may contain other addresses.
_ORIGIN = re.compile(r"(?i:https?)://[^/?]*+")


class Redirect:
    """A WSGI application that redirects its clients to the same address by https, and then closes the connection.

    The host is the one that the client has named, so only this client is redirected there. A client without a Host is
    redirected to the address that it has reached. Status 308 keeps the method and the body.
    """

    def __init__(self, port: int) -> None:
        self._port = "" if port == 443 else f":{port}"

    def __call__(self, environ: dict[str, Any], start_response: Callable[..., object]) -> list[bytes]:
        host = _PORT.sub("", environ.get("HTTP_HOST", "")) or environ["SERVER_NAME"]
        target = environ["REQUEST_URI"]
        if origin := _ORIGIN.match(target):
            # The host of a target in absolute form is the Host already (RFC 9112 3.2.2).
            target = target[origin.end() :]
        if not target.startswith("/"):
            target = "/" + target.removeprefix("*")
        location = f"https://{host}{self._port}{target}"
        text = f"This is {location}\n".encode("latin-1")
        fields = [("Location", location), ("Content-Type", "text/plain"), ("Connection", "close")]
        start_response("308 Permanent Redirect", [*fields, ("Content-Length", str(len(text)))])
        return [text]
