"""What a server calls, and what ties it to the process that supervises it. The server itself is in :mod:`.serve`."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from math import inf
from typing import NamedTuple

from ..engine.backends import Backend
from ..engine.loop import Loop
from ..telemetry.row import Row

Hook = Callable[[], object]


class Hooks(NamedTuple):
    """What the user wants called; see :func:`serve`."""

    before_serve: Hook | None = None
    before_graceful_exit: Hook | None = None
    before_died: Hook | None = None


@dataclass(kw_only=True)
class Ties:
    """What ties a server to a supervising process; by default, nothing.

    ``row`` is where the server says what it does, with a slot more than ``max_workers``; ``beat_every`` the seconds
    between two beats in it of an idle server; ``siblings`` are the rows of other workers, as the loop has them.
    Relative paths of ``options`` start in ``directory``, by default the current one, which the application may have
    changed. ``on_max_requests`` is called after ``max_requests`` requests and ``on_stuck`` for ``request_timeout``,
    instead of the end of the server, by the thread that runs the server loop; they must not block, and neither must
    ``on_beat``, after each beat. ``before_start`` gets the server loop before it takes a client, ``on_start`` when
    it turns, ``on_end`` is called when the end begins, whatever its kind.
    ``multiprocess`` is ``wsgi.multiprocess``. The server sets ``engine``, its backend, which tells what runs.
    """

    row: Row | None = None
    siblings: Callable[[], Iterable[tuple[bool, Row]]] = lambda: ()
    beat_every: float = inf
    multiprocess: bool = False
    directory: str = ""
    engine: Backend | None = None
    on_max_requests: Hook | None = None
    on_stuck: Hook | None = None
    on_beat: Hook = lambda: None
    before_start: Callable[[Loop], object] = lambda loop: None
    on_start: Callable[[Loop], object] = lambda loop: None
    on_end: Hook = lambda: None
