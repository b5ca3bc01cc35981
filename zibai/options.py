"""Every option of Zibai, declared once.

A field of :class:`Options` is an option. Its name is the long flag, its annotation is the type of the value, and
:func:`option` adds what a type cannot say: the default, the help, the limits. The command line, ``docs/options.md``
and :meth:`Options.validate` all read :func:`declared`, so a new option is one new field and nothing else.

The values are plain (text, numbers, booleans, lists of text), because they travel to spawned workers as a pickle;
a hook is named by a string and imported where it runs. Making an ``Options`` reads nothing and checks nothing:
``validate`` does, once for the command line and once for a program that made its options by hand.
"""

import math
import os
import re
from collections.abc import Callable, Mapping
from dataclasses import KW_ONLY, MISSING, dataclass, field, fields, replace
from functools import cache
from types import NoneType
from typing import Any, get_args, get_origin, get_type_hints

from .errors import UsageError
from .machine import available_cpus

# The groups of the help and of docs/options.md, in the order of the fields.
APPLICATION = "Application"
LISTENING = "Listening"
WORKERS = "Workers"
LIMITS = "Timeouts and limits"
HOOKS = "Hooks"
LOGGING = "Logging"

# epoll counts milliseconds in a C int, which ends after 24 days.
LONGEST_WAIT = 1_000_000.0

# What a value has to be, in words for those who set it in code.
KINDS = {bool: "True or False", int: "a whole number", float: "a number", str: "text", list: "a list of text"}


@dataclass(frozen=True, kw_only=True)
class Option:
    """One declaration. ``check`` raises UsageError for a bad value, and is given each item of a list.

    ``words`` are what one may write instead of a value on the command line, and what each stands for.
    ``environment`` is a variable that the command line looks into when the flag is left out.
    """

    help: str
    group: str
    name: str = ""
    kind: type = str
    nullable: bool = False
    default: Any = MISSING
    short: str | None = None
    metavar: str | None = None
    choices: tuple[str, ...] | None = None
    minimum: float | None = None
    above: float | None = None
    maximum: float | None = None
    octal: bool = False
    words: Mapping[str, Callable[[], Any]] = field(default_factory=dict)
    environment: str | None = None
    check: Callable[[str], object] | None = None

    @property
    def positional(self) -> bool:
        """What has no default cannot be left out, and needs no flag."""
        return self.default is MISSING

    @property
    def flag(self) -> str:
        """How people call it: the long flag, or the name of a positional argument."""
        return self.name if self.positional else "--" + self.name.replace("_", "-")

    def parse(self, text: str) -> Any:
        """The value that ``text`` on the command line stands for (one item of a list); ValueError if none."""
        if text in self.words:
            return self.words[text]()
        if self.octal:
            return int(text, 8)
        return text if self.kind is list else self.kind(text)

    def show(self, value: Any) -> str:
        """``value`` as one would write it on the command line."""
        if self.octal:
            return f"{value:o}"
        if self.kind is float:
            return f"{value:g}"
        return " ".join(value) if self.kind is list else str(value)

    def validate(self, value: Any) -> None:
        """Raise UsageError, in one line that starts with the flag, unless ``value`` may be used."""
        if value is None and self.nullable:
            return
        if not self._is_plain(value):
            raise UsageError(f"{self.flag} must be {KINDS[self.kind]}, not {value!r}")
        if self.kind is list and not value:
            raise UsageError(f"{self.flag} needs at least one value")
        if self.choices is not None and value not in self.choices:
            raise UsageError(f"{self.flag} must be one of {', '.join(self.choices)}, not {value!r}")
        # Said the positive way round: NaN is neither above nor below anything.
        if self.minimum is not None and not value >= self.minimum:
            raise UsageError(f"{self.flag} must be at least {self.show(self.minimum)}, not {value}")
        if self.above is not None and not value > self.above:
            raise UsageError(f"{self.flag} must be more than {self.show(self.above)}, not {value}")
        if self.maximum is not None and not value <= self.maximum:
            raise UsageError(f"{self.flag} must be at most {self.show(self.maximum)}, not {self.show(value)}")
        if self.check is not None:
            for item in value if self.kind is list else [value]:
                try:
                    self.check(item)
                except UsageError as error:
                    raise UsageError(f"{self.flag}: {error}") from None

    def _is_plain(self, value: Any) -> bool:
        if self.kind is list:
            return type(value) is list and all(isinstance(item, str) for item in value)
        if self.kind is float:
            return type(value) in (int, float) and not math.isnan(value)
        return type(value) is self.kind  # exactly: True is an int to isinstance, and no number of workers


