"""The stacks of a process that cannot speak, wherever they are written."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from zibai.server.dump import describe_process

from support import environment

if TYPE_CHECKING:
    from pathlib import Path

WAITS = """
import os, sys
{change}
from zibai.server.dump import prepare

def wait_here():
    print("ready", flush=True)
    sys.stdin.readline()

prepare()
wait_here()
"""


@pytest.mark.skipif(sys.platform != "linux", reason="the parent finds them in /proc")
@pytest.mark.parametrize("change", ["", "vars(os).pop('memfd_create', None)"], ids=["memory", "file"])
def test_the_stacks_are_found(change: str, tmp_path: Path) -> None:
    """Also those of a Python that was built on a system without memfd_create."""
    with subprocess.Popen(
        [sys.executable, "-c", WAITS.format(change=change)],
        env=environment({"TMPDIR": str(tmp_path)}),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        for _ in range(2):
            assert describe_process(process.pid).count("in wait_here") == 1
        assert list(tmp_path.iterdir()) == []
        process.communicate(b"\n")
    assert process.returncode == 0
