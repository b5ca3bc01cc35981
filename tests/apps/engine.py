"""An application that tells what its server has: for the tests of the engine under clients that stall and leave."""

import gc
import json
import sys
import threading

BIG = 512 * 1024
NAMES = ("Connection", "TLSConnection")


def app(environ, start_response):
    start_response("200 OK", [("Content-Type", "application/octet-stream")])
    match environ["PATH_INFO"]:
        case "/big":
            return [bytes(BIG)]
        case "/counts":
            return [json.dumps(counts()).encode()]
        case _:
            environ["wsgi.input"].read()
            return [b"hello"]


def counts():
    gevent = sys.modules.get("gevent")
    gc.collect()
    living = (
        [each for each in gc.get_objects() if isinstance(each, gevent.Greenlet) and not each.dead] if gevent else []
    )
    connections = [each for each in gc.get_objects() if type(each).__name__ in NAMES and hasattr(each, "codec")]
    return {"greenlets": len(living), "threads": threading.active_count(), "connections": len(connections)}
