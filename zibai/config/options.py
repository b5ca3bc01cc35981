"""Every option of Zibai, declared once.

A field of :class:`Options` is an option. Its name is the long flag, its annotation is the type of the value, and
:func:`~zibai.config.option.option` adds the rest: the default, the help, the limits, older names. The
command line, ``docs/options.md`` and :meth:`Options.validate` all read :func:`declared`, so a new option is one new
field.

The values are plain (text, numbers, booleans, lists of text), because they travel to spawned workers as a pickle.
A hook is named by a string and imported in the process that calls it. The constructor reads nothing and checks
nothing: :meth:`Options.validate` does, once for the command line and once for a program that made its options by hand.
"""

import os
from dataclasses import KW_ONLY, dataclass
from functools import cache
from typing import TYPE_CHECKING

from ..errors import UsageError
from ..system.machine import available_cpus
from ..system.patching import has_gil
from . import atoms
from .addresses import BELIEVED, Trust, check_datagrams, check_fields, check_names, check_trusted, parse_address
from .option import (
    FASTEST,
    Defaulted,
    Option,
    accept_aliases,
    option,
    patience,
    read_declarations,
    seconds,
)
from .paths import check_file, check_log_file, check_place, check_prefix

# The groups of the help and of docs/options.md, in the order of the fields: the most needed ones first.
APPLICATION = "Application"
LISTENING = "Listening"
WORKERS = "Workers"
DEVELOPMENT = "Development"
PROXIES = "Proxies"
TLS = "TLS"
WEBSOCKET = "WebSocket"
LIMITS = "Timeouts and limits"
LOGGING = "Logging"
PROCESS = "Process"
HOOKS = "Hooks"

LISTEN = "127.0.0.1:8000"
"""The address to listen on when neither the options nor the environment name one."""


class _Usual(int):
    """A default that depends on something else. It can be told from the same number given by the user."""


USUAL_WORKERS = _Usual(10)
"""Threads or greenlets of a worker."""

MOST_LOOPS = 10_000
"""Server loops of all workers; the scoreboard has room for a few times as many."""

TASKS = 1000
"""Tasks of a worker that serves ASGI, unless there is a number of workers."""


