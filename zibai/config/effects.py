"""Options that have no effect because of other options. They are no error: a file may have them for another profile.

But a server that ignores an option says so. Each message says why, and what to type.
"""

from collections.abc import Callable, Iterable, Iterator
from typing import Final, NamedTuple

from .addresses import Trust, parse_address
from .options import WEBSOCKET, Options, declared, watched


class _Case(NamedTuple):
    """The options ``names`` have no effect where ``applies``, which gets the options; ``text`` says why."""

    names: tuple[str, ...]
    applies: Callable[[Options], bool]
    text: str


def remarks(options: Options, *, is_single: bool = False) -> Iterator[str]:
    """A message for each given option that has no effect, or the wrong one; ``is_single``: the server has no parent."""
    yield from _tell(options, [*_CASES, *(_OF_SINGLE if is_single else ())])
    yield from _too_little(options)


def remarks_on(options: Options, interface: str) -> Iterator[str]:
    """The same, of options that have no effect for an application of this ``interface``."""
    yield from _tell(options, _OF_INTERFACE[interface])


def _tell(options: Options, cases: Iterable[_Case]) -> Iterator[str]:
    given = {each.name: each.flag for each in declared() if getattr(options, each.name) not in (each.make_default(), 0)}
    for names, applies, text in cases:
        for name in names:
            if name in given and applies(options):
                yield f"{given.pop(name)} has no effect: {text}"


def _too_little(options: Options) -> Iterator[str]:
    """Limits of a worker that every worker is over from its start: most likely a unit is missing."""
    memory, descriptors = options.max_worker_memory, options.max_worker_descriptors
    if memory is not None and memory < LEAST_MEMORY:
        text = f"--max-worker-memory {memory}: every worker has more bytes, and will be replaced again and again; "
        yield text + (f"did you mean {memory}M?" if memory >= 2**3 else "write it as in 512M")
    if descriptors is not None and descriptors < LEAST_DESCRIPTORS:
        text = f"--max-worker-descriptors {descriptors}: every worker has more, and will be replaced again and again; "
        yield text + "write some hundred at least"


LEAST_MEMORY: Final = 4 * 2**20
"""Bytes that a Python process has at least."""

LEAST_DESCRIPTORS: Final = 10
"""Descriptors of a worker without a client: standard streams, pipes, scoreboard, listener, poller."""


def _has_no_unix_socket(options: Options) -> bool:
    return not any(isinstance(parse_address(address), str) for address in _addresses(options))


def _has_no_wildcard(options: Options) -> bool:
    found = [parse_address(address) for address in _addresses(options)]
    return not any(isinstance(each, tuple) and each[0] in ("", "::") for each in found)


def _addresses(options: Options) -> list[str]:
    found = [*(options.listen or []), options.health_listen, options.redirect_http]
    return [address for address in found if address is not None]


def _is_unlogged(options: Options) -> bool:
    """Whether there is no access log. The format json is for the rest of the log as well."""
    is_quiet = options.log_level in ("warning", "error", "critical") and options.access_log is None
    return options.access_log_format != "json" and (options.no_access_log or is_quiet)


_WS: Final = tuple(option.name for option in declared() if option.group == WEBSOCKET and option.name != "ws")

_CASES: Final = (
    _Case(
        ("unix_socket_perms", "unix_socket_group"),
        _has_no_unix_socket,
        "no address is a unix socket that the server makes; add --listen unix:PATH",
    ),
    _Case(("dualstack_ipv6",), _has_no_wildcard, "it is for the addresses :PORT and [::]:PORT; add --listen :PORT"),
    _Case(("log_backups",), lambda options: not options.log_max_bytes, "add --log-max-bytes, such as 100M"),
    _Case(("statsd_prefix",), lambda options: options.statsd is None, "add --statsd HOST:PORT"),
    _Case(("access_log_format",), _is_unlogged, "no access log is written; add --access-log PATH, or -"),
    _Case(
        ("forwarded_fields",),
        lambda options: not Trust(options.trusted_proxies),
        "no proxy is trusted; name them with --trusted-proxies",
    ),
    _Case(
        ("ciphers",),
        lambda options: options.tls_min_version == "1.3",
        "it is about TLS 1.2, which --tls-min-version 1.3 excludes",
    ),
    _Case(
        ("keep_alive_timeout", "max_keep_alive_requests"),
        lambda options: options.disable_keep_alive,
        "--disable-keep-alive closes each connection after one request; leave one of them out",
    ),
    _Case(
        ("max_target_size",),
        lambda options: options.max_target_size > options.max_header_size,
        "a target is part of the head, which --max-header-size limits to less; raise that, too",
    ),
    _Case(_WS, lambda options: options.ws == "off", "--ws off gives the application no WebSockets; leave it out"),
    _Case(("ws_ping_timeout",), lambda options: not options.ws_ping_interval, "--ws-ping-interval 0 sends no ping"),
    _Case(
        ("worker_timeout",),
        lambda options: bool(watched(options)),
        "a debugger may stop a worker for any time, so --reload and --watchfiles take the limit away",
    ),
)

_OF_INTERFACE: Final = {
    "wsgi": (
        _Case(("lifespan",), lambda options: options.lifespan == "on", "the application is WSGI, which has none"),
        _Case(("loop",), lambda options: True, "the application is WSGI, which has no event loop"),
        _Case(("ws",), lambda options: options.ws == "on", "the application is WSGI, which has no WebSockets"),
        _Case(_WS, lambda options: True, "the application is WSGI, which has no WebSockets"),
    ),
    "asgi": (
        _Case(
            ("stream_request_body",),
            lambda options: True,
            "an ASGI application is always called before the body is there; leave it out",
        ),
    ),
}

_OF_SINGLE: Final = (
    _Case(
        ("worker_timeout", "boot_timeout"),
        lambda options: True,
        "a single process has no parent that could replace it; add --processes 1",
    ),
)
