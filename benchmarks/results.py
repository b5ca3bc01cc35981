"""What was measured: plain values that can be written down, and the two questions that all tables ask of them."""

import json
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import median

Value = Callable[["Measurement"], float]


@dataclass
class Measurement:
    """One server under one workload in one round. Seconds and bytes; ``rate`` is 0 where nothing could be measured."""

    server: str
    workload: str
    round: int
    rate: float = 0.0
    p50: float = 0.0
    p99: float = 0.0
    memory: int = 0
    cpu: float = 0.0  # of the server, for each request
    errors: list[str] = field(default_factory=list)


@dataclass
class Idle:
    """The same with idle connections: the speed before and with them, and what each costs."""

    server: str
    round: int
    connections: int = 0
    before: float = 0.0
    during: float = 0.0
    each: float = 0.0  # bytes
    errors: list[str] = field(default_factory=list)


@dataclass
class Results:
    """All of one run."""

    facts: dict[str, str] = field(default_factory=dict)  # of the machine and the run
    threads: int = 10
    versions: dict[str, str] = field(default_factory=dict)
    commands: dict[str, str] = field(default_factory=dict)
    skipped: dict[str, str] = field(default_factory=dict)  # and why
    measurements: list[Measurement] = field(default_factory=list)
    idle: list[Idle] = field(default_factory=list)
    processes: list[Measurement] = field(default_factory=list)  # the servers are "NAME -p NUMBER"
    profiles: dict[str, str] = field(default_factory=dict)  # of what has missed its figure

    def save(self, path: Path) -> None:
        path.write_text(json.dumps(asdict(self), indent=1) + "\n", encoding="utf-8", newline="\n")

    @classmethod
    def load(cls, path: Path) -> "Results":
        read = json.loads(path.read_text(encoding="utf-8"))
        read["measurements"] = [Measurement(**each) for each in read["measurements"]]
        read["processes"] = [Measurement(**each) for each in read["processes"]]
        read["idle"] = [Idle(**each) for each in read["idle"]]
        return cls(**read)


def of(measurements: Iterable[Measurement], server: str, workload: str) -> list[Measurement]:
    """Every round of it."""
    return [each for each in measurements if (each.server, each.workload) == (server, workload)]


def typical(measurements: Iterable[Measurement], value: Value) -> float | None:
    """The median over the rounds that could be measured."""
    values = [value(each) for each in measurements if each.rate]
    return median(values) if values else None


def ratio(ours: Iterable[Measurement], theirs: Iterable[Measurement], value: Value) -> float | None:
    """How many times ``theirs``, round by round, then the median: what changes from round to round cancels out."""
    others = {each.round: value(each) for each in theirs if each.rate and value(each)}
    values = [value(each) / others[each.round] for each in ours if each.rate and each.round in others]
    return median(values) if values else None


def errors(measurements: Iterable[Measurement | Idle]) -> str:
    """All of them, in words, with the rounds they were in; empty if there are none."""
    return "; ".join(f"round {each.round}: {', '.join(each.errors)}" for each in measurements if each.errors)


def rate(measurement: Measurement) -> float:
    return measurement.rate


def p99(measurement: Measurement) -> float:
    return measurement.p99
