"""The end of a server loop: which requests are still served, and which process gets the idle connections.

A *graceful* shutdown accepts nothing new and finishes all requests. In a restart another worker is the replacement. The
idle connections go to it, some now and the rest at later sweeps, and their clients notice nothing. Without a
replacement an idle connection stays open for a moment, because a request may be on its way. A *quick* shutdown closes
every connection in the next turn.

Any thread may set the attributes, and the loop's owner acts on them in its next turn. The methods are the owner's.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING

from .admission import Admission
from .table import IDLE_GRACE, Table

if TYPE_CHECKING:
    from ..net.listener import Socket


class Shutdown:
    """The shutdown that was asked for (``graceful``, ``quick``), and the seconds that it may take (``timeout``).

    ``replacement`` is the channel to the worker that gets the idle connections, if there is one. ``shares_listeners``
    is called when the shutdown begins; it tells whether another server accepts from all the listeners, too. ``free``
    returns how many more requests could run at once.
    """

    __slots__ = ("_admission", "_free", "_table", "graceful", "quick", "replacement", "shares_listeners", "timeout")

    def __init__(self, table: Table, admission: Admission, free: Callable[[], int]) -> None:
        self.graceful = self.quick = False
        self.timeout = IDLE_GRACE
        self.replacement: Socket | None = None
        self.shares_listeners: Callable[[], bool] = lambda: False
        self._table = table
        self._admission = admission
        self._free = free

    def __repr__(self) -> str:
        return f"<Shutdown: {'quick' if self.quick else 'graceful' if self.graceful else 'not asked for'}>"

    @property
    def is_replaced(self) -> bool:
        """Whether another process goes on serving, so that clients may connect again at once."""
        return self.replacement is not None or self.shares_listeners()

    def begin(self, now: float) -> None:
        """Take nothing new. Idle connections go to the replacement, or get a moment for a last request.

        Clients that wait in the backlog are accepted, unless a replacement will accept them: there may be no server
        after this one. If another server accepts, too, only as many are accepted as can run at once: the other server
        could take the rest sooner.
        """
        table, admission = self._table, self._admission
        admission.adoption.end()
        table.draining = True
        if self.replacement is not None:
            # A restart: nothing waits for the end of this process. An idle TLS connection cannot be handed over, and
            # its client knows nothing of the restart, so its next request is served here, with close.
            table.idle_until = now + self.timeout - IDLE_GRACE
        admission.acceptor.finish(now, self._last_room)
        self.hand_over(now)
        table.settle_idle(now)

    def _last_room(self) -> float:
        if self.replacement is not None:
            return 0
        room = self._admission.capacity.limit - len(self._table.connections)
        return min(room, self._free()) if self.shares_listeners() else room

    def hand_over(self, now: float) -> None:
        """Give the replacement the connections that are idle now."""
        if self.replacement is not None:
            self._table.hand_over(self.replacement, now)

    def close(self) -> None:
        """The loop has ended, or a forked child has no use for it: close the channels to other workers."""
        self._admission.adoption.close()
        if self.replacement is not None:
            self.replacement.close()
