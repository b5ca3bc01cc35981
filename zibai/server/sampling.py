"""Samples this worker for ``zibai profile``: the stacks of its threads and requests, a hundred times a second.

A thread of the system looks at the stacks of all other threads, and asks the backend for the requests that have no
thread at that moment: greenlets that are switched out, and tasks that wait. Equal stacks are counted together, so a
profile takes little memory however long it lasts. The samples show wall-clock time and not processor time: a request
that waits for a database counts.

Each stack is of one kind. ``request``: a request runs in the application. ``other``: the application runs without a
request, for example in a thread of its own. ``server``: the server itself works. ``idle``: the thread waits for work.

Nothing of this exists until the parent asks for it. :func:`start` and :func:`stop` belong to the control thread. The
counts belong to the sampling thread, which sends them when it has ended.
"""

import json
import sys
from collections import Counter
from collections.abc import Callable
from time import thread_time
from types import CodeType, FrameType
from typing import Any, Final

from ..clock import clock
from ..system.lastword import start_thread
from ..system.patching import original
from ..system.stacks import is_applications, is_below, is_ours, origin

SAMPLE_INTERVAL: Final = 0.01
"""Seconds between two looks."""

SAMPLING_LIMIT: Final = 660.0
"""Seconds after which the sampling ends if nothing else has ended it; the parent ends it earlier."""

STACKS: Final = 5000
"""Different stacks that are kept apart. Further ones are counted as one, and so are those that do not fit into
``PROFILE_SIZE``."""

PROFILE_SIZE: Final = 2 * 1024**2
"""Bytes of a whole profile."""

MESSAGE_SIZE: Final = 32 * 1024
"""Bytes of one message to the parent: other messages go between two pieces."""

WAITING: Final = 64
"""Requests without a thread that one look visits. If there are more, it visits every n-th, which counts n times."""

MAX_FRAMES: Final = 200
"""Frames of a stack, the innermost ones."""

Codes = list[CodeType]  # of a stack, the outermost first
Stack = tuple[int, ...]  # their ids: equal functions of two files are equal objects, and their hash takes long
Waiting = Callable[[], list[list[FrameType]]]

REST: Final[Stack] = ()

_OUR_WAITS: Final = frozenset(
    {"_turn", "_wait_for_baton", "_wait", "wait", "wait_as_thread", "wait_in_step", "join", "run"}
    | {"_live", "_look", "_end", "_tell", "_insist", "_pause", "poll", "tell", "ring"}
)
"""Functions of the server in which a thread waits by a call that is written in C. Their other lines are short."""

_WAITS: Final = (
    "threading.py", "selectors.py", "queue.py", "connection.py", "socketserver.py", "windows_events.py",
    "thread.py",  # concurrent.futures
    "hub.py", "threadpool.py", "_threadpool.py", "loop.py",  # gevent
)  # fmt: skip
"""Files of the standard library and of gevent in which a thread waits for work."""


