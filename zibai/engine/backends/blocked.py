"""Says when gevent's hub or the event loop of asyncio is blocked, and by what.

An application blocks it by a computation, or by a wait that the hub or event loop does not know of. Then nothing else
in the worker runs, so a thread of the system has to see it. While there is anything to run, this thread asks for a sign
of life ten times a second. When no sign comes, it looks at the stack of the blocked thread, every ``LOOK_EVERY``
seconds. When two looks find the application in the same call, the thread logs a warning, with the request where the
stack shows one. A busy machine, many short requests in a row and the server's own work cause no warning.
"""

import _thread
import sys
import time
from collections.abc import Callable
from types import FrameType
from typing import Any, Final

from ...logger import logger
from ...protocol.http1 import Request
from ...system.stacks import application_frame, format_stack, is_ours

LOOK_EVERY: Final = 0.1
"""Seconds between two looks. A call of the application that lasts from one look to the next causes a warning."""

WARNING_INTERVAL: Final = 10.0
"""Seconds after a warning until there may be another."""

_LINGER: Final = 3  # looks without a turn of the loop after which the thread sleeps


def _of_the_system(name: str) -> Any:
    return getattr(_thread, name)


class Watch:
    """Watches the hub or event loop of the calling thread, which a log line calls ``what``.

    ``ask`` makes the hub or event loop call :meth:`live` soon; it raises once that is closed. ``is_busy`` tells the
    watching thread whether a request has begun. ``thread`` returns an original of the module ``_thread`` by its name,
    where gevent has replaced it.

    Only ``turns`` and ``asleep`` are shared. The watched thread counts ``turns``, and then looks at ``asleep`` to see
    whether it must ring. The watching thread sets ``asleep`` before its last look at ``turns``, so no ring is lost.
    """

    def __init__(
        self,
        what: str,
        ask: Callable[[], object],
        is_busy: Callable[[], bool],
        thread: Callable[[str], Any] = _of_the_system,
    ) -> None:
        self._what = what
        self._ask = ask
        self.turns = 0
        self.asleep = False
        self._is_busy = is_busy
        self._thread = thread
        self._watched = thread("get_ident")()
        self._over = False
        self._pause, self._bell, self._sign = (thread("allocate_lock")() for _ in range(3))
        for lock in (self._pause, self._bell, self._sign):
            lock.acquire()
        self._silent_until = 0.0

    # Of the watched thread.

    def start(self) -> None:
        self._thread("start_new_thread")(self._live, ())

    def live(self) -> None:
        """The sign of life."""
        _open(self._sign)

    def ring(self) -> None:
        """Something runs again; only needed when ``asleep``."""
        _open(self._bell)

    def stop(self) -> None:
        self._over = True
        for lock in (self._pause, self._bell, self._sign):
            _open(lock)

    # Of the watching thread.

    def _live(self) -> None:
        quiet = 0
        while not self._over:
            seen = self.turns
            self._look()
            self._pause.acquire(timeout=LOOK_EVERY)  # opens at the end only
            quiet = 0 if self.turns != seen or self._is_busy() else quiet + 1
            if quiet > _LINGER:
                self.asleep = True
                if self.turns == seen and not self._over:
                    self._bell.acquire()
                self.asleep = False
                quiet = 0

    def _look(self) -> None:
        try:
            self._ask()
        except Exception:
            return  # closed under us: it is over
        seen: FrameType | None = None
        while not self._sign.acquire(timeout=LOOK_EVERY):
            if self._over:
                return
            frame = sys._current_frames().get(self._watched)
            call = application_frame(frame)
            if call is not None and call is seen:
                self._warn(frame)
                del frame, call, seen  # they would keep the application's variables alive
                self._sign.acquire()
                return
            seen = call

    def _warn(self, frame: FrameType | None) -> None:
        now = time.monotonic()
        if now >= self._silent_until:
            self._silent_until = now + WARNING_INTERVAL
            logger.warning(
                "an application has blocked %s for %g s%s, so that nothing else runs:\n%s",
                self._what,
                LOOK_EVERY,
                _request_of(frame),
                format_stack(frame),
            )


def _request_of(frame: FrameType | None) -> str:
    """The request that a stack serves, for a log line; empty for a task that the application has made.

    The server's own frames have it in their variables, so no request has to be noted for this.
    """
    while frame is not None:
        request = getattr(frame.f_locals.get("self"), "request", None) if is_ours(frame.f_code.co_filename) else None
        if isinstance(request, Request):
            return f" in {request.summary.decode('ascii', 'backslashreplace')}"
        frame = frame.f_back
    return ""


def _open(lock: Any) -> None:
    if lock.locked():
        lock.release()
