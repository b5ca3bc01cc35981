"""What ``wire`` is for WSGI: remembers what it is asked, and tells on ``GET /wire-seen``; not ``GET /wire-ping``."""

import json
from urllib.parse import unquote_to_bytes

seen = []


async def app(scope, receive, send):
    if scope["type"] != "http":
        raise AssertionError("no lifespan")
    body, more = b"", True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            return
        body += message["body"]
        more = message["more_body"]
    path = unquote_to_bytes(scope["raw_path"]).decode("latin-1").removeprefix("*")
    query = scope["query_string"].decode("latin-1")
    if path == "/wire-seen":
        answer, seen[:] = json.dumps(seen), []
    elif path == "/wire-ping":
        answer = "fine"
    else:
        line = scope["method"] + " " + path + (f"?{query}" if query else "")
        seen.append({"line": line, "body": body.decode("latin-1"), "environ": environ(scope, path, query, body)})
        answer = "fine"
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"application/json")]})
    await send({"type": "http.response.body", "body": answer.encode()})


def environ(scope, path, query, body):
    """The same as text of WSGI, so that both are held against the same files."""
    found = {
        "REQUEST_METHOD": scope["method"],
        "PATH_INFO": path,
        "QUERY_STRING": query,
        "SERVER_PROTOCOL": f"HTTP/{scope['http_version']}",
        "REMOTE_ADDR": scope["client"][0],
        "wsgi.url_scheme": scope["scheme"],
        "SERVER_NAME": scope["server"][0],
        "SCRIPT_NAME": scope["root_path"],
    }
    for name, value in scope["headers"]:
        key = name.decode("latin-1").upper().replace("-", "_")
        key = key if key in ("CONTENT_TYPE", "CONTENT_LENGTH") else f"HTTP_{key}"
        text = value.decode("latin-1")
        between = "; " if key == "HTTP_COOKIE" else ","
        found[key] = f"{found[key]}{between}{text}" if key in found else text
    if "CONTENT_LENGTH" in found:
        found["CONTENT_LENGTH"] = str(int(found["CONTENT_LENGTH"].split(",")[0]))  # ASGI has the fields as they came
    if found.pop("HTTP_TRANSFER_ENCODING", None):
        found["CONTENT_LENGTH"] = str(len(body))
    return found
