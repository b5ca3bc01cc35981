"""Where a task of asyncio waits: the frames of its coroutines, and of the task that it waits for.

The interpreter knows for which coroutine a coroutine waits, but not for which tasks a task waits: a middleware that
calls its application in a task group waits for a future. So the variables of the frames are searched for the group,
and its first unfinished task is taken. Otherwise the stack of each request behind such a middleware would end in the
middleware.

Any thread may call this. If tasks run meanwhile, the result may be wrong, but nothing is harmed.
"""

import asyncio
from types import FrameType
from typing import Any, Final

from ...system.stacks import frames_of_coroutine

MAX_CHAIN: Final = 50
"""The longest chain of tasks waiting for each other that a stack shows."""


def frames_of_task(task: "asyncio.Task[Any]") -> list[FrameType]:
    """The frames of a task that waits, and of the tasks that it waits for, outermost first."""
    found: list[FrameType] = []
    seen: list[Any] = []
    waits: Any = task
    while waits is not None and waits not in seen and len(seen) < MAX_CHAIN:
        seen.append(waits)
        if not isinstance(waits, asyncio.Task):
            waits = _first_left(getattr(waits, "_children", ()))  # of gather()
            continue
        frames = frames_of_coroutine(waits.get_coro())
        found += frames
        waiter = getattr(waits, "_fut_waiter", None)
        waits = waiter if isinstance(waiter, asyncio.Task) or hasattr(waiter, "_children") else _in_group(frames)
    return found


def _in_group(frames: list[FrameType]) -> Any:
    """The first task that is not done of the innermost task group, of asyncio or anyio."""
    for frame in reversed(frames):
        for each in [*frame.f_locals.values()]:
            if type(each).__name__ == "TaskGroup":
                members = getattr(each, "_tasks", None)
                task = _first_left([*members]) if isinstance(members, set) else None
                if task is not None:
                    return task
    return None


def _first_left(members: Any) -> Any:
    """The first that is not done."""
    return next((each for each in members if not each.done()), None)
