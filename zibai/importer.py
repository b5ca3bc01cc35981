"""From ``"package.module:object.attribute"`` to the object, and from the text that users type to an application.

There are two kinds of failures. Either the text names nothing: the module or attribute does not exist, or cannot be
called. Then the error is one line, with advice. Or the user's own code fails while it is imported or called. Then the
error has the traceback, without the frames of this package. The frames show which kind it is: an import that fails
before it enters any frame of other code has found nothing to run.

Every exception of the code, SystemExit included, becomes a LoadError. Only Ctrl-C passes.
"""

import ast
import errno
import importlib
import inspect
import os
import re
import sys
from collections.abc import Callable
from contextlib import suppress
from difflib import get_close_matches
from types import ModuleType, TracebackType
from typing import Any

from .errors import LoadError, format_exception, last_line


def add_cwd_to_path() -> None:
    """Put the current directory at the front of ``sys.path``, where ``python`` itself would put it.

    A directory that has been removed has nothing to import.
    """
    with suppress(FileNotFoundError):
        add_to_path(os.getcwd())


def add_to_path(directory: str) -> None:
    """Put a directory at the front of ``sys.path``."""
    directory = os.path.abspath(directory)
    if sys.path[:1] != [directory]:
        sys.path.insert(0, directory)


def load_app(spec: str, call: bool) -> Callable[..., Any]:
    """The application that ``spec`` names: an object of a module, or the result of a factory there.

    ``module:attribute``, with ``call`` a factory; ``module:factory("argument", name=1)``, with literals; only
    ``module``, for an application of one of the usual names; ``path/to/file.py`` in place of the module.
    """
    module_name, colon, path = _split(spec)
    if not colon:
        _check_names(spec, module_name)
        name = _usual_name(guarded(f"importing {module_name!r}", _import, module_name, ""), module_name, call)
        return _load(f"{module_name}:{name}", f"{module_name}:{name}", call or name in FACTORIES, [], {})
    if "(" not in path:
        return _load(f"{module_name}:{path}", spec, call, [], {})
    if call:
        raise LoadError(f"{spec!r} is called already; leave --call out")
    name, args, keywords = _read_call(path, spec)
    return _load(f"{module_name}:{name}", spec, True, args, keywords)


def _load(name: str, spec: str, call: bool, args: list[Any], keywords: dict[str, Any]) -> Callable[..., Any]:
    found: object = import_from_string(name)
    if isinstance(found, ModuleType):
        raise LoadError(f"{spec!r} is a module; name the application in it, as in {found.__name__}:app")
    if not callable(found):
        maker = next((each for each in MAKERS if callable(getattr(type(found), each, None))), "")
        wanted = f"have its application made: zibai '{name}.{maker}()'" if maker else ""
        wanted = wanted or ("name a factory of applications" if call else "name an application")
        raise LoadError(f"{spec!r} is {_a_kind(found)} and cannot be called; {wanted}")
    if not call:
        return found
    if _parameters(found)[:3] in (["environ", "start_response"], ["scope", "receive", "send"]):
        raise LoadError(f"{spec!r} is an application, not a factory; leave the call out")
    app: object = guarded(f"calling {spec!r}", found, *args, **keywords)
    if inspect.iscoroutine(app):
        app.close()
        raise LoadError(f"{spec!r} is async, and a factory must not be: it is called before any event loop runs")
    if not callable(app):
        raise LoadError(f"{spec!r} returned {_a_kind(app)}, which cannot be called; it should return the application")
    return app


def _parameters(called: object) -> list[str]:
    try:
        return list(inspect.signature(called).parameters)  # type: ignore[arg-type]  # a TypeError is caught
    except (TypeError, ValueError):
        return []


USUAL = ("app", "application", "create_app", "make_app")
"""The names of an application in a module that is named without an attribute."""

FACTORIES = USUAL[2:]

MAKERS = ("wsgifunc", "make_wsgi_app", "http_app", "streamable_http_app")
"""Methods that make the application of an object that is none: in web.py, Pyramid, FastMCP and the SDK of MCP."""


def _usual_name(module: ModuleType, module_name: str, call: bool) -> str:
    names = FACTORIES if call else USUAL
    for name in names:
        found = guarded(f"looking up '{module_name}:{name}'", getattr, module, name, None)
        if callable(found):  # a package may have a module of this name
            return name
    text = f"module {module_name!r} has none of {', '.join(names)}; name the application, as in {module_name}:NAME"
    raise LoadError(text)


