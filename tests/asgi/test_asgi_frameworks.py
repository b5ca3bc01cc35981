"""Frameworks end to end: what their own ways of streaming, cancelling and sending files make of this server.

Each test skips where its framework is not installed.
"""

from __future__ import annotations

import asyncio
import gzip
import json
import threading
import time
from typing import TYPE_CHECKING, Any

import pytest
from harness import half_close, request, reset

from serving import Serving, serving
from support import DEADLINE, Client

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


def well(server: Serving) -> None:
    """Nothing was logged that a person should look at; for after the end."""
    bad = [record for record in server.records if record.exc_info or record.levelname in ("ERROR", "CRITICAL")]
    assert not bad, [record.getMessage() for record in bad]


def post(target: str, body: bytes, *fields: str) -> bytes:
    return request(target, f"Content-Length: {len(body)}", *fields, method="POST", body=body)


class Life:
    """What happened within an application."""

    def __init__(self) -> None:
        self.events: list[str] = []
        self.background = threading.Event()
        self.entered = threading.Event()
        self.gone = threading.Event()


@pytest.fixture
def life() -> Life:
    return Life()


def starlette_app(life: Life, folder: Path) -> Any:
    from contextlib import asynccontextmanager

    from starlette.applications import Starlette
    from starlette.background import BackgroundTask
    from starlette.middleware import Middleware
    from starlette.middleware.base import BaseHTTPMiddleware
    from starlette.middleware.gzip import GZipMiddleware
    from starlette.requests import ClientDisconnect, Request
    from starlette.responses import FileResponse, JSONResponse, PlainTextResponse, StreamingResponse
    from starlette.routing import Mount, Route
    from starlette.staticfiles import StaticFiles

    @asynccontextmanager
    async def lifespan(app: Any) -> Any:
        life.events.append("startup")
        yield {"state": "shared"}
        life.events.append("shutdown")

    class Passing(BaseHTTPMiddleware):
        async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
            if scope.get("path") == "/poll":
                await self.app(scope, receive, send)
            else:
                await super().__call__(scope, receive, send)

        async def dispatch(self, request: Request, call_next: Any) -> Any:
            response = await call_next(request)
            response.headers["X-Passed"] = "yes"
            return response

    async def echo(request: Request) -> Any:
        return JSONResponse({"body": (await request.body()).decode(), "state": request.state.state})

    def in_thread(request: Request) -> Any:
        return PlainTextResponse(threading.current_thread().name)

    async def stream(request: Request) -> Any:
        async def numbers() -> Any:
            for number in range(5):
                yield f"{number}\n" * 100
                await asyncio.sleep(0.001)

        return StreamingResponse(numbers())

    async def endless(request: Request) -> Any:
        async def numbers() -> Any:
            try:
                while True:
                    yield b"x" * 1000
                    await asyncio.sleep(0.005)
            finally:
                life.gone.set()

        return StreamingResponse(numbers())

    async def poll(request: Request) -> Any:
        life.entered.set()
        while not await request.is_disconnected():  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        life.gone.set()
        return PlainTextResponse("nobody reads this")

    async def upload(request: Request) -> Any:
        size = 0
        try:
            async for piece in request.stream():
                size += len(piece)
        except ClientDisconnect:
            life.gone.set()
            raise
        return PlainTextResponse(str(size))

    async def background(request: Request) -> Any:
        async def later() -> None:
            life.entered.set()
            if "waits" in request.query_params:
                while not life.gone.is_set():  # noqa: ASYNC110 -- what the test says
                    await asyncio.sleep(0.002)
            life.background.set()

        return PlainTextResponse("fine", background=BackgroundTask(later))

    async def file(request: Request) -> Any:
        return FileResponse(folder / "file.bin")

    async def fails(request: Request) -> Any:
        raise ZeroDivisionError("mine")

    inner = Starlette(
        routes=[Route("/where", lambda request: JSONResponse([request.url.path, str(request.url_for("a"))]), name="a")]
    )
    return Starlette(
        lifespan=lifespan,
        middleware=[Middleware(Passing), Middleware(GZipMiddleware, minimum_size=200)],
        routes=[
            Route("/echo", echo, methods=["POST"]),
            Route("/thread", in_thread),
            Route("/stream", stream),
            Route("/endless", endless),
            Route("/poll", poll),
            Route("/upload", upload, methods=["POST"]),
            Route("/background", background),
            Route("/file", file),
            Route("/fails", fails),
            Mount("/static", StaticFiles(directory=folder)),
            Mount("/inner", inner),
        ],
    )  # fmt: skip


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "file.bin").write_bytes(bytes(range(256)) * 1000)
    return tmp_path


