"""Applications without a framework. `app` finds them by the first part of the path: ``/echo``, ``/download``, ...

`validated` is the same behind ``wsgiref.validate``, which fails where server or application break PEP 3333.
"""

import hashlib
import json
import logging
import os
import socket
import time
from urllib.parse import parse_qs
from wsgiref.validate import validator

logger = logging.getLogger("zibai.test")  # a child of zibai's: its records are in the log of the server

TEXT = [("Content-Type", "text/plain; charset=utf-8")]
BINARY = [("Content-Type", "application/octet-stream")]


def hello(environ, start_response):
    start_response("200 OK", [*TEXT, ("Content-Length", "12")])
    return [b"Hello World!"]


def path(environ, start_response):
    """Which request this is, so that answers can be told apart."""
    start_response("200 OK", TEXT)
    return [environ["PATH_INFO"].encode("latin-1")]


def pid(environ, start_response):
    start_response("200 OK", TEXT)
    return [str(os.getpid()).encode()]


def environ_(environ, start_response):
    """The plain values of the environ, as JSON."""
    start_response("200 OK", [("Content-Type", "application/json")])
    return [json.dumps({name: value for name, value in environ.items() if isinstance(value, str)}).encode()]


def echo(environ, start_response):
    """The body, chunk by chunk."""
    start_response("200 OK", BINARY)
    body = environ["wsgi.input"]
    return iter(lambda: body.read(16 * 1024), b"")


def checksum(environ, start_response):
    """SHA-256 and length of the body."""
    digest, length = hashlib.sha256(), 0
    for chunk in echo(environ, lambda *_: None):
        digest.update(chunk)
        length += len(chunk)
    start_response("200 OK", TEXT)
    return [f"{digest.hexdigest()} {length}".encode()]


def ignore(environ, start_response):
    """Answers and leaves the body unread."""
    start_response("200 OK", TEXT)
    return [b"not read"]


def pattern(size):
    """``size`` deterministic bytes in chunks of at most 64 KiB, of which no two are alike."""
    for number, start in enumerate(range(0, size, 64 * 1024)):
        yield (hashlib.sha256(b"%d" % number).digest() * 2048)[: size - start]


def download(environ, start_response):
    """``?size=N`` bytes of the pattern; with ``&length`` the server knows before that it is so many."""
    query = parse_qs(environ["QUERY_STRING"], keep_blank_values=True)
    size = int(query["size"][0])
    start_response("200 OK", [*BINARY, *([("Content-Length", str(size))] if "length" in query else [])])
    return pattern(size)


def sleep(environ, start_response):
    """Answers after ``?SECONDS``."""
    time.sleep(float(environ["QUERY_STRING"]))  # app
    start_response("200 OK", TEXT)
    return [b"slept"]


def gated(environ, start_response):
    """Comes to the `support.Gate` on port ``?PORT`` and answers when it may go."""
    with socket.create_connection(("127.0.0.1", int(environ["QUERY_STRING"]))) as gate:
        gate.recv(1)
    start_response("200 OK", TEXT)
    return [b"passed"]


def stream(environ, start_response):
    """Two chunks, and `support.Gate` on port ``?PORT`` between them."""
    start_response("200 OK", TEXT)
    yield b"first,"
    with socket.create_connection(("127.0.0.1", int(environ["QUERY_STRING"]))) as gate:
        gate.recv(1)
    yield b"second"


def broken(environ, start_response):
    raise RuntimeError("broken on purpose")


def cut(environ, start_response):
    """Fails when the head and a part of the body are out."""
    start_response("200 OK", BINARY)
    yield b"some"
    raise RuntimeError("cut on purpose")


ROUTES = {
    "hello": hello,
    "path": path,
    "pid": pid,
    "environ": environ_,
    "echo": echo,
    "checksum": checksum,
    "ignore": ignore,
    "download": download,
    "sleep": sleep,
    "gated": gated,
    "stream": stream,
    "broken": broken,
    "cut": cut,
}


def app(environ, start_response):
    name = environ["PATH_INFO"].split("/")[1] or "hello"
    return ROUTES[name](environ, start_response)


validated = validator(app)


def create_app():
    """A factory, for ``--call``."""
    return app


def before_serve():
    logger.info("hook: before_serve in %d", os.getpid())


def before_graceful_exit():
    logger.info("hook: before_graceful_exit in %d", os.getpid())


def before_died():
    logger.info("hook: before_died in %d", os.getpid())


not_callable = 42
