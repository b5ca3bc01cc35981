"""The settings of a gunicorn.conf.py, and the flags of a command line of another server.

Both are read as that server reads them. A configuration is run. Names in it that are no settings of gunicorn are helper
variables, even if zibai has an option of that name. A flag takes a value only if it does in that server.
"""

import os
import re
import runpy
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from typing import Any, Final

from .. import importer
from ..errors import UsageError
from .migration import Given, Opaque

_SETTINGS: Final = """
access_log_format accesslog asgi_disconnect_grace_period asgi_lifespan asgi_loop backlog bind ca_certs
capture_output casefold_http_method cert_reqs certfile chdir check_config child_exit ciphers control_socket
control_socket_disable control_socket_mode daemon default_proc_name dirty_apps dirty_graceful_timeout
dirty_post_fork dirty_threads dirty_timeout dirty_worker_exit dirty_worker_init dirty_workers
disable_redirect_access_to_syslog do_handshake_on_connect dogstatsd_tags enable_backlog_metric
enable_stdio_inheritance errorlog forwarded_allow_ips forwarder_headers graceful_timeout group header_map
http2_cleartext http2_initial_window_size http2_max_concurrent_streams http2_max_frame_size
http2_max_header_list_size http_parser http_protocols initgroups keepalive keyfile limit_request_field_size
limit_request_fields limit_request_line logconfig logconfig_dict logconfig_json logger_class loglevel max_requests
max_requests_jitter nworkers_changed on_dirty_starting on_exit on_reload on_starting paste permit_obsolete_folding
permit_unconventional_http_method permit_unconventional_http_version pidfile post_fork post_request
post_worker_init pre_exec pre_fork pre_request preload_app print_config proc_name protocol proxy_allow_ips
proxy_protocol pythonpath raw_env raw_paste_global_conf reload reload_engine reload_extra_files reuse_port root_path
secure_scheme_headers sendfile spew ssl_context ssl_version statsd_host statsd_prefix strip_header_spaces
suppress_ragged_eofs syslog syslog_addr syslog_facility syslog_prefix threads timeout tmp_upload_dir umask user
uwsgi_allow_ips websocket_max_message_size when_ready worker_abort worker_class worker_connections worker_exit
worker_int worker_tmp_dir workers wsgi_app
"""

SETTINGS: Final = frozenset(_SETTINGS.split())
"""The names that gunicorn (27.0.1) reads in its configuration; it ignores all others."""

_SWITCHES: Final = """
gunicorn -D -R --capture-output --casefold-http-method --check-config --daemon --disable-redirect-access-to-syslog
--do-handshake-on-connect --enable-backlog-metric --enable-stdio-inheritance --initgroups --log-syslog
--permit-obsolete-folding --permit-unconventional-http-method --permit-unconventional-http-version --preload
--print-config --reload --reuse-port --spew --strip-header-spaces --suppress-ragged-eofs

uvicorn --access-log --date-header --factory --http2 --proxy-headers --reload --reset-contextvars --server-header
--use-colors

granian --access-log --factory --http1-keep-alive --http1-pipeline-flush --http2-adaptive-window --log --metrics
--reload --reload-ignore-worker-failure --respawn-failed-workers --ssl-client-verify --ws

waitress --asyncore-use-poll --call --clear-untrusted-proxy-headers --expose-tracebacks --ipv4 --ipv6
--log-socket-errors --log-untrusted-proxy-headers
"""

SWITCHES: Final = {name: frozenset(flags) for name, *flags in map(str.split, _SWITCHES.split("\n\n"))}
"""Flags without a value; so are those that begin with ``--no-``."""

OPTIONAL: Final = ("--proxy-protocol",)
"""Flags whose value may be left out in front of another flag."""


def read_command_line(server: str, words: Sequence[str]) -> Iterator[Given]:
    """The flags of ``server`` with their values; a word that is no flag is the application."""
    rest = list(words)
    while rest:
        word = rest.pop(0)
        name, equals, value = word.partition("=")
        if word == "--":
            yield from (Given("wsgi_app", each) for each in rest)
            return
        if not word.startswith("-"):
            yield Given("wsgi_app", word)
        elif equals and (word.startswith("--") or len(name) == 2):
            yield Given(name, value)
        elif re.fullmatch(r"-[A-Za-z].+", word, re.DOTALL) and word[:2] not in SWITCHES[server]:
            yield Given(word[:2], word[2:])
        elif word in SWITCHES[server] or word.startswith("--no-") or not rest:
            yield Given(word, True)
        else:
            yield Given(word, True if word in OPTIONAL and rest[0].startswith("-") else rest.pop(0))


def read_settings(place: str) -> Iterator[Given]:
    """The settings of a configuration of gunicorn: a file, or ``python:module``. Raises UsageError."""
    path = place.removeprefix("file:")
    try:
        if not place.startswith("python:"):
            open(path, "rb").close()  # what fails from here on is the configuration itself
    except OSError as error:
        raise UsageError(f"cannot read {path!r}: {error.strerror}") from None
    try:
        with _as_gunicorn():
            found = runpy.run_module(place[7:]) if place.startswith("python:") else runpy.run_path(path)
    except (Exception, SystemExit) as error:
        raise UsageError(f"{place!r} fails: {type(error).__name__}: {error}") from None
    for name, value in found.items():
        if name in SETTINGS and value is not None:
            yield Given(name, _plain(name, value))


@contextmanager
def _as_gunicorn() -> Iterator[None]:
    """Let modules beside the command be imported, and keep the output of a configuration out of the result."""
    path = sys.path.copy()
    importer.add_cwd_to_path()
    try:
        with redirect_stdout(sys.stderr):
            yield
    finally:
        sys.path[:] = path


def _plain(name: str, value: Any) -> Any:
    """A value of a configuration, which may be any object, as one of the types that options have."""
    if isinstance(value, bool | str):
        return value
    if isinstance(value, int | float):
        return int(value) if isinstance(value, int) else float(value)  # of an enum: ssl.CERT_REQUIRED
    if isinstance(value, list | tuple | set):
        return [_plain(name, item) for item in value]
    if isinstance(value, os.PathLike):
        return os.fsdecode(value)
    return Opaque(f"{getattr(value, '__qualname__', name)}()" if callable(value) else f"<{type(value).__name__}>")