@pytest.fixture
def starlette(life: Life, folder: Path) -> Iterator[Serving]:
    pytest.importorskip("starlette")
    with serving(starlette_app(life, folder), valid=False) as server:
        yield server
    assert life.events == ["startup", "shutdown"]


def test_starlette_whole(starlette: Serving, life: Life, folder: Path) -> None:
    data = (folder / "file.bin").read_bytes()
    with Client(starlette.port) as client:
        client.send(post("/echo", b"abc"))
        response = client.read()
        assert json.loads(response.body) == {"body": "abc", "state": "shared"}
        assert response.headers["X-Passed"] == "yes"
        assert b"AnyIO" in client.get("/thread").body
        assert client.get("/stream").body == b"".join(b"%d\n" % number * 100 for number in range(5))
        zipped = client.get("/stream", "Accept-Encoding: gzip")
        assert zipped.headers["Content-Encoding"] == "gzip"
        assert gzip.decompress(zipped.body) == client.get("/stream").body
        assert client.get("/file").body == client.get("/static/file.bin").body == data
        part = client.get("/file", "Range: bytes=10-19")
        assert (part.status, part.body) == (206, data[10:20])
        client.send(request("/file", method="HEAD"))
        assert client.read("HEAD").headers["Content-Length"] == str(len(data))
        assert client.get("/static/missing").status == 404
        etag = client.get("/static/file.bin").headers["ETag"]
        assert client.get("/static/file.bin", f"If-None-Match: {etag}").status == 304
        assert client.get("/background").body == b"fine"
        assert life.background.wait(DEADLINE)
        client.send(post("/upload", b"x" * 500_000))
        assert client.read().body == b"500000"
        assert json.loads(client.get("/inner/where").body)[0] == "/inner/where"
        assert client.get("/").status == 404


# Behind BaseHTTPMiddleware Starlette's is_disconnected never hears of it, on any server.
@pytest.mark.parametrize("target", ["/endless", "/poll"])
@pytest.mark.parametrize("leave", [reset, Client.close], ids=["reset", "close"])
def test_starlette_is_left(starlette: Serving, life: Life, target: str, leave: Any) -> None:
    with Client(starlette.port) as client:
        client.send(request(target))
        if target == "/endless":
            assert client.socket.recv(10)
        else:
            assert life.entered.wait(DEADLINE)
        leave(client)
        assert life.gone.wait(3)
    well(starlette)


@pytest.mark.parametrize("leave", [reset, Client.close, half_close], ids=["reset", "close", "half-close"])
def test_starlette_goes_on_in_the_background(starlette: Serving, life: Life, leave: Any) -> None:
    """Trap 7: starlette#1438: its middleware cancelled a background task whose client had left."""
    with Client(starlette.port) as client, Client(starlette.port) as other:
        assert client.get("/background?waits").body == b"fine"
        assert life.entered.wait(DEADLINE)
        leave(client)
        assert other.get("/thread").status == 200  # the loop has looked at its connections since
        life.gone.set()
        assert life.background.wait(DEADLINE)
    well(starlette)


def test_starlette_and_half_an_upload(starlette: Serving, life: Life) -> None:
    with Client(starlette.port) as client:
        client.send(post("/upload", b"x" * 10)[:-5])
        half_close(client)
        assert client.read().status == 400
    assert life.gone.is_set()
    well(starlette)


def test_starlette_fails(starlette: Serving) -> None:
    with Client(starlette.port) as client:
        assert client.get("/fails").status == 500
        assert client.get("/thread").status == 200
    assert any("ZeroDivisionError" in str(record.exc_info) for record in starlette.records if record.exc_info)


