"""The live page at ``/`` of ``--health-listen``, and ``/status.json``, which it asks every two seconds.

The page is a single file: no script, style or font comes from elsewhere. Its Content-Security-Policy allows only its
own script and style (by their hashes) and requests to this server. The page changes nothing. Text that clients have
sent, such as paths, goes into the page as text of a node.

Paths are visible there, so a request for the page is checked first. On a public address the page is there only with
``--health-public``. Elsewhere the request must name an IP address or ``localhost`` as its host. In an attack by DNS
rebinding, the name of another site points to 127.0.0.1, and the request carries that name.

For the charts, a sample of a few numbers is taken every ``SAMPLE_INTERVAL`` seconds, also while no client asks, and
kept for ten minutes. The thread of the probes owns all of it.
"""

import base64
import json
import re
from collections import deque
from collections.abc import Callable
from http import HTTPStatus
from importlib.resources import files
from math import inf
from typing import Any, Final, NamedTuple

from ..clock import clock
from ..config.addresses import read_address
from ..logger import debug_logger
from ..telemetry.rates import compare, processor, sums

SAMPLE_INTERVAL: Final = 5.0
"""Seconds between two looks."""

CHART_SPAN: Final = 600.0
"""Seconds of the charts."""

SHOWN_REQUESTS: Final = 200
"""Running requests that are shown, the longest first."""

PATHS: Final = ("/", "/status.json")

_SERIES: Final = ("rate", "errors", "p50", "p95", "p99", "busy", "slots", "queue")
_FIELDS: Final = ("pid", "state", "up", "memory", "requests", "busy", "queue", "open")


class Response(NamedTuple):
    """A response that the thread of the probes sends."""

    status: HTTPStatus
    body: bytes
    kind: bytes = b"text/plain"
    fields: bytes = b""


class Live:
    """The page of a server. ``look`` returns the data of :func:`~zibai.telemetry.board_view.describe`.

    With ``public`` the address is a public one; ``allowed`` is ``--health-public``. ``due`` is when :meth:`sample`
    must be called.
    """

    def __init__(self, look: Callable[[], dict[str, Any]], *, public: bool, allowed: bool) -> None:
        self._look = look
        self._closed = public and not allowed
        self._any_host = allowed
        self._history: deque[tuple[float, dict[str, Any]]] = deque(maxlen=int(CHART_SPAN / SAMPLE_INTERVAL) + 1)
        self._last: tuple[dict[str, Any], dict[str, Any]] | None = None  # the last two looks
        self._page: Response | None = None  # made for the first client
        self.due = inf if self._closed else 0.0

    def sample(self, now: float) -> None:
        """Take a look for the charts. Never raises."""
        self.due = now + SAMPLE_INTERVAL
        try:
            server = self._look()
            before = server if self._last is None else self._last[1]
            if server is not before:
                self._history.append((now, {**compare(before, server), **sums(server)}))
            self._last = before, server
        except Exception as error:  # a row that is being written
            debug_logger.debug("--health-listen: no look for the live page: %r", error)

    def respond(self, path: str, host: str) -> Response:
        """The response to a GET of one of ``PATHS``; ``host`` is the field Host."""
        if self._closed:
            text = "this page shows paths of requests, and --health-listen is a public address; add --health-public"
            return Response(HTTPStatus.FORBIDDEN, f"{text}\n".encode())
        if not self._any_host and not _is_direct(host):
            text = "this page is for IP addresses and localhost; for other names add --health-public"
            return Response(HTTPStatus.FORBIDDEN, f"{text}\n".encode())
        if path == "/status.json":
            return Response(HTTPStatus.OK, json.dumps(self.status()).encode(), b"application/json")
        if self._page is None:
            self._page = _load()
        return self._page

    def status(self) -> dict[str, Any]:
        """The data of the page, as plain values. Times in the history are seconds until now, the oldest first."""
        server, now = self._look(), clock()
        # Compared with a look that is at least a second old, if there is one, so that the numbers do not jump.
        before = next((each for each in reversed(self._last or ()) if server["up"] - each["up"] >= 1.0), server)
        shares = processor(before, server)
        running = [
            {"pid": worker["pid"], **each} for worker in server["workers"] for each in worker["running"]
        ]  # fmt: skip
        running.sort(key=lambda each: -each["seconds"])
        workers = [
            {**{name: each[name] for name in _FIELDS}, "share": shares.get(each["pid"])} for each in server["workers"]
        ]
        history: dict[str, list[Any]] = {"ago": [round(now - at, 1) for at, _ in self._history]}
        history |= {name: [point[name] for _, point in self._history] for name in _SERIES}
        facts = {name: server[name] for name in ("pid", "version", "app", "listen", "up", "totals") if name in server}
        return {
            "server": {**facts, "workers": workers},
            "sums": sums(server),
            "now": compare(before, server),
            "history": history,
            "running": running[:SHOWN_REQUESTS],
            "more": max(0, len(running) - SHOWN_REQUESTS),
        }


def _is_direct(host: str) -> bool:
    """Whether a Host is an IP address or localhost."""
    name = re.sub(r":[0-9]*$", "", host).strip("[]").lower()
    return name == "localhost" or name.endswith(".localhost") or read_address(name) is not None


def _load() -> Response:
    """The page, with the fields that browsers obey."""
    html = files(__package__).joinpath("live.html").read_bytes()
    policy = "; ".join(
        [
            "default-src 'none'",
            f"script-src {_hash(html, b'script')}",
            f"style-src {_hash(html, b'style')}",
            "connect-src 'self'",
            "img-src data:",
            "base-uri 'none'",
            "form-action 'none'",
            "frame-ancestors 'none'",
        ]
    )
    fields = {
        "Content-Security-Policy": policy,
        "X-Content-Type-Options": "nosniff",
        "Referrer-Policy": "no-referrer",
        "Cross-Origin-Resource-Policy": "same-origin",
    }
    lines = "".join(f"{name}: {value}\r\n" for name, value in fields.items())
    return Response(HTTPStatus.OK, html, b"text/html; charset=utf-8", lines.encode("ascii"))


def _hash(html: bytes, element: bytes) -> str:
    """The source of the only element of this name, for the policy (CSP Level 3, 2.3.1)."""
    import hashlib  # it loads OpenSSL: 2 % of a start, and few servers have the page

    ((content),) = re.findall(rb"<%b>(.*?)</%b>" % (element, element), html, re.DOTALL)
    return f"'sha256-{base64.b64encode(hashlib.sha256(content).digest()).decode()}'"
