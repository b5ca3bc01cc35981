"""Raises what it was sent, so that all of it is in the log."""


def app(environ, start_response):
    text = "\n".join(value for value in environ.values() if isinstance(value, str))
    if environ["REQUEST_METHOD"] == "GET":
        raise ValueError(text)
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [b"logged"]
