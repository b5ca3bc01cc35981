"""The first step of a coroutine at once, both ways: by the interpreter (Python 3.12), and by hand with a spare task.

Every check runs four times in a row in the same loop, so that what one leaves behind is seen by the next.
"""

from __future__ import annotations

import asyncio
import contextvars
import gc
import sys
import threading
import traceback
import weakref
from typing import TYPE_CHECKING, Any

import pytest

from zibai.engine.backends.eager import _ByHand, _Eager
from zibai.system.stacks import frames_of_coroutine as frames

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

VARIABLE: contextvars.ContextVar[str] = contextvars.ContextVar("VARIABLE", default="unset")

WAYS: list[Any] = [
    pytest.param(_ByHand, id="by hand"),
    pytest.param(
        _Eager, id="interpreter", marks=pytest.mark.skipif(sys.version_info < (3, 12), reason="Python 3.12 can")
    ),
]


@pytest.fixture(params=WAYS)
def way(request: pytest.FixtureRequest) -> Any:
    return request.param


class Run:
    """Coroutines that are started in a loop, from a callback, as the server does it."""

    def __init__(self, way: Any, debug: bool = False) -> None:
        self.loop = asyncio.new_event_loop()
        self.loop.set_debug(debug)
        self.complaints: list[dict[str, Any]] = []
        self.loop.set_exception_handler(lambda loop, context: self.complaints.append(context))
        self.way = way(self.loop, contextvars.copy_context())

    def start(self, check: Callable[[], Awaitable[Any]]) -> tuple[Any, bool]:
        """Runs it to its end; returns its result, and whether its first step was its last."""
        result: list[Any] = []

        async def main() -> None:
            try:
                result.append(await check())
            except BaseException as error:
                result.append(error)

        async def outer() -> bool:
            done = self.loop.create_future()

            def begin() -> None:
                task = self.way.start(main())
                at_once = bool(result)
                if task is None:
                    done.set_result(at_once)
                else:
                    task.add_done_callback(lambda _: done.set_result(at_once))

            self.loop.call_soon(begin)
            return await done

        at_once = self.loop.run_until_complete(asyncio.wait_for(outer(), 10))
        if isinstance(result[0], BaseException):
            raise result[0]
        return result[0], at_once

    def close(self) -> None:
        """As the backend ends."""
        tasks = asyncio.all_tasks(self.loop)
        for task in tasks:
            task.cancel()
        if tasks:
            self.loop.run_until_complete(asyncio.wait(tasks, timeout=2))
        assert not [task for task in tasks if not task.done()]
        self.loop.run_until_complete(self.loop.shutdown_asyncgens())
        self.loop.run_until_complete(self.loop.shutdown_default_executor())
        self.loop.close()
        gc.collect()
        assert self.complaints == []


CHECKS: dict[str, Callable[[], Awaitable[Any]]] = {}


def check(function: Callable[[], Awaitable[Any]]) -> Callable[[], Awaitable[Any]]:
    CHECKS[function.__name__] = function
    return function


def task_of_mine() -> asyncio.Task[Any]:
    task = asyncio.current_task()
    assert task is not None
    return task


@check
async def current_task_at_once() -> None:
    assert task_of_mine() in asyncio.all_tasks()
    assert not task_of_mine().done()


@check
async def current_task_later() -> None:
    task = task_of_mine()
    await asyncio.sleep(0)
    assert asyncio.current_task() is task
    await asyncio.sleep(0.001)
    assert asyncio.current_task() is task


@check
async def timeout_that_passes() -> None:
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.001):
            await asyncio.sleep(10)
    assert not task_of_mine().cancelling()


@check
async def timeout_that_does_not() -> None:
    async with asyncio.timeout(10):
        await asyncio.sleep(0)


@check
async def timeout_without_a_step() -> None:
    async with asyncio.timeout(10):  # noqa: ASYNC100
        pass


@check
async def wait_for_a_thing() -> None:
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(asyncio.sleep(10), 0.001)


@check
async def group_that_ends() -> None:
    async with asyncio.TaskGroup() as group:
        children = [group.create_task(asyncio.sleep(0, number)) for number in range(3)]
    assert [child.result() for child in children] == [0, 1, 2]


@check
async def group_that_fails() -> None:
    async def fail() -> None:
        raise KeyError

    with pytest.raises(ExceptionGroup):  # noqa: PT012
        async with asyncio.TaskGroup() as group:
            group.create_task(fail())
            await asyncio.sleep(10)
    assert not task_of_mine().cancelling()


