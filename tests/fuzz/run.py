"""The run: input after input, each to two servers that differ in their lane alone."""

from __future__ import annotations

import sys
import tempfile
import time
import traceback
from collections import Counter
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, Any

import pytest

from zibai.protocol.http1.fast import MAX_HOSTS, MAX_REQUESTS

from .inputs import Inputs
from .oracle import compare, statuses
from .subject import Broken, Subject, listening

if TYPE_CHECKING:
    from collections.abc import Callable

    from .subject import Ears

LIMITS: dict[str, dict[str, Any]] = {
    "usual limits": {},
    "small limits": {"max_head": 700, "max_target": 60, "max_body": 300},
    "streamed bodies": {"stream_body": True, "max_body": 500},
}
GOOD = b"GET /0 HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"


@dataclass
class Result:
    """How it went: inputs, what came of them, and the first failure with its input."""

    inputs: int = 0
    bytes: int = 0
    calls: int = 0
    answers: Counter[int] = field(default_factory=Counter)
    lines: int = 0
    most: int = 0
    late: list[tuple[str, float]] = field(default_factory=list)
    seconds: float = 0.0
    memory: tuple[int, int] = (0, 0)  # KiB resident, after the first thousand inputs and at the end
    number: int = 0
    data: bytes = b""
    subject: str = ""
    failure: BaseException | None = None

    def __str__(self) -> str:
        kinds = ", ".join(f"{status or 'cut'}: {count}" for status, count in sorted(self.answers.items()))
        late = "".join(f", {state} {seconds * 1e3:.1f} ms" for state, seconds in self.late[:5])
        return (
            f"{self.inputs} inputs of {self.bytes / 1e6:.1f} MB in {self.seconds:.0f} s, each in two lanes; "
            f"{self.calls} calls of the application; answers {kinds}; {self.lines} log lines; at most {self.most} "
            f"bytes in a connection; {len(self.late)} ends that were seen late{late}; "
            f"memory {self.memory[0]} KiB, then {self.memory[1]} KiB"
        )


def fuzz(
    seed: int,
    *,
    seconds: float,
    first: int = 0,
    count: int | None = None,
    say: Callable[[str], object] = lambda text: None,
) -> Result:
    """Fuzz until the time is over, or ``count`` inputs are; ends with the first failure."""
    result = Result()
    inputs = Inputs(2)
    begin = time.monotonic()
    told = begin
    with ExitStack() as stack:
        ears = stack.enter_context(listening())
        patch = stack.enter_context(pytest.MonkeyPatch.context())
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        pairs: dict[str, list[Subject]] = {}
        for name, limits in LIMITS.items():
            pairs[name] = [Subject(patch, folder / f"{name}-{lane}", lane=lane, **limits) for lane in (False, True)]
            for each in pairs[name]:
                stack.callback(each.close)
        number = first
        while result.inputs < count if count is not None else time.monotonic() - begin < seconds:
            random = Random(f"{seed}-{number}")
            name = random.choice(list(LIMITS))
            data, cuts = inputs.make(random)
            result.number, result.data, result.subject = number, data, name
            try:
                half_close = random.random() < 0.5
                traces = [each.send(data, cuts[i], half_close=half_close) for i, each in enumerate(pairs[name])]
                if ears.problem is not None:
                    raise ears.problem
                compare(*traces)
                if half_close and not traces[0].ended:
                    raise Broken("the client has left, and the connection stays")
                if number % 10 == 0:
                    check_alive(pairs[name])
            except Exception as error:
                traceback.print_exc()
                result.failure = error
                break
            result.inputs += 1
            result.bytes += len(data)
            result.calls += len(traces[0].calls)
            result.answers.update(statuses(traces[0]))
            number += 1
            if result.inputs == 1000:
                result.memory = (resident(), 0)
            if time.monotonic() - told > 60:
                told = time.monotonic()
                update(result, told - begin, ears, pairs)
                say(str(result))
        update(result, time.monotonic() - begin, ears, pairs)
    return result


def update(result: Result, seconds: float, ears: Ears, pairs: dict[str, list[Subject]]) -> None:
    result.seconds = seconds
    result.lines = ears.lines
    result.most = max(each.most for pair in pairs.values() for each in pair)
    result.late = [late for pair in pairs.values() for each in pair for late in each.late]
    result.memory = (result.memory[0], resident())


def check_alive(pair: list[Subject]) -> None:
    """A plain request is answered as ever, and what the lanes remember is bounded."""
    for each in pair:
        if statuses(each.send(GOOD, [], half_close=False)) != [200]:
            raise Broken("the server does not answer any more")
        if each.lane is not None:
            known, hosts = len(each.lane.known), len(each.lane._hosts)
            if known > MAX_REQUESTS or hosts > MAX_HOSTS:
                raise Broken(f"the lane remembers {known} requests and {hosts} hosts")


def resident() -> int:
    """KiB of memory of this process; 0 where nobody says."""
    if sys.platform != "linux":
        return 0
    return int(Path("/proc/self/status").read_text().partition("VmRSS:")[2].split()[0])