def test_starlette_behind_a_prefix(life: Life, folder: Path) -> None:
    pytest.importorskip("starlette")
    with serving(starlette_app(life, folder), valid=False, url_prefix="/api") as server, Client(server.port) as client:
        for target in ("/inner/where", "/api/inner/where"):
            path, url = json.loads(client.get(target).body)
            assert path == "/api/inner/where"
            assert url == "http://test/api/inner/where"
    well(server)


def test_fastapi(life: Life) -> None:
    fastapi = pytest.importorskip("fastapi")
    from contextlib import asynccontextmanager

    @asynccontextmanager
    async def lifespan(app: Any) -> Any:
        life.events.append("startup")
        yield
        life.events.append("shutdown")

    app = fastapi.FastAPI(lifespan=lifespan)

    async def session() -> Any:
        life.events.append("open")
        try:
            yield "session"
        finally:
            life.events.append("close")

    async def item(number: int, tasks: fastapi.BackgroundTasks, held: str = fastapi.Depends(session)) -> Any:
        tasks.add_task(life.background.set)
        return {"number": number, "held": held}

    item.__annotations__.update(number=int, tasks=fastapi.BackgroundTasks, held=str)
    app.get("/items/{number}")(item)

    def create(body: dict) -> Any:  # type: ignore[type-arg]
        return body

    create.__annotations__["body"] = dict
    app.post("/items")(create)
    with serving(app, valid=False) as server, Client(server.port) as client:
        assert json.loads(client.get("/items/7").body) == {"number": 7, "held": "session"}
        assert client.get("/items/x").status == 422
        client.send(post("/items", b'{"a": 1}', "Content-Type: application/json"))
        assert json.loads(client.read().body) == {"a": 1}
        assert client.get("/docs").status == 200
        assert client.get("/openapi.json").status == 200
        assert life.background.wait(DEADLINE)
    assert life.events[::5] == ["startup", "shutdown"]
    assert sorted(life.events[1:5]) == ["close"] * 2 + ["open"] * 2  # which may be after the response
    well(server)


def test_sse_starlette(life: Life) -> None:
    pytest.importorskip("sse_starlette")
    from sse_starlette.sse import EventSourceResponse
    from starlette.applications import Starlette
    from starlette.routing import Route

    async def events(request: Any) -> Any:
        async def numbers() -> Any:
            try:
                number = 0
                while True:
                    yield {"data": str(number)}
                    number += 1
                    await asyncio.sleep(0.01)
            finally:
                life.gone.set()

        return EventSourceResponse(numbers())

    app = Starlette(routes=[Route("/", events)])
    with serving(app, valid=False, graceful_exit_timeout=15) as server:
        with Client(server.port) as client:
            client.send(request())
            assert b"text/event-stream" in client.socket.recv(10_000)
        assert life.gone.wait(3)  # the client has left
        life.gone.clear()
        with Client(server.port) as client:
            client.send(request())
            assert client.socket.recv(10)
            begun = time.monotonic()
            server.end.set()
            assert life.gone.wait(5)  # the server ends
            while client.socket.recv(10_000):
                pass
        assert time.monotonic() - begun < 10
    well(server)


