"""A program without the guard ``if __name__ == "__main__"`` is told so in one line."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from support import DEADLINE, environment

if TYPE_CHECKING:
    from pathlib import Path

HEAD = """
import os
import signal

import zibai

def app(environ, start_response):
    start_response("200 OK", [])
    return []

def leave():
    os.kill(os.getppid() if PROCESSES else os.getpid(), signal.SIGTERM)

def start():
    options = zibai.Options("program:app", listen=["127.0.0.1:0"], no_gevent=True, processes=PROCESSES)
    options.before_serve = "program:leave"
    zibai.main(options)
"""
# What a worker does with such a program is known before there is one.
CERTAIN = [
    "start()",
    "done = start()",
    "try:\n    start()\nfinally:\n    pass",
    "zibai.run('program:app', processes=2)",
]
HINT = 'each worker imports this file; put the call under: if __name__ == "__main__":'


def run(tmp_path: Path, text: str, processes: int = 2) -> subprocess.CompletedProcess[str]:
    (tmp_path / "program.py").write_text(HEAD.replace("PROCESSES", str(processes)) + text, encoding="utf-8")
    return subprocess.run(
        [sys.executable, "program.py"],
        cwd=tmp_path,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=DEADLINE,
        check=False,
    )


@pytest.mark.parametrize("text", CERTAIN)
def test_without_the_guard(tmp_path: Path, text: str) -> None:
    done = run(tmp_path, text)
    line = 19 if text.startswith("try") else 18
    assert done.stderr.splitlines()[-1].endswith(f"program.py, line {line}: {HINT}")
    assert "listening" not in done.stderr
    assert done.returncode == (1 if "run" in text else 2)


def test_what_is_certain_in_a_worker_only(tmp_path: Path) -> None:
    done = run(tmp_path, "if True:\n    start()")
    assert f"zibai: error: program.py starts a server while a worker imports it: {HINT}" in done.stderr
    assert done.returncode == 3


@pytest.mark.skipif(sys.platform == "win32", reason="a process cannot send itself SIGTERM")
@pytest.mark.parametrize(
    ("text", "processes"),
    [('if __name__ == "__main__":\n    start()', 1), ("start()", 0)],
    ids=["guarded", "without workers"],
)
def test_what_is_right_serves(tmp_path: Path, text: str, processes: int) -> None:
    done = run(tmp_path, text, processes)
    assert HINT not in done.stderr
    assert done.returncode == 0, done.stderr
