"""The access log of the real command in each of its formats, WSGI on threads and greenlets, ASGI as tasks."""

from __future__ import annotations

import json
import re
import signal
import socket
import sys
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import pytest

from support import DEADLINE, Client, Server, get, open_files, run, wait_for

if TYPE_CHECKING:
    from pathlib import Path

WSGI = """
def app(environ, start_response):
    if environ["PATH_INFO"] == "/fail":
        raise ValueError("boom")
    start_response("200 OK", [("Content-Type", "text/plain"), ("X-Tag", "t1")])
    return [b"hello"]
"""

ASGI = """
async def app(scope, receive, send):
    if scope["type"] == "lifespan":
        raise ValueError("none")
    if scope["path"] == "/fail":
        raise ValueError("boom")
    await send({"type": "http.response.start", "status": 200,
      "headers": [(b"content-type", b"text/plain"), (b"x-tag", b"t1")]
    })
    await send({"type": "http.response.body", "body": b"hello"})
"""

KINDS = {"threads": (WSGI, ("--no-gevent",)), "greenlets": (WSGI, ()), "tasks": (ASGI, ("--interface", "asgi"))}


@pytest.fixture(params=[*KINDS])
def kind(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[str, ...]:
    if request.param == "greenlets":
        pytest.importorskip("gevent")
    source, flags = KINDS[request.param]
    (tmp_path / "site1.py").write_text(source)
    return flags


def ask(server: Server) -> None:
    """A response, an error of the application, and a request that the server refuses itself."""
    with Client(server.port) as client:
        client.send(
            b'GET /a%20b?x=1 HTTP/1.1\r\nHost: h\r\nX-Request-Id: r1\r\nUser-Agent: "\\\r\nReferer: \xff\r\n\r\n'
        )
        assert client.read().body == b"hello"
    assert get(server.port, "/fail").status == 500
    with Client(server.port) as client:
        client.send(b"GET / HTTP/1.1\r\nBad\x01: \r\n\r\n")
        client.socket.shutdown(socket.SHUT_WR)
        assert client.rest().startswith(b"HTTP/1.1 400 ")


@pytest.mark.daily("greenlets")
def test_a_file_in_the_format_of_log_analysers(kind: tuple[str, ...], tmp_path: Path) -> None:
    fmt = '%(h)s %(l)s %(u)s %(t)s "%(r)s" %(s)s %(b)s "%(f)s" "%(a)s" %({x-request-id}i)s %({x-tag}o)s %(L)s'
    path = tmp_path / "access.log"
    with Server("site1:app", "--access-log", str(path), "--access-log-format", fmt, *kind, cwd=tmp_path) as server:
        ask(server)
        wait_for(lambda: path.read_text().count("\n") >= 3)
    lines = path.read_text(encoding="utf-8").splitlines()
    served, failed, refused = (next(line for line in lines if f'" {code} ' in line) for code in (200, 500, 400))
    start = r"127\.0\.0\.1 - - \[\d\d/[A-Z][a-z]{2}/\d{4}:\d\d:\d\d:\d\d [+-]\d{4}\] "
    assert re.fullmatch(start + r'"GET /a%20b\?x=1 HTTP/1\.1" 200 5 "ÿ" "\\x22\\x5c" r1 t1 0\.\d{6}', served)
    assert re.fullmatch(start + r'"GET /fail HTTP/1\.1" 500 \d+ "-" "[^"]*" - - 0\.\d{6}', failed)
    assert re.fullmatch(start + r'"- - -" 400 \d+ "-" "-" - - 0\.\d{6}', refused)
    text = "\n".join(server.log)
    assert text.count("ValueError: boom") == 1
    assert "worker ready" in text
    assert '" 200 5' not in text


@pytest.mark.daily("greenlets-single", "tasks-worker")
@pytest.mark.parametrize("processes", [(), ("-p", "1")], ids=["single", "worker"])
def test_every_line_is_json(kind: tuple[str, ...], processes: tuple[str, ...], tmp_path: Path) -> None:
    flags = ("--access-log-format", "json", *kind, *processes)
    with Server("site1:app", *flags, cwd=tmp_path) as server:
        ask(server)
        wait_for(lambda: sum('"status"' in line for line in server.log) >= 3)
    records = [json.loads(line) for line in server.log]
    found = {each["status"]: each for each in records if "status" in each}  # a line may come after that of the next
    served, failed, refused = found[200], found[500], found[400]
    assert (served["request_id"], served["path"], served["query"], served["bytes"]) == ("r1", "/a b", "x=1", 5)
    assert (served["user_agent"], served["referer"]) == ('"\\', "ÿ")
    assert failed["logger"] == "zibai.error"
    assert failed["traceback"].endswith("ValueError: boom\n")
    assert refused["status"] == 400
    assert "method" not in refused
    assert served["worker"] == (0 if processes else None)
    assert {each["worker"] for each in records} == ({0, None} if processes else {None})
    assert any("worker ready" in each["message"] for each in records)


def test_a_wrong_format_is_told_at_the_start(tmp_path: Path) -> None:
    (tmp_path / "site1.py").write_text(WSGI)
    ended = run("site1:app", "--access-log-format", "%(h)s %(status)s", cwd=tmp_path)
    assert ended.returncode == 2
    assert "there is no %(status)s; did you mean %(s)s?" in ended.stderr


FORMAT = "%(s)s %({x-request-id}i)s"


def send(server: Server, number: int, *, first: int = 0) -> set[str]:
    """The lines that so many requests leave, which four clients send side by side."""

    def one(client_number: int) -> None:
        with Client(server.port) as client:
            for index in range(client_number, number, 4):
                assert client.get("/", f"X-Request-Id: r{first + index}").status == 200

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(one, range(4)))
    return {f"200 r{first + index}" for index in range(number)}


