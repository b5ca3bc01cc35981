"""The smallest application that shows everything: ``zibai example:app -p 4``, or ``python example.py``.

GET says hello and POST echoes the body, chunk by chunk. The three hooks run in every worker::

    zibai example:app --before-serve example:before_serve \\
        --before-graceful-exit example:before_graceful_exit --before-died example:before_died
"""

from __future__ import annotations

import logging
import sys
from typing import TYPE_CHECKING

from zibai import main, parse_args

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from wsgiref.types import InputStream, StartResponse, WSGIEnvironment

logger = logging.getLogger("zibai.example")  # a child of zibai's logger: it prints with the server's lines


def app(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    match environ["REQUEST_METHOD"]:
        case "GET" | "HEAD":
            start_response("200 OK", [("Content-Type", "text/plain; charset=utf-8")])
            return [b"Hello World!"]
        case "POST":
            content_type = environ.get("CONTENT_TYPE") or "application/octet-stream"
            start_response("200 OK", [("Content-Type", content_type)])
            return echo(environ["wsgi.input"])
        case _:
            start_response("405 Method Not Allowed", [("Allow", "GET, HEAD, POST"), ("Content-Length", "0")])
            return []


def echo(body: InputStream) -> Iterator[bytes]:
    while chunk := body.read(64 * 1024):
        yield chunk


def before_serve() -> None:
    logger.info("about to serve")


def before_graceful_exit() -> None:
    logger.info("about to finish what is in flight")


def before_died() -> None:
    logger.info("about to end")


if __name__ == "__main__":
    main(parse_args(["example:app", *sys.argv[1:]]))
