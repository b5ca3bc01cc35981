"""Every option of Zibai, declared once.

A field of :class:`Options` is an option. Its name is the long flag, its annotation is the type of the value, and
:func:`~zibai.config.option.option` adds what a type cannot say: the default, the help, the limits. The command line,
``docs/options.md`` and :meth:`Options.validate` all read :func:`declared`, so a new option is one new field.

The values are plain (text, numbers, booleans, lists of text), because they travel to spawned workers as a pickle;
a hook is named by a string and imported where it runs. Making an ``Options`` reads nothing and checks nothing:
``validate`` does, once for the command line and once for a program that made its options by hand.
"""

import os
from dataclasses import KW_ONLY, dataclass
from functools import cache

from ..errors import UsageError
from ..system.machine import available_cpus
from .addresses import BELIEVED, Trust, check_fields, check_trusted, parse_address
from .option import LONGEST_WAIT, Defaulted, Option, option, patience, read_declarations, seconds

# The groups of the help and of docs/options.md, in the order of the fields.
APPLICATION = "Application"
LISTENING = "Listening"
PROXIES = "Proxies"
PROCESS = "Process"
TLS = "TLS"
WORKERS = "Workers"
LIMITS = "Timeouts and limits"
HOOKS = "Hooks"
LOGGING = "Logging"

LISTEN = "127.0.0.1:8000"
"""Where to listen when nobody says anything."""


def check_prefix(value: str) -> None:
    """A prefix is what PATH_INFO, which has its own slash, is cut from."""
    if value.endswith("/") or (value and not value.startswith("/")):
        raise UsageError(f"{value!r} must start with a slash and not end with one, or be empty")


