"""Applications that would keep their process from ending; ``HANG`` in the environment says how."""

import atexit
import os
import sys
import threading
import time

HANG = os.environ.get("HANG", "")


def nap() -> None:
    while True:
        time.sleep(1000)  # app


def keep() -> None:
    """Start a thread that nobody ends."""
    threading.Thread(target=nap, name="poller").start()


if HANG == "thread":
    keep()
elif HANG == "pool":
    from concurrent.futures import ThreadPoolExecutor

    ThreadPoolExecutor(1).submit(nap)
elif HANG == "atexit":
    atexit.register(nap)
elif HANG == "process" and sys.platform != "win32":
    import multiprocessing

    # It ends some time after its parent, which multiprocessing would wait for.
    multiprocessing.get_context("fork").Process(target=time.sleep, args=(15,)).start()
elif HANG == "failure":
    keep()
    raise RuntimeError("this application cannot be loaded")


def app(environ, start_response):
    if environ["PATH_INFO"] == "/keep":
        keep()
    start_response("200 OK", [("Content-Length", "2")])
    return [b"ok"]


def hook() -> None:
    if HANG == "late thread":
        keep()
    else:
        nap()
