"""How a request comes in: the head, the body, and the rest of a body that its application has left unread.

These are the steps of a connection in the states HEAD, BODY and DISCARD. Each takes the bytes at hand from the codec
and advances the connection as far as they allow: to READY, to another state, or not at all. A connection calls
:func:`advance` when bytes have come, when a pause is over, and when a response is out.

A request that is complete in one read does not come here: see :meth:`~zibai.engine.connection.Connection.readable`.

Everything here is the loop owner's.
"""

from http import HTTPStatus
from math import ceil, inf
from typing import TYPE_CHECKING, Final

from ..errors import Refused
from ..protocol.http1 import Request
from ..protocol.http1.response import CONTINUE
from .body import Intake
from .pollable import BEGUN, Arrival
from .states import BODY, DISCARD, HEAD, READY, TASK

if TYPE_CHECKING:
    from .connection import Connection

USUAL_HEAD: Final = 8 * 1024
"""Bytes of an incomplete head that are kept, however much all clients together hold."""


def advance(connection: "Connection", now: float) -> None:
    """Go as far as the bytes at hand allow."""
    try:
        if connection.state is DISCARD:
            _discard(connection, now)
        if connection.state is HEAD:
            _read_head(connection, now)
        elif connection.state is BODY:
            _read_body(connection, now)
        elif connection.state is TASK:
            connection.stream.go_on()
    except Refused as refusal:
        connection.refuse(refusal, now)


def _read_head(connection: "Connection", now: float) -> None:
    connection.request = request = connection.codec.next_request()
    connection.shortcut = False
    connection.count_memory(-connection.memory)
    if request is None:
        _await_head(connection, now)
        return
    limits = connection.service.limits
    head = now - connection.deadline + limits.header_timeout if connection.arrival.begun else 0.0
    connection.arrival = Arrival(False, head, 0.0)
    if request.length and 0 < limits.max_body < request.length:
        raise Refused(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, f"a body of {request.length} bytes")
    if request.has_body:
        _begin_body(connection, request, now)
    else:
        _make_ready(connection)


def _await_head(connection: "Connection", now: float) -> None:
    codec = connection.codec
    connection.count_memory(codec.size)
    load, header_timeout = connection.service.load, connection.service.limits.header_timeout
    if connection.memory > USUAL_HEAD and load.memory > load.max_memory:
        raise Refused(HTTPStatus.SERVICE_UNAVAILABLE, "no memory for so large a head", ceil(header_timeout))
    if codec.has_bytes and not connection.arrival.begun:
        # The limit is for the whole head, from its first byte, and not for each byte.
        connection.arrival = BEGUN
        connection.deadline = now + header_timeout


def _begin_body(connection: "Connection", request: Request, now: float) -> None:
    connection.intake = intake = Intake(connection.codec, connection.service, now)
    if connection.service.limits.stream_body:
        connection.body = intake
        _make_ready(connection)
        return
    intake.begin(now)
    connection.state = BODY
    connection.deadline = intake.deadline
    if request.expects_continue and not connection.codec.has_bytes:  # else the client has not waited for it
        connection.service.others[1] += 1
        connection.sender.out += CONTINUE
        connection.writable(now)
    if connection.state is BODY:
        _read_body(connection, now)


def _read_body(connection: "Connection", now: float) -> None:
    intake = connection.intake
    assert intake is not None
    if intake.read(now):
        connection.body, intake.file = intake.file, None
        connection.arrival = connection.arrival._replace(body=intake.waited(now))
        _make_ready(connection)
    else:
        connection.pause, connection.deadline = intake.pause, intake.deadline


def _make_ready(connection: "Connection") -> None:
    connection.count_memory(connection.codec.size)  # these bytes stay here as long as the application runs
    connection.state = READY
    connection.deadline = inf


def _discard(connection: "Connection", now: float) -> None:
    """Read what an application left of its body, within bounds, so that the connection can be kept."""
    intake = connection.intake
    assert intake is not None
    over = intake.discard(connection.peer)
    if over is None:
        connection.linger(now)
    elif over:
        connection.recycle(now)
    else:
        connection.pause = intake.pause