def test_quart(life: Life) -> None:
    quart = pytest.importorskip("quart")
    app = quart.Quart("quart_app")

    @app.before_serving
    async def startup() -> None:
        life.events.append("startup")

    @app.after_serving
    async def shutdown() -> None:
        life.events.append("shutdown")

    @app.post("/echo")
    async def echo() -> Any:
        app.add_background_task(life.background.set)
        return await quart.request.get_data()

    @app.get("/stream")
    async def stream() -> Any:
        async def numbers() -> Any:
            for number in range(5):
                yield f"{number}\n".encode()
                await asyncio.sleep(0)

        return numbers(), 200, {"X-A": "b"}

    with serving(app, valid=False) as server, Client(server.port) as client:
        client.send(post("/echo", b"abc") * 3)
        assert [client.read().body for _ in range(3)] == [b"abc"] * 3
        assert client.get("/stream").body == b"0\n1\n2\n3\n4\n"
        assert client.get("/missing").status == 404
        assert life.background.wait(DEADLINE)
    assert life.events == ["startup", "shutdown"]
    well(server)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_litestar(life: Life) -> None:
    litestar = pytest.importorskip("litestar")
    from litestar.response import Stream

    async def echo(data: dict[str, Any]) -> dict[str, Any]:
        return data

    async def stream() -> Stream:
        async def numbers() -> Any:
            for number in range(5):
                yield f"{number}\n"

        return Stream(numbers())

    echo.__annotations__.update({"data": dict[str, Any], "return": dict[str, Any]})
    stream.__annotations__["return"] = Stream
    app = litestar.Litestar(
        [litestar.post("/echo")(echo), litestar.get("/stream")(stream)],
        on_startup=[lambda: life.events.append("startup")],
        on_shutdown=[lambda: life.events.append("shutdown")],
    )
    with serving(app, valid=False) as server, Client(server.port) as client:
        client.send(post("/echo", b'{"a": 1}', "Content-Type: application/json"))
        assert json.loads(client.read().body) == {"a": 1}
        assert client.get("/stream").body == b"0\n1\n2\n3\n4\n"
        assert client.get("/missing").status == 404
    assert life.events == ["startup", "shutdown"]
    well(server)


def test_falcon(life: Life) -> None:
    pytest.importorskip("falcon")
    import falcon.asgi

    class Resource:
        async def on_get(self, request: Any, response: Any) -> None:
            async def numbers() -> Any:
                for number in range(5):
                    yield f"{number}\n".encode()

            response.stream = numbers()

            async def later() -> None:
                life.background.set()

            response.schedule(later)

        async def on_post(self, request: Any, response: Any) -> None:
            response.data = await request.stream.read()

    class Middleware:
        async def process_startup(self, scope: Any, event: Any) -> None:
            life.events.append("startup")

        async def process_shutdown(self, scope: Any, event: Any) -> None:
            life.events.append("shutdown")

    app = falcon.asgi.App(middleware=[Middleware()])
    app.add_route("/", Resource())
    with serving(app, valid=False) as server, Client(server.port) as client:
        client.send(post("/", b"abc"))
        assert client.read().body == b"abc"
        assert client.get("/").body == b"0\n1\n2\n3\n4\n"
        assert life.background.wait(DEADLINE)
    assert life.events == ["startup", "shutdown"]
    well(server)


def test_django(life: Life) -> None:
    """With views of both kinds, a stream, and what a view sees of a client that leaves."""
    django = pytest.importorskip("django")
    from django.conf import settings

    if not settings.configured:
        settings.configure(
            SECRET_KEY="x", ROOT_URLCONF="urls_of_the_test", ALLOWED_HOSTS=["*"], DEBUG=False, LOGGING_CONFIG=None
        )
        django.setup()
    import sys
    import types

    from django.core.asgi import get_asgi_application
    from django.http import HttpResponse, StreamingHttpResponse
    from django.urls import path

    async def echo(request: Any) -> Any:
        return HttpResponse(request.body)

    def plain(request: Any) -> Any:
        return HttpResponse(request.path)

    async def stream(request: Any) -> Any:
        async def numbers() -> Any:
            for number in range(5):
                yield f"{number}\n"
                await asyncio.sleep(0.001)

        return StreamingHttpResponse(numbers())

    async def waits(request: Any) -> Any:
        life.entered.set()
        try:
            await asyncio.sleep(60)
        finally:
            life.gone.set()

    module = types.ModuleType("urls_of_the_test")
    module.urlpatterns = [  # type: ignore[attr-defined]
        path("echo", echo), path("plain", plain), path("stream", stream), path("waits", waits)
    ]  # fmt: skip
    sys.modules["urls_of_the_test"] = module
    with serving(get_asgi_application(), valid=False) as server:
        with Client(server.port) as client:
            client.send(post("/echo", b"abc" * 1000))
            assert client.read().body == b"abc" * 1000
            assert client.get("/plain").body == b"/plain"
            assert client.get("/stream").body == b"0\n1\n2\n3\n4\n"
            assert client.get("/missing").status == 404
        with Client(server.port) as client:
            client.send(request("/waits"))
            assert life.entered.wait(DEADLINE)
        assert life.gone.wait(3)
    well(server)
