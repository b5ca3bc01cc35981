"""wrk: the request as a Lua script, and the figures from what it prints.

Where all requests of a workload are the same, the script sets the request, wrk builds it once, and no Lua runs while
it measures. For the others Lua makes each request (:mod:`benchmarks.varied`), which costs wrk about 5 µs. One thread of
wrk does more than one of any server. What wrk counts as errors is kept: a server that is fast because it closes
connections is not fast.
"""

import re
import shutil
import signal
import subprocess
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

from .process import client_cpus, on
from .varied import SCRIPTS, quote
from .workloads import Workload

WARM_UP = 0.3  # seconds

UNITS = {"us": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}
SOCKET_ERRORS = ("failed to connect", "failed to read", "failed to write", "timed out")


@dataclass
class Load:
    """What wrk has measured; latencies in seconds."""

    rate: float = 0.0
    requests: int = 0
    p50: float = 0.0
    p99: float = 0.0
    errors: list[str] = field(default_factory=list)


def version() -> str:
    """Of the wrk that is installed; empty without one."""
    if not (wrk := shutil.which("wrk")):
        return ""
    # It has no option for that which succeeds.
    said = subprocess.run([wrk, "-v"], capture_output=True, text=True, check=False).stdout
    return said.split()[1] if len(said.split()) > 1 else "unknown"


def script(workload: Workload) -> str:
    """The request, or what makes each of them, in Lua."""
    if workload.varies:
        return SCRIPTS[workload.varies](workload.headers)
    lines = [
        f'wrk.method = "{workload.method}"',
        f"wrk.body = {quote(workload.body.decode())}" if workload.body else "",
    ]
    lines += [f"wrk.headers[{quote(name)}] = {quote(value)}" for name, value in workload.headers.items()]
    return "\n".join(filter(None, lines)) + "\n"


def command(workload: Workload, port: int, seconds: int, script_file: str) -> list[str]:
    options = ["-t1", f"-c{workload.connections}", f"-d{seconds}s", "--latency", "-s", script_file]
    return [shutil.which("wrk") or "wrk", *options, f"{'https' if workload.tls else 'http'}://127.0.0.1:{port}/"]


def measure(workload: Workload, port: int, seconds: int, *, pinned: bool = True) -> Load:
    """Load for so many seconds."""
    with tempfile.TemporaryDirectory() as folder, on(client_cpus(pinned)):
        (file := Path(folder, "request.lua")).write_text(script(workload), encoding="utf-8")
        done = subprocess.run(
            command(workload, port, seconds, str(file)),
            capture_output=True,
            text=True,
            timeout=seconds + 60,
            check=False,
        )
    return parse(done.stdout + done.stderr)


def warm_up(workload: Workload, port: int, *, pinned: bool = True) -> None:
    """The same, shorter than wrk can, and nothing is kept of it."""
    with tempfile.TemporaryDirectory() as folder, on(client_cpus(pinned)):
        (file := Path(folder, "request.lua")).write_text(script(workload), encoding="utf-8")
        with subprocess.Popen(
            command(workload, port, 1, str(file)), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        ) as wrk:
            time.sleep(WARM_UP)
            wrk.send_signal(signal.SIGINT)


def parse(text: str) -> Load:
    """The figures in what wrk prints, and every error that it counts."""
    rate = re.search(r"^Requests/sec:\s+([\d.]+)$", text, re.MULTILINE)
    if rate is None:
        return Load(errors=["wrk: " + (" ".join(text.split())[:200] or "said nothing")])
    load = Load(float(rate[1]), p50=_percentile(text, 50), p99=_percentile(text, 99))
    if found := re.search(r"^\s*(\d+) requests in ", text, re.MULTILINE):
        load.requests = int(found[1])
    if found := re.search(r"Socket errors: connect (\d+), read (\d+), write (\d+), timeout (\d+)", text):
        load.errors += [
            f"{count} {kind}" for kind, count in zip(SOCKET_ERRORS, found.groups(), strict=True) if int(count)
        ]
    if found := re.search(r"Non-2xx or 3xx responses: (\d+)", text):
        load.errors.append(f"{found[1]} answers were errors")
    if not load.requests:
        load.errors.append("no request was answered")
    return load


def _percentile(text: str, percent: int) -> float:
    found = re.search(rf"^\s+{percent}%\s+([\d.]+)(us|ms|s|m|h)$", text, re.MULTILINE)
    return float(found[1]) * UNITS[found[2]] if found else 0.0
