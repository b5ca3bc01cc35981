"""The checks of ``zibai check``: each is a generator of findings, and changes nothing on the machine.

``error``: the server would not start. ``warning``: it starts, but something is dangerous or will fail under load.
``note``: something to know. ``ok``: the check found nothing.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Final, Literal, NamedTuple

from ..config.addresses import Inherited, Trust, parse_address
from ..config.effects import remarks, remarks_on
from ..config.options import LISTEN, Options, usual_loops, watched
from ..errors import LoadError, ZibaiError
from ..net.bind import create_bind_socket, is_public, listen
from ..net.unix_socket import unlink_unix_socket
from ..server import environment as around
from ..server.start import needs_parent
from ..supervise.record import KILL_AFTER
from ..system import machine, pidfile, privileges
from ..system.patching import has_gil
from . import probe

Level = Literal["ok", "note", "warning", "error"]

BALANCER: Final = 60.0
"""Seconds for which nginx and the balancers of AWS keep an idle connection by default."""

GOOGLE: Final = 600.0
"""The same of Google Cloud's balancer, where it cannot be changed."""

KUBERNETES: Final = 30.0
"""Seconds that Kubernetes gives by default between SIGTERM and SIGKILL; ``docker stop`` has 10."""

SOMAXCONN: Final = Path("/proc/sys/net/core/somaxconn")

EXPIRES_SOON: Final = 14 * 86400.0


class Finding(NamedTuple):
    """One line of the report; ``code`` is the exit code that an error leads to."""

    level: Level
    subject: str
    text: str
    trace: str = ""
    code: int = 1


def findings(options: Options) -> Iterator[Finding]:
    """All checks, in the order in which a start would fail. The caller has changed to the directory of ``--chdir``."""
    for check in (_files, _user, _extras, _certificate, _addresses, _application):
        try:
            yield from check(options)
        except ZibaiError as error:
            yield Finding("error", check.__name__[1:], str(error), code=error.exit_code)
    for text in remarks(options, is_single=not (options.processes or needs_parent(options))):
        yield Finding("warning", "options", text)
    for advice in (_exposure, _descriptors, _backlog, _workers, _keep_alive, _graceful, _process):
        yield from advice(options)


def _files(options: Options) -> Iterator[Finding]:
    around.check_files(options)
    if options.pid_file is not None:
        pidfile.check(options.pid_file, os.getppid())
    made = {"--pid-file": options.pid_file, "--log-file": options.log_file, "--control": options.control}
    made["--access-log"] = None if options.access_log == "-" else options.access_log
    for flag, path in made.items():
        folder = "" if path is None else os.path.dirname(os.path.abspath(path))
        is_there = path is not None and os.path.exists(path)
        is_opened = is_there and flag in (
            "--log-file",
            "--access-log",
        )  # as it is, such as /dev/stdout; the others are made anew
        if folder and not is_opened and not os.access(folder, os.W_OK | os.X_OK):
            yield Finding("error", "files", f"{flag}: no file can be made in {folder!r}")
        elif path is not None and is_there and (os.path.isdir(path) or not os.access(path, os.W_OK)):
            yield Finding("error", "files", f"{flag}: {path!r} cannot be written", code=2)
    try:
        yield Finding("ok", "files", f"large bodies go to {tempfile.gettempdir()}")
    except FileNotFoundError:
        yield Finding(
            "warning", "files", "no temporary directory can be written, so large bodies get a 507; set TMPDIR"
        )


def _user(options: Options) -> Iterator[Finding]:
    if privileges.find(options.user, options.group) is not None:
        yield Finding("ok", "user", f"the server becomes {options.user or options.group}")
    elif sys.platform != "win32" and os.geteuid() == 0:
        yield Finding("warning", "user", "the application would run as root; add --user, or start as another user")


def _extras(options: Options) -> Iterator[Finding]:
    if watched(options):
        from ..server.reloader import Reloader

        Reloader("", lambda changed: None)  # it imports watchfiles, and watches nothing until it is entered
        yield Finding("ok", "extras", "files can be watched")
    if options.tls_dev:
        from ..tls.devcert import certified

        with certified(options):
            yield Finding("ok", "extras", "a certificate for localhost can be made")


