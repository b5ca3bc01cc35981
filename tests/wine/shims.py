"""What Wine 8 lacks of Windows; imported by the Python under Wine when it starts."""

import ctypes
import os
import signal
import sys

_kill = os.kill


def getppid():
    """CPython asks PssCaptureSnapshot for it, which is not there, and the process would end."""
    information = (ctypes.c_void_p * 6)()
    size = ctypes.sizeof(information)
    ctypes.windll.ntdll.NtQueryInformationProcess(ctypes.c_void_p(-1), 0, information, size, None)
    return information[5] or 0


def kill(pid, number):
    """Ctrl-Break goes to a group of processes: here to ``pid`` and all that it has started. See python.c."""
    if number != signal.CTRL_BREAK_EVENT:
        return _kill(pid, number)
    _tell("ctrl-break", pid)
    return None


def close_console(pid):
    """Do what Windows does to ``pid`` and all that it has started when their console is closed."""
    _tell("close", pid)


def _tell(what, pid):
    parents = dict(processes())
    group = {pid}
    while more := {child for child, parent in parents.items() if parent in group} - group:
        group |= more
    kernel = ctypes.windll.kernel32
    for each in group:
        event = kernel.OpenEventW(2, False, f"{what}-{each}")  # EVENT_MODIFY_STATE
        if event:
            kernel.SetEvent(event)
            kernel.CloseHandle(event)
        elif each == pid:
            raise OSError(22, "no such process", None, 87)


def processes():
    """Each process and its parent."""
    kernel = ctypes.windll.kernel32
    entry = (ctypes.c_uint32 * 142)(
        568
    )  # PROCESSENTRY32W: its size, then the id in the 3rd place, the parent's in the 9th
    snapshot = kernel.CreateToolhelp32Snapshot(2, 0)
    more = kernel.Process32FirstW(snapshot, entry)
    while more:
        yield entry[2], entry[8]
        more = kernel.Process32NextW(snapshot, entry)
    kernel.CloseHandle(snapshot)


if sys.platform == "win32":
    os.getppid, os.kill = getppid, kill
