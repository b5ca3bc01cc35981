"""Tasks in an event loop of the server's own, which runs in the thread that calls ``serve()``.

That is the main thread of a worker, where applications and libraries expect it: only there can an event loop watch
children and signals.

``SystemExit`` and ``KeyboardInterrupt`` leave the event loop of asyncio, whichever task or callback raises one, and
``stop()`` makes it end. An application must not end a worker, so the event loop goes on after the first and the last. A
``KeyboardInterrupt`` ends the server, because it is what Ctrl-C raises in the main thread.
"""

import threading
from asyncio import Future, all_tasks, ensure_future
from collections.abc import Awaitable, Callable
from contextlib import suppress
from functools import partial
from typing import Any

from ...logger import error_logger, safely
from ...system.forks import end_child
from .task_ends import end_tasks
from .tasks import Tasks


class OwnLoop(Tasks):
    """Closes the event loop in the end. All methods are for the thread that serves."""

    def run(self, awaitable: Awaitable[Any]) -> Any:
        """Run the event loop until this has ended; returns its result, or raises its error."""
        future: Future[Any] = ensure_future(awaitable, loop=self.event_loop)
        future.add_done_callback(self._leave)
        try:
            while not future.done():
                self._run_on(future)
        finally:
            future.remove_done_callback(self._leave)
        return future.result()

    def _leave(self, _: Future[Any]) -> None:
        self.event_loop.stop()

    def _run_on(self, future: Future[Any]) -> None:
        """Run the event loop until something makes it stop, and log this unless it is the end of ``future``."""
        log: Callable[..., object] = error_logger.error
        try:
            self.event_loop.run_forever()
            what = "called stop() of the event loop"
        except SystemExit as error:
            log = partial(log, exc_info=error)
            what = "raised SystemExit outside a request"
        if self.forked:
            end_child()
        if not future.done():
            safely(log, f"the application has {what}, which does not end the worker")

    def told(self, end: threading.Event) -> Future[Any]:
        """A future that is done when ``end`` is set. A thread waits for that."""
        stopped = self.event_loop.create_future()

        def stop() -> None:
            if not stopped.done():
                stopped.set_result(None)

        def tell() -> None:
            end.wait()
            with suppress(RuntimeError):
                self.event_loop.call_soon_threadsafe(stop)

        threading.Thread(target=tell, name="zibai-end", daemon=True).start()
        return stopped

    def wait(self, told: Future[Any]) -> None:
        """Run the event loop until this future is done."""
        self.run(told)

    def join(self, timeout: float | None) -> bool:
        return self.event_loop.is_closed() or bool(self.run(self.has_finished(timeout)))

    def close_in_child(self) -> None:
        """See :meth:`Tasks.close_in_child`. The child ends when the event loop has it again.

        Otherwise the child would take the parent's wake-ups from the pipe of the event loop, which both have, and run
        the tasks of other requests.
        """
        super().close_in_child()
        if self.forked and self.event_loop.is_running():
            self.event_loop.call_soon(end_child)
            ready = getattr(self.event_loop, "_ready", None)
            if ready is not None:  # asyncio's queue: the end comes before all callbacks that were due at the fork
                ready.rotate(1)

    def stop(self) -> None:
        if not self.let_go():
            return
        try:
            self.run(end_tasks(all_tasks(self.event_loop)))
            self.run(self.event_loop.shutdown_asyncgens())
        finally:
            self.event_loop.close()
            self.poller.close()