def option(default: Any = MISSING, **declaration: Any) -> Any:
    """A field of :class:`Options`; the keywords are those of :class:`Option`."""
    declared = Option(default=default, **declaration)
    if isinstance(default, list):
        return field(default_factory=default.copy, metadata={"option": declared})
    return field(default=default, metadata={"option": declared})


def seconds(default: float, **declaration: Any) -> Any:
    return option(default, above=0, maximum=LONGEST_WAIT, metavar="SECONDS", **declaration)


def patience(default: float, **declaration: Any) -> Any:
    """Seconds, of which 0 are for ever."""
    return option(default, minimum=0, maximum=LONGEST_WAIT, metavar="SECONDS", **declaration)


def parse_address(value: str) -> tuple[str, int] | str:
    """What to listen on: host and port (an empty host is every interface), or the path of a unix socket."""
    if "\0" not in value:
        if value.startswith("unix:") and value != "unix:":
            return value.removeprefix("unix:")
        match = re.fullmatch(r"(?:\[([^\[\]]+)\]|([^:\[\]]*)):([0-9]{1,5})", value)
        if match and int(match[3]) <= 65535:
            return match[1] or match[2], int(match[3])
    raise UsageError(f"{value!r} is no address; write HOST:PORT, [IPV6]:PORT, :PORT or unix:PATH")


def check_prefix(value: str) -> None:
    """A prefix is what PATH_INFO, which has its own slash, is cut from."""
    if value.endswith("/") or (value and not value.startswith("/")):
        raise UsageError(f"{value!r} must start with a slash and not end with one, or be empty")


