"""``zibai profile`` in the parent: it tells the workers to sample themselves, and collects their profiles.

One profile is taken at a time. The thread of the client counts the seconds, and sends the client a line every second.
If the client has left, that line cannot be sent, and the sampling ends. Workers that start meanwhile are not sampled.
"""

import json
from collections.abc import Callable, Iterator
from queue import Empty, SimpleQueue
from typing import Any, Final

from ..clock import clock
from ..supervise.child import Child
from ..supervise.mainloop import MainLoop
from ..supervise.pipe import Message
from ..supervise.roster import Roster
from ..system.patching import original

LONGEST_PROFILE: Final = 600
"""The longest profile, in seconds."""

SIGN_INTERVAL: Final = 1.0
"""Seconds between two lines to the client."""

REPORT_TIME: Final = 5.0
"""Seconds that the workers have to send their profiles."""


class Profiling:
    """The command ``profile`` of a parent.

    Threads of clients call it. ``on_reply`` is the main loop's, which only puts into ``_came``.
    """

    def __init__(self, loop: MainLoop) -> None:
        self._loop = loop
        self._busy = original("_thread", "allocate_lock")()
        self._came: SimpleQueue[tuple[int, Message]] | None = None  # of the profile that is being taken

    def on_reply(self, child: Child, message: Message) -> None:
        """A worker has sent a piece of a profile. The main loop calls this."""
        came = self._came
        if came is not None:
            came.put((child.known_pid, message))

    def __call__(self, request: dict[str, Any]) -> Iterator[dict[str, Any]]:
        seconds: Any = request.get("seconds")
        only: Any = request.get("pid")
        if type(seconds) not in (int, float) or not 0 < seconds <= LONGEST_PROFILE:
            yield {"error": f"a profile lasts more than 0 and at most {LONGEST_PROFILE} seconds"}
            return
        if only is not None and type(only) is not int:
            yield {"error": "pid is the number of a process"}
            return
        if not self._busy.acquire(blocking=False):
            yield {"error": "another profile of this server is being taken; try again when it has ended"}
            return
        try:
            yield from self._take(float(seconds), only)
        finally:
            self._came = None
            self._busy.release()

    def _take(self, seconds: float, only: int | None) -> Iterator[dict[str, Any]]:
        self._came = came = SimpleQueue[tuple[int, Message]]()
        began = clock()
        chosen = self._tell(True, only)
        if not chosen:
            yield {"error": "no worker runs" if only is None else f"process {only} is no worker of this server"}
            return
        try:
            yield {"begun": chosen, "seconds": seconds}
            until = clock() + seconds
            while (left := until - clock()) > 0 and not self._loop.is_over:
                _sleep(min(SIGN_INTERVAL, left))
                yield {"left": round(max(0.0, until - clock()), 1)}
        finally:  # also when the client has left in the middle
            self._tell(False, only)
        yield from self._collect(came, set(chosen), began)

    def _tell(self, begins: bool, only: int | None) -> list[int]:
        """Tell the workers to start or to stop; returns the process ids of those that were told."""
        told: SimpleQueue[list[int]] = SimpleQueue()

        def tell(roster: Roster) -> None:
            chosen = [child for child in self._loop.children if only in (None, child.known_pid) and child.speaks]
            told.put([child.known_pid for child in chosen if child.profile(begins)])

        self._loop.ask(tell)
        return _next(told, clock() + REPORT_TIME, lambda: self._loop.is_over) or []

    def _collect(
        self, came: SimpleQueue[tuple[int, Message]], left: set[int], began: float
    ) -> Iterator[dict[str, Any]]:
        """A line for each worker: its profile, or why there is none.

        The first messages may be the rest of an earlier profile whose client has left.
        """
        pieces: dict[int, list[str]] = {}
        until = clock() + REPORT_TIME
        while left:
            found = _next(came, until, lambda: self._loop.is_over)
            if found is None:
                break
            pid, message = found
            pieces.setdefault(pid, []).append(message.text)
            if pid not in left or message.trace:
                continue
            try:
                profile = json.loads("".join(pieces.pop(pid)))
            except ValueError:
                continue  # its beginning was dropped
            if profile.pop("began") >= began:
                left.remove(pid)
                yield {"pid": pid, "profile": profile}
        for pid in sorted(left):
            why = "it does not respond" if pid in self._loop.pids else "the worker has ended"
            yield {"pid": pid, "missing": why}
        yield {"ok": True}


def _sleep(seconds: float) -> None:
    original("time", "sleep")(seconds)


def _next(queue: SimpleQueue[Any], until: float, is_over: Callable[[], bool]) -> Any:
    """The next item of the queue; None after the time ``until``, or when nothing can come any more."""
    while True:
        try:
            return queue.get(timeout=max(0.0, min(1.0, until - clock())))
        except Empty:
            if is_over() or clock() >= until:
                return None
