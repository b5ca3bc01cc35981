"""What a sample is counted as, and what a profile may cost."""

from __future__ import annotations

import json
import sys
import threading
from typing import TYPE_CHECKING, Any

import zibai
from zibai.server import sampling
from zibai.server.sampling import PROFILE_SIZE, STACKS, WAITING, Sampler

if TYPE_CHECKING:
    from types import CodeType, FrameType

ZIBAI = zibai.__file__.removesuffix("__init__.py")
STDLIB = threading.__file__.removesuffix("threading.py")


def code(file: str, name: str = "f") -> CodeType:
    whole = compile("def f(): pass", file, "exec")
    return whole if name == "<module>" else whole.co_consts[0].replace(co_name=name)  # type: ignore[no-any-return]


def kind(*places: tuple[str, str]) -> str:
    return sampling._kind_of([code(file, name) for file, name in places])


RUNNER = (f"{STDLIB}threading.py", "run"), (f"{ZIBAI}engine/backends/threads.py", "_live")
GATEWAY = (f"{ZIBAI}gateway/wsgi.py", "serve")
APP = ("/srv/shop.py", "view")


def test_kinds() -> None:
    assert kind(*RUNNER, GATEWAY, APP) == "request"
    assert kind(*RUNNER, GATEWAY, APP, (f"{STDLIB}threading.py", "wait")) == "request", "a request that waits counts"
    assert kind(*RUNNER, GATEWAY) == "server"
    assert kind(*RUNNER, (f"{ZIBAI}engine/backends/threads.py", "_wait_for_baton")) == "idle"
    assert kind(*RUNNER, (f"{ZIBAI}engine/loop.py", "_turn")) == "idle"
    assert kind(*RUNNER, (f"{ZIBAI}engine/loop.py", "_turn"), (f"{ZIBAI}protocol/http1/fast.py", "read")) == "server"
    assert kind(RUNNER[0], APP) == "other"
    assert kind(RUNNER[0], APP, (f"{STDLIB}queue.py", "get"), (f"{STDLIB}threading.py", "wait")) == "idle"
    package = (f"{STDLIB}site-packages/websockets/server.py", "<module>")
    assert kind((f"{ZIBAI}gateway/websocket.py", "<module>"), package) == "other", "an import is no request"
    assert kind((f"{STDLIB}site-packages/gevent/hub.py", "run")) == "idle"


def test_all_threads_are_seen_and_this_one_is_not() -> None:
    gate, there = threading.Event(), threading.Event()

    def stay_here() -> None:
        there.set()
        gate.wait()

    thread = threading.Thread(target=stay_here)
    thread.start()
    there.wait()
    sampler = Sampler(list)
    sampler.look()
    gate.set()
    thread.join()
    found = [each.co_name for each in sampler._codes.values()]
    assert "stay_here" in found
    assert "test_all_threads_are_seen_and_this_one_is_not" not in found


def test_of_many_waiting_requests_some_stand_for_all() -> None:
    frame = sys._getframe()
    waiting: list[list[FrameType]] = [[frame] for _ in range(1000)]
    sampler = Sampler(lambda: waiting)
    for _ in range(16):
        sampler.look()
    report = json.loads(sampler.report())
    (stack,) = [each for each in report["stacks"] if each[2] == "request"]
    assert abs(stack[1] - 16 * 1000) <= 16 * 1000 / WAITING
    assert report["busy"] == report["looks"] == 16


def test_a_profile_is_bounded() -> None:
    sampler = Sampler(list)
    for number in range(STACKS + 500):
        sampler._count([code(f"/srv/{'x' * 200}{number}.py", f"f{at}") for at in range(5)], 1, "request")
    assert len(sampler._counts) <= STACKS
    text = sampler.report()
    assert len(text) <= PROFILE_SIZE
    report = json.loads(text)
    assert sum(each[1] for each in report["stacks"]) == STACKS + 500, "what does not fit is counted"


def test_pieces_and_the_end() -> None:
    sent: list[tuple[str, str]] = []
    sampler = Sampler(list)
    for number in range(1000):
        sampler._count([code(f"/srv/{number}.py")], 1, "request")
    sampler.over.release()
    sampler.run(lambda *piece: sent.append(piece))
    assert [more for _, more in sent] == ["more"] * (len(sent) - 1) + [""]
    assert len(sent) > 1
    profile: dict[str, Any] = json.loads("".join(text for text, _ in sent))
    assert len(profile["frames"]) == 1000
    sampling.stop()  # nothing goes on


def test_frames_below_the_application_are_left_out() -> None:
    places = (*RUNNER, GATEWAY, APP, (f"{STDLIB}json/encoder.py", "encode"))
    shown = sampling._shown([code(file, name) for file, name in places])
    assert [each.co_name for each in shown] == ["view", "encode"]
