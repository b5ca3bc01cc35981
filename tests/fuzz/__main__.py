"""``python -m tests.fuzz``: fuzz for some time, say how it went, and how a failure comes again."""

from __future__ import annotations

import argparse
import secrets
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))  # where the other tests find their helpers

from .frames import fuzz_frames
from .run import fuzz


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description="Fuzz whole connections.")
    parser.add_argument("--seconds", type=float, default=60, help="for how long")
    parser.add_argument("--seed", type=int, default=None, help="where the inputs come from; by chance if left out")
    parser.add_argument("--first", type=int, default=0, metavar="NUMBER", help="the input to begin with")
    parser.add_argument("--count", type=int, default=None, help="how many inputs, if not that many seconds")
    parser.add_argument("--failures", type=Path, default=Path(), metavar="FOLDER", help="where failing inputs go")
    parser.add_argument("--frames", action="store_true", help="fuzz WebSockets instead of requests")
    args = parser.parse_args()
    seed = secrets.randbits(32) if args.seed is None else args.seed
    print(f"seed {seed}", flush=True)
    run = fuzz_frames if args.frames else fuzz
    result = run(seed, seconds=args.seconds, first=args.first, count=args.count, say=print)
    print(result)
    if result.failure is None:
        return 0
    path = args.failures / f"fuzz-{seed}-{result.number}.http"
    path.write_bytes(result.data)
    print(f"FAILED at input {result.number} ({result.subject}): {result.failure}")
    kind = " --frames" if args.frames else ""
    print(f"again: python -m tests.fuzz{kind} --seed {seed} --first {result.number} --count 1; its bytes: {path}")
    return 1


if __name__ == "__main__":
    sys.exit(main())
