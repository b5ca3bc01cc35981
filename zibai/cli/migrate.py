"""The command zibai migrate: the configuration of another server as a zibai.toml.

``gunicorn.conf.py`` is run, as gunicorn runs it. A command line is read by the table of :mod:`zibai.config.foreign`. A
value that has no counterpart becomes a comment that says why, so that nothing gets lost in silence.
"""

import os
import re
import runpy
import shlex
import sys
from collections.abc import Iterator, Sequence
from typing import Final

from ..config.foreign import SERVERS, table
from ..config.sources import names
from ..errors import UsageError
from .arguments import Parser
from .migration import SPELLINGS, Given, Migration, translate

HELP = """\
usage: zibai migrate gunicorn.conf.py [module:attribute]
       zibai migrate gunicorn|uvicorn|granian|waitress-serve [flags of that server]

Print a zibai.toml that does the same, with what has no counterpart as comments. A gunicorn.conf.py is run
for that, as gunicorn would run it.
"""

SWITCHES: Final = frozenset(
    [
        "--access-log",
        "--asyncore-use-poll",
        "--call",
        "--capture-output",
        "--casefold-http-method",
        "--check-config",
        "--daemon",
        "--date-header",
        "--disable-redirect-access-to-syslog",
        "--do-handshake-on-connect",
        "--enable-backlog-metric",
        "--enable-stdio-inheritance",
        "--expose-tracebacks",
        "--factory",
        "--http1-keep-alive",
        "--http1-pipeline-flush",
        "--http2",
        "--http2-adaptive-window",
        "--http2-cleartext",
        "--initgroups",
        "--ipv4",
        "--ipv6",
        "--log",
        "--log-socket-errors",
        "--log-syslog",
        "--metrics",
        "--permit-obsolete-folding",
        "--permit-unconventional-http-method",
        "--permit-unconventional-http-version",
        "--preload",
        "--print-config",
        "--proxy-headers",
        "--reload",
        "--reload-ignore-worker-failure",
        "--reset-contextvars",
        "--respawn-failed-workers",
        "--reuse-port",
        "--server-header",
        "--spew",
        "--ssl-client-verify",
        "--strip-header-spaces",
        "--suppress-ragged-eofs",
        "--use-colors",
        "--ws",
        "-D",
        "-R",
    ]
)
"""Flags without a value; so are those that begin with ``--no-``."""


def migrate(argv: Sequence[str]) -> int:
    """The command ``zibai migrate``; returns its exit code."""
    words = shlex.split(argv[0]) if len(argv) == 1 else list(argv)
    words = words[words[:1] == ["--"] :]
    if not words or "-h" in words[:1] or "--help" in words[:1]:
        sys.stdout.write(HELP)
        return 0
    try:
        sys.stdout.write(_migrated(words).as_toml())
    except UsageError as error:
        Parser(prog="zibai migrate").error(str(error))
    return 0


def _migrated(words: list[str]) -> Migration:
    server = os.path.basename(words[0]).removesuffix("-serve")
    if words[0].endswith(".py"):
        migration = Migration("gunicorn", words[0])
        given = list(_settings(words[0]))
        if words[1:]:
            given.insert(0, Given("wsgi_app", words[1]))
    elif server in SERVERS:
        migration = Migration(server, f"{server} ...")
        given = list(_flags(words[1:]))
        config = next((each.value for each in given if each.name in ("-c", "--config")), None)
        if server == "gunicorn" and isinstance(config, str):
            given = [each for each in given if each.name not in ("-c", "--config")]
            given += _settings(config.removeprefix("file:"))  # a flag counts more, and comes first
    else:
        raise UsageError(f"{words[0]!r} is neither a gunicorn.conf.py nor one of {', '.join(SERVERS)}")
    given += _implied(server if server in SERVERS else "gunicorn", {each.key for each in given})
    for each in given:
        translate(migration, each)
    return migration


def _settings(path: str) -> Iterator[Given]:
    """The settings in a gunicorn.conf.py: names that gunicorn knows, and no others."""
    try:
        found = runpy.run_path(path)
    except OSError as error:
        raise UsageError(f"cannot read {path!r}: {error.strerror}") from None
    except Exception as error:
        raise UsageError(f"{path!r} fails: {type(error).__name__}: {error}") from None
    known = {flag.lstrip("-").replace("-", "_") for row in table() if row.server == "gunicorn" for flag in row.flags}
    for name, value in found.items():
        if value is not None and (name in known or name in names() or name in SPELLINGS or name == "wsgi_app"):
            yield Given(name, f"{name}()" if callable(value) else value)


def _flags(words: Sequence[str]) -> Iterator[Given]:
    """The flags of a command line with their values."""
    rest = list(words)
    while rest:
        word = rest.pop(0)
        name, equals, value = word.partition("=")
        if not word.startswith("-"):
            yield Given("wsgi_app", word)
        elif equals:
            yield Given(name, value)
        elif re.fullmatch(r"-[A-Za-z].+", word):
            yield Given(word[:2], word[2:])
        elif word in SWITCHES or word.startswith("--no-") or not rest:
            yield Given(word, True)
        else:
            yield Given(word, rest.pop(0))


def _implied(server: str, keys: set[str]) -> Iterator[Given]:
    """What the other server does when it is told nothing, and this one does not."""
    if server == "gunicorn":
        if not keys & {"k", "worker_class", "threads"}:
            yield Given("worker_class", "sync")
        if not keys & {"accesslog", "access_logfile"}:
            yield Given("accesslog", "")
    if server == "waitress" and not keys & {"listen", "port", "unix_socket"}:
        yield Given("--port", "8080")
    if server == "waitress" and not keys & {"listen", "host", "unix_socket"}:
        yield Given("--host", "0.0.0.0")
    if server in ("uvicorn", "granian") and "interface" not in keys:
        yield Given("--interface", "asgi")
