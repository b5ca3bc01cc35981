"""Zibai, a pure-Python web application server: the public names.

Each is imported when it is first asked for, so a program that uses the supervisor does not load the server.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from .version import __version__

if TYPE_CHECKING:
    from .cli.arguments import parse_args
    from .config.options import Options
    from .importer import import_from_string
    from .net.bind import create_bind_socket
    from .server.aserve import aserve
    from .server.guest import run
    from .server.serve import serve
    from .server.serving import serving
    from .server.start import main
    from .supervise.supervisor import Supervisor
    from .supervise.worker import current_worker

__all__ = [
    "Options",
    "Supervisor",
    "__version__",
    "aserve",
    "create_bind_socket",
    "current_worker",
    "import_from_string",
    "main",
    "parse_args",
    "run",
    "serve",
    "serving",
]

_MODULES = {
    "Options": "config.options",
    "Supervisor": "supervise.supervisor",
    "aserve": "server.aserve",
    "create_bind_socket": "net.bind",
    "current_worker": "supervise.worker",
    "import_from_string": "importer",
    "main": "server.start",
    "parse_args": "cli.arguments",
    "run": "server.guest",
    "serve": "server.serve",
    "serving": "server.serving",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = globals()[name] = getattr(import_module(f".{_MODULES[name]}", __name__), name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