def _split(spec: str) -> tuple[str, str, str]:
    """Module, colon and attribute. A file becomes a module, and its directory importable."""
    match = re.fullmatch(r"(.+\.py)(?:(:)(.*))?", spec, re.DOTALL)
    if match is None or not (os.path.dirname(match[1]) or os.path.isfile(match[1])):
        module, colon, path = spec.partition(":")
        if os.path.dirname(module) and os.path.isfile(f"{module}.py"):
            raise LoadError(f"{module!r} is no module; for a file, write {module}.py{colon}{path}")
        if module and (os.path.dirname(module) or module.strip(".") == "") and os.path.isdir(module):
            raise LoadError(f"{module!r} is a directory; name a module in it, and the directory with --app-dir")
        return module, colon, path
    if not os.path.isfile(match[1]):
        raise LoadError(f"there is no file {match[1]!r}; check the path")
    directory, name = os.path.split(os.path.abspath(match[1]))
    names = [] if name == "__init__.py" else [name.removesuffix(".py")]
    while os.path.isfile(os.path.join(directory, "__init__.py")):
        directory, package = os.path.split(directory)
        names.insert(0, package)
    if "." in names[-1]:
        raise LoadError(f"{name!r} has a dot in its name, so Python cannot import it; rename it")
    add_to_path(directory)
    return ".".join(names), match[2] or "", match[3] or ""


def _read_call(text: str, spec: str) -> tuple[str, list[Any], dict[str, Any]]:
    """The name of the factory, and its arguments."""
    try:
        call = ast.parse(text, mode="eval").body
        if isinstance(call, ast.Call) and all(keyword.arg for keyword in call.keywords):
            args = [ast.literal_eval(value) for value in call.args]
            keywords = {str(keyword.arg): ast.literal_eval(keyword.value) for keyword in call.keywords}
            return ast.unparse(call.func), args, keywords
    except (SyntaxError, ValueError):
        pass  # not Python, or an argument that is no plain value: the error below is for both
    raise LoadError(f"{spec!r} is no call with plain values, as in 'example:create_app(\"production\", debug=False)'")


def import_from_string(spec: str) -> Any:
    """The object that ``spec``, ``module:attribute``, names. Raises LoadError."""
    module_name, colon, path = spec.partition(":")
    if not colon or ":" in path:
        raise LoadError(_MALFORMED.format(spec))
    _check_names(spec, module_name, path)
    found: Any = guarded(f"importing {module_name!r}", _import, module_name, path)
    where = f"module {module_name!r}"
    for name in path.split("."):
        try:
            # Not getattr with a default: None may be the value.
            found = guarded(f"looking up {spec!r}", getattr, found, name)
        except LoadError as error:
            if isinstance(error.__cause__, AttributeError):
                raise LoadError(f"{where} has no attribute {name!r}{_suggestion(name, found)}") from None
            raise
        where = f"{name!r} in {where}"
    return found


_MALFORMED = "{!r} is not of the form module:attribute, as in example:app"


def _check_names(spec: str, *dotted: str) -> None:
    found = [name for names in dotted for name in names.split(".")]
    if not all(found):
        raise LoadError(_MALFORMED.format(spec))
    if any(name != name.strip() for name in found):
        raise LoadError(f"{spec!r} has a space beside a name; leave it out")


def _import(module_name: str, path: str) -> Any:
    try:
        return importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if _without_our_frames(error.__traceback__) is not None:
            raise  # the user's own code imports a module that is missing
        advice = "check the name, or start zibai in the directory that holds it"
        if module_name.endswith(".py"):
            advice = f"write {module_name.removesuffix('.py')}{':' * bool(path)}{path}, without the .py"
        raise LoadError(f"no module named {error.name!r}; {advice}") from None


def guarded(doing: str, function: Callable[..., Any], *args: Any, **keywords: Any) -> Any:
    """Call ``function(*args)``; every exception becomes a LoadError with the traceback of the user's code."""
    try:
        return function(*args, **keywords)
    except (LoadError, KeyboardInterrupt):
        raise
    except BaseException as error:
        trace = format_exception(error, _without_our_frames(error.__traceback__))
        raise LoadError(f"{doing} failed: {_explain(error)}", trace) from error


def _explain(error: BaseException) -> str:
    """The last line of an error, and what is behind it where it cannot be known from this line."""
    text = last_line(error)
    if isinstance(error, OSError) and error.errno == errno.EADDRINUSE:
        return f"{text}; another process has it, and may be another worker: each does this, and so does its replacement"
    # uvicorn imports an application while its event loop runs, so it may expect one.
    if isinstance(error, RuntimeError) and re.match("no running event loop|There is no current event loop", str(error)):
        return f"{text.rstrip('.')}; with ASGI it runs from the lifespan on: do this there"
    return text


def _without_our_frames(frames: TracebackType | None) -> TracebackType | None:
    """The part of a traceback that begins outside this package; None if there is none."""
    while frames is not None:
        filename = frames.tb_frame.f_code.co_filename
        if filename not in (__file__, importlib.__file__) and not filename.startswith("<frozen importlib"):
            break
        frames = frames.tb_next
    return frames


def _suggestion(name: str, owner: object) -> str:
    names = [each for each in dir(owner) if not each.startswith("__")]
    called = [each for each in names if callable(getattr(owner, each, None))]
    same = [each for each in called if each.lower() == name.lower()]
    # 0.4 is low enough to suggest "application" for "app".
    near = same or get_close_matches(name, called, cutoff=0.4) or get_close_matches(name, names, cutoff=0.4)
    near = [f"{each}()" if each in FACTORIES else each for each in near]
    return f"; did you mean {' or '.join(near)}?" if near else ""


def _a_kind(thing: object) -> str:
    return "None" if thing is None else f"a value of type {type(thing).__name__}"
