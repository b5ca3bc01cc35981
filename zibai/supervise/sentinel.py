"""How a parent learns that another process has ended: from the process itself, and not from a pipe.

A pipe closes when the last process that holds its other end is gone, and a program that an application leaves behind
may hold it for hours. So the parent asks Linux for a descriptor of the process (``pidfd_open(2)``), and macOS and the
BSDs for an event of the kernel (``kqueue(2)``). An older Linux, a container that forbids ``pidfd_open`` and a Python
that was built on an older Linux have neither; there a thread waits for each child. On Windows ``multiprocessing`` waits
for the process itself.
"""

import os
import select
import sys
from collections.abc import Callable
from contextlib import suppress

from ..system.patching import original


class Sentinel:
    """A descriptor, ``fd``, that becomes readable when the process ends, and stays so until ``close``."""

    def __init__(self, fd: int, close: Callable[[], object]) -> None:
        self.fd = fd
        self._close: Callable[[], object] | None = close

    def close(self) -> None:
        """Give the descriptor back to the system. A second call does nothing."""
        close, self._close = self._close, None
        if close is not None:
            close()


def watch_child(pid: int) -> Sentinel | None:
    """The sentinel of a child of this process that has not been waited for yet; None where the system has no means."""
    if sys.platform == "win32":
        return None
    return watch(pid) or _in_thread(pid)


def watch(pid: int) -> Sentinel | None:
    """The sentinel of any process; None where the system has no means.

    The caller makes sure that the number still belongs to that process.
    """
    if sys.platform == "linux":
        try:
            fd = os.pidfd_open(pid)
        except (AttributeError, OSError):
            return None
        return Sentinel(fd, lambda: os.close(fd))
    if sys.platform == "win32":
        return None
    return _of_kqueue(pid)


def _of_kqueue(pid: int) -> Sentinel | None:
    if sys.platform == "win32" or sys.platform == "linux":
        return None
    queue = select.kqueue()
    try:
        end = select.kevent(pid, select.KQ_FILTER_PROC, select.KQ_EV_ADD, select.KQ_NOTE_EXIT)
        queue.control([end], 0)
    except OSError:
        queue.close()
        return None
    return Sentinel(queue.fileno(), queue.close)


def _in_thread(pid: int) -> Sentinel | None:
    if sys.platform != "linux":
        return None
    reading, writing = os.pipe()
    close = original("os", "close")  # gevent's needs a hub, which this thread does not have

    def wait() -> None:
        with suppress(ChildProcessError):  # it has been waited for already
            os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
        # A byte, and not only the end: processes that were forked since have a copy of this descriptor.
        with suppress(OSError):
            os.write(writing, b"\0")
        close(writing)

    # A thread of the system: in a program that gevent has patched it would be a greenlet, and block the hub.
    original("_thread", "start_new_thread")(wait, ())
    return Sentinel(reading, lambda: os.close(reading))


def close_for_programs() -> None:
    """Let no program that is started in this process inherit a descriptor, except for the three standard ones.

    ``multiprocessing`` makes the descriptors that it passes to a process inheritable. So each program that is started
    by ``os.system`` or by C code would get them.
    """
    if sys.platform == "win32":
        return
    try:
        fds = [int(name) for name in os.listdir("/dev/fd")]
    except OSError:
        fds = list(range(1024))
    for fd in fds:
        if fd > 2:
            with suppress(OSError):  # the descriptor of the listing itself is closed
                os.set_inheritable(fd, False)


def reap_orphans(workers: set[int]) -> None:
    """Reap the dead child processes that are not workers; process 1 inherits the orphans of its whole container.

    A worker is not reaped: the parent asks how it ended when its sentinel is ready. Containers are Linux.
    """
    if sys.platform != "linux":
        return
    while True:
        try:
            dead = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
            if dead is None or dead.si_pid in workers:
                return  # the kernel names the others when this worker has been reaped
            os.waitpid(dead.si_pid, os.WNOHANG)
        except ChildProcessError:
            return
