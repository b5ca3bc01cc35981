"""The report: the page ``docs/benchmarks/index.md`` with its chart, and the part of the README."""

from pathlib import Path

from . import tables
from .chart import draw
from .results import Results

CHART = "varied.svg"
BEGIN, END = "<!-- benchmark: written by python -m benchmarks --readme -->", "<!-- end of benchmark -->"

INTRODUCTION = """\
# Benchmark

Written by `python -m benchmarks`; the README says how to run it. All servers took turns on one machine, and each
measurement had a process of its own. Figures are medians of the rounds, ratios are taken round by round.
`results.json`, beside this page, has every round.
"""
EXPLANATION = """\
The bare loop answers a constant and parses nothing: it is the limit. Every server has one process, and those with
threads have the same number. gunicorn's gevent worker has a greenlet for each connection, so it runs more blocking
calls at a time than the threads of the others do. "CPU busy" is the share of a processor that the server used: where
it is far from 1, something else was the limit.
"""
ASGI = """\
ASGI applications. All servers but *zibai tasks* run on uvloop, and *zibai tasks* on asyncio. *bare loop asgi* makes a
scope, calls the application and parses nothing: it is the limit of a server in Python.
"""
PROCESSES = """\
Requests/s of `-p 1` and `-p 2`. Here server and wrk share all processors, so that with two processors the second
worker gets only what wrk leaves.
"""
PROFILES = """\
By cProfile, which slows down what calls many functions most: it says where to look. The share is of the time in the
function itself.
"""


def page(results: Results, chart: str | None) -> str:
    parts = [
        INTRODUCTION,
        tables.table(["", ""], results.facts.items(), 2),
        "## Requests a second\n",
        *([f"![varied requests, as a share of the bare loop]({chart})\n"] if chart else []),
        tables.comparison(results),
        *([ASGI, asgi] if (asgi := tables.comparison(results, "asgi")) else []),
        *([doubt + "\n"] if (doubt := tables.doubts(results)) else []),
        EXPLANATION,
        "## Figures to reach\n",
        tables.verdict(results),
    ]
    for work in tables.measured_workloads(results):
        title = f"## {work.title[0].upper()}{work.title[1:]}\n"
        parts += [title, f"{work.stands_for}\n", tables.workload(results, work)]
    if results.idle:
        count = max(each.connections for each in results.idle)
        parts += [f"## {count:,} idle connections\n", "Hello, on 64 other connections.\n", tables.idle(results)]
    if results.processes:
        parts += ["## One worker process and two\n", PROCESSES, tables.processes(results)]
    if results.profiles:
        parts += ["## Profiles of what missed its figure\n", PROFILES]
        parts += [f"{name}:\n\n```text\n{text}\n```\n" for name, text in results.profiles.items()]
    if results.skipped:
        parts += ["## Not measured\n", "".join(f"- {name}: {why}\n" for name, why in results.skipped.items())]
    versions = [
        [name, results.versions.get(name) or tables.NOTHING, f"`{line}`"] for name, line in results.commands.items()
    ]
    parts += ["## How each was started\n", tables.table(["server", "version", "python ..."], versions, 3)]
    return "\n".join(parts)


def readme(results: Results, text: str) -> str:
    """``text`` with the part between the markers replaced."""
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"README.md has no part between {BEGIN} and {END}")
    facts = results.facts
    where = f"{facts.get('Date', '')}, {facts.get('Processor', '')}, Python {facts.get('Python', '')}".strip(", ")
    part = f"{where}; requests/s of one process:\n\n{tables.headlines(results)}"
    return f"{before}{begin}\n\n{part}\n{end}{after}"


def write(results: Results, output: Path) -> Path:
    """Everything into the folder ``output``: the page, its chart, and the figures of all rounds."""
    output.mkdir(parents=True, exist_ok=True)
    svg = draw(results)
    if svg:
        (output / CHART).write_text(svg, encoding="utf-8", newline="\n")
    (output / "index.md").write_text(page(results, CHART if svg else None), encoding="utf-8", newline="\n")
    results.save(output / "results.json")
    return output / "index.md"
