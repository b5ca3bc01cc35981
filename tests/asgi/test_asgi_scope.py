"""The scope, and what is logged of it: traps 35 to 38 of other servers."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest
from harness import asgi, read_body, request, respond

from serving import serving
from support import Client

if TYPE_CHECKING:
    from pathlib import Path


class Scopes:
    """An application that keeps its scopes."""

    def __init__(self) -> None:
        self.seen: list[dict[str, Any]] = []

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        self.seen.append(scope)
        await respond(send)


@pytest.fixture
def scopes() -> Scopes:
    return Scopes()


def ask(scopes: Scopes, data: bytes, **options: Any) -> dict[str, Any]:
    with asgi(scopes, **options) as server, Client(server.port) as client:
        client.send(data)
        assert client.read().status == 200
    return scopes.seen[-1]


def test_every_key(scopes: Scopes) -> None:
    with asgi(scopes) as server, Client(server.port) as client:
        client.send(request("/caf%C3%A9/%2F?x=%20&y", "X-A: 1", "x-a: 2", "Cookie: a=b", "Cookie: c=d"))
        client.read()
        mine = client.socket.getsockname()
    assert 0 <= scopes.seen[0]["extensions"].pop("zibai.queue_time")["seconds"] < 10
    assert scopes.seen == [
        {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": "2.5"},
            "http_version": "1.1",
            "method": "GET",
            "scheme": "http",
            "path": "/café//",
            "raw_path": b"/caf%C3%A9/%2F",
            "query_string": b"x=%20&y",
            "root_path": "",
            "headers": [
                (b"host", b"test"), (b"x-a", b"1"), (b"x-a", b"2"), (b"cookie", b"a=b"), (b"cookie", b"c=d")
            ],
            "client": mine,
            "server": ("127.0.0.1", server.port),
            "state": {},
            "extensions": {
                "http.response.early_hint": {}, "http.response.pathsend": {}, "http.response.zerocopysend": {}
            },
        }
    ]  # fmt: skip


def test_every_part_is_of_one_request() -> None:
    """Trap 35: uvicorn#2977, granian: what one request changes, the next one sees."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        assert "evil" not in repr(scope)
        for value in (scope, scope["asgi"], scope["extensions"], scope["state"], *scope["extensions"].values()):
            value["evil"] = "evil"
        scope["headers"].append((b"evil", b"evil"))
        scope["path"] = scope["root_path"] = "/evil"
        await respond(send)

    with asgi(app) as server, Client(server.port) as client:
        for _ in range(4):
            assert client.get("/same").status == 200


MOUNTS = [
    # prefix, target, path, root_path
    ("", "/a", "/a", ""),
    ("/api", "/a", "/api/a", "/api"),  # the proxy has taken it off
    ("/api", "/api/a", "/api/a", "/api"),  # or not
    ("/api", "/api", "/api", "/api"),
    ("/api", "/apis", "/api/apis", "/api"),
    ("/api", "/", "/api/", "/api"),
    ("/api", "/api/api/a", "/api/api/a", "/api"),  # a mount of the same name
]


@pytest.mark.parametrize(("prefix", "target", "path", "root"), MOUNTS)
@pytest.mark.parametrize("forwarded", [False, True], ids=["option", "field"])
def test_root_path_is_part_of_the_path(
    scopes: Scopes, prefix: str, target: str, path: str, root: str, forwarded: bool
) -> None:
    """Trap 36: litestar#3041, starlette#2400, LightRAG#3128."""
    options: dict[str, Any] = {"url_prefix": prefix}
    fields: list[str] = []
    if forwarded:
        options = {"trusted_proxies": ["127.0.0.1"], "forwarded_fields": "prefix"}
        fields = [f"X-Forwarded-Prefix: {prefix}"] if prefix else []
    scope = ask(scopes, request(target, *fields), **options)
    assert (scope["path"], scope["root_path"], scope["raw_path"]) == (path, root, target.encode())


def test_the_whole_server_has_no_path_below_a_prefix(scopes: Scopes) -> None:
    """Trap 36: ``*`` is no path."""
    scope = ask(scopes, request("*", method="OPTIONS"), url_prefix="/api")
    assert (scope["path"], scope["root_path"], scope["raw_path"]) == ("*", "/api", b"*")


def test_kinds_and_versions(scopes: Scopes) -> None:
    """Trap 37: granian's port is a text and its http_version of 1.0 wrong."""
    for version, told in (("1.0", "1.0"), ("1.1", "1.1"), ("1.2", "1.1")):
        scope = ask(scopes, request(version=version))
        assert scope["http_version"] == told
        assert [type(each) for each in scope["client"] + scope["server"]] == [str, int, str, int]


