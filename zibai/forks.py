"""Listeners are not for processes that the application forks.

Such a process may outlive the server by hours. While it holds a copy of a listener the kernel goes on accepting, so
clients wait for ever, and the next server does not get the address. Programs that are started inherit nothing; but a
process that is forked has everything that its parent had, until it closes it.
"""

import os
import sys
from _socket import close as close_fd
from collections.abc import Callable
from typing import Any
from weakref import WeakSet

_listeners: WeakSet[Any] = WeakSet()
_is_registered = False


def keep_from_forks(*listeners: Any) -> None:
    """Close these in each process that is forked from this one. Each has ``detach``, as sockets have."""
    global _is_registered
    _listeners.update(listeners)
    if not _is_registered and sys.platform != "win32":
        _is_registered = True
        call_in_forks(_close)


def leave_to_forks(*listeners: Any) -> None:
    """From now on these are for forks as well, since those will be workers."""
    _listeners.difference_update(listeners)


def call_in_forks(function: Callable[[], None]) -> None:
    """In each process that is forked here from now on, and once more in those that are forked there."""
    if sys.platform != "win32":
        os.register_at_fork(after_in_child=function)


def _close() -> None:
    for listener in list(_listeners):
        # Not close(): with gevent that would be left to a hub, which does not turn in the new process.
        fd = listener.detach()
        if fd >= 0:
            close_fd(fd)
    _listeners.clear()
