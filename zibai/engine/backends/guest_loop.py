"""Tasks in the event loop of another program, which runs before and after the server.

So methods that wait return awaitables, and do not run the event loop. At the end only the tasks of the server are
cancelled, and the event loop stays open.
"""

import asyncio
from collections.abc import Awaitable
from typing import Any

from .task_ends import end_tasks
from .tasks import Tasks


class GuestLoop(Tasks):
    """Everything is for the thread of the event loop."""

    def run(self, awaitable: Awaitable[Any]) -> Awaitable[Any]:
        """Return ``awaitable`` itself: the caller awaits it."""
        return awaitable

    async def wait(self, end: asyncio.Event) -> None:
        await end.wait()

    async def join(self, timeout: float | None) -> bool:  # noqa: ASYNC109 -- as for all backends
        return await self.has_finished(timeout)

    async def stop(self) -> None:
        if self.let_go():
            try:
                idle = set() if self._starter is None else self._starter.idle()
                await end_tasks({*self._requests.tasks(), *idle})
            finally:
                self.poller.close()
