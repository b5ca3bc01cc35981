"""The same as ``versioned``, as ASGI: it says which version it is, and gives back what was posted."""

from pathlib import Path

VERSION = Path("version.txt").read_text(encoding="ascii")
if VERSION == "broken":
    raise RuntimeError("this version does not start")


async def app(scope, receive, send):
    if scope["type"] == "lifespan":
        await lifespan(receive, send)
        return
    body = b""
    if scope["method"] == "POST":
        more = True
        while more:
            message = await receive()
            body += message["body"]
            more = message["more_body"]
    else:
        body = VERSION.encode()
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/plain")]})
    await send({"type": "http.response.body", "body": body})


async def lifespan(receive, send):
    await receive()
    if VERSION == "refused":
        await send({"type": "lifespan.startup.failed", "message": "there is no database"})
        return
    await send({"type": "lifespan.startup.complete"})
    await receive()
    print("the lifespan ends", flush=True)
    await send({"type": "lifespan.shutdown.complete"})
