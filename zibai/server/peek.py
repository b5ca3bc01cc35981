"""Whether an application is ASGI, before it is imported: gevent must patch before that, and must not patch for ASGI.

Only the import itself tells for sure. So a look at the source of its module comes first: nearly all ASGI applications
name their framework. If the source does, another process imports the application and reports its kind, which costs one
more import, unless the source says outright what the attribute is: ``app = FastAPI(...)``. If the source names none,
nothing is imported, and gevent patches. If the application is ASGI all the same, the worker does not start and says
what to type.
"""

import ast
import atexit
import os
import re
import subprocess
import sys
import threading
import warnings
from importlib.util import find_spec
from typing import Final, Literal, NoReturn

from ..config.options import Options, usual_loops
from ..gateway.interface import Interface
from ..importer import USUAL
from ..system.patching import has_gil
from .kinds import obstacle_to_loops

_SIGNS = re.compile(
    r"\b(?:asgi\w*|get_asgi_application|fastapi|starlette|quart|litestar|blacksheep|channels|ninja|esmerald|ravyn"
    r"|sanic|lilya|fasthtml|fastmcp|nicegui|gradio|chainlit|shiny|connexion|a2wsgi|WsgiToAsgi)\b"
    r"|\b(?:import|from)\s+(?:mcp|uvicorn|hypercorn)\b"
    r"|async\s+def\s+\w+\s*\(\s*(?:self\s*,\s*)?scope\b"
    r"|async\s+def\s+__call__",
    re.IGNORECASE,
)

_MADE = r"^async\s+def\s+(?:{name})\b|^(?:{name})\b[^=\n]*=\s*(?:\w+\.)*(?:{makers})\("
_MAKERS = (
    "get_asgi_application|FastAPI|Starlette|Quart|Litestar|BlackSheep|NinjaAPI|Esmerald|Ravyn"
    "|Sanic|Lilya|FastHTML|http_app|streamable_http_app|sse_app|ASGIApp|WSGIMiddleware|WsgiToAsgi"
)

_WELL_KNOWN = frozenset({"get_asgi_application", "FastAPI", "Starlette", "Quart", "Litestar", "Sanic", "Lilya"})

_SCRIPT = """\
import sys
from zibai.config.options import Options
from zibai.gateway.interface import resolve
from zibai.server import application, peek
app, app_dir, env_file, call = sys.argv[1:]
options = Options(app=app, app_dir=app_dir or None, env_file=env_file or None, call=call == "call")
site = application.load(options)
peek.leave(peek.IS_ASGI if resolve(site.app) == "asgi" else 0)
"""

IS_ASGI: Final = 86
"""With this code the process that imports an ASGI application ends. It does not tell by a pipe: what the application
starts has that, too, and keeps it open."""

LAST_MOMENT: Final = 1.0
"""Seconds that such a process takes to clean up."""


def may_use_gevent(options: Options) -> bool:
    """Whether a WSGI application runs on greenlets, as far as it can be told without importing gevent."""
    return not options.no_gevent and has_gil() and _is_installed("gevent")


def leaves_gevent_out(options: Options) -> bool:
    """Whether a WSGI application runs in threads only because this Python has no GIL."""
    return not (options.no_gevent or has_gil() or looks_like_asgi(options)) and _is_installed("gevent")


def lacks_gevent(options: Options) -> bool:
    """Whether a WSGI application runs in threads only because gevent is not installed."""
    return not options.no_gevent and has_gil() and likely_interface(options) == "wsgi" and not _is_installed("gevent")


