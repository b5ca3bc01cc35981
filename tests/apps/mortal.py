"""An application that can die or hang in every way there is, when a request asks for it."""

import ctypes
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from pathlib import Path


def app(environ, start_response):
    path, query = environ["PATH_INFO"], environ["QUERY_STRING"]
    match path:
        case "/pid":
            pass
        case "/exit":
            os._exit(7)
        case "/segfault":
            ctypes.string_at(0)
        case "/stop":
            os.kill(os.getpid(), signal.SIGSTOP)
            time.sleep(0.1)  # app -- it may be a moment until all threads stand still
        case "/loop":
            hold_the_gil()
        case "/hang":
            touch(query)
            while not Path(query + ".go").exists():  # app
                time.sleep(0.01)  # app -- where it stands mostly, but not always
        case "/burn":
            end = time.monotonic() + float(query)
            while time.monotonic() < end:  # burns
                pass  # burns -- since Python 3.15 it is seen here, too
        case "/fork":
            multiprocessing.get_context("fork").Process(target=linger, args=(query,)).start()
        case "/orphan":
            # A grandchild that outlives its parent is process 1's child afterwards.
            code = "import os; os.fork() and os._exit(0); print(os.getpid(), flush=True)"
            done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)
            start_response("200 OK", [])
            return [done.stdout.strip()]
        case "/exists":
            start_response("200 OK", [])
            return [b"there" if Path("/proc", query).exists() else b"gone"]
        case "/end":
            os.kill(1, signal.SIGTERM)
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [str(os.getpid()).encode()]


def touch(path):
    Path(path).write_text("", encoding="ascii")


def linger(path):
    """A child of the application's, which waits as ever."""
    touch(path)
    while not Path(path + ".go").exists():
        time.sleep(0.01)
    touch(path + ".gone")


def hold_the_gil():
    """An endless loop in C: the expression backtracks, and the GIL is not let go of."""
    import re

    re.match(r"(a+)+$", "a" * 64 + "b")


def never():
    time.sleep(1000)  # app
