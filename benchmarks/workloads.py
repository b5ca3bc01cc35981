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
    """One kind of load. ``blocks`` is how long a call of the application sleeps on average, in seconds.

    ``threads``, if given, is the number of threads of every server that has threads; the others are left out.
    ``varies`` names a script of :mod:`benchmarks.varied`; without it each request is the same. ``stands_for`` says
    which users meet such a load.
    """

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
    threads: int = 0
    varies: str = ""
    stands_for: str = ""
    interface: str = "wsgi"

    def possible(self, threads: int) -> float | None:
        """Requests a second that so many threads can do, as they sleep; None where they do not."""
        return threads / self.blocks if self.blocks else None


# What a browser repeats from request to request; the varied workloads add the rest.
REPEATED = {name: value for name, value in BROWSER.items() if name not in {"Connection", "Cookie"}}
API = {"Accept": "application/json", "User-Agent": "shop-client/4.2", "Content-Type": "application/json"}

WORKLOADS = (
    Workload(
        "varied",
        "varied",
        headers=API,
        varies="varied",
        stands_for="Clients of an API: each request has a path, query, cookie and request id of its own.",
    ),
    Workload(
        "forwarded",
        "varied, behind a proxy",
        headers=API,
        varies="forwarded",
        stands_for="The same behind a proxy that adds `X-Forwarded-For` and `X-Forwarded-Proto`.",
    ),
    Workload(
        "browsers",
        "a hundred browsers",
        connections=100,
        headers=REPEATED,
        varies="clients",
        stands_for="A site: a hundred clients with different browsers, whose heads differ in some lines.",
    ),
    Workload(
        "orders",
        "varied JSON POST",
        app="benchmarks.apps:post",
        answer=TOTAL,
        method="POST",
        headers=API,
        body=ORDER,
        varies="post",
        stands_for="An API that takes JSON, each body another one.",
    ),
    Workload(
        "hello", "hello", stands_for="The same short request again and again: the remembered case, and the limit."
    ),
    Workload(
        "heads",
        "browser heads",
        headers=BROWSER,
        stands_for="The same request again and again, with the long head of a browser.",
    ),
    Workload(
        "page",
        "12 KiB",
        app="benchmarks.apps:page",
        answer=apps.PAGE,
        stands_for="A page of 12 KiB, always the same request.",
    ),
    Workload(
        "post",
        "JSON POST",
        app="benchmarks.apps:post",
        answer=TOTAL,
        method="POST",
        headers={"Content-Type": "application/json"},
        body=ORDER,
        stands_for="An API that takes JSON, always the same.",
    ),
    Workload(
        "stream",
        "16 chunks",
        app="benchmarks.apps:stream",
        answer=apps.CHUNK * apps.CHUNKS,
        stands_for="A generator that gives 16 pieces of 1 KiB without a Content-Length.",
    ),
    Workload(
        "new",
        "new connections",
        headers={"Connection": "close"},
        stands_for="Clients and proxies that open a connection for each request.",
    ),
    Workload("tls", "TLS", tls=True, stands_for="The short request over TLS, on kept connections."),
    Workload(
        "tls-new",
        "TLS, new connections",
        headers={"Connection": "close"},
        tls=True,
        stands_for="A TLS handshake for each request.",
    ),
    Workload("many", "512 connections", connections=512, stands_for="Many clients at once, with the short request."),
    Workload(
        "block",
        "10 ms call",
        app="benchmarks.apps:block",
        blocks=0.010,
        stands_for="A database call of 10 ms in each request.",
    ),
    Workload(
        "mixed",
        "1 in 10 blocks",
        app="benchmarks.apps:mixed",
        blocks=0.020 / 10,
        stands_for="Most requests are served from a cache; one in ten waits for 20 ms.",
    ),
    Workload(
        "sleepers",
        "1,000 calls of 10 ms",
        app="benchmarks.apps:block",
        connections=1000,
        threads=1000,
        stands_for="A thousand clients, each of whose requests waits for 10 ms, and room for all of them.",
    ),
    Workload(
        "flask",
        "Flask, varied",
        app="benchmarks.flaskapp:app",
        headers=API,
        varies="varied",
        stands_for="A framework, with requests that differ.",
    ),
    Workload(
        "asgi-varied",
        "varied, ASGI",
        app="benchmarks.asgiapps:hello",
        headers=API,
        varies="varied",
        stands_for="Clients of an API: each request has a path, query, cookie and request id of its own.",
        interface="asgi",
    ),
    Workload(
        "asgi-orders",
        "varied JSON POST, ASGI",
        app="benchmarks.asgiapps:post",
        answer=TOTAL,
        method="POST",
        headers=API,
        body=ORDER,
        varies="post",
        stands_for="An API that takes JSON, each body another one.",
        interface="asgi",
    ),
    Workload(
        "asgi-hello",
        "hello, ASGI",
        app="benchmarks.asgiapps:hello",
        stands_for="The same short request again and again.",
        interface="asgi",
    ),
    Workload(
        "asgi-stream",
        "16 pieces, ASGI",
        app="benchmarks.asgiapps:stream",
        answer=apps.CHUNK * apps.CHUNKS,
        stands_for="A response in 16 messages of 1 KiB without a Content-Length.",
        interface="asgi",
    ),
    Workload(
        "asgi-new",
        "new connections, ASGI",
        app="benchmarks.asgiapps:hello",
        headers={"Connection": "close"},
        stands_for="Clients and proxies that open a connection for each request.",
        interface="asgi",
    ),
    Workload(
        "asgi-many",
        "512 connections, ASGI",
        app="benchmarks.asgiapps:hello",
        connections=512,
        stands_for="Many clients at once, with the short request.",
        interface="asgi",
    ),
    Workload(
        "asgi-wait",
        "1,000 wait 10 ms, ASGI",
        app="benchmarks.asgiapps:wait",
        connections=1000,
        stands_for="A thousand clients, and in each request an await of 10 ms, as for a database.",
        interface="asgi",
    ),
    Workload(
        "fastapi",
        "FastAPI, varied",
        app="benchmarks.fastapiapp:app",
        headers=API,
        varies="varied",
        stands_for="A framework of ASGI, with requests that differ.",
        interface="asgi",
    ),
)
BY_KEY = {workload.key: workload for workload in WORKLOADS}
