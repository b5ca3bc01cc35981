"""An application that does what is delicate before a fork, as asked for by the names of files in the current directory.

What it notes goes into files there, too: ``imports`` has a line for each import, ``exits`` for each exit of a process.
"""

import atexit
import gc
import multiprocessing
import os
import random
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

ticks = []
FIRST = None


def note(name):
    with Path(name).open("a", encoding="ascii") as file:
        file.write(f"{os.getpid()}\n")


def tick():
    while True:
        time.sleep(0.01)  # app
        ticks.append(os.getpid())


def spawn():
    """What needs SIGCHLD, and gevent's threads."""
    socket.getaddrinfo("localhost", 80)
    return subprocess.run([sys.executable, "-c", "print(7)"], check=True, capture_output=True).stdout


note("imports")
random.random()
if Path("threaded").exists():
    threading.Thread(target=tick, name="ticker", daemon=True).start()
if Path("delicate").exists():
    spawn()
    child = multiprocessing.get_context("fork").Process(target=time.sleep, args=[1000], daemon=True)
    child.start()
    socket.setdefaulttimeout(5)
    atexit.register(note, "exits")
if Path("deadly").exists():
    os._exit(7)
if Path("endless").exists():
    time.sleep(1000)  # app
# 100 MiB of what the garbage collector looks at.
BALLAST = [(ticks,) * 36 for _ in range(350_000)] if Path("heavy").exists() else []


def app(environ, start_response):
    start_response("200 OK", [("Content-Type", "text/plain")])
    match environ["PATH_INFO"]:
        case "/random":
            text = f"{os.getpid()} {FIRST}"
        case "/ticks":
            text = str(ticks.count(os.getpid()))
        case "/collect":
            gc.collect()
            text = str(os.getpid())
        case "/spawn":
            text = spawn().decode().strip()
        case _:
            text = str(os.getpid())
    return [text.encode()]


def before_serve():
    global FIRST
    FIRST = random.random()
    note("serves")
