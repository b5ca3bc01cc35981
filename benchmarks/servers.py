"""The servers, as a table: how each is found and how it is started.

One process each, for WSGI the same number of threads, keep-alive, no access log. Where a default would stand in the
way (a limit of a hundred connections, ``select``, a backlog of five), it is raised: every server is shown at its best,
for ASGI with uvloop and the parser in C. Servers without a command line that can say all of this are started by a line
of Python.
"""

import importlib.metadata
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from .workloads import Workload

ROOT = Path(__file__).resolve().parent.parent

UNWANTED = {"FORCE_COLOR", "SCRIPT_NAME", "WEB_CONCURRENCY", "GUNICORN_CMD_ARGS"}

# Of an elliptic curve, as is usual now; in the directory of the server.
CERTIFICATE, KEY = "certificate.pem", "key.pem"
WITH_TLS = f"--certfile {CERTIFICATE} --keyfile {KEY}"

GUNICORN = "-m gunicorn {app} -b 127.0.0.1:{port} --keep-alive 75 --backlog 2048 --no-control-socket"
ZIBAI_LOGGED = "-m zibai {app} --listen 127.0.0.1:{port} --max-workers {threads} --access-log access.log"
ZIBAI = "-m zibai {app} --listen 127.0.0.1:{port} --max-workers {threads} --no-access-log"
ZIBAI_ASGI = "-m zibai {app} --interface asgi --listen 127.0.0.1:{port} --no-access-log"
CHEROOT = (
    "from cheroot.wsgi import Server; from {module} import {attribute} as app; "
    "server = Server(('127.0.0.1', {port}), app, {threads}, max={threads}, request_queue_size=2048, timeout=75); "
    "server.keep_alive_conn_limit = 20000; server.start()"
)
BJOERN = "import bjoern; from {module} import {attribute} as app; bjoern.run(app, '127.0.0.1', {port})"
FASTWSGI = (
    "import fastwsgi; from {module} import {attribute} as app; "
    "fastwsgi.server.tcp_nodelay = 1; fastwsgi.run(app, '127.0.0.1', {port}, loglevel=2)"
)
FREASTAL = "import freastal; from {module} import {attribute} as app; freastal.serve(app, '127.0.0.1', {port})"


@dataclass(frozen=True)
class Server:
    """One row of the comparison. ``command`` is what follows ``python``; the words in braces are filled in."""

    name: str
    command: str
    module: str = ""  # what has to be importable besides this checkout
    package: str = ""  # whose version is shown
    needs: str = ""  # to build it, where there is no wheel
    native: bool = False  # written in C
    only: tuple[str, ...] = ()  # workloads; all if empty
    keeps_alive: bool = True
    tls: str = ""  # more of the command, for CERTIFICATE and KEY; none where there is no such flag
    interface: str = "wsgi"

    @property
    def key(self) -> str:
        """The name on the command line."""
        return self.name.replace(" ", "-")

    @property
    def idles(self) -> bool:
        """Whether it is measured with idle connections."""
        return self.keeps_alive and (not self.only or "hello" in self.only)

    @property
    def runs_many(self) -> bool:
        """Whether it can be told how many requests run at the same time, or has no limit."""
        return "{threads}" in self.command or "gevent" in self.command

    def runs(self, workload: Workload) -> bool:
        fits = self.interface == workload.interface and bool(self.tls or not workload.tls)
        fits = fits and bool(self.runs_many or not workload.threads)
        return fits and (not self.only or workload.key in self.only)

    def line(self, workload: Workload, port: int, threads: int) -> str:
        """The command line after ``python``."""
        module, _, attribute = workload.app.partition(":")
        threads = workload.threads or threads
        words = {"app": workload.app, "module": module, "attribute": attribute, "workload": workload.key}
        line = self.command.format(port=port, threads=threads, **words)
        return f"{line} {self.tls}" if workload.tls else line


LIMITED = ("varied", "forwarded", "browsers", "hello", "heads", "page", "new", "many")
LIMITED_ASGI = ("asgi-varied", "asgi-orders", "asgi-hello", "asgi-new", "asgi-many")
LOGGED = ("varied",)

