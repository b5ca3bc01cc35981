"""The keywords of ``serve()`` and ``run()``, for type checkers and editors. None stands for the default.

Made from zibai/config/options.py by docs/generate_keywords.py: change it there.
"""

from typing import Literal, TypedDict


class ServeOptions(TypedDict, total=False):
    """What :func:`zibai.serve` takes."""

    url_prefix: str | None
    """SCRIPT_NAME, the path under which the application is mounted, as in /shop; by default, the environment variable
    SCRIPT_NAME"""
    url_scheme: Literal["http", "https"] | None
    """wsgi.url_scheme, the scheme that the client used to reach the site (default: http)"""
    backlog: int | None
    """connections that may wait to be accepted; the system may allow fewer (default: 2048)"""
    max_workers: int | None
    """threads or greenlets of each worker: the number of requests that it runs at the same time; a connection that
    waits takes none. An ASGI application has tasks, 1,000 by default. With --loops, each loop has 10 threads by
    default, and a number that is given is divided among the loops (default: 10)"""
    loops: int | None
    """server loops of each worker, which share one copy of the application and run it in parallel on a Python without
    GIL; 0 is one for each processor there, divided among the workers, and one on any other Python. --max-workers,
    --max-connections and the limits of memory are divided among the loops, and --max-requests counts for all together.
    Only for WSGI applications on threads (default: 1)"""
    interface: Literal["auto", "wsgi", "asgi"] | None
    """what the application is: WSGI, which runs on threads or greenlets, or ASGI, which runs as tasks; auto looks at
    the parameters of the application. With asgi, gevent patches nothing (default: auto)"""
    lifespan: Literal["auto", "on", "off"] | None
    """whether an ASGI application is told of the start and the end of its worker; with on, an application without a
    lifespan does not start (default: auto)"""
    loop: Literal["auto", "asyncio", "uvloop"] | None
    """the event loop of an ASGI application: that of Python, or uvloop (winloop on Windows), an extra; auto is that of
    Python (default: auto)"""
    max_request_pre_process: int | None
    max_requests: int | None
    """replace a worker after this many requests; by default, never"""
    trusted_proxies: list[str] | None
    """peers that are believed when they name the client, by Forwarded, X-Forwarded-* and the PROXY protocol: addresses,
    networks (10.0.0.0/8) or unix (every peer on a unix socket), separated by commas; * is every peer, none is no peer;
    by default, the environment variable FORWARDED_ALLOW_IPS (default: 127.0.0.1,::1,unix)"""
    forwarded_fields: str | None
    """fields that trusted proxies are believed: for, proto, host, port and prefix, separated by commas; name only
    fields that every proxy sets or removes itself, since any other field may come from the client (default:
    for,proto)"""
    proxy_protocol: Literal["off", "on"] | None
    """whether each connection begins with a PROXY header, of version 1 or 2; on accepts connections from trusted
    proxies only, and closes those without the header (default: off)"""
    certfile: str | None
    """the certificate, in PEM form and followed by the intermediate ones: speak TLS on all TCP addresses of --listen; a
    changed file is used for new connections"""
    keyfile: str | None
    """the private key, in PEM form; by default, it is in --certfile"""
    keyfile_password_env: str | None
    """the environment variable that holds the password of the private key"""
    ca_certs: str | None
    """the authorities, in PEM form, that may sign the certificates of clients"""
    cert_reqs: Literal["none", "optional", "required"] | None
    """whether clients are asked for a certificate by one of --ca-certs, and whether they must have one (default:
    none)"""
    tls_min_version: Literal["1.2", "1.3"] | None
    """the oldest version of TLS that is spoken (default: 1.2)"""
    ciphers: str | None
    """ciphers of TLS 1.2, in the form of OpenSSL; by default, those with forward secrecy and AEAD; the ciphers of TLS
    1.3 are those of OpenSSL"""
    ws: Literal["auto", "on", "off"] | None
    """whether an ASGI application is given WebSockets, which needs zibai-server[websocket]; auto is yes where that is
    installed; with off, a handshake is an ordinary request (default: auto)"""
    ws_max_size: int | None
    """bytes of one message of a client, after decompression; a longer one closes the WebSocket with code 1009 (default:
    16777216)"""
    ws_max_queue: int | None
    """messages of a client, of at most 64K together, that are read before the application receives them; then the
    client must wait (default: 32)"""
    ws_ping_interval: float | None
    """send a ping to a client that has sent nothing for this time; 0 is never (default: 20)"""
    ws_ping_timeout: float | None
    """close the WebSocket with code 1011 if the client sends nothing for this time after a ping; 0 is never (default:
    20)"""
    ws_close_timeout: float | None
    """time that a client has to respond to a close frame; then the connection is cut (default: 10)"""
    ws_compress_from: int | None
    """compress messages of this many bytes or more for clients that offer permessage-deflate; 0 is never, and their
    messages are not compressed either (default: 256)"""
    slow_request: float | None
    """time after which a running request is logged, once, with the stack of its thread or greenlet; 0 is never
    (default: 30)"""
    request_timeout: float | None
    """time after which a running request counts as hung: a task (ASGI) is cancelled, and its client gets 504; for a
    thread, a greenlet, or a task that does not end within 5 s, all stacks are logged and its worker is replaced; the
    other requests of the worker have --graceful-exit-timeout to finish; 0 is never (default: 0)"""
    graceful_exit_timeout: float | None
    """time that requests have to finish during a graceful exit; then the rest is closed (default: 10)"""
    keep_alive_timeout: float | None
    """time that an idle connection is kept; it must be longer than that of the load balancer in front, which otherwise
    sends requests into connections that are just being closed (default: 75)"""
    disable_keep_alive: bool | None
    """close each connection after one request, as its response says; the same as --max-keep-alive-requests 1"""
    max_keep_alive_requests: int | None
    """close a connection after this many requests, as its last response says, so that clients spread over the workers
    again; a restart of the worker begins a new count; 0 is no limit (default: 0)"""
    header_timeout: float | None
    """time to receive the whole head of a request, from its first byte (default: 10)"""
    socket_timeout: float | None
    """time without any progress after which reading or writing a body gives up (default: 30)"""
    queue_timeout: float | None
    """time that a request may wait for a free thread, greenlet or task; then the response is 503 with Retry-After,
    since its client has most likely given up; 0 is no limit (default: 60)"""
    max_connections: int | None
    """connections that each worker holds at the same time, idle ones included; further connections wait in the backlog
    or go to another worker, and the connections that are idle longest are closed for them; 0 is as many as the system
    allows (default: 0)"""
    h11_max_incomplete_event_size: int | None
    max_header_size: int | None
    """largest head of a request: request line and header fields (default: 65536)"""
    max_target_size: int | None
    """longest target of a request: path and query, as they are sent (default: 8192)"""
    http: Literal["auto", "h11"] | None
    """how requests are parsed: auto parses plain requests itself, which is fast, and leaves the rest to h11; h11 parses
    all of them with h11, to rule out a difference (default: auto)"""
    max_body_size: int | None
    """largest body of a request; 0 is no limit (default: 1073741824)"""
    max_bodies_memory: int | None
    """memory of each worker for all request bodies together and for heads that are not complete; beyond it, bodies go
    to temporary files, as a body over 512K always does (default: 33554432)"""
    max_bodies_disk: int | None
    """size of the temporary files of each worker for all request bodies together; beyond it, the server reads no more
    of these bodies until there is room, and responds with 503 if there is none within --socket-timeout; 0 is all of the
    file system but its last tenth, or its last 256M (default: 0)"""
    min_body_rate: float | None
    """average bytes a second that a client must send of a request body, once it has taken 10 seconds; 0 is any rate
    (default: 500)"""
    min_send_rate: float | None
    """average bytes a second that a client must take of a response, once a part of it has waited for the client for 10
    seconds; 0 is any rate (default: 500)"""
    max_unsent_memory: int | None
    """memory of each worker for all responses that wait for slow clients, such as 256M; beyond it, a response of more
    than 1 MiB keeps its thread or greenlet until its client has taken it (default: 268435456)"""
    stream_request_body: bool | None
    """call the application before the body is there, and receive it while the application reads; a slow client then
    holds a thread or greenlet, and a chunked body has no CONTENT_LENGTH, so Django sees an empty body"""


