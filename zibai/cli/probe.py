"""The process in which ``zibai check`` imports the application: as a worker would, and without serving.

It reads the options from standard input, as a pickle, and writes its result to standard output, as JSON. A file would
need a directory, which a read-only system does not have. The output of the application goes to standard error.
"""

import json
import os
import pickle
import sys
import time
from dataclasses import replace
from typing import TYPE_CHECKING

from ..errors import LoadError, ZibaiError

if TYPE_CHECKING:
    from ..config.options import Options


def main() -> None:
    """Import the application and its hooks, and call none of them. Their output stays separate from the report."""
    options: Options = pickle.load(sys.stdin.buffer)  # noqa: S301 -- from the command itself
    out = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    report: dict[str, object] = {"error": None, "trace": ""}
    began = time.monotonic()
    try:
        from ..engine.backends.eventloop import make_event_loop
        from ..server import application, kinds, worker
        from ..telemetry import setup as logs

        # Without the page that --reload shows for an error, and without log files, which a running server may have.
        options = replace(options, reload=False, watchfiles=None, log_file=None, access_log=None, log_max_bytes=0)
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
