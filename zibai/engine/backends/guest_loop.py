"""Tasks in the event loop of another program, which runs before and after the server.

So what waits here is awaited, and does not run the event loop. At the end only the tasks of the server are cancelled,
and the event loop stays open.
"""

import asyncio
from collections.abc import Awaitable
from typing import Any

from .task_ends import end_tasks
from .tasks import Tasks


class GuestLoop(Tasks):
    """Everything is for the thread of the event loop."""

    def run(self, awaitable: Awaitable[Any]) -> Awaitable[Any]:
        """What the caller has to await."""
        return awaitable

    async def wait(self, end: asyncio.Event) -> None:
        await end.wait()

    async def join(self, timeout: float | None) -> bool:  # noqa: ASYNC109 -- as for all backends
        return await self.has_finished(timeout)

    async def stop(self) -> None:
        if self.let_go():
            try:
                idle = set() if self._starter is None else self._starter.idle()
                await end_tasks(self._tasks | idle)
            finally:
                self.poller.close()
