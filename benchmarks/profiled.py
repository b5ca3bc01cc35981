"""Where the time goes when a figure is missed: this server under cProfile, with the same load.

``python -m benchmarks.profiled APP FLAGS...`` is ``zibai APP FLAGS...`` that says, when it has ended, what each
function took by itself. A profile slows down what calls many functions more than what calls few, so it tells where to
look and not how much there is to gain. Waiting, which is no work, is left out.
"""

import cProfile
import pstats
import sys
import threading
from pathlib import Path

from . import load
from .process import Broken, Running
from .servers import BY_NAME, Server
from .workloads import BY_KEY

BEGINS = "-- profile --"
LINES = 15
WAITING = ("poll", "acquire", "sleep", "switch")


def command(ours: Server) -> Server:
    """The same server, profiled."""
    return Server(ours.name, ours.command.replace("-m zibai ", "-m benchmarks.profiled "))


def measure(name: str, workload: str, threads: int, seconds: int) -> str:
    """The profile of one of our servers under this load, as text."""
    work = BY_KEY[workload]
    try:
        with Running(command(BY_NAME[name]), work, threads) as running:
            load.measure(work, running.port, seconds)
            return running.last_words().partition(BEGINS)[2].strip("\n") or "no profile"
    except (Broken, OSError) as error:
        return str(error)


def table(stats: pstats.Stats) -> list[str]:
    """The functions that took most, each with its share of the work and the number of its calls."""
    rows = [(values[2], values[1], where) for where, values in stats.stats.items()]  # type: ignore[attr-defined]
    work = [row for row in rows if not any(f"{word}'" in row[2][2] or f".{word}>" in row[2][2] for word in WAITING)]
    total = sum(own for own, _, _ in work) or 1.0
    work.sort(reverse=True)
    return [f"{own / total:6.1%} {calls:9,} calls  {_name(*where)}" for own, calls, where in work[:LINES]]


def _name(file: str, line: int, function: str) -> str:
    """Without the folders of this machine."""
    return function if file == "~" else f"{'/'.join(Path(file).parts[-2:])}:{line} {function}"


def serve(arguments: list[str]) -> None:
    from zibai import main, parse_args

    profiles = [cProfile.Profile()]
    plain = threading.Thread.run

    def run(thread: threading.Thread) -> None:
        profiles.append(cProfile.Profile())
        profiles[-1].runcall(plain, thread)

    # From 3.12 on a profile is of all threads, and there can be only one.
    if sys.version_info < (3, 12):
        threading.Thread.run = run  # type: ignore[assignment,method-assign]
    profiles[0].enable()
    try:
        main(parse_args(arguments))
    finally:
        profiles[0].disable()
        stats = pstats.Stats(*profiles)
        print(BEGINS, *table(stats), sep="\n", flush=True)


if __name__ == "__main__":
    serve(sys.argv[1:])
