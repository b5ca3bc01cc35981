"""Says which request it has answered, and in which process; a body comes back behind that."""

import os

TEXT = ("Content-Type", "text/plain")


def app(environ, start_response):
    body = environ["wsgi.input"].read()
    start_response("200 OK", [TEXT])
    return [f"{os.getpid()} {environ['PATH_INFO']} ".encode(), body]
