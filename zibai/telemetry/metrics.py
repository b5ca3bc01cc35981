"""The scoreboard for Prometheus: the data of :func:`~zibai.telemetry.board_view.describe`, in its text format.

Names follow Prometheus' conventions: base units, ``_total`` for counters, no label with an unlimited number of values.
So the label of a worker is its row in the scoreboard, which its replacement gets, and not its process id.
"""

from collections.abc import Callable, Iterator, Mapping
from itertools import accumulate
from typing import Any, Final

from ..errors import MissingExtra
from .counts import BOUNDS

STATES: Final = ("idle", "head", "body", "queue", "busy", "send", "websockets")
PHASES: Final = ("app", "body", "send")
LIFE: Final = ("starting", "ready", "draining")


class Metrics:
    """Renders the data of ``look``. Raises MissingExtra without prometheus_client. One thread at a time may use it.

    ``look`` returns the data of ``describe``, and the number of connections in the backlog of each listener, by its
    name, if the system tells it.
    """

    def __init__(self, look: Callable[[], tuple[dict[str, Any], Mapping[str, int]]]) -> None:
        try:
            from prometheus_client import CollectorRegistry, exposition, metrics_core
        except ImportError as error:
            text = "/metrics needs prometheus_client; pip install 'zibai-server[metrics]'"
            raise MissingExtra.because(error, "prometheus_client", text) from None
        self._look = look
        self._short = 0  # requests that have waited for less than the first bound of the buckets
        self._core = metrics_core
        self._generate = exposition.generate_latest
        self.content_type: str = exposition.CONTENT_TYPE_LATEST
        self._registry = CollectorRegistry(auto_describe=False)
        self._registry.register(self)

    def render(self) -> bytes:
        """The text of one scrape."""
        return self._generate(self._registry)

    def describe(self) -> list[Any]:
        """Nothing: otherwise the registry would collect in order to learn the names."""
        return []

    def collect(self) -> Iterator[Any]:
        """All families of one moment."""
        server, backlog = self._look()
        yield from self._requests(server["totals"])
        yield from self._connections(server, backlog)
        yield from self._workers(server)

    def _family(self, kind: str, name: str, text: str, values: Mapping[Any, float], *labels: str) -> Any:
        """A family of ``values`` by label, or by a tuple of labels."""
        make = {"gauge": self._core.GaugeMetricFamily, "counter": self._core.CounterMetricFamily}[kind]
        family = make(f"zibai_{name}", text, labels=labels)
        for label, value in values.items():
            family.add_metric([label] if isinstance(label, str) else list(label), value)
        return family

    def _requests(self, totals: dict[str, Any]) -> Iterator[Any]:
        served = totals["served"]
        by = {(method, status): n for method, found in served["by"].items() for status, n in found.items()}
        yield self._family("counter", "requests", "Requests that the application has served.", by, "method", "status")
        cumulative = list(accumulate(served["buckets"]))
        bounds = [*map(str, BOUNDS), "+Inf"]
        buckets = list(zip(bounds, cumulative, strict=True))
        duration = self._core.HistogramMetricFamily(
            "zibai_request_duration_seconds", "Time from the call of the application to the end of its response."
        )
        duration.add_metric([], buckets, served["seconds"])
        yield duration
        # A request that waits is counted a moment before it ends, and the first bucket must not fall in that moment.
        waits = served["queue"]["buckets"]
        self._short = waits[0] = max(self._short, waits[0])
        queue = self._core.HistogramMetricFamily(
            "zibai_request_queue_seconds", "Time that requests have waited for a thread, greenlet or task."
        )
        queue.add_metric([], list(zip(bounds, accumulate(waits), strict=True)), served["queue"]["seconds"])
        yield queue
        yield self._family(
            "counter", "responses", "Responses, also the server's own and interim ones, as of the last heartbeat.",
            {name: totals[name] for name in ("1xx", "2xx", "3xx", "4xx", "5xx")}, "status",
        )  # fmt: skip
        yield self._family(
            "counter", "refusals", "Requests that the server has refused itself, by status.",
            totals["refusals"], "status",
        )  # fmt: skip
        yield self._family(
            "counter", "response_body_bytes", "Bytes of the bodies of responses, as of the last heartbeat.",
            {(): totals["bytes"]},
        )  # fmt: skip

    def _connections(self, server: dict[str, Any], backlog: Mapping[str, int]) -> Iterator[Any]:
        workers = server["workers"]
        yield self._family(
            "gauge", "connections", "Open connections, by what they wait for, as of the last heartbeat.",
            {state: sum(worker[state] for worker in workers) for state in STATES}, "state",
        )  # fmt: skip
        running = [each["phase"] for worker in workers for each in worker["running"]]
        yield self._family(
            "gauge", "requests_running", "Requests that have a thread, greenlet or task, by what they do.",
            {phase: running.count(phase) for phase in PHASES}, "phase",
        )  # fmt: skip
        busy = sum(max(len(worker["running"]), worker["busy"]) for worker in workers)  # tasks may be more than slots
        runners = sum(worker["runners"] for worker in workers)
        yield self._family(
            "gauge", "slots", "Threads, greenlets or tasks of the workers that serve.",
            {"busy": busy, "free": max(0, runners - busy)}, "state",
        )  # fmt: skip
        if backlog:
            yield self._family(
                "gauge", "backlog_connections", "Connections that no worker has accepted yet.", backlog, "listener"
            )

    def _workers(self, server: dict[str, Any]) -> Iterator[Any]:
        workers, totals = server["workers"], server["totals"]
        facts = {"version": str(server.get("version", "")), "app": str(server.get("app", ""))}
        info = self._core.InfoMetricFamily("zibai_server", "What runs.", labels=[])
        info.add_metric([], facts)
        yield info
        gauge, counter = "gauge", "counter"
        yield self._family(gauge, "uptime_seconds", "Time since the start of the server.", {(): server["up"]})
        states = [worker["state"] for worker in workers]
        yield self._family(
            gauge, "workers", "Worker processes, by state.", {state: states.count(state) for state in LIFE}, "state"
        )
        yield self._family(gauge, "workers_wanted", "Worker processes that should serve.", {(): totals["wanted"]})
        yield self._family(counter, "worker_starts", "Worker processes that were started.", {(): totals["starts"]})
        yield self._family(
            counter, "worker_ends", "Worker processes that have ended, by cause.", totals["ends"], "cause"
        )
        yield self._family(
            counter, "restarts", "Rolling restarts, by what has become of them.", totals["restarts"], "outcome"
        )
        for key, kind, name, text in (
            ("memory", gauge, "worker_resident_memory_bytes", "Resident memory of a worker."),
            ("cpu", counter, "worker_cpu_seconds", "Processor time of a worker."),
            ("descriptors", gauge, "worker_open_descriptors", "Open descriptors of a worker."),
            ("beat", gauge, "worker_heartbeat_age_seconds", "Time since the last heartbeat of a worker."),
        ):
            known = {str(worker["row"]): worker[key] for worker in workers if worker[key] is not None}
            yield self._family(kind, name, text, known, "worker")
        yield self._family(
            counter, "cpu_seconds", "Processor time of all workers, also of those that have ended.",
            {(): totals["cpu"]},
        )  # fmt: skip