@accept_aliases
@dataclass
class Options:
    """How to serve ``app``; every field is described in ``docs/options.md``.

    None in place of any value but ``app`` stands for the default of the field. An older name of a field is accepted by
    the constructor and as an attribute. If a call has both names, the older one counts: :func:`dataclasses.replace`
    adds the current value under the newer one.
    """

    app: str = option(
        group=APPLICATION,
        metavar="module:attribute",
        brief="WSGI or ASGI application: example:app",
        help="the WSGI or ASGI application: module:attribute, which may be nested, as in package.module:object.app; "
        "module:create_app('live') calls a factory, with plain values; module alone is its app, application, "
        "create_app or make_app; path/to/file.py may stand for the module",
    )
    _: KW_ONLY
    call: Defaulted[bool] = option(
        False,
        known_as=("--factory",),
        group=APPLICATION,
        brief="the attribute is a factory: call it",
        help="the attribute is a factory: call it, without arguments, to get the application",
    )
    app_dir: str | None = option(
        None,
        group=APPLICATION,
        metavar="DIRECTORY",
        help="import the application from this directory; the current directory and relative paths stay as they are, "
        "unlike with --chdir",
    )
    env_file: str | None = option(
        None,
        group=APPLICATION,
        metavar="FILE",
        at_prompt=False,
        brief="set the variables in this file (.env)",
        help="set the environment variables in this file, such as .env, before the application is imported; a variable "
        "that is set already stays as it is; each new worker reads the file again; needs zibai-server[env]",
    )
    url_prefix: str | None = option(
        None,
        group=APPLICATION,
        metavar="PREFIX",
        check=check_prefix,
        brief="SCRIPT_NAME, as in /shop",
        help="SCRIPT_NAME, the path under which the application is mounted, as in /shop; "
        "by default, the environment variable SCRIPT_NAME",
        embedded=True,
    )
    url_scheme: Defaulted[str] = option(
        "http",
        group=APPLICATION,
        choices=("http", "https"),
        help="wsgi.url_scheme, the scheme that the client used to reach the site",
        embedded=True,
    )

    listen: list[str] | None = option(
        None,
        group=LISTENING,
        short="-l",
        known_as=("--bind", "-b"),
        metavar="ADDRESS",
        check=parse_address,
        brief=f"HOST:PORT or unix:PATH ({LISTEN})",
        help="one or more addresses to listen on: HOST:PORT, [IPV6]:PORT, :PORT (every interface), unix:PATH or, for "
        "an inherited listener, fd:N (its descriptor) or fd:NAME (its name in systemd); port 0 takes a free port, "
        f"which the log shows; by default, the listeners that server_starter or systemd passes on, or else {LISTEN}",
    )
    backlog: Defaulted[int] = option(
        2048,
        group=LISTENING,
        minimum=1,
        maximum=2**31 - 1,  # a C int
        help="connections that may wait to be accepted; the system may allow fewer",
        embedded=True,
    )
    dualstack_ipv6: Defaulted[bool] = option(
        False,
        group=LISTENING,
        help="let :PORT and [::]:PORT take IPv4 clients as well as IPv6 ones; without IPv6 they take IPv4 clients only",
    )
    unix_socket_perms: Defaulted[int] = option(
        0o600,
        group=LISTENING,
        metavar="MODE",
        octal=True,
        minimum=0,
        maximum=0o777,
        help="permissions of unix sockets, in octal; a proxy that runs as another user needs 660 and its group, by "
        "--unix-socket-group",
    )
    unix_socket_group: str | None = option(
        None,
        group=LISTENING,
        metavar="NAME",
        help="the group of unix sockets, by name or number, such as the group of the proxy in front; the server must "
        "be root or a member of it (not on Windows)",
    )
    health_listen: str | None = option(
        None,
        group=LISTENING,
        metavar="ADDRESS",
        check=parse_address,
        needs_parent=True,
        help="another address, as for --listen, where the parent serves /livez, /readyz, /metrics and a live page, "
        "also while every worker is busy",
    )
    health_public: Defaulted[bool] = option(
        False,
        group=LISTENING,
        help="show the live page of --health-listen, and with it paths of requests, also on a public address and under "
        "any name; without it, such an address has /livez, /readyz and /metrics only",
    )

    processes: Defaulted[int] = option(
        0,
        aliases=("subprocess",),
        known_as=("--workers",),
        group=WORKERS,
        short="-p",
        metavar="NUMBER",
        minimum=0,
        maximum=10_000,  # more than any machine runs: the scoreboard has a row for each
        words={"auto": available_cpus},
        environment="WEB_CONCURRENCY",
        brief="worker processes, or auto",
        help="worker processes; 0 serves in the process itself, without a parent; auto is one for each processor that "
        "the server may use; by default, the environment variable WEB_CONCURRENCY",
    )
    max_workers: Defaulted[int] = option(
        USUAL_WORKERS,
        known_as=("--threads",),
        group=WORKERS,
        short="-w",
        metavar="NUMBER",
        minimum=1,
        maximum=100_000,  # the same: a row has a slot for each
        brief="threads or greenlets of each worker",
        help="threads or greenlets of each worker: the number of requests that it runs at the same time; "
        f"a connection that waits takes none. An ASGI application has tasks, {TASKS:,} by default. With --loops, each "
        f"loop has {USUAL_WORKERS} threads by default, and a number that is given is divided among the loops",
        embedded=True,
    )
    loops: Defaulted[int] = option(
        1,
        group=WORKERS,
        metavar="NUMBER",
        minimum=0,
        maximum=1024,
        help="server loops of each worker, which share one copy of the application and run it in parallel on a Python "
        "without GIL; 0 is one for each processor there, divided among the workers, and one on any other Python. "
        "--max-workers, --max-connections and the limits of memory are divided among the loops, and --max-requests "
        "counts for all together. Only for WSGI applications on threads",
        embedded=True,
    )
    no_gevent: Defaulted[bool] = option(False, group=WORKERS, help="use threads even if gevent is installed")
    interface: Defaulted[str] = option(
        "auto",
        group=WORKERS,
        choices=("auto", "wsgi", "asgi"),
        help="what the application is: WSGI, which runs on threads or greenlets, or ASGI, which runs as tasks; "
        "auto looks at the parameters of the application. With asgi, gevent patches nothing",
        embedded=True,
    )
    lifespan: Defaulted[str] = option(
        "auto",
        group=WORKERS,
        choices=("auto", "on", "off"),
        help="whether an ASGI application is told of the start and the end of its worker; with on, an application "
        "without a lifespan does not start",
        embedded=True,
    )
    loop: Defaulted[str] = option(
        "auto",
        group=WORKERS,
        choices=("auto", "asyncio", "uvloop"),
        help="the event loop of an ASGI application: that of Python, or uvloop (winloop on Windows), an extra; auto is "
        "that of Python",
        embedded=True,
    )
    preload: Defaulted[bool] = option(
        False,
        group=WORKERS,
        needs_parent=True,
        brief="import the application once and fork",
        help="import the application once, in a loader process, and fork the workers from it, so that they share its "
        "memory; starts at least one worker (not on Windows, which cannot fork)",
    )
    max_requests: int | None = option(
        None,
        aliases=("max_request_pre_process",),
        group=WORKERS,
        metavar="NUMBER",
        minimum=1,
        needs_parent=True,
        brief="replace a worker after this many",
        help="replace a worker after this many requests; by default, never",
        embedded=True,
    )
    max_worker_memory: int | None = option(
        None,
        group=WORKERS,
        metavar="BYTES",
        size=True,
        minimum=1,
        needs_parent=True,
        help="resident memory of a worker, such as 512M or 1G; a worker that has more in two measurements in a row is "
        "replaced, one worker at a time; by default, memory is not measured",
    )
    max_worker_descriptors: int | None = option(
        None,
        group=WORKERS,
        metavar="NUMBER",
        minimum=1,
        needs_parent=True,
        help="the same for open descriptors, connections included (on Windows: handles)",
    )

    reload: Defaulted[bool] = option(
        False,
        group=DEVELOPMENT,
        needs_parent=True,
        brief="restart when a source file changes",
        help="restart the workers when a *.py file changes, or the --env-file: below the current directory, --app-dir "
        "and other directories that Python imports from, but not below those of installed packages; the log says "
        "which; --watchfiles adds patterns; needs zibai-server[reload]",
    )
    watchfiles: str | None = option(
        None,
        group=DEVELOPMENT,
        metavar="PATTERNS",
        needs_parent=True,
        brief='--reload for other files: "*.py;*.html"',
        help='restart the workers when a file changes that matches a pattern, as in "*.py;.env"; '
        "needs zibai-server[reload]",
    )
    tls_dev: Defaulted[bool] = option(
        False,
        group=DEVELOPMENT,
        brief="TLS with a certificate for localhost",
        help="speak TLS with a certificate for localhost that is made at each start; needs zibai-server[tls-dev]",
    )
    interactive: Defaulted[bool] = option(
        False,
        group=DEVELOPMENT,
        needs_parent=True,
        help="a prompt in the terminal while the server runs, with supervisor, workers, reload() and stop()",
    )

    trusted_proxies: Defaulted[list[str]] = option(
        ["127.0.0.1,::1,unix"],
        group=PROXIES,
        metavar="PEERS",
        environment="FORWARDED_ALLOW_IPS",
        check=check_trusted,
        brief="proxies to believe",
        help="peers that are believed when they name the client, by Forwarded, X-Forwarded-* and the PROXY protocol: "
        "addresses, networks (10.0.0.0/8) or unix (every peer on a unix socket), separated by commas; * is every peer, "
        "none is no peer; by default, the environment variable FORWARDED_ALLOW_IPS",
        embedded=True,
    )
    forwarded_fields: Defaulted[str] = option(
        BELIEVED,
        group=PROXIES,
        metavar="FIELDS",
        check=check_fields,
        help="fields that trusted proxies are believed: for, proto, host, port and prefix, separated by commas; name "
        "only fields that every proxy sets or removes itself, since any other field may come from the client",
        embedded=True,
    )
    proxy_protocol: Defaulted[str] = option(
        "off",
        group=PROXIES,
        choices=("off", "on"),
        help="whether each connection begins with a PROXY header, of version 1 or 2; on accepts connections from "
        "trusted proxies only, and closes those without the header",
        embedded=True,
    )

    certfile: str | None = option(
        None,
        group=TLS,
        metavar="FILE",
        brief="speak TLS with this certificate (PEM)",
        help="the certificate, in PEM form and followed by the intermediate ones: speak TLS on all TCP addresses of "
        "--listen; a changed file is used for new connections",
        embedded=True,
    )
    keyfile: str | None = option(
        None,
        group=TLS,
        metavar="FILE",
        brief="its private key (PEM)",
        help="the private key, in PEM form; by default, it is in --certfile",
        embedded=True,
    )
    keyfile_password_env: str | None = option(
        None,
        group=TLS,
        metavar="VARIABLE",
        help="the environment variable that holds the password of the private key",
        embedded=True,
    )
    ca_certs: str | None = option(
        None,
        group=TLS,
        metavar="FILE",
        help="the authorities, in PEM form, that may sign the certificates of clients",
        embedded=True,
    )
    cert_reqs: Defaulted[str] = option(
        "none",
        group=TLS,
        choices=("none", "optional", "required"),
        help="whether clients are asked for a certificate by one of --ca-certs, and whether they must have one",
        embedded=True,
    )
    tls_min_version: Defaulted[str] = option(
        "1.2", group=TLS, choices=("1.2", "1.3"), help="the oldest version of TLS that is spoken", embedded=True
    )
    ciphers: str | None = option(
        None,
        group=TLS,
        metavar="LIST",
        help="ciphers of TLS 1.2, in the form of OpenSSL; by default, those with forward secrecy and AEAD; the ciphers "
        "of TLS 1.3 are those of OpenSSL",
        embedded=True,
    )
    redirect_http: str | None = option(
        None,
        group=TLS,
        metavar="ADDRESS",
        check=parse_address,
        help="also listen here, an address as for --listen, and redirect plain HTTP requests to https",
    )

    ws: Defaulted[str] = option(
        "auto",
        group=WEBSOCKET,
        choices=("auto", "on", "off"),
        help="whether an ASGI application is given WebSockets, which needs zibai-server[websocket]; auto is yes where "
        "that is installed; with off, a handshake is an ordinary request",
        embedded=True,
    )
    ws_max_size: Defaulted[int] = option(
        16 * 1024**2,
        group=WEBSOCKET,
        metavar="BYTES",
        size=True,
        minimum=1,
        help="bytes of one message of a client, after decompression; a longer one closes the WebSocket with code 1009",
        embedded=True,
    )
    ws_max_queue: Defaulted[int] = option(
        32,
        group=WEBSOCKET,
        metavar="NUMBER",
        minimum=1,
        help="messages of a client, of at most 64K together, that are read before the application receives them; then "
        "the client must wait",
        embedded=True,
    )
    ws_ping_interval: Defaulted[float] = patience(
        20.0,
        group=WEBSOCKET,
        help="send a ping to a client that has sent nothing for this time; 0 is never",
        embedded=True,
    )
    ws_ping_timeout: Defaulted[float] = patience(
        20.0,
        group=WEBSOCKET,
        help="close the WebSocket with code 1011 if the client sends nothing for this time after a ping; 0 is never",
        embedded=True,
    )
    ws_close_timeout: Defaulted[float] = seconds(
        10.0,
        group=WEBSOCKET,
        help="time that a client has to respond to a close frame; then the connection is cut",
        embedded=True,
    )
    ws_compress_from: Defaulted[int] = option(
        256,
        group=WEBSOCKET,
        metavar="BYTES",
        size=True,
        minimum=0,
        help="compress messages of this many bytes or more for clients that offer permessage-deflate; 0 is never, and "
        "their messages are not compressed either",
        embedded=True,
    )

    boot_timeout: Defaulted[float] = seconds(
        60.0, least=0.1, group=LIMITS, help="time for a worker to start; a worker that does not serve by then is killed"
    )
    worker_timeout: Defaulted[float] = patience(
        30.0,
        least=0.1,  # of which a third is the time between two heartbeats
        group=LIMITS,
        help="time without a heartbeat from the server loop of a worker, after which the worker is killed and "
        "replaced; twice that for a worker that uses the processor; 0 is no limit",
    )
    slow_request: Defaulted[float] = patience(
        30.0,
        group=LIMITS,
        help="time after which a running request is logged, once, with the stack of its thread or greenlet; 0 is never",
        embedded=True,
    )
    request_timeout: Defaulted[float] = patience(
        0.0,
        group=LIMITS,
        needs_parent=True,
        brief="end a request that hangs",
        help="time after which a running request counts as hung: a task (ASGI) is cancelled, and its client gets 504; "
        "for a thread, a greenlet, or a task that does not end within 5 s, all stacks are logged and its worker is "
        "replaced; the other requests of the worker have --graceful-exit-timeout to finish; 0 is never",
        embedded=True,
    )
    graceful_exit_timeout: Defaulted[float] = seconds(
        10.0,
        group=LIMITS,
        brief="for requests to finish at the end",
        help="time that requests have to finish during a graceful exit; then the rest is closed",
        embedded=True,
    )
    drain: Defaulted[float] = patience(
        0.0,
        group=LIMITS,
        help="time to keep serving before a graceful exit, with Connection: close in each response and with failing "
        "readiness, so that load balancers turn to other servers; a second signal cuts it short",
    )
    keep_alive_timeout: Defaulted[float] = seconds(
        75.0,
        known_as=("--timeout-keep-alive",),
        group=LIMITS,
        help="time that an idle connection is kept; it must be longer than that of the load balancer in front, which "
        "otherwise sends requests into connections that are just being closed",
        embedded=True,
    )
    disable_keep_alive: Defaulted[bool] = option(
        False,
        group=LIMITS,
        embedded=True,
        help="close each connection after one request, as its response says; the same as --max-keep-alive-requests 1",
    )
    max_keep_alive_requests: Defaulted[int] = option(
        0,
        group=LIMITS,
        embedded=True,
        minimum=0,
        help="close a connection after this many requests, as its last response says, so that clients spread over the "
        "workers again; a restart of the worker begins a new count; 0 is no limit",
    )
    header_timeout: Defaulted[float] = seconds(
        10.0,
        group=LIMITS,
        help="time to receive the whole head of a request, from its first byte",
        embedded=True,
    )
    socket_timeout: Defaulted[float] = seconds(
        30.0,
        group=LIMITS,
        help="time without any progress after which reading or writing a body gives up",
        embedded=True,
    )
    queue_timeout: Defaulted[float] = patience(
        60.0,
        group=LIMITS,
        help="time that a request may wait for a free thread, greenlet or task; then the response is 503 with "
        "Retry-After, since its client has most likely given up; 0 is no limit",
        embedded=True,
    )
    max_connections: Defaulted[int] = option(
        0,
        group=LIMITS,
        metavar="NUMBER",
        minimum=0,
        help="connections that each worker holds at the same time, idle ones included; further connections wait in the "
        "backlog or go to another worker, and the connections that are idle longest are closed for them; 0 is as many "
        "as the system allows",
        embedded=True,
    )
    max_header_size: Defaulted[int] = option(
        64 * 1024,
        aliases=("h11_max_incomplete_event_size",),
        group=LIMITS,
        metavar="BYTES",
        size=True,
        minimum=1,
        least=128,  # what curl sends for the shortest URL
        help="largest head of a request: request line and header fields",
        embedded=True,
    )
    max_target_size: Defaulted[int] = option(
        8 * 1024,
        group=LIMITS,
        metavar="BYTES",
        size=True,
        minimum=1,
        help="longest target of a request: path and query, as they are sent",
        embedded=True,
    )
    http: Defaulted[str] = option(
        "auto",
        group=LIMITS,
        choices=("auto", "h11"),
        help="how requests are parsed: auto parses plain requests itself, which is fast, and leaves the rest to h11; "
        "h11 parses all of them with h11, to rule out a difference",
        embedded=True,
    )
    max_body_size: Defaulted[int] = option(
        1024**3,
        group=LIMITS,
        metavar="BYTES",
        size=True,
        minimum=0,
        brief="largest body of a request",
        help="largest body of a request; 0 is no limit",
        embedded=True,
    )
    max_bodies_memory: Defaulted[int] = option(
        32 * 1024**2,
        group=LIMITS,
        metavar="BYTES",
        size=True,
        minimum=0,
        help="memory of each worker for all request bodies together and for heads that are not complete; beyond it, "
        "bodies go to temporary files, as a body over 512K always does",
        embedded=True,
    )
    max_bodies_disk: Defaulted[int] = option(
        0,
        group=LIMITS,
        metavar="BYTES",
        size=True,
        minimum=0,
        help="size of the temporary files of each worker for all request bodies together; beyond it, the server reads "
        "no more of these bodies until there is room, and responds with 503 if there is none within --socket-timeout; "
        "0 is all of the file system but its last tenth, or its last 256M",
        embedded=True,
    )
    min_body_rate: Defaulted[float] = option(
        500.0,
        group=LIMITS,
        metavar="BYTES",
        minimum=0,
        maximum=FASTEST,
        help="average bytes a second that a client must send of a request body, once it has taken 10 seconds; "
        "0 is any rate",
        embedded=True,
    )
    min_send_rate: Defaulted[float] = option(
        500.0,
        group=LIMITS,
        metavar="BYTES",
        minimum=0,
        maximum=FASTEST,
        help="average bytes a second that a client must take of a response, once a part of it has waited for the "
        "client for 10 seconds; 0 is any rate",
        embedded=True,
    )
    max_unsent_memory: Defaulted[int] = option(
        256 * 1024**2,
        group=LIMITS,
        metavar="BYTES",
        size=True,
        minimum=0,
        help="memory of each worker for all responses that wait for slow clients, such as 256M; beyond it, a response "
        "of more than 1 MiB keeps its thread or greenlet until its client has taken it",
        embedded=True,
    )
    stream_request_body: Defaulted[bool] = option(
        False,
        group=LIMITS,
        help="call the application before the body is there, and receive it while the application reads; "
        "a slow client then holds a thread or greenlet, and a chunked body has no CONTENT_LENGTH, so Django sees an "
        "empty body",
        embedded=True,
    )

    log_file: str | None = option(
        None,
        group=LOGGING,
        metavar="PATH",
        check=check_log_file,
        brief="append the log to this file",
        help="append the log, and the output of a --daemon, to this file instead of printing it; SIGUSR1 opens the "
        "file again after it was moved",
    )
    log_level: Defaulted[str] = option(
        "info",
        group=LOGGING,
        choices=("debug", "info", "warning", "error", "critical"),
        metavar="LEVEL",
        brief="debug, info, warning, error",
        help="the least level that is logged: debug, info, warning, error or critical; debug adds the faults of "
        "clients, and warning leaves the access log out, unless --access-log gives it a place; a --logging-config that "
        "names a level counts more",
    )
    no_access_log: Defaulted[bool] = option(
        False,
        group=LOGGING,
        brief="log no successful requests",
        help="write no log line for a successful request",
    )
    access_log: str | None = option(
        None,
        group=LOGGING,
        metavar="PATH",
        check=check_place,
        help="append the access log, with all responses, to this file, or print it to standard output for -; by "
        "default it goes where the rest of the log goes",
    )
    access_log_format: Defaulted[str] = option(
        "default",
        group=LOGGING,
        metavar="FORMAT",
        check=atoms.check_format,
        brief="common, combined, json or a format",
        help="lines of the access log: default, common, combined, a format of gunicorn's atoms, as in '%(h)s \"%(r)s\" "
        "%(s)s %(M)s', or json, with which all of the log becomes lines of JSON",
    )
    logging_config: str | None = option(
        None,
        aliases=("logging_config_filepath",),
        group=LOGGING,
        metavar="FILE",
        help="a .json or .toml file in the form of logging.config.dictConfig, merged over the default configuration",
    )
    log_max_bytes: Defaulted[int] = option(
        0,
        group=LOGGING,
        metavar="BYTES",
        size=True,
        minimum=0,
        help="rename the --log-file and the --access-log to PATH.1 at about this size, PATH.1 to PATH.2 and so on; a "
        "file that another process is writing may grow larger first; 0 is never",
    )
    log_backups: Defaulted[int] = option(
        5, group=LOGGING, minimum=1, maximum=10_000, help="files to keep beside each log file; the oldest is removed"
    )
    statsd: str | None = option(
        None,
        group=LOGGING,
        metavar="ADDRESS",
        check=check_datagrams,
        help="send counters once a second to this statsd, HOST:PORT or unix:PATH, with gunicorn's names",
    )
    statsd_prefix: Defaulted[str] = option(
        "", group=LOGGING, metavar="TEXT", check=check_names, help="the prefix of these names, as in: shop.web"
    )
    capture_output: Defaulted[bool] = option(
        False,
        group=LOGGING,
        needs_parent=True,
        help="log the output of workers, line by line, to the logger zibai.output: standard output and error, also of "
        "C code and child processes",
    )

    daemon: Defaulted[bool] = option(
        False,
        group=PROCESS,
        at_prompt=False,
        brief="serve in the background",
        help="serve in the background; the command ends when the server is up, or with its error (not on Windows)",
    )
    pid_file: str | None = option(
        None,
        group=PROCESS,
        metavar="PATH",
        check=check_file,
        brief="keep the process id in this file",
        help="keep the process id of the server, to which signals are sent, in this file; a server does not start "
        "while the file names another server that runs",
    )
    chdir: str | None = option(
        None,
        group=PROCESS,
        metavar="DIRECTORY",
        at_prompt=False,
        help="change to this directory first: the application is imported from there, and every relative path, "
        "also of other options, begins there",
    )
    user: str | None = option(
        None,
        group=PROCESS,
        metavar="NAME",
        at_prompt=False,
        help="serve as this user, by name or number, with the groups of that user; must be started by root, which "
        "binds the listeners first (not on Windows)",
    )
    group: str | None = option(
        None,
        group=PROCESS,
        metavar="NAME",
        at_prompt=False,
        help="serve as this group, by name or number; by default, the first group of --user (not on Windows)",
    )
    control: str | None = option(
        None,
        group=PROCESS,
        metavar="PATH",
        check=check_file,
        help="the file in which the server publishes its state for zibai ps; by default, zibai-PID.board in the "
        "runtime or temporary directory",
    )

    before_serve: str | None = option(
        None,
        group=HOOKS,
        metavar="module:attribute",
        brief="call this in each worker before it serves",
        help="call this in each worker before it serves",
    )
    before_graceful_exit: str | None = option(
        None, group=HOOKS, metavar="module:attribute", help="call this in each worker when a graceful exit begins"
    )
    before_died: str | None = option(
        None, group=HOOKS, metavar="module:attribute", help="call this in each worker just before its process ends"
    )

    if TYPE_CHECKING:  # The aliases, which accept_aliases() makes, as type checkers have to see them.
        subprocess: Defaulted[int] = option(0)
        max_request_pre_process: int | None = option(None)
        h11_max_incomplete_event_size: Defaulted[int] = option(0)
        logging_config_filepath: str | None = option(None)

    def __post_init__(self) -> None:
        for each in declared():
            if getattr(self, each.name) is None:
                setattr(self, each.name, each.make_default())

    def validate(self) -> None:
        """Raise UsageError, in one line that names the flag, for the first value that makes no sense."""
        for each in declared():
            each.validate(getattr(self, each.name))
        if self.preload and not hasattr(os, "fork"):
            raise UsageError("--preload needs fork, which this system does not have; leave it out")
        if self.health_public and self.health_listen is None:
            raise UsageError("--health-public needs a --health-listen")
        if self.log_max_bytes and self.log_file is None and self.access_log in (None, "-"):
            raise UsageError("--log-max-bytes needs a --log-file or the path of an --access-log")
        if self.no_access_log and self.access_log is not None:
            raise UsageError("--access-log and --no-access-log exclude each other; leave one out")
        for flag, most in _places(self).items():
            if self.loops > most:
                raise UsageError(f"--loops {self.loops} needs a {flag} of at least {self.loops}, one for each loop")
        if self.processes * self.loops > MOST_LOOPS:
            text = f"--processes {self.processes} with --loops {self.loops} are more than {MOST_LOOPS} server loops"
            raise UsageError(f"{text}; choose one for each processor")
        if self.proxy_protocol == "on" and not Trust(self.trusted_proxies):
            raise UsageError(
                "--proxy-protocol on accepts connections of --trusted-proxies only, and none are trusted; name them"
            )
        _check_tls(self)


