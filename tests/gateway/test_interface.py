"""Which interface an object has: each way to write an application, and each thing that is none."""

from __future__ import annotations

import functools
import importlib
from typing import TYPE_CHECKING, Any
from unittest.mock import Mock

import pytest

from zibai.gateway.interface import detect, refusal, resolve, single

if TYPE_CHECKING:
    from collections.abc import Callable


def wsgi(environ: Any, start_response: Any) -> Any: ...
def wsgi_by_other_names(e: Any, s: Any) -> Any: ...
def wsgi_with_more(environ: Any, start_response: Any, more: int = 1) -> Any: ...
def anything(*args: Any, **keywords: Any) -> Any: ...
async def asgi(scope: Any, receive: Any, send: Any) -> None: ...
async def asgi_by_other_names(s: Any, r: Any, t: Any) -> None: ...
def asgi_that_returns_a_coroutine(scope: Any, receive: Any, send: Any) -> Any: ...
def asgi2(scope: Any) -> Any: ...
def create_app() -> Any: ...
def create_shop_app(config: Any = None, debug: bool = False) -> Any: ...
def make_application(config: Any = None, debug: bool = False, more: int = 0) -> Any: ...
def build() -> Any: ...
def view(request: Any) -> Any: ...
def keywords_only(*, environ: Any, start_response: Any) -> Any: ...
async def coroutine(request: Any) -> None: ...
async def wsgi_as_a_coroutine(environ: Any, start_response: Any) -> None: ...
def get_app(environ: Any, start_response: Any) -> Any: ...
async def create_app_later() -> Any: ...


class Wsgi:
    def __call__(self, environ: Any, start_response: Any) -> Any: ...
    def method(self, environ: Any, start_response: Any) -> Any: ...


class Asgi:
    async def __call__(self, scope: Any, receive: Any, send: Any) -> None: ...
    async def method(self, scope: Any, receive: Any, send: Any) -> None: ...


class AsgiThatIsMarked:
    _asgi_single_callable = True

    def __call__(self, *args: Any) -> Any: ...


class Pep3333:
    def __init__(self, environ: Any, start_response: Any) -> None: ...
    def __iter__(self) -> Any: ...


class Asgi2:
    def __init__(self, scope: Any) -> None: ...
    async def __call__(self, receive: Any, send: Any) -> None: ...


class Endpoint:
    """As those of Starlette."""

    def __init__(self, scope: Any, receive: Any, send: Any) -> None: ...
    def __await__(self) -> Any: ...


class Middleware:
    def __init__(self, app: Any) -> None:
        self.app = app

    def __call__(self, *args: Any) -> Any: ...


class HasAll:
    """As objects that look their attributes up elsewhere, or a mock: whatever is asked for is there."""

    def __getattr__(self, name: str) -> Any:
        return HasAll()

    def __call__(self, environ_: Any, start: Any) -> Any: ...


