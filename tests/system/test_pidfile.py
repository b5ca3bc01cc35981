"""The pid file: whose may be replaced, and what becomes of it in the end."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from typing import TYPE_CHECKING

import pytest

from zibai.errors import ZibaiError
from zibai.system import pidfile

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "zibai.pid"


@pytest.fixture
def gone() -> int:
    """The number of a process that has ended."""
    with subprocess.Popen([sys.executable, "-c", ""]) as process:
        pass
    return process.pid


def test_it_is_there_for_as_long_as_it_is_held(file: Path) -> None:
    with pidfile.written(str(file), 0):
        assert file.read_text() == f"{os.getpid()}\n"
        assert [path.name for path in file.parent.iterdir()] == ["zibai.pid"]
    assert not file.exists()


def test_also_from_another_directory(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(file.parent)
    with pidfile.written(file.name, 0):
        monkeypatch.chdir("/")
    assert not file.exists()


@pytest.mark.parametrize("text", ["", "\n", "{gone}", "{gone}\n", "{ourselves}\n", "0", "99999999999999999999"])
def test_a_stale_one_is_replaced(file: Path, gone: int, text: str) -> None:
    file.write_text(text.format(gone=gone, ourselves=os.getpid()))
    pidfile.check(str(file), 0)
    with pidfile.written(str(file), 0):
        assert file.read_text() == f"{os.getpid()}\n"


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells when a process was started")
def test_one_of_a_server_whose_id_another_process_has(file: Path) -> None:
    """After the start of a machine or a container, the ids are the same again."""
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as other:
        file.write_text(f"{other.pid}\n")
        with pytest.raises(ZibaiError, match=f"belongs to process {other.pid}, which is running"):
            pidfile.check(str(file), 0)
        before = time.time() - pidfile.YOUNGER - 10
        os.utime(file, (before, before))
        assert pidfile.check(str(file), 0) == other.pid
        with pidfile.written(str(file), 0):
            assert file.read_text() == f"{os.getpid()}\n"
        other.communicate()


def test_that_of_a_process_that_runs_is_not(file: Path) -> None:
    file.write_text(f"{os.getppid()}\n")
    with pytest.raises(ZibaiError, match=rf"belongs to process {os.getppid()}, which is running"):
        pidfile.check(str(file), 0)
    with pytest.raises(ZibaiError), pidfile.written(str(file), 0):
        pass
    assert file.read_text() == f"{os.getppid()}\n"


@pytest.mark.parametrize("text", ["root:x:0:0", "-1", "12 13", "½", "\0"])
def test_something_else_stays(file: Path, text: str) -> None:
    file.write_text(text, encoding="utf-8")
    with pytest.raises(ZibaiError, match="move it away"), pidfile.written(str(file), 0):
        pass
    assert file.read_text(encoding="utf-8") == text


def test_no_place_for_it(tmp_path: Path) -> None:
    path = str(tmp_path / "no" / "pid")
    with pytest.raises(ZibaiError, match="cannot be used: No such file"), pidfile.written(path, 0):
        pass
    with pytest.raises(ZibaiError, match="cannot be used"):
        pidfile.check(str(tmp_path), 0)


def test_a_draft_that_a_dead_one_with_our_number_left(file: Path) -> None:
    file.with_name(f"zibai.pid.{os.getpid()}").write_text("")
    with pidfile.written(str(file), 0):
        assert file.read_text() == f"{os.getpid()}\n"
    assert list(file.parent.iterdir()) == []


@pytest.mark.parametrize("text", ["{parent}\n", "{gone}\n", "", "something"])
def test_what_a_successor_wrote_stays(file: Path, gone: int, text: str) -> None:
    text = text.format(parent=os.getppid(), gone=gone)
    with pidfile.written(str(file), 0):
        file.write_text(text)
    assert file.read_text() == text


def test_one_that_is_gone_in_the_end(file: Path) -> None:
    with pidfile.written(str(file), 0):
        file.unlink()


def test_the_server_that_is_replaced_gets_it_back(file: Path) -> None:
    """It is our parent, and still runs: we were the failure."""
    file.write_text(f"{os.getppid()}\n")
    with pidfile.written(str(file), os.getppid()):
        assert file.read_text() == f"{os.getpid()}\n"
    assert file.read_text() == f"{os.getppid()}\n"


@pytest.mark.parametrize("looks", [0, 1], ids=["before", "after we have written"])
def test_one_that_ends_at_the_same_time_does_not(file: Path, looks: int) -> None:
    """It runs on for a moment, but looks at the file no more."""
    file.write_text(f"{os.getppid()}\n")
    answers = iter([True] * looks + [False])
    with pidfile.written(str(file), os.getppid(), None, lambda: next(answers)):
        pass
    assert not file.exists()


def test_a_parent_that_is_gone_does_not(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    parent = os.getppid()
    file.write_text(f"{parent}\n")
    with pidfile.written(str(file), parent):
        monkeypatch.setattr(os, "getppid", lambda: 1)
    assert not file.exists()


def test_a_directory_that_is_closed_to_us(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As /run is, once root has become somebody else: the file itself is his."""

    def denied(path: str, *args: int) -> int:
        raise PermissionError(13, "Permission denied", path)

    monkeypatch.setattr(os, "open", denied)
    monkeypatch.setattr(os, "unlink", denied)
    with pytest.raises(ZibaiError, match="Permission denied"), pidfile.written(str(file), 0):
        pass
    file.write_text("99999999999999999999")
    with pidfile.written(str(file), 0):
        assert file.read_text() == f"{os.getpid()}\n"
    assert file.read_text() == ""
