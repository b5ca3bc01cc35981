"""``python -m benchmarks``: measures all servers that are installed, in turn, and writes the report."""

import argparse
import sys
import time
from collections.abc import Callable
from pathlib import Path

from . import idle, load, machine, profiled, report, tables, verdict
from .process import Broken, Running
from .results import Idle, Measurement, Results
from .servers import ALL_OURS, BY_NAME, OURS, ROOT, SERVERS, Server, missing, version
from .workloads import BY_KEY, WORKLOADS, Workload

IDLE, PROCESSES = "idle", "processes"
UNHURRIED = {
    "browsers",
    "new",
    "tls",
    "tls-new",
    "many",
    "asgi-new",
    "asgi-many",
    PROCESSES,
}  # no figure to reach, and --quick goes without

Step = tuple[str, Callable[[], str]]  # what it is called, and how it went


def parse(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--list", action="store_true", help="say what would be measured, and what cannot be, and why")
    parser.add_argument(
        "--quick", action="store_true", help="one round, one second, fewer idle connections, what has a figure to reach"
    )
    parser.add_argument("--rounds", type=int, metavar="N", help="how often each is measured (3)")
    parser.add_argument("--seconds", type=int, metavar="N", help="how long each time (2)")
    parser.add_argument("--threads", type=int, default=10, metavar="N", help="of every server that has threads (10)")
    parser.add_argument("--idle", type=int, metavar="N", help="idle connections (10000)")
    parser.add_argument(
        "--only", nargs="+", default=[], choices=[each.key for each in SERVERS], metavar="SERVER", help="as in --list"
    )
    workloads = [*BY_KEY, IDLE, PROCESSES]
    parser.add_argument(
        "--workloads", nargs="+", default=[], choices=workloads, metavar="WORKLOAD", help=", ".join(workloads)
    )
    parser.add_argument(
        "--output", type=Path, default=ROOT / "docs" / "benchmarks", metavar="FOLDER", help="for the report"
    )
    parser.add_argument("--readme", action="store_true", help="put the tables into README.md, too")
    parser.add_argument(
        "--profile", action=argparse.BooleanOptionalAction, help="what misses its figure; so it is, without --quick"
    )
    parser.add_argument("--from", dest="source", type=Path, metavar="FILE", help="measure nothing; read results.json")
    args = parser.parse_args(arguments)
    args.rounds = args.rounds or (1 if args.quick else 3)
    args.seconds = args.seconds or (1 if args.quick else 2)
    args.workloads = args.workloads or [work for work in workloads if not args.quick or work not in UNHURRIED]
    args.profile = not args.quick if args.profile is None else args.profile
    args.idle = args.idle or (1000 if args.quick else 10_000)
    return args


def measure(server: Server, work: Workload, args: argparse.Namespace, number: int) -> Measurement:
    """One server, one workload, one round."""
    measurement = Measurement(server.name, work.key, number)
    try:
        with Running(server, work, args.threads) as running:
            load.warm_up(work, running.port)
            running.check()  # what the warm-up has left in the queue is done, too
            cpu = running.cpu()
            found = load.measure(work, running.port, args.seconds)
            cpu, measurement.memory = running.cpu() - cpu, running.memory()
            _note(measurement, found, cpu)
            running.check_alive()
    except (Broken, OSError) as error:
        measurement.errors.append(str(error))
    return measurement


def measure_processes(ours: str, work: Workload, workers: int, args: argparse.Namespace, number: int) -> Measurement:
    """Worker processes, with all processors for them and for wrk."""
    measurement = Measurement(f"{ours} -p {workers}", work.key, number)
    try:
        with Running(BY_NAME[ours], work, args.threads, "-p", str(workers), pinned=False) as running:
            load.warm_up(work, running.port, pinned=False)
            _note(measurement, load.measure(work, running.port, args.seconds, pinned=False), 0.0)
            running.check_alive()
    except (Broken, OSError) as error:
        measurement.errors.append(str(error))
    return measurement


def _note(measurement: Measurement, found: load.Load, cpu: float) -> None:
    measurement.rate, measurement.p50, measurement.p99 = found.rate, found.p50, found.p99
    measurement.cpu = cpu / found.requests if found.requests else 0.0
    measurement.errors += found.errors


def steps(args: argparse.Namespace, servers: list[Server], results: Results) -> list[Step]:
    """All measurements, in their order: in each round another server begins."""

    def one(server: Server, work: Workload, number: int) -> str:
        results.measurements.append(done := measure(server, work, args, number))
        return tables.one_line(done)

    def idling(server: Server, number: int) -> str:
        results.idle.append(done := idle.measure(server, args.idle, args.threads, args.seconds, number))
        return f"{done.before:,.0f}/s, then {done.during:,.0f}/s, {done.each / 1024:.1f} KiB each" + _errors(done)

    def processes(ours: str, work: Workload, workers: int, number: int) -> str:
        results.processes.append(done := measure_processes(ours, work, workers, args, number))
        return tables.one_line(done)

    planned: list[Step] = []
    turn = 0

    def add(name: str, function: Callable[..., str], *arguments: object) -> None:
        planned.append((name, lambda: function(*arguments)))

    def in_turn() -> list[Server]:
        nonlocal turn
        first, turn = turn % len(servers), turn + 1
        return servers[first:] + servers[:first]

    for number in range(1, args.rounds + 1):
        title = f"round {number} of {args.rounds}"
        for work in (each for each in WORKLOADS if each.key in args.workloads):
            for server in (each for each in in_turn() if each.runs(work)):
                add(f"{title}, {work.title}, {server.name}", one, server, work, number)
        if IDLE in args.workloads:
            # The others once: nothing is compared with theirs, and slow ones take long.
            for server in (each for each in in_turn() if each.idles and (number == 1 or each.name in ALL_OURS)):
                add(f"{title}, idle connections, {server.name}", idling, server, number)
        if PROCESSES in args.workloads:
            for ours in (each.name for each in in_turn() if each.name in OURS):
                for work in (BY_KEY["hello"], BY_KEY["flask"]):
                    for workers in (1, 2):
                        name = f"{title}, {work.title}, {ours} -p {workers}"
                        add(name, processes, ours, work, workers, number)
    return planned


def _errors(done: Idle) -> str:
    return f", {'; '.join(done.errors)}" if done.errors else ""


def run(planned: list[Step]) -> None:
    """Does one after the other and says so, on a terminal in one line that is written over."""
    began, terminal = time.monotonic(), sys.stdout.isatty()
    for index, (name, step) in enumerate(planned):
        left = f"{(time.monotonic() - began) / index * (len(planned) - index) / 60:.0f} min left" if index else ""
        start = f"[{index + 1}/{len(planned)}] {name}"
        if terminal:
            print(f"\r\x1b[K{start} ... {left}"[:200], end="", flush=True)
        text = f"{start}: {step()}" + (f" ({left})" if left else "")
        print(f"\r\x1b[K{text}" if terminal else text, end="" if terminal else "\n", flush=True)
    print(f"{chr(10) if terminal else ''}{len(planned)} measurements in {(time.monotonic() - began) / 60:.1f} min")


def profile(args: argparse.Namespace, results: Results) -> None:
    """Why figures were missed."""
    wanted = dict.fromkeys((ours, row.workload) for row, ours in verdict.missed(results) if row.workload)
    for ours, workload in wanted:
        title = f"{ours}, {BY_KEY[workload].title}"
        print(f"profile: {title}", flush=True)
        results.profiles[title] = profiled.measure(ours, workload, args.threads, args.seconds)


def chosen(args: argparse.Namespace, results: Results) -> list[Server]:
    """The servers to measure; the others are noted with the reason."""
    servers = []
    for server in SERVERS:
        if args.only and server.key not in args.only:
            continue
        if why := missing(server):
            results.skipped[server.name] = why
            continue
        servers.append(server)
        results.versions[server.name] = version(server)
        hello = BY_KEY["asgi-hello" if server.interface == "asgi" else "hello"]
        results.commands[server.name] = server.line(hello, 8000, args.threads)
    return servers


def main(arguments: list[str]) -> int | str:
    args = parse(arguments)
    if args.source:
        results = Results.load(args.source)
    else:
        if why := machine.unfit():
            return why
        if not args.list and (possible := idle.raise_limit(args.idle)) < args.idle:
            print(f"{possible} idle connections, as the limit of open files wants it")
            args.idle = possible
        results = Results(machine.facts(arguments, args.seconds, args.rounds), args.threads)
        servers = chosen(args, results)
        for name, why in results.skipped.items():
            print(f"not measured: {name}: {why}")
        if args.list:
            print(*(f"{each.key}: {results.versions[each.name] or 'in this checkout'}" for each in servers), sep="\n")
            return 0
        try:
            run(steps(args, servers, results))
            if args.profile:
                profile(args, results)
        except KeyboardInterrupt:
            print("\nstopped; the report has what was measured until now")
    page = report.write(results, args.output)
    if args.readme:
        readme = ROOT / "README.md"
        readme.write_text(report.readme(results, readme.read_text(encoding="utf-8")), encoding="utf-8", newline="\n")
    if doubt := tables.doubts(results):
        print(doubt)
    for row, ours in verdict.missed(results):
        print(f"missed: {ours}: {row.title}")
    print(f"the report: {page}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
