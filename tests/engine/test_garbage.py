"""A connection that has ended is freed at once: nothing of it waits for the garbage collector."""

from __future__ import annotations

import gc
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pytest

from zibai.engine.body import Intake
from zibai.engine.connection import Connection
from zibai.engine.pace import Pace
from zibai.engine.reading import BodyReader
from zibai.engine.sending import Sender
from zibai.engine.stream import Stream
from zibai.gateway.exchange import Exchange
from zibai.gateway.wsgi import Gateway
from zibai.tls.connection import TLSConnection

from rig import GET, Rig

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

PARTS = (Connection, TLSConnection, Stream, Sender, Intake, BodyReader, Pace, Exchange)
SIZE = 200_000
REQUESTS = {
    "plain": GET,
    "last": GET.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"),
    "small body": b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc",
    "large body": b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n" % SIZE + bytes(SIZE),
    "body left": b"POST /left HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n" % SIZE + bytes(SIZE),
    "large response": GET.replace(b"/", b"/large", 1),
    "refused": b"nonsense\r\n\r\n",
    "half": GET[:20],
}


def app(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
    path, body = environ["PATH_INFO"], b""
    if path != "/left":
        body = environ["wsgi.input"].read()
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [bytes(3_000_000) if path == "/large" else b"%d bytes" % len(body)]


@contextmanager
def uncollected() -> Iterator[Callable[[], list[str]]]:
    """Nothing is collected meanwhile; which parts of connections there are that were not before."""
    gc.collect()
    gc.freeze()  # or each look would go through all that earlier tests have left
    before = {id(each) for each in gc.get_objects() if type(each) in PARTS}
    gc.disable()
    try:
        yield lambda: sorted(
            type(each).__name__ for each in gc.get_objects() if type(each) in PARTS and id(each) not in before
        )
    finally:
        gc.enable()


@pytest.mark.parametrize("streamed", [False, True], ids=["whole", "streamed"])
@pytest.mark.parametrize("kind", REQUESTS)
@pytest.mark.daily("whole")
def test_nothing_is_left_of_a_connection(monkeypatch: pytest.MonkeyPatch, kind: str, streamed: bool) -> None:
    with Rig(monkeypatch, app=Gateway(app).serve, stream_body=streamed) as rig, uncollected() as living:
        client = rig.client()
        client.setblocking(False)
        rest = REQUESTS[kind]
        for _ in range(2 if kind in ("plain", "small body") else 1):
            rest = REQUESTS[kind]
            while rest:
                try:
                    rest = rest[client.send(rest) :]
                except BlockingIOError:
                    pass
                rig.turn()
                if not (streamed and rest):  # else its runner would wait for the test
                    rig.run()
            if kind == "half":
                rig.until(lambda: not all(each.idle for each in rig.connections))
                break
            answer = bytearray()

            def answered(answer: bytearray = answer) -> bool:
                rig.run()
                try:
                    answer.extend(client.recv(1000))
                except BlockingIOError:
                    pass
                return len(answer) > 100

            rig.until(answered)
        assert living() or kind == "last"  # which is gone
        client.close()
        rig.until(lambda: (rig.run(), not rig.connections)[1])
        rig.served.clear()
        assert living() == []
