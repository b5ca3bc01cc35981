"""The figures to reach, as a table, and what became of them.

Each is a ratio: to another server in the same round, to what is possible, to the same server without idle connections.
A server that was not measured leaves the row open.
"""

from collections.abc import Callable
from dataclasses import dataclass
from statistics import median

from .results import Idle, Measurement, Results, of, p99, rate, ratio
from .servers import LIMIT, LOGGING, OURS, SERVERS, TASKS
from .workloads import BY_KEY

NATIVE = tuple(server.name for server in SERVERS if server.native)


@dataclass(frozen=True)
class Target:
    """One row: ``figure`` computes it for one of our servers; None where something was not measured.

    ``workload`` is what a profile may explain; empty if none does.
    """

    title: str
    workload: str
    limit: float
    figure: Callable[[Results, str], float | None]
    at_most: bool = False
    form: str = ".2f"
    ours: tuple[str, ...] = OURS

    def met(self, value: float | None) -> bool | None:
        if value is None:
            return None
        return value <= self.limit if self.at_most else value >= self.limit


def against(workload: str, other: str, theirs: str = "") -> Callable[[Results, str], float | None]:
    """``theirs`` is the workload of the other, if that is another one."""

    def figure(results: Results, ours: str) -> float | None:
        measured = results.measurements
        return ratio(of(measured, ours, workload), of(measured, other, theirs or workload), rate)

    return figure


def logging_keeps(workload: str) -> Callable[[Results, str], float | None]:
    """The share of its speed that a server keeps with an access log in a file."""

    def figure(results: Results, ours: str) -> float | None:
        logging = of(results.measurements, f"{ours}{LOGGING}", workload)
        return ratio(logging, of(results.measurements, ours, workload), rate)

    return figure


def of_possible(workload: str) -> Callable[[Results, str], float | None]:
    def figure(results: Results, ours: str) -> float | None:
        possible = BY_KEY[workload].possible(results.threads)
        rates = [each.rate for each in of(results.measurements, ours, workload)]
        return median(rates) / possible if rates and possible else None

    return figure


def latency(workload: str, others: tuple[str, ...]) -> Callable[[Results, str], float | None]:
    """Times the best p99 among ``others`` in the same round."""

    def figure(results: Results, ours: str) -> float | None:
        best: dict[int, Measurement] = {}
        for other in others:
            for each in of(results.measurements, other, workload):
                if each.rate and (each.round not in best or each.p99 < best[each.round].p99):
                    best[each.round] = each
        return ratio(of(results.measurements, ours, workload), best.values(), p99)

    return figure


def speed_kept(results: Results, ours: str) -> float | None:
    kept = [each.during / each.before for each in results.idle if each.server == ours and each.before]
    return median(kept) if kept else None


def memory_each(results: Results, ours: str) -> float | None:
    """KiB."""
    each = [each.each / 1024 for each in results.idle if each.server == ours and each.before]
    return median(each) if each else None


def failures(results: Results, ours: str) -> float | None:
    """Measurements with an error."""
    all_of_them: list[Measurement | Idle] = [*results.measurements, *results.idle, *results.processes]
    mine = [each for each in all_of_them if each.server.startswith(ours)]
    return sum(bool(each.errors) for each in mine) if mine else None


def targets() -> list[Target]:
    def times(work: str, other: str, limit: float) -> Target:
        return Target(f"{BY_KEY[work].title}: times {other}", work, limit, against(work, other))

    def of_the_loop(work: str, limit: float) -> Target:
        return Target(f"{BY_KEY[work].title}: share of the bare loop", work, limit, against(work, LIMIT))

    return [
        of_the_loop("varied", 0.60),
        of_the_loop("forwarded", 0.55),
        times("varied", "granian", 1.6),
        times("varied", "gunicorn gevent", 6.0),
        times("varied", "bjoern", 0.55),
        Target("varied: p99, times granian's", "varied", 1.0, latency("varied", ("granian",)), at_most=True),
        Target("varied: share of the speed kept with an access log", "varied", 0.7, logging_keeps("varied")),
        times("orders", "granian", 1.2),
        times("flask", "granian", 1.05),
        times("stream", "granian", 1.0),
        of_the_loop("hello", 0.75),
        *(times(work, "granian", 1.0) for work in ("hello", "heads", "page", "post")),
        Target("every call blocks 10 ms: share of the possible", "block", 0.95, of_possible("block")),
        Target("one call in ten blocks 20 ms: share of the possible", "mixed", 0.9, of_possible("mixed")),
        *(times("sleepers", other, 1.0) for other in ("granian", "gunicorn gevent")),
        Target("idle connections: share of the speed kept", "hello", 0.9, speed_kept),
        Target("idle connections: memory each, KiB", "", 8.0, memory_each, at_most=True, form=".1f"),
        Target("measurements with an error", "", 0, failures, at_most=True, form=".0f", ours=(*OURS, TASKS)),
        *asgi_targets(),
    ]


def asgi_targets() -> list[Target]:
    def times(other: str, **limits: float) -> list[Target]:
        keys = {name: name if name == "fastapi" else f"asgi-{name}" for name in limits}
        return [
            Target(f"{BY_KEY[key].title}: times {other}", key, limits[name], against(key, other), ours=(TASKS,))
            for name, key in keys.items()
        ]

    return [
        *times("uvicorn asgi", hello=2.0, orders=1.9, stream=3.0, many=2.5, new=1.6, fastapi=1.1, wait=1.2),
        *times("granian asgi", hello=1.5, orders=1.5, stream=2.0, many=1.3, new=1.2, fastapi=1.0, wait=0.9),
        *times("hypercorn", hello=6.0),
        Target(
            "hello, ASGI: times hello on threads",
            "asgi-hello",
            0.85,
            against("asgi-hello", OURS[0], "hello"),
            ours=(TASKS,),
        ),
    ]


def missed(results: Results) -> list[tuple[Target, str]]:
    """Rows and servers that do not reach their figure."""
    return [(row, ours) for row in targets() for ours in row.ours if row.met(row.figure(results, ours)) is False]