class Sampler:
    """The counts of one profile. ``waiting`` returns the stacks of requests that have no thread."""

    def __init__(self, waiting: Waiting) -> None:
        self._waiting = waiting
        self._counts: Counter[Stack] = Counter()
        self._kinds: dict[Stack, str] = {REST: "server"}
        self._codes: dict[int, CodeType] = {}  # of all stacks that are kept; they stay alive, so no id is used again
        self._looks = 0
        self._busy = 0  # looks that found a request in the application
        self._began = clock()
        self._cpu = thread_time()
        self.over = original("_thread", "allocate_lock")()
        self.over.acquire()

    def run(self, send: Callable[[str, str], object]) -> None:
        """Look until ``over`` is released, then send the profile. The sampling thread."""
        self._began, self._cpu = clock(), thread_time()
        until = self._began + SAMPLING_LIMIT
        due = self._began
        while (now := clock()) < until and not self.over.acquire(timeout=max(0.0, due - now)):
            due = max(due + SAMPLE_INTERVAL, clock())  # missed looks are not repeated
            self.look()
        report = self.report()
        for start in range(0, len(report), MESSAGE_SIZE):
            rest = start + MESSAGE_SIZE < len(report)
            send(report[start : start + MESSAGE_SIZE], "more" if rest else "")

    def look(self) -> None:
        """Take one sample of everything."""
        me = original("_thread", "get_ident")()
        kinds = set()
        for ident, frame in sys._current_frames().items():
            if ident != me:
                kinds.add(self._count(_codes_of(frame), 1, None))
        waiting = self._waiting()
        step = -(-len(waiting) // WAITING) or 1
        for frames in filter(None, waiting[self._looks % step :: step]):
            kinds.add(self._count([each.f_code for each in frames[-MAX_FRAMES:]], step, "request"))
        self._looks += 1
        self._busy += "request" in kinds

    def _count(self, codes: Codes, weight: int, kind: str | None) -> str:
        """Count a stack, whose kind is found out if it is not known. Returns the kind."""
        stack = tuple(map(id, codes))
        found = self._kinds.get(stack)
        if found is None:
            found = kind if kind is not None else _kind_of(codes)
            if len(self._kinds) >= STACKS:
                stack = REST
            else:
                self._kinds[stack] = found
                self._codes.update(zip(stack, codes, strict=True))
        self._counts[stack] += weight
        return found

    def report(self) -> str:
        """The profile as JSON: ``frames`` are functions: name, file, line, whose; a stack is a list of indexes."""
        most = len(self._counts)
        while True:
            text = json.dumps(self._describe(most))
            if len(text) <= PROFILE_SIZE or not most:
                return text
            most //= 2

    def _describe(self, most: int) -> dict[str, Any]:
        numbers: dict[int, int] = {}
        stacks = []
        common = self._counts.most_common(most)
        left = self._counts.total() - sum(times for _, times in common)
        for stack, times in common:
            kind = self._kinds[stack]
            if kind != "idle":
                shown = [id(code) for code in _shown([self._codes[each] for each in stack])]
                stacks.append([[numbers.setdefault(each, len(numbers)) for each in shown], times, kind])
        if left:
            stacks.append([[], left, "server"])
        idle = sum(times for stack, times in common if self._kinds[stack] == "idle")
        return {
            "began": self._began,
            "seconds": round(clock() - self._began, 3),
            "looks": self._looks,
            "busy": self._busy,
            "idle": idle,
            "cpu": round(max(0.0, thread_time() - self._cpu), 4),
            "frames": [_describe_code(self._codes[each]) for each in numbers],
            "stacks": stacks,
        }


def _codes_of(frame: FrameType | None) -> Codes:
    codes: Codes = []
    while frame is not None and len(codes) < MAX_FRAMES:
        codes.append(frame.f_code)
        frame = frame.f_back
    codes.reverse()
    return codes


def _kind_of(codes: Codes) -> str:
    # Not while a module of the gateway is imported, at the start.
    serves = any(is_ours(code.co_filename, "gateway") and code.co_name != "<module>" for code in codes)
    runs = any(is_applications(code.co_filename) for code in codes)
    if serves:
        return "request" if runs else "server"
    if not codes or _waits(codes[-1]):
        return "idle"
    return "other" if runs else "server"


def _waits(code: CodeType) -> bool:
    """Whether a thread with this innermost function waits for work."""
    if is_ours(code.co_filename):
        return code.co_name in _OUR_WAITS
    return not is_applications(code.co_filename) and code.co_filename.endswith(_WAITS)


def _shown(codes: Codes) -> Codes:
    """A stack without the frames of the server and of Python that come before the application."""
    for place, code in enumerate(codes):
        if not is_below(code.co_filename):
            return codes[place:]
    return codes


def _describe_code(code: CodeType) -> list[Any]:
    name = getattr(code, "co_qualname", code.co_name)
    return [name, code.co_filename, code.co_firstlineno, origin(code.co_filename)]


def _nothing() -> list[list[FrameType]]:
    return []


waiting: Waiting = _nothing
"""Returns the stacks of requests without a thread; the worker sets it before it serves."""

_sampler: Sampler | None = None


def start(send: Callable[[str, str], object]) -> None:
    """Start to sample, unless that is going on. ``send`` gets the pieces of the profile, and whether there is more."""
    global _sampler
    if _sampler is None:
        _sampler = sampler = Sampler(waiting)
        start_thread(lambda: sampler.run(send))


def stop() -> None:
    """Stop the sampling, if it goes on. The sampling thread then sends the profile."""
    global _sampler
    if _sampler is not None:
        _sampler.over.release()
        _sampler = None
