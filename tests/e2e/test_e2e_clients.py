"""Right answers to real clients, big bodies and pipelines, with `wsgiref.validate` around the application."""

from __future__ import annotations

import hashlib
import http.client
import json
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from typing import TYPE_CHECKING

import pytest

from apps.plain import pattern
from support import DEADLINE, Client, Gate, Response, Server, get, wait_for

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

BIG = 50 * 1024 * 1024


@pytest.fixture(scope="module")
def server(backend: tuple[str, ...]) -> Iterator[Server]:
    with Server("plain:validated", *backend) as server:
        yield server


@pytest.fixture
def client(server: Server) -> Iterator[http.client.HTTPConnection]:
    with closing(http.client.HTTPConnection("127.0.0.1", server.port, timeout=DEADLINE)) as connection:
        yield connection


@pytest.fixture(scope="session")
def big_checksum() -> str:
    digest = hashlib.sha256()
    for chunk in pattern(BIG):
        digest.update(chunk)
    return digest.hexdigest()


# --- http.client ------------------------------------------------------------------------------------


def test_many_requests_on_one_connection(client: http.client.HTTPConnection) -> None:
    for number in range(50):
        client.request("GET", f"/path/{number}")
        answer = client.getresponse()
        assert (answer.status, answer.read()) == (200, b"/path/%d" % number)
    client.request("HEAD", "/hello")
    answer = client.getresponse()
    assert (answer.status, answer.headers["Content-Length"], answer.read()) == (200, "12", b"")


def test_upload(client: http.client.HTTPConnection, big_checksum: str) -> None:
    client.request("POST", "/checksum", body=pattern(BIG), headers={"Content-Length": str(BIG)})
    assert client.getresponse().read().decode() == f"{big_checksum} {BIG}"


def test_chunked_upload(client: http.client.HTTPConnection, big_checksum: str) -> None:
    client.request("POST", "/checksum", body=pattern(BIG))  # an iterator: http.client sends it chunked
    assert client.getresponse().read().decode() == f"{big_checksum} {BIG}"


@pytest.mark.parametrize("framing", ["", "&length"], ids=["chunked", "length"])
def test_download(client: http.client.HTTPConnection, big_checksum: str, framing: str) -> None:
    client.request("GET", f"/download?size={BIG}{framing}")
    answer = client.getresponse()
    digest, size = hashlib.sha256(), 0
    while chunk := answer.read(256 * 1024):
        digest.update(chunk)
        size += len(chunk)
    assert (digest.hexdigest(), size) == (big_checksum, BIG)


def test_echo_of_a_chunked_upload(client: http.client.HTTPConnection) -> None:
    parts = [b"a", b"bc" * 5000, b"def" * 50_000, b"g"]
    client.request("POST", "/echo", body=iter(parts))
    assert client.getresponse().read() == b"".join(parts)


# --- curl -------------------------------------------------------------------------------------------


@pytest.mark.skipif(shutil.which("curl") is None, reason="there is no curl")
@pytest.mark.parametrize("framing", [[], ["-H", "Transfer-Encoding: chunked"]], ids=["length", "chunked"])
def test_curl_expects_100_continue(server: Server, tmp_path: Path, framing: list[str]) -> None:
    body = b"".join(pattern(2 * 1024 * 1024))
    (tmp_path / "body").write_bytes(body)
    # Without the 100, curl would send the body after this long, and the test would not see that it is missing.
    patience = ["--expect100-timeout", str(2 * DEADLINE)]
    expect = ["-H", "Expect: 100-continue", *framing, *patience]
    url = f"http://127.0.0.1:{server.port}/checksum"
    curl = ["curl", "-q", "--noproxy", "*", "-sS", "-v", "--max-time", str(DEADLINE)]
    done = subprocess.run(
        [*curl, *expect, "--data-binary", "@body", url], cwd=tmp_path, capture_output=True, check=False
    )
    talk = done.stderr.decode(errors="replace")
    assert done.stdout.decode() == f"{hashlib.sha256(body).hexdigest()} {len(body)}", talk
    assert talk.count("< HTTP/1.1 100 ") == 1
    assert talk.count("< HTTP/1.1 200 ") == 1


