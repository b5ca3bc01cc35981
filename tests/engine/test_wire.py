"""The corpus of `wire/`: raw requests that have to be taken and those that have to be refused, over real connections.

Each file goes to both lanes on both backends, plain and over TLS, and to an ASGI application: whole, cut in two at one
place, and, marked slow, at every place. Behind each stands one request more, which is answered only if all before it
was understood as its client meant it. See `wire/README.md` for what a file says.
"""

from __future__ import annotations

import io
import json
import socket
import zlib
from itertools import chain
from typing import TYPE_CHECKING, Any

import pytest

from support import TESTS, Client, Server, check_each, read_response

if TYPE_CHECKING:
    import ssl
    from collections.abc import Iterator
    from pathlib import Path

    from credentials import Credentials

WIRE = TESTS / "wire"
ACCEPT = sorted((WIRE / "accept").glob("*.http"))
REFUSE = sorted((WIRE / "refuse").glob("*.http"))
LAST = b"GET /wire-last HTTP/1.1\r\nHost: last\r\nConnection: close\r\n\r\n"


class Target:
    """A server that remembers what its application has seen."""

    def __init__(self, server: Server, tls: ssl.SSLContext | None = None, streams: bool = False) -> None:
        self._port = server.port
        self._tls = tls
        self.streams = streams  # whether applications get bodies as they come
        self.scheme = "http" if tls is None else "https"  # whatever a request says
        self._control = Client(server.port, tls=tls)

    def close(self) -> None:
        self._control.close()

    def seen(self) -> list[dict[str, Any]]:
        """The requests since the last time."""
        found: list[dict[str, Any]] = json.loads(self._control.get("/wire-seen").body)
        return found

    def ask(self, data: bytes, cut: int = 0, *, half_close: bool = False) -> bytes:
        """All that comes back for ``data`` on a new connection, of which the server reads ``cut`` bytes alone."""
        with Client(self._port, tls=self._tls) as client:
            sock = client.socket
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            try:
                if cut:
                    sock.sendall(data[:cut])
                    # The loop takes what has come in order, but accepts last: so it has read when it answers again.
                    # And once more, so that it has answered, too: what follows a last request must not meet the end.
                    for _ in range(3):
                        self._control.get("/wire-ping")
                sock.sendall(data[cut:])
            except ConnectionError:
                pass  # it has refused the beginning already
            if half_close:
                socket.socket.shutdown(sock, socket.SHUT_WR)  # ssl's own ends TLS in both directions
            return client.rest()


@pytest.fixture(scope="module", params=["h11", "auto", "h11-tls", "auto-tls", "h11-asgi", "auto-asgi"])
def target(request: pytest.FixtureRequest, backend: tuple[str, ...], credentials: Credentials) -> Iterator[Target]:
    lane, _, secured = request.param.partition("-")
    if secured == "asgi" and not backend:
        pytest.skip("tasks run it, whatever the backend is")
    flags = {"tls": ["--certfile", credentials.server], "asgi": ["--ws", "off"]}.get(secured, [])
    app = "wire_asgi:app" if secured == "asgi" else "wire:app"
    with Server(app, "--http", lane, "--no-access-log", *flags, *backend) as server:
        target = Target(server, credentials.context() if secured == "tls" else None, secured == "asgi")
        yield target
        target.close()


def statuses(data: bytes, methods: list[str]) -> list[int]:
    """Of the final answers to requests of these methods, which have to be all of ``data``."""
    found = []
    file = io.BytesIO(data)
    for method in methods:
        while (answer := read_response(file, method)).status == 100:
            pass
        found.append(answer.status)
    assert file.read() == b""
    return found


def check_accepted(target: Target, path: Path, cut: int) -> None:
    expected = json.loads(path.with_suffix(".json").read_text())
    requests = expected["requests"]
    if not expected.get("closes"):
        requests = [*requests, {"line": "GET /wire-last"}]
    data = target.ask(path.read_bytes() + LAST, cut)
    assert statuses(data, [each["line"].split()[0] for each in requests]) == [200] * len(requests)
    seen = target.seen()
    assert [each["line"] for each in seen] == [each["line"] for each in requests]
    for got, wanted in zip(seen, requests, strict=True):
        assert got["body"] == wanted.get("body", "")
        for key, value in wanted.get("environ", {}).items():
            assert got["environ"].get(key) == (target.scheme if key == "wsgi.url_scheme" else value), key


def check_refused(target: Target, path: Path, cut: int) -> None:
    status = path.suffixes[-2].removeprefix(".")
    if status == "closed":
        data = target.ask(path.read_bytes(), cut, half_close=True)
        # Where the application has been called, the end within its body is a refusal like any other.
        begun = target.streams and "-head" not in path.name and "-line" not in path.name
        assert statuses(data, ["GET"] * begun) == [400] * begun
    else:
        assert statuses(target.ask(path.read_bytes() + LAST, cut), ["GET"]) == [int(status)]
    assert target.seen() == []


CHECKS = dict(chain(dict.fromkeys(ACCEPT, check_accepted).items(), dict.fromkeys(REFUSE, check_refused).items()))


def label(path: Path) -> str:
    return f"{path.parent.name}/{path.stem}"


def size(path: Path) -> int:
    return path.stat().st_size


@pytest.mark.daily("h11-threads", "auto-greenlets", "auto-tls-threads", "auto-asgi-threads")
def test_whole_and_cut_in_two(target: Target) -> None:
    def check(path: Path) -> None:
        CHECKS[path](target, path, 0)
        CHECKS[path](target, path, 1 + zlib.crc32(path.name.encode()) % (size(path) - 1))

    check_each(check, {label(path): path for path in CHECKS})


@pytest.mark.slow
@pytest.mark.parametrize("path", CHECKS, ids=label)
def test_cut_at_every_place(target: Target, path: Path) -> None:
    # Large ones are large for their limits; their first and last bytes are where the structure is.
    places = range(1, size(path)) if size(path) < 600 else [*range(1, 100), *range(size(path) - 50, size(path))]
    for place in places:
        CHECKS[path](target, path, place)


def test_every_file_says_what_it_expects() -> None:
    assert len(ACCEPT) >= 40
    assert len(REFUSE) >= 120
    assert {path.with_suffix(".json") for path in ACCEPT} == set((WIRE / "accept").glob("*.json"))
    for path in REFUSE:
        name, status = path.name.removesuffix(".http").split(".")
        assert name
        assert status == "closed" or 400 <= int(status) < 600