@check
async def children_are_lazy() -> None:
    order = []

    async def child() -> None:
        order.append("child")

    async with asyncio.TaskGroup() as group:
        group.create_task(child())
        order.append("parent")
    assert order == ["parent", "child"]


@check
async def a_pause_lasts_a_round() -> None:
    order = []

    async def child() -> None:
        order.append("child")

    task = asyncio.create_task(child())
    await asyncio.sleep(0)
    order.append("parent")
    await task
    assert order == ["child", "parent"]


@check
async def cancelled_by_itself_before_a_wait() -> None:
    task_of_mine().cancel()
    with pytest.raises(asyncio.CancelledError):
        await asyncio.sleep(0)
    task_of_mine().uncancel()
    await asyncio.sleep(0)


@check
async def cancelled_by_itself_at_the_end() -> None:
    task_of_mine().cancel()


@check
async def cancelled_by_itself_and_taken_back() -> None:
    task_of_mine().cancel()
    task_of_mine().uncancel()


@check
async def cancelled_by_itself_at_the_end_of_a_later_step() -> None:
    await asyncio.sleep(0)
    task_of_mine().cancel()


@check
async def not_cancelled_by_another() -> None:
    assert not task_of_mine().cancelling()
    await asyncio.sleep(0)


@check
async def cancelled_by_a_callback() -> None:
    asyncio.get_running_loop().call_soon(task_of_mine().cancel)
    with pytest.raises(asyncio.CancelledError):
        await asyncio.sleep(10)
    task_of_mine().uncancel()


@check
async def cancelled_with_a_child() -> None:
    """The child that is waited for is cancelled, too, and first."""
    child = asyncio.create_task(asyncio.sleep(10))
    asyncio.get_running_loop().call_soon(task_of_mine().cancel)
    with pytest.raises(asyncio.CancelledError):
        await child
    assert child.cancelled()
    task_of_mine().uncancel()


@check
async def cancelled_with_a_shield() -> None:
    child = asyncio.create_task(asyncio.sleep(0.01, "kept"))
    asyncio.get_running_loop().call_soon(task_of_mine().cancel)
    with pytest.raises(asyncio.CancelledError):
        await asyncio.shield(child)
    task_of_mine().uncancel()
    assert await child == "kept"


@check
async def cancelled_by_a_child() -> None:
    task = task_of_mine()

    async def child() -> None:
        task.cancel("because")

    made = asyncio.create_task(child())
    with pytest.raises(asyncio.CancelledError, match="because"):
        await asyncio.sleep(10)
    await asyncio.sleep(0)
    task.uncancel()
    await made


@check
async def awaits_what_is_done() -> None:
    future = asyncio.get_running_loop().create_future()
    future.set_result(7)
    assert await future == 7


@check
async def awaits_what_fails() -> None:
    future = asyncio.get_running_loop().create_future()
    asyncio.get_running_loop().call_soon(future.set_exception, KeyError("x"))
    with pytest.raises(KeyError):
        await future


@check
async def awaits_nonsense() -> None:
    class Nonsense:
        def __await__(self) -> Any:
            yield 7

    with pytest.raises(RuntimeError, match="bad yield"):
        await Nonsense()


@check
async def context_is_a_copy() -> None:
    assert VARIABLE.get() == "unset"
    VARIABLE.set("mine")
    assert VARIABLE.get() == "mine"


@check
async def context_is_kept() -> None:
    assert VARIABLE.get() == "unset"
    token = VARIABLE.set("mine")
    await asyncio.sleep(0)
    assert VARIABLE.get() == "mine"
    VARIABLE.reset(token)  # which only works in the same context
    assert VARIABLE.get() == "unset"


@check
async def context_of_children_and_threads() -> None:
    VARIABLE.set("mine")

    async def child() -> str:
        return VARIABLE.get()

    assert await asyncio.create_task(child()) == "mine"
    assert await asyncio.to_thread(VARIABLE.get) == "mine"


@check
async def generators_are_closed() -> None:
    closed = []

    async def numbers() -> Any:
        try:
            yield 1
            yield 2
        finally:
            await asyncio.sleep(0)
            closed.append(1)

    async for _ in numbers():
        break
    gc.collect()
    for _ in range(5):
        await asyncio.sleep(0)
    assert closed == [1]


@check
async def called_from_a_thread() -> None:
    loop = asyncio.get_running_loop()
    future = loop.create_future()
    thread = threading.Thread(target=loop.call_soon_threadsafe, args=[future.set_result, 1])
    thread.start()
    assert await future == 1
    thread.join()


