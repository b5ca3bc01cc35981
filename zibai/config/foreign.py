"""Flags of gunicorn, uvicorn, granian and waitress, and their counterparts here.

Two parts of zibai read it. An error message says in one line what to write instead of such a flag. And ``zibai
migrate`` translates a whole configuration. A test compares the table with ``docs/migrating.md`` and with the flags of
these servers.
"""

from functools import cache
from typing import Final, NamedTuple

# server | flags | our option, if there is one | what differs, or why there is none
_TABLE: Final = """
gunicorn | -w --workers | processes |
gunicorn | --threads | max_workers |
gunicorn | -b --bind | listen |
gunicorn | -p --pid --pidfile | pid_file |
gunicorn | --reload | reload |
gunicorn | -k --worker-class | | leave it out, since gevent and ASGI are found; write --no-gevent for gthread, --no-gevent -w 1 for sync
gunicorn | --worker-connections | max_connections | idle connections cost no thread, so the default has no limit; --max-workers limits concurrent requests
gunicorn | -t --timeout | request_timeout | --worker-timeout is for a hung server loop only, so a long request may take its time without --request-timeout
gunicorn | --graceful-timeout | graceful_exit_timeout |
gunicorn | --keep-alive --keepalive | keep_alive_timeout | idle connections cost no thread, so it may be long
gunicorn | --max-requests-jitter | | it is always a tenth of --max-requests
gunicorn | --limit-request-line | max_target_size | for the path and query alone
gunicorn | --limit-request-fields | | the limit is 128, fixed
gunicorn | --limit-request-field_size | max_header_size | for the whole head
gunicorn | --reload-engine | | --reload asks the system, and polls only where it must
gunicorn | --reload-extra-file --reload-extra-files | watchfiles | it takes patterns, as in '*.html;*.yml', and goes with --reload
gunicorn | --check-config --print-config | | write: zibai check
gunicorn | --spew | | --slow-request logs the stack of a request that takes long
gunicorn | --no-sendfile --sendfile | | wsgi.file_wrapper uses sendfile where it can
gunicorn | --reuse-port | | all workers share one listener, so that no connection is lost with a worker
gunicorn | -D --daemonize | daemon |
gunicorn | -u | user |
gunicorn | -v | | write --version
gunicorn | -g | group |
gunicorn | -m --umask | unix_socket_perms | for sockets only; for other files, set the umask in the shell or in the systemd unit
gunicorn | --initgroups | | --user always takes the groups of the user
gunicorn | -e --env --raw-env | env_file | it takes a file of variables
gunicorn | --pythonpath | app_dir | or set PYTHONPATH
gunicorn | --worker-tmp-dir | control | heartbeats are in memory, and no disk can delay them
gunicorn | --tmp-upload-dir | | set TMPDIR
gunicorn | --forwarded-allow-ips | trusted_proxies | networks and unix may stand there as well
gunicorn | --proxy-allow-from --proxy-allow-ips | trusted_proxies | the same list as for Forwarded
gunicorn | --forwarder-headers | forwarded_fields | fields, as in for,proto,prefix
gunicorn | --secure-scheme-headers | | X-Forwarded-Proto and Forwarded of --trusted-proxies count
gunicorn | --access-logfile --accesslog | access_log | without it the access log is on, and goes where the rest goes; --no-access-log turns it off
gunicorn | --access-logformat | access_log_format | with the same atoms
gunicorn | --error-logfile --errorlog | log_file | it has the access log as well
gunicorn | --loglevel | log_level |
gunicorn | --disable-redirect-access-to-syslog --log-syslog --log-syslog-to --log-syslog-prefix --log-syslog-facility --syslog --syslog-addr --syslog-prefix --syslog-facility | logging_config | with a logging.handlers.SysLogHandler
gunicorn | --logger-class --log-config --log-config-json --logconfig --logconfig-dict --logconfig-json | logging_config | JSON or TOML in the form of dictConfig
gunicorn | -R --enable-stdio-inheritance | | standard output is left as it is
gunicorn | --statsd-host | statsd |
gunicorn | --dogstatsd-tags --enable-backlog-metric | | --statsd has no tags, and always sends the backlog; /metrics has more
gunicorn | -n --name --proc-name --default-proc-name | | process titles show the application, if setproctitle is installed
gunicorn | --protocol --uwsgi-allow-from --uwsgi-allow-ips | | let nginx speak HTTP: proxy_pass instead of uwsgi_pass
gunicorn | --paste --paster | | name what loads the file: zibai 'paste.deploy:loadapp("config:production.ini", relative_to=".")'
gunicorn | --paste-global --raw-paste-global-conf | | it is an argument of paste.deploy:loadapp: global_conf={"debug": "false"}
gunicorn | --permit-obsolete-folding --strip-header-spaces --permit-unconventional-http-method --permit-unconventional-http-version --casefold-http-method --header-map | | such requests are always refused, since request smuggling uses them
gunicorn | --http-parser | http | auto or h11
gunicorn | --suppress-ragged-eofs --do-handshake-on-connect | | a TLS handshake never holds a thread
gunicorn | --http-protocols --http2-cleartext --http2-max-concurrent-streams --http2-initial-window-size --http2-max-frame-size --http2-max-header-list-size | | a proxy in front speaks HTTP/2, and HTTP/1.1 to the server
gunicorn | --asgi-loop | loop |
gunicorn | --asgi-lifespan | lifespan |
gunicorn | --asgi-disconnect-grace-period | | an application hears at once that its client has left
gunicorn | --websocket-max-message-size | ws_max_size |
gunicorn | --dirty-app --dirty-apps --dirty-workers --dirty-timeout --dirty-threads --dirty-graceful-timeout --dirty-post-fork --dirty-worker-init --dirty-worker-exit --on-dirty-starting | | zibai.Supervisor keeps a function running in processes
gunicorn | --control-socket --control-socket-mode --control-socket-disable --no-control-socket | control | zibai reload, stop and workers control the server
gunicorn | --ssl-version | tls_min_version | 1.2 or 1.3
gunicorn | --post-fork --post-worker-init | before_serve | a name, module:attribute, of a function without arguments
gunicorn | --worker-int | before_graceful_exit | a name, module:attribute, of a function without arguments
gunicorn | --worker-exit | before_died | a name, module:attribute, of a function without arguments
gunicorn | --pre-request --post-request | | write WSGI middleware
gunicorn | --on-starting --on-reload --when-ready --pre-fork --pre-exec --child-exit --worker-abort --nworkers-changed --on-exit --ssl-context | | there is no such hook; systemd's notification and --health-listen tell when the server is ready
uvicorn | --workers | processes |
uvicorn | --reload | reload |
uvicorn | --uds | listen | as unix:PATH
uvicorn | --fd | listen | as fd:N
uvicorn | --reload-dir --reload-dirs | | --reload watches the current directory, --app-dir and PYTHONPATH
uvicorn | --reload-include --reload-includes | watchfiles | patterns in one text, as in '*.html;*.yml'
uvicorn | --reload-exclude --reload-excludes | | caches, version control and virtual environments are left out; --watchfiles names exactly what counts
uvicorn | --reload-delay | | the system tells of changes
uvicorn | --reset-contextvars --http2 | | each request has a context of its own; a proxy in front speaks HTTP/2
uvicorn | --ws | ws | auto, on or off: there is one implementation
uvicorn | --ws-max-size | ws_max_size |
uvicorn | --ws-max-queue | ws_max_queue |
uvicorn | --ws-ping-interval | ws_ping_interval |
uvicorn | --ws-ping-timeout | ws_ping_timeout |
uvicorn | --ws-per-message-deflate | ws_compress_from | 0 is never
uvicorn | --log-config | logging_config | JSON or TOML in the form of dictConfig
uvicorn | --use-colors --no-use-colors | | a terminal has colours, unless NO_COLOR is set
uvicorn | --proxy-headers | trusted_proxies | proxies on this machine are trusted by default
uvicorn | --no-proxy-headers | trusted_proxies | write --trusted-proxies none
uvicorn | --forwarded-allow-ips | trusted_proxies | networks and unix may stand there as well
uvicorn | --server-header --no-server-header --date-header --no-date-header --header | | the application's fields replace those of the server
gunicorn | --root-path | url_prefix | it becomes SCRIPT_NAME
uvicorn | --root-path | url_prefix | it becomes SCRIPT_NAME
uvicorn | --limit-concurrency | max_connections | further connections wait
uvicorn | --limit-max-requests | max_requests | the replacement is ready before the old worker ends
uvicorn | --limit-max-requests-jitter | | it is always a tenth of --max-requests
uvicorn | --timeout-graceful-shutdown | graceful_exit_timeout |
uvicorn | --timeout-worker-healthcheck | worker_timeout |
uvicorn | --ssl-keyfile | keyfile |
uvicorn | --ssl-certfile | certfile |
uvicorn | --ssl-ca-certs | ca_certs |
uvicorn | --ssl-cert-reqs | cert_reqs | none, optional or required
uvicorn | --ssl-ciphers | ciphers |
uvicorn | --ssl-keyfile-password | keyfile_password_env | the name of a variable: every user of the machine can read a command line
uvicorn | --ssl-version | tls_min_version | 1.2 or 1.3
granian | --workers | processes |
granian | --blocking-threads | max_workers |
granian | --uds | listen | as unix:PATH
granian | --uds-permissions | unix_socket_perms |
granian | --ws --no-ws | ws | on or off
granian | --no-factory --no-reload --log --no-log | | leave it out
granian | --blocking-threads-idle-timeout --runtime-threads --runtime-blocking-threads --runtime-mode --task-impl | | there is no runtime beside Python
granian | --backpressure | max_workers | further requests wait, at most --queue-timeout
granian | --http1-buffer-size | max_header_size | for the head of a request
granian | --http1-header-read-timeout | header_timeout | in seconds
granian | --http1-keep-alive | | connections are kept
granian | --no-http1-keep-alive | disable_keep_alive |
granian | --http1-pipeline-flush --no-http1-pipeline-flush | | responses to pipelined requests are sent in order, as they are there
granian | --http2-adaptive-window --no-http2-adaptive-window --http2-initial-connection-window-size --http2-initial-stream-window-size --http2-keep-alive-interval --http2-keep-alive-timeout --http2-max-concurrent-streams --http2-max-frame-size --http2-max-headers-size --http2-max-send-buffer-size | | a proxy in front speaks HTTP/2, and HTTP/1.1 to the server
granian | --log-config | logging_config | JSON or TOML in the form of dictConfig
granian | --access-log-fmt | access_log_format | with gunicorn's atoms, as in '%(h)s "%(r)s" %(s)s'
granian | --ssl-certificate | certfile |
granian | --ssl-keyfile | keyfile |
granian | --ssl-keyfile-password | keyfile_password_env | the name of a variable: every user of the machine can read a command line
granian | --ssl-protocol-min | tls_min_version | 1.2 or 1.3
granian | --ssl-ca | ca_certs |
granian | --ssl-client-verify | cert_reqs | write --cert-reqs required
granian | --no-ssl-client-verify | | it is the default
granian | --ssl-crl | | a proxy in front can check it
granian | --url-path-prefix | url_prefix |
granian | --respawn-failed-workers --no-respawn-failed-workers | | failed workers are always replaced
granian | --respawn-interval | | at once, and after 1, 2, 4 ... 30 s if a worker ends before it is ready
granian | --rss-sample-interval --rss-samples | | --max-worker-memory counts two measurements
granian | --workers-lifetime | max_requests | by number; for a time, send SIGHUP from a timer
granian | --workers-max-rss | max_worker_memory | with a unit, as in 512M
granian | --workers-kill-timeout | graceful_exit_timeout |
granian | --working-dir | chdir |
granian | --env-files | env_file | one file
granian | --static-path-route --static-path-mount --static-path-dir-to-file --static-path-expires | | nginx in front or WhiteNoise serves files
granian | --metrics --no-metrics --metrics-scrape-interval --metrics-address --metrics-port | | --health-listen serves /metrics for Prometheus
granian | --reload-paths --reload-ignore-dirs --reload-ignore-patterns --reload-ignore-paths --reload-tick | | --watchfiles has patterns of what counts
granian | --reload-ignore-worker-failure --no-reload-ignore-worker-failure | | each request shows why the code does not load, until the next change
granian | --process-name | | process titles show the application, if setproctitle is installed
waitress | --threads | max_workers |
waitress | --unix-socket | listen | as unix:PATH
waitress | --ipv4 --no-ipv4 --ipv6 --no-ipv6 | listen | the address decides; --dualstack-ipv6 takes both
waitress | --ident | | the application's Server field replaces that of the server
waitress | --connection-limit | max_connections | idle connections cost no thread, so the default has no limit
waitress | --channel-timeout | keep_alive_timeout | --header-timeout and --socket-timeout are for what has begun
waitress | --cleanup-interval | | each connection has its own deadline
waitress | --max-request-header-size | max_header_size |
waitress | --max-request-body-size | max_body_size | 0 is no limit
waitress | --inbuf-overflow | max_bodies_memory | for all bodies together
waitress | --outbuf-overflow --outbuf-high-watermark | max_unsent_memory | for all responses together
waitress | --recv-bytes --send-bytes | | these sizes are fixed
waitress | --channel-request-lookahead | | environ["zibai.client_disconnected"] is always there
waitress | --log-socket-errors --no-log-socket-errors | log_level | --log-level debug logs them
waitress | --expose-tracebacks --no-expose-tracebacks | | the log has tracebacks, and a client never gets one
waitress | --asyncore-loop-timeout --asyncore-use-poll --no-asyncore-use-poll | | epoll, or the best method of the system
waitress | --trusted-proxy | trusted_proxies |
waitress | --trusted-proxy-headers | forwarded_fields | fields, as in for,proto
waitress | --trusted-proxy-count | trusted_proxies | name the proxies instead of their number
waitress | --clear-untrusted-proxy-headers --no-clear-untrusted-proxy-headers | | such fields stay in the environ and change nothing
waitress | --log-untrusted-proxy-headers --no-log-untrusted-proxy-headers | | the log says once that a peer is not trusted
"""

