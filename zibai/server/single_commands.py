"""The commands of the control channel in a single process, which raises a signal in itself for each.

See :mod:`zibai.server.commands` for those of a parent.
"""

import os
import signal
import sys
from collections.abc import Iterator
from typing import Any, Final

from .endpoint import Request

Lines = Iterator[dict[str, Any]]

GRACEFUL_SIGNAL: Final = "SIGBREAK" if sys.platform == "win32" else "SIGTERM"
QUICK_SIGNAL: Final = "SIGINT"


def serve_single(request: Request) -> Lines:
    """The only command of a single process: end, as by a signal."""
    if request.get("command") == "stop":
        try:
            yield {"ok": True, "pid": os.getpid()}
        finally:  # also for a client that has left without waiting for the line
            _send_signal(getattr(signal, QUICK_SIGNAL if request.get("now") is True else GRACEFUL_SIGNAL))
    elif request.get("command") == "reopen" and sys.platform != "win32":
        _send_signal(signal.SIGUSR1)
        yield {"ok": True}
    else:
        yield {"error": "this server is a single process, which can only be stopped; start it with --processes 1"}


def _send_signal(number: int) -> None:
    """Send a signal to this process: not to this thread, in which signals may be blocked."""
    if sys.platform == "win32":
        signal.raise_signal(number)  # os.kill would end the process, or every process of its console
    else:
        os.kill(os.getpid(), number)
