"""Child processes that the application forks: they keep nothing of the server.

A forked child has copies of all descriptors. While it lives, a connection that the server closes stays open for its
client, a reset is not sent, and the kernel accepts connections on a listener that no process serves. So each child
closes its copies first. Programs that are started (``exec``) have none, since the descriptors are not inheritable.

A child that comes back to the server, by ``return`` or ``sys.exit()`` of the application, ends there
(:func:`end_child`). It is no server, and its parent does what else its event loop or hub had to do.

The objects of :func:`close_in_children` have a method ``close_in_child`` or ``close``. The only thread of the child
calls it. Locks that other threads held at the fork stay locked there for ever, so the method must not use a lock.
"""

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, NoReturn
from weakref import WeakSet

_ours: WeakSet[Any] = WeakSet()
_is_worker = False  # whether the server itself forks at this moment


def close_in_children(*objects: Any) -> None:
    """Close these objects in each child from now on, as long as they exist."""
    _ours.update(objects)


@contextmanager
def forking_a_worker() -> Iterator[None]:
    """Around a fork by the server itself, whose child keeps everything. One thread at a time."""
    global _is_worker
    _is_worker = True
    try:
        yield
    finally:
        _is_worker = False


def end_child() -> NoReturn:
    """End this process, which the application has forked. It cleans nothing up: all that it has is the parent's."""
    for stream in (sys.stdout, sys.stderr):
        with suppress(Exception):  # there is none, or its reader has left
            stream.flush()
    os._exit(0)


def _close_all() -> None:
    if _is_worker:
        return
    while _ours:
        each = _ours.pop()
        with suppress(Exception):  # the rest must still be closed; at a closed socket of gevent getattr() raises
            close: Callable[[], object] = getattr(each, "close_in_child", None) or each.close
            close()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_close_all)
