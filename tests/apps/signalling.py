"""Applications that handle signals while they are imported, as ``TAKES`` in the environment says, and then do not."""

import asyncio
import os
import signal
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
            signal.signal(signal.SIGTERM, lambda number, frame: os.write(2, b"the application has heard it\n"))


take(TAKES)


def app(environ, start_response):
    """A request for ``/ours`` takes in its view what ``TAKES=ours`` takes at import."""
    take(environ["PATH_INFO"].lstrip("/"))
    start_response("200 OK", [("Content-Length", "2")])
    return [b"ok"]
