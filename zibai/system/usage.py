"""The memory and the descriptors of a process, measured from outside.

A process that hangs cannot report its own figures, so its parent asks the system: ``/proc`` on Linux, two
calls of the C library on macOS, two of the kernel on Windows. A figure that the system does not have is None. Memory is
resident memory, shared pages included. Descriptors are handles on Windows.

``ctypes`` is imported where it is used: Linux does not need it, and it costs each process 300 KiB.
"""

import os
import struct
import sys
from math import inf
from pathlib import Path
from typing import Any, NamedTuple

PROC = Path("/proc")


class Usage(NamedTuple):
    """Bytes of memory and number of descriptors; as limits, None is no limit."""

    memory: int | None = None
    descriptors: int | None = None


NO_LIMITS = Usage()


def usage(pid: int) -> Usage:
    """The present usage of a process; both values are None if it has ended."""
    if sys.platform == "linux":
        return _from_proc(pid)
    if sys.platform == "darwin":
        import ctypes

        return _from_library(ctypes.CDLL(None), pid)
    if sys.platform == "win32":
        import ctypes

        return _from_kernel(ctypes.windll.kernel32, pid)
    return Usage()


def in_words(used: Usage, limits: Usage) -> str:
    """Which limits are exceeded, and by how much; empty if none is."""
    excess = []
    if (used.memory or 0) > (inf if limits.memory is None else limits.memory):
        excess.append(f"{_mebibytes(used.memory)} of memory, and may have {_mebibytes(limits.memory)}")
    if (used.descriptors or 0) > (inf if limits.descriptors is None else limits.descriptors):
        excess.append(f"{used.descriptors} descriptors, and may have {limits.descriptors}")
    return "; ".join(excess)


def _mebibytes(size: int | None) -> str:
    return f"{(size or 0) / 2**20:.1f} MiB"


def _from_proc(pid: int) -> Usage:
    """proc(5): the second figure of statm is in pages, and each descriptor is an entry of fd."""
    if sys.platform == "win32":
        return Usage()
    memory = descriptors = None
    try:
        memory = int((PROC / str(pid) / "statm").read_text(encoding="ascii").split()[1]) * os.sysconf("SC_PAGE_SIZE")
        descriptors = len(os.listdir(PROC / str(pid) / "fd"))
    except (OSError, ValueError, IndexError):
        pass  # it has ended
    return Usage(memory, descriptors)


def _from_library(library: Any, pid: int) -> Usage:
    """proc_pidinfo of macOS: PROC_PIDTASKINFO is 96 bytes, with the resident size second; PROC_PIDLISTFDS is 8 bytes
    for each descriptor."""
    import ctypes

    task = ctypes.create_string_buffer(96)
    if library.proc_pidinfo(pid, 4, ctypes.c_uint64(0), task, 96) != 96:
        return Usage()
    memory: int = struct.unpack_from("=QQ", task)[1]
    room = library.proc_pidinfo(pid, 1, ctypes.c_uint64(0), None, 0)  # at least the needed size
    table = ctypes.create_string_buffer(max(room, 8))
    size = library.proc_pidinfo(pid, 1, ctypes.c_uint64(0), table, len(table))
    return Usage(memory, size // 8 if size > 0 else None)


def _from_kernel(kernel: Any, pid: int) -> Usage:
    """PROCESS_MEMORY_COUNTERS of Windows has two DWORDs, then the peak and the present working set."""
    import ctypes

    kernel.OpenProcess.restype = ctypes.c_void_p  # a handle is as wide as a pointer
    handle = ctypes.c_void_p(kernel.OpenProcess(0x0410, False, pid))  # PROCESS_QUERY_INFORMATION, PROCESS_VM_READ
    if handle.value is None:
        return Usage()
    try:
        word = ctypes.sizeof(ctypes.c_size_t)
        counters = ctypes.create_string_buffer(8 + 8 * word)
        struct.pack_into("=I", counters, 0, len(counters))
        memory = descriptors = None
        if kernel.K32GetProcessMemoryInfo(handle, counters, len(counters)):
            memory = int.from_bytes(counters.raw[8 + word : 8 + 2 * word], sys.byteorder)
        count = ctypes.c_ulong()
        if kernel.GetProcessHandleCount(handle, ctypes.byref(count)):
            descriptors = count.value
        return Usage(memory, descriptors)
    finally:
        kernel.CloseHandle(handle)
