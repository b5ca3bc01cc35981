"""The benchmark: what wrk prints is read, what was read is compared, and what came out is written down.

The figures here are made up; the last test measures, very shortly, where wrk is installed.
"""

from __future__ import annotations

import cProfile
import json
import pstats
import re
import shutil
import socket
import subprocess
import sys
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree as ET

import h11
import pytest

from benchmarks import asgiapps, chart, load, loops, profiled, report, tables, verdict, websocket
from benchmarks.__main__ import parse, steps
from benchmarks.bareasgi import Exchange
from benchmarks.bareloop import answer
from benchmarks.results import Idle, Measurement, Results, errors, of, rate, ratio, typical
from benchmarks.servers import ALL_OURS, BY_NAME, CERTIFICATE, KEY, LIMIT, OURS, SERVERS, missing, version
from benchmarks.workloads import BY_KEY, WORKLOADS

from support import ROOT, environment

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

WRK = """\
Running 2s test @ http://127.0.0.1:8000/
  1 threads and 64 connections
  Thread Stats   Avg      Stdev     Max   +/- Stdev
    Latency     6.80ms   26.00ms 241.02ms   96.83%
    Req/Sec    20.23k     1.68k   23.20k    80.00%
  Latency Distribution
     50%  265.00us
     75%    2.75ms
     90%    2.89ms
     99%    1.05s
  20105 requests in 2.00s, 2.76MB read
Requests/sec:  10052.87
Transfer/sec:      2.76MB
"""


# --- wrk --------------------------------------------------------------------------------------------


def test_what_wrk_prints() -> None:
    found = load.parse(WRK)
    assert (found.rate, found.requests, found.errors) == (10052.87, 20105, [])
    assert (found.p50, found.p99) == (pytest.approx(265e-6), pytest.approx(1.05))


@pytest.mark.parametrize(("text", "seconds"), [("99.00us", 99e-6), ("7.25ms", 7.25e-3), ("1.20s", 1.2), ("1.00m", 60)])
def test_units(text: str, seconds: float) -> None:
    assert load.parse(WRK.replace("1.05s", text)).p99 == pytest.approx(seconds)


def test_errors_that_wrk_counts() -> None:
    text = WRK.replace(
        "Requests/sec",
        "  Socket errors: connect 0, read 12, write 0, timeout 3\n  Non-2xx or 3xx responses: 7\nRequests/sec",
    )
    found = load.parse(text)
    assert found.rate == 10052.87
    assert found.errors == ["12 failed to read", "3 timed out", "7 answers were errors"]


def test_nothing_answered() -> None:
    text = WRK.replace("20105 requests", "0 requests").replace("10052.87", "0.00")
    assert load.parse(text).errors == ["no request was answered"]


@pytest.mark.parametrize("text", ["unable to connect to 127.0.0.1:8000 Connection refused\n", ""])
def test_wrk_itself_fails(text: str) -> None:
    found = load.parse(text)
    assert found.rate == 0
    assert found.errors == ["wrk: " + (text.strip() or "said nothing")]


def test_script() -> None:
    assert load.script(BY_KEY["hello"]) == 'wrk.method = "GET"\n'
    assert 'wrk.headers["Connection"] = "close"\n' in load.script(BY_KEY["new"])
    post = load.script(BY_KEY["post"])
    assert 'wrk.method = "POST"\nwrk.body = "{\\"id\\": 4711, ' in post


def test_varied_requests_differ() -> None:
    for key in ("varied", "forwarded", "browsers", "orders", "flask"):
        text = load.script(BY_KEY[key])
        assert "request = function()" in text
        assert "wrk.method" not in text
        for own in ("/shop/item-", "?page=", "X-Request-Id", "Host: shop.example"):
            assert own in text
    assert "X-Forwarded-For" in load.script(BY_KEY["forwarded"])
    assert "Content-Length" in load.script(BY_KEY["orders"])
    browsers = load.script(BY_KEY["browsers"])
    assert len(set(re.findall(r"^\"Host: .*$", browsers, re.MULTILINE))) == 100


