"""The hooks of a server, and its ties to the process that supervises it. The server itself is in :mod:`.serve`."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from math import inf
from typing import TYPE_CHECKING, Literal, NamedTuple

from ..logger import logger
from ..telemetry.row import Row

if TYPE_CHECKING:
    from .loops import Engine, Loops

Hook = Callable[[], object]


class Hooks(NamedTuple):
    """The hooks of the user; see :func:`serve`."""

    before_serve: Hook | None = None
    before_graceful_exit: Hook | None = None
    before_died: Hook | None = None

    def call(self, name: Literal["before_graceful_exit", "before_died"]) -> None:
        """Call a hook of the end, if there is one. Its errors are logged."""
        hook: Hook | None = getattr(self, name)
        try:
            if hook is not None:
                hook()
        except Exception:
            logger.exception("the hook %s failed", name)


@dataclass(kw_only=True)
class Ties:
    """The connection of a server to a supervising process; by default, none.

    ``rows`` are the rows of the scoreboard, one for each server loop, with a slot more than its threads or greenlets.
    ``beat_every`` is the seconds between two beats of an idle server. ``siblings`` are the rows of other workers, as a
    loop uses them. Relative paths of ``options`` start in ``directory``, by default the current one, which the
    application may have changed. ``multiprocess`` is ``wsgi.multiprocess``. The server sets ``engine``, its backend,
    which tells what runs.

    Threads that run server loops call four functions, which must not block. ``on_max_requests`` after ``max_requests``
    requests and ``on_hung`` for ``request_timeout`` take the place of the server's end. ``on_look`` is called after
    each look of a loop at itself and ``on_beat`` when all loops have looked, one call at a time.

    ``before_start`` gets the server loops before they turn, ``on_start`` when they turn and before they accept a
    client. ``on_end`` is called when the end begins, whatever its kind.
    """

    rows: Sequence[Row] = ()
    siblings: Callable[[], Iterable[tuple[bool, Row]]] = lambda: ()
    beat_every: float = inf
    multiprocess: bool = False
    directory: str = ""
    engine: "Engine | None" = None
    on_max_requests: Hook | None = None
    on_hung: Hook | None = None
    on_beat: Hook = lambda: None
    on_look: Hook = lambda: None
    before_start: "Callable[[Loops], object]" = lambda loops: None
    on_start: "Callable[[Loops], object]" = lambda loops: None
    on_end: Hook = lambda: None