@check
async def stacks_and_names() -> None:
    task = task_of_mine()
    await asyncio.sleep(0)
    await asyncio.sleep(0)

    def look() -> list[str]:
        return [frame.f_code.co_name for frame in frames(task.get_coro())]

    found = asyncio.get_running_loop().create_future()
    asyncio.get_running_loop().call_soon(lambda: found.set_result(look()))
    assert "stacks_and_names" in await found
    assert "main" in repr(task)
    assert traceback.format_list(traceback.extract_stack())


@check
async def events_and_queues() -> None:
    queue: asyncio.Queue[int] = asyncio.Queue(1)

    async def fill() -> None:
        for number in range(3):
            await queue.put(number)

    filling = asyncio.create_task(fill())
    assert [await queue.get() for _ in range(3)] == [0, 1, 2]
    await filling
    async with asyncio.Lock(), asyncio.Semaphore(1):
        await asyncio.sleep(0)


@check
async def anyio_groups_and_scopes() -> None:
    anyio = pytest.importorskip("anyio")
    done = []

    async def work() -> None:
        await anyio.sleep(0)
        done.append(1)

    async with anyio.create_task_group() as group:
        group.start_soon(work)
        group.start_soon(work)
    assert done == [1, 1]
    async with anyio.create_task_group() as group:
        group.start_soon(anyio.sleep, 10)
        group.cancel_scope.cancel()
    with anyio.move_on_after(0.001) as scope:
        await anyio.sleep(10)
    assert scope.cancelled_caught
    with anyio.CancelScope() as scope:
        scope.cancel()
        await anyio.sleep(0)
    assert scope.cancelled_caught
    with pytest.raises(TimeoutError):
        with anyio.fail_after(0.001):
            await anyio.sleep(10)
    assert not task_of_mine().cancelling()


@check
async def anyio_scope_without_a_step() -> None:
    anyio = pytest.importorskip("anyio")
    with anyio.CancelScope():
        pass
    assert anyio.get_current_task().id == id(task_of_mine())


@check
async def anyio_threads_and_streams() -> None:
    anyio = pytest.importorskip("anyio")
    send, receive = anyio.create_memory_object_stream(0)
    async with anyio.create_task_group() as group, send, receive:
        group.start_soon(send.send, 1)
        assert await receive.receive() == 1
    assert await anyio.to_thread.run_sync(lambda: anyio.from_thread.run(anyio.sleep, 0)) is None


AT_ONCE = {
    "current_task_at_once", "timeout_without_a_step", "cancelled_by_itself_at_the_end",
    "cancelled_by_itself_and_taken_back", "awaits_what_is_done", "context_is_a_copy", "anyio_scope_without_a_step",
}  # fmt: skip


@pytest.mark.parametrize("debug", [False, True], ids=["", "debug"])
@pytest.mark.parametrize("name", CHECKS)
@pytest.mark.daily("debug")
def test_a_check_again_and_again(way: Any, name: str, debug: bool) -> None:
    run = Run(way, debug)
    for number in range(4):
        if number % 2:
            run.start(_nothing)  # so that a spare task is parked
        _, at_once = run.start(CHECKS[name])
        assert at_once is (name in AT_ONCE)
        run.start(CHECKS["not_cancelled_by_another"])
    run.close()


def test_all_checks_in_one_loop(way: Any) -> None:
    """Whatever one leaves behind, the others do not see it."""
    run = Run(way)
    for name in [*CHECKS, *reversed(CHECKS)]:
        run.start(CHECKS[name])
    run.close()


async def _nothing() -> None:
    pass


async def _task() -> asyncio.Task[Any]:
    return task_of_mine()


def test_a_spare_task_serves_again() -> None:
    run = Run(_ByHand)
    numbers = set()
    for _ in range(10):

        async def number() -> int:
            return id(task_of_mine())

        numbers.add(run.start(number)[0])
        gc.collect()
    assert len(numbers) == 1
    run.close()


KEPT: dict[str, Callable[[Any, Any], Any]] = {
    "list": lambda store, task: store.setdefault("list", []).append(task),
    "key": lambda store, task: store.__setitem__(task, 1),
    "weak key": lambda store, task: store.setdefault("weak", weakref.WeakKeyDictionary()).__setitem__(task, 1),
    "weak reference": lambda store, task: store.setdefault("refs", []).append(weakref.ref(task)),
    "callback": lambda store, task: store.setdefault("calls", []).append(task.cancel),
    "weak set": lambda store, task: store.setdefault("set", weakref.WeakSet()).add(task),
}


