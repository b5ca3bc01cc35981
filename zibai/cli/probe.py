"""The process in which ``zibai check`` imports the application: as a worker would, and without serving.

It reads the options from standard input, as a pickle, and writes its result to standard output, as JSON. A file would
need a directory, which a read-only system does not have. The output of the application goes to standard error.
"""

import json
import os
import pickle
import subprocess
import sys
import time
from dataclasses import replace
from typing import TYPE_CHECKING, Final

from ..errors import LoadError, ZibaiError

if TYPE_CHECKING:
    from ..config.options import Options


_LOOK: Final = 0.2
"""Seconds between two looks whether the process has ended, where its pipes do not tell."""


def run(options: "Options") -> tuple[int, bytes, bytes]:
    """Import the application in another process: its code, and what it has written to standard output and error.

    A program that the application starts may keep standard error open, so the end of the process is what counts.
    Raises ``subprocess.TimeoutExpired`` after the boot timeout.
    """
    # It imports from where this process does, as a worker: a program around zibai may have set sys.path.
    code = f"import sys; sys.path[:] = {sys.path!a}; from {__name__} import main; main()"
    pipe = subprocess.PIPE
    command = [sys.executable, "-c", code]
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe) as process:  # noqa: S603 -- this Python
        until = time.monotonic() + options.boot_timeout
        data: bytes | None = pickle.dumps(options)
        while True:
            over = process.poll() is not None
            try:
                out, said = process.communicate(data, timeout=_LOOK)
            except subprocess.TimeoutExpired as late:
                if over and sys.platform != "win32":  # which does not tell what it has read so far
                    return process.returncode, late.output or b"", late.stderr or b""
                if time.monotonic() > until:
                    process.kill()
                    raise
                data = None  # it has begun to be sent
            else:
                return process.returncode, out, said


def main() -> None:
    """Import the application and its hooks, and call none of them. Their output stays separate from the report."""
    options: Options = pickle.load(sys.stdin.buffer)  # noqa: S301 -- from the command itself
    out = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    report: dict[str, object] = {"error": None, "trace": ""}
    began = time.monotonic()
    try:
        from ..engine.backends.eventloop import make_event_loop
        from ..server import application, kinds, peek, worker
        from ..telemetry import setup as logs

        # Without log files, which a running server may have.
        options = replace(options, log_file=None, access_log=None, log_max_bytes=0)
        logs.configure_as(options)
        hub = worker.prepare(options)
        site = application.load(options)
        interface = site.interface(options.interface)
        report["backend"] = backend = worker.backend_of(options, interface, hub)
        kinds.obstacle_to_loops(options, interface, backend)
        if report["backend"] == "tasks":
            make_event_loop(options.loop).close()
    except ZibaiError as error:
        report |= {"error": str(error), "trace": error.trace if isinstance(error, LoadError) else ""}
        report["code"] = error.exit_code
    report["seconds"] = time.monotonic() - began
    with out:
        json.dump(report, out)
    peek.leave(0)