@pytest.mark.skipif(sys.platform != "linux" or shutil.which("wrk") is None, reason="needs Linux and wrk")
@pytest.mark.parametrize("key", ["varied", "forwarded", "browsers", "orders"])
def test_varied_requests_are_well_formed(key: str, tmp_path: Path) -> None:
    """What wrk sends is looked at by h11, one request after the other on one connection."""
    (tmp_path / "request.lua").write_text(load.script(BY_KEY[key]), encoding="utf-8")
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        with subprocess.Popen(
            ["wrk", "-t1", "-c1", "-d1s", "-s", str(tmp_path / "request.lua"), f"http://127.0.0.1:{port}/"],
            stdout=subprocess.DEVNULL,
        ) as wrk:
            listener.settimeout(10)
            listener.accept()[0].close()  # wrk tries first whether somebody listens
            client, _ = listener.accept()
            with client:
                client.settimeout(10)
                heads = list(exchange(client, 20))
            wrk.kill()
    targets, ids = ({head[part] for head in heads} for part in (0, 1))
    assert len(targets) == len(ids) == 20


def exchange(client: socket.socket, count: int) -> Iterator[tuple[bytes, bytes]]:
    """Target and request id of so many requests, each of which is answered."""
    connection = h11.Connection(h11.SERVER)
    for _ in range(count):
        request = None
        while type(event := connection.next_event()) is not h11.EndOfMessage:
            if event is h11.NEED_DATA:
                connection.receive_data(client.recv(65536))
            elif isinstance(event, h11.Request):
                request = event
        assert request is not None
        yield request.target, dict(request.headers)[b"x-request-id"]
        client.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
        connection.send(h11.Response(status_code=200, headers=[("Content-Length", "0")]))
        connection.send(h11.EndOfMessage())
        connection.start_next_cycle()


# --- the tables -------------------------------------------------------------------------------------


def test_servers() -> None:
    assert len({server.key for server in SERVERS}) == len(SERVERS)
    assert {LIMIT, *ALL_OURS} <= BY_NAME.keys()
    for server in SERVERS:
        for work in filter(server.runs, WORKLOADS):
            line = server.line(work, 4321, 7)
            assert "4321" in line
            assert "{" not in line
            assert (CERTIFICATE in line) == (KEY in line) == work.tls
            module, _, attribute = work.app.partition(":")
            assert server.name == LIMIT or (module in line and attribute in line)


def test_every_server_with_a_figure_to_reach_is_in_the_table() -> None:
    assert set(verdict.NATIVE) == {"bjoern", "fastwsgi", "freastal"}
    assert {"waitress", "cheroot", "granian", "gunicorn gthread", "gunicorn gevent"} <= BY_NAME.keys()


def test_missing() -> None:
    assert missing(BY_NAME[LIMIT]) == ""
    unknown = type(BY_NAME["bjoern"])("x", "", "no_such_server", needs="a C compiler")
    assert missing(unknown).startswith("not installed; it may need a C compiler")
    assert missing(type(unknown)("x", "", "wsgiref.no_such_module")).startswith("import wsgiref.no_such_module: Module")


def test_version() -> None:
    from zibai import __version__

    assert version(BY_NAME["zibai threads"]).startswith(__version__)
    assert version(BY_NAME[LIMIT]) == ""


@pytest.mark.parametrize("work", [each for each in WORKLOADS if each.interface == "asgi"], ids=lambda work: work.key)
def test_asgi_applications(work: Any) -> None:
    import asyncio
    from importlib import import_module

    if work.key == "fastapi":
        pytest.importorskip("fastapi")
    module, _, attribute = work.app.partition(":")
    sent: list[Any] = []

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": work.body, "more_body": False}

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    scope = {"type": "http", "method": work.method, "path": "/", "raw_path": b"/", "query_string": b"", "headers": []}
    scope |= {"root_path": "", "scheme": "http", "http_version": "1.1", "server": ("a", 80), "client": ("b", 1)}
    asyncio.run(getattr(import_module(module), attribute)(scope, receive, send))
    assert sent[0]["status"] == 200
    assert b"".join(message.get("body", b"") for message in sent) == work.answer


@pytest.mark.parametrize("work", [each for each in WORKLOADS if each.interface == "wsgi"], ids=lambda work: work.key)
def test_applications(work: Any) -> None:
    """What the table of workloads takes for the right answer is what the application says."""
    from importlib import import_module
    from io import BytesIO

    if "flask" in work.app and find_spec("flask") is None:
        pytest.skip("flask is not installed")
    module, _, attribute = work.app.partition(":")
    environ = {"REQUEST_METHOD": work.method, "PATH_INFO": "/", "wsgi.input": BytesIO(work.body), "HTTP_HOST": "a"}
    environ |= {
        "CONTENT_LENGTH": str(len(work.body)),
        "SERVER_NAME": "a",
        "SERVER_PORT": "80",
        "wsgi.url_scheme": "http",
    }
    said: list[str] = []
    body = b"".join(getattr(import_module(module), attribute)(environ, lambda status, *_: said.append(status)))
    assert (said, body) == (["200 OK"], work.answer)


