"""Several server loops in one process (``--loops``), which share one copy of the application.

Without a GIL one server loop keeps one processor busy, as long as requests are short: its leader runs them itself. So
there are several, and each has everything that one server has: a backend with its threads, connections, a row of the
scoreboard, and descriptors of its own for the same listening sockets. They never touch each other's connections, and
know about each other only what workers know: how many connections a sibling has and whether it is full.

Things that exist once in the process belong to :class:`~zibai.server.serve.Server`: the hooks, the certificate, the
event that ends it. To the server and to the process around it, several loops look like one: :class:`Loops` passes calls
on to each loop, :class:`Backends` asks each backend, and :class:`~zibai.server.together.Together` joins the reports of
the loops. The failure of one loop ends all, because a server with half of its loops would look alive.

All loops accept from the same sockets, by duplicates of their descriptors. They have no sockets of their own by
SO_REUSEPORT: the connections that wait at a closed socket would be lost, and another program may own the sockets.
"""

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from operator import attrgetter
from types import FrameType
from typing import Any, Final

from ..config.options import Options
from ..engine.backends import Backend
from ..engine.loop import Loop
from ..net.listener import Socket, duplicate
from ..system.stacks import Stack
from ..telemetry.slot import Running

DIVIDED: Final = ("max_connections", "max_bodies_memory", "max_bodies_disk", "max_unsent_memory")
"""Options that are divided among the loops. 0 means the same for a part and for the whole."""


def share(whole: int, number: int, loops: int) -> int:
    """The part of loop ``number``, from 0, of a number that is divided among ``loops``. The sum is ``whole``."""
    return whole // loops + (number < whole % loops)


def divided(options: Options, number: int, loops: int) -> Options:
    """The options of one of the loops."""
    parts: dict[str, Any] = {name: share(getattr(options, name), number, loops) for name in DIVIDED}
    for name, part in parts.items():
        if not part and getattr(options, name):
            parts[name] = 1  # fewer bytes than loops, and 0 would be no limit
    return replace(options, **parts)


class Loops:
    """The server loops of one process, called as one loop; see :class:`~zibai.engine.loop.Loop`.

    The rules about threads are those of one loop.
    """

    def __init__(self, each: Sequence[Loop]) -> None:
        self.each = each
        self._replacement: Socket | None = None

    def __repr__(self) -> str:
        return f"<Loops: {len(self.each)}>"

    @property
    def failure(self) -> Exception | None:
        """The first error that has ended one of them."""
        return next((loop.failure for loop in self.each if loop.failure is not None), None)

    def say_close(self) -> None:
        """Send ``Connection: close`` in each response from now on."""
        for loop in self.each:
            loop.service.draining = True

    @property
    def busy(self) -> bool:
        """Whether requests ran at the last look of a loop."""
        return any(loop.health.busy for loop in self.each)

    def excuse(self, seconds: float) -> None:
        """The process was stopped for ``seconds``, which do not count for the requests that run."""
        for loop in self.each:
            loop.health.excuse(seconds)

    def admit(self) -> None:
        """Begin to accept."""
        for loop in self.each:
            loop.admission.start_accepting()

    def share_listeners(self, shares_listeners: Callable[[], bool]) -> None:
        """``shares_listeners`` tells, when the end begins, whether another server accepts from all the listeners."""
        for loop in self.each:
            loop.shutdown.shares_listeners = shares_listeners

    def adopt_from(self, channel: Socket) -> None:
        """Take over the connections that come through ``channel``: each message goes to the loop that is first."""
        for loop, end in zip(self.each, _ends(channel, len(self.each)), strict=False):
            loop.adopt_from(end)

    def hand_over_to(self, channel: Socket) -> None:
        """Give idle connections away through ``channel`` instead of closing them; before ``drain``."""
        if self._replacement is channel:
            return  # the control thread and the main thread may both come with it
        self._replacement = channel
        for loop, end in zip(self.each, _ends(channel, len(self.each)), strict=False):
            loop.hand_over_to(end)

    def drain(self, timeout: float) -> None:
        """Begin the graceful shutdown of all."""
        for loop in self.each:
            loop.drain(timeout)

    def quit(self) -> None:
        """Close everything and finish all loops now."""
        for loop in self.each:
            loop.quit()


def _ends(channel: Socket, loops: int) -> list[Socket]:
    """The channel itself for the first loop, and a copy for each other one: each closes its own at its end.

    All are made before a loop has the first, which it may close at once. Without a free descriptor there are fewer
    copies. A loop without one closes its idle connections, as at the end.
    """
    ends = [channel]
    with suppress(OSError):
        ends.extend(duplicate(channel) for _ in range(loops - 1))
    return ends


class Backends:
    """The backends of several loops, asked as one; see :class:`~zibai.engine.backends.Backend`."""

    def __init__(self, each: Sequence[Backend]) -> None:
        self._each = each

    def running(self) -> list[Running]:
        """The requests of all, the longest first. In the place of the slot is the number of the loop with the slot."""
        found = [
            request._replace(slot=(number, request.slot))
            for number, backend in enumerate(self._each)
            for request in backend.running()
        ]
        return sorted(found, key=attrgetter("since"))

    def where(self, slot: tuple[int, Any]) -> tuple[str, Stack]:
        """The name, with the number of the loop, and the stack of the thread or task that runs a request."""
        number, own = slot
        return self._each[number].where(own)

    def others(self) -> list[tuple[str, Stack]]:
        """Names and stacks of everything that runs beside the requests."""
        return [other for backend in self._each for other in backend.others()]

    def waiting(self) -> list[list[FrameType]]:
        """The stacks of the requests that have no thread."""
        return [stack for backend in self._each for stack in backend.waiting()]


Engine = Backend | Backends
"""The backend of a process, or its backends as one."""
