"""What is asked of the servers, as a table: the application, the request, the number of connections."""

import json
from dataclasses import dataclass, field

from . import apps

ORDER = json.dumps(
    {"id": 4711, "customer": "Jorge Luis Borges", "items": [{"name": f"book {i}", "price": i} for i in range(8)]}
).encode()
TOTAL = json.dumps({"id": 4711, "total": sum(range(8))}).encode()

# What Chrome 131 sends to a page of a site it has been to.
BROWSER = {
    "Connection": "keep-alive",
    "sec-ch-ua": '"Google Chrome";v="131", "Chromium";v="131", "Not_A Brand";v="24"',
    "sec-ch-ua-mobile": "?0",
    "sec-ch-ua-platform": '"Linux"',
    "Upgrade-Insecure-Requests": "1",
    "User-Agent": "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/131.0.0.0 "
    "Safari/537.36",
    "Accept": "text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,image/webp,image/apng,*/*;q=0.8",
    "Sec-Fetch-Site": "same-origin",
    "Sec-Fetch-Mode": "navigate",
    "Sec-Fetch-Dest": "document",
    "Accept-Encoding": "gzip, deflate, br, zstd",
    "Accept-Language": "en-GB,en;q=0.9,de;q=0.8",
    "Cookie": "session=eyJ1c2VyIjoxMjM0NX0.Z0A1bw.8mK3Vd2yq1pQf5sXkLr7Tn9uWcE; theme=dark; "
    "_ga=GA1.1.1234567890.1700000000",
}


@dataclass(frozen=True)
class Workload:
    """One kind of load. ``blocks`` is how long a call of the application sleeps on average, in seconds."""

    key: str
    title: str
    app: str = "benchmarks.apps:hello"
    answer: bytes = apps.HELLO
    connections: int = 64
    method: str = "GET"
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""
    blocks: float = 0.0
    tls: bool = False

    def possible(self, threads: int) -> float | None:
        """Requests a second that so many threads can do, as they sleep; None where they do not."""
        return threads / self.blocks if self.blocks else None


WORKLOADS = (
    Workload("hello", "hello"),
    Workload("heads", "browser heads", headers=BROWSER),
    Workload("page", "12 KiB", app="benchmarks.apps:page", answer=apps.PAGE),
    Workload(
        "post",
        "JSON POST",
        app="benchmarks.apps:post",
        answer=TOTAL,
        method="POST",
        headers={"Content-Type": "application/json"},
        body=ORDER,
    ),
    Workload("stream", "16 chunks", app="benchmarks.apps:stream", answer=apps.CHUNK * apps.CHUNKS),
    Workload("new", "new connections", headers={"Connection": "close"}),
    Workload("tls", "TLS", tls=True),
    Workload("tls-new", "TLS, new connections", headers={"Connection": "close"}, tls=True),
    Workload("many", "512 connections", connections=512),
    Workload("block", "10 ms call", app="benchmarks.apps:block", blocks=0.010),
    Workload("mixed", "1 in 10 blocks", app="benchmarks.apps:mixed", blocks=0.020 / 10),
    Workload("flask", "Flask", app="benchmarks.flaskapp:app"),
)
BY_KEY = {workload.key: workload for workload in WORKLOADS}
