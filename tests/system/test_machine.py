"""How many processors there are to use, and what became of processes, on machines that are made up."""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys
import time
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

from zibai.system import machine

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({}, 8),
        ({"cpu.max": "max 100000\n"}, 8),
        ({"cpu.max": "200000 100000\n"}, 2),
        ({"cpu.max": "150000 100000\n"}, 2),
        ({"cpu.max": "1000 100000\n"}, 1),
        ({"cpu.max": "6400000 100000\n"}, 8),
        ({"cpu.max": "nonsense"}, 8),
        ({"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}, 8),
        ({"cpu/cpu.cfs_quota_us": "300000\n", "cpu/cpu.cfs_period_us": "100000\n"}, 3),
    ],
)
@pytest.mark.parametrize("affinity", [True, False])
def test_available_cpus(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, files: dict[str, str], expected: int, affinity: bool
) -> None:
    monkeypatch.setattr(machine, "CGROUP", tmp_path)
    monkeypatch.setattr(machine, "PROC", tmp_path / "proc")
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text, encoding="ascii")
    if affinity:
        monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(8)), raising=False)
    else:  # macOS and Windows have none
        monkeypatch.delattr(os, "sched_getaffinity", raising=False)
        monkeypatch.setattr(os, "cpu_count", lambda: 8)
    assert machine.available_cpus() == expected


UNIT = {"proc/self/cgroup": "0::/system.slice/shop.service\n"}
V1_UNIT = {"proc/self/cgroup": "4:cpu,cpuacct:/system.slice/shop\n3:memory:/\n0::/system.slice\n"}
OWN, SLICE = "cgroup/system.slice/shop.service/cpu.max", "cgroup/system.slice/cpu.max"


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        (UNIT | {OWN: "100000 100000\n"}, 1),
        (UNIT | {OWN: "max 100000\n", SLICE: "300000 100000\n"}, 3),
        (UNIT | {OWN: "500000 100000\n", SLICE: "200000 100000\n", "cgroup/cpu.max": "400000 100000\n"}, 2),
        (UNIT | {OWN: "max 100000\n"}, 8),
        (UNIT | {OWN: "nonsense\n", SLICE: "400000 100000\n"}, 4),
        # What the host calls the group of a container is not there; or it is above the root of the namespace.
        (UNIT | {"cgroup/cpu.max": "200000 100000\n"}, 2),
        ({"proc/self/cgroup": "0::/../other\n", "cgroup/cpu.max": "200000 100000\n", OWN: "100000 100000\n"}, 2),
        (
            V1_UNIT
            | {
                "cgroup/cpu/system.slice/shop/cpu.cfs_quota_us": "-1\n",
                "cgroup/cpu/system.slice/shop/cpu.cfs_period_us": "100000\n",
                "cgroup/cpu/system.slice/cpu.cfs_quota_us": "250000\n",
                "cgroup/cpu/system.slice/cpu.cfs_period_us": "100000\n",
            },
            3,
        ),
        (V1_UNIT, 8),
        ({"proc/self/cgroup": "nonsense\n", "cgroup/cpu.max": "200000 100000\n"}, 2),
    ],
)
def test_the_least_of_the_quotas_above_a_process_counts(
    made_up: Path, monkeypatch: pytest.MonkeyPatch, files: dict[str, str], expected: int
) -> None:
    """``CPUQuota=`` of a systemd unit is in the group of the unit."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(8)), raising=False)
    write(made_up, files)
    assert machine.available_cpus() == expected


# --- processes --------------------------------------------------------------------------------------


@pytest.fixture
def made_up(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A machine of which nothing is known until a test writes it: ``proc`` and ``cgroup`` in a folder."""
    monkeypatch.setattr(machine, "PROC", tmp_path / "proc")
    monkeypatch.setattr(machine, "CGROUP", tmp_path / "cgroup")
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setattr(os, "sysconf", lambda name: {"SC_CLK_TCK": 100}[name], raising=False)
    return tmp_path


