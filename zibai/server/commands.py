"""The commands of the control channel, which clients of :mod:`zibai.server.endpoint` send.

There is a command for everything that a signal does, on every system. A request is ``{"command": "reload", "by":
"zibai reload", ...}``, and each line of the response is an object. The last one has ``ok``, or ``error`` and a
sentence.

Each command runs in the thread of its client. It changes nothing itself, but asks the main loop of the parent
(:meth:`~zibai.supervise.mainloop.MainLoop.ask`). Replies arrive in a queue of
the command: the main loop only appends to it, and the client's thread only takes from it. If the main loop has ended,
nothing arrives, so the client's thread checks that every second.
"""

import os
import sys
from collections.abc import Callable
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Any, Final

from ..clock import clock
from ..supervise.child import Child
from ..supervise.mainloop import MainLoop
from ..supervise.pipe import Message
from ..supervise.roster import Roster
from .dump import describe_process
from .endpoint import Request
from .profiling import Profiling
from .single_commands import GRACEFUL_SIGNAL, QUICK_SIGNAL, Lines

if TYPE_CHECKING:
    from ..supervise.events import Event

MANY: Final = 1000
"""The largest number of workers that may be asked for: a typing error should not use up the machine."""

DUMP: Final = 2.0
"""Seconds that a worker has to send its stacks. After that it is assumed to hold the GIL."""

_ENDED: Final = {"error": "the server has ended"}


class Commands:
    """The commands of a parent. ``heard`` is called before the end begins: it ends the process if that hangs."""

    def __init__(self, loop: MainLoop, heard: Callable[[str], object] | None = None) -> None:
        self._loop = loop
        self._heard = heard
        self._dumps: list[SimpleQueue[tuple[int, str]]] = []  # of the commands that wait; only the main loop changes it
        self._profiling = Profiling(loop)
        loop.on_reply = self._on_reply
        self._known: dict[str, Callable[[Request], Lines]] = {
            "reload": self._reload,
            "stop": self._stop,
            "workers": self._workers,
            "dump": self._dump,
            "profile": self._profiling,
            "reopen": self._reopen,
            "upgrade": self._upgrade,
        }

    def __call__(self, request: Request) -> Lines:
        name = request.get("command")
        command = self._known.get(name) if isinstance(name, str) else None
        if command is None:
            yield {"error": f"the commands are {', '.join(self._known)}"}
            return
        yield from command(request)

    def _reload(self, request: Request) -> Lines:
        """Begin a restart. With ``wait`` send a line for each of its events, until it is done, aborted or given up."""
        events: SimpleQueue[Event | int | None] = SimpleQueue()
        wait, by = request.get("wait") is True, _by(request)

        def begin(roster: Roster) -> None:
            if wait:
                self._loop.ledger.subscribe(events.put)
            events.put(roster.restart(by))

        self._loop.ask(begin)
        generation: int | None = None
        try:
            while True:
                event = self._next(events)
                if isinstance(event, int):
                    generation = event
                    if not wait:
                        yield {"ok": True, "generation": generation}
                        return
                elif event is None or event.kind == "ending":
                    yield {"error": "the server is ending"}
                    return
                else:
                    yield {"event": event.kind, "text": event.text, "generation": event.generation}
                    if generation is not None and event.generation >= generation:
                        if event.kind == "done":
                            yield {"ok": True, "generation": event.generation}
                            return
                        if event.kind == "aborted":
                            yield {"error": event.text, "aborted": True, "trace": event.trace}
                            return
        finally:
            if wait:
                self._loop.ask(lambda roster: self._loop.ledger.unsubscribe(events.put))

    def _next(self, events: SimpleQueue[Any], until: float | None = None) -> Any:
        """The next event; None if the main loop has ended, or the time ``until`` has passed."""
        while True:
            try:
                return events.get(timeout=1.0 if until is None else max(0.0, min(1.0, until - clock())))
            except Empty:
                if self._loop.is_over or (until is not None and clock() >= until):
                    return None

    def _stop(self, request: Request) -> Lines:
        """Begin the end, ``now`` or gracefully. The client is told first, since the end may be faster than the line."""
        now, by = request.get("now") is True, _by(request)
        try:
            yield {"ok": True, "pid": os.getpid()}
        finally:  # also for a client that has left without waiting for the line
            # Before the main loop begins the end, as with a signal: otherwise the overseer would take an announced
            # shutdown for a second request, which leaves no time for --drain.
            if self._heard is not None:
                self._heard(QUICK_SIGNAL if now else GRACEFUL_SIGNAL)
            self._loop.ask(lambda roster: roster.end("quit" if now else "drain", by))

    def _workers(self, request: Request) -> Lines:
        """Change the number of workers, if ``number`` is given, and report it."""
        number = request.get("number")
        if number is not None and (type(number) is not int or not 1 <= number <= MANY):
            yield {"error": f"the number of workers is from 1 to {MANY}"}
            return
        told: SimpleQueue[int] = SimpleQueue()

        def change(roster: Roster) -> None:
            if number is not None and not roster.is_ending:
                roster.change_wanted_to(number)
            told.put(roster.wanted)

        self._loop.ask(change)
        wanted = self._next(told)
        if wanted is None:
            yield _ENDED
            return
        workers = [{"pid": pid, "state": state} for pid, state in self._loop.workers]
        yield {"ok": True, "wanted": wanted, "workers": workers}

    def _reopen(self, request: Request) -> Lines:
        self._loop.signal_soon("SIGUSR1")
        yield {"ok": True}

    def _upgrade(self, request: Request) -> Lines:
        if sys.platform == "win32":
            yield {"error": "this system cannot pass listeners to a new server"}
            return
        self._loop.signal_soon("SIGUSR2")
        yield {"ok": True}

    def _on_reply(self, child: Child, message: Message) -> None:
        """A worker has sent its stacks, or a piece of a profile. The main loop calls this."""
        if message.verb == "profile":
            self._profiling.on_reply(child, message)
            return
        for waiting in self._dumps:
            waiting.put((child.known_pid, message.text))

    def _dump(self, request: Request) -> Lines:
        """The stacks of all workers, or of the one with this ``pid``: a line for each."""
        only = request.get("pid")
        if only is not None and type(only) is not int:
            yield {"error": "pid is the number of a process"}
            return
        came: SimpleQueue[Any] = SimpleQueue()

        def begin(roster: Roster) -> None:
            self._dumps.append(came)
            chosen = [child for child in self._loop.children if only in (None, child.known_pid)]
            came.put([child.known_pid for child in chosen])
            for child in chosen:
                child.dump()

        self._loop.ask(begin)
        try:
            left = self._next(came)
            if not left:
                yield _ENDED if left is None else {"error": f"process {only} is no worker of this server"}
                return
            until = clock() + DUMP
            while left and (found := self._next(came, until)) is not None:
                pid, text = found
                if pid in left:
                    left.remove(pid)
                    yield {"pid": pid, "text": text}
            for pid in left:
                yield {"pid": pid, "text": describe_process(pid)}
            yield {"ok": True}
        finally:
            self._loop.ask(lambda roster: self._dumps.remove(came))


def _by(request: Request) -> str:
    """The origin of a request, for the log, made safe.

    Only a text is accepted: json reads lists that are nested more deeply than ``str`` can print.
    """
    by = request.get("by", "")
    return by[:100] if isinstance(by, str) and by[:100].isprintable() else "control channel"