def is_asgi(options: Options) -> bool:
    """Whether ``options`` name an ASGI application, as far as it can be told before gevent patches."""
    if options.interface != "auto":
        return options.interface == "asgi"
    if not may_use_gevent(options) or not looks_like_asgi(options):
        return False
    if _is_outright(options):
        return True
    arguments = [options.app, options.app_dir or "", options.env_file or "", "call" if options.call else ""]
    try:
        done = subprocess.run(  # noqa: S603 -- it runs this Python
            [sys.executable, "-c", _SCRIPT, *arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            timeout=options.boot_timeout or None,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return False  # the import in the worker will report the error
    return done.returncode == IS_ASGI


def leave(code: int) -> NoReturn:
    """End a process that has only looked at the application, whose threads may run for ever."""
    timer = threading.Timer(LAST_MOMENT, os._exit, [code])
    timer.daemon = True
    timer.start()
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        if stream is not None:
            stream.flush()
    os._exit(code)


def looks_like_asgi(options: Options) -> bool:
    """Whether ``options`` name an ASGI application by the look of its source, which may be wrong."""
    return options.interface == "asgi" or (options.interface == "auto" and bool(_SIGNS.search(_source(options))))


def _is_outright(options: Options) -> bool:
    """Whether the source gives the attribute a value only once, which is an application of a well-known framework."""
    _, _, name = options.app.partition(":")
    if options.call or not name.isidentifier():
        return False
    try:
        with warnings.catch_warnings(action="ignore"):  # the import will warn
            module = ast.parse(_source(options))
    except (SyntaxError, ValueError, RecursionError):
        return False
    made = any(_is_made(each, name) for each in module.body)
    return made and sum(_gives(node) == name for node in ast.walk(module)) == 1


def _is_made(statement: ast.stmt, name: str) -> bool:
    """Whether a statement makes an application of a well-known framework, and gives it this name."""
    if not (isinstance(statement, ast.Assign | ast.AnnAssign) and isinstance(statement.value, ast.Call)):
        return False
    targets = statement.targets if isinstance(statement, ast.Assign) else [statement.target]
    framework = ast.unparse(statement.value.func).rpartition(".")[2]
    return framework in _WELL_KNOWN and name in map(_gives, targets)


def _gives(node: ast.AST) -> str | None:
    """The name to which this node alone gives a value, or takes it away."""
    if isinstance(node, ast.Name):
        return None if isinstance(node.ctx, ast.Load) else node.id
    if isinstance(node, ast.alias):
        return node.asname or node.name.partition(".")[0]
    name = getattr(node, "name", None)  # of a function, a class, an except clause or a pattern
    return name if isinstance(name, str) else None


def likely_interface(options: Options) -> Interface | Literal[""]:
    """The interface for the first line of the log; empty where the source does not show what the attribute is.

    A module may hold applications of both kinds, and only the import tells them apart.
    """
    if options.interface != "auto":
        return "asgi" if options.interface == "asgi" else "wsgi"
    source = _source(options)
    if not _SIGNS.search(source):
        return "wsgi"
    _, colon, attribute = options.app.partition(":")
    name = re.escape(attribute) if colon else "|".join(USUAL)
    made = not options.call and re.search(_MADE.format(name=name, makers=_MAKERS), source, re.MULTILINE)
    return "asgi" if made else ""


def loops(options: Options) -> int:
    """How many server loops a worker has, as far as it can be told before the import.

    Raises UsageError where more are asked for than there can be.
    """
    if options.loops == 1:
        return 1
    interface = likely_interface(options)
    if not interface and options.loops:
        interface = "wsgi"  # the worker will tell
    backend = "greenlets" if may_use_gevent(options) else "threads"
    obstacle = obstacle_to_loops(options, interface or "asgi", backend)
    return 1 if obstacle else usual_loops(options)


def _is_installed(package: str) -> bool:
    try:
        return find_spec(package) is not None
    except (ImportError, ValueError):
        return False


def _source(options: Options) -> str:
    """The source of the module that ``options`` name, without an import; empty where it cannot be found."""
    name = options.app.partition(":")[0]
    relative = name.replace(".", os.sep)
    places = [name] if name.endswith(".py") else [f"{relative}.py", os.path.join(relative, "__init__.py")]
    for folder in (options.app_dir or "", "", *sys.path):
        for place in places:
            try:
                with open(os.path.join(folder, place), encoding="utf-8", errors="replace") as file:
                    return file.read()
            except (OSError, ValueError):
                continue
    return ""