def _certificate(options: Options) -> Iterator[Finding]:
    if not options.certfile:
        return
    from ..tls.certificates import make_context

    make_context(options)
    left = _seconds_left(options.certfile)
    if left is None or left > EXPIRES_SOON:
        yield Finding("ok", "certificate", f"{options.certfile} and its key fit together")
    elif left > 0:
        yield Finding("warning", "certificate", f"{options.certfile} expires in {left / 86400:.1f} days")
    else:
        yield Finding("error", "certificate", f"{options.certfile} has expired {-left / 86400:.1f} days ago")


def _seconds_left(path: str) -> float | None:
    """Until the certificate expires; None if this Python cannot tell."""
    import ssl

    try:
        fields = ssl._ssl._test_decode_cert(path)  # type: ignore[attr-defined]
        return ssl.cert_time_to_seconds(fields["notAfter"]) - time.time()
    except (AttributeError, KeyError, OSError, ValueError):
        return None


def _addresses(options: Options) -> Iterator[Finding]:
    """Each address is bound as the server binds it, and stays so until all are: two of them may exclude each other."""
    others = [address for address in (options.health_listen, options.redirect_http) if address is not None]
    inherited = set()
    with ExitStack() as stack:
        for address in [*others, *(options.listen or [LISTEN])]:
            if isinstance(parse_address(address), Inherited):
                if address in inherited:
                    yield Finding("error", "address", f"{address} is there twice", code=2)
                else:
                    yield Finding("note", "address", f"{address} is given by the program that starts the server")
                inherited.add(address)
                continue
            try:
                yield from _bound(options, address, stack)
            except ZibaiError as error:
                yield Finding("error", "address", str(error), code=error.exit_code)


def _bound(options: Options, address: str, stack: ExitStack) -> Iterator[Finding]:
    sock = create_bind_socket(
        address,
        unix_socket_perms=options.unix_socket_perms,
        unix_socket_group=options.unix_socket_group,
        dualstack_ipv6=options.dualstack_ipv6,
    )
    stack.callback(sock.close)
    stack.callback(unlink_unix_socket, sock)
    listen(sock, 1)  # SO_REUSEADDR lets two sockets be bound to one port as long as neither listens
    yield Finding("ok", "address", f"{address} is free")
    if is_public(sock):
        yield from _public(options, address)
    if address.startswith("unix:") and options.unix_socket_perms & 0o060 != 0o060:
        text = f"only the user of the server may connect to {address}; for a proxy that is another user, add "
        text += "--unix-socket-perms 660 --unix-socket-group GROUP, or the proxy responds with 502"
        yield Finding("note", "address", text)


def _public(options: Options, address: str) -> Iterator[Finding]:
    if Trust(options.trusted_proxies).whole_internet:
        text = f"--trusted-proxies {' '.join(options.trusted_proxies)} trusts every peer, and {address} is public: "
        yield Finding("warning", "trust", text + "each client can claim another address; name your proxies")
    if watched(options) or options.tls_dev:
        text = f"{address} is public, and --reload and --tls-dev are for development: clients see tracebacks"
        yield Finding("warning", "address", text)
    if options.health_public and address == options.health_listen:
        text = f"{address} is public, and --health-public shows its live page, with paths of requests, to everybody"
        yield Finding("warning", "address", text)


def _application(options: Options) -> Iterator[Finding]:
    try:
        code, out, said = probe.run(options)
    except subprocess.TimeoutExpired:
        text = f"{options.app!r} is not imported in {options.boot_timeout:g} s (--boot-timeout)"
        yield Finding("error", "application", text, code=LoadError.exit_code)
        return
    try:
        report = json.loads(out)
    except ValueError:
        trace = said.decode("utf-8", "backslashreplace")
        text = f"the process that imports {options.app!r} has ended with code {code}"
        yield Finding("error", "application", text, trace, LoadError.exit_code)
        return
    if report["error"] is not None:
        yield Finding("error", "application", report["error"], report["trace"], report["code"])
    else:
        backend = report["backend"]
        text = f"{options.app!r} is imported in {report['seconds']:.1f} s; requests run "
        text += "as tasks" if backend == "tasks" else f"in {backend}"
        # Hooks and lifespan act for a server (open connections, start jobs), so they are not called here.
        untried = ["its lifespan"] if backend == "tasks" and options.lifespan != "off" else []
        untried += ["--before-serve"] if options.before_serve else []
        text += f"; not tried: {' and '.join(untried)}" if untried else ""
        yield Finding("ok", "application", text)
        for text in remarks_on(options, "asgi" if backend == "tasks" else "wsgi"):
            yield Finding("warning", "options", text)


