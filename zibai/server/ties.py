"""What a server calls, and what ties it to the process that supervises it. The server itself is in :mod:`.serve`."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from math import inf
from typing import NamedTuple

from ..telemetry.row import Row
from .loops import Engine, Loops

Hook = Callable[[], object]


class Hooks(NamedTuple):
    """What the user wants called; see :func:`serve`."""

    before_serve: Hook | None = None
    before_graceful_exit: Hook | None = None
    before_died: Hook | None = None


@dataclass(kw_only=True)
class Ties:
    """What ties a server to a supervising process; by default, nothing.

    ``rows`` is where the server says what it does, one for each server loop, with a slot more than its threads or
    greenlets; ``beat_every`` the seconds between two beats in it of an idle server; ``siblings`` are the rows of other
    workers, as a loop has them. Relative paths of ``options`` start in ``directory``, by default the current one, which
    the application may have changed. ``on_max_requests`` is called after ``max_requests`` requests and ``on_stuck`` for
    ``request_timeout``, instead of the end of the server, by a thread that runs a server loop; they must not block, and
    neither must ``on_look``, after each look of a loop at itself, and ``on_beat``, when all loops have looked. Of these
    two, one is called at a time. ``before_start`` gets the server loops before they turn, ``on_start`` when they
    turn and before they take a client, ``on_end`` is called when the end begins, whatever its kind. ``multiprocess`` is
    ``wsgi.multiprocess``. The server sets ``engine``, its backend, which tells what runs.
    """

    rows: Sequence[Row] = ()
    siblings: Callable[[], Iterable[tuple[bool, Row]]] = lambda: ()
    beat_every: float = inf
    multiprocess: bool = False
    directory: str = ""
    engine: Engine | None = None
    on_max_requests: Hook | None = None
    on_stuck: Hook | None = None
    on_beat: Hook = lambda: None
    on_look: Hook = lambda: None
    before_start: Callable[[Loops], object] = lambda loops: None
    on_start: Callable[[Loops], object] = lambda loops: None
    on_end: Hook = lambda: None
