"""The first step of a coroutine runs at once: most requests end in it, and a task that starts a turn later costs more.

A coroutine of an application must run in a task: ``asyncio.current_task()``, ``asyncio.timeout`` and the cancel scopes
of anyio need one. From Python 3.12 on the interpreter runs the first step when it makes the task (``eager_start``).
Python 3.11 cannot, and a new task with a step by hand takes 2.1 µs, where a plain request takes 10. So there a *spare*
task waits, parked at a future, and its first step runs by hand. Where the coroutine has ended in its first step, the
task serves the next request.

A spare task must look new to each request. It is retired as soon as anything could tell it from a new one: a reference
or a weak reference to it is kept (SQLAlchemy's ``scopefunc=current_task`` keeps one), it was cancelled, it was given a
name or a callback for its end, or a context variable was set.

Everything here is for the thread of the event loop.
"""

import sys
from asyncio import AbstractEventLoop, CancelledError, Future, Task, current_task, tasks
from asyncio.tasks import _enter_task, _leave_task
from collections.abc import Coroutine, Generator
from contextvars import Context
from operator import attrgetter
from typing import Any, Protocol
from weakref import getweakrefcount

_task_of = current_task
if sys.version_info < (3, 12):
    _task_of = tasks._current_tasks.get  # type: ignore[attr-defined]  # the same without a call in Python


class Starter(Protocol):
    """What starts coroutines in an event loop, each in its own copy of a context."""

    def start(self, coroutine: Coroutine[Any, Any, None]) -> "Task[None] | None":
        """Run the first step of a coroutine, which raises nothing. Returns its task, or None where it has ended."""

    def idle(self) -> "set[Task[None]]":
        """The task that is kept for the next coroutine, if any."""


def make_starter(loop: AbstractEventLoop, context: Context) -> Starter:
    """The fastest starter that this Python allows."""
    if sys.version_info >= (3, 12):
        return _Eager(loop, context)
    return _ByHand(loop, context)


class _Eager:
    """By the interpreter. The task is asyncio's own, also on other event loops, whose ``create_task`` may not take
    ``eager_start``."""

    def __init__(self, loop: AbstractEventLoop, context: Context) -> None:
        self._loop = loop
        self._context = context

    def start(self, coroutine: Coroutine[Any, Any, None]) -> "Task[None] | None":
        task = Task(coroutine, loop=self._loop, context=self._context.copy(), eager_start=True)  # type: ignore[call-arg]
        return None if task.done() else task

    def idle(self) -> "set[Task[None]]":
        return set()


class _ByHand:
    """By hand, with a spare task; for Python 3.11."""

    def __init__(self, loop: AbstractEventLoop, context: Context) -> None:
        self._loop = loop
        self._base = context
        self._spare: _Spare | None = None

    def start(self, coroutine: Coroutine[Any, Any, None]) -> "Task[None] | None":
        spare, self._spare = self._spare or _Spare(self._loop, self._base.copy()), None
        if not spare.run(coroutine):
            return spare.give_away()
        if spare.is_like_new(self._base):
            self._spare = spare
        else:
            spare.retire()
        return None

    def idle(self) -> "set[Task[None]]":
        return set() if self._spare is None else {self._spare.task}


class _Spare(Coroutine[Any, Any, None]):
    """A task and its coroutine in one: this object is the coroutine of the task, and lends the task to others.

    The task takes its own first step in a later turn of the event loop. If it has been lent to a coroutine by then, it
    waits for the same future as that coroutine; otherwise it waits at ``_gate``. So :meth:`run` may be called at any
    time.
    """

    def __init__(self, loop: AbstractEventLoop, context: Context) -> None:
        self._loop = loop
        self._context = context
        self._gate: Future[None] | None = None  # once the task has taken its own first step
        self._inner: Any = None  # the coroutine that has the task
        self._awaited: Any = None  # what the inner coroutine waits for, until the task waits for it
        self._references = self._weak_references = 0
        self._over = False
        self._stepped = False  # whether the task has taken its own first step
        self.task: Task[None] = Task(self, loop=loop, context=context)
        self._name = self.task.get_name()

    def run(self, coroutine: Coroutine[Any, Any, None]) -> bool:
        """The first step of ``coroutine``; returns whether it has ended."""
        loop, task = self._loop, self.task
        self._references, self._weak_references = sys.getrefcount(task), getweakrefcount(task)
        outer = _task_of(loop)
        if outer is not None:
            _leave_task(loop, outer)
        _enter_task(loop, task)
        try:
            self._awaited = self._context.run(coroutine.send, None)
        except StopIteration:
            return True
        finally:
            _leave_task(loop, task)
            if outer is not None:
                _enter_task(loop, outer)
        inner: Any = coroutine
        self._inner, self.__name__, self.__qualname__ = inner, inner.__name__, inner.__qualname__
        self._wake()
        return False

    def give_away(self) -> "Task[None]":
        """The task, which from now on is its coroutine's. This object forgets it: a task refers to its coroutine, and
        the two together would be freed only by the garbage collector.
        """
        task = self.task
        del self.task
        return task

    def is_like_new(self, base: Context) -> bool:
        """Whether nothing tells the task from a new one, after a first step that has ended."""
        task: Any = self.task
        gate = self._gate
        return (
            sys.getrefcount(task) == self._references
            and getweakrefcount(task) == self._weak_references
            # Not `cancelling`: a cancellation that was taken back (`uncancel`) hits the next wait all the same.
            and not (task._must_cancel if gate is None else gate.done())
            and self._context == base
            and not task._callbacks  # they would be called when the task has served another request, or many
            and task.get_name() == self._name
        )

    def retire(self) -> None:
        """Let the task end."""
        self._over = True
        self._wake()
        self.give_away()

    def _wake(self) -> None:
        gate = self._gate
        if gate is not None and not gate.done():  # it is done where the coroutine has cancelled its own task
            gate.set_result(None)

    # The coroutine of the task.

    def send(self, value: None) -> Any:
        inner, first, self._stepped = self._inner, not self._stepped, True
        if inner is not None:
            awaited, self._awaited = self._awaited, None
            self.send = inner.send  # type: ignore[method-assign]  # of all later steps
            # A pause (``asyncio.sleep(0)``) lasts until everything has run that was due when it began. The first step
            # of the task was due before it began, so that one comes too early: the task pauses once more.
            return inner.send(value) if awaited is None and not first else awaited
        if self._over:
            raise StopIteration
        self._gate = gate = self._loop.create_future()
        gate._asyncio_future_blocking = True  # as ``await`` does
        return gate

    def throw(self, *error: Any) -> Any:
        inner = self._inner
        if inner is None:
            raise error[-1] if len(error) < 3 else error[1]
        awaited, self._awaited = self._awaited, None
        if awaited is not None:
            # The task was cancelled before it came to wait for this. A task that waits already passes it on.
            if isinstance(error[-1], CancelledError) and awaited.cancel(*error[-1].args):
                return awaited
            awaited._asyncio_future_blocking = False
        return inner.throw(*error)

    def close(self) -> None:
        if self._inner is not None:
            self._inner.close()

    def __await__(self) -> Generator[Any, None, None]:
        raise TypeError("only its task runs this")

    # Attributes from which the stack of a task is read. ``__getattr__`` in their place would make each access to
    # an attribute of this object five times as slow, which is 2 % of a plain request.
    cr_await, cr_code, cr_frame, cr_origin, cr_running, cr_suspended = (
        property(attrgetter(f"_inner.cr_{name}"))
        for name in ("await", "code", "frame", "origin", "running", "suspended")
    )
