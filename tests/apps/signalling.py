"""Applications that handle signals while they are imported, as ``TAKES`` in the environment says, and then do not."""

import asyncio
import os
import signal
import sys
import threading

TAKES = os.environ.get("TAKES", "")


async def prepare(*numbers: int) -> None:
    """asyncio takes the one descriptor for signals, and leaves none. It gives SIGTERM back to the system."""
    for number in numbers:
        asyncio.get_running_loop().add_signal_handler(number, print)


def run_for_ever() -> None:
    """A loop that handles signals and runs on in a thread."""
    loop = asyncio.new_event_loop()
    loop.add_signal_handler(signal.SIGTERM, print)
    threading.Thread(target=loop.run_forever, daemon=True).start()


def take(what):
    match what:
        case "another":
            asyncio.run(prepare(signal.SIGUSR2))
        case "ours":
            asyncio.run(prepare(signal.SIGTERM, signal.SIGINT))
        case "default":
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
        case "ignored":
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
        case "no descriptor":
            signal.set_wakeup_fd(-1)
        case "kept":
            run_for_ever()
        case "own":
            for number in (signal.SIGTERM, signal.SIGINT):
                signal.signal(number, lambda number, frame: os.write(2, b"the application has heard it\n"))
        case "exits":
            signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(7))


take(TAKES)


def app(environ, start_response):
    """A request for ``/ours`` takes in its view what ``TAKES=ours`` takes at import."""
    take(environ["PATH_INFO"].lstrip("/"))
    start_response("200 OK", [("Content-Length", "2")])
    return [b"ok"]


def slow(environ, start_response):
    """Takes as many seconds as the query says."""
    os.write(2, b"entered\n")
    threading.Event().wait(float(environ["QUERY_STRING"]))
    start_response("200 OK", [("Content-Length", "2")])
    return [b"ok"]


async def tasks(scope, receive, send):
    """Takes signals in its event loop: in its lifespan as ``TAKES`` says, in a request as the query says.

    The response says who handles SIGTERM and SIGINT now.
    """
    if scope["type"] == "lifespan":
        await receive()
        take_in_loop(TAKES)
        await send({"type": "lifespan.startup.complete"})
        await receive()
        await send({"type": "lifespan.shutdown.complete"})
        os.write(2, b"shut down\n")
        return
    take_in_loop(scope["query_string"].decode())
    handlers = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)]
    await send({"type": "http.response.start", "status": 200})
    await send({"type": "http.response.body", "body": repr(handlers).encode()})


async def deaf(scope, receive, send):
    """A request that does not end, whatever is raised in it."""
    while True:
        try:
            os.write(2, b"entered\n")
            threading.Event().wait(1000)
        except BaseException:
            pass


def take_in_loop(what):
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        if what in ("loop", "given-back"):
            loop.add_signal_handler(number, os.write, 2, b"the application has heard it\n")
        if what == "given-back":
            loop.remove_signal_handler(number)
        if what == "handler":
            signal.signal(number, lambda number, frame: os.write(2, b"the application has heard it\n"))