def write(root: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text, encoding="utf-8")


STAT = "42 ({}) S 1 42 42 0 -1 4194304 100 200 3 4 250 130 7 9 20 0 1 0 12345 1000 100 18446744073709551615"


@pytest.mark.parametrize("name", ["python", "zibai: worker (1)", "a) S 9 9 9 9 9 9 9 9 9 9 9 9 9 (b", "grün"])
def test_cpu_time_whatever_a_command_is_called(made_up: Path, name: str) -> None:
    write(made_up, {"proc/42/stat": STAT.format(name)})
    assert machine.cpu_time(42) == 3.8


@pytest.mark.parametrize("files", [{}, {"proc/42/stat": ""}, {"proc/42/stat": "42 (python) S 1 2 3"}])
def test_cpu_time_that_is_not_told(made_up: Path, files: dict[str, str]) -> None:
    write(made_up, files)
    assert machine.cpu_time(42) is None


def test_windows_tells_no_cpu_time(made_up: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(made_up, {"proc/42/stat": STAT.format("python")})
    monkeypatch.setattr(sys, "platform", "win32")
    assert machine.cpu_time(42) is None


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells")
def test_cpu_time_of_a_real_process() -> None:
    told = machine.cpu_time(os.getpid())
    assert told is not None
    assert told == pytest.approx(time.process_time(), abs=0.5)


EVENTS = "low 0\nhigh 0\nmax 10\noom 9\noom_kill {}\noom_group_kill 8\n"
CONTROL = "oom_kill_disable 0\nunder_oom 0\noom_kill {}\n"
VMSTAT = {"proc/vmstat": "nr_free_pages 1\noom_kill 50\nthp_fault_alloc 2\n"}
V1 = "11:cpu,cpuacct:/elsewhere\n4:memory:/docker/x\n1:name=systemd:/user.slice\n"


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({}, None),
        (VMSTAT, 50),
        ({"proc/vmstat": "nr_free_pages 1\n"}, None),
        ({"proc/vmstat": "oom_kill many\n"}, None),
        # Version 2: our own group, or in a container the root, or a kernel that does not count there.
        (VMSTAT | {"proc/self/cgroup": "0::/a/b\n", "cgroup/a/b/memory.events": EVENTS.format(3)}, 3),
        (VMSTAT | {"proc/self/cgroup": "0::/host/c\n", "cgroup/memory.events": EVENTS.format(4)}, 4),
        (VMSTAT | {"proc/self/cgroup": "0::/\n", "cgroup/memory.events": EVENTS.format(0)}, 0),
        (VMSTAT | {"proc/self/cgroup": "0::/a\n", "cgroup/a/memory.events": "low 0\noom 9\n"}, 50),
        (VMSTAT | {"proc/self/cgroup": "0::/a:b\n", "cgroup/a:b/memory.events": EVENTS.format(5)}, 5),
        # Version 1: its controller among others, in its own tree.
        (VMSTAT | {"proc/self/cgroup": V1, "cgroup/memory/docker/x/memory.oom_control": CONTROL.format(6)}, 6),
        (VMSTAT | {"proc/self/cgroup": V1, "cgroup/memory/memory.oom_control": CONTROL.format(7)}, 7),
        (VMSTAT | {"proc/self/cgroup": "1:cpu:/a\n", "cgroup/memory/memory.oom_control": CONTROL.format(7)}, 50),
        ({"proc/self/cgroup": V1}, None),
    ],
    ids=[
        "nothing", "machine", "machine without", "nonsense", "group", "container", "root", "not counted", "colon",
        "v1 group", "v1 container", "v1 without memory", "v1 without a file",
    ],
)  # fmt: skip
def test_oom_kills(made_up: Path, files: dict[str, str], expected: int | None) -> None:
    write(made_up, files)
    assert machine.oom_kills() == expected


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX")
def test_is_alive() -> None:
    assert machine.is_alive(os.getpid())
    with subprocess.Popen([sys.executable, "-c", ""]) as process:
        process.wait()
    assert not machine.is_alive(process.pid)


