"""One process that serves by itself."""

import os

from ..clock import clock
from ..engine.loop import Loop
from ..supervise.roster import READY
from . import worker
from .serve import Ties
from .surroundings import _Ground
from .systemd import SingleReporter


def _serve_alone(ground: _Ground, exits: bool) -> None:
    """Without a parent."""
    options, surroundings, listeners, board, on_up = ground
    before, notifier = surroundings.before, surroundings.notifier
    ties = Ties(row=None if board is None else board.row(0))
    if ties.row is not None:
        ties.row.assign(READY, os.getpid(), 0, clock())
    reporter = None if notifier is None else SingleReporter(notifier, ties.row)
    if reporter is not None:
        ties.beat_every, ties.on_beat, ties.on_end = reporter.beat_every, reporter.beat, reporter.stopping

    def started(loop: Loop) -> None:
        loop.cedes = lambda: listeners.are_kept or (before is not None and before.is_alive())
        if reporter is not None:
            reporter.started()
        if before is not None:
            before.tell()
        on_up()

    ties.on_start = started
    guest, app = surroundings.guest, surroundings.app
    worker.run(options, listeners.sockets, ties=ties, exits=exits, app=app, guest=guest)
