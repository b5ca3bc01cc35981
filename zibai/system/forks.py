"""Children that the application forks: they keep nothing of the server.

A forked child has copies of all descriptors. While it lives, a connection that is closed here goes on for its client,
a reset does not come, and the kernel accepts connections on a listener that nobody serves. So each child closes its
copies first of all. Programs that are started (``exec``) have none, since the descriptors are not inheritable.

What :func:`forget_in_children` is given has a method ``close`` or ``forget``; that is called in the child, in the only
thread that it has. Locks that other threads held at the fork are taken there for ever, so no lock may be used.
"""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any
from weakref import WeakSet

_ours: WeakSet[Any] = WeakSet()
_is_worker = False  # whether what is being forked is a process of the server


def forget_in_children(*objects: Any) -> None:
    """Have these closed or forgotten in each child from now on, as long as they exist."""
    _ours.update(objects)


@contextmanager
def forking_a_worker() -> Iterator[None]:
    """Around a fork of the server's own: the child keeps everything. One thread at a time."""
    global _is_worker
    _is_worker = True
    try:
        yield
    finally:
        _is_worker = False


def _forget_all() -> None:
    if _is_worker:
        return
    while _ours:
        each = _ours.pop()
        forget: Callable[[], object] = getattr(each, "forget", None) or each.close
        with suppress(Exception):  # the rest has to be closed all the same
            forget()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_all)
