"""How tasks are ended that do not end by themselves: they are cancelled once, and have a little time."""

import asyncio
from collections.abc import Collection
from typing import Any, Final

CANCEL_TIME: Final = 2.0
"""Seconds that cancelled tasks have to clean up."""


def cancel_once(tasks: Collection[asyncio.Task[Any]]) -> None:
    """Cancel each of the tasks once: a second time would interrupt their cleaning up."""
    for task in [*tasks]:
        if not task.cancelling():
            task.cancel()


async def end_tasks(tasks: Collection[asyncio.Task[Any]]) -> None:
    """Cancel the tasks, and wait for them, at most ``CANCEL_TIME`` seconds."""
    cancel_once(tasks)
    if tasks:
        await asyncio.wait(tasks, timeout=CANCEL_TIME)
