"""The greenlets backend. What needs gevent's patches runs in a process of its own: see `apps/greenlet_scenes`."""

from __future__ import annotations

import ast
import importlib.util
import re
import socket
import subprocess
import sys
import threading
from types import SimpleNamespace
from typing import TYPE_CHECKING

import pytest

from support import APPS, DEADLINE, environment

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

gevent = pytest.importorskip("gevent")

from zibai.engine.backends import greenlets, hub_wait  # noqa: E402
from zibai.net.poller import READ, WRITE  # noqa: E402

SCRIPT = APPS / "greenlet_scenes.py"
HELPERS = {"left_behind", "read"}
SCENES = [
    node.name
    for node in ast.parse(SCRIPT.read_text(encoding="utf-8")).body
    if isinstance(node, ast.FunctionDef) and node.name not in HELPERS
]


# gevent's loop on Windows, which can be had elsewhere, too. It cannot count what is started in it.
LIBUV = [scene for scene in SCENES if re.search("forgotten|leave|kill|share|block|many", scene)]
NOT_DAILY = "leave|share|block"  # they need the loop for no more than the others do


@pytest.mark.parametrize(
    ("scene", "loop"),
    [
        *(pytest.param(scene, "", id=scene) for scene in SCENES),
        *(
            pytest.param(
                scene, "libuv", id=f"{scene}-libuv", marks=[pytest.mark.slow] * bool(re.search(NOT_DAILY, scene))
            )
            for scene in LIBUV
        ),
    ],
)
def test_scene(scene: str, loop: str) -> None:
    if loop and importlib.util.find_spec("gevent.libuv._corecffi") is None:
        pytest.skip("gevent was built without libuv")
    ended = subprocess.run(
        [sys.executable, SCRIPT, scene],
        env=environment({"PYTHONWARNINGS": "error::ResourceWarning", **({"GEVENT_LOOP": loop} if loop else {})}),
        capture_output=True,
        text=True,
        timeout=2 * DEADLINE,
        check=False,
    )
    assert ended.stdout == "done\n", ended.stderr
    assert ended.returncode == 0
    assert "Warning" not in ended.stderr
    assert ("Traceback" in ended.stderr) is ("exit" in scene), ended.stderr


COUNT = """
import sys
from importlib import metadata
from zibai.engine.backends import greenlets

class Finder:
    def find_spec(*_):
        return None

    def find_distributions(*_):
        print("read")
        return ()

sys.meta_path.append(Finder())
original = metadata.entry_points
greenlets.patch()
assert metadata.entry_points is original
"""


def test_plugins_of_gevent_run_and_installed_packages_are_read_once(tmp_path: Path) -> None:
    (tmp_path / "plugin.py").write_text("def show(event): print(type(event).__name__)\n")
    (tmp_path / "plugin-1.dist-info").mkdir()
    (tmp_path / "plugin-1.dist-info" / "METADATA").write_text("Metadata-Version: 2.1\nName: plugin\nVersion: 1\n")
    groups = ("will_patch_all", "did_patch_module", "did_patch_all")
    (tmp_path / "plugin-1.dist-info" / "entry_points.txt").write_text(
        "".join(f"[gevent.plugins.monkey.{group}]\nshow = plugin:show\n" for group in groups)
    )
    code = f"import sys; sys.path.insert(0, {str(tmp_path)!r})\n{COUNT}"
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment(), capture_output=True, text=True, timeout=DEADLINE, check=True
    )
    lines = done.stdout.split()
    assert lines.count("read") == 1, lines
    assert lines[0] == "read"
    assert lines[1] == "GeventWillPatchAllEvent"
    assert lines.count("GeventDidPatchModuleEvent") > 5
    assert lines[-1] == "GeventDidPatchAllEvent"


# --- the poller of systems whose own cannot be watched by the hub -----------------------------------


