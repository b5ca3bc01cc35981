"""A connection ends after so many requests, and the last answer says so, however the requests come."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from serving import serving
from support import Client, Server

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

LANES = pytest.mark.parametrize("http", ["auto", "h11"])
GET = b"GET / HTTP/1.1\r\nHost: test\r\n\r\n"


def app(environ: dict[str, Any], start_response: Callable[..., object]) -> Iterable[bytes]:
    """In one piece, or chunked."""
    if environ["PATH_INFO"] == "/":
        start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", "2")])
        return [b"ok"]
    environ["wsgi.input"].read(100)
    start_response("200 OK", [("Content-Type", "text/plain")])
    return iter([b"o", b"k"])


@LANES
def test_the_last_answer_of_a_connection_says_close(http: str) -> None:
    with serving(app, http=http, max_keep_alive_requests=3) as server:
        for _ in range(2):  # each connection counts for itself
            with Client(server.port) as client:
                answers = [client.get(target) for target in ("/", "/pieces", "/")]
                assert [answer.headers["Connection"] for answer in answers] == [None, None, "close"]
                assert client.rest() == b""


@LANES
@pytest.mark.parametrize("target", ["/", "/pieces"])
def test_without_keep_alive_each_answer_says_close(http: str, target: str) -> None:
    with serving(app, http=http, disable_keep_alive=True, max_keep_alive_requests=100) as server:
        with Client(server.port) as client:
            answer = client.get(target)
            assert (answer.status, answer.body, answer.headers["Connection"]) == (200, b"ok", "close")
            assert client.rest() == b""


@LANES
@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
def test_of_a_pipeline_only_so_many_are_answered(http: str, stream: bool) -> None:
    post = b"POST /pieces HTTP/1.1\r\nHost: test\r\nContent-Length: 3\r\n\r\nabc"
    with serving(app, http=http, max_keep_alive_requests=3, stream_request_body=stream) as server:
        with Client(server.port) as client:
            client.send((GET + post) * 3)
            answers = [client.read() for _ in range(3)]
            assert [answer.headers["Connection"] for answer in answers] == [None, None, "close"]
            assert client.rest() == b""
    assert [status for _, status in server.exchanges] == [200] * 3


@pytest.mark.daily("greenlets")
def test_on_the_command_line(backend: tuple[str, ...]) -> None:
    with Server("plain:app", "-p", "1", "--max-keep-alive-requests", "2", *backend) as server:
        with Client(server.port) as client:
            answers = [client.get("/hello") for _ in range(2)]
            assert [answer.headers["Connection"] for answer in answers] == [None, "close"]
            assert client.rest() == b""