@dataclass
class Options:
    """How to serve ``app``; every field is described in ``docs/options.md``.

    None in place of any value but ``app`` stands for the default of the field.
    """

    app: str = option(
        group=APPLICATION,
        metavar="module:attribute",
        help="the WSGI application; the attribute may be nested, as in package.module:object.app",
    )
    _: KW_ONLY
    call: Defaulted[bool] = option(
        False, group=APPLICATION, help="the attribute is a factory: call it, without arguments, to get the application"
    )
    url_scheme: Defaulted[str] = option(
        "http",
        group=APPLICATION,
        choices=("http", "https"),
        help="wsgi.url_scheme, the scheme that the client used to reach the site",
        embedded=True,
    )
    url_prefix: str | None = option(
        None,
        group=APPLICATION,
        metavar="PREFIX",
        check=check_prefix,
        help="SCRIPT_NAME, the path under which the application is mounted, as /shop; "
        "without it, the environment variable SCRIPT_NAME counts",
        embedded=True,
    )

    listen: list[str] | None = option(
        None,
        group=LISTENING,
        short="-l",
        metavar="ADDRESS",
        check=parse_address,
        help="where to listen: HOST:PORT, [IPV6]:PORT, :PORT (every interface), unix:PATH or, for a listener that is "
        "inherited, fd:N (its descriptor) or fd:NAME (systemd's name for it), one or more; port 0 takes a free one and "
        f"the log says which; without it, the listeners that server_starter or systemd gives, or else {LISTEN}",
    )
    backlog: Defaulted[int] = option(
        2048,
        group=LISTENING,
        minimum=1,
        maximum=2**31 - 1,  # a C int
        help="connections that may wait to be accepted, as far as the system allows it",
        embedded=True,
    )
    dualstack_ipv6: Defaulted[bool] = option(
        False,
        group=LISTENING,
        help="let :PORT and [::]:PORT take IPv4 clients as well as IPv6 ones; on a system without IPv6 they take IPv4 "
        "clients only",
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
        help="the group of unix sockets, by name or number, such as that of the proxy in front; the server has to be a "
        "member of it, or root (not on Windows)",
    )

    health_listen: str | None = option(
        None,
        group=LISTENING,
        metavar="ADDRESS",
        check=parse_address,
        help="where the parent answers /livez and /readyz, also when every worker is busy; an address as for --listen, "
        "of its own",
    )

    trusted_proxies: Defaulted[list[str]] = option(
        ["127.0.0.1,::1,unix"],
        group=PROXIES,
        metavar="PEERS",
        check=check_trusted,
        help="who may say who the client is, by Forwarded, X-Forwarded-* and the PROXY protocol: addresses, networks "
        "(10.0.0.0/8), unix (whoever connects to a unix socket), with commas between; * is everybody, none is nobody",
        embedded=True,
    )
    forwarded_fields: Defaulted[str] = option(
        BELIEVED,
        group=PROXIES,
        metavar="FIELDS",
        check=check_fields,
        help="what trusted proxies are believed, of for, proto, host, port and prefix, with commas between; name only "
        "what every one of them sets or removes itself, since any other field is the client's",
        embedded=True,
    )
    proxy_protocol: Defaulted[str] = option(
        "off",
        group=PROXIES,
        choices=("off", "on"),
        help="whether each connection begins with a PROXY header, of version 1 or 2; on takes connections from trusted "
        "proxies only, and closes those without one",
        embedded=True,
    )

    chdir: str | None = option(
        None,
        group=PROCESS,
        metavar="DIRECTORY",
        help="change to this directory first of all: the application is imported from there, and every relative path, "
        "of other options too, begins there",
    )
    user: str | None = option(
        None,
        group=PROCESS,
        metavar="NAME",
        help="serve as this user, by name or number, with the groups of his; needs root, who binds the listeners "
        "before (not on Windows)",
    )
    group: str | None = option(
        None,
        group=PROCESS,
        metavar="NAME",
        help="serve as this group, by name or number; without it, the first group of --user (not on Windows)",
    )
    pid_file: str | None = option(
        None,
        group=PROCESS,
        metavar="PATH",
        help="keep the process id of the server, the one to send signals to, in this file; a server whose file tells "
        "of another one that runs does not start",
    )
    daemon: Defaulted[bool] = option(
        False,
        group=PROCESS,
        help="serve in the background; the command ends when the server is up, or with its error (not on Windows)",
    )

    certfile: str | None = option(
        None,
        group=TLS,
        metavar="FILE",
        help="the certificate, in PEM form and with the intermediate ones behind it: speak TLS on all TCP addresses of "
        "--listen; a changed file is used by new connections",
        embedded=True,
    )
    keyfile: str | None = option(
        None,
        group=TLS,
        metavar="FILE",
        help="the private key, in PEM form; without it, it is in --certfile, too",
        embedded=True,
    )
    keyfile_password_env: str | None = option(
        None,
        group=TLS,
        metavar="VARIABLE",
        help="the environment variable that has the password of the private key",
        embedded=True,
    )
    ca_certs: str | None = option(
        None,
        group=TLS,
        metavar="FILE",
        help="the authorities, in PEM form, by which certificates of clients may be signed",
        embedded=True,
    )
    cert_reqs: Defaulted[str] = option(
        "none",
        group=TLS,
        choices=("none", "optional", "required"),
        help="whether clients are asked for a certificate, by one of --ca-certs, and whether they must have one",
        embedded=True,
    )
    tls_min_version: Defaulted[str] = option(
        "1.2", group=TLS, choices=("1.2", "1.3"), help="the oldest version of TLS that is spoken", embedded=True
    )
    ciphers: str | None = option(
        None,
        group=TLS,
        metavar="LIST",
        help="ciphers of TLS 1.2, in OpenSSL's form; without it, those with forward secrecy and AEAD; those of TLS 1.3 "
        "are OpenSSL's",
        embedded=True,
    )
    redirect_http: str | None = option(
        None,
        group=TLS,
        metavar="ADDRESS",
        check=parse_address,
        help="also listen here, an address as for --listen, and send whoever comes by plain HTTP to https",
    )
    tls_dev: Defaulted[bool] = option(
        False,
        group=TLS,
        help="for development: make a certificate for localhost at each start; needs zibai-server[tls-dev]",
    )

    subprocess: Defaulted[int] = option(
        0,
        group=WORKERS,
        short="-p",
        metavar="NUMBER",
        minimum=0,
        words={"auto": available_cpus},
        environment="WEB_CONCURRENCY",
        help="worker processes; 0 serves in the process itself, without a parent, auto is as many as there are "
        "processors to use; without it, the environment variable WEB_CONCURRENCY counts",
    )
    max_workers: Defaulted[int] = option(
        10,
        group=WORKERS,
        short="-w",
        metavar="NUMBER",
        minimum=1,
        help="threads or greenlets in each worker, that is, requests that it runs at the same time; "
        "a connection that waits takes none",
        embedded=True,
    )
    no_gevent: Defaulted[bool] = option(False, group=WORKERS, help="use threads even where gevent is installed")
    preload: Defaulted[bool] = option(
        False,
        group=WORKERS,
        help="import the application once, in a loader process, and fork the workers from it, so that they share its "
        "memory; at least one worker; not on Windows, which cannot fork",
    )
    watchfiles: str | None = option(
        None,
        group=WORKERS,
        metavar="PATTERNS",
        help='restart the workers when a file changes that matches a pattern, as in "*.py;.env"; '
        "needs zibai-server[reload]",
    )
    max_request_pre_process: int | None = option(
        None,
        group=WORKERS,
        metavar="NUMBER",
        minimum=1,
        help="replace a worker after this many requests; without it, never",
        embedded=True,
    )

    max_worker_memory: int | None = option(
        None,
        group=WORKERS,
        metavar="BYTES",
        size=True,
        minimum=1,
        help="resident memory that a worker may have, as 512M or 1G; one that has more, in two looks at it, is "
        "replaced, one after the other; without it, nobody looks",
    )
    max_worker_descriptors: int | None = option(
        None,
        group=WORKERS,
        metavar="NUMBER",
        minimum=1,
        help="the same for open descriptors, connections included (on Windows: handles)",
    )
    capture_output: Defaulted[bool] = option(
        False,
        group=WORKERS,
        help="log what workers print, line by line, to the logger zibai.output: standard output and error, also of C "
        "code and child processes",
    )
    interactive: Defaulted[bool] = option(
        False,
        group=WORKERS,
        help="a prompt in the terminal while it serves, with supervisor, workers, reload() and stop()",
    )
    control: str | None = option(
        None,
        group=WORKERS,
        metavar="PATH",
        help="the file in which the server says what it does, for zibai ps; without it, zibai-PID.board in the "
        "runtime or temporary directory",
    )

    boot_timeout: Defaulted[float] = seconds(
        60.0, group=LIMITS, help="time from the start of a worker until it serves; then it is given up"
    )
    worker_timeout: Defaulted[float] = patience(
        30.0,
        group=LIMITS,
        help="time without a sign of life from the server loop of a worker, until it is killed and replaced; twice "
        "that for one that uses the processor; 0 is for ever",
    )
    slow_request: Defaulted[float] = patience(
        30.0,
        group=LIMITS,
        help="how long a request may run before it is logged, once, with the stack of its thread or greenlet; "
        "0 is for ever",
        embedded=True,
    )
    request_timeout: Defaulted[float] = patience(
        0.0,
        group=LIMITS,
        help="how long a request may run before all stacks are logged and its worker is replaced by another one; its "
        "other requests have --graceful-exit-timeout to finish; 0 is for ever",
        embedded=True,
    )
    graceful_exit_timeout: Defaulted[float] = seconds(
        10.0,
        group=LIMITS,
        help="what a graceful exit leaves requests to finish; then the rest is closed",
        embedded=True,
    )
    drain: Defaulted[float] = option(
        0.0,
        group=LIMITS,
        minimum=0,
        maximum=LONGEST_WAIT,
        metavar="SECONDS",
        help="before a graceful exit, serve on for so long, with Connection: close in each answer and with readiness "
        "failing, so that load balancers look elsewhere; a second signal cuts it short",
    )
    keep_alive_timeout: Defaulted[float] = seconds(
        75.0,
        group=LIMITS,
        help="how long an idle connection is kept; longer than the load balancer in front keeps it, please, "
        "or it meets closing connections",
        embedded=True,
    )
    disable_keep_alive: Defaulted[bool] = option(
        False,
        group=LIMITS,
        embedded=True,
        help="close each connection after one request, as its answer says; the same as --max-keep-alive-requests 1",
    )
    max_keep_alive_requests: Defaulted[int] = option(
        0,
        group=LIMITS,
        embedded=True,
        minimum=0,
        help="close a connection after this many requests, as the last answer says, so that clients spread over the "
        "workers anew; a restart of its worker counts anew; 0 is no limit",
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
        help="how long a request may wait for a free thread or greenlet; then it is answered by 503 and Retry-After, "
        "since its client has most likely given up; 0 is for ever",
        embedded=True,
    )
    max_connections: Defaulted[int] = option(
        0,
        group=LIMITS,
        metavar="NUMBER",
        minimum=0,
        help="connections that each worker holds at the same time, idle ones, too; what comes then waits in the "
        "backlog or goes to another worker, and the longest idle ones are closed for it; 0 is as many as the system "
        "allows",
        embedded=True,
    )
    h11_max_incomplete_event_size: Defaulted[int] = option(
        64 * 1024,
        group=LIMITS,
        metavar="BYTES",
        minimum=1,
        help="largest head of a request",
        embedded=True,
    )
    max_target_size: Defaulted[int] = option(
        8 * 1024,
        group=LIMITS,
        metavar="BYTES",
        minimum=1,
        help="longest target of a request: path and query, as they are sent",
        embedded=True,
    )
    http: Defaulted[str] = option(
        "auto",
        group=LIMITS,
        choices=("auto", "h11"),
        help="how requests are read: auto recognises the plain ones by itself, which is fast, and leaves the rest to "
        "h11; h11 leaves it all of them, for whoever doubts that it makes no other difference",
        embedded=True,
    )
    max_body_size: Defaulted[int] = option(
        1024**3,
        group=LIMITS,
        metavar="BYTES",
        minimum=0,
        help="largest body of a request; 0 is no limit",
        embedded=True,
    )
    max_bodies_memory: Defaulted[int] = option(
        32 * 1024**2,
        group=LIMITS,
        metavar="BYTES",
        size=True,
        minimum=0,
        help="memory for the request bodies of each worker, all together, and for heads that are not complete; beyond "
        "it bodies go to temporary files, as one over 512K does in any case",
        embedded=True,
    )
    max_bodies_disk: Defaulted[int] = option(
        0,
        group=LIMITS,
        metavar="BYTES",
        size=True,
        minimum=0,
        help="size of the temporary files with request bodies of each worker, all together; beyond it the server reads "
        "no more of these bodies until there is room, and answers 503 when there is none in --socket-timeout; "
        "0 is all of the file system but its last tenth, or its last 256M",
        embedded=True,
    )
    min_body_rate: Defaulted[float] = option(
        500.0,
        group=LIMITS,
        metavar="BYTES",
        minimum=0,
        help="bytes a second that a body of a request has to bring on average, once it has taken 10 seconds; "
        "0 is any rate",
        embedded=True,
    )
    min_send_rate: Defaulted[float] = option(
        500.0,
        group=LIMITS,
        metavar="BYTES",
        minimum=0,
        help="bytes a second that a client has to take of a response on average, once a part of it has waited for the "
        "client for 10 seconds; 0 is any rate",
        embedded=True,
    )
    max_unsent_memory: Defaulted[int] = option(
        256 * 1024**2,
        group=LIMITS,
        metavar="BYTES",
        size=True,
        minimum=0,
        help="memory that all responses which wait for slow clients take in a worker, as 256M; beyond it a response of "
        "more than 1 MiB keeps its thread or greenlet until its client has taken it",
        embedded=True,
    )
    stream_request_body: Defaulted[bool] = option(
        False,
        group=LIMITS,
        help="call the application before the body is there, and receive it as the application reads; "
        "a slow client then holds a thread or greenlet, and a chunked body has no CONTENT_LENGTH, so Django takes it "
        "for empty",
        embedded=True,
    )

    before_serve: str | None = option(
        None, group=HOOKS, metavar="module:attribute", help="call this in each worker before it serves"
    )
    before_graceful_exit: str | None = option(
        None, group=HOOKS, metavar="module:attribute", help="call this in each worker when a graceful exit begins"
    )
    before_died: str | None = option(
        None, group=HOOKS, metavar="module:attribute", help="call this in each worker just before its process ends"
    )

    no_access_log: Defaulted[bool] = option(False, group=LOGGING, help="no line for each request that went well")
    log_file: str | None = option(
        None,
        group=LOGGING,
        metavar="PATH",
        help="append the log to this file instead of printing it, and what a --daemon prints; SIGUSR1 opens it anew "
        "after it was moved",
    )
    log_max_bytes: Defaulted[int] = option(
        0,
        group=LOGGING,
        metavar="BYTES",
        minimum=0,
        help="rename the --log-file to PATH.1 before it grows over this size, PATH.1 to PATH.2 and so on; 0 is never",
    )
    log_backups: Defaulted[int] = option(
        5, group=LOGGING, minimum=1, help="how many files to keep beside the --log-file; the oldest is removed"
    )
    logging_config_filepath: str | None = option(
        None,
        group=LOGGING,
        metavar="FILE",
        help="a .json or .toml file in the form of logging.config.dictConfig, merged over the default configuration",
    )

    def __post_init__(self) -> None:
        for each in declared():
            if getattr(self, each.name) is None:
                setattr(self, each.name, each.make_default())

    def validate(self) -> None:
        """Raise UsageError, in one line that names the flag, for the first value that makes no sense."""
        for each in declared():
            each.validate(getattr(self, each.name))
        if self.preload and not hasattr(os, "fork"):
            raise UsageError("--preload needs fork, which this system has not got; leave it out")
        if self.log_max_bytes and self.log_file is None:
            raise UsageError("--log-max-bytes needs a --log-file")
        if self.proxy_protocol == "on" and not Trust(self.trusted_proxies):
            raise UsageError("--proxy-protocol on takes connections of --trusted-proxies only, and that is nobody")
        _check_tls(self)


def _check_tls(options: Options) -> None:
    """What options of TLS need each other, or do not go together."""
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


def script_name(options: Options) -> str:
    """SCRIPT_NAME for the environ: ``--url-prefix``, else the environment variable, else empty.

    Asked in the worker, so that the environment counts in which the application runs. A native string as PEP 3333
    wants it: the bytes of the path as Latin-1, as PATH_INFO is.
    """
    prefix = options.url_prefix
    if prefix is None:
        prefix = os.environ.get("SCRIPT_NAME", "")
        try:
            check_prefix(prefix)
        except UsageError as error:
            raise UsageError(f"environment variable SCRIPT_NAME: {error}") from None
    return prefix.encode("utf-8", "surrogateescape").decode("latin-1")