@pytest.fixture
def hub_poller() -> Iterator[SimpleNamespace]:
    """A poller in gevent's loop, which turns only while the test says so; gevent patches nothing here."""
    hub = gevent.get_hub()
    turns: list[None] = []
    poller = greenlets.HubPoller(hub.loop, lambda: turns.append(None))

    def look() -> list[tuple[int, int]]:
        """What is ready, after the hub has looked."""
        gevent.sleep(0.01)
        return poller.poll(0)

    def wait() -> list[tuple[int, int]]:
        """What is ready, as soon as anything is: the first look may be over before the hub has asked the system."""
        found: list[tuple[int, int]] = []
        with gevent.Timeout(DEADLINE):
            while not found:
                found = look()
        return found

    yield SimpleNamespace(poller=poller, turns=turns, look=look, wait=wait)
    poller.close()


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.setblocking(False)
        yield ours, theirs


Pair = tuple[socket.socket, socket.socket]


def test_it_is_as_level_triggered_as_any(hub_poller: SimpleNamespace, pair: Pair) -> None:
    ours, theirs = pair
    hub_poller.poller.register(ours.fileno(), READ)
    assert hub_poller.look() == []
    assert hub_poller.turns == []  # it asks for a turn only when there is something
    theirs.send(b"x")
    assert hub_poller.wait() == [(ours.fileno(), READ)]
    assert hub_poller.turns
    assert hub_poller.wait() == [(ours.fileno(), READ)]
    ours.recv(1)
    hub_poller.look()  # what was under way
    assert hub_poller.look() == []


def test_it_reports_both_at_once_and_only_what_was_asked_for(hub_poller: SimpleNamespace, pair: Pair) -> None:
    ours, theirs = pair
    theirs.send(b"x")
    hub_poller.poller.register(ours.fileno(), READ | WRITE)
    assert hub_poller.wait() == [(ours.fileno(), READ | WRITE)]
    hub_poller.poller.modify(ours.fileno(), WRITE)
    assert hub_poller.wait() == [(ours.fileno(), WRITE)]


def test_what_was_unregistered_is_not_reported_any_more(hub_poller: SimpleNamespace, pair: Pair) -> None:
    ours, theirs = pair
    poller = hub_poller.poller
    poller.register(ours.fileno(), READ)
    theirs.send(b"x")
    gevent.sleep(0.01)  # reported, and nobody has asked yet
    poller.unregister(ours.fileno())
    assert poller.poll(0) == []
    # The same number is another registration.
    poller.register(ours.fileno(), WRITE)
    assert hub_poller.wait() == [(ours.fileno(), WRITE)]


def test_it_reports_the_end_of_the_other_side(hub_poller: SimpleNamespace, pair: Pair) -> None:
    ours, theirs = pair
    hub_poller.poller.register(ours.fileno(), READ)
    theirs.close()
    assert hub_poller.wait() == [(ours.fileno(), READ)]


def test_it_leaves_nothing_in_the_hub(hub_poller: SimpleNamespace, pair: Pair) -> None:
    before = gevent.get_hub().loop.activecnt
    for sock in pair:
        hub_poller.poller.register(sock.fileno(), READ)
    hub_poller.poller.close()
    assert gevent.get_hub().loop.activecnt == before


def test_waiting_has_a_time_limit(pair: Pair) -> None:
    ours, theirs = pair
    readiness = hub_wait.Readiness()
    assert readiness.wait_writable(ours, DEADLINE)
    assert not readiness.wait_readable(ours, 0.01)
    theirs.close()
    assert readiness.wait_readable(ours, DEADLINE)


@pytest.mark.parametrize("timeout", [0.0001, 0.0])
def test_the_shortest_wait_is_no_reason_to_warn(pair: Pair, timeout: float) -> None:
    """libuv's loop warns of timers under a millisecond, on standard error."""
    asked: list[float] = []

    def wait(fd: int, timeout: float, timeout_exc: type[Exception]) -> None:
        asked.append(timeout)
        raise timeout_exc

    assert not hub_wait._wait(wait, pair[0], timeout)
    assert asked == [timeout and hub_wait.SHORTEST]


def test_another_timeout_goes_through_a_wait(pair: Pair) -> None:
    """An application's own, around a read of its body."""
    ours, _ = pair
    with pytest.raises(gevent.Timeout), gevent.Timeout(0.01):
        hub_wait.Readiness().wait_readable(ours, DEADLINE)


def test_the_test_process_is_not_patched() -> None:
    assert threading.Thread.__module__ == "threading"
    assert not gevent.monkey.is_module_patched("socket")
