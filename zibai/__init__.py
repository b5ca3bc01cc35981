"""Zibai, a pure-Python web application server: the public names."""

from .cli import parse_args
from .core import serve
from .importer import import_from_string
from .options import Options
from .server import main
from .sockets import create_bind_socket
from .version import __version__

__all__ = ["Options", "__version__", "create_bind_socket", "import_from_string", "main", "parse_args", "serve"]
