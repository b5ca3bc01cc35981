"""The last moment of a process, in processes of the test's own."""

from __future__ import annotations

import signal
import subprocess
import sys
import time

import pytest

from support import DEADLINE, ROOT, environment

posix = pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX")


def script(*lines: str, patched: bool = False) -> list[str]:
    first = ["import gevent.monkey", "gevent.monkey.patch_all()"] if patched else []
    imports = ["import threading, time", "from zibai.system import lastword, patching"]
    return [sys.executable, "-c", "\n".join([*first, *imports, *lines])]


def ending(*lines: str, patched: bool = False) -> tuple[int, str, float]:
    began = time.monotonic()
    done = subprocess.run(
        script(*lines, patched=patched),
        cwd=ROOT,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=DEADLINE,
        check=False,
    )
    return done.returncode, done.stderr, time.monotonic() - began


KEPT = "threading.Thread(target=time.sleep, args=(1000,), name='keeper').start()"


def test_a_process_that_hangs_ends_and_says_where() -> None:
    code, text, _ = ending(KEPT, "lastword.exit_code = 3", "lastword.arm(0.1)")
    assert code == 3
    assert "has not ended in time" in text
    assert "keeper:" in text


def test_it_is_a_thread_of_the_system_where_gevent_has_patched() -> None:
    pytest.importorskip("gevent")
    hog = "patching.original('time', 'sleep')(1000)  # the hub does not turn"
    code, text, _ = ending("lastword.arm(0.1)", hog, patched=True)
    assert (code, "has not ended in time" in text) == (0, True)


def test_one_that_ends_by_itself_is_left_alone() -> None:
    assert ending("lastword.arm(60)", "raise SystemExit(7)")[:2] == (7, "")


def test_the_end_only_comes_closer() -> None:
    code, _, seconds = ending(KEPT, "lastword.arm(1000)", "lastword.arm(0.1)", "lastword.arm(900)")
    assert code == 0
    assert seconds < DEADLINE


@posix
def test_a_lock_on_the_interpreter_does_not_keep_it() -> None:
    """faulthandler ends it then, whose exit code is 1."""
    hold = "import re; re.match('(a+)+$', 'a' * 64 + 'b')  # C code that does not let go of the GIL"
    gil = getattr(sys, "_is_gil_enabled", lambda: True)()
    assert ending("lastword.arm(0.1)", hold)[0] == (1 if gil else 0)


@posix
def test_pending_signals_are_seen_while_they_are_blocked() -> None:
    code, _, _ = ending(
        "import os, signal",
        "from zibai.system.holdback import signals_held_back",
        "with signals_held_back(lastword.Lookout(0.1)):",
        "    os.kill(os.getpid(), signal.SIGTERM)",
        "    time.sleep(1000)",
    )
    assert code == 0


@posix
def test_a_main_loop_that_does_not_listen_is_stood_in_for(monkeypatch: pytest.MonkeyPatch) -> None:
    from zibai.system import lastword

    armed: list[float] = []
    sent: list[tuple[int, int]] = []
    monkeypatch.setattr(lastword, "arm", lambda seconds, before: armed.append(seconds))
    monkeypatch.setattr(lastword, "start_thread", lambda function: function())
    monkeypatch.setattr(lastword, "STUCK", 0)
    monkeypatch.setattr(lastword.os, "kill", lambda pid, number: sent.append((pid, number)))
    overseer = lastword.Overseer(lambda: [41, 42], lambda: False, lambda name: 14.0)
    overseer.heard("SIGHUP")
    assert (armed, sent) == ([], [])
    overseer.heard("SIGTERM")
    assert (armed, sent) == ([14.0], [(41, signal.SIGTERM), (42, signal.SIGTERM)])
    lastword.Overseer(lambda: [41], lambda: True, lambda name: 14.0).heard("SIGTERM")
    assert len(sent) == 2, "the main loop has told them already"
