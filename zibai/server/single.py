"""One process that serves by itself."""

import os
from contextlib import AbstractContextManager, nullcontext

from ..clock import clock
from ..engine.loop import Loop
from ..supervise.record import READY
from ..telemetry.board_view import describe
from ..telemetry.statsd import Statsd
from . import worker
from .commands import serve_single
from .endpoint import Endpoint
from .environment import Prepared
from .systemd import SingleReporter
from .ties import Ties


def serve_alone(prepared: Prepared, exits: bool) -> None:
    """Load the application and serve it until told to end."""
    options, environment, listeners, board, on_up, endpoint = prepared
    predecessor, notifier = environment.predecessor, environment.notifier
    ties = Ties(row=None if board is None else board.row(0))
    if ties.row is not None:
        ties.row.assign(READY, os.getpid(), 0, clock())
    reporter = None if notifier is None else SingleReporter(notifier, ties.row)
    if reporter is not None:
        ties.beat_every, ties.on_beat, ties.on_end = reporter.beat_every, reporter.beat, reporter.stopping

    def started(loop: Loop) -> None:
        loop.shutdown.cedes = lambda: listeners.are_kept or (predecessor is not None and predecessor.is_alive())
        if reporter is not None:
            reporter.started()
        if predecessor is not None:
            predecessor.tell()
        on_up()

    ties.on_start = started
    guest, app = environment.guest, environment.app
    statsd: AbstractContextManager[object] = nullcontext()
    if options.statsd is not None and board is not None:
        statsd = Statsd(options.statsd, options.statsd_prefix, lambda: (describe(board, measured=False), {}))
    with nullcontext() if guest else Endpoint(endpoint, serve_single), statsd:
        worker.run(options, listeners.sockets, ties=ties, exits=exits, app=app, guest=guest)
