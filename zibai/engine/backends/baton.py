"""The runners between which the baton of :mod:`.threads` passes, and the spells in which it is passed on at once."""

import threading
from collections.abc import Callable

from ...telemetry.scoreboard import Slot
from ..states import APP
from ..stream import Stream
from . import Turns

SPELL = 1.0
LONGEST_SPELL = 16.0

Stake = tuple[Stream, float]
"""The stream that a leader runs inline, and since when."""


class Runner(threading.Thread):
    """A thread, and the gate at which it waits until it is rung.

    ``stake`` has one entry while the runner leads and runs an exchange. If the entry is gone after the exchange, the
    runner has lost the baton. The other three are for an error that leaves the runner. ``left`` is the stream that it
    ran. ``given`` is the ``since`` of the request that it was giving back, None if the exchange was not over.
    ``gave_away`` says that it had given the stream away.
    """

    def __init__(self, life: Callable[["Runner"], None], slot: Slot, loop: str = "") -> None:
        """``loop`` is the name of the server loop in a process that has several."""
        name = f"zibai-{slot.number + 1}" + (loop and f" of {loop}")
        super().__init__(target=life, args=(self,), name=name, daemon=True)
        self.slot = slot
        self.stake: list[Stake] = []
        self.left: Stream | None = None
        self.given: float | None = None
        self.gave_away = False
        self.gate = threading.Lock()
        self.gate.acquire()

    def ring(self) -> None:
        """Let it look again. A ring before it waits is kept. Under the backend's lock, so that two rings cannot
        meet."""
        if self.gate.locked():
            self.gate.release()

    def giving(self, stream: Stream) -> Stream:
        """Note that the exchange of a stream is over, before the loop gets it back: an error may come in between."""
        self.given = stream.since
        return stream

    def end_left(self, loop: Turns, *, inline: bool) -> None:
        """End the exchange that an error has left, in this thread. ``inline``: whether the thread owns the loop."""
        stream, self.left = self.left, None
        if stream is None:
            return
        if self.given is not None:
            loop.give_back(stream, self.given)  # its response is out, and perhaps the next request runs already
        elif stream.connection.state is APP:
            stream.give_up(self.slot)
            (loop.finish if inline and not self.gave_away else loop.give_back)(stream)


class Spell:
    """A time in which the leader passes the baton on before it runs anything, because the application blocks.

    It lasts ``until`` (by the package's clock). Changed under the backend's lock; any thread reads ``until``.
    """

    __slots__ = ("_length", "until")

    def __init__(self) -> None:
        self.until = 0.0
        self._length = SPELL

    def __repr__(self) -> str:
        return f"<Spell until {self.until:.1f}>"

    def note(self, now: float) -> None:
        """An exchange has lasted: begin a spell, a longer one if the last has only just ended."""
        if now >= self.until:
            again = now < self.until + self._length
            self._length = min(self._length * 2, LONGEST_SPELL) if again else SPELL
        self.until = now + self._length
