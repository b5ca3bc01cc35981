"""What a parent and a single process load: a parent no engine, and a single process no supervisor."""

from __future__ import annotations

import subprocess
import sys

import pytest

from support import environment

ENGINE = ("h11", "zibai.engine", "zibai.protocol", "zibai.gateway.wsgi", "zibai.server.worker", "zibai.server.probes")
SUPERVISOR = ("zibai.supervise.mainloop", "zibai.supervise.child", "zibai.server.parent", "concurrent.futures")


@pytest.mark.parametrize(
    ("kind", "needed", "foreign"),
    [("parent", "zibai.supervise.mainloop", ENGINE), ("single", "zibai.engine.loop", SUPERVISOR)],
    ids=["parent", "single"],
)
def test_each_loads_what_it_runs(kind: str, needed: str, foreign: tuple[str, ...]) -> None:
    code = f"import sys, zibai.cli.arguments, zibai.server.start, zibai.server.{kind}; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], env=environment(), capture_output=True, text=True, check=True)
    found = set(done.stdout.split())
    assert needed in found
    assert not found.intersection(foreign)
