"""How a worker on Windows gets the sockets and pipes among its arguments.

On Windows ``multiprocessing`` keeps a copy of each in the parent until the new process fetches it. This does harm in
two ways. A process that dies before it fetches leaves the copy open, and the kernel goes on accepting connections that
no process serves. And ``socket.dup()``, which makes the copy, makes it blocking. All workers share that flag, so each
start of a worker would make ``accept()`` block in all others, and with it their server loops.

The new process exists when its arguments are pickled. So :class:`Parcel` copies straight into that process. Windows
closes the copies when the process ends, and no flag changes.
"""

import io
import pickle
import socket
import sys
from collections.abc import Callable
from multiprocessing import context, reduction
from typing import Any

if sys.platform == "win32":
    import _winapi
    from multiprocessing.connection import PipeConnection

    def _copied_pipe(pipe: "PipeConnection[Any, Any]") -> tuple[Callable[..., Any], tuple[Any, ...]]:
        access = (_winapi.FILE_GENERIC_READ if pipe.readable else 0) | (
            _winapi.FILE_GENERIC_WRITE if pipe.writable else 0
        )
        return _open_pipe, (copied_handle(pipe.fileno(), access), pipe.readable, pipe.writable)

    def _open_pipe(handle: Any, readable: bool, writable: bool) -> "PipeConnection[Any, Any]":
        return PipeConnection(handle.detach(), readable, writable)

    class _Pickler(reduction.ForkingPickler):
        def reducer_override(self, value: object) -> Any:
            if isinstance(value, socket.socket):
                return socket.fromshare, (value.share(_new_process()),)
            if isinstance(value, PipeConnection):
                return _copied_pipe(value)
            return NotImplemented

    def _new_process() -> int:
        """The id of the process that is being started."""
        popen: Any = context.get_spawning_popen()
        return int(popen.pid)

    def copied_handle(handle: int, access: int) -> Any:
        """A copy of a handle in the process that is being started; ``detach()`` gives its number there."""
        return reduction.DupHandle(handle, access, _new_process())


class Parcel:
    """The function that a worker runs, with its arguments. Unpacked in the worker by calling it."""

    def __init__(self, target: Callable[..., object], args: tuple[Any, ...]) -> None:
        self._target = target
        self._args = args

    def __call__(self) -> None:
        self._target(*self._args)

    def __reduce__(self) -> Any:
        if sys.platform == "win32":
            data = io.BytesIO()
            _Pickler(data, pickle.HIGHEST_PROTOCOL).dump((self._target, self._args))
            return _unpack, (data.getvalue(),)
        return Parcel, (self._target, self._args)


def _unpack(data: bytes) -> Parcel:
    return Parcel(*pickle.loads(data))  # noqa: S301 -- from the parent
