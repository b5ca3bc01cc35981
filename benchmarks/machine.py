"""What the report says about the machine and the run."""

import os
import platform
import re
import shlex
import sys
from datetime import UTC, datetime
from pathlib import Path

from .load import version
from .process import client_cpus, processors, server_cpus


def facts(arguments: list[str], seconds: int, rounds: int) -> dict[str, str]:
    return {
        "Date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "Command": f"`{shlex.join(['python', '-m', 'benchmarks', *arguments])}`",
        "Rounds": f"{rounds}, {seconds} s for each measurement",
        "Processor": processor(),
        "Processors": str(len(processors())),
        "Pinned": pinning(),
        "Load before": load_average(),
        "System": f"{platform.system()} {platform.release()}, {platform.machine()}",
        "Python": f"{platform.python_version()} ({platform.python_implementation()})",
        "wrk": version(),
    }


def processor() -> str:
    """The model, as the kernel calls it."""
    try:
        found = re.search(r"^model name\s*:\s*(.+)$", Path("/proc/cpuinfo").read_text(encoding="utf-8"), re.MULTILINE)
    except OSError:
        found = None
    return found[1].strip() if found else platform.processor() or platform.machine()


def pinning() -> str:
    server, client = server_cpus(True), client_cpus(True)
    if server == client:
        return "no: there is one processor, which server and wrk share; ratios are too near to 1"
    return f"the server to processor {server[0]}, wrk to {', '.join(map(str, client))}"


def load_average() -> str:
    """How busy the machine was with other things: what else runs is the largest error there is."""
    return f"{os.getloadavg()[0]:.2f}" if hasattr(os, "getloadavg") else ""


def unfit() -> str:
    """Why nothing can be measured here; empty if it can."""
    if sys.platform != "linux":
        return f"the benchmark needs Linux (epoll, /proc, processor affinity), and this is {platform.system()}"
    if not version():
        return "the benchmark needs wrk: apt-get install wrk, or https://github.com/wg/wrk"
    return ""