def decorated(app: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(app)
    def wrapper(*args: Any, **keywords: Any) -> Any: ...

    return wrapper


def as_wsgi(app: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(app)
    def wrapper(environ: Any, start_response: Any) -> Any: ...

    return wrapper


def as_asgi(app: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(app)
    async def wrapper(scope: Any, receive: Any, send: Any) -> None: ...

    return wrapper


def decorated_by_a_coroutine(app: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(app)
    async def wrapper(*args: Any, **keywords: Any) -> Any: ...

    return wrapper


KINDS: dict[str, tuple[Any, str]] = {
    "a function": (wsgi, "wsgi"),
    "a function by other names": (wsgi_by_other_names, "wsgi"),
    "a function with more": (wsgi_with_more, "wsgi"),
    "a function of anything": (anything, "wsgi"),
    "a lambda": (lambda environ, start: [], "wsgi"),
    "an object": (Wsgi(), "wsgi"),
    "a bound method": (Wsgi().method, "wsgi"),
    "a partial": (functools.partial(lambda site, environ, start: [], 1), "wsgi"),
    "a partial with keywords": (functools.partial(wsgi_with_more, more=2), "wsgi"),
    "decorated": (decorated(wsgi), "wsgi"),
    "WSGI made of ASGI": (as_wsgi(asgi), "wsgi"),
    "a class as in PEP 3333": (Pep3333, "wsgi"),
    "a middleware": (Middleware(wsgi), "wsgi"),
    "an object with any attribute": (HasAll(), "wsgi"),
    "a mock": (Mock(), "wsgi"),
    "in C": (functools.lru_cache(max), "wsgi"),
    "a function of C": (max, "wsgi"),
    "a partial of PEP 3333": (functools.partial(Pep3333), "wsgi"),
    "ASGI": (asgi, "asgi3"),
    "ASGI by other names": (asgi_by_other_names, "asgi3"),
    "ASGI that returns a coroutine": (asgi_that_returns_a_coroutine, "asgi3"),
    "an ASGI object": (Asgi(), "asgi3"),
    "a bound ASGI method": (Asgi().method, "asgi3"),
    "a partial of ASGI": (functools.partial(lambda site, scope, receive, send: None, 1), "asgi3"),
    "a partial of an ASGI coroutine": (functools.partial(functools.partial(asgi)), "asgi3"),
    "a partial of an ASGI object": (functools.partial(Asgi()), "asgi3"),
    "decorated ASGI": (decorated(decorated(asgi)), "asgi3"),
    "a marked ASGI object": (AsgiThatIsMarked(), "asgi3"),
    "an ASGI class to be awaited": (Endpoint, "asgi3"),
    "an ASGI 2 class": (Asgi2, "asgi2"),
    "an ASGI 2 function": (asgi2, "asgi2"),
    "a partial of an ASGI 2 class": (functools.partial(Asgi2), "asgi2"),
    "a factory": (create_app, "factory"),
    "a factory with defaults": (create_shop_app, "factory"),
    "a factory with more defaults": (make_application, "factory"),
    "a factory by another name": (build, "factory"),
    "a partial of a factory": (functools.partial(view, 1), "factory"),
    "a class": (Wsgi, "class"),
    "a class of ASGI": (Asgi, "class"),
    "a class of middleware": (Middleware, "class"),
    "a view": (view, "unfit"),
    "a function of keywords": (keywords_only, "unfit"),
    "a coroutine function": (coroutine, "async"),
    "a coroutine function of WSGI": (wsgi_as_a_coroutine, "async"),
    "a decorated coroutine function of WSGI": (decorated(decorated(wsgi_as_a_coroutine)), "async"),
    "a coroutine function around WSGI": (decorated_by_a_coroutine(wsgi), "async"),
    "a partial of a coroutine function of WSGI": (functools.partial(wsgi_as_a_coroutine), "async"),
    "WSGI made of a coroutine function": (as_wsgi(wsgi_as_a_coroutine), "wsgi"),
    "ASGI made of WSGI": (as_asgi(wsgi), "asgi3"),
    "ASGI made of WSGI, decorated": (decorated(as_asgi(wsgi)), "asgi3"),
    "WSGI that is called like a factory, decorated": (decorated(get_app), "wsgi"),
    "a factory that is a coroutine": (create_app_later, "async"),
}


@pytest.mark.parametrize("name", KINDS)
def test_kinds(name: str) -> None:
    app, kind = KINDS[name]
    assert detect(app) == kind
    text = refusal(app, "site:app")
    assert (text == "") is (kind in {"wsgi", "asgi3", "asgi2"})
    assert "\n" not in text


def django(name: str) -> Any:
    from django.conf import settings

    if not settings.configured:
        settings.configure(SECRET_KEY="x", ROOT_URLCONF="none")
    return getattr(importlib.import_module(f"django.core.{name}"), f"get_{name}_application")


def werkzeug() -> Any:
    from werkzeug import Request, Response

    @Request.application
    def app(request: Any) -> Any:
        return Response()

    return app


FRAMEWORKS: dict[str, tuple[str, Callable[[Any], Any], str]] = {
    "Flask": ("flask", lambda module: module.Flask("x"), "wsgi"),
    "Flask's method": ("flask", lambda module: module.Flask("x").wsgi_app, "wsgi"),
    "Flask's class": ("flask", lambda module: module.Flask, "class"),
    "werkzeug": ("werkzeug", lambda module: werkzeug(), "wsgi"),
    "Bottle": ("bottle", lambda module: module.Bottle(), "wsgi"),
    "Bottle's default": ("bottle", lambda module: module.default_app(), "wsgi"),
    "Falcon": ("falcon", lambda module: module.App(), "wsgi"),
    "Falcon of ASGI": ("falcon.asgi", lambda module: module.App(), "asgi3"),
    "Django": ("django", lambda module: django("wsgi")(), "wsgi"),
    "Django of ASGI": ("django", lambda module: django("asgi")(), "asgi3"),
    "Django's factory": ("django", lambda module: django("wsgi"), "factory"),
    "Starlette": ("starlette.applications", lambda module: module.Starlette(), "asgi3"),
    "FastAPI": ("fastapi", lambda module: module.FastAPI(), "asgi3"),
    "FastAPI's class": ("fastapi", lambda module: module.FastAPI, "class"),
    "Quart": ("quart", lambda module: module.Quart("x"), "asgi3"),
    "Litestar": ("litestar", lambda module: module.Litestar([]), "asgi3"),
    "a2wsgi": ("a2wsgi", lambda module: module.ASGIMiddleware(asgi), "wsgi"),
    "a2wsgi the other way": ("a2wsgi", lambda module: module.WSGIMiddleware(wsgi), "asgi3"),
    "WhiteNoise": ("whitenoise", lambda module: module.WhiteNoise(wsgi), "wsgi"),
    "asgiref": ("asgiref.wsgi", lambda module: module.WsgiToAsgi(wsgi), "asgi3"),
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", FRAMEWORKS)
def test_frameworks(name: str) -> None:
    module, make, kind = FRAMEWORKS[name]
    assert detect(make(pytest.importorskip(module))) == kind


@pytest.mark.parametrize(
    ("app", "spec", "text"),
    [
        (create_app, "shop:make", "'shop:make' is a factory, not an application; have it called: zibai 'shop:make()'"),
        (Wsgi, "shop:App", "'shop:App' is a class, not an application; have an instance made: zibai 'shop:App()'"),
        (
            view,
            "shop:view",
            (
                "'shop:view' takes request, and a WSGI application takes environ and start_response; if it is a "
                "factory, have it called: zibai 'shop:view(...)'"
            ),
        ),
        (
            coroutine,
            "shop:app",
            (
                "'shop:app' is async: write def app(environ, start_response) for WSGI, "
                "or async def app(scope, receive, send) for ASGI"
            ),
        ),
    ],
)
def test_what_to_type(app: Any, spec: str, text: str) -> None:
    assert refusal(app, spec) == text


@pytest.mark.parametrize(
    ("app", "wanted", "interface"),
    [
        (wsgi, "auto", "wsgi"),
        (asgi, "auto", "asgi"),
        (Asgi2, "auto", "asgi"),
        (anything, "auto", "wsgi"),
        (anything, "asgi", "asgi"),
        (asgi, "wsgi", "wsgi"),
    ],
)
def test_it_is_called_as_wanted_or_as_it_looks(app: Any, wanted: str, interface: str) -> None:
    assert resolve(app, wanted) == interface


def test_an_asgi_2_application_is_called_in_two_steps() -> None:
    called: list[object] = []

    class Application:
        def __init__(self, scope: Any) -> None:
            called.append(scope)

        async def __call__(self, receive: Any, send: Any) -> None:
            called.extend((receive, send))

    with pytest.raises(StopIteration):
        single(Application)("scope", "receive", "send").send(None)
    assert called == ["scope", "receive", "send"]
    assert single(asgi) is asgi


@pytest.mark.parametrize(
    ("module", "name", "text"),
    [
        ("tornado.web", "Application", "'shop:app' is an application of Tornado, which runs only on Tornado's"),
        ("aiohttp.web_app", "Application", "'shop:app' is an application of aiohttp, which runs only on aiohttp's own"),
        ("gradio.blocks", "Blocks", "'shop:app' is Gradio's: write app = gradio.mount_gradio_app(FastAPI(), app"),
    ],
)
def test_an_application_of_another_kind_of_server(module: str, name: str, text: str) -> None:
    """Gradio's can be called with anything, so that each request would be a 500."""
    base = type(name, (Wsgi,), {"__module__": module})
    assert refusal(type("Derived", (base,), {})(), "shop:app").startswith(text)
    assert refusal(type(name, (Wsgi,), {"__module__": "shop"})(), "shop:app") == ""


def test_what_to_do_in_a_program() -> None:
    assert refusal(create_app, "make", typed=False) == (
        "'make' is a factory, not an application; call it, and serve what it returns"
    )
    assert refusal(Wsgi, "Wsgi", typed=False) == "'Wsgi' is a class, not an application; serve an instance of it"
    assert "zibai '" not in refusal(view, "view", typed=False)
