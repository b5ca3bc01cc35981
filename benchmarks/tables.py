"""The tables of the report, in Markdown, each made out of :class:`Results`.

Every figure is the median of the rounds. A cell whose measurements had errors is marked, and the errors stand below the
table; a server that was not measured is named with the reason.
"""

from collections.abc import Callable, Iterable, Sequence
from statistics import median

from . import results as r
from .results import Idle, Measurement, Results
from .servers import ALL_OURS, LIMIT, LIMIT_ASGI, OURS, SERVERS, TASKS
from .verdict import targets
from .workloads import BY_KEY, WORKLOADS, Workload

NOTHING = "–"  # noqa: RUF001 - a dash, where there is no figure
MARK = " (!)"
FULLY_USED = 0.85  # of a processor
MOST_COLUMNS = 9  # workloads of a table that still fits the page


def table(head: Sequence[str], rows: Iterable[Sequence[str]], text_columns: int = 1) -> str:
    """A Markdown table; figures are aligned to the right."""
    rule = ["---"] * text_columns + ["---:"] * (len(head) - text_columns)
    return "\n".join("| " + " | ".join(row) + " |" for row in [head, rule, *rows]) + "\n"


def figure(value: float | None, digits: int = 3) -> str:
    """So many significant digits, thousands separated."""
    if value is None:
        return NOTHING
    return f"{float(f'{value:.{digits}g}'):,.0f}" if value >= 100 else f"{value:.{digits}g}"


def share(value: float | None) -> str:
    return NOTHING if value is None else f"{value:.2f}" if value < 10 else f"{value:.1f}"


def milliseconds(value: float | None) -> str:
    return NOTHING if value is None else f"{value * 1e3:.2f}"


def names(results: Results) -> list[str]:
    """The servers that were measured, in the order of the table of servers."""
    measured = {each.server for each in results.measurements} | {each.server for each in results.idle}
    return [server.name for server in SERVERS if server.name in measured]


def measured_workloads(results: Results) -> list[Workload]:
    return [work for work in WORKLOADS if any(each.workload == work.key for each in results.measurements)]


def notes(lines: Iterable[tuple[str, str]]) -> str:
    """The errors below a table."""
    marked = [f"- (!) {title}: {errors}\n" for title, errors in lines if errors]
    return "".join(["\n", *marked] if marked else [])


def bold(name: str, text: str) -> str:
    return f"**{text}**" if name in ALL_OURS else text