def test_possible() -> None:
    assert BY_KEY["block"].possible(10) == pytest.approx(1000)
    assert BY_KEY["mixed"].possible(10) == pytest.approx(5000)
    assert BY_KEY["hello"].possible(10) is None


def test_answer_of_the_bare_loop() -> None:
    assert answer("hello").startswith(b"HTTP/1.1 200 OK\r\n")
    assert answer("hello").endswith(b"\r\n\r\nHello World!")
    assert b"Connection: close\r\n" in answer("new")
    assert len(answer("page")) > 12 * 1024


def test_the_bare_loop_calls_an_asgi_application() -> None:
    here, there = socket.socketpair()
    with here, there:
        order = b'{"id": 7, "items": [{"price": 2}, {"price": 3}]}'
        Exchange(b"POST / HTTP/1.1\r\nHost: a\r\n\r\n" + order, here, closes=False).run(asgiapps.post)
        head, _, body = there.recv(65536).partition(b"\r\n\r\n")
        assert json.loads(body) == {"id": 7, "total": 5}
        assert head.startswith(b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n")
        assert b"\r\ncontent-length: %d\r\n" % len(body) in head
        Exchange(b"GET / HTTP/1.1\r\n\r\n", here, closes=True).run(asgiapps.hello)
        assert b"\r\nConnection: close\r\n" in there.recv(65536)
        with pytest.raises(RuntimeError, match="no running event loop"):
            Exchange(b"GET / HTTP/1.1\r\n\r\n", here, closes=False).run(asgiapps.wait)


# --- what is computed -------------------------------------------------------------------------------


def rounds(server: str, workload: str, *rates: float, **more: Any) -> list[Measurement]:
    return [Measurement(server, workload, number, rate, 0.001, **more) for number, rate in enumerate(rates, 1)]


def example() -> Results:
    """Two rounds, the second on a machine that is half as fast."""
    results = Results({"Date": "2026-01-01", "Processor": "Z80", "Python": "3.11.7"})
    results.measurements += [
        *rounds("bare loop", "varied", 100_000, 50_000, p99=0.001),
        *rounds("zibai threads", "varied", 80_000, 40_000, p99=0.003),
        *rounds("zibai gevent", "varied", 50_000, 25_000, p99=0.001),
        *rounds("bjoern", "varied", 60_000, 30_000, p99=0.001),
        *rounds("granian", "varied", 40_000, 20_000, p99=0.002),
        *rounds("freastal", "varied", 90_000, 45_000, p99=0.002),
        *rounds("zibai threads", "block", 990, 970),
        *rounds("zibai gevent", "block", 900, 900),
    ]
    results.measurements.append(Measurement("waitress", "varied", 1, errors=["ended with code 1: <no|idea>"]))
    results.idle += [
        Idle("zibai threads", 1, 10_000, 80_000, 78_000, 2048),
        Idle("zibai gevent", 1, 10_000, errors=["x"]),
    ]
    results.processes += [*rounds("zibai threads -p 1", "hello", 1000), *rounds("zibai threads -p 2", "hello", 1900)]
    results.versions["zibai threads"] = "1.0.0"
    results.commands["zibai threads"] = "-m zibai app"
    results.profiles["zibai gevent, varied"] = "50.0% send"
    results.skipped["cheroot"] = "not installed"
    return results


def figures(results: Results, ours: str) -> dict[str, float | None]:
    return {row.title: row.figure(results, ours) for row in verdict.targets()}


def test_ratios_are_taken_within_a_round() -> None:
    ours, theirs = rounds("a", "w", 80, 10, 90), rounds("b", "w", 100, 20, 0)
    assert ratio(ours, theirs, rate) == pytest.approx(0.65)
    assert ratio(ours, [], rate) is None
    assert typical(theirs, rate) == 60  # what could not be measured is no zero
    assert typical([], rate) is None


def test_verdict() -> None:
    threads, greenlets = (figures(example(), ours) for ours in OURS)
    assert threads["varied: share of the bare loop"] == pytest.approx(0.8)
    assert threads["varied: times bjoern"] == pytest.approx(80 / 60)
    assert threads["hello: times granian"] is None
    assert threads["varied: times granian"] == pytest.approx(2)
    assert threads["every call blocks 10 ms: share of the possible"] == pytest.approx(0.98)
    assert threads["varied: p99, times granian's"] == pytest.approx(1.5)
    assert threads["idle connections: share of the speed kept"] == pytest.approx(0.975)
    assert threads["idle connections: memory each, KiB"] == 2
    assert threads["measurements with an error"] == 0
    assert greenlets["measurements with an error"] == 1
    assert greenlets["idle connections: share of the speed kept"] is None

    assert [(row.title, ours) for row, ours in verdict.missed(example())] == [
        ("varied: share of the bare loop", "zibai gevent"),
        ("varied: times granian", "zibai gevent"),
        ("varied: p99, times granian's", "zibai threads"),
        ("every call blocks 10 ms: share of the possible", "zibai gevent"),
        ("measurements with an error", "zibai gevent"),
    ]


def test_asgi_has_a_table_and_figures_of_its_own() -> None:
    results = Results(
        measurements=[
            *rounds("zibai tasks", "asgi-hello", 90, 90, 90),
            *rounds("uvicorn asgi", "asgi-hello", 40, 40, 40),
            *rounds("zibai threads", "hello", 100, 100, 100),
        ]
    )
    page = report.page(results, None)
    assert "| requests/s | hello |\n| --- | ---: |\n| **zibai threads** | **100** |\n\n" in page
    assert "| requests/s | hello, ASGI |\n| --- | ---: |\n| **zibai tasks** | **90** |\n| uvicorn asgi | 40 |\n" in page
    assert "| hello, ASGI: times uvicorn asgi | ≥ 2.00 |  |  | 2.25 |" in page
    assert "| hello, ASGI: times hello on threads | ≥ 0.85 |  |  | 0.90 |" in page
    only_wsgi = Results(measurements=rounds("zibai threads", "hello", 1))
    assert report.ASGI in page
    assert report.ASGI not in report.page(only_wsgi, None)


def test_a_blocking_call_that_failed_counts() -> None:
    results = Results(measurements=rounds("zibai threads", "block", 1000, 0, 0))
    assert figures(results, "zibai threads")["every call blocks 10 ms: share of the possible"] == 0


# --- what is written --------------------------------------------------------------------------------


def test_page() -> None:
    page = report.page(example(), report.CHART)
    assert "| bare loop | 75,000 |" in page
    assert "| **zibai threads** | **60,000** | **980** |" in page
    assert "| waitress (!) | – | – |" in page  # noqa: RUF001
    assert page.count("- (!) waitress") == 2, "in the comparison, and in the table of the workload"
    assert "round 1: ended with code 1: <no|idea>" in page
    assert "| varied: share of the bare loop | ≥ 0.60 | 0.80 | **missed:** 0.50 |" in page
    assert "| hello: times granian | ≥ 1.00 | – | – |" in page  # noqa: RUF001
    assert "## 10,000 idle connections" in page
    assert "| **zibai threads** | 80,000 | 78,000 | 0.97 | 2 |" in page
    assert "| zibai threads, hello | 1,000 | 1,900 | 1.90 |" in page
    assert "zibai gevent, varied:\n\n```text\n50.0% send\n```\n" in page
    assert "- cheroot: not installed" in page
    assert "| zibai threads | 1.0.0 | `-m zibai app` |" in page
    assert_tables(page)


def test_a_limit_that_was_not_reached_is_said() -> None:
    results = Results(measurements=rounds("bare loop", "hello", 100_000, cpu=9e-6))
    assert tables.doubts(results) == ""
    results.measurements = rounds("bare loop", "hello", 100_000, cpu=5e-6)
    assert tables.doubts(results).startswith("**The bare loop used only 50% of its processor**")
    assert tables.doubts(results) in report.page(results, None)


def assert_tables(text: str) -> None:
    """All lines of a table have the same number of cells."""
    for part in text.split("\n\n"):
        lines = [line for line in part.splitlines() if line.startswith("|")]
        assert len({line.count("|") for line in lines}) <= 1, lines


def test_chart() -> None:
    svg = chart.draw(example())
    assert svg is not None
    root = ET.fromstring(svg)
    assert root.tag == "{http://www.w3.org/2000/svg}svg"
    texts = ["".join(element.itertext()) for element in root.iter("{http://www.w3.org/2000/svg}text")]
    assert texts[1::2] == ["bare loop", "freastal", "zibai threads", "bjoern", "zibai gevent", "granian"]
    assert texts[6] == "0.80 · 60,000/s"
    widths = [float(bar.attrib["width"]) for bar in root.iter("{http://www.w3.org/2000/svg}rect")]
    assert widths == sorted(widths, reverse=True)
    assert chart.draw(Results()) is None


def test_readme() -> None:
    before = f"# Z\n\n{report.BEGIN}\nold\n{report.END}\n\n## Next\n"
    after = report.readme(example(), before)
    assert after.startswith(f"# Z\n\n{report.BEGIN}\n\n2026-01-01, Z80, Python 3.11.7")
    assert "old" not in after
    head, row = re.search(r"(\| requests/s .*)\n.*\n(\| varied .*)", after).groups()
    assert head == "| requests/s | **zibai threads** | **zibai gevent** | waitress | granian | bjoern |"
    assert row.startswith("| varied | **")
    assert "to reach" not in after
    assert after.endswith(f"{report.END}\n\n## Next\n")
    assert report.readme(example(), after) == after
    with pytest.raises(ValueError, match="no part between"):
        report.readme(example(), "# Z\n")
    assert report.BEGIN in (ROOT / "README.md").read_text(encoding="utf-8")


def test_results_are_kept(tmp_path: Path) -> None:
    page = report.write(example(), tmp_path / "new")
    assert {path.name for path in page.parent.iterdir()} == {"index.md", report.CHART, "results.json"}
    again = Results.load(tmp_path / "new" / "results.json")
    assert again == example()
    assert errors(of(again.measurements, "waitress", "varied")) == "round 1: ended with code 1: <no|idea>"


def serve_nothing() -> None:
    """What is profiled in the next test."""
    for _ in range(1000):
        len("")


def test_profile() -> None:
    profiler = cProfile.Profile()
    profiler.runcall(serve_nothing)
    lines = profiled.table(pstats.Stats(profiler))
    assert any(line.endswith("    1 calls  tests/test_benchmarks.py:" + line.rpartition(":")[2]) for line in lines)
    assert any(line.endswith("1,000 calls  <built-in method builtins.len>") for line in lines)
    assert "-m benchmarks.profiled {app}" in profiled.command(BY_NAME["zibai gevent"]).command


# --- the run ----------------------------------------------------------------------------------------


def test_rounds_begin_with_another_server() -> None:
    args = parse(["--workloads", "hello", "idle", "processes", "--rounds", "3"])
    servers = [BY_NAME[name] for name in (LIMIT, *OURS, "gunicorn sync")]
    names = [name for name, _ in steps(args, servers, Results())]
    assert [name.rpartition(", ")[2] for name in names if ", hello, " in name and " -p " not in name] == [
        *("bare loop", "zibai threads", "zibai gevent", "gunicorn sync"),
        *("gunicorn sync", "bare loop", "zibai threads", "zibai gevent"),
        *("zibai gevent", "gunicorn sync", "bare loop", "zibai threads"),
    ]
    idle = [name for name in names if "idle connections" in name]
    assert len(idle) == 3 + 2 + 2, "all that keep connections once, ours in each round"
    assert sum(" -p 2" in name for name in names) == 2 * 2 * 3


def test_arguments() -> None:
    args = parse([])
    assert (args.rounds, args.seconds, args.idle) == (3, 2, 10_000)
    assert {*BY_KEY, "idle", "processes"} == set(args.workloads)
    quick = parse(["--quick", "--seconds", "2"])
    assert (quick.rounds, quick.seconds, quick.idle) == (1, 2, 1000)
    assert "new" not in quick.workloads
    with pytest.raises(SystemExit):
        parse(["--only", "apache"])


def benchmarks(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "benchmarks", *arguments]
    return subprocess.run(command, cwd=ROOT, env=environment(), capture_output=True, text=True, timeout=50, check=False)


def test_without_wrk() -> None:
    command = [sys.executable, "-m", "benchmarks"]
    env = environment({"PATH": ""})
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=20, check=False)
    assert done.returncode == 1
    assert done.stderr.startswith("the benchmark needs " + ("wrk" if sys.platform == "linux" else "Linux"))
    assert len(done.stderr.splitlines()) == 1


