"""What the machine tells: the processors this process may use, and what became of other processes.

What a system does not tell is None.
"""

import ctypes
import math
import os
import sys
from collections.abc import Iterator
from pathlib import Path

CGROUP = Path("/sys/fs/cgroup")
PROC = Path("/proc")


def available_cpus() -> int:
    """Processors to use at once: those it may run on, but no more than the quota of its container; at least one."""
    count = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, math.ceil(min(count, _quota())))


def _quota() -> float:
    """Processors that the cgroup, version 2 or 1, grants; infinity without a limit."""
    try:
        quota, period = (CGROUP / "cpu.max").read_text(encoding="ascii").split()
    except (OSError, ValueError):
        try:
            quota = (CGROUP / "cpu/cpu.cfs_quota_us").read_text(encoding="ascii")
            period = (CGROUP / "cpu/cpu.cfs_period_us").read_text(encoding="ascii")
        except OSError:
            return math.inf
    try:
        granted = int(quota) / int(period)
    except (ValueError, ZeroDivisionError):
        return math.inf  # "max"
    return granted if granted > 0 else math.inf  # -1 is no limit in version 1


def cpu_time(pid: int) -> float | None:
    """Seconds that all threads of a process have run so far (proc(5)); only Linux tells without more libraries."""
    if sys.platform == "win32":
        return None
    try:
        # The name of the command, in parentheses, may itself hold spaces and parentheses.
        fields = (PROC / str(pid) / "stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    except (OSError, ValueError, IndexError):
        return None


def oom_kills() -> int | None:
    """How many processes the kernel has killed for want of memory: in our cgroup if that counts, or at all."""
    files = [*_memory_groups(), PROC / "vmstat"]
    for file in files:
        try:
            for line in file.read_text(encoding="ascii").splitlines():
                if line.startswith("oom_kill "):
                    return int(line.split()[1])
        except (OSError, ValueError):
            continue
    return None


def _memory_groups() -> Iterator[Path]:
    """The files with the counter in version 2 and in version 1, as cgroups(7) tells where they are."""
    try:
        lines = (PROC / "self/cgroup").read_text(encoding="utf-8").splitlines()
    except OSError:
        return
    for line in lines:
        number, controllers, path = line.split(":", 2)
        below = path.lstrip("/")
        # In a container the path may be one that only the host can see; then the root is ours.
        if number == "0":
            yield from (CGROUP / below / "memory.events", CGROUP / "memory.events")
        elif "memory" in controllers.split(","):
            yield from (CGROUP / "memory" / below / "memory.oom_control", CGROUP / "memory/memory.oom_control")


_NTSTATUS = {
    0xC0000005: "access violation",
    0xC0000017: "no memory",
    0xC000001D: "illegal instruction",
    0xC00000FD: "stack overflow",
    0xC0000142: "a DLL failed to start",
    0xC0000374: "heap corruption",
    0xC0000409: "abort",
}
_CONSOLE_EVENT = 0xC000013A


def windows_exit(code: int) -> tuple[str, bool]:
    """How a process ended on Windows, in words, and whether that was in order.

    A negative ``code`` is what ``multiprocessing`` makes of its own ``kill()``. Windows has no signals; it says by a
    large code why it has ended a process.
    """
    if code < 0:
        return "was killed", False
    if code == _CONSOLE_EVENT:
        return "was ended by Ctrl-C or Ctrl-Break", True
    if code >= 0xC0000000:
        return f"ended with exit code {code:#010X} ({_NTSTATUS.get(code, 'an NTSTATUS')})".replace("0X", "0x"), False
    return f"ended with exit code {code}", not code


def is_alive(pid: int) -> bool:
    """Whether a process with this id runs; one that has ended and waits to be reaped does not, where that is told."""
    if sys.platform == "win32":
        # os.kill(pid, 0) would end it there.
        kernel = ctypes.windll.kernel32
        handle = kernel.OpenProcess(0x1000, False, pid)  # PROCESS_QUERY_LIMITED_INFORMATION
        code = ctypes.c_ulong()
        known = bool(handle) and kernel.GetExitCodeProcess(handle, ctypes.byref(code))
        kernel.CloseHandle(handle)
        return bool(known) and code.value == 259  # STILL_ACTIVE
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass  # somebody else's
    try:
        # In a container the first process may be one that reaps nobody.
        stat = (PROC / str(pid) / "stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return True
    return not stat.rpartition(")")[2].startswith(" Z")
