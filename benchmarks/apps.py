"""The WSGI applications, in plain Python, so that every server can import them.

Each workload has an application of its own, without routing: what is measured is the server. All of them say their
Content-Length, except the one that streams: bjoern, for one, becomes slow without it, and we measure no mistake.
"""

import json
import time
from collections.abc import Iterable, Iterator
from itertools import count
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from wsgiref.types import StartResponse, WSGIEnvironment

HELLO = b"Hello World!"
PAGE = (b"<p>All work and no play makes Jack a dull boy.</p>\n" * 300)[: 12 * 1024]
CHUNK = PAGE[:1024]
CHUNKS = 16
COMPUTED = 75_000  # steps of a loop, about 2 ms

_requests = count(1)


def hello(environ: "WSGIEnvironment", start_response: "StartResponse") -> Iterable[bytes]:
    start_response("200 OK", [("Content-Type", "text/plain; charset=utf-8"), ("Content-Length", str(len(HELLO)))])
    return [HELLO]


def page(environ: "WSGIEnvironment", start_response: "StartResponse") -> Iterable[bytes]:
    start_response("200 OK", [("Content-Type", "text/html; charset=utf-8"), ("Content-Length", str(len(PAGE)))])
    return [PAGE]


def post(environ: "WSGIEnvironment", start_response: "StartResponse") -> Iterable[bytes]:
    """Reads JSON, answers JSON."""
    order = json.loads(environ["wsgi.input"].read(int(environ["CONTENT_LENGTH"])))
    body = json.dumps({"id": order["id"], "total": sum(item["price"] for item in order["items"])}).encode()
    start_response("200 OK", [("Content-Type", "application/json"), ("Content-Length", str(len(body)))])
    return [body]


def stream(environ: "WSGIEnvironment", start_response: "StartResponse") -> Iterator[bytes]:
    start_response("200 OK", [("Content-Type", "text/html; charset=utf-8")])
    for _ in range(CHUNKS):
        yield CHUNK


def block(environ: "WSGIEnvironment", start_response: "StartResponse") -> Iterable[bytes]:
    """Every call waits for 10 ms, as for a database."""
    time.sleep(0.010)
    return hello(environ, start_response)


def mixed(environ: "WSGIEnvironment", start_response: "StartResponse") -> Iterable[bytes]:
    """One call in ten waits for 20 ms."""
    if next(_requests) % 10 == 0:
        time.sleep(0.020)
    return hello(environ, start_response)


def compute(environ: "WSGIEnvironment", start_response: "StartResponse") -> Iterable[bytes]:
    """Every call computes for about 2 ms, with its own objects only.

    No constant in the loop is over 256: without a GIL other integers of a module are counted by each thread that uses
    them, and two processors would wait for the same counters.
    """
    total = 0
    for _ in range(COMPUTED):
        total = (total + 7) % 251
    return hello(environ, start_response)