def test_report_of_an_earlier_run(tmp_path: Path) -> None:
    example().save(tmp_path / "kept.json")
    done = benchmarks("--from", str(tmp_path / "kept.json"), "--output", str(tmp_path))
    assert "missed: zibai gevent: varied: share of the bare loop" in done.stdout
    assert done.stdout.splitlines()[-1] == f"the report: {tmp_path / 'index.md'}"
    assert (tmp_path / "index.md").read_text(encoding="utf-8") == report.page(example(), report.CHART)


@pytest.mark.skipif(sys.platform != "linux" or shutil.which("wrk") is None, reason="needs Linux and wrk")
def test_measures(tmp_path: Path) -> None:
    done = benchmarks(
        *["--quick", "--profile", "--only", "bare-loop", "zibai-threads", "--workloads", "hello", "tls"],
        *["--output", str(tmp_path)],
    )
    assert done.returncode == 0, done.stderr
    assert "[2/3] round 1 of 1, hello, zibai threads: " in done.stdout
    results = Results.load(tmp_path / "results.json")
    for name, work in ((LIMIT, "hello"), ("zibai threads", "hello"), ("zibai threads", "tls")):
        (found,) = of(results.measurements, name, work)
        assert found.errors == []
        assert found.rate > 100
        assert 0 < found.p50 <= found.p99
        assert found.memory > 2**20
        assert 0 < found.cpu < 0.1
    assert results.facts["wrk"]
    assert all(" calls  " in text for text in results.profiles.values()), "only of a figure that was missed"


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize("load", websocket.LOADS, ids=lambda load: load.key)
def test_messages_are_measured(load: websocket.Load) -> None:
    """Of this server, shortly: what comes back is what was sent, and it costs something."""
    pytest.importorskip("websockets")
    assert 0 < websocket.measure(BY_NAME["zibai tasks"], load, 0.1) < 1e6


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_the_memory_of_websockets_is_measured() -> None:
    pytest.importorskip("websockets")
    tasks = BY_NAME["zibai tasks"]
    plain = websocket.measure_memory(tasks, 100)
    assert plain < 32, "KiB; 10 are promised, and a small number of connections says little"
    assert websocket.measure_memory(tasks, 100, websocket.DEFLATE, websocket.packed(1024)) > plain