# --- requests ---------------------------------------------------------------------------------------


def test_a_pool_of_connections_in_threads(server: Server) -> None:
    requests = pytest.importorskip("requests")
    with requests.Session() as session:
        session.trust_env = False
        session.mount("http://", requests.adapters.HTTPAdapter(pool_maxsize=8, pool_block=True))

        def talk(thread: int) -> None:
            for number in range(25):
                body = f"{thread}-{number}" * 100
                answer = session.post(f"http://127.0.0.1:{server.port}/echo", data=body, timeout=DEADLINE)
                assert (answer.status_code, answer.text) == (200, body)
                answer = session.get(f"http://127.0.0.1:{server.port}/path/{thread}/{number}", timeout=DEADLINE)
                assert answer.text == f"/path/{thread}/{number}"

        with ThreadPoolExecutor(8) as threads:
            list(threads.map(talk, range(8)))


# --- bytes ------------------------------------------------------------------------------------------


def test_twenty_requests_in_one_packet(server: Server) -> None:
    with Client(server.port) as client:
        client.send(b"".join(b"GET /path/%d HTTP/1.1\r\nHost: test\r\n\r\n" % number for number in range(20)))
        assert [client.read().body for _ in range(20)] == [b"/path/%d" % number for number in range(20)]


def test_a_pipeline_of_bodies(server: Server) -> None:
    """Length, chunks and nothing in turn: where one body ends, the next request begins."""
    request = b"POST /echo HTTP/1.1\r\nHost: test\r\n"
    with Client(server.port) as client:
        for _ in range(5):
            client.send(
                request + b"Content-Length: 5\r\n\r\nfirst"
                # and in the same packet
                + request + b"Transfer-Encoding: chunked\r\n\r\n3\r\nsec\r\n3\r\nond\r\n0\r\n\r\n"
                + b"GET /path/third HTTP/1.1\r\nHost: test\r\n\r\n"
            )  # fmt: skip
        assert [client.read().body for _ in range(15)] == [b"first", b"second", b"/path/third"] * 5


def test_a_request_byte_by_byte(server: Server) -> None:
    with Client(server.port) as client:
        for byte in b"POST /echo HTTP/1.1\r\nHost: test\r\nContent-Length: 4\r\n\r\nbody":
            client.send(bytes([byte]))
        assert client.read().body == b"body"


def test_the_first_chunk_is_there_before_the_second_is_made(server: Server) -> None:
    with Gate() as gate, Client(server.port) as client:
        client.send(f"GET /stream?{gate.port} HTTP/1.1\r\nHost: test\r\n\r\n".encode())
        between = gate.arrival()
        while client.file.readline() != b"\r\n":
            pass
        assert client.file.readline() + client.file.readline() == b"6\r\nfirst,\r\n"
        between.close()
        assert client.file.readline() + client.file.readline() == b"6\r\nsecond\r\n"


def test_http_1_0(server: Server) -> None:
    with Client(server.port) as client:
        client.send(b"GET /path/old HTTP/1.0\r\n\r\n")
        answer = client.read()
        assert (answer.status, answer.body, client.rest()) == (200, b"/path/old", b"")


# --- other ways to listen and to serve --------------------------------------------------------------


@pytest.mark.daily("threads")
def test_two_workers(backend: tuple[str, ...]) -> None:
    """Both serve: while one is known to be busy with a request of its own, and the other too."""
    with Server("plain:validated", "-p", "2", "-w", "1", *backend) as server, Gate() as gate:
        wait_for(lambda: sum("worker ready" in line for line in server.log) == 2)  # else one may take both requests
        request = f"GET /gated?{gate.port} HTTP/1.1\r\nHost: test\r\n\r\n".encode()
        with Client(server.port) as one:
            one.send(request)
            first = gate.arrival()  # one thread or greenlet a worker: this one accepts nothing more
            with Client(server.port) as other:
                other.send(request)
                gate.arrival().close()
                assert other.read().body == b"passed"
            first.close()
            assert one.read().body == b"passed"
        assert int(get(server.port, "/pid").body) in server.children()