@pytest.mark.parametrize("how", KEPT)
def test_a_task_that_is_kept_serves_once(way: Any, how: str) -> None:
    """Trap 27: a reference in a list, a dict, a WeakKeyDictionary."""
    run = Run(way)
    store: dict[Any, Any] = {}
    seen: list[Any] = []

    async def keep() -> None:
        task = task_of_mine()
        known = [each() if isinstance(each, weakref.ref) else each for each in store.get("refs", [])]
        assert task not in [*known, *store.get("list", []), *store.get("weak", []), *store.get("set", []), *store]
        KEPT[how](store, task)
        seen.append(id(task))

    for _ in range(4):
        run.start(keep)
    run.close()
    assert len(seen) == 4


def test_a_task_whose_context_was_changed_serves_once() -> None:
    run = Run(_ByHand)
    first, _ = run.start(_task)
    del first

    async def change() -> None:
        VARIABLE.set("changed")

    run.start(change)
    assert run.way._spare is None
    run.start(_nothing)
    assert run.way._spare is not None

    async def change_and_restore() -> None:
        VARIABLE.reset(VARIABLE.set("changed"))

    run.start(change_and_restore)
    assert run.way._spare is not None
    run.close()


@pytest.mark.parametrize("pause", [False, True], ids=["at once", "after a pause"])
def test_a_callback_for_the_end_of_a_task_is_called_at_its_end(way: Any, pause: bool) -> None:
    """And not when the task has served others, too."""
    run = Run(way)
    order: list[str] = []

    async def first() -> None:
        task_of_mine().add_done_callback(lambda _: order.append("first is done"))
        if pause:
            await asyncio.sleep(0)

    async def second() -> None:
        order.append("second")
        await asyncio.sleep(0)

    for _ in range(3):
        run.start(first)
        run.loop.run_until_complete(asyncio.sleep(0))  # the loop turns before the next request
        run.start(second)
    run.close()
    assert order == ["first is done", "second"] * 3


def test_a_task_that_was_given_a_name_serves_once(way: Any) -> None:
    run = Run(way)
    names: list[str] = []

    async def named() -> None:
        task = task_of_mine()
        names.append(task.get_name())
        task.set_name("of one request")

    for _ in range(3):
        run.start(named)
    run.close()
    assert "of one request" not in names


@pytest.mark.parametrize("how", ["waits", "changes its context"])
def test_a_task_that_serves_once_is_freed_at_once(way: Any, how: str) -> None:
    """With all that its request has put into its context, and without the garbage collector."""
    run = Run(way)

    async def keep() -> weakref.ref[Any]:
        if how == "waits":
            await asyncio.sleep(0)
        VARIABLE.set("changed")
        return weakref.ref(task_of_mine())

    gc.disable()
    try:
        found, _ = run.start(keep)
        run.loop.run_until_complete(asyncio.sleep(0))
        assert found() is None
    finally:
        gc.enable()
    run.close()


def test_a_parked_task_leaves_no_word_at_the_end(way: Any) -> None:
    """No «Task was destroyed but it is pending», whether it has taken its own first step or not."""
    for rounds in (0, 3):
        run = Run(way)

        async def main(run: Run = run, rounds: int = rounds) -> None:
            run.loop.call_soon(run.way.start, _nothing())
            for _ in range(rounds + 1):
                await asyncio.sleep(0)

        run.loop.run_until_complete(main())
        run.close()


def test_an_error_that_ends_a_program_comes_through(way: Any) -> None:
    """KeyboardInterrupt is the only one that the coroutine of an exchange raises."""
    run = Run(way)

    async def interrupted() -> None:
        raise KeyboardInterrupt

    async def main() -> None:
        run.loop.call_soon(run.way.start, interrupted())
        await asyncio.sleep(1)

    task = run.loop.create_task(main())
    with pytest.raises(KeyboardInterrupt):
        run.loop.run_until_complete(task)
    run.loop.run_until_complete(asyncio.sleep(0))
    run.start(CHECKS["current_task_later"])
    run.complaints.clear()  # the interpreter's own way says that nobody has asked for the error
    run.close()


def test_it_may_start_within_another_task(way: Any) -> None:
    """A callback is the rule, but Starlette's test client and others run loops within loops."""
    run = Run(way)

    async def main() -> None:
        mine = asyncio.current_task()
        run.way.start(_nothing())
        assert asyncio.current_task() is mine

        async def waits() -> None:
            assert asyncio.current_task() is not mine
            await asyncio.sleep(0)

        task = run.way.start(waits())
        assert asyncio.current_task() is mine
        await task

    run.loop.run_until_complete(main())
    run.close()
