"""Where a scoreboard lies, and that nobody else can take its place."""

from __future__ import annotations

import errno
import os
import stat
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from zibai.system import machine
from zibai.telemetry import board_file as control
from zibai.telemetry.scoreboard import Scoreboard

if TYPE_CHECKING:
    from collections.abc import Callable

if sys.platform != "win32":
    import fcntl

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="the directory is each user's own there")


@pytest.fixture
def common(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The directory for everybody's temporary files."""
    monkeypatch.delenv("XDG_RUNTIME_DIR", raising=False)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


def own(common: Path) -> Path:
    return common / f"zibai-{os.geteuid()}"


def test_it_is_in_a_directory_that_only_its_user_may_write_to(common: Path) -> None:
    with control.open_board(None, "7", 1, 1, {}) as board:
        assert board is not None
        assert board.where() == str(own(common) / "zibai-7.board")
        assert stat.S_IMODE(own(common).stat().st_mode) == 0o700
        assert [path for path in control.default_paths() if path == board.where()]
    assert list(own(common).iterdir()) == []
    assert Path(control.default_path("8")).parent == own(common), "it is used again"


def a_file(path: Path) -> None:
    path.touch()


def a_link(path: Path) -> None:
    (path.parent / "elsewhere").mkdir()
    path.symlink_to(path.parent / "elsewhere")


def everybody_s(path: Path) -> None:
    path.mkdir()
    path.chmod(0o777)


def somebody_else_s(path: Path) -> None:
    path.mkdir(mode=0o700)
    if os.geteuid():
        pytest.skip("only root can give a directory away")
    os.chown(path, 12345, 12345)


@pytest.mark.parametrize("taken", [a_file, a_link, everybody_s, somebody_else_s])
def test_one_that_somebody_has_taken_gets_another_name(common: Path, taken: Callable[[Path], None]) -> None:
    taken(own(common))
    with control.open_board(None, "7", 1, 1, {}) as board:
        assert board is not None
        where = Path(board.where() or "")
        assert where.parent.name.startswith(f"zibai-{os.geteuid()}-")
        assert control.default_paths() == [str(where)]
        assert Path(control.default_path("8")).parent == where.parent, "one is enough"


def test_without_a_place_it_is_in_memory(common: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def none() -> str:
        raise FileNotFoundError("no usable temporary directory")

    with control.open_board(str(common / "nowhere" / "board"), "7", 1, 1, {}) as board:
        assert board is not None
        assert board.where() is None
        board.row(0).assign("ready", 5, 0, 1.0)
        assert [row.read().pid for row in board.rows()] == [5]
    monkeypatch.setattr(tempfile, "gettempdir", none)
    assert control.default_paths() == []
    if hasattr(os, "memfd_create"):
        with control.open_board(None, "7", 1, 1, {}) as board:
            assert board is not None
            assert board.where() is None


def test_a_link_is_no_scoreboard(tmp_path: Path) -> None:
    board = Scoreboard.create(str(tmp_path / "board"), 1, 1, {})
    (tmp_path / "link").symlink_to(tmp_path / "board")
    with pytest.raises(OSError):  # noqa: PT011 -- its text is the system's
        Scoreboard.open(str(tmp_path / "link"))
    board.close()


def test_nor_is_the_file_of_another_user(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    board = Scoreboard.create(str(tmp_path / "board"), 1, 1, {})
    me = os.geteuid()
    monkeypatch.setattr(os, "geteuid", lambda: me + 1)
    with pytest.raises(ValueError, match="belongs to another user"):
        Scoreboard.open(str(tmp_path / "board"))
    board.close()


def test_a_relative_path_is_where_it_was_when_the_application_changes_the_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "there").mkdir()
    with control.open_board("here.board", "7", 1, 1, {}):
        monkeypatch.chdir(tmp_path / "there")
    assert not (tmp_path / "here.board").exists()


def test_the_file_of_a_server_in_another_container(common: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It counts as served as long as it is locked: its process id says nothing here, even if it is that of this one."""
    path = common / "board"
    theirs = Scoreboard.create(str(path), 1, 1, {})
    monkeypatch.setattr(machine, "pid_namespace", lambda: theirs.namespace + 1)
    with pytest.raises(OSError, match=f"belongs to process {os.getpid()}$"):
        control.create(str(path), 1, 1, {})
    with pytest.raises(OSError, match="belongs to"):
        control.create(str(path), 1, 1, {}, predecessor=os.getpid())
    assert control.is_served(str(path), 2**30, theirs.namespace), "whatever its id is"
    assert not control.is_served(str(path), 2**30, theirs.namespace + 1)
    theirs.release()
    assert not control.is_served(str(path), os.getpid(), theirs.namespace)
    assert not control.is_served(str(common / "nowhere"), os.getpid(), theirs.namespace)
    control.create(str(path), 1, 1, {}).close()


def test_nobody_knows_whether_a_server_in_another_container_runs(common: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a file system without locks its file stays."""

    def no_locks(*_: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", no_locks)
    board = Scoreboard.create(str(common / "board"), 1, 1, {})
    monkeypatch.setattr(machine, "pid_namespace", lambda: board.namespace + 1)
    board.release()
    assert control.is_served(str(common / "board"), os.getpid(), board.namespace)
