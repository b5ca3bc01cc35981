"""``python -m tests.pythons NAME ...``: run the unit tests on other Pythons.

Where this machine cannot have one the command says why, and that is no failure.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import zipfile
from pathlib import Path

from .build import ROOT, Python, Unavailable

# What asks the interpreter for more than its language: threads, memory, processes, tracebacks.
CHOSEN = [
    *(f"engine/test_{name}.py" for name in ("baton", "limits", "loop", "states")),
    "gateway/test_wsgi.py",
    *(f"server/test_{name}.py" for name in ("loops", "peek", "sampling", "worker")),
    *(f"supervise/test_{name}.py" for name in ("mainloop", "process", "sharing", "waiting")),
    "supervise/test_supervisor.py::test_a_module_that_gevent_has_patched",
    *(f"telemetry/test_{name}.py" for name in ("board_file", "logger", "rows", "scoreboard")),
    "e2e/test_e2e_loops.py",
    "test_importer.py",
]

# All unit tests but the wire tests, which are long and ask nothing of the interpreter.
UNITS = ["asgi", "config", "engine", "gateway", "net", "protocol", "server", "supervise", "system", "telemetry", "tls"]
LONG = ["engine/test_wire.py", "tls/test_tls_load.py"]


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m tests.pythons",
        description="Run the unit tests on other Pythons.",
        epilog="options of pytest follow --",
    )
    parser.add_argument("names", nargs="+", metavar="NAME", help="3.15, 3.14t, ...")
    parser.add_argument("--all", action="store_true", help="all unit tests (default: those that matter)")
    parser.add_argument("--folder", type=Path, default=Path.home() / ".cache" / "zibai-pythons", help="where they are")
    ours, theirs = sys.argv[1:], []
    if "--" in ours:
        at = ours.index("--")
        ours, theirs = ours[:at], ours[at + 1 :]
    args = parser.parse_args(ours)
    chosen = [*UNITS, "test_importer.py"] if args.all else CHOSEN
    tests = theirs or [*(f"tests/{path}" for path in chosen), *(f"--ignore=tests/{path}" for path in LONG)]
    return max([test(Python(name, args.folder), tests) for name in args.names])


def test(python: Python, arguments: list[str]) -> int:
    """The exit code of the tests; 0 if this machine cannot have this Python."""
    try:
        python.build()
        version = subprocess.run([python.program, "-VV"], capture_output=True, text=True, check=True).stdout.strip()
    except (Unavailable, OSError, LookupError, ValueError, subprocess.SubprocessError, zipfile.BadZipFile) as reason:
        print(f"Python {python.name} skipped: {reason}", flush=True)
        return 0
    print(version, flush=True)
    path = os.pathsep.join([str(python.program.parent), os.environ.get("PATH", "")])
    pytest = [python.program, "-m", "pytest", "-q", "-n", "2", "-p", "no:cacheprovider", *arguments]
    return subprocess.run(pytest, cwd=ROOT, env={**os.environ, "PATH": path}, check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
