"""Functions for a supervisor; what they do they note in a file, a line each."""

from __future__ import annotations

import os
import sys
import threading
import time
from pathlib import Path

import zibai


def note(path: str, text: str) -> None:
    with Path(path).open("a") as file:
        file.write(f"{text} {os.getpid()}\n")


def wait(path: str) -> None:
    """As it should be."""
    note(path, "begin")
    zibai.current_worker().end.wait()
    note(path, "end")


def count_threads(path: str) -> None:
    """The worker's own threads must not be among them, or the function could not fork."""
    note(path, f"{threading.active_count()} threads")
    zibai.current_worker().end.wait()


def stop() -> None:
    note(os.environ["NOTES"], "before stop")


def deaf(path: str) -> None:
    """Knows nothing of the event."""
    try:
        note(path, "begin")
        while True:
            time.sleep(0.01)
    finally:
        note(path, "finally")


def converting(path: str) -> None:
    """Makes another exception of that which interrupts it."""
    try:
        deaf(path)
    except KeyboardInterrupt:
        raise ValueError("it is no good") from None


def numb(path: str) -> None:
    """Knows nothing of anything."""
    note(path, "begin")
    while True:
        try:
            time.sleep(0.01)
        except KeyboardInterrupt:
            note(path, "no")


def short(path: str) -> None:
    note(path, "begin")


def fail(path: str) -> None:
    note(path, "begin")
    raise ValueError("it is no good")


def leave(path: str) -> None:
    sys.exit(5)


def slow_to_boot(path: str) -> None:
    """Is ready when there is a file."""
    note(path, "begin")
    while not Path(path + ".go").exists():
        time.sleep(0.01)
    zibai.current_worker().ready()
    note(path, "ready")
    zibai.current_worker().end.wait()


def beat_once(path: str) -> None:
    zibai.current_worker().beat()
    note(path, "begin")
    zibai.current_worker().end.wait()


def eat(path: str) -> None:
    """The first worker takes much memory and many descriptors."""
    note(path, "begin")
    first = Path(path).read_text().startswith(f"begin {os.getpid()}\n")
    kept = (b"x" * (80 * 2**20), [os.dup(2) for _ in range(200)]) if first else None
    zibai.current_worker().end.wait()
    del kept
    note(path, "end")


def supervise(name: str, path: str) -> None:
    """``python jobs.py NAME PATH``: two workers of the function, until a signal comes."""
    zibai.Supervisor(globals()[name], (path,), 2).run()
    print("over", flush=True)


if __name__ == "__main__":
    supervise(*sys.argv[1:])
