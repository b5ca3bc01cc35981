"""Remembers what it is asked, and tells on ``GET /wire-seen``, which empties its memory; not ``GET /wire-ping``."""

import json

seen = []


def app(environ, start_response):
    body = environ["wsgi.input"].read()
    if environ["PATH_INFO"] == "/wire-seen":
        answer, seen[:] = json.dumps(seen), []
    elif environ["PATH_INFO"] == "/wire-ping":
        answer = "fine"
    else:
        query = environ["QUERY_STRING"]
        seen.append(
            {
                "line": environ["REQUEST_METHOD"] + " " + environ["PATH_INFO"] + (f"?{query}" if query else ""),
                "body": body.decode("latin-1"),
                "environ": {key: value for key, value in environ.items() if isinstance(value, str)},
            }
        )
        answer = "fine"
    start_response("200 OK", [("Content-Type", "application/json")])
    return [answer.encode()]
