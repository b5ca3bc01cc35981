"""The counterpart of each flag and setting of another server, by the table of :mod:`zibai.config.foreign`.

Values that are written or measured in another way there have a function here. Values that depend on several flags are
decided at the end, so that the order of the flags does not matter.
"""

import re
from collections.abc import Callable
from typing import Final

from ..config.foreign import Foreign, table
from ..config.sources import names
from .migration import Given, Migration

SPELLINGS: Final = {"preload_app": "preload", "loglevel": "log_level", "proxy_allow_ips": "proxy_allow_from"}
"""Settings of gunicorn whose flag has another name."""


def translate(migration: Migration, given: Given) -> None:
    """Put one flag or setting into the result, or say why it has no place there."""
    key = SPELLINGS.get(given.key, given.key)
    special = _SPECIAL.get((migration.server, key)) or _SPECIAL.get(("", key))
    if special is not None:
        special(migration, given)
        return
    flag = given.name if re.fullmatch("-[A-Za-z]", given.name) else f"--{key}"
    row = next((row for row in table() if row.server == migration.server and flag in map(_normal, row.flags)), None)
    option = names().get(key)
    if row is not None and not row.option:
        migration.leave(given, row.note)
    elif row is not None and row.option:
        _put_row(migration, given, row)
    elif option is not None:
        migration.put(given, option, given.value)
    else:
        migration.leave(given, "not known")


def settle(migration: Migration) -> None:
    """Decide what depends on several flags. Called once, at the end."""
    if migration.server == "gunicorn":
        _settle_workers(migration)
    if "listen" in migration.values:
        for name in ("host", "port"):
            if name in migration.values:
                origin = migration.values.pop(name)[0].origin
                migration.left.append(f"{origin}: {migration.server} ignores it beside a socket that is named")


def _normal(flag: str) -> str:
    """A flag with the spelling of settings: gunicorn has ``--limit-request-field_size``."""
    return flag if len(flag) == 2 else "--" + flag[2:].replace("-", "_")


def _put_row(migration: Migration, given: Given, row: Foreign) -> None:
    option = names()[row.option]
    prefix = next((prefix for prefix in ("unix:", "fd:") if f"as {prefix}" in row.note), "")
    if prefix:
        migration.put(given, option, f"{prefix}{given.value}")
    elif option.name in _BY_HAND or (option.kind is bool) != isinstance(given.value, bool):
        migration.leave(given, f"it is {option.flag} here" + (f": {row.note}" if row.note else ""))
    else:
        migration.put(given, option, given.value, row.note)


_BY_HAND: Final = {
    *("logging_config", "watchfiles", "unix_socket_perms", "env_file", "control", "forwarded_fields", "http"),
    *("keyfile_password_env", "before_serve", "before_graceful_exit", "before_died", "tls_min_version"),
    *("max_bodies_memory", "max_unsent_memory"),
}
"""Options whose values look different here, or measure something else, so that the user must write them."""


def _settle_workers(migration: Migration) -> None:
    """gunicorn runs ``sync``, its default, on threads as soon as there is more than one."""
    given = migration.pending.get("worker_class", Given("worker_class", "sync"))
    threads = migration.pending.get("threads")
    kind = str(given.value).rpartition(".")[2].lower().removesuffix("()")
    if kind in ("sync", "syncworker", "gthread", "threadworker"):
        migration.put(given, names()["no_gevent"], True)
        if threads is None or str(threads.value) in ("0", "1"):
            note = "such a worker runs one request at a time; raise it if the application can be run by several threads"
            migration.put(given, names()["max_workers"], 1, note)
        else:
            migration.put(threads, names()["max_workers"], threads.value)
        return
    if kind == "asgi" or "uvicorn" in str(given.value).lower():
        migration.put(given, names()["interface"], "asgi")
    elif not kind.startswith("gevent"):
        migration.leave(given, "an application runs on threads, on greenlets of gevent, or as tasks of asyncio")
    if threads is not None:
        migration.leave(threads, "gunicorn uses it for sync and gthread only")


def _worker_class(migration: Migration, given: Given) -> None:
    migration.postpone("worker_class", given)


def _threads(migration: Migration, given: Given) -> None:
    migration.postpone("threads", given)


def _app(migration: Migration, given: Given) -> None:
    if "app" not in migration.values:
        migration.put(given, names()["app"], given.value)


def _paste(migration: Migration, given: Given) -> None:
    if isinstance(given.value, str) and given.value.isprintable() and "'" not in given.value:
        _app(migration, given._replace(value=f"paste.deploy:loadapp('config:{given.value}', relative_to='.')"))
    else:
        migration.leave(given, "the name of a file is text")


def _bind(migration: Migration, given: Given) -> None:
    values = given.value if isinstance(given.value, list) else [given.value]
    if not all(isinstance(each, str) for each in values):
        migration.leave(given, "an address is text, as in '127.0.0.1:8000'")
        return
    between, port = (r"\s+", 8080) if migration.server == "waitress" else (r"\s*,\s*", 8000)
    for text in (part for each in values for part in re.split(between, each.strip()) if part):
        migration.add(given, names()["listen"], _address(text, port))