@pytest.mark.daily("threads")
@pytest.mark.skipif(sys.platform == "win32", reason="POSIX")
def test_unix_socket(backend: tuple[str, ...], tmp_path: Path) -> None:
    path = tmp_path / "zibai.sock"
    with Server("plain:validated", "--unix-socket-perms", "640", *backend, listen=f"unix:{path}") as server:
        assert path.stat().st_mode & 0o777 == 0o640
        with Client(path) as client:
            assert client.get("/path/one").body == b"/path/one"
            assert client.get("/path/two").body == b"/path/two"
        assert server.stop() == 0
    assert not path.exists()


@pytest.mark.daily("greenlets")
def test_two_addresses(backend: tuple[str, ...]) -> None:
    with Server("plain:validated", "--listen", "127.0.0.1:0", *backend) as server:
        ports = wait_for(lambda: ports if len(ports := [p.rpartition(":")[2] for p in lines(server)]) == 2 else None)
        assert len(set(ports)) == 2
        assert [get(int(port), "/path/x").body for port in ports] == [b"/path/x"] * 2


def test_the_log_says_where_it_listens_whatever_scheme_the_application_is_told() -> None:
    with Server("plain:app", "--url-scheme", "https", "--no-gevent") as server:
        assert [line.partition("listening on ")[2] for line in lines(server)] == [f"http://127.0.0.1:{server.port}"]
        assert json.loads(get(server.port, "/environ").body)["wsgi.url_scheme"] == "https"


def lines(server: Server) -> list[str]:
    return [line for line in server.log if "listening on" in line]


# --- no descriptor left -----------------------------------------------------------------------------

GREEDY = """
import os, resource
from contextlib import suppress

def take():
    resource.setrlimit(resource.RLIMIT_NOFILE, (60, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
    for _ in range(60):
        with suppress(OSError):
            os.dup(0)

def app(environ, start_response):
    start_response("200 OK", [("Content-Length", "20000000" if environ["PATH_INFO"] == "/big" else "2")])
    if environ["PATH_INFO"] == "/big":
        return [bytes(20_000_000)]
    take()
    return [b"ok"]

async def asgi(scope, receive, send):
    size = 20_000_000 if scope["path"] == "/big" else 2
    headers = [(b"content-length", b"%d" % size)]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    if size == 2:
        take()
    await send({"type": "http.response.body", "body": bytes(size)})
"""


@pytest.mark.skipif(sys.platform == "win32", reason="such a limit is POSIX's")
@pytest.mark.parametrize("flags", [("app", "--no-gevent"), ("app",), ("asgi",)], ids=["threads", "greenlets", "tasks"])
def test_an_application_that_takes_all_descriptors(tmp_path: Path, flags: tuple[str, ...]) -> None:
    """The server needs none, nor any module that it has not imported yet, to go on with its open connections."""
    (tmp_path / "greedy.py").write_text(GREEDY, encoding="ascii")
    app, *options = flags
    with Server(f"greedy:{app}", *options, cwd=tmp_path) as server, Client(server.port) as client:

        def refusal() -> Response | None:
            # The server reads /proc for a moment now and then, so a descriptor may be free again. Then this takes it.
            assert len(client.get("/").body) == 2
            client.send(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 600000\r\n\r\n" + bytes(600_000))
            response = client.read()
            return None if response.status == 200 else response

        assert len(client.get("/").body) == 2
        assert len(client.get("/big").body) == 20_000_000
        if app == "app":
            refused = wait_for(refusal)
            assert (refused.status, refused.body) == (507, b"507 Insufficient Storage\n")
    assert "Traceback" not in "\n".join(server.log)