def test_a_path_that_is_no_utf8(scopes: Scopes) -> None:
    scope = ask(scopes, request("/%ff%41"))
    assert (scope["path"], scope["raw_path"]) == ("/\ufffdA", b"/%ff%41")


@pytest.mark.parametrize("fields", [[], ["User-Agent: me"]], ids=["of a known shape", "of another"])
@pytest.mark.parametrize("paused", [False, True], ids=["at once", "after a pause"])
def test_the_access_log_has_the_request_as_it_came(fields: list[str], paused: bool) -> None:
    """Trap 38: uvicorn#1384: it shows the mounted path."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        scope["path"] = scope["root_path"] = scope["method"] = "changed"
        scope["client"] = None
        scope["query_string"] = b"changed"
        scope["headers"].clear()
        if paused:
            await asyncio.sleep(0)
        await respond(send, b"12345")

    with asgi(app) as server, Client(server.port) as client:
        for _ in range(4):  # a head that comes again is remembered
            client.get("/real?x=1", *fields)
    records = [record.__dict__ for record in server.logged("zibai.access")]
    assert len(records) == 4
    for record in records:
        assert (record["PATH_INFO"], record["REQUEST_METHOD"], record["status"]) == ("/real", "GET", 200)
        assert (record["REMOTE_ADDR"], record["HTTP_HOST"], record["QUERY_STRING"]) == ("127.0.0.1", "test", "x=1")
        assert record.get("HTTP_USER_AGENT") == ("me" if fields else None)
    assert all("5" in record.getMessage() for record in server.logged("zibai.access"))


PROXY = {"trusted_proxies": ["127.0.0.1"]}
TOLD = ["X-Forwarded-For: 192.0.2.7", "X-Forwarded-Proto: https"]


def test_a_trusted_proxy_tells_of_the_client(scopes: Scopes) -> None:
    with asgi(scopes, forwarded_fields="for,proto,host", **PROXY) as server:
        with Client(server.port) as client:
            client.get("/", *TOLD, "X-Forwarded-Host: example.org")
            client.get("/")
    told, plain = scopes.seen
    assert told["client"] == ("192.0.2.7", 0)
    assert (told["scheme"], plain["scheme"]) == ("https", "http")
    assert (b"host", b"example.org") in told["headers"]
    assert plain["client"][0] == "127.0.0.1"
    assert told["server"] == plain["server"] == ("127.0.0.1", server.port)  # the proxy's port belongs to no listener
    assert [record.__dict__["REMOTE_ADDR"] for record in server.logged("zibai.access")] == ["192.0.2.7", "127.0.0.1"]


def test_nobody_else_is_believed(scopes: Scopes) -> None:
    scope = ask(scopes, request("/", *TOLD), trusted_proxies=["192.0.2.1"])
    assert (scope["client"][0], scope["scheme"]) == ("127.0.0.1", "http")


def test_a_contradiction_is_refused_and_no_application_runs(scopes: Scopes) -> None:
    fields = ["X-Forwarded-For: 192.0.2.7", "Forwarded: for=192.0.2.8"]
    with asgi(scopes, forwarded_fields="for", **PROXY) as server, Client(server.port) as c:
        assert c.get("/", *fields).status == 400
    assert not scopes.seen
    assert not [record for record in server.records if record.exc_info]


def test_a_unix_socket(scopes: Scopes, tmp_path: Path) -> None:
    from zibai import create_bind_socket

    path = tmp_path / "socket"
    listener = create_bind_socket(f"unix:{path}")
    with asgi(scopes, listener=listener) as _, Client(path) as client:
        assert client.get("/").status == 200
    assert scopes.seen[0]["client"] is None
    assert scopes.seen[0]["server"] == (str(path), None)


def test_state_is_a_shallow_copy() -> None:
    shared: list[int] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            scope["state"]["shared"] = shared
            await receive()
            await send({"type": "lifespan.startup.complete"})
            await receive()
            await send({"type": "lifespan.shutdown.complete"})
            return
        assert list(scope["state"]) == ["shared"]
        scope["state"]["shared"].append(1)
        scope["state"]["mine"] = 1
        await read_body(receive)
        await respond(send)

    with serving(app, valid=False) as server, Client(server.port) as client:
        for _ in range(3):
            assert client.get("/").status == 200
    assert shared == [1, 1, 1]
