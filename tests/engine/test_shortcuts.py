"""The short cuts of the loop against the plain way: both leave the same connection behind."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from unittest import mock

import pytest

from zibai.clock import clock
from zibai.engine.states import HEAD, READY
from zibai.net.poller import READ

from rig import ANSWER, GET, Rig, read

if TYPE_CHECKING:
    from zibai.engine.connection import Connection

POST = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc"
OBJECTS = {
    "body", "codec", "connection", "endpoint", "facts", "fd", "lingering", "lock", "pace", "peer", "queued", "request",
    "sender", "service", "sock", "started", "stream", "_slot",
}  # fmt: skip


def look(connection: Connection) -> dict[str, Any]:
    """What a connection has, except what is another object for each."""
    found: dict[str, Any] = {}
    for part in (connection, connection.sender, connection.stream):
        names = {name for each in type(part).__mro__ for name in getattr(each, "__slots__", ())}
        found |= {f"{type(part).__name__}.{name}": getattr(part, name) for name in names - OBJECTS}
    request, body = connection.request, connection.body
    found["request"] = request and (request.method, request.target, request.environ)
    return found | {"in_codec": connection.codec.size, "body": body and body.getvalue()}


@pytest.mark.parametrize("sent", [GET, POST], ids=["GET", "POST"])
def test_an_exchange_that_leaves_nothing(monkeypatch: pytest.MonkeyPatch, sent: bytes) -> None:
    left, memory = [], []
    for plainly in (False, True):
        with Rig(monkeypatch) as rig:
            client, connection = rig.connect()
            client.sendall(sent)
            rig.until(lambda connection=connection: connection.state is READY)
            assert connection.shortcut
            taken = rig.loop.take()
            assert taken.connection is connection
            taken.exchange(rig.row.slots[0], clock())
            with mock.patch.object(
                type(connection), "finish", autospec=True, side_effect=type(connection).finish
            ) as way:
                connection.shortcut = not plainly  # which the short cut asks for
                rig.loop.finish(taken)
            assert way.called is plainly
            connection.shortcut = True
            assert read(client) == ANSWER
            assert connection.state is HEAD
            left.append(look(connection))
            memory.append((rig.service.load.memory, rig.service.others, rig.service.sent, rig.loop._table.next_sweep))
    assert left[0] == left[1]
    assert memory[0] == memory[1]


@pytest.mark.parametrize("sent", [b"G", GET[:20], GET, POST[:50], POST, b"?\r\n\r\n"])
def test_an_event_of_a_connection_that_waits_for_a_head(monkeypatch: pytest.MonkeyPatch, sent: bytes) -> None:
    left = []
    for plainly in (False, True):
        with Rig(monkeypatch) as rig:
            client, connection = rig.connect()
            client.sendall(sent)
            rig.arrived(connection)
            if plainly:
                rig.loop._table.react(connection, READ, rig.now)
            else:
                rig.turn()
            left.append((look(connection), [each for _, each in rig.loop._ready]))
    assert left[0] == left[1]
