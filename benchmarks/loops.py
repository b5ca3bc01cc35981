"""``python -m benchmarks.loops``: one application on two processors, by several loops, processes and other servers.

Each request computes for about 2 ms in Python. It is for a Python without a GIL, in which several server loops of one
process run at the same time; with a GIL it shows that they take turns. Server and wrk share the processors, and the
servers take turns in short bursts, so that what else the machine does meets all of them. The memory is the sum over
the processes of what each uses alone and its share of what it has in common with others (PSS, proc(5)).

A server that is not installed for this Python is named, and left out. It costs nothing to have only some of them:
``pip install granian gunicorn``.
"""

import argparse
import sys
import sysconfig
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

from . import load, process
from .process import Broken, Running
from .servers import GUNICORN, Server, missing, version
from .workloads import Workload

WORK = Workload("compute", "2 ms of Python", "benchmarks.apps:compute", connections=16)

ZIBAI = "-m zibai {app} --listen 127.0.0.1:{port} --no-gevent --no-access-log"
GRANIAN = (
    "-m granian {app} --interface wsgi --host 127.0.0.1 --port {port} --http 1 --no-ws --workers 2 "
    "--blocking-threads {threads}"
)

# --max-workers is for the whole process, so two loops get the threads of both.
ROWS = (
    Server("one loop", f"{ZIBAI} --max-workers {{threads}}"),
    Server("--loops 2", f"{ZIBAI} --max-workers {{twice}} --loops 2"),
    Server("-p 2", f"{ZIBAI} --max-workers {{threads}} -p 2"),
    Server("-p 1 --loops 2", f"{ZIBAI} --max-workers {{twice}} -p 1 --loops 2"),
    Server("granian --workers 2", GRANIAN, "granian", "granian"),
    Server(
        "gunicorn gthread -w 2",
        f"{GUNICORN} -k gthread -w 2 --threads {{threads}}",
        "gunicorn.workers.gthread",
        "gunicorn",
    ),
    Server(
        "gunicorn gthread -w 1",
        f"{GUNICORN} -k gthread -w 1 --threads {{twice}}",
        "gunicorn.workers.gthread",
        "gunicorn",
    ),
)


@dataclass
class Found:
    """What the bursts of one server have shown: requests a second, and bytes of memory after each."""

    rates: list[float] = field(default_factory=list)
    memory: list[int] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)


def pss(pids: list[int]) -> int:
    """Bytes of all these processes; a page that several of them have counts once."""
    total = 0
    for pid in pids:
        try:
            text = Path(f"/proc/{pid}/smaps_rollup").read_text(encoding="ascii")
        except (FileNotFoundError, ProcessLookupError):  # it has just ended
            continue
        total += sum(int(line.split()[1]) for line in text.splitlines() if line.startswith("Pss:"))
    return total * 1024


def measure(server: Server, threads: int, seconds: int, found: Found) -> None:
    """One burst."""
    row = Server(server.name, server.command.replace("{twice}", str(2 * threads)))
    try:
        with Running(row, WORK, threads, pinned=False) as running:
            load.warm_up(WORK, running.port, pinned=False)
            burst = load.measure(WORK, running.port, seconds, pinned=False)
            found.memory.append(pss(process.tree(running.pid)))
            running.check_alive()
    except (Broken, OSError) as error:
        found.errors.append(str(error))
        return
    found.rates.append(burst.rate)
    found.errors += burst.errors


def table(rows: dict[str, Found]) -> str:
    """For docs/tuning.md."""
    lines = ["| | requests/s (median) | range | ratio | memory (PSS) |", "| --- | ---: | ---: | ---: | ---: |"]
    base = median(rows[ROWS[0].name].rates or [0.0])
    for name, found in rows.items():
        if not found.rates:
            lines.append(f"| {name} | {'; '.join(dict.fromkeys(found.errors))} | | | |")
            continue
        rate, least, most = median(found.rates), min(found.rates), max(found.rates)
        ratio = f"{rate / base:.2f}" if base else ""
        memory = f"{median(found.memory) / 2**20:.0f} MiB"
        lines.append(f"| {name} | {rate:,.0f} | {least:,.0f} to {most:,.0f} | {ratio} | {memory} |")
    return "\n".join(lines)


def main() -> int | str:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.loops", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=10, metavar="N", help="bursts of each server (10)")
    parser.add_argument("--seconds", type=int, default=2, metavar="N", help="of each burst (2)")
    parser.add_argument("--threads", type=int, default=4, metavar="N", help="of each loop or process (4)")
    args = parser.parse_args()
    if sys.platform != "linux":
        return "the benchmark needs Linux"
    gil = "without" if sysconfig.get_config_var("Py_GIL_DISABLED") else "with"
    print(f"Python {sys.version.split()[0]} {gil} a GIL, {len(process.processors())} processors", flush=True)
    servers = []
    for server in ROWS:
        if why := missing(server):
            print(f"not measured: {server.name}: {why}", flush=True)
            continue
        servers.append(server)
        if server.package:
            print(f"{server.name}: {version(server)}", flush=True)
    rows = {server.name: Found() for server in servers}
    for number in range(args.rounds):
        for server in servers[number % len(servers) :] + servers[: number % len(servers)]:
            measure(server, args.threads, args.seconds, rows[server.name])
        print(f"round {number + 1} of {args.rounds}", flush=True)
    print(table(rows))
    return 0


if __name__ == "__main__":
    sys.exit(main())