def _address(text: str, port: int) -> str:
    """An address as it is written here; gunicorn takes ``fd://3``, ``unix:///path`` and ``tcp://host`` as well."""
    text = re.sub(r"^(fd|unix)://", r"\1:", text).removeprefix("tcp://")
    if text.startswith(("fd:", "unix:")):
        return text
    if ":" not in re.sub(r"^\[.*\]", "", text):
        text += f":{port}"
    return re.sub(r"^\*:", ":", text)


def _python_path(migration: Migration, given: Given) -> None:
    if isinstance(given.value, str) and "," in given.value:
        migration.leave(given, "--app-dir is one directory; set PYTHONPATH for several")
    else:
        migration.put(given, names()["app_dir"], given.value)


def _keep_alive(migration: Migration, given: Given) -> None:
    if str(given.value) == "0":
        migration.put(given, names()["disable_keep_alive"], True)
    else:
        note = "idle connections cost no thread, so it may be long"
        migration.put(given, names()["keep_alive_timeout"], given.value, note)


def _trust_nobody(migration: Migration, given: Given) -> None:
    migration.put(given, names()["trusted_proxies"], "none")


def _lifetime(migration: Migration, given: Given) -> None:
    migration.leave(given, "--max-requests counts requests; for a time, have a timer run: zibai reload")


def _backpressure(migration: Migration, given: Given) -> None:
    migration.leave(given, "--max-workers is how many requests run; others wait, at most --queue-timeout")


def _timeout(migration: Migration, given: Given) -> None:
    note = "here a long request is not ended unless this is set; --worker-timeout is for a hung server"
    migration.put(given, names()["request_timeout"], given.value, note)


def _access_log(migration: Migration, given: Given) -> None:
    if not given.value:
        migration.put(given, names()["no_access_log"], True, "gunicorn has no access log unless it is told")
    elif given.value != "-":  # standard output; without a place of its own the access log goes where the rest goes
        migration.put(given, names()["access_log"], given.value)


def _has_access_log(migration: Migration, given: Given) -> None:
    """Of uvicorn and granian: a switch."""
    migration.put(given, names()["no_access_log"], not given.value)


def _log_file(migration: Migration, given: Given) -> None:
    if given.value != "-":
        migration.put(given, names()["log_file"], given.value)


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


def _ws(migration: Migration, given: Given) -> None:
    if given.name == "--no-ws" or given.value == "none":
        migration.put(given, names()["ws"], "off")


def _deflate(migration: Migration, given: Given) -> None:
    if str(given.value).lower() in ("false", "0", "no", "off"):
        migration.put(given, names()["ws_compress_from"], 0)


_SPECIAL: Final[dict[tuple[str, str], Callable[[Migration, Given], None]]] = {
    ("", "wsgi_app"): _app,
    ("", "log_level"): _log_level,
    ("", "listen"): _bind,
    ("", "interface"): _interface,
    ("", "limit_max_requests"): _max_requests,
    ("gunicorn", "paste"): _paste,
    ("gunicorn", "paster"): _paste,
    ("gunicorn", "bind"): _bind,
    ("gunicorn", "b"): _bind,
    ("gunicorn", "worker_class"): _worker_class,
    ("gunicorn", "k"): _worker_class,
    ("gunicorn", "threads"): _threads,
    ("gunicorn", "pythonpath"): _python_path,
    ("gunicorn", "keep_alive"): _keep_alive,
    ("gunicorn", "keepalive"): _keep_alive,
    ("gunicorn", "timeout"): _timeout,
    ("gunicorn", "t"): _timeout,
    ("gunicorn", "accesslog"): _access_log,
    ("gunicorn", "access_logfile"): _access_log,
    ("gunicorn", "errorlog"): _log_file,
    ("gunicorn", "error_logfile"): _log_file,
    ("gunicorn", "log_file"): _log_file,
    ("gunicorn", "max_requests"): _max_requests,
    ("gunicorn", "cert_reqs"): _cert_reqs,
    ("uvicorn", "access_log"): _has_access_log,
    ("granian", "access_log"): _has_access_log,
    ("uvicorn", "ssl_cert_reqs"): _cert_reqs,
    ("uvicorn", "ws"): _ws,
    ("uvicorn", "ws_per_message_deflate"): _deflate,
    ("granian", "ws"): _ws,
    ("granian", "no_ws"): _ws,
    ("uvicorn", "no_proxy_headers"): _trust_nobody,
    ("gunicorn", "proxy_protocol"): _proxy_protocol,
    ("gunicorn", "raw_env"): _environment,
    ("gunicorn", "env"): _environment,
    ("gunicorn", "e"): _environment,
    ("granian", "http1_header_read_timeout"): _milliseconds,
    ("granian", "workers_max_rss"): _megabytes,
    ("granian", "workers_lifetime"): _lifetime,
    ("granian", "backpressure"): _backpressure,
    ("granian", "ssl_client_verify"): _verify,
}