def _check_tls(options: Options) -> None:
    """Raise UsageError for an option of TLS that needs another option, or excludes it."""
    if options.tls_dev and (options.certfile or options.keyfile):
        raise UsageError("--tls-dev makes a certificate of its own; leave --certfile and --keyfile out")
    secured = options.certfile or options.tls_dev
    for each in declared():
        if each.group == TLS and not secured and getattr(options, each.name) != each.default:
            raise UsageError(f"{each.flag} needs --certfile")
    if options.ca_certs and options.cert_reqs == "none":
        raise UsageError("--ca-certs needs --cert-reqs optional or required")
    if options.cert_reqs != "none" and not options.ca_certs:
        raise UsageError(f"--cert-reqs {options.cert_reqs} needs --ca-certs")


@cache
def declared() -> tuple[Option, ...]:
    """All options, in the order of the fields."""
    return read_declarations(Options)


def watched(options: Options) -> str:
    """The patterns of ``--watchfiles`` and ``--reload``; empty if no file is watched."""
    patterns = [] if options.watchfiles is None else [options.watchfiles]
    if options.reload:
        patterns.append("*.py")
        if options.env_file is not None:
            patterns.append(os.path.basename(options.env_file))
    return ";".join(patterns)


def script_name(options: Options) -> str:
    """SCRIPT_NAME for the environ: ``--url-prefix``, else the environment variable, else empty.

    Called in the worker, so that the environment in which the application runs counts. The result is a native string
    as in PEP 3333: the bytes of the path as Latin-1, like PATH_INFO.
    """
    prefix = options.url_prefix
    if prefix is None:
        prefix = os.environ.get("SCRIPT_NAME", "")
        try:
            check_prefix(prefix)
        except UsageError as error:
            raise UsageError(f"environment variable SCRIPT_NAME: {error}") from None
    return prefix.encode("utf-8", "surrogateescape").decode("latin-1")


def runners(options: Options, interface: str, loops: int = 1) -> int:
    """How many requests a worker with so many server loops runs at the same time."""
    if not isinstance(options.max_workers, _Usual):
        return options.max_workers
    return TASKS if interface == "asgi" else options.max_workers * loops


def usual_loops(options: Options) -> int:
    """The number of server loops of a worker that may have several: ``--loops``, or as many as help here for 0."""
    if options.loops or has_gil():
        return options.loops or 1
    cpus = available_cpus() // max(1, options.processes)
    return max(1, min([cpus, *_places(options).values()]))


def _places(options: Options) -> dict[str, int]:
    """The numbers that are divided among server loops, by flag. Each loop needs at least one of each."""
    places = {"--max-workers": options.max_workers, "--max-connections": options.max_connections}
    return {flag: number for flag, number in places.items() if number and not isinstance(number, _Usual)}
