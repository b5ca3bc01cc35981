"""The table of raw requests, once more through a server and an ASGI application: what it sees, and what comes back."""

from __future__ import annotations

import io
import socket
import zlib
from typing import TYPE_CHECKING, Any

import pytest
from harness import asgi, half_close, respond

from requests_table import TABLE, Case, Seen
from support import Client, check_each, read_response

if TYPE_CHECKING:
    from collections.abc import Iterator

LAST = b"GET /last HTTP/1.1\r\nHost: last\r\nConnection: close\r\n\r\n"


class Probe:
    """An application that remembers what it is asked, whole or not."""

    def __init__(self) -> None:
        self.seen: list[Seen] = []
        self.port = 0

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["path"] in ("/last", "/ping"):
            await respond(send)
            return
        body, whole = b"", False
        while not whole and (message := await receive())["type"] == "http.request":
            body += message["body"]
            whole = not message["more_body"]
        query = b"?" + scope["query_string"] if scope["query_string"] else b""
        target = (scope["raw_path"] + query).decode("latin-1")
        fields = tuple(name + b": " + value for name, value in scope["headers"])
        # They come as they were sent; the table has what h11 makes of these two.
        fields = tuple(each.replace(b": Chunked", b": chunked").replace(b": 1, 1", b": 1") for each in fields)
        if fields.count(b"content-length: 1") > 1:
            fields = tuple(dict.fromkeys(fields))
        self.seen.append(Seen(scope["method"], target, fields, body, scope["http_version"]))
        if whole:
            await respond(send)

    def ask(self, data: bytes, cut: int, *, half: bool) -> bytes:
        """All that comes back for ``data`` on a new connection, of which the server reads ``cut`` bytes alone."""
        with Client(self.port) as client, Client(self.port) as control:
            client.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            try:
                if cut:
                    client.send(data[:cut])
                    for _ in range(3):
                        control.get("/ping")
                client.send(data[cut:])
                if half:
                    half_close(client)
            except ConnectionError:
                pass  # it has refused the beginning already
            return client.rest()


@pytest.fixture(scope="module", params=["auto", "h11"])
def probe(request: pytest.FixtureRequest) -> Iterator[Probe]:
    probe = Probe()
    with asgi(probe, http=request.param) as server:
        probe.port = server.port
        yield probe


def expected(seen: Seen) -> Seen:
    """The version and the target as a scope has them; whether it keeps the connection is no part of it."""
    version = "1.0" if seen.version == "HTTP/1.0" else "1.1"
    target, fields = seen.target, seen.fields
    if target[:1] not in "/*" and seen.method != "CONNECT":
        host, slash, path = target.partition("://")[2].partition("/")
        host, question, query = host.partition("?")
        target = (slash + path or "/") + question + query
        fields = (f"host: {host}".encode("latin-1"), *(each for each in fields if not each.startswith(b"host:")))
    target = target.removesuffix("?").partition("#")[0]
    return Seen(seen.method, target, fields, seen.body, version)


@pytest.mark.daily("auto")
def test_each_case_whole_and_cut_in_two(probe: Probe) -> None:
    def check_both(case: Case) -> None:
        for cut in (0, 1 + zlib.crc32(case.raw) % max(1, len(case.raw) - 1)):
            check(probe, case, cut)

    check_each(check_both, {case.name: case for case in TABLE})


def check(probe: Probe, case: Case, cut: int) -> None:
    last = case.status is None and not case.left and all(seen.keep_alive for seen in case.requests)
    data = case.raw + (LAST if last else b"")
    probe.seen.clear()
    answers = io.BytesIO(probe.ask(data, cut, half=case.status is None))
    statuses = []
    methods = [seen.method for seen in case.requests]
    while answers.tell() < len(answers.getvalue()):
        method = methods[len(statuses)] if len(statuses) < len(methods) else "GET"
        if (status := read_response(answers, method).status) != 100:
            statuses.append(status)
    told = [expected(seen) for seen in case.requests]
    if case.status is not None and told:
        # How much of a body that is refused has been seen depends on how it came.
        assert told[-1].body.startswith(probe.seen[-1].body)
        told[-1] = told[-1]._replace(body=probe.seen[-1].body)
    assert probe.seen == told
    if case.status is None:
        assert statuses == [200] * (len(case.requests) + last)
    else:
        assert statuses[-1] == case.status
        assert set(statuses[:-1]) <= {200}