SERVERS = (
    Server("bare loop", "-m benchmarks.bareloop {port} {workload}", only=LIMITED),
    Server("zibai threads", f"{ZIBAI} --no-gevent", tls=WITH_TLS),
    Server("zibai gevent", ZIBAI, "gevent", "gevent", tls=WITH_TLS),
    Server("zibai threads logging", f"{ZIBAI_LOGGED} --no-gevent", only=LOGGED),
    Server("zibai gevent logging", ZIBAI_LOGGED, "gevent", "gevent", only=LOGGED),
    Server("gunicorn sync", f"{GUNICORN} -k sync", "gunicorn", "gunicorn", keeps_alive=False, tls=WITH_TLS),
    Server(
        "gunicorn gthread",
        GUNICORN + " -k gthread --threads {threads} --worker-connections 20000",
        "gunicorn.workers.gthread",
        "gunicorn",
        tls=WITH_TLS,
    ),
    Server(
        "gunicorn gevent",
        f"{GUNICORN} -k gevent --worker-connections 20000",
        "gunicorn.workers.ggevent",
        "gunicorn",
        tls=WITH_TLS,
    ),
    Server(
        "waitress",
        "-m waitress --listen 127.0.0.1:{port} --threads {threads} --backlog 2048 --connection-limit 20000 "
        "--asyncore-use-poll {app}",
        "waitress",
        "waitress",
    ),
    Server("cheroot", f'-c "{CHEROOT}"', "cheroot.wsgi", "cheroot"),
    Server(
        "uvicorn",
        "-m uvicorn {app} --interface wsgi --host 127.0.0.1 --port {port} --no-access-log --log-level warning "
        "--timeout-keep-alive 75",
        "uvicorn",
        "uvicorn",
        tls=f"--ssl-certfile {CERTIFICATE} --ssl-keyfile {KEY}",
    ),
    Server(
        "granian",
        "-m granian {app} --interface wsgi --host 127.0.0.1 --port {port} --http 1 --no-ws "
        "--blocking-threads {threads} --backlog 2048 --backpressure 20000 --http1-header-read-timeout 60000",
        "granian",
        "granian",
        needs="a Rust compiler",
        tls=f"--ssl-certificate {CERTIFICATE} --ssl-keyfile {KEY}",
    ),
    Server("bjoern", f'-c "{BJOERN}"', "bjoern", "bjoern", "a C compiler and libev's headers", native=True),
    Server("fastwsgi", f'-c "{FASTWSGI}"', "fastwsgi", "fastwsgi", "a C compiler", native=True),
    Server("freastal", f'-c "{FREASTAL}"', "freastal", "freastal", "a C compiler and libuv's headers", native=True),
    Server("bare loop asgi", "-m benchmarks.bareasgi {port} {app} {workload}", only=LIMITED_ASGI, interface="asgi"),
    Server("zibai tasks", ZIBAI_ASGI, interface="asgi"),
    Server("zibai tasks uvloop", f"{ZIBAI_ASGI} --loop uvloop", "uvloop", "uvloop", interface="asgi"),
    Server(
        "uvicorn asgi",
        "-m uvicorn {app} --interface asgi3 --http httptools --loop uvloop --ws none --host 127.0.0.1 --port {port} "
        "--no-access-log --log-level warning --timeout-keep-alive 75 --backlog 2048",
        "uvicorn",
        "uvicorn",
        interface="asgi",
    ),
    Server(
        "granian asgi",
        "-m granian {app} --interface asgi --loop uvloop --host 127.0.0.1 --port {port} --http 1 --no-ws "
        "--backlog 2048 --backpressure 20000 --http1-header-read-timeout 60000",
        "granian",
        "granian",
        needs="a Rust compiler",
        interface="asgi",
    ),
    Server(
        "hypercorn",
        "-m hypercorn {app} --bind 127.0.0.1:{port} --worker-class uvloop --backlog 2048 --keep-alive 75 "
        "--log-level warning",
        "hypercorn",
        "hypercorn",
        interface="asgi",
    ),
)
BY_NAME = {server.name: server for server in SERVERS}
OURS = ("zibai threads", "zibai gevent")
TASKS = "zibai tasks"
LOGGING = " logging"  # added to the name of the same server with an access log
ALL_OURS = (*OURS, *(f"{name}{LOGGING}" for name in OURS), TASKS, "zibai tasks uvloop")
LIMIT, LIMIT_ASGI = "bare loop", "bare loop asgi"


def environment() -> dict[str, str]:
    """Of every server: this checkout is importable, and nothing changes what the command line says."""
    env = {name: value for name, value in os.environ.items() if name not in UNWANTED}
    return {**env, "PYTHONPATH": os.pathsep.join([str(ROOT), *filter(None, [env.get("PYTHONPATH")])]), "NO_COLOR": "1"}


def missing(server: Server) -> str:
    """Why ``server`` cannot be measured here; empty if it can."""
    if not server.module:
        return ""
    done = _python(f"import {server.module}")
    if done.returncode == 0:
        return ""
    error = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
    if error != f"ModuleNotFoundError: No module named {server.module.partition('.')[0]!r}":
        return f"import {server.module}: {error}"
    if not server.needs:
        return "not installed"
    no_compiler = not any(map(shutil.which, ("cc", "gcc", "clang")))
    return f"not installed; it may need {server.needs}" + (", and there is no compiler here" if no_compiler else "")


def version(server: Server) -> str:
    """As the report shows it; of this server with the commit, where git tells, and a plus if it was changed since."""
    if server.name in ALL_OURS:
        from zibai import __version__ as own

        extra = f", {server.package} {importlib.metadata.version(server.package)}" if server.package else ""
        return own + (f" ({commit})" if (commit := _commit()) else "") + extra
    return importlib.metadata.version(server.package) if server.package else ""


def _commit() -> str:
    if not (git := shutil.which("git")):
        return ""

    def ask(*question: str) -> str:
        return subprocess.run([git, *question], cwd=ROOT, capture_output=True, text=True, check=False).stdout.strip()

    return ask("rev-parse", "--short", "HEAD") + ("+" if ask("status", "--porcelain", "zibai") else "")


def _python(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code], env=environment(), capture_output=True, text=True, timeout=60, check=False
    )