class RunOptions(ServeOptions, total=False):
    """What :func:`zibai.run` takes."""

    call: bool | None
    """the attribute is a factory: call it, without arguments, to get the application"""
    app_dir: str | None
    """import the application from this directory; the current directory and relative paths stay as they are, unlike
    with --chdir"""
    dualstack_ipv6: bool | None
    """let :PORT and [::]:PORT take IPv4 clients as well as IPv6 ones; without IPv6 they take IPv4 clients only"""
    unix_socket_perms: int | None
    """permissions of unix sockets, in octal; a proxy that runs as another user needs 660 and its group, by
    --unix-socket-group (default: 600)"""
    unix_socket_group: str | None
    """the group of unix sockets, by name or number, such as the group of the proxy in front; the server must be root or
    a member of it (not on Windows)"""
    health_listen: str | None
    """another address, as for --listen, where the parent serves /livez, /readyz, /metrics and a live page, also while
    every worker is busy"""
    health_public: bool | None
    """show the live page of --health-listen, and with it paths of requests, also on a public address and under any
    name; without it, such an address has /livez, /readyz and /metrics only"""
    subprocess: int | None
    no_gevent: bool | None
    """use threads even if gevent is installed"""
    preload: bool | None
    """import the application once, in a loader process, and fork the workers from it, so that they share its memory;
    starts at least one worker (not on Windows, which cannot fork)"""
    max_worker_memory: int | None
    """resident memory of a worker, such as 512M or 1G; a worker that has more in two measurements in a row is replaced,
    one worker at a time; by default, memory is not measured"""
    max_worker_descriptors: int | None
    """the same for open descriptors, connections included (on Windows: handles)"""
    reload: bool | None
    """restart the workers when a *.py file changes, or the --env-file: below the current directory, --app-dir and other
    directories that Python imports from, but not below those of installed packages; the log says which; --watchfiles
    adds patterns; needs zibai-server[reload]"""
    watchfiles: str | None
    """restart the workers when a file changes that matches a pattern, as in "*.py;.env"; needs zibai-server[reload]"""
    tls_dev: bool | None
    """speak TLS with a certificate for localhost that is made at each start; needs zibai-server[tls-dev]"""
    redirect_http: str | None
    """also listen here, an address as for --listen, and redirect plain HTTP requests to https"""
    boot_timeout: float | None
    """time for a worker to start; a worker that does not serve by then is killed (default: 60)"""
    worker_timeout: float | None
    """time without a heartbeat from the server loop of a worker, after which the worker is killed and replaced; twice
    that for a worker that uses the processor; 0 is no limit (default: 30)"""
    drain: float | None
    """time to keep serving before a graceful exit, with Connection: close in each response and with failing readiness,
    so that load balancers turn to other servers; a second signal cuts it short (default: 0)"""
    log_file: str | None
    """append the log, and the output of a --daemon, to this file instead of printing it; SIGUSR1 opens the file again
    after it was moved"""
    log_level: Literal["debug", "info", "warning", "error", "critical"] | None
    """the least level that is logged: debug, info, warning, error or critical; debug adds the faults of clients, and
    warning leaves the access log out, unless --access-log gives it a place; a --logging-config that names a level
    counts more (default: info)"""
    no_access_log: bool | None
    """write no log line for a successful request"""
    access_log: str | None
    """append the access log, with all responses, to this file, or print it to standard output for -; by default it goes
    where the rest of the log goes"""
    access_log_format: str | None
    """lines of the access log: default, common, combined, a format of gunicorn's atoms, as in '%(h)s "%(r)s" %(s)s
    %(M)s', or json, with which all of the log becomes lines of JSON (default: default)"""
    logging_config_filepath: str | None
    logging_config: str | None
    """a .json or .toml file in the form of logging.config.dictConfig, merged over the default configuration"""
    log_max_bytes: int | None
    """rename the --log-file and the --access-log to PATH.1 at about this size, PATH.1 to PATH.2 and so on; a file that
    another process is writing may grow larger first; 0 is never (default: 0)"""
    log_backups: int | None
    """files to keep beside each log file; the oldest is removed (default: 5)"""
    statsd: str | None
    """send counters once a second to this statsd, HOST:PORT or unix:PATH, with gunicorn's names"""
    statsd_prefix: str | None
    """the prefix of these names, as in: shop.web (default: )"""
    capture_output: bool | None
    """log the output of workers, line by line, to the logger zibai.output: standard output and error, also of C code
    and child processes"""
    pid_file: str | None
    """keep the process id of the server, to which signals are sent, in this file; a server does not start while the
    file names another server that runs"""
    control: str | None
    """the file in which the server publishes its state for zibai ps; by default, zibai-PID.board in the runtime or
    temporary directory"""
    before_serve: str | None
    """call this in each worker before it serves"""
    before_graceful_exit: str | None
    """call this in each worker when a graceful exit begins"""
    before_died: str | None
    """call this in each worker just before its process ends"""
