"""An application that tells what its process holds, for the tests of the engine."""

import gc
import os
import threading

BIG = b"x" * (512 * 1024)


def app(environ, start_response):
    start_response("200 OK", [("Content-Type", "text/plain")])
    match environ["PATH_INFO"]:
        case "/big":
            return [BIG]
        case "/pieces":
            return iter([BIG[: 64 * 1024]] * 8)
        case "/held":
            return [held().encode()]
        case "/read":
            environ["wsgi.input"].read()
    return [b"ok"]


def held():
    """Descriptors, threads and greenlets, after a collection."""
    gc.collect()
    try:
        from greenlet import greenlet

        greenlets = sum(isinstance(thing, greenlet) for thing in gc.get_objects())
    except ImportError:
        greenlets = 0
    descriptors = len(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else 0
    return f"{descriptors} {threading.active_count()} {greenlets}"
