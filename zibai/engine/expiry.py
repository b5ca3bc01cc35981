"""What happens when the deadline of a connection has passed. That depends on the state of the connection.

A client that has not sent a whole request in time gets a 408. An idle connection is closed, but a request that its
client is just sending is served, or its loss is logged. If a client takes its response too slowly, the connection is
cut. :mod:`.states` has the deadline of each state.

Everything here is the loop owner's.
"""

from http import HTTPStatus
from math import ceil, inf
from typing import TYPE_CHECKING

from ..errors import Refused
from ..logger import debug_logger
from .lingering import LINGER_TIME
from .states import APP, BODY, CLOSED, DISCARD, FLUSH, HEAD, STARVED, TASK

if TYPE_CHECKING:
    from .connection import Connection


def expire(connection: "Connection", now: float) -> None:
    """The deadline has passed in the state it was set for."""
    state, limits = connection.state, connection.service.limits
    if state is HEAD and not connection.arrival.begun:
        _end_idle(connection, now)
    elif state is BODY and connection.pause is STARVED:
        wait = ceil(limits.socket_timeout)
        connection.refuse(Refused(HTTPStatus.SERVICE_UNAVAILABLE, "no room for its body", wait), now)
    elif state is HEAD or state is BODY:
        refusal = Refused(HTTPStatus.REQUEST_TIMEOUT, f"{state} not complete in time")
        refusal.phase, refusal.waited = "head", limits.header_timeout
        connection.refuse(refusal, now)
    elif state is DISCARD:
        connection.linger(now)
    elif state is TASK:
        connection.stream.expire(now)
    elif state is APP or state is FLUSH:
        _expire_sending(connection, now)
    elif connection.lingering is not None and connection.lingering.goes_on(connection):
        connection.deadline = now + LINGER_TIME
    else:
        connection.state = CLOSED


def _expire_sending(connection: "Connection", now: float) -> None:
    """Close the connection if its client has taken too little of what waits for it."""
    if not connection.sender.is_expired(now):
        connection.await_client()
    elif connection.state is APP:
        connection.deadline = inf  # the runner notices the cut at its next send
        connection.cut_now()
    else:
        report = connection.service.report
        report(debug_logger.debug, "%s does not take its response, or too slowly", connection.peer)
        connection.sender.cut()
        connection.state = CLOSED


def _end_idle(connection: "Connection", now: float) -> None:
    """Close an idle connection. A request that has just come is served; a later one is lost, and that is logged."""
    connection.readable(now)
    if connection.state is not HEAD or connection.arrival.begun:
        return
    if connection.served and not connection.service.draining:
        connection.request = None
        connection.linger(now, timed_out=True)
    else:
        connection.state = CLOSED
