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

    def told(self, end: asyncio.Event) -> asyncio.Future[Any]:
        """A future that is done when ``end`` is set."""
        return asyncio.create_task(end.wait(), name="zibai end")

    async def wait(self, told: asyncio.Future[Any]) -> None:
        await told

    async def join(self, timeout: float | None) -> bool:  # noqa: ASYNC109 -- as for all backends
        return await self.has_finished(timeout)

    async def stop(self) -> None:
        if self.let_go():
            try:
                idle = set() if self._starter is None else self._starter.idle()
                await end_tasks({*self._requests.tasks(), *idle})
            finally:
                self.poller.close()