def lines_of(*paths: Path) -> list[str]:
    return [line for path in paths for line in path.read_text(encoding="utf-8").splitlines()]


@pytest.mark.daily("threads-workers", "tasks-workers")
@pytest.mark.parametrize("processes", [(), ("-p", "2")], ids=["single", "workers"])
def test_it_is_rotated_by_its_size_and_no_line_is_lost(
    kind: tuple[str, ...], processes: tuple[str, ...], tmp_path: Path
) -> None:
    path = tmp_path / "access.log"
    flags = ("--access-log", str(path), "--access-log-format", FORMAT, "--log-max-bytes", "1k", "--log-backups", "90")
    with Server("site1:app", *processes, *flags, *kind, cwd=tmp_path) as server:
        expected = send(server, 400)
        assert server.stop() == 0
    files = [*tmp_path.glob("access.log*")]
    assert len(files) >= 4
    # A worker that finds the file full and locked by another one writes to it all the same.
    limit = 2048 if processes else 1024
    assert all(file.stat().st_size <= limit for file in files)
    assert sorted(lines_of(*files)) == sorted(expected), "each line once and whole"
    assert "200 r" not in "\n".join(server.log)


@pytest.mark.daily("greenlets-workers", "tasks-single")
@pytest.mark.skipif(sys.platform != "linux", reason="/proc tells which processes have reopened the file")
@pytest.mark.parametrize("processes", [(), ("-p", "2")], ids=["single", "workers"])
def test_it_is_moved_while_requests_run(kind: tuple[str, ...], processes: tuple[str, ...], tmp_path: Path) -> None:
    """As logrotate does: the file is moved, then SIGUSR1 is sent."""
    path, moved = tmp_path / "access.log", tmp_path / "access.log.old"
    flags = ("--access-log", str(path), "--access-log-format", FORMAT)
    with Server("site1:app", *flags, *processes, *kind, cwd=tmp_path) as server:
        expected = send(server, 20)
        with ThreadPoolExecutor(1) as pool:
            sent = pool.submit(send, server, 200, first=1000)
            wait_for(lambda: path.read_text().count("\n") > 30)
            path.rename(moved)
            server.signal(signal.SIGUSR1)
            expected |= sent.result(DEADLINE)
        everybody = [server.pid, *server.children()]
        wait_for(lambda: not any(str(moved) in open_files(pid) for pid in everybody))
        expected |= send(server, 20, first=2000)
        assert server.stop() == 0
    assert sorted(lines_of(moved, path)) == sorted(expected)  # none lost, none twice
    assert {f"200 r{number}" for number in range(20)} <= {*lines_of(moved)}
    assert {f"200 r{number}" for number in range(2000, 2020)} <= {*lines_of(path)}
