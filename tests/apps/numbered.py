"""Says which request it has answered, and in which process; a body comes back behind that. ``/die`` ends it."""

import os

TEXT = ("Content-Type", "text/plain")


def app(environ, start_response):
    if environ["PATH_INFO"] == "/die":
        os._exit(9)
    body = environ["wsgi.input"].read()
    start_response("200 OK", [TEXT])
    return [f"{os.getpid()} {environ['PATH_INFO']} ".encode(), body]


async def asgi_app(scope, receive, send):
    if scope["type"] == "lifespan":
        for ends in ("startup", "shutdown"):
            await receive()
            await send({"type": f"lifespan.{ends}.complete"})
        return
    if scope["path"] == "/die":
        os._exit(9)
    body, more = b"", True
    while more:
        message = await receive()
        body += message.get("body", b"")
        more = message.get("more_body", False)
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/plain")]})
    await send({"type": "http.response.body", "body": f"{os.getpid()} {scope['path']} ".encode() + body})