@dataclass
class Options:
    """How to serve ``app``; every field is described in ``docs/options.md``."""

    app: str = option(
        group=APPLICATION,
        metavar="module:attribute",
        help="the WSGI application; the attribute may be nested, as in package.module:object.app",
    )
    _: KW_ONLY
    call: bool = option(
        False, group=APPLICATION, help="the attribute is a factory: call it, without arguments, to get the application"
    )
    url_scheme: str = option(
        "http",
        group=APPLICATION,
        choices=("http", "https"),
        help="wsgi.url_scheme, the scheme that the client used to reach the site",
    )
    url_prefix: str | None = option(
        None,
        group=APPLICATION,
        metavar="PREFIX",
        check=check_prefix,
        help="SCRIPT_NAME, the path under which the application is mounted, as /shop; "
        "without it, the environment variable SCRIPT_NAME counts",
    )

    listen: list[str] = option(  # noqa: RUF009 - a field with a factory, not a shared list
        ["127.0.0.1:8000"],
        group=LISTENING,
        short="-l",
        metavar="ADDRESS",
        check=parse_address,
        help="where to listen: HOST:PORT, [IPV6]:PORT, :PORT (every interface) or unix:PATH, one or more; "
        "port 0 takes a free one and the log says which",
    )
    backlog: int = option(
        2048,
        group=LISTENING,
        minimum=1,
        maximum=2**31 - 1,  # a C int
        help="connections that may wait to be accepted, as far as the system allows it",
    )
    dualstack_ipv6: bool = option(
        False, group=LISTENING, help="let :PORT and [::]:PORT take IPv4 clients as well as IPv6 ones"
    )
    unix_socket_perms: int = option(
        0o600,
        group=LISTENING,
        metavar="MODE",
        octal=True,
        minimum=0,
        maximum=0o777,
        help="permissions of unix sockets, in octal",
    )

    subprocess: int = option(
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
    max_workers: int = option(
        10,
        group=WORKERS,
        short="-w",
        metavar="NUMBER",
        minimum=1,
        help="threads or greenlets in each worker, that is, requests that it runs at the same time; "
        "a connection that waits takes none",
    )
    no_gevent: bool = option(False, group=WORKERS, help="use threads even where gevent is installed")
    preload: bool = option(
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
    )

    control: str | None = option(
        None,
        group=WORKERS,
        metavar="PATH",
        help="the file in which the server says what it does, for zibai ps; without it, zibai-PID.board in the "
        "runtime or temporary directory",
    )

    boot_timeout: float = seconds(
        60.0, group=LIMITS, help="time from the start of a worker until it serves; then it is given up"
    )
    worker_timeout: float = patience(
        30.0,
        group=LIMITS,
        help="time without a sign of life from the server loop of a worker, until it is killed and replaced; twice "
        "that for one that uses the processor; 0 is for ever",
    )
    slow_request: float = patience(
        30.0,
        group=LIMITS,
        help="how long a request may run before it is logged, once, with the stack of its thread or greenlet; "
        "0 is for ever",
    )
    request_timeout: float = patience(
        0.0,
        group=LIMITS,
        help="how long a request may run before all stacks are logged and its worker is replaced by another one; its "
        "other requests have --graceful-exit-timeout to finish; 0 is for ever",
    )
    graceful_exit_timeout: float = seconds(
        10.0, group=LIMITS, help="what a graceful exit leaves requests to finish; then the rest is closed"
    )
    keep_alive_timeout: float = seconds(
        75.0,
        group=LIMITS,
        help="how long an idle connection is kept; longer than the load balancer in front keeps it, please, "
        "or it meets closing connections",
    )
    header_timeout: float = seconds(
        10.0, group=LIMITS, help="time to receive the whole head of a request, from its first byte"
    )
    socket_timeout: float = seconds(
        30.0, group=LIMITS, help="time without any progress after which reading or writing a body gives up"
    )
    h11_max_incomplete_event_size: int = option(
        64 * 1024, group=LIMITS, metavar="BYTES", minimum=1, help="largest head of a request"
    )
    http: str = option(
        "auto",
        group=LIMITS,
        choices=("auto", "h11"),
        help="how requests are read: auto recognises the plain ones by itself, which is fast, and leaves the rest to "
        "h11; h11 leaves it all of them, for whoever doubts that it makes no other difference",
    )
    max_body_size: int = option(
        1024**3, group=LIMITS, metavar="BYTES", minimum=0, help="largest body of a request; 0 is no limit"
    )
    stream_request_body: bool = option(
        False,
        group=LIMITS,
        help="call the application before the body is there, and receive it as the application reads; "
        "a slow client then holds a thread or greenlet",
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

    no_access_log: bool = option(False, group=LOGGING, help="no line for each request that went well")
    logging_config_filepath: str | None = option(
        None,
        group=LOGGING,
        metavar="FILE",
        help="a .json or .toml file in the form of logging.config.dictConfig, merged over the default configuration",
    )

    def validate(self) -> None:
        """Raise UsageError, in one line that names the flag, for the first value that makes no sense."""
        for each in declared():
            each.validate(getattr(self, each.name))
        if self.preload and not hasattr(os, "fork"):
            raise UsageError("--preload needs fork, which this system has not got; leave it out")


@cache
def declared() -> tuple[Option, ...]:
    """All options, in the order of the fields."""
    hints = get_type_hints(Options)
    return tuple(_complete(item.metadata["option"], item.name, hints[item.name]) for item in fields(Options))


def _complete(declaration: Option, name: str, hint: Any) -> Option:
    """Add what the field itself says: its name and, from ``int``, ``list[str]`` or ``str | None``, its kind."""
    alternatives = get_args(hint) if NoneType in get_args(hint) else (hint,)
    kind = next(each for each in alternatives if each is not NoneType)
    return replace(declaration, name=name, kind=get_origin(kind) or kind, nullable=len(alternatives) > 1)


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
