"""Whether an object is an application of WSGI or of ASGI, or no application at all.

The signature tells, and nothing is called. When in doubt the answer is WSGI, so that no application is refused that
could be served: a wrapper of ``*args``, an object of C.
"""

import functools
import inspect
import re
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Literal

Environ = dict[str, Any]
"""The variables of a WSGI request."""

Application = Callable[[Environ, Callable[..., Callable[[bytes], object]]], Iterable[bytes]]
"""An application of WSGI."""

Kind = Literal["wsgi", "asgi3", "asgi2", "factory", "class", "async", "unfit"]

ASGI: tuple[Kind, ...] = ("asgi3", "asgi2")

_FACTORY = re.compile(r"(create|make|build|get)_(\w+_)?(app|application)|app_factory")


def detect(app: Any) -> Kind:
    """The interface of ``app``, which can be called.

    ``factory``: a function that returns an application. ``class``: one whose instances may be applications. ``async``:
    a coroutine function that is no ASGI application. ``unfit``: it cannot take the two arguments of WSGI.
    """
    if inspect.isclass(app):
        return _detect_class(app)
    if (called := _down_to_wsgi(app)) and _binds(app, 2):
        return "async" if any(map(_is_async, called)) else "wsgi"
    if any(getattr(layer, "_asgi_single_callable", False) is True for layer in _layers(app)):
        return "asgi3"
    if any(_is_async(layer) for layer in _layers(app)):
        return "asgi3" if _binds(app, 3) else "async"
    if any(_takes(layer, "scope", "receive", "send") for layer in _layers(app)):
        return "asgi3"
    if any(_names(layer) == ["scope"] for layer in _layers(app)):
        return "asgi2"
    inner = next((layer for layer in _layers(app) if inspect.isclass(layer)), None)
    if inner is not None and _detect_class(inner) in ASGI:  # a partial of a class
        return _detect_class(inner)
    if _is_factory(app):
        return "factory"
    return "wsgi" if _binds(app, 2) else "unfit"


_OTHERS = {
    "tornado.web.Application": "an application of Tornado, which runs only on Tornado's own server",
    "aiohttp.web_app.Application": "an application of aiohttp, which runs only on aiohttp's own server",
    "gradio.blocks.Blocks": "Gradio's: write app = gradio.mount_gradio_app(FastAPI(), {name}, path='/'), and serve it",
}
"""Classes whose instances can be called, and are applications of neither WSGI nor ASGI."""

Interface = Literal["wsgi", "asgi"]


def resolve(app: Any, wanted: str = "auto") -> Interface:
    """The interface by which to call ``app``: the ``wanted`` one, or by its signature."""
    if wanted == "auto":
        return "asgi" if detect(app) in ASGI else "wsgi"
    return "asgi" if wanted == "asgi" else "wsgi"


def single(app: Any) -> Any:
    """``app`` as an ASGI 3 application; an application of ASGI 2, which is called in two steps, is wrapped."""
    if detect(app) != "asgi2":
        return app

    async def asgi3(scope: Any, receive: Any, send: Any) -> None:
        await app(scope)(receive, send)

    return asgi3


def refusal(app: Any, spec: str, typed: bool = True) -> str:
    """Why ``app``, named ``spec``, cannot be served, and what to do; empty if it can be served.

    ``typed``: its name was typed on a command line, so the advice is what to type instead.
    """
    module, _, attribute = spec.partition(":")
    attribute = attribute.partition("(")[0] or "app"
    for each in type(app).__mro__:
        if (other := _OTHERS.get(f"{each.__module__}.{each.__qualname__}")) is not None:
            return f"{spec!r} is {other.format(name=attribute)}"
    match detect(app):
        case "wsgi" | "asgi3" | "asgi2":
            return ""
        case "factory":
            hint = f"have it called: zibai '{module}:{attribute}()'" if typed else "call it, and serve what it returns"
            return f"{spec!r} is a factory, not an application; {hint}"
        case "class":
            hint = f"have an instance made: zibai '{module}:{attribute}()'" if typed else "serve an instance of it"
            return f"{spec!r} is a class, not an application; {hint}"
        case "async":
            plain = f"def {attribute}(environ, start_response) for WSGI"
            return f"{spec!r} is async: write {plain}, or async def {attribute}(scope, receive, send) for ASGI"
        case "unfit":
            hint = f"; if it is a factory, have it called: zibai '{module}:{attribute}(...)'" if typed else ""
            return f"{spec!r} takes {_describe(app)}, and a WSGI application takes environ and start_response{hint}"


def _detect_class(app: type) -> Kind:
    is_async = _is_async(getattr(app, "__call__", None))  # noqa: B004 -- the function, not whether it can be called
    if hasattr(app, "__await__") and _binds(app, 3):
        return "asgi3"
    if is_async and _names(app) == ["scope"]:
        return "asgi2"
    # The class of PEP 3333 is called for each request, and its instance is the iterable.
    iterates = hasattr(app, "__iter__") or hasattr(app, "__getitem__") or "__new__" in vars(app)
    return "wsgi" if _binds(app, 2) and iterates and not is_async else "class"


def _is_factory(app: Any) -> bool:
    if not inspect.isroutine(app) and not isinstance(app, functools.partial):
        return False
    name = getattr(app, "__name__", "")
    return _binds(app, 0) and (not _binds(app, 2) or _FACTORY.fullmatch(name) is not None)


def _layers(app: Any) -> Iterator[Any]:
    """The objects that are called, from outside to inside, through partials and decorators."""
    for _ in range(100):  # a cycle must not hang the server
        yield app
        if isinstance(app, functools.partial):
            app = app.func
        elif (inner := getattr(app, "__wrapped__", None)) is not None:
            app = inner
        else:
            return


def _down_to_wsgi(app: Any) -> list[Any]:
    """The layers from outside to the first one with the parameters of WSGI; none if ASGI comes first, or neither."""
    called = []
    for layer in _layers(app):
        called.append(layer)
        if _takes(layer, "environ", "start_response"):
            return called
        if _takes(layer, "scope", "receive", "send"):
            break
    return []


def _is_async(thing: Any) -> bool:
    if inspect.iscoroutinefunction(thing):
        return True
    call = None if inspect.isclass(thing) or inspect.isroutine(thing) else getattr(type(thing), "__call__", None)  # noqa: B004
    return inspect.iscoroutinefunction(call)


def _signature(thing: Any) -> inspect.Signature | None:
    """Its own signature, not the wrapped one: ``werkzeug.Request.application`` wraps a function of one argument."""
    try:
        return inspect.signature(thing, follow_wrapped=False)
    except (TypeError, ValueError):
        return None


def _binds(thing: Any, number: int) -> bool:
    """Whether it takes this number of arguments. If its signature is unknown: true, but false for none."""
    signature = _signature(thing)
    if signature is None:
        return number != 0
    try:
        signature.bind(*[None] * number)
    except TypeError:
        return False
    return True


def _names(thing: Any) -> list[str]:
    signature = _signature(thing)
    return [] if signature is None else list(signature.parameters)


def _takes(thing: Any, *names: str) -> bool:
    return _names(thing)[: len(names)] == list(names)


def _describe(app: Any) -> str:
    names = _names(app)
    return ", ".join(names) if names else "no argument"
