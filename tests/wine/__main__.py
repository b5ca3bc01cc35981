"""``python -m tests.wine``: run tests on Windows' Python, under Wine.

Where this machine cannot have it the command says why, and that is no failure.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import threading
import zipfile
from pathlib import Path
from typing import IO

from .build import Unavailable, Wine

TESTS = Path(__file__).resolve().parent.parent

PATIENCE = 10.0
"""Seconds in which the last output of the tests has come."""

# What asks the system in a way that is Windows' own. The rest passes there, too, and takes longer.
CHOSEN = [
    "engine/test_loop.py",
    "net/test_poller.py",
    *(f"supervise/test_{name}.py" for name in ("mainloop", "process", "sharing", "waiting")),
    "system/test_console.py",
    *(f"telemetry/test_{name}.py" for name in ("scoreboard", "logfile")),
    "engine/test_greenlets.py::test_scene[a_forgotten_timeout_does_not_hit_the_next_request]",
    "e2e/test_e2e_life.py::test_a_graceful_end_finishes_what_is_in_flight",
    "e2e/test_e2e_life.py::test_a_worker_that_dies_holds_up_no_client",
    "e2e/test_e2e_life.py::test_a_worker_that_dies_is_replaced",
    "e2e/test_e2e_life.py::test_the_end_of_a_console_is_graceful",
    "e2e/test_e2e_life.py::test_ctrl_break_while_a_server_starts",
    "e2e/test_e2e_life.py::test_more_workers_than_windows_waits_for_at_once",
    "e2e/test_e2e_losses.py",
    "e2e/test_e2e_loops.py",
    "e2e/test_e2e_steer.py::test_reload_waits_until_all_run_the_new_code",
    "e2e/test_e2e_steer.py::test_the_number_of_workers",
    "e2e/test_e2e_tls.py::test_a_graceful_end_finishes_what_runs",
    "e2e/test_e2e_life.py::test_an_end_leaves_no_file_behind",
    "e2e/test_e2e_life.py::test_while_the_end_waits_a_new_connection_is_refused",
    "e2e/test_e2e_life.py::test_workers_end_with_their_parent",
]


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m tests.wine", description="Run tests on Windows' Python, under Wine."
    )
    parser.add_argument("--folder", type=Path, default=Path.home() / ".cache" / "zibai-wine", help="where it is built")
    parser.add_argument("--python", action="store_true", help="run this Python with the arguments, and no tests")
    parser.add_argument("arguments", nargs="*", help="of pytest (default: the tests that matter)")
    args = parser.parse_args()
    wine = Wine(args.folder)
    try:
        wine.build()
    except (Unavailable, OSError, LookupError, ValueError, subprocess.SubprocessError, zipfile.BadZipFile) as reason:
        print(f"Windows' Python skipped: {reason}")
        return 0
    (wine.site / "zibai_tree.pth").write_text("".join(f"Z:{path}\n" for path in (TESTS.parent, TESTS)))
    tests = [
        "-m",
        "pytest",
        "-n",
        "2",
        "-q",
        "-m",
        "not slow or windows",
        "-o",
        "timeout=240",
        "-p",
        "no:cacheprovider",
        *(args.arguments or CHOSEN),
    ]
    command = wine.command(wine.python, *(args.arguments if args.python else tests))
    # A pipe and no file: under Wine Python cannot begin with a file that Linux has opened.
    with subprocess.Popen(
        command,
        cwd=TESTS,
        env=wine.environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    ) as process:
        assert process.stdout is not None
        reader = threading.Thread(target=_show, args=[process.stdout], daemon=True)
        reader.start()
        process.wait()
        # Not to its end: Wine's own processes have it, too, and now and then they stay.
        reader.join(PATIENCE)
        process.stdout = None
    return process.returncode


def _show(output: IO[bytes]) -> None:
    while data := os.read(output.fileno(), 65536):
        sys.stdout.buffer.write(data)
        sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
