"""The configuration of another server, as it becomes ours: each flag or setting with what it is here."""

import json
import re
from collections.abc import Callable
from typing import Any, Final, NamedTuple

from ..config.foreign import Foreign, table
from ..config.option import Option
from ..config.sources import check, names
from ..config.values import Setting, read_text, read_value
from ..errors import UsageError
from ..version import __version__

SPELLINGS: Final = {"preload_app": "preload", "loglevel": "log_level", "proxy_allow_ips": "proxy_allow_from"}
"""Settings of gunicorn whose flag has another name."""


class Given(NamedTuple):
    """A flag or setting and its value, as it was written."""

    name: str
    value: Any

    def __str__(self) -> str:
        if self.value is True or self.value == "":
            return self.name
        value = self.value if isinstance(self.value, str) else repr(self.value)
        return f"{self.name} {value}" if self.name.startswith("-") else f"{self.name} = {self.value!r}"

    @property
    def key(self) -> str:
        return self.name.lstrip("-").replace("-", "_")


class Migration:
    """The result, as it grows: ``values`` by the names of our options, and ``left``, which says what got no place."""

    def __init__(self, server: str, source: str) -> None:
        self.server = server
        self.source = source
        self.values: dict[str, tuple[Setting, str]] = {}
        self.left: list[str] = []

    def put(self, given: Given, option: Option, value: Any, note: str = "") -> None:
        """Set an option, unless it is the default, or no possible value."""
        try:
            if isinstance(value, str) and option.kind is not list:
                setting = read_text(option, value, str(given))
            else:
                setting = read_value(option, value, str(given))
            check(option, setting)
        except UsageError as error:
            self.leave(given, str(error))
        else:
            if option.name not in self.values and setting.value != option.default:
                self.values[option.name] = setting, note

    def leave(self, given: Given, why: str) -> None:
        self.left.append(f"{given}: {why.removeprefix(f'{given}: ')}")

    def as_toml(self) -> str:
        lines = [f"# Made from {self.source} by zibai migrate {__version__}; try it with: zibai check", ""]
        for name, option in names().items():
            if name != option.name or name not in self.values:
                continue
            setting, note = self.values[name]
            value = option.show(setting.value) if option.octal else setting.value
            if note:
                lines.append(f"# {setting.origin}: {note}")
            lines.append(f"{name} = {json.dumps(value, ensure_ascii=False)}")
        if self.left:
            lines += ["", "# Without a counterpart:", *(f"#   {' '.join(text.split())}" for text in self.left)]
        return "\n".join(lines) + "\n"


def translate(migration: Migration, given: Given) -> None:
    key = SPELLINGS.get(given.key, given.key)
    special = _SPECIAL.get((migration.server, key)) or _SPECIAL.get(("", key))
    if special is not None:
        special(migration, given)
        return
    flags = {given.name} if given.name.startswith("-") else {f"--{key.replace('_', '-')}", f"--{key}"}
    row = next((row for row in table() if row.server == migration.server and flags & set(row.flags)), None)
    option = names().get(key)
    if row is not None and not row.option:
        migration.leave(given, row.note)
    elif row is not None and row.option:
        _put_row(migration, given, row)
    elif option is not None:
        migration.put(given, option, given.value)
    else:
        migration.leave(given, "not known")


def _put_row(migration: Migration, given: Given, row: Foreign) -> None:
    option = names()[row.option]
    prefix = next((prefix for prefix in ("unix:", "fd:") if f"as {prefix}" in row.note), "")
    if prefix:
        migration.put(given, option, f"{prefix}{given.value}")
    elif option.name in _BY_HAND or (given.value is True and option.kind is not bool):
        migration.leave(given, f"it is {option.flag} here: {row.note}")
    else:
        migration.put(given, option, given.value, row.note)


_BY_HAND: Final = {
    *("logging_config", "watchfiles", "unix_socket_perms", "env_file", "control", "forwarded_fields", "http"),
    *("keyfile_password_env", "before_serve", "before_graceful_exit", "before_died", "tls_min_version"),
}
"""Options whose values look different here, so that a person has to write them."""


def _app(migration: Migration, given: Given) -> None:
    migration.put(given, names()["app"], given.value)


def _bind(migration: Migration, given: Given) -> None:
    values = [given.value] if isinstance(given.value, str) else list(given.value)
    texts = [re.sub(r"^fd://", "fd:", re.sub(r"^\*:", ":", text)) for text in values]
    texts = [text if ":" in text else f"{text}:8000" for each in texts for text in each.split()]
    if "listen" in migration.values:  # a flag that is given several times
        texts = [*migration.values.pop("listen")[0].value, *texts]
    migration.put(given, names()["listen"], texts)


