"""The command zibai migrate: the configuration of another server as a zibai.toml.

``gunicorn.conf.py`` is run, as gunicorn runs it. A command line is read by the table of :mod:`zibai.config.foreign`. A
value without a counterpart becomes a comment that says why, so nothing is lost silently.
"""

import os
import re
import shlex
import sys
from collections.abc import Iterator, Sequence

from ..config.foreign import SERVERS
from ..errors import UsageError
from .arguments import Parser
from .counterparts import settle, translate
from .grammar import read_command_line, read_settings
from .migration import Given, Migration

HELP = """\
usage: zibai migrate gunicorn.conf.py [module:attribute]
       zibai migrate gunicorn|uvicorn|granian|waitress-serve [flags of that server]

Print a zibai.toml that does the same. Settings without a counterpart become comments. A gunicorn.conf.py
is run for that, as gunicorn would run it; gunicorn reads the one in the current directory by itself.
"""

CONFIGURATION = "gunicorn.conf.py"

_RUNNERS = ("poetry", "pipenv", "uv", "pdm", "hatch", "rye")
"""Tools that run a command in their environment: ``poetry run gunicorn ...``."""

_AGENTS = ("ddtrace-run", "newrelic-admin", "opentelemetry-instrument")
"""Tools that watch the command that follows, after words of their own: ``newrelic-admin run-program gunicorn ...``."""


def migrate(argv: Sequence[str]) -> int:
    """The command ``zibai migrate``; returns its exit code."""
    try:
        words = _words(argv[argv[:1] == ["--"] :])
        if not words or words[0] in ("-h", "--help"):
            sys.stdout.write(HELP)
        else:
            before = _before_command(words)
            migration = _migrated(words[before:])
            if before:
                migration.leave(Given(" ".join(words[:before]).rstrip(":"), ""), "may stay in front of zibai")
            sys.stdout.write(migration.as_toml())
    except UsageError as error:
        Parser(prog="zibai migrate").error(str(error))
    return 0


def _words(argv: Sequence[str]) -> list[str]:
    """The words of the command; a whole command line may be given as one word, and a path is never cut."""
    words = list(argv)
    if len(words) == 1 and _is_command(words[0].split()) and not os.path.isfile(words[0]):
        try:
            words = shlex.split(words[0])
        except ValueError as error:
            raise UsageError(f"{argv[0]!r}: {error}") from None
    before = _before_command(words)
    if _is_python(words[before:]) and words[before + 1 : before + 2] == ["-m"]:
        del words[before : before + 2]
    return words


def _before_command(words: list[str]) -> int:
    """How many words come before the command itself: variables, a tool that runs it, the name of a Procfile."""
    count = 0
    while count < len(words) - 1:
        if words[count] in _RUNNERS and words[count + 1] == "run" and len(words) > count + 2:
            count += 2
        elif words[count] in ("exec", "env") or re.fullmatch(r"\w+=.*|\w+:", words[count]):
            count += 1
        elif words[count] in _AGENTS and (after := _first_server(words[count:])):
            count += after
        else:
            break
    return count


def _first_server(words: list[str]) -> int:
    return next((place for place, word in enumerate(words) if _server(word) in SERVERS), 0)


def _is_command(words: list[str]) -> bool:
    words = words[_before_command(words) :]
    return _is_python(words) or (bool(words) and _server(words[0]) in SERVERS)


def _is_python(words: list[str]) -> bool:
    return bool(words) and re.fullmatch(r"(python[0-9.]*|py)(\.exe)?", os.path.basename(words[0])) is not None


def _server(word: str) -> str:
    return os.path.basename(word).removesuffix(".exe").removesuffix("-serve")


def _migrated(words: list[str]) -> Migration:
    server, configuration = _server(words[0]), ""
    if server in SERVERS:
        source = f"{server} ..."
        flags = list(read_command_line(server, words[1:]))
        if server == "gunicorn":
            named = [each for each in flags if each.name in ("-c", "--config")]
            flags = [each for each in flags if each not in named]
            if named and named[-1].value is True:
                raise UsageError(f"{named[-1].name} needs a file")
            configuration = str(named[-1].value) if named else CONFIGURATION * os.path.isfile(CONFIGURATION)
            source += f" and {configuration}" if configuration else ""
    elif words[0].endswith(".py") or os.path.isfile(words[0]):
        server, source, configuration = "gunicorn", words[0], words[0]
        flags = [Given("wsgi_app", word) for word in words[1:]]
    else:
        raise UsageError(f"{words[0]!r} is neither a gunicorn.conf.py nor one of {', '.join(SERVERS)}")
    migration = Migration(server, source)
    settings = list(read_settings(configuration)) if configuration else []
    for given in (flags, settings, _implied(server, {each.key for each in flags + settings})):
        for each in given:
            translate(migration, each)
        migration.end_layer()  # a flag counts more than a setting
    settle(migration)
    return migration


def _implied(server: str, keys: set[str]) -> Iterator[Given]:
    """The defaults of the other server that differ from those here."""
    if server == "gunicorn" and not keys & {"accesslog", "access_logfile"}:
        yield Given("accesslog", "")
    if server == "waitress" and not keys & {"listen", "port", "unix_socket"}:
        yield Given("--port", "8080")
    if server == "waitress" and not keys & {"listen", "host", "unix_socket"}:
        yield Given("--host", "0.0.0.0")
    if server == "uvicorn" and "interface" not in keys:
        yield Given("--interface", "asgi")
    if server == "granian" and "interface" not in keys:
        yield Given("--interface", "rsgi")
