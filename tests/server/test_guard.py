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
    "with open('program.py'):\n    start()",
    "with open('program.py') as file, memoryview(start() or b''):\n    pass",
    "logger = __import__('logging').getLogger(__name__)\nstart()",
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
    line = 18 + text.partition("start()")[0].count("\n")
    assert done.stderr.splitlines()[-1].endswith(f"program.py, line {line}: {HINT}")
    assert "listening" not in done.stderr
    assert done.returncode == (1 if "run" in text else 2)


def test_what_is_certain_in_a_worker_only(tmp_path: Path) -> None:
    done = run(tmp_path, "if True:\n    start()")
    assert f"zibai: error: program.py starts a server while a worker imports it: {HINT}" in done.stderr
    assert done.returncode == 3


# Programs that are right, with the guard in all the places that programs have it.
GUARDED = [
    'if __name__ == "__main__":\n    start()',
    'try:\n    if __name__ == "__main__":\n        start()\nexcept KeyboardInterrupt:\n    pass',
    'import contextlib\nwith contextlib.suppress(OSError):\n    if "__main__" == __name__:\n        start()',
    '__name__ == "__main__" and start()',
    'done = start() if __name__ == "__main__" else None',
    'is_main = __name__ == "__main__"\nis_main and start()',
    'is_main = __name__ == "__main__"\ntry:\n    if is_main:\n        start()\nfinally:\n    pass',
    "from multiprocessing import *\nif current_process().name == 'MainProcess':\n    start()",
    "from multiprocessing import *\ntry:\n    assert current_process().name == 'MainProcess'\n    start()\nexcept: 0",
    "from multiprocessing import *\nname = current_process().name\ntry:\n    {'MainProcess': start}[name]()\nexcept: 0",
    "def check():\n    if __name__ != '__main__':\n        raise KeyError\ntry:\n    check()\n    start()\nexcept: 0",
    "try:\n    assert __name__ == '__main__'\nexcept: 0\nelse:\n    start()",
]


@pytest.mark.skipif(sys.platform == "win32", reason="a process cannot send itself SIGTERM")
@pytest.mark.parametrize(("text", "processes"), [*((text, 1) for text in GUARDED), ("start()", 0)])
@pytest.mark.daily("text8", "start()-0", "is_main and start")
def test_what_is_right_serves(tmp_path: Path, text: str, processes: int) -> None:
    done = run(tmp_path, text, processes)
    assert HINT not in done.stderr
    assert done.returncode == 0, done.stderr
