"""What a process takes: on this system, and with libraries that play the others."""

from __future__ import annotations

import ctypes
import os
import struct
import subprocess
import sys
from typing import Any

import pytest

from zibai.system import usage as module
from zibai.system.usage import NO_LIMITS, Usage, in_words, usage

from support import ROOT

MIB = 2**20


@pytest.mark.skipif(sys.platform not in {"linux", "darwin", "win32"}, reason="not told")
def test_of_this_process() -> None:
    before = usage(os.getpid())
    fds = [os.dup(2) for _ in range(20)]
    kept = b"x" * (50 * MIB)
    after = usage(os.getpid())
    for fd in fds:
        os.close(fd)
    assert after.descriptors is not None
    assert before.descriptors is not None
    assert after.memory is not None
    assert before.memory is not None
    assert after.descriptors - before.descriptors == 20
    assert 40 * MIB < after.memory - before.memory < 60 * MIB
    assert len(kept) == 50 * MIB


def test_of_one_that_is_gone() -> None:
    assert usage(2**22 + 1) == NO_LIMITS


def test_another_system(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "plan9")
    assert usage(os.getpid()) == NO_LIMITS


@pytest.mark.parametrize(
    ("used", "limits", "words"),
    [
        (Usage(100 * MIB, 10), Usage(64 * MIB, 20), "100.0 MiB of memory, and may have 64.0 MiB"),
        (Usage(64 * MIB, 21), Usage(64 * MIB, 20), "21 descriptors, and may have 20"),
        (Usage(65 * MIB, 21), Usage(64 * MIB, 20), "64.0 MiB; 21 descriptors"),
        (Usage(64 * MIB, 20), Usage(64 * MIB, 20), ""),
        (Usage(), Usage(1, 1), ""),
        (Usage(2, 2), Usage(), ""),
    ],
)
def test_in_words(used: Usage, limits: Usage, words: str) -> None:
    found = in_words(used, limits)
    assert words in found if words else not found


class Library:
    """The C library of macOS, with one process in it."""

    def proc_pidinfo(self, pid: int, flavour: int, argument: object, buffer: Any, size: int) -> int:
        if pid != 42:
            return 0
        if flavour == 4:
            assert size == len(buffer) == 96
            struct.pack_into("=QQ", buffer, 0, 999, 5 * MIB)
            return 96
        assert flavour == 1
        return 8 * 32 if buffer is None else 8 * 7  # the room asked for is more than what is used


def test_macos() -> None:
    assert module._from_library(Library(), 42) == Usage(5 * MIB, 7)
    assert module._from_library(Library(), 43) == NO_LIMITS


class Kernel:
    """The one of Windows, with one process in it."""

    def __init__(self) -> None:
        self.closed: list[int] = []

    class OpenProcess:
        restype: Any = None

        def __new__(cls, rights: int, inherit: bool, pid: int) -> Any:
            return 7 if pid == 42 else None

    def K32GetProcessMemoryInfo(self, handle: Any, counters: Any, size: int) -> int:
        assert (handle.value, struct.unpack_from("=I", counters)) == (7, (size,))
        struct.pack_into("@IINN", counters, 0, size, 0, 9 * MIB, 6 * MIB)
        return 1

    def GetProcessHandleCount(self, handle: Any, count: Any) -> int:
        ctypes.cast(count, ctypes.POINTER(ctypes.c_ulong))[0] = 11
        return 1

    def CloseHandle(self, handle: Any) -> int:
        self.closed.append(handle.value)
        return 1


def test_windows() -> None:
    kernel = Kernel()
    assert module._from_kernel(kernel, 42) == Usage(6 * MIB, 11)
    assert kernel.closed == [7]
    assert module._from_kernel(kernel, 43) == NO_LIMITS
    assert kernel.closed == [7]


@pytest.mark.skipif(sys.platform != "linux", reason="other systems are asked by it")
def test_on_linux_no_process_of_a_server_imports_ctypes() -> None:
    """It costs each of them memory and, with some versions of libffi, a descriptor."""
    code = """
import sys
from zibai.cli import arguments, ps
from zibai.server import guest, loader, probes, reloader, serve, start, worker
from zibai.supervise import preload, supervisor, worker
sys.exit("ctypes" in sys.modules)
"""
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0