SERVERS: Final = ("gunicorn", "uvicorn", "granian", "waitress")


class Foreign(NamedTuple):
    """The counterpart of a flag of another server: an option, or nothing; ``note`` says what differs, or why."""

    server: str
    flags: tuple[str, ...]
    option: str
    note: str


@cache
def table() -> tuple[Foreign, ...]:
    """The flags of all other servers."""
    rows = ([part.strip() for part in line.split("|")] for line in _TABLE.strip().splitlines())
    return tuple(Foreign(server, tuple(flags.split()), option, note) for server, flags, option, note in rows)


def translation(flag: str) -> str:
    """One line that explains ``flag``, a flag of another server; empty if none of the known servers has it."""
    found = _find(flag)
    if not found:
        return ""
    servers = " and ".join(dict.fromkeys(row.server for row in found))
    row = found[0]
    if not row.option:
        return f"{flag} is a flag of {servers} without a counterpart here: {row.note}"
    ours = "--" + row.option.replace("_", "-")
    return f"{flag} is a flag of {servers}; here it is {ours}" + (f": {row.note}" if row.note else "")


def key_translation(key: str) -> str:
    """The same for a key of a file, with the key to write instead; empty if it is unknown."""
    row = next(iter(_find("--" + key)), None)
    if row is None:
        return ""
    if not row.option:
        return f"{key} is a setting of {row.server} without a counterpart here: {row.note}"
    return f"write {row.option}" + (f": {row.note}" if row.note else "")


def _find(flag: str) -> list[Foreign]:
    """The rows with ``flag``, which may be spelled like a setting: ``--limit_request_line``."""
    return [row for row in table() if _spell(flag) in map(_spell, row.flags)]


def _spell(flag: str) -> str:
    return flag[:2] + flag[2:].replace("_", "-")