def comparison(results: Results, interface: str = "wsgi") -> str:
    """All servers and workloads of an interface, requests/s, in tables that fit the page; empty without any."""
    works = [work for work in measured_workloads(results) if work.interface == interface]
    number = -(-len(works) // MOST_COLUMNS)  # of tables, which are about equally wide
    size = -(-len(works) // max(1, number))
    return "\n".join(_comparison(results, works[first * size : (first + 1) * size]) for first in range(number))


def _comparison(results: Results, works: Sequence[Workload]) -> str:
    rows, found = [], []
    for name in names(results):
        row = [bold(name, name)]
        for work in works:
            rounds = r.of(results.measurements, name, work.key)
            errors = r.errors(rounds)
            found.append((f"{name}, {work.title}", errors))
            row.append(bold(name, figure(r.typical(rounds, r.rate))) + (MARK if errors else "") if rounds else "")
        if any(row[1:]):
            rows.append(row)
    return table(["requests/s", *(work.title for work in works)], rows) + notes(found)


HEADLINES = ("varied", "forwarded", "browsers", "orders", "flask", "page", "new", "tls")
"""The rows of the README: what a user asks of a server. The page has all workloads."""

PEERS = ("gunicorn gthread", "gunicorn gevent", "waitress", "uvicorn", "granian", "bjoern")


def headlines(results: Results) -> str:
    """The workloads that matter to most users, a row each: this server, and the others that people choose from."""
    shown = [name for name in names(results) if name in {*OURS, *PEERS}]
    rows, found = [], []
    for key in HEADLINES:
        row = [BY_KEY[key].title]
        for name in shown:
            rounds = r.of(results.measurements, name, key)
            errors = r.errors(rounds)
            found.append((f"{name}, {row[0]}", errors))
            row.append(bold(name, figure(r.typical(rounds, r.rate))) + (MARK if errors else "") if rounds else "")
        if any(row[1:]):
            rows.append(row)
    return table(["requests/s", *(bold(name, name) for name in shown)], rows) + notes(found)


def verdict(results: Results) -> str:
    """The figures to reach."""
    rows = []
    for target in targets():
        row = [target.title, ("≤ " if target.at_most else "≥ ") + format(target.limit, target.form)]
        for ours in (*OURS, TASKS):
            value = target.figure(results, ours) if ours in target.ours else None
            met = target.met(value)
            text = "" if ours not in target.ours else NOTHING if value is None else format(value, target.form)
            row.append(f"**missed:** {text}" if met is False else text)
        rows.append(row)
    return table(["figure", "to reach", "threads", "gevent", "tasks"], rows)


def doubts(results: Results) -> str:
    """Why the ratios of the fast servers may be wrong; empty if there is no reason."""
    used = r.typical(r.of(results.measurements, LIMIT, "hello"), lambda each: each.cpu * each.rate)
    if used is None or used > FULLY_USED:
        return ""
    return (
        f"**The bare loop used only {used:.0%} of its processor**: wrk, or something else on this machine, was the "
        "limit, so that the fast servers look more alike than they are. Their CPU time for each request says more."
    )


def workload(results: Results, work: Workload) -> str:
    """One workload in all detail, the fastest first."""
    possible = work.possible(results.threads)
    bases = (LIMIT, OURS[0], LIMIT_ASGI, TASKS)
    base = next((each for each in bases if r.of(results.measurements, each, work.key)), "")
    rows, found = [], []
    for name in names(results):
        if not (rounds := r.of(results.measurements, name, work.key)):
            continue
        rate, errors = r.typical(rounds, r.rate), r.errors(rounds)
        found.append((name, errors))
        times = r.ratio(rounds, r.of(results.measurements, base, work.key), r.rate)
        if possible:
            times = None if rate is None else rate / possible
        row = [
            bold(name, name) + (MARK if errors else ""),
            figure(rate),
            share(times),
            milliseconds(r.typical(rounds, lambda each: each.p50)),
            milliseconds(r.typical(rounds, lambda each: each.p99)),
            figure(_scaled(r.typical(rounds, lambda each: each.cpu), 1e6)),
            share(r.typical(rounds, lambda each: each.cpu * each.rate)),
            figure(_scaled(r.typical(rounds, lambda each: each.memory), 2**-20)),
        ]
        rows.append((rate or 0.0, row))
    rows.sort(key=lambda pair: -pair[0])
    compared = "of the possible" if possible else f"of {base}"
    head = ["server", "requests/s", compared, "p50 ms", "p99 ms", "CPU µs/request", "CPU busy", "RSS MiB"]
    return table(head, [row for _, row in rows]) + notes(found)


def _scaled(value: float | None, by: float) -> float | None:
    return None if value is None else value * by


def idle(results: Results) -> str:
    rows, found = [], []
    for name in names(results):
        rounds = [each for each in results.idle if each.server == name]
        good = [each for each in rounds if each.before]
        errors = r.errors(rounds)
        found.append((name, errors))
        row = [bold(name, name) + (MARK if errors else "")]
        if rounds:
            row += [_median(good, lambda each: each.before), _median(good, lambda each: each.during)]
            row.append(share(median(each.during / each.before for each in good)) if good else NOTHING)
            row.append(_median(good, lambda each: each.each / 1024))
            rows.append(row)
    return table(["server", "requests/s without", "with", "kept", "KiB each"], rows) + notes(found)


def _median(values: list[Idle], what: Callable[[Idle], float]) -> str:
    return figure(median(map(what, values))) if values else NOTHING


def processes(results: Results) -> str:
    """One worker process against two."""
    rows, found = [], []
    for key in dict.fromkeys(each.workload for each in results.processes):
        for ours in OURS:
            one, two = (r.of(results.processes, f"{ours} -p {number}", key) for number in (1, 2))
            found += [(f"{each[0].server}, {BY_KEY[key].title}", r.errors(each)) for each in (one, two) if each]
            figures = [figure(r.typical(one, r.rate)), figure(r.typical(two, r.rate)), share(r.ratio(two, one, r.rate))]
            if one or two:
                rows.append([f"{ours}, {BY_KEY[key].title}", *figures])
    return table(["", "-p 1", "-p 2", "times"], rows) + notes(found)


def one_line(measurement: Measurement) -> str:
    """For the progress line."""
    text = f"{measurement.rate:,.0f}/s" if measurement.rate else "nothing"
    return f"{text}, {'; '.join(measurement.errors)}" if measurement.errors else text