@pytest.mark.skipif(sys.platform != "linux", reason="asks /proc")
def test_one_that_nobody_has_reaped_is_not_alive() -> None:
    process = subprocess.Popen([sys.executable, "-c", ""], stdout=subprocess.PIPE)
    assert process.stdout
    with process:
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
        assert not machine.is_alive(process.pid)


def test_a_process_of_somebody_else_is_alive(monkeypatch: pytest.MonkeyPatch) -> None:
    def kill(pid: int, number: int) -> None:
        assert (pid, number) == (42, 0), "it is asked, not hurt"
        raise PermissionError

    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setattr(os, "kill", kill)
    assert machine.is_alive(42)


class Kernel32:
    """That of Windows. ``codes`` has the exit code of each process that there is; 259 is one that runs."""

    def __init__(self, codes: dict[int, int | None]) -> None:
        self.codes = codes
        self.open: list[int] = []

    def OpenProcess(self, access: int, inherit: bool, pid: int) -> int:
        assert (access, inherit) == (0x1000, False), "to look is allowed where more is not"
        if pid not in self.codes:
            return 0
        self.open.append(pid * 4)
        return pid * 4

    def GetExitCodeProcess(self, handle: int, code: Any) -> int:
        assert handle in self.open
        found = self.codes[handle // 4]
        if found is None:
            return 0
        code._obj.value = found
        return 1

    def CloseHandle(self, handle: int) -> None:
        if handle:
            self.open.remove(handle)


def test_is_alive_on_windows(monkeypatch: pytest.MonkeyPatch) -> None:
    kernel = Kernel32({1: 259, 2: 0, 3: 1, 4: None})
    monkeypatch.setattr(sys, "platform", "win32")
    monkeypatch.setattr(ctypes, "windll", SimpleNamespace(kernel32=kernel), raising=False)
    monkeypatch.setattr(os, "kill", lambda *_: pytest.fail("that would end it"))
    assert [machine.is_alive(pid) for pid in range(1, 6)] == [True, False, False, False, False]
    assert kernel.open == [], "a handle that is kept keeps the process id, too"


def test_ids_of_another_namespace_mean_nothing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A container has a namespace of its own, and often another process of the same id."""
    monkeypatch.setattr(machine, "PROC", tmp_path)
    assert machine.pid_namespace() == 0, "the system does not tell"
    assert not machine.is_foreign(7)
    assert machine.name_process(1) == "1"
    (tmp_path / "self/ns").mkdir(parents=True)
    (tmp_path / "self/ns/pid").touch()
    here = machine.pid_namespace()
    assert machine.is_foreign(here + 1)
    assert not machine.is_foreign(here)
    assert not machine.is_foreign(0), "it was not known there"
    assert machine.name_process(1) == f"1-{here}"
    monkeypatch.setattr(machine, "INITIAL_NAMESPACE", here)
    assert machine.name_process(1) == "1", "no container"


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells it")
def test_when_a_process_was_started(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    before = time.time()
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process:
        started = machine.start_time(process.pid)
        process.communicate()
    assert started is not None
    assert before - 2 < started < time.time() + 2
    assert machine.start_time(process.pid) is None
    monkeypatch.setattr(machine, "PROC", tmp_path)
    assert machine.start_time(os.getpid()) is None
    (tmp_path / "stat").write_text("cpu 1 2\nbtime 1000\n", encoding="ascii")
    (tmp_path / "7").mkdir()
    fields = " ".join(map(str, range(18)))
    (tmp_path / "7" / "stat").write_text(f"7 (a ) S 1) S {fields} 250 0\n", encoding="ascii")
    assert machine.start_time(7) == 1000 + 250 / os.sysconf("SC_CLK_TCK")
    (tmp_path / "stat").write_text("cpu 1 2\n", encoding="ascii")
    assert machine.start_time(7) is None
