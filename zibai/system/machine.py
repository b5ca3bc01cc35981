"""Facts about the machine: the processors that this process may use, and how other processes have ended.

A fact that the system does not have is None.
"""

import math
import os
import sys
from collections.abc import Iterator
from math import inf
from pathlib import Path, PurePosixPath
from typing import Final

CGROUP = Path("/sys/fs/cgroup")
PROC = Path("/proc")

INITIAL_NAMESPACE: Final = 0xEFFFFFFC
"""The PID namespace of a machine without containers; the kernel's PROC_PID_INIT_INO."""


def available_cpus() -> int:
    """Processors to use at once: those allowed for this process, at most the quota of its container; at least one."""
    count = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, math.ceil(min(count, _quota())))


def _quota() -> float:
    """Processors that the cgroups grant; infinity without a limit.

    The limit of a systemd unit is in its own group, and that of a slice or a container further up; the least counts.
    """
    return min(map(_granted, [*_groups("cpu"), CGROUP, CGROUP / "cpu"]))


def _granted(group: Path) -> float:
    """Processors that one group grants, in version 2 or 1."""
    try:
        quota, period = (group / "cpu.max").read_text(encoding="ascii").split()
    except (OSError, ValueError):
        try:
            quota = (group / "cpu.cfs_quota_us").read_text(encoding="ascii")
            period = (group / "cpu.cfs_period_us").read_text(encoding="ascii")
        except (OSError, ValueError):
            return math.inf
    try:
        granted = int(quota) / int(period)
    except (ValueError, ZeroDivisionError):
        return math.inf  # "max"
    return granted if granted > 0 else math.inf  # -1 is no limit in version 1


def _groups(controller: str) -> Iterator[Path]:
    """The folders of this process's group and of the groups above it, see cgroups(7).

    In a container the path may be one that only the host can see. Then the root is the group of this process.
    """
    try:
        lines = (PROC / "self/cgroup").read_text(encoding="utf-8").splitlines()
    except (OSError, ValueError):
        lines = []
    for line in lines:
        number, controllers, path = (*line.split(":", 2), "", "")[:3]
        if number == "0" or controller in controllers.split(","):
            top = CGROUP if number == "0" else CGROUP / controller
            parts = PurePosixPath(path.lstrip("/")).parts
            for length in range(0 if ".." in parts else len(parts), 0, -1):
                yield top.joinpath(*parts[:length])
            yield top


def cpu_time(pid: int) -> float | None:
    """Seconds that all threads of a process have run so far (proc(5)); only Linux has it without more libraries."""
    if sys.platform == "win32":
        return None
    try:
        fields = _stat(pid)
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    except (OSError, ValueError, IndexError):
        return None


def start_time(pid: int) -> float | None:
    """When a process was started, as seconds since 1970; only Linux has it without more libraries."""
    if sys.platform == "win32":
        return None
    try:
        lines = (PROC / "stat").read_text(encoding="ascii", errors="replace").splitlines()
        booted = next(int(line.split()[1]) for line in lines if line.startswith("btime "))
        return booted + int(_stat(pid)[19]) / os.sysconf("SC_CLK_TCK")
    except (OSError, ValueError, IndexError, StopIteration):
        return None


def _stat(pid: int) -> list[str]:
    """The fields of a process in proc(5), from the state on. The name before it, in parentheses, may hold anything."""
    return (PROC / str(pid) / "stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()


def oom_kills() -> int | None:
    """How many processes the kernel has killed because memory ran out: in this cgroup if it counts them, or else on the
    whole machine."""
    counters = [group / name for group in _groups("memory") for name in ("memory.events", "memory.oom_control")]
    for file in [*counters, PROC / "vmstat"]:
        try:
            for line in file.read_text(encoding="ascii").splitlines():
                if line.startswith("oom_kill "):
                    return int(line.split()[1])
        except (OSError, ValueError):
            continue
    return None


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
    """How a process ended on Windows, in words, and whether it ended well.

    ``multiprocessing`` reports its own ``kill()`` as a negative ``code``. Windows has no signals: if it ends a process,
    a large code has the reason.
    """
    if code < 0:
        return "was killed", False
    if code == _CONSOLE_EVENT:
        return "was ended by Ctrl-C or Ctrl-Break", True
    if code >= 0xC0000000:
        return f"ended with exit code {code:#010X} ({_NTSTATUS.get(code, 'an NTSTATUS')})".replace("0X", "0x"), False
    return f"ended with exit code {code}", not code


def pid_namespace() -> int:
    """The number of the PID namespace of this process, see pid_namespaces(7); 0 if the system does not tell.

    A container has a namespace of its own. There the process ids of others mean nothing.
    """
    try:
        return os.stat(PROC / "self/ns/pid").st_ino
    except OSError:
        return 0


def is_foreign(namespace: int) -> bool:
    """Whether a process of this PID namespace has an id that means nothing here."""
    return 0 not in (namespace, here := pid_namespace()) and namespace != here


def name_process(pid: int) -> str:
    """A part of file names for this process, or another one of its PID namespace.

    Containers that share a directory often have the same process ids, so in a container it has the namespace, too.
    """
    namespace = pid_namespace()
    return str(pid) if namespace in (0, INITIAL_NAMESPACE) else f"{pid}-{namespace}"


def is_alive(pid: int) -> bool:
    """Whether a process with this id runs. A process that has ended and waits to be reaped does not run, if the system
    tells it."""
    if sys.platform == "win32":
        import ctypes

        # On Windows os.kill(pid, 0) would end the process.
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
        pass  # it belongs to another user
    try:
        # In a container the first process may not reap others.
        return _stat(pid)[:1] != ["Z"]
    except OSError:
        return True


def raise_descriptor_limit() -> None:
    """Raise the limit of descriptors as far as possible: each connection needs one, and 256 or 1024 are too few."""
    if sys.platform == "win32":
        return  # there is no such limit for sockets
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    # macOS reports an infinite hard limit and then refuses it as a soft one; 10240 is its OPEN_MAX, always allowed.
    for limit in (hard, 10240):
        if soft == resource.RLIM_INFINITY or (limit <= soft and limit != resource.RLIM_INFINITY):
            continue
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (limit, hard))
            return
        except (ValueError, OSError):
            continue


DESCRIPTORS_LEFT: Final = 32
"""Descriptors that are left to the application; a tenth of all if that is more."""


def descriptors_for_clients() -> float:
    """The number of descriptors for connections, and for files with their bodies.

    Some are left to the application: if it cannot open a file, every request fails. A limit that is too low even for
    this reserve was set on purpose, and all of it is used.
    """
    if sys.platform == "win32":
        return inf
    import resource

    limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if limit == resource.RLIM_INFINITY or limit < 3 * DESCRIPTORS_LEFT:
        return inf
    try:
        taken = len(os.listdir("/dev/fd"))
    except OSError:
        taken = DESCRIPTORS_LEFT
    return max(1, limit - taken - max(DESCRIPTORS_LEFT, limit // 10))
