"""How many processors this process may use, which is not how many the machine has."""

import math
import os
from pathlib import Path

CGROUP = Path("/sys/fs/cgroup")


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