def _exposure(options: Options) -> Iterator[Finding]:
    if options.max_body_size == 0:
        yield Finding("warning", "limits", "--max-body-size 0: a client may send a body that fills the disk")
    if options.queue_timeout == 0:
        yield Finding("warning", "limits", "--queue-timeout 0: under overload, requests of clients that left are run")


def _descriptors(options: Options) -> Iterator[Finding]:
    machine.raise_descriptor_limit()
    limit = machine.descriptors_for_clients()
    if limit < options.max_connections:
        text = f"--max-connections {options.max_connections}, and the system allows {limit:g} (ulimit -n, LimitNOFILE=)"
        yield Finding("warning", "descriptors", text)
    elif limit < 2000:
        text = f"each worker may hold {limit:g} connections; raise the limit (ulimit -n, LimitNOFILE=)"
        yield Finding("warning", "descriptors", text)
    else:
        yield Finding("ok", "descriptors", f"each worker may hold {limit:g} connections")


def _backlog(options: Options) -> Iterator[Finding]:
    try:
        allowed = int(SOMAXCONN.read_text(encoding="ascii"))
    except (OSError, ValueError):
        return
    if allowed < options.backlog:
        text = f"--backlog {options.backlog}, and the system allows {allowed}: a burst of more connections meets "
        yield Finding("warning", "backlog", text + f"refusals; sysctl -w net.core.somaxconn={options.backlog}")
    else:
        yield Finding("ok", "backlog", f"{options.backlog} connections may wait to be accepted")


def _workers(options: Options) -> Iterator[Finding]:
    cpus, processes = machine.available_cpus(), max(options.processes, 1)
    usable = f"{cpus} processor{'s' * (cpus != 1)} that the server may use"
    if processes > 2 * cpus + 1:
        text = f"{processes} worker processes for {usable}: each one costs memory, and waits for the others"
        yield Finding("warning", "workers", text)
    elif processes * (1 if has_gil() else usual_loops(options)) < cpus:
        text = f"{processes} process{'es' * (processes != 1)} for {usable}; --processes auto is one for each"
        yield Finding("note", "workers", text)
    else:
        yield Finding("ok", "workers", f"{processes} process{'es' * (processes != 1)} for {usable}")


def _keep_alive(options: Options) -> Iterator[Finding]:
    level: Level
    timeout = options.keep_alive_timeout
    if options.disable_keep_alive:
        level, text = "note", "--disable-keep-alive: each request of a balancer costs a new connection"
    elif timeout <= BALANCER:
        text = (
            f"--keep-alive-timeout {timeout:g}, and nginx and AWS keep a connection for {BALANCER:g} s: they respond "
        )
        level, text = "warning", text + "with 502 when they use one that is just being closed; set 75 or more"
    elif timeout <= GOOGLE:
        text = f"{timeout:g} s, longer than nginx and AWS ({BALANCER:g} s); behind Google Cloud's balancer, "
        level, text = "note", text + f"which keeps {GOOGLE:g} s, set 620"
    else:
        level, text = "ok", f"{timeout:g} s, longer than the usual balancers"
    yield Finding(level, "keep-alive", text)


def _graceful(options: Options) -> Iterator[Finding]:
    needed = options.drain + options.graceful_exit_timeout + KILL_AFTER
    parts = f"--drain {options.drain:g}, --graceful-exit-timeout {options.graceful_exit_timeout:g}, "
    parts += f"{KILL_AFTER:g} s for what hangs"
    if needed > KUBERNETES:
        text = f"the end may take {needed:g} s ({parts}), and Kubernetes kills after {KUBERNETES:g} s: "
        yield Finding("warning", "end", text + f"set terminationGracePeriodSeconds: {needed + 1:.0f}")
    else:
        yield Finding("ok", "end", f"it takes {needed:g} s at most ({parts}); docker stop waits for 10 s by default")
    if os.environ.get("KUBERNETES_SERVICE_HOST") and not options.drain:
        text = "requests arrive for some seconds after SIGTERM in Kubernetes; --drain 5 serves them"
        yield Finding("warning", "end", text)


def _process(options: Options) -> Iterator[Finding]:
    if options.daemon and options.log_file is None:
        yield Finding("warning", "log", "--daemon without --log-file: the log is lost")
