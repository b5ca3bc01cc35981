"""From ``"package.module:object.attribute"`` to the object.

There are two kinds of failures. Either the text names nothing: the module or attribute does not exist, or cannot be
called. Then the error is one line, with advice. Or the user's own code fails while it is imported or called. Then the
error has the traceback, without the frames of this package. The frames show which kind it is: an import that fails
before it enters any frame of other code has found nothing to run.

Every exception of the code, SystemExit included, becomes a LoadError. Only Ctrl-C passes.
"""

import importlib
import os
import sys
from collections.abc import Callable
from difflib import get_close_matches
from types import TracebackType
from typing import Any

from .errors import LoadError, format_exception, last_line


def add_cwd_to_path() -> None:
    """Put the current directory at the front of ``sys.path``, where ``python`` itself would put it."""
    add_to_path(os.getcwd())


def add_to_path(directory: str) -> None:
    """Put a directory at the front of ``sys.path``."""
    directory = os.path.abspath(directory)
    if sys.path[:1] != [directory]:
        sys.path.insert(0, directory)


def load_app(spec: str, call: bool) -> Callable[..., Any]:
    """The application that ``spec`` names or, with ``call``, that the factory it names returns."""
    found: object = import_from_string(spec)
    if not callable(found):
        wanted = "a factory of applications" if call else "an application"
        raise LoadError(f"{spec!r} is {_a_kind(found)} and cannot be called; name {wanted}")
    if not call:
        return found
    app: object = guarded(f"calling {spec!r}", found)
    if not callable(app):
        raise LoadError(f"{spec!r} returned {_a_kind(app)}, which cannot be called; it should return the application")
    return app


def import_from_string(spec: str) -> Any:
    """The object that ``spec``, ``module:attribute``, names; LoadError if there is none."""
    module_name, colon, path = spec.partition(":")
    if not colon or not all([*module_name.split("."), *path.split(".")]) or ":" in path:
        raise LoadError(f"{spec!r} is not of the form module:attribute, as in example:app")
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


def _import(module_name: str, path: str) -> Any:
    try:
        return importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if _without_our_frames(error.__traceback__) is not None:
            raise  # the user's own code imports a module that is missing
        advice = "check the name, or start zibai in the directory that holds it"
        if module_name.endswith(".py"):
            advice = f"write {module_name.removesuffix('.py')}:{path}, without the .py"
        raise LoadError(f"no module named {error.name!r}; {advice}") from None


def guarded(doing: str, function: Callable[..., Any], *args: Any) -> Any:
    """Call ``function(*args)``; every exception becomes a LoadError with the traceback of the user's code."""
    try:
        return function(*args)
    except (LoadError, KeyboardInterrupt):
        raise
    except BaseException as error:
        trace = format_exception(error, _without_our_frames(error.__traceback__))
        raise LoadError(f"{doing} failed: {last_line(error)}", trace) from error


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
    # 0.4 is low enough to suggest "application" for "app".
    near = get_close_matches(name.removesuffix("()"), names, cutoff=0.4)
    if name.endswith("()"):
        return "; to have a factory called, leave out the parentheses and add --call"
    return f"; did you mean {' or '.join(near)}?" if near else ""


def _a_kind(thing: object) -> str:
    return "None" if thing is None else f"a value of type {type(thing).__name__}"
