"""Puts server loops together from their parts: limits, health, and callbacks to the process around them."""

from collections.abc import Callable, Iterable, Sequence
from contextvars import copy_context
from dataclasses import replace
from functools import partial
from math import inf
from typing import Any, NamedTuple

from ..config.options import Options
from ..engine.backends import Backend
from ..engine.context import Service
from ..engine.health import Health
from ..engine.loop import Loop
from ..errors import Refused
from ..net.listener import Listener
from ..protocol.http1 import BytesLane
from ..telemetry.row import Row
from . import kinds
from .loops import Loops, divided
from .ties import Ties
from .together import Together


class Part(NamedTuple):
    """The parts of one server loop. ``slots`` is how many requests it runs at once."""

    engine: Backend
    gateway: Any
    row: Row
    slots: int
    listeners: list[Listener]


def make_loops(
    parts: Sequence[Part], options: Options, ties: Ties, end: Callable[[], object], *, tasks: bool = False
) -> Loops:
    """The loops of a server, which ``end`` ends; with ``tasks``, of an ASGI application. None of them turns yet."""
    if len(parts) == 1:
        return Loops([_make_one(parts[0], options, ties, end, tasks)])
    together = Together(ties, len(parts), options.max_requests or 0, end)
    each = [_make_one_of_several(number, parts, options, together, end) for number in range(len(parts))]
    together.has_finished = lambda number: each[number].finished
    return Loops(each)


def _make_one(part: Part, options: Options, ties: Ties, end: Callable[[], object], tasks: bool) -> Loop:
    def beat() -> None:
        ties.on_beat()
        ties.on_look()

    service = _make_service(part, options, ties.siblings, tasks)
    on_hung, enough = ties.on_hung or end, ties.on_max_requests or end
    health = _make_health(service, part, options, ties.beat_every, on_hung, beat)
    return _finish(service, part, health, options.max_requests, enough, end, kinds.task_loop() if tasks else Loop)


def _make_one_of_several(
    number: int, parts: Sequence[Part], options: Options, together: Together, end: Callable[[], object]
) -> Loop:
    part, ties = parts[number], together.ties
    here = [(other < number, each.row) for other, each in enumerate(parts) if other != number]

    def siblings() -> Iterable[tuple[bool, Row]]:
        return [*here, *ties.siblings()]

    def enough() -> None:
        together.count(loop)

    service = _make_service(part, divided(options, number, len(parts)), siblings, False)
    service.load.descriptors /= len(parts)  # the system's limit is for the whole process
    health = _make_health(service, part, options, ties.beat_every, together.hung, partial(together.beat, number))
    step = together.step if options.max_requests else None
    loop = _finish(service, part, health, step, enough, end, Loop)
    return loop


def _make_service(
    part: Part, options: Options, siblings: Callable[[], Iterable[tuple[bool, Row]]], tasks: bool
) -> Service:
    def refused(connection: Any, refusal: Refused, response: bytes) -> None:
        """Count and log a request that the application never sees. The server loop calls this."""
        part.row.refuse(refusal.status)
        part.gateway.log_refusal(connection, refusal, response)

    service = Service.from_options(
        options,
        application=part.gateway.make if tasks else part.gateway.serve,
        # Copies of the context that called serve(), after the hook before_serve, one for each request.
        new_context=copy_context().copy,
        readiness=part.engine.readiness,
        report=part.engine.report,
        refused=refused,
        row=part.row,
        siblings=siblings,
        base=part.gateway.base,
    )
    if tasks:  # tasks read bodies themselves, unless these come together with their heads
        limits = replace(service.limits, stream_body=True)
        lane = None if service.lane is None else BytesLane(limits.max_target)
        service = replace(service, limits=limits, lane=lane)
        service.whole_body = limits.whole_body
    return service


def _make_health(
    service: Service,
    part: Part,
    options: Options,
    beat_every: float,
    on_hung: Callable[[], object],
    on_beat: Callable[[], object],
) -> Health:
    return Health(
        service,
        part.engine,
        slow_request=options.slow_request or inf,
        request_timeout=options.request_timeout or inf,
        beat_every=beat_every,
        on_hung=on_hung,
        on_beat=on_beat,
    )


def _finish(
    service: Service,
    part: Part,
    health: Health,
    max_requests: int | None,
    enough: Callable[[], object],
    end: Callable[[], object],
    kind: type[Loop],
) -> Loop:
    loop = kind(service, part.engine, part.listeners, health, part.slots, max_requests, enough)
    service.lend = loop.lend
    loop.on_failure = end
    health.look(0, ())  # the first beat, so that a worker that is ready has one
    return loop