def _worker_class(migration: Migration, given: Given) -> None:
    kind = str(given.value).rpartition(".")[2].lower()
    if kind == "sync":
        migration.put(given, names()["no_gevent"], True)
        note = "such a worker runs one request at a time; raise it if the application can be run by several threads"
        migration.put(given, names()["max_workers"], 1, note)
    elif kind in ("gthread", "threadworker"):
        migration.put(given, names()["no_gevent"], True)
    elif kind == "asgi" or "uvicorn" in str(given.value):
        migration.put(given, names()["interface"], "asgi")
    elif not kind.startswith("gevent"):
        migration.leave(given, "an application runs on threads, on greenlets of gevent, or as tasks of asyncio")


def _timeout(migration: Migration, given: Given) -> None:
    note = "here a long request is not ended unless this is set; --worker-timeout is for a hung server"
    migration.put(given, names()["request_timeout"], given.value, note)


def _access_log(migration: Migration, given: Given) -> None:
    if not given.value:
        migration.put(given, names()["no_access_log"], True, "gunicorn has no access log unless it is told")
    elif given.value != "-":
        migration.leave(given, "a file of its own for the access log takes --logging-config")


def _log_file(migration: Migration, given: Given) -> None:
    if given.value != "-":
        migration.put(given, names()["log_file"], given.value, "it has the access log as well")


def _log_level(migration: Migration, given: Given) -> None:
    migration.put(given, names()["log_level"], str(given.value).lower().replace("trace", "debug"))


def _max_requests(migration: Migration, given: Given) -> None:
    if str(given.value) != "0":
        migration.put(given, names()["max_requests"], given.value)


def _interface(migration: Migration, given: Given) -> None:
    kind = str(given.value)
    if kind.startswith("asgi") or kind == "wsgi":  # granian has asginl for ASGI without a lifespan
        migration.put(given, names()["interface"], kind[:4])
        if kind == "asginl":
            migration.put(given, names()["lifespan"], "off")
    elif kind != "auto":
        migration.leave(given, "WSGI and ASGI are served")


def _cert_reqs(migration: Migration, given: Given) -> None:
    words = ("none", "optional", "required")
    text = str(int(given.value)) if str(given.value).isdigit() else str(given.value)
    migration.put(given, names()["cert_reqs"], words[int(text)] if text in ("0", "1", "2") else text)


def _proxy_protocol(migration: Migration, given: Given) -> None:
    is_on = str(given.value).lower() not in ("off", "false", "none", "")
    migration.put(given, names()["proxy_protocol"], "on" if is_on else "off")


def _environment(migration: Migration, given: Given) -> None:
    migration.leave(given, "write the variables into a file, .env, and set env_file")


def _milliseconds(migration: Migration, given: Given) -> None:
    migration.put(given, names()["header_timeout"], f"{given.value}ms")


def _megabytes(migration: Migration, given: Given) -> None:
    migration.put(given, names()["max_worker_memory"], f"{given.value}M")


def _verify(migration: Migration, given: Given) -> None:
    migration.put(given, names()["cert_reqs"], "required")


_SPECIAL: Final[dict[tuple[str, str], Callable[[Migration, Given], None]]] = {
    ("", "wsgi_app"): _app,
    ("", "log_level"): _log_level,
    ("", "listen"): _bind,
    ("", "interface"): _interface,
    ("", "limit_max_requests"): _max_requests,
    ("gunicorn", "bind"): _bind,
    ("gunicorn", "b"): _bind,
    ("gunicorn", "worker_class"): _worker_class,
    ("gunicorn", "k"): _worker_class,
    ("gunicorn", "timeout"): _timeout,
    ("gunicorn", "t"): _timeout,
    ("gunicorn", "accesslog"): _access_log,
    ("gunicorn", "access_logfile"): _access_log,
    ("gunicorn", "errorlog"): _log_file,
    ("gunicorn", "error_logfile"): _log_file,
    ("gunicorn", "log_file"): _log_file,
    ("gunicorn", "max_requests"): _max_requests,
    ("gunicorn", "cert_reqs"): _cert_reqs,
    ("uvicorn", "ssl_cert_reqs"): _cert_reqs,
    ("gunicorn", "proxy_protocol"): _proxy_protocol,
    ("gunicorn", "raw_env"): _environment,
    ("gunicorn", "env"): _environment,
    ("gunicorn", "e"): _environment,
    ("granian", "http1_header_read_timeout"): _milliseconds,
    ("granian", "workers_max_rss"): _megabytes,
    ("granian", "ssl_client_verify"): _verify,
}
