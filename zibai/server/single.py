"""One process that serves by itself."""

import os
from contextlib import AbstractContextManager, nullcontext

from ..clock import clock
from ..logger import logger
from ..supervise.record import READY
from ..telemetry.board_view import describe
from ..telemetry.statsd import Statsd
from . import worker
from .endpoint import Endpoint
from .environment import Prepared
from .loops import Loops
from .single_commands import serve_single
from .systemd import SingleReporter
from .ties import Ties


def serve_alone(prepared: Prepared, exits: bool) -> None:
    """Load the application and serve it until told to end."""
    options, environment, listeners, board, on_up, endpoint = prepared
    predecessor, notifier = environment.predecessor, environment.notifier
    rows = None if board is None else board.worker(0)
    ties = Ties(rows=() if rows is None else rows.each)
    for row in ties.rows:
        row.assign(READY, os.getpid(), 0, clock())
    reporter = None if notifier is None else SingleReporter(notifier, rows)
    if reporter is not None:
        ties.beat_every, ties.on_beat, ties.on_end = reporter.beat_every, reporter.beat, reporter.stopping

    serves = False

    def started(loops: Loops) -> None:
        nonlocal serves
        serves = True
        loops.share_listeners(lambda: listeners.are_kept or (predecessor is not None and predecessor.is_alive()))
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
        try:
            worker.run(options, listeners.sockets, ties=ties, exits=exits, app=app, guest=guest)
        except KeyboardInterrupt:
            if not guest:
                logger.info("quick exit" if serves else "ended before it served, as it was asked to")
            raise
