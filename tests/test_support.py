"""What a test stands on has to be able to fail."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from support import DEADLINE, check_each, end_what_is_left

if TYPE_CHECKING:
    from pathlib import Path


def test_each_case_is_checked_and_each_that_fails_is_named() -> None:
    seen = []

    def check(case: int) -> None:
        seen.append(case)
        assert case % 2

    check_each(check, {"one": 1, "three": 3})
    with pytest.raises(ExceptionGroup, match="2 of 4 cases") as caught:
        check_each(check, {"one": 1, "two": 2, "three": 3, "four": 4})
    assert seen == [1, 3, 1, 2, 3, 4]
    assert [error.__notes__ for error in caught.value.exceptions] == [["case: two"], ["case: four"]]


@pytest.mark.skipif(sys.platform != "linux", reason="the directory of a process is asked of /proc")
def test_what_runs_in_the_directory_of_a_test_is_ended(tmp_path: Path) -> None:
    (tmp_path / "below").mkdir()
    command = [sys.executable, "-c", "import sys; sys.stdin.read()"]
    with (
        subprocess.Popen(command, cwd=tmp_path / "below", stdin=subprocess.PIPE) as left,
        subprocess.Popen(command, cwd=tmp_path.parent, stdin=subprocess.PIPE) as other,
    ):
        end_what_is_left(tmp_path)
        assert left.wait(DEADLINE) < 0
        assert other.poll() is None
