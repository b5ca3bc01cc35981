"""An application whose responses are large, endless or silent: for the tests of slow and absent clients.

`SIZE` is in the environment; `/log` tells which paths were closed, and what an application was told of its client.
"""

import functools
import itertools
import json
import os
import tempfile
import threading
import time

SIZE = int(os.environ.get("SIZE", "100000"))
FOLDER = tempfile.mkdtemp()
PATH = os.path.join(FOLDER, "file")
CONTENT = bytes(range(256)) * (SIZE // 256)
with open(PATH, "wb") as made:
    made.write(CONTENT)

log = []


@functools.cache
def flask_app():
    """Made when the first client asks: its import would double the time in which this application starts."""
    import flask

    app = flask.Flask(__name__)

    @app.get("/flask")
    def send():
        return flask.send_file(PATH)

    return app


class Closing:
    """What an application returns: it says when it was closed, and after how many steps."""

    def __init__(self, name, pieces):
        self.name, self.pieces, self.steps = name, iter(pieces), 0

    def __iter__(self):
        return self

    def __next__(self):
        self.steps += 1
        return next(self.pieces)

    def close(self):
        log.append([self.name, self.steps])


def forever(piece, pause=0.0):
    while True:
        yield piece
        if pause:
            time.sleep(pause)


def app(environ, start_response):
    path = environ["PATH_INFO"]
    fields = [("Content-Type", "application/octet-stream")]
    match path.split("/")[1]:
        case "log":
            body = [json.dumps(log).encode()]
        case "file":
            body = environ["wsgi.file_wrapper"](open(PATH, "rb"))  # noqa: SIM115
        case "flask":
            return flask_app()(environ, start_response)
        case "list":
            body = [CONTENT]
        case "pieces":
            body = [CONTENT[start : start + 5000] for start in range(0, len(CONTENT), 5000)]
        case "tuple":
            body = tuple(CONTENT[start : start + 100] for start in range(0, len(CONTENT), 100))
        case "one":
            body = Closing(path, [CONTENT])
        case "length":
            fields.append(("Content-Length", str(len(CONTENT))))
            body = Closing(path, [CONTENT[:1000], CONTENT[1000:]])
        case "write":
            start_response("200 OK", fields)(CONTENT)
            return []
        case "generator":
            body = Closing(path, (CONTENT[start : start + 65536] for start in range(0, len(CONTENT), 65536)))
        case "endless":
            body = Closing(path, forever(b"x" * 100))
        case "silent":
            log.append([path, -1])
            body = Closing(path, forever(b"", 0.02))
        case "more":
            body = itertools.chain([CONTENT], (threading.Event().wait(3600) for _ in range(1)))
        case "mute":
            log.append([path, -1])
            write = start_response("200 OK", fields)
            try:
                for steps, piece in enumerate(forever(b"", 0.02)):  # noqa: B007
                    write(piece)
            finally:
                log.append([path, steps])
        case "half":
            fields.append(("Content-Length", "5"))
            body = Closing(path, forever(b"hello", 0.02))
        case "wait":
            threading.Event().wait(float(path.split("/")[2]))
            body = [b"waited"]
        case "ask":
            gone = environ["zibai.client_disconnected"]
            log.append([path, gone()])
            while not gone():
                time.sleep(0.02)
            log.append([path, gone()])
            body = [b"asked"]
        case _:
            log.append([path, 0])
            body = [b"hello"]
    start_response("200 OK", fields)
    return body