def test_ratios_of_messages_are_taken_within_a_round() -> None:
    found = {"ours": [1.0, 10.0, 2.0], "other": [2.0, 30.0, 4.0]}
    assert websocket.table("echo", "us", found, {"other": 1.25}).splitlines() == [
        "echo (us; median of 3)",
        "  ours                       2.0   1.00",
        "  other                      4.0   2.00  at least 1.25",
    ]


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux" or shutil.which("wrk") is None, reason="needs Linux and wrk")
def test_measures_idle_connections_and_processes(tmp_path: Path) -> None:
    done = benchmarks(
        *["--quick", "--idle", "200", "--only", "zibai-threads", "--output", str(tmp_path)],
        *["--workloads", "idle", "processes"],
    )
    assert done.returncode == 0, done.stderr
    results = Results.load(tmp_path / "results.json")
    (idle,) = results.idle
    assert idle.errors == []
    assert idle.before > 100
    assert idle.during > 100
    assert [each.errors for each in results.processes] == [[]] * 4


def test_a_table_of_loops_and_processes() -> None:
    found = loops.Found([400.0, 440.0, 420.0], [40 * 2**20] * 3)
    twice = loops.Found([800.0, 700.0, 756.0], [42 * 2**20] * 3)
    broken = loops.Found(errors=["ended with code 2: no", "ended with code 2: no"])
    lines = loops.table({"one loop": found, "--loops 2": twice, "granian": broken}).splitlines()[2:]
    assert lines == [
        "| one loop | 420 | 400 to 440 | 1.00 | 40 MiB |",
        "| --loops 2 | 756 | 700 to 800 | 1.80 | 42 MiB |",
        "| granian | ended with code 2: no | | | |",
    ]


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux" or shutil.which("wrk") is None, reason="needs Linux and wrk")
def test_measures_loops() -> None:
    command = [sys.executable, "-m", "benchmarks.loops", "--rounds", "2", "--seconds", "1"]
    done = subprocess.run(
        command, cwd=ROOT, env=environment(), capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    for name in ("one loop", "--loops 2", "-p 2", "-p 1 --loops 2"):
        assert re.search(rf"^\| {name} \| [\d,]+ \|.* \d+ MiB \|$", done.stdout, re.MULTILINE), done.stdout
